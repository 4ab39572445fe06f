// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AH without its cryptography (RFC 4302 §3.3, §3.4): puts the header into a packet and takes it out
//! again.
//!
//! As with ESP, sequence numbers and the replay window are the caller's.

mod mutable;

use std::net::IpAddr;

use zerocopy::IntoBytes;

use offload_api::queue::Status;
use offload_api::sa::{Direction, Mode, OuterHeaders, SaParams, Spi, Suite};
use offload_api::wire::ah::{Header, PROTOCOL};
use offload_api::wire::ip::{self, Facts, Ipv4Header, Ipv6Header, PROTOCOL_IPV4, PROTOCOL_IPV6};

use crate::framing::{Located, patch_ip_header, prepend, wipe};
use crate::packet::PacketBuffer;

pub use mutable::{Side, immutable};

/// Most octets of an ICV field: what HMAC-SHA-512-256 has.
pub const ICV_MAX: usize = 32;

/// The fixed part of an SA without its keys: what does not change from packet to packet.
#[derive(Clone, Debug)]
pub struct AhFraming {
    spi: Spi,
    direction: Direction,
    mode: Mode,
    suite: Suite,
    esn: bool,
    outer: Option<OuterHeaders>,
}

impl AhFraming {
    /// Sets an SA up.
    pub fn new(sa: &SaParams) -> Self {
        Self {
            spi: sa.spi,
            direction: sa.direction,
            mode: sa.mode,
            suite: sa.suite,
            esn: sa.esn,
            outer: sa.outer,
        }
    }

    /// The SA's direction.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The SA's algorithm.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Replaces the outer headers (RFC 4555).
    pub fn set_outer(&mut self, outer: OuterHeaders) {
        self.outer = Some(outer);
    }

    /// The high half of a number, where it is authenticated though not sent (RFC 4302 §2.5.1).
    pub fn high(&self, sequence: u64) -> Option<u32> {
        self.esn.then_some((sequence >> 32) as u32)
    }

    /// Octets of the ICV field without padding: a GMAC's has the IV in front (RFC 4543 §5).
    pub fn icv_field_len(&self) -> usize {
        self.suite.iv_len() + self.suite.icv_len()
    }

    /// Octets of the whole header: a multiple of 4 in IPv4, of 8 in IPv6 (RFC 4302 §2.2).
    fn header_len(&self, ipv4: bool) -> usize {
        (Header::LEN + self.icv_field_len()).next_multiple_of(if ipv4 { 4 } else { 8 })
    }

    /// Puts AH into an IP packet (RFC 4302 §3.1, §3.3), growing in front: everything is there save
    /// for the ICV, which is zero. Tells where AH starts.
    ///
    /// # Errors
    /// [`Status::BadIpHeader`], [`Status::Fragment`] (transport mode), [`Status::NoSpace`],
    /// [`Status::BadLength`], [`Status::OuterMismatch`]. The packet is in no state to be sent then.
    pub fn frame(&self, sequence: u64, packet: &mut impl PacketBuffer) -> Result<usize, Status> {
        let facts = Facts::of(packet.packet()).map_err(|_| Status::BadIpHeader)?;
        if facts.total_len != packet.packet().len() {
            return Err(Status::BadIpHeader);
        }
        match self.mode {
            Mode::Tunnel => self.frame_tunnel(sequence, &facts, packet),
            // RFC 4302 §3.3.4: AH in transport mode applies to whole datagrams only.
            Mode::Transport if facts.fragment => Err(Status::Fragment),
            // Refused at installation.
            Mode::Crypto => Err(Status::SaInvalid),
            Mode::Transport => {
                let len = self.header_len(facts.source.is_ipv4());
                let at = facts.esp_offset;
                if !packet.grow_front(len) {
                    return Err(Status::NoSpace);
                }
                let octets = packet.packet();
                octets.copy_within(len..len + at, 0);
                self.write_header(octets, at, len, sequence, facts.protected_protocol)?;
                patch_ip_header(octets, octets.len(), facts.protocol_field, PROTOCOL)?;
                Ok(at)
            }
        }
    }

