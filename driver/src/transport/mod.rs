// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a driver reaches its device.

pub mod kernel;
mod mapping;
pub mod user;
mod vfio;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;

pub use mapping::MappedRegion;

/// Addresses that a device can't use for DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IovaRange {
    /// First address.
    pub first: u64,
    /// Last address.
    pub last: u64,
}

/// A device's regions, interrupts and view of memory. Every access reports a device that is gone.
pub trait Transport: Send + Sync {
    /// What it is, for reports.
    fn name(&self) -> &'static str;

    /// Reads from a region (a BAR, or [`vfio_user::message::REGION_CONFIG`]).
    ///
    /// # Errors
    /// [`DeviceError`].
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError>;

    /// Reads from a region, waiting about so long at most; false where no answer has come, which a
    /// later call then waits on for.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn probe(
        &self,
        region: u32,
        offset: u64,
        data: &mut [u8],
        _within: Duration,
    ) -> Result<bool, DeviceError> {
        self.read(region, offset, data).map(|()| true)
    }

    /// Writes to a region.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError>;

    /// Writes to a region without waiting for the device.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn write_posted(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.write(region, offset, data)
    }

    /// Maps part of a region, where the device lets it.
    ///
    /// # Errors
    /// [`DeviceError`]; not every region can be mapped.
    fn map(&self, region: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError>;

    /// Addresses that the platform keeps from DMA.
    fn reserved(&self) -> &[IovaRange] {
        &[]
    }

    /// Makes memory reachable for the device.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError>;

    /// Makes it unreachable; when this returns the device touches it no more.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn dma_unmap(&self, iova: u64, len: usize) -> Result<(), DeviceError>;

    /// Makes all memory unreachable, whoever mapped it: another process may have, before this one.
    ///
    /// # Errors
    /// [`DeviceError`]; not every transport can be taken over.
    fn dma_unmap_all(&self) -> Result<(), DeviceError> {
        Err(DeviceError::Host {
            what: "taking memory from a card that another process has used",
            error: format!("{} has no way to", self.name()),
        })
    }

    /// What to keep open, by name, so that another process can go on with the device when this one has
    /// ended; nothing where that is not possible.
    fn kept(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        Vec::new()
    }

    /// Wires MSI-X vectors, from 0 on, to eventfds.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn enable_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), DeviceError>;

    /// Wires the one MSI vector to an eventfd.
    ///
    /// # Errors
    /// [`DeviceError`]; few devices have it.
    fn enable_msi(&self, _eventfd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        Err(DeviceError::Host {
            what: "enabling MSI",
            error: format!("{} has no way to", self.name()),
        })
    }

    /// Resets the device.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn reset(&self) -> Result<(), DeviceError>;

    /// A descriptor that hangs up when the device goes, where there is one.
    fn liveness(&self) -> Option<BorrowedFd<'_>>;

    /// Lets the device go, so that it can be opened again; every later call fails.
    fn close(&self);

    /// Whether a device that is gone has provably stopped writing to this process's memory.
    fn ended(&self) -> bool;
}
