// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that don't fit the path (RFC 4301 §8): how much an SA can carry, what is answered to those
//! who send more, and what TCP is told beforehand.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use offload_api::sa::{Protocol, Suite};
use offload_api::wire::ah;
use offload_api::wire::esp::Header;
use offload_api::wire::ip::{Facts, Ipv4Header, Ipv6Header, PROTOCOL_TCP};
use offload_api::wire::natt::UdpHeader;
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use tun_rs::{checksum, checksum_no_fold};

use super::{Encapsulation, MssClamp, Way};

/// The least that every IPv6 link carries (RFC 8200 §5): no smaller MTU is told.
const LEAST_V6: usize = 1280;
/// The least that every IPv4 link carries (RFC 791).
const LEAST_V4: usize = 68;
/// How long what is known of a path is not asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Answers in a second at most (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)).
const ANSWERS: u32 = 100;
/// One pair of hosts is answered once in so long, so that a burst of segments gives one answer.
const SAME_PAIR: Duration = Duration::from_millis(20);
const TCP_SYN: u8 = 0x02;

/// What ESP or AH in tunnel mode adds to a packet; no header or ICV comes near 255 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// SPI, sequence number, IV, ICV.
    fixed: u8,
    alignment: u8,
    /// Pad length and next header.
    trailer: u8,
    /// ESP in UDP.
    udp: u8,
    /// The packet's own header is the outer one.
    transport: bool,
}

impl Overhead {
    /// Of a suite, in UDP or not.
    pub fn of(suite: Suite, udp: bool) -> Self {
        if suite.protocol() == Protocol::Ah {
            let len = ah::Header::LEN + suite.iv_len() + suite.icv_len();
            return Self {
                // As in IPv6; in IPv4 it may be a word less (RFC 4302 §2.2).
                fixed: len.next_multiple_of(8) as u8,
                alignment: 1,
                trailer: 0,
                udp: 0,
                transport: false,
            };
        }
        Self {
            fixed: (Header::LEN + suite.iv_len() + suite.icv_len()) as u8,
            alignment: suite.alignment() as u8,
            trailer: 2,
            udp: if udp { UdpHeader::LEN as u8 } else { 0 },
            transport: false,
        }
    }

    /// Of a suite in transport mode: packets keep their header, and get none in front.
    pub fn of_transport(suite: Suite, udp: bool) -> Self {
        Self {
            transport: true,
            ..Self::of(suite, udp)
        }
    }

    /// Octets of the largest inner packet that needs no more than `outer` octets on its way.
    fn inner(self, outer: usize, v4: bool) -> usize {
        let ip = if v4 { Ipv4Header::LEN } else { Ipv6Header::LEN };
        let (fixed, alignment) = (usize::from(self.fixed), usize::from(self.alignment));
        let room = outer.saturating_sub(ip + usize::from(self.udp) + fixed);
        let inner = (room / alignment * alignment).saturating_sub(self.trailer.into());
        if self.transport { ip + inner } else { inner }
    }
}

/// What the kernel knows of the way to a peer: it learns from ICMP messages that quote what this host
/// has sent, and forgets by and by.
#[derive(Debug, Default)]
pub(super) struct PathMtu {
    asked: Option<Instant>,
}

impl PathMtu {
    /// Octets that an inner packet may have, if it is time to ask.
    pub(super) fn ask(&mut self, way: impl FnOnce() -> Way, now: Instant) -> Option<usize> {
        let lately = |at: Instant| now.saturating_duration_since(at) < ASK_AGAIN;
        if self.asked.is_some_and(lately) {
            return None;
        }
        self.asked = Some(now);
        let way = way();
        if way.encapsulation == Encapsulation::Tcp {
            // It divides as it likes.
            return Some(usize::MAX);
        }
        let outer = outer_mtu(way.path).ok()?;
        Some(way.overhead.inner(outer as usize, way.path.1.is_ipv4()))
    }
}

