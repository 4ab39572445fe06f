// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the programmer's guide promises beyond the plain packet, driven by hand.
#![allow(clippy::unwrap_used)]

mod raw;

use std::time::{Duration, Instant};

use fpga_regs::admin::{CommandStatus, ErrorKind, ErrorRecord, Opcode, SaAdded};
use fpga_regs::context::{FLAG_ESN, FLAG_MAILBOX, FLAG_OUTBOUND, SaContext, SaDescription};
use fpga_regs::descriptor::EventKind;
use fpga_regs::queue::{QueueDescription, QueueState};
use fpga_regs::registers::{
    CardFeatures, CardStatus, Control, MailboxCommand, MailboxState, admin_queue, control,
    doorbell, event_queue, identity, interrupt, key_mailbox, statistics,
};
use offload_api::queue::Status;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, OwnedFd};
use vfio_user::message::IRQ_MSIX;
use zerocopy::IntoBytes;

use raw::*;

/// Runs a command with room for an answer over the payload.
fn ask(raw: &mut Raw, opcode: Opcode, index: u32, generation: u32, room: usize) -> u8 {
    raw.poke(PAYLOAD, &vec![0; room]);
    let mut ask = command(opcode, index);
    ask.generation = generation.into();
    ask.payload = (IOVA + PAYLOAD).into();
    ask.payload_len = (room as u32).into();
    raw.command(ask).status
}

#[test]
fn many_sas_are_added_by_one_command_and_the_bad_ones_told() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig);
    let mut contexts = vec![sa(FLAG_OUTBOUND, 1000); 3];
    contexts[1].cipher = 0xee;
    contexts[2].cookie = 77u64.to_le_bytes();
    let octets: Vec<u8> = contexts
        .iter()
        .flat_map(|sa| sa.as_bytes().to_vec())
        .collect();
    raw.poke(BUFFERS, &octets);
    let mut bulk = command(Opcode::SaAddBulk, 0);
    bulk.payload = (IOVA + BUFFERS).into();
    bulk.payload_len = (octets.len() as u32).into();
    bulk.arguments[0] = 3.into();
    bulk.arguments[1] = (IOVA + PAYLOAD).into();
    let done = raw.command(bulk);
    assert_eq!(
        (done.status, done.value.get()),
        (CommandStatus::Ok as u8, 2)
    );
    let answer = |n: u64| raw.peek::<SaAdded>(PAYLOAD + n * size_of::<SaAdded>() as u64);
    assert_eq!(answer(0).status, CommandStatus::Ok as u8);
    assert_eq!(answer(1).status, CommandStatus::Unsupported as u8);
    let last = answer(2);
    assert_eq!(raw.read_register(statistics::SAS), 2);

    // A driver that comes back finds them one after the other, without their keys.
    let size = size_of::<SaDescription>();
    assert_eq!(ask(&mut raw, Opcode::SaNext, 0, 0, size), 0);
    let first: SaDescription = raw.peek(PAYLOAD);
    assert_eq!(
        ask(&mut raw, Opcode::SaNext, first.index.get() + 1, 0, size),
        0
    );
    let second: SaDescription = raw.peek(PAYLOAD);
    assert_eq!(
        (second.index, second.generation),
        (last.index, last.generation)
    );
    assert_eq!(second.cookie.get(), 77);
    assert_eq!(
        (second.sequence_next.get(), second.grant_last.get()),
        (1, 1000)
    );
    assert_eq!(second.flags, FLAG_OUTBOUND);
    let after = second.index.get() + 1;
    assert_eq!(
        ask(&mut raw, Opcode::SaNext, after, 0, size),
        CommandStatus::Stale as u8
    );

    // A count that does not fit the payload is refused whole.
    bulk.arguments[0] = u64::MAX.into();
    assert_eq!(raw.command(bulk).status, CommandStatus::BadField as u8);
    bulk.arguments[0] = 3.into();
    bulk.arguments[1] = 0x10.into();
    assert_eq!(raw.command(bulk).status, CommandStatus::DmaFault as u8);
    assert_eq!(raw.read_register(statistics::SAS), 2);
    rig.end();
}

