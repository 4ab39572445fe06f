// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The moving part of an SA: grant, replay window, lifetimes and counters. The software engine and
//! the simulated card each keep one for every SA.

use std::mem::discriminant;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use offload_api::error::SaError;
use offload_api::event::Limit;
use offload_api::queue::{Explicit, Status};
use offload_api::replay::{ReplaySnapshot, ReplayWindow, Verdict};
use offload_api::sa::{
    Amend, Direction, GrantCursor, Lifetimes, Limits, Numbering, SaParams, SaUsage,
};

/// State of an SA between packets.
// What every packet looks at comes first, in as few cache lines as hold it.
#[derive(Debug)]
#[repr(C)]
pub struct SaState {
    /// In place, so that a packet's notice needs no memory, and an SA that has none takes little.
    waiting: ArrayVec<Kind, KINDS>,
    direction: Direction,
    explicit: bool,
    esn: bool,
    /// Whether its lifetimes have any limit.
    limited: bool,
    reported: Told,
    usage: SaUsage,
    window: ReplayWindow,
    cursor: GrantCursor,
    /// At or under how many remaining numbers the grant counts as low.
    low_mark: u64,
    soft: Ends,
    hard: Ends,
    installed: Instant,
    bad_icvs: Burst,
    replays: Burst,
    /// What was left of the grant when it was noticed to be low.
    low: u64,
}

/// Limits as packets are held against them.
#[derive(Clone, Debug)]
struct Ends {
    /// From installation, in nanoseconds: up to some 584 years, and the largest where there is none.
    time: u64,
    /// By themselves: most SAs have none.
    amounts: Option<Box<Amounts>>,
}

/// What has no limit has the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Amounts {
    bytes: u64,
    packets: u64,
}

impl Amounts {
    const NONE: Self = Self {
        bytes: u64::MAX,
        packets: u64::MAX,
    };
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl From<&Limits> for Ends {
    fn from(limits: &Limits) -> Self {
        let amounts = Amounts {
            bytes: limits.bytes.unwrap_or(u64::MAX),
            packets: limits.packets.unwrap_or(u64::MAX),
        };
        Self {
            time: limits.time.map_or(u64::MAX, nanos),
            amounts: (amounts != Amounts::NONE).then(|| Box::new(amounts)),
        }
    }
}

impl From<&Ends> for Limits {
    fn from(ends: &Ends) -> Self {
        let limit = |end: u64| (end != u64::MAX).then_some(end);
        let amounts = ends.amounts.as_deref().unwrap_or(&Amounts::NONE);
        Self {
            bytes: limit(amounts.bytes),
            packets: limit(amounts.packets),
            time: limit(ends.time).map(Duration::from_nanos),
        }
    }
}

/// A notice that waits to be handed over, without its number, which lies elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Soft(Limit),
    Hard(Limit),
    GrantLow,
    SequenceEnding,
    SequenceEnd,
    BadIcv,
    Replayed,
}

/// As many as there can be: each kind waits once.
const KINDS: usize = 7;

/// What is said once for each arming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// A soft limit.
    pub soft: bool,
    /// A hard limit.
    pub hard: bool,
    /// That the grant is low.
    pub grant_low: bool,
    /// That the sequence space nearly ends.
    pub sequence_ending: bool,
    /// That its last number is used.
    pub sequence_end: bool,
}

/// What of an SA moves with its packets but for the window, on its way from or to hardware that keeps
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Numbers.
    pub cursor: GrantCursor,
    /// At or under how many remaining numbers the grant counts as low.
    pub low_mark: u64,
    /// Counters.
    pub usage: SaUsage,
    /// What has been told.
    pub told: Told,
}

/// What an SA wants its owner to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaNotice {
    /// A soft limit is reached.
    Soft(Limit),
    /// A hard limit is reached.
    Hard(Limit),
    /// So many numbers are left of the grant.
    GrantLow(u64),
    /// The sequence space nearly ends.
    SequenceEnding,
    /// Its last number is used.
    SequenceEnd,
    /// So many packets had a bad ICV since this was last told.
    BadIcv(u64),
    /// So many packets were replayed or too old since this was last told.
    Replayed(u64),
}

/// Refused packets that are told of together.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    count: u64,
    /// When, in nanoseconds since the installation.
    told: Option<NonZeroU64>,
}

impl Burst {
    /// Whether it is to be told now: no more than once in [`BURST_INTERVAL`].
    fn is_due(&mut self, age: Duration) -> bool {
        if self.count == 0 {
            return false;
        }
        let now = nanos(age);
        let quiet = |told: NonZeroU64| now.saturating_sub(told.get()) >= nanos(BURST_INTERVAL);
        let due = self.told.is_none_or(quiet);
        if due {
            self.told = NonZeroU64::new(now.max(1));
        }
        due
    }
}

