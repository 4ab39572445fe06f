// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A UDP stream at a steady pace; the far end counts what is lost, comes twice, late or changed.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::bulk::join;
use super::pattern::Pattern;
use super::{Series, TrafficError};
use crate::{Namespace, NamespaceError};

/// Sequence number and time of sending in front of each payload.
const HEADER: usize = 16;
/// How long after the last datagram the receiver still listens.
const LINGER: Duration = Duration::from_millis(700);

/// The shape of the stream.
#[derive(Clone, Copy, Debug)]
pub struct DatagramsConfig {
    /// Octets of each UDP payload (at least 16).
    pub size: usize,
    /// Datagrams a second.
    pub rate: u32,
    /// Determines the content.
    pub seed: u64,
}

/// One-way delay, which includes waiting in queues behind other traffic.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Half of the datagrams took at most this long, in microseconds.
    pub median_us: u64,
    /// 99 of 100 took at most this long.
    pub p99_us: u64,
    /// The slowest.
    pub worst_us: u64,
}

/// What became of the stream.
#[derive(Clone, Debug, Serialize)]
pub struct DatagramReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Different ones that arrived.
    pub received: u64,
    /// Those that did not.
    pub lost: u64,
    /// Arrivals beyond the first of the same datagram.
    pub duplicates: u64,
    /// Arrivals after one that was sent later.
    pub reordered: u64,
    /// Arrivals whose content is not what was sent.
    pub corrupted: u64,
    /// One-way delay.
    pub latency: Latency,
    /// Lost datagrams by the tenth of a second in which they were sent.
    pub losses: Series,
    /// Octets of payload received by tenths of a second.
    pub series: Series,
}

type Running<T> = JoinHandle<Result<Result<T, TrafficError>, NamespaceError>>;

/// A running stream.
pub struct Datagrams {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    sender: Running<Vec<Instant>>,
    receiver: Running<Received>,
    start: Instant,
}

impl Datagrams {
    /// Starts to send from `source` in one namespace to `destination` in another. The series count from `start`.
    pub fn start(
        from: (&Namespace, IpAddr),
        to: (&Namespace, SocketAddr),
        config: DatagramsConfig,
        start: Instant,
    ) -> Result<Self, TrafficError> {
        let (destination, source) = (to.1, SocketAddr::new(from.1, 0));
        let failed = |action, address| {
            move |source| TrafficError::Socket {
                action,
                address,
                source,
            }
        };
        let receiver =
            to.0.enter(|| UdpSocket::bind(destination))?
                .map_err(failed("bind", destination))?;
        let address = receiver.local_addr().map_err(failed("bind", destination))?;
        let sender = from
            .0
            .enter(|| UdpSocket::bind(source).and_then(|s| s.connect(address).map(|()| s)))?
            .map_err(failed("connect to", address))?;

        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let receiver = {
            let done = Arc::clone(&done);
            to.0.spawn("datagram-receiver", move || {
                receive(&receiver, config, &done, start).map_err(failed("receive on", address))
            })?
        };
        let sender = {
            let stop = Arc::clone(&stop);
            from.0.spawn("datagram-sender", move || {
                send(&sender, config, &stop, start).map_err(failed("send to", address))
            })?
        };
        Ok(Self {
            stop,
            done,
            sender,
            receiver,
            start,
        })
    }

    /// Stops sending, waits for stragglers, and returns what became of the stream.
    pub fn finish(self) -> Result<DatagramReport, TrafficError> {
        self.stop.store(true, Ordering::Release);
        let sent = join(self.sender);
        self.done.store(true, Ordering::Release);
        let received = join(self.receiver)?;
        Ok(report(&sent?, received, self.start))
    }
}

