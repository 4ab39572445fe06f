// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key derivation (RFC 7296 §2.13, §2.14, §2.17, §2.18), with additional key exchanges (RFC 9370 §2.2).

use std::cell::Cell;
use std::num::NonZeroU32;

use zeroize::Zeroizing;

use crate::algorithm::Prf;
use crate::crypto::{Crypto, CryptoError};
use crate::event::ChildKeys;
use crate::proposal::{EspSuite, IkeSuite};
use crate::wire::{HEADER_LEN, Header, payload};

/// Keys of an IKE SA.
pub(crate) struct IkeKeys {
    /// In a row, as they are derived (§2.14): thousands of IKE SAs keep them. The last two, SK_pi and
    /// SK_pr, are there as long as AUTH needs them.
    material: Zeroizing<Box<[u8]>>,
    prf_len: u8,
    integrity_len: u8,
    encryption_len: u8,
    ivs: Ivs,
}

/// The IVs of our messages, where they need only be other ones each time (RFC 5282 §3.1). Members of a
/// cluster that seal with the same keys share the base, and each has a part of the numbers behind it for
/// itself: 2^32 parts of 2^32 numbers, no two of them the same whatever the base is.
struct Ivs {
    base: u64,
    part: u32,
    used: Cell<u64>,
}

impl Ivs {
    fn new(base: u64, part: u32) -> Self {
        let used = Cell::new(0);
        Self { base, part, used }
    }

    fn next(&self) -> Result<[u8; 8], CryptoError> {
        let used = self.used.get();
        let low = u32::try_from(used).map_err(|_| CryptoError)?;
        self.used.set(used + 1);
        let number = u64::from(self.part) << 32 | u64::from(low);
        Ok(self.base.wrapping_add(number).to_be_bytes())
    }
}

/// prf+ (§2.13).
fn prf_plus(
    crypto: &dyn Crypto,
    prf: Prf,
    key: &[u8],
    seed: &[&[u8]],
    len: usize,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let mut out = Zeroizing::new(Vec::with_capacity(len + prf.output_len()));
    let mut last = Zeroizing::new(Vec::new());
    for counter in 1..=u8::MAX {
        if out.len() >= len {
            break;
        }
        let counter = [counter];
        let mut parts: Vec<&[u8]> = vec![&last];
        parts.extend(seed);
        parts.push(&counter);
        let block = crypto.prf(prf, key, &parts)?;
        out.extend_from_slice(&block);
        last = block;
    }
    if out.len() < len {
        return Err(CryptoError);
    }
    out.truncate(len);
    Ok(out)
}

/// What a postquantum preshared key is mixed into.
pub(crate) struct Mixable {
    d: Zeroizing<Vec<u8>>,
    pub(crate) pi: Zeroizing<Vec<u8>>,
    pub(crate) pr: Zeroizing<Vec<u8>>,
}

/// No key is longer than 255 octets.
fn short(len: usize) -> Result<u8, CryptoError> {
    u8::try_from(len).map_err(|_| CryptoError)
}

/// Takes keys off the front of key material.
struct Cutter<'a>(&'a [u8]);

impl Cutter<'_> {
    fn cut(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let (key, rest) = self.0.split_at_checked(len).ok_or(CryptoError)?;
        self.0 = rest;
        Ok(Zeroizing::new(key.to_vec()))
    }
}

