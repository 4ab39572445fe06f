// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real device, by the kernel's VFIO (group and type1 container).
#![expect(unsafe_code, reason = "VFIO's DMA mapping by address")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioOps};
use vmm_sys_util::eventfd::EventFd;

use super::{MappedRegion, Transport};

/// A PCI function bound to vfio-pci.
pub struct KernelTransport {
    device: VfioDevice,
    container: Arc<VfioContainer>,
    /// The device's descriptor: the crate's own region access only logs failures.
    file: File,
}

impl KernelTransport {
    /// Opens a function such as `0000:01:00.0`.
    ///
    /// # Errors
    /// It is not there, not bound to vfio-pci, or its group is not viable.
    pub fn open(function: &str) -> Result<Self, DeviceError> {
        let sysfs = format!("/sys/bus/pci/devices/{function}");
        let path = Path::new(&sysfs);
        if !path.exists() {
            return Err(DeviceError::Gone {
                reason: format!("no PCI function {function}"),
            });
        }
        let driver = std::fs::read_link(path.join("driver")).ok();
        let driver = driver
            .as_deref()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str());
        if driver != Some("vfio-pci") {
            return Err(DeviceError::Host {
                what: "opening the PCI function",
                error: format!(
                    "{function} is bound to {}; write vfio-pci to {sysfs}/driver_override, unbind it \
                     there and write {function} to /sys/bus/pci/drivers_probe",
                    driver.unwrap_or("no driver")
                ),
            });
        }
        let host = |what, error: String| DeviceError::Host { what, error };
        let container =
            VfioContainer::new(None).map_err(|e| host("opening /dev/vfio/vfio", e.to_string()))?;
        let container = Arc::new(container);
        let ops: Arc<dyn VfioOps> = container.clone();
        let device = VfioDevice::new(path, ops, true)
            .map_err(|e| host("opening the VFIO group", e.to_string()))?;
        // SAFETY: the descriptor is the live device's; it is only borrowed to be duplicated.
        let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
        let fd = fd
            .try_clone_to_owned()
            .map_err(|e| host("duplicating", e.to_string()))?;
        Ok(Self {
            device,
            container,
            file: fd.into(),
        })
    }

    fn at(&self, region: u32, offset: u64, len: usize) -> Result<u64, DeviceError> {
        let size = self.device.get_region_size(region);
        match offset.checked_add(len as u64) {
            Some(end) if end <= size => Ok(self.device.get_region_offset(region) + offset),
            _ => Err(DeviceError::Protocol {
                what: format!("region {region} has no {offset:#x}+{len:#x} (size {size:#x})"),
            }),
        }
    }
}

fn gone(error: std::io::Error) -> DeviceError {
    DeviceError::Gone {
        reason: error.to_string(),
    }
}

impl Transport for KernelTransport {
    fn name(&self) -> &'static str {
        "vfio-pci"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let at = self.at(region, offset, data.len())?;
        self.file.read_exact_at(data, at).map_err(gone)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let at = self.at(region, offset, data.len())?;
        self.file.write_all_at(data, at).map_err(gone)
    }

    fn map(&self, region: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        let at = self.at(region, offset, len)?;
        MappedRegion::new(self.file.as_fd(), at, len).map_err(|error| DeviceError::Host {
            what: "mapping a BAR",
            error: error.to_string(),
        })
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        let host = |error: vfio_ioctls::VfioError| DeviceError::Host {
            what: "mapping memory for DMA",
            error: error.to_string(),
        };
        // SAFETY: the pool's memory is a live mapping of that length, owned by a pool that the
        // driver holds until `dma_unmap`; devices only reach frames that were handed to them.
        unsafe {
            self.container
                .vfio_dma_map(iova, memory.len, memory.address as *mut u8)
        }
        .map_err(host)
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<(), DeviceError> {
        self.container
            .vfio_dma_unmap(iova, len)
            .map_err(|error| DeviceError::Host {
                what: "unmapping DMA memory",
                error: error.to_string(),
            })
    }

    fn enable_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        let host = |error: String| DeviceError::Host {
            what: "enabling MSI-X",
            error,
        };
        let mut events = Vec::with_capacity(eventfds.len());
        for fd in eventfds {
            let owned = fd.try_clone_to_owned().map_err(|e| host(e.to_string()))?;
            // SAFETY: an eventfd of its own, handed over.
            events.push(unsafe { EventFd::from_raw_fd(owned.into_raw_fd()) });
        }
        self.device
            .enable_msix(events.iter().collect())
            .map_err(|error| host(error.to_string()))
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.device.reset();
        // The crate's call tells nothing: see whether the device answers.
        let mut id = [0; 4];
        self.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut id)?;
        if id == [0xff; 4] {
            return Err(DeviceError::Gone {
                reason: "all ones after reset".to_owned(),
            });
        }
        Ok(())
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&self) {}

    fn ended(&self) -> bool {
        // Only the IOMMU proves it: the caller unmaps.
        false
    }
}
