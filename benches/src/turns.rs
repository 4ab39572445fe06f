// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine's turn in a benchmark where engines take turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Nanoseconds a packet: bursts until their time adds up. What `prepare` does is not in it.
pub fn time<T>(
    micros: u64,
    state: &mut T,
    mut prepare: impl FnMut(&mut T),
    mut run: impl FnMut(&mut T),
    burst: usize,
) -> f64 {
    let (mut taken, mut bursts) = (Duration::ZERO, 0u64);
    for warm_up in [true, false] {
        while bursts == 0
            || taken.as_micros() as u64 * 8 < if warm_up { micros } else { 8 * micros }
        {
            prepare(state);
            let start = Instant::now();
            run(black_box(state));
            taken += start.elapsed();
            bursts += 1;
        }
        if warm_up {
            (taken, bursts) = (Duration::ZERO, 0);
        }
    }
    taken.as_nanos() as f64 / (bursts * burst as u64) as f64
}
