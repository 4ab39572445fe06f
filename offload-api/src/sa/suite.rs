// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The algorithms of ESP and AH, and which of them go together.

use std::fmt;

use crate::error::InvalidSa;

/// An encryption algorithm of ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// No encryption (RFC 2410).
    Null = 0,
    /// AES-128-GCM with a 16-octet ICV (RFC 4106).
    Aes128Gcm = 1,
    /// AES-256-GCM with a 16-octet ICV (RFC 4106).
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305 = 3,
    /// AES-128-CBC (RFC 3602).
    Aes128Cbc = 4,
    /// AES-192-CBC (RFC 3602).
    Aes192Cbc = 5,
    /// AES-256-CBC (RFC 3602).
    Aes256Cbc = 6,
    /// 3DES-CBC (RFC 2451); of another time (RFC 8221 §5).
    TripleDesCbc = 7,
    /// DES-CBC (RFC 2405); of another time.
    DesCbc = 8,
    /// AES-192-GCM with 16 octets of ICV (RFC 4106).
    Aes192Gcm = 9,
    /// AES-128-GCM with 8 octets of ICV (RFC 4106).
    Aes128Gcm8 = 10,
    /// AES-192-GCM with 8 octets of ICV (RFC 4106).
    Aes192Gcm8 = 11,
    /// AES-256-GCM with 8 octets of ICV (RFC 4106).
    Aes256Gcm8 = 12,
    /// AES-128-GCM with 12 octets of ICV (RFC 4106).
    Aes128Gcm12 = 13,
    /// AES-192-GCM with 12 octets of ICV (RFC 4106).
    Aes192Gcm12 = 14,
    /// AES-256-GCM with 12 octets of ICV (RFC 4106).
    Aes256Gcm12 = 15,
    /// AES-128-CCM with 8 octets of ICV (RFC 4309).
    Aes128Ccm8 = 16,
    /// AES-192-CCM with 8 octets of ICV (RFC 4309).
    Aes192Ccm8 = 17,
    /// AES-256-CCM with 8 octets of ICV (RFC 4309).
    Aes256Ccm8 = 18,
    /// AES-128-CCM with 12 octets of ICV (RFC 4309).
    Aes128Ccm12 = 19,
    /// AES-192-CCM with 12 octets of ICV (RFC 4309).
    Aes192Ccm12 = 20,
    /// AES-256-CCM with 12 octets of ICV (RFC 4309).
    Aes256Ccm12 = 21,
    /// AES-128-CCM with 16 octets of ICV (RFC 4309).
    Aes128Ccm16 = 22,
    /// AES-192-CCM with 16 octets of ICV (RFC 4309).
    Aes192Ccm16 = 23,
    /// AES-256-CCM with 16 octets of ICV (RFC 4309).
    Aes256Ccm16 = 24,
    /// AES-128-GMAC: integrity alone, in an AEAD's form (RFC 4543 §3).
    Aes128Gmac = 25,
    /// AES-192-GMAC, as above.
    Aes192Gmac = 26,
    /// AES-256-GMAC, as above.
    Aes256Gmac = 27,
}

impl Cipher {
    /// The algorithm with this code, as devices and the SA cache store it.
    pub fn from_code(code: u8) -> Option<Self> {
        use Cipher::*;
        [
            Null,
            Aes128Gcm,
            Aes256Gcm,
            ChaCha20Poly1305,
            Aes128Cbc,
            Aes192Cbc,
            Aes256Cbc,
            TripleDesCbc,
            DesCbc,
        ]
        .into_iter()
        .chain(FURTHER_AEADS.iter().map(|aead| aead.cipher))
        .find(|cipher| *cipher as u8 == code)
    }

    /// Whether it hides what it is given.
    pub fn encrypts(self) -> bool {
        let gmac = |aead: &FurtherAead| aead.mode == AeadMode::Gmac;
        self != Self::Null && !self.further_aead().is_some_and(gmac)
    }

    /// What it is, if it is an AEAD that only software has.
    pub fn further_aead(self) -> Option<&'static FurtherAead> {
        FURTHER_AEADS.iter().find(|aead| aead.cipher == self)
    }
}

/// An AEAD that only software has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FurtherAead {
    /// The algorithm.
    pub cipher: Cipher,
    /// Octets of key, without salt.
    pub key_len: usize,
    /// Octets of ICV.
    pub icv_len: usize,
    /// How it works.
    pub mode: AeadMode,
    name: &'static str,
}

