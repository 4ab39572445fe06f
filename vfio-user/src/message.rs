// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages on the wire, native-endian as the protocol has them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Major version spoken.
pub const VERSION_MAJOR: u16 = 0;
/// Minor version spoken.
pub const VERSION_MINOR: u16 = 1;
/// Largest message accepted, header and all.
pub const MAX_MESSAGE: usize = MAX_DATA + 4096;
/// Most data of one region access.
pub const MAX_DATA: usize = 1 << 20;
/// Most descriptors sent with or accepted from one message.
pub const MAX_FDS: usize = 16;

/// What addresses, sizes and offsets of client memory are multiples of.
pub const PAGE: u64 = 4096;

/// Precedes every message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Returned with the reply.
    pub id: u16,
    /// [`Command`].
    pub command: u16,
    /// Octets with this header.
    pub size: u32,
    /// `FLAG_…`.
    pub flags: u32,
    /// errno of an error reply.
    pub error: u32,
}

/// Octets of [`Header`].
pub const HEADER_LEN: usize = size_of::<Header>();
/// Mask of the message's type within the flags.
pub const TYPE_MASK: u32 = 0xf;
/// Type: a command.
pub const TYPE_COMMAND: u32 = 0;
/// Type: a reply.
pub const TYPE_REPLY: u32 = 1;
/// The command wants no reply.
pub const FLAG_NO_REPLY: u32 = 1 << 4;
/// The reply reports an error.
pub const FLAG_ERROR: u32 = 1 << 5;

/// Commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Negotiates version and capabilities.
    Version = 1,
    /// The client's memory becomes reachable.
    DmaMap = 2,
    /// It becomes unreachable.
    DmaUnmap = 3,
    /// Counts of regions and interrupts.
    DeviceInfo = 4,
    /// Size and mappable areas of a region.
    RegionInfo = 5,
    /// Descriptors for direct access to a region.
    RegionIoFds = 6,
    /// Count of vectors of an interrupt type.
    IrqInfo = 7,
    /// Wires interrupts to descriptors.
    SetIrqs = 8,
    /// Reads a region.
    RegionRead = 9,
    /// Writes a region.
    RegionWrite = 10,
    /// The server reads the client's memory.
    DmaRead = 11,
    /// The server writes the client's memory.
    DmaWrite = 12,
    /// Resets the device.
    DeviceReset = 13,
}

impl Command {
    /// The command with this code.
    pub fn from_code(code: u16) -> Option<Self> {
        use Command::*;
        [
            Version,
            DmaMap,
            DmaUnmap,
            DeviceInfo,
            RegionInfo,
            RegionIoFds,
            IrqInfo,
            SetIrqs,
            RegionRead,
            RegionWrite,
            DmaRead,
            DmaWrite,
            DeviceReset,
        ]
        .into_iter()
        .find(|command| *command as u16 == code)
    }

    /// Its name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "VERSION",
            Self::DmaMap => "DMA_MAP",
            Self::DmaUnmap => "DMA_UNMAP",
            Self::DeviceInfo => "DEVICE_GET_INFO",
            Self::RegionInfo => "DEVICE_GET_REGION_INFO",
            Self::RegionIoFds => "DEVICE_GET_REGION_IO_FDS",
            Self::IrqInfo => "DEVICE_GET_IRQ_INFO",
            Self::SetIrqs => "DEVICE_SET_IRQS",
            Self::RegionRead => "REGION_READ",
            Self::RegionWrite => "REGION_WRITE",
            Self::DmaRead => "DMA_READ",
            Self::DmaWrite => "DMA_WRITE",
            Self::DeviceReset => "DEVICE_RESET",
        }
    }
}

/// Of [`Command::Version`], followed by a JSON text that ends with NUL.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VersionPayload {
    /// Major.
    pub major: u16,
    /// Minor.
    pub minor: u16,
}

/// Of [`Command::DmaMap`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaMapPayload {
    /// Octets of this payload.
    pub argsz: u32,
    /// [`DMA_READ`] and [`DMA_WRITE`].
    pub flags: u32,
    /// Offset in the descriptor.
    pub offset: u64,
    /// IOVA.
    pub address: u64,
    /// Octets.
    pub size: u64,
}

/// The device may read.
pub const DMA_READ: u32 = 1 << 0;
/// The device may write.
pub const DMA_WRITE: u32 = 1 << 1;

/// Of [`Command::DmaUnmap`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaUnmapPayload {
    /// Octets of this payload.
    pub argsz: u32,
    /// [`UNMAP_ALL`] or 0.
    pub flags: u32,
    /// IOVA.
    pub address: u64,
    /// Octets.
    pub size: u64,
}

