// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the cache tells of an SA, and its form in words.

use std::net::{IpAddr, Ipv6Addr};

use super::layout::{DATA_WORDS, NAME_WORDS, digest};
use super::name::SaName;
use crate::event::Engine;
use crate::sa::{
    Cipher, Direction, Integrity, Mode, OuterHeaders, Protocol, SaParams, SaUsage, Spi, Suite,
    UdpEncapsulation,
};

/// A slot of the cache. One that outlived its SA is refused as stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheSlot {
    /// Slot in the table.
    pub index: u32,
    /// How often the slot was used.
    pub generation: u32,
}

/// An SA's metadata. Addresses that the SA does not know are unspecified (`::`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Security parameters index.
    pub spi: Spi,
    /// Which way.
    pub direction: Direction,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Algorithms.
    pub suite: Suite,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Anti-replay window in packets.
    pub replay_window: u32,
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// Ports of ESP in UDP.
    pub udp: Option<UdpEncapsulation>,
    /// Its owner's number for it (a child SA's unique id).
    pub owner: u64,
    /// What its owner calls it.
    pub name: SaName,
    /// When it was installed, in seconds since 1970.
    pub installed: u64,
}

/// What an SA's owner says of it besides its parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaLabel {
    /// The owner's number for it (a child SA's unique id).
    pub owner: u64,
    /// What the owner calls it.
    pub name: SaName,
    /// Where it goes, when somebody else than the SA puts its outer headers on.
    pub path: Option<OuterHeaders>,
}

impl From<u64> for SaLabel {
    fn from(owner: u64) -> Self {
        Self {
            owner,
            ..Self::default()
        }
    }
}

impl CacheEntry {
    /// What `sa` shows of itself, and its label.
    pub fn new(sa: &SaParams, label: &SaLabel, installed: u64) -> Self {
        let unspecified = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let outer = sa.outer.or(label.path);
        Self {
            spi: sa.spi,
            direction: sa.direction,
            mode: sa.mode,
            suite: sa.suite,
            esn: sa.esn,
            replay_window: sa.replay_window,
            source: outer.map_or(unspecified, |outer| outer.source),
            destination: outer.map_or(unspecified, |outer| outer.destination),
            udp: outer.and_then(|outer| outer.udp),
            owner: label.owner,
            name: label.name,
            installed,
        }
    }

    pub(super) fn key(&self) -> SaKey {
        SaKey::new(self.spi, self.direction, self.destination)
    }
}

/// What the index finds an SA by: the SPI of an inbound one, which is ours to choose and unique
/// (RFC 4301 §4.1); SPI and destination of an outbound one, whose SPI the peer chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SaKey([u64; 3]);

impl SaKey {
    pub(super) fn new(spi: Spi, direction: Direction, destination: IpAddr) -> Self {
        let spi = u64::from(spi.value());
        match direction {
            Direction::Inbound => Self([spi | INBOUND, 0, 0]),
            Direction::Outbound => {
                let [high, low] = address_words(destination);
                Self([spi, high, low])
            }
        }
    }

    /// Spread over all bits, and by a seed that peers don't know.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        let hash = self.0.iter().fold(seed, |hash, word| {
            fold(hash ^ word ^ 0x9e37_79b9_7f4a_7c15, seed | 1)
        });
        fold(hash ^ seed, 0xd6e8_feb8_6659_fd93)
    }
}

const LIVE: u64 = 1 << 32;
const INBOUND: u64 = 1 << 40;
const TRANSPORT: u64 = 1 << 41;
const ESN: u64 = 1 << 42;
const UDP: u64 = 1 << 43;
const AH: u64 = 1 << 44;
const FLAGS: u64 = LIVE | INBOUND | TRANSPORT | ESN | UDP | AH;

/// A slot's record: free or holding an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotRecord {
    pub(super) generation: u32,
    pub(super) entry: Option<CacheEntry>,
}

impl SlotRecord {
    /// The words; `slot` goes into the checksum, so that a record in the wrong place shows.
    pub(super) fn encode(&self, slot: u32) -> [u64; DATA_WORDS] {
        let mut head = u64::from(self.generation);
        let mut body = [0; DATA_WORDS - 2 - NAME_WORDS];
        let mut name = [0; NAME_WORDS];
        if let Some(entry) = &self.entry {
            let flag = |set: bool, bit: u64| if set { bit } else { 0 };
            head |= LIVE
                | flag(entry.direction == Direction::Inbound, INBOUND)
                | flag(entry.mode == Mode::Transport, TRANSPORT)
                | flag(entry.esn, ESN)
                | flag(entry.udp.is_some(), UDP)
                | flag(entry.suite.protocol() == Protocol::Ah, AH);
            let parameters = u64::from(entry.spi.value())
                | (entry.suite.cipher() as u64) << 32
                | (entry.suite.integrity() as u64) << 40
                | u64::from(entry.replay_window.min(0xffff)) << 48;
            let [destination_high, destination_low] = address_words(entry.destination);
            let [source_high, source_low] = address_words(entry.source);
            let ports = entry.udp.map_or(0, |udp| {
                u64::from(udp.source_port) | u64::from(udp.destination_port) << 16
            });
            body = [
                parameters,
                destination_high,
                destination_low,
                source_high,
                source_low,
                ports,
                entry.installed,
                entry.owner,
            ];
            name = entry.name.to_words();
        }
        let mut data = [0; DATA_WORDS];
        let values = std::iter::once(head).chain(body).chain(name);
        for (word, value) in data.iter_mut().zip(values) {
            *word = value;
        }
        data[DATA_WORDS - 1] = checksum(&data, slot);
        data
    }

