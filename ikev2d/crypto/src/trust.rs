// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whom a connection believes: authorities, certificates or keys that are pinned to it, and revocation.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ikev2d_proto::config::Identity;
use ikev2d_proto::credential::{Certificate, Claim, Refusal, Verifier};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Public};
use openssl::sha::sha1;
use openssl::ssl::SslFiletype;
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509VerifyFlags, X509VerifyParam};
use openssl::x509::{X509, X509ExtendedKeyUsage, X509KeyUsage, X509Ref, X509StoreContext};
use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;

use crate::credential::{CredentialError, KeyKind, SignaturePolicy};
use crate::crl::{self, List, Lists};
use crate::fetch::MOST_URIS;
use crate::ocsp::{self, Ocsp, Status};
use crate::paths::{Paths, Sent};
use crate::{name, signature};

/// Certificates between a peer's and an authority, at most. Each costs one verification, and one more
/// for its revocation.
const DEPTH: i32 = 7;
/// OpenSSL's level 2: 112 bits, so neither SHA-1 nor RSA below 2048 bits in a chain.
pub(crate) const SECURITY_LEVEL: i32 = 2;
/// Level 1: 80 bits, which is what DSA's q of 160 bits has. SHA-1 has less, in a chain.
const DSA_LEVEL: i32 = 1;
/// How long servers may take for all of a peer's certificates: it sends again meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where the peer is taken in any case.
const PATIENCE_IF_AVAILABLE: Duration = Duration::from_secs(4);

/// What is done about revocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Nothing.
    Off,
    /// What there is counts: a responder's answer, a list, one that is out of date for those whom it
    /// names; nothing is no reason to refuse.
    #[default]
    IfAvailable,
    /// The same, but a certificate that names a responder or a list, or whose authority has a responder
    /// or a list by configuration, needs a valid answer or list.
    IfUri,
    /// Every certificate of a chain needs a valid answer or list.
    Strict,
}

/// What a connection believes.
#[derive(Debug, Default)]
pub struct TrustAnchors {
    /// Authorities.
    pub authorities: Vec<X509>,
    /// Certificates of the peer itself, or of authorities that need not be self-signed.
    pub certificates: Vec<X509>,
    /// The peer's raw public keys.
    pub keys: Vec<PKey<Public>>,
    /// Files with revocation lists in PEM or DER.
    pub revocation_lists: Vec<String>,
    /// OCSP responders of authorities, besides those that certificates name.
    pub responders: Vec<(X509, Vec<String>)>,
    /// Where authorities' revocation lists are, besides where certificates say.
    pub list_uris: Vec<(X509, Vec<String>)>,
}

fn level_of(policy: &SignaturePolicy) -> i32 {
    match policy.kind {
        KeyKind::Dsa => DSA_LEVEL,
        _ => SECURITY_LEVEL,
    }
}

/// How the library looks at lists. Without the second it takes a delta for a whole list.
const BY_LISTS: X509VerifyFlags = X509VerifyFlags::CRL_CHECK
    .union(X509VerifyFlags::EXTENDED_CRL_SUPPORT)
    .union(X509VerifyFlags::USE_DELTAS);

impl TrustAnchors {
    fn store(&self, flags: X509VerifyFlags, level: i32) -> Result<X509StoreBuilder, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for anchor in self.authorities.iter().chain(&self.certificates) {
            store.add_cert(anchor.clone())?;
        }
        let mut parameters = X509VerifyParam::new()?;
        parameters.set_depth(DEPTH);
        parameters.set_auth_level(level);
        // What is pinned is believed, whoever signed it.
        parameters.set_flags(flags | X509VerifyFlags::PARTIAL_CHAIN)?;
        store.set_param(&parameters)?;
        Ok(store)
    }
}

/// A connection's [`Verifier`].
pub struct Trust {
    anchors: TrustAnchors,
    store: X509Store,
    /// The same, asking for the first certificate's revocation list.
    revoking: X509Store,
    /// The same again, whatever the list's dates say.
    timeless: X509Store,
    /// Hashes of the authorities' keys, made once: every first message is answered with them.
    authorities: Vec<[u8; 20]>,
    paths: Paths,
    revocation: Revocation,
    policy: SignaturePolicy,
    ocsp: Option<Arc<Ocsp>>,
    lists: Option<Arc<Lists>>,
    asks_for_status: bool,
}

