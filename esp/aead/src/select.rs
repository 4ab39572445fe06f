// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which engine runs what. The rule is fixed, by `benches/aead.sh`: our kernel is the fastest at AES-GCM
//! at every size wherever it runs, the multi-buffer library at what we have no kernel for, and OpenSSL
//! is behind either at every size. An engine that is missing, or that does not agree with OpenSSL in a
//! test at its first use, is passed over.

use std::fmt;
use std::sync::OnceLock;

use crate::{Aad, Algorithm, Direction, Key, Packet, TAG, open_burst, seal_burst};

/// What can run an AEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Our kernel for processors with VAES and AVX-512.
    Vaes,
    /// Intel's multi-buffer library, found at run time.
    IpsecMb,
    /// OpenSSL.
    Openssl,
}

impl Engine {
    /// All there are, the ones tried first in front.
    pub const ALL: [Self; 3] = [Self::Vaes, Self::IpsecMb, Self::Openssl];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vaes => "vaes-avx512",
            Self::IpsecMb => "ipsec-mb",
            Self::Openssl => "openssl",
        }
    }

    /// Whether it runs an algorithm here, and agrees with OpenSSL; else why not. Each is examined when
    /// it is asked for: the multi-buffer library takes 4 MB, and is not loaded where our kernel runs.
    pub fn state(self, algorithm: Algorithm) -> &'static State {
        static STATES: [[OnceLock<State>; 3]; 3] = [const { [const { OnceLock::new() }; 3] }; 3];
        let of_engine = STATES.get(self as usize);
        let state = of_engine.and_then(|states| states.get(algorithm as usize));
        state.map_or(&UNKNOWN, |state| {
            state.get_or_init(|| examine(self, algorithm))
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether an engine can run an algorithm here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Ready,
    /// It can't, and why.
    Unavailable(String),
    /// It could, but does not agree with OpenSSL, so it is never chosen.
    Disagrees,
}

/// The table has every pair, so this is never met.
static UNKNOWN: State = State::Unavailable(String::new());

/// The engine that [`Key::new`] takes.
pub fn chosen(algorithm: Algorithm) -> Engine {
    Engine::ALL
        .into_iter()
        .find(|engine| *engine.state(algorithm) == State::Ready)
        .unwrap_or(Engine::Openssl)
}

fn examine(engine: Engine, algorithm: Algorithm) -> State {
    match unavailable(engine, algorithm) {
        Some(why) => State::Unavailable(why),
        None if engine == Engine::Openssl || agrees(engine, algorithm) => State::Ready,
        None => State::Disagrees,
    }
}

#[cfg(target_arch = "x86_64")]
fn unavailable(engine: Engine, algorithm: Algorithm) -> Option<String> {
    match engine {
        Engine::Vaes if algorithm == Algorithm::ChaCha20Poly1305 => {
            Some("no kernel for this algorithm".to_owned())
        }
        Engine::Vaes if !crate::vaes::available() => {
            Some("the processor lacks VAES, VPCLMULQDQ or AVX-512".to_owned())
        }
        Engine::IpsecMb => crate::ipsec_mb::Library::get()
            .err()
            .map(ToString::to_string),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn unavailable(engine: Engine, _: Algorithm) -> Option<String> {
    (engine != Engine::Openssl).then(|| "for x86-64 only".to_owned())
}

/// Lengths around blocks, vectors, groups of them and segments. Some are unlike their neighbours, and from
/// 150 on there are two that are alike, for each number of vectors that is taken as a whole, with a last
/// one that is full and that is not.
const LENGTHS: [usize; 51] = [
    0, 1, 4, 15, 16, 20, 48, 64, 68, 100, 127, 128, 180, 256, 260, 420, 150, 150, 192, 180, 200,
    210, 256, 250, 260, 270, 320, 320, 330, 340, 384, 372, 400, 420, 448, 440, 470, 480, 512, 511,
    576, 1424, 2047, 2048, 2052, 4100, 8196, 448, 64, 511, 20,
];

/// Seals and opens a burst of every length, with keys of their own, by the engine and by OpenSSL; twice,
/// since some tables are only made when a key is first used.
fn agrees(engine: Engine, algorithm: Algorithm) -> bool {
    let octets = |len: usize, seed: usize| -> Vec<u8> {
        (0..len)
            .map(|n| (n * 7 + seed * 31 + (n >> 8)) as u8)
            .collect()
    };
    let keys = |engine, direction| -> Option<Vec<Key>> {
        let key = |n| {
            Key::for_engine(
                engine,
                algorithm,
                direction,
                &octets(algorithm.key_len(), n),
            )
        };
        (0..LENGTHS.len()).map(|n| key(n).ok()).collect()
    };
    let burst = |keys: &[Key], direction, texts: &mut [(Vec<u8>, [u8; TAG])]| -> Vec<bool> {
        let mut packets: Vec<_> = keys
            .iter()
            .zip(texts)
            .enumerate()
            .map(|(n, (key, (body, tag)))| {
                let aad = match n % 2 {
                    0 => Aad::from([n as u8; 8]),
                    _ => Aad::from([n as u8; 12]),
                };
                Packet::new(key, &[n as u8; 12], aad, body, tag)
            })
            .collect();
        match direction {
            Direction::Seal => seal_burst(&mut packets),
            Direction::Open => open_burst(&mut packets),
        }
        packets.iter().map(Packet::is_authentic).collect()
    };
    let run = |engine, direction, texts: &mut [(Vec<u8>, [u8; TAG])]| -> Option<Vec<bool>> {
        let keys = keys(engine, direction)?;
        let mut first = texts.to_vec();
        let answers = burst(&keys, direction, &mut first);
        let same = answers == burst(&keys, direction, texts) && first == texts;
        same.then_some(answers)
    };
    let plain: Vec<_> = LENGTHS
        .iter()
        .map(|&len| (octets(len, len), [0; TAG]))
        .collect();
    let (mut ours, mut theirs) = (plain.clone(), plain.clone());
    let sealed = run(engine, Direction::Seal, &mut ours);
    let reference = run(Engine::Openssl, Direction::Seal, &mut theirs);
    let all = |answers: &Option<Vec<bool>>, wanted: bool| {
        answers
            .as_ref()
            .is_some_and(|each| each.iter().all(|&one| one == wanted))
    };
    if !all(&sealed, true) || !all(&reference, true) || ours != theirs {
        return false;
    }
    let opened = run(engine, Direction::Open, &mut ours);
    let same = ours
        .iter()
        .zip(&plain)
        .all(|(ours, plain)| ours.0 == plain.0);
    for (n, (_, tag)) in theirs.iter_mut().enumerate() {
        if let Some(octet) = tag.get_mut(n % TAG) {
            *octet ^= 1 << (n % 8);
        }
    }
    let forged = run(engine, Direction::Open, &mut theirs);
    let wiped = theirs
        .iter()
        .all(|(body, _)| body.iter().all(|&octet| octet == 0));
    all(&opened, true) && same && all(&forged, false) && wiped
}
