// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Software IPsec: the ESP transforms of RFC 4303 as functions over a buffer ([`transform`]), and
//! an engine that runs bursts of them on all cores behind the offload contract ([`engine`]).
#![deny(missing_docs)]

pub mod cipher;
pub mod engine;
mod ffi;
pub mod self_test;
pub mod transform;

pub use esp_framing::{packet, sa};