/// How often refused packets of an SA are told of.
const BURST_INTERVAL: Duration = Duration::from_secs(1);

/// Numbers left when an SA asks for a rekey: a quarter of the 32-bit space, 2^32 of the 64-bit one.
const ENDING_32: u64 = 1 << 30;
const ENDING_64: u64 = 1 << 32;

impl SaState {
    /// The state of a new SA.
    pub fn new(sa: &SaParams, now: Instant) -> Self {
        let (explicit, grant) = match sa.numbering {
            Numbering::Explicit => (true, None),
            Numbering::Granted(grant) => (false, grant),
        };
        let mut window = ReplayWindow::new(sa.replay_window);
        if let Some(seen) = &sa.replay_state {
            window.merge(seen);
        }
        let cursor = GrantCursor::new(grant);
        Self {
            direction: sa.direction,
            explicit,
            esn: sa.esn,
            cursor,
            low_mark: cursor.remaining() / 4,
            window,
            soft: (&sa.lifetimes.soft).into(),
            hard: (&sa.lifetimes.hard).into(),
            limited: sa.lifetimes != Lifetimes::default(),
            installed: now,
            usage: SaUsage::default(),
            reported: Told::default(),
            bad_icvs: Burst::default(),
            replays: Burst::default(),
            waiting: ArrayVec::new(),
            low: 0,
        }
    }

    /// The number and, for an explicitly numbered SA, the IV of the next outbound packet.
    ///
    /// # Errors
    /// [`Status::WrongNumbering`], [`Status::HardExpired`] or [`Status::SequenceExhausted`].
    #[inline]
    pub fn next_outbound(
        &mut self,
        explicit: Option<Explicit>,
        now: Instant,
    ) -> Result<(u64, Option<[u8; 16]>), Status> {
        self.check_hard(now)?;
        match (explicit, self.explicit) {
            (Some(explicit), true) => {
                let end = if self.esn {
                    u64::MAX
                } else {
                    u64::from(u32::MAX)
                };
                if explicit.sequence == 0 || explicit.sequence > end {
                    return Err(Status::SequenceExhausted);
                }
                Ok((explicit.sequence, Some(explicit.iv)))
            }
            (None, false) => Ok((self.next_number(now)?, None)),
            _ => Err(Status::WrongNumbering),
        }
    }

