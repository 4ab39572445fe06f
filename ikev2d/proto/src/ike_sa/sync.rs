// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Synchronisation of Message IDs and counters (RFC 6311): a member of a cluster has taken an IKE SA over
//! and does not know all that was said before. Both ends go on with numbers that neither has used.

use std::time::{Duration, Instant};

use super::window::TURN;
use super::{Ctx, IkeSa, Phase, Request, Sent, Standing, State, Task, notifies};
use crate::event::{Event, Path, reason};
use crate::wire::{Chain, Header, Payload, Reader, exchange, notify, payloads};

/// Between two answers to the same synchronisation, at least: anybody may send a recorded one again.
const BETWEEN: Duration = Duration::from_millis(500);
/// By how much our requests' numbers jump when an IKE SA is taken up, since its state may be older than
/// what was said last; with each further try by twice as much.
const JUMP: u32 = 1 << 16;

/// How an IKE SA stands with synchronisation.
#[derive(Default)]
pub(crate) struct Sync {
    /// The highest number that the peer wanted to go on with: no synchronisation counts that has a lower
    /// one (§5.1).
    highest: Option<u32>,
    /// What was asked last and our answer, until the peer goes on: it may get lost (RFC 7296 §2.1).
    answered: Option<(Counters, Vec<u8>)>,
    /// When we last answered a new one, and a repeated one.
    at: Option<Instant>,
    again: Option<Instant>,
    /// We have taken the IKE SA up, and the peer has yet to say how it goes on.
    asking: Option<Asking>,
}

/// A synchronisation of ours.
struct Asking {
    asked: Counters,
    tries: u32,
    at: Instant,
    wait: Duration,
}

/// IKEV2_MESSAGE_ID_SYNC (§6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    nonce: [u8; 4],
    /// EXPECTED_SEND_REQ_MESSAGE_ID: of the sender's next request.
    send: u32,
    /// EXPECTED_RECV_REQ_MESSAGE_ID: of the receiver's next request.
    recv: u32,
}

/// What a message says about synchronisation.
pub(super) struct Said {
    /// Nothing, if it can't be read.
    counters: Option<Counters>,
    jumps: Vec<Jump>,
}

/// IPSEC_REPLAY_COUNTER_SYNC (§6.4): it goes for SAs whose numbers have as many octets as it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Jump {
    by: u64,
    esn: bool,
}

impl Counters {
    fn emit(self) -> Vec<u8> {
        let numbers = [self.send.to_be_bytes(), self.recv.to_be_bytes()];
        [self.nonce, numbers[0], numbers[1]].concat()
    }

    fn read(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let mut octets = || <[u8; 4]>::try_from(reader.take(4).ok()?).ok();
        let (nonce, send, recv) = (octets()?, octets()?, octets()?);
        let counters = Self {
            nonce,
            send: u32::from_be_bytes(send),
            recv: u32::from_be_bytes(recv),
        };
        reader.rest().is_empty().then_some(counters)
    }

    /// Whether neither number is one that no living IKE SA gets to.
    fn are_sane(&self) -> bool {
        self.send < TURN && self.recv < TURN
    }
}

impl Jump {
    fn read(data: &[u8]) -> Option<Self> {
        let (by, esn) = match *data {
            [a, b, c, d] => (u32::from_be_bytes([a, b, c, d]).into(), false),
            _ => (u64::from_be_bytes(data.try_into().ok()?), true),
        };
        (by != 0).then_some(Self { by, esn })
    }

    /// Those of a message: the longest of each kind, however many there are.
    fn all(parts: &[Payload<'_>]) -> Vec<Self> {
        let longest = |esn| {
            let jumps = notifies(parts).filter(|n| n.kind == notify::IPSEC_REPLAY_COUNTER_SYNC);
            let jumps = jumps.filter_map(|jump| Self::read(jump.data));
            jumps
                .filter(|jump| jump.esn == esn)
                .max_by_key(|jump| jump.by)
        };
        [false, true].into_iter().filter_map(longest).collect()
    }
}

impl IkeSa {
    /// Says that we can synchronise (§4); to who has said it, if he began.
    pub(crate) fn push_sync_ability(&self, chain: &mut Chain, begins: bool) {
        let ours = begins && self.connection.message_id_sync;
        if ours || self.syncs_ids {
            chain.notify(notify::IKEV2_MESSAGE_ID_SYNC_SUPPORTED, &[]);
        }
        if ours || self.syncs_counters {
            chain.notify(notify::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED, &[]);
        }
    }

