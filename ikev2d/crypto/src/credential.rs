// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our keys, and what may be signed with them.

use std::fmt;
use std::sync::Arc;

use ikev2d_proto::credential::{Begun, Certificate, Hash, Scheme, Signer, Statuses};
use ikev2d_proto::crypto::CryptoError;
use openssl::error::ErrorStack;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl::x509::X509;
use thiserror::Error;

use crate::signature;

/// A credential can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// It is in no form that we know.
    #[error("no {what} in PEM or DER")]
    Malformed {
        /// What was looked for.
        what: &'static str,
    },
    /// The passphrase is missing or wrong.
    #[error(
        "the private key is encrypted, and no secret opens it (secrets.NAME with file and secret)"
    )]
    Passphrase,
    /// The key can't do what is asked of it.
    #[error(
        "a key of {found} can't do what `auth` asks for, or is too weak (RSA needs {RSA} bits, DSA {DSA} and `auth = \"dsa\"`)",
        RSA = signature::RSA_LEAST,
        DSA = signature::DSA_NEEDS
    )]
    Unsuitable {
        /// Its kind.
        found: String,
    },
    /// The certificate is another key's.
    #[error("the certificate {subject:?} is not of this private key")]
    Mismatch {
        /// Whose it is.
        subject: String,
    },
    /// A revocation list can't be read.
    #[error("revocation list {path:?}: {error}")]
    RevocationList {
        /// The file.
        path: String,
        /// Why.
        error: ErrorStack,
    },
    /// The library refuses.
    #[error("OpenSSL: {0}")]
    Library(#[from] ErrorStack),
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// Whatever it is.
    #[default]
    Any,
    /// RSA, with PKCS #1 v1.5.
    Rsa,
    /// RSA, with PSS.
    RsaPss,
    /// ECDSA.
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// Ed448.
    Ed448,
    /// DSA: IKEv1's alone, and never unless it is asked for by name.
    Dsa,
}

/// What signatures policy allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignaturePolicy {
    /// Which keys.
    pub kind: KeyKind,
    /// Fewest bits of the key; 0 for the least that is sound.
    pub bits: u32,
    /// Which hashes, best first; empty for all that are sound.
    pub hashes: Vec<Hash>,
}

impl SignaturePolicy {
    /// Whether a key may sign so.
    pub(crate) fn allows<T: HasPublic>(&self, key: &PKeyRef<T>, scheme: Scheme) -> bool {
        let (kind, hash) = match scheme {
            Scheme::RsaPkcs1(hash) | Scheme::RsaUntold(hash) => (KeyKind::Rsa, Some(hash)),
            Scheme::RsaBare => (KeyKind::Rsa, None),
            Scheme::RsaPss(hash) => (KeyKind::RsaPss, Some(hash)),
            Scheme::Ecdsa(hash) | Scheme::EcdsaFixed(hash) | Scheme::EcdsaBare(hash) => {
                (KeyKind::Ecdsa, Some(hash))
            }
            Scheme::Ed25519 => (KeyKind::Ed25519, None),
            Scheme::Ed448 => (KeyKind::Ed448, None),
            Scheme::Dss => (KeyKind::Dsa, None),
        };
        // "rsa" is any RSA of a peer; "rsa/pss" is PSS alone.
        let kind_fits = self.kind == KeyKind::Any && kind != KeyKind::Dsa
            || self.kind == kind
            || (self.kind == KeyKind::Rsa && kind == KeyKind::RsaPss);
        let hash_fits = hash.is_none_or(|hash| {
            if self.hashes.is_empty() {
                hash != Hash::Sha1
            } else {
                self.hashes.contains(&hash)
            }
        });
        kind_fits && hash_fits && key.bits() >= self.bits && signature::fits(key, scheme)
    }

    /// How a key of ours signs, best first.
    fn schemes<T: HasPublic>(&self, key: &PKeyRef<T>) -> Vec<Scheme> {
        let hashes = if self.hashes.is_empty() {
            Hash::GOOD.to_vec()
        } else {
            self.hashes.clone()
        };
        let each = |scheme: fn(Hash) -> Scheme| hashes.iter().copied().map(scheme);
        let mut all: Vec<Scheme> = match key.id() {
            Id::RSA | Id::RSA_PSS if self.kind == KeyKind::RsaPss => each(Scheme::RsaPss).collect(),
            Id::RSA => each(Scheme::RsaPkcs1)
                .chain(each(Scheme::RsaUntold))
                .filter(|scheme| *scheme != Scheme::RsaPkcs1(Hash::Sha1))
                .collect(),
            Id::RSA_PSS => each(Scheme::RsaPss).collect(),
            Id::EC => {
                let own = signature::curve(key).and_then(signature::of_curve);
                let own = own.map(|(hash, _)| hash);
                let mut schemes: Vec<Scheme> = each(Scheme::Ecdsa).collect();
                // The curve's own hash first, unless policy has an order.
                if self.hashes.is_empty() {
                    schemes.sort_by_key(|scheme| Some(*scheme) != own.map(Scheme::Ecdsa));
                }
                schemes.extend(own.map(Scheme::EcdsaFixed));
                schemes
            }
            Id::ED25519 => vec![Scheme::Ed25519],
            Id::ED448 => vec![Scheme::Ed448],
            Id::DSA => vec![Scheme::Dss],
            _ => Vec::new(),
        };
        // With SHA-1 only RSA has a form that IKE can say, that of RFC 7296.
        let unsayable = [Scheme::RsaPss(Hash::Sha1), Scheme::Ecdsa(Hash::Sha1)];
        all.retain(|scheme| self.allows(key, *scheme) && !unsayable.contains(scheme));
        all
    }
}

