// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The admin queue.

use std::time::{Duration, Instant};

use esp::sa::SaState;
use esp::transform::Transform;
use fpga_regs::admin::{
    Command, CommandCompletion, CommandStatus, ErrorKind, ErrorRecord, Opcode, SaAdded,
};
use fpga_regs::context::{
    FLAG_MAILBOX, Lifetimes, Outer, ReplayState, SaContext, SaDescription, Usage,
};
use fpga_regs::port::{PortRole, RuleAction};
use fpga_regs::queue::QueueDescription;
use fpga_regs::registers::{Control, FatalCause};
use offload_api::error::SaError;
use offload_api::sa::{Amend, Direction, Grant, Numbering, SaUsage};
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroizing;

use crate::card::{Card, Core, DataQueue, MAX_DEPTH, MAX_PRIORITY, Ring};
use crate::context;
use crate::dma::DmaFault;
use crate::fault::Fault;
use crate::handshake::{self, Pages, post};
use crate::inline::rules::Rule;
use crate::rtl;
use crate::sas::CardSa;

/// How late a late answer is.
const LATE_ANSWER: Duration = Duration::from_millis(10);

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
    const NO_QUEUE: u32 = ErrorRecord::NO_QUEUE;
    if !core.control.contains(Control::ENABLE) || core.fatal != FatalCause::None {
        return;
    }
    let pending = (tail.wrapping_sub(core.admin.head)) & 0xffff;
    if pending > core.admin.depth {
        core.counters.bad_descriptors += 1;
        core.note(ErrorKind::Doorbell, NO_QUEUE, tail.into());
        core.fail(FatalCause::Configuration, tail.into());
        return;
    }
    for _ in 0..pending {
        if let Err(fault) = run_one(card, core) {
            core.fault(NO_QUEUE, fault);
            core.fail(FatalCause::AdminDma, fault.iova);
            return;
        }
    }
    core.raise(0, pending);
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
            // The end of a walk through the SAs is no error.
            let walked = status == CommandStatus::Stale && command.opcode == Opcode::SaNext as u8;
            if !walked {
                let detail = u64::from(command.opcode) | (status as u64) << 8;
                core.counters.bad_descriptors += 1;
                core.note(ErrorKind::Command, ErrorRecord::NO_QUEUE, detail);
            }
            (
                Answer {
                    value,
                    ..Answer::default()
                },
                status,
            )
        }
    };
    if core.faults.strikes(Fault::LateAnswer) {
        std::thread::sleep(LATE_ANSWER);
    }
    if core.faults.strikes(Fault::DropAnswer) {
        return Ok(());
    }
    let id = if core.faults.strikes(Fault::ForgeAnswer) {
        (command.id.get() ^ 0x55aa).into()
    } else {
        command.id
    };
    let status = if core.faults.strikes(Fault::ForgeAnswerStatus) {
        0xee
    } else {
        status as u8
    };
    let completion = CommandCompletion {
        id,
        reserved0: 0.into(),
        index: answer.index.into(),
        generation: answer.generation.into(),
        reserved1: 0.into(),
        value: answer.value.into(),
        reserved2: [0; 6],
        status,
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
    let [first, second, third, fourth, _] = command.arguments.map(|argument| argument.get());
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
            let priority = u8::try_from(fourth)
                .ok()
                .filter(|priority| *priority <= MAX_PRIORITY);
            let queue = core.queues.get_mut(index as usize).ok_or(bad)?;
            let priority = priority.ok_or(bad)?;
            if queue.is_some() {
                return Err((CommandStatus::QueueState, 0));
            }
            card.doorbells.clear_page(index as u16);
            card.set_taken(index as u16, 0);
            *queue = Some(DataQueue::new(ring, priority));
            core.rtl_set_queue(index as u16, Some((&ring, priority)));
            if let Some(held) = &mut core.held {
                held.open(index as usize, depth);
            }
            Ok(Answer::default())
        }
        Opcode::DeleteQueue => {
            // The data side works on a queue only under the same lock, so it is at rest here.
            if core.queues.get(index as usize).is_some_and(Option::is_some) {
                core.rtl_set_queue(index as u16, None);
            }
            let queue = core.queues.get_mut(index as usize).ok_or(bad)?;
            let deleted = queue.take().map(|_| Answer::default());
            if let Some(held) = &mut core.held {
                held.close(index as usize);
            }
            deleted.ok_or((CommandStatus::QueueState, 0))
        }
        Opcode::QueueQuery => {
            core.rtl_look_at_queue(index as u16);
            let queue = core.queues.get(index as usize).ok_or(bad)?;
            let description =
                queue.map_or_else(QueueDescription::new_zeroed, |queue| queue.describe());
            give(core, command, description.as_bytes())?;
            Ok(Answer::default())
        }
        Opcode::SaAdd => {
            // Filled where it is and zeroised there: each move would leave keys behind on the stack.
            let mut context = Box::new(Zeroizing::new(SaContext::new_zeroed()));
            fetch(core, command, context.as_mut_bytes())?;
            let (index, generation) = add(core, &mut context, now).map_err(|status| (status, 0))?;
            Ok(Answer {
                index,
                generation,
                value: 0,
            })
        }
        Opcode::SaAddBulk => add_bulk(core, command, now),
        Opcode::SaGrant => amend(
            core,
            command,
            &Amend::Grant(Grant {
                first,
                last: second,
            }),
        ),
        Opcode::SaRevoke => {
            core.rtl_pull((index, generation), false);
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
            // What goes with them is written along with them.
            core.rtl_pull((index, generation), false);
            sa(core, command)?.transform.set_outer(outer);
            core.rtl_push((index, generation), false);
            Ok(Answer::default())
        }
        Opcode::SaUsage => {
            core.rtl_pull((index, generation), false);
            let usage = sa(core, command)?.state.usage();
            write_usage(core, command, &usage)?;
            Ok(Answer::default())
        }
        Opcode::SaRetire => {
            core.rtl_pull((index, generation), false);
            let usage = sa(core, command)?.state.usage();
            if command.payload_len.get() as usize == size_of::<Usage>() {
                write_usage(core, command, &usage)?;
            }
            core.sas
                .remove(index, generation)
                .ok_or((CommandStatus::Stale, 0))?;
            core.rtl_remove(index);
            if let Some(inline) = &mut core.inline {
                inline.rules.remove_sa((index, generation));
            }
            Ok(Answer::default())
        }
        Opcode::SaNext => {
            const LEN: usize = size_of::<SaDescription>();
            let room = command.payload_len.get() as usize;
            if room == 0 || !room.is_multiple_of(LEN) {
                return Err(bad);
            }
            let most = (room / LEN).min(SaDescription::AT_ONCE);
            let mut told = Vec::with_capacity(most * LEN);
            let (mut first, mut next, mut value) = (None, index, 0);
            while value < most as u64
                && let Some((index, generation, _)) = core.sas.next(next)
            {
                core.rtl_pull((index, generation), false);
                let Some((index, generation, sa)) = core.sas.next(index) else {
                    break;
                };
                told.extend_from_slice(context::describe(index, generation, sa, now).as_bytes());
                first = first.or(Some((index, generation)));
                next = index.saturating_add(1);
                value += 1;
            }
            let (index, generation) = first.ok_or((CommandStatus::Stale, 0))?;
            write(core, command.payload.get(), &told)?;
            Ok(Answer {
                index,
                generation,
                value,
            })
        }
        Opcode::SaDrain => {
            let marks =
                (0..card.doorbells.queues()).map(|queue| handshake::tail(&card.doorbells, queue));
            sa(core, command)?.drain = Some(marks.collect());
            core.rtl_drain(card);
            core.rtl_pull((index, generation), false);
            core.rtl_push((index, generation), false);
            Ok(Answer::default())
        }
        Opcode::PortQuery => {
            let none = (CommandStatus::Unsupported, 0);
            let role = PortRole::from_code(index).ok_or(bad)?;
            let description = core.inline.as_ref().ok_or(none)?.describe(role);
            give(core, command, description.as_bytes())?;
            Ok(Answer::default())
        }
        Opcode::RuleAdd => {
            let rule: fpga_regs::port::Rule = payload(core, command)?;
            add_rule(core, &rule).map_err(|status| (status, 0))
        }
        Opcode::RuleDelete => {
            let none = (CommandStatus::Unsupported, 0);
            let inline = core.inline.as_mut().ok_or(none)?;
            let removed = inline.rules.remove(index, generation);
            removed
                .then(Answer::default)
                .ok_or((CommandStatus::Stale, 0))
        }
        Opcode::ErrorLog => {
            let records: Vec<ErrorRecord> = core.errors.newest().copied().collect();
            let room = command.payload_len.get() as usize / size_of::<ErrorRecord>();
            let records = records.get(..room).unwrap_or(&records);
            write(core, command.payload.get(), records.as_bytes())?;
            Ok(Answer {
                value: records.len() as u64,
                ..Answer::default()
            })
        }
        Opcode::SelfTest => Ok(Answer {
            value: esp::self_test::run()
                .position(|test| test.failure.is_some())
                .map_or(0, |number| number as u64 + 1),
            ..Answer::default()
        }),
    }
}

