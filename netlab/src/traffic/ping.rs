// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Echo requests (RFC 792, RFC 4443 §4). The system's own `ping` gives up the last answer after a tenth of a
//! second or two round trips, which a busy machine takes.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::TrafficError;
use crate::Namespace;

/// From one request to the next.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait, after the last request, for a first answer.
const SILENCE: Duration = Duration::from_secs(1);
/// How long to wait for the rest where some have come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a request: type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// Octets behind it, as many as those of the system's own.
const PAYLOAD: usize = 56;

/// What became of echo requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PingReport {
    /// Echo requests sent.
    pub sent: u32,
    /// Requests that were answered with their own octets.
    pub received: u32,
    /// Mean round trip in milliseconds, where there was an answer.
    pub mean_ms: Option<f64>,
}

/// Pings `to` from the address `from`, `count` times, ten a second. Waits five seconds for the last answers, or one
/// where there has been none at all.
///
/// # Errors
/// There is no such address here.
pub fn ping(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    count: u32,
) -> Result<PingReport, TrafficError> {
    let address = SocketAddr::new(to, 0);
    let failed = |action| {
        move |source| TrafficError::Socket {
            action,
            address,
            source,
        }
    };
    let socket = namespace.enter(|| open(from))?.map_err(failed("ping"))?;
    Pings::new(socket, address)
        .run(count)
        .map_err(failed("receive echo replies from"))
}

