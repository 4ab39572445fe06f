// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AES-CBC with an HMAC: bursts by the façade, packets one by one by OpenSSL as the engine does where there are
//! no bursts, and intel-ipsec-mb's jobs called directly, in turn, as nanoseconds a packet: `benches/aead.sh`
//! reads it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use arrayvec::ArrayVec;
use bench_harness::ipsec_mb::jobs::{CbcKey, Jobs, Task};
use benches::turns::{MOST, Plan, time};
use clap::Parser;
use esp::cipher::CipherContext;
use esp_aead::Direction;
use esp_aead::cbc::{self, Hash, Packet};
use offload_api::sa::{KeyMaterial, Suite};
use serde_json::json;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    plan: Plan,
    /// Octets of a body, multiples of 16, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,1424,2048,8192"
    )]
    sizes: Vec<usize>,
    /// Suites.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "aes128-sha256,aes256-sha512,aes128-sha1"
    )]
    suites: Vec<String>,
}

enum Contender {
    Facade(Vec<cbc::Key>),
    OneByOne(Vec<CipherContext>),
    Direct(Box<Jobs>, Vec<CbcKey>),
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Facade(_) => "ipsec-mb",
            Self::OneByOne(_) => "openssl",
            Self::Direct(..) => "ipsec-mb direct",
        }
    }

    fn run(&mut self, direction: Direction, texts: &mut [Vec<u8>], icv_len: usize) {
        match self {
            Self::Facade(keys) => {
                let pairs = texts.iter_mut().zip(keys.iter().cycle());
                let mut packets: ArrayVec<_, MOST> = pairs
                    .map(|(text, key)| Packet::new(key, text, None).unwrap())
                    .collect();
                match direction {
                    Direction::Seal => cbc::seal_burst(&mut packets),
                    Direction::Open => cbc::open_burst(&mut packets),
                }
                assert!(packets.iter().all(Packet::is_authentic));
            }
            Self::OneByOne(contexts) => {
                let sas = contexts.len();
                for (n, text) in texts.iter_mut().enumerate() {
                    let context = &mut contexts[n % sas];
                    match direction {
                        Direction::Seal => context.seal(text, None).unwrap(),
                        Direction::Open => context.open(text, None).unwrap(),
                    }
                }
            }
            Self::Direct(jobs, keys) => {
                let seal = direction == Direction::Seal;
                let mut icvs = [[0; 32]; MOST];
                let count = texts.len();
                let tasks = texts.iter_mut().zip(keys.iter().cycle()).zip(&mut icvs);
                let tasks = tasks.map(|((text, key), icv)| Task::Cbc(key, text, icv));
                jobs.run(seal, count, tasks);
                let mut opened = texts.iter().zip(&icvs);
                let same = |(text, icv): (&Vec<u8>, &[u8; 32])| text.ends_with(&icv[..icv_len]);
                assert!(seal || opened.all(same));
            }
        }
    }
}

fn keys_of(suite: Suite, n: usize) -> KeyMaterial {
    let [mut cipher, integrity] =
        [suite.cipher_key_len(), suite.integrity_key_len()].map(|len| vec![0x42; len]);
    cipher[0] = n as u8;
    KeyMaterial::from_keymat(suite, &cipher, &integrity).unwrap()
}

fn contenders(suite: Suite, hash: Hash, direction: Direction, sas: usize) -> Vec<Contender> {
    let keys: Vec<_> = (0..sas).map(|n| keys_of(suite, n)).collect();
    let seals = direction == Direction::Seal;
    let context = |keys| CipherContext::new(suite, keys, seals).unwrap();
    let mut all = vec![Contender::OneByOne(keys.iter().map(context).collect())];
    let key = |keys: &KeyMaterial| cbc::Key::new(hash, direction, &keys.cipher, &keys.integrity);
    if let Some(keys) = keys.iter().map(key).collect() {
        all.insert(0, Contender::Facade(keys));
    }
    if let Some(jobs) = Jobs::load() {
        let place = Hash::ALL.iter().position(|each| *each == hash).unwrap();
        let key = |keys: &KeyMaterial| jobs.cbc_key(place, &keys.cipher, &keys.integrity);
        let keys = keys.iter().map(key).collect();
        all.push(Contender::Direct(Box::new(jobs), keys));
    }
    all
}

fn main() {
    let options = Options::parse();
    let burst = options.plan.burst.min(MOST);
    let mut cells = Vec::new();
    for name in &options.suites {
        let suite = Suite::from_name(name).unwrap();
        let same = |hash: &&Hash| hash.key_len() == suite.integrity_key_len();
        let hash = *Hash::ALL.iter().find(same).unwrap();
        for direction in [Direction::Seal, Direction::Open] {
            for &sas in &options.plan.sas {
                for &size in &options.sizes {
                    let len = 24 + size + suite.icv_len();
                    let mut fresh: Vec<_> = (0..burst).map(|n| vec![n as u8; len]).collect();
                    if direction == Direction::Open {
                        for (n, text) in fresh.iter_mut().enumerate() {
                            let keys = keys_of(suite, n % sas);
                            let mut context = CipherContext::new(suite, &keys, true).unwrap();
                            context.seal(text, None).unwrap();
                        }
                    }
                    let mut contenders = contenders(suite, hash, direction, sas);
                    let mut times = vec![Vec::new(); contenders.len()];
                    for _ in 0..options.plan.rounds {
                        for (contender, times) in contenders.iter_mut().zip(&mut times) {
                            let mut texts = fresh.clone();
                            let prepare = |texts: &mut Vec<Vec<u8>>| {
                                for (text, fresh) in texts.iter_mut().zip(&fresh) {
                                    text.copy_from_slice(fresh);
                                }
                            };
                            let run = |texts: &mut Vec<Vec<u8>>| {
                                contender.run(direction, texts, suite.icv_len());
                            };
                            times.push(time(options.plan.micros, &mut texts, prepare, run, burst));
                        }
                    }
                    for (contender, mut times) in contenders.iter().zip(times) {
                        times.sort_by(f64::total_cmp);
                        cells.push(json!({
                            "engine": contender.name(),
                            "algorithm": name,
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
