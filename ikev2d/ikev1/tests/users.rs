// SPDX-License-Identifier: Apache-2.0 OR MIT
//! XAUTH and mode config between two endpoints in memory.
#![allow(clippy::unwrap_used)]

mod peers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ikev1_proto::wire::transaction::{self, Attributes};
use ikev1_proto::wire::{Payloads, payload};
use ikev2d_proto::config::*;
use ikev2d_proto::event::*;
use ikev2d_proto::pool::PoolConfig;
use ikev2d_proto::ts::TrafficSelector;
use ikev2d_proto::wire::configuration::{self, Attribute};
use ikev2d_proto::xauth::Xauth;
use zeroize::Zeroizing;

use peers::Pair;

const TRANSACTION: u8 = 6;

fn user(name: &str, password: &str) -> (Vec<u8>, Zeroizing<String>) {
    (
        name.as_bytes().to_vec(),
        Zeroizing::new(password.to_owned()),
    )
}

/// The first side is the client: its user, and an address out of the other side's pool.
fn lab(password: &str, change: impl Fn(bool, &mut Connection)) -> Pair {
    let mut pair = Pair::new(|a, connection, _| {
        let child = &mut connection.children[0];
        if a {
            connection.vips = vec!["0.0.0.0".parse().unwrap()];
            child.local_ts = vec![SelectorConfig::Dynamic];
            connection.ikev1.xauth = Some(Xauth::Client(user("carol", password)));
        } else {
            connection.pools = vec!["p".to_owned()];
            child.remote_ts = vec![SelectorConfig::Dynamic];
            let users = vec![user("dave", "another"), user("carol", "open sesame")];
            connection.ikev1.xauth = Some(Xauth::Server(users));
        }
        change(a, connection);
    });
    let pool = PoolConfig {
        start: "10.3.0.1".parse().unwrap(),
        end: "10.3.0.9".parse().unwrap(),
        attributes: vec![Attribute::Ip4Dns(Some([192, 0, 2, 53].into()))],
    };
    let pools = BTreeMap::from([("p".to_owned(), pool)]);
    pair.sides[1].endpoint.pools_mut().set(pools);
    pair
}

fn vip(pair: &Pair, side: usize) -> Vec<IpAddr> {
    let mut sas = pair.sides[side].endpoint.ike_sas();
    let sa = sas.find(|sa| sa.state == "ESTABLISHED").unwrap();
    if side == 0 {
        sa.local_vips.to_vec()
    } else {
        sa.remote_vips.to_vec()
    }
}

fn leased(pair: &mut Pair) -> usize {
    let pools = pair.sides[1].endpoint.pools_mut();
    let leases = pools.iter().flat_map(|(_, pool)| pool.leases());
    leases.map(|(_, lease)| lease.users).sum()
}

/// B45, S8, S27, S59c, S60: a user proves itself and gets an address, asked for or not, in either mode
/// of phase 1, whoever has begun; the child's selectors are that address.
#[test]
fn a_user_proves_itself_and_gets_an_address() {
    for (aggressive, push, begins) in [
        (false, false, 0),
        (false, true, 0),
        (true, false, 0),
        (true, true, 0),
        (false, false, 1),
        (false, true, 1),
    ] {
        let mut pair = lab("open sesame", |_, connection| {
            connection.ikev1.aggressive = aggressive;
            connection.ikev1.aggressive_psk = aggressive;
            connection.ikev1.push = push;
        });
        if begins == 0 {
            pair.up();
        } else {
            pair.initiate(1, None);
            pair.run(Duration::from_secs(30));
            pair.initiate(0, Some("net"));
            pair.run(Duration::from_secs(30));
            pair.agree(1);
        }
        let address: IpAddr = "10.3.0.1".parse().unwrap();
        assert_eq!(vip(&pair, 0), [address]);
        assert_eq!(vip(&pair, 1), [address]);
        let configured = |event: &Event| {
            matches!(event, Event::Configured { addresses, attributes, .. }
                if addresses[..] == [address] && attributes.len() == 1)
        };
        assert_eq!(pair.count(0, configured), 1);
        let child = pair.sides[1].offered.values().next().unwrap();
        assert_eq!(*child.ts_remote, [TrafficSelector::host(address)]);
        let pools = pair.sides[1].endpoint.pools_mut();
        let owners: Vec<String> = pools
            .iter()
            .flat_map(|(_, pool)| pool.leases())
            .map(|(_, lease)| lease.owner.clone())
            .collect();
        assert_eq!(owners, ["carol"]);
        // Everything of it is encrypted.
        let mut transactions = pair.recorded.iter().filter(|(_, m)| m[18] == TRANSACTION);
        assert!(transactions.all(|(_, m)| m[19] & 1 != 0));
        let ike = pair.ike(0);
        pair.sides[0].endpoint.terminate_ike(pair.now, ike).unwrap();
        pair.run(Duration::from_secs(30));
        assert_eq!(
            pair.count(0, |e| matches!(e, Event::Unconfigured { .. })),
            1
        );
        assert_eq!(leased(&mut pair), 0);
    }
}

