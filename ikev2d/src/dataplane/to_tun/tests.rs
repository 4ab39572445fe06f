// SPDX-License-Identifier: Apache-2.0 OR MIT

use offload_api::frame::{FramePool, FramePoolConfig};
use tun_rs::gso_split;

use super::*;

fn pool() -> FramePool {
    FramePool::new(FramePoolConfig {
        slots: 512,
        ..FramePoolConfig::default()
    })
    .unwrap()
}

/// A TCP segment or a UDP packet, with right sums.
fn packet(v6: bool, tcp: Option<(u32, u8)>, ports: (u16, u16), payload: &[u8], id: u16) -> Vec<u8> {
    let upper = if tcp.is_some() { 32 } else { 8 };
    let len = upper + payload.len();
    let protocol = if tcp.is_some() { 6 } else { 17 };
    let mut packet = Vec::new();
    if v6 {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((len as u16).to_be_bytes());
        packet.extend([protocol, 64]);
        packet.extend([[0xfd; 16], [0xfe; 16]].concat());
    } else {
        packet.extend([0x45, 0]);
        packet.extend((20 + len as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend([0x40, 0, 64, protocol, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1]);
        let sum = !checksum(&packet, 0);
        put16(&mut packet, 10, sum);
    }
    let ip = packet.len();
    packet.extend(ports.0.to_be_bytes());
    packet.extend(ports.1.to_be_bytes());
    if let Some((sequence, flags)) = tcp {
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 7, 0x80, flags, 1, 0, 0, 0, 0, 0]);
        packet.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        packet.extend((len as u16).to_be_bytes());
        packet.extend([0, 0]);
    }
    packet.extend(payload);
    let facts = Facts::of(&packet).unwrap();
    let flow = Flow {
        source: facts.source,
        destination: facts.destination,
        protocol,
        ports,
    };
    let sum = !checksum(&packet[ip..], pseudo(&flow, len));
    put16(&mut packet, ip + if tcp.is_some() { 16 } else { 6 }, sum);
    packet
}

fn tcp(sequence: u32, flags: u8, payload: usize, id: u16) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload)
        .map(|at| (sequence as usize + at) as u8)
        .collect();
    packet(false, Some((sequence, flags)), (1000, 2000), &payload, id)
}

/// What is written for these packets.
fn written(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (pool, mut to_tun) = (pool(), ToTun::new(true));
    for packet in packets {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(packet));
        let facts = Facts::of(packet).unwrap();
        assert!(!to_tun.is_full());
        to_tun.push(frame, &facts);
    }
    let mut all = Vec::new();
    let (count, refused) = to_tun.flush(|parts| {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        all.push(parts.concat());
        Ok(0)
    });
    assert_eq!((count, refused), (packets.len() as u64, 0));
    assert_eq!(pool.available(), 512);
    all
}

/// What the kernel would make of it: another implementation splits it.
fn split(written: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for octets in written {
        let header = VirtioNetHdr::decode(octets).unwrap();
        let mut packet = octets[VIRTIO_NET_HDR_LEN..].to_vec();
        if header.gso_type == 0 {
            packets.push(packet);
            continue;
        }
        let (mut out, mut sizes) = (vec![vec![0; 2048]; 128], vec![0; 128]);
        let v6 = packet[0] >> 4 == 6;
        let count = gso_split(&mut packet, header, &mut out, &mut sizes, 0, v6).unwrap();
        packets.extend((0..count).map(|at| out[at][..sizes[at]].to_vec()));
    }
    packets
}

#[test]
fn following_segments_leave_in_one_write_and_split_into_the_same_packets() {
    for v6 in [false, true] {
        let mut packets: Vec<Vec<u8>> = (0..40u32)
            .map(|at| {
                let payload = vec![at as u8; 1000];
                let sequence = Some(((u32::MAX - 20_000).wrapping_add(at * 1000), TCP_ACK));
                packet(v6, sequence, (1000, 2000), &payload, 100 + at as u16)
            })
            .collect();
        let last = Some(((u32::MAX - 20_000).wrapping_add(40_000), TCP_ACK | TCP_PSH));
        packets.push(packet(v6, last, (1000, 2000), &[9; 321], 140));
        let joined = written(&packets);
        assert_eq!(joined.len(), 1, "v6: {v6}");
        assert_eq!(split(&joined), packets, "v6: {v6}");
    }
}

