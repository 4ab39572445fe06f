// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets on their way to the TUN: following segments of one flow leave in one write, straight from
//! the frames that they were opened in, as one large packet that the kernel need not split.

use std::io::{self, IoSlice};
use std::net::IpAddr;

use offload_api::frame::Frame;
use offload_api::wire::ip::{Facts, PROTOCOL_TCP, PROTOCOL_UDP};
use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4,
    VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, checksum_no_fold,
};

/// Writes that are prepared at most.
const GROUPS: usize = 128;
/// Packets of one write at most.
const PACKETS: usize = 64;
/// Octets of one write at most, below what an IP length can say.
const OCTETS: usize = 65_000;
/// Places for flows; two that share one are not joined in turns.
const FLOWS: usize = 256;
/// IPv4 or IPv6, and TCP with all options.
const HEADERS: usize = 40 + 60;

const V4: usize = 20;
const V6: usize = 40;
const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const UDP_LEN: usize = 8;
const UDP_CHECKSUM: usize = 6;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum holds the pseudo header's sum.
const NEEDS_CHECKSUM: u8 = 1;

/// Packets that wait for their write.
pub(super) struct ToTun {
    groups: Vec<Group>,
    used: usize,
    /// The last group of each flow, by the flow's place.
    latest: [u8; FLOWS],
    /// Whether the kernel takes large UDP packets.
    udp: bool,
}

/// What leaves in one write.
#[derive(Default)]
struct Group {
    frames: Vec<Frame>,
    /// What the next packet must be to be joined; nothing for packets that stay alone.
    run: Option<Run>,
}

/// Segments of one flow, each following the one before.
struct Run {
    flow: Flow,
    shape: Shape,
    /// Octets so far, headers once.
    octets: usize,
    /// Nothing can follow: the last one was shorter, or pushed.
    ended: bool,
    /// The first one's own checksum was looked at.
    checked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Flow {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: (u16, u16),
}

impl Flow {
    fn place(&self) -> usize {
        let low = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => v6.to_bits() as u32,
        };
        let ports = u32::from(self.ports.0) << 16 | u32::from(self.ports.1);
        let mixed = low(self.source) ^ low(self.destination).rotate_left(11) ^ ports.rotate_left(5);
        (mixed.wrapping_mul(0x9e37_79b1) >> 24) as usize
    }
}

/// A segment's form.
#[derive(Clone, Copy)]
struct Shape {
    /// Octets of the IP header.
    ip: usize,
    /// With the header above it.
    headers: usize,
    payload: usize,
    /// TCP: number of the octet that follows.
    next: u32,
}

impl ToTun {
    pub(super) fn new(udp: bool) -> Self {
        Self {
            groups: (0..GROUPS)
                .map(|_| Group {
                    frames: Vec::with_capacity(PACKETS),
                    run: None,
                })
                .collect(),
            used: 0,
            latest: [0; FLOWS],
            udp,
        }
    }

    /// Whether a flush is due before the next packet.
    pub(super) fn is_full(&self) -> bool {
        self.used == GROUPS
    }

    /// Takes a packet in. The order within each flow is kept.
    pub(super) fn push(&mut self, frame: Frame, facts: &Facts) {
        let flow = facts.ports.map(|ports| Flow {
            source: facts.source,
            destination: facts.destination,
            protocol: facts.protocol,
            ports,
        });
        let place = flow.map(|flow| flow.place());
        let shape = flow.and_then(|flow| self.shape(&frame, facts).map(|shape| (flow, shape)));
        let latest = place.and_then(|place| self.latest.get(place).copied());
        let before = latest
            .and_then(|number| usize::from(number).checked_sub(1))
            .and_then(|at| self.groups.get_mut(at));
        let Some(group) = before else {
            return self.begin(frame, shape, place);
        };
        let joined = match shape {
            Some((flow, shape)) => group.join(frame, flow, shape),
            None => Err(frame),
        };
        if let Err(frame) = joined {
            self.begin(frame, shape, place);
        }
    }

    fn begin(&mut self, frame: Frame, shape: Option<(Flow, Shape)>, place: Option<usize>) {
        let Some(group) = self.groups.get_mut(self.used) else {
            return;
        };
        self.used += 1;
        group.run = shape.map(|(flow, shape)| Run {
            flow,
            shape,
            octets: frame.len(),
            ended: pushes(&frame, flow, shape),
            checked: false,
        });
        group.frames.push(frame);
        // One that is not to be joined must not be overtaken within its flow either.
        if let Some(latest) = place.and_then(|place| self.latest.get_mut(place)) {
            *latest = self.used as u8;
        }
    }