/// Signs with a private key that this process does not have.
pub trait Elsewhere: Send + Sync {
    /// Has a signature made, by a scheme that fits the key.
    ///
    /// # Errors
    /// There is none.
    fn begin(&self, scheme: Scheme, octets: &[u8]) -> Result<Begun, CryptoError>;
}

/// A key of ours, whose private half is here or elsewhere.
#[derive(Clone)]
pub struct OwnKey(Halves);

#[derive(Clone)]
enum Halves {
    Both(PKey<Private>),
    Public(PKey<Public>, Arc<dyn Elsewhere>),
}

impl From<PKey<Private>> for OwnKey {
    fn from(key: PKey<Private>) -> Self {
        Self(Halves::Both(key))
    }
}

impl OwnKey {
    /// One whose private half is elsewhere.
    pub fn elsewhere(public: PKey<Public>, signer: Arc<dyn Elsewhere>) -> Self {
        Self(Halves::Public(public, signer))
    }

    /// The private half, if it is here.
    pub fn private(&self) -> Option<&PKey<Private>> {
        match &self.0 {
            Halves::Both(key) => Some(key),
            Halves::Public(..) => None,
        }
    }

    /// Whether this is its public half.
    pub fn is_of<T: HasPublic>(&self, public: &PKeyRef<T>) -> bool {
        match &self.0 {
            Halves::Both(key) => key.public_eq(public),
            Halves::Public(key, _) => key.public_eq(public),
        }
    }

    /// Whether both are the same key.
    pub fn is_same(&self, other: &Self) -> bool {
        match &other.0 {
            Halves::Both(key) => self.is_of(key),
            Halves::Public(key, _) => self.is_of(key),
        }
    }

    fn public_key_to_der(&self) -> Result<Vec<u8>, ErrorStack> {
        match &self.0 {
            Halves::Both(key) => key.public_key_to_der(),
            Halves::Public(key, _) => key.public_key_to_der(),
        }
    }

    fn schemes(&self, policy: &SignaturePolicy) -> Vec<Scheme> {
        match &self.0 {
            Halves::Both(key) => policy.schemes(key),
            Halves::Public(key, _) => policy.schemes(key),
        }
    }

    fn describe(&self) -> String {
        match &self.0 {
            Halves::Both(key) => describe(key),
            Halves::Public(key, _) => describe(key),
        }
    }

    /// A signature by a scheme that fits it.
    ///
    /// # Errors
    /// There is none.
    pub fn sign(&self, scheme: Scheme, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        match &self.0 {
            Halves::Both(key) => signature::sign(key, scheme, octets),
            Halves::Public(_, signer) => signer.begin(scheme, octets)?(),
        }
    }

    /// Has it made meanwhile, if it is made elsewhere and is soon done.
    fn begin(&self, scheme: Scheme, octets: &[u8]) -> Option<Begun> {
        match &self.0 {
            Halves::Public(key, signer) if signature::is_quick(key) => {
                signer.begin(scheme, octets).ok()
            }
            _ => None,
        }
    }
}

/// A private key of ours with what proves whose it is.
pub struct KeySigner {
    key: OwnKey,
    certificates: Vec<Certificate>,
    schemes: Vec<Scheme>,
    statuses: Option<Arc<dyn Statuses>>,
}

