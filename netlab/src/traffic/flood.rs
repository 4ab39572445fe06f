// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Datagrams for benchmarks: as many as a host can send, or at a pace, in bursts of one system call; the
//! far end counts them and takes their one-way delay. Nothing of their content is looked at:
//! [`Datagrams`](super::Datagrams) does that.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::TrafficError;
use super::bulk::join;
use super::pace::Pace;
use crate::urgent::be_urgent;
use crate::{Namespace, NamespaceError};

/// Datagrams of one call.
const BURST: usize = 32;
/// Time of sending in front of each payload.
const STAMP: usize = 8;
/// How long after the last datagram the receiver still listens.
const LINGER: Duration = Duration::from_millis(300);
/// What the receiver's socket holds, so that its turn may come late.
const BUFFER: usize = 4 << 20;
/// Octets that one receive may bring: datagrams that the kernel has put together (GRO) come as one.
const MOST: usize = 1 << 16;
/// How often a load's receiver takes what has come. Woken by each arrival it would take turns from who is
/// measured, on a machine that is all of the hosts.
const TURN: Duration = Duration::from_millis(1);
/// Longest delay that is told apart, in nanoseconds.
pub(super) const LONGEST: u64 = 10_000_000_000;

/// The shape of a flood.
#[derive(Clone, Copy, Debug)]
pub struct FloodConfig {
    /// Octets of each UDP payload (at least 8).
    pub payload: usize,
    /// Datagrams a second; without it as fast as the host goes. What can't be sent in time is left out, unless
    /// it is urgent.
    pub rate: Option<f64>,
    /// How long.
    pub length: Duration,
    /// Whether its threads go before all others, where the system allows that, and its receiver is woken by
    /// each arrival: delays are of what lies between them then, and not of their own waiting. For few
    /// datagrams only; of others the receiver takes those of a millisecond at once.
    pub urgent: bool,
}

/// What became of a flood.
#[derive(Clone, Debug)]
pub struct FloodReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Those that it had no room for.
    pub refused: u64,
    /// Those that were left out, since the sender's turn came too late.
    pub skipped: u64,
    /// Those that arrived.
    pub received: u64,
    /// Seconds from the first arrival to the last.
    pub seconds: f64,
    /// One-way delays in nanoseconds, with the receiver's own turn unless it was urgent.
    pub delays: Histogram<u64>,
}

impl FloodReport {
    /// Datagrams that arrived in a second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 {
            self.received as f64 / self.seconds
        } else {
            0.0
        }
    }
}

/// What was sent, by the names of [`FloodReport`].
struct Sent {
    count: u64,
    refused: u64,
    skipped: u64,
}

/// What arrived.
struct Received {
    count: u64,
    seconds: f64,
    delays: Histogram<u64>,
}

type Running<T> = JoinHandle<Result<Result<T, TrafficError>, NamespaceError>>;

/// A flood under way.
pub struct Flood {
    done: Arc<AtomicBool>,
    sender: Running<Sent>,
    receiver: Running<Received>,
}

impl Flood {
    /// Starts to send from an address in one namespace to one in another.
    ///
    /// # Errors
    /// A socket or a thread can't be had.
    pub fn start(
        from: (&Namespace, SocketAddr),
        to: (&Namespace, SocketAddr),
        config: FloodConfig,
    ) -> Result<Self, TrafficError> {
        let failed = |action, address| {
            move |source| TrafficError::Socket {
                action,
                address,
                source,
            }
        };
        let receiver =
            to.0.enter(|| UdpSocket::bind(to.1))?
                .map_err(failed("bind", to.1))?;
        let sender = from
            .0
            .enter(|| UdpSocket::bind(from.1).and_then(|s| s.connect(to.1).map(|()| s)))?
            .map_err(failed("connect to", to.1))?;
        let done = Arc::new(AtomicBool::new(false));
        let epoch = Instant::now();
        let receiver = {
            let done = Arc::clone(&done);
            to.0.spawn("flood-receiver", move || {
                make_urgent(config.urgent);
                receive(&receiver, &done, epoch, config).map_err(failed("receive on", to.1))
            })?
        };
        let sender = from.0.spawn("flood-sender", move || {
            make_urgent(config.urgent);
            send(&sender, config, epoch).map_err(failed("send to", to.1))
        })?;
        Ok(Self {
            done,
            sender,
            receiver,
        })
    }

