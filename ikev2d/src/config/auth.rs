// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `connections.NAME.local` and `remote`: how an end authenticates.

use std::sync::Arc;

use ikev2d_crypto::credential::{
    CredentialError, KeyKind, KeySigner, OwnKey, SignaturePolicy, certificates, public_key,
};
use ikev2d_crypto::eap::mschapv2::Mschapv2;
use ikev2d_crypto::eap::tls::EapTls;
use ikev2d_crypto::name;
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use ikev2d_crypto::{PrivateKey, X509};
use ikev2d_proto::config::{Identity, LocalAuth, RemoteAuth};
use ikev2d_proto::credential::Hash;
use ikev2d_proto::eap::{ClientConfig, ServerConfig};
use ikev2d_proto::suite::Suite;
use serde::Deserialize;

use super::credentials::Credentials;
use super::text::{FromText, Text};

/// How an end authenticates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSection {
    /// `psk`, `eap-mschapv2` (the initiator alone), `eap-tls` (the initiator, or both: RFC 5998), or
    /// `pubkey`, `rsa`, `rsa/pss`, `ecdsa`, `ed25519` or `ed448`, with the key's least bits and hashes
    /// behind it at will: `ecdsa-384-sha384`. `dsa` is for IKEv1 with `legacy`.
    #[serde(default)]
    pub auth: Text<AuthSetting>,
    /// Who it is. Of us, with a certificate: its subject by default.
    #[serde(default)]
    pub id: String,
    /// Who it is to EAP. Of us: `id` by default. Of the peer: what it says to IKE by default, `%any` to
    /// ask it, or the only one that is taken.
    #[serde(default)]
    pub eap_id: String,
    /// Files with certificates, in PEM or DER. Of us: our own and then those up to an authority. Of the
    /// peer: the only ones that are taken.
    #[serde(default)]
    pub certs: Vec<String>,
    /// Files with the only authorities that the peer may have its certificate from; by default all
    /// `[authorities]`.
    #[serde(default)]
    pub cacerts: Vec<String>,
    /// Files with raw public keys.
    #[serde(default)]
    pub pubkeys: Vec<String>,
    /// What is done about revoked certificates of the peer.
    #[serde(default)]
    pub revocation: RevocationSetting,
}

/// What is done about revoked certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevocationSetting {
    /// Nothing.
    Off,
    /// An OCSP responder's answer or a list that is there counts; none is no reason to refuse.
    #[default]
    Relaxed,
    /// A certificate for which a responder or a list is named needs a valid answer or list.
    IfUri,
    /// Every certificate needs a valid answer or list.
    Strict,
}

impl From<RevocationSetting> for Revocation {
    fn from(setting: RevocationSetting) -> Self {
        match setting {
            RevocationSetting::Off => Self::Off,
            RevocationSetting::Relaxed => Self::IfAvailable,
            RevocationSetting::IfUri => Self::IfUri,
            RevocationSetting::Strict => Self::Strict,
        }
    }
}

/// What `auth` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuthSetting {
    /// A preshared key.
    #[default]
    SharedKey,
    /// A signature that fits.
    PublicKey(SignaturePolicy),
    /// EAP-MSCHAPv2.
    EapMschapv2,
    /// EAP-TLS.
    EapTls,
}

/// A key, with its certificates.
type TlsIdentity = (PrivateKey, Vec<X509>);

/// The private key of a certificate.
fn key_of(own: &X509, credentials: &Credentials) -> Result<OwnKey, (&'static str, String)> {
    let public = own.public_key().map_err(CredentialError::from);
    let public = public.map_err(|error| ("certs", error.to_string()))?;
    credentials.key_of(&public).ok_or_else(|| {
        let what = "no private key for this certificate (secrets.NAME with file)";
        ("certs", what.to_owned())
    })
}

/// An identity as EAP has it: the name alone.
pub(crate) fn eap_name(identity: &Identity) -> Vec<u8> {
    identity.emit().get(4..).unwrap_or_default().to_vec()
}

impl Default for Text<AuthSetting> {
    fn default() -> Self {
        Self(AuthSetting::default())
    }
}