impl KeySigner {
    /// A key with its certificate, followed by those between it and an authority.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn with_certificates(
        key: impl Into<OwnKey>,
        certificates: &[X509],
        policy: &SignaturePolicy,
    ) -> Result<Self, CredentialError> {
        let key = key.into();
        if let Some(own) = certificates.first()
            && !key.is_of(&*own.public_key()?)
        {
            let subject = crate::name::text(own.subject_name());
            return Err(CredentialError::Mismatch { subject });
        }
        let certificates = certificates
            .iter()
            .map(|certificate| {
                Ok(Certificate {
                    encoding: Certificate::X509,
                    octets: certificate.to_der()?,
                })
            })
            .collect::<Result<_, ErrorStack>>()?;
        Self::new(key, certificates, policy)
    }

    /// A key that the peer knows, or learns as a raw public key (RFC 7670).
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn raw(key: impl Into<OwnKey>, policy: &SignaturePolicy) -> Result<Self, CredentialError> {
        let key = key.into();
        let certificates = vec![Certificate {
            encoding: Certificate::RAW_PUBLIC_KEY,
            octets: key.public_key_to_der()?,
        }];
        Self::new(key, certificates, policy)
    }

    fn new(
        key: OwnKey,
        certificates: Vec<Certificate>,
        policy: &SignaturePolicy,
    ) -> Result<Self, CredentialError> {
        let schemes = key.schemes(policy);
        if schemes.is_empty() {
            let found = key.describe();
            return Err(CredentialError::Unsuitable { found });
        }
        Ok(Self {
            key,
            certificates,
            schemes,
            statuses: None,
        })
    }

    /// The same, with OCSP answers about its certificates for peers that ask for them (RFC 4806).
    pub fn with_statuses(self, statuses: Arc<dyn Statuses>) -> Self {
        let statuses = Some(statuses);
        Self { statuses, ..self }
    }
}

/// A key's kind and size, for people.
pub fn describe<T: HasPublic>(key: &PKeyRef<T>) -> String {
    let kind = match key.id() {
        Id::RSA | Id::RSA_PSS => "RSA",
        Id::EC => "ECDSA",
        Id::ED25519 => "ED25519",
        Id::ED448 => "ED448",
        Id::DSA => "DSA",
        _ => "another kind",
    };
    match key.dsa().ok().and_then(|dsa| Some(dsa.q_opt()?.num_bits())) {
        Some(q) => format!("{kind} {} bits with q of {q}", key.bits()),
        None => format!("{kind} {} bits", key.bits()),
    }
}

impl fmt::Debug for KeySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySigner({:?})", self.schemes)
    }
}

impl Signer for KeySigner {
    fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    fn schemes(&self) -> &[Scheme] {
        &self.schemes
    }

    fn statuses(&self) -> Option<&Arc<dyn Statuses>> {
        self.statuses.as_ref()
    }

    fn sign(&self, scheme: Scheme, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        self.key.sign(scheme, octets)
    }

    fn begin(&self, scheme: Scheme, octets: &[u8]) -> Option<Begun> {
        self.key.begin(scheme, octets)
    }
}

/// Reads a private key in PEM or DER; `passphrase` opens an encrypted one.
///
/// # Errors
/// [`CredentialError`].
pub fn private_key(
    octets: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<PKey<Private>, CredentialError> {
    let mut asked = false;
    // Without a callback of ours the library would ask on the terminal.
    let callback = |buffer: &mut [u8]| {
        asked = true;
        let passphrase = passphrase.unwrap_or_default();
        let Some(room) = buffer.get_mut(..passphrase.len()) else {
            return Ok(0);
        };
        room.copy_from_slice(passphrase);
        Ok(passphrase.len())
    };
    let key = PKey::private_key_from_pem_callback(octets, callback)
        .or_else(|_| PKey::private_key_from_der(octets))
        .or_else(|error| match passphrase {
            Some(passphrase) => PKey::private_key_from_pkcs8_passphrase(octets, passphrase),
            None => Err(error),
        });
    drop(ErrorStack::get());
    key.map_err(|_| {
        if asked || passphrase.is_some() {
            CredentialError::Passphrase
        } else {
            let what = "private key";
            CredentialError::Malformed { what }
        }
    })
}

/// A key's id: the hash of its SubjectPublicKeyInfo, in hexadecimal.
///
/// # Errors
/// The library refuses.
pub fn key_id<T: HasPublic>(key: &PKeyRef<T>) -> Result<String, CredentialError> {
    let hash = openssl::sha::sha1(&key.public_key_to_der()?);
    Ok(hash.iter().map(|octet| format!("{octet:02x}")).collect())
}

/// Reads certificates: PEM with any number of them, or one in DER.
///
/// # Errors
/// [`CredentialError`].
pub fn certificates(octets: &[u8]) -> Result<Vec<X509>, CredentialError> {
    let found = match X509::stack_from_pem(octets) {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => X509::from_der(octets).map(|one| vec![one]),
    };
    drop(ErrorStack::get());
    let what = "certificate";
    found.map_err(|_| CredentialError::Malformed { what })
}

/// Reads a public key: SubjectPublicKeyInfo in PEM or DER.
///
/// # Errors
/// [`CredentialError`].
pub fn public_key(octets: &[u8]) -> Result<PKey<openssl::pkey::Public>, CredentialError> {
    let found = PKey::public_key_from_pem(octets).or_else(|_| PKey::public_key_from_der(octets));
    drop(ErrorStack::get());
    let what = "public key";
    found.map_err(|_| CredentialError::Malformed { what })
}
