// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair over both engines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sa::{Sa, Target};
use super::{Shared, lock};
use crate::error::{DeviceError, OpenQueueError};
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use crate::replay::Verdict;
use crate::sa::SaHandle;

pub(super) struct FailoverQueue {
    shared: Arc<Shared>,
    config: QueueConfig,
    device: Option<Box<dyn QueuePair>>,
    /// Of the device queue.
    epoch: u64,
    software: Box<dyn QueuePair>,
    /// Operations on their way; an operation's cookie is its place here.
    flights: Vec<Flight>,
    free: Vec<u32>,
    to_device: Vec<Op>,
    to_software: Vec<Op>,
    /// Completions that never reached an engine, or came home from a dead one.
    ready: VecDeque<Done>,
    scratch: Vec<Done>,
}

/// What the caller knows an operation by.
#[derive(Clone)]
struct Flight {
    cookie: u64,
    handle: SaHandle,
    sa: Option<Arc<Sa>>,
    len: u32,
}

impl FailoverQueue {
    pub(super) fn open(shared: Arc<Shared>, config: QueueConfig) -> Result<Self, OpenQueueError> {
        let software = shared.software.open_queue(&config)?;
        let depth = config.depth as usize;
        let vacant = Flight {
            cookie: 0,
            handle: SaHandle {
                index: 0,
                generation: 0,
            },
            sa: None,
            len: 0,
        };
        let mut queue = Self {
            shared,
            config,
            device: None,
            epoch: u64::MAX,
            software,
            flights: vec![vacant; depth],
            free: (0..config.depth).rev().collect(),
            to_device: Vec::with_capacity(depth),
            to_software: Vec::with_capacity(depth),
            ready: VecDeque::with_capacity(depth),
            scratch: Vec::with_capacity(depth),
        };
        queue.follow_device();
        Ok(queue)
    }

    /// Opens the device's queue when the device is up and the queue is not of its present life.
    fn follow_device(&mut self) {
        let shared = self.shared.clone();
        if !shared.up.load(Ordering::Acquire) {
            return;
        }
        let epoch = shared.epoch.load(Ordering::Acquire);
        if self.epoch == epoch && self.device.is_some() {
            return;
        }
        self.bring_home();
        let Some(primary) = &shared.primary else {
            return;
        };
        match primary.open_queue(&self.config) {
            Ok(queue) => {
                self.device = Some(queue);
                self.epoch = epoch;
            }
            Err(error) => shared.lost(&error.to_string()),
        }
    }

    /// Closes a dead device's queue; what was in flight comes home.
    fn bring_home(&mut self) {
        if let Some(queue) = self.device.take() {
            for done in queue.close() {
                self.land(done, true);
            }
        }
    }

    fn lost(&mut self, error: &DeviceError) {
        self.shared.lost(&error.to_string());
        self.bring_home();
    }

    /// Takes an operation into the books; nothing when they are full.
    fn book(&mut self, op: &mut Op, sa: Option<Arc<Sa>>) -> bool {
        let Some(place) = self.free.pop() else {
            return false;
        };
        if let Some(flight) = self.flights.get_mut(place as usize) {
            *flight = Flight {
                cookie: op.cookie,
                handle: op.sa,
                sa,
                len: op.frame.len() as u32,
            };
        }
        op.cookie = place.into();
        true
    }

    /// Turns an engine's completion into the caller's.
    fn land(&mut self, mut done: Done, device: bool) {
        let place = done.cookie as usize;
        let Some(flight) = self.flights.get_mut(place) else {
            return;
        };
        done.cookie = flight.cookie;
        done.sa = flight.handle;
        let (sa, len) = (flight.sa.take(), flight.len);
        self.free.push(place as u32);
        let Some(sa) = sa else {
            self.ready.push_back(done);
            return;
        };
        if done.status.is_ok() {
            if !sa.is_outbound() && sa.deliver(done.sequence) != Verdict::Fresh {
                lock(&self.shared.statistics).shadow_replays += 1;
                done.status = Status::Replayed;
                done.frame.clear();
            }
        } else if done.status == Status::Aborted && device {
            lock(&self.shared.statistics).aborted += 1;
        }
        if done.status.is_ok() {
            let bytes = if sa.is_outbound() {
                len as usize
            } else {
                done.frame.len()
            };
            sa.count(done.sequence, bytes);
            if !device {
                self.shared.fell_back();
            }
        } else {
            sa.count_error(done.status);
        }
        self.ready.push_back(done);
    }

    fn refuse(&mut self, mut op: Op, status: Status) {
        op.frame.clear();
        self.ready.push_back(Done {
            sa: op.sa,
            frame: op.frame,
            cookie: op.cookie,
            status,
            sequence: 0,
            next_header: 0,
        });
    }

