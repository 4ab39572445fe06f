// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An engine that works one packet at a time.

use std::os::fd::AsFd;
use std::sync::Arc;
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
use sim::{CardConfig, RunningCard};

use crate::verb::sim::Model;

/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An engine with a queue pair.
pub(crate) struct Engine {
    queue: Box<dyn QueuePair>,
    pool: FramePool,
    accelerator: Arc<dyn Accelerator>,
    /// Dropped last: the driver says goodbye before its card ends.
    _card: Option<Simulated>,
}

/// What became of a packet.
pub(crate) struct Outcome {
    pub(crate) status: Status,
    pub(crate) packet: Vec<u8>,
    pub(crate) sequence: u64,
}

impl Engine {
    pub(crate) fn software() -> Result<Self> {
        let config = SoftwareConfig {
            threads: 1,
            ..SoftwareConfig::default()
        };
        Self::new(Arc::new(SoftwareEngine::new(config)?), None)
    }

    pub(crate) fn simulated() -> Result<Self> {
        let card = Simulated::start(Model::Ipa, |_| {})?;
        Self::new(card.accelerator(), Some(card))
    }

    /// An engine that is open already.
    pub(crate) fn opened(accelerator: Arc<dyn Accelerator>) -> Result<Self> {
        Self::new(accelerator, None)
    }

    fn new(accelerator: Arc<dyn Accelerator>, card: Option<Simulated>) -> Result<Self> {
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

    pub(crate) fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.accelerator.install(sa)
    }

    /// Removes an SA.
    pub(crate) fn retire(&self, sa: SaHandle) -> Result<()> {
        self.accelerator.retire(sa)?;
        Ok(())
    }

    /// As [`process`](Self::process), but looks for the completion only when the engine's interrupt
    /// has come; whether it did.
    pub(crate) fn interrupts(
        &mut self,
        sa: SaHandle,
        packet: &[u8],
        explicit: Option<Explicit>,
    ) -> Result<bool> {
        let mut frame = self.pool.alloc().context("no frame is left")?;
        if !frame.fill(packet) {
            bail!("the packet does not fit a frame");
        }
        let mut ops = vec![Op::new(sa, frame, 0).numbered(explicit)];
        self.queue.enqueue(&mut ops)?;
        let vector = match self.queue.arm()? {
            Arm::Wait(fd) => fd.try_clone_to_owned()?,
            Arm::Ready => bail!("the engine is ready before it has anything to do"),
        };
        self.queue.kick()?;
        let mut waited = [PollFd::new(vector.as_fd(), PollFlags::POLLIN)];
        let came = poll(&mut waited, PollTimeout::from(1000u16)).is_ok_and(|ready| ready == 1);
        let started = Instant::now();
        let mut done = Vec::new();
        while self.queue.dequeue(&mut done, 1)? == 0 && started.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        Ok(came && !done.is_empty())
    }

    /// Seals or opens a packet.
    pub(crate) fn process(
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
        let mut ops = vec![Op::new(sa, frame, 0).numbered(explicit)];
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

/// A device that is simulated by threads of this process, and driven over vfio-user.
pub(crate) struct Simulated {
    accelerator: Arc<dyn Accelerator>,
    /// Dropped behind its driver.
    _running: RunningCard,
    _directory: tempfile::TempDir,
}

impl Simulated {
    /// Starts one, adjusted, and opens it.
    pub(crate) fn start(model: Model, adjust: impl FnOnce(&mut CardConfig)) -> Result<Self> {
        let directory = tempfile::tempdir().context("a place for the card's socket")?;
        let mut config = CardConfig::new(directory.path().join("card"));
        adjust(&mut config);
        let running = model.start(config)?;
        let address = DeviceAddress::User(running.socket().to_owned());
        Ok(Self {
            accelerator: driver::open_card(&address)?.accelerator(),
            _running: running,
            _directory: directory,
        })
    }

    pub(crate) fn accelerator(&self) -> Arc<dyn Accelerator> {
        self.accelerator.clone()
    }
}