/// S8: a wrong password, or nobody's name, is told, and nothing is left at either end.
#[test]
fn a_user_that_is_not_believed_gets_nothing() {
    for name in ["carol", "mallory"] {
        let mut pair = lab("open sesam", |a, connection| {
            if a {
                connection.ikev1.xauth = Some(Xauth::Client(user(name, "open sesam")));
            }
        });
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(60));
        pair.agree(0);
        assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
        assert!(
            pair.failure(0)
                .unwrap()
                .contains("does not believe our user")
        );
        assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 1);
        assert_eq!(pair.count(1, |e| matches!(e, Event::IkeUp { .. })), 0);
        assert_eq!(leased(&mut pair), 0);
    }
}

/// S8: a peer that passes its user's proof over gets no child SA, whatever it sends; what it has begun ends.
#[test]
fn nothing_comes_before_the_users_proof() {
    let mut pair = lab("open sesame", |_, _| {});
    pair.deaf = Some(TRANSACTION);
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.sides[1].endpoint.stats().half_open, 1);
    let states = |pair: &Pair| -> Vec<&'static str> {
        let sas = pair.sides[1].endpoint.ike_sas();
        sas.map(|sa| sa.state).collect()
    };
    assert_eq!(states(&pair), ["CONNECTING"]);
    pair.run(Duration::from_secs(300));
    pair.agree(0);
    assert_eq!((pair.sas(0), pair.sas(1)), (0, 0));
}

