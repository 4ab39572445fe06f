// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Signatures (RFC 7427, RFC 8420, RFC 4754, RFC 2409 §5.1). What is verified is always the library's own encoding of
//! the hash, compared as a whole.

use ikev2d_proto::credential::{Hash, Scheme};
use ikev2d_proto::crypto::CryptoError;
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPrivate, HasPublic, Id, PKeyRef};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

mod dss;

/// Fewest bits of an RSA key (RFC 8247 §3.1.1).
pub(crate) const RSA_LEAST: u32 = 2048;
/// Most bits: larger ones are only good to keep us busy.
const RSA_MOST: u32 = 8192;
/// What a DSA key must be, for people.
pub(crate) const DSA_NEEDS: &str = "1024 to 4096 bits with q of 160";

fn digest(hash: Hash) -> MessageDigest {
    match hash {
        Hash::Sha1 => MessageDigest::sha1(),
        Hash::Sha256 => MessageDigest::sha256(),
        Hash::Sha384 => MessageDigest::sha384(),
        Hash::Sha512 => MessageDigest::sha512(),
    }
}

/// The curve of a key.
pub(crate) fn curve<T: HasPublic>(key: &PKeyRef<T>) -> Option<Nid> {
    key.ec_key().ok()?.group().curve_name()
}

/// A curve's own hash, and the octets of its field.
pub(crate) fn of_curve(curve: Nid) -> Option<(Hash, i32)> {
    match curve {
        Nid::X9_62_PRIME256V1 => Some((Hash::Sha256, 32)),
        Nid::SECP384R1 => Some((Hash::Sha384, 48)),
        Nid::SECP521R1 => Some((Hash::Sha512, 66)),
        _ => None,
    }
}

/// Whether a key can sign so, and is neither too weak nor absurd.
pub(crate) fn fits<T: HasPublic>(key: &PKeyRef<T>, scheme: Scheme) -> bool {
    match (key.id(), scheme) {
        (Id::RSA, Scheme::RsaPkcs1(_) | Scheme::RsaUntold(_) | Scheme::RsaBare)
        | (Id::RSA | Id::RSA_PSS, Scheme::RsaPss(_)) => {
            (RSA_LEAST..=RSA_MOST).contains(&key.bits()) && is_sound(key)
        }
        (Id::EC, Scheme::Ecdsa(_)) => curve(key).and_then(of_curve).is_some(),
        (Id::EC, Scheme::EcdsaFixed(hash) | Scheme::EcdsaBare(hash)) => curve(key)
            .and_then(of_curve)
            .is_some_and(|own| own.0 == hash),
        (Id::ED25519, Scheme::Ed25519) | (Id::ED448, Scheme::Ed448) => true,
        (Id::DSA, Scheme::Dss) => dss::fits(key),
        _ => false,
    }
}

/// Whether a signature takes less than it does to verify any other, about.
pub(crate) fn is_quick<T: HasPublic>(key: &PKeyRef<T>) -> bool {
    key.id() == Id::ED25519 || curve(key) == Some(Nid::X9_62_PRIME256V1)
}

/// RFC 8017 §3.1: an odd modulus, and an odd exponent from 3 on. With an exponent of 1 everybody signs.
fn is_sound<T: HasPublic>(key: &PKeyRef<T>) -> bool {
    key.rsa().is_ok_and(|rsa| {
        let (n, e) = (rsa.n(), rsa.e());
        n.is_bit_set(0) && e.is_bit_set(0) && e.num_bits() > 1
    })
}

pub(crate) fn sign<T: HasPrivate + HasPublic>(
    key: &PKeyRef<T>,
    scheme: Scheme,
    octets: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    if !fits(key, scheme) {
        return Err(CryptoError);
    }
    let run = || -> Result<Vec<u8>, ErrorStack> {
        match scheme {
            Scheme::Ed25519 | Scheme::Ed448 => {
                Signer::new_without_digest(key)?.sign_oneshot_to_vec(octets)
            }
            Scheme::RsaPkcs1(hash) | Scheme::RsaUntold(hash) => {
                Signer::new(digest(hash), key)?.sign_oneshot_to_vec(octets)
            }
            Scheme::Ecdsa(hash) => ecdsa(key, &hashed(hash, octets)?)?.to_der(),
            Scheme::RsaPss(hash) => {
                let mut signer = Signer::new(digest(hash), key)?;
                signer.set_rsa_padding(Padding::PKCS1_PSS)?;
                signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
                signer.sign_oneshot_to_vec(octets)
            }
            Scheme::EcdsaFixed(hash) => fixed(key, &ecdsa(key, &hashed(hash, octets)?)?),
            Scheme::RsaBare => {
                let rsa = key.rsa()?;
                let mut signature = vec![0; rsa.size() as usize];
                rsa.private_encrypt(octets, &mut signature, Padding::PKCS1)?;
                Ok(signature)
            }
            Scheme::EcdsaBare(_) => fixed(key, &ecdsa(key, octets)?),
            Scheme::Dss => dss::sign(key, octets),
        }
    };
    run().map_err(|_| CryptoError)
}

