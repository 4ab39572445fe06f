// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One TCP stream as fast as it goes, each octet compared at the far end.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::pattern::Pattern;
use super::{Series, TrafficError};
use crate::{Namespace, NamespaceError};

/// Octets of one write and of one read.
const CHUNK: usize = 128 << 10;
/// How long a stalled stream may stay stalled once it has been told to end.
const DRAIN: Duration = Duration::from_secs(10);
/// How often a blocked end looks whether it should stop.
const TICK: Duration = Duration::from_millis(200);

/// What became of a bulk stream.
#[derive(Clone, Debug, Serialize)]
pub struct BulkReport {
    /// Octets that the sender handed to TCP.
    pub sent: u64,
    /// Octets that arrived.
    pub received: u64,
    /// Where the first octet that differs from what was sent lies; none does when all is well.
    pub first_difference: Option<u64>,
    /// Whether the receiver saw the end of the stream.
    pub complete: bool,
    /// Octets received by tenths of a second.
    pub series: Series,
}

impl BulkReport {
    /// Whether everything that was sent arrived, unchanged.
    pub fn intact(&self) -> bool {
        self.complete && self.first_difference.is_none() && self.sent == self.received
    }
}

type Running<T> = JoinHandle<Result<Result<T, TrafficError>, NamespaceError>>;

/// A running bulk stream.
pub struct Bulk {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Running<u64>,
    receiver: Running<BulkReport>,
}

impl Bulk {
    /// Connects from `source` in one namespace to `destination` in another and starts to send. The series
    /// counts from `start`.
    pub fn start(
        from: (&Namespace, IpAddr),
        to: (&Namespace, SocketAddr),
        seed: u64,
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
        let listener =
            to.0.enter(|| TcpListener::bind(destination))?
                .map_err(failed("listen on", destination))?;
        let address = listener
            .local_addr()
            .map_err(failed("listen on", destination))?;
        let stream = from
            .0
            .enter(|| connect(source, address))?
            .map_err(failed("connect to", address))?;
        let accepted = listener.accept().map_err(failed("accept on", address))?.0;

        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let pattern = Pattern::new(seed);
        let sender = {
            let stop = Arc::clone(&stop);
            from.0.spawn("bulk-sender", move || {
                send(stream, pattern, &stop).map_err(failed("send to", address))
            })?
        };
        let receiver = {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            to.0.spawn("bulk-receiver", move || {
                receive(accepted, pattern, &stop, &received, start)
                    .map_err(failed("receive on", address))
            })?
        };
        Ok(Self {
            stop,
            received,
            sender,
            receiver,
        })
    }

    /// Octets that have arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Ends the stream, waits until it has drained, and returns what became of it.
    pub fn finish(self) -> Result<BulkReport, TrafficError> {
        self.stop.store(true, Ordering::Release);
        let sent = join(self.sender);
        let mut report = join(self.receiver)?;
        report.sent = sent?;
        Ok(report)
    }
}

pub(super) fn join<T>(thread: Running<T>) -> Result<T, TrafficError> {
    let panicked = |_| NamespaceError::Panicked {
        name: "traffic".to_owned(),
    };
    thread.join().map_err(panicked)??
}

fn connect(source: SocketAddr, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, None)?;
    socket.bind(&source.into())?;
    socket.connect_timeout(&destination.into(), DRAIN)?;
    Ok(socket.into())
}

fn send(mut stream: TcpStream, pattern: Pattern, stop: &AtomicBool) -> io::Result<u64> {
    stream.set_write_timeout(Some(TICK))?;
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0u64;
    while !stop.load(Ordering::Acquire) {
        pattern.fill(sent, &mut chunk);
        // What a full buffer refuses is made again from its offset on the next turn.
        match stream.write(&chunk) {
            Ok(taken) => sent += taken as u64,
            Err(e) if is_timeout(&e) => {}
            Err(e) => return Err(e),
        }
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(sent)
}

fn receive(
    mut stream: TcpStream,
    pattern: Pattern,
    stop: &AtomicBool,
    received: &AtomicU64,
    start: Instant,
) -> io::Result<BulkReport> {
    stream.set_read_timeout(Some(TICK))?;
    let (mut chunk, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut report = BulkReport {
        sent: 0,
        received: 0,
        first_difference: None,
        complete: false,
        series: Series::new(start),
    };
    let mut last_progress = Instant::now();
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => {
                report.complete = true;
                return Ok(report);
            }
            Ok(length) => {
                last_progress = Instant::now();
                let (got, want) = (&chunk[..length], &mut expected[..length]);
                pattern.fill(report.received, want);
                if got != want && report.first_difference.is_none() {
                    let offset = got
                        .iter()
                        .zip(want)
                        .position(|(a, b)| *a != *b)
                        .unwrap_or(0);
                    report.first_difference = Some(report.received + offset as u64);
                }
                report.received += length as u64;
                report.series.add(last_progress, length as u64);
                received.store(report.received, Ordering::Relaxed);
            }
            Err(e) if is_timeout(&e) => {
                if stop.load(Ordering::Acquire) && last_progress.elapsed() > DRAIN {
                    return Ok(report);
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
