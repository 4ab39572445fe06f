// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AUTH payloads (RFC 7296 §3.8): methods, and RFC 7427's algorithm identifiers.

use std::sync::LazyLock;

use crate::credential::{Hash, Scheme};
use crate::wire::{Reader, WireError};

const RSA: u8 = 1;
const SHARED_KEY: u8 = 2;
const ECDSA_256: u8 = 9;
const ECDSA_384: u8 = 10;
const ECDSA_521: u8 = 11;
const DIGITAL_SIGNATURE: u8 = 14;

/// How an end authenticates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Auth<'m> {
    /// By a code that a preshared key makes.
    SharedKey(&'m [u8]),
    /// By a signature of one of these kinds.
    Signature(Vec<Scheme>, &'m [u8]),
}

impl<'m> Auth<'m> {
    pub(crate) fn read(body: &'m [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let method = reader.u8()?;
        reader.take(3)?;
        let data = reader.rest();
        let fixed = |hash| Ok(Self::Signature(vec![Scheme::EcdsaFixed(hash)], data));
        match method {
            SHARED_KEY => Ok(Self::SharedKey(data)),
            RSA => {
                let hashes = [Hash::Sha256, Hash::Sha384, Hash::Sha512, Hash::Sha1];
                Ok(Self::Signature(
                    hashes.map(Scheme::RsaUntold).to_vec(),
                    data,
                ))
            }
            ECDSA_256 => fixed(Hash::Sha256),
            ECDSA_384 => fixed(Hash::Sha384),
            ECDSA_521 => fixed(Hash::Sha512),
            DIGITAL_SIGNATURE => {
                let len = reader.u8()?;
                let identifier = reader.take(len.into())?;
                let scheme = scheme_of(identifier).ok_or(WireError::Malformed {
                    what: "signature algorithm",
                })?;
                Ok(Self::Signature(vec![scheme], reader.rest()))
            }
            _ => Err(WireError::Malformed {
                what: "authentication method",
            }),
        }
    }

    /// A payload's body with a preshared key's code.
    pub(crate) fn emit_shared_key(code: &[u8]) -> Vec<u8> {
        [&[SHARED_KEY, 0, 0, 0], code].concat()
    }

    /// A payload's body with a signature.
    pub(crate) fn emit_signature(scheme: Scheme, signature: &[u8]) -> Vec<u8> {
        let method = match scheme {
            Scheme::RsaUntold(_) | Scheme::RsaBare => RSA,
            Scheme::EcdsaFixed(Hash::Sha384) | Scheme::EcdsaBare(Hash::Sha384) => ECDSA_384,
            Scheme::EcdsaFixed(Hash::Sha512) | Scheme::EcdsaBare(Hash::Sha512) => ECDSA_521,
            Scheme::EcdsaFixed(_) | Scheme::EcdsaBare(_) => ECDSA_256,
            _ => DIGITAL_SIGNATURE,
        };
        let mut body = vec![method, 0, 0, 0];
        if method == DIGITAL_SIGNATURE {
            let identifier = identifier(scheme, Parameters::Null).unwrap_or_default();
            body.push(identifier.len() as u8);
            body.extend(identifier);
        }
        body.extend(signature);
        body
    }
}

/// RFC 4055 §2.1: a hash's parameters are NULL or absent, and both must be accepted.
#[derive(Clone, Copy)]
enum Parameters {
    Null,
    Absent,
}

const SCHEMES: [Scheme; 11] = [
    Scheme::RsaPkcs1(Hash::Sha256),
    Scheme::RsaPkcs1(Hash::Sha384),
    Scheme::RsaPkcs1(Hash::Sha512),
    Scheme::RsaPss(Hash::Sha256),
    Scheme::RsaPss(Hash::Sha384),
    Scheme::RsaPss(Hash::Sha512),
    Scheme::Ecdsa(Hash::Sha256),
    Scheme::Ecdsa(Hash::Sha384),
    Scheme::Ecdsa(Hash::Sha512),
    Scheme::Ed25519,
    Scheme::Ed448,
];

/// The scheme whose AlgorithmIdentifier this is, to the octet. Each known one is encoded, once, and
/// compared: what is never parsed can't be parsed wrongly.
fn scheme_of(given: &[u8]) -> Option<Scheme> {
    static KNOWN: LazyLock<Vec<(Vec<u8>, Scheme)>> = LazyLock::new(|| {
        let both = |scheme| {
            let forms = [Parameters::Null, Parameters::Absent];
            let forms = forms.map(|parameters| identifier(scheme, parameters));
            forms.into_iter().flatten().map(move |own| (own, scheme))
        };
        SCHEMES.into_iter().flat_map(both).collect()
    });
    let known = KNOWN.iter().find(|(own, _)| own == given);
    known.map(|(_, scheme)| *scheme)
}

/// A DER element; everything here is shorter than 128 octets.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag, content.len() as u8];
    out.extend(content);
    out
}

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const NULL: [u8; 2] = [0x05, 0x00];

