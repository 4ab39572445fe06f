// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole ESP in tunnel mode through the software engine's queue pair, against the AEAD alone, in turn:
//! `benches/esp-engine.sh` reads it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod bare;
mod cores;
mod rig;

use std::time::Duration;

use bench_harness::stats::median;
use benches::counting::{Counting, allocations};
use clap::Parser;
use serde_json::json;

use bare::{bare, material};
use cores::{AHEAD, one_sa, workers};
use rig::{Pair, Times, engine, install};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Parser)]
struct Options {
    /// Rounds, each of every cell in turn.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Octets of an inner packet, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "64,1420")]
    sizes: Vec<usize>,
    /// SAs that a burst's packets have in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    sas: Vec<usize>,
    /// Packets of a burst on one core.
    #[arg(long, default_value_t = 32)]
    burst: usize,
    /// Packets of a burst where cores are compared.
    #[arg(long, default_value_t = 4096)]
    large_burst: usize,
    /// Octets of packets that a round works on, in thousands.
    #[arg(long, default_value_t = 4000)]
    kilobytes: usize,
    /// The same where cores are compared: some milliseconds, of which the begin, when whoever is woken comes late and
    /// finds nothing in its caches, is a small part.
    #[arg(long, default_value_t = 100_000)]
    cores_kilobytes: usize,
    /// One core only.
    #[arg(long)]
    one_core: bool,
}

fn one_core(size: usize, sas: usize, options: &Options) -> serde_json::Value {
    let bursts = (options.kilobytes * 1000 / (size * options.burst)).max(1);
    let engine = engine(1, Duration::ZERO);
    let shape = (size, options.burst);
    let mut pair = Pair::new(&engine, &install(&engine, sas), shape, bursts, 0);
    let (keys, mut bodies) = material(size, sas, options.burst);
    let [mut sealing, mut opening, mut alone] =
        [(); 3].map(|()| Vec::with_capacity(options.rounds + 1));
    let mut times = Times::with_room(bursts);
    let mut allocated = 0;
    for turn in 0..=options.rounds {
        alone.push(bare(&keys, &mut bodies, &mut times, bursts));
        let before = allocations();
        let [sealed, opened] = pair.round();
        sealing.push(sealed);
        opening.push(opened);
        // The first round is a warm-up.
        if turn == 0 {
            for times in [&mut alone, &mut sealing, &mut opening] {
                times.clear();
            }
        } else {
            allocated += allocations() - before;
        }
    }
    json!({
        "size": size,
        "sas": sas,
        "aead_ns": median(&alone),
        "seal_ns": median(&sealing),
        "open_ns": median(&opening),
        "allocations": allocated,
    })
}

fn main() {
    let options = Options::parse();
    let mut cells = Vec::new();
    for &size in &options.sizes {
        for &sas in &options.sas {
            cells.push(one_core(size, sas, &options));
        }
    }
    let cores = match options.one_core {
        true => Vec::new(),
        false => vec![
            one_sa(1420, 0, true, &options),
            one_sa(1420, AHEAD, true, &options),
            one_sa(1420, 0, false, &options),
            one_sa(1420, AHEAD, false, &options),
            workers(1420, 0, &options),
            workers(1420, 32, &options),
        ],
    };
    println!("{:#}", json!({ "one_core": cells, "cores": cores }));
}