/// Keys that a claim may be signed with, and the certificates that must not be revoked then.
#[derive(Clone, Default)]
pub(crate) struct Believed {
    pub(crate) keys: Vec<PKey<Public>>,
    /// From the peer's own up to the anchor.
    pub(crate) chain: Vec<X509>,
    pub(crate) between: Vec<X509>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.anchors.authorities.iter();
        let names: Vec<_> = names.map(|ca| name::text(ca.subject_name())).collect();
        write!(f, "Trust({names:?}, {:?})", self.policy)
    }
}

impl Trust {
    /// Trust in these, for signatures that policy allows.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn new(
        anchors: TrustAnchors,
        revocation: Revocation,
        policy: SignaturePolicy,
    ) -> Result<Self, CredentialError> {
        let level = level_of(&policy);
        let store = anchors.store(X509VerifyFlags::empty(), level)?.build();
        let with_lists = |flags| -> Result<X509Store, CredentialError> {
            let mut store = anchors.store(flags | BY_LISTS, level)?;
            let lookup = store.add_lookup(X509Lookup::file())?;
            for path in &anchors.revocation_lists {
                let loaded = lookup
                    .load_crl_file(path, SslFiletype::PEM)
                    .or_else(|_| lookup.load_crl_file(path, SslFiletype::ASN1));
                loaded.map_err(|error| CredentialError::RevocationList {
                    path: path.clone(),
                    error,
                })?;
            }
            Ok(store.build())
        };
        let revoking = with_lists(X509VerifyFlags::empty())?;
        let timeless = with_lists(X509VerifyFlags::NO_CHECK_TIME)?;
        let keys = anchors.authorities.iter();
        let keys = keys.filter_map(|ca| ca.public_key().ok());
        let hashes = keys.filter_map(|key| Some(sha1(&key.public_key_to_der().ok()?)));
        Ok(Self {
            store,
            revoking,
            timeless,
            authorities: hashes.collect(),
            paths: Paths::default(),
            anchors,
            revocation,
            policy,
            ocsp: None,
            lists: None,
            asks_for_status: false,
        })
    }

    /// The same, asking OCSP responders by this.
    pub fn with_ocsp(self, ocsp: Option<Arc<Ocsp>>) -> Self {
        Self { ocsp, ..self }
    }

    /// The same, asking peers themselves for OCSP answers about their certificates (RFC 4806), where
    /// revocation matters.
    pub fn asking_for_status(self, asks: bool) -> Self {
        let asks_for_status = asks && self.revocation != Revocation::Off;
        Self {
            asks_for_status,
            ..self
        }
    }

    /// The same, fetching revocation lists by this.
    pub fn with_lists(self, lists: Option<Arc<Lists>>) -> Self {
        Self { lists, ..self }
    }

    /// The keys that a claim may be signed with: pinned ones, or that of a valid certificate of the
    /// identity. Beside them, what was sent, if its path is to be kept.
    fn keys(&self, claim: &Claim) -> Result<(Believed, Option<Sent>), Refusal> {
        let raw = claim
            .certificates
            .iter()
            .find(|c| c.encoding == Certificate::RAW_PUBLIC_KEY);
        let sent = claim.certificates.iter();
        let certificates: Vec<&[u8]> = sent
            .filter(|c| c.encoding == Certificate::X509)
            .map(|c| &*c.octets)
            .collect();
        let sent = Sent::new(&certificates);
        if let Some(known) = sent.and_then(|sent| self.paths.find(sent))
            && let Some(own) = known.chain.first()
        {
            return match name::is_of(own, &claim.identity) {
                true => Ok((known, None)),
                false => Err(not_of(own, &claim.identity)),
            };
        }
        let parsed = certificates.iter().map(|octets| parse(octets));
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        let Some((own, others)) = parsed.split_first() else {
            return Ok((self.pinned_keys(claim, raw)?, None));
        };
        let believed = self.path_of(Some(&claim.identity), own, others)?;
        Ok((believed, sent))
    }

    /// Whether certificates are believed, and are of this identity; of anybody where none is given. Who
    /// asks sees to the key.
    pub(crate) fn path_of(
        &self,
        identity: Option<&Identity>,
        own: &X509,
        others: &[X509],
    ) -> Result<Believed, Refusal> {
        let mut pinned = self.anchors.certificates.iter();
        if pinned.len() != 0 && !pinned.any(|pinned| same(pinned, own)) {
            return Err(refusal("its certificate is none of remote.certs"));
        }
        let chain = self.validate(own, others)?;
        if let Some(identity) = identity.filter(|identity| !name::is_of(own, identity)) {
            return Err(not_of(own, identity));
        }
        Ok(Believed {
            keys: key_of(own)?,
            chain,
            between: others.to_vec(),
        })
    }

    #[cfg(test)]
    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The authorities that are believed.
    pub(crate) fn anchors(&self) -> &[X509] {
        &self.anchors.authorities
    }

    /// No certificate was sent: a key or certificate that is pinned to the connection will do.
    fn pinned_keys(&self, claim: &Claim, raw: Option<&Certificate>) -> Result<Believed, Refusal> {
        let fits = |key: &&PKey<Public>| {
            raw.is_none_or(|raw| key.public_key_to_der().is_ok_and(|own| own == raw.octets))
        };
        let keys: Vec<_> = self.anchors.keys.iter().filter(fits).cloned().collect();
        if !keys.is_empty() {
            return Ok(Believed {
                keys,
                ..Believed::default()
            });
        }
        if raw.is_some() {
            return Err(refusal("its raw public key is none of remote.pubkeys"));
        }
        let mut pinned = self.anchors.certificates.iter();
        let own = pinned
            .find(|certificate| name::is_of(certificate, &claim.identity))
            .ok_or(refusal("it has sent no certificate, and none is pinned"))?;
        Ok(Believed {
            chain: self.validate(own, &[])?,
            keys: key_of(own)?,
            between: Vec::new(),
        })
    }

    /// Path validation (RFC 5280 §6) by the library, then what IKE asks of the certificate itself. The
    /// path is what comes out.
    fn validate(&self, own: &X509Ref, others: &[X509]) -> Result<Vec<X509>, Refusal> {
        let between = stack(others)?;
        let (verified, reason, chain) = verify(&self.store, own, &between)?;
        if !verified {
            return Err(Refusal(format!(
                "the certificate {:?}: {}",
                name::text(own.subject_name()),
                reason.error_string()
            )));
        }
        check_usage(own)?;
        Ok(chain)
    }

    /// Judges what is below the anchor, which is believed by configuration. One that is pinned without
    /// its authority has nothing that could be verified, which only `strict` minds.
    /// `brought` are OCSP answers of the peer's.
    pub(crate) fn check_revocations(
        &self,
        believed: &Believed,
        brought: &[&[u8]],
    ) -> Result<(), Refusal> {
        let strict = self.revocation == Revocation::Strict;
        if self.revocation == Revocation::Off || believed.chain.is_empty() {
            return Ok(());
        }
        let between = stack(&believed.between)?;
        let below = believed.chain.len().saturating_sub(1);
        let patience = match self.revocation {
            Revocation::IfAvailable => PATIENCE_IF_AVAILABLE,
            _ => PATIENCE,
        };
        let deadline = Instant::now() + patience;
        for (at, certificate) in believed.chain.iter().enumerate() {
            if at < below.max(usize::from(strict)) {
                let issuer = believed.chain.get(at + 1).map(|issuer| &**issuer);
                self.check_revocation((certificate, issuer), (&between, brought), deadline)?;
            }
        }
        Ok(())
    }

    fn check_revocation(
        &self,
        (certificate, issuer): (&X509Ref, Option<&X509Ref>),
        (between, brought): (&Stack<X509>, &[&[u8]]),
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let refused = |why: &str| {
            let subject = name::text(certificate.subject_name());
            Refusal(format!("the certificate {subject:?}: {why}"))
        };
        let listed = self.look_up(certificate, between)?;
        if let Listed::Revoked(why) = &listed {
            return Err(refused(why));
        }
        let mut whys: Vec<String> = match &listed {
            Listed::OutOfDate(why) => vec![why.clone()],
            _ => Vec::new(),
        };
        let named = |uris: fn(&Self, &X509Ref, &X509Ref) -> Vec<String>| {
            issuer.map_or_else(Vec::new, |issuer| uris(self, certificate, issuer))
        };
        let (responders, points) = (named(Self::responders), named(Self::list_uris));
        let at = SystemTime::now();
        if let Some((ocsp, issuer)) = self.ocsp.as_ref().zip(issuer)
            && !(responders.is_empty() && brought.is_empty())
        {
            match ocsp.status((certificate, issuer), (brought, &responders), at, deadline) {
                Ok(Status::Good(_)) => return Ok(()),
                Ok(Status::Revoked) => {
                    return Err(refused("the OCSP responder says that it is revoked"));
                }
                Err(fruitless) if fruitless.0.is_empty() => {}
                Err(fruitless) => whys.push(fruitless.to_string()),
            }
        }
        if let Some((lists, issuer)) = self.lists.as_ref().zip(issuer)
            && !points.is_empty()
            && !matches!(listed, Listed::Good)
        {
            let mut left = points.get(..MOST_URIS).unwrap_or(&points).iter();
            let mut all = Vec::new();
            // A list of another scope says nothing: the next one may.
            while !left.as_slice().is_empty() {
                let of = (certificate, issuer);
                let (found, fruitless) = lists.find(of, &mut left, at, deadline);
                whys.extend(Some(fruitless.to_string()).filter(|why| !why.is_empty()));
                if found.is_empty() {
                    break;
                }
                all.extend(found);
                match self.look_up_in(&all, certificate, between)? {
                    Listed::Good => return Ok(()),
                    Listed::Revoked(why) => return Err(refused(&why)),
                    Listed::No(why) | Listed::OutOfDate(why) => whys.push(why),
                }
            }
        }
        let promised = !responders.is_empty()
            || !points.is_empty()
            || certificate.crl_distribution_points().is_some()
            || matches!(listed, Listed::OutOfDate(_));
        if let Listed::No(why) = &listed
            && whys.is_empty()
        {
            whys.push(why.clone());
        }
        let why = whys.join("; ");
        match self.revocation {
            _ if matches!(listed, Listed::Good) => Ok(()),
            Revocation::Strict => Err(refused(&why)),
            Revocation::IfUri if promised => Err(refused(&why)),
            _ => {
                // Where nothing is configured or named, nobody expects to hear of it.
                if promised || !self.anchors.revocation_lists.is_empty() {
                    let subject = name::text(certificate.subject_name());
                    tracing::warn!(
                        subject,
                        why,
                        "accepted without knowing whether it is revoked"
                    );
                }
                Ok(())
            }
        }
    }

    fn responders(&self, certificate: &X509Ref, issuer: &X509Ref) -> Vec<String> {
        ocsp::responders(&self.anchors.responders, certificate, issuer)
    }

    /// Where a certificate's lists are: by configuration first, then where it says itself.
    fn list_uris(&self, certificate: &X509Ref, issuer: &X509Ref) -> Vec<String> {
        let configured = self.anchors.list_uris.iter();
        let configured = configured.filter(|(authority, _)| same(authority, issuer));
        let mut uris: Vec<String> = configured.flat_map(|(_, uris)| uris.clone()).collect();
        uris.extend(crl::points(certificate));
        uris
    }

    /// What the lists in files say of a certificate.
    fn look_up(&self, certificate: &X509Ref, between: &Stack<X509>) -> Result<Listed, Refusal> {
        let timeless = || Ok(&self.timeless);
        look_up(&self.revoking, timeless, certificate, between)
    }

    /// What these lists say of it.
    fn look_up_in(
        &self,
        lists: &[Arc<List>],
        certificate: &X509Ref,
        between: &Stack<X509>,
    ) -> Result<Listed, Refusal> {
        let store = |flags| {
            let level = level_of(&self.policy);
            let mut store = self
                .anchors
                .store(flags | BY_LISTS, level)
                .map_err(library)?;
            crl::add_to(&mut store, lists).map_err(library)?;
            Ok(store.build())
        };
        let timeless = || store(X509VerifyFlags::NO_CHECK_TIME);
        let revoking = store(X509VerifyFlags::empty())?;
        look_up(&revoking, timeless, certificate, between)
    }
}

