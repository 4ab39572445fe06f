// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data path at a pace: one engine for all queues of the card, which take turns by priority, and
//! completions that are shown when they are due.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fpga_regs::descriptor::Completion;

use crate::card::{Card, Core};
use crate::datapath::{self, BURST, running};
use crate::handshake::{self, Pages};
use crate::pace::{Line, Pace, VirtualClock};

/// The time that the largest turn of a queue of the lowest priority takes, in packets of 1500 octets:
/// short, so that a queue of high priority does not wait long.
const TURN: Duration = Duration::from_micros(20);
/// Waits shorter than this are not slept: a sleep is as inexact.
pub(crate) const SPIN: Duration = Duration::from_micros(120);

/// Completions of a function that are not due.
#[derive(Debug)]
pub(crate) struct Held {
    lanes: Vec<VecDeque<(Instant, Completion)>>,
}

impl Held {
    pub(crate) fn new(queues: u16) -> Self {
        Self {
            lanes: (0..queues).map(|_| VecDeque::new()).collect(),
        }
    }

    /// Makes room for a new queue's completions: the only time that memory is taken.
    pub(crate) fn open(&mut self, queue: usize, depth: u32) {
        if let Some(lane) = self.lanes.get_mut(queue) {
            lane.clear();
            lane.reserve_exact(depth as usize);
        }
    }

    pub(crate) fn close(&mut self, queue: usize) {
        if let Some(lane) = self.lanes.get_mut(queue) {
            *lane = VecDeque::new();
        }
    }

    /// Everything that is held is lost.
    pub(crate) fn clear(&mut self) {
        (0..self.lanes.len()).for_each(|queue| self.close(queue));
    }

    /// How many more a queue may hold.
    pub(crate) fn room(&self, queue: u16) -> u32 {
        let lane = self.lanes.get(usize::from(queue));
        lane.map_or(0, |lane| (lane.capacity() - lane.len()) as u32)
    }

    /// Holds a completion; a queue that holds a ring of them already was told of too many, which only
    /// a card that doubles them on purpose does.
    pub(crate) fn push(&mut self, queue: u16, due: Instant, completion: Completion) {
        if let Some(lane) = self.lanes.get_mut(usize::from(queue))
            && lane.len() < lane.capacity()
        {
            lane.push_back((due, completion));
        }
    }

    fn pop_due(&mut self, queue: usize, now: Instant) -> Option<Completion> {
        let lane = self.lanes.get_mut(queue)?;
        let (due, _) = lane.front()?;
        (*due <= now)
            .then(|| lane.pop_front())?
            .map(|(_, completion)| completion)
    }

    fn next_due(&self) -> Option<Instant> {
        let fronts = self.lanes.iter().filter_map(VecDeque::front);
        fronts.map(|(due, _)| *due).min()
    }
}

/// The engine's clock, and whose turn it is.
pub(crate) struct Pacer {
    line: Option<Line>,
    latency: Duration,
    clock: Option<VirtualClock>,
    turn: u32,
    places: Vec<Place>,
    /// Of these, the first to be asked.
    next: usize,
    holding: bool,
    due: Option<Instant>,
    blocked: bool,
    /// The place whose turn it is.
    serving: usize,
}

/// A queue of a function.
struct Place {
    function: usize,
    queue: u16,
    /// Tails, and when each was seen: what comes before one has been there since then.
    marks: VecDeque<(u32, Instant)>,
}

/// Marks of a queue. With more the last one moves: what is before it counts as later than it was.
const MARKS: usize = 32;

impl Place {
    fn since(&mut self, position: u32) -> Option<Instant> {
        let is_before = |tail: u32| (position.wrapping_sub(tail) as i32) < 0;
        while self
            .marks
            .front()
            .is_some_and(|(tail, _)| !is_before(*tail))
        {
            self.marks.pop_front();
        }
        self.marks.front().map(|(_, since)| *since)
    }

    fn mark(&mut self, tail: u32, now: Instant) {
        let full = self.marks.len() == MARKS;
        match self.marks.back_mut() {
            Some((last, _)) if *last == tail => {}
            Some(last) if full => *last = (tail, now),
            _ => self.marks.push_back((tail, now)),
        }
    }
}

impl Pacer {
    pub(crate) fn new(
        pace: &Pace,
        clock: Option<VirtualClock>,
        queues: impl Iterator<Item = u16>,
    ) -> Self {
        let of = |(function, queues)| {
            (0..queues).map(move |queue| Place {
                function,
                queue,
                marks: VecDeque::with_capacity(MARKS),
            })
        };
        let turn = pace.rate.map(|rate| rate.octets_in(TURN) / 1500);
        let now = now(clock.as_ref());
        Self {
            line: pace.rate.map(|rate| Line::new(rate, now)),
            latency: pace.latency,
            clock,
            turn: turn.map_or(BURST, |turn| turn.clamp(1, BURST.into()) as u32),
            places: queues.enumerate().flat_map(of).collect(),
            next: 0,
            holding: false,
            due: None,
            blocked: false,
            serving: 0,
        }
    }