    /// Notes what both can.
    pub(crate) fn take_sync_ability(&mut self, parts: &[Payload<'_>]) {
        let ours = self.connection.message_id_sync;
        let both = |kind| ours && notifies(parts).any(|notify| notify.kind == kind);
        self.syncs_ids = both(notify::IKEV2_MESSAGE_ID_SYNC_SUPPORTED);
        self.syncs_counters = both(notify::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED);
    }

    /// What a message says about synchronisation, if that is what it is for. Its Message ID is 0, as may be
    /// that of another one.
    pub(super) fn says_sync(&self, header: &Header, parts: &[Payload<'_>]) -> Option<Said> {
        let may =
            self.syncs_ids && header.exchange == exchange::INFORMATIONAL && header.message_id == 0;
        let mut found = notifies(parts).filter(|n| n.kind == notify::IKEV2_MESSAGE_ID_SYNC);
        let found = found.next().filter(|_| may)?;
        Some(Said {
            counters: Counters::read(found.data).filter(Counters::are_sane),
            jumps: Jump::all(parts),
        })
    }

    pub(super) fn handle_sync(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        is_response: bool,
        said: &Said,
    ) {
        if let Some(theirs) = said.counters {
            if is_response {
                self.take_counters(ctx, path, theirs);
            } else if self.answer_sync(ctx, path, theirs) {
                self.jump(ctx, &said.jumps);
            }
        }
        self.pump(ctx);
    }

    /// The lowest number that no request of the peer's has had, nor was to have (§5.1).
    pub(crate) fn unseen_request(&self) -> u32 {
        let being_answered =
            self.pending.is_some() || self.waiting.is_some() || self.holds_request();
        let next = self.expected_request + u32::from(being_answered);
        let said = self.sync.highest.map_or(0, |highest| highest + 1);
        next.max(said)
    }

    /// The peer's new member goes on (§5): whether it is what it says, and not somebody's recording.
    fn answer_sync(&mut self, ctx: &mut Ctx<'_>, path: Path, theirs: Counters) -> bool {
        let ready = matches!(self.state, State::Established | State::Deleting)
            && self.standing == Standing::Current;
        let in_auth = |pending: &super::Pending| pending.exchange == exchange::IKE_AUTH;
        let authenticating = self.waiting.is_some() || self.pending.as_deref().is_some_and(in_auth);
        let now = ctx.now;
        let early = |at: Option<Instant>| at.is_some_and(|at| now < at + BETWEEN);
        if !ready || authenticating {
            return false;
        }
        if let Some((asked, answer)) = &self.sync.answered
            && *asked == theirs
        {
            // Whoever repeats it keeps no new one out.
            if !early(self.sync.at) && !early(self.sync.again) {
                let answer = answer.clone();
                self.sync.again = Some(now);
                self.send_on(ctx, path, answer);
            }
            return false;
        }
        if theirs.send < self.unseen_request() {
            return false;
        }
        let ours = Counters {
            nonce: theirs.nonce,
            send: theirs.recv.max(self.next_request),
            recv: theirs.send,
        };
        let mut chain = Chain::default();
        chain.notify(notify::IKEV2_MESSAGE_ID_SYNC, &ours.emit());
        let header = self.header(exchange::INFORMATIONAL, 0, true);
        let sealed = self.seal(ctx, header, &chain).ok();
        let Some(answer) = sealed.and_then(|messages| messages.into_iter().next()) else {
            tracing::error!(ike = self.id.0, "response could not be sealed");
            return false;
        };
        tracing::info!(
            ike = self.id.0,
            "another member of the peer's cluster goes on"
        );
        self.last_heard = ctx.now.into();
        self.follow(ctx, path);
        self.drop_half_done(ctx);
        (self.next_request, self.expected_request) = (ours.send, ours.recv);
        self.sync.highest = Some(theirs.send);
        self.sync.at = Some(ctx.now);
        self.sync.answered = Some((theirs, answer.clone()));
        self.send(ctx, answer);
        true
    }

    /// The peer goes on: it has our answer, and whoever repeats what it asked is somebody else.
    pub(super) fn sync_is_over(&mut self) {
        if let Some(sync) = self.sync.as_deref_mut() {
            sync.answered = None;
        }
    }

    /// What the peer's member before has not answered, or has not heard the answer to, is nobody's (§8.1):
    /// ours is asked for anew, with another number.
    fn drop_half_done(&mut self, ctx: &mut Ctx<'_>) {
        self.last_response = Sent::default();
        self.awaited = None;
        self.forget_held();
        self.forget_fragments(&mut ctx.out.held);
        if let Some(pending) = self.pending.take() {
            let id = pending.child.sa.id;
            ctx.event(Event::RetireChild { child: id });
            if let Some(Request::CreateChild(mine)) = self.asking_mut() {
                mine.collision.take_if(|theirs| theirs.new == id);
            }
        }
        let Some(outstanding) = self.outstanding.take() else {
            return;
        };
        let again = match outstanding.request {
            Request::CreateChild(mut mine) => {
                // It may have been made, and the new member may have it.
                let made = std::mem::replace(&mut mine.spi_in, ctx.new_spi());
                self.disown_child(&mine.config, made);
                return self.fail_for_now(ctx, Request::CreateChild(mine));
            }
            mine @ Request::RekeyIke(_) => return self.fail_for_now(ctx, mine),
            Request::DeleteIke { reason } => Task::DeleteIke { reason },
            Request::DeleteChild(child) => Task::DeleteChild(child),
            Request::DeleteUnmade { _unmade } => Task::DeleteUnmade(_unmade),
            Request::Move => Task::Move,
            Request::Addresses => Task::Addresses,
            // That the peer lives has been told.
            Request::Liveness | Request::Init | Request::Intermediate(_) | Request::Auth => return,
        };
        self.tasks.push_front(again);
    }

    /// As if the peer had asked us to try again in a moment (RFC 7296 §2.25).
    fn fail_for_now(&mut self, ctx: &mut Ctx<'_>, request: Request) {
        let mut chain = Chain::default();
        chain.notify(notify::TEMPORARY_FAILURE, &[]);
        let Ok(parts) = payloads(chain.first(), chain.octets()) else {
            return;
        };
        match request {
            Request::CreateChild(mine) => self.handle_child_response(ctx, mine, &parts),
            Request::RekeyIke(mine) => self.handle_rekey_response(ctx, *mine, &parts),
            _ => {}
        }
    }

    /// The peer's member takes only what has higher numbers (§6.4).
    pub(crate) fn advance_counters(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        self.jump(ctx, &Jump::all(parts));
    }

    fn jump(&mut self, ctx: &mut Ctx<'_>, jumps: &[Jump]) {
        for jump in jumps.iter().filter(|_| self.syncs_counters) {
            let fit = self.children.iter();
            for child in fit.filter(|child| child.sa.suite.esn == jump.esn) {
                let (child, by) = (child.sa.id, jump.by);
                ctx.event(Event::AdvanceOutbound { child, by });
            }
        }
    }

    /// Whether we have taken the IKE SA up and nothing else may be said yet.
    pub(super) fn is_asking(&self) -> bool {
        self.sync.asking.is_some()
    }

    pub(super) fn sync_due(&self) -> Option<Instant> {
        self.sync.asking.as_ref().map(|asking| asking.at)
    }

    /// Tells the peer that we have taken the IKE SA up (§5), before anything else is said.
    pub(crate) fn ask_to_synchronise(&mut self, ctx: &mut Ctx<'_>) {
        let wait = ctx.config.retransmit_timeout;
        self.ask(ctx, 0, wait);
    }

    /// Nobody has answered: the answer is lost, or what we know is older than we thought. Whether there was
    /// another try.
    pub(super) fn ask_again(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let Some(Asking { tries, wait, .. }) = self.sync.asking.take() else {
            return true;
        };
        if tries >= ctx.config.retransmit_tries {
            self.die(ctx, reason::NO_ANSWER);
            return false;
        }
        ctx.out.retransmits += 1;
        self.ask(ctx, tries + 1, wait.mul_f64(ctx.config.retransmit_base))
    }

    fn ask(&mut self, ctx: &mut Ctx<'_>, tries: u32, wait: Duration) -> bool {
        let jump = JUMP.checked_shl(tries).unwrap_or(TURN);
        self.next_request = self.next_request.saturating_add(jump);
        let mut nonce = [0; 4];
        ctx.crypto.random(&mut nonce);
        let asked = Counters {
            nonce,
            send: self.next_request,
            recv: self.expected_request,
        };
        let mut chain = Chain::default();
        chain.notify(notify::IKEV2_MESSAGE_ID_SYNC, &asked.emit());
        let header = self.header(exchange::INFORMATIONAL, 0, false);
        let sealed = self.seal(ctx, header, &chain).ok();
        let message = sealed.and_then(|messages| messages.into_iter().next());
        let Some(message) = message.filter(|_| asked.are_sane()) else {
            self.die(ctx, "its Message IDs can't be synchronised");
            return false;
        };
        self.send(ctx, message);
        self.sync.asking = Some(Asking {
            asked,
            tries,
            at: ctx.now + ctx.shortened(wait, ctx.config.retransmit_jitter),
            wait,
        });
        true
    }

    /// The peer has answered: verifies that it is to what we have asked last (§5.1), and goes on.
    fn take_counters(&mut self, ctx: &mut Ctx<'_>, path: Path, theirs: Counters) {
        let Some(Asking { asked, .. }) = self.sync.asking else {
            return;
        };
        if theirs.nonce != asked.nonce || theirs.recv < asked.send || theirs.send < asked.recv {
            return;
        }
        self.sync.asking = None;
        self.next_request = self.next_request.max(theirs.recv);
        self.expected_request = self.expected_request.max(theirs.send);
        self.last_heard = ctx.now.into();
        self.follow(ctx, path);
        let ike = self.id;
        ctx.event(Event::IkeUp { ike });
        // Nothing is sent through what another member has sent through.
        let lives = self.children.iter().filter(|c| c.phase == Phase::Installed);
        let lives: Vec<_> = lives.map(|child| child.sa.id).collect();
        for child in lives {
            self.rekey_child(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As §6.3 and §6.4 draw them.
    #[test]
    fn counters_survive_the_wire_and_nothing_else_is_read() {
        let counters = Counters {
            nonce: [1, 2, 3, 4],
            send: 5,
            recv: 0x0607_0809,
        };
        let data = counters.emit();
        assert_eq!(data, [1, 2, 3, 4, 0, 0, 0, 5, 6, 7, 8, 9]);
        assert_eq!(Counters::read(&data), Some(counters));
        assert!(Counters::read(&[0; 13]).is_none());
        for len in 0..data.len() {
            assert!(Counters::read(&data[..len]).is_none());
        }
        let jump = |by, esn| Some(Jump { by, esn });
        assert_eq!(Jump::read(&[0, 0, 1, 0]), jump(256, false));
        assert_eq!(Jump::read(&[1, 0, 0, 0, 0, 0, 0, 0]), jump(1 << 56, true));
        for data in [&[0; 4][..], &[0; 8], &[1; 3], &[1; 5], &[1; 9], &[]] {
            assert_eq!(Jump::read(data), None);
        }
    }

    /// A16: a message with thousands of them has as many effects as one with one of each kind.
    #[test]
    fn one_jump_of_a_kind_counts() {
        let mut chain = Chain::default();
        for by in [3u8, 9, 1] {
            for octets in [4, 8] {
                let mut data = vec![0; octets];
                data[octets - 1] = by;
                chain.notify(notify::IPSEC_REPLAY_COUNTER_SYNC, &data);
            }
        }
        let parts = payloads(chain.first(), chain.octets()).unwrap();
        let expected = [false, true].map(|esn| Jump { by: 9, esn });
        assert_eq!(Jump::all(&parts), expected);
    }
}
