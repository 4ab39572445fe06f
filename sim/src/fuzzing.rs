// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entry points for fuzzing: a hostile driver's commands and descriptors.

use std::sync::Arc;
use std::time::Instant;

use fpga_regs::admin::Command;
use fpga_regs::descriptor::{MAX_BUFFER, Submission};
use fpga_regs::registers::{
    Control, DEVICE_ID, DOORBELL_BAR, MSIX_BAR, REGISTER_BAR, VENDOR_ID, admin_queue,
};
use rustix::fs::MemfdFlags;
use vfio_user::message::REGION_CONFIG;
use vfio_user::server::{Backend, DmaMapping};
use zerocopy::FromBytes;

use crate::backend::PciBackend;
use crate::card::{Bell, Card, FunctionConfig};
use crate::fault::FaultPlan;
use crate::submission::{self, Place};
use crate::{admin, datapath};

/// Octets of the driver's memory.
const MEMORY: u64 = 1 << 16;

/// A card, and a driver's memory with these octets in it.
fn card_with_memory(octets: &[u8]) -> Option<Arc<Card>> {
    let function = FunctionConfig {
        number: 0,
        of: 1,
        queues: 8,
        max_sas: 64,
        faults: FaultPlan::default(),
        polls: false,
        null_crypto: false,
        paced: false,
        rtl: None,
    };
    let card = Card::new(function, Arc::new(Bell::new().ok()?)).ok()?;
    let fd = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC).ok()?;
    rustix::fs::ftruncate(&fd, MEMORY).ok()?;
    let mapping = DmaMapping {
        address: 0,
        size: MEMORY,
        readable: true,
        writable: true,
        memory: Some((fd, 0)),
    };
    let mut core = card.lock();
    core.dma.map(mapping).ok()?;
    core.dma.set_enabled(true);
    let fits = octets.get(..0xe000).unwrap_or(octets);
    core.dma.write(0x1000, fits).ok()?;
    drop(core);
    Some(Arc::new(card))
}

/// Fills a driver's memory with these octets and has the card run the commands and descriptors that
/// they make.
pub fn driver(octets: &[u8]) {
    let Some(card) = card_with_memory(octets) else {
        return;
    };
    let mut core = card.lock();
    core.admin.submissions = 0x1000;
    core.admin.completions = 0x800;
    core.write_register(admin_queue::DEPTH, 16);
    core.set_control(Control::ENABLE);
    admin::run(&card, &mut core, 16);
    let mut buffer = vec![0; MAX_BUFFER as usize];
    let now = Instant::now();
    let place = Place {
        queue: 0,
        position: 0,
    };
    for descriptor in octets.chunks_exact(size_of::<Submission>()).take(64) {
        if let Ok(submission) = Submission::read_from_bytes(descriptor) {
            let _ = submission::process(&mut core, place, &submission, &mut buffer, now);
        }
    }
    core.report(now);
    const _: () = assert!(size_of::<Command>() == 64);
}

/// A driver that reads and writes the card's regions as these octets say, in its memory and out of it:
/// configuration space, registers, doorbells, MSI-X table. The data side works in between.
pub fn regions(octets: &[u8]) {
    let Some(card) = card_with_memory(octets) else {
        return;
    };
    let mut backend = PciBackend::new(card.clone());
    let mut buffer = vec![0; MAX_BUFFER as usize];
    let mut rest = octets;
    while let [what, low, high, len, behind @ ..] = rest {
        let region = match what % 4 {
            0 => REGION_CONFIG,
            1 => REGISTER_BAR,
            2 => DOORBELL_BAR,
            _ => MSIX_BAR,
        };
        let (mut offset, mut len) = (u64::from(u16::from_le_bytes([*low, *high])), len % 17);
        // Most accesses are of whole words, as others are refused.
        if what & 0x20 == 0 {
            (offset, len) = (offset & !3, len & !3);
        }
        // What the server promises: the access lies within the region.
        let size = backend.region(region).size;
        let (offset, len) = (offset % size, u64::from(len));
        let len = len.min(size - offset) as usize;
        let data = behind.get(..len).unwrap_or(behind);
        rest = behind.get(data.len()..).unwrap_or_default();
        if what & 0x80 == 0 {
            let _ = backend.region_write(region, offset, data);
        } else {
            let mut data = data.to_vec();
            let _ = backend.region_read(region, offset, &mut data);
        }
        if what & 0x40 != 0 {
            datapath::round(&card, &mut buffer);
        }
    }
    let mut id = [0; 4];
    let read = backend.region_read(REGION_CONFIG, 0, &mut id);
    let expected = u32::from(DEVICE_ID) << 16 | u32::from(VENDOR_ID);
    assert_eq!((read, u32::from_le_bytes(id)), (Ok(()), expected));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn octets_of_a_driver_break_no_card(octets in prop::collection::vec(any::<u8>(), 0..4000)) {
            super::driver(&octets);
        }

        #[test]
        fn accesses_of_a_driver_break_no_card(
            octets in prop::collection::vec(any::<u8>(), 0..4000),
        ) {
            super::regions(&octets);
        }
    }
}