fn add_rule(core: &mut Core, rule: &fpga_regs::port::Rule) -> Result<Answer, CommandStatus> {
    let rule = Rule::decode(rule)?;
    if rule.action == RuleAction::Protect {
        let (index, generation) = rule.sa;
        let sa = core
            .sas
            .find(index, generation)
            .ok_or(CommandStatus::Stale)?;
        let inbound = sa.transform.direction() == Direction::Inbound;
        // Without outer headers a packet has no way on the wire.
        if inbound != rule.is_inbound() || sa.transform.outer().is_none() {
            return Err(CommandStatus::NotApplicable);
        }
    }
    let inline = core.inline.as_mut().ok_or(CommandStatus::Unsupported)?;
    let (index, generation) = inline.rules.add(rule).ok_or(CommandStatus::TableFull)?;
    Ok(Answer {
        index,
        generation,
        value: 0,
    })
}

/// Adds an SA out of its context, with the mailbox's key if it is to have that.
fn add(
    core: &mut Core,
    context: &mut SaContext,
    now: Instant,
) -> Result<(u32, u32), CommandStatus> {
    if context.flags & FLAG_MAILBOX == 0 {
        return add_with_key(core, context, now);
    }
    let added = core
        .key_by_mailbox(context)
        .and_then(|()| add_with_key(core, context, now));
    core.clear_mailbox();
    added
}

