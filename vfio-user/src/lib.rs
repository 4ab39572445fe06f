// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vfio-user protocol 0.1: a PCI device in one process, its driver or virtual machine in another,
//! a unix socket between them.
//!
//! Every call has a deadline and reports the peer's own errno; nothing that a peer sends can panic,
//! hang or leak descriptors.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod channel;
pub mod client;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod message;
pub mod place;
pub mod server;
mod socket;

pub use error::Error;
