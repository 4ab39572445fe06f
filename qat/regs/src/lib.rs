// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an Intel QAT virtual function and its driver say to each other: ids, ring registers, messages
//! to the physical function, requests, responses and content descriptors.
//!
//! Facts of public drivers (DPDK's and Linux's), in names of our own. Everything is little endian
//! where nothing else is said.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod csr;
pub mod descriptor;
pub mod mailbox;
pub mod message;
pub mod pfvf;

/// Intel.
pub const VENDOR_ID: u16 = 0x8086;
/// Class code: an encryption controller of another kind (base 0x0b, sub 0x40: co-processor).
pub const CLASS_CODE: u32 = 0x0b_4000;
/// BAR of the ring registers.
pub const RING_BAR: u32 = 0;
/// BAR of the messages to the physical function.
pub const MISC_BAR: u32 = 2;

/// Generations that differ for a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// C62x and its like, and the one before: sixteen rings in one bundle, AES-GCM by two slices.
    Gen2,
    /// 4xxx: a bundle a ring pair, single-pass AEADs, a physical function to talk to.
    Gen4,
    /// A virtual QAT: as 4xxx, without anybody to talk to.
    Virtual,
}

/// A device that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownDevice {
    /// PCI device id.
    pub device: u16,
    /// Its generation.
    pub generation: Generation,
    /// What it is called.
    pub name: &'static str,
}

/// Virtual functions that are known.
pub const KNOWN_DEVICES: [KnownDevice; 8] = [
    KnownDevice {
        device: 0x4941,
        generation: Generation::Gen4,
        name: "Intel QAT 4xxx virtual function",
    },
    KnownDevice {
        device: 0x4943,
        generation: Generation::Gen4,
        name: "Intel QAT 401xx virtual function",
    },
    KnownDevice {
        device: 0x4945,
        generation: Generation::Gen4,
        name: "Intel QAT 402xx virtual function",
    },
    KnownDevice {
        device: 0x0da5,
        generation: Generation::Virtual,
        name: "Intel virtual QAT",
    },
    KnownDevice {
        device: 0x37c9,
        generation: Generation::Gen2,
        name: "Intel QAT C62x virtual function",
    },
    KnownDevice {
        device: 0x19e3,
        generation: Generation::Gen2,
        name: "Intel QAT C3xxx virtual function",
    },
    KnownDevice {
        device: 0x6f55,
        generation: Generation::Gen2,
        name: "Intel QAT D15xx virtual function",
    },
    KnownDevice {
        device: 0x0443,
        generation: Generation::Gen2,
        name: "Intel QAT DH895xCC virtual function",
    },
];

/// The known device with this id.
pub fn known_device(vendor: u16, device: u16) -> Option<&'static KnownDevice> {
    let mut known = KNOWN_DEVICES.iter();
    known.find(|known| vendor == VENDOR_ID && known.device == device)
}
