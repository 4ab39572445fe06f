// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The TUN data plane: worker threads that move bursts between a TUN queue, an accelerator's queue
//! pair and the ESP sockets. No allocation for a packet, no system call for a packet where the kernel
//! takes bursts, and every drop counted.

mod acquire;
mod ah;
mod class;
mod counters;
mod door;
mod early;
mod from_tun;
mod interfaces;
mod mail;
mod mtu;
mod original;
mod outbox;
mod padding;
mod policy;
mod ready;
mod sockets;
mod start;
mod to_tun;
mod waiting;
mod worker;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::thread::JoinHandle;

use ikev2d_proto::event::StreamId;
use ikev2d_proto::spi::Spis;
use offload_api::frame::FramePool;
use offload_api::sa::{SaHandle, Spi, TrafficSelector};
use offload_api::wire::esp;

pub use class::CopyDscp;
pub(crate) use counters::Counters;
pub use counters::DataplaneStats;
pub(crate) use door::{Door, Doorkeeper};
pub use interfaces::InterfaceId;
pub use mtu::Overhead;
use policy::Policy;
pub use policy::{InboundEntry, OutboundEntry, is_drained};
pub use sockets::{IkeReceiver, send_datagram};
pub use start::{DataplaneConfig, DataplaneError};

use crate::streams::Stream;
use interfaces::Interfaces;
use mail::Mailbox;

/// Whether the segment size that TCP's SYNs offer is lowered to what a tunnel carries whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// To what fits the path of the SA.
    #[default]
    Auto,
    /// To so many octets.
    Fixed(u16),
    /// It is left alone.
    Off,
}

/// Moves packets until dropped.
pub struct Dataplane {
    shared: Arc<Shared>,
    tun_name: String,
    tun_index: u32,
    apart_from_esp: bool,
    pool: FramePool,
    workers: Vec<JoinHandle<()>>,
}

pub(crate) struct Shared {
    policy: Policy,
    counters: Counters,
    stop: AtomicBool,
    wakes: Vec<OwnedFd>,
    /// What TCP has brought each worker.
    mail: Vec<Mailbox>,
    /// Those of workers that have packets waiting for an SA to send them, and for one to open them.
    waiters: AtomicUsize,
    /// SPIs that peers have been told, or are about to be.
    spis: Spis,
    interfaces: Interfaces,
    upcall: Box<dyn Fn(Upcall) -> bool + Send + Sync>,
    /// The TUN interface's.
    mtu: u16,
    mss_clamp: MssClamp,
    copy_dscp: CopyDscp,
}

impl Shared {
    fn wake(&self) {
        self.wakes.iter().for_each(wake);
    }
}

fn wake(wake: &OwnedFd) {
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

/// Where an outbound SA's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// ESP in UDP (RFC 3948).
    Udp,
    /// ESP in TCP (RFC 9329).
    Tcp,
    /// IP protocol 50.
    Native,
    /// AH, IP protocol 51: packets come with their outer headers.
    Ah,
    /// ESP in transport mode, IP protocol 50: packets come with their own header, and the kernel writes
    /// it again, since a socket of that protocol sends what is behind it.
    Transport,
    /// The same in UDP, behind a NAT (RFC 3948 §2.1).
    UdpTransport,
}

/// Pairs of our side's traffic and the peer's, which both SAs of a child share.
pub type Selectors = Arc<[(TrafficSelector, TrafficSelector)]>;

/// An SA to receive through.
#[derive(Clone, Debug)]
pub struct InboundSa {
    /// Its SPI.
    pub spi: Spi,
    /// Its handle.
    pub sa: SaHandle,
    /// Inner traffic it may carry, from the peer's side to ours.
    pub selectors: Selectors,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// In transport mode, our own address: packets keep their header.
    pub transport: Option<IpAddr>,
    /// In transport mode behind a NAT: the addresses that the peer's packets had, its own and ours.
    pub original: Option<(IpAddr, IpAddr)>,
    /// Its child SA's number.
    pub child: u64,
    /// Where its packets come out.
    pub interface: InterfaceId,
}

/// An SA to send through. The newest whose selectors fit is used, so that rekeying switches at once.
#[derive(Clone, Debug)]
pub struct OutboundSa {
    /// Its SPI.
    pub spi: Spi,
    /// Its handle.
    pub sa: SaHandle,
    /// Inner traffic it may carry, from our side to the peer's.
    pub selectors: Selectors,
    /// How its packets get to the peer.
    pub way: Way,
    /// To so many octets its packets are padded, as far as the path and the TUN interface carry so many
    /// (RFC 4303 §2.7); 0 is none.
    pub tfc_padding: u16,
    /// Its child SA's number.
    pub child: u64,
    /// Whose packets it takes, where several carry the same traffic.
    pub share: Option<Share>,
    /// Where its packets come from.
    pub interface: InterfaceId,
}

/// Traffic that may ask for an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Where its packets come from.
    pub interface: InterfaceId,
    /// Our side's.
    pub local: TrafficSelector,
    /// The peer's side's.
    pub remote: TrafficSelector,
}

/// One of several SAs for the same traffic (RFC 9611): each worker sends through its own, so that no
/// two of them share sequence numbers, and through the first as long as it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The same for all of them.
    pub group: u64,
    /// The worker's number; 0 is the first SA's, which is everybody's.
    pub worker: u16,
}