/// What the lists of a store say of a certificate; the other store has them whatever their dates say.
fn look_up<S: std::borrow::Borrow<X509Store>>(
    revoking: &X509Store,
    timeless: impl FnOnce() -> Result<S, Refusal>,
    certificate: &X509Ref,
    between: &Stack<X509>,
) -> Result<Listed, Refusal> {
    /// X509_V_ERR_UNABLE_TO_GET_CRL and …_DIFFERENT_CRL_SCOPE, of which one of authorities' certificates
    /// alone is, for an end's (RFC 5280 §5.2.5).
    const NO_LIST: [i32; 2] = [3, 44];
    /// X509_V_ERR_CRL_NOT_YET_VALID and …_CRL_HAS_EXPIRED.
    const OUT_OF_DATE: [i32; 2] = [11, 12];
    let (verified, reason, _) = verify(revoking, certificate, between)?;
    if verified {
        return Ok(Listed::Good);
    }
    let why = reason.error_string().to_owned();
    if !OUT_OF_DATE.contains(&reason.as_raw()) {
        // Nothing else excuses a list: one that can't be verified, say.
        return Ok(if NO_LIST.contains(&reason.as_raw()) {
            Listed::No(why)
        } else {
            Listed::Revoked(why)
        });
    }
    // The library looks at a list's dates first and at its entries never, if those are wrong: who
    // was revoked once stays so. The certificates' own dates are checked already.
    let (unlisted, again, _) = verify(timeless()?.borrow(), certificate, between)?;
    Ok(if unlisted {
        Listed::OutOfDate(why)
    } else {
        Listed::Revoked(again.error_string().to_owned())
    })
}