    /// Waits for its end and for stragglers.
    ///
    /// # Errors
    /// A socket failed.
    pub fn finish(self) -> Result<FloodReport, TrafficError> {
        let sent = join(self.sender);
        self.done.store(true, Ordering::Release);
        let received = join(self.receiver)?;
        let sent = sent?;
        Ok(FloodReport {
            sent: sent.count,
            refused: sent.refused,
            skipped: sent.skipped,
            received: received.count,
            seconds: received.seconds,
            delays: received.delays,
        })
    }
}

/// Makes a thread urgent, if it is to be; where the system does not allow it, delays have more in them.
pub(super) fn make_urgent(wanted: bool) {
    if wanted {
        let _ = be_urgent();
    }
}

fn nanos(epoch: Instant) -> u64 {
    epoch.elapsed().as_nanos() as u64
}

fn send(socket: &UdpSocket, config: FloodConfig, epoch: Instant) -> Result<Sent, std::io::Error> {
    let (mut sent, mut refused) = (0u64, 0u64);
    let mut datagrams = vec![vec![0u8; config.payload.max(STAMP)]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let none = vec![None; BURST];
    let mut pace = config.rate.map(|rate| Pace::new(rate, config.urgent));
    let begun = Instant::now();
    loop {
        let gone = begun.elapsed();
        if gone >= config.length {
            return Ok(Sent {
                count: sent,
                refused,
                skipped: pace.map_or(0, |pace| pace.skipped()),
            });
        }
        let due = match &mut pace {
            None => BURST,
            Some(pace) => match pace.due(gone, sent + refused).min(BURST as u64) {
                0 => {
                    // Until the next is due and no sooner: an urgent thread that looks whether it is takes
                    // turns from what it measures.
                    let next = pace.next(sent + refused).min(config.length);
                    std::thread::sleep(next.saturating_sub(gone));
                    continue;
                }
                due => due as usize,
            },
        };
        let stamp = nanos(epoch).to_be_bytes();
        for datagram in &mut datagrams {
            datagram[..STAMP].copy_from_slice(&stamp);
        }
        let parts: Vec<[IoSlice<'_>; 1]> = datagrams[..due]
            .iter()
            .map(|datagram| [IoSlice::new(datagram)])
            .collect();
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &parts,
            &none[..due],
            [],
            MsgFlags::empty(),
        ) {
            Ok(taken) => sent += taken.count() as u64,
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED) => refused += due as u64,
            Err(error) => return Err(error.into()),
        }
    }
}

fn receive(
    socket: &UdpSocket,
    done: &AtomicBool,
    epoch: Instant,
    config: FloodConfig,
) -> Result<Received, std::io::Error> {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        // The kernel's limit may be lower, and lowers it then.
        setsockopt(socket, sockopt::RcvBuf, &BUFFER)?;
    }
    let FloodConfig {
        payload, urgent, ..
    } = config;
    let payload = payload.max(STAMP);
    if !urgent {
        // As fast receivers have it: what comes through together is taken together. Older kernels do without.
        let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
    }
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut delays = Histogram::<u64>::new_with_bounds(1, LONGEST, 3)
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    let (mut count, mut first, mut last) = (0u64, None, 0);
    let mut buffers = vec![vec![0u8; MOST]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let mut ended: Option<Instant> = None;
    loop {
        if done.load(Ordering::Acquire) {
            let ended = ended.get_or_insert_with(Instant::now);
            if ended.elapsed() >= LINGER {
                break;
            }
        }
        let mut lengths = [0; BURST];
        {
            let mut parts: Vec<[IoSliceMut<'_>; 1]> = buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let flags = if urgent {
                MsgFlags::MSG_WAITFORONE
            } else {
                MsgFlags::MSG_DONTWAIT
            };
            match recvmmsg(
                socket.as_raw_fd(),
                &mut headers,
                parts.iter_mut(),
                flags,
                None,
            ) {
                Ok(messages) => {
                    for (length, message) in lengths.iter_mut().zip(messages) {
                        *length = message.bytes;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    if !urgent {
                        std::thread::sleep(TURN);
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let time = nanos(epoch);
        first.get_or_insert(time);
        last = time;
        let brought = buffers.iter().zip(lengths);
        let brought = brought.filter_map(|(buffer, length)| buffer.get(..length));
        for datagram in brought.flat_map(|octets| octets.chunks(payload)) {
            let Some(stamp) = datagram.first_chunk::<STAMP>() else {
                continue;
            };
            count += 1;
            let delay = time.saturating_sub(u64::from_be_bytes(*stamp));
            delays.saturating_record(delay.max(1));
        }
    }
    Ok(Received {
        count,
        seconds: last.saturating_sub(first.unwrap_or(last)) as f64 / 1e9,
        delays,
    })
}
