// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each event that docs/device-abi.md names comes, by the ring and its interrupt, from either model:
//! `RTL_CARD=1` runs this on the RTL.
#![allow(clippy::unwrap_used)]

mod raw;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use fpga_regs::admin::{CommandStatus, ErrorKind, Opcode};
use fpga_regs::context::{FLAG_OUTBOUND, Lifetimes, SaContext};
use fpga_regs::descriptor::{Event, EventKind, PHASE};
use fpga_regs::registers::{Control, control, doorbell, event_queue};
use offload_api::queue::Status;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vfio_user::message::IRQ_MSIX;
use zerocopy::{FromBytes, IntoBytes};

use raw::{BUFFERS, DEPTH, EVENTS, IOVA, PAYLOAD, Raw, Rig, command, inner, sa, submission};

/// Far more than any event takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The event ring as a driver reads it.
#[derive(Default)]
struct Ring {
    head: u64,
}

impl Ring {
    fn next(&mut self, raw: &Raw) -> Option<Event> {
        let at = EVENTS + self.head % DEPTH * size_of::<Event>() as u64;
        let event: Event = raw.peek(at);
        let phase = if (self.head / DEPTH).is_multiple_of(2) {
            PHASE
        } else {
            0
        };
        // All zero is what the ring holds before its first round.
        if event.phase != phase || event.kind == 0 {
            return None;
        }
        self.head += 1;
        raw.register(event_queue::HEAD, (self.head & 0xffff) as u32);
        Some(event)
    }

