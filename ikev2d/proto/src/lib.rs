// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKEv2 (RFC 7296) without I/O: datagrams, time and answers go in; datagrams and events come out.
//!
//! An [`endpoint::Endpoint`] holds every IKE SA of a daemon. It reads no clock, opens no socket and
//! knows cryptography only as [`crypto::Crypto`], so that every exchange can be played through in
//! memory, with any loss and reordering.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod assigned;
mod auth;
pub mod cluster;
pub mod config;
pub mod credential;
pub mod crypto;
#[cfg(feature = "deviation")]
pub mod deviation;
pub mod eap;
pub mod endpoint;
pub mod errand;
pub mod event;
mod exchange;
mod ike_sa;
pub mod junos;
mod keymat;
mod moment;
mod names;
pub mod notified;
pub mod pool;
pub mod proposal;
pub mod puzzle;
mod sk;
pub mod spi;
pub mod suite;
mod ticket;
pub mod ts;
pub mod wire;
pub mod xauth;

pub use ticket::MOST_HELD as MOST_TICKETS;

/// Feeds a payload's body to every parser of payloads.
#[cfg(fuzzing)]
pub fn parse_any(body: &[u8]) {
    let _ = proposal::parse(body, true);
    let _ = proposal::parse(body, false);
    let _ = ts::parse(body);
    let _ = config::Identity::read(body);
    let _ = wire::configuration::parse(body);
    let _ = auth::Auth::read(body);
    let _ = exchange::init::read_ke(body);
}
