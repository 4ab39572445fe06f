// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Algorithms by their IANA numbers (RFC 7296 §3.3.2, RFC 8247). [`Standing`] tells which of them are of
//! another time.

use zeroize::Zeroizing;

/// What RFC 8247 (RFC 8221 for AH and ESP) says of an algorithm today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Good to use.
    Sound,
    /// Below SHOULD, or on its way there: used only where `legacy` says so.
    Legacy,
    /// MUST NOT: for IKEv1, which the RFC does not speak of, and only where `legacy` says so.
    Forbidden,
}

/// Encryption, with its key length where it varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// ENCR_DES: CBC with 56 bits (RFC 2405).
    Des,
    /// ENCR_3DES: CBC with three keys (RFC 2451).
    TripleDes,
    /// ENCR_NULL (ESP only).
    Null,
    /// ENCR_AES_CBC with 128, 192 or 256 bits.
    AesCbc(u16),
    /// ENCR_AES_CCM_8 with 128, 192 or 256 bits (RFC 4309, RFC 5282).
    AesCcm8(u16),
    /// ENCR_AES_CCM_12, as above.
    AesCcm12(u16),
    /// ENCR_AES_CCM_16, as above.
    AesCcm16(u16),
    /// ENCR_AES_GCM_8 with 128, 192 or 256 bits (RFC 4106, RFC 5282).
    AesGcm8(u16),
    /// ENCR_AES_GCM_12, as above.
    AesGcm12(u16),
    /// ENCR_AES_GCM_16, as above.
    AesGcm16(u16),
    /// ENCR_NULL_AUTH_AES_GMAC with 128, 192 or 256 bits (RFC 4543 §3; ESP only): it encrypts nothing.
    NullAesGmac(u16),
    /// ENCR_CHACHA20_POLY1305.
    ChaCha20Poly1305,
}

