// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The TUN data plane: worker threads that move bursts between a TUN queue, an accelerator's queue
//! pair and the ESP sockets. No allocation for a packet, no system call for a packet where the kernel
//! takes bursts, and every drop counted.

mod acquire;
mod ah;
mod busy_poll;
mod class;
mod door;
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
mod to_tun;
mod waiting;
mod worker;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use ikev2d_proto::event::StreamId;
use offload_api::device::Accelerator;
use offload_api::error::{DeviceError, OpenQueueError, PoolError};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{QueueConfig, Status};
use offload_api::sa::{SaHandle, Spi, TrafficSelector};
use offload_api::wire::esp;
use rustix::event::{EventfdFlags, epoll, eventfd};
use thiserror::Error;
use tun_rs::{DeviceBuilder, SyncDevice};

pub use class::CopyDscp;
pub(crate) use door::{Door, Doorkeeper};
pub use interfaces::InterfaceId;
pub use mtu::Overhead;
use policy::Policy;
pub use policy::{InboundEntry, OutboundEntry, is_drained};
pub use sockets::{IkeReceiver, send_datagram};

use crate::scheduling;
use crate::streams::Stream;
use interfaces::Interfaces;
use mail::Mailbox;

/// How the data plane is set up.
pub struct DataplaneConfig {
    /// Name of the TUN interface.
    pub tun_name: String,
    /// Its MTU.
    pub mtu: u16,
    /// Workers, each with a TUN queue and a queue pair.
    pub queues: usize,
    /// Frames of the pool.
    pub frames: u32,
    /// Bound sockets that ESP in UDP and IKE share.
    pub udp: Vec<UdpSocket>,
    /// Sockets of IP protocol 50, for ESP without UDP.
    pub raw: Vec<OwnedFd>,
    /// Sockets of IP protocol 51, for AH.
    pub ah: Vec<OwnedFd>,
    /// Depth of each queue pair.
    pub depth: u32,
    /// What TCP is told of the tunnel's MTU.
    pub mss_clamp: MssClamp,
    /// Between which headers DSCP is copied.
    pub copy_dscp: CopyDscp,
    /// For how long a worker that has nothing to do asks for more before it sleeps, as long as that finds some.
    pub busy_poll: Duration,
    /// How long the scheduler lets a worker run at a time; without it as long as everybody.
    pub slice: Option<Duration>,
    /// Processors that the workers are kept to, over again where there are more workers; none: the scheduler
    /// moves them.
    pub cpus: Vec<usize>,
}

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
    /// Workers that have packets waiting for an SA.
    waiters: AtomicUsize,
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

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        /// What the data plane has done.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DataplaneStats { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            fn read(&self) -> DataplaneStats {
                DataplaneStats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Packets read from the TUN.
    tun_received,
    /// Packets written to the TUN.
    tun_sent,
    /// ESP packets received.
    esp_received,
    /// ESP packets sent.
    esp_sent,
    /// Outbound packets that no SA fits.
    no_policy,
    /// Inbound packets outside of their SA's selectors (RFC 4301 §5.2).
    selector_mismatch,
    /// Inbound packets with an SPI that nobody has.
    unknown_spi,
    /// Received packets dropped for want of a frame or room in a queue. What the TUN brings waits in
    /// the kernel then, which counts its own drops at the interface.
    overload,
    /// Packets that came back aborted from a lost device.
    aborted,
    /// Packets that failed their integrity check.
    bad_icv,
    /// Packets refused as replayed or too old.
    replayed,
    /// Packets refused for another reason.
    refused,
    /// Packets that are no IP packets.
    malformed,
    /// Dummy packets (RFC 4303 §2.6), discarded.
    dummies,
    /// Packets that no SA takes, asked for at the daemon's policy.
    acquires,
    /// Packets that waited for the SA they had asked for, and went through it.
    awaited,
    /// Packets that waited for an SA that did not come in time; they count in `no_policy`, too.
    awaited_in_vain,
    /// Packets that a socket or the TUN refused.
    send_errors,
    /// Packets from the TUN that are too large for their SA's path and may not be fragmented.
    too_big,
    /// Those whose senders were told so.
    too_big_answered,
    /// Opened packets without ECN whose outer header told of congestion (RFC 6040 §4.2), dropped.
    ecn_dropped,
    /// SYNs whose segment size was lowered.
    mss_clamped,
    /// NAT keepalives and datagrams that are neither ESP nor IKE.
    ignored,
}

