// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What comes in: ESP in UDP, in TCP and as IP protocol 50 is led to its SA, and IKE to the daemon.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use offload_api::frame::Frame;
use offload_api::wire::esp::{Header, PROTOCOL};
use offload_api::wire::ip::Ipv4Header;
use offload_api::wire::natt::{self, Kind};

use super::{Flight, RAW_READ, READS, ROOM, SHARE, Worker};
use crate::dataplane::Upcall;
use crate::dataplane::ah::restore_header;
use crate::dataplane::early::Arrival;
use crate::dataplane::original;
use crate::dataplane::policy::InboundEntry;
use crate::dataplane::ready::Source;

impl Worker {
    pub(super) fn read_udp(&mut self) -> bool {
        let mut worked = false;
        let mut receiver = std::mem::take(&mut self.receiver);
        let most = self.ops.len() + SHARE;
        for at in 0..self.udp.len() {
            for _ in 0..READS {
                if !self.ready.has(Source::Udp(at)) {
                    break;
                }
                let Some((socket, port)) = self.udp.get(at) else {
                    break;
                };
                let port = *port;
                let Ok(Some(received)) = receiver.receive(socket) else {
                    self.ready.clear(Source::Udp(at));
                    break;
                };
                worked = true;
                for datagram in received.octets.chunks(received.segment) {
                    match natt::classify(datagram) {
                        Kind::Esp => self.open(datagram, received.remote, received.class),
                        Kind::Ike(message) => {
                            let unspecified = match received.remote {
                                SocketAddr::V4(_) => [0; 4].into(),
                                SocketAddr::V6(_) => [0; 16].into(),
                            };
                            let local = received.local.unwrap_or(unspecified);
                            (self.shared.upcall)(Upcall::Ike {
                                local: SocketAddr::new(local, port),
                                remote: received.remote,
                                stream: None,
                                datagram: message.to_vec(),
                            });
                        }
                        Kind::Keepalive | Kind::Runt => {
                            self.shared.counters.ignored.fetch_add(1, Relaxed);
                        }
                    }
                }
                if self.ops.len() >= most {
                    break;
                }
            }
        }
        self.receiver = receiver;
        worked
    }

    /// Opens what TCP has brought.
    pub(super) fn read_mail(&mut self) -> bool {
        if let Some(mailbox) = self.shared.mail.get(self.number) {
            mailbox.empty_into(&mut self.mail);
        }
        let worked = !self.mail.is_empty();
        let most = self.ops.len() + SHARE;
        while self.ops.len() < most
            && let Some(frame) = self.mail.pop_front()
        {
            let spi = spi_of(&frame);
            self.open_frame(frame, spi, Arrival::Tcp);
        }
        worked
    }

    /// Leads a datagram to its SA.
    fn open(&mut self, datagram: &[u8], remote: SocketAddr, class: Option<u8>) {
        let counters = &self.shared.counters;
        counters.esp_received.fetch_add(1, Relaxed);
        let spi = spi_of(datagram);
        let entry = spi.and_then(|spi| self.shared.policy.inbound(spi));
        // Strangers' packets take no frames.
        if entry.is_none() && self.promised(spi).is_none() {
            counters.unknown_spi.fetch_add(1, Relaxed);
            return;
        }
        let Some(mut frame) = self.pool.alloc().filter(|_| self.ops.len() < ROOM) else {
            counters.overload.fetch_add(1, Relaxed);
            return;
        };
        if !frame.fill(datagram) {
            counters.refused.fetch_add(1, Relaxed);
            return;
        }
        self.open_or_keep(entry, frame, spi, Arrival::Udp(remote, class));
    }

    /// Leads a packet in a frame to its SA.
    pub(in crate::dataplane) fn open_frame(
        &mut self,
        frame: Frame,
        spi: Option<u32>,
        arrival: Arrival,
    ) {
        let entry = spi.and_then(|spi| self.shared.policy.inbound(spi));
        self.open_or_keep(entry, frame, spi, arrival);
    }

    fn open_or_keep(
        &mut self,
        entry: Option<Arc<InboundEntry>>,
        frame: Frame,
        spi: Option<u32>,
        arrival: Arrival,
    ) {
        let Some(entry) = entry else {
            return self.keep(frame, spi, arrival);
        };
        if !self.early.is_empty() {
            // Those that came before it go first.
            self.look_at_early();
        }
        self.open_through(entry, frame, arrival);
    }