    /// As [`next_outbound`](Self::next_outbound), for a packet that brings no number.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn next_number(&mut self, now: Instant) -> Result<u64, Status> {
        self.check_hard(now)?;
        if self.explicit {
            return Err(Status::WrongNumbering);
        }
        let (sequence, _) = self.cursor.take(1).ok_or(Status::SequenceExhausted)?;
        self.watch_sequence(sequence);
        Ok(sequence)
    }

    /// The first of as many numbers, for packets that follow each other; nothing where there is
    /// something to look at, or to tell, on the way: then each takes [its own](Self::next_number).
    #[inline]
    pub fn next_numbers(&mut self, count: u64) -> Option<u64> {
        let remaining = self.cursor.remaining().checked_sub(count)?;
        let first = self.cursor.next();
        let told = self.reported.grant_low || remaining > self.low_mark;
        if self.limited
            || self.explicit
            || !told
            || self.left(first.saturating_add(count)) <= ENDING_32
        {
            return None;
        }
        self.cursor.take(count).map(|(first, _)| first)
    }

    /// Whether its lifetimes have any limit.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Counts packets without limits that were numbered [together](Self::next_numbers).
    #[inline]
    pub fn count_run(&mut self, last: u64, packets: u64, octets: u64) {
        self.usage.packets += packets;
        self.usage.bytes += octets;
        self.usage.sequence = self.usage.sequence.max(last);
    }

    /// Takes back that a packet was counted, which could not be sealed.
    #[cold]
    pub fn take_back(&mut self, octets: usize, status: Status) {
        self.usage.packets -= 1;
        self.usage.bytes -= octets as u64;
        self.count_error(status);
    }

    /// The full number of an inbound packet, if the window may take it. Changes nothing: the ICV is
    /// still to be checked (RFC 4303 §3.4.3).
    ///
    /// # Errors
    /// [`Status::HardExpired`], [`Status::Replayed`] or [`Status::TooOld`].
    #[inline]
    pub fn check_inbound(&mut self, low: u32, now: Instant) -> Result<u64, Status> {
        self.check_hard(now)?;
        let sequence = self.window.full_number(low, self.esn);
        match self.window.check(sequence) {
            Verdict::Fresh => Ok(sequence),
            verdict => Err(self.refuse_inbound(verdict)),
        }
    }

    /// Moves the window for an authenticated packet.
    ///
    /// # Errors
    /// [`Status::Replayed`] or [`Status::TooOld`], when another packet of the burst came first.
    #[inline]
    pub fn accept_inbound(&mut self, sequence: u64) -> Result<(), Status> {
        match self.window.accept(sequence) {
            Verdict::Fresh => Ok(()),
            verdict => Err(self.refuse_inbound(verdict)),
        }
    }

    #[cold]
    fn refuse_inbound(&mut self, verdict: Verdict) -> Status {
        self.usage.replayed += 1;
        self.replays.count += 1;
        if verdict == Verdict::Replayed {
            Status::Replayed
        } else {
            Status::TooOld
        }
    }

    /// Whether a hard limit lets another packet pass. A burst asks again before it counts each
    /// packet: those before it may have reached the limit.
    ///
    /// # Errors
    /// [`Status::HardExpired`].
    #[inline]
    pub fn check_hard(&mut self, now: Instant) -> Result<(), Status> {
        let reached = self.limited.then(|| self.reached(&self.hard, now));
        match reached.flatten() {
            Some(limit) => {
                if !self.reported.hard {
                    self.reported.hard = true;
                    self.wait(Kind::Hard(limit));
                }
                Err(Status::HardExpired)
            }
            None => Ok(()),
        }
    }

    /// Counts a packet that was sealed or opened and tells how it ended.
    #[inline]
    pub fn count(&mut self, sequence: u64, inner_len: usize, now: Instant) -> Status {
        self.usage.packets += 1;
        self.usage.bytes += inner_len as u64;
        self.usage.sequence = self.usage.sequence.max(sequence);
        let reached = self.limited.then(|| self.reached(&self.soft, now));
        match reached.flatten() {
            Some(limit) => {
                if !self.reported.soft {
                    self.reported.soft = true;
                    self.wait(Kind::Soft(limit));
                }
                Status::OkSoftExpired
            }
            None => Status::Ok,
        }
    }

    /// Counts a packet that failed.
    pub fn count_error(&mut self, status: Status) {
        match status {
            Status::BadIcv => {
                self.usage.bad_icv += 1;
                self.bad_icvs.count += 1;
            }
            // Counted where they were refused.
            Status::Replayed | Status::TooOld => {}
            _ => self.usage.errors += 1,
        }
    }

    /// Reports limits by time without a packet, and refused packets.
    pub fn check_time(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.installed);
        if self.bad_icvs.is_due(age) {
            self.wait(Kind::BadIcv);
        }
        if self.replays.is_due(age) {
            self.wait(Kind::Replayed);
        }
        let _ = self.check_hard(now);
        if let Some(limit) = self.reached(&self.soft, now)
            && !self.reported.soft
        {
            self.reported.soft = true;
            self.wait(Kind::Soft(limit));
        }
    }

    #[cold]
    fn wait(&mut self, kind: Kind) {
        // One that was armed anew before it was handed over.
        let same = |other: &mut Kind| discriminant(other) == discriminant(&kind);
        self.waiting.retain(|other| !same(other));
        let _ = self.waiting.try_push(kind);
    }

    /// Hands over what is to be told.
    #[inline]
    pub fn take_notices(&mut self, tell: impl FnMut(SaNotice)) {
        if !self.waiting.is_empty() {
            self.hand_over().into_iter().for_each(tell);
        }
    }

    #[cold]
    fn hand_over(&mut self) -> ArrayVec<SaNotice, KINDS> {
        let waiting = std::mem::take(&mut self.waiting);
        let notices = waiting.into_iter().map(|kind| match kind {
            Kind::Soft(limit) => SaNotice::Soft(limit),
            Kind::Hard(limit) => SaNotice::Hard(limit),
            Kind::GrantLow => SaNotice::GrantLow(self.low),
            Kind::SequenceEnding => SaNotice::SequenceEnding,
            Kind::SequenceEnd => SaNotice::SequenceEnd,
            Kind::BadIcv => SaNotice::BadIcv(std::mem::take(&mut self.bad_icvs.count)),
            Kind::Replayed => SaNotice::Replayed(std::mem::take(&mut self.replays.count)),
        });
        notices.collect()
    }

    /// Changes the SA; [`Amend::Outer`] is the transform's and refused here.
    ///
    /// # Errors
    /// [`SaError::GrantBehind`], [`SaError::Invalid`] or [`SaError::NotApplicable`].
    pub fn amend(&mut self, change: &Amend, now: Instant) -> Result<(), SaError> {
        let outbound = self.direction == Direction::Outbound && !self.explicit;
        match change {
            Amend::Grant(grant) if outbound => {
                grant.check(self.esn)?;
                self.cursor
                    .extend(*grant)
                    .map_err(|expected| SaError::GrantBehind {
                        expected,
                        found: grant.first,
                    })?;
                self.low_mark = self.cursor.remaining() / 4;
                self.reported.grant_low = false;
                Ok(())
            }
            Amend::Revoke if outbound => {
                self.cursor.revoke();
                Ok(())
            }
            Amend::Replay(seen) if self.direction == Direction::Inbound => {
                self.window.merge(seen);
                Ok(())
            }
            Amend::Lifetimes(lifetimes) => {
                self.soft = (&lifetimes.soft).into();
                self.hard = (&lifetimes.hard).into();
                self.limited = *lifetimes != Lifetimes::default();
                self.reported.soft = false;
                self.reported.hard = false;
                self.check_time(now);
                Ok(())
            }
            _ => Err(SaError::NotApplicable {
                what: "the change does not fit the SA's direction",
            }),
        }
    }

    /// Counts a packet that hardware refused, for those notices that it leaves to others.
    pub fn note_refused(&mut self, status: Status) {
        match status {
            Status::BadIcv => self.bad_icvs.count += 1,
            Status::Replayed | Status::TooOld => self.replays.count += 1,
            _ => {}
        }
    }

    /// What moves.
    pub fn moving(&self) -> Moving {
        Moving {
            cursor: self.cursor,
            low_mark: self.low_mark,
            usage: self.usage,
            told: self.reported,
        }
    }

    /// Takes over what has moved elsewhere.
    pub fn set_moving(&mut self, moving: &Moving) {
        self.cursor = moving.cursor;
        self.low_mark = moving.low_mark;
        self.usage = moving.usage;
        self.reported = moving.told;
    }

    /// The replay window.
    pub fn window(&self) -> &ReplayWindow {
        &self.window
    }

    /// Takes over a window that has moved elsewhere.
    pub fn set_window(&mut self, seen: &ReplaySnapshot) {
        self.window = ReplayWindow::new(self.window.size());
        self.window.merge(seen);
    }

    /// Which limits by time are reached: a soft one, a hard one.
    pub fn expired(&self, now: Instant) -> (bool, bool) {
        let expired = |ends: &Ends| ends.time != u64::MAX && nanos(self.age(now)) >= ends.time;
        (expired(&self.soft), expired(&self.hard))
    }

    /// The next number that would be used.
    pub fn next_sequence(&self) -> u64 {
        self.cursor.next()
    }

    /// Numbers left of the grant.
    pub fn remaining(&self) -> u64 {
        self.cursor.remaining()
    }

    /// Its limits.
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            soft: (&self.soft).into(),
            hard: (&self.hard).into(),
        }
    }

    /// How long it has been installed.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.installed)
    }

    /// What the SA has done.
    pub fn usage(&self) -> SaUsage {
        self.usage
    }

    fn reached(&self, ends: &Ends, now: Instant) -> Option<Limit> {
        let amounts = ends.amounts.as_deref().unwrap_or(&Amounts::NONE);
        if self.usage.bytes >= amounts.bytes {
            Some(Limit::Bytes)
        } else if self.usage.packets >= amounts.packets {
            Some(Limit::Packets)
        } else if ends.time != u64::MAX && nanos(self.age(now)) >= ends.time {
            Some(Limit::Time)
        } else {
            None
        }
    }

    #[inline]
    fn watch_sequence(&mut self, sequence: u64) {
        let remaining = self.cursor.remaining();
        if remaining <= self.low_mark && !self.reported.grant_low {
            self.reported.grant_low = true;
            self.low = remaining;
            self.wait(Kind::GrantLow);
        }
        let end = if self.esn {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        if sequence == end && !self.reported.sequence_end {
            self.reported.sequence_end = true;
            self.wait(Kind::SequenceEnd);
        }
        if self.left(sequence) <= ENDING_32 && !self.reported.sequence_ending {
            self.reported.sequence_ending = true;
            self.wait(Kind::SequenceEnding);
        }
    }

    /// What the space has left, in the measure of [`ENDING_32`].
    #[inline]
    fn left(&self, sequence: u64) -> u64 {
        if self.esn {
            (u64::MAX - sequence) / (ENDING_64 / ENDING_32)
        } else {
            u64::from(u32::MAX).saturating_sub(sequence)
        }
    }
}