    fn frame_tunnel(
        &self,
        sequence: u64,
        inner: &Facts,
        packet: &mut impl PacketBuffer,
    ) -> Result<usize, Status> {
        // Both are refused at installation.
        let outer = self.outer.ok_or(Status::OuterMismatch)?;
        let ipv4 = outer.source.is_ipv4();
        let next_header = if inner.source.is_ipv4() {
            PROTOCOL_IPV4
        } else {
            PROTOCOL_IPV6
        };
        let len = self.header_len(ipv4);
        if !packet.grow_front(len) {
            return Err(Status::NoSpace);
        }
        self.write_header(packet.packet(), 0, len, sequence, next_header)?;
        let body = packet.packet().len();
        match (outer.source, outer.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = body + Ipv4Header::LEN;
                let total = u16::try_from(total).map_err(|_| Status::BadLength)?;
                let mut header = ip::outer_v4(source, destination, PROTOCOL, total, &inner.into());
                // It is authenticated, and a host that sends the packet would fill a zero in.
                header.id = (sequence as u16).max(1).into();
                header.checksum = 0.into();
                header.checksum = ip::checksum(header.as_bytes()).into();
                prepend(packet, header.as_bytes())?;
                Ok(Ipv4Header::LEN)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let body = u16::try_from(body).map_err(|_| Status::BadLength)?;
                let header = ip::outer_v6(source, destination, PROTOCOL, body, &inner.into());
                prepend(packet, header.as_bytes())?;
                Ok(Ipv6Header::LEN)
            }
            _ => Err(Status::OuterMismatch),
        }
    }

    fn write_header(
        &self,
        octets: &mut [u8],
        at: usize,
        len: usize,
        sequence: u64,
        next_header: u8,
    ) -> Result<(), Status> {
        let field = octets.get_mut(at..at + len).ok_or(Status::NoSpace)?;
        field.fill(0);
        let header = Header {
            next_header,
            // At most 48 octets.
            payload_len: (len / 4 - 2) as u8,
            reserved: 0.into(),
            spi: self.spi.value().into(),
            sequence: (sequence as u32).into(),
        };
        header.write_to_prefix(field).map_err(|_| Status::NoSpace)
    }

    /// Finds AH in an inbound packet and checks everything in front of what it protects (RFC 4302
    /// §3.4.2): outer addresses against the SA's, the SPI, and its length.
    ///
    /// # Errors
    /// [`Status::BadIpHeader`], [`Status::Fragment`], [`Status::OuterMismatch`] or
    /// [`Status::BadLength`].
    pub fn locate(&self, packet: &[u8]) -> Result<Located, Status> {
        let facts = Facts::of(packet).map_err(|_| Status::BadIpHeader)?;
        if facts.total_len != packet.len() {
            return Err(Status::BadIpHeader);
        }
        if facts.fragment {
            return Err(Status::Fragment);
        }
        let ends = (facts.source, facts.destination);
        let fits = |outer: OuterHeaders| ends == (outer.source, outer.destination);
        if facts.protocol != PROTOCOL || !self.outer.is_none_or(fits) {
            return Err(Status::OuterMismatch);
        }
        let octets = packet.get(facts.header_len..).unwrap_or_default();
        let header = Header::parse(octets).ok_or(Status::BadLength)?;
        if header.spi.get() != self.spi.value() {
            return Err(Status::OuterMismatch);
        }
        let len = header.whole_len();
        let ipv4 = facts.source.is_ipv4();
        // Linux pads to 8 octets in IPv4 too, unless its SA says otherwise (XFRM_STATE_ALIGN4).
        let fits = len == self.header_len(ipv4) || len == self.header_len(false);
        if !fits || len > octets.len() {
            return Err(Status::BadLength);
        }
        Ok(Located {
            esp: facts.header_len,
            sequence_low: header.sequence.get(),
        })
    }

    /// Takes AH, and in tunnel mode what is in front of it, off an inbound packet that has been
    /// authenticated (RFC 4302 §3.4), and tells its next header.
    ///
    /// # Errors
    /// [`Status::BadNextHeader`], [`Status::BadIpHeader`], [`Status::BadLength`]. The packet is emptied:
    /// see [`wipe`].
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
        let octets = packet.packet();
        let at = located.esp;
        let header = octets.get(at..).and_then(Header::parse);
        let header = header.ok_or(Status::BadLength)?;
        let (len, next_header) = (header.whole_len(), header.next_header);
        let payload = octets.get(at + len..).ok_or(Status::BadLength)?;
        match self.mode {
            // Refused at installation.
            Mode::Crypto => Err(Status::SaInvalid),
            Mode::Tunnel => {
                if !matches!(next_header, PROTOCOL_IPV4 | PROTOCOL_IPV6) {
                    return Err(Status::BadNextHeader);
                }
                let facts = Facts::of(payload).map_err(|_| Status::BadIpHeader)?;
                if facts.source.is_ipv4() != (next_header == PROTOCOL_IPV4) {
                    return Err(Status::BadNextHeader);
                }
                // AH has no padding behind what it carries.
                if facts.total_len != payload.len() {
                    return Err(Status::BadLength);
                }
                if !packet.shrink_front(at + len) {
                    return Err(Status::BadLength);
                }
                Ok(next_header)
            }
            Mode::Transport => {
                let field = mutable::protocol_field(octets, at)?;
                octets.copy_within(..at, len);
                if !packet.shrink_front(len) {
                    return Err(Status::BadLength);
                }
                let octets = packet.packet();
                patch_ip_header(octets, octets.len(), field, next_header)?;
                Ok(next_header)
            }
        }
    }
}
