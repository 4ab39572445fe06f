// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Software IPsec: the transforms of ESP (RFC 4303; [`transform`]) and AH (RFC 4302; [`ah`]) as
//! functions over a buffer, and an engine that runs bursts of them on all cores behind the offload
//! contract ([`engine`]).
#![deny(missing_docs)]

pub mod ah;
pub mod cipher;
mod common;
pub mod engine;
mod ffi;
mod mac;
mod sa_transform;
pub mod self_test;
pub mod transform;

pub use esp_framing::{packet, sa};
