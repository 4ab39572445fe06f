// SPDX-License-Identifier: Apache-2.0 OR MIT
//! B5: client puzzles (RFC 8019), from both sides.
#![allow(clippy::unwrap_used)]

mod peers;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::Prf;
use ikev2d_proto::config::{Connection, EndpointConfig, Identity, Puzzles};
use ikev2d_proto::credential::Job;
use ikev2d_proto::endpoint::Verdict;
use ikev2d_proto::event::{Event, JobId, Path};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::puzzle::Puzzle;
use ikev2d_proto::wire::{Header, exchange, payload};
use peers::Pair;

const MINUTE: Duration = Duration::from_secs(60);

/// The responder sets puzzles from the first message on.
fn puzzling(difficulty: u8, legacy: u16) -> impl Fn(bool, &mut Connection, &mut EndpointConfig) {
    move |a, _, config| {
        if !a {
            config.puzzles = Puzzles {
                threshold: Some(0),
                difficulty,
                hardest: 20,
                legacy,
            };
        }
    }
}

/// Known answers: the cookie of RFC 8019's examples, with the result of its key 00 and keys that Python's
/// `hmac` has found for each function.
#[test]
fn known_answers() {
    let crypto = OpensslCrypto::new().unwrap();
    let cookie = hex::decode("fdbcfa5a430d7201282358a2a034de0013cfe2ae").unwrap();
    let solved = |prf, difficulty, keys: &str| {
        let puzzle = Puzzle { prf, difficulty };
        puzzle.is_solved_by(&crypto, &cookie, &hex::decode(keys).unwrap())
    };
    use ikev2d_proto::crypto::Crypto as _;
    let made = crypto.prf(Prf::HmacSha256, &[0], &[&cookie]).unwrap();
    assert!(hex::encode(&made).ends_with("0cbbbd1e105f5a177f9697d4"));
    for (prf, least, keys) in [
        (Prf::HmacSha256, 14, "0055c1008d1f00a29f00c3c4"),
        (Prf::HmacSha1, 9, "0141068e074c09ba"),
        (Prf::HmacSha384, 9, "00d2011a03e3099f"),
        (Prf::HmacSha512, 9, "0132030105d2142e"),
    ] {
        assert!(solved(prf, least, keys), "{prf:?}");
        assert!(!solved(prf, least + 1, keys), "{prf:?}");
    }
    let sha256 = |keys| solved(Prf::HmacSha256, 14, keys);
    // Three keys, five, one of them twice, of unequal length, or none.
    assert!(!sha256("0055c1008d1f00a29f"));
    assert!(!sha256("0055c1008d1f00a29f00c3c400c3c4"));
    assert!(!sha256("0055c1008d1f00a29f0055c1"));
    assert!(!sha256("0055c1008d1f00a29f00c3c400"));
    assert!(!sha256(""));
    // One longer than the function's own key.
    let long = "00".repeat(4 * 33);
    assert!(!solved(Prf::HmacSha256, 0, &long));
}

/// What is found is a solution, and who is told to stop does.
#[test]
fn solutions_are_found() {
    let crypto = OpensslCrypto::new().unwrap();
    let go_on = AtomicBool::new(false);
    for difficulty in [1, 8, 10] {
        let prf = Prf::HmacSha256;
        let puzzle = Puzzle { prf, difficulty };
        let solution = puzzle.solve(&crypto, b"cookie", &go_on).unwrap();
        assert!(puzzle.is_solved_by(&crypto, b"cookie", &solution));
        assert!(!puzzle.is_solved_by(&crypto, b"another", &solution));
    }
    let prf = Prf::HmacSha256;
    let difficulty = 200;
    let stop = AtomicBool::new(true);
    let hopeless = Puzzle { prf, difficulty };
    assert_eq!(hopeless.solve(&crypto, b"cookie", &stop), None);
}