/// By a socket that sends nothing. A new one each time: one that stayed would not learn of changes.
fn outer_mtu((local, remote): (SocketAddr, SocketAddr)) -> std::io::Result<u32> {
    let probe = UdpSocket::bind(SocketAddr::new(local.ip(), 0))?;
    crate::net::mark(&probe);
    probe.connect(SocketAddr::new(remote.ip(), remote.port().max(1)))?;
    let mtu = if remote.is_ipv4() {
        ip_mtu(probe)
    } else {
        ipv6_mtu(probe)
    };
    Ok(mtu?)
}

/// The MTU that a packet is too large for, if it may not be fragmented.
pub(super) fn too_big(facts: &Facts, limit: usize) -> Option<usize> {
    let limit = if facts.source.is_ipv4() {
        limit.max(LEAST_V4)
    } else {
        limit.max(LEAST_V6)
    };
    (facts.dont_fragment && facts.total_len > limit).then_some(limit)
}

/// Who gets an answer: not everybody, not always.
#[derive(Debug, Default)]
pub(super) struct AnswerGate {
    since: Option<Instant>,
    answered: u32,
    last: Option<(IpAddr, IpAddr, usize, Instant)>,
}

impl AnswerGate {
    pub(super) fn passes(&mut self, facts: &Facts, mtu: usize, now: Instant) -> bool {
        let within = |at: Instant, time| now.saturating_duration_since(at) < time;
        let pair = (facts.source, facts.destination, mtu);
        if self
            .last
            .is_some_and(|(from, to, told, at)| (from, to, told) == pair && within(at, SAME_PAIR))
        {
            return false;
        }
        if !self
            .since
            .is_some_and(|at| within(at, Duration::from_secs(1)))
        {
            (self.since, self.answered) = (Some(now), 0);
        }
        if self.answered == ANSWERS {
            return false;
        }
        self.answered += 1;
        self.last = Some((pair.0, pair.1, mtu, now));
        true
    }
}

/// The answer to a packet that is too large: "fragmentation needed" (RFC 1191 §4) or "packet too big"
/// (RFC 4443 §3.2), in the name of the host that it was for, since the tunnel has no address that
/// the sender's host would believe. Nothing where none may be given (RFC 1122 §3.2.2, RFC 4443 §2.4).
pub(super) fn answer<'room>(
    packet: &[u8],
    facts: &Facts,
    mtu: usize,
    room: &'room mut [u8],
) -> Option<&'room [u8]> {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    const ICMP_LEN: usize = 8;
    let upper = packet.get(facts.header_len).copied();
    let is_error = match (facts.protocol, upper) {
        // Of ICMP only echo is answered; of ICMPv6 what is no error.
        (ICMP, kind) => !matches!(kind, Some(0 | 8)),
        (ICMPV6, kind) => kind.is_none_or(|kind| kind < 128),
        _ => false,
    };
    // One host must have sent it to one host.
    let one = |address: IpAddr| {
        let broadcast = address == IpAddr::from([255; 4]);
        !address.is_multicast() && !address.is_unspecified() && !broadcast
    };
    let later_fragment = facts.fragment && facts.ports.is_none();
    if is_error || later_fragment || !one(facts.source) || !one(facts.destination) {
        return None;
    }
    let (ip, most) = match facts.source {
        IpAddr::V4(_) => (Ipv4Header::LEN, 576),
        IpAddr::V6(_) => (Ipv6Header::LEN, LEAST_V6),
    };
    let quoted = packet.len().min(most - ip - ICMP_LEN);
    let len = ip + ICMP_LEN + quoted;
    let answer = room.get_mut(..len)?;
    answer.fill(0);
    answer
        .get_mut(ip + ICMP_LEN..)?
        .copy_from_slice(packet.get(..quoted)?);
    let upper_len = (len - ip) as u16;
    let start = match (facts.destination, facts.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = answer.first_chunk_mut::<{ Ipv4Header::LEN }>()?;
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            header[8] = 64;
            header[9] = ICMP;
            header[12..16].copy_from_slice(&from.octets());
            header[16..].copy_from_slice(&to.octets());
            let sum = !checksum(header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let icmp = answer.get_mut(ip..)?.first_chunk_mut::<ICMP_LEN>()?;
            (icmp[0], icmp[1]) = (3, 4);
            icmp[6..].copy_from_slice(&(mtu as u16).to_be_bytes());
            0
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = answer.first_chunk_mut::<{ Ipv6Header::LEN }>()?;
            header[0] = 0x60;
            header[4..6].copy_from_slice(&upper_len.to_be_bytes());
            (header[6], header[7]) = (ICMPV6, 64);
            header[8..24].copy_from_slice(&from.octets());
            header[24..].copy_from_slice(&to.octets());
            let icmp = answer.get_mut(ip..)?.first_chunk_mut::<ICMP_LEN>()?;
            icmp[0] = 2;
            icmp[4..].copy_from_slice(&(mtu as u32).to_be_bytes());
            let half = checksum_no_fold(&from.octets(), u64::from(ICMPV6) + u64::from(upper_len));
            checksum_no_fold(&to.octets(), half)
        }
        _ => return None,
    };
    let sum = !checksum(answer.get(ip..)?, start);
    answer
        .get_mut(ip + 2..ip + 4)?
        .copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}

