// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a step of an ISAKMP SA may use, and what it leaves behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::config::{EndpointConfig, Secret};
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::event::{ChildId, Event, IkeId, Numbers, Path, Transmit};
use ikev2d_proto::notified::Notified;
use ikev2d_proto::pool::Pools;
use ikev2d_proto::spi::OwnSpi;

use crate::isakmp::Isakmp;
use crate::wire::notify;

/// What a step may use and leave behind.
pub(crate) struct Ctx<'a> {
    pub(crate) crypto: &'a dyn Crypto,
    /// The same, for work elsewhere.
    pub(crate) shared_crypto: &'a Arc<dyn Crypto>,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) connections: &'a [Arc<ikev2d_proto::config::Connection>],
    pub(crate) secrets: &'a [Secret],
    pub(crate) pools: &'a mut Pools,
    pub(crate) out: &'a mut Outputs,
    pub(crate) now: Instant,
}

/// A rekeying that came to nothing: of what, the child's name, and why.
pub(crate) struct Unrekeyed {
    pub(crate) old: ChildId,
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// What an endpoint has to give.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    /// ISAKMP SAs that are gone, until the last event that may be about them is taken.
    pub(crate) gone: Vec<Isakmp>,
    pub(crate) numbers: Numbers,
    /// ISAKMP SAs whose phase 1 has just ended.
    pub(crate) proved: Vec<IkeId>,
    /// ISAKMP SAs that have just been established.
    pub(crate) established: Vec<IkeId>,
    /// Those whose peers know of no other ones.
    pub(crate) initial_contact: Vec<IkeId>,
    /// Those that are to be replaced.
    pub(crate) renew: Vec<IkeId>,
    /// Child SAs whose quick modes have ended, wherever they are by now.
    pub(crate) up: Vec<ChildId>,
    /// Child SAs whose quick modes never will.
    pub(crate) abandoned: Vec<ChildId>,
    /// Rekeyings that came to nothing on SAs which others have taken over from.
    pub(crate) unrekeyed: Vec<Unrekeyed>,
    /// Octets that the SAs kept of unproved messages when this step began.
    pub(crate) kept: usize,
    pub(crate) retransmits: u64,
    pub(crate) auth_failures: u64,
    pub(crate) malformed: u64,
    pub(crate) notified: Notified,
}

impl Ctx<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.out.events.push_back(event);
    }

    /// Counts a notification that is sent, if it is an error.
    pub(crate) fn count_told(&mut self, kind: u16) {
        if kind < notify::FIRST_STATUS {
            self.out.notified.sent(notify::name(kind));
        }
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.out.numbers.next()
    }

    /// A new inbound SPI.
    pub(crate) fn new_spi(&self) -> OwnSpi {
        self.out.numbers.spis.take(self.crypto)
    }

    pub(crate) fn transmit(&mut self, path: Path, payload: Vec<u8>) {
        self.out.transmits.push_back(Transmit {
            path,
            payload,
            keepalive: false,
        });
    }

    pub(crate) fn random(&self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.crypto.random(&mut octets);
        octets
    }

    pub(crate) fn random_u32(&self) -> u32 {
        let mut octets = [0; 4];
        self.crypto.random(&mut octets);
        u32::from_be_bytes(octets)
    }

    /// A cookie: zero is "none" on the wire.
    pub(crate) fn cookie(&self) -> u64 {
        (u64::from(self.random_u32()) << 32 | u64::from(self.random_u32())).max(1)
    }

    /// A time shortened at random by up to `spread`, or a tenth of itself.
    pub(crate) fn jittered(&self, time: Duration, spread: Option<Duration>) -> Duration {
        let spread = spread.unwrap_or(time / 10).min(time);
        time - spread.mul_f64(f64::from(self.random_u32() % 1000) / 1000.0)
    }
}
