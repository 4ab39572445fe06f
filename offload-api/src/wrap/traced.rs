// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every verb to `tracing`.

use std::sync::Arc;

use super::pass_on;
use crate::device::Accelerator;
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError};
use crate::event::Event;
use crate::frame::FramePool;
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair};
use crate::sa::{Amend, SaHandle, SaParams, SaUsage};

/// Tells `tracing` of every verb: those of the control path at `debug`, bursts and completions that
/// failed at `trace`. Neither keys nor packets are shown.
pub struct Traced {
    inner: Arc<dyn Accelerator>,
    name: String,
}

impl Traced {
    /// Around an accelerator.
    pub fn new(inner: Arc<dyn Accelerator>) -> Self {
        let name = inner.info().name;
        Self { inner, name }
    }

    fn told<T, E: std::fmt::Display>(&self, verb: &str, result: Result<T, E>) -> Result<T, E> {
        match &result {
            Ok(_) => tracing::debug!(accelerator = self.name, verb, "done"),
            Err(error) => tracing::debug!(accelerator = self.name, verb, %error, "refused"),
        }
        result
    }
}

impl Accelerator for Traced {
    pass_on!(
        info,
        capabilities,
        install,
        carried,
        usage,
        event_fd,
        inline,
        counters,
        health
    );

    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        self.told("register_pool", self.inner.register_pool(pool))
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        let inner = self.told("open_queue", self.inner.open_queue(config))?;
        let name = self.name.clone();
        Ok(Box::new(TracedQueue { inner, name }))
    }

    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        let span = tracing::debug_span!("install", spi = format_args!("{:08x}", sa.spi.value()));
        let _in = span.enter();
        let (direction, suite) = (sa.direction, sa.suite);
        tracing::debug!(?direction, %suite, esn = sa.esn, window = sa.replay_window, "SA");
        self.told("install", self.inner.install_as(sa, cookie))
    }

    fn install_many(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        tracing::debug!(accelerator = self.name, sas = sas.len(), "install_many");
        let results = self.inner.install_many(sas);
        for result in &results {
            let _ = self.told("install", result.as_ref());
        }
        results
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        let what = match change {
            Amend::Grant(_) => "grant",
            Amend::Revoke => "revoke",
            Amend::Replay(_) => "replay",
            Amend::Lifetimes(_) => "lifetimes",
            Amend::Outer(_) => "outer",
        };
        tracing::debug!(?sa, what, "amend");
        self.told("amend", self.inner.amend(sa, change))
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        tracing::debug!(?sa, "retire");
        self.told("retire", self.inner.retire(sa))
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        let before = out.len();
        let count = self.inner.poll_events(out);
        for event in out.get(before..).unwrap_or_default() {
            tracing::debug!(accelerator = self.name, ?event, "event");
        }
        count
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.told("reset", self.inner.reset())
    }
}

struct TracedQueue {
    inner: Box<dyn QueuePair>,
    name: String,
}

impl QueuePair for TracedQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        let offered = ops.len();
        let taken = self.inner.enqueue(ops);
        tracing::trace!(queue = self.name, offered, ?taken, "enqueue");
        taken
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        let result = self.inner.kick();
        tracing::trace!(queue = self.name, ?result, "kick");
        result
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let before = done.len();
        let result = self.inner.dequeue(done, limit);
        if !matches!(result, Ok(0)) {
            tracing::trace!(queue = self.name, ?result, "dequeue");
        }
        for done in done.get(before..).unwrap_or_default() {
            if !done.status.is_ok() {
                let Done { sa, status, .. } = done;
                tracing::trace!(queue = self.name, ?sa, ?status, "operation failed");
            }
        }
        result
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        self.inner.arm()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn close(self: Box<Self>) -> Vec<Done> {
        let home = self.inner.close();
        tracing::debug!(queue = self.name, home = home.len(), "close");
        home
    }
}
