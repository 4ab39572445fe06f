// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP connections that carry IKE and ESP (RFC 9329): on a thread of their own, so that neither the
//! core nor the data plane waits for one. Whoever is not authenticated has them few, and for a moment.

mod serve;
mod stream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ikev2d_proto::endpoint::{Gate, StreamUse, network};
use ikev2d_proto::event::{Numbers, StreamId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::aside;
use crate::dataplane::Upcall;
use crate::plane::Plane;
pub use stream::Stream;

/// Connections of whoever is not authenticated: all, and of one host or network.
const MOST_UNPROVEN: usize = 256;
const MOST_OF_NETWORK: usize = 16;
/// Connections at all.
const MOST: usize = 16_384;
/// How long one may have nothing to do with any IKE SA: before the first, and after the last.
const BEFORE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(5);

/// What there is to count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    opened: AtomicU64,
    accepted: AtomicU64,
    closed: AtomicU64,
    /// Connections of peers that were too many, and closed at once or before others.
    crowded: AtomicU64,
    /// Those that were closed for what came on them: no prefix, a length that lies, nothing for too long.
    misbehaved: AtomicU64,
    /// Messages that found no room, and went nowhere.
    refused: AtomicU64,
}

/// All of them. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Shared>);

struct Shared {
    table: Mutex<HashMap<StreamId, Arc<Stream>>>,
    numbers: Numbers,
    counters: Arc<Counters>,
    gate: Arc<Gate>,
    upcalls: mpsc::Sender<Upcall>,
    plane: Plane,
    runtime: Handle,
}

impl Streams {
    /// Starts their thread.
    pub(crate) fn start(
        numbers: &Numbers,
        gate: Arc<Gate>,
        upcalls: mpsc::Sender<Upcall>,
        plane: Plane,
    ) -> io::Result<Self> {
        Ok(Self(Arc::new(Shared {
            table: Mutex::default(),
            numbers: numbers.clone(),
            counters: Arc::default(),
            gate,
            upcalls,
            plane,
            runtime: aside::start("streams")?,
        })))
    }

    /// Takes connections on a port, on every address.
    pub(crate) fn listen(&self, port: u16) -> io::Result<()> {
        let v4 = listener(Ipv4Addr::UNSPECIFIED.into(), port)?;
        let v6 = listener(Ipv6Addr::UNSPECIFIED.into(), port);
        if let Err(error) = &v6 {
            tracing::warn!(%error, "TCP over IPv4 only");
        }
        for listener in [Ok(v4), v6].into_iter().flatten() {
            self.0.runtime.spawn(serve::accept(self.clone(), listener));
        }
        Ok(())
    }

    /// Opens one; the upcalls tell what comes of it.
    pub(crate) fn connect(&self, stream: StreamId, local: IpAddr, remote: SocketAddr) {
        let connect = serve::connect(self.clone(), stream, local, remote);
        self.0.runtime.spawn(connect);
    }

    /// One of them.
    pub(crate) fn get(&self, stream: StreamId) -> Option<Arc<Stream>> {
        self.table().get(&stream).cloned()
    }

    /// Sends an IKE message on one. Whether it will leave.
    pub(crate) fn send(&self, stream: StreamId, message: &[u8]) -> bool {
        let sent = self.get(stream).is_some_and(|s| s.send_ike(message));
        if !sent {
            self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Closes those that nobody needs.
    pub(crate) fn look_after(&self, now: Instant, used: impl Fn(StreamId) -> StreamUse) {
        let streams: Vec<Arc<Stream>> = self.table().values().cloned().collect();
        for stream in streams {
            let mut unused = stream.unused.lock().unwrap_or_else(PoisonError::into_inner);
            match used(stream.id) {
                StreamUse::Established => {
                    stream.proven.store(true, Ordering::Relaxed);
                    *unused = None;
                }
                StreamUse::HalfOpen => *unused = None,
                StreamUse::Nothing => {
                    let since = *unused.get_or_insert(now);
                    let proven = stream.proven.load(Ordering::Relaxed);
                    let patience = if proven { AFTER } else { BEFORE };
                    if now.saturating_duration_since(since) >= patience {
                        tracing::debug!(?stream, "a connection that nothing uses");
                        stream.close();
                    }
                }
            }
        }
    }

    /// What was done, by name.
    pub(crate) fn statistics(&self) -> Vec<(String, u64)> {
        let counters = &self.0.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("tcp-opened", read(&counters.opened)),
            ("tcp-accepted", read(&counters.accepted)),
            ("tcp-closed", read(&counters.closed)),
            ("tcp-crowded", read(&counters.crowded)),
            ("tcp-misbehaved", read(&counters.misbehaved)),
            ("tcp-refused", read(&counters.refused)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    fn table(&self) -> MutexGuard<'_, HashMap<StreamId, Arc<Stream>>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in, if it is not one too many. Where strangers are too many, the one that has
    /// been there longest goes: who means it is authenticated before.
    fn admit(&self, stream: &Arc<Stream>) -> bool {
        let mut table = self.table();
        let strangers = |table: &HashMap<StreamId, Arc<Stream>>| {
            let unproven = |s: &&Arc<Stream>| !s.ours && !s.proven.load(Ordering::Relaxed);
            let all: Vec<Arc<Stream>> = table.values().filter(unproven).cloned().collect();
            all
        };
        if !stream.ours {
            let strangers = strangers(&table);
            let whose = network(stream.remote.ip());
            let of_network = strangers.iter().filter(|s| network(s.remote.ip()) == whose);
            if table.len() >= MOST || of_network.count() >= MOST_OF_NETWORK {
                self.0.counters.crowded.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            if strangers.len() >= MOST_UNPROVEN
                && let Some(oldest) = strangers.iter().min_by_key(|s| s.opened)
            {
                self.0.counters.crowded.fetch_add(1, Ordering::Relaxed);
                oldest.close();
                table.remove(&oldest.id);
            }
        }
        table.insert(stream.id, stream.clone());
        true
    }
}

fn listener(any: IpAddr, port: u16) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 128;
    let address = SocketAddr::new(any, port);
    let listen = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if any.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Connections of the daemon before may linger.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted ones have it, too.
        socket.set_tcp_user_timeout(Some(serve::SILENCE))?;
        crate::net::mark(&socket);
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on TCP {address}: {error}"),
        )
    })
}
