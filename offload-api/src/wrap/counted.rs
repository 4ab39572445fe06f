// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is called how often, how large bursts are, how long packets take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::pass_on;
use crate::device::Accelerator;
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError};
use crate::event::Event;
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use crate::sa::{Amend, SaHandle, SaParams, SaUsage};

/// Counts verbs, bursts, statuses and the time that packets take.
pub struct Counted {
    inner: Arc<dyn Accelerator>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    installs: AtomicU64,
    installs_refused: AtomicU64,
    amends: AtomicU64,
    retires: AtomicU64,
    events: AtomicU64,
    resets: AtomicU64,
    queues: AtomicU64,
    enqueues: AtomicU64,
    submitted: AtomicU64,
    submitted_bytes: AtomicU64,
    kicks: AtomicU64,
    dequeues: AtomicU64,
    empty_dequeues: AtomicU64,
    completed: AtomicU64,
    completed_bytes: AtomicU64,
    statuses: [AtomicU64; Status::ALL.len()],
    latency: Histogram,
}

/// Counts at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct CountedSnapshot {
    /// SAs installed.
    pub installs: u64,
    /// SAs refused.
    pub installs_refused: u64,
    /// Changes to SAs.
    pub amends: u64,
    /// SAs retired.
    pub retires: u64,
    /// Events taken.
    pub events: u64,
    /// Resets.
    pub resets: u64,
    /// Queue pairs opened.
    pub queues: u64,
    /// Calls of `enqueue`.
    pub enqueues: u64,
    /// Operations taken by the accelerator.
    pub submitted: u64,
    /// Octets of their packets.
    pub submitted_bytes: u64,
    /// Calls of `kick`.
    pub kicks: u64,
    /// Calls of `dequeue`.
    pub dequeues: u64,
    /// Those that brought nothing.
    pub empty_dequeues: u64,
    /// Operations that came back.
    pub completed: u64,
    /// Octets of their packets.
    pub completed_bytes: u64,
    /// How many ended how; statuses that did not occur are left out.
    pub statuses: Vec<(Status, u64)>,
    /// From `enqueue` to `dequeue`.
    pub latency: Latency,
}

/// Percentiles of a time, in nanoseconds, exact to an eighth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Packets measured.
    pub count: u64,
    /// Half were faster.
    pub p50: u64,
    /// 90 in 100 were.
    pub p90: u64,
    /// 99 in 100 were.
    pub p99: u64,
    /// 999 in 1,000 were.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

impl Counted {
    /// Around an accelerator.
    pub fn new(inner: Arc<dyn Accelerator>) -> Self {
        Self {
            inner,
            counts: Arc::default(),
        }
    }

    /// What was counted so far.
    pub fn snapshot(&self) -> CountedSnapshot {
        let counts = &*self.counts;
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let statuses = Status::ALL
            .into_iter()
            .zip(counts.statuses.iter().map(load));
        CountedSnapshot {
            installs: load(&counts.installs),
            installs_refused: load(&counts.installs_refused),
            amends: load(&counts.amends),
            retires: load(&counts.retires),
            events: load(&counts.events),
            resets: load(&counts.resets),
            queues: load(&counts.queues),
            enqueues: load(&counts.enqueues),
            submitted: load(&counts.submitted),
            submitted_bytes: load(&counts.submitted_bytes),
            kicks: load(&counts.kicks),
            dequeues: load(&counts.dequeues),
            empty_dequeues: load(&counts.empty_dequeues),
            completed: load(&counts.completed),
            completed_bytes: load(&counts.completed_bytes),
            statuses: statuses.filter(|(_, count)| *count != 0).collect(),
            latency: counts.latency.read(),
        }
    }

