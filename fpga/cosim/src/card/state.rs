// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the management writes into the card and reads back: the packed structures of
//! `ipa_card_pkg.sv`, least significant octet first.

use bitflags::bitflags;

/// Octets of the state port.
pub(super) const LEN: usize = 52;
/// Words of a window.
pub const WINDOW_WORDS: usize = 32;
/// `state_what_i` of a window's word.
pub(super) const WORD: u64 = 2;

/// A queue's rings.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueSetup {
    /// IOVA of the submission ring.
    pub submissions: u64,
    /// IOVA of the completion ring.
    pub completions: u64,
    /// Entries of each, as a power of two.
    pub depth_log2: u8,
    /// 0 to 3.
    pub priority: u8,
}

/// What a queue has done since it was set up.
#[derive(Clone, Copy, Debug)]
pub struct QueueView {
    /// Descriptors asked for.
    pub fetched: u32,
    /// Completions written.
    pub completed: u32,
    /// Those that were errors.
    pub errors: u32,
    /// Octets of packets, by the descriptors.
    pub bytes: u64,
    /// It stopped, for its doorbell was beyond the ring.
    pub failed: bool,
}

/// The card's counters since reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets sealed.
    pub sealed: u64,
    /// Their octets in the clear.
    pub sealed_bytes: u64,
    /// Packets opened.
    pub opened: u64,
    /// Their octets in the clear.
    pub opened_bytes: u64,
    /// Operations that failed.
    pub errors: u64,
    /// Accesses that failed.
    pub dma_faults: u64,
    /// Descriptors and doorbells that made no sense.
    pub bad_descriptors: u64,
}

/// An SA's outer headers (`ends_t`), as they lie on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Version 6, else 4, of whose addresses the first four octets count.
    pub v6: bool,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source and destination port, where ESP lies in UDP.
    pub udp: Option<[u16; 2]>,
}

impl Ends {
    pub(super) fn octets(&self) -> [u8; 36] {
        let mut octets = [0; 36];
        octets[..16].copy_from_slice(&self.source);
        octets[16..32].copy_from_slice(&self.destination);
        for (place, port) in octets[32..]
            .chunks_exact_mut(2)
            .zip(self.udp.iter().flatten())
        {
            place.copy_from_slice(&port.to_be_bytes());
        }
        octets
    }
}

/// What of an SA does not move (`sa_config_t`).
#[derive(Clone, Copy, Debug)]
pub struct SaConfig {
    /// Outbound, else inbound.
    pub outbound: bool,
    /// Transport mode, else tunnel mode.
    pub transport: bool,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Each descriptor brings number and IV.
    pub numbered: bool,
    /// What is submitted from now on is refused.
    pub draining: bool,
    /// The soft limit by time is reached.
    pub soft_time: bool,
    /// The hard limit by time is reached.
    pub hard_time: bool,
    /// Replay window, a multiple of 32 up to 1024; 0 is off.
    pub window: u16,
    /// Generation.
    pub generation: u32,
    /// SPI.
    pub spi: u32,
    /// Soft limits by octets and packets; all ones for none.
    pub soft: [u64; 2],
    /// Hard limits likewise.
    pub hard: [u64; 2],
    /// Outer headers that it puts in front, or looks for.
    pub outer: Option<Ends>,
}

impl SaConfig {
    pub(super) fn octets(&self) -> [u8; 44] {
        let flags = [
            self.outbound,
            self.transport,
            self.esn,
            self.numbered,
            self.draining,
            self.soft_time,
            self.hard_time,
            self.outer.is_some(),
            self.outer.is_some_and(|outer| outer.v6),
            self.outer.is_some_and(|outer| outer.udp.is_some()),
        ];
        let flags = flags
            .iter()
            .rev()
            .fold(0u16, |all, flag| all << 1 | u16::from(*flag));
        let mut octets = [0; 44];
        octets[..2].copy_from_slice(&flags.to_le_bytes());
        octets[2..4].copy_from_slice(&self.window.to_le_bytes());
        octets[4..8].copy_from_slice(&self.generation.to_le_bytes());
        octets[8..12].copy_from_slice(&self.spi.to_le_bytes());
        let limits = self.soft.iter().chain(&self.hard);
        for (place, limit) in octets[12..].chunks_exact_mut(8).zip(limits) {
            place.copy_from_slice(&limit.to_le_bytes());
        }
        octets
    }
}

bitflags! {
    /// What has been told of an SA (`told_t`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Told: u8 {
        /// A soft limit.
        const SOFT = 1 << 0;
        /// A hard limit.
        const HARD = 1 << 1;
        /// That the grant is low.
        const GRANT_LOW = 1 << 2;
        /// That the sequence space nearly ends.
        const SEQUENCE_ENDING = 1 << 3;
        /// That it has ended.
        const SEQUENCE_END = 1 << 4;
    }
}

/// What of an SA moves: something behind the state port.
pub trait Moved {
    #[doc(hidden)]
    const WHAT: u64;
    #[doc(hidden)]
    fn read(octets: &[u8; LEN]) -> Self;
    #[doc(hidden)]
    fn write(&self) -> [u8; LEN];
}