/// A mode of AES that makes an AEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AeadMode {
    /// Galois/Counter Mode (RFC 4106).
    Gcm,
    /// Counter with CBC-MAC (RFC 4309).
    Ccm,
    /// GCM whose text is all additional data, the IV among it (RFC 4543 §3.3).
    Gmac,
}

impl AeadMode {
    /// Octets of salt behind the key (RFC 4106 §4, RFC 4309 §4, RFC 4543 §3.2).
    pub fn salt_len(self) -> usize {
        match self {
            Self::Ccm => 3,
            Self::Gcm | Self::Gmac => 4,
        }
    }
}

#[rustfmt::skip]
const FURTHER_AEADS: &[FurtherAead] = &[
    FurtherAead { cipher: Cipher::Aes192Gcm, key_len: 24, icv_len: 16, mode: AeadMode::Gcm, name: "aes192gcm16" },
    FurtherAead { cipher: Cipher::Aes128Gcm8, key_len: 16, icv_len: 8, mode: AeadMode::Gcm, name: "aes128gcm8" },
    FurtherAead { cipher: Cipher::Aes192Gcm8, key_len: 24, icv_len: 8, mode: AeadMode::Gcm, name: "aes192gcm8" },
    FurtherAead { cipher: Cipher::Aes256Gcm8, key_len: 32, icv_len: 8, mode: AeadMode::Gcm, name: "aes256gcm8" },
    FurtherAead { cipher: Cipher::Aes128Gcm12, key_len: 16, icv_len: 12, mode: AeadMode::Gcm, name: "aes128gcm12" },
    FurtherAead { cipher: Cipher::Aes192Gcm12, key_len: 24, icv_len: 12, mode: AeadMode::Gcm, name: "aes192gcm12" },
    FurtherAead { cipher: Cipher::Aes256Gcm12, key_len: 32, icv_len: 12, mode: AeadMode::Gcm, name: "aes256gcm12" },
    FurtherAead { cipher: Cipher::Aes128Ccm8, key_len: 16, icv_len: 8, mode: AeadMode::Ccm, name: "aes128ccm8" },
    FurtherAead { cipher: Cipher::Aes192Ccm8, key_len: 24, icv_len: 8, mode: AeadMode::Ccm, name: "aes192ccm8" },
    FurtherAead { cipher: Cipher::Aes256Ccm8, key_len: 32, icv_len: 8, mode: AeadMode::Ccm, name: "aes256ccm8" },
    FurtherAead { cipher: Cipher::Aes128Ccm12, key_len: 16, icv_len: 12, mode: AeadMode::Ccm, name: "aes128ccm12" },
    FurtherAead { cipher: Cipher::Aes192Ccm12, key_len: 24, icv_len: 12, mode: AeadMode::Ccm, name: "aes192ccm12" },
    FurtherAead { cipher: Cipher::Aes256Ccm12, key_len: 32, icv_len: 12, mode: AeadMode::Ccm, name: "aes256ccm12" },
    FurtherAead { cipher: Cipher::Aes128Ccm16, key_len: 16, icv_len: 16, mode: AeadMode::Ccm, name: "aes128ccm16" },
    FurtherAead { cipher: Cipher::Aes192Ccm16, key_len: 24, icv_len: 16, mode: AeadMode::Ccm, name: "aes192ccm16" },
    FurtherAead { cipher: Cipher::Aes256Ccm16, key_len: 32, icv_len: 16, mode: AeadMode::Ccm, name: "aes256ccm16" },
    FurtherAead { cipher: Cipher::Aes128Gmac, key_len: 16, icv_len: 16, mode: AeadMode::Gmac, name: "aes128gmac" },
    FurtherAead { cipher: Cipher::Aes192Gmac, key_len: 24, icv_len: 16, mode: AeadMode::Gmac, name: "aes192gmac" },
    FurtherAead { cipher: Cipher::Aes256Gmac, key_len: 32, icv_len: 16, mode: AeadMode::Gmac, name: "aes256gmac" },
];

/// A security protocol (RFC 4301 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// Encapsulating Security Payload (RFC 4303).
    Esp = 50,
    /// Authentication Header (RFC 4302).
    Ah = 51,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Esp => "ESP",
            Self::Ah => "AH",
        })
    }
}