/// AlgorithmIdentifier in DER (RFC 7427 appendix A, RFC 8420 §2).
fn identifier(scheme: Scheme, parameters: Parameters) -> Option<Vec<u8>> {
    /// 1.2.840.113549.1.1
    const PKCS1: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    /// 1.2.840.10045.4.3
    const ECDSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let rsa = |last: u8| der(OID, &[&PKCS1, &[last]]);
    Some(match scheme {
        Scheme::RsaPkcs1(hash) => {
            let last = match hash {
                Hash::Sha1 => return None,
                Hash::Sha256 => 11,
                Hash::Sha384 => 12,
                Hash::Sha512 => 13,
            };
            // NULL is the only form for these (RFC 4055 §5).
            der(SEQUENCE, &[&rsa(last), &NULL])
        }
        Scheme::RsaPss(hash) => {
            let (hash, salt) = hash_identifier(hash, parameters)?;
            let mask = der(SEQUENCE, &[&rsa(8), &hash]);
            let parameters = der(
                SEQUENCE,
                &[
                    &der(0xa0, &[&hash]),
                    &der(0xa1, &[&mask]),
                    &der(0xa2, &[&[0x02, 0x01, salt]]),
                ],
            );
            der(SEQUENCE, &[&rsa(10), &parameters])
        }
        Scheme::Ecdsa(hash) => {
            let last = match hash {
                Hash::Sha1 => return None,
                Hash::Sha256 => 2,
                Hash::Sha384 => 3,
                Hash::Sha512 => 4,
            };
            der(SEQUENCE, &[&der(OID, &[&ECDSA, &[last]])])
        }
        Scheme::Ed25519 => der(SEQUENCE, &[&der(OID, &[&[0x2b, 0x65, 0x70]])]),
        Scheme::Ed448 => der(SEQUENCE, &[&der(OID, &[&[0x2b, 0x65, 0x71]])]),
        Scheme::RsaUntold(_) | Scheme::EcdsaFixed(_) => return None,
        Scheme::RsaBare | Scheme::EcdsaBare(_) | Scheme::Dss => return None,
    })
}