/// Pings until an answer comes, at most ten seconds: a tunnel's other end may still be about to take its SAs
/// into use when ours is up. Asserts nothing: what must pass from then on is for the caller to count.
pub fn await_answer(namespace: &Namespace, from: IpAddr, to: IpAddr) {
    let end = Instant::now() + Duration::from_secs(10);
    // An error is an address that is not there yet.
    while !ping(namespace, from, to, 1).is_ok_and(|report| report.received == 1)
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn open(from: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match from {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket)
}

struct Pings {
    socket: Socket,
    to: SocketAddr,
    /// Tells our answers from those to others in the namespace.
    identifier: u16,
    sent: Vec<Instant>,
    round_trips: Vec<Option<Duration>>,
}

impl Pings {
    fn new(socket: Socket, to: SocketAddr) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let own = std::process::id() as u16;
        Self {
            socket,
            to,
            identifier: own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)),
            sent: Vec::new(),
            round_trips: Vec::new(),
        }
    }

    fn run(mut self, count: u32) -> io::Result<PingReport> {
        let start = Instant::now();
        for sequence in 0..count {
            self.receive_until(start + INTERVAL * sequence, false)?;
            self.sent.push(Instant::now());
            self.round_trips.push(None);
            let request = request(self.to.ip(), self.identifier, sequence as u16);
            // One that can't be sent, as there is no route, is one without an answer.
            let _ = self.socket.send_to(&request, &self.to.into());
        }
        let last = Instant::now();
        self.receive_until(last + SILENCE, true)?;
        if self.round_trips.iter().any(Option::is_some) {
            self.receive_until(last + PATIENCE, true)?;
        }
        let answered: Vec<Duration> = self.round_trips.iter().copied().flatten().collect();
        let total: Duration = answered.iter().sum();
        let received = answered.len() as u32;
        Ok(PingReport {
            sent: count,
            received,
            mean_ms: (received > 0).then(|| total.as_secs_f64() * 1e3 / f64::from(received)),
        })
    }

    /// Takes answers until then, or until all have come.
    fn receive_until(&mut self, end: Instant, or_all: bool) -> io::Result<()> {
        let mut room = [0; 2048];
        loop {
            if or_all && self.round_trips.iter().all(Option::is_some) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.socket.set_read_timeout(Some(left))?;
            let len = match self.socket.read(&mut room) {
                Ok(len) => len,
                Err(e) if is_passing(&e) => continue,
                Err(e) => return Err(e),
            };
            let now = Instant::now();
            let packet = room.get(..len).unwrap_or_default();
            let Some(sequence) = answered(packet, self.to.ip(), self.identifier) else {
                continue;
            };
            let at = usize::from(sequence);
            if let (Some(sent), Some(time @ None)) =
                (self.sent.get(at), self.round_trips.get_mut(at))
            {
                *time = Some(now.saturating_duration_since(*sent));
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// An echo message from its type on; the kernel computes ICMPv6's checksum.
fn echo(kind: u8, identifier: u16, sequence: u16) -> [u8; HEADER + PAYLOAD] {
    let mut message = [0; HEADER + PAYLOAD];
    let [i, d] = identifier.to_be_bytes();
    let [s, n] = sequence.to_be_bytes();
    for (octet, value) in message.iter_mut().zip([kind, 0, 0, 0, i, d, s, n]) {
        *octet = value;
    }
    for (octet, value) in message.iter_mut().skip(HEADER).zip(0x10..) {
        *octet = value;
    }
    message
}

fn request(to: IpAddr, identifier: u16, sequence: u16) -> [u8; HEADER + PAYLOAD] {
    if to.is_ipv6() {
        return echo(128, identifier, sequence);
    }
    let mut message = echo(8, identifier, sequence);
    let checksum = checksum(&message).to_be_bytes();
    for (octet, value) in message.iter_mut().skip(2).zip(checksum) {
        *octet = value;
    }
    message
}

/// The sequence number of what was answered, if this is an answer to one of ours. IPv4 comes with its header.
fn answered(packet: &[u8], from: IpAddr, identifier: u16) -> Option<u16> {
    let (message, kind) = match from {
        IpAddr::V4(from) => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let from_there = *packet.get(12..16)? == from.octets();
            (packet.get(header..).filter(|_| from_there)?, 0)
        }
        IpAddr::V6(_) => (packet, 129),
    };
    let sequence = u16::from_be_bytes(message.get(6..HEADER)?.try_into().ok()?);
    let expected = echo(kind, identifier, sequence);
    // All but the checksum, which the kernel has verified.
    let same = message.get(..2) == expected.get(..2) && message.get(4..) == expected.get(4..);
    same.then_some(sequence)
}

/// RFC 1071.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 1));

    /// What a peer sends back, behind its IPv4 header.
    fn reply(from: IpAddr, mut message: Vec<u8>) -> Vec<u8> {
        message[0] = 0;
        let IpAddr::V4(from) = from else { panic!() };
        let header = [
            [0x45, 0, 0, 84],
            [0; 4],
            [64, 1, 0, 0],
            from.octets(),
            [10, 1, 0, 1],
        ];
        [header.concat(), message].concat()
    }

    /// As RFC 1071 §3 has it.
    #[test]
    fn the_sum_is_that_of_rfc_1071() {
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(checksum(&request(PEER, 7, 9)), 0);
    }

    #[test]
    fn only_our_own_octets_from_that_peer_are_an_answer() {
        let sent = request(PEER, 7, 9).to_vec();
        let good = reply(PEER, sent.clone());
        assert_eq!(answered(&good, PEER, 7), Some(9));
        assert_eq!(answered(&good, PEER, 8), None);
        assert_eq!(answered(&good, [10, 3, 0, 1].into(), 7), None);
        // Our own request on its way to ourselves.
        let mut request = good.clone();
        request[20] = 8;
        assert_eq!(answered(&request, PEER, 7), None);
        let mut changed = good.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(answered(&changed, PEER, 7), None);
        for len in 0..good.len() {
            assert_eq!(answered(&good[..len], PEER, 7), None, "{len}");
        }
    }

    #[test]
    fn ipv6_comes_without_its_header() {
        let peer: IpAddr = "fd77::2".parse().unwrap();
        let mut message = request(peer, 1, 2);
        assert_eq!(answered(&message, peer, 1), None);
        message[0] = 129;
        assert_eq!(answered(&message, peer, 1), Some(2));
    }

    /// The system's own `ping` tells of four here.
    #[test]
    fn a_last_answer_may_take_its_time() {
        const COUNT: u32 = 5;
        let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = theirs.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let mut room = [0; HEADER + PAYLOAD];
            for n in 1..=COUNT {
                let (len, asks) = theirs.recv_from(&mut room).unwrap();
                let wait = if n == COUNT {
                    INTERVAL * 4
                } else {
                    Duration::ZERO
                };
                std::thread::sleep(wait);
                let answer = reply(to.ip(), room[..len].to_vec());
                // Twice is once.
                theirs.send_to(&answer, asks).unwrap();
                theirs.send_to(&answer, asks).unwrap();
            }
        });
        let report = Pings::new(ours.into(), to).run(COUNT).unwrap();
        peer.join().unwrap();
        assert_eq!((report.sent, report.received), (COUNT, COUNT));
        assert!(
            report.mean_ms.is_some_and(|mean| mean > 400.0 / 5.0),
            "{report:?}"
        );
    }
}
