// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One ISAKMP SA: its state, its children, its end.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::assigned::Assigned;
use ikev2d_proto::config::{Connection, Identity};
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::errand::{OwnExchange, Waits};
use ikev2d_proto::event::{ChildId, ChildSa, Event, IkeId, InstallId, JobId, Path, reason};
use ikev2d_proto::spi::OwnSpi;
use zeroize::Zeroizing;

use crate::cipher::Keys;
use crate::fragments::Fragments;
use crate::quick::Exchange;
use crate::slow::Then;
use crate::step::Ctx;
use crate::suite::Phase1;
use crate::transaction::Transactions;
use crate::vendor::Abilities;
use crate::wire::{Chain, Header, VERSION};

/// Octets of our nonces.
pub(crate) const NONCE_LEN: usize = 32;
/// Messages that came before phase 1 had ended, at most.
const MOST_EARLY: usize = 8;
/// Octets of each; none that a peer means is nearly so long.
const MOST_OF_EARLY: usize = 4 << 10;
/// Octets of messages that are kept unproved, of all SAs that are not established.
const MOST_KEPT: usize = 64 << 20;
/// Message ids of the peer that are remembered, at most: an SA that has seen more is replaced.
const MOST_SEEN: usize = 65_536;

/// Where an ISAKMP SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Phase 1 goes on.
    Connecting,
    /// Phase 1 has ended; XAUTH or mode config goes on.
    Transacting,
    /// Both ends have proved who they are.
    Established,
    /// Another one has taken over; it goes at `delete_at`, or when the peer deletes it.
    Replaced,
    /// To be forgotten.
    Dead,
}

/// The last message of ours in an exchange, and the peer's that it answers.
#[derive(Default)]
pub(crate) struct Last {
    /// Hash of what was received last: when it comes again, so does our answer.
    pub(crate) received: Option<[u8; 20]>,
    pub(crate) sent: Option<Vec<u8>>,
    /// When it is sent again by itself.
    pub(crate) at: Option<Instant>,
    pub(crate) tries: u32,
}

/// What phase 1 collects.
#[derive(Default)]
pub(crate) struct Material {
    /// The message that is awaited, from 2 on.
    pub(crate) expects: u8,
    /// What we have offered.
    pub(crate) offered: Vec<Phase1>,
    pub(crate) suite: Option<Phase1>,
    /// SAi_b.
    pub(crate) sa_i: Vec<u8>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    pub(crate) public_i: Vec<u8>,
    pub(crate) public_r: Vec<u8>,
    /// Of an initiator.
    pub(crate) exchange: Option<Arc<OwnExchange>>,
    /// Of a responder, until the keys are made of it.
    pub(crate) secret: Option<Zeroizing<Vec<u8>>>,
    /// IDii_b.
    pub(crate) id_i: Vec<u8>,
    /// IDir_b.
    pub(crate) id_r: Vec<u8>,
    /// The peer has asked for our certificates.
    pub(crate) asked: bool,
    /// The peer knows of no other SAs with us.
    pub(crate) initial_contact: bool,
    /// What an unauthenticated message claims went wrong: told when nothing else is known.
    pub(crate) hint: Option<String>,
    /// The job that is waited for, and what its end leads to.
    pub(crate) waiting: Option<Waiting>,
}

/// A job that phase 1 waits for.
pub(crate) struct Waiting {
    pub(crate) job: JobId,
    /// Where the message came from that the job checks.
    pub(crate) path: Path,
    /// IV behind that message.
    pub(crate) iv: Vec<u8>,
}

