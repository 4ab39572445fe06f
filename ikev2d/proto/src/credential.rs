// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Public keys as credentials: how ends sign and whom they believe (RFC 7296 §2.15, RFC 7427). The
//! library that knows keys and certificates is behind two traits; its work is slow, so an endpoint asks
//! for it as a [`Job`] and goes on when the [`JobResult`] comes.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::config::Identity;
use crate::crypto::CryptoError;

/// A hash, by its number in RFC 7427's registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Hash {
    /// SHA-1: for method 1 with old peers only.
    Sha1 = 1,
    /// SHA-256.
    Sha256 = 2,
    /// SHA-384.
    Sha384 = 3,
    /// SHA-512.
    Sha512 = 4,
}

impl Hash {
    /// What RFC 8247 §3.2 has no warning about.
    pub const GOOD: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];
}

/// Number of the "Identity" hash (RFC 8420 §2): the signature scheme hashes by itself.
pub(crate) const HASH_IDENTITY: u16 = 5;

/// How an AUTH payload is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 as a digital signature (method 14).
    RsaPkcs1(Hash),
    /// RSASSA-PSS with a salt as long as the hash.
    RsaPss(Hash),
    /// ECDSA on any curve, the signature in DER.
    Ecdsa(Hash),
    /// Ed25519 (RFC 8420).
    Ed25519,
    /// Ed448 (RFC 8420).
    Ed448,
    /// Method 1: RSASSA-PKCS1-v1_5 whose hash is not told before it is opened.
    RsaUntold(Hash),
    /// Methods 9 to 11: ECDSA with the hash's own curve, the signature as r and s (RFC 4754).
    EcdsaFixed(Hash),
    /// IKEv1's RSA (RFC 2409 §5.1): PKCS #1 v1.5 padding around the octets themselves, which are a hash.
    RsaBare,
    /// IKEv1's ECDSA with the hash's own curve (RFC 4754): the octets are the hash, the signature r and s.
    EcdsaBare(Hash),
    /// IKEv1's DSS (RFC 2409 §5.1): the octets are SHA-1's, the signature r and s of 20 octets each.
    Dss,
}

impl Scheme {
    /// Number of its hash in SIGNATURE_HASH_ALGORITHMS; nothing for methods that don't ask for it.
    pub(crate) fn announced(self) -> Option<u16> {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => Some(hash as u16),
            Self::Ed25519 | Self::Ed448 => Some(HASH_IDENTITY),
            Self::RsaUntold(_) | Self::EcdsaFixed(_) => None,
            Self::RsaBare | Self::EcdsaBare(_) | Self::Dss => None,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, hash) = match self {
            Self::RsaPkcs1(hash) => ("RSA_PKCS1", hash),
            Self::RsaPss(hash) => ("RSA_PSS", hash),
            Self::Ecdsa(hash) => ("ECDSA", hash),
            Self::Ed25519 => return f.write_str("ED25519"),
            Self::Ed448 => return f.write_str("ED448"),
            Self::RsaUntold(hash) => ("RSA", hash),
            Self::EcdsaFixed(hash) => ("ECDSA_FIXED", hash),
            Self::RsaBare => return f.write_str("RSA_BARE"),
            Self::EcdsaBare(hash) => ("ECDSA_BARE", hash),
            Self::Dss => return f.write_str("DSS"),
        };
        let bits = match hash {
            Hash::Sha1 => 1,
            Hash::Sha256 => 256,
            Hash::Sha384 => 384,
            Hash::Sha512 => 512,
        };
        write!(f, "{name}_SHA{bits}")
    }
}

/// Body of a CERT payload (§3.6).
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// How it is encoded: [`Self::X509`], [`Self::RAW_PUBLIC_KEY`], or [`Self::OCSP_CONTENT`].
    pub encoding: u8,
    /// The certificate, the key, or what is said of a certificate.
    pub octets: Vec<u8>,
}

impl Certificate {
    /// X.509 certificate - signature, in DER.
    pub const X509: u8 = 4;
    /// OCSP Content: an OCSPResponse in DER (RFC 4806 §3.2).
    pub const OCSP_CONTENT: u8 = 14;
    /// SubjectPublicKeyInfo in DER (RFC 7670).
    pub const RAW_PUBLIC_KEY: u8 = 15;
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Certificate({}, {} octets)",
            self.encoding,
            self.octets.len()
        )
    }
}

/// A private key of ours.
pub trait Signer: Send + Sync + fmt::Debug {
    /// What the peer gets to see: our certificate and those between it and an authority.
    fn certificates(&self) -> &[Certificate];

    /// What the key can do and policy allows, best first.
    fn schemes(&self) -> &[Scheme];

    /// What OCSP responders say of those certificates, for peers that ask.
    fn statuses(&self) -> Option<&Arc<dyn Statuses>> {
        None
    }

    /// Signs.
    ///
    /// # Errors
    /// The library refuses.
    fn sign(&self, scheme: Scheme, octets: &[u8]) -> Result<Vec<u8>, CryptoError>;