impl FromText for AuthSetting {
    fn from_text(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "{text:?}: expected psk, eap-mschapv2, eap-tls, or pubkey, rsa, rsa/pss, ecdsa, ed25519, ed448 or dsa, with bits and \
                 hashes behind it at will, as in ecdsa-384-sha384"
            )
        };
        match text {
            "psk" => return Ok(Self::SharedKey),
            "eap-mschapv2" => return Ok(Self::EapMschapv2),
            "eap-tls" => return Ok(Self::EapTls),
            _ => {}
        }
        // strongSwan's prefix for schemes of IKE alone.
        let mut words = text.strip_prefix("ike:").unwrap_or(text).split('-');
        let kind = match words.next() {
            Some("pubkey" | "any") => KeyKind::Any,
            Some("rsa") => KeyKind::Rsa,
            Some("rsa/pss") => KeyKind::RsaPss,
            Some("ecdsa") => KeyKind::Ecdsa,
            Some("ed25519") => KeyKind::Ed25519,
            Some("ed448") => KeyKind::Ed448,
            Some("dsa") => KeyKind::Dsa,
            _ => return Err(error()),
        };
        let mut policy = SignaturePolicy {
            kind,
            ..SignaturePolicy::default()
        };
        for word in words {
            match word {
                "sha1" => policy.hashes.push(Hash::Sha1),
                "sha256" => policy.hashes.push(Hash::Sha256),
                "sha384" => policy.hashes.push(Hash::Sha384),
                "sha512" => policy.hashes.push(Hash::Sha512),
                bits => policy.bits = bits.parse().map_err(|_| error())?,
            }
        }
        if kind == KeyKind::Dsa && !policy.hashes.is_empty() {
            return Err(format!(
                "{text:?}: DSS signs by SHA-1 (RFC 2409 §5.1), which needs no word: expected dsa"
            ));
        }
        let legacy = policy.hashes.contains(&Hash::Sha1);
        if legacy && !matches!(kind, KeyKind::Rsa | KeyKind::Any) {
            return Err(format!(
                "{text:?}: SHA-1 is for rsa alone, with peers that don't know RFC 7427"
            ));
        }
        Ok(Self::PublicKey(policy))
    }
}

impl AuthSection {
    /// Whether it takes what RFC 8247 §3.2 says nobody should.
    pub(super) fn legacy(&self) -> bool {
        matches!(&self.auth.0, AuthSetting::PublicKey(policy) if policy.hashes.contains(&Hash::Sha1))
    }

    /// Whether it is by DSA, which only IKEv1 has.
    pub(super) fn is_dsa(&self) -> bool {
        matches!(&self.auth.0, AuthSetting::PublicKey(policy) if policy.kind == KeyKind::Dsa)
    }

    /// Suites by name are for ECDSA certificates of their own strength (RFC 6379 §3).
    pub(super) fn check_suite(&self, suite: Suite) -> Result<(), String> {
        let (bits, hash, name) = match suite.key_bits() {
            128 => (256, Hash::Sha256, "ecdsa-256-sha256"),
            _ => (384, Hash::Sha384, "ecdsa-384-sha384"),
        };
        let fits = match &self.auth.0 {
            AuthSetting::SharedKey | AuthSetting::EapMschapv2 | AuthSetting::EapTls => false,
            AuthSetting::PublicKey(policy) => {
                policy.kind == KeyKind::Ecdsa && policy.bits >= bits && policy.hashes == [hash]
            }
        };
        if fits {
            Ok(())
        } else {
            Err(format!("{suite} authenticates by ECDSA: expected {name:?}"))
        }
    }

    /// For our own end, with the identity that its certificate gives. With `statuses` what OCSP responders
    /// say of our certificates is there for peers that ask.
    pub(super) fn local(
        &self,
        peer: &Self,
        credentials: &Credentials,
        statuses: bool,
    ) -> Result<(LocalAuth, Option<Identity>), (&'static str, String)> {
        let policy = match &self.auth.0 {
            AuthSetting::PublicKey(policy) => policy,
            AuthSetting::SharedKey => return Ok((LocalAuth::SharedKey, None)),
            AuthSetting::EapMschapv2 => {
                let client = self.eap_client(credentials)?;
                return Ok((LocalAuth::Eap(client), None));
            }
            AuthSetting::EapTls => return self.tls_client(peer, credentials),
        };
        let certs = credentials.read_all(&self.certs, certificates);
        let certs = certs.map_err(|what| ("certs", what))?;
        if let Some(own) = certs.first() {
            let key = key_of(own, credentials)?;
            let signer = KeySigner::with_certificates(key, &certs, policy)
                .map_err(|error| ("auth", error.to_string()))?;
            let statuses = statuses.then(|| {
                // What is wrong with them is told where they belong.
                let issuers = credentials.read_all(&peer.cacerts, certificates);
                credentials.own_statuses(&certs, issuers.unwrap_or_default())
            });
            let signer = match statuses.flatten() {
                Some(statuses) => signer.with_statuses(Arc::new(statuses)),
                None => signer,
            };
            let subject = own.subject_name().to_der().ok().map(Identity::Dn);
            return Ok((LocalAuth::PublicKey(Arc::new(signer)), subject));
        }
        let keys = credentials.read_all(&self.pubkeys, |octets| Ok(vec![public_key(octets)?]));
        let keys = keys.map_err(|what| ("pubkeys", what))?;
        let Some(public) = keys.first() else {
            let what = "a public key needs certs, or pubkeys, of its own";
            return Err(("auth", what.to_owned()));
        };
        let key = credentials.key_of(public).ok_or_else(|| {
            let what = "no private key for this public key (secrets.NAME with file)";
            ("pubkeys", what.to_owned())
        })?;
        let signer = KeySigner::raw(key, policy).map_err(|error| ("auth", error.to_string()))?;
        Ok((LocalAuth::PublicKey(Arc::new(signer)), None))
    }

