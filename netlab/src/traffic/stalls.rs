// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a machine keeps from every program: how late a thread runs that sleeps until a moment and goes
//! before all others. No delay over it can be shorter than that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::Pid;

use super::flood::{LONGEST, make_urgent};

/// From one moment to the next. Seldom enough to take nothing from who is measured beside it.
const STEP: Duration = Duration::from_millis(5);

/// Threads that watch, one on each processor.
pub struct Stalls {
    done: Arc<AtomicBool>,
    watchers: Vec<JoinHandle<io::Result<Histogram<u64>>>>,
}

impl Stalls {
    /// Watches the processors that this thread may run on.
    ///
    /// # Errors
    /// A thread can't be had.
    pub fn watch() -> io::Result<Self> {
        let mut stalls = Self {
            done: Arc::new(AtomicBool::new(false)),
            watchers: Vec::new(),
        };
        let mine = sched_getaffinity(Pid::from_raw(0))?;
        for processor in (0..CpuSet::count()).filter(|at| mine.is_set(*at).unwrap_or(false)) {
            let done = Arc::clone(&stalls.done);
            let thread = Builder::new().name(format!("stalls-{processor}"));
            let watcher = thread.spawn(move || watch(processor, &done))?;
            stalls.watchers.push(watcher);
        }
        Ok(stalls)
    }

    /// Ends it; nanoseconds that the watchers ran too late, of all processors.
    ///
    /// # Errors
    /// A watcher could not be kept on its processor, or not sleep.
    pub fn finish(mut self) -> io::Result<Histogram<u64>> {
        self.done.store(true, Ordering::Release);
        let mut all = lateness()?;
        for watcher in self.watchers.drain(..) {
            let one = watcher
                .join()
                .map_err(|_| io::Error::other("a watcher has panicked"))??;
            all.add(&one).map_err(io::Error::other)?;
        }
        Ok(all)
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

fn lateness() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, 3).map_err(io::Error::other)
}

fn watch(processor: usize, done: &AtomicBool) -> io::Result<Histogram<u64>> {
    let mut own = CpuSet::new();
    own.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &own)?;
    make_urgent(true);
    let clock = ClockId::CLOCK_MONOTONIC;
    let mut late = lateness()?;
    let mut moment = Duration::from(clock_gettime(clock)?);
    while !done.load(Ordering::Acquire) {
        moment += STEP;
        let absolute = ClockNanosleepFlags::TIMER_ABSTIME;
        clock_nanosleep(clock, absolute, &TimeSpec::from(moment))?;
        let now = Duration::from(clock_gettime(clock)?);
        moment = note(&mut late, moment, now);
    }
    Ok(late)
}

/// Notes how late a moment was seen, and all that have passed meanwhile: whoever waited for one of them has
/// waited as long. The last of them.
fn note(late: &mut Histogram<u64>, mut moment: Duration, now: Duration) -> Duration {
    loop {
        let by = now.saturating_sub(moment);
        late.saturating_record(by.as_nanos().max(1) as u64);
        if by < STEP {
            return moment;
        }
        moment += STEP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_counts_for_each_moment_that_it_hid() {
        let micros = Duration::from_micros;
        let mut late = lateness().unwrap();
        let step = STEP.as_micros() as u64;
        assert_eq!(note(&mut late, micros(5000), micros(5020)), micros(5000));
        assert_eq!(late.len(), 1);
        let now = micros(6000 + 3 * step + 500);
        assert_eq!(note(&mut late, micros(6000), now), micros(6000 + 3 * step));
        assert_eq!(late.len(), 5);
        for by in [20, 500, step + 500, 2 * step + 500, 3 * step + 500] {
            assert_eq!(late.count_at(by * 1000), 1, "{by}");
        }
    }

    #[test]
    fn each_processor_is_watched_until_the_end() {
        let stalls = Stalls::watch().unwrap();
        let processors = stalls.watchers.len();
        std::thread::sleep(Duration::from_millis(100));
        let late = stalls.finish().unwrap();
        assert!(processors > 0 && late.len() >= processors as u64);
        assert!(late.min() > 0);
    }
}