/// What lists say of a certificate, with the library's words.
enum Listed {
    Good,
    Revoked(String),
    OutOfDate(String),
    No(String),
}

fn stack(certificates: &[X509]) -> Result<Stack<X509>, Refusal> {
    let mut all = Stack::new().map_err(library)?;
    for certificate in certificates {
        all.push(certificate.clone()).map_err(library)?;
    }
    Ok(all)
}

fn refusal(what: &str) -> Refusal {
    Refusal(what.to_owned())
}

fn not_of(own: &X509Ref, identity: &Identity) -> Refusal {
    Refusal(format!(
        "the certificate {:?} is not of {}",
        name::text(own.subject_name()),
        name::shown(identity)
    ))
}

fn library(error: ErrorStack) -> Refusal {
    Refusal(format!("OpenSSL: {error}"))
}

/// A certificate from a peer. The library's decoder is lenient: what it would encode otherwise, or has
/// something behind it, is refused.
fn parse(octets: &[u8]) -> Result<X509, Refusal> {
    let certificate = X509::from_der(octets).ok();
    let exact = certificate.filter(|c| c.to_der().is_ok_and(|again| again == octets));
    drop(ErrorStack::get());
    exact.ok_or(refusal("a malformed certificate"))
}

fn key_of(certificate: &X509Ref) -> Result<Vec<PKey<Public>>, Refusal> {
    let key = certificate.public_key();
    key.map(|key| vec![key])
        .map_err(|_| refusal("its key is unusable"))
}

