// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real device, by the kernel's VFIO (group and type1 container).
#![expect(unsafe_code, reason = "DMA mapping by address")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};

use super::vfio::{Descriptors, OpenFailure, Region, VfioDevice};
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

/// The names of kept descriptors.
pub const KEPT: [&str; 3] = [CONTAINER, GROUP, DEVICE];
const CONTAINER: &str = "card-vfio-container";
const GROUP: &str = "card-vfio-group";
const DEVICE: &str = "card-vfio-device";

/// A PCI function bound to vfio-pci.
///
/// The kernel opens a group once: in this process the descriptor lives until the last
/// [`MappedRegion`] has gone, and whoever opens the function again after [`close`](Transport::close)
/// takes it over, reset.
#[derive(Debug)]
pub struct KernelTransport {
    opened: Arc<Opened>,
    closed: AtomicBool,
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
        Self::open_on(&Host::default(), function, None)
    }

    fn open_on(
        host: &Host,
        address: &str,
        kept: Option<Vec<(String, OwnedFd)>>,
    ) -> Result<Self, DeviceError> {
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
        let opened = match kept {
            Some(kept) => Opened::resume(group, &function, kept)?,
            None => Opened::take(host, group, address)?,
        };
        Ok(Self {
            opened,
            closed: AtomicBool::new(false),
            reserved,
        })
    }

    /// Goes on with a function that another process has opened and that was never let go of, by the
    /// descriptors of its [`kept`](Transport::kept). The kernel has not reset it, and what it could reach it
    /// still can: pages of a process that has died stay pinned.
    ///
    /// # Errors
    /// One of them is missing, or of another function.
    pub fn resume(function: &str, kept: Vec<(String, OwnedFd)>) -> Result<Self, DeviceError> {
        Self::open_on(&Host::default(), function, Some(kept))
    }

    fn opened(&self) -> Result<&Arc<Opened>, DeviceError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(DeviceError::Gone {
                reason: "closed".to_owned(),
            });
        }
        Ok(&self.opened)
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

/// What came of trying to open a function.
enum Taken {
    Opened(Arc<Opened>),
    /// Not now: somebody has it, and this is what is told if that stays so.
    InUse(DeviceError),
}

