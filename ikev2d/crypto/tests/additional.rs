// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Additional key exchanges (RFC 9370) in IKE_INTERMEDIATE (RFC 9242) and IKE_FOLLOWUP_KE, with ML-KEM.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ikev2d_proto::algorithm::Group;
use ikev2d_proto::config::{Connection, EndpointConfig};
use ikev2d_proto::deviation::Outgoing;
use ikev2d_proto::event::Event;
use ikev2d_proto::proposal::{Additional, Proposal, methods};
use ikev2d_proto::wire::{Header, exchange, payload};

use peers::Pair;
use peers::explore::Search;

fn patient(config: &mut EndpointConfig) {
    config.retransmit_tries = 12;
    config.retransmit_timeout = Duration::from_secs(1);
    config.retransmit_base = 1.3;
}

fn propose(connection: &mut Connection, ike: &str, esp: &str) {
    let ike = ike
        .split(',')
        .map(|text| Proposal::parse_ike(text).unwrap());
    connection.proposals = ike.collect();
    connection.children[0].esp_proposals = vec![Proposal::parse_esp(esp).unwrap()];
}

const IKE: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const ESP: &str = "aes256gcm16-x25519-ke1_mlkem768";

fn both(ike: &str, esp: &str) -> Pair {
    Pair::new(|_, connection, config| {
        propose(connection, ike, esp);
        patient(config);
    })
}

fn exchanges(pair: &Pair, wanted: u8) -> usize {
    let of = |m: &&Vec<u8>| Header::parse(m).unwrap().exchange == wanted;
    pair.recorded.iter().filter(of).count()
}

fn chosen(pair: &Pair, side: usize) -> Vec<Group> {
    let sa = pair.sides[side].endpoint.ike_sas().next().unwrap();
    let suite = sa.suite.unwrap();
    std::iter::once(suite.group)
        .chain(methods(&suite.additional))
        .collect()
}

/// B9, B10, B11: each ML-KEM alone and beside others; an IKE_INTERMEDIATE for each further one.
#[test]
fn every_kem_makes_an_ike_sa_alone_and_beside_others() {
    use Group::*;
    for (ike, groups) in [
        ("aes128gcm16-prfsha256-mlkem512", vec![MlKem512]),
        ("aes256-sha384-mlkem768", vec![MlKem768]),
        ("aes256gcm16-prfsha512-mlkem1024", vec![MlKem1024]),
        (IKE, vec![X25519, MlKem768]),
        (
            "aes256-sha256-ecp384-ke1_mlkem1024-ke2_x448-ke3_mlkem512",
            vec![Ecp384, MlKem1024, X448, MlKem512],
        ),
        // Places may be left free, and a method is taken once (RFC 9370 §2.2.2).
        (
            "chacha20poly1305-prfsha256-x25519-ke2_mlkem768-ke2_mlkem512-ke7_mlkem768-ke7_mlkem1024",
            vec![X25519, MlKem768, MlKem1024],
        ),
    ] {
        let mut pair = both(ike, ESP);
        pair.up();
        assert_eq!(chosen(&pair, 0), groups, "{ike}");
        assert_eq!(chosen(&pair, 1), groups, "{ike}");
        let further = groups.len() - 1;
        let fragments = |m: &&Vec<u8>| Header::parse(m).unwrap().next_payload == payload::SKF;
        let pieces = pair.recorded.iter().filter(fragments).count();
        let messages = exchanges(&pair, exchange::IKE_INTERMEDIATE);
        assert!(
            messages - pieces <= 2 * further && messages >= 2 * further,
            "{ike}"
        );
        assert_eq!(exchanges(&pair, exchange::IKE_AUTH), 2);
    }
}

/// B10: what may be left out is, where the peer can't.
#[test]
fn an_additional_key_exchange_is_left_out_where_both_allow_it() {
    let optional = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none";
    for (ours, theirs, expected) in [
        (optional, optional, vec![Group::X25519, Group::MlKem768]),
        (
            optional,
            "aes256gcm16-prfsha384-x25519",
            vec![Group::X25519],
        ),
        (
            "aes256gcm16-prfsha384-x25519",
            optional,
            vec![Group::X25519],
        ),
        (
            "aes256gcm16-prfsha384-x25519-ke1_mlkem768,aes256gcm16-prfsha384-x25519",
            "aes256gcm16-prfsha384-x25519",
            vec![Group::X25519],
        ),
    ] {
        let mut pair = Pair::new(|a, connection, _| {
            propose(connection, if a { ours } else { theirs }, "aes256gcm16");
        });
        pair.up();
        assert_eq!(chosen(&pair, 1), expected, "{ours} and {theirs}");
    }
    // Who insists on it gets none without.
    for (ours, theirs) in [
        (IKE, "aes256gcm16-prfsha384-x25519"),
        ("aes256gcm16-prfsha384-x25519", IKE),
    ] {
        let mut pair = Pair::new(|a, connection, _| {
            propose(connection, if a { ours } else { theirs }, "aes256gcm16");
        });
        let now = pair.now;
        let endpoint = &mut pair.sides[0].endpoint;
        endpoint.initiate(now, "gw", Some("net"), None).unwrap();
        pair.run(Duration::from_secs(300));
        let told = |e: &Event| matches!(e, Event::InitiateFailed { reason, .. } if reason.contains("NO_PROPOSAL_CHOSEN"));
        assert_eq!(pair.count(0, told), 1, "{ours} and {theirs}");
    }
}