/// A separate integrity algorithm of ESP, or AH's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Integrity {
    /// None: the cipher is an AEAD.
    None = 0,
    /// HMAC-SHA-256-128 (RFC 4868).
    HmacSha256 = 1,
    /// HMAC-SHA-384-192 (RFC 4868).
    HmacSha384 = 2,
    /// HMAC-SHA-512-256 (RFC 4868).
    HmacSha512 = 3,
    /// HMAC-SHA-1-96 (RFC 2404); on its way out (RFC 8221 §6).
    HmacSha1 = 4,
    /// AES-128-GMAC (RFC 4543 §5); AH only. Its key has a salt of four octets at the end.
    Aes128Gmac = 5,
    /// AES-192-GMAC, as above.
    Aes192Gmac = 6,
    /// AES-256-GMAC, as above.
    Aes256Gmac = 7,
    /// HMAC-MD5-96 (RFC 2403); ESP only, of another time (RFC 8221 §6).
    HmacMd5 = 8,
    /// AES-XCBC-MAC-96 (RFC 3566).
    AesXcbc = 9,
    /// AES-CMAC-96 (RFC 4494).
    AesCmac = 10,
}

impl Integrity {
    /// The algorithm with this code, as devices and the SA cache store it.
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::None,
            Self::HmacSha256,
            Self::HmacSha384,
            Self::HmacSha512,
            Self::HmacSha1,
            Self::Aes128Gmac,
            Self::Aes192Gmac,
            Self::Aes256Gmac,
            Self::HmacMd5,
            Self::AesXcbc,
            Self::AesCmac,
        ]
        .into_iter()
        .find(|integrity| *integrity as u8 == code)
    }

    /// Whether it takes a nonce, which goes on the wire (RFC 4543 §5).
    pub fn is_gmac(self) -> bool {
        matches!(self, Self::Aes128Gmac | Self::Aes192Gmac | Self::Aes256Gmac)
    }
}

/// A protocol with a valid pair of encryption and integrity algorithms.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suite {
    protocol: Protocol,
    cipher: Cipher,
    integrity: Integrity,
}

impl Suite {
    /// AES-128-GCM-16.
    pub const AES_128_GCM: Self = Self::esp(Cipher::Aes128Gcm, Integrity::None);
    /// AES-256-GCM-16.
    pub const AES_256_GCM: Self = Self::esp(Cipher::Aes256Gcm, Integrity::None);
    /// ChaCha20-Poly1305.
    pub const CHACHA20_POLY1305: Self = Self::esp(Cipher::ChaCha20Poly1305, Integrity::None);

    const fn esp(cipher: Cipher, integrity: Integrity) -> Self {
        Self {
            protocol: Protocol::Esp,
            cipher,
            integrity,
        }
    }

    /// AH with an integrity algorithm.
    ///
    /// # Errors
    /// AH has to have one, and none with MD5.
    pub fn ah(integrity: Integrity) -> Result<Self, InvalidSa> {
        let cipher = Cipher::Null;
        if matches!(integrity, Integrity::None | Integrity::HmacMd5) {
            return Err(InvalidSa::Suite { cipher, integrity });
        }
        Ok(Self {
            protocol: Protocol::Ah,
            cipher,
            integrity,
        })
    }

    /// Every suite of AH.
    pub fn all_ah() -> impl Iterator<Item = Self> {
        use Integrity::*;
        [
            HmacSha256, HmacSha384, HmacSha512, Aes128Gmac, Aes192Gmac, Aes256Gmac, HmacSha1,
            AesXcbc, AesCmac,
        ]
        .into_iter()
        .map(|integrity| Self {
            protocol: Protocol::Ah,
            cipher: Cipher::Null,
            integrity,
        })
    }

    /// ESP's further suites: no device has them, so that software carries their SAs. AEADs first, then those
    /// with a MAC of AES; then what is of another time, and only a peer's need is a reason to use it
    /// (RFC 8221).
    pub fn further() -> impl Iterator<Item = Self> {
        use {Cipher::*, Integrity::*};
        let old = [TripleDesCbc, DesCbc].map(|c| (c, [HmacSha256, HmacSha384, HmacSha512]));
        let ciphers = [Aes128Cbc, Aes192Cbc, Aes256Cbc, TripleDesCbc, DesCbc, Null];
        let with = |(cipher, integrity)| Self::esp(cipher, integrity);
        let each = |integrity: [Integrity; 2]| {
            let all = ciphers.into_iter();
            all.flat_map(move |c| integrity.map(|i| (c, i)))
        };
        let old = old.into_iter().flat_map(|(c, all)| all.map(|i| (c, i)));
        let aeads = FURTHER_AEADS.iter().map(|aead| (aead.cipher, None));
        let macs = each([AesXcbc, AesCmac]);
        aeads
            .chain(macs)
            .chain(each([HmacSha1, HmacMd5]))
            .chain(old)
            .map(with)
    }

