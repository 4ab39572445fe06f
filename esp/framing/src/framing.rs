// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What ESP puts around a payload and takes off again (RFC 4303 §2, §3.3, §3.4): pure functions over
//! a buffer and an SA. Between the two, whoever has the keys seals or opens.
//!
//! Sequence numbers and the replay window are the caller's: it takes a number before
//! [`Framing::frame`]; it looks at the window between [`Framing::locate`] and [`Framing::deframe`], and
//! moves it after.

use zerocopy::{FromBytes, IntoBytes};

use offload_api::queue::Status;
use offload_api::sa::{Cipher, Direction, Mode, OuterHeaders, SaParams, Spi, Suite};
use offload_api::wire::esp::{Header, NEXT_HEADER_DUMMY, PROTOCOL};
use offload_api::wire::ip::{
    self, Facts, Inner, Ipv4Header, Ipv6Header, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP,
};
use offload_api::wire::natt::UdpHeader;

use crate::packet::PacketBuffer;
use crate::template::Template;

/// The fixed part of an SA without its keys: what does not change from packet to packet.
#[derive(Clone, Debug)]
pub struct Framing {
    spi: Spi,
    direction: Direction,
    mode: Mode,
    suite: Suite,
    esn: bool,
    outer: Option<OuterHeaders>,
    /// The outer headers, where they make sense.
    template: Option<Template>,
    /// The suite's, at hand.
    iv_len: usize,
    icv_len: usize,
    alignment: usize,
}

/// An inbound packet whose headers are in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where ESP (or AH) starts in the packet.
    pub esp: usize,
    /// Low half of the sequence number.
    pub sequence_low: u32,
}

/// Where the parts of an ESP packet start: header and IV are in front of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Payload, padding and trailer, as encrypted.
    pub body: usize,
    /// The integrity check value, which goes to the end.
    pub icv: usize,
}

impl Layout {
    /// The parts of an ESP packet of this suite and length, if it can be one.
    #[inline]
    pub fn of(suite: Suite, len: usize) -> Option<Self> {
        Self::with(suite.iv_len(), suite.icv_len(), suite.alignment(), len)
    }

    #[inline]
    fn with(iv_len: usize, icv_len: usize, alignment: usize, len: usize) -> Option<Self> {
        let body = Header::LEN + iv_len;
        let icv = len.checked_sub(icv_len)?;
        let body_len = icv.checked_sub(body)?;
        // Alignments are powers of two.
        (body_len & (alignment - 1) == 0).then_some(Self { body, icv })
    }
}

/// An AEAD's nonce: salt, then IV (RFC 4106 §4, RFC 7634 §2). `head` is ESP header and IV.
#[inline]
pub fn nonce(salt: &[u8; 4], head: &[u8]) -> Option<[u8; 12]> {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(salt);
    nonce[4..].copy_from_slice(head.get(Header::LEN..Header::LEN + 8)?);
    Some(nonce)
}

/// An AEAD's additional data and its length: SPI and sequence number, the latter in full when it is
/// extended (RFC 4106 §5). `head` starts at the ESP header.
#[inline]
pub fn aad(head: &[u8], high: Option<u32>) -> ([u8; 12], usize) {
    let mut aad = [0; 12];
    let (Some(spi), Some(low)) = (head.get(..4), head.get(4..8)) else {
        return (aad, 8);
    };
    aad[..4].copy_from_slice(spi);
    match high {
        Some(high) => {
            aad[4..8].copy_from_slice(&high.to_be_bytes());
            aad[8..].copy_from_slice(low);
            (aad, 12)
        }
        None => {
            aad[4..8].copy_from_slice(low);
            (aad, 8)
        }
    }
}

impl Framing {
    /// Sets an SA up.
    pub fn new(sa: &SaParams) -> Self {
        Self {
            spi: sa.spi,
            direction: sa.direction,
            mode: sa.mode,
            suite: sa.suite,
            esn: sa.esn,
            outer: sa.outer,
            template: sa.outer.as_ref().and_then(Template::new),
            iv_len: sa.suite.iv_len(),
            icv_len: sa.suite.icv_len(),
            alignment: sa.suite.alignment(),
        }
    }