    /// The form of a packet that may be joined.
    fn shape(&self, packet: &Frame, facts: &Facts) -> Option<Shape> {
        let ip = if facts.source.is_ipv4() { V4 } else { V6 };
        // With options or extension headers, as a fragment, in pieces: not worth it.
        if facts.header_len != ip
            || facts.fragment
            || packet.is_chained()
            || facts.total_len != packet.len()
        {
            return None;
        }
        let (len, next) = match facts.protocol {
            PROTOCOL_TCP => {
                let header = packet.get(ip..)?;
                let len = usize::from(header.get(12)? >> 4) * 4;
                if len < 20 || *header.get(TCP_FLAGS)? & !TCP_PSH != TCP_ACK {
                    return None;
                }
                (len, be32(header, 4)?)
            }
            PROTOCOL_UDP if self.udp => {
                let header = packet.get(ip..)?;
                // Without a checksum it must stay without one.
                let plain = be16(header, UDP_CHECKSUM)? == 0;
                if plain || usize::from(be16(header, 4)?) != header.len() {
                    return None;
                }
                (UDP_LEN, 0)
            }
            _ => return None,
        };
        let payload = packet.len().checked_sub(ip + len).filter(|len| *len > 0)?;
        Some(Shape {
            ip,
            headers: ip + len,
            payload,
            next: next.wrapping_add(payload as u32),
        })
    }

    /// Writes all that waits; packets written and packets refused.
    pub(super) fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> (u64, u64) {
        let (mut written, mut refused) = (0, 0);
        let used = std::mem::take(&mut self.used);
        for group in self.groups.iter_mut().take(used) {
            let count = group.frames.len() as u64;
            if group.frames.len() > 1 && group.write_joined(&mut write).is_ok() {
                written += count;
            } else {
                for frame in &group.frames {
                    if write_alone(frame, &mut write).is_ok() {
                        written += 1;
                    } else {
                        refused += 1;
                    }
                }
            }
            group.frames.clear();
            group.run = None;
        }
        self.latest.fill(0);
        (written, refused)
    }
}

impl Group {
    /// Joins a segment, or gives it back.
    fn join(&mut self, frame: Frame, flow: Flow, shape: Shape) -> Result<(), Frame> {
        let (Some(run), Some(first)) = (self.run.as_mut(), self.frames.first()) else {
            return Err(frame);
        };
        let tcp = flow.protocol == PROTOCOL_TCP;
        let follows = run.flow == flow
            && !run.ended
            && shape.headers == run.shape.headers
            && shape.payload <= run.shape.payload
            // UDP has no numbers: what comes next, follows.
            && (!tcp || shape.next.wrapping_sub(shape.payload as u32) == run.shape.next)
            && self.frames.len() < PACKETS
            && run.octets + shape.payload <= OCTETS
            && same_headers(first, &frame, self.frames.len(), (tcp, shape));
        // The kernel will trust the sum of what is joined, so somebody must have looked.
        if !follows || !sum_is_right(&frame, flow, shape) {
            return Err(frame);
        }
        if !run.checked {
            run.checked = sum_is_right(first, flow, run.shape);
            if !run.checked {
                run.ended = true;
                return Err(frame);
            }
        }
        run.ended = shape.payload < run.shape.payload || pushes(&frame, flow, shape);
        run.octets += shape.payload;
        run.shape.next = shape.next;
        self.frames.push(frame);
        Ok(())
    }