pub(crate) struct Isakmp {
    pub(crate) id: IkeId,
    pub(crate) connection: Arc<Connection>,
    pub(crate) initiator: bool,
    pub(crate) aggressive: bool,
    pub(crate) cky_i: u64,
    pub(crate) cky_r: u64,
    pub(crate) path: Path,
    pub(crate) state: State,
    pub(crate) material: Material,
    /// Front of message 2 of aggressive mode, while its signature is made.
    pub(crate) begun: Option<Chain>,
    pub(crate) keys: Option<Keys>,
    /// Key exchanges that go on elsewhere.
    pub(crate) elsewhere: Waits<Then>,
    pub(crate) phase1: Last,
    pub(crate) peer: Abilities,
    /// A message that is not whole yet.
    pub(crate) fragments: Fragments,
    /// Number of the message that was sent in fragments last.
    pub(crate) fragment_id: u16,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    pub(crate) nat_local: bool,
    pub(crate) nat_remote: bool,
    pub(crate) encap: bool,
    /// We know of no other SA with this peer.
    pub(crate) initial_contact: bool,
    /// The one that it is to take over from.
    pub(crate) replaces: Option<IkeId>,
    /// Quick modes by message id.
    pub(crate) exchanges: BTreeMap<u32, Exchange>,
    /// The peer's message ids: none is taken twice.
    pub(crate) seen: HashSet<u32>,
    /// Messages that came before phase 1 had ended.
    pub(crate) early: VecDeque<(Path, Vec<u8>)>,
    /// Children to be asked for when phase 1 has ended.
    pub(crate) wanted: Vec<String>,
    pub(crate) children: Vec<Child>,
    /// XAUTH and mode config.
    pub(crate) transactions: Transactions,
    pub(crate) assigned: Assigned,
    pub(crate) dpd: Option<Last>,
    pub(crate) dpd_sequence: u32,
    pub(crate) created: Instant,
    pub(crate) established: Option<Instant>,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    /// When one that is replaced is deleted.
    pub(crate) delete_at: Option<Instant>,
    pub(crate) last_heard: Instant,
    pub(crate) last_sent: Instant,
}

/// A child SA.
pub(crate) struct Child {
    /// Without keys.
    pub(crate) sa: Arc<ChildSa>,
    /// Nobody else's as long as this is.
    pub(crate) _spi: OwnSpi,
    pub(crate) phase: Phase,
    /// The installation of the inbound SA that is waited for.
    pub(crate) install: Option<InstallId>,
    /// The same of the outbound one.
    pub(crate) outbound: Option<InstallId>,
    /// Why it goes as soon as the outbound SA of its heir is answered for.
    pub(crate) leaves: Option<&'static str>,
    /// We have asked for it, and not the peer.
    pub(crate) asked: bool,
    pub(crate) installed: Instant,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    /// When it goes, as one that is replaced.
    pub(crate) until: Option<Instant>,
    /// The other one that both ends began at the same time and that has won over it, as far as we know.
    pub(crate) lost_to: Option<ChildId>,
    /// The shell knows of it.
    pub(crate) announced: bool,
}

impl Child {
    /// When it goes by itself.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.until.or(self.expire_at)
    }

    /// Whether it is sent through, or about to be.
    pub(crate) fn is_used(&self) -> bool {
        self.announced || self.outbound.is_some()
    }

    /// Whether it is for the traffic of another one.
    pub(crate) fn is_like(&self, other: &ChildSa) -> bool {
        let sa = &self.sa;
        (&sa.child, &sa.ts_local, &sa.ts_remote)
            == (&other.child, &other.ts_local, &other.ts_remote)
    }
}

/// Where a child SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In use, or about to be.
    Installed,
    /// Another one is being negotiated.
    Rekeying,
    /// Another one has taken over.
    Replaced,
}

impl Isakmp {
    pub(crate) fn new(
        ctx: &mut Ctx<'_>,
        connection: Arc<Connection>,
        initiator: bool,
        (cky_i, cky_r): (u64, u64),
        path: Path,
    ) -> Self {
        Self {
            id: IkeId(ctx.id()),
            initiator,
            aggressive: connection.ikev1.aggressive,
            cky_i,
            cky_r,
            path,
            state: State::Connecting,
            material: Material::default(),
            begun: None,
            keys: None,
            elsewhere: Waits::default(),
            phase1: Last::default(),
            peer: Abilities::default(),
            fragments: Fragments::default(),
            fragment_id: 0,
            local_id: connection.local_id.clone(),
            remote_id: Identity::Any,
            nat_local: false,
            nat_remote: false,
            encap: false,
            initial_contact: false,
            replaces: None,
            exchanges: BTreeMap::new(),
            seen: HashSet::new(),
            early: VecDeque::new(),
            wanted: Vec::new(),
            children: Vec::new(),
            transactions: Transactions::default(),
            assigned: Assigned::default(),
            dpd: None,
            dpd_sequence: 0,
            created: ctx.now,
            established: None,
            rekey_at: None,
            expire_at: None,
            delete_at: None,
            last_heard: ctx.now,
            last_sent: ctx.now,
            connection,
        }
    }

