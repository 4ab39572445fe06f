// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HMAC's two states after the block of each pad (RFC 2104 §4): what the device goes on from, so that
//! it never has the key.

use qat_regs::descriptor::hash;
use sha2::block_api::{compress256, compress512};
use zeroize::Zeroizing;

/// FIPS 180-4 §5.3.3.
const SHA256: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
/// FIPS 180-4 §5.3.4.
const SHA384: [u64; 8] = [
    0xcbbb_9d5d_c105_9ed8,
    0x629a_292a_367c_d507,
    0x9159_015a_3070_dd17,
    0x152f_ecd8_f70e_5939,
    0x6733_2667_ffc0_0b31,
    0x8eb4_4a87_6858_1511,
    0xdb0c_2e0d_64f9_8fa7,
    0x47b5_481d_befa_4fa4,
];
/// FIPS 180-4 §5.3.5.
const SHA512: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

const INNER_PAD: u8 = 0x36;
const OUTER_PAD: u8 = 0x5c;

/// A state as it lies in a content descriptor.
pub(super) type State = Zeroizing<Vec<u8>>;

/// The inner and the outer state of a key that fits a block.
pub(super) fn states(algorithm: u32, key: &[u8]) -> Option<(State, State)> {
    let state = |pad| state(algorithm, key, pad);
    Some((state(INNER_PAD)?, state(OUTER_PAD)?))
}

fn state(algorithm: u32, key: &[u8], pad: u8) -> Option<State> {
    let octets = match algorithm {
        hash::SHA256 => {
            let mut words = Zeroizing::new(SHA256);
            compress256(&mut words, std::slice::from_ref(&*block::<64>(key, pad)?));
            words.map(u32::to_be_bytes).as_flattened().to_vec()
        }
        hash::SHA384 | hash::SHA512 => {
            let first = if algorithm == hash::SHA384 {
                SHA384
            } else {
                SHA512
            };
            let mut words = Zeroizing::new(first);
            compress512(&mut words, std::slice::from_ref(&*block::<128>(key, pad)?));
            words.map(u64::to_be_bytes).as_flattened().to_vec()
        }
        _ => return None,
    };
    Some(Zeroizing::new(octets))
}

fn block<const LEN: usize>(key: &[u8], pad: u8) -> Option<Zeroizing<[u8; LEN]>> {
    let mut block = Zeroizing::new([pad; LEN]);
    for (octet, key) in block.get_mut(..key.len())?.iter_mut().zip(key) {
        *octet ^= key;
    }
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_longer_than_a_block_makes_no_states() {
        assert!(states(hash::SHA256, &[1; 65]).is_none());
        assert!(states(hash::SHA1, &[1; 20]).is_none());
        let (inner, outer) = states(hash::SHA384, &[1; 48]).unwrap();
        assert_eq!((inner.len(), outer.len()), (64, 64));
        assert_ne!(inner, outer);
    }
}
