// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One IKE SA: its state, its children, its end.

mod addresses;
mod children;
mod fragments;
mod mobike;
mod rare;
mod reauth;
mod sent;
mod step;
mod stream;
mod sync;
mod task;
mod timers;
mod window;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

pub(crate) use crate::spi::OwnSpi;
pub(crate) use addresses::Addresses;
pub(crate) use children::{AGAIN, After, Child, ChildRole, Pending, Phase};
use fragments::SMALL;
pub(crate) use fragments::{Held, Reassembly};
pub(crate) use rare::{Nothing, Rare, nothing};
pub(crate) use step::{Ctx, Outputs};
use stream::Carriage;
pub(crate) use sync::Sync;
pub(crate) use task::{
    ChildRequest, Collision, Handover, NotStarted, Part, RekeyRequest, Request, Task, Unmade,
};
pub(crate) use timers::jittered;

use crate::assigned::Assigned;
use crate::config::{Connection, Identity};
use crate::crypto::Crypto;
use crate::errand::{OwnExchange, Waits};
use crate::event::{Event, IkeId, Path};
use crate::exchange::eap::EapState;
use crate::exchange::followup::Awaited;
use crate::exchange::resume::Resumed;
use crate::exchange::signature::{PeerAbility, Waiting};
use crate::exchange::slow::Then;
use crate::exchange::trigger::Triggers;
use crate::keymat::{IkeKeys, Mixable};
use crate::moment::Moment;
use crate::proposal::IkeSuite;
use crate::puzzle::Puzzle;
use crate::wire::{Payload, notify, payload};
pub(crate) use reauth::Reauth;
pub(crate) use sent::Sent;
use window::Outstanding;

/// How long an SA whose deletion is the peer's to ask for is kept: longer than any peer sends again.
pub(crate) const FORGET: Duration = Duration::from_secs(240);
/// Octets of our nonces.
pub(crate) const NONCE_LEN: usize = 32;

/// How long we send through the child SA before when a peer has made initial contact, unless it says
/// earlier that it has the new one: it takes our answer in meanwhile, or dies again.
pub(crate) const SUCCESSION: Duration = Duration::from_secs(1);

/// The same, where the peer has not died and has yet to say so.
pub(crate) const OVERLAP: Duration = Duration::from_secs(10);

/// Where an IKE SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// IKE_SA_INIT goes on (initiator), or IKE_AUTH is awaited (responder).
    Connecting,
    /// Authenticated.
    Established,
    /// Its deletion is under way.
    Deleting,
    /// To be forgotten.
    Dead,
}

/// What an IKE SA is to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The one in use.
    Current,
    /// Out of the peer's rekeying of another one, while ours is under way: nonces will tell which of
    /// the two stays (§2.8.2).
    Undecided {
        /// The one that is rekeyed.
        old: IkeId,
    },
    /// Another one has taken over.
    Replaced,
    /// One too many out of a collision.
    Redundant,
}

