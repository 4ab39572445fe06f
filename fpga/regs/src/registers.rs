// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PCI identity, BARs and register offsets.
//!
//! Generated from `fpga/regs/ipa.rdl` by `cargo xtask regs`; change it there.

use bitflags::bitflags;

/// PCI vendor: Red Hat's, whose 0x1b36 range is for emulated devices.
pub const VENDOR_ID: u16 = 0x1b36;
/// PCI device.
pub const DEVICE_ID: u16 = 0x1fa0;
/// PCI class: network and computing encryption (base 0x10, sub 0x00).
pub const CLASS_CODE: u32 = 0x100000;

/// BAR of the registers.
pub const REGISTER_BAR: u32 = 0;
/// Octets of [`REGISTER_BAR`].
pub const REGISTER_BAR_SIZE: u64 = 0x10_0000;
/// BAR of the doorbells: one page for each queue pair, mappable.
pub const DOORBELL_BAR: u32 = 2;
/// Octets of a doorbell page.
pub const DOORBELL_PAGE: u64 = 0x1000;
/// BAR of the MSI-X table and pending bits.
pub const MSIX_BAR: u32 = 4;
/// Octets of [`MSIX_BAR`].
pub const MSIX_BAR_SIZE: u64 = 0x4000;
/// Offset of the MSI-X table in [`MSIX_BAR`].
pub const MSIX_TABLE: u64 = 0x0000;
/// Offset of the pending bits in [`MSIX_BAR`].
pub const MSIX_PENDING: u64 = 0x2000;

/// "IPA1", little-endian.
pub const MAGIC_VALUE: u32 = 0x3141_5049;
/// Major version in the upper half, minor in the lower. Majors must match; minors only add.
pub const ABI_VERSION: u32 = 0x0001_0003;
/// What every register of a removed card reads as.
pub const ALL_ONES: u32 = u32::MAX;

/// Identity and capabilities (read-only, 32 bits each unless told).
pub mod identity {
    /// [`super::MAGIC_VALUE`].
    pub const MAGIC: u64 = 0x0000;
    /// [`super::ABI_VERSION`].
    pub const VERSION: u64 = 0x0004;
    /// Build identity, 64 bits.
    pub const BUILD: u64 = 0x0008;
    /// Bit n: the suite with [`crate::context::suite_bit`] n, 64 bits.
    pub const SUITES: u64 = 0x0010;
    /// What the card can do: [`super::CardFeatures`].
    pub const FEATURES: u64 = 0x0018;
    /// SAs that the card holds.
    pub const MAX_SAS: u64 = 0x0020;
    /// Queue pairs.
    pub const MAX_QUEUES: u64 = 0x0024;
    /// Largest ring, in entries.
    pub const MAX_DEPTH: u64 = 0x0028;
    /// Largest packet, sealed, in octets.
    pub const MAX_PACKET: u64 = 0x002c;
    /// Largest replay window.
    pub const MAX_WINDOW: u64 = 0x0030;
    /// MSI-X vectors: 0 for events, 1 + q for queue pair q.
    pub const VECTORS: u64 = 0x0034;
    /// Free-running nanoseconds, 64 bits (read the low half first: it latches the high one).
    pub const TIME: u64 = 0x0038;
    /// Ports: 0, or 3 in inline mode (wire, host, exception).
    pub const PORTS: u64 = 0x0040;
    /// Number of this function among the card's, from 0.
    pub const FUNCTION: u64 = 0x0044;
    /// Functions of the card.
    pub const FUNCTIONS: u64 = 0x0048;
    /// Entries of a gather list that a submission may name; 0 for none.
    pub const MAX_GATHER: u64 = 0x004c;
    /// Rules of inline mode that it holds.
    pub const MAX_RULES: u64 = 0x0050;
}

/// Control and status (32 bits).
pub mod control {
    /// Read-write: [`super::Control`].
    pub const CONTROL: u64 = 0x1000;
    /// Read-only: [`super::CardStatus`].
    pub const STATUS: u64 = 0x1004;
    /// Read-only: counts up while the card's data path is alive.
    pub const HEARTBEAT: u64 = 0x1008;
    /// First fatal error: [`super::FatalCause`].
    pub const ERROR_CAUSE: u64 = 0x100c;
    /// Detail of the first fatal error (the IOVA, for a DMA fault), 64 bits.
    pub const ERROR_INFO: u64 = 0x1010;
    /// Write-only: wakes a sleeping simulated card (any value); no effect on one that never sleeps.
    pub const WAKE: u64 = 0x1018;
    /// Read-only: errors noted since reset, see [`crate::admin::Opcode::ErrorLog`].
    pub const ERRORS_LOGGED: u64 = 0x101c;
}

