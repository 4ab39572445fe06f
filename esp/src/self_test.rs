// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Known answers, run in the program that is to be trusted: each suite seals a packet to the octets
//! of an independent implementation, opens it again, and refuses it with one bit changed.

mod vectors;

use offload_api::sa::{Direction, KeyMaterial, Mode, Numbering, SaParams, Spi, Suite};

use crate::packet::SlicePacket;
use crate::transform::Transform;
use vectors::{KNOWN_ANSWERS, KnownAnswer};

/// How a suite did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTest {
    /// The suite.
    pub suite: Suite,
    /// What went wrong; nothing when it passed.
    pub failure: Option<&'static str>,
}

/// Runs the known answers of every suite.
pub fn run() -> impl Iterator<Item = SelfTest> {
    KNOWN_ANSWERS.iter().filter_map(|answer| {
        Some(SelfTest {
            suite: Suite::from_name(answer.suite)?,
            failure: check(answer).err(),
        })
    })
}

/// A known answer, for an engine that is tested from outside.
#[derive(Clone, Copy)]
pub struct Case(&'static KnownAnswer);

/// One for each suite.
pub fn cases() -> impl Iterator<Item = Case> {
    KNOWN_ANSWERS.iter().map(Case)
}

impl Case {
    /// The SA that seals or opens the packet; outbound it takes [`sequence`](Self::sequence) and
    /// [`iv`](Self::iv) with the packet.
    pub fn params(&self, direction: Direction) -> Option<SaParams> {
        params(self.0, direction)
    }

    /// The packet.
    pub fn plain(&self) -> Vec<u8> {
        octets(self.0.plain)
    }

    /// What it is sealed to.
    pub fn sealed(&self) -> Vec<u8> {
        octets(self.0.sealed)
    }

    /// Its sequence number.
    pub fn sequence(&self) -> u64 {
        self.0.sequence
    }

    /// Its IV, left-aligned.
    pub fn iv(&self) -> [u8; 16] {
        iv(self.0)
    }
}

/// Room around the packet.
const ROOM: usize = 128;

fn check(answer: &KnownAnswer) -> Result<(), &'static str> {
    let (plain, sealed) = (octets(answer.plain), octets(answer.sealed));
    let found = seal(answer, &plain).ok_or("the packet was not sealed")?;
    if found != sealed {
        return Err("the sealed octets differ");
    }
    match open(answer, &sealed) {
        Some(found) if found == plain => {}
        Some(_) => return Err("the opened octets differ"),
        None => return Err("the packet was not opened"),
    }
    let mut forged = sealed;
    if let Some(last) = forged.last_mut() {
        *last ^= 1;
    }
    match open(answer, &forged) {
        None => Ok(()),
        Some(_) => Err("a forged packet was opened"),
    }
}

fn seal(answer: &KnownAnswer, plain: &[u8]) -> Option<Vec<u8>> {
    let transform = transform(answer, Direction::Outbound)?;
    let mut context = transform.take_context().ok()?;
    let iv = iv(answer);
    let mut buffer = roomy(plain);
    let mut packet = SlicePacket::new(&mut buffer, ROOM, plain.len())?;
    let sealed = transform.seal(&mut context, answer.sequence, Some(&iv), &mut packet);
    sealed.ok()?;
    let (offset, len) = packet.extent();
    buffer.get(offset..offset + len).map(<[u8]>::to_vec)
}

fn open(answer: &KnownAnswer, sealed: &[u8]) -> Option<Vec<u8>> {
    let transform = transform(answer, Direction::Inbound)?;
    let mut context = transform.take_context().ok()?;
    let mut buffer = roomy(sealed);
    let located = transform.locate(sealed).ok()?;
    let mut packet = SlicePacket::new(&mut buffer, ROOM, sealed.len())?;
    let opened = transform.open(&mut context, located, answer.sequence, &mut packet);
    opened.ok()?;
    let (offset, len) = packet.extent();
    buffer.get(offset..offset + len).map(<[u8]>::to_vec)
}

fn transform(answer: &KnownAnswer, direction: Direction) -> Option<Transform> {
    Transform::new(&params(answer, direction)?).ok()
}

fn iv(answer: &KnownAnswer) -> [u8; 16] {
    let mut iv = [0; 16];
    iv.iter_mut()
        .zip(octets(answer.iv))
        .for_each(|(octet, value)| *octet = value);
    iv
}

fn params(answer: &KnownAnswer, direction: Direction) -> Option<SaParams> {
    let suite = Suite::from_name(answer.suite)?;
    let (key, integrity_key) = (octets(answer.key), octets(answer.integrity_key));
    Some(SaParams {
        mode: Mode::Transport,
        esn: false,
        replay_window: 0,
        numbering: match direction {
            Direction::Outbound => Numbering::Explicit,
            Direction::Inbound => Numbering::Granted(None),
        },
        ..SaParams::tunnel(
            Spi::new(answer.spi)?,
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &key, &integrity_key).ok()?,
        )
    })
}

fn roomy(packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; ROOM];
    buffer.extend_from_slice(packet);
    buffer.resize(buffer.len() + ROOM, 0);
    buffer
}

/// Hexadecimal octets; ours are well formed.
fn octets(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
    let pairs = hex.as_bytes().chunks_exact(2);
    pairs
        .filter_map(|pair| match pair {
            [high, low] => Some(digit(*high) << 4 | digit(*low)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_a_known_answer_and_passes() {
        let results: Vec<_> = run().collect();
        assert_eq!(results.len(), Suite::all().count());
        for result in results {
            assert_eq!(result.failure, None, "{}", result.suite);
        }
    }

    #[test]
    fn a_wrong_answer_is_told() {
        let good = &KNOWN_ANSWERS[0];
        let bad = KnownAnswer {
            sequence: good.sequence + 1,
            ..*good
        };
        assert_eq!(check(&bad), Err("the sealed octets differ"));
    }
}
