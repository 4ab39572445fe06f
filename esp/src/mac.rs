// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Integrity algorithms of ESP and AH, keyed once.

use openssl::cipher::{Cipher as OpensslCipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use zeroize::Zeroizing;

use offload_api::sa::{AeadMode, Integrity, KeyMaterial, Suite};

use crate::ffi::EvpMac;

/// A keyed integrity algorithm, for one thread at a time.
pub(crate) enum Mac {
    /// An HMAC, or AES-CMAC (RFC 4494).
    Evp(EvpMac),
    /// AES-XCBC-MAC (RFC 3566).
    Xcbc(Xcbc),
    /// AES-GMAC (RFC 4543).
    Gmac(Gmac),
}

impl Mac {
    /// The algorithm of a suite; nothing where its cipher does the integrity, too.
    pub(crate) fn new(suite: Suite, keys: &KeyMaterial) -> Result<Option<Self>, ErrorStack> {
        let key = &keys.integrity;
        let hmac = |digest| EvpMac::hmac(digest, key).map(Self::Evp);
        let mac = match suite.integrity() {
            Integrity::None => match suite.cipher().further_aead() {
                Some(aead) if aead.mode == AeadMode::Gmac => {
                    Self::Gmac(Gmac::new(&keys.cipher, &keys.salt[..])?)
                }
                _ => return Ok(None),
            },
            Integrity::HmacMd5 => hmac(c"MD5")?,
            Integrity::HmacSha1 => hmac(c"SHA1")?,
            Integrity::HmacSha256 => hmac(c"SHA2-256")?,
            Integrity::HmacSha384 => hmac(c"SHA2-384")?,
            Integrity::HmacSha512 => hmac(c"SHA2-512")?,
            Integrity::Aes128Gmac | Integrity::Aes192Gmac | Integrity::Aes256Gmac => {
                let (key, salt) = key.split_at(key.len().saturating_sub(SALT));
                Self::Gmac(Gmac::new(key, salt)?)
            }
            Integrity::AesXcbc => Self::Xcbc(Xcbc::new(key)?),
            Integrity::AesCmac => Self::Evp(EvpMac::cmac(c"AES-128-CBC", key)?),
        };
        Ok(Some(mac))
    }

    /// The code of the concatenated parts, at its algorithm's full length; a GMAC's under this IV.
    pub(crate) fn compute(
        &mut self,
        iv: &[u8; 8],
        parts: &[&[u8]],
    ) -> Result<[u8; 64], ErrorStack> {
        match self {
            Self::Evp(mac) => {
                mac.start()?;
                parts.iter().try_for_each(|part| mac.update(part))?;
                mac.finish()
            }
            Self::Xcbc(mac) => mac.compute(parts),
            Self::Gmac(mac) => mac.compute(iv, parts),
        }
    }
}

/// Octets of a GMAC's salt.
const SALT: usize = 4;

/// AES-GCM over nothing, all being additional data.
pub(crate) struct Gmac {
    context: CipherCtx,
    salt: Zeroizing<[u8; SALT]>,
}

impl Gmac {
    fn new(key: &[u8], salt: &[u8]) -> Result<Self, ErrorStack> {
        let cipher = match key.len() {
            16 => OpensslCipher::aes_128_gcm(),
            24 => OpensslCipher::aes_192_gcm(),
            _ => OpensslCipher::aes_256_gcm(),
        };
        let mut octets = Zeroizing::new([0; SALT]);
        for (octet, value) in octets.iter_mut().zip(salt) {
            *octet = *value;
        }
        let mut context = CipherCtx::new()?;
        context.encrypt_init(Some(cipher), Some(key), None)?;
        Ok(Self {
            context,
            salt: octets,
        })
    }

    fn compute(&mut self, iv: &[u8; 8], parts: &[&[u8]]) -> Result<[u8; 64], ErrorStack> {
        let mut nonce = [0; SALT + 8];
        nonce[..SALT].copy_from_slice(&self.salt[..]);
        nonce[SALT..].copy_from_slice(iv);
        self.context.encrypt_init(None, None, Some(&nonce))?;
        for part in parts {
            self.context.cipher_update(part, None)?;
        }
        self.context.cipher_final(&mut [])?;
        let mut code = [0; 64];
        self.context.tag(&mut code[..16])?;
        Ok(code)
    }
}

type Block = [u8; 16];

/// AES-XCBC-MAC by CMAC, which OpenSSL has. Both are a CBC-MAC whose last block has a key of its own added;
/// here that block comes with our key added and CMAC's taken away.
pub(crate) struct Xcbc {
    cmac: EvpMac,
    /// What is added to a last block that is whole, and to one that is padded.
    last: Zeroizing<[Block; 2]>,
}

impl Xcbc {
    /// Derives the three keys (RFC 3566 §4).
    fn new(key: &[u8]) -> Result<Self, ErrorStack> {
        let aes = OpensslCipher::aes_128_ecb();
        let mut keys = Zeroizing::new([[1; 16], [2; 16], [3; 16]]);
        encrypt(aes, key, &mut keys[..])?;
        let [first, second, third] = *keys;
        // SP 800-38B §6.1: CMAC adds this to a last block that is whole.
        let mut theirs = Zeroizing::new([[0; 16]]);
        encrypt(aes, &first, &mut theirs[..])?;
        let zero = u128::from_be_bytes(theirs[0]);
        let carry = (zero >> 127).wrapping_neg() & 0x87;
        let theirs = zero << 1 ^ carry;
        let last = |ours| (u128::from_be_bytes(ours) ^ theirs).to_be_bytes();
        Ok(Self {
            cmac: EvpMac::cmac(c"AES-128-CBC", &first)?,
            last: Zeroizing::new([last(second), last(third)]),
        })
    }

    fn compute(&mut self, parts: &[&[u8]]) -> Result<[u8; 64], ErrorStack> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut ahead = len.saturating_sub(1) / 16 * 16;
        let mut block = Zeroizing::new([0; 16]);
        let mut held = 0;
        self.cmac.start()?;
        for part in parts {
            let (whole, rest) = part.split_at(ahead.min(part.len()));
            self.cmac.update(whole)?;
            ahead -= whole.len();
            for (octet, value) in block.iter_mut().skip(held).zip(rest) {
                *octet = *value;
            }
            held += rest.len();
        }
        if let Some(pad) = block.get_mut(held) {
            *pad = 0x80;
        }
        let key = &self.last[usize::from(held < block.len())];
        for (octet, key) in block.iter_mut().zip(key) {
            *octet ^= key;
        }
        self.cmac.update(&block[..])?;
        self.cmac.finish()
    }
}

