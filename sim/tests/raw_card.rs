// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card driven by hand, by a driver that means it no good.
#![allow(clippy::unwrap_used)]

mod raw;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use fpga_regs::admin::{Command, CommandStatus, Opcode};
use fpga_regs::context::{FLAG_EXPLICIT as SA_EXPLICIT, FLAG_OUTBOUND};
use fpga_regs::descriptor::{
    Completion, Event, EventKind, FLAG_EXPLICIT, OP_PROCESS, PHASE, Submission,
};
use fpga_regs::registers::{
    CardStatus, Control, FatalCause, MSIX_BAR, admin_queue, control, doorbell, event_queue,
    identity, statistics,
};
use offload_api::queue::Status;
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use vfio_user::Error;
use vfio_user::message::{IRQ_MSIX, REGION_CONFIG};
use zerocopy::{FromBytes, IntoBytes};

use raw::*;

#[test]
fn a_packet_goes_through_rings_laid_by_hand() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let open = raw.add(&sa(0, 0));
    for round in 0..100u64 {
        let packet = inner(round as usize * 9);
        raw.poke(BUFFERS + 128, &packet);
        let mut work = submission(seal, BUFFERS, 128, packet.len());
        work.slot = 7.into();
        work.slot_generation = (round as u32).into();
        let sealed = raw.run(&work);
        assert_eq!(sealed.status, Status::Ok as u8);
        assert_eq!(
            (sealed.slot.get(), sealed.slot_generation.get()),
            (7, round as u32)
        );
        assert_eq!(sealed.sequence.get(), round + 1);
        let len = sealed.len.get() as usize;
        let wire = raw.octets(BUFFERS + u64::from(sealed.offset.get()), len);
        // RFC 4303 section 2: SPI, then the number.
        assert_eq!(wire[..4], 0x1234_5678u32.to_be_bytes());
        assert_eq!(wire[4..8], (round as u32 + 1).to_be_bytes());
        assert!(!wire.windows(16).any(|w| w == [0x5a; 16]), "plaintext out");
        let opened = raw.run(&submission(open, BUFFERS, sealed.offset.get(), len));
        assert_eq!((opened.status, opened.next_header), (Status::Ok as u8, 4));
        let at = BUFFERS + u64::from(opened.offset.get());
        assert_eq!(raw.octets(at, opened.len.get() as usize), packet);
        // The same packet again: it was opened in place, so it is sealed octets no more.
        raw.poke(BUFFERS + u64::from(sealed.offset.get()), &wire);
        let again = raw.run(&submission(open, BUFFERS, sealed.offset.get(), len));
        assert_eq!(again.status, Status::Replayed as u8);
    }
    rig.end();
}

#[test]
fn the_card_stops_at_its_grant_and_tells_by_event_and_vector() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let vectors: Vec<OwnedFd> = (0..3)
        .map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap())
        .collect();
    let borrowed: Vec<_> = vectors.iter().map(AsFd::as_fd).collect();
    raw.client.set_irqs(IRQ_MSIX, 0, &borrowed).unwrap();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 8));
    let packet = inner(64);
    raw.ring(0, doorbell::ARM, 1);
    for number in 1..=10 {
        raw.poke(BUFFERS + 128, &packet);
        let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        if number <= 8 {
            assert_eq!((done.status, done.sequence.get()), (0, number));
        } else {
            assert_ne!(done.status, Status::Ok as u8);
            assert_eq!(done.len.get(), 0);
            assert_eq!(raw.octets(BUFFERS + 128, packet.len()), packet);
        }
    }
    let event: Event = raw.peek(EVENTS);
    assert_eq!(
        (event.kind, event.phase),
        (EventKind::GrantLow as u8, PHASE)
    );
    let mut count = [0; 8];
    rustix::io::read(&vectors[0], &mut count).unwrap();
    rustix::io::read(&vectors[1], &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1, "armed once, fired once");
    assert_eq!(
        rustix::io::read(&vectors[2], &mut count),
        Err(Errno::AGAIN),
        "another queue's vector"
    );
    rig.end();
}

