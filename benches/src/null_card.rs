// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An ipa card in this process that completes every operation at once and leaves the packet as it
//! is: what remains is the driver's own cost. It works when told to ([`NullCard::work`]), so its
//! share of the time can be told apart.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use driver::transport::{MappedRegion, Transport};
use fpga_regs::admin::{Command, CommandCompletion, CommandStatus, Opcode};
use fpga_regs::context::suite_bit;
use fpga_regs::descriptor::{Completion, PHASE, Submission};
use fpga_regs::registers::{
    ABI_VERSION, CardFeatures, CardStatus, Control, DEVICE_ID, DOORBELL_PAGE, MAGIC_VALUE,
    REGISTER_BAR, VENDOR_ID, admin_queue, control, doorbell, identity,
};
use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use offload_api::sa::Suite;
use rustix::fs::MemfdFlags;

use crate::memory::{Entries, Mapping};

const QUEUES: u32 = 4;

/// The card; cloning shares it. It is its own transport.
#[derive(Clone)]
pub struct NullCard(Arc<Shared>);

struct Shared {
    doorbell_fd: OwnedFd,
    doorbells: Mapping,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    registers: HashMap<u64, u32>,
    mappings: Vec<Mapping>,
    admin: Option<Rings>,
    queues: [Option<Rings>; QUEUES as usize],
    sas: u32,
}

#[derive(Clone, Copy)]
struct Rings {
    submissions: Entries,
    completions: Entries,
    depth: u32,
    position: u32,
}

impl Rings {
    fn phase(&self) -> u8 {
        if self.position & self.depth == 0 {
            PHASE
        } else {
            0
        }
    }
}

fn host(error: impl ToString) -> DeviceError {
    DeviceError::Host {
        what: "a card's memory",
        error: error.to_string(),
    }
}

