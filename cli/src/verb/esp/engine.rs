// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The engine that does the work, one packet at a time.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use driver::DeviceAddress;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use offload_api::device::Accelerator;
use offload_api::error::InstallError;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Arm, Explicit, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{SaHandle, SaParams};
use sim::{CardConfig, SimulatedCard};

/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An engine with a queue pair.
pub(super) struct Engine {
    queue: Box<dyn QueuePair>,
    pool: FramePool,
    accelerator: Arc<dyn Accelerator>,
    /// Dropped last: the driver says goodbye before its card ends.
    _card: Option<Card>,
}

/// What became of a packet.
pub(super) struct Outcome {
    pub(super) status: Status,
    pub(super) packet: Vec<u8>,
    pub(super) sequence: u64,
}

impl Engine {
    pub(super) fn software() -> Result<Self> {
        let config = SoftwareConfig {
            threads: 1,
            ..SoftwareConfig::default()
        };
        Self::new(Arc::new(SoftwareEngine::new(config)?), None)
    }

    pub(super) fn simulated() -> Result<Self> {
        let directory = tempfile::tempdir().context("a place for the card's socket")?;
        let config = CardConfig::new(directory.path().join("card"));
        let simulated = SimulatedCard::bind(&config)?;
        let stop = simulated.stop_handle();
        let thread = std::thread::Builder::new()
            .name("card".to_owned())
            .spawn(move || {
                if let Err(error) = simulated.run() {
                    tracing::warn!(%error, "the simulated card");
                }
            })?;
        let card = Card {
            stop: Box::new(move || stop.stop()),
            thread: Some(thread),
            _directory: directory,
        };
        let accelerator = driver::open(&DeviceAddress::User(config.socket))?;
        Self::new(accelerator, Some(card))
    }

    fn new(accelerator: Arc<dyn Accelerator>, card: Option<Card>) -> Result<Self> {
        let pool = FramePool::new(FramePoolConfig {
            slots: 16,
            slot_size: accelerator.capabilities().max_packet,
            ..FramePoolConfig::default()
        })?;
        accelerator.register_pool(&pool)?;
        Ok(Self {
            queue: accelerator.open_queue(&QueueConfig { depth: 8 })?,
            pool,
            accelerator,
            _card: card,
        })
    }

    pub(super) fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.accelerator.install(sa)
    }

    /// Seals or opens a packet.
    pub(super) fn process(
        &mut self,
        sa: SaHandle,
        packet: &[u8],
        explicit: Option<Explicit>,
    ) -> Result<Outcome> {
        let mut frame = self.pool.alloc().context("no frame is left")?;
        if !frame.fill(packet) {
            return Ok(Outcome {
                status: Status::BadLength,
                packet: Vec::new(),
                sequence: 0,
            });
        }
        let mut ops = vec![Op {
            sa,
            frame,
            cookie: 0,
            explicit,
        }];
        self.queue.enqueue(&mut ops)?;
        self.queue.kick()?;
        let started = Instant::now();
        let mut done = Vec::new();
        while self.queue.dequeue(&mut done, 1)? == 0 {
            if started.elapsed() > PATIENCE {
                bail!("the engine did not finish a packet in {PATIENCE:?}");
            }
            if let Arm::Wait(fd) = self.queue.arm()? {
                let mut waited = [PollFd::new(fd, PollFlags::POLLIN)];
                // Woken early, it only looks again.
                let _ = poll(&mut waited, PollTimeout::from(100u8));
            }
        }
        let done = done.pop().context("no completion")?;
        Ok(Outcome {
            status: done.status,
            packet: done.frame.to_vec(),
            sequence: done.sequence,
        })
    }
}

/// A simulated card on a thread.
struct Card {
    stop: Box<dyn Fn()>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Drop for Card {
    fn drop(&mut self) {
        (self.stop)();
        if let Some(thread) = self.thread.take() {
            // Had it panicked, it would have said so.
            let _ = thread.join();
        }
    }
}