    /// Has somebody else make a signature meanwhile, where that is so and costs no more than to verify a
    /// peer's: what is signed for one that then isn't believed is little more work.
    fn begin(&self, scheme: Scheme, octets: &[u8]) -> Option<Begun> {
        let _ = (scheme, octets);
        None
    }
}

/// A signature that is being made: it waits for it, and must be called to have the signer free again.
pub type Begun = Box<dyn FnOnce() -> Result<Vec<u8>, CryptoError> + Send>;

/// OCSP answers about our own certificates, which somebody has fetched before they are needed.
pub trait Statuses: Send + Sync + fmt::Debug {
    /// Those that count now, in DER. It waits for nobody.
    fn answers(&self) -> Vec<Vec<u8>>;

    /// Fetches what is due: to be called now and then, where waiting for the network is no harm.
    fn renew(&self);
}

/// What a peer claims: an identity, with the signature and the certificates that shall prove it.
#[derive(Clone)]
pub struct Claim {
    /// Who it says it is.
    pub identity: Identity,
    /// What it sent along, its own first.
    pub certificates: Vec<Certificate>,
    /// How it may be signed: one, or method 1's several.
    pub schemes: Vec<Scheme>,
    /// The signature.
    pub signature: Vec<u8>,
    /// What must be signed.
    pub octets: Vec<u8>,
}

/// Whom we believe.
pub trait Verifier: Send + Sync + fmt::Debug {
    /// SHA-1 hashes of trusted authorities' keys, for CERTREQ (§3.7).
    fn authorities(&self) -> Vec<[u8; 20]>;

    /// Whether the peer is asked for OCSP answers about its certificates (RFC 4806 §3.1).
    fn asks_for_status(&self) -> bool {
        false
    }

    /// Whether to find out may take a network's time, which work beside it shall not wait for.
    fn may_wait(&self) -> bool {
        false
    }

    /// What is believed in: two that give the same let the same peers in, whatever they were made from.
    /// Nothing where that can't be told.
    fn digest(&self) -> Option<[u8; 32]> {
        None
    }

    /// Whether a claim is true.
    ///
    /// # Errors
    /// Why it isn't, for the log: a peer is told nothing of it.
    fn verify(&self, claim: &Claim) -> Result<(), Refusal>;

    /// The same. `begin` is called when nothing but the signature itself is left to be looked at, if it
    /// comes to that: for what may be made meanwhile.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    fn verify_while(&self, claim: &Claim, begin: &mut dyn FnMut()) -> Result<(), Refusal> {
        let _ = begin;
        self.verify(claim)
    }
}

/// A peer's claim is not believed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Work of any other kind; what comes of it is where the core finds it.
pub type Work = Arc<dyn Fn() + Send + Sync>;

/// Slow work, to be done anywhere but on the thread that drives the endpoint.
#[derive(Clone, Default)]
pub struct Job {
    pub(crate) verify: Option<(Arc<dyn Verifier>, Claim)>,
    pub(crate) sign: Option<(Arc<dyn Signer>, Scheme, Vec<u8>)>,
    pub(crate) work: Option<Work>,
    pub(crate) for_peer: bool,
    pub(crate) line: Line,
}

/// Where a job waits, so that others need not wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// For what is soon done: signatures, and key exchanges of our own and of authenticated peers.
    #[default]
    Quick,
    /// For what may take a network's time.
    Network,
    /// For key exchanges of peers that have yet to be authenticated: anybody may ask for them.
    Strangers,
    /// For puzzles, which keep a core busy for as long as somebody unknown wants them to.
    Puzzles,
}

impl Job {
    /// Work that may take a network's time.
    pub(crate) fn of(work: Work) -> Self {
        Self {
            work: Some(work),
            line: Line::Network,
            ..Self::default()
        }
    }

    /// A puzzle's solution.
    pub fn puzzle(work: Work) -> Self {
        Self {
            line: Line::Puzzles,
            ..Self::of(work)
        }
    }

    /// A key exchange, with a peer that is yet to be authenticated or with another.
    pub fn key_exchange(work: Work, of_stranger: bool) -> Self {
        let line = match of_stranger {
            true => Line::Strangers,
            false => Line::Quick,
        };
        Self {
            line,
            ..Self::of(work)
        }
    }

    /// First the check, then the signature; either may be left out.
    pub fn new(
        verify: Option<(Arc<dyn Verifier>, Claim)>,
        sign: Option<(Arc<dyn Signer>, Scheme, Vec<u8>)>,
    ) -> Self {
        Self {
            verify,
            sign,
            ..Self::default()
        }
    }

    /// A peer waits for it, who asks again if nothing comes: it may be answered with
    /// [`JobError::Busy`].
    pub fn for_peer(self) -> Self {
        Self {
            for_peer: true,
            ..self
        }
    }

    /// Whether a peer waits for it.
    pub fn is_for_peer(&self) -> bool {
        self.for_peer
    }

