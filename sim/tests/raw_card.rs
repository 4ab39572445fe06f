// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card driven by hand: rings laid in a memfd, registers and doorbells by message, no driver.
#![allow(clippy::unwrap_used)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fpga_regs::admin::{Command, CommandCompletion, CommandStatus, Opcode};
use fpga_regs::context::{
    FLAG_EXPLICIT as SA_EXPLICIT, FLAG_OUTBOUND, Lifetimes, SaContext, UNLIMITED,
};
use fpga_regs::descriptor::{
    Completion, Event, EventKind, FLAG_EXPLICIT, OP_PROCESS, PHASE, Submission,
};
use fpga_regs::registers::{
    CardStatus, Control, DOORBELL_BAR, DOORBELL_PAGE, FatalCause, REGISTER_BAR, admin_queue,
    control, doorbell, event_queue, identity, statistics,
};
use offload_api::queue::Status;
use offload_api::sa::Suite;
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use sim::{CardConfig, SimulatedCard};
use vfio_user::Error;
use vfio_user::client::Client;
use vfio_user::message::{IRQ_MSIX, REGION_CONFIG};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const IOVA: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;
const ADMIN: u64 = 0;
const ADMIN_DONE: u64 = 0x1000;
const EVENTS: u64 = 0x2000;
const PAYLOAD: u64 = 0x3000;
const SUBMISSIONS: u64 = 0x4000;
const COMPLETIONS: u64 = 0x6000;
const BUFFERS: u64 = 0x8000;
const ROOM: u32 = 2048;
const DEPTH: u64 = 64;
/// AES-256 key and salt of every SA here.
const KEY: [u8; 32] = [0x71; 32];

struct Rig {
    path: PathBuf,
    stop: vfio_user::server::StopHandle,
    ended: mpsc::Receiver<()>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        config.queues = 2;
        config.max_sas = 16;
        let path = config.socket.clone();
        let card = SimulatedCard::bind(&config).unwrap();
        let stop = card.stop_handle();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            card.run().unwrap();
            let _ = tell.send(());
        });
        Self {
            path,
            stop,
            ended,
            _dir: dir,
        }
    }

    /// Stops the card, which must end in time.
    fn end(self) {
        self.stop.stop();
        self.ended.recv_timeout(Duration::from_secs(5)).unwrap();
    }
}

struct Raw {
    client: Client,
    memory: OwnedFd,
    admin: u16,
    tail: u32,
    taken: u32,
}

impl Raw {
    /// Connects, maps memory and masters the bus.
    fn attach(rig: &Rig) -> Self {
        let stream = UnixStream::connect(&rig.path).unwrap();
        let client = Client::from_stream(stream, Duration::from_secs(5)).unwrap();
        let memory = rustix::fs::memfd_create("host", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, SIZE).unwrap();
        client.dma_map(IOVA, SIZE, memory.as_fd(), 0).unwrap();
        let raw = Self {
            client,
            memory,
            admin: 0,
            tail: 0,
            taken: 0,
        };
        raw.set_bus_master(true);
        raw
    }

    /// As [`attach`](Self::attach), with the admin and event queues set and the card enabled.
    fn enabled(rig: &Rig) -> Self {
        let raw = Self::attach(rig);
        raw.enable();
        raw
    }

    fn enable(&self) {
        self.wide(admin_queue::SUBMISSION_BASE, IOVA + ADMIN);
        self.wide(admin_queue::COMPLETION_BASE, IOVA + ADMIN_DONE);
        self.register(admin_queue::DEPTH, DEPTH as u32);
        self.wide(event_queue::BASE, IOVA + EVENTS);
        self.register(event_queue::DEPTH, DEPTH as u32);
        self.register(control::CONTROL, Control::ENABLE.bits());
        let status = self.read_register(control::STATUS);
        assert_eq!(status, CardStatus::READY.bits());
    }

    fn set_bus_master(&self, on: bool) {
        let command = [if on { 6 } else { 2 }, 0];
        self.client
            .region_write(REGION_CONFIG, 4, &command)
            .unwrap();
    }

    fn bus_master(&self) -> bool {
        let mut command = [0; 2];
        self.client
            .region_read(REGION_CONFIG, 4, &mut command)
            .unwrap();
        command[0] & 4 != 0
    }

    fn register(&self, at: u64, value: u32) {
        let octets = value.to_le_bytes();
        self.client.region_write(REGISTER_BAR, at, &octets).unwrap();
    }

    fn wide(&self, at: u64, value: u64) {
        let octets = value.to_le_bytes();
        self.client.region_write(REGISTER_BAR, at, &octets).unwrap();
    }

    fn read_register(&self, at: u64) -> u32 {
        let mut octets = [0; 4];
        self.client
            .region_read(REGISTER_BAR, at, &mut octets)
            .unwrap();
        u32::from_le_bytes(octets)
    }

    fn ring(&self, queue: u64, word: u64, value: u32) {
        let at = queue * DOORBELL_PAGE + word;
        let octets = value.to_le_bytes();
        self.client.region_write(DOORBELL_BAR, at, &octets).unwrap();
    }

    fn poke(&self, at: u64, octets: &[u8]) {
        assert_eq!(
            rustix::io::pwrite(&self.memory, octets, at).unwrap(),
            octets.len()
        );
    }