pub(crate) struct IkeSa {
    pub(crate) id: IkeId,
    pub(crate) connection: Arc<Connection>,
    /// Whether we are the initiator of this IKE SA: whoever has rekeyed it, then.
    pub(crate) initiator: bool,
    /// Whether we began the first of a series of rekeyed ones: to move it is our part (RFC 4555 §2).
    pub(crate) moves: bool,
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) path: Path,
    /// Where the request that is being answered came from, if from elsewhere.
    asked_from: Option<Box<Path>>,
    /// How its stream stands, if it has one.
    carriage: Rare<Carriage>,
    pub(crate) state: State,
    pub(crate) suite: Option<IkeSuite>,
    pub(crate) keys: Option<IkeKeys>,
    /// Those before the last IKE_INTERMEDIATE, for repetitions.
    pub(crate) previous_keys: Option<Box<IkeKeys>>,
    pub(crate) init: Rare<InitMaterial>,
    /// Who we are, where that is another than the connection's.
    pub(crate) other_id: Option<Box<Identity>>,
    pub(crate) remote_id: Identity,
    pub(crate) nat_local: bool,
    pub(crate) nat_remote: bool,
    pub(crate) encap: bool,
    /// Both sides take fragments.
    pub(crate) fragmentation: bool,
    /// Addresses that one side has given the other.
    pub(crate) assigned: Rare<Assigned>,
    /// A postquantum preshared key is in its keys (RFC 8784).
    pub(crate) ppk: bool,
    /// How far down the ladder of sizes.
    rung: u8,
    pub(crate) reassembly: Rare<Reassembly>,
    pub(crate) reauth: Rare<Reauth>,
    /// Both sides can move (RFC 4555).
    pub(crate) mobike: bool,
    /// Where else they are.
    pub(crate) addresses: Rare<Addresses>,
    /// The peer can be sent to another gateway (RFC 5685).
    pub(crate) redirectable: bool,
    /// Message IDs can be synchronised (RFC 6311).
    pub(crate) syncs_ids: bool,
    /// So can the counters of the peer's child SAs and ours.
    pub(crate) syncs_counters: bool,
    /// How that stands, if it was ever done.
    pub(crate) sync: Rare<Sync>,
    /// We know of no other IKE SA with this peer.
    pub(crate) initial_contact: bool,
    /// The peer takes an IKE_AUTH without a child (RFC 6023).
    pub(crate) childless: bool,
    /// It counts as its peer's, which is there.
    pub(crate) counted: Option<IpAddr>,
    /// A peer that may have one IKE SA only has another: it has until then to delete that.
    pub(crate) on_probation: Option<Moment>,
    next_request: u32,
    expected_request: u32,
    /// The response to the last request, for repetitions.
    last_response: Sent,
    outstanding: Option<Box<Outstanding>>,
    pub(crate) tasks: Rare<VecDeque<Task>>,
    /// Packets that some of them are for.
    pub(crate) triggers: Rare<Triggers>,
    /// Children that were asked for because the peer had narrowed others, and said that it allows more.
    pub(crate) parts_asked: u8,
    pub(crate) pending: Option<Box<Pending>>,
    /// Its first child replaces one of an IKE SA before, which its peer may have lost.
    pub(crate) succeeds: bool,
    /// IKE_AUTH that waits for a job.
    pub(crate) waiting: Option<Box<Waiting>>,
    /// Key exchanges that go on elsewhere.
    pub(crate) elsewhere: Rare<Waits<Then>>,
    /// EAP that goes on (§2.16).
    pub(crate) eap: Option<Box<EapState>>,
    /// The peer's additional key exchanges that go on.
    pub(crate) awaited: Option<Box<Awaited>>,
    pub(crate) children: Vec<Child>,
    pub(crate) created: Moment,
    pub(crate) established: Option<Moment>,
    pub(crate) rekey_at: Option<Moment>,
    pub(crate) expire_at: Option<Moment>,
    last_heard: Moment,
    last_sent: Moment,
    pub(crate) standing: Standing,
    /// When it is forgotten, although the peer should have deleted it.
    pub(crate) forget_at: Option<Moment>,
}

