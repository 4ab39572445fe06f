// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's view of the driver's memory: what was mapped for it, and nothing else.
#![expect(
    unsafe_code,
    reason = "copies to and from memory that the driver shares"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use vfio_user::server::DmaMapping;

/// Mapped memory by IOVA.
#[derive(Debug, Default)]
pub(crate) struct DmaMap {
    mappings: BTreeMap<u64, Mapping>,
    /// Bus mastering is on.
    enabled: bool,
}

#[derive(Debug)]
struct Mapping {
    size: u64,
    map: MmapRaw,
    readable: bool,
    writable: bool,
}

/// An access outside of what is mapped, or with bus mastering off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DmaFault {
    pub(crate) iova: u64,
}

impl DmaMap {
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(crate) fn map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        // Without a descriptor there is nothing to reach (ROM, MMIO); such ranges just fault.
        let Some((fd, offset)) = mapping.memory else {
            return Ok(());
        };
        let end = mapping
            .address
            .checked_add(mapping.size)
            .ok_or(Errno::INVAL)?;
        let before = self.mappings.range(..end).next_back();
        if before.is_some_and(|(start, m)| start + m.size > mapping.address) {
            return Err(Errno::EXIST);
        }
        let file = File::from(fd);
        let len = file.metadata().map_err(|_| Errno::BADF)?.len();
        let file_end = offset.checked_add(mapping.size).ok_or(Errno::INVAL)?;
        if file_end > len {
            return Err(Errno::INVAL);
        }
        // Memory that can shrink under us would end this process at the next access.
        if rustix::fs::fcntl_get_seals(&file).is_ok_and(|s| !s.contains(SealFlags::SHRINK)) {
            tracing::debug!("the client's memory is not sealed against shrinking");
        }
        let map = MmapOptions::new()
            .offset(offset)
            .len(usize::try_from(mapping.size).map_err(|_| Errno::INVAL)?)
            .map_raw(&file)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        self.mappings.insert(
            mapping.address,
            Mapping {
                size: mapping.size,
                map,
                readable: mapping.readable,
                writable: mapping.writable,
            },
        );
        Ok(())
    }

    pub(crate) fn unmap(&mut self, address: u64, size: u64) -> Result<(), Errno> {
        let end = address.checked_add(size).ok_or(Errno::INVAL)?;
        let overlaps = |start: u64, m: &Mapping| start < end && start + m.size > address;
        let within = |start: u64, m: &Mapping| start >= address && start + m.size <= end;
        // A client that is told "done" may reuse all of the range, so a mapping can't stay behind in
        // part. A range with holes is no error: clients unmap in larger pieces.
        if self
            .mappings
            .range(..end)
            .any(|(start, m)| overlaps(*start, m) && !within(*start, m))
        {
            return Err(Errno::INVAL);
        }
        self.mappings.retain(|start, m| !within(*start, m));
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.mappings.clear();
    }

    /// Copies memory in.
    pub(crate) fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < buffer.len() {
            let at = iova.checked_add(done as u64).ok_or(DmaFault { iova })?;
            let (source, room) = self.locate(at, false)?;
            let count = room.min(buffer.len() - done);
            let Some(into) = buffer.get_mut(done..done + count) else {
                break;
            };
            // SAFETY: (1) `locate` gives a pointer with `room` octets behind it inside a live
            // mapping of a file that was long enough; (2) the target is our own slice; (3) the
            // driver may write meanwhile: the copy is then some mixture, and everything copied is
            // validated afterwards, never read twice.
            unsafe { std::ptr::copy_nonoverlapping(source, into.as_mut_ptr(), count) };
            done += count;
        }
        Ok(())
    }

    /// Copies memory out.
    pub(crate) fn write(&self, iova: u64, buffer: &[u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < buffer.len() {
            let at = iova.checked_add(done as u64).ok_or(DmaFault { iova })?;
            let (target, room) = self.locate(at, true)?;
            let count = room.min(buffer.len() - done);
            let Some(from) = buffer.get(done..done + count) else {
                break;
            };
            // SAFETY: as in `read`, with the roles exchanged; the mapping is writable.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), target, count) };
            done += count;
        }
        Ok(())
    }

    /// Stores eight aligned octets at once, after everything stored before.
    pub(crate) fn store_release(&self, iova: u64, value: u64) -> Result<(), DmaFault> {
        let (target, room) = self.locate(iova, true)?;
        if room < size_of::<u64>() || target.align_offset(align_of::<AtomicU64>()) != 0 {
            return Err(DmaFault { iova });
        }
        // SAFETY: aligned, in bounds (see `read`), and atomic: the driver polls it.
        let word = unsafe { AtomicU64::from_ptr(target.cast()) };
        word.store(value.to_le(), Ordering::Release);
        Ok(())
    }

    fn locate(&self, iova: u64, write: bool) -> Result<(*mut u8, usize), DmaFault> {
        let fault = DmaFault { iova };
        let (start, mapping) = self.mappings.range(..=iova).next_back().ok_or(fault)?;
        let offset = iova - start;
        let allowed = if write {
            mapping.writable
        } else {
            mapping.readable
        };
        if !self.enabled || offset >= mapping.size || !allowed {
            return Err(fault);
        }
        let pointer = mapping.map.as_mut_ptr().wrapping_add(offset as usize);
        Ok((pointer, (mapping.size - offset) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(address: u64, size: u64) -> DmaMapping {
        let fd = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        DmaMapping {
            address,
            size,
            readable: true,
            writable: true,
            memory: Some((fd, 0)),
        }
    }

    #[test]
    fn accesses_span_mappings_and_stop_at_their_ends() {
        let mut dma = DmaMap::default();
        dma.set_enabled(true);
        dma.map(mapping(0x1000, 0x1000)).unwrap();
        dma.map(mapping(0x2000, 0x1000)).unwrap();
        dma.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        dma.read(0x1ffe, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(dma.read(0x2ffe, &mut back), Err(DmaFault { iova: 0x3000 }));
        assert_eq!(dma.read(0xfff, &mut back), Err(DmaFault { iova: 0xfff }));
        assert!(dma.read(u64::MAX - 1, &mut back).is_err());
        dma.set_enabled(false);
        assert!(dma.read(0x1000, &mut back).is_err());
        dma.set_enabled(true);
        assert_eq!(dma.unmap(0, 0x1800), Err(Errno::INVAL));
        dma.unmap(0, 0x2000).unwrap();
        assert!(dma.read(0x1000, &mut back).is_err());
        assert!(dma.read(0x2000, &mut back).is_ok());
    }

    #[test]
    fn overlaps_and_files_that_are_too_short_are_refused() {
        let mut dma = DmaMap::default();
        dma.map(mapping(0x1000, 0x2000)).unwrap();
        assert_eq!(dma.map(mapping(0x2000, 0x1000)), Err(Errno::EXIST));
        assert_eq!(dma.map(mapping(0, 0x1001)), Err(Errno::EXIST));
        let mut short = mapping(0x8000, 0x1000);
        short.size = 0x2000;
        assert_eq!(dma.map(short), Err(Errno::INVAL));
    }
}