/// Interrupt moderation (32 bits for each vector, at `MODERATION + 4 * vector`).
pub mod interrupt {
    /// Read-write: at most one interrupt of the vector in so many microseconds (low half), unless
    /// so many completions are waiting (high half; 0 is no such limit). 0 is no moderation.
    pub const MODERATION: u64 = 0x2000;
    /// Vectors that have a register.
    pub const VECTORS: u64 = 65;
}

/// Admin queue (set while the card is not enabled).
pub mod admin_queue {
    /// IOVA of the submission ring, 64 bits.
    pub const SUBMISSION_BASE: u64 = 0x3000;
    /// IOVA of the completion ring, 64 bits.
    pub const COMPLETION_BASE: u64 = 0x3008;
    /// Entries of both rings: a power of two, 2..=256.
    pub const DEPTH: u64 = 0x3010;
    /// Write-only doorbell: entries submitted so far, modulo 2^16.
    pub const TAIL: u64 = 0x3014;
}

/// Counters since reset (read-only, 64 bits each; the low half latches the high one).
pub mod statistics {
    /// Packets sealed.
    pub const SEALED: u64 = 0x4000;
    /// Octets of inner packets sealed.
    pub const SEALED_BYTES: u64 = 0x4008;
    /// Packets opened.
    pub const OPENED: u64 = 0x4010;
    /// Octets of inner packets opened.
    pub const OPENED_BYTES: u64 = 0x4018;
    /// Operations completed with an error.
    pub const ERRORS: u64 = 0x4020;
    /// Accesses to memory that was not mapped for the card.
    pub const DMA_FAULTS: u64 = 0x4028;
    /// SAs active now.
    pub const SAS: u64 = 0x4030;
    /// Malformed descriptors and admin commands.
    pub const BAD_DESCRIPTORS: u64 = 0x4038;
    /// Interrupts fired.
    pub const INTERRUPTS: u64 = 0x4040;
}

/// Event queue (set while the card is not enabled).
pub mod event_queue {
    /// IOVA of the ring, 64 bits.
    pub const BASE: u64 = 0x5000;
    /// Entries: a power of two, 2..=4096; 0 for none.
    pub const DEPTH: u64 = 0x5008;
    /// Write-only: entries consumed so far, modulo 2^16.
    pub const HEAD: u64 = 0x500c;
    /// Read-only: events that found no room.
    pub const DROPPED: u64 = 0x5010;
}

/// Keys on their way in, which no memory of the host has to hold
/// ([`crate::context::FLAG_MAILBOX`]).
pub mod key_mailbox {
    /// Write-only, reads as zero: octets 4n to 4n + 3 of a key.
    pub const KEY: u64 = 0x6000;
    /// Words that have a register.
    pub const WORDS: u64 = 8;
    /// Write-only, reads as zero: the salt.
    pub const SALT: u64 = 0x6020;
    /// Write-only. The first of those that are set counts: [`super::MailboxCommand`].
    pub const COMMAND: u64 = 0x6024;
    /// Read-only: what it holds: [`super::MailboxState`].
    pub const STATUS: u64 = 0x6028;
}

/// Offsets in a queue pair's doorbell page (32 bits each, in cache lines of their own).
pub mod doorbell {
    /// Host writes: submissions so far, modulo 2^32.
    pub const TAIL: u64 = 0x0000;
    /// Host writes: completions consumed so far, modulo 2^32.
    pub const HEAD: u64 = 0x0040;
    /// Host writes: 1 to ask for an interrupt when a completion beyond [`HEAD`] is there; the card
    /// writes 0 when it fires.
    pub const ARM: u64 = 0x0080;
    /// Card writes: 1 before it sleeps, 0 when it polls. The host, after writing [`TAIL`] or
    /// [`ARM`] and a full fence, writes [`super::control::WAKE`] if it reads 1 here. Always 0 in
    /// hardware.
    pub const SLEEPING: u64 = 0x00c0;
}