    /// The SA's direction.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The SA's SPI.
    #[inline]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The SA's mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The SA's algorithms.
    #[inline]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The SA's outer headers.
    #[inline]
    pub fn outer(&self) -> Option<&OuterHeaders> {
        self.outer.as_ref()
    }

    /// Whether sequence numbers are extended.
    #[inline]
    pub fn esn(&self) -> bool {
        self.esn
    }

    /// Replaces the outer headers (RFC 4555, NAT rebinding).
    pub fn set_outer(&mut self, outer: OuterHeaders) {
        self.template = Template::new(&outer);
        self.outer = Some(outer);
    }

    /// The parts of an ESP packet of this length, if it can be one of the SA's.
    #[inline]
    pub fn layout(&self, len: usize) -> Option<Layout> {
        Layout::with(self.iv_len, self.icv_len, self.alignment, len)
    }

    /// The high half of a number, where it is authenticated though not sent (RFC 4303 §2.2.1).
    #[inline]
    pub fn high(&self, sequence: u64) -> Option<u32> {
        self.esn.then_some((sequence >> 32) as u32)
    }

    /// Octets of IV that [`frame`](Self::frame) must be given, because they may not be predictable
    /// (RFC 3602 §2.1).
    pub fn random_iv_len(&self) -> usize {
        match self.suite.cipher() {
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            _ => 0,
        }
    }