/// Octets that AUTH is made over, on either side: those that begin with a first message.
fn signed(ike: [&str; 2]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut pair = Pair::watched(seen.clone(), |a, connection, _| {
        propose(connection, ike[usize::from(!a)], "aes256gcm16");
    });
    pair.up();
    let first = pair.recorded.iter().take(2).cloned().collect();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (first, seen)
}

/// B9: AUTH covers IKE_INTERMEDIATE exactly if one has run; that both can is not enough (RFC 9242
/// §3.3.2).
#[test]
fn int_auth_enters_auth_only_if_an_intermediate_exchange_has_run() {
    // Message, nonce, prf(SK_p, ID); then a part of each side and the message id.
    let plain = 32 + 48;
    let covered = plain + 2 * 48 + 4;
    let optional = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none";
    let without = "aes256gcm16-prfsha384-x25519-ke1_none";
    for (ike, more) in [([optional; 2], covered), ([optional, without], plain)] {
        let (first, prf_inputs) = signed(ike);
        for message in &first {
            // Both have said that they can.
            assert!(message.windows(2).any(|w| w == 16438u16.to_be_bytes()));
            let over: Vec<usize> = prf_inputs
                .iter()
                .filter(|octets| octets.starts_with(message))
                .map(|octets| octets.len() - message.len())
                .collect();
            // Made by one side, checked by the other.
            assert_eq!(over, [more, more], "{ike:?}");
        }
    }
}

/// Plays a set-up whose initiator deviates.
fn deviating(deviation: impl Fn(&mut Outgoing) + Send + Sync + 'static) -> Pair {
    let mut pair = Pair::seeded(5, |_, connection, config| {
        propose(connection, IKE, ESP);
        config.retransmit_tries = 1;
    });
    pair.sides[0].endpoint.deviate(Box::new(deviation));
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(40));
    pair
}

fn assert_refused(pair: &Pair, what: &str) {
    for side in 0..2 {
        assert!(pair.sides[side].outbound.is_empty(), "{what}");
        assert_eq!(pair.sides[side].endpoint.ike_sas().count(), 0, "{what}");
    }
    assert_eq!(
        pair.count(1, |e| matches!(e, Event::IkeUp { .. })),
        0,
        "{what}"
    );
}

