// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair over both engines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::check::{SampleId, Sampler, is_check};
use super::lock;
use super::sa::{Sa, Target};
use super::shared::Shared;
use super::wait::{Source, Waiter};
use crate::error::{DeviceError, OpenQueueError};
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use crate::replay::Verdict;
use crate::sa::SaHandle;

/// How long all operations of a lost device together yield to whoever moves their SAs. On a busy machine
/// each time may take milliseconds, so they are not counted.
const PATIENCE: Duration = Duration::from_millis(10);

pub(super) struct FailoverQueue {
    shared: Arc<Shared>,
    config: QueueConfig,
    /// The device's life that the queue has taken note of.
    life: u64,
    /// The device's queue of that life.
    device: Option<Box<dyn QueuePair>>,
    /// The queue of a device that was lost, while frames may still come home from it.
    dying: Option<Box<dyn QueuePair>>,
    /// There until the queue is closed.
    software: Option<Box<dyn QueuePair>>,
    /// Operations on their way; an operation's cookie is its place here.
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Taken from the caller, not yet by the engine. Handles are of the present life.
    to_device: Vec<Op>,
    to_software: Vec<Op>,
    /// Packets of the device that are done again.
    sampler: Sampler,
    /// Completions that never reached an engine, or came home from a dead one.
    ready: VecDeque<Done>,
    scratch: Vec<Done>,
    steps: Vec<Step>,
    /// The last burst stopped at an SA between two engines.
    blocked: bool,
    software_first: bool,
    waiter: Waiter,
}

/// What the caller knows an operation by.
struct Flight {
    cookie: u64,
    handle: SaHandle,
    sa: Arc<Sa>,
    stay: u32,
    device: bool,
    len: u32,
    /// The number that an inbound packet carries, or its low half; 0 where it is not looked for.
    low: u32,
    sample: Option<SampleId>,
}

/// Whence a completion comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Device,
    /// A device that was lost, after software may have gone on.
    Late,
    Software,
}

/// What becomes of an operation of a burst.
enum Step {
    Refuse(Status),
    /// To an engine, under its handle there.
    Send(Origin, SaHandle, Arc<Sa>, u32),
}

/// Why a plan ends.
enum Stop {
    End,
    /// The next operation's SA is between two engines.
    Blocked,
    /// The device was lost or has come back.
    NewLife,
}

impl FailoverQueue {
    pub(super) fn open(shared: Arc<Shared>, config: QueueConfig) -> Result<Self, OpenQueueError> {
        let software = shared.software.open_queue(&config)?;
        let life = shared.life();
        let device = match shared.with_device(life, |primary| primary.open_queue(&config)) {
            Some(Ok(device)) => Some(device),
            Some(Err(OpenQueueError::Device(error))) => {
                shared.lost(life, &error.to_string());
                None
            }
            Some(Err(error)) => return Err(error),
            None => None,
        };
        let waiter = Waiter::new()?;
        shared.add_waker(&waiter.waker);
        let depth = config.depth as usize;
        Ok(Self {
            sampler: Sampler::new(shared.config.sample),
            shared,
            config,
            life,
            device,
            dying: None,
            software: Some(software),
            flights: (0..depth).map(|_| None).collect(),
            free: (0..config.depth).rev().collect(),
            to_device: Vec::with_capacity(depth),
            to_software: Vec::with_capacity(depth),
            ready: VecDeque::with_capacity(depth),
            scratch: Vec::with_capacity(depth),
            steps: Vec::with_capacity(depth),
            blocked: false,
            software_first: false,
            waiter,
        })
    }

