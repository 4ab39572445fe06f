// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device's work done again in software, now and then, and compared.
//!
//! A sampled packet is kept as it was submitted. What the device has sealed is opened in software
//! and must give what was submitted; what the device has opened, or refused as not authentic, is
//! opened in software too and must end the same way. All of it happens on copies: the packet itself
//! goes its way meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::sa::Sa;
use super::shared::Shared;
use crate::frame::Frame;
use crate::queue::{Done, Op, Status};
use crate::replay::{ReplaySnapshot, WINDOW_MAX};
use crate::sa::{Amend, Direction, Lifetimes, Numbering, SaHandle, SaParams};

/// An inbound twin of an SA, in software.
pub(super) struct Verifier {
    handle: SaHandle,
    esn: bool,
    /// Highest number that it was shown.
    top: AtomicU64,
    /// Counts each change of the outer headers twice: odd while one is under way.
    moves: AtomicU32,
}

impl Verifier {
    /// A verifier, if packets are sampled and software has room for one.
    pub(super) fn install(shared: &Shared, sa: &SaParams) -> Option<Self> {
        if shared.primary.is_none()
            || shared.config.sample == 0
            || sa.numbering == Numbering::Explicit
        {
            return None;
        }
        let twin = SaParams {
            direction: Direction::Inbound,
            numbering: Numbering::Granted(None),
            replay_state: None,
            // For the high half of extended numbers.
            replay_window: WINDOW_MAX,
            lifetimes: Lifetimes::default(),
            tfc_padding: false,
            ..sa.clone()
        };
        let handle = shared.software.install(&twin).ok()?;
        Some(Self {
            handle,
            esn: sa.esn,
            top: AtomicU64::new(0),
            moves: AtomicU32::new(0),
        })
    }

    pub(super) fn retire(&self, shared: &Shared) {
        let _ = shared.software.retire(self.handle);
    }

    pub(super) fn amend(&self, shared: &Shared, change: &Amend) {
        let _ = shared.software.amend(self.handle, change);
    }

    /// A change of the outer headers begins, or has ended in every engine.
    pub(super) fn moves(&self) {
        self.moves.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the outer headers are the same as when this was counted.
    fn is_where(&self, moves: u32) -> bool {
        moves.is_multiple_of(2) && self.moves.load(Ordering::Acquire) == moves
    }

    /// Gets ready for a number; false where its high half could not be told any more.
    fn expect(&self, shared: &Shared, sequence: u64) -> bool {
        let top = self.top.fetch_max(sequence, Ordering::AcqRel);
        if !self.esn {
            return true;
        }
        if self.is_far_behind(sequence) {
            return false;
        }
        if sequence > top {
            let seen = ReplaySnapshot {
                top: sequence.saturating_sub(1),
                seen: Vec::new(),
            };
            self.amend(shared, &Amend::Replay(seen));
        }
        true
    }

    /// So far behind others that its high half may have been guessed wrong.
    fn is_far_behind(&self, sequence: u64) -> bool {
        let top = self.top.load(Ordering::Acquire);
        self.esn && top.saturating_sub(sequence) > u64::from(WINDOW_MAX) * 3 / 4
    }
}

/// Checks under way in a queue pair, at most.
const CHECKS: usize = 16;

/// Which of a queue pair's packets are done again.
pub(super) struct Sampler {
    one_in: u32,
    left: u32,
    samples: Vec<Sample>,
    idle: Vec<u8>,
}

/// A packet that is done again. Its buffers are used over and over.
#[derive(Default)]
struct Sample {
    submitted: Vec<u8>,
    result: Vec<u8>,
    sa: Option<Arc<Sa>>,
    sequence: u64,
    /// How the device's part ended.
    status: Option<Status>,
    life: u64,
    /// The verifier's count when it was submitted.
    moves: u32,
}

/// Names a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleId(u8);

impl Sampler {
    pub(super) fn new(one_in: u32) -> Self {
        Self {
            one_in,
            left: one_in,
            samples: (0..CHECKS).map(|_| Sample::default()).collect(),
            idle: (0..CHECKS as u8).collect(),
        }
    }

