// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that are there before their SA. A responder may send through a child as soon as it has answered (RFC 7296
//! §2.8): what it sends then comes right behind the answer, which is still being read.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use offload_api::frame::Frame;

use super::from_tun::MOST_PACKETS;
use super::worker::Worker;

/// Packets of one worker that wait for the SA that is promised, at most.
pub(super) const MOST: usize = 256;

/// How a packet has come, which its SA opens it by. A class is the outer header's.
#[derive(Clone, Copy)]
pub(super) enum Arrival {
    /// In UDP, from there, with that class.
    Udp(SocketAddr, Option<u8>),
    /// In TCP.
    Tcp,
    /// As IP protocol 50, from there, with that class.
    Raw(IpAddr, Option<u8>),
    /// As IP protocol 51, from there.
    Ah(IpAddr),
}

/// Whose a packet is by its SPI.
pub(super) enum Owner<Entry> {
    /// An SA's.
    Sa(Entry),
    /// That of an SA with this SPI, which the peer has been told and may send by.
    Promised(u32),
    /// Nobody's; it is counted.
    None,
}

impl Worker {
    /// Whose a packet is that no SA takes.
    pub(super) fn promised<Entry>(&self, spi: Option<u32>) -> Owner<Entry> {
        if let Some(spi) = spi.filter(|spi| self.shared.spis.holds(*spi)) {
            return Owner::Promised(spi);
        }
        self.shared.counters.unknown_spi.fetch_add(1, Relaxed);
        Owner::None
    }

    /// Lets a packet wait for its SA.
    pub(super) fn keep(&mut self, frame: Frame, spi: u32, arrival: Arrival) {
        let first = self.early.is_empty();
        let short = self.pool.available() < MOST_PACKETS;
        if short
            || self
                .early
                .push(frame, (spi, arrival), Instant::now())
                .is_some()
        {
            self.shared.counters.unknown_spi.fetch_add(1, Relaxed);
        } else if first {
            self.begin_to_wait();
        }
    }

    /// Opens packets whose SA has come, and drops those that have waited for too long.
    pub(super) fn look_at_early(&mut self) {
        let come = self.shared.policy.come();
        for _ in 0..self.early.look(come) {
            let Some((frame, about, end)) = self.early.pop() else {
                break;
            };
            let (spi, arrival) = about;
            if self.shared.policy.inbound(spi).is_none() {
                self.early.put_back(frame, about, end);
                continue;
            }
            self.shared.counters.early.fetch_add(1, Relaxed);
            match arrival {
                Arrival::Udp(remote, class) => self.open_udp(frame, remote, class),
                Arrival::Tcp => self.open_tcp(frame),
                Arrival::Raw(sender, class) => self.open_raw(frame, sender, class),
                Arrival::Ah(sender) => self.open_ah(frame, sender),
            }
        }
        let dropped = self.early.expire(Instant::now());
        self.shared.counters.unknown_spi.fetch_add(dropped, Relaxed);
        if self.early.is_empty() {
            self.shared.waiters.fetch_sub(1, Relaxed);
        }
    }
}