#[test]
fn a_draining_sa_finishes_what_was_submitted_and_takes_nothing_more() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let (index, generation) = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(40);
    for _ in 0..5 {
        raw.poke(BUFFERS + 128, &packet);
        raw.submit(&submission((index, generation), BUFFERS, 128, packet.len()));
    }
    let mut drain = command(Opcode::SaDrain, index);
    drain.generation = generation.into();
    assert_eq!(raw.command(drain).status, 0);
    for _ in 0..5 {
        let status = raw.await_completion().status;
        // The buffer holds a sealed packet by the second one, which is no IP packet any more.
        assert_ne!(status, Status::SaStale as u8);
    }
    let late = raw.run(&submission((index, generation), BUFFERS, 128, packet.len()));
    assert_eq!(late.status, Status::SaStale as u8);
    rig.end();
}

#[test]
fn a_bad_doorbell_stops_its_own_queue_with_an_event_and_a_note() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    assert_eq!(raw.create_queue(1, IOVA + 0x4_0000, IOVA + 0x5_0000), 0);
    raw.ring(1, doorbell::TAIL, 1000);
    let start = Instant::now();
    let event = loop {
        if let Some(event) = raw.event(0) {
            break event;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "no event");
    };
    assert_eq!(event.kind, EventKind::QueueError as u8);
    assert_eq!(
        (event.sa_index.get(), event.value.get()),
        (1, ErrorKind::Doorbell as u64)
    );
    assert_eq!(
        ask(
            &mut raw,
            Opcode::QueueQuery,
            1,
            0,
            size_of::<QueueDescription>()
        ),
        0
    );
    let failed: QueueDescription = raw.peek(PAYLOAD);
    assert_eq!(failed.state, QueueState::Failed as u8);
    assert_eq!(failed.error, ErrorKind::Doorbell as u8);
    assert_eq!(
        ask(
            &mut raw,
            Opcode::ErrorLog,
            0,
            0,
            16 * size_of::<ErrorRecord>()
        ),
        0
    );
    let newest: ErrorRecord = raw.peek(PAYLOAD);
    assert_eq!(
        (newest.kind, newest.queue.get()),
        (ErrorKind::Doorbell as u8, 1)
    );
    assert_eq!(newest.detail.get(), 1000);
    // The other queue goes on; this one serves again once it was created anew.
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(40);
    raw.poke(BUFFERS + 128, &packet);
    let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
    assert_eq!(done.status, Status::Ok as u8);
    assert_eq!(raw.command(command(Opcode::DeleteQueue, 1)).status, 0);
    assert_eq!(raw.create_queue(1, IOVA + 0x4_0000, IOVA + 0x5_0000), 0);
    assert_eq!(
        ask(
            &mut raw,
            Opcode::QueueQuery,
            1,
            0,
            size_of::<QueueDescription>()
        ),
        0
    );
    assert_eq!(
        raw.peek::<QueueDescription>(PAYLOAD).state,
        QueueState::Running as u8
    );
    let mut urgent = command(Opcode::CreateQueue, 1);
    urgent.arguments = [IOVA, IOVA, 64, 4, 0].map(Into::into);
    assert_eq!(raw.command(urgent).status, CommandStatus::BadField as u8);
    rig.end();
}

