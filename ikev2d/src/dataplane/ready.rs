// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which of a worker's sources may have packets, and how it waits for some. To ask an empty one costs a
//! system call, and a worker that is woken for each few packets would spend more of them on asking than on
//! reading.

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use offload_api::queue::Arm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::SyncDevice;

use super::interfaces::Queues;
use super::worker::Worker;

/// How long a sleeper sleeps at most: a lost interrupt is made good after that.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};
/// As above, when nothing is in flight.
const SLEEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Where a worker's packets come from, besides memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its queue of the daemon's TUN interface.
    Tun,
    /// Its queues of other interfaces.
    Interfaces,
    /// A UDP socket, by its place.
    Udp(usize),
    /// A socket of IP protocol 50.
    Raw(usize),
    /// A socket of IP protocol 51.
    Ah(usize),
}

/// Sockets of a kind that are told apart.
const PLACES: usize = 8;

impl Source {
    fn bit(self) -> u32 {
        let place = match self {
            Self::Tun => 0,
            Self::Interfaces => 1,
            Self::Udp(at) => 2 + at % PLACES,
            Self::Raw(at) => 2 + PLACES + at % PLACES,
            Self::Ah(at) => 2 + 2 * PLACES + at % PLACES,
        };
        1 << place
    }
}

/// Sources that the kernel has named and no read has found empty since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready(u32);

impl Ready {
    /// Nothing is known yet.
    pub(super) const NONE: Self = Self(0);

    #[inline]
    pub(super) fn has(self, source: Source) -> bool {
        self.0 & source.bit() != 0
    }

    #[inline]
    pub(super) fn set(&mut self, source: Source) {
        self.0 |= source.bit();
    }

    /// A read has found it empty.
    #[inline]
    pub(super) fn clear(&mut self, source: Source) {
        self.0 &= !source.bit();
    }

    /// Takes in what the kernel told of sources.
    pub(super) fn take_in(&mut self, sources: &[Source], told: &[PollFd<'_>]) {
        for (source, told) in sources.iter().zip(told) {
            if !told.revents().is_empty() {
                self.set(*source);
            }
        }
    }

    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Worker {
    /// Whether it asks for more before it sleeps, as it does now: a sleeper costs whoever wakes it, and wakes
    /// late. Other threads go first.
    pub(super) fn asks_on(&mut self) -> bool {
        let goes_on = self.ops.is_empty() && self.poll.goes_on();
        if goes_on {
            rustix::thread::sched_yield();
            self.look();
        }
        goes_on
    }

    /// Waits until there is something to do.
    pub(super) fn sleep(&mut self) {
        let busy = self.queue.in_flight() != 0 || !self.ops.is_empty();
        let Some(wake) = self.shared.wakes.get(self.number) else {
            return;
        };
        let device = match self.queue.arm() {
            Ok(Arm::Wait(fd)) => Some(fd),
            Ok(Arm::Ready) => return,
            // Gone, and nothing to bring home: nothing tells when it is back.
            Err(_) => None,
        };
        let busy = busy || device.is_none() || self.starved;
        let mut ready = self.ready;
        {
            let want_frames = want_frames(&self.tun, &self.interfaces, &self.raw, &self.ah);
            let want_frames = want_frames.filter(|_| !self.starved);
            let mut fds = ArrayVec::<_, FDS>::new();
            fds.push(PollFd::new(wake, PollFlags::IN));
            fds.extend(device.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let before = fds.len();
            let mut sources = ArrayVec::<_, FDS>::new();
            // What can't be read now must not wake.
            for (source, fd) in
                unready(ready, &self.udp, want_frames).filter(|_| self.ops.is_empty())
            {
                sources.push(source);
                fds.push(fd);
            }
            let _ = poll(&mut fds, Some(if busy { &NAP } else { &SLEEP }));
            if fds.first().is_some_and(|wake| !wake.revents().is_empty()) {
                // Or it would wake for ever.
                let _ = rustix::io::read(wake, &mut [0; 8]);
            }
            ready.take_in(&sources, fds.get(before..).unwrap_or_default());
        }
        self.ready = ready;
    }

    /// Asks which of the other sources have something by now: one that always has more must not hide them.
    pub(super) fn look(&mut self) {
        let mut ready = self.ready;
        {
            let want_frames = want_frames(&self.tun, &self.interfaces, &self.raw, &self.ah);
            let want_frames = want_frames.filter(|_| !self.starved);
            let (sources, mut fds): (ArrayVec<_, FDS>, ArrayVec<_, FDS>) =
                unready(ready, &self.udp, want_frames).unzip();
            let _ = poll(&mut fds, Some(&Timespec::default()));
            ready.take_in(&sources, &fds);
        }
        self.ready = ready;
    }
}

/// What to ask of sources that had nothing when they were read last, save of those that can't be read now.
fn unready<'worker>(
    ready: Ready,
    udp: &'worker [(UdpSocket, u16)],
    want_frames: impl Iterator<Item = (Source, BorrowedFd<'worker>)>,
) -> impl Iterator<Item = (Source, PollFd<'worker>)> {
    let udp = udp.iter().enumerate();
    udp.map(|(at, (socket, _))| (Source::Udp(at), socket.as_fd()))
        .chain(want_frames)
        .filter(move |(source, _)| !ready.has(*source))
        .map(|(source, fd)| (source, PollFd::from_borrowed_fd(fd, PollFlags::IN)))
}

/// Sources whose packets are read into frames.
fn want_frames<'worker>(
    tun: &'worker SyncDevice,
    interfaces: &'worker Queues,
    raw: &'worker [OwnedFd],
    ah: &'worker [OwnedFd],
) -> impl Iterator<Item = (Source, BorrowedFd<'worker>)> {
    let others = interfaces.as_fd().map(|fd| (Source::Interfaces, fd));
    let (raw, ah) = (raw.iter().enumerate(), ah.iter().enumerate());
    std::iter::once((Source::Tun, tun.as_fd()))
        .chain(others)
        .chain(raw.map(|(at, fd)| (Source::Raw(at), fd.as_fd())))
        .chain(ah.map(|(at, fd)| (Source::Ah(at), fd.as_fd())))
}

/// Sockets that a worker reads at most: ESP in UDP and IKE on its port, IP protocols 50 and 51, in two
/// versions each.
pub(super) const SOCKETS: usize = 8;
/// What a worker waits for at most: to be woken, the device, the TUN, other interfaces, and its sockets.
const FDS: usize = 4 + SOCKETS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let sockets = (0..PLACES).flat_map(|at| [Source::Udp(at), Source::Raw(at), Source::Ah(at)]);
        let all: Vec<_> = sockets.chain([Source::Tun, Source::Interfaces]).collect();
        for &one in &all {
            let mut ready = Ready::NONE;
            ready.set(one);
            for &other in &all {
                assert_eq!(ready.has(other), other == one, "{one:?} {other:?}");
            }
            ready.clear(one);
            assert!(ready.is_empty());
        }
    }
}
