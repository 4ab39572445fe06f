// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Slow work of the core, signatures above all, on threads of its own: no tokio worker waits for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use ikev2d_proto::credential::{Job, JobError, JobResult};
use ikev2d_proto::crypto::CryptoError;
use ikev2d_proto::event::JobId;
use tokio::sync::mpsc;

/// Jobs that wait, at most. More peers at once are refused, and come again.
const BACKLOG: usize = 1024;

/// What came of a job.
pub(crate) type Done = (JobId, JobResult);

/// The threads.
pub(crate) struct Pool {
    jobs: SyncSender<(JobId, Box<Job>)>,
    done: mpsc::UnboundedSender<Done>,
}

impl Pool {
    /// As many threads as there are cores; what is done comes out of the receiver.
    pub(crate) fn start() -> std::io::Result<(Self, mpsc::UnboundedReceiver<Done>)> {
        let (jobs, queue) = sync_channel(BACKLOG);
        let (done, results) = mpsc::unbounded_channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for thread in 0..threads {
            let (queue, done) = (queue.clone(), done.clone());
            std::thread::Builder::new()
                .name(format!("ike-job-{thread}"))
                .spawn(move || work(&queue, &done))?;
        }
        Ok((Self { jobs, done }, results))
    }

    /// Has a job done.
    pub(crate) fn submit(&self, id: JobId, job: Box<Job>) {
        if self.jobs.try_send((id, job)).is_err() {
            tracing::warn!("too many signatures at once: a peer is refused");
            let _ = self.done.send((id, Err(JobError::Crypto(CryptoError))));
        }
    }
}

fn work(queue: &Mutex<Receiver<(JobId, Box<Job>)>>, done: &mpsc::UnboundedSender<Done>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((id, job)) = next else {
            return;
        };
        if done.send((id, job.run())).is_err() {
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
}
