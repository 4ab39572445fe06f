// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How fast AES-GCM could be on this processor: rounds and carry-less multiplications, as many as the
//! algorithm takes, from registers alone. No loads, no additions, nothing that waits for anything else.

/// Nanoseconds that AES-GCM takes at least for a body, by the stream of its instructions; nothing where the
/// processor lacks them.
pub fn time(rounds: usize, octets: usize, micros: u64) -> Option<f64> {
    let one = stream::nanos(rounds, micros)?;
    // AES: the body's blocks and J0. GHASH: the body's, one of additional data and one of lengths, each
    // three products (Karatsuba); the reduction is not counted. Four blocks a vector, parts of it count.
    let blocks = octets.div_ceil(16) as f64;
    let instructions = (blocks + 1.0) * rounds as f64 + (blocks + 2.0) * 3.0;
    Some(one * instructions / 4.0)
}

#[cfg(not(target_arch = "x86_64"))]
mod stream {
    pub(super) fn nanos(_: usize, _: u64) -> Option<f64> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions by their names")]
mod stream {
    use std::arch::asm;
    use std::time::{Duration, Instant};

    /// A round of four vectors, whose results are waited for by the next round alone.
    macro_rules! rounds {
        () => {
            "vaesenc zmm0, zmm0, zmm8
             vaesenc zmm1, zmm1, zmm8
             vaesenc zmm2, zmm2, zmm8
             vaesenc zmm3, zmm3, zmm8"
        };
    }

    /// A product that nothing waits for.
    macro_rules! product {
        () => {
            "vpclmulqdq zmm4, zmm8, zmm8, 0"
        };
    }

    /// Turns of a loop, and what is in one: four vectors through all rounds, and their twelve products.
    const TURNS: u64 = 1000;
    const VECTORS: usize = 4;
    const PRODUCTS: usize = 3;

    /// Nanoseconds of one instruction: of the middle one of many loops.
    pub(super) fn nanos(rounds: usize, micros: u64) -> Option<f64> {
        if !is_x86_feature_detected!("vaes")
            || !is_x86_feature_detected!("vpclmulqdq")
            || !is_x86_feature_detected!("avx512f")
        {
            return None;
        }
        let run = match rounds {
            10 => short,
            14 => long,
            _ => return None,
        };
        let mut times = Vec::new();
        let mut taken = Duration::ZERO;
        while times.is_empty() || taken < Duration::from_micros(micros) {
            let start = Instant::now();
            // SAFETY: the processor has the instructions.
            unsafe { run() };
            let one = start.elapsed();
            taken += one;
            times.push(one);
        }
        times.sort();
        let middle = times.get(times.len() / 2)?.as_nanos() as f64;
        Some(middle / (TURNS as usize * VECTORS * (rounds + PRODUCTS)) as f64)
    }

    #[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
    fn short() {
        // SAFETY: registers alone, all of them told.
        unsafe {
            asm!(
                "2:",
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(), product!(),
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                out("zmm8") _,
                options(nomem, nostack),
            );
        }
    }

    #[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
    fn long() {
        // SAFETY: registers alone, all of them told.
        unsafe {
            asm!(
                "2:",
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(), product!(),
                rounds!(),
                "dec {turns}",
                "jnz 2b",
                turns = inout(reg) TURNS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _,
                out("zmm8") _,
                options(nomem, nostack),
            );
        }
    }
}