    /// Makes an ESP packet of an IP packet (RFC 4303 §3.3), in place, growing at both ends: headers,
    /// IV, padding and trailer are there, the payload is in the clear yet, and there is room for the
    /// ICV. Tells where ESP starts.
    ///
    /// `iv` is what goes on the wire; without one an AEAD's IV is the sequence number, which is
    /// unique as long as that is, and a CBC suite refuses.
    ///
    /// # Errors
    /// [`Status::BadIpHeader`], [`Status::Fragment`] (transport mode), [`Status::NoSpace`],
    /// [`Status::BadLength`], or [`Status::WrongNumbering`] for a missing IV. The packet is in no state
    /// to be sent then.
    pub fn frame(
        &self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<usize, Status> {
        match self.mode {
            Mode::Tunnel => self.frame_tunnel(sequence, iv, packet),
            Mode::Transport => self.frame_transport(sequence, iv, packet),
        }
    }

    #[inline]
    fn frame_tunnel(
        &self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<usize, Status> {
        let len = packet.packet_len();
        let inner = Inner::of_part(packet.packet(), len).map_err(|_| Status::BadIpHeader)?;
        if inner.total_len != len {
            return Err(Status::BadIpHeader);
        }
        let next_header = if inner.v4 {
            PROTOCOL_IPV4
        } else {
            PROTOCOL_IPV6
        };
        self.pad(packet, len, next_header)?;
        let start = match (&self.template, &self.outer) {
            (Some(template), _) => template.len(),
            (None, None) => 0,
            // Refused at installation.
            (None, Some(_)) => return Err(Status::OuterMismatch),
        };
        if !packet.grow_front(start + Header::LEN + self.iv_len) {
            return Err(Status::NoSpace);
        }
        let whole = packet.packet_len();
        let octets = packet.packet();
        if let Some(template) = &self.template {
            template.write(octets, whole, &inner)?;
        }
        let esp = octets.get_mut(start..).ok_or(Status::NoSpace)?;
        self.write_header(esp, sequence, iv)?;
        Ok(start)
    }

    fn frame_transport(
        &self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<usize, Status> {
        let len = packet.packet_len();
        let facts = Facts::of_part(packet.packet(), len).map_err(|_| Status::BadIpHeader)?;
        if facts.total_len != len {
            return Err(Status::BadIpHeader);
        }
        // RFC 4303 §3.3.4: transport mode applies to whole datagrams only.
        if facts.fragment {
            return Err(Status::Fragment);
        }
        let kept = facts.esp_offset;
        self.pad(packet, facts.total_len - kept, facts.protected_protocol)?;
        let udp = self.outer.and_then(|outer| outer.udp);
        let start = kept + if udp.is_some() { UdpHeader::LEN } else { 0 };
        let inserted = start - kept + Header::LEN + self.iv_len;
        if !packet.grow_front(inserted) {
            return Err(Status::NoSpace);
        }
        let octets = packet.packet();
        if inserted + kept > octets.len() {
            return Err(Status::BadIpHeader);
        }
        octets.copy_within(inserted..inserted + kept, 0);
        let esp = octets.get_mut(start..).ok_or(Status::NoSpace)?;
        self.write_header(esp, sequence, iv)?;
        let udp_ports = udp.map(|udp| (udp.source_port, udp.destination_port));
        let len = packet.packet_len();
        finish_transport(packet.packet(), len, &facts, kept, udp_ports)?;
        Ok(start)
    }

    /// Padding 1, 2, 3, …, pad length and next header (RFC 4303 §2.4 to §2.6), and room for the ICV.
    fn pad(
        &self,
        packet: &mut impl PacketBuffer,
        payload_len: usize,
        next_header: u8,
    ) -> Result<(), Status> {
        const TRAILER: usize = 2;
        // Alignments are powers of two.
        let pad_len = (payload_len + TRAILER).wrapping_neg() & (self.alignment - 1);
        let tail = packet.grow_back(pad_len + TRAILER + self.icv_len);
        let tail = tail.ok_or(Status::NoSpace)?;
        // Alignment is 16 at most, so it fits its octet.
        let trailer = u64::from(next_header) << 8 | pad_len as u64;
        if pad_len <= 6
            && let Some(tail) = tail.first_chunk_mut::<8>()
        {
            // In one store; what is too much lies where the ICV goes.
            let padding = 0x06_05_04_03_02_01 & ((1 << (8 * pad_len)) - 1);
            *tail = (trailer << (8 * pad_len) | padding).to_le_bytes();
            return Ok(());
        }
        let (padding, tail) = tail.split_at_mut(pad_len);
        for (octet, value) in padding.iter_mut().zip(1u8..) {
            *octet = value;
        }
        if let [pad_field, next_field, ..] = tail {
            *pad_field = pad_len as u8;
            *next_field = next_header;
        }
        Ok(())
    }

    fn write_header(
        &self,
        esp: &mut [u8],
        sequence: u64,
        iv: Option<&[u8; 16]>,
    ) -> Result<(), Status> {
        let header = u64::from(self.spi.value()) << 32 | u64::from(sequence as u32);
        if let (None, 8) = (iv, self.iv_len) {
            // In one store.
            let both = u128::from(header) << 64 | u128::from(sequence);
            let room = esp.first_chunk_mut().ok_or(Status::NoSpace)?;
            *room = both.to_be_bytes();
            return Ok(());
        }
        let (room, rest) = esp.split_first_chunk_mut().ok_or(Status::NoSpace)?;
        *room = header.to_be_bytes();
        let field = rest.get_mut(..self.iv_len).ok_or(Status::NoSpace)?;
        match iv {
            Some(iv) => {
                field.copy_from_slice(iv.get(..self.iv_len).ok_or(Status::WrongNumbering)?);
            }
            None if self.iv_len == 0 => {}
            None => return Err(Status::WrongNumbering),
        }
        Ok(())
    }

    /// Finds the ESP header of an inbound packet and checks everything in front of the payload
    /// (RFC 4303 §3.4.2): outer headers against the SA's, the SPI, and the length.
    ///
    /// # Errors
    /// [`Status::BadIpHeader`], [`Status::Fragment`], [`Status::OuterMismatch`] or
    /// [`Status::BadLength`].
    #[inline]
    pub fn locate(&self, packet: &[u8]) -> Result<Located, Status> {
        self.locate_in(packet, packet.len())
    }

    /// As [`locate`](Self::locate), in a packet of `len` octets whose headers are all in this first
    /// part.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn locate_in(&self, packet: &[u8], len: usize) -> Result<Located, Status> {
        let esp = match &self.template {
            Some(template) if template.is_on(packet, len) => template.len(),
            None if self.outer.is_none() && self.mode == Mode::Tunnel => 0,
            _ => self.locate_behind_ip(packet, len)?,
        };
        let octets = packet.get(esp..).unwrap_or_default();
        let header = Header::parse(octets).ok_or(Status::BadLength)?;
        if header.spi.get() != self.spi.value() {
            return Err(Status::OuterMismatch);
        }
        let overhead = Header::LEN + self.iv_len + self.icv_len;
        match len.checked_sub(esp + overhead) {
            Some(body) if body >= 2 && body & (self.alignment - 1) == 0 => Ok(Located {
                esp,
                sequence_low: header.sequence.get(),
            }),
            _ => Err(Status::BadLength),
        }
    }

    fn locate_behind_ip(&self, packet: &[u8], len: usize) -> Result<usize, Status> {
        let facts = Facts::of_part(packet, len).map_err(|_| Status::BadIpHeader)?;
        if facts.total_len != len {
            return Err(Status::BadIpHeader);
        }
        if facts.fragment {
            return Err(Status::Fragment);
        }
        let ends = (facts.source, facts.destination);
        if self
            .outer
            .is_some_and(|outer| ends != (outer.source, outer.destination))
        {
            return Err(Status::OuterMismatch);
        }
        match (self.outer.and_then(|outer| outer.udp), facts.protocol) {
            (None, PROTOCOL) => Ok(facts.header_len),
            (Some(udp), PROTOCOL_UDP) => {
                let header = packet
                    .get(facts.header_len..)
                    .and_then(UdpHeader::parse)
                    .ok_or(Status::BadLength)?;
                let ports = (header.source_port.get(), header.destination_port.get());
                if ports != (udp.source_port, udp.destination_port) {
                    return Err(Status::OuterMismatch);
                }
                if usize::from(header.len.get()) != len - facts.header_len {
                    return Err(Status::BadLength);
                }
                Ok(facts.header_len + UdpHeader::LEN)
            }
            _ => Err(Status::OuterMismatch),
        }
    }

    /// Takes everything off an inbound packet that has been authenticated and decrypted in place
    /// (RFC 4303 §3.4.4), and tells its next header.
    ///
    /// # Errors
    /// [`Status::BadPad`], [`Status::BadNextHeader`], [`Status::BadIpHeader`], [`Status::BadLength`]. The
    /// packet is emptied: see [`wipe`].
    pub fn deframe(&self, located: Located, packet: &mut impl PacketBuffer) -> Result<u8, Status> {
        let result = self.deframe_inner(located, packet);
        if result.is_err() {
            wipe(packet);
        }
        result
    }

    fn deframe_inner(
        &self,
        located: Located,
        packet: &mut impl PacketBuffer,
    ) -> Result<u8, Status> {
        let from = located.esp + Header::LEN + self.iv_len;
        let len = packet.packet_len();
        let plain_len = len
            .checked_sub(from + self.icv_len)
            .ok_or(Status::BadLength)?;
        let (payload_len, next_header) = strip_padding(packet, from, plain_len)?;
        match self.mode {
            Mode::Tunnel => {
                let payload = packet.packet().get(from..).ok_or(Status::BadLength)?;
                let payload = payload.get(..payload_len).unwrap_or(payload);
                let inner_len = match next_header {
                    NEXT_HEADER_DUMMY => payload_len,
                    PROTOCOL_IPV4 | PROTOCOL_IPV6 => {
                        let inner = Inner::of_part(payload, payload_len);
                        let inner = inner.map_err(|_| Status::BadIpHeader)?;
                        if inner.v4 != (next_header == PROTOCOL_IPV4) {
                            return Err(Status::BadNextHeader);
                        }
                        // The rest is traffic-flow-confidentiality padding (RFC 4303 §2.7).
                        inner.total_len
                    }
                    _ => return Err(Status::BadNextHeader),
                };
                if !packet.shrink_front(from) {
                    return Err(Status::BadLength);
                }
                packet.truncate(inner_len);
                Ok(next_header)
            }
            Mode::Transport => {
                let octets = packet.packet();
                let facts = Facts::of_part(octets, len).map_err(|_| Status::BadIpHeader)?;
                let kept = facts.esp_offset;
                if from > octets.len() {
                    return Err(Status::BadLength);
                }
                let removed = from.checked_sub(kept).ok_or(Status::BadLength)?;
                octets.copy_within(..kept, removed);
                if !packet.shrink_front(removed) {
                    return Err(Status::BadLength);
                }
                packet.truncate(kept + payload_len);
                let len = packet.packet_len();
                patch_ip_header(packet.packet(), len, facts.protocol_field, next_header)?;
                Ok(next_header)
            }
        }
    }
}

/// Empties a packet: nothing unauthenticated stays reachable.
pub fn wipe(packet: &mut impl PacketBuffer) {
    packet.zero();
    packet.truncate(0);
}

/// The octets of payload in `plain_len` octets at `from`, without padding and trailer, and the next
/// header.
#[inline]
fn strip_padding(
    packet: &mut impl PacketBuffer,
    from: usize,
    plain_len: usize,
) -> Result<(usize, u8), Status> {
    const TRAILER: usize = 2;
    /// Padding that suites need at most; there may be more, to hide lengths.
    const USUAL: usize = 15;
    let unpadded = plain_len.checked_sub(TRAILER).ok_or(Status::BadLength)?;
    let mut room = [0; TRAILER];
    let Some(&[pad_len, next_header]) = packet.part(from + unpadded, &mut room) else {
        return Err(Status::BadLength);
    };
    let payload_len = unpadded.checked_sub(usize::from(pad_len));
    let payload_len = payload_len.ok_or(Status::BadPad)?;
    let padding = usize::from(pad_len);
    let good = if padding <= USUAL {
        is_padding(packet, from + payload_len, [0; USUAL].get_mut(..padding))
    } else {
        let mut room = [0; u8::MAX as usize];
        is_padding(packet, from + payload_len, room.get_mut(..padding))
    };
    good.then_some((payload_len, next_header))
        .ok_or(Status::BadPad)
}

/// Whether it is 1, 2, 3, …: the default content is inspected (RFC 4303 §2.4).
#[inline]
fn is_padding(packet: &mut impl PacketBuffer, at: usize, room: Option<&mut [u8]>) -> bool {
    let padding = room.and_then(|room| packet.part(at, room));
    padding.is_some_and(|padding| {
        let mut pairs = padding.iter().zip(1u8..);
        pairs.all(|(octet, expected)| *octet == expected)
    })
}

pub(crate) fn prepend(packet: &mut impl PacketBuffer, header: &[u8]) -> Result<(), Status> {
    if !packet.grow_front(header.len()) {
        return Err(Status::NoSpace);
    }
    packet
        .packet()
        .get_mut(..header.len())
        .ok_or(Status::NoSpace)?
        .copy_from_slice(header);
    Ok(())
}

/// Makes the kept IP header announce ESP (or UDP), and writes the UDP header.
fn finish_transport(
    octets: &mut [u8],
    packet_len: usize,
    facts: &Facts,
    kept: usize,
    udp_ports: Option<(u16, u16)>,
) -> Result<(), Status> {
    let mut protocol = PROTOCOL;
    if let Some((source_port, destination_port)) = udp_ports {
        let header = UdpHeader {
            source_port: source_port.into(),
            destination_port: destination_port.into(),
            len: u16::try_from(packet_len - kept)
                .map_err(|_| Status::BadLength)?
                .into(),
            checksum: 0.into(),
        };
        let field = octets.get_mut(kept..).ok_or(Status::NoSpace)?;
        header.write_to_prefix(field).map_err(|_| Status::NoSpace)?;
        protocol = PROTOCOL_UDP;
    }
    patch_ip_header(octets, packet_len, facts.protocol_field, protocol)
}

/// Sets protocol, length and checksum of an IP header that stays, of a packet of `len` octets.
pub(crate) fn patch_ip_header(
    octets: &mut [u8],
    len: usize,
    field: usize,
    protocol: u8,
) -> Result<(), Status> {
    *octets.get_mut(field).ok_or(Status::BadIpHeader)? = protocol;
    if octets.first().is_some_and(|octet| octet >> 4 == 4) {
        let (header, _) = Ipv4Header::mut_from_prefix(octets).map_err(|_| Status::BadIpHeader)?;
        header.total_len = u16::try_from(len).map_err(|_| Status::BadLength)?.into();
        header.checksum = 0.into();
        let header_len = usize::from(header.version_ihl & 0x0f) * 4;
        let sum = ip::checksum(octets.get(..header_len).ok_or(Status::BadIpHeader)?);
        octets
            .get_mut(10..12)
            .ok_or(Status::BadIpHeader)?
            .copy_from_slice(&sum.to_be_bytes());
    } else {
        let payload = len
            .checked_sub(Ipv6Header::LEN)
            .ok_or(Status::BadIpHeader)?;
        let payload = u16::try_from(payload).map_err(|_| Status::BadLength)?;
        octets
            .get_mut(4..6)
            .ok_or(Status::BadIpHeader)?
            .copy_from_slice(&payload.to_be_bytes());
    }
    Ok(())
}
