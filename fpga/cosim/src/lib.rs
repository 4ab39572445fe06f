// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The accelerator's RTL, verilated, to be driven clock by clock from Rust. Empty without feature
//! `rtl`, which needs verilator 5.
#![deny(missing_docs)]

#[cfg(feature = "rtl")]
pub mod card;
#[cfg(feature = "rtl")]
pub mod designs;
#[cfg(feature = "rtl")]
mod model;

#[cfg(feature = "rtl")]
pub use model::{Input, Model, Output};
