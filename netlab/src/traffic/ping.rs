// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Echo requests (RFC 792, RFC 4443 §4). The system's own `ping` gives up the last answer after a tenth of a
//! second or two round trips, which a busy machine takes.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::TrafficError;
use crate::Namespace;

/// From one request to the next.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long [`ping`] waits, after the last request, for its answers: a busy machine stands still at times.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long [`probe`] waits for a first answer.
const SILENCE: Duration = Duration::from_secs(1);
/// How long it waits for the rest where some have come.
const REST: Duration = Duration::from_secs(5);
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

/// Pings `to` from the address `from`, `count` times, ten a second, where all is to be answered: waits half a
/// minute for what is missing.
///
/// # Errors
/// There is no such address here.
pub fn ping(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    count: u32,
) -> Result<PingReport, TrafficError> {
    run(namespace, from, to, count, [PATIENCE; 2])
}

/// As [`ping`], where answers may well be missing: waits five seconds for the last ones, or one where there has
/// been none at all.
///
/// # Errors
/// There is no such address here.
pub fn probe(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    count: u32,
) -> Result<PingReport, TrafficError> {
    run(namespace, from, to, count, [SILENCE, REST])
}

fn run(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    count: u32,
    patience: [Duration; 2],
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
        .run(count, patience)
        .map_err(failed("receive echo replies from"))
}

/// Pings until an answer comes, at most a minute: a tunnel's other end may still be about to take its SAs
/// into use when ours is up. Asserts nothing: what must pass from then on is for the caller to count.
pub fn await_answer(namespace: &Namespace, from: IpAddr, to: IpAddr) {
    let end = Instant::now() + Duration::from_secs(60);
    // An error is an address that is not there yet.
    while !probe(namespace, from, to, 1).is_ok_and(|report| report.received == 1)
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A raw socket: std's own type of sockets tells where a packet is from.
fn open(from: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match from {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    Ok(socket.into())
}

struct Pings {
    socket: UdpSocket,
    to: SocketAddr,
    /// Tells our answers from those to others in the namespace.
    identifier: u16,
    sent: Vec<Instant>,
    round_trips: Vec<Option<Duration>>,
}

impl Pings {
    fn new(socket: UdpSocket, to: SocketAddr) -> Self {
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

    /// Waits so long, after the last request, for a first answer, and for the rest where some have come.
    fn run(mut self, count: u32, [first, rest]: [Duration; 2]) -> io::Result<PingReport> {
        let start = Instant::now();
        for sequence in 0..count {
            self.receive_until(start + INTERVAL * sequence, false)?;
            self.sent.push(Instant::now());
            self.round_trips.push(None);
            let request = request(self.to.ip(), self.identifier, sequence as u16);
            // One that can't be sent, as there is no route, is one without an answer.
            let _ = self.socket.send_to(&request, self.to);
        }
        let last = Instant::now();
        self.receive_until(last + first, true)?;
        if self.round_trips.iter().any(Option::is_some) {
            self.receive_until(last + rest, true)?;
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

    /// Takes answers until then, or until all have come; and what has arrived by then, however late this looks.
    fn receive_until(&mut self, end: Instant, or_all: bool) -> io::Result<()> {
        let mut room = [0; 2048];
        loop {
            if or_all && self.round_trips.iter().all(Option::is_some) {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            let late = left.is_zero();
            self.socket.set_nonblocking(late)?;
            if !late {
                // std makes a whole microsecond of less, which would be no limit.
                self.socket.set_read_timeout(Some(left))?;
            }
            let (len, source) = match self.socket.recv_from(&mut room) {
                Ok(packet) => packet,
                Err(e) if late && e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if is_passing(&e) => continue,
                Err(e) => return Err(e),
            };
            let now = Instant::now();
            let packet = room.get(..len).unwrap_or_default();
            let peer = self.to.ip();
            let Some(sequence) = answered(packet, source.ip(), peer, self.identifier) else {
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

/// The sequence number of what was answered, if this is an answer to one of ours, from whom it should be. IPv4 comes
/// with its header.
fn answered(packet: &[u8], source: IpAddr, peer: IpAddr, identifier: u16) -> Option<u16> {
    if source != peer {
        return None;
    }
    let (message, kind) = match peer {
        IpAddr::V4(_) => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            (packet.get(header..)?, 0)
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
        let v6: IpAddr = "fd77::2".parse().unwrap();
        // IPv6 comes without its header.
        let mut message = request(v6, 7, 9).to_vec();
        message[0] = 129;
        let others = [[10, 3, 0, 1].into(), "fd77::3".parse().unwrap()];
        for (peer, other, good, at, asks) in [
            (
                PEER,
                others[0],
                reply(PEER, request(PEER, 7, 9).to_vec()),
                20,
                8,
            ),
            (v6, others[1], message, 0, 128),
        ] {
            assert_eq!(answered(&good, peer, peer, 7), Some(9));
            assert_eq!(answered(&good, peer, peer, 8), None);
            assert_eq!(answered(&good, other, peer, 7), None);
            // Our own request on its way to ourselves.
            let mut request = good.clone();
            request[at] = asks;
            assert_eq!(answered(&request, peer, peer, 7), None);
            let mut changed = good.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert_eq!(answered(&changed, peer, peer, 7), None);
            for len in 0..good.len() {
                assert_eq!(answered(&good[..len], peer, peer, 7), None, "{len}");
            }
        }
    }

    fn sockets() -> [UdpSocket; 2] {
        [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap())
    }

    /// A peer that stands still is waited for.
    #[test]
    fn a_first_answer_may_take_its_time() {
        let [ours, theirs] = sockets();
        let to = theirs.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let requests = [(); 2].map(|()| {
                let mut room = [0; HEADER + PAYLOAD];
                let (len, asks) = theirs.recv_from(&mut room).unwrap();
                (room[..len].to_vec(), asks)
            });
            std::thread::sleep(SILENCE + INTERVAL * 4);
            for (request, asks) in requests {
                theirs.send_to(&reply(to.ip(), request), asks).unwrap();
            }
        });
        let report = Pings::new(ours, to).run(2, [PATIENCE; 2]).unwrap();
        peer.join().unwrap();
        assert_eq!((report.sent, report.received), (2, 2));
    }

    /// It's we who stood still.
    #[test]
    fn what_has_come_in_time_counts_however_late_it_is_read() {
        let [ours, theirs] = sockets();
        let (own, to) = (ours.local_addr().unwrap(), theirs.local_addr().unwrap());
        let mut pings = Pings::new(ours, to);
        for sequence in 0..3 {
            pings.sent.push(Instant::now());
            pings.round_trips.push(None);
            let request = request(to.ip(), pings.identifier, sequence);
            let answer = reply(to.ip(), request.to_vec());
            theirs.send_to(&answer, own).unwrap();
        }
        pings.receive_until(Instant::now(), true).unwrap();
        assert!(pings.round_trips.iter().all(Option::is_some));
    }

    /// The system's own `ping` tells of four here.
    #[test]
    fn a_last_answer_may_take_its_time() {
        const COUNT: u32 = 5;
        let [ours, theirs] = sockets();
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
        let report = Pings::new(ours, to).run(COUNT, [SILENCE, REST]).unwrap();
        peer.join().unwrap();
        assert_eq!((report.sent, report.received), (COUNT, COUNT));
        assert!(
            report.mean_ms.is_some_and(|mean| mean > 400.0 / 5.0),
            "{report:?}"
        );
    }
}