#[test]
fn refused_packets_are_told_of_in_one_event_a_second() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let open = raw.add(&sa(0, 0));
    let packet = inner(40);
    raw.poke(BUFFERS + 128, &packet);
    let sealed = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
    let (offset, len) = (sealed.offset.get(), sealed.len.get() as usize);
    let good = raw.octets(BUFFERS + u64::from(offset), len);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let mut open_one = |octets: &[u8]| {
        raw.poke(BUFFERS + u64::from(offset), octets);
        raw.run(&submission(open, BUFFERS, offset, len)).status
    };
    for _ in 0..10 {
        assert_eq!(open_one(&bad), Status::BadIcv as u8);
    }
    assert_eq!(open_one(&good), Status::Ok as u8);
    for _ in 0..7 {
        assert_eq!(open_one(&good), Status::Replayed as u8);
    }
    // The first packet of a burst may be told at once and the rest a second later.
    std::thread::sleep(Duration::from_millis(1200));
    let events: Vec<_> = (0..8).map_while(|n| raw.event(n)).collect();
    let told = |kind| {
        let of_kind = events.iter().filter(|event| event.kind == kind as u8);
        let counts: Vec<u64> = of_kind.map(|event| event.value.get()).collect();
        (counts.len(), counts.iter().sum::<u64>())
    };
    let (events, packets) = told(EventKind::BadIcvBurst);
    assert!(
        (1..=2).contains(&events) && packets == 10,
        "{events} {packets}"
    );
    let (events, packets) = told(EventKind::ReplayBurst);
    assert!(
        (1..=2).contains(&events) && packets == 7,
        "{events} {packets}"
    );
    rig.end();
}

#[test]
fn the_last_number_of_the_space_is_told() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    for (flags, end) in [(0, u64::from(u32::MAX)), (FLAG_ESN, u64::MAX)] {
        let mut context = sa(FLAG_OUTBOUND | flags, end);
        context.grant_first = end.to_le_bytes();
        let seal = raw.add(&context);
        let packet = inner(40);
        raw.poke(BUFFERS + 128, &packet);
        let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!((done.status, done.sequence.get()), (Status::Ok as u8, end));
        raw.poke(BUFFERS + 128, &packet);
        let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!(done.status, Status::SequenceExhausted as u8);
    }
    let events: Vec<_> = (0..8).map_while(|n| raw.event(n)).collect();
    let ends = events
        .iter()
        .filter(|e| e.kind == EventKind::SequenceEnd as u8);
    assert_eq!(ends.count(), 2);
    rig.end();
}

#[test]
fn zeroise_takes_the_sas_and_leaves_the_queues() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let old = raw.add(&sa(FLAG_OUTBOUND, 1000));
    raw.register(
        control::CONTROL,
        (Control::ENABLE | Control::ZEROISE).bits(),
    );
    assert_eq!(raw.read_register(control::STATUS), CardStatus::READY.bits());
    assert_eq!(raw.read_register(statistics::SAS), 0);
    assert_eq!(
        raw.event(0).map(|event| event.kind),
        Some(EventKind::Zeroised as u8)
    );
    let packet = inner(40);
    raw.poke(BUFFERS + 128, &packet);
    let done = raw.run(&submission(old, BUFFERS, 128, packet.len()));
    assert_eq!(done.status, Status::SaStale as u8);
    let new = raw.add(&sa(FLAG_OUTBOUND, 1000));
    assert_ne!(new, old);
    let done = raw.run(&submission(new, BUFFERS, 128, packet.len()));
    assert_eq!(done.status, Status::Ok as u8);
    rig.end();
}