/// How an SA's packets get to the peer.
#[derive(Clone, Debug)]
pub struct Way {
    /// Ours and the peer's end.
    pub path: (SocketAddr, SocketAddr),
    /// How they are carried.
    pub encapsulation: Encapsulation,
    /// What that adds to each.
    pub overhead: Overhead,
    /// The connection, in TCP; without one nothing leaves.
    pub stream: Option<Arc<Stream>>,
}

/// What the data plane can't do itself.
#[derive(Clone, Debug)]
pub enum Upcall {
    /// An IKE message came in.
    Ike {
        /// Where it came in; the address may be unspecified.
        local: SocketAddr,
        /// Who sent it.
        remote: SocketAddr,
        /// The TCP connection, if it came by one.
        stream: Option<StreamId>,
        /// The message, without the marker.
        datagram: Vec<u8>,
    },
    /// A TCP connection that was asked for is there.
    StreamOpened {
        /// Which.
        stream: StreamId,
        /// Our end of it.
        local: SocketAddr,
    },
    /// A TCP connection has ended, or could not be made.
    StreamClosed {
        /// Which.
        stream: StreamId,
        /// Why.
        reason: String,
    },
    /// An authenticated packet came from elsewhere than the SA's peer.
    PeerMoved {
        /// The child SA.
        child: u64,
        /// Where it came from.
        remote: SocketAddr,
    },
    /// No policy for a packet.
    Acquire {
        /// Where it was routed to.
        interface: InterfaceId,
        /// Its source.
        source: IpAddr,
        /// Its destination.
        destination: IpAddr,
        /// IP protocol.
        protocol: u8,
        /// Source and destination port, where it shows some.
        ports: Option<(u16, u16)>,
    },
}

impl Dataplane {
    /// Name of the TUN interface.
    pub fn tun_name(&self) -> &str {
        &self.tun_name
    }

    /// Index of the TUN interface.
    pub fn tun_index(&self) -> u32 {
        self.tun_index
    }

    /// Sockets of each port that carries ESP.
    pub(crate) fn sockets_of_port(&self) -> u32 {
        1 + u32::from(self.apart_from_esp)
    }

    /// Receives through an SA from now on.
    pub fn add_inbound(&self, sa: &InboundSa) {
        let entry = Arc::new(InboundEntry::new(sa));
        self.shared.policy.add_inbound(&entry);
        self.wake_waiters();
    }

    /// Sends through an SA from now on.
    pub fn add_outbound(&self, sa: &OutboundSa) {
        let entry = Arc::new(OutboundEntry::new(sa));
        self.shared.policy.add_outbound(&entry);
        self.wake_waiters();
    }

    fn wake_waiters(&self) {
        // Pairs with the worker's, which looks at the SAs once more after it is counted.
        fence(Ordering::SeqCst);
        if self.shared.waiters.load(Ordering::Relaxed) != 0 {
            self.shared.wake();
        }
    }

    /// Traffic that may ask for an SA, and waits for it a moment.
    pub fn set_traps(&self, traps: Vec<Trap>) {
        self.shared.policy.set_traps(traps);
    }

    /// Receives no more through an SA. Packets of it that are under way still use it: retire it when
    /// what this gives [is drained](is_drained).
    pub fn remove_inbound(&self, spi: Spi) -> Option<Arc<InboundEntry>> {
        self.shared.policy.remove_inbound(spi)
    }

    /// Sends no more through an SA; see [`remove_inbound`](Self::remove_inbound).
    pub fn remove_outbound(&self, child: u64) -> Option<Arc<OutboundEntry>> {
        self.shared.policy.remove_outbound(child)
    }

    /// The peer of a child SA is elsewhere.
    pub fn update_path(&self, child: u64, way: &Way) {
        self.shared.policy.move_child(child, way);
    }

    /// Gives a worker an ESP packet that a TCP connection has brought; the same one each time, so that
    /// they stay in order. It sees it when it is woken.
    pub fn take_streamed(&self, stream: StreamId, packet: &[u8]) {
        let counters = &self.shared.counters;
        counters.esp_received.fetch_add(1, Ordering::Relaxed);
        let Some(at) = self.worker_of(stream) else {
            return;
        };
        // Strangers' packets take no room from those of peers.
        let spi = esp::Header::parse(packet).map(|header| header.spi.get());
        let known =
            |spi| self.shared.policy.inbound(spi).is_some() || self.shared.spis.is_promised(spi);
        if !spi.is_some_and(known) {
            counters.unknown_spi.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let posted = self.shared.mail.get(at).zip(self.pool.alloc());
        let posted = posted.is_some_and(|(mailbox, mut frame)| {
            if !frame.fill(packet) {
                counters.refused.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            mailbox.post(frame)
        });
        if !posted {
            counters.overload.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wakes the worker of a connection.
    pub(crate) fn wake_for(&self, stream: StreamId) {
        let at = self.worker_of(stream);
        at.and_then(|at| self.shared.wakes.get(at))
            .into_iter()
            .for_each(wake);
    }

    fn worker_of(&self, stream: StreamId) -> Option<usize> {
        (stream.0.get() as usize).checked_rem(self.shared.wakes.len())
    }

    /// Traffic of a child SA: the entries count it.
    pub fn entries(&self, child: u64) -> (Option<Arc<InboundEntry>>, Option<Arc<OutboundEntry>>) {
        let policy = &self.shared.policy;
        (policy.inbound_of(child), policy.outbound_of(child))
    }

    /// Packets and octets of every child SA, in and out.
    pub fn traffic(&self) -> HashMap<u64, [(u64, u64); 2]> {
        self.shared.policy.traffic()
    }

    /// What was done so far.
    pub fn stats(&self) -> DataplaneStats {
        self.shared.counters.read()
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
