// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rings laid by hand in a memfd, registers and doorbells by message: a card without a driver.
#![allow(clippy::unwrap_used, dead_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fpga_regs::admin::{Command, CommandCompletion, CommandStatus, Opcode};
use fpga_regs::context::{
    FLAG_EXPLICIT as SA_EXPLICIT, FLAG_MAILBOX, FLAG_OUTBOUND, Lifetimes, SaContext, UNLIMITED,
};
use fpga_regs::descriptor::{Completion, Event, OP_PROCESS, PHASE, Submission};
use fpga_regs::registers::{
    CardStatus, Control, DOORBELL_BAR, DOORBELL_PAGE, MailboxCommand, REGISTER_BAR, admin_queue,
    control, doorbell, event_queue, key_mailbox,
};
use offload_api::sa::Suite;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use sim::{CardConfig, SimulatedCard};
use vfio_user::client::{Client, PrivateMemory};
use vfio_user::message::REGION_CONFIG;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub(crate) const IOVA: u64 = 0x10_0000;
pub(crate) const SIZE: u64 = 0x10_0000;
pub(crate) const ADMIN: u64 = 0;
pub(crate) const ADMIN_DONE: u64 = 0x1000;
pub(crate) const EVENTS: u64 = 0x2000;
pub(crate) const PAYLOAD: u64 = 0x3000;
pub(crate) const SUBMISSIONS: u64 = 0x4000;
pub(crate) const COMPLETIONS: u64 = 0x6000;
pub(crate) const BUFFERS: u64 = 0x8000;
pub(crate) const ROOM: u32 = 2048;
pub(crate) const DEPTH: u64 = 64;
/// AES-256 key and salt of every SA here.
pub(crate) const KEY: [u8; 32] = [0x71; 32];

