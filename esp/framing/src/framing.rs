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
use crate::trailer::{TRAILER, strip_padding, strip_pieces, write_trailer};

/// The fixed part of an SA without its keys: what does not change from packet to packet.
#[derive(Clone, Debug)]
pub struct Framing {
    spi: Spi,
    direction: Direction,
    mode: Mode,
    suite: Suite,
    esn: bool,
    /// By themselves: in most tunnels the socket writes them.
    outer: Option<Box<Outer>>,
    /// The suite's, at hand.
    iv_len: u8,
    icv_len: u8,
    alignment: u8,
    /// Whether packets may go on behind what they say of themselves (RFC 4303 §2.7).
    tfc_padding: bool,
}

/// The outer headers of an SA.
#[derive(Clone, Debug)]
struct Outer {
    headers: OuterHeaders,
    /// As they are written, where they make sense.
    template: Option<Template>,
}

impl Outer {
    fn new(headers: OuterHeaders) -> Box<Self> {
        let template = Template::new(&headers);
        Box::new(Self { headers, template })
    }
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
            outer: sa.outer.map(Outer::new),
            iv_len: sa.suite.iv_len() as u8,
            icv_len: sa.suite.icv_len() as u8,
            alignment: sa.suite.alignment() as u8,
            tfc_padding: sa.tfc_padding,
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
        self.outer.as_ref().map(|outer| &outer.headers)
    }

    #[inline]
    fn template(&self) -> Option<&Template> {
        self.outer.as_ref()?.template.as_ref()
    }

    /// Octets of IV in a packet.
    #[inline]
    pub fn iv_len(&self) -> usize {
        self.iv_len.into()
    }

    /// Octets of ICV.
    #[inline]
    pub fn icv_len(&self) -> usize {
        self.icv_len.into()
    }

    /// What payload and trailer together are a multiple of.
    #[inline]
    pub fn alignment(&self) -> usize {
        self.alignment.into()
    }

    /// Whether sequence numbers are extended.
    #[inline]
    pub fn esn(&self) -> bool {
        self.esn
    }

    /// Replaces the outer headers (RFC 4555, NAT rebinding).
    pub fn set_outer(&mut self, outer: OuterHeaders) {
        self.outer = Some(Outer::new(outer));
    }

    /// The parts of an ESP packet of this length, if it can be one of the SA's.
    #[inline]
    pub fn layout(&self, len: usize) -> Option<Layout> {
        Layout::with(self.iv_len(), self.icv_len(), self.alignment(), len)
    }

    /// The high half of a number, where it is authenticated though not sent (RFC 4303 §2.2.1).
    #[inline]
    pub fn high(&self, sequence: u64) -> Option<u32> {
        self.esn.then_some((sequence >> 32) as u32)
    }

    /// Octets of IV that [`frame`](Self::frame) must be given, because they may not be predictable
    /// (RFC 3602 §2.1). DES takes the first eight of them.
    pub fn random_iv_len(&self) -> usize {
        match self.suite.cipher() {
            _ if self.mode == Mode::Crypto => 0,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            Cipher::TripleDesCbc | Cipher::DesCbc => 16,
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
            Mode::Crypto => self.frame_crypto(packet),
        }
    }

    /// Of what is framed already: room for the ICV.
    fn frame_crypto(&self, packet: &mut impl PacketBuffer) -> Result<usize, Status> {
        let grown = packet.grow_back(self.icv_len());
        grown.map(|_| 0).ok_or(Status::NoSpace)
    }

    /// The full number of a packet in [`Mode::Crypto`], sealed or not: an extended one comes with the
    /// operation, and any other must not.
    ///
    /// # Errors
    /// [`Status::BadLength`], [`Status::OuterMismatch`] for another SPI, or [`Status::WrongNumbering`].
    #[inline(always)]
    pub fn locate_crypto(
        &self,
        packet: &[u8],
        len: usize,
        given: Option<u64>,
    ) -> Result<u64, Status> {
        let header = packet.first_chunk().ok_or(Status::BadLength)?;
        let [spi, low] = [
            (u64::from_be_bytes(*header) >> 32) as u32,
            u64::from_be_bytes(*header) as u32,
        ];
        if spi != self.spi.value() {
            return Err(Status::OuterMismatch);
        }
        match len.checked_sub(self.around_crypto()) {
            Some(body) if body & (self.alignment() - 1) == 0 => {}
            _ => return Err(Status::BadLength),
        }
        match given {
            None if !self.esn => Ok(low.into()),
            Some(sequence) if self.esn && sequence as u32 == low => Ok(sequence),
            _ => Err(Status::WrongNumbering),
        }
    }

    /// Octets of a packet in [`Mode::Crypto`] beside its body: what is sealed has no ICV yet.
    #[inline]
    pub fn around_crypto(&self) -> usize {
        let icv = match self.direction {
            Direction::Outbound => 0,
            Direction::Inbound => self.icv_len(),
        };
        Header::LEN + self.iv_len() + icv
    }

    fn frame_tunnel(
        &self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<usize, Status> {
        let len = packet.packet_len();
        if packet.whole().is_some() {
            return Ok(self.frame_whole(sequence, iv, packet)?.1);
        }
        let inner = inner(packet.packet(), len, self.tfc_padding)?;
        self.pad(packet, len, inner.0)?;
        let start = self.start()?;
        if !packet.grow_front(start + Header::LEN + self.iv_len()) {
            return Err(Status::NoSpace);
        }
        let whole = packet.packet_len();
        self.write_front(packet.packet(), whole, &inner.1, sequence, iv)?;
        Ok(start)
    }

    /// As [`frame`](Self::frame) in tunnel mode, for a packet that lies in one piece; gives it, and
    /// where ESP starts.
    ///
    /// # Errors
    /// As there; [`Status::NoSpace`] for one in several pieces.
    #[inline(always)]
    pub fn frame_whole<'packet>(
        &self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &'packet mut impl PacketBuffer,
    ) -> Result<(&'packet mut [u8], usize), Status> {
        let len = packet.packet_len();
        let (start, pad_len) = (self.start()?, self.pad_len(len));
        let front = start + Header::LEN + self.iv_len();
        let back = pad_len + TRAILER + self.icv_len();
        if !packet.has_room(front, back) {
            // Of a packet that has neither a header nor room, the header is told.
            inner(
                packet.whole().ok_or(Status::NoSpace)?,
                len,
                self.tfc_padding,
            )?;
            return Err(Status::NoSpace);
        }
        let octets = packet.grow(front, back).ok_or(Status::NoSpace)?;
        let (head, body) = octets.split_at_mut_checked(front).ok_or(Status::NoSpace)?;
        let (packet, tail) = body.split_at_mut_checked(len).ok_or(Status::NoSpace)?;
        let (next_header, inner) = inner(packet, len, self.tfc_padding)?;
        write_trailer(tail, pad_len, next_header);
        let whole = front + len + tail.len();
        self.write_front(head, whole, &inner, sequence, iv)?;
        Ok((octets, start))
    }

    /// Where ESP starts in tunnel mode.
    #[inline]
    fn start(&self) -> Result<usize, Status> {
        match (self.template(), &self.outer) {
            (Some(template), _) => Ok(template.len()),
            (None, None) => Ok(0),
            // Refused at installation.
            (None, Some(_)) => Err(Status::OuterMismatch),
        }
    }

    /// Outer headers, ESP header and IV of a packet of `whole` octets with them.
    #[inline(always)]
    fn write_front(
        &self,
        octets: &mut [u8],
        whole: usize,
        inner: &Inner,
        sequence: u64,
        iv: Option<&[u8; 16]>,
    ) -> Result<(), Status> {
        let mut start = 0;
        if let Some(template) = self.template() {
            template.write(octets, whole, inner)?;
            start = template.len();
        }
        let esp = octets.get_mut(start..).ok_or(Status::NoSpace)?;
        self.write_header(esp, sequence, iv)
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
        let udp = self.outer().and_then(|outer| outer.udp);
        let start = kept + if udp.is_some() { UdpHeader::LEN } else { 0 };
        let inserted = start - kept + Header::LEN + self.iv_len();
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

    /// Octets of padding.
    #[inline]
    fn pad_len(&self, payload_len: usize) -> usize {
        // Alignments are powers of two.
        (payload_len + TRAILER).wrapping_neg() & (self.alignment() - 1)
    }

    /// Trailer, and room for the ICV.
    fn pad(
        &self,
        packet: &mut impl PacketBuffer,
        payload_len: usize,
        next_header: u8,
    ) -> Result<(), Status> {
        let pad_len = self.pad_len(payload_len);
        let tail = packet.grow_back(pad_len + TRAILER + self.icv_len());
        write_trailer(tail.ok_or(Status::NoSpace)?, pad_len, next_header);
        Ok(())
    }

    #[inline(always)]
    fn write_header(
        &self,
        esp: &mut [u8],
        sequence: u64,
        iv: Option<&[u8; 16]>,
    ) -> Result<(), Status> {
        let header = u64::from(self.spi.value()) << 32 | u64::from(sequence as u32);
        // DES has eight octets of IV as well, which may not be predictable; its blocks tell it.
        if let (None, 8, 4) = (iv, self.iv_len(), self.alignment()) {
            // In one store.
            let both = u128::from(header) << 64 | u128::from(sequence);
            let room = esp.first_chunk_mut().ok_or(Status::NoSpace)?;
            *room = both.to_be_bytes();
            return Ok(());
        }
        self.write_header_with(esp, header, iv)
    }

    /// Header, and an IV that is given, or none where the suite has none.
    #[inline(never)]
    fn write_header_with(
        &self,
        esp: &mut [u8],
        header: u64,
        iv: Option<&[u8; 16]>,
    ) -> Result<(), Status> {
        let (room, rest) = esp.split_first_chunk_mut().ok_or(Status::NoSpace)?;
        *room = header.to_be_bytes();
        let field = rest.get_mut(..self.iv_len()).ok_or(Status::NoSpace)?;
        match iv {
            Some(iv) => {
                field.copy_from_slice(iv.get(..self.iv_len()).ok_or(Status::WrongNumbering)?);
            }
            None if self.iv_len() == 0 => {}
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
    #[inline(always)]
    pub fn locate(&self, packet: &[u8]) -> Result<Located, Status> {
        self.locate_in(packet, packet.len())
    }

    /// As [`locate`](Self::locate), in a packet of `len` octets whose headers are all in this first
    /// part.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn locate_in(&self, packet: &[u8], len: usize) -> Result<Located, Status> {
        let esp = match self.template() {
            Some(template) if template.is_on(packet, len) => template.len(),
            None if self.outer.is_none() && self.mode == Mode::Tunnel => 0,
            _ => self.locate_behind_ip(packet, len)?,
        };
        let octets = packet.get(esp..).unwrap_or_default();
        let header = Header::parse(octets).ok_or(Status::BadLength)?;
        if header.spi.get() != self.spi.value() {
            return Err(Status::OuterMismatch);
        }
        let overhead = Header::LEN + self.iv_len() + self.icv_len();
        match len.checked_sub(esp + overhead) {
            Some(body) if body >= 2 && body & (self.alignment() - 1) == 0 => Ok(Located {
                esp,
                sequence_low: header.sequence.get(),
            }),
            _ => Err(Status::BadLength),
        }
    }

    #[inline(never)]
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
            .outer()
            .is_some_and(|outer| ends != (outer.source, outer.destination))
        {
            return Err(Status::OuterMismatch);
        }
        match (self.outer().and_then(|outer| outer.udp), facts.protocol) {
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
    #[inline(always)]
    pub fn deframe(&self, located: Located, packet: &mut impl PacketBuffer) -> Result<u8, Status> {
        let result = self.deframe_inner(located, packet);
        if result.is_err() {
            wipe(packet);
        }
        result
    }

    #[inline(always)]
    fn deframe_inner(
        &self,
        located: Located,
        packet: &mut impl PacketBuffer,
    ) -> Result<u8, Status> {
        let from = located.esp + Header::LEN + self.iv_len();
        let len = packet.packet_len();
        if self.mode == Mode::Crypto {
            packet.truncate(len.checked_sub(self.icv_len()).ok_or(Status::BadLength)?);
            return Ok(0);
        }
        let plain_len = len
            .checked_sub(from + self.icv_len())
            .ok_or(Status::BadLength)?;
        let (stripped, next_header) = match packet.whole() {
            Some(octets) => {
                let plain = octets.get(from..from + plain_len);
                let plain = plain.ok_or(Status::BadLength)?;
                let (stripped, next_header) = strip_padding(plain)?;
                if self.mode == Mode::Tunnel {
                    let payload_len = plain_len - stripped;
                    let payload = plain.get(..payload_len).ok_or(Status::BadLength)?;
                    let inner_len = inner_len(payload, payload_len, next_header)?;
                    let kept = packet.keep(from, inner_len);
                    return kept.then_some(next_header).ok_or(Status::BadLength);
                }
                (stripped, next_header)
            }
            None => strip_pieces(packet, from, plain_len)?,
        };
        let payload_len = plain_len - stripped;
        match self.mode {
            Mode::Tunnel => {
                let payload = packet.packet().get(from..).ok_or(Status::BadLength)?;
                let payload = payload.get(..payload_len).unwrap_or(payload);
                let inner_len = inner_len(payload, payload_len, next_header)?;
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
            // Its trailer is its caller's.
            Mode::Crypto => Ok(0),
        }
    }
}

/// The inner packet of a tunnel, and its next header; `padded` is whether padding may be behind it.
#[inline]
fn inner(packet: &[u8], len: usize, padded: bool) -> Result<(u8, Inner), Status> {
    let inner = Inner::of_part(packet, len).map_err(|_| Status::BadIpHeader)?;
    if inner.total_len != len && !padded {
        return Err(Status::BadIpHeader);
    }
    let next_header = if inner.v4 {
        PROTOCOL_IPV4
    } else {
        PROTOCOL_IPV6
    };
    Ok((next_header, inner))
}

/// Empties a packet: nothing unauthenticated stays reachable.
#[cold]
pub fn wipe(packet: &mut impl PacketBuffer) {
    packet.zero();
    packet.truncate(0);
}

/// Octets of the inner packet at the front of a payload of `payload_len`.
#[inline]
fn inner_len(payload: &[u8], payload_len: usize, next_header: u8) -> Result<usize, Status> {
    match next_header {
        NEXT_HEADER_DUMMY => Ok(payload_len),
        PROTOCOL_IPV4 | PROTOCOL_IPV6 => {
            let inner = Inner::of_part(payload, payload_len);
            let inner = inner.map_err(|_| Status::BadIpHeader)?;
            if inner.v4 != (next_header == PROTOCOL_IPV4) {
                return Err(Status::BadNextHeader);
            }
            // The rest is traffic-flow-confidentiality padding (RFC 4303 §2.7).
            Ok(inner.total_len)
        }
        _ => Err(Status::BadNextHeader),
    }
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