    /// Takes note of a loss or a return of the device: brings home what its queue holds, before
    /// anything that comes later, and opens its queue anew.
    fn follow(&mut self) {
        while self.life != self.shared.life() {
            let life = self.shared.life();
            self.leave_device();
            self.life = life;
            if life % 2 == 1 {
                self.bury();
                let opened = self
                    .shared
                    .with_device(life, |primary| primary.open_queue(&self.config));
                match opened {
                    Some(Ok(queue)) => self.device = Some(queue),
                    Some(Err(error)) => self.shared.lost(life, &error.to_string()),
                    None => {}
                }
            }
            self.redirect();
        }
    }

    /// Takes home what the lost device's queue has; the rest may come until it is buried.
    fn leave_device(&mut self) {
        let Some(mut device) = self.device.take() else {
            return;
        };
        self.bury();
        loop {
            let result = device.dequeue(&mut self.scratch, usize::MAX);
            let some = self.land_all(Origin::Device);
            match result {
                Ok(_) if device.in_flight() == 0 => break,
                Ok(_) if some => {}
                Ok(_) => {
                    self.waiter.forget_device();
                    self.shared.dying.fetch_add(1, Ordering::AcqRel);
                    self.dying = Some(device);
                    return;
                }
                Err(_) => break,
            }
        }
        self.close_device(device, Origin::Device);
    }

    /// Closes the queue of the device before.
    fn bury(&mut self) {
        if let Some(dying) = self.dying.take() {
            self.shared.dying.fetch_sub(1, Ordering::AcqRel);
            self.close_device(dying, Origin::Late);
        }
    }

    fn close_device(&mut self, device: Box<dyn QueuePair>, origin: Origin) {
        self.waiter.forget_device();
        for done in device.close() {
            self.land(done, origin);
        }
        // What is still out now has its frame in quarantine and never comes.
        let staged: Vec<u32> = self.to_device.iter().map(|op| op.cookie as u32).collect();
        for place in 0..self.flights.len() {
            let lost = matches!(self.flights.get(place), Some(Some(flight)) if flight.device);
            if lost && !staged.contains(&(place as u32)) {
                if let Some(flight) = self.flights.get_mut(place).and_then(Option::take) {
                    flight.sa.count_error(Status::Aborted);
                    flight.sa.release(&self.shared, flight.handle, flight.stay);
                    self.sampler.forget_any(flight.sample);
                }
                self.free.push(place as u32);
            }
        }
    }

    /// Finds a new way for operations that the device has not seen.
    fn redirect(&mut self) {
        let mut until = None;
        for mut op in std::mem::take(&mut self.to_device) {
            let place = op.cookie as usize;
            let Some(mut flight) = self.flights.get_mut(place).and_then(Option::take) else {
                continue;
            };
            flight.sa.release(&self.shared, flight.handle, flight.stay);
            self.sampler.forget_any(flight.sample.take());
            let target = loop {
                let now = Instant::now();
                match flight.sa.target(&self.shared, flight.handle) {
                    Target::Wait if now < *until.get_or_insert(now + PATIENCE) => {
                        std::thread::yield_now();
                    }
                    target => break target,
                }
            };
            match target {
                Target::Software { handle, stay } => {
                    op.sa = handle;
                    flight.sa.watch_grant(&self.shared, flight.handle, stay);
                    if let Some(vacant) = self.flights.get_mut(place) {
                        *vacant = Some(Flight {
                            stay: stay.number,
                            device: false,
                            ..flight
                        });
                    }
                    self.to_software.push(op);
                }
                target => {
                    if let Target::Device { stay, .. } = target {
                        flight.sa.release(&self.shared, flight.handle, stay.number);
                    }
                    self.free.push(place as u32);
                    flight.sa.count_error(Status::Aborted);
                    (op.cookie, op.sa) = (flight.cookie, flight.handle);
                    self.refuse(op, Status::Aborted);
                }
            }
        }
    }

    /// Takes an operation into the books.
    fn book(&mut self, op: &mut Op, flight: Flight) {
        // The caller has seen that there is room.
        if let Some(place) = self.free.pop()
            && let Some(vacant) = self.flights.get_mut(place as usize)
        {
            *vacant = Some(flight);
            op.cookie = place.into();
        }
    }

