// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What becomes of a connection: it is accepted or opened, read to its end, and told of.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ikev2d_proto::endpoint::Verdict;
use ikev2d_proto::event::StreamId;
use ikev2d_proto::wire::stream::{Message, Splitter};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Stream, Streams};
use crate::dataplane::Upcall;

/// How long a connection may take to be there.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long the prefix may take, and a message that has begun.
const PREFIX_TIME: Duration = Duration::from_secs(5);
const MESSAGE_TIME: Duration = Duration::from_secs(20);
/// How long what is sent may go without acknowledgement: then the connection is dead, and the initiator
/// makes another.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// Before another connection is accepted, where the system has no room for one.
const BREATH: Duration = Duration::from_millis(100);
/// IKE messages of whoever is not authenticated: those that are taken as they come, and at all. The longest
/// EAP needs about as many as the first; the others wait each, so that a peer that has just been
/// authenticated is known to be.
const UNPROVEN_AT_ONCE: u32 = 64;
const MOST_UNPROVEN: u32 = 128;
const UNPROVEN_PAUSE: Duration = Duration::from_millis(50);
/// Octets that are read at once; twice the largest message.
const ROOM: usize = 1 << 17;

/// Takes connections in.
pub(super) async fn accept(streams: Streams, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no TCP connections are taken"),
    };
    loop {
        match listener.accept().await {
            Ok((socket, _)) => take(&streams, socket),
            Err(error) => {
                tracing::debug!(%error, "a TCP connection could not be taken");
                sleep(BREATH).await;
            }
        }
    }
}

fn take(streams: &Streams, socket: TcpStream) {
    let id = streams.0.numbers.next_stream();
    let counters = streams.0.counters.clone();
    let Ok(stream) = Stream::new(id, socket, false, counters) else {
        return;
    };
    let stream = Arc::new(stream);
    if streams.admit(&stream) {
        streams.0.counters.accepted.fetch_add(1, Ordering::Relaxed);
        streams.0.runtime.spawn(serve(streams.clone(), stream));
    }
}

/// Opens a connection.
pub(super) async fn connect(streams: Streams, id: StreamId, local: IpAddr, remote: SocketAddr) {
    let reason = match timeout(CONNECTING, dial(local, remote)).await {
        Ok(Ok(socket)) => {
            let counters = streams.0.counters.clone();
            match Stream::new(id, socket, true, counters) {
                Ok(stream) => {
                    let stream = Arc::new(stream);
                    streams.admit(&stream);
                    streams.0.counters.opened.fetch_add(1, Ordering::Relaxed);
                    let local = stream.local;
                    let there = Upcall::StreamOpened { stream: id, local };
                    let _ = streams.0.upcalls.send(there).await;
                    return serve(streams, stream).await;
                }
                Err(error) => error.to_string(),
            }
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let gone = Upcall::StreamClosed { stream: id, reason };
    let _ = streams.0.upcalls.send(gone).await;
}

async fn dial(local: IpAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let domain = Domain::for_address(remote);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    crate::net::mark(&socket);
    socket.bind(&SocketAddr::new(local, 0).into())?;
    socket.set_tcp_user_timeout(Some(SILENCE))?;
    TcpSocket::from_std_stream(socket.into())
        .connect(remote)
        .await
}

/// Serves a connection to its end.
async fn serve(streams: Streams, stream: Arc<Stream>) {
    let ended = tokio::select! {
        ended = read(&streams, &stream) => ended,
        () = stream.send_rest() => Ended::ByItself("it can't be written to".to_owned()),
        () = stream.has_been_closed() => Ended::ByItself("it was closed here".to_owned()),
    };
    let reason = match ended {
        Ended::ByItself(reason) => reason,
        Ended::Misbehaved(reason) => {
            // Counted when its peer sees the end.
            let counter = &streams.0.counters.misbehaved;
            counter.fetch_add(1, Ordering::Relaxed);
            reason
        }
    };
    stream.close();
    streams.table().remove(&stream.id);
    streams.0.counters.closed.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(?stream, reason, "a TCP connection has ended");
    let stream = stream.id;
    let gone = Upcall::StreamClosed { stream, reason };
    let _ = streams.0.upcalls.send(gone).await;
}

/// Why a connection has ended.
enum Ended {
    ByItself(String),
    Misbehaved(String),
}

async fn read(streams: &Streams, stream: &Arc<Stream>) -> Ended {
    let mut splitter = Splitter::new(stream.ours);
    let mut room = vec![0; ROOM];
    let (mut at, mut end) = (0, 0);
    let mut since = Instant::now();
    let mut unproven = 0;
    loop {
        let mut carried = false;
        loop {
            let octets = room.get(at..end).unwrap_or_default();
            match splitter.next(octets) {
                Ok(Some((message, taken))) => {
                    at += taken;
                    since = Instant::now();
                    match message {
                        Message::Ike(message) => {
                            if !stream.proven.load(Ordering::Relaxed) {
                                unproven += 1;
                                if unproven > MOST_UNPROVEN {
                                    let reason = "too many messages, and no IKE SA";
                                    return Ended::Misbehaved(reason.to_owned());
                                }
                                if unproven > UNPROVEN_AT_ONCE {
                                    sleep(UNPROVEN_PAUSE).await;
                                }
                            }
                            hear(streams, stream, message).await;
                        }
                        Message::Esp(packet) => {
                            carried = true;
                            streams.0.plane.take_streamed(stream.id, packet);
                        }
                        Message::Other => {}
                    }
                }
                Ok(None) => break,
                Err(error) => return Ended::Misbehaved(error.to_string()),
            }
        }
        if carried {
            streams.0.plane.wake_for(stream.id);
        }
        room.copy_within(at..end, 0);
        (at, end) = (0, end - at);
        let limit = match (splitter.is_prefixed(), end) {
            (false, _) => Some(PREFIX_TIME),
            (true, 0) => None,
            (true, _) => Some(MESSAGE_TIME),
        };
        let late = sleep_until(since + limit.unwrap_or_default());
        tokio::select! {
            ready = stream.socket.readable() => {
                if let Err(error) = ready {
                    return Ended::ByItself(error.to_string());
                }
            }
            () = late, if limit.is_some() => {
                return Ended::Misbehaved("the peer is too slow".to_owned());
            }
        }
        let begins = end == 0 && splitter.is_prefixed();
        match stream
            .socket
            .try_read(room.get_mut(end..).unwrap_or_default())
        {
            Ok(0) => return Ended::ByItself("the peer has closed it".to_owned()),
            Ok(come) => end += come,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Ended::ByItself(error.to_string()),
        }
        if begins {
            since = Instant::now();
        }
    }
}

/// Takes an IKE message to the core. Nobody would send it again: it waits until
/// there is room, and goes before UDP's then, for which reason strangers' messages are counted.
async fn hear(streams: &Streams, stream: &Arc<Stream>, message: &[u8]) {
    let mut reply = Vec::new();
    let now = std::time::Instant::now();
    let remote = stream.remote.ip();
    match streams.0.gate.meet(now, remote, message, &mut reply) {
        Verdict::Dropped => {}
        Verdict::Answered => {
            if !stream.send_ike(&reply) {
                stream.refused();
            }
        }
        Verdict::Passes => {
            let heard = Upcall::Ike {
                local: stream.local,
                remote: stream.remote,
                stream: Some(stream.id),
                datagram: message.to_vec(),
            };
            let _ = streams.0.upcalls.send(heard).await;
        }
    }
}