/// What IKE_SA_INIT leaves for IKE_AUTH, as long as that is to come: most IKE SAs live on without.
#[derive(Default)]
pub(crate) struct InitMaterial {
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    /// The first message of each side, as sent (§2.15).
    pub(crate) message_i: Vec<u8>,
    pub(crate) message_r: Vec<u8>,
    pub(crate) exchange: Option<Arc<OwnExchange>>,
    pub(crate) group: Option<crate::algorithm::Group>,
    pub(crate) cookie: Vec<u8>,
    /// Of the puzzle that came with it (RFC 8019), and then of the one for IKE_AUTH.
    pub(crate) solution: Vec<u8>,
    /// What the peer is to solve before its IKE_AUTH is looked at.
    pub(crate) auth_puzzle: Option<Puzzle>,
    /// The gateway that has sent the client to the other one (RFC 5685).
    pub(crate) redirected_from: Option<IpAddr>,
    /// What somebody has said against it, who may be the peer.
    pub(crate) refusal: Option<String>,
    /// Restarts by COOKIE or INVALID_KE_PAYLOAD.
    pub(crate) restarts: u32,
    pub(crate) child_spi: Option<OwnSpi>,
    /// Additional key exchanges that are done.
    pub(crate) additional_done: usize,
    /// Both sides can mix in a postquantum preshared key (RFC 8784).
    pub(crate) both_use_ppk: bool,
    /// The keys as they were before one was.
    pub(crate) without_ppk: Option<Mixable>,
    /// Each side's part of IntAuth (RFC 9242 §3.3.2); empty unless an IKE_INTERMEDIATE has run.
    pub(crate) int_auth_i: Vec<u8>,
    pub(crate) int_auth_r: Vec<u8>,
    /// Message id of the IKE_AUTH request with AUTH.
    pub(crate) auth_id: u32,
    /// What the peer can do with signatures, and whether it asks for certificates.
    pub(crate) peer: PeerAbility,
    /// The session that it goes on with (RFC 5723).
    pub(crate) resumes: Option<Box<Resumed>>,
}

nothing!(InitMaterial);
nothing!(Assigned);
nothing!(Reauth);
nothing!(Sync);
nothing!(VecDeque<Task>);

impl IkeSa {
    pub(crate) fn new(
        ctx: &mut Ctx<'_>,
        connection: Arc<Connection>,
        initiator: bool,
        (spi_i, spi_r): (u64, u64),
        path: Path,
    ) -> Self {
        Self {
            id: IkeId(ctx.out.id()),
            initiator,
            moves: initiator,
            spi_i,
            spi_r,
            path,
            asked_from: None,
            carriage: Rare::default(),
            state: State::Connecting,
            suite: None,
            keys: None,
            previous_keys: None,
            init: Rare::default(),
            other_id: None,
            remote_id: Identity::Any,
            nat_local: false,
            nat_remote: false,
            encap: connection.encap,
            fragmentation: false,
            assigned: Rare::default(),
            ppk: false,
            rung: 0,
            reassembly: Rare::default(),
            reauth: Rare::default(),
            mobike: false,
            redirectable: false,
            syncs_ids: false,
            syncs_counters: false,
            sync: Rare::default(),
            initial_contact: false,
            childless: false,
            counted: None,
            on_probation: None,
            next_request: 0,
            expected_request: 0,
            last_response: Sent::default(),
            outstanding: None,
            tasks: Rare::default(),
            triggers: Rare::default(),
            addresses: Rare::default(),
            parts_asked: 0,
            pending: None,
            succeeds: false,
            waiting: None,
            elsewhere: Rare::default(),
            eap: None,
            awaited: None,
            children: Vec::new(),
            created: ctx.now.into(),
            established: None,
            rekey_at: None,
            expire_at: None,
            last_heard: ctx.now.into(),
            last_sent: ctx.now.into(),
            standing: Standing::Current,
            forget_at: None,
            connection,
        }
    }

    /// Who we are.
    pub(crate) fn local_id(&self) -> &Identity {
        self.other_id
            .as_deref()
            .unwrap_or(&self.connection.local_id)
    }

    /// The SPI that we are known by.
    pub(crate) fn own_spi(&self) -> u64 {
        if self.initiator {
            self.spi_i
        } else {
            self.spi_r
        }
    }
    /// It is authenticated from now on.
    pub(crate) fn establish(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Established;
        self.established = Some(ctx.now.into());
        self.init.exchange = None;
        self.previous_keys = None;
        self.init.without_ppk = None;
        self.arm_rekey(ctx);
        self.arm_reauth(ctx);
        ctx.out.count_ike(self);
        let ike = self.id;
        ctx.event(Event::IkeUp { ike });
    }