impl Counters {
    pub(crate) fn refusal(&self, status: Status) {
        let counter = match status {
            Status::Aborted => &self.aborted,
            Status::BadIcv => &self.bad_icv,
            Status::Replayed | Status::TooOld => &self.replayed,
            _ => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The data plane could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataplaneError {
    /// The TUN interface could not be made.
    #[error("TUN interface {name}: {error} (is /dev/net/tun there, and is CAP_NET_ADMIN?)")]
    Tun {
        /// Its name.
        name: String,
        /// Why.
        error: std::io::Error,
    },
    /// The frame pool could not be made.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// The accelerator refused the pool.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// The accelerator refused a queue.
    #[error("{0}")]
    Queue(#[from] OpenQueueError),
    /// A worker can't be kept to a processor.
    #[error("processor {cpu}: {error} (tun.cpus names those that this process may run on)")]
    Processor {
        /// Its number.
        cpu: usize,
        /// Why.
        error: std::io::Error,
    },
    /// The system refused.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
}

impl Dataplane {
    /// Makes the TUN interface and starts the workers.
    ///
    /// `upcall` tells whether it could take what it was told; what it could not take is told again
    /// where that matters.
    ///
    /// # Errors
    /// [`DataplaneError`].
    pub fn start(
        config: DataplaneConfig,
        accelerator: &Arc<dyn Accelerator>,
        upcall: impl Fn(Upcall) -> bool + Send + Sync + 'static,
    ) -> Result<Self, DataplaneError> {
        let host = |what| move |error: std::io::Error| DataplaneError::Host { what, error };
        let tun = |error| DataplaneError::Tun {
            name: config.tun_name.clone(),
            error,
        };
        let first = DeviceBuilder::new()
            .name(config.tun_name.clone())
            .mtu(config.mtu)
            .offload(true)
            .multi_queue(true)
            .build_sync()
            .map_err(tun)?;
        let tun_name = first.name().map_err(tun)?;
        let tun_index =
            nix::net::if_::if_nametoindex(tun_name.as_str()).map_err(|error| tun(error.into()))?;
        let mut queues: Vec<SyncDevice> = Vec::new();
        for _ in 1..config.queues.max(1) {
            queues.push(first.try_clone().map_err(tun)?);
        }
        queues.push(first);
        let pool = FramePool::new(FramePoolConfig {
            slots: config.frames,
            slot_size: (u32::from(config.mtu) + 512)
                .next_multiple_of(256)
                .max(2048),
            ..FramePoolConfig::default()
        })?;
        accelerator.register_pool(&pool)?;
        // Sockets of IKE come last: one of ESP's sends.
        let mut udp = config.udp;
        let mut apart_from_esp = true;
        for at in 0..udp.len() {
            let apart = udp.get(at).map(door::apart_from_esp);
            match apart.transpose() {
                Ok(apart) => udp.extend(apart),
                Err(error) => {
                    tracing::warn!(%error, "IKE shares its room with ESP on one port");
                    apart_from_esp = false;
                }
            }
        }
        for socket in &udp {
            sockets::prepare(socket).map_err(host("preparing a UDP socket"))?;
        }
        for socket in &config.raw {
            sockets::tell_class(socket).map_err(host("preparing a raw socket"))?;
            sockets::deepen(socket);
        }
        let mut wakes = Vec::new();
        for _ in 0..queues.len() {
            let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            wakes.push(wake.map_err(|error| host("eventfd")(error.into()))?);
        }
        // What ends it early ends the workers that have begun with it.
        let mut this = Self {
            shared: Arc::new(Shared {
                mail: queues.iter().map(|_| Mailbox::default()).collect(),
                policy: Policy::default(),
                counters: Counters::default(),
                stop: AtomicBool::new(false),
                wakes,
                waiters: AtomicUsize::new(0),
                interfaces: Interfaces::default(),
                upcall: Box::new(upcall),
                mtu: config.mtu,
                mss_clamp: config.mss_clamp,
                copy_dscp: config.copy_dscp,
            }),
            tun_name,
            tun_index,
            apart_from_esp,
            pool,
            workers: Vec::new(),
        };
        let count = queues.len();
        // Ends when all workers have begun.
        let (beginning, begun) = mpsc::channel::<DataplaneError>();
        for (number, tun_queue) in queues.into_iter().enumerate() {
            tun_queue.set_nonblocking(true).map_err(tun)?;
            let queue = accelerator.open_queue(&QueueConfig {
                depth: config.depth,
            })?;
            let copy = |fd: &OwnedFd| fd.as_fd().try_clone_to_owned();
            let copies = || {
                udp.iter()
                    .map(UdpSocket::try_clone)
                    .collect::<Result<Vec<_>, _>>()
            };
            let each = |fds: &[OwnedFd]| fds.iter().map(copy).collect::<Result<Vec<_>, _>>();
            let (raw, ah) = (|| each(&config.raw), || each(&config.ah));
            let duplicating = host("duplicating a socket");
            let mut parts = worker::Parts {
                number,
                shared: this.shared.clone(),
                tun: tun_queue,
                udp: copies().map_err(duplicating)?,
                raw: raw().map_err(duplicating)?,
                reads_udp: copies().map_err(duplicating)?,
                reads_raw: raw().map_err(duplicating)?,
                ah: ah().map_err(duplicating)?,
                reads_ah: ah().map_err(duplicating)?,
                queue,
                pool: this.pool.clone(),
                busy_poll: config.busy_poll,
                epoll: epoll::create(epoll::CreateFlags::CLOEXEC)
                    .map_err(|error| host("epoll")(error.into()))?,
            };
            // IKE is read by another worker than ESP of its family.
            let mine = |at: usize| (at + at / 2) % count == number;
            let mut at = 0..;
            parts.reads_udp.retain(|_| at.next().is_some_and(mine));
            parts.reads_raw.retain(|_| at.next().is_some_and(mine));
            parts.reads_ah.retain(|_| at.next().is_some_and(mine));
            let (slice, beginning) = (config.slice, beginning.clone());
            let cpu = config.cpus.iter().cycle().nth(number).copied();
            let thread = std::thread::Builder::new().name(format!("dataplane-{number}"));
            this.workers.push(
                thread
                    .spawn(move || {
                        if let Some(cpu) = cpu
                            && let Err(error) = scheduling::keep_to(cpu)
                        {
                            let _ = beginning.send(DataplaneError::Processor { cpu, error });
                            return;
                        }
                        slice.into_iter().for_each(scheduling::ask_for_slice);
                        drop(beginning);
                        worker::Worker::new(parts).run();
                    })
                    .map_err(host("starting a worker"))?,
            );
        }
        // Who has started them goes on to give up system calls, some of which workers begin with.
        drop(beginning);
        match begun.recv() {
            Ok(refused) => Err(refused),
            Err(mpsc::RecvError) => Ok(this),
        }
    }

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
    }

    /// Sends through an SA from now on.
    pub fn add_outbound(&self, sa: &OutboundSa) {
        let entry = Arc::new(OutboundEntry::new(sa));
        self.shared.policy.add_outbound(&entry);
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
        if spi
            .and_then(|spi| self.shared.policy.inbound(spi))
            .is_none()
        {
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
