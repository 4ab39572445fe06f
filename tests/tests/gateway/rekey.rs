// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rekeyings that are over at both ends.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlab::Namespace;
use netlab::traffic::ping;

use super::Gateway;

/// What `--list-sas` names an SA by at both ends: an IKE SA's SPIs, or those of a child's two SAs in order.
type Spis = BTreeSet<[String; 2]>;

/// Rekeys the children of this name of a gateway that has one peer. Both ends have their successors when it returns,
/// send by them, and have the same other children as before, and no more.
pub(crate) fn child(by: &Gateway, other: &Gateway, name: &str) {
    let successors = |sas: &str| children(sas, name);
    let arguments = ["--rekey", "--child", name];
    renew(by, other, &arguments, successors, |sas| children(sas, ""));
}

/// Where packets come from, and to where they go.
pub(crate) type Flow<'w> = (&'w Namespace, IpAddr, IpAddr);

/// As [`child`], and not one of the packets that pass meanwhile is lost.
pub(crate) fn child_under_pings(by: &Gateway, other: &Gateway, name: &str, flow: Flow<'_>) {
    under_pings([by, other], flow, || child(by, other, name));
}

/// Renews something while packets pass, of which not one is lost on the way.
pub(crate) fn under_pings(
    ends: [&Gateway; 2],
    (namespace, from, to): Flow<'_>,
    renew: impl FnOnce(),
) {
    let dropped = || {
        ends.map(Gateway::dropped_behind_deletions)
            .iter()
            .sum::<usize>()
    };
    let before = dropped();
    let report = std::thread::scope(|scope| {
        let pings = scope.spawn(|| ping(namespace, from, to, 30).unwrap());
        renew();
        pings.join().unwrap()
    });
    let lost = (report.sent - report.received) as usize;
    let late = dropped() - before;
    // One each way is under way at a time.
    let excused = lost == late && late <= 2;
    assert!(excused, "{report:?}, {late} late\n{}", ends[0].tail());
}

/// Rekeys the IKE SAs of this name, as [`child`]: the children stay the same.
pub(crate) fn ike(by: &Gateway, other: &Gateway, name: &str) {
    let successors = |sas: &str| ikes(sas, name);
    let arguments = ["--rekey", "--ike", name];
    renew(by, other, &arguments, successors, all);
}

/// As [`ike`], with IKE SAs that are set up anew, and so are all children.
pub(crate) fn reauthenticate(by: &Gateway, other: &Gateway, name: &str) {
    let successors = |sas: &str| Some(&ikes(sas, name)? | &children(sas, "")?);
    let arguments = ["--rekey", "--ike", name, "--reauth"];
    renew(by, other, &arguments, successors, all);
}

/// Of `whole`, what `of` finds is replaced by as many others, and the rest stays: at both ends.
fn renew(
    by: &Gateway,
    other: &Gateway,
    arguments: &[&str],
    of: impl Fn(&str) -> Option<Spis>,
    whole: impl Fn(&str) -> Option<Spis>,
) {
    let count = |sas: &str| children(sas, "").map(|children| children.len());
    let before = by.wait_sas("what is to be rekeyed", |sas| {
        of(sas).is_some_and(|old| !old.is_empty()) && whole(sas).is_some() && count(sas).is_some()
    });
    let (old, own) = (of(&before).unwrap(), whole(&before).unwrap());
    // The other end has other names, and other SAs maybe.
    let same = |sas: &str| whole(sas).is_some_and(|theirs| theirs.is_superset(&own));
    let theirs = whole(&other.wait_sas("the same at the peer", same)).unwrap();
    by.swanctl(arguments);
    let after = by.wait_sas("the new SA", |sas| {
        of(sas).is_some_and(|new| {
            new.len() == old.len()
                && new.is_disjoint(&old)
                && whole(sas) == Some(&(&own - &old) | &new)
                && count(sas) == count(&before)
        })
    });
    let expected = Some(&(&theirs - &old) | &of(&after).unwrap());
    other.wait_sas("the peer's new SA", |sas| whole(sas) == expected);
}

/// All SAs of an end.
fn all(sas: &str) -> Option<Spis> {
    Some(&ikes(sas, "")? | &children(sas, "")?)
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