impl Encryption {
    /// The algorithm with this transform id and key-length attribute.
    pub fn from_wire(id: u16, key_bits: Option<u16>) -> Option<Self> {
        match (id, key_bits) {
            (2, None) => Some(Self::Des),
            (3, None) => Some(Self::TripleDes),
            (11, None) => Some(Self::Null),
            (12, Some(bits @ (128 | 192 | 256))) => Some(Self::AesCbc(bits)),
            (14, Some(bits @ (128 | 192 | 256))) => Some(Self::AesCcm8(bits)),
            (15, Some(bits @ (128 | 192 | 256))) => Some(Self::AesCcm12(bits)),
            (16, Some(bits @ (128 | 192 | 256))) => Some(Self::AesCcm16(bits)),
            (18, Some(bits @ (128 | 192 | 256))) => Some(Self::AesGcm8(bits)),
            (19, Some(bits @ (128 | 192 | 256))) => Some(Self::AesGcm12(bits)),
            (20, Some(bits @ (128 | 192 | 256))) => Some(Self::AesGcm16(bits)),
            (21, Some(bits @ (128 | 192 | 256))) => Some(Self::NullAesGmac(bits)),
            (28, None) => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Transform id and key-length attribute.
    pub fn to_wire(self) -> (u16, Option<u16>) {
        match self {
            Self::Des => (2, None),
            Self::TripleDes => (3, None),
            Self::Null => (11, None),
            Self::AesCbc(bits) => (12, Some(bits)),
            Self::AesCcm8(bits) => (14, Some(bits)),
            Self::AesCcm12(bits) => (15, Some(bits)),
            Self::AesCcm16(bits) => (16, Some(bits)),
            Self::AesGcm8(bits) => (18, Some(bits)),
            Self::AesGcm12(bits) => (19, Some(bits)),
            Self::AesGcm16(bits) => (20, Some(bits)),
            Self::NullAesGmac(bits) => (21, Some(bits)),
            Self::ChaCha20Poly1305 => (28, None),
        }
    }

    /// Whether it authenticates as well.
    pub fn is_aead(self) -> bool {
        self.icv_len() != 0
    }

    /// Whether it encrypts; what does not is for ESP alone (RFC 7296 §3.3.2, RFC 4543 §8).
    pub fn encrypts(self) -> bool {
        !matches!(self, Self::Null | Self::NullAesGmac(_))
    }

    /// Whether it is a CCM.
    pub fn is_ccm(self) -> bool {
        matches!(
            self,
            Self::AesCcm8(_) | Self::AesCcm12(_) | Self::AesCcm16(_)
        )
    }

    /// Octets of an AEAD's check value; none for what authenticates nothing.
    pub fn icv_len(self) -> usize {
        match self {
            Self::AesCcm8(_) | Self::AesGcm8(_) => 8,
            Self::AesCcm12(_) | Self::AesGcm12(_) => 12,
            Self::AesCcm16(_)
            | Self::AesGcm16(_)
            | Self::NullAesGmac(_)
            | Self::ChaCha20Poly1305 => 16,
            Self::Null | Self::Des | Self::TripleDes | Self::AesCbc(_) => 0,
        }
    }

    /// Octets of key in KEYMAT, with an AEAD's salt (RFC 5282 §7.1, RFC 4309 §7.1, RFC 4543 §3.2,
    /// RFC 7634 §2).
    pub fn key_len(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Des => 8,
            Self::TripleDes => 24,
            Self::AesCbc(bits) => usize::from(bits) / 8,
            Self::AesCcm8(bits) | Self::AesCcm12(bits) | Self::AesCcm16(bits) => {
                usize::from(bits) / 8 + 3
            }
            Self::AesGcm8(bits)
            | Self::AesGcm12(bits)
            | Self::AesGcm16(bits)
            | Self::NullAesGmac(bits) => usize::from(bits) / 8 + 4,
            Self::ChaCha20Poly1305 => 36,
        }
    }

    /// Octets of IV.
    pub fn iv_len(self) -> usize {
        match self {
            Self::Null => 0,
            Self::AesCbc(_) => 16,
            Self::Des | Self::TripleDes => 8,
            _ => 8,
        }
    }

    /// ESP's AEAD by AES of a word, in any of strongSwan's spellings: the check value in octets or in bits.
    pub fn aead_by_word(word: &str) -> Option<Self> {
        let (bits, mode) = word.strip_prefix("aes")?.split_at_checked(3)?;
        let bits = match bits {
            "128" => 128,
            "192" => 192,
            "256" => 256,
            _ => return None,
        };
        Some(match mode {
            "ccm8" | "ccm64" => Self::AesCcm8(bits),
            "ccm12" | "ccm96" => Self::AesCcm12(bits),
            "ccm16" | "ccm128" | "ccm" => Self::AesCcm16(bits),
            "gcm8" | "gcm64" => Self::AesGcm8(bits),
            "gcm12" | "gcm96" => Self::AesGcm12(bits),
            "gcm16" | "gcm128" | "gcm" => Self::AesGcm16(bits),
            "gmac" => Self::NullAesGmac(bits),
            _ => return None,
        })
    }

    /// Its word in proposals.
    pub fn word(self) -> &'static str {
        let of = |bits, [of_128, of_192, of_256]: [&'static str; 3]| match bits {
            128 => of_128,
            192 => of_192,
            _ => of_256,
        };
        match self {
            Self::Des => "des",
            Self::TripleDes => "3des",
            Self::Null => "null",
            Self::AesCbc(128) => "aes128",
            Self::AesCbc(192) => "aes192",
            Self::AesCbc(_) => "aes256",
            Self::AesCcm8(bits) => of(bits, ["aes128ccm8", "aes192ccm8", "aes256ccm8"]),
            Self::AesCcm12(bits) => of(bits, ["aes128ccm12", "aes192ccm12", "aes256ccm12"]),
            Self::AesCcm16(bits) => of(bits, ["aes128ccm16", "aes192ccm16", "aes256ccm16"]),
            Self::AesGcm8(bits) => of(bits, ["aes128gcm8", "aes192gcm8", "aes256gcm8"]),
            Self::AesGcm12(bits) => of(bits, ["aes128gcm12", "aes192gcm12", "aes256gcm12"]),
            Self::AesGcm16(bits) => of(bits, ["aes128gcm16", "aes192gcm16", "aes256gcm16"]),
            Self::NullAesGmac(bits) => of(bits, ["aes128gmac", "aes192gmac", "aes256gmac"]),
            Self::ChaCha20Poly1305 => "chacha20poly1305",
        }
    }