    /// Whether it is of another time (RFC 8221): DES, 3DES, MD5, or SHA-1.
    pub fn is_legacy(self) -> bool {
        matches!(self.cipher, Cipher::TripleDesCbc | Cipher::DesCbc)
            || matches!(self.integrity, Integrity::HmacSha1 | Integrity::HmacMd5)
    }

    /// ESP's suites that devices know, AEADs first.
    pub fn all() -> impl Iterator<Item = Self> {
        use Cipher::*;
        let aeads = [Aes128Gcm, Aes256Gcm, ChaCha20Poly1305].map(|c| (c, Integrity::None));
        let pairs = [Aes128Cbc, Aes192Cbc, Aes256Cbc, Null]
            .into_iter()
            .flat_map(|c| {
                [
                    Integrity::HmacSha256,
                    Integrity::HmacSha384,
                    Integrity::HmacSha512,
                ]
                .map(|i| (c, i))
            });
        aeads
            .into_iter()
            .chain(pairs)
            .map(|(cipher, integrity)| Self::esp(cipher, integrity))
    }

    /// Joins a cipher and an integrity algorithm of ESP.
    ///
    /// # Errors
    /// An AEAD takes no separate integrity algorithm, every other cipher needs one (RFC 8221 §4).
    pub fn new(cipher: Cipher, integrity: Integrity) -> Result<Self, InvalidSa> {
        let suite = Self::esp(cipher, integrity);
        if suite.is_aead() == (integrity == Integrity::None) && !integrity.is_gmac() {
            Ok(suite)
        } else {
            Err(InvalidSa::Suite { cipher, integrity })
        }
    }

    /// The protocol.
    #[inline]
    pub fn protocol(self) -> Protocol {
        self.protocol
    }

    /// The encryption algorithm.
    #[inline]
    pub fn cipher(self) -> Cipher {
        self.cipher
    }

    /// The integrity algorithm.
    #[inline]
    pub fn integrity(self) -> Integrity {
        self.integrity
    }

    /// Whether one algorithm does both.
    #[inline]
    pub fn is_aead(self) -> bool {
        matches!(
            self.cipher,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305
        ) || self.cipher.further_aead().is_some()
    }

    /// Octets of encryption key, without salt.
    pub fn cipher_key_len(self) -> usize {
        match self.cipher {
            Cipher::Null => 0,
            Cipher::DesCbc => 8,
            Cipher::Aes128Gcm | Cipher::Aes128Cbc => 16,
            Cipher::Aes192Cbc | Cipher::TripleDesCbc => 24,
            Cipher::Aes256Gcm | Cipher::Aes256Cbc | Cipher::ChaCha20Poly1305 => 32,
            further => further.further_aead().map_or(0, |aead| aead.key_len),
        }
    }

    /// Octets of salt that follow the encryption key in KEYMAT (RFC 4106 §8.1, RFC 4309 §7.1,
    /// RFC 4543 §3.2, RFC 7634 §2).
    pub fn salt_len(self) -> usize {
        match self.cipher.further_aead() {
            Some(aead) => aead.mode.salt_len(),
            None if self.is_aead() => 4,
            None => 0,
        }
    }

    /// Octets of integrity key, with a GMAC's salt (RFC 4543 §4).
    pub fn integrity_key_len(self) -> usize {
        match self.integrity {
            Integrity::None => 0,
            Integrity::HmacMd5 | Integrity::AesXcbc | Integrity::AesCmac => 16,
            Integrity::HmacSha1 | Integrity::Aes128Gmac => 20,
            Integrity::Aes192Gmac => 28,
            Integrity::Aes256Gmac => 36,
            Integrity::HmacSha256 => 32,
            Integrity::HmacSha384 => 48,
            Integrity::HmacSha512 => 64,
        }
    }

    /// Octets of initialisation vector on the wire.
    #[inline]
    pub fn iv_len(self) -> usize {
        match self.cipher {
            Cipher::Null if self.integrity.is_gmac() => 8,
            Cipher::Null => 0,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 8,
            Cipher::TripleDesCbc | Cipher::DesCbc => 8,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            // An AEAD's.
            _ => 8,
        }
    }

    /// Octets of integrity check value.
    #[inline]
    pub fn icv_len(self) -> usize {
        match self.integrity {
            Integrity::HmacSha1 | Integrity::HmacMd5 | Integrity::AesXcbc | Integrity::AesCmac => {
                12
            }
            Integrity::None => self.cipher.further_aead().map_or(16, |aead| aead.icv_len),
            Integrity::HmacSha256
            | Integrity::Aes128Gmac
            | Integrity::Aes192Gmac
            | Integrity::Aes256Gmac => 16,
            Integrity::HmacSha384 => 24,
            Integrity::HmacSha512 => 32,
        }
    }

