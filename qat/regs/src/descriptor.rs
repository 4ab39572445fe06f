// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configuration words of a content descriptor, which holds an SA's keys and lies in the host's
//! memory.

/// Octets that a content descriptor has at most here.
pub const MOST: usize = 256;
/// Octets in front of a key for the older cipher slice.
pub const CIPHER_HEADER: usize = 8;
/// Octets in front of a key for the newer cipher slice.
pub const UCS_HEADER: usize = 16;
/// Octets in front of a hash's first state.
pub const HASH_HEADER: usize = 16;

/// Ciphers.
pub mod cipher {
    /// AES with a key of 128 bits.
    pub const AES_128: u32 = 3;
    /// AES with a key of 192 bits.
    pub const AES_192: u32 = 4;
    /// AES with a key of 256 bits.
    pub const AES_256: u32 = 5;
    /// ChaCha20-Poly1305.
    pub const CHACHA20_POLY1305: u32 = 11;
}

/// Modes of ciphers.
pub mod mode {
    /// Electronic code book.
    pub const ECB: u32 = 0;
    /// Cipher block chaining.
    pub const CBC: u32 = 1;
    /// Counter; ChaCha20-Poly1305 too.
    pub const CTR: u32 = 2;
    /// AES-GCM in a single pass.
    pub const AEAD: u32 = 4;
}

/// Hashes.
pub mod hash {
    /// SHA-1.
    pub const SHA1: u32 = 1;
    /// SHA-224.
    pub const SHA224: u32 = 3;
    /// SHA-256.
    pub const SHA256: u32 = 4;
    /// SHA-384.
    pub const SHA384: u32 = 5;
    /// SHA-512.
    pub const SHA512: u32 = 6;
    /// GHASH of AES-GCM by two slices.
    pub const GHASH: u32 = 10;
}

/// The first word for a cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherConfig {
    /// One of [`cipher`].
    pub algorithm: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// Deciphers.
    pub decrypts: bool,
    /// The key is to be expanded for deciphering.
    pub converts_key: bool,
    /// Octets of a single-pass AEAD's tag.
    pub tag_len: u32,
}

impl CipherConfig {
    /// The word.
    pub const fn word(self) -> u32 {
        self.algorithm
            | self.mode << 4
            | (self.decrypts as u32) << 8
            | (self.converts_key as u32) << 9
            | (self.tag_len & 0x1f) << 10
    }

    /// What a word says.
    pub const fn parse(word: u32) -> Self {
        Self {
            algorithm: word & 0xf,
            mode: word >> 4 & 0xf,
            decrypts: word >> 8 & 1 != 0,
            converts_key: word >> 9 & 1 != 0,
            tag_len: word >> 10 & 0x1f,
        }
    }
}

/// The second word for a single-pass AEAD: octets of additional data, in an order of its own.
pub const fn aad_word(len: u32) -> u32 {
    (len & 0xff) << 24 | (len >> 8 & 0x3f) << 16
}

/// The first word for a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// One of [`hash`].
    pub algorithm: u32,
    /// By states that were computed ahead: HMAC's after a block each.
    pub precomputed: bool,
    /// Octets of the digest.
    pub digest_len: u32,
}

impl HashConfig {
    /// The word.
    pub const fn word(self) -> u32 {
        self.algorithm | (self.precomputed as u32) << 4 | (self.digest_len & 0x7f) << 8
    }

    /// What a word says.
    pub const fn parse(word: u32) -> Self {
        Self {
            algorithm: word & 0xf,
            precomputed: word >> 4 & 0xf == 1,
            digest_len: word >> 8 & 0x7f,
        }
    }
}

/// A hash's states: octets of a block, of the first state, of the second, as they lie in a content
/// descriptor.
pub const fn hash_sizes(algorithm: u32) -> Option<(usize, usize, usize)> {
    match algorithm {
        // 20 octets, rounded up to whole units.
        hash::SHA1 => Some((64, 24, 24)),
        hash::SHA224 | hash::SHA256 => Some((64, 32, 32)),
        hash::SHA384 | hash::SHA512 => Some((128, 64, 64)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_dpdk_was_seen_to_write() {
        let gcm = CipherConfig {
            algorithm: cipher::AES_128,
            mode: mode::AEAD,
            decrypts: false,
            converts_key: false,
            tag_len: 16,
        };
        assert_eq!((gcm.word(), aad_word(12)), (0x4043, 0x0c00_0000));
        let chacha = CipherConfig::parse(0x412b);
        assert_eq!(chacha.algorithm, cipher::CHACHA20_POLY1305);
        assert_eq!((chacha.mode, chacha.decrypts), (mode::CTR, true));
        assert_eq!((chacha.tag_len, chacha.word()), (16, 0x412b));
    }
}
