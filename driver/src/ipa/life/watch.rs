// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that watches over a card's life: vanished, hung or forgetful cards are lost soon, even
//! while everybody sleeps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fpga_regs::registers::{ALL_ONES, REGISTER_BAR, control};
use offload_api::error::DeviceError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Life;
use crate::ipa::watchdog::{Pulse, TICK, Verdict, Watch};
use crate::lock;

impl Life {
    /// A thread that notices a vanished device at once, and one that hangs soon, even while everybody
    /// sleeps; and that has a lost one unmap our memory, which may make it wait for its deadline.
    pub(super) fn start_watch(self: &Arc<Self>) -> Result<(), DeviceError> {
        let weak: Weak<Self> = Arc::downgrade(self);
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let error = |error: std::io::Error| DeviceError::Host {
            what: "starting the watchdog",
            error: error.to_string(),
        };
        let bell = copy(self.watch_bell.as_fd()).map_err(error)?;
        let liveness = self.transport.liveness().map(copy).transpose();
        let liveness = liveness.map_err(error)?;
        let thread = std::thread::Builder::new()
            .name("ipa-watch".to_owned())
            .spawn(move || watch(&weak, liveness.as_ref(), &bell))
            .map_err(error)?;
        *lock(&self.watch) = Some(thread);
        Ok(())
    }

    /// Watches over a queue as long as it lives.
    pub(in crate::ipa) fn watch_over(&self, pulse: &Arc<Pulse>) {
        let mut pulses = lock(&self.pulses);
        pulses.retain(|(pulse, _)| pulse.strong_count() != 0);
        pulses.push((Arc::downgrade(pulse), Watch::default()));
    }

    /// After a doorbell and its fence: the watchdog has something to watch.
    #[inline]
    pub(in crate::ipa) fn rouse_watchdog(&self) {
        if self.doze.must_rouse() {
            self.ring_watch_bell();
        }
    }

    pub(super) fn ring_watch_bell(&self) {
        let _ = rustix::io::write(&self.watch_bell, &1u64.to_ne_bytes());
    }

    /// Looks at every queue; whether none was used for a while.
    fn tick(&self) -> bool {
        let mut quiet = true;
        let mut verdicts = Verdict::Well;
        // Once for all queues: a card that hangs takes its time for not answering.
        let mut beat = None;
        for (pulse, watch) in lock(&self.pulses).iter_mut() {
            let Some(pulse) = pulse.upgrade() else {
                continue;
            };
            let heartbeat = || *beat.get_or_insert_with(|| self.heartbeat());
            match watch.tick(pulse.look(), heartbeat) {
                Verdict::Quiet => {}
                Verdict::Well => quiet = false,
                verdict => verdicts = verdict,
            }
        }
        match verdicts {
            Verdict::Hung => self.lose("it hangs: no completion and no heartbeat"),
            Verdict::Forgetful => self.lose("operations are not completed any more"),
            Verdict::Well | Verdict::Quiet => {}
        }
        quiet
    }

    /// The card's heartbeat, unless its answer is still to come. Nothing waits for that here: it would
    /// keep a doorbell's wake-up call waiting, too.
    fn heartbeat(&self) -> Option<u32> {
        let mut value = [0; 4];
        let read =
            self.transport
                .probe(REGISTER_BAR, control::HEARTBEAT, &mut value, Duration::ZERO);
        match (read, u32::from_le_bytes(value)) {
            (Ok(true), ALL_ONES) => {
                self.lose("its registers read all ones");
                None
            }
            (Ok(true), heartbeat) => Some(heartbeat),
            (Ok(false), _) => None,
            (Err(error), _) => {
                self.lose(&error.to_string());
                None
            }
        }
    }

    /// Lies down, unless a queue has just been used or waits for something.
    fn doze(&self) -> bool {
        let owed = |pulse: &Weak<Pulse>| pulse.upgrade().is_some_and(|pulse| pulse.is_owed());
        let pulses = || lock(&self.pulses);
        self.doze
            .lies_down(|| pulses().iter().any(|(pulse, _)| owed(pulse)))
    }
}

/// The watch thread.
fn watch(weak: &Weak<Life>, liveness: Option<&OwnedFd>, bell: &OwnedFd) {
    let hung_up = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    // The next look is one tick after the last one, whoever rings in between.
    let mut last = Instant::now();
    let mut quiet = true;
    loop {
        let Some(life) = weak.upgrade() else { return };
        let dozes = quiet && life.doze();
        drop(life);
        let mut fds = [
            PollFd::new(bell, PollFlags::IN),
            PollFd::new(liveness.unwrap_or(bell), PollFlags::RDHUP),
        ];
        let rest = TICK.saturating_sub(last.elapsed());
        let rest = Timespec {
            tv_sec: 0,
            tv_nsec: rest.subsec_nanos().into(),
        };
        let _ = poll(&mut fds, (!dozes).then_some(&rest));
        let vanished = liveness.is_some() && fds[1].revents().intersects(hung_up);
        let mut count = [0; 8];
        let _ = rustix::io::read(bell, &mut count);
        let Some(life) = weak.upgrade() else { return };
        if vanished {
            life.lose("its process has ended");
        }
        if life.check().is_err() {
            life.has_let_go();
            life.wake();
            return;
        }
        if dozes || last.elapsed() >= TICK {
            last = Instant::now();
            quiet = life.tick();
        }
    }
}
