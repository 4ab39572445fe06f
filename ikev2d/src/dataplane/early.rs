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
    /// As IP protocol 50, from there, behind so many octets of an outer header, with its class.
    Raw(IpAddr, usize, Option<u8>),
    /// As IP protocol 51, from there, with that class.
    Ah(IpAddr, Option<u8>),
}

impl Worker {
    /// An SPI that the peer has been told and may send by.
    pub(super) fn promised(&self, spi: Option<u32>) -> Option<u32> {
        spi.filter(|spi| self.shared.spis.is_promised(*spi))
    }

    /// Lets a packet wait if its SA is promised; nobody's is counted.
    pub(super) fn keep(&mut self, frame: Frame, spi: Option<u32>, arrival: Arrival) {
        let promised = self.promised(spi);
        // Not so many that there are no frames for others.
        let promised = promised.filter(|_| self.pool.available() >= MOST_PACKETS);
        let first = self.early.is_empty();
        let kept = promised.is_some_and(|spi| {
            let refused = self.early.push(frame, (spi, arrival), Instant::now());
            refused.is_none()
        });
        if !kept {
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
            match self.shared.policy.inbound(spi) {
                Some(entry) => {
                    self.shared.counters.early.fetch_add(1, Relaxed);
                    self.open_through(entry, frame, arrival);
                }
                None => self.early.put_back(frame, about, end),
            }
        }
        let dropped = self.early.expire(Instant::now());
        self.shared.counters.unknown_spi.fetch_add(dropped, Relaxed);
        if self.early.is_empty() {
            self.shared.waiters.fetch_sub(1, Relaxed);
        }
    }
}
