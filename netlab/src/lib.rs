// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Networks that live and die with the process that made them.
//!
//! Network namespaces held by a descriptor, virtual links between them, a capture that says whether it
//! missed anything, an analysis of what ESP did on the wire, and traffic whose receiver checks each octet.
//! The demo and the end-to-end tests are written with it.

#![deny(missing_docs)]

pub mod analyse;
pub mod capture;
mod enter;
pub mod link;
mod namespace;
pub mod packet;
mod privilege;
pub mod process;
mod ring;
pub mod traffic;
mod urgent;

pub use namespace::{Namespace, NamespaceError};
pub use privilege::{PrivilegeError, ensure_privileges};
