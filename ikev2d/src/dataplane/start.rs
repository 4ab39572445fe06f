// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data plane's start: its interface, its sockets, and a worker for each queue.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ikev2d_proto::spi::Spis;
use offload_api::device::Accelerator;
use offload_api::error::{DeviceError, OpenQueueError, PoolError};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::QueueConfig;
use rustix::event::{EventfdFlags, epoll, eventfd};
use thiserror::Error;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::counters::Counters;
use super::interfaces::Interfaces;
use super::mail::Mailbox;
use super::policy::Policy;
use super::{CopyDscp, Dataplane, MssClamp, Shared, Upcall, door, sockets, worker};
use crate::scheduling;

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
    /// SPIs that peers have been told or are about to be: what comes by them waits for its SA a moment.
    pub spis: Spis,
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
        let mut udp = config.udp;
        let apart_from_esp = prepare(&mut udp, &config.raw)?;
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
                spis: config.spis.clone(),
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
}

/// The system's refusal.
fn host(what: &'static str) -> impl Fn(std::io::Error) -> DataplaneError + Copy {
    move |error| DataplaneError::Host { what, error }
}

/// Makes sockets what the data plane needs, and adds those of IKE alone: whether IKE has room of its own
/// beside ESP on each port.
fn prepare(udp: &mut Vec<UdpSocket>, raw: &[OwnedFd]) -> Result<bool, DataplaneError> {
    // Sockets of IKE come last: one of ESP's sends.
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
    for socket in udp.iter() {
        sockets::prepare(socket).map_err(host("preparing a UDP socket"))?;
    }
    for socket in raw {
        sockets::tell_class(socket).map_err(host("preparing a raw socket"))?;
        sockets::deepen(socket);
    }
    Ok(apart_from_esp)
}
