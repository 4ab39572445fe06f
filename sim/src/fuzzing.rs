// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entry points for fuzzing: a hostile driver's commands and descriptors.

use std::sync::Arc;
use std::time::Instant;

use fpga_regs::admin::Command;
use fpga_regs::descriptor::{MAX_BUFFER, Submission};
use fpga_regs::registers::{Control, admin_queue};
use rustix::fs::MemfdFlags;
use vfio_user::server::DmaMapping;
use zerocopy::FromBytes;

use crate::card::{Bell, Card, FunctionConfig};
use crate::datapath::Place;
use crate::fault::FaultPlan;
use crate::{admin, datapath};

/// Octets of the driver's memory.
const MEMORY: u64 = 1 << 16;

/// Fills a driver's memory with these octets and has the card run the commands and descriptors that
/// they make.
pub fn driver(octets: &[u8]) {
    let Ok(bell) = Bell::new() else {
        return;
    };
    let function = FunctionConfig {
        number: 0,
        of: 1,
        queues: 8,
        max_sas: 64,
        faults: FaultPlan::default(),
        polls: false,
        null_crypto: false,
    };
    let Ok(card) = Card::new(function, Arc::new(bell)) else {
        return;
    };
    let Ok(fd) = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC) else {
        return;
    };
    if rustix::fs::ftruncate(&fd, MEMORY).is_err() {
        return;
    }
    let mut core = card.lock();
    let memory = Some((fd, 0));
    let mapping = DmaMapping {
        address: 0,
        size: MEMORY,
        readable: true,
        writable: true,
        memory,
    };
    if core.dma.map(mapping).is_err() {
        return;
    }
    core.dma.set_enabled(true);
    let _ = core
        .dma
        .write(0x1000, octets.get(..0xe000).unwrap_or(octets));
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
            let _ = datapath::process(&mut core, place, &submission, &mut buffer, now);
        }
    }
    core.report(now);
    const _: () = assert!(size_of::<Command>() == 64);
}
