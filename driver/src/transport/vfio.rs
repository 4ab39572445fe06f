// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's VFIO calls: group, type1 container, device (`linux/vfio.h`).
#![expect(unsafe_code, reason = "ioctls")]

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_GROUP_FLAGS_VIABLE, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_REGION_INFO_FLAG_MMAP, VFIO_TYPE1v2_IOMMU, vfio_group_status,
    vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap, vfio_region_info,
};

/// A device of a group in a container of its own. Dropped in this order.
#[derive(Debug)]
pub(super) struct VfioDevice {
    device: File,
    group: OwnedFd,
    container: OwnedFd,
}

/// What another process goes on with a device by, when this one has ended: while somebody holds them the
/// kernel neither resets the device nor unmaps its memory.
#[derive(Debug)]
pub(super) struct Descriptors<T> {
    pub(super) container: T,
    pub(super) group: T,
    pub(super) device: T,
}

/// What could not be done on the way to a device.
#[derive(Debug)]
pub(super) struct OpenFailure {
    pub(super) what: &'static str,
    pub(super) error: io::Error,
}

/// Where a region is in the device's descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) mappable: bool,
}

impl VfioDevice {
    /// Opens a function whose driver is vfio-pci, by its IOMMU group.
    pub(super) fn open(dev: &Path, group: u32, function: &str) -> Result<Self, OpenFailure> {
        let failed = |what| move |error| OpenFailure { what, error };
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let container = open(&dev.join("vfio")).map_err(failed("opening /dev/vfio/vfio"))?;
        let version = call(&container, VERSION, 0).map_err(failed("asking VFIO's version"))?;
        let type1 = call(&container, EXTENSION, VFIO_TYPE1v2_IOMMU as usize)
            .map_err(failed("asking VFIO for type1"))?;
        if version != VFIO_API_VERSION as i32 || type1 == 0 {
            return Err(failed("using VFIO")(io::Error::other(format!(
                "version {version} (expected {VFIO_API_VERSION}), type1 IOMMU {type1} (expected 1): \
                 is vfio_iommu_type1 loaded, and an IOMMU on?"
            ))));
        }
        let group = open(&dev.join(group.to_string())).map_err(failed("opening the VFIO group"))?;
        let mut status = vfio_group_status {
            argsz: size_of::<vfio_group_status>() as u32,
            flags: 0,
        };
        with(&group, GROUP_STATUS, &mut status).map_err(failed("asking for the group's status"))?;
        if status.flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(failed("using the VFIO group")(io::Error::other(
                "not viable: every function of the IOMMU group must be bound to vfio-pci or to no driver",
            )));
        }
        let mut descriptor = container.as_raw_fd();
        with(&group, SET_CONTAINER, &mut descriptor)
            .map_err(failed("putting the group into a container"))?;
        call(&container, SET_IOMMU, VFIO_TYPE1v2_IOMMU as usize)
            .map_err(failed("choosing the type1 IOMMU"))?;
        let name = std::ffi::CString::new(function)
            .map_err(|error| failed("naming the device")(error.into()))?;
        let device = call(&group, DEVICE_FD, name.as_ptr().expose_provenance())
            .map_err(failed("opening the VFIO device"))?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        let device = unsafe { OwnedFd::from_raw_fd(device) };
        Ok(Self {
            device: device.into(),
            group: group.into(),
            container: container.into(),
        })
    }

    /// Goes on with a device that another process has opened.
    pub(super) fn resume(descriptors: Descriptors<OwnedFd>) -> Self {
        Self {
            device: descriptors.device.into(),
            group: descriptors.group,
            container: descriptors.container,
        }
    }

    pub(super) fn descriptors(&self) -> Descriptors<BorrowedFd<'_>> {
        Descriptors {
            container: self.container.as_fd(),
            group: self.group.as_fd(),
            device: self.device.as_fd(),
        }
    }

    /// The device's descriptor, for reading, writing and mapping regions.
    pub(super) fn file(&self) -> &File {
        &self.device
    }

    pub(super) fn region(&self, index: u32) -> io::Result<Region> {
        let mut info = vfio_region_info {
            argsz: size_of::<vfio_region_info>() as u32,
            index,
            ..Default::default()
        };
        with(&self.device, REGION_INFO, &mut info)?;
        Ok(Region {
            offset: info.offset,
            size: info.size,
            mappable: info.flags & VFIO_REGION_INFO_FLAG_MMAP != 0,
        })
    }

    /// Lets the device reach memory of this process.
    ///
    /// # Safety
    /// `address` and `len` are a live mapping to which no reference exists, and which is not unmapped
    /// before [`unmap_dma`](Self::unmap_dma) has succeeded or this is dropped.
    pub(super) unsafe fn map_dma(&self, iova: u64, address: usize, len: usize) -> io::Result<()> {
        let mut map = vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: address as u64,
            iova,
            size: len as u64,
        };
        with(&self.container, MAP_DMA, &mut map).map(drop)
    }

    /// Takes memory back; when this has succeeded the IOMMU refuses the device's accesses to it.
    pub(super) fn unmap_dma(&self, iova: u64, len: usize) -> io::Result<()> {
        let mut unmap = vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
            iova,
            size: len as u64,
            ..Default::default()
        };
        with(&self.container, UNMAP_DMA, &mut unmap)?;
        if unmap.size != len as u64 {
            let found = unmap.size;
            return Err(io::Error::other(format!(
                "unmapped {found:#x} octets, expected {len:#x}"
            )));
        }
        Ok(())
    }

    /// Takes back all memory, whoever mapped it. Older kernels let only the process that had mapped
    /// something unmap it, and say so by having unmapped nothing.
    pub(super) fn unmap_all(&self) -> io::Result<u64> {
        let mut unmap = vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
            flags: VFIO_DMA_UNMAP_FLAG_ALL,
            ..Default::default()
        };
        with(&self.container, UNMAP_DMA, &mut unmap)?;
        Ok(unmap.size)
    }

    /// Wires vectors of a kind, from 0 on, to eventfds; none unwires them all.
    pub(super) fn wire(&self, kind: u32, eventfds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let data = if eventfds.is_empty() {
            VFIO_IRQ_SET_DATA_NONE
        } else {
            VFIO_IRQ_SET_DATA_EVENTFD
        };
        // struct vfio_irq_set with its descriptors behind it: argsz, flags, index, start, count.
        const HEADER: usize = 5;
        let count = eventfds.len() as u32;
        let size = (HEADER + eventfds.len()) * size_of::<u32>();
        let flags = data | VFIO_IRQ_SET_ACTION_TRIGGER;
        let mut set = vec![size as u32, flags, kind, 0, count];
        set.extend(eventfds.iter().map(|fd| fd.as_raw_fd() as u32));
        call(&self.device, SET_IRQS, set.as_mut_ptr().expose_provenance()).map(drop)
    }

    /// Resets the function.
    pub(super) fn reset(&self) -> io::Result<()> {
        call(&self.device, RESET, 0).map(drop)
    }
}