#[test]
fn memory_is_reached_only_where_mapped_and_with_bus_mastering_on() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let fault = Status::DmaFault as u8;
    let len = inner(64).len();
    for outside in [SIZE - 100, SIZE, 0u64.wrapping_sub(IOVA), u64::MAX / 2] {
        let mut work = submission(seal, BUFFERS, 128, len);
        work.buffer = IOVA.wrapping_add(outside).into();
        assert_eq!(raw.run(&work).status, fault, "{outside:#x}");
    }
    assert_eq!(raw.read_register(statistics::DMA_FAULTS), 4);
    raw.set_bus_master(false);
    raw.submit(&submission(seal, BUFFERS, 128, len));
    let start = Instant::now();
    while raw.read_register(statistics::DMA_FAULTS) == 4 {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let slot = u64::from(raw.taken) * size_of::<Completion>() as u64;
    assert_eq!(raw.octets(COMPLETIONS + slot, 32), [0; 32]);
    rig.end();
}

#[test]
fn memory_that_its_driver_cuts_off_only_faults() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let far = 0x9000_0000;
    let memory = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 0x1_0000).unwrap();
    raw.client
        .dma_map(far, 0x1_0000, memory.as_fd(), 0)
        .unwrap();
    let packet = inner(64);
    rustix::io::pwrite(&memory, &packet, 0x2080).unwrap();
    let mut work = submission(seal, BUFFERS, 128, packet.len());
    work.buffer = (far + 0x2000).into();
    assert_eq!(raw.run(&work).status, Status::Ok as u8);
    rustix::fs::ftruncate(&memory, 0x1000).unwrap();
    assert_eq!(raw.run(&work).status, Status::DmaFault as u8);
    rig.end();
}

#[test]
fn registers_do_not_answer_without_memory_space_and_no_card_starts_without_bus_mastering() {
    let rig = Rig::new();
    let raw = Raw::attach(&rig);
    let command = |bits: u8| {
        raw.client
            .region_write(REGION_CONFIG, 4, &[bits, 0])
            .unwrap()
    };
    command(4);
    assert_eq!(raw.read_register(identity::MAGIC), u32::MAX);
    raw.register(control::CONTROL, Control::RESET.bits());
    command(2);
    assert_ne!(raw.read_register(identity::MAGIC), u32::MAX);
    raw.wide(admin_queue::SUBMISSION_BASE, IOVA + ADMIN);
    raw.wide(admin_queue::COMPLETION_BASE, IOVA + ADMIN_DONE);
    raw.register(admin_queue::DEPTH, DEPTH as u32);
    raw.register(control::CONTROL, Control::ENABLE.bits());
    assert_eq!(raw.read_register(control::STATUS), CardStatus::FATAL.bits());
    let cause = raw.read_register(control::ERROR_CAUSE);
    assert_eq!(cause, FatalCause::BusMaster as u32);
    rig.end();
}

#[test]
fn an_unmap_of_part_of_a_mapping_is_refused() {
    let rig = Rig::new();
    let raw = Raw::attach(&rig);
    for (address, size) in [
        (IOVA, 0x1000),
        (IOVA + 0x1000, SIZE),
        (IOVA - 0x1000, 0x2000),
    ] {
        let refused = raw.client.dma_unmap(address, size);
        assert!(
            matches!(
                refused,
                Err(Error::Refused {
                    errno: Errno::INVAL,
                    ..
                })
            ),
            "{address:#x} {size:#x}: {refused:?}"
        );
    }
    raw.enable();
    raw.client.dma_unmap(IOVA, SIZE).unwrap();
    rig.end();
}

