// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that the card reaches, or does not: shared, asked for, too short, too much, taken away.
#![allow(clippy::unwrap_used)]

mod raw;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use fpga_regs::context::FLAG_OUTBOUND;
use fpga_regs::registers::{MSIX_BAR, MSIX_PENDING, doorbell, statistics};
use offload_api::queue::Status;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use vfio_user::Error;
use vfio_user::message::{IRQ_MSIX, REGION_CONFIG};

use raw::*;

fn memory(size: u64) -> OwnedFd {
    let memory = rustix::fs::memfd_create("more", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, size).unwrap();
    memory
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Errno {
    match result {
        Err(Error::Refused { errno, .. }) => errno,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_packet_goes_through_memory_that_is_only_asked_for() {
    let rig = Rig::new();
    let raw = Raw::attach_private(&rig);
    raw.enable();
    let mut raw = raw.with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 100));
    let open = raw.add(&sa(0, 0));
    for round in 0..20 {
        let packet = inner(round * 40);
        raw.poke(BUFFERS + 128, &packet);
        let sealed = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!(sealed.status, Status::Ok as u8);
        let len = sealed.len.get() as usize;
        let opened = raw.run(&submission(open, BUFFERS, sealed.offset.get(), len));
        assert_eq!(opened.status, Status::Ok as u8);
        let at = BUFFERS + u64::from(opened.offset.get());
        assert_eq!(raw.octets(at, opened.len.get() as usize), packet);
    }
    // What the driver does not give only faults.
    let mut work = submission(seal, BUFFERS, 128, 64);
    work.buffer = (IOVA + SIZE - 64).into();
    assert_eq!(raw.run(&work).status, Status::DmaFault as u8);
    rig.end();
}

#[test]
fn v01_a_client_killed_amid_dma_leaves_a_card_for_the_next_one() {
    let rig = Rig::new();
    for private in [true, false, true] {
        let raw = if private {
            Raw::attach_private(&rig)
        } else {
            Raw::attach(&rig)
        };
        raw.enable();
        let mut raw = raw.with_queue();
        let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
        raw.poke(BUFFERS + 128, &inner(1000));
        for _ in 0..DEPTH / 2 {
            raw.submit(&submission(seal, BUFFERS, 128, 1020));
        }
        // Nobody answers the card's questions any more.
        drop(raw);
        let started = Instant::now();
        let next = Raw::enabled(&rig);
        assert_eq!(next.read_register(statistics::SAS), 0);
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "private: {private}"
        );
    }
    rig.end();
}

#[test]
fn v01_memory_shorter_than_said_is_refused() {
    let rig = Rig::new();
    let raw = Raw::attach(&rig);
    let short = memory(0x2000);
    let map = |size, offset| {
        let at = 0x9000_0000;
        raw.client.dma_map(at, size, short.as_fd(), offset)
    };
    assert_eq!(refusal(map(0x3000, 0)), Errno::INVAL);
    assert_eq!(refusal(map(0x1000, 0x2000)), Errno::INVAL);
    assert_eq!(refusal(map(0x2000, 0x1000)), Errno::INVAL);
    map(0x2000, 0).unwrap();
    rig.end();
}

#[test]
fn v01_what_is_no_memory_is_refused() {
    let rig = Rig::new();
    let raw = Raw::attach(&rig);
    let (reader, _writer) = std::io::pipe().unwrap();
    let event = eventfd(0, EventfdFlags::empty()).unwrap();
    let null = std::fs::File::open("/dev/zero").unwrap();
    for fd in [reader.as_fd(), event.as_fd(), null.as_fd()] {
        let refused = raw.client.dma_map(0x9000_0000, 0x1000, fd, 0);
        assert_eq!(refusal(refused), Errno::INVAL);
    }
    raw.enable();
    rig.end();
}

#[test]
fn d15_mappings_do_not_overlap_and_their_number_ends() {
    let rig = Rig::new();
    let raw = Raw::attach(&rig);
    let more = memory(0x3000);
    let map = |address| raw.client.dma_map(address, 0x3000, more.as_fd(), 0);
    for overlapping in [IOVA - 0x2000, IOVA, IOVA + 0x1000, IOVA + SIZE - 0x1000] {
        assert_eq!(refusal(map(overlapping)), Errno::EXIST, "{overlapping:#x}");
    }
    map(IOVA - 0x3000).unwrap();
    map(IOVA + SIZE).unwrap();
    // Files that are reached by calls cost the card a descriptor each, mappings of one file just one.
    for page in 0..2000 {
        map(0x10_0000_0000 + page * 0x3000).unwrap();
    }
    let mut taken = 0;
    let full = loop {
        let other = memory(0x1000);
        let at = 0x20_0000_0000 + taken * 0x1000;
        match raw.client.dma_map(at, 0x1000, other.as_fd(), 0) {
            Ok(()) => taken += 1,
            refused => break refusal(refused),
        }
        assert!(taken < 1000, "no end");
    };
    assert_eq!(full, Errno::NOSPC);
    raw.client
        .dma_unmap(0x20_0000_0000, taken * 0x1000)
        .unwrap();
    let other = memory(0x1000);
    raw.client
        .dma_map(0x20_0000_0000, 0x1000, other.as_fd(), 0)
        .unwrap();
    rig.end();
}