    /// The record, if the words are one of this slot. A slot that was never used is all zeros.
    pub(super) fn decode(data: &[u64; DATA_WORDS], slot: u32) -> Option<Self> {
        let [
            head,
            parameters,
            destination_high,
            destination_low,
            source_high,
            source_low,
            ports,
            installed,
            owner,
            name @ ..,
            found,
        ] = data;
        let name: &[u64; NAME_WORDS] = name;
        let generation = *head as u32;
        let free = Self {
            generation,
            entry: None,
        };
        // A fuzzer can't make checksums.
        if *found != checksum(data, slot) && !cfg!(fuzzing) {
            return (*data == [0; DATA_WORDS]).then_some(free);
        }
        if head >> 32 << 32 & !FLAGS != 0 {
            return None;
        }
        if head & LIVE == 0 {
            return Some(free);
        }
        let has = |bit: u64| head & bit != 0;
        let cipher = Cipher::from_code((parameters >> 32) as u8)?;
        let integrity = Integrity::from_code((parameters >> 40) as u8)?;
        let entry = CacheEntry {
            spi: Spi::new(*parameters as u32)?,
            direction: if has(INBOUND) {
                Direction::Inbound
            } else {
                Direction::Outbound
            },
            mode: if has(TRANSPORT) {
                Mode::Transport
            } else {
                Mode::Tunnel
            },
            suite: match has(AH) {
                true if cipher == Cipher::Null => Suite::ah(integrity).ok()?,
                true => return None,
                false => Suite::new(cipher, integrity).ok()?,
            },
            esn: has(ESN),
            replay_window: (parameters >> 48) as u32,
            destination: address([*destination_high, *destination_low]),
            source: address([*source_high, *source_low]),
            udp: has(UDP).then_some(UdpEncapsulation {
                source_port: *ports as u16,
                destination_port: (ports >> 16) as u16,
            }),
            owner: *owner,
            name: SaName::from_words(name),
            installed: *installed,
        };
        Some(Self {
            generation,
            entry: Some(entry),
        })
    }
}

fn checksum(data: &[u64; DATA_WORDS], slot: u32) -> u64 {
    let mut words = *data;
    words[DATA_WORDS - 1] = u64::from(slot);
    digest(&words)
}

/// IPv4 as its mapped IPv6 address.
fn address_words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

fn address([high, low]: [u64; 2]) -> IpAddr {
    let v6 = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// An SA's age, in the words of RFC 2367 §2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaState {
    /// In use.
    Mature,
    /// A soft limit was reached: it is being replaced.
    Dying,
    /// A hard limit was reached: it carries nothing more.
    Dead,
}

/// Engine and state in one word, so that they change together.
pub(super) fn placement_word(engine: Engine, state: SaState) -> u64 {
    let engine = match engine {
        Engine::Device => 1,
        Engine::Software => 2,
    };
    let state = match state {
        SaState::Mature => 1,
        SaState::Dying => 2,
        SaState::Dead => 3,
    };
    engine | state << 8
}

pub(super) fn placement(word: u64) -> Option<(Engine, SaState)> {
    let engine = match word & 0xff {
        1 => Engine::Device,
        2 => Engine::Software,
        _ => return None,
    };
    let state = match word >> 8 {
        1 => SaState::Mature,
        2 => SaState::Dying,
        3 => SaState::Dead,
        _ => return None,
    };
    Some((engine, state))
}

pub(super) fn usage_words(usage: &SaUsage) -> [u64; super::layout::USAGE_WORDS] {
    [
        usage.packets,
        usage.bytes,
        usage.sequence,
        usage.bad_icv,
        usage.replayed,
        usage.errors,
    ]
}

pub(super) fn usage(words: [u64; super::layout::USAGE_WORDS]) -> SaUsage {
    let [packets, bytes, sequence, bad_icv, replayed, errors] = words;
    SaUsage {
        packets,
        bytes,
        sequence,
        bad_icv,
        replayed,
        errors,
    }
}