fn send(
    socket: &UdpSocket,
    config: DatagramsConfig,
    stop: &AtomicBool,
    start: Instant,
) -> io::Result<Vec<Instant>> {
    let size = config.size.max(HEADER);
    let (mut sent, mut datagram) = (Vec::new(), vec![0; size]);
    let began = Instant::now();
    while !stop.load(Ordering::Acquire) {
        let due = (began.elapsed().as_secs_f64() * f64::from(config.rate)) as usize;
        while sent.len() < due {
            let now = Instant::now();
            compose(config, sent.len() as u64, &mut datagram);
            datagram[8..16]
                .copy_from_slice(&(now.duration_since(start).as_nanos() as u64).to_be_bytes());
            match socket.send(&datagram) {
                Ok(_) => sent.push(now),
                // A full queue, or an ICMP error about an earlier datagram: this one was not taken.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::ConnectionRefused
                    ) =>
                {
                    break;
                }
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => break,
                Err(e) => return Err(e),
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(sent)
}

/// Fills in the sequence number and the content that goes with it.
fn compose(config: DatagramsConfig, sequence: u64, datagram: &mut [u8]) {
    datagram[..8].copy_from_slice(&sequence.to_be_bytes());
    let offset = sequence.wrapping_mul(1 << 16);
    Pattern::new(config.seed).fill(offset, &mut datagram[HEADER..]);
}

struct Received {
    seen: Vec<bool>,
    duplicates: u64,
    reordered: u64,
    corrupted: u64,
    delays: Vec<u64>,
    series: Series,
}

fn receive(
    socket: &UdpSocket,
    config: DatagramsConfig,
    done: &AtomicBool,
    start: Instant,
) -> io::Result<Received> {
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let size = config.size.max(HEADER);
    let (mut datagram, mut expected) = (vec![0; 65536], vec![0; size]);
    let mut received = Received {
        seen: Vec::new(),
        duplicates: 0,
        reordered: 0,
        corrupted: 0,
        delays: Vec::new(),
        series: Series::new(start),
    };
    let mut silent_since: Option<Instant> = None;
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) => {
                silent_since = None;
                received.judge(config, &datagram[..length], &mut expected, start);
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                if done.load(Ordering::Acquire)
                    && silent_since.get_or_insert_with(Instant::now).elapsed() > LINGER
                {
                    return Ok(received);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

impl Received {
    fn judge(
        &mut self,
        config: DatagramsConfig,
        datagram: &[u8],
        expected: &mut [u8],
        start: Instant,
    ) {
        let now = Instant::now();
        let (Some(sequence), Some(stamp)) = (u64_at(datagram, 0), u64_at(datagram, 8)) else {
            self.corrupted += 1;
            return;
        };
        compose(config, sequence, expected);
        // A number beyond any that can have been sent would otherwise size the table.
        let possible = (start.elapsed().as_secs() + 2).saturating_mul(config.rate.into());
        if datagram.len() != expected.len()
            || datagram[HEADER..] != expected[HEADER..]
            || sequence > possible
        {
            self.corrupted += 1;
            return;
        }
        let index = sequence as usize;
        if self.seen.len() <= index {
            self.seen.resize(index + 1, false);
        } else if !self.seen[index] {
            self.reordered += 1;
        }
        if std::mem::replace(&mut self.seen[index], true) {
            self.duplicates += 1;
            return;
        }
        let delay = (now.duration_since(start).as_nanos() as u64).saturating_sub(stamp);
        self.delays.push(delay / 1000);
        self.series.add(now, datagram.len() as u64);
    }
}

fn report(sent: &[Instant], mut received: Received, start: Instant) -> DatagramReport {
    let mut losses = Series::new(start);
    for (index, at) in sent.iter().enumerate() {
        if !received.seen.get(index).copied().unwrap_or(false) {
            losses.add(*at, 1);
        }
    }
    received.delays.sort_unstable();
    let percentile = |hundredths: usize| {
        let index = received.delays.len().saturating_sub(1) * hundredths / 100;
        received.delays.get(index).copied().unwrap_or(0)
    };
    let lost = losses.total();
    DatagramReport {
        sent: sent.len() as u64,
        received: sent.len() as u64 - lost,
        lost,
        duplicates: received.duplicates,
        reordered: received.reordered,
        corrupted: received.corrupted,
        latency: Latency {
            median_us: percentile(50),
            p99_us: percentile(99),
            worst_us: percentile(100),
        },
        losses,
        series: received.series,
    }
}

fn u64_at(octets: &[u8], at: usize) -> Option<u64> {
    octets
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: DatagramsConfig = DatagramsConfig {
        size: 64,
        rate: 1000,
        seed: 3,
    };

    fn datagram(sequence: u64) -> Vec<u8> {
        let mut datagram = vec![0; CONFIG.size];
        compose(CONFIG, sequence, &mut datagram);
        datagram
    }

    fn judged(datagrams: &[Vec<u8>], sent: usize) -> DatagramReport {
        let start = Instant::now();
        let mut received = Received {
            seen: Vec::new(),
            duplicates: 0,
            reordered: 0,
            corrupted: 0,
            delays: Vec::new(),
            series: Series::new(start),
        };
        let mut expected = vec![0; CONFIG.size];
        for datagram in datagrams {
            received.judge(CONFIG, datagram, &mut expected, start);
        }
        report(&vec![start; sent], received, start)
    }

    #[test]
    fn loss_duplicates_and_late_arrivals_are_each_counted_once() {
        let report = judged(
            &[
                datagram(0),
                datagram(3),
                datagram(3),
                datagram(1),
                datagram(4),
            ],
            6,
        );
        assert_eq!((report.received, report.lost), (4, 2));
        assert_eq!(
            (report.duplicates, report.reordered, report.corrupted),
            (1, 1, 0)
        );
    }

    #[test]
    fn one_changed_octet_is_found() {
        let mut changed = datagram(1);
        changed[40] ^= 1;
        let report = judged(&[datagram(0), changed], 2);
        assert_eq!((report.corrupted, report.lost), (1, 1));
    }

    #[test]
    fn a_shortened_or_absurd_datagram_is_corrupt() {
        let report = judged(
            &[
                datagram(0)[..63].to_vec(),
                vec![1, 2, 3],
                datagram(u64::MAX),
            ],
            1,
        );
        assert_eq!((report.corrupted, report.lost), (3, 1));
    }
}
