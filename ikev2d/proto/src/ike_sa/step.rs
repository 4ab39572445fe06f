// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a step of an IKE SA may use, and what it leaves behind.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Handover, IkeSa};
use crate::config::{Connection, EndpointConfig, Secret};
use crate::crypto::Crypto;
use crate::event::{Event, IkeId, Transmit};

/// What a step may use and leave behind.
pub(crate) struct Ctx<'a> {
    pub(crate) crypto: &'a dyn Crypto,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) connections: &'a [Arc<Connection>],
    pub(crate) secrets: &'a [Secret],
    pub(crate) out: &'a mut Outputs,
    pub(crate) now: Instant,
}

/// What an endpoint has to give.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) last_id: u64,
    /// IKE SAs that replace the endpoint's other ones with their peers.
    pub(crate) initial_contact: VecDeque<IkeId>,
    /// New IKE SAs out of rekeyings.
    pub(crate) born: Vec<IkeSa>,
    pub(crate) handovers: Vec<Handover>,
    /// IKE SAs that a collision has made one too many, and the peer deletes.
    pub(crate) redundant: Vec<IkeId>,
    /// The message is to be handled again, after the handovers.
    pub(crate) again: bool,
    pub(crate) retransmits: u64,
    pub(crate) auth_failures: u64,
}

impl Outputs {
    pub(crate) fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Ctx<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.out.events.push_back(event);
    }

    pub(crate) fn random(&self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.crypto.random(&mut octets);
        octets
    }

    pub(crate) fn random_u64(&self) -> u64 {
        let mut octets = [0; 8];
        self.crypto.random(&mut octets);
        // Zero is "no SPI" on the wire.
        u64::from_be_bytes(octets).max(1)
    }
}