/// Whether a packet opens a TCP connection, either way.
pub(super) fn is_syn(packet: &[u8], facts: &Facts) -> bool {
    const FLAGS: usize = 13;
    facts.protocol == PROTOCOL_TCP
        && facts.ports.is_some()
        && packet
            .get(facts.header_len + FLAGS)
            .is_some_and(|flags| flags & TCP_SYN != 0)
}

/// Lowers the segment size that a SYN offers (RFC 9293 §3.7.1) to what the tunnel carries whole;
/// whether it was larger.
pub(super) fn clamp(packet: &mut [u8], facts: &Facts, setting: MssClamp, limit: usize) -> bool {
    const TCP_HEADER: usize = 20;
    const CHECKSUM: usize = 16;
    let most = match setting {
        MssClamp::Off => return false,
        MssClamp::Fixed(most) => most,
        // As if there were no options (RFC 6691): the sender takes off what he uses.
        MssClamp::Auto => {
            let ip = if facts.source.is_ipv4() {
                Ipv4Header::LEN
            } else {
                Ipv6Header::LEN
            };
            u16::try_from(limit.saturating_sub(ip + TCP_HEADER)).unwrap_or(u16::MAX)
        }
    };
    let Some(tcp) = packet.get_mut(facts.header_len..facts.total_len) else {
        return false;
    };
    let len = tcp.get(12).map_or(0, |octet| usize::from(octet >> 4) * 4);
    let Some(at) = tcp.get(..len).and_then(mss_at) else {
        return false;
    };
    let Some(place) = tcp
        .get_mut(at..at + 2)
        .and_then(|place| place.first_chunk_mut())
    else {
        return false;
    };
    let before = u16::from_be_bytes(*place);
    if before <= most {
        return false;
    }
    *place = most.to_be_bytes();
    let Some(sum) = tcp
        .get_mut(CHECKSUM..CHECKSUM + 2)
        .and_then(|sum| sum.first_chunk_mut())
    else {
        return false;
    };
    // In an odd place, both octets count for the other half of their words.
    let word = |value: u16| {
        if at % 2 == 0 {
            value
        } else {
            value.swap_bytes()
        }
    };
    *sum = updated(u16::from_be_bytes(*sum), word(before), word(most)).to_be_bytes();
    true
}

/// Where the option's value is, among a TCP header's options.
fn mss_at(header: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let mut at = 20;
    loop {
        match *header.get(at)? {
            END => return None,
            NOTHING => at += 1,
            MSS if header.get(at + 1) == Some(&4) => return Some(at + 2),
            _ => at += usize::from(*header.get(at + 1)?).max(2),
        }
    }
}

