// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cryptography that IKE needs, as a trait: a library's, or a test's.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::algorithm::{Encryption, Group, Integrity, Prf};

/// A primitive refused: a public value out of range, a failed check, or no memory. Which, must not
/// be told to a peer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("cryptographic operation failed")]
pub struct CryptoError;

/// A key exchange of our side.
pub trait KeyExchange: Send + Sync {
    /// Our public value.
    fn public(&self) -> &[u8];

    /// The shared secret with a responder's public value, which is checked (RFC 6989).
    ///
    /// # Errors
    /// The value is not one of the group's.
    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError>;
}

/// Primitives.
pub trait Crypto: Send + Sync {
    /// Fills with unpredictable octets.
    fn random(&self, out: &mut [u8]);

    /// Whether a key exchange in this group takes so long that others must not wait for it: far longer
    /// than to have another thread do it.
    fn is_slow(&self, _group: Group) -> bool {
        false
    }

    /// A new key pair.
    ///
    /// # Errors
    /// The library refuses the group.
    fn generate(&self, group: Group) -> Result<Box<dyn KeyExchange>, CryptoError>;

    /// A responder's public value to an initiator's, which is checked, and the shared secret.
    ///
    /// # Errors
    /// The value is not one of the group's.
    fn answer(
        &self,
        group: Group,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError> {
        let exchange = self.generate(group)?;
        let secret = exchange.agree(peer)?;
        Ok((exchange.public().to_vec(), secret))
    }

    /// prf(key, parts one after another).
    ///
    /// # Errors
    /// The library refuses.
    fn prf(&self, prf: Prf, key: &[u8], parts: &[&[u8]])
    -> Result<Zeroizing<Vec<u8>>, CryptoError>;

    /// Truncated integrity checksum over the parts.
    ///
    /// # Errors
    /// The library refuses.
    fn integrity(
        &self,
        integrity: Integrity,
        key: &[u8],
        parts: &[&[u8]],
    ) -> Result<Vec<u8>, CryptoError>;

    /// Seals in place and appends the tag. `key` ends with the salt.
    ///
    /// # Errors
    /// The library refuses.
    fn aead_seal(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError>;

    /// Opens in place; `data` ends with the tag, which is taken off.
    ///
    /// # Errors
    /// The tag does not match.
    fn aead_open(
        &self,
        encryption: Encryption,
        key: &[u8],
        iv: &[u8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError>;

    /// A block cipher in CBC mode over whole blocks.
    ///
    /// # Errors
    /// Not whole blocks, no such cipher, or the library refuses.
    fn cbc(
        &self,
        encryption: Encryption,
        encrypt: bool,
        key: &[u8],
        iv: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError>;

    /// The hash beneath a PRF, which IKEv1 also uses by itself (RFC 2409 §5).
    ///
    /// # Errors
    /// The library refuses.
    fn hash(&self, beneath: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError>;

    /// SHA-1, for NAT detection only (RFC 7296 §2.23).
    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20];

    /// Whether two distinguished names in DER are equal; a library compares them as X.500 wants it.
    fn same_name(&self, a: &[u8], b: &[u8]) -> bool {
        a == b
    }

    /// A number that is the same for names that [`same_name`](Self::same_name) finds equal.
    fn name_key(&self, _name: &[u8]) -> u64 {
        0
    }

    /// Whether two secrets are equal, in constant time.
    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        use subtle::ConstantTimeEq;
        a.ct_eq(b).into()
    }
}
