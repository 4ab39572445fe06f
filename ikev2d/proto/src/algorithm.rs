// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Algorithms by their IANA numbers (RFC 7296 §3.3.2, RFC 8247).

/// Encryption, with its key length where it varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// ENCR_NULL (ESP only).
    Null,
    /// ENCR_AES_CBC with 128, 192 or 256 bits.
    AesCbc(u16),
    /// ENCR_AES_GCM_16 with 128 or 256 bits.
    AesGcm16(u16),
    /// ENCR_CHACHA20_POLY1305.
    ChaCha20Poly1305,
}

impl Encryption {
    /// The algorithm with this transform id and key-length attribute.
    pub fn from_wire(id: u16, key_bits: Option<u16>) -> Option<Self> {
        match (id, key_bits) {
            (11, None) => Some(Self::Null),
            (12, Some(bits @ (128 | 192 | 256))) => Some(Self::AesCbc(bits)),
            (20, Some(bits @ (128 | 256))) => Some(Self::AesGcm16(bits)),
            (28, None) => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Transform id and key-length attribute.
    pub fn to_wire(self) -> (u16, Option<u16>) {
        match self {
            Self::Null => (11, None),
            Self::AesCbc(bits) => (12, Some(bits)),
            Self::AesGcm16(bits) => (20, Some(bits)),
            Self::ChaCha20Poly1305 => (28, None),
        }
    }

    /// Whether it authenticates as well.
    pub fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm16(_) | Self::ChaCha20Poly1305)
    }

    /// Octets of key in KEYMAT, with an AEAD's salt (RFC 5282 §7.1, RFC 7634 §2).
    pub fn key_len(self) -> usize {
        match self {
            Self::Null => 0,
            Self::AesCbc(bits) => usize::from(bits) / 8,
            Self::AesGcm16(bits) => usize::from(bits) / 8 + 4,
            Self::ChaCha20Poly1305 => 36,
        }
    }

    /// Octets of IV.
    pub fn iv_len(self) -> usize {
        match self {
            Self::Null => 0,
            Self::AesCbc(_) => 16,
            Self::AesGcm16(_) | Self::ChaCha20Poly1305 => 8,
        }
    }
}

/// Pseudo-random function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256.
    HmacSha256 = 5,
    /// PRF_HMAC_SHA2_384.
    HmacSha384 = 6,
    /// PRF_HMAC_SHA2_512.
    HmacSha512 = 7,
}

impl Prf {
    /// The function with this transform id.
    pub fn from_wire(id: u16) -> Option<Self> {
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512]
            .into_iter()
            .find(|p| *p as u16 == id)
    }

    /// Octets of output, and of the keys derived for it.
    pub fn output_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

/// Integrity; the first and the last three are AH's only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Integrity {
    /// AUTH_HMAC_SHA1_96.
    HmacSha1 = 2,
    /// AUTH_AES_128_GMAC (RFC 4543).
    Aes128Gmac = 9,
    /// AUTH_AES_192_GMAC.
    Aes192Gmac = 10,
    /// AUTH_AES_256_GMAC.
    Aes256Gmac = 11,
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256 = 12,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384 = 13,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512 = 14,
}

impl Integrity {
    /// The algorithm with this transform id.
    pub fn from_wire(id: u16) -> Option<Self> {
        [
            Self::HmacSha256,
            Self::HmacSha384,
            Self::HmacSha512,
            Self::HmacSha1,
            Self::Aes128Gmac,
            Self::Aes192Gmac,
            Self::Aes256Gmac,
        ]
        .into_iter()
        .find(|i| *i as u16 == id)
    }

    /// Whether AH alone takes it.
    pub fn is_for_ah_only(self) -> bool {
        !matches!(self, Self::HmacSha256 | Self::HmacSha384 | Self::HmacSha512)
    }

    /// Octets of key, with a GMAC's salt (RFC 4543 §4).
    pub fn key_len(self) -> usize {
        match self {
            Self::HmacSha1 | Self::Aes128Gmac => 20,
            Self::Aes192Gmac => 28,
            Self::Aes256Gmac => 36,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// Octets of checksum.
    pub fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1 => 12,
            Self::HmacSha256 | Self::Aes128Gmac | Self::Aes192Gmac | Self::Aes256Gmac => 16,
            Self::HmacSha384 => 24,
            Self::HmacSha512 => 32,
        }
    }
}

/// Key exchange method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Group {
    /// 2048-bit MODP (RFC 3526).
    Modp2048 = 14,
    /// 3072-bit MODP.
    Modp3072 = 15,
    /// 4096-bit MODP.
    Modp4096 = 16,
    /// NIST P-256 (RFC 5903).
    Ecp256 = 19,
    /// NIST P-384.
    Ecp384 = 20,
    /// NIST P-521.
    Ecp521 = 21,
    /// X25519 (RFC 8031).
    X25519 = 31,
    /// X448 (RFC 8031).
    X448 = 32,
    /// ML-KEM-512 (draft-ietf-ipsecme-ikev2-mlkem, FIPS 203).
    MlKem512 = 35,
    /// ML-KEM-768.
    MlKem768 = 36,
    /// ML-KEM-1024.
    MlKem1024 = 37,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 11] = [
        Self::X25519,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::X448,
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// Those that [`Proposal`](crate::proposal::Proposal)s offer by themselves: each does alone, and
    /// its public value leaves a first message in one datagram.
    pub const DEFAULT: [Self; 7] = [
        Self::X25519,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
    ];

    /// The group with this number.
    pub fn from_wire(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| *group as u16 == id)
    }

    /// Octets of an initiator's public value.
    pub fn public_len(self) -> usize {
        match self {
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Ecp521 => 132,
            Self::X25519 => 32,
            Self::X448 => 56,
            Self::MlKem512 => 800,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Octets of a responder's: a KEM's ciphertext.
    pub fn answer_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
            _ => self.public_len(),
        }
    }

    /// Its word in proposals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Modp2048 => "modp2048",
            Self::Modp3072 => "modp3072",
            Self::Modp4096 => "modp4096",
            Self::Ecp256 => "ecp256",
            Self::Ecp384 => "ecp384",
            Self::Ecp521 => "ecp521",
            Self::X25519 => "x25519",
            Self::X448 => "x448",
            Self::MlKem512 => "mlkem512",
            Self::MlKem768 => "mlkem768",
            Self::MlKem1024 => "mlkem1024",
        }
    }

    /// The group of a word.
    pub fn by_word(word: &str) -> Option<Self> {
        let word = match word {
            "curve25519" => "x25519",
            "curve448" => "x448",
            word => word,
        };
        Self::ALL.into_iter().find(|group| group.word() == word)
    }
}