/// A01, A03, B9: what was changed in IKE_INTERMEDIATE fails IKE_AUTH, and nobody gets past it.
#[test]
fn deviations_in_intermediate_exchanges_get_nothing() {
    let in_intermediate = |change: fn(&mut Outgoing)| {
        move |message: &mut Outgoing| {
            if message.header.exchange == exchange::IKE_INTERMEDIATE {
                change(message);
            }
        }
    };
    // Everything is as due, but one payload more than what IntAuth covers.
    let more = in_intermediate(|m| m.payloads.push((payload::NOTIFY, vec![0, 0, 0xa0, 0])));
    let pair = deviating(more);
    assert_refused(&pair, "a payload more");
    assert_eq!(pair.sides[1].endpoint.stats().auth_failures, 1);
    type Change = (&'static str, fn(&mut Outgoing));
    let changes: [Change; 6] = [
        ("no key exchange", |m| m.payloads.clear()),
        ("another method", |m| m.payloads[0].1[1] = 35),
        ("too short", |m| m.payloads[0].1.truncate(100)),
        ("out of range", |m| m.payloads[0].1[4..].fill(0xff)),
        ("IKE_AUTH at once", |m| {
            m.header.exchange = exchange::IKE_AUTH
        }),
        ("CREATE_CHILD_SA", |m| {
            m.header.exchange = exchange::CREATE_CHILD_SA
        }),
    ];
    for (what, change) in changes {
        assert_refused(&deviating(in_intermediate(change)), what);
    }
    // One more than was chosen: what would be IKE_AUTH comes as IKE_INTERMEDIATE.
    let again = deviating(|message| {
        if message.header.exchange == exchange::IKE_AUTH {
            message.header.exchange = exchange::IKE_INTERMEDIATE;
        }
    });
    assert_refused(&again, "one too many");
}

/// B9, S84: requests and answers that get lost, doubled, or are too long for the path.
#[test]
fn intermediate_exchanges_survive_loss_and_small_paths() {
    let ike = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_ecp256-ke3_mlkem1024";
    for loss in [15, 30] {
        for random in 1..15u64 {
            let mut pair = both(ike, ESP);
            (pair.loss, pair.random) = (loss, random * 0x9e37_79b9);
            let now = pair.now;
            let endpoint = &mut pair.sides[0].endpoint;
            endpoint.initiate(now, "gw", Some("net"), None).unwrap();
            pair.run(Duration::from_secs(600));
            pair.loss = 0;
            pair.run(Duration::from_secs(60));
            pair.agree(1);
        }
    }
    // Nothing longer than 576 octets arrives: not the first tries of either side.
    let mut pair = both(ike, ESP);
    pair.mtu = 576;
    let now = pair.now;
    let endpoint = &mut pair.sides[0].endpoint;
    endpoint.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(Duration::from_secs(120));
    pair.agree(1);
}

/// B10: children and IKE SAs are rekeyed with IKE_FOLLOWUP_KE, by either side.
#[test]
fn rekeyings_have_their_additional_key_exchanges() {
    let ike = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_ecp256";
    let esp = "aes256gcm16-x25519-ke1_mlkem512-ke2_mlkem1024";
    for side in [0, 1] {
        let mut pair = both(ike, esp);
        pair.up();
        for _ in 0..2 {
            pair.recorded.clear();
            let (now, child) = (pair.now, pair.child(side));
            pair.sides[side].endpoint.rekey_child(now, child).unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(1);
            assert_ne!(pair.child(side), child);
            assert!(exchanges(&pair, exchange::IKE_FOLLOWUP_KE) >= 4);
            let info = pair.sides[1 - side].endpoint.ike_sas().next().unwrap();
            let suite = info.children[0].sa.suite;
            let groups = [Group::MlKem512, Group::MlKem1024];
            assert!(methods(&suite.additional).eq(groups));
            pair.recorded.clear();
            let (now, ike) = (pair.now, pair.ike(side));
            pair.sides[side].endpoint.rekey_ike(now, ike).unwrap();
            pair.run(Duration::from_secs(10));
            assert_ne!(pair.ike(side), ike);
            assert!(exchanges(&pair, exchange::IKE_FOLLOWUP_KE) >= 4);
            // What the new keys carry.
            let (now, ike) = (pair.now, pair.ike(1 - side));
            pair.sides[1 - side]
                .endpoint
                .check_liveness(now, ike)
                .unwrap();
            pair.run(Duration::from_secs(10));
            pair.agree(1);
            for side in &pair.sides {
                assert_eq!(side.endpoint.ike_sas().count(), 1);
            }
        }
        let made = |e: &Event| matches!(e, Event::ChildRekeyed { .. } | Event::IkeRekeyed { .. });
        assert_eq!((pair.count(0, made), pair.count(1, made)), (4, 4));
    }
}

/// B10: the keys depend on each additional key exchange: whoever knows all but one has other keys.
#[test]
fn a_forged_additional_secret_gives_other_keys() {
    // ML-KEM's implicit rejection: a changed ciphertext is taken, and gives another secret.
    let mut pair = both(IKE, ESP);
    pair.up();
    pair.sides[1].endpoint.deviate(Box::new(|message| {
        if message.header.exchange == exchange::IKE_FOLLOWUP_KE {
            message.payloads[0].1[100] ^= 1;
        }
    }));
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.run(Duration::from_millis(100));
    let [a, b] = &pair.sides;
    let differs = |spi: &u32| a.outbound[spi].1 != b.inbound[spi].1;
    assert_eq!(a.outbound.keys().filter(|spi| differs(spi)).count(), 1);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    RekeyChild,
    RekeyIke,
    DeleteChild,
    DeleteIke,
    Nothing,
}

fn begun(seed: u64, acts: [Act; 2]) -> Pair {
    let mut pair = Pair::seeded(seed, |_, connection, config| {
        propose(connection, IKE, ESP);
        // One datagram a message: fragments would multiply the schedules.
        connection.fragmentation = false;
        patient(config);
    });
    pair.up();
    for (side, act) in acts.into_iter().enumerate() {
        let (now, ike, child) = (pair.now, pair.ike(side), pair.child(side));
        let endpoint = &mut pair.sides[side].endpoint;
        match act {
            Act::RekeyChild => endpoint.rekey_child(now, child).unwrap(),
            Act::RekeyIke => endpoint.rekey_ike(now, ike).unwrap(),
            Act::DeleteChild => endpoint.terminate_child(now, child).unwrap(),
            Act::DeleteIke => endpoint.terminate_ike(now, ike).unwrap(),
            Act::Nothing => {}
        }
    }
    let ends = |act: &Act| matches!(act, Act::DeleteChild | Act::DeleteIke);
    pair.lenient = acts.iter().any(ends);
    pair
}

/// A08, B1, B10: both act at once, or one alone, with every order and every single loss: one IKE SA
/// and one child remain, or none, and the same on both sides.
#[test]
fn collisions_and_losses_of_followups_end_the_same_on_both_sides_in_every_order() {
    use Act::*;
    let mut total = 0;
    for acts in [
        [RekeyChild, Nothing],
        [RekeyIke, Nothing],
        [RekeyChild, RekeyChild],
        [RekeyIke, RekeyIke],
        [RekeyChild, RekeyIke],
        [RekeyChild, DeleteChild],
        [RekeyIke, DeleteChild],
        [RekeyIke, DeleteIke],
        [RekeyChild, DeleteIke],
    ] {
        for (losses, copies) in [(0, 0), (1, 0), (0, 1)] {
            if copies == 1 && acts[1] != Nothing {
                continue;
            }
            let search = Search {
                losses,
                copies,
                most: 20_000,
            };
            total += search.all(
                || begun(7, acts),
                |pair, told| {
                    pair.run(Duration::from_secs(300));
                    let counts = |side: usize| {
                        let endpoint = &pair.sides[side].endpoint;
                        (endpoint.ike_sas().count(), endpoint.stats().children)
                    };
                    assert_eq!(counts(0), counts(1), "{acts:?}: {told}");
                    let expected = match acts {
                        [_, DeleteIke] => (0, 0),
                        [_, DeleteChild] => (1, 0),
                        _ => (1, 1),
                    };
                    assert_eq!(counts(0), expected, "{acts:?}: {told}");
                    pair.agree(expected.1);
                },
            );
        }
    }
    println!("{total} schedules");
}

/// B10: a peer that never goes on, or too late, holds nobody up.
#[test]
fn an_additional_key_exchange_that_never_comes_is_forgotten() {
    let mut pair = both(IKE, ESP);
    pair.up();
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.flush();
    // CREATE_CHILD_SA and its answer arrive; IKE_FOLLOWUP_KE does not for longer than it is waited for,
    // and it is sent once more after that, however much jitter shortens the waits.
    pair.deliver(0);
    pair.flush();
    pair.deliver(0);
    let end = pair.now + Duration::from_secs(65);
    while pair.advance(end) {
        pair.flush();
        pair.wire.clear();
    }
    pair.recorded.clear();
    pair.run(Duration::from_secs(300));
    // The late one is told so, and all of it begins anew.
    assert_eq!(exchanges(&pair, exchange::CREATE_CHILD_SA), 2);
    pair.agree(1);
    assert_ne!(pair.child(0), child);
    for side in &pair.sides {
        assert_eq!(side.endpoint.stats().children, 1);
    }
}

/// B10: a link that nobody has given.
#[test]
fn an_unknown_link_is_refused() {
    let mut pair = both(IKE, ESP);
    pair.up();
    let once = Arc::new(Mutex::new(0));
    let count = once.clone();
    pair.sides[0].endpoint.deviate(Box::new(move |message| {
        let mut count = count.lock().unwrap();
        if message.header.exchange == exchange::IKE_FOLLOWUP_KE && *count == 0 {
            *count += 1;
            *message.payloads[1].1.last_mut().unwrap() ^= 1;
        }
    }));
    let (now, child) = (pair.now, pair.child(0));
    pair.sides[0].endpoint.rekey_child(now, child).unwrap();
    pair.run(Duration::from_millis(400));
    assert_eq!((*once.lock().unwrap(), pair.child(0)), (1, child));
    // It begins anew, and that time it is right.
    pair.run(Duration::from_secs(30));
    pair.agree(1);
    assert_ne!(pair.child(0), child);
}

#[test]
fn proposals_with_additional_key_exchanges_read_and_write_the_same() {
    let text = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none-ke3_mlkem1024";
    let proposal = Proposal::parse_ike(text).unwrap();
    assert_eq!(proposal.to_string(), text);
    let chosen = proposal.choose_ike(&proposal).unwrap();
    assert_eq!(chosen.additional[0], Additional::Method(Group::MlKem768));
    assert_eq!(chosen.additional[1], Additional::Absent);
    for (wrong, part) in [
        ("aes256gcm16-prfsha384-x25519-ke8_mlkem768", "ke8_mlkem768"),
        ("aes256gcm16-prfsha384-x25519-ke0_mlkem768", "ke0_mlkem768"),
        ("aes256gcm16-prfsha384-x25519-ke1_kyber", "ke1_kyber"),
        ("aes256gcm16-prfsha384-ke1_mlkem768", "without a first one"),
    ] {
        let error = Proposal::parse_ike(wrong).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
