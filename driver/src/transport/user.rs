// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A simulated device, by vfio-user.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use vfio_user::client::Client;
use vfio_user::message::{IRQ_MSI, IRQ_MSIX};

use super::{MappedRegion, Transport};
use crate::patience::stretched;

/// How long a device may take for a message.
const DEADLINE: Duration = Duration::from_secs(2);

/// The name of a kept connection.
pub const CONNECTION: &str = "card";

/// A device behind a socket.
#[derive(Debug)]
pub struct UserTransport {
    client: Client,
}

impl UserTransport {
    /// Connects to a device's socket.
    ///
    /// # Errors
    /// Nobody listens there, or no vfio-user device does.
    pub fn connect(path: &Path) -> Result<Self, DeviceError> {
        let client = Client::connect(path, stretched(DEADLINE)).map_err(|error| match error {
            // Somebody listens, and does not greet: a device serves one driver at a time.
            vfio_user::Error::Timeout { .. } => DeviceError::Host {
                what: "connecting",
                error: format!("{}: another driver has the device", path.display()),
            },
            error => DeviceError::Gone {
                reason: format!("{}: {error}", path.display()),
            },
        })?;
        Ok(Self { client })
    }

    /// Goes on with a connection to the device at `path` whose process has died.
    ///
    /// # Errors
    /// It is a connection to something else, or one that can't be brought back into step. It is shut then,
    /// and the device can be connected to anew.
    pub fn resume(path: &Path, connection: OwnedFd) -> Result<Self, DeviceError> {
        let stream = UnixStream::from(connection);
        let peer = stream.peer_addr().ok();
        let found = peer.as_ref().and_then(|peer| peer.as_pathname());
        if found != Some(path) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return Err(DeviceError::Host {
                what: "taking over a card's connection",
                error: format!("it leads to {found:?}, expected {}", path.display()),
            });
        }
        let client = Client::resume(stream, stretched(DEADLINE)).map_err(failed)?;
        Ok(Self { client })
    }
}

fn failed(error: vfio_user::Error) -> DeviceError {
    use vfio_user::Error;
    match error {
        Error::Gone => DeviceError::Gone {
            reason: "its process has ended".to_owned(),
        },
        Error::Timeout { command, millis } => DeviceError::Timeout {
            waited_for: command,
            millis,
        },
        Error::Refused { .. } | Error::Protocol { .. } => DeviceError::Protocol {
            what: error.to_string(),
        },
        error => DeviceError::Host {
            what: "vfio-user",
            error: error.to_string(),
        },
    }
}

/// Memory that its device could cut off under a mapping, or that is shorter than said, would end this
/// process at the next access.
fn check_backing(fd: BorrowedFd<'_>, end: u64) -> Result<(), DeviceError> {
    let sealed =
        rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    let long_enough = rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_size as u64 >= end);
    if sealed && long_enough {
        return Ok(());
    }
    Err(DeviceError::Protocol {
        what: "a region's memory is not sealed against shrinking, or shorter than the region"
            .to_owned(),
    })
}

impl Transport for UserTransport {
    fn name(&self) -> &'static str {
        "vfio-user"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.client
            .region_read(region, offset, data)
            .map_err(failed)
    }

    fn probe(
        &self,
        region: u32,
        offset: u64,
        data: &mut [u8],
        within: Duration,
    ) -> Result<bool, DeviceError> {
        self.client
            .region_probe(region, offset, data, within)
            .map_err(failed)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.client
            .region_write(region, offset, data)
            .map_err(failed)
    }

    fn write_posted(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.client
            .region_write_posted(region, offset, data)
            .map_err(failed)
    }

    fn map(&self, region: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        let info = self.client.region_info(region).map_err(failed)?;
        let end = offset.checked_add(len as u64);
        let within = info.areas.iter().any(|area| {
            let area_end = area.offset.checked_add(area.size);
            area.offset <= offset && end.zip(area_end).is_some_and(|(end, area)| end <= area)
        });
        match info.memory {
            Some((fd, start)) if within => {
                let at = start.saturating_add(offset);
                check_backing(fd.as_fd(), at.saturating_add(len as u64))?;
                MappedRegion::new(fd.as_fd(), at, len).map_err(|error| DeviceError::Host {
                    what: "mapping a region",
                    error: error.to_string(),
                })
            }
            _ => Err(DeviceError::Protocol {
                what: format!("region {region} can't be mapped at {offset:#x}+{len:#x}"),
            }),
        }
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        self.client
            .dma_map(iova, memory.len as u64, memory.fd, 0)
            .map_err(failed)
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<(), DeviceError> {
        self.client.dma_unmap(iova, len as u64).map_err(failed)
    }

    fn dma_unmap_all(&self) -> Result<(), DeviceError> {
        self.client.dma_unmap_all().map_err(failed)
    }

    fn kept(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        vec![(CONNECTION, self.client.socket())]
    }

    fn enable_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        self.client.set_irqs(IRQ_MSIX, 0, eventfds).map_err(failed)
    }

    fn enable_msi(&self, eventfd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        self.client.set_irqs(IRQ_MSI, 0, &[eventfd]).map_err(failed)
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.client.reset().map_err(failed)
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.client.socket())
    }

    fn close(&self) {
        self.client.close();
    }

    fn ended(&self) -> bool {
        // The kernel closes a dying process's sockets after it has let go of its memory, so a hang-up
        // proves that nobody writes any more. (A live peer that only hangs up has unmapped first.)
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(
            self.client.socket(),
            PollFlags::RDHUP,
        )];
        poll(&mut fds, Some(&now)).is_ok_and(|_| {
            fds[0]
                .revents()
                .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
        })
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn only_memory_that_stays_is_mapped() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("bar", flags).unwrap();
        ftruncate(&memory, 0x2000).unwrap();
        assert!(check_backing(memory.as_fd(), 0x1000).is_err(), "unsealed");
        fcntl_add_seals(&memory, SealFlags::SHRINK).unwrap();
        assert!(check_backing(memory.as_fd(), 0x2000).is_ok());
        assert!(check_backing(memory.as_fd(), 0x2001).is_err(), "too short");
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(check_backing(null.as_fd(), 0).is_err(), "no memory");
    }
}
