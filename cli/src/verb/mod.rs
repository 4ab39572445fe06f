// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verbs.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod conns;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod devices;
pub(crate) mod down;
pub(crate) mod esp;
pub(crate) mod ike_load;
pub(crate) mod keep;
pub(crate) mod man;
pub(crate) mod monitor;
pub(crate) mod sa;
pub(crate) mod sa_manual;
pub(crate) mod sas;
pub(crate) mod sim;
pub(crate) mod stats;
pub(crate) mod top;
pub(crate) mod up;
