// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What benchmarks measure with: engines driven through the offload API's queue pair, cycles, statistics
//! that tell a difference from noise, and an ESP of OpenSSL's own to check every packet against.
#![deny(missing_docs)]

pub mod case;
pub mod compare;
pub mod cycles;
pub mod html;
pub mod ipsec_mb;
pub mod machine;
pub mod measure;
pub mod packet;
pub mod peers;
pub mod reference;
pub mod report;
pub mod rig;
pub mod stats;
