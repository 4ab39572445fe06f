// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Suites by name: Suite B (RFC 6379), and PRIME, its kin with AEADs for IKE as well (RFC 5282).

use std::fmt;

use crate::algorithm::{Encryption, Group, Integrity, Prf};
use crate::proposal::Proposal;

/// A suite. Each is for ECDSA certificates on its own curve. RFC 8423 has made Suite B historic; as
/// algorithms all four are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// ESP by AES-128-GCM; IKE by AES-128-CBC, SHA-256, P-256.
    SuiteBGcm128,
    /// ESP by AES-256-GCM; IKE by AES-256-CBC, SHA-384, P-384.
    SuiteBGcm256,
    /// ESP and IKE by AES-128-GCM; SHA-256, P-256. For IKEv2 alone.
    Prime128,
    /// ESP and IKE by AES-256-GCM; SHA-384, P-384. For IKEv2 alone.
    Prime256,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Self; 4] = [
        Self::SuiteBGcm128,
        Self::SuiteBGcm256,
        Self::Prime128,
        Self::Prime256,
    ];

    /// The suite of a name, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.name().eq_ignore_ascii_case(name))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SuiteBGcm128 => "Suite-B-GCM-128",
            Self::SuiteBGcm256 => "Suite-B-GCM-256",
            Self::Prime128 => "PRIME-128",
            Self::Prime256 => "PRIME-256",
        }
    }

    /// Whether it is for IKEv2 alone: its IKE is sealed by an AEAD, which IKEv1 has not.
    pub fn is_prime(self) -> bool {
        matches!(self, Self::Prime128 | Self::Prime256)
    }

    /// Bits of its keys and of its curve: 128 with P-256 and SHA-256, or 256 with P-384 and SHA-384.
    pub fn key_bits(self) -> u16 {
        match self {
            Self::SuiteBGcm128 | Self::Prime128 => 128,
            Self::SuiteBGcm256 | Self::Prime256 => 256,
        }
    }

    fn group(self) -> Group {
        match self.key_bits() {
            128 => Group::Ecp256,
            _ => Group::Ecp384,
        }
    }

    /// Its IKE proposal.
    pub fn ike(self) -> Proposal {
        let bits = self.key_bits();
        let (prf, integrity) = match bits {
            128 => (Prf::HmacSha256, Integrity::HmacSha256),
            _ => (Prf::HmacSha384, Integrity::HmacSha384),
        };
        let (encryption, integrity) = if self.is_prime() {
            // RFC 5282 §8: the PRF is named, and there is no integrity transform.
            (Encryption::AesGcm16(bits), Vec::new())
        } else {
            (Encryption::AesCbc(bits), vec![integrity])
        };
        Proposal {
            encryption: vec![encryption],
            prf: vec![prf],
            integrity,
            groups: vec![self.group()],
            ..Proposal::default()
        }
    }

    /// Its ESP proposal, with forward secrecy and either kind of sequence numbers.
    pub fn esp(self) -> Proposal {
        Proposal {
            encryption: vec![Encryption::AesGcm16(self.key_bits())],
            groups: vec![self.group()],
            esn: vec![true, false],
            ..Proposal::default()
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S113 to S116, as RFC 6379 §3 and RFC 5282 have them.
    #[test]
    fn suites_are_what_their_names_say() {
        for (name, ike, esp) in [
            (
                "Suite-B-GCM-128",
                "aes128-sha256-prfsha256-ecp256",
                "aes128gcm16-ecp256-esn-noesn",
            ),
            (
                "Suite-B-GCM-256",
                "aes256-sha384-prfsha384-ecp384",
                "aes256gcm16-ecp384-esn-noesn",
            ),
            (
                "PRIME-128",
                "aes128gcm16-prfsha256-ecp256",
                "aes128gcm16-ecp256-esn-noesn",
            ),
            (
                "prime-256",
                "aes256gcm16-prfsha384-ecp384",
                "aes256gcm16-ecp384-esn-noesn",
            ),
        ] {
            let suite = Suite::by_name(name).unwrap();
            assert_eq!(suite.ike(), Proposal::parse_ike(ike).unwrap(), "{name}");
            assert_eq!(suite.esp(), Proposal::parse_esp(esp).unwrap(), "{name}");
        }
        assert_eq!(Suite::by_name("PRIME-192"), None);
    }
}