pub(crate) fn same(a: &X509Ref, b: &X509Ref) -> bool {
    a.to_der().is_ok_and(|a| b.to_der().is_ok_and(|b| a == b))
}

type Verified = (bool, openssl::x509::X509VerifyResult, Vec<X509>);

fn verify(store: &X509Store, own: &X509Ref, between: &Stack<X509>) -> Result<Verified, Refusal> {
    let mut context = X509StoreContext::new().map_err(library)?;
    let result = context.init(store, own, between, |context| {
        let verified = context.verify_cert()?;
        let chain = context
            .chain()
            .map(|chain| chain.iter().map(ToOwned::to_owned).collect());
        Ok((verified, context.error(), chain.unwrap_or_default()))
    });
    drop(ErrorStack::get());
    result.map_err(library)
}

/// RFC 4945 §5.1.3.2 and §5.1.3.12: the key must be for signatures, and for IKE if its purposes are
/// told. Those of TLS are taken too, as every other daemon does.
fn check_usage(own: &X509Ref) -> Result<(), Refusal> {
    /// 1.3.6.1.5.5.7.3.17, id-kp-ipsecIKE.
    const IPSEC_IKE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.17");
    /// 1.3.6.1.5.5.8.2.2, iKEIntermediate.
    const IKE_INTERMEDIATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.8.2.2");
    let signs = X509KeyUsage::DIGITAL_SIGNATURE | X509KeyUsage::NON_REPUDIATION;
    if own
        .key_usage()
        .is_some_and(|usage| !usage.intersects(signs))
    {
        return Err(refusal("its certificate is not for signatures (key usage)"));
    }
    let Some(purposes) = own.extended_key_usage() else {
        return Ok(());
    };
    let tls = X509ExtendedKeyUsage::SSL_SERVER | X509ExtendedKeyUsage::SSL_CLIENT;
    if purposes.intersects(tls | X509ExtendedKeyUsage::ANYEKU) {
        return Ok(());
    }
    // The library knows TLS's purposes alone.
    let named = own.to_der().ok().and_then(|der| {
        let certificate = x509_cert::Certificate::from_der(&der).ok()?;
        let extensions = certificate
            .tbs_certificate
            .get::<x509_cert::ext::pkix::ExtendedKeyUsage>();
        Some(extensions.ok()??.1.0)
    });
    if named.is_some_and(|all| {
        all.iter()
            .any(|p| *p == IPSEC_IKE || *p == IKE_INTERMEDIATE)
    }) {
        Ok(())
    } else {
        Err(refusal(
            "its certificate is not for IKE (extended key usage)",
        ))
    }
}

