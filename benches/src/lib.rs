// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the benchmarks measure with.

pub mod bound;
pub mod counting;
pub mod memory;
pub mod null_card;
pub mod null_qat;
pub mod own_card;
pub mod turns;