impl IkeKeys {
    /// Of a new IKE SA (§2.14), or of one that comes after other keys, with their SK_d and PRF: of one
    /// that rekeys another (§2.18), or after an IKE_INTERMEDIATE (RFC 9370 §2.2.3). `further` are the
    /// secrets of additional key exchanges in a row (RFC 9370 §2.2.4).
    pub(crate) fn derive(
        crypto: &dyn Crypto,
        suite: &IkeSuite,
        (secret, further): (&[u8], &[u8]),
        (nonce_i, nonce_r): (&[u8], &[u8]),
        (spi_i, spi_r): (u64, u64),
        before: Option<(Prf, &[u8])>,
    ) -> Result<Self, CryptoError> {
        let seed = match before {
            Some((prf, d)) => crypto.prf(prf, d, &[secret, nonce_i, nonce_r, further])?,
            None => {
                let key = suite.prf.nonces_key(nonce_i, nonce_r);
                crypto.prf(suite.prf, &key, &[secret])?
            }
        };
        let (prf_len, encryption_len) = (suite.prf.output_len(), suite.encryption.key_len());
        let integrity_len = suite.integrity.map_or(0, |integrity| integrity.key_len());
        let total = 3 * prf_len + 2 * (encryption_len + integrity_len);
        let (spi_i, spi_r) = (spi_i.to_be_bytes(), spi_r.to_be_bytes());
        let parts: [&[u8]; 4] = [nonce_i, nonce_r, &spi_i, &spi_r];
        let material = prf_plus(crypto, suite.prf, &seed, &parts, total)?;
        // Where it starts is nobody's business: it would tell how much was said.
        let mut iv = [0; 8];
        crypto.random(&mut iv);
        Ok(Self {
            // Exactly as long, so that nothing is left behind where it lay.
            material: Zeroizing::new(material.as_slice().into()),
            prf_len: short(prf_len)?,
            integrity_len: short(integrity_len)?,
            encryption_len: short(encryption_len)?,
            ivs: Ivs::new(u64::from_be_bytes(iv), 0),
        })
    }

    /// As another member of a cluster has them, to go on sealing with in this part of the IVs: one that
    /// nobody else has had or will have.
    pub(crate) fn taken_up(
        suite: &IkeSuite,
        (material, base): (&[u8], u64),
        part: NonZeroU32,
    ) -> Result<Self, CryptoError> {
        let integrity_len = suite.integrity.map_or(0, |integrity| integrity.key_len());
        let keys = Self {
            material: Zeroizing::new(material.into()),
            prf_len: short(suite.prf.output_len())?,
            integrity_len: short(integrity_len)?,
            encryption_len: short(suite.encryption.key_len())?,
            ivs: Ivs::new(base, part.get()),
        };
        let fits = keys.authentication() == material.len();
        fits.then_some(keys).ok_or(CryptoError)
    }

    /// What another member goes on with: all but SK_pi and SK_pr in a row, and the base of the IVs.
    pub(crate) fn shared(&self) -> (&[u8], u64) {
        (self.key(0, self.authentication()), self.ivs.base)
    }

    /// An IV that no message of ours has had with these keys, and none will (RFC 5282 §3.1): it counts on
    /// whatever becomes of the other keys, and whichever messages are sealed anew. Each side seals with a
    /// key of its own, so the peer's are none of these.
    pub(crate) fn next_iv(&self) -> Result<[u8; 8], CryptoError> {
        self.ivs.next()
    }

    /// Lengths of keys: of the PRF, for integrity, for encryption.
    fn lens(&self) -> [usize; 3] {
        [self.prf_len, self.integrity_len, self.encryption_len].map(usize::from)
    }

    /// Where SK_pi starts.
    fn authentication(&self) -> usize {
        let [prf, integrity, encryption] = self.lens();
        prf + 2 * (integrity + encryption)
    }

    fn key(&self, start: usize, len: usize) -> &[u8] {
        self.material.get(start..start + len).unwrap_or_default()
    }

    /// SK_d.
    pub(crate) fn d(&self) -> &[u8] {
        self.key(0, self.prf_len.into())
    }

    /// SK_ai and SK_ar.
    pub(crate) fn integrity(&self) -> (&[u8], &[u8]) {
        let [start, len, _] = self.lens();
        (self.key(start, len), self.key(start + len, len))
    }

    /// SK_ei and SK_er.
    pub(crate) fn encryption(&self) -> (&[u8], &[u8]) {
        let [prf, integrity, len] = self.lens();
        let start = prf + 2 * integrity;
        (self.key(start, len), self.key(start + len, len))
    }

    /// SK_pi and SK_pr.
    pub(crate) fn auth(&self) -> (&[u8], &[u8]) {
        let (start, len) = (self.authentication(), usize::from(self.prf_len));
        (self.key(start, len), self.key(start + len, len))
    }

    /// Forgets what only AUTH needed.
    pub(crate) fn forget_authentication(&mut self) {
        let rest = self.authentication();
        if self.material.len() > rest {
            self.material = Zeroizing::new(self.key(0, rest).into());
        }
    }