    pub(crate) fn log_keys(&self, ctx: &mut Ctx<'_>) {
        if let (true, Some(keys), Some(suite)) = (ctx.config.key_log, &self.keys, self.suite) {
            let copy = |key: &[u8]| Zeroizing::new(key.to_vec());
            ctx.event(Event::IkeKeys(Box::new(crate::event::IkeKeyLog {
                spi_i: self.spi_i,
                spi_r: self.spi_r,
                suite,
                sk_ei: copy(keys.encryption().0),
                sk_er: copy(keys.encryption().1),
                sk_ai: copy(keys.integrity().0),
                sk_ar: copy(keys.integrity().1),
            })));
        }
    }

    /// Who talks to whom.
    pub(crate) fn ends(&self) -> (Identity, Identity) {
        (self.local_id().clone(), self.remote_id.clone())
    }

    /// Whether it is, or may yet turn out to be, between the two identities of a connection.
    pub(crate) fn may_be_of(&self, crypto: &dyn Crypto, connection: &Connection) -> bool {
        let same = |a: &Identity, b: &Identity| a.matches_by(crypto, b) || b.matches_by(crypto, a);
        // Before the peer has said it, it is whom we expect.
        let remote = match self.established {
            Some(_) => &self.remote_id,
            None => &self.connection.remote_id,
        };
        same(self.local_id(), &connection.local_id) && same(remote, &connection.remote_id)
    }

    /// It is taken out: what it had of others' goes back.
    pub(crate) fn bury(&mut self, ctx: &mut Ctx<'_>) {
        self.give_back(ctx);
        self.forget_fragments(&mut ctx.out.held);
        ctx.out.lost_ike(self);
    }

    /// It is gone, with its children.
    pub(crate) fn die(&mut self, ctx: &mut Ctx<'_>, reason: &str) {
        if self.state == State::Dead {
            return;
        }
        let connecting = self.state == State::Connecting;
        self.state = State::Dead;
        self.leave_tickets(ctx, reason);
        if let Some(pending) = self.pending.take() {
            let child = pending.child.sa.id;
            ctx.event(Event::RetireChild { child });
        }
        for child in std::mem::take(&mut self.children) {
            let role = self.role_of(&child.sa);
            ctx.out.lost_child(&role);
            ctx.out.gone.push(role);
            ctx.event(Event::RetireChild { child: child.sa.id });
            if child.announced {
                ctx.event(Event::ChildDown {
                    child: child.sa.id,
                    reason: reason.to_owned(),
                });
            }
        }
        if let Some(Request::RekeyIke(mine)) = self.asking()
            && self.standing == Standing::Current
        {
            let theirs = mine.collision.as_ref().map(|theirs| theirs.new);
            ctx.out.redundant.extend(theirs);
        }
        let connection = self.connection.name.clone();
        if connecting && self.initiator {
            let child = self.tasks.iter().find_map(|task| match task {
                Task::Child { name, .. } => Some(name.clone()),
                _ => None,
            });
            if let Some(old) = self.reauth.of.take() {
                tracing::warn!(connection, reason, "reauthentication failed");
                ctx.out.reauth_failed.push(old);
                return;
            }
            let reason = reason.to_owned();
            ctx.event(Event::InitiateFailed {
                connection: connection.clone(),
                child,
                reason,
            });
        }
        if self.standing == Standing::Current {
            let (ike, reason) = (self.id, reason.to_owned());
            ctx.event(Event::IkeDown {
                ike,
                connection,
                reason,
            });
        }
    }
}

/// The first payload of a type.
pub(crate) fn find<'m>(parts: &[Payload<'m>], kind: u8) -> Option<&'m [u8]> {
    parts
        .iter()
        .find(|part| part.kind == kind)
        .map(|part| part.body)
}

/// Every well-formed notification.
pub(crate) fn notifies<'m>(parts: &'m [Payload<'m>]) -> impl Iterator<Item = notify::Notify<'m>> {
    parts
        .iter()
        .filter(|part| part.kind == payload::NOTIFY)
        .filter_map(|part| notify::Notify::parse(part.body).ok())
}

/// The first error notification.
pub(crate) fn error_notify<'m>(parts: &'m [Payload<'m>]) -> Option<notify::Notify<'m>> {
    notifies(parts).find(|notify| notify.kind < notify::FIRST_STATUS)
}
