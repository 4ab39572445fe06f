// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the contract promises, as one suite that every engine passes: [`run`] it from an engine's
//! own tests.
//!
//! Only what an engine's [`Capabilities`](crate::capability::Capabilities) claim is asked of it;
//! what they don't claim must be refused, with the reason. A join of engines such as
//! [`crate::failover`] hands out numbers itself and is tested by its own promises.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a broken promise panics, as in a test"
)]

mod ah;
mod crypto;
mod gather;
mod known_answers;
mod lifetimes;
mod numbers;
mod padding;
mod queues;
mod refusals;
mod replays;
mod rig;
mod round_trips;
mod sas;
mod traffic;

use std::sync::Arc;

pub use traffic::{inner_packet, tunnel};

use crate::device::Accelerator;

/// What a run covered, so that a caller can insist on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Packets sealed and opened again, over suites, modes, address families, ESN and sizes.
    pub round_trips: u64,
    /// Packets sealed or opened in several frames, and large ones.
    pub gathered: u64,
    /// Packets of an independent implementation sealed to the same octets.
    pub known_seals: u64,
    /// Packets of an independent implementation opened.
    pub known_opens: u64,
    /// Packets that had to be refused, and were.
    pub refusals: u64,
    /// SAs outside of the capabilities that had to be refused, and were.
    pub unsupported: u64,
    /// AH packets of an independent implementation sealed to the same octets or opened. An engine
    /// without AH has none of these three.
    pub ah_known: u64,
    /// AH packets sealed and opened again.
    pub ah_round_trips: u64,
    /// AH packets that had to be refused, and were.
    pub ah_refusals: u64,
    /// Packets of [`Suite::further`](crate::sa::Suite::further) that were sealed to the octets of an
    /// independent implementation, opened, or sealed and opened again. An engine without has none.
    pub further: u64,
    /// Packets that had their cryptography alone done, sealed or opened. An engine without has none.
    pub crypto: u64,
    /// Packets with TFC padding, and dummies, that were opened, and those that were sealed. An engine that
    /// pads nothing has the former.
    pub padded: u64,
}

/// Runs the whole suite. `make` gives a fresh engine each time, with no SA and no queue; the engine
/// before it is dropped by then.
///
/// # Panics
/// With the promise that is broken.
pub fn run(make: &dyn Fn() -> Arc<dyn Accelerator>) -> Report {
    let mut report = Report::default();
    let sections: [fn(&mut rig::Rig, &mut Report); 13] = [
        sas::run,
        known_answers::run,
        round_trips::run,
        numbers::run,
        replays::run,
        refusals::run,
        lifetimes::run,
        queues::run,
        gather::run,
        ah::run,
        crypto::run,
        padding::run,
        sas::reset,
    ];
    for section in sections {
        let mut rig = rig::Rig::new(make());
        section(&mut rig, &mut report);
        rig.end();
    }
    assert!(report.round_trips > 0, "the engine carries no SA at all");
    report
}