    /// Mixes in a postquantum preshared key (RFC 8784 §3); what was there before.
    pub(crate) fn mix_ppk(
        &mut self,
        crypto: &dyn Crypto,
        prf: Prf,
        ppk: &[u8],
    ) -> Result<Mixable, CryptoError> {
        let mix = |key: &[u8]| prf_plus(crypto, prf, ppk, &[key], prf.output_len());
        let (pi, pr) = self.auth();
        let (d, pi, pr) = (mix(self.d())?, mix(pi)?, mix(pr)?);
        Ok(self.replace_mixable(Mixable { d, pi, pr }))
    }

    /// Puts keys in the place of what a postquantum preshared key is mixed into.
    pub(crate) fn replace_mixable(&mut self, mut new: Mixable) -> Mixable {
        let start = self.authentication();
        let places = [0, start, start + usize::from(self.prf_len)];
        for (at, key) in places
            .into_iter()
            .zip([&mut new.d, &mut new.pi, &mut new.pr])
        {
            if let Some(place) = self.material.get_mut(at..at + key.len()) {
                place.swap_with_slice(key);
            }
        }
        new
    }
}

/// Keys of a child SA (§2.17): initiator to responder first. `further` are the secrets of additional
/// key exchanges in a row (RFC 9370 §2.2.4).
pub(crate) fn child_keys(
    crypto: &dyn Crypto,
    prf: Prf,
    d: &[u8],
    suite: &EspSuite,
    (secret, further): (Option<&[u8]>, &[u8]),
    (nonce_i, nonce_r): (&[u8], &[u8]),
) -> Result<(ChildKeys, ChildKeys), CryptoError> {
    let encryption_len = suite.encryption.key_len();
    let integrity_len = suite.integrity.map_or(0, |integrity| integrity.key_len());
    let parts: [&[u8]; 4] = [secret.unwrap_or_default(), nonce_i, nonce_r, further];
    let material = prf_plus(crypto, prf, d, &parts, 2 * (encryption_len + integrity_len))?;
    let mut cutter = Cutter(&material);
    let mut keys = || -> Result<ChildKeys, CryptoError> {
        Ok(ChildKeys {
            encryption: cutter.cut(encryption_len)?,
            integrity: cutter.cut(integrity_len)?,
        })
    };
    Ok((keys()?, keys()?))
}

/// A side's part of IntAuth (RFC 9242 §3.3.2) after one more message: as if it were sent whole, and
/// without IV, padding and checksum.
pub(crate) fn int_auth(
    crypto: &dyn Crypto,
    (prf, sk_p): (Prf, &[u8]),
    before: &[u8],
    header: &Header,
    (first, flags): (u8, u8),
    inner: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    use zerocopy::IntoBytes;
    const GENERIC_HEADER: usize = 4;
    let payload_len = u16::try_from(GENERIC_HEADER + inner.len()).map_err(|_| CryptoError)?;
    let header = Header {
        next_payload: payload::SK,
        len: (HEADER_LEN as u32 + u32::from(payload_len)).into(),
        ..*header
    };
    let head = [&[first, flags], &payload_len.to_be_bytes()[..]].concat();
    let parts = [before, header.as_bytes(), &head, inner];
    crypto.prf(prf, sk_p, &parts).map(|part| part.to_vec())
}

/// AUTH by a preshared key (§2.15).
pub(crate) fn psk_auth(
    crypto: &dyn Crypto,
    prf: Prf,
    psk: &[u8],
    octets: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let key = crypto.prf(prf, psk, &[b"Key Pad for IKEv2"])?;
    crypto.prf(prf, &key, &[octets])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// B18: whatever the base is, also where it wraps; and at its end a part gives nothing more.
    #[test]
    fn parts_of_the_ivs_have_none_in_common_and_end() {
        for base in [
            0,
            1,
            u64::MAX,
            u64::MAX - (1 << 32) + 1,
            0x1234_5678_9abc_def0,
        ] {
            let mut seen = HashSet::new();
            for part in [0, 1, 2, 0x0100_0001, 0x0200_0001, u32::MAX] {
                let ivs = Ivs::new(base, part);
                for used in [0, 1, u64::from(u32::MAX) - 1, u64::from(u32::MAX)] {
                    ivs.used.set(used);
                    assert!(seen.insert(ivs.next().unwrap()));
                }
                assert_eq!(ivs.next(), Err(CryptoError));
                assert_eq!(ivs.next(), Err(CryptoError));
            }
        }
    }
}
