// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Slow work of the core, signatures and slow key exchanges above all, on threads of its own: neither the
//! core nor a tokio worker waits for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ikev2d_proto::credential::{Job, JobError, JobResult, Line};
use ikev2d_proto::event::JobId;
use tokio::sync::mpsc;

use crate::scheduling;

/// Jobs for peers that wait, at most. More are not taken; those peers send again. Our own initiations
/// bound themselves.
const BACKLOG: usize = 1024;

/// The same for key exchanges of peers that are yet to be authenticated: who waits behind more has asked
/// again before it is answered.
const STRANGERS: usize = 256;

/// Threads for jobs that may wait for a network (OCSP), so that the others' don't.
const WAITERS: usize = 8;

/// Threads for puzzles. Anybody may set us some: they must not keep all cores busy, nor those waiting who
/// are to be authenticated.
const SOLVERS: usize = 1;

/// What came of a job.
pub(crate) type Done = (JobId, JobResult);

/// Does the work. Tests put their own in.
type Run = fn(&Job) -> JobResult;

/// The threads.
pub(crate) struct Pool {
    quick: Queue,
    /// For those that may wait for a network.
    patient: Queue,
    strangers: Queue,
    puzzles: Queue,
    done: mpsc::UnboundedSender<Done>,
}

/// Jobs in line for their threads.
struct Queue {
    lined: Arc<Lined>,
    waiting: Arc<AtomicUsize>,
}

/// In the order in which they have come.
type InOrder = VecDeque<(JobId, Box<Job>)>;

/// The jobs themselves: none any more where no more come. A job wakes one thread, and no thread waits for
/// another one's lock.
struct Lined {
    jobs: Mutex<Option<InOrder>>,
    come: Condvar,
}

impl Lined {
    fn jobs(&self) -> MutexGuard<'_, Option<InOrder>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one, when there is one.
    fn next(&self) -> Option<(JobId, Box<Job>)> {
        let mut jobs = self.jobs();
        loop {
            if let Some(job) = jobs.as_mut()?.pop_front() {
                return Some(job);
            }
            jobs = self.come.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        *self.lined.jobs() = None;
        self.lined.come.notify_all();
    }
}

impl Pool {
    /// As many threads as there are cores; what is done comes out of the receiver.
    pub(crate) fn start() -> std::io::Result<(Self, mpsc::UnboundedReceiver<Done>)> {
        Self::start_with(Job::run)
    }

    fn start_with(run: Run) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Done>)> {
        let (done, results) = mpsc::unbounded_channel();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = Self {
            quick: Queue::start("ike-job", threads, &done, run)?,
            patient: Queue::start("ike-wait", WAITERS, &done, run)?,
            // They leave cores to those whom anybody waits for.
            strangers: Queue::start("ike-stranger", threads.div_ceil(2), &done, run)?,
            puzzles: Queue::start("ike-puzzle", SOLVERS, &done, run)?,
            done,
        };
        Ok((pool, results))
    }

    /// Has a job done.
    pub(crate) fn submit(&self, id: JobId, job: Box<Job>) {
        let (queue, most) = match job.line() {
            Line::Quick => (&self.quick, BACKLOG),
            Line::Network => (&self.patient, BACKLOG),
            Line::Strangers => (&self.strangers, STRANGERS),
            Line::Puzzles => (&self.puzzles, BACKLOG),
        };
        if job.is_for_peer() && queue.waiting.load(Ordering::Relaxed) >= most {
            match job.line() {
                // Anybody may have it said, as often as they like.
                Line::Strangers => tracing::debug!("too many key exchanges at once"),
                _ => tracing::warn!("too many signatures at once: a peer has to ask again"),
            }
            let _ = self.done.send((id, Err(JobError::Busy)));
            return;
        }
        queue.waiting.fetch_add(1, Ordering::Relaxed);
        if let Some(jobs) = queue.lined.jobs().as_mut() {
            jobs.push_back((id, job));
        }
        queue.lined.come.notify_one();
    }
}

impl Queue {
    fn start(
        name: &str,
        threads: usize,
        done: &mpsc::UnboundedSender<Done>,
        run: Run,
    ) -> std::io::Result<Self> {
        let lined = Arc::new(Lined {
            jobs: Mutex::new(Some(VecDeque::new())),
            come: Condvar::new(),
        });
        let waiting = Arc::new(AtomicUsize::new(0));
        // Who has started them goes on to give up system calls, and giving way takes two.
        let (beginning, begun) = std::sync::mpsc::channel::<Infallible>();
        for thread in 0..threads {
            let (lined, done, waiting) = (lined.clone(), done.clone(), waiting.clone());
            let beginning = beginning.clone();
            std::thread::Builder::new()
                .name(format!("{name}-{thread}"))
                .spawn(move || {
                    scheduling::give_way();
                    drop(beginning);
                    work(&lined, &done, &waiting, run);
                })?;
        }
        drop(beginning);
        let _ = begun.recv();
        Ok(Self { lined, waiting })
    }
}

