// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What ESP puts around a payload and takes off again (RFC 4303 §2, §3.3, §3.4): pure functions over
//! a buffer and an SA. Between the two, whoever has the keys seals or opens.
//!
//! Sequence numbers and the replay window are the caller's: it takes a number before
//! [`Framing::frame`]; it looks at the window between [`Framing::locate`] and [`Framing::deframe`], and
//! moves it after.

mod inbound;
mod outbound;

use zerocopy::FromBytes;

use offload_api::queue::Status;
use offload_api::sa::{Direction, Mode, OuterHeaders, SaParams, Spi, Suite};
use offload_api::wire::esp::Header;
use offload_api::wire::ip::{self, Ipv4Header, Ipv6Header};

use crate::template::Template;

pub use inbound::wipe;
pub(crate) use outbound::prepend;

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