/// RFC 8019 §7.1: a client that solves the puzzle gets in at once, also through a change of groups.
#[test]
fn who_solves_the_puzzle_gets_in() {
    for (theirs, puzzles) in [("x25519", 1), ("ecp256", 1)] {
        let mut pair = Pair::new(|a, connection, config| {
            puzzling(8, 0)(a, connection, config);
            let groups = if a { "x25519-ecp256" } else { theirs };
            let proposal = format!("aes256gcm16-prfsha384-{groups}");
            let proposal = ikev2d_proto::proposal::Proposal::parse_ike(&proposal);
            connection.proposals = vec![proposal.unwrap()];
        });
        let now = pair.now;
        let a = &mut pair.sides[0].endpoint;
        a.initiate(now, "gw", Some("net"), None).unwrap();
        pair.run(MINUTE);
        let stats = pair.sides[1].endpoint.stats();
        assert_eq!((stats.established, stats.children), (1, 1), "{theirs}");
        assert_eq!((stats.puzzles, stats.puzzles_unsolved), (puzzles, 0));
        assert!(stats.puzzles_solved > 0);
    }
}

/// RFC 8019 §7.1.4: who knows of no puzzles gets in by luck, where there is any: with a cookie, by
/// repeating itself.
#[test]
fn who_knows_no_puzzles_gets_in_by_luck() {
    let established = |seed, legacy| {
        let mut pair = Pair::seeded(seed, |a, connection, config| {
            puzzling(8, legacy)(a, connection, config);
            config.puzzle_solving.difficulty = 0;
            config.retransmit_tries = 12;
            config.retransmit_base = 1.0;
        });
        let now = pair.now;
        let a = &mut pair.sides[0].endpoint;
        a.initiate(now, "gw", Some("net"), None).unwrap();
        pair.run(MINUTE);
        let stats = pair.sides[1].endpoint.stats();
        assert_eq!(stats.puzzles_solved, 0);
        (stats.established, stats.puzzles_unsolved)
    };
    assert_eq!(established(1, 1), (1, 0));
    assert_eq!(established(1, 0).0, 0);
    let tries: Vec<_> = (1..=20).map(|seed| established(seed, 4)).collect();
    let (lucky, unlucky) = tries.iter().fold((0, 0), |(a, b), (x, y)| (a + x, b + y));
    // Thirteen draws of one in four each.
    assert!(lucky >= 15, "{tries:?}");
    assert!(unlucky >= 20, "{tries:?}");
}

/// Where the bodies are of an unencrypted message's payloads.
fn body_of(message: &[u8], wanted: u8) -> Option<std::ops::Range<usize>> {
    let (mut kind, mut at) = (message[16], 28);
    while kind != 0 {
        let len = usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
        if kind == wanted {
            return Some(at + 4..at + len);
        }
        (kind, at) = (message[at], at + len);
    }
    None
}

/// A pair whose initiator has just sent its solution, and that message.
fn with_solution(difficulty: u8) -> (Pair, Path, Vec<u8>) {
    let mut pair = Pair::new(puzzling(difficulty, 0));
    let now = pair.now;
    let a = &mut pair.sides[0].endpoint;
    a.initiate(now, "gw", Some("net"), None).unwrap();
    loop {
        pair.flush();
        let (at, side, path, octets) = pair.wire.pop_front().unwrap();
        if side == 1 && body_of(&octets, payload::PUZZLE_SOLUTION).is_some() {
            return (pair, path, octets);
        }
        pair.now = at;
        let now = pair.now;
        pair.sides[side]
            .endpoint
            .handle_datagram(now, path, &octets);
    }
}