impl Opened {
    /// Opens a function, or takes over one that this process has let go of, or does in a moment.
    fn take(host: &Host, group: u32, function: &str) -> Result<Arc<Self>, DeviceError> {
        let begun = Instant::now();
        loop {
            let refused = match Self::try_take(host, group, function)? {
                Taken::Opened(opened) => return Ok(opened),
                Taken::InUse(refused) => refused,
            };
            if begun.elapsed() >= PARTING {
                return Err(refused);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn try_take(host: &Host, group: u32, function: &str) -> Result<Taken, DeviceError> {
        let mut all = lock(&OPENED);
        all.retain(|one| one.strong_count() != 0);
        let known = all
            .iter()
            .filter_map(Weak::upgrade)
            .find(|one| one.function == function);
        if let Some(known) = known {
            if known.taken.swap(true, Ordering::AcqRel) {
                return Ok(Taken::InUse(DeviceError::Host {
                    what: "opening the PCI function",
                    error: format!("{function} is open in this process already"),
                }));
            }
            if let Err(error) = known.reset() {
                known.taken.store(false, Ordering::Release);
                return Err(error);
            }
            return Ok(Taken::Opened(known));
        }
        let device = match VfioDevice::open(&host.dev.join("vfio"), group, function) {
            Ok(device) => device,
            // Perhaps by a life of ours whose descriptors are being closed.
            Err(OpenFailure { what, error }) if error.kind() == io::ErrorKind::ResourceBusy => {
                let error = format!("{error}: another process has {function}");
                return Ok(Taken::InUse(DeviceError::Host { what, error }));
            }
            Err(OpenFailure { what, error }) => {
                let error = match error.kind() {
                    io::ErrorKind::PermissionDenied => format!(
                        "{error}; `esplanade device bind --user NAME {function}` gives it to a user"
                    ),
                    _ => error.to_string(),
                };
                return Err(DeviceError::Host { what, error });
            }
        };
        let opened = Self::taken(function, device);
        all.push(Arc::downgrade(&opened));
        Ok(Taken::Opened(opened))
    }

    fn taken(function: &str, device: VfioDevice) -> Arc<Self> {
        Arc::new(Self {
            function: function.to_owned(),
            // A region that does not exist has no size.
            regions: (0..REGIONS)
                .map(|index| device.region(index).unwrap_or_default())
                .collect(),
            device,
            taken: AtomicBool::new(true),
            mapped: Mutex::default(),
        })
    }

    /// Takes over what another process had open.
    fn resume(
        group: u32,
        function: &PciFunction,
        kept: Vec<(String, OwnedFd)>,
    ) -> Result<Arc<Self>, DeviceError> {
        let descriptors = sort(kept, &format!("/dev/vfio/{group}"))?;
        let opened = Self::taken(&function.address, VfioDevice::resume(descriptors));
        let mut header = [0; HEADER];
        opened.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut header)?;
        let (found, expected) = (Model::told_by(&header), Model::of(function));
        if found != expected {
            return Err(not_taken_over(format!(
                "the device is {found}, and {} is {expected}",
                function.address
            )));
        }
        lock(&OPENED).push(Arc::downgrade(&opened));
        Ok(opened)
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

/// Octets of a function's configuration header (PCI Local Bus 3.0 §6.1).
const HEADER: usize = 64;

/// What a function is: two that differ in this are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Model {
    id: (u16, u16),
    subsystem: (u16, u16),
    class: u32,
    revision: u8,
}

impl Model {
    fn told_by(header: &[u8; HEADER]) -> Self {
        let word = |at: usize| {
            let octets = [at, at + 1].map(|at| header.get(at).copied().unwrap_or_default());
            u16::from_le_bytes(octets)
        };
        Self {
            id: (word(0), word(2)),
            subsystem: (word(0x2c), word(0x2e)),
            class: u32::from(word(0x0a)) << 8 | u32::from(word(8) >> 8),
            revision: word(8) as u8,
        }
    }

    fn of(function: &PciFunction) -> Self {
        Self {
            id: (function.vendor, function.device),
            subsystem: function.subsystem,
            class: function.class,
            revision: function.revision,
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { id, subsystem, .. }, class, revision) = (self, self.class, self.revision);
        write!(
            f,
            "{:04x}:{:04x} (subsystem {:04x}:{:04x}, class {class:06x}, revision {revision:02x})",
            id.0, id.1, subsystem.0, subsystem.1
        )
    }
}

fn not_taken_over(error: String) -> DeviceError {
    DeviceError::Host {
        what: "taking over a card from another process",
        error,
    }
}

/// Each kept descriptor in its place, if it is what its name says.
fn sort(
    kept: Vec<(String, OwnedFd)>,
    group_file: &str,
) -> Result<Descriptors<OwnedFd>, DeviceError> {
    let mut kept = kept;
    let mut take = |name: &str, is: &str| {
        // The last one of a name: others are of earlier lives.
        let at = kept.iter().rposition(|(found, _)| found == name);
        let at = at.ok_or_else(|| not_taken_over(format!("no {name} was kept")))?;
        let (_, fd) = kept.swap_remove(at);
        let file = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let file = file.map_err(host("looking at a kept descriptor"))?;
        if file.as_os_str() != is {
            let found = file.display();
            return Err(not_taken_over(format!("{name} is {found}, expected {is}")));
        }
        Ok(fd)
    };
    Ok(Descriptors {
        container: take(CONTAINER, "/dev/vfio/vfio")?,
        group: take(GROUP, group_file)?,
        device: take(DEVICE, "anon_inode:[vfio-device]")?,
    })
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

    fn dma_unmap_all(&self) -> Result<(), DeviceError> {
        let opened = self.opened()?;
        let mut mapped = lock(&opened.mapped);
        let unmapped = opened.device.unmap_all();
        // A card that was in use has memory mapped.
        if unmapped.map_err(host("unmapping DMA memory"))? == 0 && mapped.is_empty() {
            return Err(not_taken_over(
                "this kernel lets only the process that mapped memory unmap it: newer ones let others, too"
                    .to_owned(),
            ));
        }
        mapped.clear();
        Ok(())
    }

    fn kept(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let descriptors = self.opened.device.descriptors();
        vec![
            (CONTAINER, descriptors.container),
            (GROUP, descriptors.group),
            (DEVICE, descriptors.device),
        ]
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
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.opened.let_go();
            self.opened.taken.store(false, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_function_that_differs_in_its_make_is_another_one_and_its_state_is_no_difference() {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&[0x36, 0x1b, 0xa0, 0x1f]);
        header[8..12].copy_from_slice(&[3, 0, 0, 0x10]);
        header[0x2c..0x30].copy_from_slice(&[0xf4, 0x1a, 0x00, 0x11]);
        let model = Model::told_by(&header);
        let expected = Model {
            id: (0x1b36, 0x1fa0),
            subsystem: (0x1af4, 0x1100),
            class: 0x10_0000,
            revision: 3,
        };
        assert_eq!(model, expected);
        for at in 0..HEADER {
            let mut other = header;
            other[at] ^= 1;
            let make = matches!(at, 0..4 | 8..12 | 0x2c..0x30);
            assert_eq!(Model::told_by(&other) != model, make, "{at:#x}");
        }
    }

    #[test]
    fn descriptors_that_are_not_what_they_are_called_are_not_gone_on_with() {
        let null = || -> OwnedFd { File::open("/dev/null").unwrap().into() };
        let named = |names: &[&str]| {
            names
                .iter()
                .map(|name| ((*name).to_owned(), null()))
                .collect()
        };
        let refused = |kept| sort(kept, "/dev/vfio/7").unwrap_err().to_string();
        let text = refused(named(&[GROUP, DEVICE]));
        assert!(text.contains("no card-vfio-container was kept"), "{text}");
        let text = refused(named(&KEPT));
        assert!(text.contains("card-vfio-container is /dev/null"), "{text}");
    }
}
