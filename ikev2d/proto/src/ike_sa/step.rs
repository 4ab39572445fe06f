// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a step of an IKE SA may use, and what it leaves behind.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ChildRole, Handover, Held, IkeSa, OwnSpi, Task};
use crate::config::{Connection, EndpointConfig, Identity, Secret, Unique};
use crate::crypto::Crypto;
use crate::event::{ChildId, Event, IkeId, Numbers, Transmit};
use crate::exchange::redirect::Followed;
use crate::names::Names;
use crate::notified::Notified;
use crate::pool::Pools;
use crate::sk::Opened;
use crate::ticket::Tickets;

/// What a step may use and leave behind.
pub(crate) struct Ctx<'a> {
    pub(crate) crypto: &'a dyn Crypto,
    /// The same, for work elsewhere.
    pub(crate) shared_crypto: &'a Arc<dyn Crypto>,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) connections: &'a [Arc<Connection>],
    pub(crate) secrets: &'a [Secret],
    pub(crate) ppks: &'a [Secret],
    pub(crate) pools: &'a mut Pools,
    /// This host's.
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) out: &'a mut Outputs,
    pub(crate) now: Instant,
    #[cfg(feature = "deviation")]
    pub(crate) deviation: Option<&'a crate::deviation::Deviation>,
}

/// What an endpoint has to give.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) numbers: Numbers,
    pub(crate) names: Names,
    /// IKE SAs that replace the endpoint's other ones with their peers.
    pub(crate) initial_contact: VecDeque<IkeId>,
    /// An IKE SA that a peer has just set up.
    pub(crate) authenticated: Option<IkeId>,
    /// New IKE SAs out of rekeyings.
    pub(crate) born: Vec<IkeSa>,
    /// Where peers are whose connection allows one IKE SA only, by the two identities.
    pub(crate) present: HashMap<(Identity, Identity), Vec<IpAddr>>,
    /// Children that are no more.
    pub(crate) retired: Vec<ChildId>,
    /// IKE SAs whose peer has had time to delete the one before.
    pub(crate) probations: Vec<IkeId>,
    /// IKE SAs that are to be replaced by new ones.
    pub(crate) reauths: Vec<IkeId>,
    /// IKE SAs that have been.
    pub(crate) reauthenticated: Vec<IkeId>,
    /// IKE SAs that could not be.
    pub(crate) reauth_failed: Vec<IkeId>,
    /// Children that are there, by their role's hash, which takes less room than their role.
    live: HashMap<u64, u32>,
    hasher: RandomState,
    /// Children that are gone: what waits for that elsewhere may send.
    pub(crate) gone: Vec<ChildRole>,
    /// Octets of fragments that wait, by address.
    pub(crate) held: Held,
    pub(crate) handovers: Vec<Handover>,
    /// IKE SAs that are to go to other gateways, where, and with what to do there.
    pub(crate) redirected: Vec<(IkeId, IpAddr, VecDeque<Task>)>,
    pub(crate) followed: Followed,
    /// IKE SAs that a collision has made one too many, and the peer deletes.
    pub(crate) redundant: Vec<IkeId>,
    /// What was inside of the message is to be handled again, after the handovers.
    pub(crate) again: Option<Opened>,
    pub(crate) retransmits: u64,
    pub(crate) auth_failures: u64,
    /// Messages that came without the solution that is due (RFC 8019 §7.2).
    pub(crate) puzzles_unsolved: u64,
    pub(crate) reauthentications: u64,
    /// Errors told and heard.
    pub(crate) notified: Notified,
    pub(crate) tickets: Tickets,
    /// Addresses that a peer was told of last: mostly others are told of the same.
    pub(crate) told: Arc<[IpAddr]>,
    /// IKE SAs that were resumed by tickets (RFC 5723).
    pub(crate) resumptions: u64,
}

impl Outputs {
    /// A child is there.
    pub(crate) fn add_child(&mut self, role: &ChildRole) {
        *self.live.entry(self.hasher.hash_one(role)).or_default() += 1;
    }

    /// A child is gone.
    pub(crate) fn lost_child(&mut self, role: &ChildRole) {
        if let Entry::Occupied(mut count) = self.live.entry(self.hasher.hash_one(role)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Children of the same role that are there.
    pub(crate) fn live_like(&self, role: &ChildRole) -> usize {
        let count = self.live.get(&self.hasher.hash_one(role));
        count.map_or(0, |count| *count as usize)
    }

    /// An established IKE SA is there.
    pub(crate) fn count_ike(&mut self, sa: &mut IkeSa) {
        let address = sa.path.remote.ip();
        sa.counted = Some(address);
        if sa.connection.unique == Unique::Keep {
            self.present.entry(sa.ends()).or_default().push(address);
        }
    }

    /// It is gone.
    pub(crate) fn lost_ike(&mut self, sa: &mut IkeSa) {
        let Some(address) = sa.counted.take() else {
            return;
        };
        if sa.connection.unique != Unique::Keep {
            return;
        }
        let ends = sa.ends();
        if let Some(addresses) = self.present.get_mut(&ends) {
            if let Some(at) = addresses.iter().position(|other| *other == address) {
                addresses.swap_remove(at);
            }
            if addresses.is_empty() {
                self.present.remove(&ends);
            }
        }
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.numbers.next()
    }
}

impl Ctx<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        if let Event::RetireChild { child } = &event {
            self.out.retired.push(*child);
        }
        self.out.events.push_back(event);
    }

    /// A new inbound SPI.
    pub(crate) fn new_spi(&self) -> OwnSpi {
        self.out.numbers.spis.take(self.crypto)
    }

    pub(crate) fn random(&self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.crypto.random(&mut octets);
        octets
    }

    /// A time shortened at random by up to a share of itself.
    pub(crate) fn shortened(&self, time: Duration, share: f64) -> Duration {
        let part = (self.random_u64() % 1000) as f64 / 1000.0;
        time.mul_f64((1.0 - part * share).clamp(0.0, 1.0))
    }

    pub(crate) fn random_u64(&self) -> u64 {
        let mut octets = [0; 8];
        self.crypto.random(&mut octets);
        // Zero is "no SPI" on the wire.
        u64::from_be_bytes(octets).max(1)
    }
}