    /// Keeps a packet that goes to the device, if its turn has come.
    pub(super) fn keep(&mut self, sa: &Sa, packet: &Frame) -> Option<SampleId> {
        if self.one_in == 0 {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        if self.left != 0 {
            return None;
        }
        self.left = self.one_in;
        let verifier = sa.verifier()?;
        let id = self.idle.pop()?;
        let sample = self.samples.get_mut(usize::from(id))?;
        sample.moves = verifier.moves.load(Ordering::Acquire);
        sample.submitted.clear();
        packet.gather(&mut sample.submitted);
        Some(SampleId(id))
    }

    /// The packet did not come home from the device.
    pub(super) fn forget(&mut self, id: SampleId) {
        if let Some(sample) = self.samples.get_mut(usize::from(id.0)) {
            sample.sa = None;
        }
        self.idle.push(id.0);
    }

    /// As [`forget`](Self::forget), where it was sampled.
    pub(super) fn forget_any(&mut self, id: Option<SampleId>) {
        if let Some(id) = id {
            self.forget(id);
        }
    }

    /// The packet has come home: what software is to do for it, with a cookie that
    /// [`finish`](Self::finish) knows; nothing where there is nothing to compare.
    pub(super) fn check(
        &mut self,
        shared: &Shared,
        id: SampleId,
        sa: &Arc<Sa>,
        done: &Done,
        life: u64,
    ) -> Option<Op> {
        let op = self.prepare(shared, id, sa, done, life);
        if op.is_none() {
            self.forget(id);
        }
        op
    }

    fn prepare(
        &mut self,
        shared: &Shared,
        id: SampleId,
        sa: &Arc<Sa>,
        done: &Done,
        life: u64,
    ) -> Option<Op> {
        let verifier = sa.verifier()?;
        let sample = self.samples.get_mut(usize::from(id.0))?;
        sample.result.clear();
        if done.status.is_ok() {
            done.frame.gather(&mut sample.result);
        }
        let (packet, sequence) = match (done.status.is_ok(), sa.is_outbound()) {
            (true, true) => (&sample.result[..], done.sequence),
            (true, false) => (&sample.submitted[..], done.sequence),
            // The number of a packet that is not authentic is anybody's.
            (false, false) if done.status == Status::BadIcv && !verifier.esn => {
                (&sample.submitted[..], 0)
            }
            (false, _) => return None,
        };
        if sequence != 0 && !verifier.expect(shared, sequence) {
            return None;
        }
        let frame = done.frame.pool().hold(packet)?;
        sample.sa = Some(sa.clone());
        sample.sequence = sequence;
        sample.status = Some(done.status);
        sample.life = life;
        Some(Op::new(verifier.handle, frame, COOKIE | u64::from(id.0)))
    }

    /// Compares what software has made of a sample. The device's life and what is wrong, if
    /// something is.
    pub(super) fn finish(&mut self, done: &Done) -> Option<(u64, String)> {
        let id = SampleId((done.cookie & !COOKIE) as u8);
        let sample = self.samples.get_mut(usize::from(id.0))?;
        let verdict = sample.judge(&done.frame, done.status, done.sequence);
        let life = sample.life;
        self.forget(id);
        verdict.map(|wrong| (life, wrong))
    }
}

/// Marks cookies of checks.
const COOKIE: u64 = 1 << 63;

/// Whether an operation with this cookie is a check.
pub(super) fn is_check(cookie: u64) -> bool {
    cookie & COOKIE != 0
}

impl Sample {
    fn judge(&self, opened: &Frame, status: Status, sequence: u64) -> Option<String> {
        let sa = self.sa.as_ref()?;
        let verifier = sa.verifier()?;
        let direction = if sa.is_outbound() { "sealed" } else { "opened" };
        let device = self.status?;
        match status {
            // Not software's to say, or no matter of the packet.
            Status::Replayed
            | Status::TooOld
            | Status::Aborted
            | Status::SaStale
            | Status::SaInvalid
            | Status::NoSpace
            | Status::BadGather => None,
            // It was right where it came from, and the SA has moved since.
            Status::OuterMismatch if !verifier.is_where(self.moves) => None,
            status if status.is_ok() && !device.is_ok() => Some(format!(
                "it refused an authentic packet ({device:?}) that software opens as number {sequence}"
            )),
            status if status.is_ok() => {
                let expected = if sa.is_outbound() {
                    &self.submitted
                } else {
                    &self.result
                };
                if !opened.holds(expected) {
                    Some(format!(
                        "a packet that it {direction} (number {}) holds other octets in software",
                        self.sequence
                    ))
                } else if sequence != self.sequence {
                    Some(format!(
                        "a packet that it {direction} as number {} is number {sequence}",
                        self.sequence
                    ))
                } else {
                    None
                }
            }
            _ if !device.is_ok() || verifier.is_far_behind(self.sequence) => None,
            status => Some(format!(
                "a packet that it {direction} (number {}) is refused by software: {status:?}",
                self.sequence
            )),
        }
    }
}
