// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration payload (RFC 7296 §3.15): pools, leases, and selectors that follow from them.
#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::event::Event;
use ikev2d_proto::pool::PoolConfig;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use ikev2d_proto::wire::configuration::{self, Attribute, KNOWN, Kind};
use ikev2d_proto::wire::{exchange, payload};

use peers::{Pair, net};

fn pool(start: &str, end: &str, attributes: Vec<Attribute>) -> PoolConfig {
    PoolConfig {
        start: start.parse().unwrap(),
        end: end.parse().unwrap(),
        attributes,
    }
}

fn ip6_dns() -> Attribute {
    Attribute::Ip6Dns(Some("2001:db8:2::53".parse().unwrap()))
}

/// A road warrior asks for addresses of these, and the gateway has a small pool of either family.
fn roaming(vips: &[&str]) -> Pair {
    let mut pair = Pair::new(|a, connection, _| {
        let child = &mut connection.children[0];
        child.esp_proposals = vec![Proposal::parse_esp("aes128gcm16").unwrap()];
        let everything = vec![net("10.2.0.0/16"), net("2001:db8:2::/48")];
        if a {
            connection.vips = vips.iter().map(|vip| vip.parse().unwrap()).collect();
            child.local_ts = vec![SelectorConfig::Dynamic];
            child.remote_ts = everything;
        } else {
            connection.pools = vec!["four".to_owned(), "six".to_owned()];
            child.local_ts = everything;
            child.remote_ts = vec![SelectorConfig::Dynamic];
        }
    });
    let dns = Attribute::Ip4Dns(Some([10, 2, 0, 53].into()));
    let four = pool("10.3.0.1", "10.3.0.2", vec![dns]);
    let six = pool("2001:db8:3::1", "2001:db8:3::2", vec![ip6_dns()]);
    let pools = [("four".to_owned(), four), ("six".to_owned(), six)];
    pair.sides[1]
        .endpoint
        .pools_mut()
        .set(BTreeMap::from(pools));
    pair
}

fn vips(pair: &Pair, side: usize) -> Vec<String> {
    let sa = pair.sides[side].endpoint.ike_sas().next().unwrap();
    let vips = if side == 0 {
        sa.local_vips
    } else {
        sa.remote_vips
    };
    vips.iter().map(IpAddr::to_string).collect()
}

fn hosts(all: &[&str]) -> Vec<TrafficSelector> {
    let host = |text: &&str| TrafficSelector::host(text.parse().unwrap());
    all.iter().map(host).collect()
}

/// Leases that are in use, and all of them.
fn leases(pair: &Pair) -> (usize, usize) {
    let pools = pair.sides[1].endpoint.pools().iter();
    let all: Vec<usize> = pools
        .flat_map(|(_, p)| p.leases())
        .map(|(_, l)| l.users)
        .collect();
    (all.iter().filter(|users| **users != 0).count(), all.len())
}

/// S60, S62, S67, S69, S88: addresses and DNS servers are given, and dynamic selectors are narrowed to them.
#[test]
fn addresses_are_given_and_selectors_follow() {
    for (asked, given) in [
        (vec!["0.0.0.0"], vec!["10.3.0.1"]),
        (vec!["::"], vec!["2001:db8:3::1"]),
        (vec!["0.0.0.0", "::"], vec!["10.3.0.1", "2001:db8:3::1"]),
        // The wish is heard, if it can be fulfilled.
        (vec!["10.3.0.2"], vec!["10.3.0.2"]),
        (vec!["10.9.0.9"], vec!["10.3.0.1"]),
    ] {
        let mut pair = roaming(&asked);
        pair.up();
        assert_eq!(vips(&pair, 0), given, "{asked:?}");
        assert_eq!(vips(&pair, 1), given, "{asked:?}");
        for side in 0..2 {
            let sa = pair.sides[side].offered.values().next().unwrap();
            let dynamic = if side == 0 {
                &sa.ts_local
            } else {
                &sa.ts_remote
            };
            assert_eq!(**dynamic, *hosts(&given), "{asked:?}");
        }
        let told = |e: &Event| {
            matches!(e, Event::Configured { addresses, attributes, .. }
            if addresses.len() == given.len() && attributes.contains(&Attribute::Ip4Dns(Some([10, 2, 0, 53].into())))
                && attributes.contains(&ip6_dns()))
        };
        assert_eq!(pair.count(0, told), 1, "{asked:?}");
        // Told before anything is installed.
        let first = pair.sides[0].events.iter().position(told).unwrap();
        let installed = |e: &Event| matches!(e, Event::InstallInbound { .. });
        assert!(first < pair.sides[0].events.iter().position(installed).unwrap());
    }
}