    fn land_all(&mut self, origin: Origin) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        let some = !scratch.is_empty();
        for done in scratch.drain(..) {
            self.land(done, origin);
        }
        self.scratch = scratch;
        some
    }

    /// Turns an engine's completion into the caller's.
    fn land(&mut self, mut done: Done, origin: Origin) {
        if origin == Origin::Software && is_check(done.cookie) {
            if let Some((life, wrong)) = self.sampler.finish(&done) {
                self.shared.quarantine(life, &wrong);
            }
            return;
        }
        let place = done.cookie as usize;
        // One that nobody waits for: its frame goes home, and that is all.
        let Some(flight) = self.flights.get_mut(place).and_then(Option::take) else {
            return;
        };
        self.free.push(place as u32);
        done.cookie = flight.cookie;
        done.sa = flight.handle;
        let sa = &flight.sa;
        if origin == Origin::Late {
            // Software has gone on from here: delivered now, it would be out of order. And whatever
            // else a lost device says, that it was lost is why.
            done.status = Status::Aborted;
        }
        let unknown = [Status::SaInvalid, Status::SaStale, Status::OwnerMismatch];
        if origin != Origin::Software && unknown.contains(&done.status) && !sa.is_retired() {
            // One that the SA has left already has lost that SA alone.
            if origin == Origin::Device && sa.is_in(flight.stay) {
                self.shared
                    .lost(self.life, "device does not know an SA that it carries");
            }
            done.status = Status::Aborted;
        }
        if done.status.is_ok() && origin == Origin::Device && sa.is_outbound() {
            let number = done.sequence;
            match sa.own_number(flight.stay, number) {
                Verdict::Fresh => {}
                // It may have been sent with before. One of honest queues that is this late is lost, as
                // behind a full queue.
                Verdict::TooOld => done.status = Status::Aborted,
                Verdict::Replayed => {
                    let reason =
                        format!("it used sequence number {number} twice, or without a grant");
                    self.shared.quarantine(self.life, &reason);
                    done.status = Status::Aborted;
                }
            }
        }
        if done.status.is_ok()
            && origin == Origin::Device
            && !sa.is_outbound()
            && !sa.may_carry(flight.low, done.sequence)
        {
            let number = done.sequence;
            let reason = format!("it opened a packet as number {number}, which it does not carry");
            self.shared.quarantine(self.life, &reason);
            done.status = Status::Aborted;
        }
        if let Some(sample) = flight.sample {
            let check = match origin {
                Origin::Device => self
                    .sampler
                    .check(&self.shared, sample, sa, &done, self.life),
                Origin::Late | Origin::Software => {
                    self.sampler.forget(sample);
                    None
                }
            };
            if let Some(check) = check {
                lock(&self.shared.statistics).checked += 1;
                self.to_software.push(check);
            }
        }
        if done.status.is_ok()
            && !sa.is_outbound()
            && let verdict @ (Verdict::Replayed | Verdict::TooOld) = sa.deliver(done.sequence)
        {
            lock(&self.shared.statistics).shadow_replays += 1;
            done.status = if verdict == Verdict::Replayed {
                Status::Replayed
            } else {
                Status::TooOld
            };
        }
        if done.status.is_ok() {
            let bytes = if sa.is_outbound() {
                flight.len as usize
            } else {
                done.frame.packet_len()
            };
            sa.count(done.sequence, bytes);
            if origin == Origin::Software {
                self.shared.fell_back();
            }
        } else {
            done.frame.clear();
            sa.count_error(done.status);
            match done.status {
                Status::Aborted if origin != Origin::Software => {
                    lock(&self.shared.statistics).aborted += 1;
                }
                Status::SequenceExhausted => {
                    sa.top_up(&self.shared);
                }
                _ => {}
            }
        }
        sa.release(&self.shared, flight.handle, flight.stay);
        self.ready.push_back(done);
    }

    fn refuse(&mut self, op: Op, status: Status) {
        self.ready.push_back(op.refused(status));
    }

    /// Gives the engines what they have not taken yet.
    fn submit(&mut self) -> Result<(), DeviceError> {
        self.follow();
        if !self.to_device.is_empty()
            && let Some(device) = &mut self.device
        {
            let started = device
                .enqueue(&mut self.to_device)
                .and_then(|_| device.kick());
            if let Err(error) = started {
                self.shared.lost(self.life, &error.to_string());
                self.follow();
            }
        }
        if !self.to_software.is_empty()
            && let Some(software) = &mut self.software
        {
            software.enqueue(&mut self.to_software)?;
            software.kick()?;
        }
        Ok(())
    }

    fn collect(&mut self, limit: usize) {
        self.follow();
        self.software_first = !self.software_first;
        for software in [self.software_first, !self.software_first] {
            if software {
                if let Some(software) = &mut self.software {
                    let _ = software.dequeue(&mut self.scratch, limit);
                }
                self.land_all(Origin::Software);
            } else if let Some(device) = &mut self.device {
                let result = device.dequeue(&mut self.scratch, limit);
                self.land_all(Origin::Device);
                if let Err(error) = result {
                    self.shared.lost(self.life, &error.to_string());
                }
            }
        }
        if let Some(dying) = &mut self.dying {
            let result = dying.dequeue(&mut self.scratch, limit);
            let over = result.is_err() || dying.in_flight() == 0;
            self.land_all(Origin::Late);
            if over {
                self.bury();
            }
        }
        // A loss that showed just now: what the device had done comes before what software does.
        self.follow();
    }

    fn bring_home(&mut self) {
        if let Some(device) = self.device.take() {
            self.close_device(device, Origin::Device);
        }
        self.bury();
        let staged: Vec<Op> = self
            .to_device
            .drain(..)
            .chain(self.to_software.drain(..))
            .collect();
        for mut op in staged {
            let place = op.cookie as usize;
            if is_check(op.cookie) {
                // A copy: nobody waits for it.
                continue;
            }
            if let Some(flight) = self.flights.get_mut(place).and_then(Option::take) {
                (op.cookie, op.sa) = (flight.cookie, flight.handle);
                self.free.push(place as u32);
                flight.sa.release(&self.shared, flight.handle, flight.stay);
            }
            self.refuse(op, Status::Aborted);
        }
        if let Some(software) = self.software.take() {
            for done in software.close() {
                self.land(done, Origin::Software);
            }
        }
        for place in 0..self.flights.len() {
            if let Some(flight) = self.flights.get_mut(place).and_then(Option::take) {
                self.free.push(place as u32);
                flight.sa.release(&self.shared, flight.handle, flight.stay);
            }
        }
    }
}

