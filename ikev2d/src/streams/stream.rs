// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One TCP connection, as whoever sends on it has it: workers of the data plane, and the daemon.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ikev2d_proto::event::StreamId;
use ikev2d_proto::wire::stream::{PREFIX, esp_header, ike_header};
use offload_api::frame::Frame;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, shutdown};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::Counters;

/// Octets of IKE that wait for a connection at most; ESP waits in the kernel alone.
const MOST_WAITING: usize = 256 << 10;
/// Packets of one system call.
const MOST_PACKETS: usize = 64;
const SENDING: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// A TCP connection that carries IKE and ESP (RFC 9329).
pub struct Stream {
    pub(super) id: StreamId,
    pub(super) socket: TcpStream,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Whether we have opened it.
    pub(super) ours: bool,
    pub(super) opened: Instant,
    /// Somebody who is authenticated has used it.
    pub(super) proven: AtomicBool,
    /// Since when nothing uses it.
    pub(super) unused: Mutex<Option<Instant>>,
    rest: Mutex<Rest>,
    /// Something waits to be sent.
    waits: Notify,
    ended: AtomicBool,
    end: Notify,
    counters: Arc<Counters>,
}

/// What the kernel had no room for: the rest of a message that has begun, and IKE behind it.
#[derive(Default)]
struct Rest {
    octets: Vec<u8>,
    at: usize,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Stream({}, {} -> {})",
            self.id.0, self.local, self.remote
        )
    }
}