#[test]
fn datagrams_of_one_size_leave_in_one_write_and_a_shorter_one_ends_it() {
    for v6 in [false, true] {
        let datagram = |len: usize, id| packet(v6, None, (5, 6), &vec![len as u8; len], id);
        let packets: Vec<_> = [64, 64, 64, 30, 64, 64, 65]
            .into_iter()
            .zip(7..)
            .map(|(len, id)| datagram(len, id))
            .collect();
        let joined = written(&packets);
        assert_eq!(joined.len(), 3, "v6: {v6}");
        assert_eq!(split(&joined), packets, "v6: {v6}");
    }
}

#[test]
fn only_what_follows_is_joined_and_nothing_overtakes_within_its_flow() {
    let other = packet(false, Some((1, TCP_ACK)), (1, 2), &[1; 1000], 1);
    let packets = [
        tcp(0, TCP_ACK, 1000, 1),
        other.clone(),
        tcp(1000, TCP_ACK, 1000, 2),
        // A hole.
        tcp(3000, TCP_ACK, 1000, 3),
        // A FIN, an acknowledgement without data: alone, and what follows stays behind them.
        tcp(4000, TCP_ACK | 1, 0, 4),
        tcp(4000, TCP_ACK, 1000, 5),
        // Pushed: the end of its write.
        tcp(5000, TCP_ACK | TCP_PSH, 1000, 6),
        tcp(6000, TCP_ACK, 1000, 7),
    ];
    let all = written(&packets);
    let sequences = |packets: &[Vec<u8>]| -> Vec<u32> {
        let ours = packets.iter().filter(|packet| **packet != other);
        ours.map(|packet| be32(packet, 24).unwrap()).collect()
    };
    assert_eq!(all.len(), 6);
    assert_eq!(sequences(&split(&all)), sequences(&packets));
}

#[test]
fn a_wrong_sum_is_delivered_as_it_came() {
    for wrong in 0..3 {
        let mut packets: Vec<_> = (0..3u16)
            .map(|at| tcp(u32::from(at) * 500, TCP_ACK, 500, at))
            .collect();
        packets[wrong][60] ^= 1;
        let all = written(&packets);
        let mut left = split(&all);
        left.sort();
        packets.sort();
        assert_eq!(left, packets, "packet {wrong}");
    }
    // UDP may go without: so it stays.
    let mut plain = packet(false, None, (5, 6), &[3; 64], 1);
    put16(&mut plain, 26, 0);
    let packets = [plain.clone(), plain];
    let all = written(&packets);
    assert_eq!(split(&all), packets);
    assert_eq!(all.len(), 2);
}

#[test]
fn fragments_options_and_other_classes_stay_alone() {
    let plain = |at: u16| tcp(u32::from(at) * 500, TCP_ACK, 500, at);
    let changed = |at: u16, place: usize, bits: u8| {
        let mut packet = plain(at);
        packet[place] ^= bits;
        put16(&mut packet, 10, 0);
        let sum = !checksum(&packet[..20], 0);
        put16(&mut packet, 10, sum);
        packet
    };
    for (place, bits, what) in [
        (1, 4, "class"),
        (8, 1, "time to live"),
        (6, 0x20, "fragment"),
    ] {
        let packets = [plain(0), changed(1, place, bits)];
        let all = written(&packets);
        assert_eq!(all.len(), 2, "{what}");
        assert_eq!(split(&all), packets, "{what}");
    }
}

#[test]
fn a_refused_large_write_is_made_packet_by_packet() {
    let (pool, mut to_tun) = (pool(), ToTun::new(true));
    for at in 0..5u16 {
        let packet = tcp(u32::from(at) * 500, TCP_ACK, 500, at);
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(&packet));
        to_tun.push(frame, &Facts::of(&packet).unwrap());
    }
    let mut sizes = Vec::new();
    let done = to_tun.flush(|parts| {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > 1000 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sizes.push(len);
        if sizes.len() == 3 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(len)
    });
    assert_eq!((done, sizes.len()), ((4, 1), 5));
}

#[test]
fn no_write_is_larger_than_an_ip_packet_may_be() {
    let packets: Vec<_> = (0..200u32)
        .map(|at| tcp(at * 1348, TCP_ACK, 1348, at as u16))
        .collect();
    let all = written(&packets);
    assert_eq!(split(&all), packets);
    assert!(
        all.iter()
            .all(|octets| octets.len() <= 65_535 + VIRTIO_NET_HDR_LEN)
    );
    assert_eq!(all.len(), 200_usize.div_ceil((OCTETS - 52) / 1348));
}
