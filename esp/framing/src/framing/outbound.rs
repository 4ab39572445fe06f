// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is put around a payload (RFC 4303 §3.3).

use zerocopy::IntoBytes;

use offload_api::queue::Status;
use offload_api::sa::{Cipher, Mode};
use offload_api::wire::esp::{Header, PROTOCOL};
use offload_api::wire::ip::{Facts, Inner, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP};
use offload_api::wire::natt::UdpHeader;

use super::{Framing, patch_ip_header};
use crate::packet::PacketBuffer;
use crate::trailer::{TRAILER, write_trailer};

impl Framing {
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
