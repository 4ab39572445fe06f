// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A port at a pace: a line each way, and frames that wait for their time.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::{FramePort, MAX_FRAME};
use crate::pace::{Line, Pace};
use crate::port::tun::BURST;

/// What a frame takes of a line beyond its octets: FCS, preamble and gap (IEEE 802.3 §4.4.2).
const FRAME_OVERHEAD: usize = 4 + 8 + 12;
/// The line is given more when it is busy for no longer than this, so that a late look costs nothing.
const AHEAD: Duration = Duration::from_micros(200);
/// Frames that wait, each way.
const FRAMES: usize = 1 << 16;
/// Octets that wait each way: at least room for some bursts.
const LEAST: u64 = 4 << 20;
/// At most, whatever rate and latency make of it.
const MOST: u64 = 128 << 20;

/// A port whose frames take their time.
pub(crate) struct Paced {
    inner: Box<dyn FramePort>,
    inward: Delay,
    outward: Delay,
    buffer: Box<[u8]>,
    /// Frames that the port behind did not take, and whose sender does not know yet.
    failed: u64,
}

impl Paced {
    pub(crate) fn new(inner: Box<dyn FramePort>, pace: &Pace) -> Self {
        let now = Instant::now();
        Self {
            inner,
            inward: Delay::new(pace, now),
            outward: Delay::new(pace, now),
            buffer: vec![0; MAX_FRAME].into(),
            failed: 0,
        }
    }

    fn take(&mut self, buffer: &mut [u8], now: Instant) -> Option<usize> {
        self.pump(now);
        while !self.inward.is_ahead(now) && self.inward.room(MAX_FRAME).is_some() {
            let Some(len) = self.inner.receive(&mut self.buffer) else {
                break;
            };
            let frame = self.buffer.get(..len).unwrap_or_default();
            self.inward.push(frame, now);
        }
        let frame = self.inward.pop(now)?;
        buffer.get_mut(..frame.len())?.copy_from_slice(frame);
        Some(frame.len())
    }

    fn give(&mut self, frame: &[u8], now: Instant) -> bool {
        let taken = self.outward.push(frame, now);
        self.pump(now);
        if taken && self.failed > 0 {
            self.failed -= 1;
            return false;
        }
        taken
    }

    /// Sends what is due.
    fn pump(&mut self, now: Instant) {
        while let Some(frame) = self.outward.pop(now) {
            self.failed += u64::from(!self.inner.send(frame));
        }
    }

    fn has_room(&self, now: Instant) -> bool {
        !self.outward.is_ahead(now) && self.outward.room(BURST * MAX_FRAME).is_some()
    }
}

impl FramePort for Paced {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.take(buffer, Instant::now())
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        self.give(frame, Instant::now())
    }

    fn is_ready(&self) -> bool {
        self.has_room(Instant::now())
    }

    fn due(&self) -> Option<Instant> {
        let ways = [&self.inward, &self.outward];
        ways.into_iter().filter_map(Delay::due).min()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        self.inner.mac()
    }

    fn mtu(&self) -> u32 {
        self.inner.mtu()
    }
}

/// Frames on their way, in order, in memory of their own.
struct Delay {
    line: Option<Line>,
    latency: Duration,
    waiting: VecDeque<Waiting>,
    octets: Box<[u8]>,
}

#[derive(Clone, Copy)]
struct Waiting {
    due: Instant,
    start: usize,
    len: usize,
}

impl Delay {
    fn new(pace: &Pace, now: Instant) -> Self {
        let carried = |rate: crate::pace::Rate| rate.octets_in(pace.latency);
        let octets = LEAST + 2 * pace.rate.map_or(MOST / 4, carried).min(MOST);
        Self {
            line: pace.rate.map(|rate| Line::new(rate, now)),
            latency: pace.latency,
            waiting: VecDeque::with_capacity(FRAMES),
            // Zero pages, which cost nothing until frames wait in them.
            octets: vec![0; octets as usize].into(),
        }
    }

