// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The blocks of the RTL, one by one.
#![allow(clippy::unwrap_used)]

mod dma;
mod gcm;
mod numbers;
