// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Distinguished names, and whether a certificate is an identity's (RFC 4945 §3.1, §5.1).

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ikev2d_proto::config::{ID_KEY_ID, Identity};
use openssl::error::ErrorStack;
use openssl::x509::{X509Name, X509NameRef, X509Ref};

/// A name written as `C=CH, O=Esplanade, CN=gateway`, in DER; nothing if an attribute is not known.
pub fn distinguished_name(text: &str) -> Option<Vec<u8>> {
    let mut builder = X509Name::builder().ok()?;
    for part in text.split(',') {
        let (attribute, value) = part.split_once('=')?;
        builder
            .append_entry_by_text(attribute.trim(), value.trim())
            .ok()?;
    }
    builder.build().to_der().ok()
}

/// An identity, with `C=CH, CN=gateway` for a distinguished name.
pub fn identity(text: &str) -> Identity {
    match distinguished_name(text) {
        Some(name) if text.contains('=') && !text.contains('@') => Identity::Dn(name),
        _ => Identity::parse(text),
    }
}

/// Whom a peer calls itself by an EAP identity, which has no kind: a distinguished name in DER or as
/// text, or as [`Identity::called`] has it.
pub(crate) fn called(octets: &[u8]) -> Identity {
    if X509Name::from_der(octets).is_ok() {
        return Identity::Dn(octets.to_vec());
    }
    drop(ErrorStack::get());
    match (Identity::called(octets), std::str::from_utf8(octets)) {
        (Identity::Fqdn(_), Ok(text)) if text.contains('=') => identity(text),
        (called, _) => called,
    }
}

/// An identity for people.
pub fn shown(identity: &Identity) -> String {
    match identity {
        Identity::Dn(der) => {
            X509Name::from_der(der).map_or_else(|_| identity.to_string(), |name| text(&name))
        }
        _ => identity.to_string(),
    }
}

/// A name for people: control characters never reach them.
pub fn text(name: &X509NameRef) -> String {
    let entries = name.entries().map(|entry| {
        let attribute = entry.object().nid().short_name().unwrap_or("?");
        let value = entry
            .data()
            .to_string()
            .map(|value| value.escape_debug().to_string())
            .unwrap_or_default();
        format!("{attribute}={value}")
    });
    entries.collect::<Vec<_>>().join(", ")
}

/// Whether two names in DER are equal as X.500 has it: case and inner spaces don't count.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    let (Ok(a), Ok(b)) = (X509Name::from_der(a), X509Name::from_der(b)) else {
        return false;
    };
    a.try_cmp(&b).is_ok_and(Ordering::is_eq)
}

/// A number that is the same for equal names. It may be for others too: not all that X.500 says of
/// spaces is done here.
pub(crate) fn key(der: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Ok(name) = X509Name::from_der(der) else {
        return 0;
    };
    for entry in name.entries() {
        entry.object().nid().as_raw().hash(&mut hasher);
        if let Ok(text) = entry.data().to_string() {
            let plain = text.bytes().filter(u8::is_ascii_alphanumeric);
            plain.for_each(|octet| octet.to_ascii_lowercase().hash(&mut hasher));
        }
    }
    hasher.finish()
}

/// Whether a certificate is of an identity. Nothing but the identity's own kind counts: an address in
/// a common name is no address.
pub(crate) fn is_of(certificate: &X509Ref, identity: &Identity) -> bool {
    let alternative = |fits: &dyn Fn(&openssl::x509::GeneralNameRef) -> bool| {
        let names = certificate.subject_alt_names();
        names.is_some_and(|names| names.iter().any(fits))
    };
    match identity {
        Identity::Any => false,
        Identity::Address(address) => {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            alternative(&|name| name.ipaddress() == Some(&octets))
        }
        Identity::Fqdn(wanted) => alternative(&|name| {
            name.dnsname()
                .is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        }),
        Identity::Email(wanted) => alternative(&|name| {
            name.email()
                .is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        }),
        // Without a subject (RFC 5280 §4.1.2.6) a certificate is of no distinguished name.
        Identity::Dn(wanted) => {
            let subject = certificate.subject_name();
            subject.entries().next().is_some()
                && subject.to_der().is_ok_and(|subject| same(&subject, wanted))
        }
        Identity::Opaque(ID_KEY_ID, wanted) => certificate
            .subject_key_id()
            .is_some_and(|id| id.as_slice() == wanted),
        Identity::Opaque(..) => false,
    }
}