#[test]
fn a_key_by_mailbox_is_taken_once_and_never_read() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let features = CardFeatures::from_bits_truncate(raw.read_register(identity::FEATURES));
    assert!(features.contains(CardFeatures::KEY_MAILBOX));
    let status = |raw: &Raw| MailboxState::from_code(raw.read_register(key_mailbox::STATUS));
    let (ok, missing) = (CommandStatus::Ok as u8, CommandStatus::KeyMissing as u8);
    let (out, inbound) = (sa(FLAG_OUTBOUND, 1000), sa(0, 0));
    assert_eq!(raw.add_by_mailbox(&out).0, missing);
    raw.leave_key(&KEY, out.salt);
    assert_eq!(status(&raw), Some(MailboxState::Key256));
    let words = (key_mailbox::KEY..key_mailbox::STATUS).step_by(4);
    assert!(words.clone().all(|at| raw.read_register(at) == 0));
    let (added, seal) = raw.add_by_mailbox(&out);
    assert_eq!((added, status(&raw)), (ok, Some(MailboxState::Empty)));
    assert_eq!(raw.add_by_mailbox(&out).0, missing, "taken once");
    // It is the key: an SA that got the same one by its context opens what this one seals.
    let open = raw.add(&inbound);
    let packet = inner(100);
    raw.poke(BUFFERS + 128, &packet);
    let sealed = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
    assert_eq!(sealed.status, Status::Ok as u8);
    let len = sealed.len.get() as usize;
    let opened = raw.run(&submission(open, BUFFERS, sealed.offset.get(), len));
    assert_eq!(opened.status, Status::Ok as u8);
    let at = BUFFERS + u64::from(opened.offset.get());
    assert_eq!(raw.octets(at, opened.len.get() as usize), packet);
    // Of another length; and refused for another reason. It is gone either way.
    raw.leave_key(&KEY[..16], out.salt);
    assert_eq!(status(&raw), Some(MailboxState::Key128));
    assert_eq!(raw.add_by_mailbox(&out).0, missing);
    assert_eq!(status(&raw), Some(MailboxState::Empty));
    raw.leave_key(&KEY, out.salt);
    let mut both = out.clone();
    both.flags |= FLAG_MAILBOX;
    raw.poke(PAYLOAD, both.as_bytes());
    let mut add = command(Opcode::SaAdd, 0);
    add.payload = (IOVA + PAYLOAD).into();
    add.payload_len = (size_of::<SaContext>() as u32).into();
    assert_eq!(raw.command(add).status, CommandStatus::BadField as u8);
    assert_eq!(status(&raw), Some(MailboxState::Empty));
    // With a word missing.
    raw.register(key_mailbox::KEY, 1);
    raw.register(key_mailbox::COMMAND, MailboxCommand::LOAD_256.bits());
    assert_eq!(status(&raw), Some(MailboxState::Incomplete));
    // Zeroised with everything else, and by itself.
    let controls = [
        (key_mailbox::COMMAND, MailboxCommand::CLEAR.bits()),
        (
            control::CONTROL,
            (Control::ENABLE | Control::ZEROISE).bits(),
        ),
        (control::CONTROL, Control::DETACH.bits()),
        (control::CONTROL, Control::RESET.bits()),
    ];
    for (register, value) in controls {
        raw.leave_key(&KEY, out.salt);
        assert_eq!(status(&raw), Some(MailboxState::Key256));
        raw.register(register, value);
        assert_eq!(status(&raw), Some(MailboxState::Empty));
        raw.register(key_mailbox::COMMAND, MailboxCommand::LOAD_256.bits());
        assert_eq!(status(&raw), Some(MailboxState::Incomplete));
    }
    assert!(words.clone().all(|at| raw.read_register(at) == 0));
    rig.end();
}

#[test]
fn a_full_table_is_told_by_status_and_event() {
    let rig = Rig::with(|config| config.max_sas = 2);
    let mut raw = Raw::enabled(&rig);
    let one = sa(FLAG_OUTBOUND, 1000);
    raw.add(&one);
    raw.add(&one);
    for _ in 0..3 {
        raw.poke(PAYLOAD, one.as_bytes());
        let mut add = command(Opcode::SaAdd, 0);
        add.payload = (IOVA + PAYLOAD).into();
        add.payload_len = (size_of::<SaContext>() as u32).into();
        assert_eq!(raw.command(add).status, CommandStatus::TableFull as u8);
    }
    assert_eq!(
        raw.event(0).map(|event| event.kind),
        Some(EventKind::TableFull as u8)
    );
    assert!(raw.event(1).is_none(), "said more than once a second");
    rig.end();
}

#[test]
fn the_self_test_passes() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig);
    let done = raw.command(command(Opcode::SelfTest, 0));
    assert_eq!((done.status, done.value.get()), (0, 0));
    rig.end();
}