/// RFC 8019 §7.1.4: forged and replayed solutions get in nowhere: neither at the gate, which keeps
/// nothing, nor at the endpoint behind it; nothing is computed for them that costs.
#[test]
fn wrong_solutions_get_nothing() {
    let (mut pair, path, good) = with_solution(8);
    let now = pair.now;
    let at = body_of(&good, payload::PUZZLE_SOLUTION).unwrap();
    assert_eq!(at.len(), 32, "four keys of eight octets");
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut message = good.clone();
        change(&mut message[at.clone()]);
        message
    };
    let nonce = body_of(&good, payload::NONCE).unwrap();
    let cookie = body_of(&good, payload::NOTIFY).unwrap();
    let flipped = |range: &std::ops::Range<usize>| {
        let mut message = good.clone();
        message[range.end - 1] ^= 1;
        message
    };
    let mut harder = good.clone();
    // Number of the secret, function, and then the zero bits, behind the notification's header.
    harder[cookie.start + 4 + 3] = 1;
    let elsewhere = Path {
        remote: "192.0.2.77:500".parse().unwrap(),
        ..path
    };
    for (what, message, from, verdict) in [
        (
            "a key altered",
            with(&|keys| keys[7] ^= 1),
            path,
            Verdict::Dropped,
        ),
        (
            "all keys alike",
            with(&|keys| keys.copy_within(0..8, 8)),
            path,
            Verdict::Dropped,
        ),
        ("zeros", with(&|keys| keys.fill(0)), path, Verdict::Dropped),
        (
            "another's cookie",
            flipped(&cookie),
            path,
            Verdict::Answered,
        ),
        ("an easier cookie", harder, path, Verdict::Answered),
        ("another nonce", flipped(&nonce), path, Verdict::Answered),
        ("from elsewhere", good.clone(), elsewhere, Verdict::Answered),
    ] {
        let responder = &mut pair.sides[1].endpoint;
        let mut reply = Vec::new();
        let gate = responder.gate();
        let met = gate.meet(now, from.remote.ip(), &message, &mut reply);
        assert_eq!(met, verdict, "{what}");
        responder.handle_datagram(now, from, &message);
        assert_eq!(responder.stats().half_open, 0, "{what}");
    }
    let responder = &mut pair.sides[1].endpoint;
    let mut reply = Vec::new();
    let met = responder
        .gate()
        .meet(now, path.remote.ip(), &good, &mut reply);
    assert_eq!((met, reply.len()), (Verdict::Passes, 0));
    // Once in, it is the same half-open IKE SA that a repetition belongs to.
    for _ in 0..3 {
        responder.handle_datagram(now, path, &good);
        assert_eq!(responder.stats().half_open, 1);
    }
    // And its cookie is good for a minute at most.
    let later = now + MINUTE + MINUTE;
    let met = responder
        .gate()
        .meet(later, path.remote.ip(), &good, &mut reply);
    assert_eq!(met, Verdict::Answered);
}

/// A flood from addresses that can receive, which pay with cookies, but solve nothing: none of it gets
/// in, and a client that solves its puzzle does.
#[test]
fn a_flood_that_solves_nothing_keeps_no_client_out() {
    let mut pair = Pair::new(puzzling(8, 0));
    let now = pair.now;
    let (_, path, template) = with_solution(8);
    let at = body_of(&template, payload::PUZZLE_SOLUTION).unwrap();
    let nonce = body_of(&template, payload::NONCE).unwrap();
    let responder = &mut pair.sides[1].endpoint;
    let gate = responder.gate();
    for number in 0..500_u32 {
        let address = IpAddr::from(0x0a00_0000_u32.wrapping_add(number).to_be_bytes());
        let mut message = template.clone();
        message[nonce.start..nonce.start + 4].copy_from_slice(&number.to_be_bytes());
        let mut reply = Vec::new();
        let met = gate.meet(now, address, &message, &mut reply);
        assert_eq!(met, Verdict::Answered);
        // The bot takes its cookie, of the same length, and guesses.
        let given = body_of(&reply, payload::NOTIFY).unwrap();
        let own = body_of(&message, payload::NOTIFY).unwrap();
        assert_eq!(given.len(), own.len());
        message[own].copy_from_slice(&reply[given]);
        message[at.clone()].fill(number as u8);
        let met = gate.meet(now, address, &message, &mut reply);
        assert_eq!(met, Verdict::Dropped);
        let path = Path {
            remote: (address, 500).into(),
            ..path
        };
        responder.handle_datagram(now, path, &message);
        assert_eq!(responder.stats().half_open, 0);
    }
    let a = &mut pair.sides[0].endpoint;
    a.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(MINUTE);
    let stats = pair.sides[1].endpoint.stats();
    assert_eq!((stats.established, stats.puzzles_solved), (1, 1));
    assert!(stats.puzzles_unsolved >= 1000, "{stats:?}");
}

