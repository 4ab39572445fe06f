// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mapped parts of regions: doorbells.
#![expect(unsafe_code, reason = "volatile access to mapped device memory")]

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use volatile::VolatilePtr;

/// A mapped part of a region.
#[derive(Debug)]
pub struct MappedRegion {
    map: MmapRaw,
    /// Lives as long as the mapping.
    _device: Option<Arc<dyn Any + Send + Sync>>,
}

impl MappedRegion {
    /// Maps `len` octets of a descriptor at a page-aligned offset.
    ///
    /// # Errors
    /// The system's.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let map = MmapOptions::new().offset(offset).len(len).map_raw(&file)?;
        Ok(Self { map, _device: None })
    }

    /// Keeps a device for as long as its region is mapped.
    pub(crate) fn keeping(self, device: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            _device: Some(device),
            ..self
        }
    }

    /// Writes a register.
    pub(crate) fn write(&self, offset: u64, value: u32) {
        if let Some(register) = self.register(offset) {
            register.write(value.to_le());
        }
    }

    /// Reads a register; all ones outside of the mapping, as on the bus.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        self.register(offset)
            .map_or(u32::MAX, |register| u32::from_le(register.read()))
    }

    fn register(&self, offset: u64) -> Option<VolatilePtr<'_, u32>> {
        let offset = usize::try_from(offset).ok()?;
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.map.len() {
            return None;
        }
        let pointer = self.map.as_mut_ptr().wrapping_add(offset).cast::<u32>();
        // SAFETY: in bounds and aligned (just checked; mappings start at a page), mapped as long as
        // `self`, and no reference to it is ever made: every access is volatile.
        Some(unsafe { VolatilePtr::new(NonNull::new(pointer)?) })
    }
}
