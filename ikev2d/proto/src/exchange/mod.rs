// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The four exchanges (RFC 7296 §1.2 to §1.4), and those of additional key exchanges (RFC 9242, RFC
//! 9370), each with both of its sides.

pub(crate) mod auth;
pub(crate) mod child;
pub(crate) mod configuration;
pub(crate) mod create_child;
pub(crate) mod eap;
pub(crate) mod followup;
pub(crate) mod informational;
pub(crate) mod init;
pub(crate) mod intermediate;
pub(crate) mod part;
mod ppk;
pub(crate) mod puzzle;
pub(crate) mod redirect;
pub(crate) mod rekey_ike;
pub(crate) mod resource;
pub(crate) mod resume;
pub(crate) mod signature;
pub(crate) mod slow;
pub(crate) mod trigger;