    /// What it is worth today.
    pub fn standing(self) -> Standing {
        match self {
            Self::Des => Standing::Forbidden,
            Self::TripleDes => Standing::Legacy,
            _ => Standing::Sound,
        }
    }
}

/// Pseudo-random function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Prf {
    /// PRF_HMAC_MD5.
    HmacMd5 = 1,
    /// PRF_HMAC_SHA1.
    HmacSha1 = 2,
    /// PRF_AES128_XCBC (RFC 4434).
    Aes128Xcbc = 4,
    /// PRF_HMAC_SHA2_256.
    HmacSha256 = 5,
    /// PRF_HMAC_SHA2_384.
    HmacSha384 = 6,
    /// PRF_HMAC_SHA2_512.
    HmacSha512 = 7,
    /// PRF_AES128_CMAC (RFC 4615).
    Aes128Cmac = 8,
}

impl Prf {
    /// Every function.
    pub const ALL: [Self; 7] = [
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
        Self::Aes128Xcbc,
        Self::Aes128Cmac,
        Self::HmacSha1,
        Self::HmacMd5,
    ];

    /// The function with this transform id.
    pub fn from_wire(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as u16 == id)
    }

    /// What SKEYSEED is made with: both nonces, but of each only the first 64 bits for the two functions by
    /// AES (RFC 7296 §2.14).
    pub(crate) fn nonces_key(self, nonce_i: &[u8], nonce_r: &[u8]) -> Zeroizing<Vec<u8>> {
        let most = match self {
            Self::Aes128Xcbc | Self::Aes128Cmac => 8,
            _ => usize::MAX,
        };
        let nonces = [nonce_i, nonce_r];
        let parts = nonces.map(|nonce| nonce.get(..most).unwrap_or(nonce));
        Zeroizing::new(parts.concat())
    }

    /// Octets of output, and of the keys derived for it.
    pub fn output_len(self) -> usize {
        match self {
            Self::HmacMd5 | Self::Aes128Xcbc | Self::Aes128Cmac => 16,
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// What it is worth today.
    pub fn standing(self) -> Standing {
        match self {
            Self::HmacMd5 => Standing::Forbidden,
            Self::HmacSha1 => Standing::Legacy,
            _ => Standing::Sound,
        }
    }

    /// Its word in proposals.
    pub fn word(self) -> &'static str {
        match self {
            Self::HmacMd5 => "prfmd5",
            Self::HmacSha1 => "prfsha1",
            Self::HmacSha256 => "prfsha256",
            Self::HmacSha384 => "prfsha384",
            Self::HmacSha512 => "prfsha512",
            Self::Aes128Xcbc => "prfaesxcbc",
            Self::Aes128Cmac => "prfaescmac",
        }
    }

    /// Its name in strongSwan's lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::HmacMd5 => "PRF_HMAC_MD5",
            Self::HmacSha1 => "PRF_HMAC_SHA1",
            Self::HmacSha256 => "PRF_HMAC_SHA2_256",
            Self::HmacSha384 => "PRF_HMAC_SHA2_384",
            Self::HmacSha512 => "PRF_HMAC_SHA2_512",
            Self::Aes128Xcbc => "PRF_AES128_XCBC",
            Self::Aes128Cmac => "PRF_AES128_CMAC",
        }
    }

    /// The function that goes with an integrity algorithm, where a proposal names none.
    pub fn beside(integrity: Integrity) -> Self {
        match integrity {
            Integrity::HmacMd5 => Self::HmacMd5,
            Integrity::HmacSha1 => Self::HmacSha1,
            Integrity::HmacSha384 => Self::HmacSha384,
            Integrity::HmacSha512 => Self::HmacSha512,
            Integrity::AesXcbc => Self::Aes128Xcbc,
            Integrity::AesCmac => Self::Aes128Cmac,
            // GMACs are in no IKE proposal.
            _ => Self::HmacSha256,
        }
    }
}

