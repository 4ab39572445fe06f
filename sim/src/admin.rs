// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The admin queue.

use std::time::Instant;

use esp::sa::SaState;
use esp::transform::Transform;
use fpga_regs::admin::{Command, CommandCompletion, CommandStatus, Opcode};
use fpga_regs::context::{Lifetimes, Outer, ReplayState, SaContext, Usage};
use fpga_regs::registers::{Control, FatalCause};
use offload_api::error::SaError;
use offload_api::sa::{Amend, Grant, SaUsage};
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroizing;

use crate::card::{Card, CardSa, Core, MAX_DEPTH, Ring, post};
use crate::context;

/// What a command gives back.
#[derive(Default)]
struct Answer {
    index: u32,
    generation: u32,
    value: u64,
}

type Outcome = Result<Answer, (CommandStatus, u64)>;

/// Runs everything submitted, up to the driver's tail.
pub(crate) fn run(card: &Card, core: &mut Core, tail: u32) {
    if !core.control.contains(Control::ENABLE) || core.fatal != FatalCause::None {
        return;
    }
    let pending = (tail.wrapping_sub(core.admin.head)) & 0xffff;
    if pending > core.admin.depth {
        core.counters.bad_descriptors += 1;
        core.fail(FatalCause::Configuration, tail.into());
        return;
    }
    for _ in 0..pending {
        if let Err(fault) = run_one(card, core) {
            core.fault(fault);
            core.fail(FatalCause::AdminDma, fault.iova);
            return;
        }
    }
    core.interrupt(0);
}

fn run_one(card: &Card, core: &mut Core) -> Result<(), crate::dma::DmaFault> {
    let ring = core.admin;
    let slot = u64::from(ring.head % ring.depth);
    let mut command = Command::new_zeroed();
    core.dma.read(
        ring.submissions + slot * size_of::<Command>() as u64,
        command.as_mut_bytes(),
    )?;
    core.admin.head = ring.head.wrapping_add(1) & 0xffff;
    let (answer, status) = match execute(card, core, &command) {
        Ok(answer) => (answer, CommandStatus::Ok),
        Err((status, value)) => {
            core.counters.bad_descriptors += 1;
            (
                Answer {
                    value,
                    ..Answer::default()
                },
                status,
            )
        }
    };
    let completion = CommandCompletion {
        id: command.id,
        reserved0: 0.into(),
        index: answer.index.into(),
        generation: answer.generation.into(),
        reserved1: 0.into(),
        value: answer.value.into(),
        reserved2: [0; 6],
        status: status as u8,
        phase: ring.phase(),
    };
    let slot = u64::from(ring.produced % ring.depth);
    core.admin.produced = ring.produced.wrapping_add(1);
    let at = ring.completions + slot * size_of::<CommandCompletion>() as u64;
    post(&core.dma, at, completion.as_bytes())
}

