// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The processor's time-stamp counter: it goes at one rate, whatever the core's clock, and reading it
//! costs less than a system clock.
#![expect(unsafe_code, reason = "reads the time-stamp counter")]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Cycles so far. What stands before it in the program is done by then, and what stands behind it has
/// not begun.
#[inline]
pub fn now() -> u64 {
    use core::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 processor has both, and neither touches memory.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// Cycles in a second, measured once against the system's clock.
pub fn per_second() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        // Of several tries the median: one that was interrupted is off.
        let mut rates: Vec<f64> = (0..5).map(|_| calibrate()).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(1e9)
    })
}

/// Cycles as time.
pub fn duration(cycles: u64) -> Duration {
    Duration::from_secs_f64(cycles as f64 / per_second())
}

fn calibrate() -> f64 {
    let (clock, start) = (Instant::now(), now());
    while clock.elapsed() < Duration::from_millis(10) {
        std::hint::spin_loop();
    }
    let (cycles, time) = (now() - start, clock.elapsed());
    cycles as f64 / time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_go_on_with_the_clock() {
        let (clock, start) = (Instant::now(), now());
        std::thread::sleep(Duration::from_millis(20));
        let cycles = duration(now() - start);
        let most = clock.elapsed();
        // The rate itself is measured, on a machine that may be busy.
        assert!(cycles >= Duration::from_millis(15), "{cycles:?}");
        assert!(cycles <= most.mul_f64(1.5), "{cycles:?} of {most:?}");
    }
}