/// Integrity; GMACs are AH's only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Integrity {
    /// AUTH_HMAC_MD5_96.
    HmacMd5 = 1,
    /// AUTH_HMAC_SHA1_96.
    HmacSha1 = 2,
    /// AUTH_AES_XCBC_96 (RFC 3566).
    AesXcbc = 5,
    /// AUTH_AES_CMAC_96 (RFC 4494).
    AesCmac = 8,
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
            Self::HmacMd5,
            Self::HmacSha1,
            Self::AesXcbc,
            Self::AesCmac,
            Self::Aes128Gmac,
            Self::Aes192Gmac,
            Self::Aes256Gmac,
        ]
        .into_iter()
        .find(|i| *i as u16 == id)
    }

    /// What it is worth today.
    pub fn standing(self) -> Standing {
        match self {
            Self::HmacMd5 => Standing::Forbidden,
            Self::HmacSha1 => Standing::Legacy,
            _ => Standing::Sound,
        }
    }

    /// Its word in proposals.
    pub fn word(self) -> &'static str {
        match self {
            Self::HmacMd5 => "md5",
            Self::HmacSha1 => "sha1",
            Self::HmacSha256 => "sha256",
            Self::HmacSha384 => "sha384",
            Self::HmacSha512 => "sha512",
            Self::AesXcbc => "aesxcbc",
            Self::AesCmac => "aescmac",
            Self::Aes128Gmac => "aes128gmac",
            Self::Aes192Gmac => "aes192gmac",
            Self::Aes256Gmac => "aes256gmac",
        }
    }

    /// Octets of key, with a GMAC's salt (RFC 4543 §4).
    pub fn key_len(self) -> usize {
        match self {
            Self::HmacMd5 | Self::AesXcbc | Self::AesCmac => 16,
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
            Self::HmacMd5 | Self::HmacSha1 | Self::AesXcbc | Self::AesCmac => 12,
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
    /// 768-bit MODP (RFC 2409 §6.1).
    Modp768 = 1,
    /// 1024-bit MODP (RFC 2409 §6.2).
    Modp1024 = 2,
    /// 1536-bit MODP (RFC 3526).
    Modp1536 = 5,
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
    /// 1024-bit MODP with a subgroup of 160 bits (RFC 5114).
    Modp1024s160 = 22,
    /// 2048-bit MODP with a subgroup of 224 bits.
    Modp2048s224 = 23,
    /// 2048-bit MODP with a subgroup of 256 bits.
    Modp2048s256 = 24,
    /// brainpoolP256r1 (RFC 6954).
    Brainpool256 = 28,
    /// brainpoolP384r1.
    Brainpool384 = 29,
    /// brainpoolP512r1.
    Brainpool512 = 30,
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
    pub const ALL: [Self; 20] = [
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
        Self::Brainpool256,
        Self::Brainpool384,
        Self::Brainpool512,
        Self::Modp1536,
        Self::Modp2048s256,
        Self::Modp2048s224,
        Self::Modp1024s160,
        Self::Modp1024,
        Self::Modp768,
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
            Self::Modp768 => 96,
            Self::Modp1024 | Self::Modp1024s160 => 128,
            Self::Modp1536 => 192,
            Self::Modp2048 | Self::Modp2048s224 | Self::Modp2048s256 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Ecp256 | Self::Brainpool256 => 64,
            Self::Ecp384 | Self::Brainpool384 => 96,
            Self::Brainpool512 => 128,
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

    /// What it is worth today.
    pub fn standing(self) -> Standing {
        match self {
            Self::Modp768 | Self::Modp1024s160 => Standing::Forbidden,
            Self::Modp1024 | Self::Modp1536 | Self::Modp2048s224 | Self::Modp2048s256 => {
                Standing::Legacy
            }
            _ => Standing::Sound,
        }
    }

    /// Its word in proposals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Modp768 => "modp768",
            Self::Modp1024 => "modp1024",
            Self::Modp1536 => "modp1536",
            Self::Modp1024s160 => "modp1024s160",
            Self::Modp2048s224 => "modp2048s224",
            Self::Modp2048s256 => "modp2048s256",
            Self::Brainpool256 => "ecp256bp",
            Self::Brainpool384 => "ecp384bp",
            Self::Brainpool512 => "ecp512bp",
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