bitflags! {
    /// [`identity::FEATURES`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CardFeatures: u32 {
        /// Extended sequence numbers.
        const ESN = 1 << 0;
        /// Tunnel mode.
        const TUNNEL = 1 << 1;
        /// Transport mode.
        const TRANSPORT = 1 << 2;
        /// Writes and strips outer headers.
        const OUTER_HEADERS = 1 << 3;
        /// Outer IPv6.
        const OUTER_IPV6 = 1 << 4;
        /// UDP encapsulation.
        const UDP_ENCAPSULATION = 1 << 5;
        /// Explicit number and IV by descriptor.
        const EXPLICIT_NUMBERING = 1 << 6;
        /// Lifetimes and their events.
        const LIFETIMES = 1 << 7;
        /// The card may sleep: heed [`doorbell::SLEEPING`]. Never set by hardware.
        const SLEEPS = 1 << 8;
        /// Injects faults (simulator).
        const FAULT_INJECTION = 1 << 9;
        /// Moderates interrupts: [`interrupt::MODERATION`].
        const MODERATION = 1 << 10;
        /// Serves queues by priority.
        const PRIORITIES = 1 << 11;
        /// Has ports of its own, and rules between them and its SAs: inline mode.
        const INLINE = 1 << 12;
        /// Seals and opens nothing, for measuring: a driver carries no traffic on it.
        const NULL_CRYPTO = 1 << 13;
        /// Takes keys by [`key_mailbox::KEY`].
        const KEY_MAILBOX = 1 << 14;
    }

    /// [`control::CONTROL`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Control: u32 {
        /// Queues and events run. Clearing it stops and drains them; SAs stay.
        const ENABLE = 1 << 0;
        /// Back to power-on: queues gone, SAs gone, keys zeroised. Clears itself.
        const RESET = 1 << 1;
        /// SAs gone and keys zeroised; queues go on. Clears itself.
        const ZEROISE = 1 << 2;
        /// The driver is another one: queue pairs gone, admin and event queue unset; SAs, rules and
        /// inline traffic go on. Clears itself.
        const DETACH = 1 << 3;
    }

    /// [`control::STATUS`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CardStatus: u32 {
        /// Enabled and running.
        const READY = 1 << 0;
        /// A fatal error: see [`control::ERROR_CAUSE`]; only a reset helps.
        const FATAL = 1 << 1;
        /// A reset is under way.
        const RESETTING = 1 << 2;
    }

    /// [`key_mailbox::COMMAND`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MailboxCommand: u32 {
        /// Zeroises the mailbox.
        const CLEAR = 1 << 0;
        /// A key of 32 octets is there: refused unless all words and the salt were written since it
        /// was empty.
        const LOAD_256 = 1 << 1;
        /// A key of 16 octets, likewise with four words.
        const LOAD_128 = 1 << 2;
    }
}

/// [`control::ERROR_CAUSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FatalCause {
    /// No error.
    None = 0,
    /// The admin queue's memory is not reachable.
    AdminDma = 1,
    /// The event queue's memory is not reachable.
    EventDma = 2,
    /// A register was set to nonsense at enable.
    Configuration = 3,
    /// Bus mastering is off.
    BusMaster = 4,
}

impl FatalCause {
    /// The one with this code.
    pub fn from_code(code: u32) -> Option<Self> {
        use FatalCause::*;
        [None, AdminDma, EventDma, Configuration, BusMaster]
            .into_iter()
            .find(|member| *member as u32 == code)
    }
}

/// [`key_mailbox::STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MailboxState {
    /// No key, or not all of one.
    Empty = 0,
    /// A key of 16 octets.
    Key128 = 1,
    /// A key of 32 octets.
    Key256 = 2,
    /// A load was refused: words had not been written. It is empty.
    Incomplete = 3,
}

impl MailboxState {
    /// The one with this code.
    pub fn from_code(code: u32) -> Option<Self> {
        use MailboxState::*;
        [Empty, Key128, Key256, Incomplete]
            .into_iter()
            .find(|member| *member as u32 == code)
    }
}

/// A register of [`REGISTER_BAR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// The module that its offset's constant is in.
    pub group: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Of the first one.
    pub offset: u64,
    /// 64 bits, not 32.
    pub wide: bool,
    /// It can be read.
    pub readable: bool,
    /// How many there are, one behind the other.
    pub count: u64,
}