/// S66, S73: what is asked of us is told in IKE_AUTH, with addresses and without; of what we are no
/// more than is configured.
#[test]
fn what_is_asked_of_us_is_told_in_ike_auth() {
    use Attribute::{ApplicationVersion, Supported};
    let asked = vec![
        Attribute::Ip4Address(None),
        Supported(vec![]),
        ApplicationVersion(vec![]),
    ];
    for (version, pools) in [("Esplanade", true), ("", true), ("Esplanade", false)] {
        let mut pair = Pair::new(|a, connection, config| {
            if a {
                connection.vips = vec!["0.0.0.0".parse().unwrap()];
            } else {
                config.application_version = version.to_owned();
                connection.pools = vec!["four".to_owned(); usize::from(pools)];
            }
        });
        let four = pool("10.3.0.1", "10.3.0.2", vec![]);
        let all = BTreeMap::from([("four".to_owned(), four)]);
        pair.sides[1].endpoint.pools_mut().set(all);
        let body = configuration::emit(Kind::Request, &asked);
        pair.sides[0].endpoint.deviate(Box::new(move |message| {
            let mut cps = message.payloads.iter_mut();
            if let Some((_, old)) = cps.find(|(kind, _)| *kind == payload::CP) {
                old.clone_from(&body);
            }
        }));
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let answers = seen.clone();
        pair.sides[1].endpoint.deviate(Box::new(move |message| {
            let mut cps = message.payloads.iter();
            let cp = cps.find(|(kind, _)| *kind == payload::CP);
            if let Some((_, body)) = cp.filter(|_| message.header.exchange == exchange::IKE_AUTH) {
                answers.lock().unwrap().push(body.clone());
            }
        }));
        pair.initiate();
        pair.run(Duration::from_secs(5));
        let address = Attribute::Ip4Address(Some([10, 3, 0, 1].into()));
        let mut expected = vec![address; usize::from(pools)];
        let own = ApplicationVersion(version.as_bytes().to_vec());
        expected.extend([Supported(KNOWN.to_vec()), own]);
        let seen = seen.lock().unwrap();
        let read = configuration::parse(seen.first().unwrap());
        assert_eq!(read, Ok((Kind::Reply, expected)), "{version:?}, {pools}");
    }
}

/// S60: what an IKE SA had goes back with it, and through rekeyings it stays.
#[test]
fn addresses_stay_through_rekeyings_and_go_back_at_the_end() {
    let mut pair = roaming(&["0.0.0.0"]);
    pair.up();
    for side in [0, 1] {
        let (now, ike) = (pair.now, pair.ike(side));
        pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
        pair.run(Duration::from_secs(10));
        let (now, child) = (pair.now, pair.child(side));
        pair.sides[side].endpoint.rekey_child(now, child).unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(1);
        assert_eq!(
            (vips(&pair, 0), leases(&pair)),
            (vec!["10.3.0.1".to_owned()], (1, 1))
        );
        let child = pair.sides[0].endpoint.ike_sas().next().unwrap().children[0]
            .sa
            .ts_local
            .clone();
        assert_eq!(*child, *hosts(&["10.3.0.1"]));
    }
    let undone = |e: &Event| matches!(e, Event::Unconfigured { .. });
    assert_eq!(pair.count(0, undone), 0);
    // With reauthentication the new IKE SA has the same address while the old one has it still.
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.reauthenticate(now, ike).unwrap();
    pair.run(Duration::from_secs(20));
    assert_eq!(
        (vips(&pair, 0), leases(&pair)),
        (vec!["10.3.0.1".to_owned()], (1, 1))
    );
    assert_eq!(pair.count(0, undone), 1);
    assert_eq!(pair.count(0, |e| matches!(e, Event::Configured { .. })), 2);
    let (now, ike) = (pair.now, pair.ike(0));
    pair.sides[0].endpoint.terminate_ike(now, ike).unwrap();
    pair.run(Duration::from_secs(10));
    assert_eq!((pair.count(0, undone), leases(&pair)), (2, (0, 1)));
    // And the same again: it is remembered.
    pair.up();
    assert_eq!(vips(&pair, 0), ["10.3.0.1"]);
}