    /// Has a packet opened through its SA, if it came as was agreed.
    #[inline]
    pub(in crate::dataplane) fn open_through(
        &mut self,
        entry: Arc<InboundEntry>,
        mut frame: Frame,
        arrival: Arrival,
    ) {
        let (whole, remote, class) = match arrival {
            Arrival::Udp(remote, class) => {
                let whole = match (entry.transport, entry.original.is_some()) {
                    (None, _) => true,
                    (Some(own), true) => original::restore_header(&mut frame, remote.ip(), own),
                    // It was agreed upon without a NAT, and so without UDP.
                    (Some(_), false) => false,
                };
                (whole, remote, class)
            }
            // Where the peer is, IKE says; transport mode never goes by TCP.
            Arrival::Tcp => {
                let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
                (entry.transport.is_none(), nowhere, None)
            }
            Arrival::Raw(sender, skip, class) => {
                let whole = match (entry.transport, sender) {
                    (None, _) => frame.pull_front(skip),
                    (Some(_), IpAddr::V4(_)) => true,
                    (Some(IpAddr::V6(own)), IpAddr::V6(sender)) => {
                        restore_header(&mut frame, PROTOCOL, sender, own)
                    }
                    (Some(IpAddr::V4(_)), IpAddr::V6(_)) => false,
                };
                (whole, SocketAddr::new(sender, 0), class)
            }
            Arrival::Ah(sender, class) => (true, SocketAddr::new(sender, 0), class),
        };
        if !whole {
            self.shared.counters.refused.fetch_add(1, Relaxed);
            return;
        }
        let sa = entry.sa;
        self.submit(sa, frame, Flight::In(entry, remote, class));
    }

    /// Reads IP protocol 50, straight into frames; without any, packets wait in the kernel.
    pub(super) fn read_raw(&mut self) -> bool {
        let mut worked = false;
        for at in 0..self.raw.len() {
            let most = self.ops.len() + SHARE;
            while self.ops.len() < most && self.ready.has(Source::Raw(at)) {
                while self.raw_frames.len() < RAW_READ {
                    let Some(mut frame) = self.pool.alloc() else {
                        break;
                    };
                    let room = frame.tailroom();
                    if frame.push_back(room).is_none() {
                        break;
                    }
                    self.raw_frames.push(frame);
                }
                self.starved |= self.raw_frames.is_empty();
                let mut facts = [(None, IpAddr::V4(Ipv4Addr::UNSPECIFIED), None); RAW_READ];
                let Some(socket) = self.raw.get(at) else {
                    break;
                };
                let frames = &mut self.raw_frames;
                let received =
                    self.raw_burst
                        .receive_raw(socket, frames, |at, len, sender, class| {
                            if let Some(place) = facts.get_mut(at) {
                                *place = (len, sender, class);
                            }
                        });
                let Ok(received @ 1..) = received else {
                    if !self.raw_frames.is_empty() {
                        self.ready.clear(Source::Raw(at));
                    }
                    break;
                };
                worked = true;
                let mut frames = std::mem::take(&mut self.raw_frames);
                for (mut frame, (len, sender, class)) in frames.drain(..received).zip(facts) {
                    let counters = &self.shared.counters;
                    counters.esp_received.fetch_add(1, Relaxed);
                    let Some(len) = len else {
                        counters.refused.fetch_add(1, Relaxed);
                        continue;
                    };
                    frame.truncate(len);
                    self.open_raw(frame, sender, class);
                }
                self.raw_frames = frames;
                // Fewer than asked for: that was all.
                if received < RAW_READ {
                    self.ready.clear(Source::Raw(at));
                    break;
                }
            }
        }
        worked
    }

    /// Leads a packet of IP protocol 50 to its SA.
    fn open_raw(&mut self, frame: Frame, sender: IpAddr, class: Option<u8>) {
        // IPv4 raw sockets deliver the IP header, IPv6 ones do not.
        let mut skip = 0;
        if sender.is_ipv4() {
            let words = frame.first().map_or(0, |octet| octet & 0x0f);
            skip = (usize::from(words) * 4).max(Ipv4Header::LEN);
        }
        let spi = frame.get(skip..).and_then(spi_of);
        self.open_frame(frame, spi, Arrival::Raw(sender, skip, class));
    }
}

fn spi_of(esp: &[u8]) -> Option<u32> {
    Header::parse(esp).map(|header| header.spi.get())
}