/// Unmaps everything; address and size are zero.
pub const UNMAP_ALL: u32 = 1 << 1;

/// Of [`Command::DeviceInfo`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfoPayload {
    /// Octets of this payload.
    pub argsz: u32,
    /// VFIO's device flags.
    pub flags: u32,
    /// Regions.
    pub regions: u32,
    /// Interrupt types.
    pub irqs: u32,
}

/// VFIO device flag: it can be reset.
pub const DEVICE_RESET: u32 = 1 << 0;
/// VFIO device flag: a PCI device.
pub const DEVICE_PCI: u32 = 1 << 1;

/// Of [`Command::RegionInfo`], followed by capabilities.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionInfoPayload {
    /// Octets of this payload with its capabilities (in a request: room for them).
    pub argsz: u32,
    /// `REGION_…`.
    pub flags: u32,
    /// Region.
    pub index: u32,
    /// Where the first capability starts, or 0.
    pub capability_offset: u32,
    /// Octets of the region.
    pub size: u64,
    /// Offset of the region in the descriptor that comes along.
    pub offset: u64,
}

/// VFIO region flag: readable.
pub const REGION_READ: u32 = 1 << 0;
/// VFIO region flag: writable.
pub const REGION_WRITE: u32 = 1 << 1;
/// VFIO region flag: (partly) mappable.
pub const REGION_MMAP: u32 = 1 << 2;
/// VFIO region flag: capabilities follow.
pub const REGION_CAPABILITIES: u32 = 1 << 3;
/// VFIO capability: sparse mmap.
pub const CAPABILITY_SPARSE_MMAP: u16 = 1;

/// Header of a region capability.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapabilityHeader {
    /// [`CAPABILITY_SPARSE_MMAP`].
    pub id: u16,
    /// 1.
    pub version: u16,
    /// Offset of the next one, or 0.
    pub next: u32,
}

/// Behind a sparse mmap capability's header; that many areas follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseMmap {
    /// Areas.
    pub areas: u32,
    /// Zero.
    pub reserved: u32,
}

/// An area that may be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SparseArea {
    /// In the region.
    pub offset: u64,
    /// Octets.
    pub size: u64,
}

/// Of [`Command::IrqInfo`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqInfoPayload {
    /// Octets of this payload.
    pub argsz: u32,
    /// VFIO's flags.
    pub flags: u32,
    /// Interrupt type.
    pub index: u32,
    /// Vectors.
    pub count: u32,
}

/// VFIO interrupt flag: signalled by eventfd.
pub const IRQ_EVENTFD: u32 = 1 << 0;
/// VFIO interrupt type of MSI.
pub const IRQ_MSI: u32 = 1;
/// VFIO interrupt type of MSI-X.
pub const IRQ_MSIX: u32 = 2;
/// Interrupt types of a PCI device.
pub const PCI_IRQS: u32 = 5;

/// Of [`Command::SetIrqs`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIrqsPayload {
    /// Octets of this payload.
    pub argsz: u32,
    /// `IRQ_SET_…`.
    pub flags: u32,
    /// Interrupt type.
    pub index: u32,
    /// First vector.
    pub start: u32,
    /// Vectors.
    pub count: u32,
}

/// No data: acts on all of `start..start + count`.
pub const IRQ_SET_DATA_NONE: u32 = 1 << 0;
/// One octet for each vector.
pub const IRQ_SET_DATA_BOOL: u32 = 1 << 1;
/// One descriptor for each vector comes along.
pub const IRQ_SET_DATA_EVENTFD: u32 = 1 << 2;
/// Action: mask.
pub const IRQ_SET_ACTION_MASK: u32 = 1 << 3;
/// Action: unmask.
pub const IRQ_SET_ACTION_UNMASK: u32 = 1 << 4;
/// Action: wire up, or trigger.
pub const IRQ_SET_ACTION_TRIGGER: u32 = 1 << 5;

/// Of [`Command::RegionRead`] and [`Command::RegionWrite`]; data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegionAccess {
    /// In the region.
    pub offset: u64,
    /// Region.
    pub region: u32,
    /// Octets.
    pub count: u32,
}

/// PCI region index of the configuration space.
pub const REGION_CONFIG: u32 = 7;
/// Regions of a PCI device.
pub const PCI_REGIONS: u32 = 9;

/// Of [`Command::DmaRead`] and [`Command::DmaWrite`]; data follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmaAccess {
    /// IOVA.
    pub address: u64,
    /// Octets.
    pub count: u64,
}