const fn named(
    group: &'static str,
    name: &'static str,
    offset: u64,
    wide: bool,
    readable: bool,
    count: u64,
) -> Register {
    Register {
        group,
        name,
        offset,
        wide,
        readable,
        count,
    }
}

/// The registers of [`REGISTER_BAR`].
#[rustfmt::skip]
pub const REGISTERS: [Register; 46] = [
    named("identity", "MAGIC", identity::MAGIC, false, true, 1),
    named("identity", "VERSION", identity::VERSION, false, true, 1),
    named("identity", "BUILD", identity::BUILD, true, true, 1),
    named("identity", "SUITES", identity::SUITES, true, true, 1),
    named("identity", "FEATURES", identity::FEATURES, false, true, 1),
    named("identity", "MAX_SAS", identity::MAX_SAS, false, true, 1),
    named("identity", "MAX_QUEUES", identity::MAX_QUEUES, false, true, 1),
    named("identity", "MAX_DEPTH", identity::MAX_DEPTH, false, true, 1),
    named("identity", "MAX_PACKET", identity::MAX_PACKET, false, true, 1),
    named("identity", "MAX_WINDOW", identity::MAX_WINDOW, false, true, 1),
    named("identity", "VECTORS", identity::VECTORS, false, true, 1),
    named("identity", "TIME", identity::TIME, true, true, 1),
    named("identity", "PORTS", identity::PORTS, false, true, 1),
    named("identity", "FUNCTION", identity::FUNCTION, false, true, 1),
    named("identity", "FUNCTIONS", identity::FUNCTIONS, false, true, 1),
    named("identity", "MAX_GATHER", identity::MAX_GATHER, false, true, 1),
    named("identity", "MAX_RULES", identity::MAX_RULES, false, true, 1),
    named("control", "CONTROL", control::CONTROL, false, true, 1),
    named("control", "STATUS", control::STATUS, false, true, 1),
    named("control", "HEARTBEAT", control::HEARTBEAT, false, true, 1),
    named("control", "ERROR_CAUSE", control::ERROR_CAUSE, false, true, 1),
    named("control", "ERROR_INFO", control::ERROR_INFO, true, true, 1),
    named("control", "WAKE", control::WAKE, false, false, 1),
    named("control", "ERRORS_LOGGED", control::ERRORS_LOGGED, false, true, 1),
    named("interrupt", "MODERATION", interrupt::MODERATION, false, true, 65),
    named("admin_queue", "SUBMISSION_BASE", admin_queue::SUBMISSION_BASE, true, true, 1),
    named("admin_queue", "COMPLETION_BASE", admin_queue::COMPLETION_BASE, true, true, 1),
    named("admin_queue", "DEPTH", admin_queue::DEPTH, false, true, 1),
    named("admin_queue", "TAIL", admin_queue::TAIL, false, false, 1),
    named("statistics", "SEALED", statistics::SEALED, true, true, 1),
    named("statistics", "SEALED_BYTES", statistics::SEALED_BYTES, true, true, 1),
    named("statistics", "OPENED", statistics::OPENED, true, true, 1),
    named("statistics", "OPENED_BYTES", statistics::OPENED_BYTES, true, true, 1),
    named("statistics", "ERRORS", statistics::ERRORS, true, true, 1),
    named("statistics", "DMA_FAULTS", statistics::DMA_FAULTS, true, true, 1),
    named("statistics", "SAS", statistics::SAS, true, true, 1),
    named("statistics", "BAD_DESCRIPTORS", statistics::BAD_DESCRIPTORS, true, true, 1),
    named("statistics", "INTERRUPTS", statistics::INTERRUPTS, true, true, 1),
    named("event_queue", "BASE", event_queue::BASE, true, true, 1),
    named("event_queue", "DEPTH", event_queue::DEPTH, false, true, 1),
    named("event_queue", "HEAD", event_queue::HEAD, false, false, 1),
    named("event_queue", "DROPPED", event_queue::DROPPED, false, true, 1),
    named("key_mailbox", "KEY", key_mailbox::KEY, false, false, 8),
    named("key_mailbox", "SALT", key_mailbox::SALT, false, false, 1),
    named("key_mailbox", "COMMAND", key_mailbox::COMMAND, false, false, 1),
    named("key_mailbox", "STATUS", key_mailbox::STATUS, false, true, 1),
];