    /// For the peer's end, which with `status` is asked for OCSP answers about its certificates.
    pub(super) fn remote(
        &self,
        own: &Self,
        credentials: &Credentials,
        status: bool,
    ) -> Result<RemoteAuth, (&'static str, String)> {
        match &self.auth.0 {
            AuthSetting::PublicKey(policy) => {
                let trust = self.trust(policy, credentials)?.asking_for_status(status);
                Ok(RemoteAuth::PublicKey(Arc::new(trust)))
            }
            AuthSetting::SharedKey => Ok(RemoteAuth::SharedKey),
            AuthSetting::EapMschapv2 => Ok(RemoteAuth::Eap(self.eap_server(credentials))),
            AuthSetting::EapTls => self.tls_server(own, credentials).map(RemoteAuth::Eap),
        }
    }

    /// Whom to believe of those who have certificates or keys.
    fn trust(
        &self,
        policy: &SignaturePolicy,
        credentials: &Credentials,
    ) -> Result<Trust, (&'static str, String)> {
        let mut authorities = credentials
            .read_all(&self.cacerts, certificates)
            .map_err(|what| ("cacerts", what))?;
        let certificates = credentials
            .read_all(&self.certs, certificates)
            .map_err(|what| ("certs", what))?;
        let keys = credentials
            .read_all(&self.pubkeys, |octets| Ok(vec![public_key(octets)?]))
            .map_err(|what| ("pubkeys", what))?;
        if authorities.is_empty() && certificates.is_empty() && keys.is_empty() {
            authorities = credentials.authorities().to_vec();
            if authorities.is_empty() {
                let what = "nobody to believe: give cacerts, certs or pubkeys, or [authorities]";
                return Err(("auth", what.to_owned()));
            }
        }
        let strict = self.revocation == RevocationSetting::Strict;
        if strict && !certificates.is_empty() && authorities.is_empty() {
            let what = "strict: nobody's revocation list can be believed for remote.certs alone: give \
                        remote.cacerts as well";
            return Err(("revocation", what.to_owned()));
        }
        let anchors = TrustAnchors {
            authorities,
            certificates,
            keys,
            revocation_lists: credentials.revocation_lists().to_vec(),
            responders: credentials.responders(),
            list_uris: credentials.list_uris(),
        };
        let trust = Trust::new(anchors, self.revocation.into(), policy.clone())
            .map_err(|error| ("auth", error.to_string()))?;
        Ok(trust
            .with_ocsp(credentials.ocsp())
            .with_lists(credentials.lists()))
    }

    /// Our key and certificates for TLS.
    fn tls_identity(
        &self,
        credentials: &Credentials,
    ) -> Result<TlsIdentity, (&'static str, String)> {
        let certs = credentials.read_all(&self.certs, certificates);
        let certs = certs.map_err(|what| ("certs", what))?;
        let Some(own) = certs.first() else {
            return Err(("certs", "eap-tls needs certificates of our own".to_owned()));
        };
        let key = credentials.private_half(&key_of(own, credentials)?);
        Ok((key.map_err(|what| ("certs", what))?, certs))
    }

    fn tls_client(
        &self,
        peer: &Self,
        credentials: &Credentials,
    ) -> Result<(LocalAuth, Option<Identity>), (&'static str, String)> {
        let (key, certs) = self.tls_identity(credentials)?;
        let subject = certs
            .first()
            .and_then(|own| own.subject_name().to_der().ok());
        let subject = subject.map(Identity::Dn);
        let wrong = |error: CredentialError| ("certs", error.to_string());
        let trust = peer.trust(&SignaturePolicy::default(), credentials);
        let trust = trust.map_err(|(_, what)| ("auth", format!("eap-tls, of the peer: {what}")))?;
        let client = EapTls::client(&key, &certs, Arc::new(trust), peer.identity());
        let named = [&self.eap_id, &self.id]
            .into_iter()
            .find(|name| !name.is_empty());
        let identity = named.map(|name| name::identity(name)).or(subject.clone());
        let identity = match identity {
            // A name in DER is no name for EAP (RFC 7542).
            Some(Identity::Dn(der)) => name::shown(&Identity::Dn(der)).into_bytes(),
            Some(identity) => eap_name(&identity),
            None => Vec::new(),
        };
        let client = ClientConfig {
            identity,
            methods: Arc::new(client.map_err(wrong)?),
        };
        Ok((LocalAuth::Eap(client), subject))
    }

