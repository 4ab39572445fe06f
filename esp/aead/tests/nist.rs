// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every engine on vectors of NIST's validation program for AES-GCM.
#![allow(clippy::unwrap_used)]

use esp_aead::select::State;
use esp_aead::{Aad, Algorithm, Direction, Engine, Key, Packet, TAG, open_burst, seal_burst};

#[derive(Clone, Default)]
struct Vector {
    /// Of `gcmDecrypt`; some of those must not open.
    opens: bool,
    fails: bool,
    key: Vec<u8>,
    nonce: Vec<u8>,
    aad: Vec<u8>,
    plain: Vec<u8>,
    cipher: Vec<u8>,
    tag: Vec<u8>,
}

/// The vectors of keys of this length.
fn vectors(key_len: usize) -> Vec<Vector> {
    let mut all: Vec<Vector> = Vec::new();
    let mut opens = false;
    for line in include_str!("nist/gcm.rsp").lines() {
        if line.starts_with("# gcm") {
            opens = line.starts_with("# gcmDecrypt");
        }
        if line == "FAIL" {
            all.last_mut().unwrap().fails = true;
        }
        let Some((name, value)) = line.split_once(" =") else {
            continue;
        };
        if name == "Count" {
            all.push(Vector {
                opens,
                ..Vector::default()
            });
            continue;
        }
        let vector = all.last_mut().unwrap();
        let field = match name {
            "Key" => &mut vector.key,
            "IV" => &mut vector.nonce,
            "AAD" => &mut vector.aad,
            "PT" => &mut vector.plain,
            "CT" => &mut vector.cipher,
            "Tag" => &mut vector.tag,
            _ => panic!("{line}"),
        };
        *field = hex::decode(value.trim()).unwrap();
    }
    all.retain(|vector| vector.key.len() == key_len);
    all
}

/// Bodies and tags of texts after a burst of them, and whether they were authentic.
fn run(
    engine: Engine,
    algorithm: Algorithm,
    direction: Direction,
    vectors: &[Vector],
) -> Vec<(Vec<u8>, Vec<u8>, bool)> {
    let keys: Vec<_> = vectors
        .iter()
        .map(|vector| Key::for_engine(engine, algorithm, direction, &vector.key).unwrap())
        .collect();
    let mut texts: Vec<(Vec<u8>, [u8; TAG])> = vectors
        .iter()
        .map(|vector| match direction {
            Direction::Seal => (vector.plain.clone(), [0; TAG]),
            Direction::Open => (vector.cipher.clone(), vector.tag[..].try_into().unwrap()),
        })
        .collect();
    let mut packets: Vec<_> = texts
        .iter_mut()
        .zip(vectors.iter().zip(&keys))
        .map(|((body, tag), (vector, key))| {
            let nonce = vector.nonce[..].try_into().unwrap();
            Packet::new(key, &nonce, Aad::new(&vector.aad).unwrap(), body, tag)
        })
        .collect();
    match direction {
        Direction::Seal => seal_burst(&mut packets),
        Direction::Open => open_burst(&mut packets),
    }
    let authentic: Vec<_> = packets.iter().map(Packet::is_authentic).collect();
    let texts = texts.into_iter().zip(authentic);
    texts
        .map(|((body, tag), authentic)| (body, tag.to_vec(), authentic))
        .collect()
}

#[test]
fn every_engine_seals_and_opens_what_nist_has_sealed_and_opens_nothing_that_it_refuses() {
    for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm] {
        let vectors = vectors(algorithm.key_len());
        let seals: Vec<_> = vectors.iter().filter(|v| !v.opens).cloned().collect();
        assert_eq!((seals.len(), vectors.len()), (40, 80));
        assert_eq!(vectors.iter().filter(|vector| vector.fails).count(), 20);
        let ready = |engine: &Engine| matches!(engine.state(algorithm), State::Ready);
        for engine in Engine::ALL.into_iter().filter(ready) {
            // All at once, so that lengths and keys meet, and each alone.
            for step in [vectors.len(), 1] {
                for vectors in seals.chunks(step) {
                    let sealed = run(engine, algorithm, Direction::Seal, vectors);
                    for (sealed, vector) in sealed.into_iter().zip(vectors) {
                        let expected = (vector.cipher.clone(), vector.tag.clone(), true);
                        assert_eq!(sealed, expected, "{engine}");
                    }
                }
                for vectors in vectors.chunks(step) {
                    let opened = run(engine, algorithm, Direction::Open, vectors);
                    for ((body, _, authentic), vector) in opened.into_iter().zip(vectors) {
                        assert_eq!(authentic, !vector.fails, "{engine}");
                        match vector.fails {
                            false => assert_eq!(body, vector.plain, "{engine}"),
                            true => assert!(body.iter().all(|octet| *octet == 0), "{engine}"),
                        }
                    }
                }
            }
        }
    }
}