    /// What payload, padding and trailer together must be a multiple of (RFC 4303 §2.4).
    #[inline]
    pub fn alignment(self) -> usize {
        match self.cipher {
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            Cipher::TripleDesCbc | Cipher::DesCbc => 8,
            _ => 4,
        }
    }

    /// The name in strongSwan's proposal syntax, such as `aes128gcm16` or `aes256-sha384`; AH's have
    /// `ah-` in front.
    pub fn name(self) -> &'static str {
        use {Cipher::*, Integrity::*};
        if self.protocol == Protocol::Ah {
            return match self.integrity {
                HmacSha1 => "ah-sha1",
                HmacSha384 => "ah-sha384",
                HmacSha512 => "ah-sha512",
                Integrity::Aes128Gmac => "ah-aes128gmac",
                Integrity::Aes192Gmac => "ah-aes192gmac",
                Integrity::Aes256Gmac => "ah-aes256gmac",
                AesXcbc => "ah-aesxcbc",
                AesCmac => "ah-aescmac",
                HmacSha256 | HmacMd5 | None => "ah-sha256",
            };
        }
        match (self.cipher, self.integrity) {
            (Aes128Gcm, _) => "aes128gcm16",
            (Aes256Gcm, _) => "aes256gcm16",
            (ChaCha20Poly1305, _) => "chacha20poly1305",
            (TripleDesCbc, AesXcbc) => "3des-aesxcbc",
            (TripleDesCbc, AesCmac) => "3des-aescmac",
            (DesCbc, AesXcbc) => "des-aesxcbc",
            (DesCbc, AesCmac) => "des-aescmac",
            (Aes128Cbc, AesXcbc) => "aes128-aesxcbc",
            (Aes128Cbc, AesCmac) => "aes128-aescmac",
            (Aes192Cbc, AesXcbc) => "aes192-aesxcbc",
            (Aes192Cbc, AesCmac) => "aes192-aescmac",
            (Aes256Cbc, AesXcbc) => "aes256-aesxcbc",
            (Aes256Cbc, AesCmac) => "aes256-aescmac",
            (Null, AesXcbc) => "null-aesxcbc",
            (Null, AesCmac) => "null-aescmac",
            (TripleDesCbc, HmacMd5) => "3des-md5",
            (TripleDesCbc, HmacSha256) => "3des-sha256",
            (TripleDesCbc, HmacSha384) => "3des-sha384",
            (TripleDesCbc, HmacSha512) => "3des-sha512",
            (TripleDesCbc, _) => "3des-sha1",
            (DesCbc, HmacMd5) => "des-md5",
            (DesCbc, HmacSha256) => "des-sha256",
            (DesCbc, HmacSha384) => "des-sha384",
            (DesCbc, HmacSha512) => "des-sha512",
            (DesCbc, _) => "des-sha1",
            (Aes128Cbc, HmacSha1) => "aes128-sha1",
            (Aes128Cbc, HmacMd5) => "aes128-md5",
            (Aes192Cbc, HmacSha1) => "aes192-sha1",
            (Aes192Cbc, HmacMd5) => "aes192-md5",
            (Aes256Cbc, HmacSha1) => "aes256-sha1",
            (Aes256Cbc, HmacMd5) => "aes256-md5",
            (Null, HmacSha1) => "null-sha1",
            (Null, HmacMd5) => "null-md5",
            (Aes128Cbc, HmacSha384) => "aes128-sha384",
            (Aes128Cbc, HmacSha512) => "aes128-sha512",
            (Aes128Cbc, _) => "aes128-sha256",
            (Aes192Cbc, HmacSha384) => "aes192-sha384",
            (Aes192Cbc, HmacSha512) => "aes192-sha512",
            (Aes192Cbc, _) => "aes192-sha256",
            (Aes256Cbc, HmacSha384) => "aes256-sha384",
            (Aes256Cbc, HmacSha512) => "aes256-sha512",
            (Aes256Cbc, _) => "aes256-sha256",
            (Null, HmacSha384) => "null-sha384",
            (Null, HmacSha512) => "null-sha512",
            (Null, _) => "null-sha256",
            (further, _) => further.further_aead().map_or("", |aead| aead.name),
        }
    }

    /// The suite with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        let mut suites = Self::all().chain(Self::all_ah()).chain(Self::further());
        suites.find(|suite| suite.name() == name)
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
