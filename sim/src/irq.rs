// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupt vectors: where they go, and how often they may fire.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A function's vectors.
pub(crate) struct Vectors {
    vectors: Vec<Vector>,
    /// Interrupts fired.
    pub(crate) fired: u64,
    /// Vectors whose interrupt is held back.
    held: u32,
    /// All of them, by the MSI-X capability's function mask.
    masked: bool,
}

struct Vector {
    fd: Option<OwnedFd>,
    /// Low half: microseconds between interrupts; high half: completions that end the wait.
    moderation: u32,
    last: Option<Instant>,
    /// Completions since the last interrupt, while one is held back.
    waiting: u32,
    held: bool,
    /// By its entry of the MSI-X table.
    masked: bool,
    /// An interrupt came while it was masked.
    pending: bool,
}

impl Default for Vector {
    fn default() -> Self {
        Self {
            fd: None,
            moderation: 0,
            last: None,
            waiting: 0,
            held: false,
            masked: true,
            pending: false,
        }
    }
}

impl Vectors {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            vectors: (0..count).map(|_| Vector::default()).collect(),
            fired: 0,
            held: 0,
            masked: false,
        }
    }

    pub(crate) fn count(&self) -> u32 {
        self.vectors.len() as u32
    }

    /// Where a vector goes. Whoever wires one wants its interrupts: it is unmasked, as the kernel's VFIO
    /// does, and starts with nothing pending.
    pub(crate) fn wire(&mut self, number: usize, fd: Option<OwnedFd>) {
        if let Some(vector) = self.vectors.get_mut(number) {
            (vector.masked, vector.pending) = (fd.is_none(), false);
            vector.fd = fd;
        }
    }

    pub(crate) fn unwire(&mut self) {
        for number in 0..self.vectors.len() {
            self.wire(number, None);
        }
    }

    /// Whether a vector's entry of the MSI-X table reads as masked, as it does before it is wired.
    pub(crate) fn is_masked(&self, number: usize) -> bool {
        self.vectors.get(number).is_none_or(|vector| vector.masked)
    }

    /// Masks a vector or unmasks it, which fires what is pending.
    pub(crate) fn set_masked(&mut self, number: usize, masked: bool, now: Instant) {
        if let Some(vector) = self.vectors.get_mut(number) {
            vector.masked = masked;
        }
        self.fire_pending(number, now);
    }

    /// Masks all vectors, or ends that.
    pub(crate) fn set_all_masked(&mut self, masked: bool, now: Instant) {
        self.masked = masked;
        for number in 0..self.vectors.len() {
            self.fire_pending(number, now);
        }
    }

    fn fire_pending(&mut self, number: usize, now: Instant) {
        let all = self.masked;
        let due = |vector: &mut Vector| !all && !vector.masked && vector.pending;
        if self.vectors.get_mut(number).is_some_and(due) {
            self.fire(number, now);
        }
    }

    /// The pending bits of 64 vectors.
    pub(crate) fn pending(&self, from: usize) -> u64 {
        let of = self.vectors.iter().skip(from).take(64).zip(0..);
        of.fold(0, |bits, (vector, bit)| {
            bits | u64::from(vector.pending) << bit
        })
    }

    pub(crate) fn moderation(&self, number: usize) -> u32 {
        self.vectors
            .get(number)
            .map_or(0, |vector| vector.moderation)
    }

    pub(crate) fn set_moderation(&mut self, number: usize, value: u32) {
        if let Some(vector) = self.vectors.get_mut(number) {
            vector.moderation = value;
        }
    }

    /// Moderation and what is held back, as at power-on.
    pub(crate) fn reset(&mut self) {
        for vector in &mut self.vectors {
            (vector.moderation, vector.waiting, vector.held) = (0, 0, false);
            (vector.last, vector.pending) = (None, false);
        }
        self.held = 0;
        self.fired = 0;
    }

    /// Masks each vector, as its entry of the MSI-X table is at power-on; where they lead stays.
    pub(crate) fn mask(&mut self) {
        for vector in &mut self.vectors {
            vector.masked = true;
        }
    }

    /// Completions for a driver that asked to be told: fires, or holds back by the vector's
    /// moderation. Whether it fired.
    pub(crate) fn raise(&mut self, number: usize, completions: u32, now: Instant) -> bool {
        let Some(vector) = self.vectors.get_mut(number) else {
            return false;
        };
        vector.waiting = vector.waiting.saturating_add(completions);
        if vector.due(now).is_some() {
            if !vector.held {
                vector.held = true;
                self.held += 1;
            }
            return false;
        }
        self.fire(number, now);
        true
    }

    /// Completions while an interrupt is held back: enough of them end the wait. Whether it fired.
    pub(crate) fn accumulate(&mut self, number: usize, completions: u32, now: Instant) -> bool {
        let held = self.vectors.get(number).is_some_and(|vector| vector.held);
        held && self.raise(number, completions, now)
    }

    /// Whether an interrupt is held back.
    pub(crate) fn holds_back(&self) -> bool {
        self.held != 0
    }

    /// Fires what was held back long enough.
    pub(crate) fn fire_due(&mut self, now: Instant) {
        if self.held == 0 {
            return;
        }
        for number in 0..self.vectors.len() {
            let due = |vector: &Vector| vector.held && vector.due(now).is_none();
            if self.vectors.get(number).is_some_and(due) {
                self.fire(number, now);
            }
        }
    }

    /// How long until [`fire_due`](Self::fire_due) has something to do.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Duration> {
        if self.held == 0 {
            return None;
        }
        let held = self.vectors.iter().filter(|vector| vector.held);
        held.map(|vector| vector.due(now).unwrap_or_default()).min()
    }

    /// Fires at once.
    pub(crate) fn fire(&mut self, number: usize, now: Instant) {
        let Some(vector) = self.vectors.get_mut(number) else {
            return;
        };
        if std::mem::take(&mut vector.held) {
            self.held -= 1;
        }
        vector.waiting = 0;
        if self.masked || vector.masked {
            vector.pending = true;
            return;
        }
        vector.pending = false;
        vector.last = Some(now);
        self.fired += 1;
        self.deliver(number);
    }

    /// Tells whoever wired a vector.
    pub(crate) fn deliver(&self, number: usize) {
        const NOW: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let wired = self.vectors.get(number);
        if let Some(fd) = wired.and_then(|vector| vector.fd.as_ref()) {
            // The driver chose the descriptor: one that is full and blocks would hold up the card.
            // Full means that the driver has interrupts to read already.
            let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::OUT)];
            if poll(&mut fds, Some(&NOW)) == Ok(1) && fds[0].revents().contains(PollFlags::OUT) {
                let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
            }
        }
    }
}