/// Encrypts blocks, each by itself.
fn encrypt(cipher: &CipherRef, key: &[u8], blocks: &mut [Block]) -> Result<(), ErrorStack> {
    let mut context = CipherCtx::new()?;
    context.encrypt_init(Some(cipher), Some(key), None)?;
    context.set_padding(false);
    for block in blocks {
        let mut room = Zeroizing::new([0; 32]);
        context.cipher_update(&block[..], Some(&mut room[..]))?;
        block.copy_from_slice(&room[..16]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use offload_api::sa::Cipher;

    fn mac(integrity: Integrity, key: &str) -> Mac {
        let suite = Suite::new(Cipher::Null, integrity).unwrap();
        let key = hex::decode(key).unwrap();
        let keys = KeyMaterial::from_keymat(suite, &[], &key).unwrap();
        Mac::new(suite, &keys).unwrap().unwrap()
    }

    /// The code of a message, in one piece, in two at every place, and again.
    fn check(integrity: Integrity, key: &str, message: &[u8], expected: &str) {
        let mut mac = mac(integrity, key);
        for at in 0..=message.len() {
            let (a, b) = message.split_at(at);
            let code = mac.compute(&[0; 8], &[a, b]).unwrap();
            let label = format!("{} octets cut at {at}", message.len());
            assert_eq!(hex::encode(&code[..16]), expected, "{label}");
        }
    }

    /// RFC 3566 §4.6.
    #[test]
    fn xcbc_gives_the_codes_of_rfc_3566() {
        let key = "000102030405060708090a0b0c0d0e0f";
        let counted: Vec<u8> = (0..=0x21).collect();
        for (message, expected) in [
            (&counted[..0], "75f0251d528ac01c4573dfd584d79f29"),
            (&counted[..3], "5b376580ae2f19afe7219ceef172756f"),
            (&counted[..16], "d2a246fa349b68a79998a4394ff7a263"),
            (&counted[..20], "47f51b4564966215b8985c63055ed308"),
            (&counted[..32], "f54f0ec8d2b9f3d36807734bd5283fd4"),
            (&counted[..34], "becbb3bccdb518a30677d5481fb6b4d8"),
            (&[0; 1000], "f0dafee895db30253761103b5d84528f"),
        ] {
            check(Integrity::AesXcbc, key, message, expected);
        }
    }

    /// RFC 4494 §4 (RFC 4493's).
    #[test]
    fn cmac_gives_the_codes_of_rfc_4494() {
        let key = "2b7e151628aed2a6abf7158809cf4f3c";
        let message = hex::decode(concat!(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        ))
        .unwrap();
        for (len, expected) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
            (64, "51f0bebf7e3b9d92fc49741779363cfe"),
        ] {
            check(Integrity::AesCmac, key, &message[..len], expected);
        }
    }
}