pub(crate) fn add_with_key(
    core: &mut Core,
    context: &SaContext,
    now: Instant,
) -> Result<(u32, u32), CommandStatus> {
    let params = context::decode(context)?;
    if core.rtl.is_some() {
        let fits = params.replay_window <= rtl::MAX_WINDOW;
        if !core.carries(params.suite) || !fits {
            return Err(CommandStatus::Unsupported);
        }
    }
    if core.faults.strikes(Fault::FullTable) {
        return Err(CommandStatus::TableFull);
    }
    let sa = CardSa {
        transform: Transform::new(&params).map_err(|_| CommandStatus::Unsupported)?,
        state: SaState::new(&params, now),
        cookie: u64::from_le_bytes(context.cookie),
        replay_window: params.replay_window,
        esn: params.esn,
        explicit: params.numbering == Numbering::Explicit,
        drain: None,
    };
    let Some(place) = core.sas.insert(sa) else {
        core.table_full(now);
        return Err(CommandStatus::TableFull);
    };
    core.rtl_add(place, &params, context.flags & FLAG_MAILBOX != 0);
    Ok(place)
}

/// One context after the other, so that the card holds the keys of one at a time.
fn add_bulk(core: &mut Core, command: &Command, now: Instant) -> Outcome {
    const CONTEXT: u64 = size_of::<SaContext>() as u64;
    let bad = (CommandStatus::BadField, 0);
    let [count, answers, ..] = command.arguments.map(|argument| argument.get());
    if count.checked_mul(CONTEXT) != Some(command.payload_len.get().into()) {
        return Err(bad);
    }
    let mut context = Box::new(Zeroizing::new(SaContext::new_zeroed()));
    let mut added = 0;
    for number in 0..count {
        let at = command.payload.get().checked_add(number * CONTEXT);
        read(core, at.ok_or(bad)?, context.as_mut_bytes())?;
        let (place, status) = match add(core, &mut context, now) {
            Ok(place) => (place, CommandStatus::Ok),
            Err(status) => ((0, 0), status),
        };
        added += u64::from(status == CommandStatus::Ok);
        let answer = SaAdded {
            index: place.0.into(),
            generation: place.1.into(),
            status: status as u8,
            reserved: [0; 7],
        };
        let at = answers.checked_add(number * size_of::<SaAdded>() as u64);
        let told = at
            .ok_or(bad)
            .and_then(|at| write(core, at, answer.as_bytes()));
        if let Err(error) = told {
            // An SA that the host doesn't hear of would be nobody's.
            if core.sas.remove(place.0, place.1).is_some() {
                core.rtl_remove(place.0);
            }
            return Err(error);
        }
    }
    Ok(Answer {
        value: added,
        ..Answer::default()
    })
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
    let place = (command.index.get(), command.generation.get());
    let with_window = matches!(change, Amend::Replay(_));
    core.rtl_pull(place, with_window);
    let amended = sa(core, command)?.state.amend(change, Instant::now());
    if amended.is_ok() {
        core.rtl_push(place, with_window);
    }
    match amended {
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
    read(core, command.payload.get(), into)
}

fn write_usage(
    core: &mut Core,
    command: &Command,
    usage: &SaUsage,
) -> Result<(), (CommandStatus, u64)> {
    give(core, command, context::usage(usage).as_bytes())
}

/// Writes an answer of a fixed length over the payload.
fn give(core: &mut Core, command: &Command, answer: &[u8]) -> Result<(), (CommandStatus, u64)> {
    if command.payload_len.get() as usize != answer.len() {
        return Err((CommandStatus::BadField, 0));
    }
    write(core, command.payload.get(), answer)
}

fn read(core: &mut Core, iova: u64, into: &mut [u8]) -> Result<(), (CommandStatus, u64)> {
    let result = core.dma.read(iova, into);
    result.map_err(|fault| unreachable_payload(core, fault))
}

fn write(core: &mut Core, iova: u64, octets: &[u8]) -> Result<(), (CommandStatus, u64)> {
    let result = core.dma.write(iova, octets);
    result.map_err(|fault| unreachable_payload(core, fault))
}

fn unreachable_payload(core: &mut Core, fault: DmaFault) -> (CommandStatus, u64) {
    core.fault(ErrorRecord::NO_QUEUE, fault);
    (CommandStatus::DmaFault, fault.iova)
}