/// A sum after one word has changed (RFC 1624, equation 3).
fn updated(sum: u16, before: u16, after: u16) -> u16 {
    let mut next = u32::from(!sum) + u32::from(!before) + u32::from(after);
    while next > 0xffff {
        next = (next & 0xffff) + (next >> 16);
    }
    !(next as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(v4: bool, options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![
            0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, TCP_SYN, 4, 0, 0, 0, 0, 0,
        ];
        tcp.extend(options);
        tcp[12] = (tcp.len() / 4 * 16) as u8;
        let len = tcp.len() as u16;
        let mut packet = if v4 {
            let mut ip = vec![
                0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            ip[2..4].copy_from_slice(&(20 + len).to_be_bytes());
            ip
        } else {
            let [high, low] = len.to_be_bytes();
            [&[0x60, 0, 0, 0, high, low, 6, 64][..], &[0xfd; 32]].concat()
        };
        let sum = sum_of(&packet, &tcp);
        tcp[16..18].copy_from_slice(&(!sum).to_be_bytes());
        packet.extend(tcp);
        packet
    }

    fn sum_of(ip: &[u8], tcp: &[u8]) -> u16 {
        let addresses = if ip[0] >> 4 == 4 {
            &ip[12..20]
        } else {
            &ip[8..40]
        };
        checksum(tcp, checksum_no_fold(addresses, 6 + tcp.len() as u64))
    }

    #[test]
    fn a_segment_size_is_lowered_wherever_it_stands_and_the_sum_stays_right() {
        let options: [&[u8]; 4] = [
            &[2, 4, 0x05, 0xb4],
            &[1, 2, 4, 0x05, 0xb4, 1, 1, 0],
            &[3, 3, 7, 2, 4, 0x05, 0xb4, 1],
            &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 0xff, 0xff, 0, 0],
        ];
        for v4 in [true, false] {
            for options in options {
                let mut packet = syn(v4, options);
                let facts = Facts::of(&packet).unwrap();
                assert!(is_syn(&packet, &facts));
                assert!(clamp(&mut packet, &facts, MssClamp::Auto, 1300));
                let tcp = &packet[facts.header_len..];
                let at = mss_at(tcp).unwrap();
                let headers = if v4 { 40 } else { 60 };
                assert_eq!(tcp[at..at + 2], (1300 - headers as u16).to_be_bytes());
                assert_eq!(sum_of(&packet, tcp), 0xffff, "{options:?}");
                // Low enough.
                assert!(!clamp(&mut packet, &facts, MssClamp::Auto, 1300));
                assert!(clamp(&mut packet, &facts, MssClamp::Fixed(900), 1300));
                assert!(!clamp(&mut packet, &facts, MssClamp::Off, 100));
            }
        }
    }

    #[test]
    fn options_that_lie_end_the_search() {
        let options: [&[u8]; 5] = [
            &[],
            &[2, 0, 0, 0],
            &[5, 0, 2, 4],
            &[1, 1, 1, 2],
            &[9, 250, 2, 4],
        ];
        for options in options {
            let mut packet = syn(true, options);
            let facts = Facts::of(&packet).unwrap();
            let before = packet.clone();
            assert!(
                !clamp(&mut packet, &facts, MssClamp::Auto, 100),
                "{options:?}"
            );
            assert_eq!(packet, before);
        }
    }

    #[test]
    fn what_an_sa_carries_fills_the_path_and_not_more() {
        for suite in Suite::all() {
            for (v4, udp, outer) in [(true, true, 1500), (false, false, 1400), (true, false, 577)] {
                let overhead = Overhead::of(suite, udp);
                let sealed = |inner: usize| {
                    let padded = (inner + 2).next_multiple_of(suite.alignment());
                    let ip = if v4 { 20 } else { 40 };
                    let udp = if udp { 8 } else { 0 };
                    ip + udp + 8 + suite.iv_len() + padded + suite.icv_len()
                };
                let inner = overhead.inner(outer, v4);
                assert!(
                    sealed(inner) <= outer && sealed(inner + 1) > outer,
                    "{suite}"
                );
            }
        }
        let gcm = Suite::from_name("aes128gcm16").unwrap();
        assert_eq!(Overhead::of(gcm, true).inner(20, true), 0);
    }

    #[test]
    fn only_packets_that_must_stay_whole_are_refused() {
        let facts = Facts::of(&syn(true, &[2, 4, 5, 0xb4])).unwrap();
        assert_eq!(
            too_big(&facts, 43),
            Some(LEAST_V4).filter(|_| facts.total_len > LEAST_V4)
        );
        let large = Facts {
            total_len: 1400,
            ..facts
        };
        assert_eq!(too_big(&large, 1399), Some(1399));
        assert_eq!(too_big(&large, 1400), None);
        assert_eq!(
            too_big(
                &Facts {
                    dont_fragment: false,
                    ..large
                },
                1399
            ),
            None
        );
        let v6 = Facts::of(&syn(false, &[2, 4, 5, 0xb4])).unwrap();
        assert_eq!(
            too_big(
                &Facts {
                    total_len: 1281,
                    ..v6
                },
                900
            ),
            Some(1280)
        );
        assert_eq!(
            too_big(
                &Facts {
                    total_len: 1280,
                    ..v6
                },
                900
            ),
            None
        );
    }

    #[test]
    fn answers_quote_the_packet_and_their_sums_are_right() {
        let mut room = [0; LEAST_V6];
        for v4 in [true, false] {
            let mut packet = syn(v4, &[2, 4, 5, 0xb4]);
            packet.resize(1400, 7);
            let facts = Facts {
                total_len: 1400,
                ..Facts::of(&packet).unwrap()
            };
            let answer = answer(&packet, &facts, 1300, &mut room).unwrap();
            let about = Facts::of(answer).unwrap();
            assert_eq!(
                (about.source, about.destination),
                (facts.destination, facts.source)
            );
            assert_eq!(answer.len(), if v4 { 576 } else { 1280 });
            let icmp = &answer[about.header_len..];
            assert_eq!(icmp[8..], packet[..icmp.len() - 8]);
            if v4 {
                assert_eq!((about.protocol, &icmp[..2]), (1, &[3, 4][..]));
                assert_eq!(icmp[6..8], 1300u16.to_be_bytes());
                assert_eq!(
                    (checksum(icmp, 0), checksum(&answer[..20], 0)),
                    (0xffff, 0xffff)
                );
            } else {
                assert_eq!((about.protocol, &icmp[..2]), (58, &[2, 0][..]));
                assert_eq!(icmp[4..8], 1300u32.to_be_bytes());
                let pseudo = checksum_no_fold(&answer[8..40], 58 + icmp.len() as u64);
                assert_eq!(checksum(icmp, pseudo), 0xffff);
            }
        }
    }

    #[test]
    fn errors_and_packets_for_many_get_no_answer() {
        let packet = syn(true, &[2, 4, 5, 0xb4]);
        let facts = Facts::of(&packet).unwrap();
        let mut room = [0; LEAST_V6];
        let mut answered = |facts: Facts| answer(&packet, &facts, 1300, &mut room).is_some();
        assert!(answered(facts));
        assert!(!answered(Facts {
            destination: [224, 0, 0, 5].into(),
            ..facts
        }));
        assert!(!answered(Facts {
            source: [0; 4].into(),
            ..facts
        }));
        assert!(!answered(Facts {
            fragment: true,
            ports: None,
            ..facts
        }));
        // The upper layer's first octet is 0: an echo's answer.
        assert!(answered(Facts {
            protocol: 1,
            ports: None,
            ..facts
        }));
        assert!(!answered(Facts {
            protocol: 58,
            ports: None,
            ..facts
        }));
    }

    #[test]
    fn a_flood_is_answered_so_often_and_a_pair_once_a_while() {
        let (mut gate, now) = (AnswerGate::default(), Instant::now());
        let facts = Facts::of(&syn(true, &[2, 4, 5, 0xb4])).unwrap();
        assert!(gate.passes(&facts, 1300, now));
        assert!(!gate.passes(&facts, 1300, now));
        // Another MTU is news.
        assert!(gate.passes(&facts, 1200, now));
        let from = |n: u32| Facts {
            source: n.to_be_bytes().into(),
            ..facts
        };
        let answers = (0..1000).filter(|n| gate.passes(&from(*n), 1300, now));
        assert_eq!(answers.count(), ANSWERS as usize - 2);
        assert!(gate.passes(&facts, 1300, now + Duration::from_secs(1)));
    }
}