    fn count_install(&self, result: &Result<SaHandle, InstallError>) {
        let counter = match result {
            Ok(_) => &self.counts.installs,
            Err(_) => &self.counts.installs_refused,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl Accelerator for Counted {
    pass_on!(
        info,
        capabilities,
        register_pool,
        install,
        carried,
        usage,
        event_fd,
        inline,
        counters,
        health
    );

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        let inner = self.inner.open_queue(config)?;
        self.counts.queues.fetch_add(1, Relaxed);
        Ok(Box::new(CountedQueue {
            inner,
            counts: self.counts.clone(),
            flights: Vec::with_capacity(config.depth as usize),
            free: Vec::with_capacity(config.depth as usize),
            started: Instant::now(),
        }))
    }

    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        let result = self.inner.install_as(sa, cookie);
        self.count_install(&result);
        result
    }

    fn install_many(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        let results = self.inner.install_many(sas);
        results.iter().for_each(|result| self.count_install(result));
        results
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        self.counts.amends.fetch_add(1, Relaxed);
        self.inner.amend(sa, change)
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.counts.retires.fetch_add(1, Relaxed);
        self.inner.retire(sa)
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        let count = self.inner.poll_events(out);
        self.counts.events.fetch_add(count as u64, Relaxed);
        count
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.counts.resets.fetch_add(1, Relaxed);
        self.inner.reset()
    }
}

struct CountedQueue {
    inner: Box<dyn QueuePair>,
    counts: Arc<Counts>,
    /// The caller's cookie and when the operation was taken, in nanoseconds from `started`, by our
    /// own cookie.
    flights: Vec<(u64, u64)>,
    free: Vec<u32>,
    started: Instant,
}

impl CountedQueue {
    fn book(&mut self, op: &mut Op, now: u64) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.flights.push((0, 0));
            (self.flights.len() - 1) as u32
        });
        if let Some(flight) = self.flights.get_mut(place as usize) {
            *flight = (op.cookie, now);
            op.cookie = place.into();
        }
    }

    fn land(&mut self, done: &mut Done, now: u64) {
        let Some((cookie, taken)) = self.flights.get(done.cookie as usize).copied() else {
            return;
        };
        self.free.push(done.cookie as u32);
        done.cookie = cookie;
        let counts = &*self.counts;
        counts.completed.fetch_add(1, Relaxed);
        let bytes = done.frame.packet_len() as u64;
        counts.completed_bytes.fetch_add(bytes, Relaxed);
        if let Some(counter) = counts.statuses.get(done.status as usize) {
            counter.fetch_add(1, Relaxed);
        }
        counts.latency.record(now.saturating_sub(taken));
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

impl QueuePair for CountedQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        let (now, offered) = (self.now(), ops.len());
        for op in ops.iter_mut() {
            self.book(op, now);
        }
        let bytes: u64 = ops.iter().map(|op| op.frame.packet_len() as u64).sum();
        let result = self.inner.enqueue(ops);
        // What stays with the caller gets its cookie back.
        for op in ops.iter_mut() {
            if let Some((cookie, _)) = self.flights.get(op.cookie as usize).copied() {
                self.free.push(op.cookie as u32);
                op.cookie = cookie;
            }
        }
        let counts = &*self.counts;
        let left: u64 = ops.iter().map(|op| op.frame.packet_len() as u64).sum();
        counts.enqueues.fetch_add(1, Relaxed);
        let taken = offered.saturating_sub(ops.len()) as u64;
        counts.submitted.fetch_add(taken, Relaxed);
        let bytes = bytes.saturating_sub(left);
        counts.submitted_bytes.fetch_add(bytes, Relaxed);
        result
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        self.counts.kicks.fetch_add(1, Relaxed);
        self.inner.kick()
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let before = done.len();
        let result = self.inner.dequeue(done, limit);
        self.counts.dequeues.fetch_add(1, Relaxed);
        if done.len() == before {
            self.counts.empty_dequeues.fetch_add(1, Relaxed);
            return result;
        }
        let now = self.now();
        for done in done.iter_mut().skip(before) {
            self.land(done, now);
        }
        result
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        self.inner.arm()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn close(mut self: Box<Self>) -> Vec<Done> {
        let inner = std::mem::replace(&mut self.inner, Box::new(Closed));
        let mut home = inner.close();
        let now = self.now();
        for done in &mut home {
            self.land(done, now);
        }
        home
    }
}

/// What is left of a queue that is being closed.
pub(super) struct Closed;

impl QueuePair for Closed {
    fn enqueue(&mut self, _: &mut Vec<Op>) -> Result<usize, DeviceError> {
        Ok(0)
    }
    fn kick(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
    fn dequeue(&mut self, _: &mut Vec<Done>, _: usize) -> Result<usize, DeviceError> {
        Ok(0)
    }
    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        Ok(Arm::Ready)
    }
    fn in_flight(&self) -> usize {
        0
    }
    fn close(self: Box<Self>) -> Vec<Done> {
        Vec::new()
    }
}

/// Times by their power of two, each in eight equal parts.
struct Histogram {
    buckets: [AtomicU64; 62 * 8],
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(value)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.max.fetch_max(value, Relaxed);
    }

    fn read(&self) -> Latency {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max = self.max.load(Relaxed);
        let percentile = |per_mille: u64| {
            let rank = (count * per_mille).div_ceil(1000).max(1);
            let mut seen = 0;
            for (bucket, n) in counts.iter().enumerate() {
                seen += n;
                if seen >= rank {
                    return top_of(bucket).min(max);
                }
            }
            max
        };
        Latency {
            count,
            p50: percentile(500),
            p90: percentile(900),
            p99: percentile(990),
            p999: percentile(999),
            max,
        }
    }
}

fn bucket_of(value: u64) -> usize {
    let power = value.max(8).ilog2() - 3;
    let eighth = (value >> power) & 7;
    let small = value < 8;
    if small {
        value as usize
    } else {
        ((power as usize + 1) * 8) + eighth as usize
    }
}

/// The largest value of a bucket.
fn top_of(bucket: usize) -> u64 {
    let (power, eighth) = ((bucket / 8) as u32, (bucket % 8) as u64);
    match power {
        0 => eighth,
        power => ((8 + eighth + 1) << (power - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values_and_are_an_eighth_wide() {
        for value in (0..10_000).chain([1 << 20, (1 << 40) + 12345, u64::MAX / 4]) {
            let bucket = bucket_of(value);
            assert!(top_of(bucket) >= value, "{value}");
            assert!(bucket == 0 || top_of(bucket - 1) < value, "{value}");
            assert!(top_of(bucket) - value <= value / 8, "{value}");
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read(), Latency::default());
        for value in 1..=1000 {
            histogram.record(value);
        }
        let latency = histogram.read();
        assert_eq!((latency.count, latency.max), (1000, 1000));
        for (found, exact) in [(latency.p50, 500), (latency.p90, 900), (latency.p99, 990)] {
            assert!(
                (exact..=exact + exact / 8).contains(&found),
                "{found} {exact}"
            );
        }
    }
}