impl Stream {
    pub(super) fn new(
        id: StreamId,
        socket: TcpStream,
        ours: bool,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        // Small messages must not wait for large ones' acknowledgements.
        socket.set_nodelay(true)?;
        crate::net::mark(&socket);
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let mut rest = Rest::default();
        if ours {
            rest.octets.extend(PREFIX);
        }
        Ok(Self {
            id,
            local: canonical(socket.local_addr()?),
            remote: canonical(socket.peer_addr()?),
            socket,
            ours,
            opened: Instant::now(),
            proven: AtomicBool::new(false),
            unused: Mutex::new(None),
            rest: Mutex::new(rest),
            waits: Notify::new(),
            ended: AtomicBool::new(false),
            end: Notify::new(),
            counters,
        })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends packets as far as there is room for them: how many. The others are lost, as with UDP.
    pub(crate) fn send_esp(&self, packets: &[Frame]) -> u64 {
        let mut rest = self.rest();
        let mut sent = 0;
        for packets in packets.chunks(MOST_PACKETS) {
            if !self.empty(&mut rest) {
                break;
            }
            let mut lengths = [[0; 2]; MOST_PACKETS];
            let mut parts = [IoSlice::new(&[]); 2 * MOST_PACKETS];
            for (place, packet) in lengths.iter_mut().zip(packets) {
                // A slot of the pool is shorter than that.
                *place = esp_header(packet.len()).unwrap_or_default();
            }
            let both = lengths.iter().zip(packets);
            for (places, (length, packet)) in parts.chunks_exact_mut(2).zip(both) {
                if let ([first, second], true) = (places, *length != [0; 2]) {
                    (*first, *second) = (IoSlice::new(length), IoSlice::new(packet));
                }
            }
            let parts = parts.get(..2 * packets.len()).unwrap_or_default();
            let (whole, complete) = self.send_parts(parts, &mut rest);
            sent += whole / 2;
            if !complete {
                break;
            }
        }
        sent as u64
    }

    /// Sends an IKE message, later if there is no room now. Whether it will leave.
    pub(crate) fn send_ike(&self, message: &[u8]) -> bool {
        let mut rest = self.rest();
        let Some(header) = ike_header(message.len()) else {
            return false;
        };
        if self.empty(&mut rest) {
            let parts = [IoSlice::new(&header), IoSlice::new(message)];
            let (whole, _) = self.send_parts(&parts, &mut rest);
            if whole > 0 || !rest.is_empty() {
                return !self.has_ended();
            }
        }
        if self.has_ended() || rest.octets.len() + message.len() > MOST_WAITING {
            return false;
        }
        rest.octets.extend(header);
        rest.octets.extend(message);
        self.waits.notify_one();
        true
    }

    /// Sends messages of two parts each; how many parts are gone or bound to go, and whether all are.
    /// What has begun is kept to its end.
    fn send_parts(&self, parts: &[IoSlice<'_>], rest: &mut Rest) -> (usize, bool) {
        let mut sent = match self.write(parts) {
            Ok(sent) => sent,
            Err(error) => {
                self.note(&error);
                return (0, false);
            }
        };
        for (at, message) in parts.chunks(2).enumerate() {
            let len: usize = message.iter().map(|part| part.len()).sum();
            if sent >= len {
                sent -= len;
                continue;
            }
            if sent == 0 {
                return (2 * at, false);
            }
            for part in message {
                let skip = sent.min(part.len());
                rest.octets.extend(part.get(skip..).unwrap_or_default());
                sent -= skip;
            }
            self.waits.notify_one();
            return (2 * (at + 1), false);
        }
        (parts.len(), true)
    }

    /// Whether nothing waits, or nothing any more.
    fn empty(&self, rest: &mut Rest) -> bool {
        if rest.is_empty() {
            return !self.has_ended();
        }
        let octets = rest.octets.get(rest.at..).unwrap_or_default();
        match self.write(&[IoSlice::new(octets)]) {
            Ok(sent) => rest.at += sent,
            Err(error) => self.note(&error),
        }
        if rest.at < rest.octets.len() {
            return false;
        }
        rest.octets.clear();
        rest.at = 0;
        true
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut control = SendAncillaryBuffer::default();
        Ok(sendmsg(&self.socket, parts, &mut control, SENDING)?)
    }

    fn note(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.close();
        }
    }

    /// Sends what waits, as there is room, until the connection ends.
    pub(super) async fn send_rest(&self) {
        loop {
            while !self.rest().is_empty() && !self.has_ended() {
                if self.socket.writable().await.is_err() {
                    return self.close();
                }
                let _ =
                    self.socket
                        .try_io(Interest::WRITABLE, || match self.empty(&mut self.rest()) {
                            true => Ok(()),
                            false => Err(io::ErrorKind::WouldBlock.into()),
                        });
            }
            self.waits.notified().await;
        }
    }

    /// Ends it. SAs may hold it for a while yet, but its peer is to hear of it now: that one is who makes
    /// another.
    pub(super) fn close(&self) {
        self.ended.store(true, Ordering::Release);
        self.end.notify_one();
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until somebody has ended it.
    pub(super) async fn has_been_closed(&self) {
        while !self.has_ended() {
            self.end.notified().await;
        }
    }

    pub(super) fn refused(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use offload_api::frame::{FramePool, FramePoolConfig};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn both() -> (Arc<Stream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = TcpStream::connect(address).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        let id = ikev2d_proto::event::Numbers::default().next_stream();
        let stream = Stream::new(id, socket, true, Arc::default()).unwrap();
        (Arc::new(stream), other)
    }

    /// B19: whoever still holds a connection that has ended, its peer hears of the end.
    #[tokio::test]
    async fn the_peer_hears_of_an_end_at_once() {
        let (stream, mut other) = both().await;
        assert!(stream.send_ike(&[7; 100]));
        stream.close();
        let mut heard = Vec::new();
        other.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), PREFIX.len() + 2 + 4 + 100);
        assert!(!stream.send_ike(&[7; 100]));
    }

    /// B19: a connection that takes nothing costs bounded memory, loses whole packets alone, and goes on
    /// where it stood.
    #[tokio::test]
    async fn a_full_connection_loses_whole_packets_alone() {
        let (stream, mut other) = both().await;
        let pool = FramePool::new(FramePoolConfig {
            slots: 64,
            ..FramePoolConfig::default()
        });
        let pool = pool.unwrap();
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(&[0x5a; 1400]));
        let frames = [frame];
        let (mut sent, mut lost) = (0, 0);
        while lost < 100 {
            match stream.send_esp(&frames) {
                0 => lost += 1,
                taken => sent += taken,
            }
            assert!(sent < 1 << 20, "the connection is never full");
        }
        assert!(sent > 0);
        let mut waiting = 0;
        while stream.send_ike(&[7; 1000]) {
            waiting += 1;
        }
        assert!((1..=MOST_WAITING / 1000 + 1).contains(&waiting));
        assert!(stream.rest().octets.len() <= MOST_WAITING + 2000);
        let writer = stream.clone();
        let writer = tokio::spawn(async move { writer.send_rest().await });
        let mut prefix = [0; 6];
        other.read_exact(&mut prefix).await.unwrap();
        assert_eq!(prefix, PREFIX);
        let (mut esp, mut ike) = (0, 0);
        while esp < sent || ike < waiting {
            let length = other.read_u16().await.unwrap();
            let mut message = vec![0; usize::from(length) - 2];
            other.read_exact(&mut message).await.unwrap();
            match message.len() {
                1400 => esp += 1,
                1004 => ike += 1,
                len => panic!("a message of {len} octets"),
            }
        }
        assert_eq!((esp, ike), (sent, waiting));
        assert_eq!(stream.send_esp(&frames), 1, "there is room again");
        writer.abort();
    }
}
