// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a connection's settings are for IKEv1: `version = 1`, or 0 for either version.

use std::collections::BTreeSet;

use ikev1_proto::suite::{has_hash, has_number};
use ikev2d_crypto::credential::KeyKind;
use ikev2d_proto::algorithm::Encryption;
use ikev2d_proto::config::{Ikev1, Version};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::suite::Suite;

use super::auth::AuthSetting;
use super::connection::ConnectionSection;
use super::credentials::Credentials;

/// A setting that is wrong, and why.
type Wrong = (String, String);

/// What `version` stands for.
pub(super) fn version(number: u8) -> Version {
    match number {
        0 => Version::Either,
        1 => Version::V1,
        _ => Version::V2,
    }
}

/// What concerns IKEv1 alone.
pub(super) fn settings(
    section: &ConnectionSection,
    credentials: &Credentials,
) -> Result<Ikev1, Wrong> {
    let in_side =
        |side: &'static str| move |(key, what): (&str, String)| (format!("{side}.{key}"), what);
    let xauth = match (&section.local_xauth, &section.remote_xauth) {
        (Some(own), _) => Some(own.client(credentials).map_err(in_side("local-xauth"))?),
        (None, Some(peers)) => Some(peers.server(credentials)),
        (None, None) => None,
    };
    Ok(Ikev1 {
        aggressive: section.aggressive,
        aggressive_psk: section.aggressive_psk,
        xauth,
        push: !section.pull,
        commit: section.commit,
    })
}

/// Users behind phase 1 are IKEv1's: a connection of either version would let peers in by IKEv2 that have
/// none.
fn check_users(section: &ConnectionSection) -> Result<(), Wrong> {
    for (side, xauth) in [
        ("local-xauth", &section.local_xauth),
        ("remote-xauth", &section.remote_xauth),
    ] {
        let Some(xauth) = xauth else { continue };
        let checked = xauth.check();
        checked.map_err(|(key, what)| (format!("{side}.{key}"), what))?;
        if version(section.version) != Version::V1 {
            return wrong(side, "XAUTH is IKEv1's: expected version = 1");
        }
        for auth in [&section.local.auth.0, &section.remote.auth.0] {
            let has_method = match auth {
                AuthSetting::SharedKey => true,
                AuthSetting::PublicKey(policy) => {
                    matches!(policy.kind, KeyKind::Any | KeyKind::Rsa)
                }
                AuthSetting::EapMschapv2 | AuthSetting::EapTls => false,
            };
            if !has_method {
                return wrong(side, "XAUTH is behind psk or rsa alone");
            }
        }
    }
    if section.local_xauth.is_some() && section.remote_xauth.is_some() {
        return wrong("remote-xauth", "one end has a user, not both");
    }
    Ok(())
}

fn wrong(key: &str, what: impl Into<String>) -> Result<(), Wrong> {
    Err((key.to_owned(), what.into()))
}

/// Whether the settings of a connection are its version's.
pub(super) fn check(section: &ConnectionSection, suites: &[Suite]) -> Result<(), Wrong> {
    if section.version > 2 {
        let what = "expected 1 or 2, or 0 for either";
        return wrong("version", what);
    }
    check_users(section)?;
    let version = version(section.version);
    if !version.has_v1() {
        for (key, given) in [
            ("pull", !section.pull),
            ("aggressive", section.aggressive),
            ("aggressive_psk", section.aggressive_psk),
            ("commit", section.commit),
        ] {
            if given {
                let what = "IKEv2 has no modes, no commit bit, nor a push of addresses: this is for \
                            version = 1";
                return wrong(key, what);
            }
        }
        return Ok(());
    }
    if let Some(prime) = suites.iter().find(|suite| suite.is_prime()) {
        let what = format!("{prime} is for IKEv2 alone: version = 2");
        return wrong("version", what);
    }
    if version == Version::V1 {
        check_v1(section)?;
    }
    if section.aggressive {
        check_aggressive(section)?;
    }
    Ok(())
}

/// What is for IKEv1 alone must be all in IKEv1.
fn check_v1(section: &ConnectionSection) -> Result<(), Wrong> {
    let proposals: Vec<&Proposal> = section
        .proposals
        .iter()
        .flat_map(|p| &p.0.proposals)
        .collect();
    let usable = |p: &&&Proposal| {
        let ciphers = p.encryption.iter();
        let mut cbc = ciphers.filter(|e| !e.is_aead() && **e != Encryption::Null);
        cbc.next().is_some()
            && p.integrity.iter().any(|i| has_hash(*i))
            && p.groups.iter().any(|g| has_number(*g))
    };
    if !proposals.is_empty() && proposals.iter().filter(usable).count() == 0 {
        let what = "IKEv1 has neither AEADs and codes by AES for IKE itself nor x25519, x448 and ML-KEM: use something like \
                    aes256-sha256-modp2048";
        return wrong("proposals", what);
    }
    let shared = |auth: &AuthSetting| matches!(auth, AuthSetting::SharedKey);
    if shared(&section.local.auth.0) != shared(&section.remote.auth.0) {
        let what = "in IKEv1 both ends authenticate in the same way";
        return wrong("remote.auth", what);
    }
    Ok(())
}

/// RFC 2409 §5.4: the group can't be negotiated, since the public value goes along with message 1.
fn check_aggressive(section: &ConnectionSection) -> Result<(), Wrong> {
    let proposals = section.proposals.iter().flat_map(|p| &p.0.proposals);
    let groups = proposals.flat_map(|p| p.groups.iter().map(|group| *group as u16));
    let groups: BTreeSet<u16> = groups.collect();
    if groups.len() != 1 {
        let what = format!(
            "aggressive mode can't negotiate a group: all proposals need the same one (there are {})",
            groups.len()
        );
        return wrong("proposals", what);
    }
    Ok(())
}

/// What is less than good in aggressive mode.
pub(super) fn warnings(section: &ConnectionSection) -> Vec<String> {
    let told = [
        (
            section.aggressive,
            "aggressive: anybody on the way can read both identities",
        ),
        (
            section.aggressive && section.aggressive_psk,
            "aggressive_psk: whoever asks gets a hash to guess at the preshared key with, offline",
        ),
    ];
    let told = told.into_iter().filter(|(set, _)| *set);
    told.map(|(_, what)| what.to_owned()).collect()
}
