// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys, certificates and revocation lists that are made for a test and forgotten with it.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use ikev2d_crypto::credential::{KeySigner, SignaturePolicy};
use ikev2d_crypto::trust::{Revocation, Trust, TrustAnchors};
use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::dsa::Dsa;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, CrlNumber, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{
    X509, X509Builder, X509Crl, X509CrlBuilder, X509Extension, X509Name, X509RevokedBuilder,
};

/// CAVS 11.0, DSA2 SigVer, L = 1024, N = 160, SHA-1.
const DSA_P: &str = "dc5bf3a88b2d99e4c95cdd7a0501cc38630d425cf5c390af3429cff1f35147b795caea923f0d3577158f8a0c89dab\
                     d1962c2c453306b5d70cacfb01430aceb54e5a5fa6f9340d3bd2da612fceeb76b0ec1ebfae635a56ab141b108e00\
                     dc76eefe2edd0c514c21c457457c39065dba9d0ecb7569c247172d8438ad2827b60435b";
const DSA_Q: &str = "e956602b83d195dbe945b3ac702fc61f81571f1d";
const DSA_G: &str = "d7eb9ca20a3c7a079606bafc4c9261ccaba303a5dc9fe9953f197dfe548c234895baa77f441ee6a2d97b909cbbd26\
                     ff7b869d24cae51b5c6edb127a4b5d75cd8b46608bfa148249dffdb59807c5d7dde3fe3080ca3a2d28312142becb\
                     1fa8e24003e21c7287108174b95d5bc711e1c8d9b1076784f5dc37a964a5e51390da713";

pub(crate) fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub(crate) fn p256() -> PKey<Private> {
    ec(Nid::X9_62_PRIME256V1)
}

pub(crate) fn rsa() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

/// Of NIST's parameters for p of 1024 bits with q of 160, which are found in no time.
pub(crate) fn dsa() -> PKey<Private> {
    let number = |text| BigNum::from_hex_str(text).unwrap();
    let parameters = Dsa::from_pqg(number(DSA_P), number(DSA_Q), number(DSA_G));
    PKey::from_dsa(parameters.unwrap().generate_key().unwrap()).unwrap()
}

pub(crate) fn name(common: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("C", "CH").unwrap();
    name.append_entry_by_text("O", "Esplanade Test").unwrap();
    name.append_entry_by_text("CN", common).unwrap();
    name.build()
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) key: PKey<Private>,
    pub(crate) certificate: X509,
}

/// What a certificate says; the fields are changed before it is made.
pub(crate) struct Template {
    pub(crate) subject: X509Name,
    pub(crate) authority: Option<Option<u32>>,
    /// Days from now.
    pub(crate) valid: (i64, i64),
    pub(crate) usage: Option<KeyUsage>,
    /// As in OpenSSL's configuration: name and value.
    pub(crate) extensions: Vec<(Nid, &'static str)>,
    pub(crate) dns: Vec<String>,
    pub(crate) digest: MessageDigest,
}

impl Template {
    /// An authority's.
    pub(crate) fn authority(common: &str) -> Self {
        let mut usage = KeyUsage::new();
        usage.critical().key_cert_sign().crl_sign();
        Self {
            subject: name(common),
            authority: Some(None),
            valid: (-1, 30),
            usage: Some(usage),
            extensions: Vec::new(),
            dns: Vec::new(),
            digest: MessageDigest::sha256(),
        }
    }

    /// An end's, with its DNS name.
    pub(crate) fn end(common: &str) -> Self {
        let mut usage = KeyUsage::new();
        usage.critical().digital_signature();
        Self {
            authority: None,
            usage: Some(usage),
            dns: vec![common.to_owned()],
            ..Self::authority(common)
        }
    }

