// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine's turn in a benchmark where engines take turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Most packets of a burst.
pub const MOST: usize = 64;

/// How it measures.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// Rounds, each of every engine in turn.
    #[arg(long, default_value_t = 11)]
    pub rounds: usize,
    /// Microseconds of an engine's turn.
    #[arg(long, default_value_t = 2000)]
    pub micros: u64,
    /// Packets of a burst, 64 at most.
    #[arg(long, default_value_t = 32)]
    pub burst: usize,
    /// SAs, each with a key of its own, that a burst's packets are of in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    pub sas: Vec<usize>,
}

/// Nanoseconds a packet of the middle one of the turn's bursts, so that what a burst lost to another
/// process is not in it. What `prepare` does isn't either.
pub fn time<T>(
    micros: u64,
    state: &mut T,
    mut prepare: impl FnMut(&mut T),
    mut run: impl FnMut(&mut T),
    burst: usize,
) -> f64 {
    let mut bursts: Vec<Duration> = Vec::new();
    for share in [micros / 8, micros] {
        // The first share warms up.
        bursts.clear();
        let mut taken = Duration::ZERO;
        while bursts.is_empty() || taken < Duration::from_micros(share) {
            prepare(state);
            let start = Instant::now();
            run(black_box(state));
            let one = start.elapsed();
            taken += one;
            bursts.push(one);
        }
    }
    bursts.sort();
    let middle = bursts.get(bursts.len() / 2).copied().unwrap_or_default();
    middle.as_nanos() as f64 / burst as f64
}