/// What of an outbound SA moves (`outbound_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// Packets sealed.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Highest number used.
    pub number: u64,
    /// Next number to be used.
    pub next: u64,
    /// Last one that may be.
    pub last: u64,
    /// At or under so many left the grant is low.
    pub low_mark: u64,
    /// The 64-bit space is used up.
    pub ended: bool,
    /// What has been told.
    pub told: Told,
}

/// What of an inbound SA moves, but for its window's bits (`inbound_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Packets opened.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// Highest number of a packet that was passed on.
    pub number: u64,
    /// Top of the window.
    pub top: u64,
    /// What has been told.
    pub told: Told,
}

/// Refused packets (`refused_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// With a bad ICV.
    pub bad_icv: u64,
    /// Replayed, or too old.
    pub replayed: u64,
    /// For other reasons.
    pub errors: u64,
}

pub(super) fn word(octets: &[u8; LEN], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&octets[at..at + 8]);
    u64::from_le_bytes(word)
}

fn words(words: &[u64]) -> [u8; LEN] {
    let mut octets = [0; LEN];
    for (place, word) in octets.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    octets
}

impl Moved for Outbound {
    const WHAT: u64 = 0;

    fn read(octets: &[u8; LEN]) -> Self {
        Self {
            packets: word(octets, 0),
            bytes: word(octets, 8),
            number: word(octets, 16),
            next: word(octets, 24),
            last: word(octets, 32),
            low_mark: word(octets, 40),
            ended: octets[48] != 0,
            told: Told::from_bits_truncate(octets[50]),
        }
    }

    fn write(&self) -> [u8; LEN] {
        let mut octets = words(&[
            self.packets,
            self.bytes,
            self.number,
            self.next,
            self.last,
            self.low_mark,
        ]);
        octets[48] = self.ended.into();
        octets[50] = self.told.bits();
        octets
    }
}

impl Moved for Inbound {
    const WHAT: u64 = 1;

    fn read(octets: &[u8; LEN]) -> Self {
        Self {
            packets: word(octets, 0),
            bytes: word(octets, 8),
            number: word(octets, 16),
            top: word(octets, 24),
            told: Told::from_bits_truncate(octets[32]),
        }
    }

    fn write(&self) -> [u8; LEN] {
        let mut octets = words(&[self.packets, self.bytes, self.number, self.top]);
        octets[32] = self.told.bits();
        octets
    }
}

impl Moved for Refused {
    const WHAT: u64 = 3;

    fn read(octets: &[u8; LEN]) -> Self {
        Self {
            bad_icv: word(octets, 0),
            replayed: word(octets, 8),
            errors: word(octets, 16),
        }
    }

    fn write(&self) -> [u8; LEN] {
        words(&[self.bad_icv, self.replayed, self.errors])
    }
}

/// What an SA has to say: bits of [`CardEvent::Notice`], in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notices {
    /// A hard limit by octets.
    HardBytes = 0,
    /// By packets.
    HardPackets = 1,
    /// By time.
    HardTime = 2,
    /// The grant is low.
    GrantLow = 3,
    /// The last number of the space is used.
    SequenceEnd = 4,
    /// The space nearly ends.
    SequenceEnding = 5,
    /// A soft limit by octets.
    SoftBytes = 6,
    /// By packets.
    SoftPackets = 7,
    /// By time.
    SoftTime = 8,
}

impl Notices {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::HardBytes,
        Self::HardPackets,
        Self::HardTime,
        Self::GrantLow,
        Self::SequenceEnd,
        Self::SequenceEnding,
        Self::SoftBytes,
        Self::SoftPackets,
        Self::SoftTime,
    ];
}

/// What the card tells its management (`card_event_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardEvent {
    /// Of an SA.
    Notice {
        /// Bits, by [`Notices`].
        what: u16,
        /// Index and generation.
        sa: (u32, u32),
        /// Numbers left of the grant.
        left: u64,
    },
    /// A queue stopped.
    QueueFailed {
        /// Which.
        queue: u16,
        /// Its doorbell.
        tail: u32,
    },
    /// A line for the error log.
    Note {
        /// A code of `fpga_regs::admin::ErrorKind`.
        kind: u8,
        /// The queue.
        queue: u16,
        /// Its detail.
        detail: u64,
    },
}

impl CardEvent {
    pub(super) fn read(octets: &[u8; 20]) -> Self {
        let half = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&octets[at..at + 4]);
            u32::from_le_bytes(half)
        };
        let value = u64::from(half(0)) | u64::from(half(4)) << 32;
        let what = half(16);
        match what >> 16 & 3 {
            0 => Self::Notice {
                what: what as u16,
                sa: (half(12), half(8)),
                left: value,
            },
            1 => Self::QueueFailed {
                queue: half(12) as u16,
                tail: value as u32,
            },
            _ => Self::Note {
                kind: what as u8,
                queue: half(12) as u16,
                detail: value,
            },
        }
    }
}
