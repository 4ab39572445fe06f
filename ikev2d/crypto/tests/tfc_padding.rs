// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP_TFC_PADDING_NOT_SUPPORTED (RFC 7296 §1.3.1): each end says for itself, for each child SA.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ikev2d_proto::config::SelectorConfig;
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::wire::{notify, payload};
use peers::Pair;

/// The notification without an SPI.
fn refusal() -> Vec<u8> {
    let [high, low] = notify::ESP_TFC_PADDING_NOT_SUPPORTED.to_be_bytes();
    vec![0, 0, high, low]
}

fn refuses(message: &Outgoing) -> bool {
    let mut payloads = message.payloads.iter();
    payloads.any(|(kind, body)| *kind == payload::NOTIFY && *body == refusal())
}

/// Whether each end knows that the other takes no padding.
fn told(pair: &Pair) -> [bool; 2] {
    [0, 1].map(|side| {
        let child = pair.current_child(side).unwrap();
        let sa = pair.current_ike(side).unwrap();
        let sa = pair.sides[side].endpoint.ike_sa(sa).unwrap();
        let mut children = sa.children.iter();
        let child = children.find(|listed| listed.sa.id == child).unwrap();
        child.sa.told().no_tfc_padding
    })
}

fn rekey(pair: &mut Pair, side: usize) {
    let (now, child) = (pair.now, pair.current_child(side).unwrap());
    pair.sides[side].endpoint.rekey_child(now, child).unwrap();
    pair.run(Duration::from_secs(5));
    assert_ne!(pair.current_child(side), Some(child));
}

/// B37: tunnels have padding taken off, so nobody says otherwise; in transport mode both do.
#[test]
fn padding_is_refused_for_transport_mode_alone() {
    for transport in [false, true] {
        let mut pair = Pair::new(|_, connection, _| {
            let child = &mut connection.children[0];
            child.transport = transport;
            if transport {
                child.local_ts = vec![SelectorConfig::Dynamic];
                child.remote_ts = vec![SelectorConfig::Dynamic];
            }
        });
        let said = Arc::new(AtomicUsize::new(0));
        for side in &mut pair.sides {
            let said = said.clone();
            side.endpoint.deviate(Box::new(move |message| {
                said.fetch_add(refuses(message).into(), Ordering::Relaxed);
            }));
        }
        pair.up();
        assert_eq!(told(&pair), [transport; 2]);
        rekey(&mut pair, 0);
        assert_eq!(told(&pair), [transport; 2]);
        let expected = if transport { 4 } else { 0 };
        assert_eq!(said.load(Ordering::Relaxed), expected);
    }
}

/// B37: what one end says holds for what the other sends, in either role, until a new child SA.
#[test]
fn a_refusal_holds_for_its_child_and_the_other_end() {
    for refusing in [vec![0], vec![1], vec![0, 1]] {
        let mut pair = Pair::plain();
        let refuses = Arc::new(AtomicBool::new(true));
        for side in &refusing {
            let refuses = refuses.clone();
            pair.sides[*side].endpoint.deviate(Box::new(move |message| {
                let makes = |(kind, _): &(u8, Vec<u8>)| *kind == payload::TSI;
                if refuses.load(Ordering::Relaxed) && message.payloads.iter().any(makes) {
                    message.payloads.insert(0, (payload::NOTIFY, refusal()));
                }
            }));
        }
        pair.up();
        let expected = [1, 0].map(|peer| refusing.contains(&peer));
        assert_eq!(told(&pair), expected);
        for side in [0, 1] {
            rekey(&mut pair, side);
            assert_eq!(told(&pair), expected, "rekeyed by {side}");
        }
        refuses.store(false, Ordering::Relaxed);
        rekey(&mut pair, 1);
        assert_eq!(told(&pair), [false; 2]);
    }
}