impl FailoverQueue {
    /// Finds the ways of as many operations as can go now.
    fn plan(&mut self, ops: &[Op]) -> Stop {
        let shared = self.shared.clone();
        let mut last: Option<(SaHandle, Arc<Sa>)> = None;
        for op in ops {
            let handle = op.sa;
            let sa = match &last {
                Some((known, sa)) if *known == handle => Some(sa.clone()),
                _ => shared.sa(handle).ok(),
            };
            let Some(sa) = sa else {
                self.steps.push(Step::Refuse(Status::SaStale));
                continue;
            };
            let step = match sa.target(&shared, handle) {
                Target::Wait => return Stop::Blocked,
                Target::Nowhere => Step::Refuse(Status::Aborted),
                // It may have moved by a loss that this queue has not seen: what the device had
                // done comes home first.
                Target::Software { stay, .. } if self.life != shared.life() => {
                    sa.release(&shared, handle, stay.number);
                    return Stop::NewLife;
                }
                Target::Device { life, stay, .. } if life != self.life => {
                    sa.release(&shared, handle, stay.number);
                    return Stop::NewLife;
                }
                Target::Software {
                    handle: engine,
                    stay,
                } => {
                    sa.watch_grant(&shared, handle, stay);
                    Step::Send(Origin::Software, engine, sa.clone(), stay.number)
                }
                Target::Device {
                    handle: engine,
                    stay,
                    ..
                } => {
                    sa.watch_grant(&shared, handle, stay);
                    Step::Send(Origin::Device, engine, sa.clone(), stay.number)
                }
            };
            self.steps.push(step);
            last = Some((handle, sa));
        }
        Stop::End
    }