    fn peek<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        let octets = value.as_mut_bytes();
        let wanted = octets.len();
        assert_eq!(rustix::io::pread(&self.memory, octets, at).unwrap(), wanted);
        value
    }

    fn octets(&self, at: u64, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        rustix::io::pread(&self.memory, &mut octets[..], at).unwrap();
        octets
    }

    fn command(&mut self, command: Command) -> CommandCompletion {
        let slot = u64::from(self.admin) % DEPTH;
        let round = (u64::from(self.admin) / DEPTH).is_multiple_of(2);
        self.poke(
            ADMIN + slot * size_of::<Command>() as u64,
            command.as_bytes(),
        );
        self.admin = self.admin.wrapping_add(1);
        // Commands are done when the doorbell's write returns.
        self.register(admin_queue::TAIL, self.admin.into());
        let done: CommandCompletion =
            self.peek(ADMIN_DONE + slot * size_of::<CommandCompletion>() as u64);
        assert_eq!(done.phase == PHASE, round, "no completion");
        done
    }

    fn create_queue(&mut self, queue: u32, submissions: u64, completions: u64) -> u8 {
        let mut create = command(Opcode::CreateQueue, queue);
        create.arguments[0] = submissions.into();
        create.arguments[1] = completions.into();
        create.arguments[2] = DEPTH.into();
        self.command(create).status
    }

    fn with_queue(mut self) -> Self {
        let status = self.create_queue(0, IOVA + SUBMISSIONS, IOVA + COMPLETIONS);
        assert_eq!(status, CommandStatus::Ok as u8);
        self
    }

    fn add(&mut self, sa: &SaContext) -> (u32, u32) {
        self.poke(PAYLOAD, sa.as_bytes());
        let mut add = command(Opcode::SaAdd, 0);
        add.payload = (IOVA + PAYLOAD).into();
        add.payload_len = (size_of::<SaContext>() as u32).into();
        let done = self.command(add);
        assert_eq!(done.status, CommandStatus::Ok as u8);
        (done.index.get(), done.generation.get())
    }

    /// Submits to queue 0 without waiting.
    fn submit(&mut self, submission: &Submission) {
        let slot = u64::from(self.tail) % DEPTH;
        self.poke(
            SUBMISSIONS + slot * size_of::<Submission>() as u64,
            submission.as_bytes(),
        );
        self.tail += 1;
        self.ring(0, doorbell::TAIL, self.tail);
    }

    fn await_completion(&mut self) -> Completion {
        let slot = u64::from(self.taken) % DEPTH;
        let phase = if (u64::from(self.taken) / DEPTH).is_multiple_of(2) {
            PHASE
        } else {
            0
        };
        let start = Instant::now();
        loop {
            let done: Completion = self.peek(COMPLETIONS + slot * size_of::<Completion>() as u64);
            // All zero is what a ring holds before its first round.
            if done.phase == phase && (phase != 0 || done.position.get() == self.taken as u16) {
                self.taken += 1;
                return done;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "no completion");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn run(&mut self, submission: &Submission) -> Completion {
        self.submit(submission);
        self.await_completion()
    }
}

fn command(opcode: Opcode, index: u32) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode as u8;
    command.index = index.into();
    command
}

fn sa(flags: u8, last: u64) -> SaContext {
    let suite = Suite::AES_256_GCM;
    let mut sa = SaContext::new_zeroed();
    sa.spi = 0x1234_5678u32.to_le_bytes();
    sa.cipher = suite.cipher() as u8;
    sa.integrity = suite.integrity() as u8;
    sa.flags = flags;
    sa.salt = [0x0a; 4];
    sa.cipher_key = KEY;
    if flags & FLAG_OUTBOUND == 0 {
        sa.replay_window = 64u32.to_le_bytes();
    } else if flags & SA_EXPLICIT == 0 {
        sa.grant_first = 1u64.to_le_bytes();
        sa.grant_last = last.to_le_bytes();
    }
    let mut limits = Lifetimes::new_zeroed();
    fill(&mut limits, &UNLIMITED.to_le_bytes());
    sa.lifetimes.copy_from_slice(limits.as_bytes());
    sa
}

fn fill<T: IntoBytes + FromBytes + Immutable + KnownLayout>(value: &mut T, pattern: &[u8]) {
    for (octet, from) in value.as_mut_bytes().iter_mut().zip(pattern.iter().cycle()) {
        *octet = *from;
    }
}

fn submission(sa: (u32, u32), buffer: u64, offset: u32, len: usize) -> Submission {
    let mut submission = Submission::new_zeroed();
    submission.opcode = OP_PROCESS;
    submission.sa_index = sa.0.into();
    submission.sa_generation = sa.1.into();
    submission.buffer = (IOVA + buffer).into();
    submission.buffer_len = ROOM.into();
    submission.offset = offset.into();
    submission.len = (len as u32).into();
    submission
}

fn inner(len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; 20 + len];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    let total = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    packet
}

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

#[test]
fn a_function_level_reset_ends_bus_mastering_and_everything_behind_it() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    raw.add(&sa(FLAG_OUTBOUND, 10));
    assert_eq!(raw.read_register(statistics::SAS), 1);
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
    assert!(raw.bus_master());
    raw.client
        .region_write(REGION_CONFIG, u64::from(at[0]) + 9, &[0x80])
        .unwrap();
    assert!(!raw.bus_master());
    assert_eq!(raw.read_register(statistics::SAS), 0);
    assert_eq!(raw.read_register(control::STATUS), 0);
    assert_eq!(raw.read_register(identity::MAX_SAS), 16);
    raw.set_bus_master(true);
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