impl Verifier for Trust {
    fn authorities(&self) -> Vec<[u8; 20]> {
        self.authorities.clone()
    }

    fn asks_for_status(&self) -> bool {
        self.asks_for_status
    }

    fn digest(&self) -> Option<[u8; 32]> {
        let anchors = &self.anchors;
        let mut digest = Sha256::new();
        for list in [&anchors.authorities, &anchors.certificates] {
            digest.update(list.len().to_be_bytes());
            for certificate in list {
                digest.update(Sha256::digest(certificate.to_der().ok()?));
            }
        }
        digest.update(anchors.keys.len().to_be_bytes());
        for key in &anchors.keys {
            digest.update(Sha256::digest(key.public_key_to_der().ok()?));
        }
        let rules = format!("{:?} {:?}", self.revocation, self.policy);
        digest.update(rules);
        Some(digest.finalize().into())
    }

    fn may_wait(&self) -> bool {
        (self.ocsp.is_some() || self.lists.is_some()) && self.revocation != Revocation::Off
    }

    fn verify(&self, claim: &Claim) -> Result<(), Refusal> {
        self.verify_while(claim, &mut || {})
    }

    /// Nobody is asked about the certificates of a peer that hasn't even their key (CVE-2022-40617).
    fn verify_while(&self, claim: &Claim, begin: &mut dyn FnMut()) -> Result<(), Refusal> {
        let (believed, sent) = self.keys(claim)?;
        let mut allowed = false;
        for key in &believed.keys {
            for scheme in &claim.schemes {
                if !self.policy.allows(key, *scheme) {
                    continue;
                }
                allowed = true;
                begin();
                if signature::verify(key, *scheme, &claim.octets, &claim.signature) {
                    if let Some(sent) = sent {
                        self.paths.keep(sent, &believed);
                    }
                    let sent = claim.certificates.iter();
                    let brought: Vec<&[u8]> = sent
                        .filter(|c| c.encoding == Certificate::OCSP_CONTENT)
                        .map(|c| &*c.octets)
                        .collect();
                    return self.check_revocations(&believed, &brought);
                }
            }
        }
        Err(refusal(if allowed {
            "its signature is wrong"
        } else {
            "remote.auth does not allow its key or signature scheme"
        }))
    }
}
