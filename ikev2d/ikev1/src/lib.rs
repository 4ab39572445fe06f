// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKEv1 (RFC 2407, 2408, 2409) without I/O: datagrams, time and answers go in; datagrams and events come
//! out.
//!
//! An [`endpoint::Endpoint`] holds every ISAKMP SA of a daemon, beside `ikev2d-proto`'s, whose policy,
//! credentials, cryptography and events it shares. Nothing leads from one version to the other.
//!
//! RFC 9395 has made IKEv1 historic: it is for peers that have nothing better.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod cipher;
pub mod endpoint;
mod fragments;
mod informational;
mod isakmp;
pub mod keys;
mod natt;
mod phase1;
mod quick;
mod slow;
mod step;
pub mod suite;
mod timers;
mod transaction;
mod vendor;
pub mod wire;

/// Feeds a payload's body to every parser of payloads.
#[cfg(fuzzing)]
pub fn parse_any(body: &[u8]) {
    let _ = wire::sa::parse(body);
    let _ = wire::attribute::parse(body);
    let _ = wire::identity::parse(body);
    let _ = wire::notify::Notify::parse(body);
    let _ = wire::notify::Delete::parse(body);
    let _ = wire::transaction::Attributes::parse(body).map(|read| read.given());
    let _ = wire::Payloads::parse(wire::payload::SA, body, true);
}