/// S8: transactions that are lost, doubled and late end as well as others.
#[test]
fn transactions_survive_a_bad_network() {
    let mut ups = 0;
    for seed in 1..40 {
        for push in [false, true] {
            let mut pair = lab("open sesame", |_, connection| connection.ikev1.push = push);
            (pair.loss, pair.random) = (10, 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            pair.initiate(0, Some("net"));
            pair.run(Duration::from_secs(110));
            pair.loss = 0;
            pair.run(Duration::from_secs(60));
            // Nobody waits for ever, and nobody is up alone.
            let failed = pair.count(0, |e| matches!(e, Event::InitiateFailed { .. }));
            if failed == 0 {
                pair.agree(1);
                ups += 1;
            }
        }
    }
    assert!(ups > 60, "{ups} of 78");
}

/// S60: a renewed ISAKMP SA proves its user anew and keeps its address and its children; only the client
/// renews.
#[test]
fn a_renewal_keeps_the_address() {
    let mut pair = lab("open sesame", |_, connection| {
        connection.rekey_time = Some(Duration::from_secs(600));
    });
    pair.up();
    let before = vip(&pair, 0);
    for _ in 0..5 {
        pair.run(Duration::from_secs(600));
        assert_eq!(vip(&pair, 0), before);
        assert_eq!(vip(&pair, 1), before);
        pair.agree(1);
    }
    assert!(pair.count(0, |e| matches!(e, Event::IkeRekeyed { .. })) >= 4);
    pair.run(Duration::from_secs(60));
    let (up, down) = (
        pair.count(0, |e| matches!(e, Event::Configured { .. })),
        pair.count(0, |e| matches!(e, Event::Unconfigured { .. })),
    );
    assert!(up - down <= 2, "{up} {down}");
    assert!(leased(&mut pair) <= 2);
}

/// Two users behind one address and one identity are two peers: neither takes the other's SAs over.
#[test]
fn users_of_one_identity_are_told_apart() {
    let mut pair = lab("open sesame", |_, _| {});
    pair.up();
    let mut other = peers::connection(true);
    other.name = "other".to_owned();
    other.vips = vec!["0.0.0.0".parse().unwrap()];
    other.children[0].local_ts = vec![SelectorConfig::Dynamic];
    other.ikev1.xauth = Some(Xauth::Client(user("dave", "another")));
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.set_connections(&[Arc::new(other)]);
    endpoint.initiate(now, "other", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(60));
    pair.agree(2);
    let sas = pair.sides[1].endpoint.ike_sas();
    let mut vips: Vec<_> = sas.flat_map(|sa| sa.remote_vips.to_vec()).collect();
    vips.sort();
    let expected: [IpAddr; 2] = ["10.3.0.1", "10.3.0.2"].map(|text| text.parse().unwrap());
    assert_eq!(vips, expected);
    assert_eq!(pair.count(1, |e| matches!(e, Event::IkeRekeyed { .. })), 0);
}

/// S60: a pool that has no address left is told.
#[test]
fn an_empty_pool_is_told() {
    let mut pair = lab("open sesame", |_, _| {});
    pair.sides[1].endpoint.pools_mut().set(BTreeMap::new());
    pair.initiate(0, Some("net"));
    pair.run(Duration::from_secs(60));
    assert!(pair.failure(0).unwrap().contains("no address"));
}

/// S66, S73: a peer that asks what we are, and which attributes we know of, is told, beside the address it asks
/// for or alone.
#[test]
fn what_is_asked_of_us_is_told() {
    use Attribute::{ApplicationVersion, Ip4Address, Supported};
    for pools in [true, false] {
        let mut pair = Pair::open(|a, connection, config| {
            if !a && pools {
                connection.pools = vec!["p".to_owned()];
            }
            config.application_version = "gw 7.1".to_owned();
        });
        let pool = PoolConfig {
            start: "10.3.0.1".parse().unwrap(),
            end: "10.3.0.9".parse().unwrap(),
            attributes: vec![],
        };
        let all = BTreeMap::from([("p".to_owned(), pool)]);
        pair.sides[1].endpoint.pools_mut().set(all);
        pair.up();
        let mut asked = transaction::begin(configuration::Kind::Request, 7);
        for attribute in [
            Ip4Address(None),
            ApplicationVersion(vec![]),
            Supported(vec![]),
        ] {
            transaction::push_given(&mut asked, &attribute);
        }
        assert_eq!(
            pair.say(TRANSACTION, 9, &[(payload::ATTRIBUTES, &asked)]),
            1
        );
        let (_, answer) = pair.recorded.last().unwrap();
        let parts = Payloads::parse(payload::HASH, &answer[28..], true).unwrap();
        let told =
            Attributes::parse(parts.one(payload::ATTRIBUTES, "attributes").unwrap()).unwrap();
        assert_eq!(
            (told.kind, told.identifier),
            (configuration::Kind::Reply, 7)
        );
        let address = Ip4Address(Some([10, 3, 0, 1].into()));
        let about = [
            Supported([&configuration::KNOWN[..], &transaction::xauth::ALL].concat()),
            ApplicationVersion(b"gw 7.1".to_vec()),
        ];
        let expected = pools.then_some(address).into_iter().chain(about);
        assert_eq!(told.given(), expected.collect::<Vec<_>>());
    }
}