#[test]
fn rings_beyond_the_address_space_are_refused_and_unmapped_ones_only_fault() {
    const LAST: u64 = !63;
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig);
    let bad = CommandStatus::BadField as u8;
    assert_eq!(raw.create_queue(0, LAST, IOVA + COMPLETIONS), bad);
    assert_eq!(raw.create_queue(0, IOVA + SUBMISSIONS, LAST), bad);
    let unmapped = u64::MAX / 64 / 2 * 64;
    assert_eq!(raw.create_queue(0, unmapped, IOVA + COMPLETIONS), 0);
    assert_eq!(raw.create_queue(1, IOVA + SUBMISSIONS, unmapped), 0);
    raw.ring(1, doorbell::TAIL, 4);
    raw.ring(0, doorbell::TAIL, 4);
    for _ in 0..4 {
        assert_eq!(raw.await_completion().status, Status::DmaFault as u8);
    }
    for register in [
        admin_queue::SUBMISSION_BASE,
        admin_queue::COMPLETION_BASE,
        event_queue::BASE,
    ] {
        raw.register(control::CONTROL, Control::RESET.bits());
        raw.register(admin_queue::DEPTH, DEPTH as u32);
        raw.register(event_queue::DEPTH, DEPTH as u32);
        raw.wide(register, LAST);
        raw.register(control::CONTROL, Control::ENABLE.bits());
        let status = raw.read_register(control::STATUS);
        assert_eq!(status, CardStatus::FATAL.bits());
        let cause = raw.read_register(control::ERROR_CAUSE);
        assert_eq!(cause, FatalCause::Configuration as u32);
    }
    drop(raw);
    // The card still works for the next one.
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 10));
    raw.poke(BUFFERS + 128, &inner(10));
    let done = raw.run(&submission(seal, BUFFERS, 128, inner(10).len()));
    assert_eq!(done.status, Status::Ok as u8);
    rig.end();
}

#[test]
fn a_reset_amid_traffic_leaves_a_card_that_works() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let packet = inner(1400);
    for round in 0..8u64 {
        let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
        let buffers = 0..40u64;
        for number in buffers.clone() {
            raw.poke(BUFFERS + number * 2048 + 128, &packet);
            let at = SUBMISSIONS + number * size_of::<Submission>() as u64;
            let work = submission(seal, BUFFERS + number * 2048, 128, packet.len());
            raw.poke(at, work.as_bytes());
        }
        raw.ring(0, doorbell::TAIL, 40);
        // Before it has begun, and at several places within.
        std::thread::sleep(Duration::from_micros(300 * round));
        raw.register(control::CONTROL, Control::RESET.bits());
        let start = Instant::now();
        while CardStatus::from_bits_retain(raw.read_register(control::STATUS))
            .contains(CardStatus::RESETTING)
        {
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        for number in buffers {
            raw.poke(
                COMPLETIONS + number * size_of::<Completion>() as u64,
                &[0; size_of::<Completion>()],
            );
        }
        (raw.admin, raw.tail, raw.taken) = (0, 0, 0);
        raw.poke(ADMIN_DONE, &[0; 0x1000]);
        raw.enable();
        raw = raw.with_queue();
        assert_eq!(raw.read_register(statistics::SEALED), 0);
        // A handle from before is stale; a new one seals as ever.
        let stale = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!(stale.status, Status::SaStale as u8, "round {round}");
        let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
        raw.poke(BUFFERS + 128, &packet);
        let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!(
            (done.status, done.sequence.get()),
            (Status::Ok as u8, 1),
            "round {round}"
        );
    }
    rig.end();
}

#[test]
fn an_eventfd_that_would_block_holds_up_nobody() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig);
    let full = eventfd(0, EventfdFlags::empty()).unwrap();
    rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    raw.client.set_irqs(IRQ_MSIX, 0, &[full.as_fd()]).unwrap();
    assert_eq!(raw.command(command(Opcode::Nop, 0)).status, 0);
    drop(raw);
    let mut raw = Raw::enabled(&rig);
    assert_eq!(raw.command(command(Opcode::Nop, 0)).status, 0);
    rig.end();
}

/// By the PCI Express capability, as the host's bus driver does.
fn function_level_reset(raw: &Raw) {
    let mut at = [0x34];
    raw.client
        .region_read(REGION_CONFIG, 0x34, &mut at)
        .unwrap();
    let mut head = [0; 2];
    loop {
        raw.client
            .region_read(REGION_CONFIG, at[0].into(), &mut head)
            .unwrap();
        if head[0] == 0x10 {
            break;
        }
        assert_ne!(head[1], 0, "no PCI Express capability");
        at[0] = head[1];
    }
    raw.client
        .region_write(REGION_CONFIG, u64::from(at[0]) + 9, &[0x80])
        .unwrap();
}

