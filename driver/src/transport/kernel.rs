// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real device, by the kernel's VFIO (group and type1 container).
#![expect(unsafe_code, reason = "DMA mapping by address")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};

use super::vfio::{OpenFailure, Region, VfioDevice};
use super::{IovaRange, MappedRegion, Transport};
use crate::lock;
use crate::pci::{Host, PciFunction, VFIO_PCI};

/// BARs, expansion ROM, configuration space.
const REGIONS: u32 = VFIO_PCI_CONFIG_REGION_INDEX + 1;
/// The command register, and its bit for access to the BARs.
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
/// How long a device that was just dropped may take to let go: its watch thread may have been looking.
const PARTING: Duration = Duration::from_millis(500);

/// A PCI function bound to vfio-pci.
///
/// The kernel opens a group once: in this process the descriptor lives until the last
/// [`MappedRegion`] has gone, and whoever opens the function again after [`close`](Transport::close)
/// takes it over, reset.
#[derive(Debug)]
pub struct KernelTransport {
    opened: RwLock<Option<Arc<Opened>>>,
    reserved: Vec<IovaRange>,
}

/// A function that this process has open.
#[derive(Debug)]
struct Opened {
    function: String,
    device: VfioDevice,
    regions: Vec<Region>,
    /// A transport uses it.
    taken: AtomicBool,
    /// What the device can reach.
    mapped: Mutex<Vec<(u64, usize)>>,
}

static OPENED: Mutex<Vec<Weak<Opened>>> = Mutex::new(Vec::new());

impl KernelTransport {
    /// Opens a function such as `0000:01:00.0`.
    ///
    /// # Errors
    /// It is not there, not bound to vfio-pci, in use, or its group is not viable.
    pub fn open(function: &str) -> Result<Self, DeviceError> {
        Self::open_on(&Host::default(), function)
    }

    fn open_on(host: &Host, address: &str) -> Result<Self, DeviceError> {
        let function = host.function(address).map_err(|error| DeviceError::Gone {
            reason: error.to_string(),
        })?;
        let group = check_binding(&function)?;
        let reserved = function
            .reserved_regions
            .iter()
            .map(|region| IovaRange {
                first: region.first,
                last: region.last,
            })
            .collect();
        let opened = Opened::take(host, group, address)?;
        Ok(Self {
            opened: RwLock::new(Some(opened)),
            reserved,
        })
    }

    fn opened(&self) -> Result<Arc<Opened>, DeviceError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.clone().ok_or_else(|| DeviceError::Gone {
            reason: "closed".to_owned(),
        })
    }
}

/// The function's group, if vfio-pci has it.
fn check_binding(function: &PciFunction) -> Result<u32, DeviceError> {
    let refused = |error| DeviceError::Host {
        what: "opening the PCI function",
        error,
    };
    let address = &function.address;
    if function.driver.as_deref() != Some(VFIO_PCI) {
        return Err(refused(format!(
            "{address} is bound to {}; `esplanade device bind {address}` hands it to vfio-pci",
            function.driver.as_deref().unwrap_or("no driver")
        )));
    }
    function.iommu_group.ok_or_else(|| {
        refused(format!(
            "{address} has no IOMMU group: turn the IOMMU on (VT-d or AMD-Vi in the firmware, \
             intel_iommu=on for the kernel)"
        ))
    })
}

