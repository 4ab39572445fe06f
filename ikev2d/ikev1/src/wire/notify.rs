// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Notifications and deletions (RFC 2408 §3.14, §3.15).

use super::sa::DOI_IPSEC;
use super::{Reader, WireError};

/// The payload makes no sense.
pub const PAYLOAD_MALFORMED: u16 = 16;
/// No proposal fits.
pub const NO_PROPOSAL_CHOSEN: u16 = 14;
/// No such proxy ids.
pub const INVALID_ID_INFORMATION: u16 = 18;
/// The HASH does not fit.
pub const INVALID_HASH_INFORMATION: u16 = 23;
/// The peer is not who it says.
pub const AUTHENTICATION_FAILED: u16 = 24;
/// First of the status notifications; below are errors.
pub const FIRST_STATUS: u16 = 16384;
/// The SA may be used (commit bit).
pub const CONNECTED: u16 = 16384;
/// Lifetime that the responder has set (RFC 2407 §4.6.3.1).
pub const RESPONDER_LIFETIME: u16 = 24576;
/// Whether replayed packets are refused (RFC 2407 §4.6.3.2).
pub const REPLAY_STATUS: u16 = 24577;
/// The peer has no other SAs with us (RFC 2407 §4.6.3.3).
pub const INITIAL_CONTACT: u16 = 24578;
/// Are you there? (RFC 3706 §5.2)
pub const R_U_THERE: u16 = 36136;
/// Yes.
pub const R_U_THERE_ACK: u16 = 36137;

/// A notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'payload> {
    /// Protocol that it is about.
    pub protocol: u8,
    /// SPI that it is about.
    pub spi: &'payload [u8],
    /// Type.
    pub kind: u16,
    /// Data.
    pub data: &'payload [u8],
}

impl<'payload> Notify<'payload> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(body: &'payload [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        // RFC 2408 lets the DOI be 0 for what is ISAKMP's own.
        reader.take(4)?;
        let (protocol, spi_len, kind) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let spi = reader.take(spi_len.into())?;
        let data = reader.rest();
        Ok(Self {
            protocol,
            spi,
            kind,
            data,
        })
    }

    /// Emits a body.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = DOI_IPSEC.to_be_bytes().to_vec();
        out.extend([self.protocol, self.spi.len() as u8]);
        out.extend(self.kind.to_be_bytes());
        out.extend(self.spi);
        out.extend(self.data);
        out
    }
}

/// A deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete<'payload> {
    /// Protocol of the SAs.
    pub protocol: u8,
    /// Their SPIs.
    pub spis: Vec<&'payload [u8]>,
}

impl<'payload> Delete<'payload> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`WireError`]: the SPIs don't fill the payload exactly.
    pub fn parse(body: &'payload [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.take(4)?;
        let (protocol, spi_len, count) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let spi_len = usize::from(spi_len);
        if spi_len == 0 || reader.rest().len() != spi_len * usize::from(count) {
            return Err(WireError::Length);
        }
        let spis = reader.rest().chunks_exact(spi_len).collect();
        Ok(Self { protocol, spis })
    }

    /// Emits a body; every SPI has the first one's length.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = DOI_IPSEC.to_be_bytes().to_vec();
        let len = self.spis.first().map_or(0, |spi| spi.len());
        out.extend([self.protocol, len as u8]);
        out.extend((self.spis.len() as u16).to_be_bytes());
        self.spis.iter().for_each(|spi| out.extend(*spi));
        out
    }
}

/// What notifications without a name are counted as.
const UNKNOWN: &str = "an unknown error";

/// An error's name in RFC 2408 §3.14.1; all that have none there have one in common.
pub fn name(kind: u16) -> &'static str {
    match kind {
        1 => "INVALID-PAYLOAD-TYPE",
        2 => "DOI-NOT-SUPPORTED",
        3 => "SITUATION-NOT-SUPPORTED",
        4 => "INVALID-COOKIE",
        5 => "INVALID-MAJOR-VERSION",
        6 => "INVALID-MINOR-VERSION",
        7 => "INVALID-EXCHANGE-TYPE",
        8 => "INVALID-FLAGS",
        9 => "INVALID-MESSAGE-ID",
        10 => "INVALID-PROTOCOL-ID",
        11 => "INVALID-SPI",
        12 => "INVALID-TRANSFORM-ID",
        13 => "ATTRIBUTES-NOT-SUPPORTED",
        NO_PROPOSAL_CHOSEN => "NO-PROPOSAL-CHOSEN",
        15 => "BAD-PROPOSAL-SYNTAX",
        PAYLOAD_MALFORMED => "PAYLOAD-MALFORMED",
        17 => "INVALID-KEY-INFORMATION",
        INVALID_ID_INFORMATION => "INVALID-ID-INFORMATION",
        19 => "INVALID-CERT-ENCODING",
        20 => "INVALID-CERTIFICATE",
        21 => "CERT-TYPE-UNSUPPORTED",
        22 => "INVALID-CERT-AUTHORITY",
        INVALID_HASH_INFORMATION => "INVALID-HASH-INFORMATION",
        AUTHENTICATION_FAILED => "AUTHENTICATION-FAILED",
        25 => "INVALID-SIGNATURE",
        26 => "ADDRESS-NOTIFICATION",
        27 => "NOTIFY-SA-LIFETIME",
        28 => "CERTIFICATE-UNAVAILABLE",
        29 => "UNSUPPORTED-EXCHANGE-TYPE",
        30 => "UNEQUAL-PAYLOAD-LENGTHS",
        _ => UNKNOWN,
    }
}

/// The same for people, with the number of one that has no name.
pub fn told_name(kind: u16) -> String {
    match name(kind) {
        UNKNOWN => format!("notification {kind}"),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I10: as many SPIs as the payload has room for, and no other length.
    #[test]
    fn deletions_and_notifications_survive_the_wire() {
        let delete = Delete {
            protocol: 3,
            spis: vec![&[1, 2, 3, 4], &[5, 6, 7, 8]],
        };
        let body = delete.emit();
        assert_eq!(Delete::parse(&body), Ok(delete));
        for len in 0..body.len() {
            assert!(Delete::parse(&body[..len]).is_err(), "{len}");
        }
        let mut lie = body.clone();
        lie[6..8].copy_from_slice(&[0xff, 0xff]);
        assert!(Delete::parse(&lie).is_err());
        lie[5] = 0;
        assert!(Delete::parse(&lie).is_err());
        let notify = Notify {
            protocol: 1,
            spi: &[7; 16],
            kind: R_U_THERE,
            data: &[0, 0, 0, 9],
        };
        assert_eq!(Notify::parse(&notify.emit()), Ok(notify));
    }
}