#[test]
fn a_function_level_reset_clears_the_msix_table_and_a_reset_by_register_does_not() {
    let rig = Rig::new();
    let raw = Raw::enabled(&rig);
    let read = |raw: &Raw| {
        let mut entry = [0; 16];
        raw.client.region_read(MSIX_BAR, 16, &mut entry).unwrap();
        entry
    };
    let mut masked = [0; 16];
    masked[12] = 1;
    assert_eq!(read(&raw), masked, "at power-on");
    // An address and data, and not masked.
    let mut entry = [0x5c; 16];
    entry[12..].fill(0);
    raw.client.region_write(MSIX_BAR, 16, &entry).unwrap();
    assert_eq!(read(&raw), entry);
    raw.register(control::CONTROL, Control::RESET.bits());
    assert_eq!(read(&raw), entry, "the bus's");
    function_level_reset(&raw);
    raw.set_bus_master(true);
    assert_eq!(read(&raw), masked);
    rig.end();
}

#[test]
fn a_function_level_reset_ends_bus_mastering_and_everything_behind_it() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    raw.add(&sa(FLAG_OUTBOUND, 10));
    assert_eq!(raw.read_register(statistics::SAS), 1);
    assert!(raw.bus_master());
    function_level_reset(&raw);
    assert!(!raw.bus_master());
    raw.set_bus_master(true);
    assert_eq!(raw.read_register(statistics::SAS), 0);
    assert_eq!(raw.read_register(control::STATUS), 0);
    assert_eq!(raw.read_register(identity::MAX_SAS), 16);
    raw.admin = 0;
    raw.poke(0, &[0; 0x8000]);
    raw.enable();
    assert_eq!(raw.command(command(Opcode::Nop, 0)).status, 0);
    rig.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_descriptors_are_answered_and_touch_nothing_else(
        descriptors in prop::collection::vec(any::<[[u8; 16]; 4]>(), 1..40),
        kept in prop::collection::vec(any::<u8>(), 40),
    ) {
        let rig = Rig::new();
        let mut raw = Raw::enabled(&rig).with_queue();
        let seal = raw.add(&sa(FLAG_OUTBOUND | SA_EXPLICIT, 0));
        let open = raw.add(&sa(0, 0));
        let canary = 0xe0000;
        raw.poke(canary, &[0xc3; 4096]);
        for (octets, kept) in descriptors.iter().zip(kept) {
            let mut work = Submission::read_from_bytes(octets.as_flattened()).unwrap();
            // Some fields are good, so that the rest is looked at.
            if kept & 1 != 0 { work.opcode = OP_PROCESS; work.flags &= FLAG_EXPLICIT; }
            if kept & 2 != 0 {
                let sa = if kept & 4 != 0 { seal } else { open };
                (work.sa_index, work.sa_generation) = (sa.0.into(), sa.1.into());
            }
            if kept & 8 != 0 { work.buffer = (IOVA + BUFFERS).into(); }
            if kept & 16 != 0 { work.buffer_len = (work.buffer_len.get() % 17000).into(); }
            if kept & 32 != 0 { work.offset = (work.offset.get() % 2048).into(); }
            if kept & 64 != 0 { work.len = (work.len.get() % 4096).into(); }
            let done = raw.run(&work);
            prop_assert_eq!(done.slot, work.slot);
            prop_assert_eq!(done.slot_generation, work.slot_generation);
            prop_assert!(Status::from_code(done.status).is_some());
            let end = u64::from(done.offset.get()) + u64::from(done.len.get());
            prop_assert!(done.len.get() == 0 || end <= work.buffer_len.get().into());
        }
        prop_assert!(raw.octets(canary, 4096).iter().all(|octet| *octet == 0xc3));
        rig.end();
    }

    #[test]
    fn random_commands_are_answered(commands in prop::collection::vec(any::<[[u8; 16]; 4]>(), 1..40), kept: u64) {
        let rig = Rig::new();
        let mut raw = Raw::enabled(&rig);
        for (n, octets) in commands.iter().enumerate() {
            let mut work = Command::read_from_bytes(octets.as_flattened()).unwrap();
            work.opcode %= 12;
            if kept >> n & 1 != 0 {
                work.payload = (IOVA + PAYLOAD).into();
                work.index = (work.index.get() % 4).into();
            }
            let done = raw.command(work);
            prop_assert_eq!(done.id, work.id);
            prop_assert!(CommandStatus::from_code(done.status).is_some());
        }
        rig.end();
    }
}