impl Opened {
    /// Opens a function, or takes over one that this process has let go of, or does in a moment.
    fn take(host: &Host, group: u32, function: &str) -> Result<Arc<Self>, DeviceError> {
        let begun = Instant::now();
        loop {
            if let Some(opened) = Self::try_take(host, group, function)? {
                return Ok(opened);
            }
            if begun.elapsed() >= PARTING {
                return Err(DeviceError::Host {
                    what: "opening the PCI function",
                    error: format!("{function} is open in this process already"),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Nothing while it is in use.
    fn try_take(host: &Host, group: u32, function: &str) -> Result<Option<Arc<Self>>, DeviceError> {
        let mut all = lock(&OPENED);
        all.retain(|one| one.strong_count() != 0);
        let known = all
            .iter()
            .filter_map(Weak::upgrade)
            .find(|one| one.function == function);
        if let Some(known) = known {
            if known.taken.swap(true, Ordering::AcqRel) {
                return Ok(None);
            }
            if let Err(error) = known.reset() {
                known.taken.store(false, Ordering::Release);
                return Err(error);
            }
            return Ok(Some(known));
        }
        let device = VfioDevice::open(&host.dev.join("vfio"), group, function).map_err(
            |OpenFailure { what, error }| DeviceError::Host {
                what,
                error: match error.kind() {
                    io::ErrorKind::ResourceBusy => {
                        format!("{error}: another process has {function}")
                    }
                    io::ErrorKind::PermissionDenied => format!(
                        "{error}; `esplanade device bind --user NAME {function}` gives it to a user"
                    ),
                    _ => error.to_string(),
                },
            },
        )?;
        let opened = Arc::new(Self {
            function: function.to_owned(),
            // A region that does not exist has no size.
            regions: (0..REGIONS)
                .map(|index| device.region(index).unwrap_or_default())
                .collect(),
            device,
            taken: AtomicBool::new(true),
            mapped: Mutex::default(),
        });
        all.push(Arc::downgrade(&opened));
        Ok(Some(opened))
    }

    fn at(&self, region: u32, offset: u64, len: usize) -> Result<(Region, u64), DeviceError> {
        let known = self.regions.get(region as usize).copied();
        let known = known.unwrap_or_default();
        match offset.checked_add(len as u64) {
            Some(end) if end <= known.size => Ok((known, known.offset.saturating_add(offset))),
            _ => Err(DeviceError::Protocol {
                what: format!(
                    "region {region} has no {offset:#x}+{len:#x} (size {:#x})",
                    known.size
                ),
            }),
        }
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let (_, at) = self.at(region, offset, data.len())?;
        self.device.file().read_exact_at(data, at).map_err(failed)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let (_, at) = self.at(region, offset, data.len())?;
        self.device.file().write_all_at(data, at).map_err(failed)
    }

    /// Whether the function still answers: one that was removed reads all ones.
    fn check_there(&self) -> Result<(), DeviceError> {
        let mut id = [0; 4];
        self.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut id)?;
        if id == [0xff; 4] {
            return Err(DeviceError::Gone {
                reason: "configuration space reads all ones".to_owned(),
            });
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        // The kernel waits a minute for a function that has vanished to come out of its reset.
        self.check_there()?;
        self.device.reset().map_err(failed)?;
        self.check_there()
    }

    /// Takes everything from the device.
    fn let_go(&self) {
        if self.check_there().is_ok() {
            // No more DMA. The BARs stay: doorbells may still be mapped, and would fault.
            let command = MEMORY_SPACE.to_le_bytes();
            let _ = self.write(VFIO_PCI_CONFIG_REGION_INDEX, COMMAND, &command);
        }
        for kind in [VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX] {
            let _ = self.device.wire(kind, &[]);
        }
        let mut mapped = lock(&self.mapped);
        mapped.retain(|(iova, len)| self.device.unmap_dma(*iova, *len).is_err());
    }
}

/// What an error of the device's descriptor means.
fn failed(error: io::Error) -> DeviceError {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    match code {
        // Of a function without its memory space, in a deep sleep, or unplugged.
        Some(Errno::IO | Errno::PIPE | Errno::NODEV | Errno::NXIO) => DeviceError::Gone {
            reason: error.to_string(),
        },
        _ => DeviceError::Host {
            what: "vfio-pci",
            error: error.to_string(),
        },
    }
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
    move |error| DeviceError::Host {
        what,
        error: error.to_string(),
    }
}

impl Transport for KernelTransport {
    fn name(&self) -> &'static str {
        "vfio-pci"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.opened()?.read(region, offset, data)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.opened()?.write(region, offset, data)
    }

    fn map(&self, region: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        let opened = self.opened()?;
        let (known, at) = opened.at(region, offset, len)?;
        if !known.mappable {
            return Err(DeviceError::Protocol {
                what: format!("region {region} can't be mapped"),
            });
        }
        let map = MappedRegion::new(opened.device.file().as_fd(), at, len)
            .map_err(host("mapping a BAR"))?;
        Ok(map.keeping(opened.clone()))
    }

    fn reserved(&self) -> &[IovaRange] {
        &self.reserved
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        let opened = self.opened()?;
        let mut mapped = lock(&opened.mapped);
        // SAFETY: the pool's memory is a live mapping of that length, owned by a pool that the
        // driver holds until `dma_unmap` or `close`; devices only reach frames that were handed to
        // them. The kernel pins the pages, so that even a mapping that ends early harms nobody else.
        unsafe { opened.device.map_dma(iova, memory.address, memory.len) }.map_err(|error| {
            let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOMEM) => {
                    "; more locked memory is needed than the limit allows: see `ulimit -l`"
                }
                _ => "",
            };
            DeviceError::Host {
                what: "mapping memory for DMA",
                error: format!("{error}{advice}"),
            }
        })?;
        mapped.push((iova, memory.len));
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<(), DeviceError> {
        let opened = self.opened()?;
        let mut mapped = lock(&opened.mapped);
        opened
            .device
            .unmap_dma(iova, len)
            .map_err(host("unmapping DMA memory"))?;
        mapped.retain(|known| *known != (iova, len));
        Ok(())
    }

    fn enable_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        let opened = self.opened()?;
        opened
            .device
            .wire(VFIO_PCI_MSIX_IRQ_INDEX, eventfds)
            .map_err(host("enabling MSI-X"))
    }

    fn enable_msi(&self, eventfd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let opened = self.opened()?;
        opened
            .device
            .wire(VFIO_PCI_MSI_IRQ_INDEX, &[eventfd])
            .map_err(host("enabling MSI"))
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.opened()?.reset()
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&self) {
        let opened = self
            .opened
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(opened) = opened {
            opened.let_go();
            opened.taken.store(false, Ordering::Release);
        }
    }

    fn ended(&self) -> bool {
        // Only the IOMMU proves it: the caller unmaps.
        false
    }
}

impl Drop for KernelTransport {
    fn drop(&mut self) {
        self.close();
    }
}
