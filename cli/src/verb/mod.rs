// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The verbs.

pub(crate) mod demo;
pub(crate) mod sim;
