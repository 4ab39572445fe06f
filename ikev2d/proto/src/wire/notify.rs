// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Notifications (RFC 7296 §3.10).

use super::{Reader, WireError};

/// A critical payload is not known.
pub const UNSUPPORTED_CRITICAL_PAYLOAD: u16 = 1;
/// The message makes no sense.
pub const INVALID_SYNTAX: u16 = 7;
/// No proposal fits.
pub const NO_PROPOSAL_CHOSEN: u16 = 14;
/// The key exchange is of another group than the chosen one.
pub const INVALID_KE_PAYLOAD: u16 = 17;
/// The peer is not who it says.
pub const AUTHENTICATION_FAILED: u16 = 24;
/// No address can be given.
pub const INTERNAL_ADDRESS_FAILURE: u16 = 36;
/// No traffic selectors fit.
pub const TS_UNACCEPTABLE: u16 = 38;
/// This IKE SA takes no more child SAs.
pub const NO_ADDITIONAL_SAS: u16 = 35;
/// Not now.
pub const TEMPORARY_FAILURE: u16 = 43;
/// No such child SA.
pub const CHILD_SA_NOT_FOUND: u16 = 44;
/// No IKE_FOLLOWUP_KE is awaited (RFC 9370 §2.2.4).
pub const STATE_NOT_FOUND: u16 = 47;
/// No more child SAs for this traffic (RFC 9611 §6.2).
pub const TS_MAX_QUEUE: u16 = 48;
/// First of the status notifications; below are errors.
pub const FIRST_STATUS: u16 = 16384;
/// The peer has no other SAs with us.
pub const INITIAL_CONTACT: u16 = 16384;
/// Hash of the sender's address.
pub const NAT_DETECTION_SOURCE_IP: u16 = 16388;
/// Hash of the receiver's address.
pub const NAT_DETECTION_DESTINATION_IP: u16 = 16389;
/// To be sent back.
pub const COOKIE: u16 = 16390;
/// Transport mode.
pub const USE_TRANSPORT_MODE: u16 = 16391;
/// Which SA is rekeyed.
pub const REKEY_SA: u16 = 16393;
/// No TFC padding, please.
pub const ESP_TFC_PADDING_NOT_SUPPORTED: u16 = 16394;

