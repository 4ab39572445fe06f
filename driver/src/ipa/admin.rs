// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The admin queue's host side: one command at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fpga_regs::admin::{Command, CommandCompletion, CommandStatus, Opcode, SaAdded};
use fpga_regs::context::SaContext;
use fpga_regs::registers::admin_queue;
use offload_api::error::DeviceError;

use zerocopy::{FromZeros, IntoBytes};

use crate::bar::Registers;
use crate::dma::{DmaArena, DmaSlice};
use crate::patience;
use crate::ring::{CompletionRing, SubmissionRing};

/// Entries of both rings.
pub(super) const DEPTH: u32 = 16;
/// SAs that one command adds, at most.
pub(super) const BULK: usize = 64;
/// Octets of their contexts.
const CONTEXTS: u64 = (BULK * size_of::<SaContext>()) as u64;
/// Octets of the payload buffer: contexts, and behind them the card's answers.
const PAYLOAD: u64 = CONTEXTS + (BULK * size_of::<SaAdded>()) as u64;
/// How long the card may take for a command.
const DEADLINE: Duration = Duration::from_secs(2);

/// The rings and the payload buffer.
pub(super) struct AdminQueue {
    submissions: SubmissionRing<Command>,
    completions: CompletionRing<CommandCompletion>,
    arena: Arc<DmaArena>,
    payload: DmaSlice,
    tail: u32,
    head: u32,
}

/// What a command gave.
pub(super) struct Answer {
    pub(super) status: CommandStatus,
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) value: u64,
    /// What the card wrote over the payload.
    pub(super) payload: Vec<u8>,
}

impl AdminQueue {
    pub(super) fn new(arena: &Arc<DmaArena>) -> Option<Self> {
        let ring = |entry: usize| arena.take(u64::from(DEPTH) * entry as u64);
        Some(Self {
            submissions: SubmissionRing::new(arena, ring(size_of::<Command>())?, DEPTH)?,
            completions: CompletionRing::new(arena, ring(size_of::<CommandCompletion>())?, DEPTH)?,
            payload: arena.take(PAYLOAD)?,
            arena: arena.clone(),
            tail: 0,
            head: 0,
        })
    }

    /// Tells the card where the rings are; it is not enabled yet.
    pub(super) fn set_up(&self, registers: &Registers<'_>) -> Result<(), DeviceError> {
        registers.write_wide(admin_queue::SUBMISSION_BASE, self.submissions.iova())?;
        registers.write_wide(admin_queue::COMPLETION_BASE, self.completions.iova())?;
        registers.write(admin_queue::DEPTH, DEPTH)
    }

    /// Runs a command. The payload buffer is zeroed when the card is done with it.
    pub(super) fn run(
        &mut self,
        registers: &Registers<'_>,
        opcode: Opcode,
        index: u32,
        generation: u32,
        arguments: [u64; 5],
        payload: &[u8],
    ) -> Result<Answer, DeviceError> {
        self.arena.write(self.payload, 0, payload);
        let result = self.exchange(
            registers,
            opcode,
            index,
            generation,
            arguments,
            payload.len(),
        );
        let answer = result.map(|completion| {
            let mut back = vec![0; payload.len()];
            self.arena.read(self.payload, 0, &mut back);
            (completion, back)
        });
        self.arena.write(self.payload, 0, &vec![0; payload.len()]);
        let (completion, mut payload) = answer?;
        if opcode == Opcode::SaAdd {
            // The context itself: keys.
            zeroize::Zeroize::zeroize(&mut payload);
        }
        let status =
            CommandStatus::from_code(completion.status).ok_or_else(|| DeviceError::Protocol {
                what: format!("command status {}", completion.status),
            })?;
        Ok(Answer {
            status,
            index: completion.index.get(),
            generation: completion.generation.get(),
            value: completion.value.get(),
            payload,
        })
    }

    /// Adds SAs from so many contexts, [`BULK`] at most; what became of each.
    pub(super) fn add_bulk(
        &mut self,
        registers: &Registers<'_>,
        contexts: &[u8],
    ) -> Result<Vec<SaAdded>, DeviceError> {
        let count = contexts.len() / size_of::<SaContext>();
        let mut added = vec![SaAdded::new_zeroed(); count];
        // What an earlier command left there is no answer.
        self.arena.write(self.payload, CONTEXTS, added.as_bytes());
        self.arena.write(self.payload, 0, contexts);
        let answers = self.arena.iova_of(self.payload) + CONTEXTS;
        let arguments = [count as u64, answers, 0, 0, 0];
        let opcode = Opcode::SaAddBulk;
        let result = self.exchange(registers, opcode, 0, 0, arguments, contexts.len());
        self.arena.write(self.payload, 0, &vec![0; contexts.len()]);
        let completion = result?;
        if completion.status != CommandStatus::Ok as u8 {
            return Err(DeviceError::Protocol {
                what: format!("many SAs at once: status {}", completion.status),
            });
        }
        self.arena
            .read(self.payload, CONTEXTS, added.as_mut_bytes());
        Ok(added)
    }

    fn exchange(
        &mut self,
        registers: &Registers<'_>,
        opcode: Opcode,
        index: u32,
        generation: u32,
        arguments: [u64; 5],
        payload_len: usize,
    ) -> Result<CommandCompletion, DeviceError> {
        let id = self.tail as u16;
        let command = Command {
            opcode: opcode as u8,
            reserved0: 0,
            id: id.into(),
            index: index.into(),
            generation: generation.into(),
            payload_len: (payload_len as u32).into(),
            payload: self.arena.iova_of(self.payload).into(),
            arguments: arguments.map(Into::into),
        };
        self.submissions.write(self.tail, command);
        self.tail = self.tail.wrapping_add(1);
        // Orders the entry before the doorbell.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        registers.write(admin_queue::TAIL, self.tail & 0xffff)?;
        let start = Instant::now();
        loop {
            if let Some(completion) = self.completions.read(self.head) {
                self.head = self.head.wrapping_add(1);
                if completion.id.get() == id {
                    return Ok(completion);
                }
                return Err(DeviceError::Protocol {
                    what: format!("completion of command {}, expected {id}", completion.id),
                });
            }
            let deadline = patience::stretched(DEADLINE);
            if start.elapsed() > deadline {
                let millis = deadline.as_millis() as u64;
                return Err(DeviceError::Timeout {
                    waited_for: "an admin command",
                    millis,
                });
            }
            std::thread::yield_now();
        }
    }
}
