// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Random octets in small pieces: nonces, SPIs, jitter. The library's generator takes as long for eight
//! octets as for hundreds, so each thread has a stock of them. Nothing is given out twice, and nothing
//! that was given out stays. This process never forks without `exec`.

use std::cell::RefCell;

use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use zeroize::{Zeroize as _, Zeroizing};

/// Octets that are made at once.
const STOCK: usize = 512;
/// More than these are made by themselves.
const SMALL: usize = 64;

struct Stock {
    octets: Zeroizing<[u8; STOCK]>,
    left: usize,
}

thread_local! {
    static OWN: RefCell<Stock> = RefCell::new(Stock {
        octets: Zeroizing::new([0; STOCK]),
        left: 0,
    });
}

/// Fills with random octets.
pub(crate) fn fill(out: &mut [u8]) -> Result<(), ErrorStack> {
    if out.len() > SMALL {
        return rand_bytes(out);
    }
    OWN.with_borrow_mut(|stock| {
        if stock.left < out.len() {
            // Until it is filled anew nothing is left of it.
            stock.left = 0;
            rand_bytes(&mut stock.octets[..])?;
            stock.left = STOCK;
        }
        let left = &mut stock.octets[..stock.left];
        let (kept, taken) = left.split_at_mut(left.len() - out.len());
        out.copy_from_slice(taken);
        taken.zeroize();
        stock.left = kept.len();
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// No piece comes twice, whatever their lengths, across many stocks and from another thread.
    #[test]
    fn no_octets_are_given_out_twice() {
        let pieces = || {
            let lengths = [16, 17, 31, SMALL, SMALL + 1, STOCK].into_iter().cycle();
            let of = |len| {
                let mut piece = vec![0; len];
                fill(&mut piece).unwrap();
                piece[..16].to_vec()
            };
            lengths.take(6 * STOCK).map(of).collect::<Vec<_>>()
        };
        let mut all = pieces();
        all.extend(std::thread::spawn(pieces).join().unwrap());
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    /// What was given out is no longer in the stock.
    #[test]
    fn what_was_given_out_is_gone() {
        let mut piece = [0; 32];
        fill(&mut piece).unwrap();
        OWN.with_borrow(|stock| {
            assert_eq!(stock.left, STOCK - 32);
            assert_eq!(stock.octets[stock.left..], [0; 32]);
        });
    }
}