/// A job of an endpoint's.
type Asked = (JobId, Box<Job>);

/// The next messages and jobs of the initiator.
fn outputs(pair: &mut Pair) -> (Vec<Vec<u8>>, Vec<Asked>) {
    let a = &mut pair.sides[0].endpoint;
    let (mut messages, mut jobs) = (Vec::new(), Vec::new());
    while let Some(transmit) = a.poll_transmit() {
        messages.push(transmit.payload);
    }
    while let Some(event) = a.poll_event() {
        if let Event::Job { job, work } = event {
            jobs.push((job, work));
        }
    }
    (messages, jobs)
}

/// RFC 8019 §7.1.2: puzzles are not authenticated. One at a time is worked on, the work ends when it
/// takes too long, and an answer that comes meanwhile counts.
#[test]
fn a_puzzle_binds_nobody() {
    for genuine in [false, true] {
        let mut pair = Pair::new(|a, connection, config| {
            puzzling(20, 0)(a, connection, config);
            config.puzzle_solving.time = Duration::from_secs(5);
        });
        let mut elsewhere = Pair::plain();
        let now = pair.now;
        let a = &mut pair.sides[0].endpoint;
        a.initiate(now, "gw", Some("net"), None).unwrap();
        let (messages, jobs) = outputs(&mut pair);
        assert_eq!((messages.len(), jobs.len()), (1, 0));
        let path = Path {
            local: "192.0.2.2:500".parse().unwrap(),
            remote: "192.0.2.1:500".parse().unwrap(),
            stream: None,
        };
        let mut forged = Vec::new();
        let gate = pair.sides[1].endpoint.gate();
        gate.meet(now, path.remote.ip(), &messages[0], &mut forged);
        for jobs in [1, 0, 0] {
            let a = &mut pair.sides[0].endpoint;
            a.handle_datagram(now, path.turned(), &forged);
            let out = outputs(&mut pair);
            assert_eq!((out.0.len(), out.1.len()), (0, jobs), "one at a time");
        }
        if genuine {
            let real = &mut elsewhere.sides[1].endpoint;
            real.handle_datagram(now, path, &messages[0]);
            let answer = real.poll_transmit().unwrap().payload;
            let a = &mut pair.sides[0].endpoint;
            a.handle_datagram(now, path.turned(), &answer);
        } else {
            let later = now + Duration::from_secs(5);
            pair.sides[0].endpoint.handle_timeout(later);
        }
        let (messages, _) = outputs(&mut pair);
        let header = Header::parse(&messages[0]).unwrap();
        let exchange = if genuine { 35 } else { 34 };
        assert_eq!((messages.len(), header.exchange), (1, exchange));
        if !genuine {
            assert!(
                body_of(&messages[0], payload::NOTIFY).is_some(),
                "the cookie"
            );
            assert!(body_of(&messages[0], payload::PUZZLE_SOLUTION).is_none());
        }
    }
}

/// A puzzle beyond the configured bound is not even begun.
#[test]
fn a_puzzle_that_is_too_hard_is_left() {
    let mut pair = Pair::new(|a, connection, config| {
        puzzling(20, 1)(a, connection, config);
        config.puzzle_solving.difficulty = 19;
    });
    let now = pair.now;
    let a = &mut pair.sides[0].endpoint;
    a.initiate(now, "gw", Some("net"), None).unwrap();
    pair.run(MINUTE);
    let stats = pair.sides[1].endpoint.stats();
    assert_eq!((stats.established, stats.puzzles_solved), (1, 0));
}

/// The first message of an exchange that a side has sent, in as many fragments as it has.
fn sent(pair: &Pair, wanted: u8, response: bool) -> Vec<Vec<u8>> {
    let is = |message: &&Vec<u8>| {
        let header = Header::parse(message).unwrap();
        (header.exchange, header.is_response()) == (wanted, response)
    };
    pair.recorded.iter().filter(is).cloned().collect()
}