    /// Takes the planned operations from the caller.
    fn take_planned(&mut self, ops: &mut Vec<Op>) -> usize {
        let mut steps = std::mem::take(&mut self.steps);
        let count = steps.len();
        for (mut op, step) in ops.drain(..count).zip(steps.drain(..)) {
            match step {
                Step::Refuse(status) => self.refuse(op, status),
                Step::Send(origin, engine_handle, sa, stay) => {
                    let sample = if origin == Origin::Device {
                        self.sampler.keep(&sa, &op.frame)
                    } else {
                        None
                    };
                    let low = match origin {
                        Origin::Device => sa.number_in(&op.frame),
                        _ => 0,
                    };
                    let flight = Flight {
                        sample,
                        cookie: op.cookie,
                        handle: op.sa,
                        sa,
                        stay,
                        device: origin == Origin::Device,
                        len: op.frame.packet_len() as u32,
                        low,
                    };
                    op.sa = engine_handle;
                    self.book(&mut op, flight);
                    if origin == Origin::Device {
                        self.to_device.push(op);
                    } else {
                        self.to_software.push(op);
                    }
                }
            }
        }
        self.steps = steps;
        count
    }
}

impl QueuePair for FailoverQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        self.blocked = false;
        let mut accepted = 0;
        loop {
            self.follow();
            let room = self.flights.len().saturating_sub(self.in_flight());
            let stop = self.plan(ops.get(..room.min(ops.len())).unwrap_or_default());
            accepted += self.take_planned(ops);
            match stop {
                Stop::NewLife => {}
                Stop::Blocked => {
                    self.blocked = true;
                    return Ok(accepted);
                }
                Stop::End => return Ok(accepted),
            }
        }
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        self.submit()
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        if self.ready.len() < limit {
            self.collect(limit - self.ready.len());
        }
        if !self.to_device.is_empty() || !self.to_software.is_empty() {
            // A ring was full, or its device died before it saw them.
            self.submit()?;
        }
        let count = limit.min(self.ready.len());
        done.extend(self.ready.drain(..count));
        Ok(count)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        self.waiter.quiet();
        let waiting = !self.ready.is_empty()
            || !self.to_device.is_empty()
            || !self.to_software.is_empty()
            || self.life != self.shared.life();
        if waiting || std::mem::take(&mut self.blocked) {
            return Ok(Arm::Ready);
        }
        if let Some(software) = &mut self.software {
            match software.arm()? {
                Arm::Ready => return Ok(Arm::Ready),
                Arm::Wait(fd) => self.waiter.watch(Source::Software, fd)?,
            }
        }
        // What comes home from a lost device is awaited by the tick.
        if let Some(device) = &mut self.device {
            match device.arm() {
                Ok(Arm::Wait(fd)) => self.waiter.watch(Source::Device, fd)?,
                // Dequeue brings everything home.
                Ok(Arm::Ready) | Err(_) => return Ok(Arm::Ready),
            }
        }
        Ok(Arm::Wait(self.waiter.fd()))
    }

    fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len() + self.ready.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        self.bring_home();
        self.ready.drain(..).collect()
    }
}

impl Drop for FailoverQueue {
    fn drop(&mut self) {
        // An SA whose operations never came home could never move again.
        self.bring_home();
    }
}
