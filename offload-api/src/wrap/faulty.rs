// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An accelerator that misbehaves by plan and seed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::counted::Closed;
use super::{Random, pass_on};
use crate::device::Accelerator;
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError};
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use crate::sa::{Amend, SaHandle, SaParams};

/// How often what goes wrong: once in so many chances on average, 0 for never. The same seed gives
/// the same faults for the same calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultyPlan {
    /// Where the randomness starts.
    pub seed: u64,
    /// An install fails as if the device had broken its protocol.
    pub fail_install: u32,
    /// An amend fails likewise.
    pub fail_amend: u32,
    /// A completion says aborted.
    pub abort: u32,
    /// A bit of a good packet is flipped.
    pub corrupt: u32,
    /// A good packet is refused with a bad ICV.
    pub refuse: u32,
    /// A completion tells the number of the one before.
    pub repeat_number: u32,
    /// Completions are held back until the next `dequeue`.
    pub delay: u32,
    /// Two completions of different SAs change places.
    pub reorder: u32,
    /// A completion does not come before the queue is closed.
    pub lose: u32,
}

/// Misbehaves.
pub struct Faulty {
    inner: Arc<dyn Accelerator>,
    plan: FaultyPlan,
    random: Mutex<Random>,
}

impl Faulty {
    /// Around an accelerator.
    pub fn new(inner: Arc<dyn Accelerator>, plan: FaultyPlan) -> Self {
        Self {
            inner,
            plan,
            random: Mutex::new(Random(plan.seed)),
        }
    }

    fn strikes(&self, one_in: u32) -> bool {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.strikes(one_in)
    }
}

fn broken(what: &str) -> DeviceError {
    DeviceError::Protocol {
        what: format!("{what} (on purpose)"),
    }
}

impl Accelerator for Faulty {
    pass_on!(
        info,
        capabilities,
        register_pool,
        install,
        carried,
        retire,
        usage,
        poll_events,
        event_fd,
        inline,
        counters,
        health,
        reset
    );

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        let inner = self.inner.open_queue(config)?;
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(FaultyQueue {
            inner,
            plan: self.plan,
            random: Random(random.next()),
            late: VecDeque::new(),
            lost: Vec::new(),
            fresh: Vec::with_capacity(config.depth as usize),
            last_number: 0,
        }))
    }

    // Each of many by itself, so that each may fail.
    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        if self.strikes(self.plan.fail_install) {
            return Err(broken("install").into());
        }
        self.inner.install_as(sa, cookie)
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        if self.strikes(self.plan.fail_amend) {
            return Err(broken("amend").into());
        }
        self.inner.amend(sa, change)
    }
}

struct FaultyQueue {
    inner: Box<dyn QueuePair>,
    plan: FaultyPlan,
    random: Random,
    /// Held back until the next dequeue.
    late: VecDeque<Done>,
    /// Held back until the end.
    lost: Vec<Done>,
    fresh: Vec<Done>,
    last_number: u64,
}

impl FaultyQueue {
    fn spoil(&mut self, done: &mut Done) {
        let (plan, random) = (self.plan, &mut self.random);
        if !done.status.is_ok() {
            return;
        }
        if random.strikes(plan.abort) {
            done.status = Status::Aborted;
            done.frame.clear();
        } else if random.strikes(plan.refuse) {
            done.status = Status::BadIcv;
            done.frame.clear();
        } else if random.strikes(plan.corrupt) && done.frame.packet_len() != 0 {
            let at = (random.next() % done.frame.packet_len() as u64) as usize;
            if let Some(octet) = done.frame.octet_mut(at) {
                *octet ^= 1 << (random.next() % 8);
            }
        } else if random.strikes(plan.repeat_number) && self.last_number != 0 {
            done.sequence = self.last_number;
        }
        self.last_number = done.sequence;
    }
}

impl QueuePair for FaultyQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        self.inner.enqueue(ops)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        self.inner.kick()
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let before = done.len();
        let late = self.late.len().min(limit);
        done.extend(self.late.drain(..late));
        let mut fresh = std::mem::take(&mut self.fresh);
        let result = self.inner.dequeue(&mut fresh, limit - late);
        for at in 1..fresh.len() {
            let differ = |a: &Done, b: &Done| a.sa != b.sa;
            if let [a, b] = &fresh[at - 1..=at]
                && differ(a, b)
                && self.random.strikes(self.plan.reorder)
            {
                fresh.swap(at - 1, at);
            }
        }
        for mut one in fresh.drain(..) {
            self.spoil(&mut one);
            if self.random.strikes(self.plan.lose) {
                self.lost.push(one);
            } else if self.random.strikes(self.plan.delay) || !self.late.is_empty() {
                // Those behind it wait too: the order per SA is not this fault's to break.
                self.late.push_back(one);
            } else {
                done.push(one);
            }
        }
        self.fresh = fresh;
        match result {
            Err(error) if done.len() == before => Err(error),
            _ => Ok(done.len() - before),
        }
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        if !self.late.is_empty() {
            return Ok(Arm::Ready);
        }
        self.inner.arm()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.late.len() + self.lost.len()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        let inner = std::mem::replace(&mut self.inner, Box::new(Closed));
        let mut home: Vec<Done> = self.late.drain(..).collect();
        home.extend(inner.close());
        home.append(&mut self.lost);
        home
    }
}