/// A hash's AlgorithmIdentifier and output length.
fn hash_identifier(hash: Hash, parameters: Parameters) -> Option<(Vec<u8>, u8)> {
    /// 2.16.840.1.101.3.4.2
    const NIST: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let (last, len) = match hash {
        Hash::Sha1 => return None,
        Hash::Sha256 => (1, 32),
        Hash::Sha384 => (2, 48),
        Hash::Sha512 => (3, 64),
    };
    let oid = der(OID, &[&NIST, &[last]]);
    let null: &[u8] = match parameters {
        Parameters::Null => &NULL,
        Parameters::Absent => &[],
    };
    Some((der(SEQUENCE, &[&oid, null]), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    #[test]
    fn identifiers_are_those_of_rfc_7427_appendix_a_and_rfc_8420() {
        let pss = |hash: &str, salt: &str| {
            let hash = format!("300d 0609 6086 4801 6503 0402 {hash} 0500");
            format!(
                "3041 0609 2a86 4886 f70d 0101 0a30 34a0 0f{hash} a11c 301a 0609 2a86 4886 f70d 0101 08{hash} \
                 a203 0201 {salt}"
            )
        };
        for (scheme, text) in [
            (
                Scheme::RsaPkcs1(Hash::Sha256),
                "300d 0609 2a86 4886 f70d 0101 0b05 00".to_owned(),
            ),
            (
                Scheme::RsaPkcs1(Hash::Sha384),
                "300d 0609 2a86 4886 f70d 0101 0c05 00".to_owned(),
            ),
            (
                Scheme::RsaPkcs1(Hash::Sha512),
                "300d 0609 2a86 4886 f70d 0101 0d05 00".to_owned(),
            ),
            (
                Scheme::Ecdsa(Hash::Sha256),
                "300a 0608 2a86 48ce 3d04 0302".to_owned(),
            ),
            (
                Scheme::Ecdsa(Hash::Sha384),
                "300a 0608 2a86 48ce 3d04 0303".to_owned(),
            ),
            (
                Scheme::Ecdsa(Hash::Sha512),
                "300a 0608 2a86 48ce 3d04 0304".to_owned(),
            ),
            (Scheme::RsaPss(Hash::Sha256), pss("01", "20")),
            (Scheme::RsaPss(Hash::Sha384), pss("02", "30")),
            (Scheme::RsaPss(Hash::Sha512), pss("03", "40")),
            (Scheme::Ed25519, "3005 0603 2b65 70".to_owned()),
            (Scheme::Ed448, "3005 0603 2b65 71".to_owned()),
        ] {
            let expected = octets(&text);
            assert_eq!(identifier(scheme, Parameters::Null), Some(expected.clone()));
            assert_eq!(scheme_of(&expected), Some(scheme));
        }
    }

    #[test]
    fn payloads_survive_the_wire() {
        let fixed = [Hash::Sha256, Hash::Sha384, Hash::Sha512].map(Scheme::EcdsaFixed);
        for scheme in SCHEMES.into_iter().chain(fixed) {
            let body = Auth::emit_signature(scheme, b"signature");
            let expected = Auth::Signature(vec![scheme], b"signature");
            assert_eq!(Auth::read(&body), Ok(expected));
        }
        let body = Auth::emit_signature(Scheme::RsaUntold(Hash::Sha256), b"s");
        let Ok(Auth::Signature(schemes, b"s")) = Auth::read(&body) else {
            panic!("method 1 is not read");
        };
        assert!(schemes.contains(&Scheme::RsaUntold(Hash::Sha256)));
        let body = Auth::emit_shared_key(b"code");
        assert_eq!(Auth::read(&body), Ok(Auth::SharedKey(b"code")));
    }

    /// A03, CVE-2018-16151: an identifier that only begins like a known one, has other parameters, an
    /// absurd salt, or a length in another form is unknown.
    #[test]
    fn an_identifier_that_differs_in_one_octet_is_unknown() {
        for scheme in SCHEMES {
            let good = identifier(scheme, Parameters::Null).unwrap();
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    assert_ne!(scheme_of(&bad), Some(scheme), "octet {at}, bit {bit}");
                }
                assert_eq!(scheme_of(&good[..at]), None);
            }
            let mut long = good.clone();
            long.push(0);
            assert_eq!(scheme_of(&long), None);
        }
        // NULL is missing where it must be there, and too much where it must not.
        assert_eq!(scheme_of(&octets("300b 0609 2a86 4886 f70d 0101 0b")), None);
        assert_eq!(
            scheme_of(&octets("300c 0608 2a86 48ce 3d04 0302 0500")),
            None
        );
        // SHA-1 with RSA and with ECDSA: RFC 8247 §3.2 says MUST NOT.
        assert_eq!(
            scheme_of(&octets("300d 0609 2a86 4886 f70d 0101 0505 00")),
            None
        );
        assert_eq!(scheme_of(&octets("3009 0607 2a86 48ce 3d04 01")), None);
        // PSS whose parameters are absent (CVE-2018-6459) or whose salt is 2^31.
        assert_eq!(scheme_of(&octets("300b 0609 2a86 4886 f70d 0101 0a")), None);
        let mut huge = identifier(Scheme::RsaPss(Hash::Sha256), Parameters::Null).unwrap();
        huge.truncate(huge.len() - 3);
        huge.extend([0x02, 0x04, 0x7f, 0xff, 0xff, 0xff]);
        assert_eq!(scheme_of(&huge), None);
    }

    #[test]
    fn a_cut_off_payload_is_refused() {
        let body = Auth::emit_signature(Scheme::Ed25519, &[]);
        for len in 0..body.len() {
            assert!(Auth::read(&body[..len]).is_err(), "{len} octets");
        }
        assert!(Auth::read(&[3, 0, 0, 0, 1]).is_err(), "DSS");
    }
}