    /// Where it waits.
    pub fn line(&self) -> Line {
        match &self.verify {
            Some((verifier, _)) if verifier.may_wait() => Line::Network,
            _ => self.line,
        }
    }

    /// Does it. No signature comes out for a peer that isn't believed.
    pub fn run(&self) -> JobResult {
        if let Some(work) = &self.work {
            work();
        }
        let sign = self.sign.as_ref();
        let mut begun = None;
        if let Some((verifier, claim)) = &self.verify {
            // Where a network may be waited for there is nothing to gain.
            let sign = sign.filter(|_| !verifier.may_wait());
            let mut begin = || {
                if let Some((signer, scheme, octets)) = sign.filter(|_| begun.is_none()) {
                    begun = signer.begin(*scheme, octets);
                }
            };
            if let Err(refusal) = verifier.verify_while(claim, &mut begin) {
                let _ = begun.map(|finish| finish());
                return Err(JobError::Refused(refusal));
            }
        }
        let signed = match (begun, sign) {
            (Some(finish), _) => Some(finish()),
            (None, Some((signer, scheme, octets))) => Some(signer.sign(*scheme, octets)),
            (None, None) => None,
        };
        signed.transpose().map_err(JobError::Crypto)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verify, sign) = (self.verify.is_some(), self.sign.is_some());
        write!(f, "Job {{ verify: {verify}, sign: {sign} }}")
    }
}

/// What came of a job: the signature that was asked for.
pub type JobResult = Result<Option<Vec<u8>>, JobError>;

/// A job came to nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// The peer is not believed.
    #[error("{0}")]
    Refused(Refusal),
    /// There is no room for it now.
    #[error("too much is to be done at once")]
    Busy,
    /// It panicked: a defect of ours.
    #[error("our own work on it has failed")]
    Panicked,
    /// We could not sign.
    #[error("our signature: {0}")]
    Crypto(CryptoError),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A signer beside this process, which counts what it has begun and what was taken of it.
    #[derive(Debug, Default)]
    struct Beside {
        begun: AtomicUsize,
        taken: Arc<AtomicUsize>,
    }

    impl Signer for Beside {
        fn certificates(&self) -> &[Certificate] {
            &[]
        }

        fn schemes(&self) -> &[Scheme] {
            &[Scheme::Ed25519]
        }

        fn sign(&self, _: Scheme, _: &[u8]) -> Result<Vec<u8>, CryptoError> {
            panic!("it is begun already")
        }

        fn begin(&self, _: Scheme, octets: &[u8]) -> Option<Begun> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            let (taken, octets) = (self.taken.clone(), octets.to_vec());
            Some(Box::new(move || {
                taken.fetch_add(1, Ordering::Relaxed);
                Ok(octets)
            }))
        }
    }

    /// What a verifier finds.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Finds {
        Good,
        BadSignature,
        /// And never looks at the signature.
        BadCertificate,
    }

    #[derive(Debug)]
    struct Meanwhile(Arc<Beside>, Finds);

    impl Verifier for Meanwhile {
        fn authorities(&self) -> Vec<[u8; 20]> {
            Vec::new()
        }

        fn verify(&self, claim: &Claim) -> Result<(), Refusal> {
            self.verify_while(claim, &mut || {})
        }

        fn verify_while(&self, _: &Claim, begin: &mut dyn FnMut()) -> Result<(), Refusal> {
            assert_eq!(self.0.begun.load(Ordering::Relaxed), 0);
            if self.1 != Finds::BadCertificate {
                begin();
                begin();
                assert_eq!(self.0.begun.load(Ordering::Relaxed), 1);
                assert_eq!(self.0.taken.load(Ordering::Relaxed), 0);
            }
            let refused = || Refusal("its signature is wrong".to_owned());
            (self.1 == Finds::Good).then_some(()).ok_or_else(refused)
        }
    }

    /// A signature that is made beside us is begun before the peer's is looked at, and not before its
    /// certificate is. It comes out for who is believed alone, and is taken in any case: the signer waits
    /// for that.
    #[test]
    fn a_signature_made_meanwhile_is_only_for_who_is_believed() {
        for finds in [Finds::Good, Finds::BadSignature, Finds::BadCertificate] {
            let signer = Arc::new(Beside::default());
            let verifier = Arc::new(Meanwhile(signer.clone(), finds));
            let claim = Claim {
                identity: Identity::Any,
                certificates: Vec::new(),
                schemes: Vec::new(),
                signature: Vec::new(),
                octets: Vec::new(),
            };
            let sign = (signer.clone() as _, Scheme::Ed25519, b"ours".to_vec());
            let result = Job::new(Some((verifier, claim)), Some(sign)).run();
            match finds {
                Finds::Good => assert_eq!(result, Ok(Some(b"ours".to_vec()))),
                _ => assert!(matches!(result, Err(JobError::Refused(_)))),
            }
            let begun = usize::from(finds != Finds::BadCertificate);
            assert_eq!(signer.begun.load(Ordering::Relaxed), begun);
            assert_eq!(signer.taken.load(Ordering::Relaxed), begun);
        }
    }
}