    /// Cookies in their order.
    pub(crate) fn cookies(&self) -> (u64, u64) {
        (self.cky_i, self.cky_r)
    }

    /// Both cookies as an SPI.
    pub(crate) fn spi(&self) -> Vec<u8> {
        [self.cky_i.to_be_bytes(), self.cky_r.to_be_bytes()].concat()
    }

    pub(crate) fn header(&self, exchange: u8, message_id: u32) -> Header {
        Header {
            spi_i: self.cky_i.into(),
            spi_r: self.cky_r.into(),
            next_payload: 0,
            version: VERSION,
            exchange,
            flags: 0,
            message_id: message_id.into(),
            len: 0.into(),
        }
    }

    /// Whether both ends have proved who they are, if not yet who their users are.
    pub(crate) fn is_proved(&self) -> bool {
        self.is_up() || self.state == State::Transacting
    }

    /// Whether a peer has begun it and not brought it to its end.
    pub(crate) fn is_half_open(&self) -> bool {
        !self.initiator && matches!(self.state, State::Connecting | State::Transacting)
    }

    /// Whether it can carry quick modes.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Established | State::Replaced)
    }

    /// Keeps a message for when phase 1 has ended. Nothing has vouched for it: who means it sends it again.
    pub(crate) fn keep_early(&mut self, ctx: &Ctx<'_>, path: Path, message: &[u8]) {
        let fits = self.early.len() < MOST_EARLY
            && message.len() <= MOST_OF_EARLY
            && self.has_room(ctx, message.len());
        if fits && !self.early.iter().any(|(_, kept)| kept == message) {
            self.early.push_back((path, message.to_vec()));
        }
    }

    /// Octets that it keeps of messages of a peer that may be anybody.
    pub(crate) fn kept(&self) -> usize {
        if self.is_up() {
            return 0;
        }
        let early = self.early.iter().map(|(_, message)| message.len());
        early.sum::<usize>() + self.fragments.octets() + self.held()
    }

    /// Whether so many octets more may be kept.
    pub(crate) fn has_room(&self, ctx: &Ctx<'_>, octets: usize) -> bool {
        self.is_up() || ctx.out.kept + octets <= MOST_KEPT
    }

    /// Takes in what came early.
    pub(crate) fn handle_early(&mut self, ctx: &mut Ctx<'_>) {
        for (path, message) in std::mem::take(&mut self.early) {
            self.handle(ctx, path, &message);
        }
    }

    /// Remembers a message id of the peer's.
    pub(crate) fn note_seen(&mut self, ctx: &mut Ctx<'_>, id: u32) {
        self.seen.insert(id);
        if self.seen.len() >= MOST_SEEN {
            ctx.out.renew.push(self.id);
        }
    }

    /// Phase 1 has ended: both ends have proved who they are.
    pub(crate) fn establish(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Transacting;
        self.last_heard = ctx.now;
        self.material.exchange = None;
        self.material.waiting = None;
        // A responder of main mode repeats its last message when asked to. Nobody asks for the last one of
        // aggressive mode, so it is repeated until the peer says something that it could not without it.
        let unasked = self.aggressive && self.initiator;
        self.phase1.at = unasked.then(|| ctx.now + ctx.config.retransmit_timeout);
        ctx.out.proved.push(self.id);
        self.transact(ctx);
    }

    /// Nothing is left to be done before quick modes.
    pub(crate) fn come_up(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Established;
        self.established = Some(ctx.now);
        if let Some(time) = self.connection.rekey_time {
            let end = ctx.now + time + self.connection.over_time;
            let rekey = ctx.now + ctx.jittered(time, self.connection.rand_time);
            self.rekey_at = Some(self.rekey_at.map_or(rekey, |at| at.min(rekey)));
            self.expire_at = Some(end);
        }
        tracing::info!(
            connection = self.connection.name,
            aggressive = self.aggressive,
            peer = %self.remote_id,
            "ISAKMP SA is established"
        );
        ctx.out.established.push(self.id);
        if self.material.initial_contact {
            ctx.out.initial_contact.push(self.id);
        }
    }

    /// Whether two SAs are between the same two ends: many users may share one identity.
    pub(crate) fn same_ends(&self, crypto: &dyn Crypto, other: &Self) -> bool {
        self.connection.name == other.connection.name
            && self.local_id.matches_by(crypto, &other.local_id)
            && self.remote_id.matches_by(crypto, &other.remote_id)
            && self.user() == other.user()
    }

    /// It is gone, with its children; those of one that is replaced go to its heir.
    pub(crate) fn die(&mut self, ctx: &mut Ctx<'_>, why: &str) {
        let before = std::mem::replace(&mut self.state, State::Dead);
        if before == State::Dead {
            return;
        }
        self.elsewhere = Waits::default();
        if before == State::Replaced {
            self.end_quick(ctx, why);
        } else {
            for child in std::mem::take(&mut self.children) {
                self.retired(ctx, child, why);
            }
        }
        let connection = self.connection.name.clone();
        // It is still to be told of.
        let assigned = self.assigned.clone();
        let unconfigured = self.assigned.give_back(ctx.pools);
        self.assigned = assigned;
        if let Some(unconfigured) = unconfigured {
            ctx.event(unconfigured);
        }
        if matches!(before, State::Connecting | State::Transacting) && self.initiator {
            let reason = match &self.material.hint {
                Some(hint) if why == reason::NO_ANSWER => {
                    format!("{why}; somebody has said without proof: {hint}")
                }
                _ => why.to_owned(),
            };
            if self.replaces.is_some() {
                tracing::warn!(connection, reason, "ISAKMP SA could not be replaced");
                return;
            }
            let mut wanted = std::mem::take(&mut self.wanted).into_iter();
            let first = wanted.next();
            for child in std::iter::once(first).chain(wanted.map(Some)) {
                ctx.event(Event::InitiateFailed {
                    connection: connection.clone(),
                    child,
                    reason: reason.clone(),
                });
            }
        }
        if before != State::Replaced {
            ctx.event(Event::IkeDown {
                ike: self.id,
                connection,
                reason: why.to_owned(),
            });
        }
    }

    /// A child SA is gone.
    pub(crate) fn retired(&self, ctx: &mut Ctx<'_>, child: Child, why: &str) {
        ctx.event(Event::RetireChild { child: child.sa.id });
        if child.announced {
            ctx.event(Event::ChildDown {
                child: child.sa.id,
                reason: why.to_owned(),
            });
        }
    }

    /// Takes a child SA out.
    pub(crate) fn remove_child(&mut self, id: ChildId) -> Option<Child> {
        let at = self.children.iter().position(|c| c.sa.id == id)?;
        Some(self.children.remove(at))
    }

    pub(crate) fn child_mut(&mut self, id: ChildId) -> Option<&mut Child> {
        self.children.iter_mut().find(|c| c.sa.id == id)
    }

    /// Notes an authenticated message. A peer behind a NAT may come from elsewhere from now on.
    pub(crate) fn heard(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        self.last_heard = ctx.now;
        self.phase1.at = None;
        if path != self.path && (self.nat_remote || path.remote.ip() == self.path.remote.ip()) {
            self.path = path;
            for child in &mut self.children {
                Arc::make_mut(&mut child.sa).path = path;
            }
            let (ike, udp_encap) = (self.id, self.encap);
            ctx.event(Event::PathChanged {
                ike,
                path,
                udp_encap,
            });
        }
    }

    /// Sends a message of phase 1. With `again` it is repeated until the peer's next one comes.
    pub(crate) fn send_phase1(&mut self, ctx: &mut Ctx<'_>, message: Vec<u8>, again: bool) {
        self.last_sent = ctx.now;
        self.phase1.tries = 0;
        self.phase1.at = again.then(|| ctx.now + ctx.config.retransmit_timeout);
        ctx.transmit(self.path, message.clone());
        self.phase1.sent = Some(message);
    }

    /// How long an SA is said to live: a little longer than we keep it.
    pub(crate) fn life(&self) -> Duration {
        const DEFAULT: Duration = Duration::from_secs(28_800);
        let time = self.connection.rekey_time;
        time.map_or(DEFAULT, |time| time + self.connection.over_time)
    }
}