/// RFC 8019 §7.2: who has solved a puzzle is set another one, over Nr and SPIr, and answers it in front
/// of what is encrypted; also in fragments, and with any cipher.
#[test]
fn ike_auth_is_let_in_by_its_own_puzzle() {
    for (ike, long) in [
        ("aes256gcm16-prfsha384-x25519", false),
        ("aes128-sha256-modp2048", false),
        ("aes256gcm16-prfsha384-x25519", true),
        ("aes128-sha256-x25519", true),
    ] {
        let mut pair = Pair::new(|a, connection, config| {
            puzzling(6, 0)(a, connection, config);
            connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
            let name = Identity::parse(&format!("{}.test", "a".repeat(2000)));
            match (long, a) {
                (true, true) => connection.local_id = name,
                (true, false) => connection.remote_id = name,
                (false, _) => {}
            }
        });
        pair.initiate();
        pair.run(MINUTE);
        pair.agree(1);
        let response = &sent(&pair, exchange::IKE_SA_INIT, true)[1];
        let nonce = body_of(response, payload::NONCE).unwrap();
        let string = [&response[nonce], &response[8..16]].concat();
        let auth = sent(&pair, exchange::IKE_AUTH, false);
        let fronted = auth.iter().filter(|m| m[16] == payload::PUZZLE_SOLUTION);
        let fronted: Vec<_> = fronted.collect();
        assert_eq!(fronted.len(), 1, "{ike} {long}");
        assert_eq!(long, auth.len() > 1, "{ike}");
        for message in fronted {
            let len = usize::from(u16::from_be_bytes([message[30], message[31]]));
            let prf = match ike.contains("prfsha384") {
                true => Prf::HmacSha384,
                false => Prf::HmacSha256,
            };
            let puzzle = Puzzle { prf, difficulty: 6 };
            let crypto = OpensslCrypto::new().unwrap();
            assert!(puzzle.is_solved_by(&crypto, &string, &message[32..28 + len]));
            assert!([46, 53].contains(&message[28]), "SK or SKF behind it");
        }
        assert_eq!(pair.sides[1].endpoint.stats().puzzles_unsolved, 0);
    }
}

/// §7.2.3: without the solution nothing is decrypted, and the peer that has it gets in all the same.
#[test]
fn ike_auth_without_its_solution_is_not_looked_at() {
    let crypto = Arc::new(peers::seeded::SeededCrypto::new(7));
    let mut pair = Pair::with(crypto.clone(), puzzling(6, 0));
    pair.initiate();
    let (path, good) = loop {
        pair.flush();
        let (at, side, path, octets) = pair.wire.pop_front().unwrap();
        if octets[18] == exchange::IKE_AUTH {
            assert_eq!(octets[16], payload::PUZZLE_SOLUTION);
            break (path, octets);
        }
        pair.now = at;
        let now = pair.now;
        pair.sides[side]
            .endpoint
            .handle_datagram(now, path, &octets);
    };
    let len = usize::from(u16::from_be_bytes([good[30], good[31]]));
    let mut bare = [&good[..16], &good[28..29], &good[17..28], &good[28 + len..]].concat();
    let octets = (bare.len() as u32).to_be_bytes();
    bare[24..28].copy_from_slice(&octets);
    let changed = |at: usize| {
        let mut message = good.clone();
        message[at] ^= 1;
        message
    };
    let mut cut = good.clone();
    cut[31] = 3;
    let mut beyond = good.clone();
    beyond[30] = 0xff;
    // Another exchange has no solution that would do.
    let mut other = good.clone();
    other[18] = exchange::INFORMATIONAL;
    let wrong = [bare, changed(32), changed(28 + len - 1), cut, beyond, other];
    let opened = crypto.opened();
    for (number, message) in wrong.iter().enumerate() {
        let endpoint = &mut pair.sides[1].endpoint;
        endpoint.handle_datagram(pair.now, path, message);
        assert_eq!(crypto.opened(), opened, "{number}");
        assert_eq!(endpoint.stats().half_open, 1);
    }
    // Two can't be read at all.
    assert_eq!(pair.sides[1].endpoint.stats().puzzles_unsolved, 4);
    pair.run(MINUTE);
    pair.agree(1);
    assert!(crypto.opened() > opened);
}