/// S60: INTERNAL_ADDRESS_FAILURE where a pool is used up, and nobody else's address.
#[test]
fn a_pool_that_is_used_up_says_so() {
    let mut pair = roaming(&["0.0.0.0"]);
    let empty = pool("10.3.0.1", "10.3.0.1", vec![]);
    let pools = pair.sides[1].endpoint.pools_mut();
    pools.set(BTreeMap::from([("elsewhere".to_owned(), empty)]));
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(60));
    let failed = |e: &Event| matches!(e, Event::InitiateFailed { child: Some(_), .. });
    assert_eq!(pair.count(0, failed), 1);
    for side in &pair.sides {
        assert_eq!(side.endpoint.ike_sas().count(), 0);
        assert!(side.inbound.is_empty());
    }
}

/// S60, A03: a peer that asks for more, for others' addresses, or answers what nobody asked.
#[test]
fn deviations_get_no_address_of_others() {
    let change = |kind: Kind, attributes: Vec<Attribute>, by: usize| {
        let mut pair = roaming(&["0.0.0.0"]);
        pair.sides[1]
            .endpoint
            .pools_mut()
            .remember("four", "10.3.0.2".parse().unwrap(), "c.test");
        let body = configuration::emit(kind, &attributes);
        pair.sides[by].endpoint.deviate(Box::new(move |message| {
            for (found, old) in &mut message.payloads {
                if *found == payload::CP {
                    old.clone_from(&body);
                }
            }
        }));
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("net"), None).unwrap();
        pair.run(Duration::from_secs(30));
        pair
    };
    let v4 = |octets: [u8; 4]| Attribute::Ip4Address(Some(octets.into()));
    // As many as there are, and no more.
    let pair = change(Kind::Request, vec![Attribute::Ip4Address(None); 200], 0);
    assert!(leases(&pair).0 <= 2);
    for (what, answer) in [
        ("none", vec![]),
        ("loopback", vec![v4([127, 0, 0, 1])]),
        ("unspecified", vec![v4([0, 0, 0, 0])]),
        (
            "another family",
            vec![Attribute::Ip6Address(Some((1.into(), 64)))],
        ),
    ] {
        let pair = change(Kind::Reply, answer, 1);
        assert!(pair.sides[0].inbound.is_empty(), "{what}");
        let told = pair.count(0, |e| matches!(e, Event::Configured { .. }));
        assert_eq!(told, 0, "{what}");
    }
    // CFG_SET is no answer.
    let pair = change(Kind::Set, vec![v4([10, 3, 0, 1])], 1);
    assert!(pair.sides[0].inbound.is_empty());
}

/// S66, S73, S75: CFG_REQUEST and CFG_SET at any time are answered by CFG_REPLY and CFG_ACK.
#[test]
fn configuration_in_informational_exchanges_is_answered() {
    for (asked, expected) in [
        (
            configuration::emit(Kind::Request, &[Attribute::Supported(vec![])]),
            (Kind::Reply, vec![Attribute::Supported(KNOWN.to_vec())]),
        ),
        (
            configuration::emit(Kind::Request, &[Attribute::ApplicationVersion(vec![])]),
            (Kind::Reply, vec![Attribute::ApplicationVersion(vec![])]),
        ),
        (
            configuration::emit(Kind::Set, &[Attribute::Other(9, vec![1])]),
            (Kind::Ack, vec![]),
        ),
    ] {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut pair = Pair::plain();
        pair.up();
        pair.sides[0].endpoint.deviate(Box::new(move |message| {
            if message.header.exchange == exchange::INFORMATIONAL && !message.header.is_response() {
                message.payloads.push((payload::CP, asked.clone()));
            }
        }));
        let answers = seen.clone();
        pair.sides[1].endpoint.deviate(Box::new(move |message| {
            let cps = message
                .payloads
                .iter()
                .filter(|(kind, _)| *kind == payload::CP);
            answers
                .lock()
                .unwrap()
                .extend(cps.map(|(_, body)| body.clone()));
        }));
        let (now, ike) = (pair.now, pair.ike(0));
        pair.sides[0].endpoint.check_liveness(now, ike).unwrap();
        pair.run(Duration::from_secs(5));
        let seen = seen.lock().unwrap();
        assert_eq!(configuration::parse(&seen[0]), Ok(expected));
        pair.agree(1);
    }
}