    /// Operations of a turn at the lowest priority.
    pub(crate) fn turn(&self) -> u32 {
        self.turn
    }

    /// Passes a packet through the engine; when its completion is due.
    pub(crate) fn pass(&mut self, octets: u64, position: u32) -> Instant {
        let now = self.now();
        self.holding = true;
        let place = self.places.get_mut(self.serving);
        // Of one that no look has found is only known that it is there now.
        let since = place.and_then(|place| place.since(position)).unwrap_or(now);
        let line = self.line.as_mut();
        line.map_or(now, |line| line.carry(octets, since, now)) + self.latency
    }

    /// Shows what is due, and lets queues have their turns while the engine is free. Whether there
    /// was anything to do.
    pub(crate) fn round(&mut self, cards: &[Arc<Card>], buffer: &mut [u8]) -> bool {
        let mut worked = false;
        let asked = self.clock.as_ref().map(VirtualClock::asked);
        for card in cards {
            datapath::beat(card);
        }
        if self.holding {
            worked |= self.release(cards);
        }
        self.blocked = false;
        let first = self.next;
        for step in 0..self.places.len() {
            let number = (first + step) % self.places.len();
            let Some((card, queue)) = self.place(cards, number) else {
                continue;
            };
            if !card.has_rung(queue) {
                continue;
            }
            if self.is_busy(self.now()) {
                self.next = number;
                self.blocked = true;
                break;
            }
            self.serving = number;
            worked |= datapath::turn(card, queue, buffer, Some(self));
            self.next = number + 1;
        }
        self.look(cards);
        for card in cards {
            datapath::fire_held_back(card);
        }
        if let (Some(clock), Some(asked), false) = (&self.clock, asked, worked) {
            clock.settle_to(asked);
        }
        worked
    }

    fn now(&self) -> Instant {
        now(self.clock.as_ref())
    }

    /// Notes what waits, for when its turn comes.
    fn look(&mut self, cards: &[Arc<Card>]) {
        let clock = self.clock.as_ref();
        for place in &mut self.places {
            let Some(card) = cards.get(place.function) else {
                continue;
            };
            if card.has_rung(place.queue) {
                let tail = handshake::tail(&card.doorbells, place.queue);
                // After the tail: nothing that is before it has come later.
                place.mark(tail, now(clock));
            } else {
                place.marks.clear();
            }
        }
    }

    fn place<'a>(&self, cards: &'a [Arc<Card>], number: usize) -> Option<(&'a Card, u16)> {
        let place = self.places.get(number)?;
        Some((cards.get(place.function)?, place.queue))
    }

    fn is_busy(&self, now: Instant) -> bool {
        self.line.as_ref().is_some_and(|line| line.free() > now)
    }

    /// Whether descriptors wait for the engine, and no doorbell changes that.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// How long the card may sleep; nothing where it may as long as it likes.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        if self.clock.is_some() {
            // Time goes on without a word.
            return Some(Duration::ZERO);
        }
        let free = self.line.as_ref().filter(|_| self.blocked).map(Line::free);
        let next = self.due.into_iter().chain(free).min()?;
        let left = next.saturating_duration_since(self.now());
        Some(left.checked_sub(SPIN).unwrap_or_default())
    }

    fn release(&mut self, cards: &[Arc<Card>]) -> bool {
        let now = self.now();
        let mut worked = false;
        (self.holding, self.due) = (false, None);
        for card in cards {
            let mut core = card.lock();
            if running(&core) {
                for queue in 0..card.doorbells.queues() {
                    worked |= show_due(card, &mut core, queue, now);
                }
            }
            let next = core.held.as_ref().and_then(Held::next_due);
            self.holding |= next.is_some();
            // What a stopped card holds is due when it goes on.
            let next = next.filter(|_| running(&core));
            self.due = self.due.into_iter().chain(next).min();
        }
        worked
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some(clock) = &self.clock {
            clock.settle_to(u64::MAX);
        }
    }
}

fn now(clock: Option<&VirtualClock>) -> Instant {
    clock.map_or_else(Instant::now, VirtualClock::now)
}

fn show_due(card: &Card, core: &mut Core, number: u16, now: Instant) -> bool {
    let slot = core.queues.get(usize::from(number)).copied().flatten();
    let Some(mut queue) = slot else {
        return false;
    };
    let mut written = 0;
    while let Some(completion) = core
        .held
        .as_mut()
        .and_then(|held| held.pop_due(number.into(), now))
    {
        datapath::write_completion(core, number, &mut queue, completion);
        written += 1;
    }
    if written == 0 {
        return false;
    }
    datapath::tell(card, core, number, &mut queue, written, Instant::now());
    if let Some(slot) = core.queues.get_mut(usize::from(number)) {
        *slot = Some(queue);
    }
    true
}
