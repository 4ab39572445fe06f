// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the cache tells of an SA, and its form in words.

use std::net::{IpAddr, Ipv6Addr};

use super::layout::{DATA_WORDS, fnv};
use crate::event::Engine;
use crate::sa::{Direction, Mode, SaParams, SaUsage, Spi, Suite, UdpEncapsulation};

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
    /// When it was installed, in seconds since 1970.
    pub installed: u64,
}

impl CacheEntry {
    /// What `sa` shows of itself.
    pub fn new(sa: &SaParams, owner: u64, installed: u64) -> Self {
        let unspecified = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Self {
            spi: sa.spi,
            direction: sa.direction,
            mode: sa.mode,
            suite: sa.suite,
            esn: sa.esn,
            replay_window: sa.replay_window,
            source: sa.outer.map_or(unspecified, |outer| outer.source),
            destination: sa.outer.map_or(unspecified, |outer| outer.destination),
            udp: sa.outer.and_then(|outer| outer.udp),
            owner,
            installed,
        }
    }

    /// The last sequence number there is; none for an inbound SA.
    pub(super) fn sequence_end(&self) -> Option<u64> {
        let end = if self.esn {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        (self.direction == Direction::Outbound).then_some(end)
    }

    pub(super) fn key_hash(&self) -> u64 {
        key_hash(self.spi, self.direction)
    }
}

/// Hash of an index key, spread over all bits. The destination is no part of it, since who asks may
/// not know it; it tells SAs of one SPI apart where it is known.
pub(super) fn key_hash(spi: Spi, direction: Direction) -> u64 {
    let hash = fnv(&[u64::from(spi.value()) << 1 | u64::from(direction == Direction::Inbound)]);
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

const LIVE: u64 = 1 << 32;
const INBOUND: u64 = 1 << 40;
const TRANSPORT: u64 = 1 << 41;
const ESN: u64 = 1 << 42;
const UDP: u64 = 1 << 43;
const FLAGS: u64 = LIVE | INBOUND | TRANSPORT | ESN | UDP;

/// A slot's record: free or holding an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotRecord {
    pub(super) generation: u32,
    pub(super) entry: Option<CacheEntry>,
}

impl SlotRecord {
    /// The words; `slot` goes into the checksum, so that a record in the wrong place shows.
    pub(super) fn encode(&self, slot: u32) -> [u64; DATA_WORDS] {
        let mut data = [0; DATA_WORDS];
        data[0] = u64::from(self.generation);
        if let Some(entry) = &self.entry {
            let flag = |set: bool, bit: u64| if set { bit } else { 0 };
            data[0] |= LIVE
                | flag(entry.direction == Direction::Inbound, INBOUND)
                | flag(entry.mode == Mode::Transport, TRANSPORT)
                | flag(entry.esn, ESN)
                | flag(entry.udp.is_some(), UDP);
            data[1] = u64::from(entry.spi.value())
                | (entry.suite.cipher() as u64) << 32
                | (entry.suite.integrity() as u64) << 40
                | u64::from(entry.replay_window.min(0xffff)) << 48;
            [data[2], data[3]] = address_words(entry.destination);
            [data[4], data[5]] = address_words(entry.source);
            if let Some(udp) = entry.udp {
                data[6] = u64::from(udp.source_port) | u64::from(udp.destination_port) << 16;
            }
            data[7] = entry.installed;
            data[8] = entry.owner;
        }
        data[DATA_WORDS - 1] = checksum(&data, slot);
        data
    }

    /// The record, if the words are one of this slot. A slot that was never used is all zeros.
    pub(super) fn decode(data: &[u64; DATA_WORDS], slot: u32) -> Option<Self> {
        let generation = data[0] as u32;
        if *data == [0; DATA_WORDS] {
            return Some(Self {
                generation,
                entry: None,
            });
        }
        if data[DATA_WORDS - 1] != checksum(data, slot) || data[0] >> 32 << 32 & !FLAGS != 0 {
            return None;
        }
        if data[0] & LIVE == 0 {
            return Some(Self {
                generation,
                entry: None,
            });
        }
        let has = |bit: u64| data[0] & bit != 0;
        let (cipher, integrity) = (data[1] >> 32 & 0xff, data[1] >> 40 & 0xff);
        let suite = Suite::all().find(|suite| {
            suite.cipher() as u64 == cipher && suite.integrity() as u64 == integrity
        })?;
        let entry = CacheEntry {
            spi: Spi::new(data[1] as u32)?,
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
            suite,
            esn: has(ESN),
            replay_window: (data[1] >> 48) as u32,
            destination: address([data[2], data[3]]),
            source: address([data[4], data[5]]),
            udp: has(UDP).then_some(UdpEncapsulation {
                source_port: data[6] as u16,
                destination_port: (data[6] >> 16) as u16,
            }),
            owner: data[8],
            installed: data[7],
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
    fnv(&words)
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

/// Something that the writer noted for a post-mortem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEvent {
    /// Which one since the cache was made, from 1.
    pub number: u64,
    /// Nanoseconds since boot.
    pub time: u64,
    /// What.
    pub kind: CacheEventKind,
    /// The slot that it is about.
    pub slot: u32,
    /// A number that belongs to it: the last number of a grant, the engine, the epoch.
    pub value: u64,
}

/// Kinds of [`CacheEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum CacheEventKind {
    /// A writer took its place; the value is its epoch.
    Claimed = 1,
    /// An SA was entered.
    Inserted = 2,
    /// An SA was removed.
    Removed = 3,
    /// Numbers were granted; the value is the last one.
    Granted = 4,
    /// An SA is carried by another engine.
    Moved = 5,
    /// The device was lost.
    DeviceLost = 6,
    /// The device came back.
    DeviceReturned = 7,
}

impl CacheEventKind {
    pub(super) fn from_code(code: u64) -> Option<Self> {
        [
            Self::Claimed,
            Self::Inserted,
            Self::Removed,
            Self::Granted,
            Self::Moved,
            Self::DeviceLost,
            Self::DeviceReturned,
        ]
        .into_iter()
        .find(|kind| *kind as u64 == code)
    }
}