    /// Signs it by an issuer, or by itself.
    pub(crate) fn issue(self, key: PKey<Private>, issuer: Option<&Holder>) -> Holder {
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(64, openssl::bn::MsbOption::ONE, false).unwrap();
        let serial = Asn1Integer::from_bn(&serial).unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&self.subject).unwrap();
        let issuer_name = issuer.map_or(&*self.subject, |i| i.certificate.subject_name());
        builder.set_issuer_name(issuer_name).unwrap();
        builder.set_not_before(&days(self.valid.0)).unwrap();
        builder.set_not_after(&days(self.valid.1)).unwrap();
        builder.set_pubkey(&key).unwrap();
        let mut constraints = BasicConstraints::new();
        constraints.critical();
        if let Some(depth) = self.authority {
            constraints.ca();
            if let Some(depth) = depth {
                constraints.pathlen(depth);
            }
        }
        builder
            .append_extension(constraints.build().unwrap())
            .unwrap();
        if let Some(usage) = self.usage {
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        if !self.dns.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for dns in &self.dns {
                names.dns(dns);
            }
            let context = builder.x509v3_context(None, None);
            let extension = names.build(&context).unwrap();
            builder.append_extension(extension).unwrap();
        }
        if self.authority.is_some() {
            let context = builder.x509v3_context(None, None);
            let identifier = SubjectKeyIdentifier::new().build(&context).unwrap();
            builder.append_extension(identifier).unwrap();
        }
        for (nid, value) in self.extensions {
            #[allow(
                deprecated,
                reason = "the only one for constraints and purposes by name"
            )]
            let extension = {
                let context = builder.x509v3_context(None, None);
                X509Extension::new_nid(None, Some(&context), nid, value).unwrap()
            };
            builder.append_extension(extension).unwrap();
        }
        let signing = issuer.map_or(&key, |i| &i.key);
        let digest = if matches!(signing.id(), Id::ED25519 | Id::ED448) {
            MessageDigest::null()
        } else {
            self.digest
        };
        builder.sign(signing, digest).unwrap();
        Holder {
            certificate: builder.build(),
            key,
        }
    }
}

pub(crate) fn days(from_now: i64) -> Asn1Time {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64;
    Asn1Time::from_unix(now + from_now * 86_400).unwrap()
}

/// An issuer's list, valid for these days.
pub(crate) fn revocation_list(issuer: &Holder, valid: (i64, i64), revoked: &[&Holder]) -> X509Crl {
    numbered_list(issuer, (1, valid), &[], revoked)
}

/// A list with a number, valid for these days, that says more: names and values as in OpenSSL's
/// configuration.
pub(crate) fn numbered_list(
    issuer: &Holder,
    (number, valid): (u32, (i64, i64)),
    extensions: &[(Nid, &str)],
    revoked: &[&Holder],
) -> X509Crl {
    let mut list = X509CrlBuilder::new().unwrap();
    list.set_issuer_name(issuer.certificate.subject_name())
        .unwrap();
    list.set_last_update(&days(valid.0)).unwrap();
    list.set_next_update(&days(valid.1)).unwrap();
    for holder in revoked {
        let mut entry = X509RevokedBuilder::new().unwrap();
        entry
            .set_serial_number(holder.certificate.serial_number())
            .unwrap();
        entry.set_revocation_date(&days(-1)).unwrap();
        list.add_revoked(entry.build()).unwrap();
    }
    let context = X509Builder::new().unwrap();
    let context = context.x509v3_context(Some(&issuer.certificate), None);
    let identifier = AuthorityKeyIdentifier::new()
        .keyid(true)
        .build(&context)
        .unwrap();
    list.append_extension(identifier).unwrap();
    let number = CrlNumber::new(BigNum::from_u32(number).unwrap()).unwrap();
    list.append_extension(number.build().unwrap()).unwrap();
    for (nid, value) in extensions {
        #[allow(deprecated, reason = "the only one by name")]
        let extension = X509Extension::new_nid(None, Some(&context), *nid, value).unwrap();
        list.append_extension(extension).unwrap();
    }
    list.sort().unwrap();
    list.sign(&issuer.key, MessageDigest::sha256()).unwrap();
    list.build().unwrap()
}

impl Holder {
    pub(crate) fn signer(&self, between: &[&Self], policy: &SignaturePolicy) -> Arc<KeySigner> {
        let mut all = vec![self.certificate.clone()];
        all.extend(between.iter().map(|holder| holder.certificate.clone()));
        Arc::new(KeySigner::with_certificates(self.key.clone(), &all, policy).unwrap())
    }

    /// Belief in what this issued.
    pub(crate) fn trust(&self, policy: SignaturePolicy) -> Arc<Trust> {
        let anchors = TrustAnchors {
            authorities: vec![self.certificate.clone()],
            ..TrustAnchors::default()
        };
        Arc::new(Trust::new(anchors, Revocation::IfAvailable, policy).unwrap())
    }
}
