// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ipa card's register map, descriptors and SA context: what driver, simulator and RTL agree on.
//!
//! `docs/device-abi.md` tells how they work together. Everything is little-endian.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod admin;
pub mod context;
pub mod descriptor;
pub mod port;
pub mod queue;
pub mod registers;
