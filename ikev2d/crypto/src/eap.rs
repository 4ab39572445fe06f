// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EAP methods.

pub mod mschapv2;
pub mod tls;
