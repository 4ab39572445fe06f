// SPDX-License-Identifier: Apache-2.0 OR MIT
//! strongSwan's control protocol, so that `swanctl` works.

pub(crate) mod lists;
pub mod message;
pub(crate) mod server;
pub(crate) mod settings;