/// `_IO(';', 100 + number)`
const fn request(number: u32) -> Opcode {
    (b';' as u32) << 8 | (100 + number)
}

const VERSION: Opcode = request(0);
const EXTENSION: Opcode = request(1);
const SET_IOMMU: Opcode = request(2);
const GROUP_STATUS: Opcode = request(3);
const SET_CONTAINER: Opcode = request(4);
const DEVICE_FD: Opcode = request(6);
const REGION_INFO: Opcode = request(8);
const SET_IRQS: Opcode = request(10);
const RESET: Opcode = request(11);
const MAP_DMA: Opcode = request(13);
const UNMAP_DMA: Opcode = request(14);

struct Call {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the opcode and argument go to the kernel as they are; the result is a plain number. That
// the argument is what the call wants is kept by this module, the only one that makes calls.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// A call whose argument is a number, or the address of something that outlives it.
fn call(fd: &impl AsFd, opcode: Opcode, argument: usize) -> io::Result<i32> {
    let argument = std::ptr::with_exposed_provenance_mut(argument);
    // SAFETY: each caller in this module passes what `opcode` takes: a number, a NUL-terminated name,
    // or a `vfio_irq_set` whose size field is right, all alive during the call.
    Ok(unsafe { rustix::ioctl::ioctl(fd, Call { opcode, argument }) }?)
}

/// A call on a structure (or descriptor) that the kernel reads and may change.
fn with<T>(fd: &impl AsFd, opcode: Opcode, argument: &mut T) -> io::Result<i32> {
    let argument = std::ptr::from_mut(argument).cast();
    // SAFETY: `argument` is the plain structure of this `opcode` (each caller in this module), with
    // its size in it, exclusively borrowed during the call.
    Ok(unsafe { rustix::ioctl::ioctl(fd, Call { opcode, argument }) }?)
}