/// The hash by itself: OpenSSL makes several objects for a signature over octets, which a signature over
/// their hash does without.
fn hashed(hash: Hash, octets: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    Ok(match hash {
        Hash::Sha1 => openssl::hash::hash(digest(hash), octets)?.to_vec(),
        Hash::Sha256 => Sha256::digest(octets).to_vec(),
        Hash::Sha384 => Sha384::digest(octets).to_vec(),
        Hash::Sha512 => Sha512::digest(octets).to_vec(),
    })
}

fn ecdsa<T: HasPrivate>(key: &PKeyRef<T>, hash: &[u8]) -> Result<EcdsaSig, ErrorStack> {
    EcdsaSig::sign(hash, &*key.ec_key()?)
}

/// r and s, each as long as the curve's field.
fn fixed<T: HasPublic>(key: &PKeyRef<T>, signature: &EcdsaSig) -> Result<Vec<u8>, ErrorStack> {
    let len = curve(key).and_then(of_curve).map_or(0, |(_, len)| len);
    let mut fixed = signature.r().to_vec_padded(len)?;
    fixed.extend(signature.s().to_vec_padded(len)?);
    Ok(fixed)
}

/// The same out of r and s; nothing if they have another length.
fn of_fixed<T: HasPublic>(
    key: &PKeyRef<T>,
    signature: &[u8],
) -> Result<Option<EcdsaSig>, ErrorStack> {
    let len = curve(key)
        .and_then(of_curve)
        .map_or(0, |(_, len)| len as usize);
    let Some((r, s)) = signature
        .split_at_checked(len)
        .filter(|(_, s)| s.len() == len)
    else {
        return Ok(None);
    };
    let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
    EcdsaSig::from_private_components(r, s).map(Some)
}

/// Whether an RSA signature opens to exactly this padding around exactly these octets. What it opens to
/// is compared as a whole and never parsed (A03).
fn is_bare_rsa<T: HasPublic>(
    key: &PKeyRef<T>,
    octets: &[u8],
    signature: &[u8],
) -> Result<bool, ErrorStack> {
    let rsa = key.rsa()?;
    let size = rsa.size() as usize;
    let Some(filled) = size.checked_sub(octets.len() + 3).filter(|n| *n >= 8) else {
        return Ok(false);
    };
    if signature.len() != size {
        return Ok(false);
    }
    let mut opened = vec![0; size];
    let len = rsa.public_decrypt(signature, &mut opened, Padding::NONE)?;
    let mut expected = vec![0, 1];
    expected.resize(2 + filled, 0xff);
    expected.push(0);
    expected.extend(octets);
    Ok(len == size && openssl::memcmp::eq(&opened, &expected))
}

/// Whether a signature is this key's over these octets. Errors are a no.
pub(crate) fn verify<T: HasPublic>(
    key: &PKeyRef<T>,
    scheme: Scheme,
    octets: &[u8],
    signature: &[u8],
) -> bool {
    if !fits(key, scheme) {
        return false;
    }
    let run = || -> Result<bool, ErrorStack> {
        match scheme {
            Scheme::Ed25519 | Scheme::Ed448 => {
                Verifier::new_without_digest(key)?.verify_oneshot(signature, octets)
            }
            Scheme::RsaPkcs1(hash) | Scheme::RsaUntold(hash) => {
                Verifier::new(digest(hash), key)?.verify_oneshot(signature, octets)
            }
            Scheme::Ecdsa(hash) => {
                let parsed = EcdsaSig::from_der(signature)?;
                // Nothing but the one encoding of r and s (X.690 §10), and nothing behind it.
                if parsed.to_der()? != signature {
                    return Ok(false);
                }
                parsed.verify(&hashed(hash, octets)?, &*key.ec_key()?)
            }
            Scheme::RsaPss(hash) => {
                let mut verifier = Verifier::new(digest(hash), key)?;
                verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
                // The identifier says so, and no other length will do.
                verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
                verifier.verify_oneshot(signature, octets)
            }
            Scheme::EcdsaFixed(hash) => match of_fixed(key, signature)? {
                Some(signature) => signature.verify(&hashed(hash, octets)?, &*key.ec_key()?),
                None => Ok(false),
            },
            Scheme::RsaBare => is_bare_rsa(key, octets, signature),
            Scheme::EcdsaBare(_) => match of_fixed(key, signature)? {
                Some(signature) => signature.verify(octets, &*key.ec_key()?),
                None => Ok(false),
            },
            Scheme::Dss => dss::verify(key, octets, signature),
        }
    };
    let good = run().unwrap_or(false);
    // What failed leaves errors behind that a later call would take for its own.
    drop(ErrorStack::get());
    good
}

#[cfg(test)]
mod tests;
