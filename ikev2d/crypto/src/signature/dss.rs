// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DSS as IKEv1 has it (RFC 2409 §5.1): DSA over 160 bits of HMAC-SHA-1, the signature r followed by s.

use std::ops::RangeInclusive;

use openssl::bn::{BigNum, BigNumContext};
use openssl::dsa::{DsaRef, DsaSig};
use openssl::error::ErrorStack;
use openssl::pkey::{HasPrivate, HasPublic, PKeyRef};
use openssl::pkey_ctx::PkeyCtx;

/// Bits of q. RFC 2409's DSS is that of 1994, which has this one alone; what a longer q of FIPS 186-3 signs
/// there, nobody has written down.
const Q_BITS: i32 = 160;
/// Bits of p: fewer are broken, more are only good to keep us busy.
const P_BITS: RangeInclusive<u32> = 1024..=4096;

/// Whether a key is one of RFC 2409's DSS, and sound.
pub(super) fn fits<T: HasPublic>(key: &PKeyRef<T>) -> bool {
    P_BITS.contains(&key.bits())
        && key.dsa().is_ok_and(|dsa| {
            dsa.q_opt().is_some_and(|q| q.num_bits() == Q_BITS) && is_sound(&dsa).unwrap_or(false)
        })
}

/// SP 800-89 §5.3.1: g and the public value are of the subgroup that q is the order of, and not 1. With 1
/// everybody signs.
fn is_sound<T: HasPublic>(dsa: &DsaRef<T>) -> Result<bool, ErrorStack> {
    let (Some(p), Some(q), Some(g)) = (dsa.p_opt(), dsa.q_opt(), dsa.g_opt()) else {
        return Ok(false);
    };
    let one = BigNum::from_u32(1)?;
    let (mut context, mut power) = (BigNumContext::new()?, BigNum::new()?);
    for value in [g, dsa.pub_key()] {
        power.mod_exp(value, q, p, &mut context)?;
        if value <= &*one || value >= p || power != one {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Octets of each half of a signature.
fn half<T: HasPublic>(key: &PKeyRef<T>) -> Result<usize, ErrorStack> {
    let dsa = key.dsa()?;
    let octets = dsa.q_opt().map_or(0, |q| q.num_bytes());
    Ok(usize::try_from(octets).unwrap_or_default())
}

/// Signs what is the hash already.
pub(super) fn sign<T: HasPrivate + HasPublic>(
    key: &PKeyRef<T>,
    hash: &[u8],
) -> Result<Vec<u8>, ErrorStack> {
    let len = half(key)?;
    let (mut context, mut der) = (PkeyCtx::new(key)?, Vec::new());
    context.sign_init()?;
    context.sign_to_vec(hash, &mut der)?;
    let signature = DsaSig::from_der(&der)?;
    let mut fixed = Vec::with_capacity(2 * len);
    for number in [signature.r(), signature.s()] {
        fixed.extend(number.to_vec_padded(i32::try_from(len).unwrap_or_default())?);
    }
    Ok(fixed)
}

/// Whether a signature is over this hash.
pub(super) fn verify<T: HasPublic>(
    key: &PKeyRef<T>,
    hash: &[u8],
    signature: &[u8],
) -> Result<bool, ErrorStack> {
    let len = half(key)?;
    let halves = signature.split_at_checked(len);
    let Some((r, s)) = halves.filter(|(_, s)| s.len() == len) else {
        return Ok(false);
    };
    let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
    let der = DsaSig::from_private_components(r, s)?.to_der()?;
    let mut context = PkeyCtx::new(key)?;
    context.verify_init()?;
    context.verify(hash, &der)
}

#[cfg(test)]
mod tests;
