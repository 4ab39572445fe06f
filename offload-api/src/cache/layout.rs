// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where what is in the cache, in 64-bit words.

use std::net::{IpAddr, Ipv6Addr};

use crate::event::Engine;
use crate::sa::{Direction, Spi};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"ESPLsac1");
/// Changes with every change of this file.
pub(super) const LAYOUT: u64 = 0x0001_0001;

/// Header words.
pub(super) mod header {
    pub(in super::super) const MAGIC: usize = 0;
    pub(in super::super) const LAYOUT: usize = 1;
    pub(in super::super) const CAPACITY: usize = 2;
    pub(in super::super) const INDEX_LEN: usize = 3;
    pub(in super::super) const WRITER_PID: usize = 8;
    pub(in super::super) const WRITER_START: usize = 9;
    pub(in super::super) const EPOCH: usize = 10;
    pub(in super::super) const HEARTBEAT: usize = 11;
    pub(in super::super) const LEN: usize = 64;
}

/// Words of a slot: four cache lines.
pub(super) const SLOT_WORDS: usize = 32;
/// Words within a slot.
pub(super) mod slot {
    pub(in super::super) const VERSION: usize = 0;
    /// First word of the record under the seqlock, [`super::RECORD_WORDS`] of them.
    pub(in super::super) const RECORD: usize = 1;
    /// Last sequence number ever granted; grows only; no seqlock.
    pub(in super::super) const GRANTED: usize = 8;
    /// Counters in their own cache line.
    pub(in super::super) const PACKETS: usize = 16;
    pub(in super::super) const BYTES: usize = 17;
    pub(in super::super) const SEQUENCE: usize = 18;
}

/// Words under the seqlock.
pub(super) const RECORD_WORDS: usize = 6;

/// What is known of an SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// SPI.
    pub spi: Spi,
    /// Direction.
    pub direction: Direction,
    /// Where its packets go; unspecified where sockets decide.
    pub destination: IpAddr,
    /// Which engine carries it.
    pub engine: Engine,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Codes of cipher and integrity algorithm.
    pub suite: (u8, u8),
    /// Its owner's number for it (a child SA's unique id).
    pub owner: u64,
}

/// State of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheState {
    /// Free.
    Empty,
    /// Carries an SA.
    Live,
}

const LIVE: u64 = 1 << 63;

/// Record words: generation, flags and codes, SPI, owner, destination (two words).
pub(super) fn encode(generation: u64, entry: Option<&CacheEntry>) -> [u64; RECORD_WORDS] {
    let Some(entry) = entry else {
        return [generation, 0, 0, 0, 0, 0];
    };
    let address = match entry.destination {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let address = u128::from(address);
    let flags = LIVE
        | u64::from(entry.direction == Direction::Outbound) << 32
        | u64::from(entry.engine == Engine::Software) << 33
        | u64::from(entry.esn) << 34
        | u64::from(entry.suite.0) << 8
        | u64::from(entry.suite.1);
    let spi = u64::from(entry.spi.value());
    [
        generation,
        flags,
        spi,
        entry.owner,
        (address >> 64) as u64,
        address as u64,
    ]
}

/// The generation and the entry, if the slot carries one.
pub(super) fn decode(words: &[u64; RECORD_WORDS]) -> (u64, Option<CacheEntry>) {
    let [generation, flags, spi, owner, high, low] = *words;
    if flags & LIVE == 0 {
        return (generation, None);
    }
    let address = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
    let entry = Spi::new(spi as u32).map(|spi| CacheEntry {
        spi,
        direction: if flags >> 32 & 1 == 1 {
            Direction::Outbound
        } else {
            Direction::Inbound
        },
        destination: address
            .to_ipv4_mapped()
            .map_or(IpAddr::V6(address), IpAddr::V4),
        engine: if flags >> 33 & 1 == 1 {
            Engine::Software
        } else {
            Engine::Device
        },
        esn: flags >> 34 & 1 == 1,
        suite: ((flags >> 8) as u8, flags as u8),
        owner,
    });
    (generation, entry)
}

/// Words of the index for a capacity: a power of two at most half full.
pub(super) fn index_len(capacity: u32) -> usize {
    (capacity as usize * 2).next_power_of_two()
}

/// Where a slot's words start.
pub(super) fn slot_start(index_len: usize, slot: usize) -> usize {
    header::LEN + index_len + slot * SLOT_WORDS
}

/// Where the search for an SA starts in the index.
pub(super) fn index_start(spi: Spi, direction: Direction, index_len: usize) -> usize {
    let key = u64::from(spi.value()) << 1 | u64::from(direction == Direction::Outbound);
    // Fibonacci hashing: SPIs are random, but need not be.
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (index_len - 1)
}
