// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bursts of AES-CBC with an HMAC are trusted with nothing before they agree with OpenSSL in this process.

use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::symm::{Cipher, Crypter, Mode};

use super::{BODY, HEADER, Hash, Key, Packet, open_burst, seal_burst};
use crate::Direction;
use crate::ipsec_mb::Library;
use crate::select::State;

pub(super) fn state(hash: Hash) -> &'static State {
    static STATES: [OnceLock<State>; 4] = [const { OnceLock::new() }; 4];
    let [sha1, sha256, sha384, sha512] = &STATES;
    let state = match hash {
        Hash::Sha1 => sha1,
        Hash::Sha256 => sha256,
        Hash::Sha384 => sha384,
        Hash::Sha512 => sha512,
    };
    state.get_or_init(|| match Library::get() {
        Err(missing) => State::Unavailable(missing.to_string()),
        Ok(_) if agrees(hash) => State::Ready,
        Ok(_) => State::Disagrees,
    })
}

/// Blocks of bodies: one, around a hash's blocks, and an ordinary packet's.
const BLOCKS: [usize; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 32, 90];

fn octets(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n * 7 + seed * 31 + (n >> 8)) as u8)
        .collect()
}

/// Seals and opens a burst of every length, with keys of their own, and with extended numbers and without.
fn agrees(hash: Hash) -> bool {
    let keys = |n: usize| {
        let cipher = octets([16, 24, 32][n % 3], n);
        (cipher, octets(hash.key_len(), n + 1))
    };
    let count = 2 * 3 * BLOCKS.len();
    let plain: Vec<_> = (0..count)
        .map(|n| {
            let blocks = BLOCKS[n / 6];
            octets(BODY + 16 * blocks + hash.icv_len(), n)
        })
        .collect();
    let high = |n: usize| (n / 3 % 2 == 1).then_some(n as u32);
    let run = |direction, texts: &mut [Vec<u8>]| -> Option<Vec<bool>> {
        let key = |n| {
            let (cipher, integrity) = keys(n);
            Key::unexamined(hash, direction, &cipher, &integrity)
        };
        let keys: Vec<_> = (0..count).map(key).collect::<Option<_>>()?;
        let mut packets: Vec<_> = keys
            .iter()
            .zip(texts)
            .enumerate()
            .map(|(n, (key, text))| Packet::new(key, text, high(n)))
            .collect::<Option<_>>()?;
        match direction {
            Direction::Seal => seal_burst(&mut packets),
            Direction::Open => open_burst(&mut packets),
        }
        Some(packets.iter().map(Packet::is_authentic).collect())
    };
    let all = |answers: Option<Vec<bool>>, wanted: bool| {
        answers.is_some_and(|each| each.iter().all(|&one| one == wanted))
    };
    let mut theirs = plain.clone();
    for (n, text) in theirs.iter_mut().enumerate() {
        let (cipher, integrity) = keys(n);
        if seal_by_openssl(hash, (&cipher, &integrity), text, high(n)).is_err() {
            return false;
        }
    }
    let mut ours = plain.clone();
    if !all(run(Direction::Seal, &mut ours), true) || ours != theirs {
        return false;
    }
    let opened = run(Direction::Open, &mut ours);
    let body = |text: &[u8]| text[HEADER..text.len() - hash.icv_len()].to_vec();
    let same = ours.iter().zip(&plain).all(|(a, b)| body(a) == body(b));
    for (n, text) in theirs.iter_mut().enumerate() {
        // Everywhere: in headers, IVs, bodies and ICVs.
        let at = n * 5 % text.len();
        text[at] ^= 1 << (n % 8);
    }
    let forged = run(Direction::Open, &mut theirs);
    let zeros = |text: &Vec<u8>| text[BODY..].iter().all(|&octet| octet == 0);
    all(opened, true) && same && all(forged, false) && theirs.iter().all(zeros)
}

fn seal_by_openssl(
    hash: Hash,
    (cipher_key, integrity_key): (&[u8], &[u8]),
    text: &mut [u8],
    high: Option<u32>,
) -> Result<(), ErrorStack> {
    let cipher = match cipher_key.len() {
        16 => Cipher::aes_128_cbc(),
        24 => Cipher::aes_192_cbc(),
        _ => Cipher::aes_256_cbc(),
    };
    let digest = match hash {
        Hash::Sha1 => MessageDigest::sha1(),
        Hash::Sha256 => MessageDigest::sha256(),
        Hash::Sha384 => MessageDigest::sha384(),
        Hash::Sha512 => MessageDigest::sha512(),
    };
    let at = text.len() - hash.icv_len();
    let (authenticated, icv) = text.split_at_mut(at);
    let (head, body) = authenticated.split_at_mut(BODY);
    let mut crypter = Crypter::new(cipher, Mode::Encrypt, cipher_key, Some(&head[HEADER..]))?;
    crypter.pad(false);
    let mut out = vec![0; body.len() + 16];
    let len = crypter.update(body, &mut out)?;
    body.copy_from_slice(&out[..len]);
    let key = PKey::hmac(integrity_key)?;
    let mut signer = Signer::new(digest, &key)?;
    signer.update(authenticated)?;
    if let Some(high) = high {
        signer.update(&high.to_be_bytes())?;
    }
    let code = signer.sign_to_vec()?;
    icv.copy_from_slice(&code[..icv.len()]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the library is installed it is right; a machine without it proves nothing here.
    #[test]
    fn a_library_that_is_there_agrees_with_openssl() {
        for hash in Hash::ALL {
            let state = state(hash);
            println!("{hash:?}: {state:?}");
            assert_ne!(*state, State::Disagrees, "{hash:?}");
        }
    }

    #[test]
    fn lengths_that_no_packet_has_are_refused() {
        for hash in Hash::ALL {
            let (cipher, integrity) = ([1; 16], vec![2; hash.key_len()]);
            assert!(Key::new(hash, Direction::Seal, &[1; 17], &integrity).is_none());
            assert!(Key::new(hash, Direction::Seal, &cipher, &[]).is_none());
            let Some(key) = Key::new(hash, Direction::Seal, &cipher, &integrity) else {
                continue;
            };
            let around = BODY + hash.icv_len();
            let takes = |len: usize| Packet::new(&key, &mut vec![0; len], None).is_some();
            assert!(takes(around + 16) && takes(around + 64_000));
            for len in [
                0,
                around - 1,
                around,
                around + 15,
                around + 17,
                around + 65_536,
            ] {
                assert!(!takes(len), "{len} octets");
            }
        }
    }

    #[test]
    fn a_key_for_the_other_direction_seals_nothing() {
        let hash = Hash::Sha256;
        let Some(key) = Key::new(hash, Direction::Open, &[1; 16], &[2; 32]) else {
            return;
        };
        let mut text = vec![7; BODY + 32 + hash.icv_len()];
        let mut packets = [Packet::new(&key, &mut text, None).unwrap()];
        seal_burst(&mut packets);
        assert!(!packets[0].is_authentic());
        assert!(text[BODY..].iter().all(|&octet| octet == 0));
    }
}