pub(crate) struct Rig {
    pub(crate) path: PathBuf,
    pub(crate) stop: sim::CardStop,
    pub(crate) ended: mpsc::Receiver<()>,
    pub(crate) _dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A small card with a further say.
    pub(crate) fn with(adjust: impl FnOnce(&mut CardConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = CardConfig::new(dir.path().join("card.sock"));
        config.queues = 2;
        config.max_sas = 16;
        adjust(&mut config);
        // The same tests on the RTL: `cargo xtask rtl tests`.
        if std::env::var_os("RTL_CARD").is_some() && config.rtl.is_none() {
            config.rtl = Some(sim::BusTiming::default());
        }
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
    pub(crate) fn end(self) {
        self.stop.stop();
        self.ended.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}

pub(crate) struct Raw {
    pub(crate) client: Client,
    pub(crate) memory: OwnedFd,
    pub(crate) admin: u16,
    pub(crate) tail: u32,
    pub(crate) taken: u32,
}

impl Raw {
    /// Connects, maps memory and masters the bus.
    pub(crate) fn attach(rig: &Rig) -> Self {
        Self::attach_at(&rig.path)
    }

    pub(crate) fn attach_at(path: &Path) -> Self {
        let raw = Self::connect(path);
        raw.client
            .dma_map(IOVA, SIZE, raw.memory.as_fd(), 0)
            .unwrap();
        raw.set_bus_master(true);
        raw
    }

    /// As [`attach`](Self::attach), but the card has to ask for the memory.
    pub(crate) fn attach_private(rig: &Rig) -> Self {
        let raw = Self::connect(&rig.path);
        let memory = Private(raw.memory.try_clone().unwrap());
        raw.client.set_private_memory(Box::new(memory));
        raw.client.dma_map_private(IOVA, SIZE).unwrap();
        raw.set_bus_master(true);
        raw
    }

    /// Connects, and has memory that is not mapped yet.
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        let client = Client::from_stream(stream, Duration::from_secs(60)).unwrap();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("host", flags).unwrap();
        rustix::fs::ftruncate(&memory, SIZE).unwrap();
        rustix::fs::fcntl_add_seals(&memory, rustix::fs::SealFlags::SHRINK).unwrap();
        Self {
            client,
            memory,
            admin: 0,
            tail: 0,
            taken: 0,
        }
    }

    /// As [`attach`](Self::attach), with the admin and event queues set and the card enabled.
    pub(crate) fn enabled(rig: &Rig) -> Self {
        let raw = Self::attach(rig);
        raw.enable();
        raw
    }

    pub(crate) fn enable(&self) {
        self.wide(admin_queue::SUBMISSION_BASE, IOVA + ADMIN);
        self.wide(admin_queue::COMPLETION_BASE, IOVA + ADMIN_DONE);
        self.register(admin_queue::DEPTH, DEPTH as u32);
        self.wide(event_queue::BASE, IOVA + EVENTS);
        self.register(event_queue::DEPTH, DEPTH as u32);
        self.register(control::CONTROL, Control::ENABLE.bits());
        let status = self.read_register(control::STATUS);
        assert_eq!(status, CardStatus::READY.bits());
    }

    pub(crate) fn set_bus_master(&self, on: bool) {
        let command = [if on { 6 } else { 2 }, 0];
        self.client
            .region_write(REGION_CONFIG, 4, &command)
            .unwrap();
    }

    pub(crate) fn bus_master(&self) -> bool {
        let mut command = [0; 2];
        self.client
            .region_read(REGION_CONFIG, 4, &mut command)
            .unwrap();
        command[0] & 4 != 0
    }

    pub(crate) fn register(&self, at: u64, value: u32) {
        let octets = value.to_le_bytes();
        self.client.region_write(REGISTER_BAR, at, &octets).unwrap();
    }

    pub(crate) fn wide(&self, at: u64, value: u64) {
        let octets = value.to_le_bytes();
        self.client.region_write(REGISTER_BAR, at, &octets).unwrap();
    }

    pub(crate) fn read_register(&self, at: u64) -> u32 {
        let mut octets = [0; 4];
        self.client
            .region_read(REGISTER_BAR, at, &mut octets)
            .unwrap();
        u32::from_le_bytes(octets)
    }

    pub(crate) fn ring(&self, queue: u64, word: u64, value: u32) {
        let at = queue * DOORBELL_PAGE + word;
        let octets = value.to_le_bytes();
        self.client.region_write(DOORBELL_BAR, at, &octets).unwrap();
    }

    pub(crate) fn poke(&self, at: u64, octets: &[u8]) {
        assert_eq!(
            rustix::io::pwrite(&self.memory, octets, at).unwrap(),
            octets.len()
        );
    }

    pub(crate) fn peek<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        let octets = value.as_mut_bytes();
        let wanted = octets.len();
        assert_eq!(rustix::io::pread(&self.memory, octets, at).unwrap(), wanted);
        value
    }

    /// The event at a position of the first round, if it was written.
    pub(crate) fn event(&self, position: u64) -> Option<Event> {
        let event: Event = self.peek(EVENTS + position * size_of::<Event>() as u64);
        (event.phase == PHASE).then_some(event)
    }

    pub(crate) fn octets(&self, at: u64, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        rustix::io::pread(&self.memory, &mut octets[..], at).unwrap();
        octets
    }

    pub(crate) fn command(&mut self, command: Command) -> CommandCompletion {
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

    pub(crate) fn create_queue(&mut self, queue: u32, submissions: u64, completions: u64) -> u8 {
        let mut create = command(Opcode::CreateQueue, queue);
        create.arguments[0] = submissions.into();
        create.arguments[1] = completions.into();
        create.arguments[2] = DEPTH.into();
        self.command(create).status
    }

    pub(crate) fn with_queue(mut self) -> Self {
        let status = self.create_queue(0, IOVA + SUBMISSIONS, IOVA + COMPLETIONS);
        assert_eq!(status, CommandStatus::Ok as u8);
        self
    }

    pub(crate) fn add(&mut self, sa: &SaContext) -> (u32, u32) {
        self.poke(PAYLOAD, sa.as_bytes());
        let mut add = command(Opcode::SaAdd, 0);
        add.payload = (IOVA + PAYLOAD).into();
        add.payload_len = (size_of::<SaContext>() as u32).into();
        let done = self.command(add);
        assert_eq!(done.status, CommandStatus::Ok as u8);
        (done.index.get(), done.generation.get())
    }

    /// Leaves a key and its salt in the mailbox.
    pub(crate) fn leave_key(&self, key: &[u8], salt: [u8; 4]) {
        let words = key.chunks_exact(4).zip((key_mailbox::KEY..).step_by(4));
        for (word, at) in words.chain([(&salt[..], key_mailbox::SALT)]) {
            self.register(at, u32::from_le_bytes(word.try_into().unwrap()));
        }
        let load = match key.len() {
            16 => MailboxCommand::LOAD_128,
            _ => MailboxCommand::LOAD_256,
        };
        self.register(key_mailbox::COMMAND, load.bits());
    }

    /// What the card says of an SA whose key is in the mailbox.
    pub(crate) fn add_by_mailbox(&mut self, sa: &SaContext) -> (u8, (u32, u32)) {
        let mut sa = sa.clone();
        sa.flags |= FLAG_MAILBOX;
        (sa.salt, sa.cipher_key) = ([0; 4], [0; 32]);
        self.poke(PAYLOAD, sa.as_bytes());
        let mut add = command(Opcode::SaAdd, 0);
        add.payload = (IOVA + PAYLOAD).into();
        add.payload_len = (size_of::<SaContext>() as u32).into();
        let done = self.command(add);
        (done.status, (done.index.get(), done.generation.get()))
    }

    /// Submits to queue 0 without waiting.
    pub(crate) fn submit(&mut self, submission: &Submission) {
        let slot = u64::from(self.tail) % DEPTH;
        self.poke(
            SUBMISSIONS + slot * size_of::<Submission>() as u64,
            submission.as_bytes(),
        );
        self.tail += 1;
        self.ring(0, doorbell::TAIL, self.tail);
    }

    pub(crate) fn await_completion(&mut self) -> Completion {
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
            assert!(start.elapsed() < Duration::from_secs(60), "no completion");
            // The card may have to ask for memory.
            self.client.serve(Duration::from_micros(200)).unwrap();
        }
    }

    pub(crate) fn run(&mut self, submission: &Submission) -> Completion {
        self.submit(submission);
        self.await_completion()
    }
}

/// Memory that the card asks for.
struct Private(OwnedFd);

impl PrivateMemory for Private {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let at = iova.checked_sub(IOVA).ok_or(Errno::FAULT)?;
        match rustix::io::pread(&self.0, &mut *data, at)? {
            count if count == data.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let at = iova.checked_sub(IOVA).ok_or(Errno::FAULT)?;
        rustix::io::pwrite(&self.0, data, at).map(drop)
    }
}

pub(crate) fn command(opcode: Opcode, index: u32) -> Command {
    let mut command = Command::new_zeroed();
    command.opcode = opcode as u8;
    command.index = index.into();
    command
}

pub(crate) fn sa(flags: u8, last: u64) -> SaContext {
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

pub(crate) fn fill<T: IntoBytes + FromBytes + Immutable + KnownLayout>(
    value: &mut T,
    pattern: &[u8],
) {
    for (octet, from) in value.as_mut_bytes().iter_mut().zip(pattern.iter().cycle()) {
        *octet = *from;
    }
}

pub(crate) fn submission(sa: (u32, u32), buffer: u64, offset: u32, len: usize) -> Submission {
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

pub(crate) fn inner(len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; 20 + len];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    let total = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    packet
}
