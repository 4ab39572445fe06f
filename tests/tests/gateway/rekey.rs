// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rekeyings that are over at both ends.

use std::collections::BTreeSet;

use super::Gateway;

/// What `--list-sas` names an SA by at both ends: an IKE SA's SPIs, or those of a child's two SAs in order.
type Spis = BTreeSet<[String; 2]>;

/// Rekeys the children of this name. Both ends have their successors when it returns, and send by them.
pub(crate) fn child(by: &Gateway, other: &Gateway, name: &str) {
    renew(by, other, &["--rekey", "--child", name], |sas| {
        children(sas, name)
    });
}

/// Rekeys the IKE SAs of this name, as [`child`].
pub(crate) fn ike(by: &Gateway, other: &Gateway, name: &str) {
    renew(by, other, &["--rekey", "--ike", name], |sas| {
        ikes(sas, name)
    });
}

/// As [`ike`], with IKE SAs that are set up anew, and their children.
pub(crate) fn reauthenticate(by: &Gateway, other: &Gateway, name: &str) {
    renew(by, other, &["--rekey", "--ike", name, "--reauth"], |sas| {
        ikes(sas, name)
    });
}

fn renew(
    by: &Gateway,
    other: &Gateway,
    arguments: &[&str],
    spis: impl Fn(&str) -> Option<Spis> + Copy,
) {
    let some = |sas: &str| spis(sas).is_some_and(|spis| !spis.is_empty());
    let before = spis(&by.wait_sas("what is to be rekeyed", some)).unwrap();
    by.swanctl(arguments);
    let renewed = |sas: &str| {
        spis(sas).is_some_and(|now| now.len() == before.len() && now.is_disjoint(&before))
    };
    let now = spis(&by.wait_sas("the new SA", renewed)).unwrap();
    // The other end has other names, and other SAs maybe.
    let all = |sas: &str| Some(&children(sas, "")? | &ikes(sas, "")?);
    other.wait_sas("the peer's new SA", |sas| {
        all(sas).is_some_and(|all| all.is_superset(&now) && all.is_disjoint(&before))
    });
}

/// The children of a name (of all names, without one), where there is nothing else than finished ones: those
/// that strongSwan still listens to once they are deleted are none of them.
fn children(sas: &str, name: &str) -> Option<Spis> {
    let mut lines = sas.lines().map(str::trim_start);
    let mut spis = Spis::new();
    while let Some(line) = lines.next() {
        let Some((head, tail)) = line.split_once(", reqid ") else {
            continue;
        };
        match tail.split(", ").nth(1)? {
            "INSTALLED" => {}
            "DELETED" => continue,
            _ => return None,
        }
        let mut spi = |way| {
            let line = lines.find(|line| line.starts_with(way))?;
            Some(
                line.split([' ', ','])
                    .filter(|word| !word.is_empty())
                    .nth(1)?
                    .to_owned(),
            )
        };
        let mut pair = [spi("in ")?, spi("out ")?];
        pair.sort();
        if is_of(head, name) {
            spis.insert(pair);
        }
    }
    Some(spis)
}

/// The same of IKE SAs.
fn ikes(sas: &str, name: &str) -> Option<Spis> {
    let mut spis = Spis::new();
    for line in sas.lines().filter(|line| line.contains(", IKEv")) {
        let [head, state, version, pair] = line.split(", ").collect::<Vec<_>>().try_into().ok()?;
        match (state, version) {
            ("ESTABLISHED", _) => {}
            // strongSwan keeps a phase 1 that it has renewed.
            (_, "IKEv1") => continue,
            _ => return None,
        }
        let (initiator, responder) = pair.split_once(' ')?;
        if is_of(head, name) {
            spis.insert([initiator, responder].map(|spi| spi.replace('*', "")));
        }
    }
    Some(spis)
}

/// Whether this is the head of an SA's entry, `name: #1`.
fn is_of(head: &str, name: &str) -> bool {
    name.is_empty() || head.split_once(": #").is_some_and(|(of, _)| of == name)
}