    fn tls_server(
        &self,
        own: &Self,
        credentials: &Credentials,
    ) -> Result<ServerConfig, (&'static str, String)> {
        let (key, certs) = own
            .tls_identity(credentials)
            .map_err(|(_, what)| ("auth", format!("{what} (local.certs)")))?;
        let trust = self.trust(&SignaturePolicy::default(), credentials)?;
        let server = EapTls::server(&key, &certs, Arc::new(trust));
        Ok(ServerConfig {
            ask_identity: self.eap_id == "%any",
            methods: Arc::new(server.map_err(|error| ("auth", error.to_string()))?),
        })
    }

    fn eap_client(
        &self,
        credentials: &Credentials,
    ) -> Result<ClientConfig, (&'static str, String)> {
        let name = if self.eap_id.is_empty() {
            &self.id
        } else {
            &self.eap_id
        };
        let identity = eap_name(&name::identity(name));
        let known = credentials.eap_secrets().iter();
        let mut own = known.filter(|(user, _)| *user == identity);
        let Some((_, password)) = own.next().filter(|_| !name.is_empty()) else {
            let what = format!("no password for {name:?} (secrets.eap-NAME with ids)");
            return Err(("auth", what));
        };
        let methods = Mschapv2::client(identity.clone(), password.clone());
        Ok(ClientConfig {
            identity,
            methods: Arc::new(methods),
        })
    }

    fn eap_server(&self, credentials: &Credentials) -> ServerConfig {
        let ask_identity = self.eap_id == "%any";
        let only = (!ask_identity && !self.eap_id.is_empty())
            .then(|| eap_name(&name::identity(&self.eap_id)));
        let known = credentials.eap_secrets().iter();
        let users = known.filter(|(user, _)| only.as_ref().is_none_or(|only| only == user));
        ServerConfig {
            // One that may come under any IKE identity has to say who it is.
            ask_identity: ask_identity || only.is_some(),
            methods: Arc::new(Mschapv2::server(users.cloned().collect())),
        }
    }

    /// Whether it is by EAP.
    pub(super) fn is_eap(&self) -> bool {
        matches!(self.auth.0, AuthSetting::EapMschapv2 | AuthSetting::EapTls)
    }

    /// Whether its EAP proves who both ends are (RFC 5998 §4).
    pub(super) fn is_mutual_eap(&self) -> bool {
        self.auth.0 == AuthSetting::EapTls
    }

    /// Whether it is by a preshared key.
    pub(super) fn is_psk(&self) -> bool {
        self.auth.0 == AuthSetting::SharedKey
    }

    /// Who it is.
    pub(super) fn identity(&self) -> Identity {
        name::identity(&self.id)
    }

    /// What has no meaning for this end.
    pub(super) fn check(&self, own: bool) -> Result<(), (String, String)> {
        let wrong = |key: &str, what: &str| Err((key.to_owned(), what.to_owned()));
        let named = !self.certs.is_empty() || !self.cacerts.is_empty() || !self.pubkeys.is_empty();
        let tls = self.auth.0 == AuthSetting::EapTls;
        if !matches!(self.auth.0, AuthSetting::PublicKey(_)) && !tls && named {
            return wrong("auth", "certificates and keys are for pubkey and eap-tls");
        }
        if tls && !self.pubkeys.is_empty() {
            return wrong("pubkeys", "TLS wants certificates (certs)");
        }
        if !self.is_eap() && !self.eap_id.is_empty() {
            return wrong("eap_id", "is for eap-mschapv2 and eap-tls");
        }
        if tls && !own && !matches!(self.eap_id.as_str(), "" | "%any") {
            return wrong(
                "eap_id",
                "eap-tls asks (%any) or takes what IKE is told (remote.id)",
            );
        }
        if own && !self.cacerts.is_empty() {
            return wrong("cacerts", "authorities are the peer's (remote.cacerts)");
        }
        let given = self.certs.iter().chain(&self.cacerts).chain(&self.pubkeys);
        if let Some(empty) = given.into_iter().find(|value| value.trim().is_empty()) {
            return wrong("auth", &format!("{empty:?} is no file"));
        }
        Ok(())
    }
}
