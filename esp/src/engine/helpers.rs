// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Threads that help a caller's with large bursts, and for how long they stay awake for the next one: one that sleeps
//! comes tens of microseconds late, and its waking takes some of the caller's time, too.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use offload_api::busy_poll::BusyPoll;
use offload_api::error::DeviceError;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// How long the caller's thread asks whether the last helper has ended, before it sleeps: helpers end together but for
/// one's smallest share, or what takes a processor from it.
const LAST_SHARE: Duration = Duration::from_micros(20);

pub(crate) struct Helpers {
    pool: ThreadPool,
    busy_poll: Duration,
    /// Those that are awake, or work.
    awake: Arc<AtomicUsize>,
}

impl Helpers {
    /// So many threads, which stay awake for so long at most.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(crate) fn start(count: usize, busy_poll: Duration) -> Result<Self, DeviceError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|n| format!("esp-{n}"))
            .build()
            .map_err(|error| DeviceError::Host {
                what: "starting ESP threads",
                error: error.to_string(),
            })?;
        Ok(Self {
            pool,
            busy_poll,
            awake: Arc::default(),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Has this thread do what comes `first`, while the others wake, and then the `part` of each be done, its own by this
    /// thread: who comes late finds that another has done its part.
    pub(crate) fn along(&self, first: impl FnOnce(), part: impl Fn() + Sync) {
        let (begins, ended) = (Flag::default(), AtomicUsize::new(0));
        // This thread works along: it would wake late, and in its place is another that is awake.
        self.pool.in_place_scope(|scope| {
            let ready = begins.raised_when_dropped();
            for _ in 0..self.count() {
                scope.spawn(|_| {
                    found();
                    begins.wait();
                    part();
                    ended.fetch_add(1, Ordering::Release);
                });
            }
            first();
            drop(ready);
            part();
            let from = Instant::now();
            while ended.load(Ordering::Acquire) < self.count() && from.elapsed() < LAST_SHARE {
                std::hint::spin_loop();
            }
        });
        if !self.busy_poll.is_zero() && self.awake.load(Ordering::Relaxed) < self.count() {
            let (most, awake) = (self.busy_poll, Arc::downgrade(&self.awake));
            self.pool.spawn_broadcast(move |_| stay_awake(most, &awake));
        }
    }
}

/// What is raised once.
#[derive(Default)]
struct Flag(AtomicBool);

impl Flag {
    /// It is raised in the end, be it that of a panic.
    fn raised_when_dropped(&self) -> impl Drop {
        struct Raise<'flag>(&'flag AtomicBool);
        impl Drop for Raise<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        Raise(&self.0)
    }

    /// Waits some microseconds, or for a thread that has lost its processor.
    fn wait(&self) {
        const OFTEN: u32 = 1 << 10;
        let mut asked = 0_u32;
        while !self.0.load(Ordering::Acquire) {
            asked = asked.wrapping_add(1);
            if asked.is_multiple_of(OFTEN) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

thread_local! {
    /// Of each helper: how long it stays awake, whether it is at that, and, if not, since when there has been nothing to do.
    static POLL: RefCell<Option<BusyPoll>> = const { RefCell::new(None) };
    static IS_AWAKE: Cell<bool> = const { Cell::new(false) };
    static IDLE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A helper has something to do.
fn found() {
    POLL.with_borrow_mut(|poll| match poll {
        Some(poll) if IS_AWAKE.get() => poll.found(),
        Some(poll) => poll.slept(IDLE.take()),
        None => {}
    });
}

/// Has a helper look for more to do as long as it pays and somebody may have some, and do it.
fn stay_awake(most: Duration, awake: &Weak<AtomicUsize>) {
    found();
    if IS_AWAKE.replace(true) {
        return;
    }
    if let Some(awake) = awake.upgrade() {
        awake.fetch_add(1, Ordering::Relaxed);
    }
    let goes_on =
        || POLL.with_borrow_mut(|poll| poll.get_or_insert_with(|| BusyPoll::new(most)).goes_on());
    while awake.strong_count() != 0 && goes_on() {
        rayon::yield_now();
        std::hint::spin_loop();
    }
    IDLE.set(POLL.with_borrow(|poll| poll.as_ref().and_then(BusyPoll::sleeps)));
    if let Some(awake) = awake.upgrade() {
        awake.fetch_sub(1, Ordering::Relaxed);
    }
    IS_AWAKE.set(false);
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Mutex;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn wait(until: impl Fn() -> bool) {
        let from = Instant::now();
        while !until() {
            assert!(from.elapsed() < PATIENCE);
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_part_is_done_once_and_none_before_the_first() {
        for busy_poll in [Duration::ZERO, Duration::from_millis(20)] {
            let helpers = Helpers::start(3, busy_poll).unwrap();
            for _ in 0..100 {
                let (first, parts) = (AtomicBool::new(false), AtomicUsize::new(0));
                helpers.along(
                    || {
                        std::thread::yield_now();
                        first.store(true, Ordering::SeqCst);
                    },
                    || {
                        assert!(first.load(Ordering::SeqCst));
                        parts.fetch_add(1, Ordering::SeqCst);
                    },
                );
                assert_eq!(parts.into_inner(), 4);
            }
        }
    }

    #[test]
    fn helpers_stay_awake_until_the_engine_is_gone() {
        let helpers = Helpers::start(2, Duration::from_secs(3600)).unwrap();
        helpers.along(|| {}, || {});
        wait(|| helpers.awake.load(Ordering::Relaxed) == 2);
        // What comes meanwhile is done by those that are awake.
        let by_whom = || assert!(IS_AWAKE.get() || rayon::current_thread_index().is_none());
        helpers.along(|| {}, by_whom);
        let (pool, awake) = (helpers.pool, helpers.awake);
        drop(awake);
        wait(|| {
            pool.broadcast(|_| !IS_AWAKE.get())
                .iter()
                .all(|sleeps| *sleeps)
        });
    }

    #[test]
    fn helpers_sleep_when_nothing_comes_and_wake_again() {
        let helpers = Helpers::start(2, Duration::from_millis(5)).unwrap();
        for _ in 0..3 {
            let parts = AtomicUsize::new(0);
            let part = || {
                parts.fetch_add(1, Ordering::Relaxed);
            };
            helpers.along(|| {}, part);
            assert_eq!(parts.into_inner(), 3);
            std::thread::sleep(Duration::from_millis(10));
            wait(|| helpers.awake.load(Ordering::Relaxed) == 0);
        }
    }

    #[test]
    fn helpers_that_need_not_stay_awake_sleep() {
        let helpers = Helpers::start(1, Duration::ZERO).unwrap();
        helpers.along(|| {}, || assert!(!IS_AWAKE.get()));
        assert_eq!(helpers.awake.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_panic_before_the_parts_ends_all_and_is_told() {
        let helpers = Helpers::start(2, Duration::from_millis(20)).unwrap();
        let parts = Mutex::new(0);
        let told = catch_unwind(AssertUnwindSafe(|| {
            helpers.along(
                || panic!("as the test wants"),
                || *parts.lock().unwrap() += 1,
            );
        }));
        assert!(told.is_err());
        helpers.along(|| {}, || *parts.lock().unwrap() += 1);
        assert!(*parts.lock().unwrap() >= 3);
    }
}
