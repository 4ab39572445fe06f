// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that wait for their SA. Here: those that have asked for it by a trap policy, so that the first one
//! of a conversation is not lost.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::time::{Duration, Instant};

use offload_api::frame::Frame;
use offload_api::wire::ip::Facts;

use super::Upcall;
use super::interfaces::InterfaceId;
use super::worker::Worker;

/// How long a packet waits: about as long as its sender would before it gives up on it itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// Packets of one worker that have asked and wait, at most.
const MOST: usize = 64;

/// Packets in the order that they came, each with what else is known of it and when it gives up.
pub(super) struct Waiting<T> {
    packets: VecDeque<(Frame, T, Instant)>,
    most: usize,
    /// SAs that had come when they were looked at last.
    seen: u64,
}

/// For those that ask.
impl Default for Waiting<InterfaceId> {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl<T> Waiting<T> {
    /// For so many at a time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            packets: VecDeque::new(),
            most,
            seen: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes a packet in; gives it back if too many wait already.
    pub(super) fn push(&mut self, packet: Frame, about: T, now: Instant) -> Option<Frame> {
        if self.packets.len() >= self.most {
            return Some(packet);
        }
        self.packets.push_back((packet, about, now + PATIENCE));
        None
    }

    /// Drops those that have waited for too long; how many.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while self.packets.front().is_some_and(|(.., end)| *end <= now) {
            self.packets.pop_front();
            dropped += 1;
        }
        dropped
    }

    /// How many to [look at](Self::pop) again, if so many SAs have come in all: none unless there is
    /// one more.
    pub(super) fn look(&mut self, come: u64) -> usize {
        let new = std::mem::replace(&mut self.seen, come) != come;
        if new { self.packets.len() } else { 0 }
    }

    /// The one that has waited the longest.
    pub(super) fn pop(&mut self) -> Option<(Frame, T, Instant)> {
        self.packets.pop_front()
    }

    /// It waits on.
    pub(super) fn put_back(&mut self, packet: Frame, about: T, end: Instant) {
        self.packets.push_back((packet, about, end));
    }
}

impl Worker {
    /// Asks for the SA that a packet wants, and lets it wait for that.
    pub(super) fn ask_for_sa(
        &mut self,
        frame: Frame,
        from: InterfaceId,
        facts: &Facts,
        now: Instant,
    ) {
        let counters = &self.shared.counters;
        let (source, destination) = (facts.source, facts.destination);
        if self.acquires.passes(from, source, destination, now) {
            counters.acquires.fetch_add(1, Relaxed);
            let heard = (self.shared.upcall)(Upcall::Acquire {
                interface: from,
                source,
                destination,
                protocol: facts.protocol,
                ports: facts.ports,
            });
            if !heard {
                self.acquires.forget_last();
            }
        }
        let first = self.waiting.is_empty();
        if self.waiting.push(frame, from, now).is_some() {
            counters.no_policy.fetch_add(1, Relaxed);
        } else if first {
            self.begin_to_wait();
        }
    }

    /// Who adds an SA after this wakes us; one that came before is seen by the next look.
    pub(super) fn begin_to_wait(&self) {
        self.shared.waiters.fetch_add(1, Relaxed);
        fence(SeqCst);
    }

    /// Sends packets whose SA has come, and drops those that have waited for too long.
    pub(super) fn look_at_waiting(&mut self) {
        let now = Instant::now();
        let come = self.shared.policy.come();
        for _ in 0..self.waiting.look(come) {
            let Some((frame, from, end)) = self.waiting.pop() else {
                break;
            };
            let Ok(facts) = Facts::of(&frame) else {
                continue;
            };
            match self.shared.policy.outbound(from, &facts, self.number) {
                Some(entry) => {
                    self.shared.counters.awaited.fetch_add(1, Relaxed);
                    self.seal_through(&entry, frame, &facts, now);
                }
                None => self.waiting.put_back(frame, from, end),
            }
        }
        let dropped = self.waiting.expire(now);
        let counters = &self.shared.counters;
        counters.awaited_in_vain.fetch_add(dropped, Relaxed);
        counters.no_policy.fetch_add(dropped, Relaxed);
        if self.waiting.is_empty() {
            self.shared.waiters.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use offload_api::frame::{FramePool, FramePoolConfig};

    use super::*;

    fn packets(count: u8) -> Vec<Frame> {
        let pool = FramePool::new(FramePoolConfig::default()).unwrap();
        let packet = |number| {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(&[number]));
            frame
        };
        (0..count).map(packet).collect()
    }

    /// B43: in order, each once, and looked at only when an SA has come.
    #[test]
    fn packets_wait_in_order_until_an_sa_comes() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for packet in packets(3) {
            assert!(waiting.push(packet, InterfaceId::MAIN, now).is_none());
        }
        assert_eq!(waiting.look(0), 0);
        assert_eq!(waiting.look(1), 3);
        assert_eq!(waiting.look(1), 0, "nothing new");
        // The second waits on for another SA.
        for expected in 0..3 {
            let (packet, from, end) = waiting.pop().unwrap();
            assert_eq!(packet[..], [expected]);
            if expected == 1 {
                waiting.put_back(packet, from, end);
            }
        }
        assert_eq!(waiting.look(2), 1);
        assert_eq!(waiting.pop().unwrap().0[..], [1]);
        assert!(waiting.is_empty());
    }

    /// B43: neither for ever, nor without bound; who waits on waits no longer for it.
    #[test]
    fn they_wait_for_so_long_and_are_so_many() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let all = packets(MOST as u8 + 3);
        let refused = all
            .into_iter()
            .filter_map(|packet| waiting.push(packet, InterfaceId::MAIN, now));
        assert_eq!(refused.count(), 3);
        assert_eq!(waiting.expire(now + PATIENCE / 2), 0);
        let (packet, from, end) = waiting.pop().unwrap();
        waiting.put_back(packet, from, end);
        assert!(
            waiting
                .push(packets(1).remove(0), InterfaceId::MAIN, now + PATIENCE / 2)
                .is_some()
        );
        waiting.pop();
        assert!(
            waiting
                .push(packets(1).remove(0), InterfaceId::MAIN, now + PATIENCE / 2)
                .is_none()
        );
        assert_eq!(waiting.expire(now + PATIENCE), MOST as u64 - 1);
        assert!(!waiting.is_empty());
        assert_eq!(waiting.expire(now + PATIENCE * 2), 1);
        assert!(waiting.is_empty());
    }
}
