// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AEADs by the façade's engines, AES-GCM by intel-ipsec-mb called directly, too, in turn, as nanoseconds a
//! packet: `benches/aead.sh` reads it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use arrayvec::ArrayVec;
use bench_harness::ipsec_mb::jobs::{Jobs, Task};
use bench_harness::ipsec_mb::{Gcm, GcmKey, Parts};
use benches::bound;
use benches::turns::{MOST, Plan, time};
use clap::{Parser, ValueEnum};
use esp_aead::{Aad, Algorithm, Direction, Engine, Key, Packet, open_burst, seal_burst};
use serde_json::json;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    plan: Plan,
    /// Octets of a body, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,1420,2048,8192"
    )]
    sizes: Vec<usize>,
    /// Algorithms.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "aes128gcm,aes256gcm,chacha20"
    )]
    algorithms: Vec<Name>,
    /// Times AES-GCM's rounds and products from registers, too, as many as a packet takes.
    #[arg(long)]
    bound: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    Aes128gcm,
    Aes256gcm,
    Chacha20,
}

impl Name {
    /// AES's, where the cipher is AES-GCM.
    fn rounds(self) -> Option<usize> {
        match self {
            Self::Aes128gcm => Some(10),
            Self::Aes256gcm => Some(14),
            Self::Chacha20 => None,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Aes128gcm => Algorithm::Aes128Gcm,
            Self::Aes256gcm => Algorithm::Aes256Gcm,
            Self::Chacha20 => Algorithm::ChaCha20Poly1305,
        }
    }
}

fn parts(size: usize, burst: usize) -> Vec<Parts> {
    let each = (0..burst).map(|n| Parts {
        body: vec![n as u8; size],
        nonce: [n as u8; 12],
        aad: [n as u8; 12],
        tag: [0; 16],
    });
    each.collect()
}

fn key_of(n: usize) -> [u8; 32] {
    let mut key = [0x42; 32];
    key[0] = n as u8;
    key
}

/// One engine's texts and keys for one cell.
enum Contender {
    Facade(Engine, Vec<Key>, Vec<Parts>),
    Direct(Gcm, Vec<GcmKey>, Vec<Parts>),
    Jobs(Jobs, Vec<[u8; 32]>, Vec<Parts>),
    /// Rounds, and octets.
    Bound(usize, usize),
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Facade(engine, ..) => engine.name(),
            Self::Direct(..) | Self::Jobs(..) => "ipsec-mb direct",
            Self::Bound(..) => "bound",
        }
    }

    /// Each burst works on fresh texts: opened, they are the sealed ones, and every tag must match.
    fn time(&mut self, micros: u64, direction: Direction) -> f64 {
        match self {
            Self::Facade(_, keys, texts) => {
                let fresh: Vec<_> = texts.iter().map(|text| text.body.clone()).collect();
                let mut run = |texts: &mut Vec<Parts>| {
                    // As the engine does: made where they go.
                    let mut packets = ArrayVec::<_, MOST>::new();
                    for (text, key) in texts.iter_mut().zip(keys.iter().cycle()) {
                        let aad = Aad::from(text.aad);
                        let (body, tag) = (&mut text.body, &mut text.tag);
                        packets.push(Packet::new(key, &text.nonce, aad, body, tag));
                    }
                    match direction {
                        Direction::Seal => seal_burst(&mut packets),
                        Direction::Open => open_burst(&mut packets),
                    }
                    assert!(packets.iter().all(Packet::is_authentic));
                };
                let burst = texts.len();
                let prepare = |texts: &mut Vec<Parts>| restore(texts, &fresh);
                let time = time(micros, texts, prepare, &mut run, burst);
                restore(texts, &fresh);
                time
            }
            Self::Direct(gcm, keys, texts) => {
                let fresh: Vec<_> = texts.iter().map(|text| text.body.clone()).collect();
                let burst = texts.len();
                let prepare = |texts: &mut Vec<Parts>| restore(texts, &fresh);
                let run = |texts: &mut Vec<Parts>| {
                    for (text, key) in texts.iter_mut().zip(keys.iter().cycle()) {
                        match direction {
                            Direction::Seal => gcm.seal(key, text),
                            Direction::Open => assert!(gcm.open(key, text)),
                        }
                    }
                };
                let time = time(micros, texts, prepare, run, burst);
                restore(texts, &fresh);
                time
            }
            Self::Bound(rounds, octets) => {
                bound::time(*rounds, *octets, micros).unwrap_or(f64::NAN)
            }
            Self::Jobs(jobs, keys, texts) => {
                let fresh: Vec<_> = texts.iter().map(|text| text.body.clone()).collect();
                let burst = texts.len();
                let seal = direction == Direction::Seal;
                let prepare = |texts: &mut Vec<Parts>| restore(texts, &fresh);
                let run = |texts: &mut Vec<Parts>| {
                    let mut tags = [[0; 32]; MOST];
                    let tasks = texts.iter_mut().zip(keys.iter().cycle()).zip(&mut tags);
                    let tasks = tasks.map(|((text, key), tag)| Task::ChaCha(key, text, tag));
                    jobs.run(seal, burst, tasks);
                    let mut opened = texts.iter().zip(&tags);
                    assert!(seal || opened.all(|(text, tag)| text.tag == tag[..16]));
                };
                let time = time(micros, texts, prepare, run, burst);
                restore(texts, &fresh);
                time
            }
        }
    }
}

