// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What TCP connections bring a worker: their own thread puts it there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use offload_api::frame::Frame;

/// Packets that wait for a worker at most.
const MOST: usize = 512;

/// Where a worker's packets wait.
#[derive(Debug)]
pub(super) struct Mailbox {
    frames: Mutex<VecDeque<Frame>>,
    filled: AtomicBool,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            frames: Mutex::new(room()),
            filled: AtomicBool::new(false),
        }
    }
}

/// A place for as many packets as may wait.
pub(super) fn room() -> VecDeque<Frame> {
    VecDeque::with_capacity(MOST)
}

impl Mailbox {
    /// Puts a packet there, if there is room.
    pub(super) fn post(&self, frame: Frame) -> bool {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() == MOST {
            return false;
        }
        frames.push_back(frame);
        self.filled.store(true, Ordering::Release);
        true
    }

    /// Takes all that is there in exchange for an empty place.
    pub(super) fn empty_into(&self, empty: &mut VecDeque<Frame>) {
        if !self.filled.load(Ordering::Acquire) || !empty.is_empty() {
            return;
        }
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *frames, empty);
        self.filled.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use offload_api::frame::{FramePool, FramePoolConfig};

    use super::*;

    /// B19: packets come out in order, and no more wait than have room.
    #[test]
    fn a_mailbox_is_bounded_and_keeps_its_order() {
        let slots = 2 * MOST as u32;
        let config = FramePoolConfig {
            slots,
            ..FramePoolConfig::default()
        };
        let pool = FramePool::new(config).unwrap();
        let (mailbox, mut taken) = (Mailbox::default(), room());
        let frame = |number: usize| {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(&number.to_be_bytes()));
            frame
        };
        mailbox.empty_into(&mut taken);
        assert!(taken.is_empty());
        for number in 0..MOST {
            assert!(mailbox.post(frame(number)));
        }
        assert!(!mailbox.post(frame(MOST)));
        mailbox.empty_into(&mut taken);
        assert!(mailbox.post(frame(MOST)));
        for number in 0..MOST {
            let next = taken.pop_front().unwrap();
            assert_eq!(&next[..], number.to_be_bytes());
        }
        mailbox.empty_into(&mut taken);
        assert_eq!(&taken.pop_front().unwrap()[..], MOST.to_be_bytes());
    }
}
