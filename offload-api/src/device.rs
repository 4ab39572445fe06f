// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An accelerator: a card behind its driver, or the software engine.

use std::os::fd::BorrowedFd;

use crate::capability::Capabilities;
use crate::carried::CarriedSa;
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError};
use crate::event::Event;
use crate::frame::FramePool;
use crate::inline::Inline;
use crate::queue::{QueueConfig, QueuePair};
use crate::sa::{Amend, SaHandle, SaParams, SaUsage};

/// An engine that carries security associations. Object-safe, so that failover, tracing, capture
/// and fault injection wrap any engine at run time; the cost is one virtual call a burst.
pub trait Accelerator: Send + Sync {
    /// Who it is.
    fn info(&self) -> AcceleratorInfo;

    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// Lets frames of a pool be submitted; a device maps the pool's memory for DMA. Registering a
    /// pool again is no error.
    ///
    /// # Errors
    /// The memory could not be mapped, or the device is gone.
    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError>;

    /// Opens a queue pair for one thread.
    ///
    /// # Errors
    /// None is free, the depth does not fit, or the device is gone.
    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError>;

    /// Installs an SA; it can be used as soon as this returns.
    ///
    /// # Errors
    /// The SA is invalid, not supported here, the table is full, or the device is gone.
    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError>;

    /// [`install`](Self::install), under a name of the host's own that
    /// [`carried`](Self::carried) tells again.
    ///
    /// # Errors
    /// As `install`.
    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        let _ = cookie;
        self.install(sa)
    }

    /// Installs many SAs, each as [`install_as`](Self::install_as) would; a device that takes many with
    /// one command is much faster so.
    fn install_many(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        let install = |(sa, cookie): &(&SaParams, u64)| self.install_as(sa, *cookie);
        sas.iter().map(install).collect()
    }

    /// SAs that it carries, by their index in the engine from `from` on, `most` at most: how a host that
    /// has restarted finds those of a device that went on. Engines that end with their process have none
    /// to tell.
    ///
    /// # Errors
    /// The device is gone, or tells nonsense.
    fn carried(&self, from: u32, most: usize) -> Result<Vec<CarriedSa>, DeviceError> {
        let _ = (from, most);
        Ok(Vec::new())
    }

    /// Changes an SA in place.
    ///
    /// # Errors
    /// The handle is stale, the change does not fit, or the device is gone.
    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError>;

    /// Removes an SA once no operation of it is in flight inside the engine, zeroises its keys and
    /// tells what it had done. Later operations on the handle are refused as stale.
    ///
    /// # Errors
    /// The handle is stale or the device is gone.
    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError>;

    /// What an SA has done so far.
    ///
    /// # Errors
    /// The handle is stale or the device is gone.
    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError>;

    /// Moves pending events to `out` and tells how many. Where there are many SAs, those of limits by time
    /// and of refused packets may take some more calls: whoever waits for them asks again and again.
    fn poll_events(&self, out: &mut Vec<Event>) -> usize;

    /// Readable when events may be pending, where the engine can tell.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The device's ports and rules, if it is in inline mode.
    fn inline(&self) -> Option<&dyn Inline> {
        None
    }

    /// What it has done since it was opened.
    fn counters(&self) -> Counters;

    /// How it is.
    fn health(&self) -> Health;

    /// Resets it: every SA and queue is gone, keys are zeroised, operations in flight come back as
    /// aborted. A device that had been lost is opened anew where that is possible.
    ///
    /// # Errors
    /// The device does not come back.
    fn reset(&self) -> Result<(), DeviceError>;
}

/// Who an accelerator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceleratorInfo {
    /// Where it is: a PCI address, a socket path, or `software`.
    pub name: String,
    /// Product, such as `ipa` or `software ESP`.
    pub product: String,
    /// Its driver and transport.
    pub driver: String,
    /// Firmware or bitstream identity.
    pub firmware: String,
}

/// How an accelerator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Ok,
    /// It resets or is being re-opened.
    Resetting,
    /// It is lost.
    Lost {
        /// What was seen.
        reason: String,
    },
}

/// What an accelerator has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets sealed.
    pub sealed: u64,
    /// Octets of inner packets sealed.
    pub sealed_bytes: u64,
    /// Packets opened.
    pub opened: u64,
    /// Octets of inner packets opened.
    pub opened_bytes: u64,
    /// Operations refused with an error status.
    pub errors: u64,
    /// Operations aborted by a loss or reset.
    pub aborted: u64,
    /// Completions that the device should not have sent; dropped.
    pub bogus_completions: u64,
    /// SAs installed now.
    pub sas: u64,
}