#[test]
fn d15_an_unmap_with_work_in_flight_is_the_end_of_every_access() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let buffers = memory(SIZE);
    let far = 0x9000_0000;
    raw.client.dma_map(far, SIZE, buffers.as_fd(), 0).unwrap();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(1400);
    for slot in 0..DEPTH / 2 {
        let at = slot * u64::from(ROOM);
        rustix::io::pwrite(&buffers, &packet, at + 128).unwrap();
        let mut work = submission(seal, 0, 128, packet.len());
        work.buffer = (far + at).into();
        raw.submit(&work);
    }
    raw.client.dma_unmap(far, SIZE).unwrap();
    // From here on the card must not write: what it had sealed is sealed, the rest stays as it is.
    let mut seen = vec![0; SIZE as usize];
    rustix::io::pread(&buffers, &mut seen[..], 0).unwrap();
    let mut faults = 0;
    for _ in 0..DEPTH / 2 {
        let status = raw.await_completion().status;
        assert!(
            [Status::Ok as u8, Status::DmaFault as u8].contains(&status),
            "{status}"
        );
        faults += u32::from(status == Status::DmaFault as u8);
    }
    let mut after = vec![0; SIZE as usize];
    rustix::io::pread(&buffers, &mut after[..], 0).unwrap();
    assert!(
        seen == after,
        "the card wrote behind the unmap ({faults} faults)"
    );
    rig.end();
}

#[test]
fn a_masked_vector_is_pending_and_fires_once_when_unmasked() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let vectors: Vec<OwnedFd> = (0..3)
        .map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap())
        .collect();
    let borrowed: Vec<_> = vectors.iter().map(AsFd::as_fd).collect();
    let control = |raw: &Raw| {
        let mut octets = [0; 4];
        raw.client
            .region_read(MSIX_BAR, 16 + 12, &mut octets)
            .unwrap();
        u32::from_le_bytes(octets)
    };
    let pending = |raw: &Raw| {
        let mut octets = [0; 8];
        raw.client
            .region_read(MSIX_BAR, MSIX_PENDING, &mut octets)
            .unwrap();
        u64::from_le_bytes(octets)
    };
    let count = || {
        let mut count = [0; 8];
        rustix::io::read(&vectors[1], &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    };
    assert_eq!(control(&raw), 1, "masked before it is wired");
    raw.client.set_irqs(IRQ_MSIX, 0, &borrowed).unwrap();
    assert_eq!(control(&raw), 0);
    let armed = |raw: &mut Raw| {
        raw.poke(BUFFERS + 128, &inner(64));
        raw.ring(0, doorbell::ARM, 1);
        raw.run(&submission(seal, BUFFERS, 128, 84));
        let start = Instant::now();
        while pending(raw) == 0 && start.elapsed() < Duration::from_millis(50) {}
    };
    raw.client
        .region_write(MSIX_BAR, 16 + 12, &[1, 0, 0, 0])
        .unwrap();
    armed(&mut raw);
    armed(&mut raw);
    assert_eq!((count(), pending(&raw)), (0, 1 << 1));
    // Pending bits can't be written.
    raw.client
        .region_write(MSIX_BAR, MSIX_PENDING, &[0; 8])
        .unwrap();
    assert_eq!(pending(&raw), 1 << 1);
    raw.client.region_write(MSIX_BAR, 16 + 12, &[0; 4]).unwrap();
    assert_eq!((count(), pending(&raw)), (1, 0));
    // The same for all vectors, by the capability (at 0x40) in the configuration space.
    raw.client
        .region_write(REGION_CONFIG, 0x43, &[0x40])
        .unwrap();
    armed(&mut raw);
    assert_eq!((count(), pending(&raw)), (0, 1 << 1));
    raw.client.region_write(REGION_CONFIG, 0x43, &[0]).unwrap();
    assert_eq!(count(), 1);
    rig.end();
}