fn work(lined: &Lined, done: &mpsc::UnboundedSender<Done>, waiting: &AtomicUsize, run: Run) {
    while let Some((id, job)) = lined.next() {
        waiting.fetch_sub(1, Ordering::Relaxed);
        // What a job leaves behind when it panics is dropped with it.
        let result = catch_unwind(AssertUnwindSafe(|| run(&job)));
        if done
            .send((id, result.unwrap_or(Err(JobError::Panicked))))
            .is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod flood;

#[cfg(test)]
mod tests {
    use ikev2d_proto::config::Identity;
    use ikev2d_proto::credential::{Claim, Refusal, Verifier};

    use super::*;

    /// A job's own thread does it; the caller goes on at once.
    #[tokio::test]
    async fn jobs_are_done_elsewhere_and_come_back() {
        let (pool, mut results) = Pool::start().unwrap();
        for id in 0..100 {
            pool.submit(JobId(id), Box::default());
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let (id, result) = results.recv().await.unwrap();
            assert_eq!(result, Ok(None));
            seen.insert(id.0);
        }
        assert_eq!(seen.len(), 100);
    }

    /// A job that panics is one peer's misfortune: its thread goes on.
    #[tokio::test]
    async fn a_job_that_panics_takes_no_thread_along() {
        let (pool, mut results) = Pool::start_with(|_| panic!("as a test wants it")).unwrap();
        for id in 0..64 {
            pool.submit(JobId(id), Box::default());
        }
        for _ in 0..64 {
            let (_, result) = results.recv().await.unwrap();
            assert_eq!(result, Err(JobError::Panicked));
        }
    }

    /// Who waits for a network.
    #[derive(Debug)]
    struct Patient;

    impl Verifier for Patient {
        fn authorities(&self) -> Vec<[u8; 20]> {
            Vec::new()
        }

        fn may_wait(&self) -> bool {
            true
        }

        fn verify(&self, _: &Claim) -> Result<(), Refusal> {
            Ok(())
        }
    }

    fn patient() -> Box<Job> {
        let claim = Claim {
            identity: Identity::Any,
            certificates: Vec::new(),
            schemes: Vec::new(),
            signature: Vec::new(),
            octets: Vec::new(),
        };
        Box::new(Job::new(Some((Arc::new(Patient), claim)), None))
    }

    /// B30: however many peers' responders are silent, other peers' signatures go on.
    #[test]
    fn jobs_that_wait_stop_nobody_else() {
        static OPEN: Mutex<()> = Mutex::new(());
        let closed = OPEN.lock().unwrap();
        let run: Run = |job| {
            if job.line() == Line::Network {
                drop(OPEN.lock());
            }
            Ok(None)
        };
        let (pool, mut results) = Pool::start_with(run).unwrap();
        for id in 0..100 {
            pool.submit(JobId(id), patient());
        }
        for id in 100..200 {
            pool.submit(JobId(id), Box::default());
            assert_eq!(results.blocking_recv().unwrap().0, JobId(id));
        }
        drop(closed);
        for _ in 0..100 {
            assert!(results.blocking_recv().unwrap().0.0 < 100);
        }
    }

    /// A11, B5: puzzles without end keep nobody from being authenticated; one is solved at a time.
    #[test]
    fn puzzles_stop_nobody_else() {
        static OPEN: Mutex<()> = Mutex::new(());
        static BUSY: AtomicUsize = AtomicUsize::new(0);
        let closed = OPEN.lock().unwrap();
        let run: Run = |job| {
            if job.line() == Line::Puzzles {
                assert_eq!(BUSY.fetch_add(1, Ordering::SeqCst), 0);
                drop(OPEN.lock());
                BUSY.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(None)
        };
        let (pool, mut results) = Pool::start_with(run).unwrap();
        for id in 0..20 {
            pool.submit(JobId(id), Box::new(Job::puzzle(Arc::new(|| {}))));
        }
        for id in 20..40 {
            pool.submit(JobId(id), patient());
            assert_eq!(results.blocking_recv().unwrap().0, JobId(id));
        }
        drop(closed);
        for _ in 0..20 {
            assert_eq!(results.blocking_recv().unwrap().1, Ok(None));
        }
    }

    /// A11: key exchanges that anybody asks for keep nobody else waiting, and are bounded.
    #[test]
    fn strangers_stop_nobody_else() {
        static OPEN: Mutex<()> = Mutex::new(());
        let closed = OPEN.lock().unwrap();
        let run: Run = |job| {
            if job.line() == Line::Strangers {
                drop(OPEN.lock());
            }
            Ok(None)
        };
        let (pool, mut results) = Pool::start_with(run).unwrap();
        let exchange = |of_stranger| Box::new(Job::key_exchange(Arc::new(|| {}), of_stranger));
        let all = STRANGERS as u64 * 2;
        for id in 0..all {
            pool.submit(JobId(id), Box::new(exchange(true).for_peer()));
        }
        let mut busy = 0;
        while let Ok((_, result)) = results.try_recv() {
            assert_eq!(result, Err(JobError::Busy));
            busy += 1;
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(
            (all / 2 - threads as u64..=all / 2).contains(&busy),
            "{busy}"
        );
        for id in all..all + 100 {
            pool.submit(JobId(id), exchange(false));
            assert_eq!(results.blocking_recv().unwrap().0, JobId(id));
        }
        drop(closed);
        for _ in busy..all {
            assert_eq!(results.blocking_recv().unwrap().1, Ok(None));
        }
    }

    /// A peer that finds no place is told nothing, and comes again.
    #[tokio::test]
    async fn a_full_queue_is_no_refusal() {
        let slow: Run = |_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(None)
        };
        let (pool, mut results) = Pool::start_with(slow).unwrap();
        let all = BACKLOG as u64 * 2;
        for id in 0..all {
            pool.submit(JobId(id), Box::new(Job::default().for_peer()));
        }
        let mut busy = 0;
        for _ in 0..all {
            match results.recv().await.unwrap().1 {
                Err(JobError::Busy) => busy += 1,
                other => assert_eq!(other, Ok(None)),
            }
        }
        assert!((1..all / 2 + 1).contains(&busy), "{busy}");
        pool.submit(JobId(all), Box::new(Job::default().for_peer()));
        assert_eq!(results.recv().await.unwrap().1, Ok(None));
    }
}