/// One that is too hard is left, and IKE_AUTH sent without; the difficulty may be left to us.
#[test]
fn puzzles_of_ike_auth_are_bounded_as_others() {
    for solves in [true, false] {
        let mut pair = Pair::new(|a, connection, config| {
            puzzling(12, 0)(a, connection, config);
            config.puzzle_solving.difficulty = 12;
        });
        pair.initiate();
        let unsolved = loop {
            pair.flush();
            let Some((at, side, path, octets)) = pair.wire.pop_front() else {
                break pair;
            };
            pair.now = at;
            let mut octets = octets;
            if side == 0
                && octets[18] == exchange::IKE_SA_INIT
                && let Some(range) = puzzle_of(&octets)
                && body_of(&octets, payload::KE).is_some()
            {
                octets[range.end - 1] = if solves { 0 } else { 13 };
            }
            let now = pair.now;
            pair.sides[side]
                .endpoint
                .handle_datagram(now, path, &octets);
            if octets[18] == exchange::IKE_AUTH {
                break pair;
            }
        };
        // That somebody has changed it is in what AUTH signs: no SA would come of it.
        let fronted = sent(&unsolved, exchange::IKE_AUTH, false);
        assert_eq!(fronted[0][16] == payload::PUZZLE_SOLUTION, solves);
    }
}

/// Where the PUZZLE notification's data are.
fn puzzle_of(message: &[u8]) -> Option<std::ops::Range<usize>> {
    let (mut kind, mut at) = (message[16], 28);
    while kind != 0 {
        let len = usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
        if kind == payload::NOTIFY && message[at + 6..at + 8] == 16434_u16.to_be_bytes() {
            return Some(at + 8..at + len);
        }
        (kind, at) = (message[at], at + len);
    }
    None
}

/// §7.1.1.2: whatever function the initiator offers; one that it has not offered is left.
#[test]
fn a_puzzle_has_a_function_of_the_offer() {
    for (prf, number) in [
        ("prfsha256", 5),
        ("prfsha1", 2),
        ("prfaesxcbc", 4),
        ("prfaescmac", 8),
        ("prfmd5", 1),
    ] {
        let mut pair = Pair::new(|a, connection, config| {
            puzzling(6, 0)(a, connection, config);
            let ike = format!("aes256gcm16-{prf}-x25519");
            connection.proposals = vec![Proposal::parse_ike(&ike).unwrap()];
        });
        pair.initiate();
        pair.run(MINUTE);
        pair.agree(1);
        let reply = &sent(&pair, exchange::IKE_SA_INIT, true)[0];
        let range = puzzle_of(reply).unwrap();
        assert_eq!(reply[range], [0, number, 6], "{prf}");
    }

    let mut pair = Pair::new(puzzling(6, 0));
    let now = pair.now;
    let a = &mut pair.sides[0].endpoint;
    a.initiate(now, "gw", Some("net"), None).unwrap();
    let (messages, _) = outputs(&mut pair);
    let path = Path::new(
        "192.0.2.1:500".parse().unwrap(),
        "192.0.2.2:500".parse().unwrap(),
    );
    let mut reply = Vec::new();
    let gate = pair.sides[1].endpoint.gate();
    gate.meet(now, path.local.ip(), &messages[0], &mut reply);
    let range = puzzle_of(&reply).unwrap();
    // PRF_HMAC_SHA2_512 is none of ours.
    reply[range.start + 1] = 7;
    pair.sides[0].endpoint.handle_datagram(now, path, &reply);
    let (messages, jobs) = outputs(&mut pair);
    assert_eq!((messages.len(), jobs.len()), (1, 0));
    assert!(body_of(&messages[0], payload::PUZZLE_SOLUTION).is_none());
    assert!(
        body_of(&messages[0], payload::NOTIFY).is_some(),
        "the cookie"
    );
}