#[test]
fn interrupts_are_moderated() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let bell: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let own: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let fds = [own.as_fd(), bell.as_fd()];
    raw.client.set_irqs(IRQ_MSIX, 0, &fds).unwrap();
    let count = || {
        let mut count = [0; 8];
        rustix::io::read(&bell, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    };
    // At most one in 50 ms.
    raw.register(interrupt::MODERATION + 4, 50_000);
    assert_eq!(raw.read_register(interrupt::MODERATION + 4), 50_000);
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(40);
    let mut one = || {
        raw.ring(0, doorbell::ARM, 1);
        raw.poke(BUFFERS + 128, &packet);
        let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!(done.status, Status::Ok as u8);
    };
    let start = Instant::now();
    one();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(count(), 1);
    one();
    one();
    std::thread::sleep(Duration::from_millis(5));
    // On a machine that took longer the second may have been due before the third.
    let in_time = start.elapsed() < Duration::from_millis(45);
    if in_time {
        assert_eq!(count(), 0, "held back");
    }
    std::thread::sleep(Duration::from_millis(120));
    let fired = count();
    assert!(
        fired == 1 || !in_time && fired == 2,
        "fired {fired} times, when it was due"
    );
    assert!(raw.read_register(statistics::INTERRUPTS) >= 2);
    rig.end();
}