fn execute(card: &Card, core: &mut Core, command: &Command) -> Outcome {
    let bad = (CommandStatus::BadField, 0);
    let opcode = Opcode::from_code(command.opcode).ok_or((CommandStatus::BadOpcode, 0))?;
    let (index, generation) = (command.index.get(), command.generation.get());
    let [first, second, third, ..] = command.arguments.map(|argument| argument.get());
    let now = Instant::now();
    match opcode {
        Opcode::Nop => Ok(Answer::default()),
        Opcode::CreateQueue => {
            let depth = u32::try_from(third).map_err(|_| bad)?;
            if !depth.is_power_of_two() || !(2..=MAX_DEPTH).contains(&depth) {
                return Err(bad);
            }
            // Entries are written by whole words.
            if !first.is_multiple_of(64) || !second.is_multiple_of(64) {
                return Err(bad);
            }
            let ring = Ring {
                submissions: first,
                completions: second,
                depth,
                ..Ring::default()
            };
            if !ring.fits() {
                return Err(bad);
            }
            let queue = core.queues.get_mut(index as usize).ok_or(bad)?;
            if queue.is_some() {
                return Err((CommandStatus::QueueState, 0));
            }
            let page = u64::from(index) * fpga_regs::registers::DOORBELL_PAGE;
            for offset in (0..fpga_regs::registers::DOORBELL_PAGE).step_by(4) {
                card.doorbells.write(page + offset, 0);
            }
            *queue = Some(ring);
            Ok(Answer::default())
        }
        Opcode::DeleteQueue => {
            // The data side works on a queue only under the same lock, so it is at rest here.
            let queue = core.queues.get_mut(index as usize).ok_or(bad)?;
            queue
                .take()
                .map(|_| Answer::default())
                .ok_or((CommandStatus::QueueState, 0))
        }
        Opcode::SaAdd => {
            // Filled where it is and zeroised there: each move would leave keys behind on the stack.
            let mut context = Box::new(Zeroizing::new(SaContext::new_zeroed()));
            fetch(core, command, context.as_mut_bytes())?;
            let params = context::decode(&context).map_err(|status| (status, 0))?;
            let transform = Transform::new(&params).map_err(|_| (CommandStatus::Unsupported, 0))?;
            let sa = CardSa {
                transform,
                state: SaState::new(&params, now),
            };
            let (index, generation) = core.sas.insert(sa).ok_or((CommandStatus::TableFull, 0))?;
            Ok(Answer {
                index,
                generation,
                value: 0,
            })
        }
        Opcode::SaGrant => amend(
            core,
            command,
            &Amend::Grant(Grant {
                first,
                last: second,
            }),
        ),
        Opcode::SaRevoke => {
            let next = sa(core, command)?.state.next_sequence();
            amend(core, command, &Amend::Revoke)?;
            Ok(Answer {
                index,
                generation,
                value: next,
            })
        }
        Opcode::SaReplay => {
            let state: ReplayState = payload(core, command)?;
            amend(core, command, &Amend::Replay(context::snapshot(&state)))
        }
        Opcode::SaLifetimes => {
            let limits: Lifetimes = payload(core, command)?;
            amend(
                core,
                command,
                &Amend::Lifetimes(context::lifetimes(&limits)),
            )
        }
        Opcode::SaOuter => {
            let outer: Outer = payload(core, command)?;
            let outer = context::outer(&outer).map_err(|status| (status, 0))?;
            sa(core, command)?.transform.set_outer(outer);
            Ok(Answer::default())
        }
        Opcode::SaUsage => {
            let usage = sa(core, command)?.state.usage();
            write_usage(core, command, &usage)?;
            Ok(Answer::default())
        }
        Opcode::SaRetire => {
            let usage = sa(core, command)?.state.usage();
            if command.payload_len.get() as usize == size_of::<Usage>() {
                write_usage(core, command, &usage)?;
            }
            core.sas
                .remove(index, generation)
                .ok_or((CommandStatus::Stale, 0))?;
            Ok(Answer::default())
        }
        _ => Err((CommandStatus::BadOpcode, 0)),
    }
}

fn sa<'core>(
    core: &'core mut Core,
    command: &Command,
) -> Result<&'core mut CardSa, (CommandStatus, u64)> {
    core.sas
        .find(command.index.get(), command.generation.get())
        .ok_or((CommandStatus::Stale, 0))
}

fn amend(core: &mut Core, command: &Command, change: &Amend) -> Outcome {
    match sa(core, command)?.state.amend(change, Instant::now()) {
        Ok(()) => Ok(Answer::default()),
        Err(SaError::GrantBehind { expected, .. }) => Err((CommandStatus::GrantBehind, expected)),
        Err(SaError::Invalid(_)) => Err((CommandStatus::BadField, 0)),
        Err(_) => Err((CommandStatus::NotApplicable, 0)),
    }
}

fn payload<T>(core: &mut Core, command: &Command) -> Result<T, (CommandStatus, u64)>
where
    T: FromBytes + IntoBytes,
{
    let mut value = T::new_zeroed();
    fetch(core, command, value.as_mut_bytes())?;
    Ok(value)
}

fn fetch(core: &mut Core, command: &Command, into: &mut [u8]) -> Result<(), (CommandStatus, u64)> {
    if command.payload_len.get() as usize != into.len() {
        return Err((CommandStatus::BadField, 0));
    }
    core.dma.read(command.payload.get(), into).map_err(|fault| {
        core.fault(fault);
        (CommandStatus::DmaFault, fault.iova)
    })
}

fn write_usage(
    core: &mut Core,
    command: &Command,
    usage: &SaUsage,
) -> Result<(), (CommandStatus, u64)> {
    if command.payload_len.get() as usize != size_of::<Usage>() {
        return Err((CommandStatus::BadField, 0));
    }
    let usage = Usage {
        packets: usage.packets.into(),
        bytes: usage.bytes.into(),
        sequence: usage.sequence.into(),
        bad_icv: usage.bad_icv.into(),
        replayed: usage.replayed.into(),
        errors: usage.errors.into(),
    };
    core.dma
        .write(command.payload.get(), usage.as_bytes())
        .map_err(|fault| {
            core.fault(fault);
            (CommandStatus::DmaFault, fault.iova)
        })
}