    /// Waits for an event of a kind, passing over others.
    fn wait(&mut self, raw: &Raw, kind: EventKind) -> Event {
        let start = Instant::now();
        loop {
            match self.next(raw) {
                Some(event) if event.kind == kind as u8 => return event,
                Some(_) => {}
                None => assert!(start.elapsed() < PATIENCE, "no event {kind:?}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// An outbound SA with limits.
fn limited(limit: impl FnOnce(&mut Lifetimes)) -> SaContext {
    let mut context = sa(FLAG_OUTBOUND, 1000);
    let mut limits = Lifetimes::read_from_bytes(&context.lifetimes).unwrap();
    limit(&mut limits);
    context.lifetimes.copy_from_slice(limits.as_bytes());
    context
}

fn seal(raw: &mut Raw, place: (u32, u32)) -> u8 {
    let packet = inner(40);
    raw.poke(BUFFERS + 128, &packet);
    raw.run(&submission(place, BUFFERS, 128, packet.len()))
        .status
}

#[test]
fn every_event_of_the_abi_comes() {
    let rig = Rig::with(|config| config.max_sas = 12);
    let mut raw = Raw::enabled(&rig).with_queue();
    let bell: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    raw.client.set_irqs(IRQ_MSIX, 0, &[bell.as_fd()]).unwrap();
    let mut ring = Ring::default();
    let of = |event: &Event| (event.sa_index.get(), event.sa_generation.get());

    // Limits: a soft one lets the packet pass, a hard one refuses the next.
    type Limit = fn(&mut Lifetimes);
    let soft: [(Limit, EventKind); 2] = [
        (|limits| limits.soft_bytes = 60.into(), EventKind::SoftBytes),
        (
            |limits| limits.soft_packets = 1.into(),
            EventKind::SoftPackets,
        ),
    ];
    for (limit, kind) in soft {
        let place = raw.add(&limited(limit));
        assert_eq!(seal(&mut raw, place), Status::OkSoftExpired as u8);
        assert_eq!(of(&ring.wait(&raw, kind)), place);
    }
    let hard: [(Limit, EventKind); 2] = [
        (|limits| limits.hard_bytes = 60.into(), EventKind::HardBytes),
        (
            |limits| limits.hard_packets = 1.into(),
            EventKind::HardPackets,
        ),
    ];
    for (limit, kind) in hard {
        let place = raw.add(&limited(limit));
        assert_eq!(seal(&mut raw, place), Status::Ok as u8);
        assert_eq!(seal(&mut raw, place), Status::HardExpired as u8);
        assert_eq!(of(&ring.wait(&raw, kind)), place);
    }
    // By time, with no packet at all.
    let times: [(Limit, EventKind); 2] = [
        (
            |limits| limits.soft_time = 1_000_000.into(),
            EventKind::SoftTime,
        ),
        (
            |limits| limits.hard_time = 1_000_000.into(),
            EventKind::HardTime,
        ),
    ];
    for (limit, kind) in times {
        let place = raw.add(&limited(limit));
        assert_eq!(of(&ring.wait(&raw, kind)), place);
    }

    // Numbers: a quarter of the grant is left; the space nearly ends, and ends.
    let place = raw.add(&sa(FLAG_OUTBOUND, 4));
    for _ in 0..3 {
        assert_eq!(seal(&mut raw, place), Status::Ok as u8);
    }
    let event = ring.wait(&raw, EventKind::GrantLow);
    assert_eq!((of(&event), event.value.get()), (place, 1));
    let last = u64::from(u32::MAX);
    let mut context = sa(FLAG_OUTBOUND, last);
    context.grant_first = (last - 1).to_le_bytes();
    let place = raw.add(&context);
    assert_eq!(seal(&mut raw, place), Status::Ok as u8);
    assert_eq!(of(&ring.wait(&raw, EventKind::SequenceEnding)), place);
    assert_eq!(seal(&mut raw, place), Status::Ok as u8);
    assert_eq!(of(&ring.wait(&raw, EventKind::SequenceEnd)), place);

    // Refused packets.
    let (out, open) = (raw.add(&sa(FLAG_OUTBOUND, 1000)), raw.add(&sa(0, 0)));
    let packet = inner(40);
    raw.poke(BUFFERS + 128, &packet);
    let sealed = raw.run(&submission(out, BUFFERS, 128, packet.len()));
    let (offset, len) = (sealed.offset.get(), sealed.len.get() as usize);
    let good = raw.octets(BUFFERS + u64::from(offset), len);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for (octets, status) in [
        (&bad, Status::BadIcv),
        (&good, Status::Ok),
        (&good, Status::Replayed),
    ] {
        raw.poke(BUFFERS + u64::from(offset), octets);
        let done = raw.run(&submission(open, BUFFERS, offset, len));
        assert_eq!(done.status, status as u8);
    }
    let event = ring.wait(&raw, EventKind::BadIcvBurst);
    assert_eq!((of(&event), event.value.get()), (open, 1));
    let event = ring.wait(&raw, EventKind::ReplayBurst);
    assert_eq!((of(&event), event.value.get()), (open, 1));

    // Of no SA. Ten are there.
    let one = sa(FLAG_OUTBOUND, 1000);
    raw.add(&one);
    raw.add(&one);
    raw.poke(PAYLOAD, one.as_bytes());
    let mut add = command(Opcode::SaAdd, 0);
    add.payload = (IOVA + PAYLOAD).into();
    add.payload_len = (size_of::<SaContext>() as u32).into();
    assert_eq!(raw.command(add).status, CommandStatus::TableFull as u8);
    let event = ring.wait(&raw, EventKind::TableFull);
    assert_eq!((event.sa_generation.get(), event.value.get()), (0, 12));
    assert_eq!(raw.create_queue(1, IOVA + 0x4_0000, IOVA + 0x5_0000), 0);
    raw.ring(1, doorbell::TAIL, 1000);
    let event = ring.wait(&raw, EventKind::QueueError);
    assert_eq!(of(&event), (1, 0));
    assert_eq!(event.value.get(), ErrorKind::Doorbell as u64);
    raw.register(
        control::CONTROL,
        (Control::ENABLE | Control::ZEROISE).bits(),
    );
    assert_eq!(of(&ring.wait(&raw, EventKind::Zeroised)), (0, 0));

    // The interrupt: there may have been one for all of them.
    let minute = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&bell, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&minute)), Ok(1), "no interrupt");
    assert_eq!(raw.read_register(event_queue::DROPPED), 0);
    rig.end();
}

#[test]
fn events_that_find_no_room_are_counted_and_the_ring_goes_on() {
    const LOST: u64 = 5;
    let rig = Rig::new();
    let raw = Raw::enabled(&rig);
    let zeroise = |raw: &Raw| {
        let both = Control::ENABLE | Control::ZEROISE;
        raw.register(control::CONTROL, both.bits());
    };
    (0..DEPTH + LOST).for_each(|_| zeroise(&raw));
    assert_eq!(u64::from(raw.read_register(event_queue::DROPPED)), LOST);
    let mut ring = Ring::default();
    let mut before = 0;
    for _ in 0..DEPTH {
        let event = ring.wait(&raw, EventKind::Zeroised);
        assert!(event.time.get() >= before, "in order");
        before = event.time.get();
    }
    assert!(ring.next(&raw).is_none(), "what was lost is lost");
    // The second round, by the other phase.
    zeroise(&raw);
    ring.wait(&raw, EventKind::Zeroised);
    assert_eq!(u64::from(raw.read_register(event_queue::DROPPED)), LOST);
    rig.end();
}