/// The card may look at what was asked for only after the host has had all that there was.
#[test]
fn who_asks_with_nothing_left_is_told_of_the_next_completion() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let bell: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let own: OwnedFd = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let fds = [own.as_fd(), bell.as_fd()];
    raw.client.set_irqs(IRQ_MSIX, 0, &fds).unwrap();
    let seal = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(40);
    let one = |raw: &mut Raw| {
        raw.poke(BUFFERS + 128, &packet);
        let done = raw.run(&submission(seal, BUFFERS, 128, packet.len()));
        assert_eq!(done.status, Status::Ok as u8);
    };
    for consumed in (1..40).step_by(2) {
        one(&mut raw);
        raw.ring(0, doorbell::HEAD, consumed);
        raw.ring(0, doorbell::ARM, 1);
        std::thread::sleep(Duration::from_millis(3));
        one(&mut raw);
        let end = Instant::now() + Duration::from_secs(20);
        let mut count = [0; 8];
        while rustix::io::read(&bell, &mut count).is_err() {
            assert!(Instant::now() < end, "not told of completion {consumed}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    rig.end();
}

#[test]
fn functions_are_cards_of_their_own() {
    let rig = Rig::with(|config| {
        config.functions = 2;
        config.queues = 4;
        config.max_sas = 32;
    });
    let mut second_path = rig.path.clone().into_os_string();
    second_path.push(".1");
    let mut first = Raw::enabled(&rig).with_queue();
    let second = Raw::attach_at(second_path.as_ref());
    second.enable();
    let mut second = second.with_queue();
    for (raw, number) in [(&first, 0), (&second, 1)] {
        assert_eq!(raw.read_register(identity::FUNCTION), number);
        assert_eq!(raw.read_register(identity::FUNCTIONS), 2);
        assert_eq!(raw.read_register(identity::MAX_QUEUES), 2);
        assert_eq!(raw.read_register(identity::MAX_SAS), 16);
    }
    // Its own share of the queues, and no more.
    assert_eq!(
        first.create_queue(2, IOVA + SUBMISSIONS, IOVA + COMPLETIONS),
        CommandStatus::BadField as u8
    );
    // An SA of the one is none of the other's, whatever it is called.
    let seal = first.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(40);
    second.poke(BUFFERS + 128, &packet);
    let done = second.run(&submission(seal, BUFFERS, 128, packet.len()));
    assert_eq!(done.status, Status::SaStale as u8);
    // Neither's memory is the other's: what the second has unmapped faults there alone.
    second.client.dma_unmap(IOVA, SIZE).unwrap();
    first.poke(BUFFERS + 128, &packet);
    let done = first.run(&submission(seal, BUFFERS, 128, packet.len()));
    assert_eq!(done.status, Status::Ok as u8);
    // A function that is reset, or whose driver goes, takes nothing along.
    second.register(control::CONTROL, Control::RESET.bits());
    drop(second);
    first.poke(BUFFERS + 128, &packet);
    let done = first.run(&submission(seal, BUFFERS, 128, packet.len()));
    assert_eq!(done.status, Status::Ok as u8);
    assert_eq!(first.read_register(event_queue::DROPPED), 0);
    rig.end();
}

#[test]
fn detach_takes_the_drivers_memory_and_leaves_the_sas() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let kept = raw.add(&sa(FLAG_OUTBOUND, 1000));
    let packet = inner(40);
    raw.poke(BUFFERS + 128, &packet);
    let done = raw.run(&submission(kept, BUFFERS, 128, packet.len()));
    assert_eq!((done.status, done.sequence.get()), (Status::Ok as u8, 1));
    let before = raw.read_register(statistics::SEALED);

    // Nothing of the earlier driver is read or written any more, not even what it had rung for.
    raw.register(control::CONTROL, Control::DETACH.bits());
    assert_eq!(raw.read_register(control::STATUS), 0);
    assert_eq!(raw.read_register(admin_queue::DEPTH), 0);
    raw.client.dma_unmap_all().unwrap();
    raw.submit(&submission(kept, BUFFERS, 128, packet.len()));
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(raw.read_register(statistics::DMA_FAULTS), 0);
    assert_eq!(raw.read_register(statistics::SAS), 1);
    assert_eq!(raw.read_register(statistics::SEALED), before);

    // Another driver: rings of its own, the queue created anew, the SA where it was.
    let mut next = Raw {
        memory: raw.memory,
        client: raw.client,
        admin: 0,
        tail: 0,
        taken: 0,
    };
    let (memory, zeros) = (next.memory.as_fd(), vec![0; BUFFERS as usize]);
    next.client.dma_map(IOVA, SIZE, memory, 0).unwrap();
    next.poke(0, &zeros);
    next.enable();
    let mut walk = command(Opcode::SaNext, 0);
    walk.payload = (IOVA + PAYLOAD).into();
    walk.payload_len = (size_of::<SaDescription>() as u32).into();
    let found = next.command(walk);
    assert_eq!(found.status, CommandStatus::Ok as u8);
    assert_eq!((found.index.get(), found.generation.get()), kept);
    let told: SaDescription = next.peek(PAYLOAD);
    assert_eq!((told.sequence_next.get(), told.grant_last.get()), (2, 1000));
    assert_eq!(found.value.get(), 1);
    // Several at once, as far as there are some.
    let more = [
        next.add(&sa(FLAG_OUTBOUND, 9)),
        next.add(&sa(FLAG_OUTBOUND, 9)),
    ];
    walk.payload_len = (5 * size_of::<SaDescription>() as u32).into();
    let found = next.command(walk);
    assert_eq!(
        (found.status, found.value.get()),
        (CommandStatus::Ok as u8, 3)
    );
    let told: SaDescription = next.peek(PAYLOAD + 2 * size_of::<SaDescription>() as u64);
    assert_eq!((told.index.get(), told.generation.get()), more[1]);
    walk.payload_len = 255.into();
    assert_eq!(next.command(walk).status, CommandStatus::BadField as u8);
    walk.payload_len = (size_of::<SaDescription>() as u32).into();
    // The end of the walk is no error.
    walk.index = 3.into();
    let errors = next.read_register(control::ERRORS_LOGGED);
    assert_eq!(next.command(walk).status, CommandStatus::Stale as u8);
    assert_eq!(next.read_register(control::ERRORS_LOGGED), errors);
    let mut next = next.with_queue();
    next.poke(BUFFERS + 128, &packet);
    let done = next.run(&submission(kept, BUFFERS, 128, packet.len()));
    assert_eq!((done.status, done.sequence.get()), (Status::Ok as u8, 2));
    rig.end();
}