    /// Writes the first one's headers, made to fit, and everybody's payload.
    fn write_joined(
        &self,
        write: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (Some(run), Some(first)) = (self.run.as_ref(), self.frames.first()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut headers = [0; HEADERS];
        let (ip, len) = (run.shape.ip, run.shape.headers);
        let (Some(own), Some(from)) = (headers.get_mut(..len), first.get(..len)) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        own.copy_from_slice(from);
        let total = run.octets;
        let tcp = run.flow.protocol == PROTOCOL_TCP;
        if ip == V4 {
            put16(own, 2, total as u16);
            put16(own, 10, 0);
            let sum = !checksum(own.get(..V4).unwrap_or_default(), 0);
            put16(own, 10, sum);
        } else {
            put16(own, 4, (total - V6) as u16);
        }
        let at = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let sum = checksum(&[], pseudo(&run.flow, total - ip));
        put16(own, ip + at, sum);
        if tcp {
            let last = self.frames.last().and_then(|last| last.get(ip + TCP_FLAGS));
            let pushed = last.map_or(0, |flags| flags & TCP_PSH);
            if let Some(flags) = own.get_mut(ip + TCP_FLAGS) {
                *flags |= pushed;
            }
        } else {
            put16(own, ip + 4, (total - ip) as u16);
        }
        let kind = match (tcp, ip) {
            (true, V4) => VIRTIO_NET_HDR_GSO_TCPV4,
            (true, _) => VIRTIO_NET_HDR_GSO_TCPV6,
            (false, _) => VIRTIO_NET_HDR_GSO_UDP_L4,
        };
        let mut announced = [0; VIRTIO_NET_HDR_LEN];
        VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type: kind,
            hdr_len: len as u16,
            gso_size: run.shape.payload as u16,
            csum_start: ip as u16,
            csum_offset: at as u16,
        }
        .encode(&mut announced)?;
        let mut parts = [IoSlice::new(&[]); PACKETS + 2];
        let payloads = self.frames.iter().map(|frame| frame.get(len..));
        let all = [Some(&announced[..]), headers.get(..len)]
            .into_iter()
            .chain(payloads);
        let mut count = 0;
        for (place, part) in parts.iter_mut().zip(all) {
            *place = IoSlice::new(part.unwrap_or_default());
            count += 1;
        }
        write(parts.get(..count).unwrap_or_default()).map(drop)
    }
}

/// Writes one packet, also one in pieces.
fn write_alone(
    frame: &Frame,
    write: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    const NOTHING: [u8; VIRTIO_NET_HDR_LEN] = [0; VIRTIO_NET_HDR_LEN];
    if !frame.is_chained() {
        return write(&[IoSlice::new(&NOTHING), IoSlice::new(frame)]).map(drop);
    }
    let mut parts = [IoSlice::new(&[]); PACKETS];
    let mut count = 0;
    for (place, part) in parts
        .iter_mut()
        .zip(std::iter::once(&NOTHING[..]).chain(frame.segments()))
    {
        *place = IoSlice::new(part);
        count += 1;
    }
    if count <= frame.segment_count() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    write(parts.get(..count).unwrap_or_default()).map(drop)
}

/// Whether nothing may be joined behind this segment.
fn pushes(packet: &[u8], flow: Flow, shape: Shape) -> bool {
    flow.protocol == PROTOCOL_TCP
        && packet
            .get(shape.ip + TCP_FLAGS)
            .is_none_or(|flags| flags & TCP_PSH != 0)
}

/// Whether a packet differs in nothing from the first that one pair of headers could not say; it is
/// the one `after` others.
fn same_headers(first: &[u8], next: &[u8], after: usize, (tcp, shape): (bool, Shape)) -> bool {
    let same = |from: usize, to: usize| first.get(from..to) == next.get(from..to);
    let ip = if shape.ip == V4 {
        let number = be16(first, 4).map(|number| number.wrapping_add(after as u16));
        let whole = first.get(6).is_some_and(|flags| flags & 0x40 != 0);
        // Class; flags (fragments are not here); time to live. Numbers are counted on, and mean
        // nothing where nobody may fragment (RFC 6864 §4.1).
        same(1, 2) && same(6, 9) && (whole || be16(next, 4) == number)
    } else {
        // Class and flow label; hop limit.
        same(0, 4) && same(7, 8)
    };
    // Acknowledged number, and options.
    ip && (!tcp || (same(shape.ip + 8, shape.ip + 12) && same(shape.ip + 20, shape.headers)))
}

fn sum_is_right(packet: &[u8], flow: Flow, shape: Shape) -> bool {
    let upper = packet.get(shape.ip..).unwrap_or_default();
    checksum(upper, pseudo(&flow, upper.len())) == 0xffff
}

/// The pseudo header's sum (RFC 9293 §3.1, RFC 8200 §8.1).
fn pseudo(flow: &Flow, len: usize) -> u64 {
    let start = u64::from(flow.protocol) + len as u64;
    match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            start + u64::from(source.to_bits()) + u64::from(destination.to_bits())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let half = checksum_no_fold(&source.octets(), start);
            checksum_no_fold(&destination.octets(), half)
        }
        // No packet has both.
        _ => start,
    }
}

fn be16(octets: &[u8], at: usize) -> Option<u16> {
    octets
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_be_bytes)
}

fn be32(octets: &[u8], at: usize) -> Option<u32> {
    octets
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_be_bytes)
}

fn put16(octets: &mut [u8], at: usize, value: u16) {
    if let Some(place) = octets.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