impl NullCard {
    /// A card at power-on.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> Result<Self, DeviceError> {
        let len = u64::from(QUEUES) * DOORBELL_PAGE;
        let doorbell_fd =
            rustix::fs::memfd_create("doorbells", MemfdFlags::CLOEXEC).map_err(host)?;
        rustix::fs::ftruncate(&doorbell_fd, len).map_err(host)?;
        let doorbells = Mapping::new(doorbell_fd.as_fd(), len as usize, 0).map_err(host)?;
        let registers = [
            (identity::MAGIC, MAGIC_VALUE),
            (identity::VERSION, ABI_VERSION),
            (
                identity::SUITES,
                Suite::all().fold(0, |all, suite| {
                    all | (1u64 << suite_bit(suite.cipher() as u8, suite.integrity() as u8)) as u32
                }),
            ),
            (
                identity::FEATURES,
                (CardFeatures::ESN | CardFeatures::TUNNEL).bits(),
            ),
            (identity::MAX_SAS, 1024),
            (identity::MAX_QUEUES, QUEUES),
            (identity::MAX_DEPTH, 4096),
            (identity::MAX_PACKET, 16 << 10),
            (identity::MAX_GATHER, 16),
            (identity::MAX_WINDOW, 1024),
            (identity::VECTORS, QUEUES + 1),
        ];
        Ok(Self(Arc::new(Shared {
            doorbell_fd,
            doorbells,
            state: Mutex::new(State {
                registers: registers.into_iter().collect(),
                ..State::default()
            }),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes what was submitted to queue 0.
    pub fn work(&self) {
        let tail = self.0.doorbells.word(doorbell::TAIL);
        let tail = tail.map_or(0, |word| word.load(Ordering::Acquire));
        let mut state = self.state();
        let Some(rings) = &mut state.queues[0] else {
            return;
        };
        while rings.position != tail {
            let submission: Submission = rings.submissions.read(rings.position);
            let completion = Completion {
                slot: submission.slot,
                slot_generation: submission.slot_generation,
                sequence: 1.into(),
                offset: submission.offset,
                next_header: 4,
                reserved: [0; 3],
                len: submission.len,
                position: (rings.position as u16).into(),
                status: 0,
                phase: rings.phase(),
            };
            rings.completions.post(rings.position, &completion);
            rings.position = rings.position.wrapping_add(1);
        }
    }
}

impl State {
    fn rings(&self, submissions: u64, completions: u64, depth: u32) -> Option<Rings> {
        let find = |iova, size| {
            let mut found = self.mappings.iter();
            found.find_map(|mapping| mapping.entries(iova, depth, size))
        };
        Some(Rings {
            submissions: find(submissions, size_of::<Submission>())?,
            completions: find(completions, size_of::<Completion>())?,
            depth,
            position: 0,
        })
    }

    fn register(&self, offset: u64) -> u32 {
        self.registers.get(&offset).copied().unwrap_or(0)
    }

    fn wide(&self, offset: u64) -> u64 {
        u64::from(self.register(offset + 4)) << 32 | u64::from(self.register(offset))
    }

    fn written(&mut self, offset: u64, value: u32) {
        self.registers.insert(offset, value);
        match offset {
            control::CONTROL => {
                let status = match Control::from_bits_retain(value) {
                    Control::ENABLE => {
                        self.admin = self.rings(
                            self.wide(admin_queue::SUBMISSION_BASE),
                            self.wide(admin_queue::COMPLETION_BASE),
                            self.register(admin_queue::DEPTH),
                        );
                        CardStatus::READY
                    }
                    _ => {
                        self.queues = Default::default();
                        CardStatus::empty()
                    }
                };
                self.registers.insert(control::STATUS, status.bits());
            }
            admin_queue::TAIL => self.administer(value as u16),
            _ => {}
        }
    }

    fn administer(&mut self, tail: u16) {
        while let Some(mut rings) = self.admin.filter(|rings| rings.position as u16 != tail) {
            let command: Command = rings.submissions.read(rings.position);
            let status = self.run(&command);
            let completion = CommandCompletion {
                id: command.id,
                reserved0: 0.into(),
                index: self.sas.into(),
                generation: 1.into(),
                reserved1: 0.into(),
                value: 0.into(),
                reserved2: [0; 6],
                status: status as u8,
                phase: rings.phase(),
            };
            rings.completions.post(rings.position, &completion);
            rings.position = rings.position.wrapping_add(1);
            self.admin = Some(rings);
        }
    }

    fn run(&mut self, command: &Command) -> CommandStatus {
        let [submissions, completions, depth, ..] = command.arguments.map(|word| word.get());
        match Opcode::from_code(command.opcode) {
            Some(Opcode::CreateQueue) => {
                let rings = self.rings(submissions, completions, depth as u32);
                let queue = self.queues.get_mut(command.index.get() as usize);
                match queue.filter(|_| rings.is_some()) {
                    Some(queue) => *queue = rings,
                    None => return CommandStatus::BadField,
                }
            }
            Some(Opcode::SaAdd) => self.sas += 1,
            Some(_) => {}
            None => return CommandStatus::BadOpcode,
        }
        CommandStatus::Ok
    }
}

impl Transport for NullCard {
    fn name(&self) -> &'static str {
        "in-process"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let value = if region == REGISTER_BAR {
            self.state().register(offset)
        } else {
            u32::from(DEVICE_ID) << 16 | u32::from(VENDOR_ID)
        };
        for (octet, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *octet = value;
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if region == REGISTER_BAR
            && let Ok(value) = data.try_into()
        {
            self.state().written(offset, u32::from_le_bytes(value));
        }
        Ok(())
    }

    fn map(&self, _: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        MappedRegion::new(self.0.doorbell_fd.as_fd(), offset, len).map_err(host)
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        let mapping = Mapping::new(memory.fd, memory.len, iova).map_err(host)?;
        self.state().mappings.push(mapping);
        Ok(())
    }

    fn dma_unmap(&self, _: u64, _: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    fn enable_msix(&self, _: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&self) {}

    fn ended(&self) -> bool {
        false
    }
}