impl Vector {
    /// How long moderation still holds an interrupt back; `None`: not at all.
    fn due(&self, now: Instant) -> Option<Duration> {
        let interval = Duration::from_micros((self.moderation & 0xffff).into());
        let enough = self.moderation >> 16;
        if enough != 0 && self.waiting >= enough {
            return None;
        }
        let since = now.saturating_duration_since(self.last?);
        interval.checked_sub(since).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn wired(moderation: u32) -> (Vectors, OwnedFd) {
        let fd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut vectors = Vectors::new(2);
        vectors.wire(1, Some(fd.try_clone().unwrap()));
        vectors.set_moderation(1, moderation);
        (vectors, fd)
    }

    fn count(fd: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(fd, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn an_unmoderated_vector_fires_each_time() {
        let (mut vectors, fd) = wired(0);
        let now = Instant::now();
        assert!(vectors.raise(1, 1, now) && vectors.raise(1, 1, now));
        assert_eq!(count(&fd), 2);
        assert_eq!(vectors.next_due(now), None);
    }

    #[test]
    fn a_masked_vector_is_pending_until_it_is_unmasked() {
        let (mut vectors, fd) = wired(0);
        let now = Instant::now();
        vectors.set_masked(1, true, now);
        assert!(vectors.is_masked(1));
        vectors.raise(1, 1, now);
        vectors.raise(1, 1, now);
        assert_eq!((count(&fd), vectors.pending(0), vectors.fired), (0, 2, 0));
        vectors.set_masked(1, false, now);
        assert_eq!((count(&fd), vectors.pending(0), vectors.fired), (1, 0, 1));
        vectors.set_all_masked(true, now);
        vectors.raise(1, 1, now);
        assert_eq!(count(&fd), 0);
        vectors.set_all_masked(false, now);
        assert_eq!(count(&fd), 1);
        // Wired anew it starts afresh.
        vectors.set_masked(1, true, now);
        vectors.raise(1, 1, now);
        vectors.wire(1, Some(fd.try_clone().unwrap()));
        assert!(!vectors.is_masked(1));
        assert_eq!((count(&fd), vectors.pending(0)), (0, 0));
        assert!(vectors.is_masked(0) && vectors.is_masked(99), "never wired");
    }

    #[test]
    fn a_moderated_vector_holds_back_until_its_time_or_its_count() {
        let (mut vectors, fd) = wired(4 << 16 | 100);
        let start = Instant::now();
        assert!(vectors.raise(1, 1, start));
        assert!(!vectors.raise(1, 1, start));
        assert_eq!(vectors.next_due(start), Some(Duration::from_micros(100)));
        vectors.fire_due(start + Duration::from_micros(99));
        assert_eq!(count(&fd), 1);
        vectors.fire_due(start + Duration::from_micros(100));
        assert_eq!(count(&fd), 1);
        let later = start + Duration::from_micros(150);
        assert!(!vectors.raise(1, 1, later));
        assert!(!vectors.accumulate(1, 2, later));
        assert!(vectors.accumulate(1, 1, later));
        assert_eq!(count(&fd), 1);
        assert_eq!(vectors.next_due(later), None);
        // Nothing is held: completions alone fire nothing.
        assert!(!vectors.accumulate(1, 100, later));
    }
}
