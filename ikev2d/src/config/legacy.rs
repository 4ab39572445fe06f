// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Algorithms of another time, which a connection has only where it says `legacy = true`; and how many
//! proposals a list may have.

use ikev2d_proto::algorithm::Standing;
use ikev2d_proto::config::Version;
use ikev2d_proto::junos::MOST_PROPOSALS;
use ikev2d_proto::proposal::Proposal;

use super::connection::ConnectionSection;

/// Proposals of one list, at most: as many as an SA payload has.
const MOST: usize = 32;

/// A setting that is wrong, and why.
type Wrong = (String, String);

/// The lists of a connection, by their keys: the proposals, and whether a set of Junos' is among them.
fn lists(section: &ConnectionSection) -> Vec<(String, Vec<&Proposal>, bool)> {
    let ike = section.proposals.iter().flat_map(|p| &p.0.proposals);
    let junos = section.proposals.iter().any(|p| p.0.set.is_some());
    let mut lists = vec![("proposals".to_owned(), ike.collect(), junos)];
    for (name, child) in &section.children {
        let esp = child.esp_proposals.iter().flat_map(|p| &p.0.proposals);
        let junos = child.esp_proposals.iter().any(|p| p.0.set.is_some());
        let key = format!("children.{name}.esp_proposals");
        lists.push((key, esp.collect(), junos));
        let ah = child.ah_proposals.iter().map(|p| &p.0.0);
        lists.push((format!("children.{name}.ah_proposals"), ah.collect(), false));
    }
    lists
}

/// Whether every algorithm may be used.
pub(super) fn check(section: &ConnectionSection, version: Version) -> Result<(), Wrong> {
    for (key, proposals, junos) in lists(section) {
        let most = if junos { MOST_PROPOSALS } else { MOST };
        if proposals.len() > most {
            let what = if junos {
                "proposals beside a predefined set, which has at most four in all, as Junos'"
            } else {
                "proposals: at most 32"
            };
            return Err((key, format!("{} {what}", proposals.len())));
        }
        for (word, standing) in proposals.iter().flat_map(|p| p.weak()) {
            if !section.legacy {
                let what = format!(
                    "{word} is of another time (RFC 8247, RFC 8221): take something newer, or write legacy = \
                     true in the connection if the peer has nothing better"
                );
                return Err((key, what));
            }
            if standing == Standing::Forbidden && version != Version::V1 {
                let what = format!(
                    "{word} must not be used with IKEv2, legacy or not (RFC 8247 §2, RFC 8221 §5): only \
                     version = 1 has it"
                );
                return Err((key, what));
            }
        }
    }
    check_dsa(section, version)
}

/// RFC 8247 §3 has no DSA at all; IKEv1's DSS signs by SHA-1.
fn check_dsa(section: &ConnectionSection, version: Version) -> Result<(), Wrong> {
    let [local, remote] = [&section.local, &section.remote].map(|end| end.is_dsa());
    let (key, what) = match (local, remote) {
        (false, false) => return Ok(()),
        _ if version != Version::V1 => (
            if local { "local.auth" } else { "remote.auth" },
            "dsa is IKEv1's alone (RFC 2409): expected version = 1, or another kind of key",
        ),
        (true, false) => (
            "remote.auth",
            "in IKEv1 both ends authenticate in the same way: expected dsa as in local.auth",
        ),
        (false, true) => (
            "local.auth",
            "in IKEv1 both ends authenticate in the same way: expected dsa as in remote.auth",
        ),
        (true, true) if !section.legacy => (
            "local.auth",
            "dsa is of another time: take rsa or ecdsa, or write legacy = true in the connection if the peer \
             has nothing better",
        ),
        (true, true) => return Ok(()),
    };
    Err((key.to_owned(), what.to_owned()))
}

/// What a connection offers and accepts of it.
pub(super) fn warning(section: &ConnectionSection) -> Option<String> {
    let mut used = Vec::new();
    for (_, proposals, _) in lists(section) {
        for (word, _) in proposals.iter().flat_map(|p| p.weak()) {
            if !used.contains(&word) {
                used.push(word);
            }
        }
    }
    if section.local.is_dsa() {
        used.push("dsa");
    }
    (!used.is_empty()).then(|| {
        let used = used.join(" ");
        format!(
            "legacy: algorithms that RFC 8247 and RFC 8221 would have nobody use are offered and accepted: {used}"
        )
    })
}