/// The responder could have allowed more (§2.9).
pub const ADDITIONAL_TS_POSSIBLE: u16 = 16386;
/// Addresses may change (RFC 4555).
pub const MOBIKE_SUPPORTED: u16 = 16396;
/// Another address of the sender's (RFC 4555 §4.2.2).
pub const ADDITIONAL_IP4_ADDRESS: u16 = 16397;
/// Another address of the sender's.
pub const ADDITIONAL_IP6_ADDRESS: u16 = 16398;
/// It has no other ones.
pub const NO_ADDITIONAL_ADDRESSES: u16 = 16399;
/// They have changed (RFC 4555 §3.5).
pub const UPDATE_SA_ADDRESSES: u16 = 16400;
/// To be sent back, by who can be reached (RFC 4555 §3.7).
pub const COOKIE2: u16 = 16401;
/// No NAT is expected between (RFC 4555 §3.9).
pub const NO_NATS_ALLOWED: u16 = 16402;
/// The peer may not be there (RFC 4555 §3.5).
pub const UNACCEPTABLE_ADDRESSES: u16 = 40;
/// There is one (RFC 4555 §3.9).
pub const UNEXPECTED_NAT_DETECTED: u16 = 41;
/// The sender can be redirected (RFC 5685).
pub const REDIRECT_SUPPORTED: u16 = 16406;
/// To which gateway (RFC 5685).
pub const REDIRECT: u16 = 16407;
/// By which one (RFC 5685).
pub const REDIRECTED_FROM: u16 = 16408;
/// A ticket to resume by, and for how many seconds it is good (RFC 5723 §7.1).
pub const TICKET_LT_OPAQUE: u16 = 16409;
/// One is wanted.
pub const TICKET_REQUEST: u16 = 16410;
/// It is not given, or does not do.
pub const TICKET_NACK: u16 = 16412;
/// It is presented.
pub const TICKET_OPAQUE: u16 = 16413;
/// IKE_AUTH may go without a child (RFC 6023).
pub const CHILDLESS_IKEV2_SUPPORTED: u16 = 16418;
/// EAP may authenticate the responder, too (RFC 5998).
pub const EAP_ONLY_AUTHENTICATION: u16 = 16417;
/// Message IDs may be synchronised when a cluster's member has taken over (RFC 6311 §6.1).
pub const IKEV2_MESSAGE_ID_SYNC_SUPPORTED: u16 = 16420;
/// So may the counters of child SAs (RFC 6311 §6.2).
pub const IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED: u16 = 16421;
/// Message IDs to go on with (RFC 6311 §6.3).
pub const IKEV2_MESSAGE_ID_SYNC: u16 = 16422;
/// By how much what is sent to the sender is to jump (RFC 6311 §6.4).
pub const IPSEC_REPLAY_COUNTER_SYNC: u16 = 16423;
/// Messages may come in fragments (RFC 7383).
pub const IKEV2_FRAGMENTATION_SUPPORTED: u16 = 16430;
/// Hashes that the sender can verify signatures with (RFC 7427 §4).
pub const SIGNATURE_HASH_ALGORITHMS: u16 = 16431;
/// To be solved before the peer is heard (RFC 8019 §8.1).
pub const PUZZLE: u16 = 16434;
/// The sender can mix in a postquantum preshared key (RFC 8784).
pub const USE_PPK: u16 = 16435;
/// Which one; in a response, that it was.
pub const PPK_IDENTITY: u16 = 16436;
/// AUTH without one, for who does not have it.
pub const NO_PPK_AUTH: u16 = 16437;
/// IKE_INTERMEDIATE may come between IKE_SA_INIT and IKE_AUTH (RFC 9242).
pub const INTERMEDIATE_EXCHANGE_SUPPORTED: u16 = 16438;
/// What joins an IKE_FOLLOWUP_KE to its CREATE_CHILD_SA (RFC 9370 §2.2.4).
pub const ADDITIONAL_KEY_EXCHANGE: u16 = 16441;
/// One of several child SAs for the same traffic, each with a resource of its own (RFC 9611 §6.1).
pub const SA_RESOURCE_INFO: u16 = 16444;

/// A notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'payload> {
    /// Protocol of the SPI; 0 for none.
    pub protocol: u8,
    /// SPI, if any.
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
    /// [`WireError::Length`].
    pub fn parse(body: &'payload [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let (protocol, spi_len, kind) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let spi = reader.take(spi_len.into())?;
        Ok(Self {
            protocol,
            spi,
            kind,
            data: reader.rest(),
        })
    }
}

/// Emits a body.
pub fn emit(protocol: u8, spi: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = vec![protocol, spi.len() as u8];
    out.extend(kind.to_be_bytes());
    out.extend(spi);
    out.extend(data);
    out
}

/// The name in logs.
pub fn name(kind: u16) -> &'static str {
    match kind {
        UNSUPPORTED_CRITICAL_PAYLOAD => "UNSUPPORTED_CRITICAL_PAYLOAD",
        4 => "INVALID_IKE_SPI",
        5 => "INVALID_MAJOR_VERSION",
        INVALID_SYNTAX => "INVALID_SYNTAX",
        11 => "INVALID_SPI",
        NO_PROPOSAL_CHOSEN => "NO_PROPOSAL_CHOSEN",
        INVALID_KE_PAYLOAD => "INVALID_KE_PAYLOAD",
        AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
        34 => "SINGLE_PAIR_REQUIRED",
        NO_ADDITIONAL_SAS => "NO_ADDITIONAL_SAS",
        INTERNAL_ADDRESS_FAILURE => "INTERNAL_ADDRESS_FAILURE",
        37 => "FAILED_CP_REQUIRED",
        TS_UNACCEPTABLE => "TS_UNACCEPTABLE",
        UNACCEPTABLE_ADDRESSES => "UNACCEPTABLE_ADDRESSES",
        UNEXPECTED_NAT_DETECTED => "UNEXPECTED_NAT_DETECTED",
        TEMPORARY_FAILURE => "TEMPORARY_FAILURE",
        CHILD_SA_NOT_FOUND => "CHILD_SA_NOT_FOUND",
        STATE_NOT_FOUND => "STATE_NOT_FOUND",
        TS_MAX_QUEUE => "TS_MAX_QUEUE",
        _ => "an unknown error",
    }
}
