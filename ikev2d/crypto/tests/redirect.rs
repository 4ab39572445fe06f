// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Redirection (RFC 5685). Both gateways are one endpoint with two addresses.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::IpAddr;
use std::time::Duration;

use ikev2d_proto::config::Redirect;
use ikev2d_proto::event::*;
use ikev2d_proto::wire::{Chain, FLAG_RESPONSE, Header, VERSION, exchange, notify, payload};

use peers::Pair;

const FIRST: &str = "192.0.2.2";
const SECOND: &str = "192.0.2.3";
const NOWHERE: &str = "198.51.100.1";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The client follows; the gateways answer at any address.
fn pair(follow: bool, redirect: Option<Redirect>) -> Pair {
    Pair::seeded(5, |a, connection, _| {
        if a {
            connection.follow_redirects = follow;
        } else {
            connection.local_addrs.clear();
            connection.redirect = redirect;
        }
    })
}

fn to(gateway: &str, authenticated: bool) -> Option<Redirect> {
    let gateway = address(gateway);
    Some(Redirect {
        gateway,
        authenticated,
    })
}

fn remotes(pair: &Pair) -> Vec<IpAddr> {
    let sas = pair.sides[0].endpoint.ike_sas();
    sas.map(|sa| sa.path.remote.ip()).collect()
}

fn redirected(pair: &Pair) -> usize {
    pair.count(0, |e| matches!(e, Event::Redirected { .. }))
}

fn failed(pair: &Pair) -> usize {
    pair.count(0, |e| matches!(e, Event::InitiateFailed { .. }))
}

fn send_away(pair: &mut Pair, gateway: &str) -> bool {
    let (now, ike) = (pair.now, pair.current_ike(1).unwrap());
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.redirect(now, ike, address(gateway)).unwrap()
}

/// B22, §3, §6: in IKE_SA_INIT and in IKE_AUTH; the tunnel is with the other gateway alone.
#[test]
fn a_client_goes_where_it_is_sent_at_the_beginning() {
    for authenticated in [false, true] {
        let mut pair = pair(true, to(SECOND, authenticated));
        pair.up();
        assert_eq!(remotes(&pair), [address(SECOND)]);
        assert_eq!((redirected(&pair), failed(&pair)), (1, 0));
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
        let ups = pair.count(1, |e| matches!(e, Event::IkeUp { .. }));
        assert_eq!(ups, 1 + usize::from(authenticated));
        assert_eq!(pair.count(1, |e| matches!(e, Event::ChildUp { .. })), 1);
    }
}

/// §3: it is the client's to say that it can; who does not is served.
#[test]
fn who_does_not_follow_is_served_here() {
    for authenticated in [false, true] {
        let mut pair = pair(false, to(SECOND, authenticated));
        pair.up();
        assert_eq!(remotes(&pair), [address(FIRST)]);
    }
    let mut pair = pair(false, None);
    pair.up();
    assert!(!send_away(&mut pair, SECOND));
}

/// §5: later, and over a rekeyed IKE SA; the new tunnel is there before the old one goes.
#[test]
fn an_established_client_is_sent_away_without_a_gap() {
    for rekeyed in [false, true] {
        let mut pair = pair(true, None);
        pair.up();
        if rekeyed {
            let (now, ike) = (pair.now, pair.ike(1));
            pair.sides[1].endpoint.rekey_ike(now, ike).unwrap();
            pair.run(Duration::from_secs(5));
        }
        assert!(send_away(&mut pair, SECOND));
        for _ in 0..400 {
            pair.run(Duration::from_millis(5));
            pair.assert_no_black_hole("redirected");
        }
        pair.run(Duration::from_secs(30));
        pair.agree(1);
        assert_eq!(remotes(&pair), [address(SECOND)]);
        assert_eq!(pair.sides[1].endpoint.ike_sas().count(), 1);
    }
}

/// The other gateway is not there: what was is kept.
#[test]
fn a_gateway_that_is_not_there_costs_no_tunnel() {
    let mut pair = pair(true, None);
    pair.up();
    let before = pair.current_child(0);
    assert!(send_away(&mut pair, NOWHERE));
    for _ in 0..400 {
        pair.run(Duration::from_millis(5));
        pair.wire
            .retain(|(_, _, path, _)| path.local.ip() != address(NOWHERE));
        pair.assert_no_black_hole("nobody is there");
    }
    assert_eq!(redirected(&pair), 1);
    assert_eq!(pair.current_child(0), before);
    pair.agree(1);
}

/// A10, §3: gateways that send a client to and fro.
#[test]
fn a_loop_of_redirections_is_left() {
    let mut pair = pair(true, None);
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    for turn in 0..6 {
        pair.flush();
        let (_, _, path, message) = pair.wire.pop_front().expect("it asks");
        assert!(pair.wire.is_empty(), "{turn}");
        let other = if turn % 2 == 0 { SECOND } else { FIRST };
        let answer = redirect(&message, other, &nonce_of(&message));
        pair.sides[0]
            .endpoint
            .handle_datagram(now, turned(path), &answer);
    }
    pair.flush();
    assert!(pair.wire.is_empty(), "it gives up");
    assert_eq!((redirected(&pair), failed(&pair)), (5, 1));
}

/// §3: who has not seen our nonce has not seen our message.
#[test]
fn a_forged_redirection_is_nothing() {
    let mut pair = pair(true, None);
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.flush();
    let (_, _, path, message) = pair.wire.front().cloned().unwrap();
    let nonce = nonce_of(&message);
    for wrong in [&nonce[1..], &[0; 32][..], &[][..]] {
        let answer = redirect(&message, NOWHERE, wrong);
        pair.sides[0]
            .endpoint
            .handle_datagram(now, turned(path), &answer);
    }
    pair.run(Duration::from_secs(30));
    pair.agree(1);
    assert_eq!(remotes(&pair), [address(FIRST)]);
    assert_eq!(redirected(&pair), 0);
}

fn turned(path: Path) -> Path {
    path.turned()
}

/// The nonce of a first message.
fn nonce_of(message: &[u8]) -> Vec<u8> {
    let header = Header::parse(message).unwrap();
    let parts = ikev2d_proto::wire::payloads(header.next_payload, &message[28..]).unwrap();
    let nonce = parts.iter().find(|part| part.kind == payload::NONCE);
    nonce.unwrap().body.to_vec()
}

/// What a gateway without state answers.
fn redirect(request: &[u8], gateway: &str, nonce: &[u8]) -> Vec<u8> {
    let IpAddr::V4(gateway) = address(gateway) else {
        panic!("IPv4");
    };
    let mut chain = Chain::default();
    let data = [&[1, 4], &gateway.octets()[..], nonce].concat();
    chain.notify(notify::REDIRECT, &data);
    let header = Header::parse(request).unwrap();
    chain.into_message(Header {
        version: VERSION,
        exchange: exchange::IKE_SA_INIT,
        flags: FLAG_RESPONSE,
        ..header
    })
}
