// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-GCM by the façade's engines and by intel-ipsec-mb called directly, in turn, as nanoseconds a
//! packet: `benches/aead.sh` reads it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use benches::ipsec_mb::{Gcm, GcmKey, Parts};
use clap::Parser;
use esp_aead::{Aad, Algorithm, Direction, Engine, Key, Packet, open_burst, seal_burst};
use serde_json::json;

#[derive(Parser)]
struct Options {
    /// Rounds, each of every engine in turn.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Microseconds of an engine's turn.
    #[arg(long, default_value_t = 2000)]
    micros: u64,
    /// Octets of a body, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,1420,2048,8192"
    )]
    sizes: Vec<usize>,
    /// Packets of a burst, and keys among them.
    #[arg(long, default_value_t = 32)]
    burst: usize,
    /// Keys that a burst's packets have in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    sas: Vec<usize>,
    /// Bits of a key.
    #[arg(long, value_delimiter = ',', default_value = "128,256")]
    bits: Vec<u32>,
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

/// Nanoseconds a packet: bursts until the time is up, and how long they took.
fn time(micros: u64, burst: usize, mut run: impl FnMut()) -> f64 {
    run();
    let start = Instant::now();
    let mut bursts = 0u64;
    loop {
        for _ in 0..8 {
            run();
        }
        bursts += 8;
        let taken = start.elapsed();
        if taken.as_micros() as u64 >= micros {
            return taken.as_nanos() as f64 / (bursts * burst as u64) as f64;
        }
    }
}

/// One engine's texts and keys for one cell.
enum Contender {
    Facade(Engine, Vec<Key>, Vec<Parts>),
    Direct(Gcm, Vec<GcmKey>, Vec<Parts>),
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Facade(engine, ..) => engine.name(),
            Self::Direct(..) => "ipsec-mb direct",
        }
    }

    fn time(&mut self, micros: u64, direction: Direction) -> f64 {
        match self {
            Self::Facade(_, keys, texts) => {
                let burst = texts.len();
                let keys = keys.iter().cycle();
                let mut packets: Vec<_> = texts
                    .iter_mut()
                    .zip(keys)
                    .map(|(text, key)| {
                        let aad = Aad::from(text.aad);
                        Packet::new(key, &text.nonce, aad, &mut text.body, &mut text.tag)
                    })
                    .collect();
                time(micros, burst, || match direction {
                    Direction::Seal => seal_burst(black_box(&mut packets)),
                    Direction::Open => open_burst(black_box(&mut packets)),
                })
            }
            Self::Direct(gcm, keys, texts) => {
                let burst = texts.len();
                time(micros, burst, || {
                    let texts = black_box(&mut *texts).iter_mut();
                    for (text, key) in texts.zip(keys.iter().cycle()) {
                        match direction {
                            Direction::Seal => gcm.seal(key, text),
                            Direction::Open => {
                                black_box(gcm.open(key, text));
                            }
                        }
                    }
                })
            }
        }
    }
}

fn main() {
    let options = Options::parse();
    let mut cells = Vec::new();
    for &bits in &options.bits {
        let algorithm = match bits {
            128 => Algorithm::Aes128Gcm,
            _ => Algorithm::Aes256Gcm,
        };
        for direction in [Direction::Seal, Direction::Open] {
            for &sas in &options.sas {
                for &size in &options.sizes {
                    let mut contenders =
                        contenders(algorithm, direction, bits, sas, size, &options);
                    let mut times = vec![Vec::new(); contenders.len()];
                    for _ in 0..options.rounds {
                        for (contender, times) in contenders.iter_mut().zip(&mut times) {
                            times.push(contender.time(options.micros, direction));
                        }
                    }
                    for (contender, mut times) in contenders.iter().zip(times) {
                        times.sort_by(f64::total_cmp);
                        cells.push(json!({
                            "engine": contender.name(),
                            "bits": bits,
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
    algorithm: Algorithm,
    direction: Direction,
    bits: u32,
    sas: usize,
    size: usize,
    options: &Options,
) -> Vec<Contender> {
    let mut all = Vec::new();
    for engine in Engine::ALL {
        let key = |n| {
            Key::for_engine(
                engine,
                algorithm,
                direction,
                &key_of(n)[..bits as usize / 8],
            )
        };
        let keys: Result<Vec<_>, _> = (0..sas).map(key).collect();
        if let Ok(keys) = keys {
            all.push(Contender::Facade(engine, keys, parts(size, options.burst)));
        }
    }
    if let Some(gcm) = Gcm::load(bits) {
        let keys = (0..sas).map(|n| gcm.key(&key_of(n))).collect();
        all.push(Contender::Direct(gcm, keys, parts(size, options.burst)));
    }
    all
}