    /// Whether the line has enough to do.
    fn is_ahead(&self, now: Instant) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.free() > now + AHEAD)
    }

    /// Where a frame of so many octets finds room.
    fn room(&self, len: usize) -> Option<usize> {
        let (Some(first), Some(last)) = (self.waiting.front(), self.waiting.back()) else {
            return (len <= self.octets.len()).then_some(0);
        };
        if self.waiting.len() == FRAMES {
            return None;
        }
        let end = last.start + last.len;
        if last.start < first.start {
            return (first.start - end > len).then_some(end);
        }
        if self.octets.len() - end >= len {
            return Some(end);
        }
        (first.start > len).then_some(0)
    }

    fn push(&mut self, frame: &[u8], now: Instant) -> bool {
        let Some(start) = self.room(frame.len()) else {
            return false;
        };
        let Some(into) = self.octets.get_mut(start..start + frame.len()) else {
            return false;
        };
        into.copy_from_slice(frame);
        let octets = (frame.len() + FRAME_OVERHEAD) as u64;
        let line = self.line.as_mut();
        let passed = line.map_or(now, |line| line.carry(octets, now, now));
        self.waiting.push_back(Waiting {
            due: passed + self.latency,
            start,
            len: frame.len(),
        });
        true
    }

    /// The next frame whose time has come; its octets are there until the next is pushed.
    fn pop(&mut self, now: Instant) -> Option<&[u8]> {
        let Waiting { start, len, .. } = *self.waiting.front().filter(|first| first.due <= now)?;
        self.waiting.pop_front();
        self.octets.get(start..start + len)
    }

    /// When there is something to do: a frame's time has come, or the line can be given more.
    fn due(&self) -> Option<Instant> {
        let first = self.waiting.front().map(|first| first.due);
        let line = self.line.as_ref().filter(|_| first.is_some());
        let more = line.and_then(|line| line.free().checked_sub(AHEAD));
        first.into_iter().chain(more).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Gives and takes frames at once.
    struct Instantly {
        from: Receiver<Vec<u8>>,
        to: Sender<Vec<u8>>,
    }

    impl FramePort for Instantly {
        fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
            let frame = self.from.try_recv().ok()?;
            buffer[..frame.len()].copy_from_slice(&frame);
            Some(frame.len())
        }
        fn send(&mut self, frame: &[u8]) -> bool {
            self.to.send(frame.to_vec()).is_ok()
        }
        fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn mtu(&self) -> u32 {
            1500
        }
    }

    fn paced(
        rate: Option<&str>,
        latency: Duration,
    ) -> (Paced, Sender<Vec<u8>>, Receiver<Vec<u8>>, Instant) {
        let (give, from) = channel();
        let (to, take) = channel();
        let pace = Pace {
            rate: rate.map(|rate| rate.parse().unwrap()),
            latency,
        };
        let port = Paced::new(Box::new(Instantly { from, to }), &pace);
        (port, give, take, Instant::now() + Duration::from_secs(1))
    }

    const NANOSECOND: Duration = Duration::from_nanos(1);

    #[test]
    fn frames_go_out_and_come_in_at_the_lines_rate_and_after_the_latency() {
        let latency = Duration::from_micros(5);
        let (mut port, give, take, start) = paced(Some("1G"), latency);
        // With FCS, preamble and gap a frame of 976 octets is 8 µs long.
        let each = Duration::from_micros(8);
        for number in 0..20 {
            give.send(vec![number; 976]).unwrap();
            assert!(port.give(&[number; 976], start));
        }
        let mut buffer = [0; MAX_FRAME];
        assert_eq!(port.take(&mut buffer, start), None);
        for number in 0..20 {
            let due = start + latency + each * (u32::from(number) + 1);
            assert_eq!(port.take(&mut buffer, due - NANOSECOND), None, "{number}");
            assert!(take.try_recv().is_err(), "{number}");
            if number > 0 {
                assert!(port.due().unwrap() <= due);
            }
            assert_eq!(port.take(&mut buffer, due), Some(976));
            assert_eq!(buffer[..976], [number; 976]);
            assert_eq!(take.try_recv().unwrap(), [number; 976]);
        }
        assert_eq!(port.due(), None);
    }

    #[test]
    fn a_full_line_takes_no_more_and_nothing_is_lost() {
        let (mut port, give, take, start) = paced(Some("10M"), Duration::ZERO);
        let mut now = start;
        let (mut given, mut out, mut inward) = (0u32, 0u32, 0u32);
        let mut buffer = [0; MAX_FRAME];
        for number in 0..500u32 {
            give.send(number.to_le_bytes().repeat(350)).unwrap();
        }
        while out < 500 || inward < 500 {
            while given < 500 && port.has_room(now) {
                assert!(port.give(&given.to_le_bytes().repeat(350), now));
                given += 1;
            }
            while let Some(len) = port.take(&mut buffer, now) {
                assert_eq!(buffer[..len], inward.to_le_bytes().repeat(350));
                inward += 1;
            }
            while let Ok(frame) = take.try_recv() {
                assert_eq!(frame, out.to_le_bytes().repeat(350));
                out += 1;
            }
            now += Duration::from_micros(100);
        }
        let exact = Duration::from_nanos(500 * (1400 + 24) * 800);
        let took = now - start;
        assert!(
            took >= exact && took < exact * 101 / 100,
            "{took:?}, {exact:?}"
        );
    }

    #[test]
    fn frames_of_all_sizes_wait_in_a_ring_that_wraps() {
        let (mut port, _give, take, start) = paced(None, Duration::from_millis(10));
        let (mut sent, mut received) = (0u64, 0u64);
        let size = |number: u64| (number * 7919 % 9000 + 1) as usize;
        for step in 0..2_000 {
            let now = start + Duration::from_millis(step);
            while port.has_room(now) && sent < (step + 1) * 90 {
                assert!(port.give(&vec![sent as u8; size(sent)], now));
                sent += 1;
            }
            for frame in take.try_iter() {
                assert!(frame == vec![received as u8; size(received)], "{received}");
                received += 1;
            }
        }
        assert!(received > 150_000, "{received}");
    }
}