    /// Sends an operation that the device has not seen to software instead.
    fn reroute(&mut self) {
        for mut op in std::mem::take(&mut self.to_device) {
            let place = op.cookie as usize;
            let Some(flight) = self.flights.get(place).cloned() else {
                continue;
            };
            let target = flight
                .sa
                .as_ref()
                .map(|sa| sa.target(&self.shared, flight.handle));
            match target {
                Some(Target::Software(handle)) => {
                    op.sa = handle;
                    self.to_software.push(op);
                }
                _ => {
                    (op.cookie, op.sa) = (flight.cookie, flight.handle);
                    if let Some(flight) = self.flights.get_mut(place) {
                        flight.sa = None;
                    }
                    self.free.push(place as u32);
                    self.refuse(op, Status::Aborted);
                }
            }
        }
    }

    fn collect(&mut self, limit: usize) {
        // Software first: what it did for an SA is older than what the device does after a return.
        let mut scratch = std::mem::take(&mut self.scratch);
        let _ = self.software.dequeue(&mut scratch, limit);
        for done in scratch.drain(..) {
            self.land(done, false);
        }
        if let Some(device) = &mut self.device {
            let result = device.dequeue(&mut scratch, limit);
            for done in scratch.drain(..) {
                self.land(done, true);
            }
            if let Err(error) = result {
                self.lost(&error);
            } else if !self.shared.up.load(Ordering::Acquire) {
                self.bring_home();
            }
        }
        self.scratch = scratch;
    }
}

impl QueuePair for FailoverQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        self.follow_device();
        let room = self.free.len().min(ops.len());
        let shared = self.shared.clone();
        let table = shared.read_table();
        let mut last: Option<(SaHandle, Arc<Sa>)> = None;
        for mut op in ops.drain(..room) {
            let handle = op.sa;
            let sa = match &last {
                Some((known, sa)) if *known == handle => Some(sa.clone()),
                _ => table.find(handle).cloned(),
            };
            let Some(sa) = sa else {
                self.refuse(op, Status::SaStale);
                continue;
            };
            let target = sa.target(&shared, handle);
            if matches!(target, Target::Nowhere) {
                self.refuse(op, Status::Aborted);
                continue;
            }
            sa.issue(&shared);
            // `room` operations fit, so this never fails.
            self.book(&mut op, Some(sa.clone()));
            match target {
                Target::Device(handle) => {
                    op.sa = handle;
                    self.to_device.push(op);
                }
                Target::Software(handle) => {
                    op.sa = handle;
                    self.to_software.push(op);
                }
                Target::Nowhere => {}
            }
            last = Some((handle, sa));
        }
        Ok(room)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        if !self.to_device.is_empty() {
            let up = self.shared.up.load(Ordering::Acquire);
            let started = match &mut self.device {
                Some(device) if up => device
                    .enqueue(&mut self.to_device)
                    .and_then(|_| device.kick()),
                _ => Err(DeviceError::Gone {
                    reason: "device is lost".to_owned(),
                }),
            };
            if let Err(error) = started {
                self.lost(&error);
                self.reroute();
            }
        }
        if !self.to_software.is_empty() {
            self.software.enqueue(&mut self.to_software)?;
            self.software.kick()?;
        }
        Ok(())
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        if self.ready.len() < limit {
            self.collect(limit - self.ready.len());
        }
        if !self.to_device.is_empty() {
            // The device's ring was full, or it died before it saw them.
            self.kick()?;
        }
        let count = limit.min(self.ready.len());
        done.extend(self.ready.drain(..count));
        Ok(count)
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        if !self.ready.is_empty() || matches!(self.software.arm()?, Arm::Ready) {
            return Ok(Arm::Ready);
        }
        if self.device.is_some() && !self.shared.up.load(Ordering::Acquire) {
            return Ok(Arm::Ready);
        }
        match &mut self.device {
            Some(device) => match device.arm() {
                Ok(arm) => Ok(arm),
                // Dequeue brings everything home.
                Err(_) => Ok(Arm::Ready),
            },
            None => self.software.arm(),
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len() + self.ready.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        self.bring_home();
        for mut op in std::mem::take(&mut self.to_device)
            .into_iter()
            .chain(std::mem::take(&mut self.to_software))
        {
            let flight = self.flights.get(op.cookie as usize).cloned();
            if let Some(flight) = flight {
                (op.cookie, op.sa) = (flight.cookie, flight.handle);
            }
            self.refuse(op, Status::Aborted);
        }
        self.collect(usize::MAX);
        self.ready.drain(..).collect()
    }
}