fn restore(texts: &mut [Parts], fresh: &[Vec<u8>]) {
    for (text, fresh) in texts.iter_mut().zip(fresh) {
        text.body.copy_from_slice(fresh);
    }
}

/// Seals what is to be opened, by OpenSSL.
fn seal_all(texts: &mut [Parts], algorithm: Algorithm, sas: usize) {
    let len = algorithm.key_len();
    for (n, text) in texts.iter_mut().enumerate() {
        let key = &key_of(n % sas)[..len];
        let key = Key::for_engine(Engine::Openssl, algorithm, Direction::Seal, key).unwrap();
        let aad = Aad::from(text.aad);
        seal_burst(&mut [Packet::new(
            &key,
            &text.nonce,
            aad,
            &mut text.body,
            &mut text.tag,
        )]);
    }
}

fn main() {
    let options = Options::parse();
    let mut cells = Vec::new();
    for &name in &options.algorithms {
        for direction in [Direction::Seal, Direction::Open] {
            for &sas in &options.plan.sas {
                for &size in &options.sizes {
                    let mut contenders = contenders(name, direction, sas, size, &options);
                    let mut times = vec![Vec::new(); contenders.len()];
                    for _ in 0..options.plan.rounds {
                        for (contender, times) in contenders.iter_mut().zip(&mut times) {
                            times.push(contender.time(options.plan.micros, direction));
                        }
                    }
                    for (contender, mut times) in contenders.iter().zip(times) {
                        times.sort_by(f64::total_cmp);
                        cells.push(json!({
                            "engine": contender.name(),
                            "algorithm": format!("{name:?}").to_lowercase(),
                            "direction": format!("{direction:?}").to_lowercase(),
                            "sas": sas,
                            "size": size,
                            "median_ns": times[times.len() / 2],
                            "least_ns": times[0],
                        }));
                    }
                }
            }
        }
    }
    println!("{}", serde_json::to_string_pretty(&cells).unwrap());
}

fn contenders(
    name: Name,
    direction: Direction,
    sas: usize,
    size: usize,
    options: &Options,
) -> Vec<Contender> {
    let algorithm = name.algorithm();
    let texts = || {
        let mut texts = parts(size, options.plan.burst.min(MOST));
        if direction == Direction::Open {
            seal_all(&mut texts, algorithm, sas);
        }
        texts
    };
    let mut all = Vec::new();
    for engine in Engine::ALL {
        let key = |n| {
            Key::for_engine(
                engine,
                algorithm,
                direction,
                &key_of(n)[..algorithm.key_len()],
            )
        };
        let keys: Result<Vec<_>, _> = (0..sas).map(key).collect();
        if let Ok(keys) = keys {
            all.push(Contender::Facade(engine, keys, texts()));
        }
    }
    let bits = match algorithm {
        Algorithm::Aes128Gcm => Some(128),
        Algorithm::Aes256Gcm => Some(256),
        Algorithm::ChaCha20Poly1305 => None,
    };
    if let Some(gcm) = bits.and_then(Gcm::load) {
        let keys = (0..sas).map(|n| gcm.key(&key_of(n))).collect();
        all.push(Contender::Direct(gcm, keys, texts()));
    }
    if algorithm == Algorithm::ChaCha20Poly1305
        && let Some(jobs) = Jobs::load()
    {
        let keys = (0..sas).map(key_of).collect();
        all.push(Contender::Jobs(jobs, keys, texts()));
    }
    if options.bound
        && let Some(rounds) = name.rounds()
    {
        all.push(Contender::Bound(rounds, size));
    }
    all
}
