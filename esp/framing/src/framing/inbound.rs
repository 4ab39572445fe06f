// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is taken off again (RFC 4303 §3.4).

use offload_api::queue::Status;
use offload_api::sa::Mode;
use offload_api::wire::esp::{Header, NEXT_HEADER_DUMMY, PROTOCOL};
use offload_api::wire::ip::{Facts, Inner, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP};
use offload_api::wire::natt::UdpHeader;

use super::{Framing, Located, patch_ip_header};
use crate::packet::PacketBuffer;
use crate::trailer::{strip_padding, strip_pieces};

impl Framing {
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
