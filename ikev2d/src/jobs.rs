// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Slow work of the core, signatures above all, on threads of its own: no tokio worker waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use ikev2d_proto::credential::{Job, JobError, JobResult};
use ikev2d_proto::event::JobId;
use tokio::sync::mpsc;

/// Jobs for peers that wait, at most. More are not taken; those peers send again. Our own initiations
/// bound themselves.
const BACKLOG: usize = 1024;

/// What came of a job.
pub(crate) type Done = (JobId, JobResult);

/// Does the work. Tests put their own in.
type Run = fn(&Job) -> JobResult;

/// The threads.
pub(crate) struct Pool {
    jobs: Sender<(JobId, Box<Job>)>,
    waiting: Arc<AtomicUsize>,
    done: mpsc::UnboundedSender<Done>,
}

impl Pool {
    /// As many threads as there are cores; what is done comes out of the receiver.
    pub(crate) fn start() -> std::io::Result<(Self, mpsc::UnboundedReceiver<Done>)> {
        Self::start_with(Job::run)
    }

    fn start_with(run: Run) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Done>)> {
        let (jobs, queue) = channel();
        let (done, results) = mpsc::unbounded_channel();
        let queue = Arc::new(Mutex::new(queue));
        let waiting = Arc::new(AtomicUsize::new(0));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for thread in 0..threads {
            let (queue, done, waiting) = (queue.clone(), done.clone(), waiting.clone());
            std::thread::Builder::new()
                .name(format!("ike-job-{thread}"))
                .spawn(move || work(&queue, &done, &waiting, run))?;
        }
        let pool = Self {
            jobs,
            waiting,
            done,
        };
        Ok((pool, results))
    }

    /// Has a job done.
    pub(crate) fn submit(&self, id: JobId, job: Box<Job>) {
        if job.is_for_peer() && self.waiting.load(Ordering::Relaxed) >= BACKLOG {
            tracing::warn!("too many signatures at once: a peer has to ask again");
            let _ = self.done.send((id, Err(JobError::Busy)));
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.jobs.send((id, job));
    }
}

fn work(
    queue: &Mutex<Receiver<(JobId, Box<Job>)>>,
    done: &mpsc::UnboundedSender<Done>,
    waiting: &AtomicUsize,
    run: Run,
) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((id, job)) = next else {
            return;
        };
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
mod tests {
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
