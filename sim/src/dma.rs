// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's view of the driver's memory: what was mapped for it, and nothing else.
#![expect(
    unsafe_code,
    reason = "copies to and from memory that the driver shares"
)]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use vfio_user::server::{ClientMemory, DmaMapping};

use crate::handshake;

/// Mappings of a function at once, as many as the kernel's VFIO allows by default.
const MOST_MAPPINGS: usize = 65_535;
/// Those of all functions together that this process maps, too: half of what the kernel lets a process map by
/// default (vm.max_map_count). Whoever went beyond that would take memory and threads from everybody.
const MOST_MAPPED: usize = 32_768;
/// Files at once that are reached by system calls, each with a descriptor of this process.
const MOST_FILES: usize = 16;

/// How many mappings this process has for its functions.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// A place among [`MOST_MAPPED`], given back when it is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    /// For a function that counts its own. It gets no more than it leaves to the others, so that one alone
    /// can't keep them out.
    fn take(own: &Arc<AtomicUsize>) -> Option<Self> {
        let had = own.load(Ordering::Relaxed);
        let room = |all: usize| (had < MOST_MAPPED.saturating_sub(all)).then_some(all + 1);
        MAPPED
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .ok()?;
        own.fetch_add(1, Ordering::Relaxed);
        Some(Self(own.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        MAPPED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Mapped memory by IOVA.
#[derive(Debug, Default)]
pub(crate) struct DmaMap {
    mappings: BTreeMap<u64, Mapping>,
    /// Bus mastering is on.
    enabled: bool,
    /// For what is mapped without a descriptor.
    client: Option<ClientMemory>,
    /// Files that are reached by system calls, by device and inode: a client that maps page by page sends
    /// the same one each time.
    files: HashMap<(u64, u64), Weak<File>>,
    /// How many of the mappings this process maps, too.
    mapped: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Mapping {
    size: u64,
    memory: Memory,
    readable: bool,
    writable: bool,
}

/// How the client's memory is reached.
#[derive(Debug)]
enum Memory {
    /// Sealed against shrinking: mapped.
    Mapped(MmapRaw, #[expect(dead_code, reason = "held")] Place),
    /// The client could cut it off under a mapping, which would end this process at the next access:
    /// by system calls, which only fail then. The mapping starts at the offset.
    Called(Arc<File>, u64),
    /// Mapped without a descriptor: asked for by messages. The mapping starts at the address.
    Asked(ClientMemory, u64),
}

impl Memory {
    /// Copies octets in; the range lies within the mapping.
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        match self {
            Self::Mapped(map, _) => {
                let from = map.as_ptr().wrapping_add(offset as usize);
                // SAFETY: (1) the caller keeps to the size of the mapping, which the file had when it
                // was mapped and, being sealed, has still; (2) the target is our own slice; (3) the
                // driver may write meanwhile: the copy is then some mixture, and everything copied is
                // validated afterwards, never read twice.
                unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
                true
            }
            Self::Called(file, start) => file.read_exact_at(into, start + offset).is_ok(),
            Self::Asked(client, start) => client.read(start + offset, into).is_ok(),
        }
    }

    /// Copies octets out; the range lies within the mapping.
    fn write(&self, offset: u64, from: &[u8]) -> bool {
        match self {
            Self::Mapped(map, _) => {
                let to = map.as_mut_ptr().wrapping_add(offset as usize);
                // SAFETY: as in `read`, with the roles exchanged; the mapping is writable.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
                true
            }
            Self::Called(file, start) => file.write_all_at(from, start + offset).is_ok(),
            Self::Asked(client, start) => client.write(start + offset, from).is_ok(),
        }
    }

    /// Stores eight aligned octets so that whoever sees the last one sees the others.
    fn store(&self, offset: u64, value: u64, order: Ordering) -> bool {
        match self {
            Self::Mapped(map, _) => {
                let to = map.as_mut_ptr().wrapping_add(offset as usize);
                if to.align_offset(align_of::<AtomicU64>()) != 0 {
                    return false;
                }
                // SAFETY: aligned, in bounds (see `read`), and atomic: the driver polls it.
                let word = unsafe { AtomicU64::from_ptr(to.cast()) };
                word.store(value.to_le(), order);
                true
            }
            Self::Called(..) | Self::Asked(..) => {
                let [body @ .., last] = value.to_le_bytes();
                self.write(offset, &body) && self.write(offset + body.len() as u64, &[last])
            }
        }
    }
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

    /// Whether bus mastering is on.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whom to ask for what is mapped without a descriptor.
    pub(crate) fn set_client(&mut self, client: Option<ClientMemory>) {
        self.client = client;
    }

    pub(crate) fn map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        let end = mapping
            .address
            .checked_add(mapping.size)
            .ok_or(Errno::INVAL)?;
        let before = self.mappings.range(..end).next_back();
        if before.is_some_and(|(start, m)| start + m.size > mapping.address) {
            return Err(Errno::EXIST);
        }
        if self.mappings.len() >= MOST_MAPPINGS {
            return Err(Errno::NOSPC);
        }
        let DmaMapping {
            address,
            size,
            readable,
            writable,
            ..
        } = mapping;
        let memory = match mapping.memory {
            Some((fd, offset)) => self.shared(File::from(fd), offset, size)?,
            None => Memory::Asked(self.client.clone().ok_or(Errno::INVAL)?, address),
        };
        self.mappings.insert(
            address,
            Mapping {
                size,
                memory,
                readable,
                writable,
            },
        );
        Ok(())
    }

    /// The way to memory that the client shares.
    fn shared(&mut self, file: File, offset: u64, size: u64) -> Result<Memory, Errno> {
        // Memory only (memfd, tmpfs, hugetlbfs): reading another file could take for ever.
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| Errno::INVAL)?;
        let metadata = file.metadata().map_err(|_| Errno::BADF)?;
        let file_end = offset.checked_add(size).ok_or(Errno::INVAL)?;
        if file_end > metadata.len() {
            return Err(Errno::INVAL);
        }
        if seals.contains(SealFlags::SHRINK) {
            let len = usize::try_from(size).map_err(|_| Errno::INVAL)?;
            let place = Place::take(&self.mapped).ok_or(Errno::NOSPC)?;
            let map = MmapOptions::new().offset(offset).len(len).map_raw(&file);
            return map
                .map(|map| Memory::Mapped(map, place))
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM));
        }
        tracing::debug!("the client's memory is not sealed: reached by system calls");
        self.files.retain(|_, file| file.strong_count() != 0);
        let id = (metadata.dev(), metadata.ino());
        let known = self.files.get(&id).and_then(Weak::upgrade);
        let file = match known {
            Some(known) => known,
            None if self.files.len() >= MOST_FILES => return Err(Errno::NOSPC),
            None => Arc::new(file),
        };
        self.files.insert(id, Arc::downgrade(&file));
        Ok(Memory::Called(file, offset))
    }

    pub(crate) fn unmap(&mut self, address: u64, size: u64) -> Result<(), Errno> {
        let end = address.checked_add(size).ok_or(Errno::INVAL)?;
        // Mappings don't overlap, so only the last one before the range can reach into it. A client that is
        // told "done" may reuse all of the range, so a mapping can't stay behind in part. A range with holes
        // is no error: clients unmap in larger pieces.
        let before = self.mappings.range(..address).next_back();
        let last = self.mappings.range(address..end).next_back();
        if before.is_some_and(|(start, m)| start + m.size > address)
            || last.is_some_and(|(start, m)| start + m.size > end)
        {
            return Err(Errno::INVAL);
        }
        let within: Vec<u64> = self
            .mappings
            .range(address..end)
            .map(|(start, _)| *start)
            .collect();
        for start in within {
            self.mappings.remove(&start);
        }
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
            let (memory, offset, room) = self.locate(at, false)?;
            let count = room.min(buffer.len() - done);
            let Some(into) = buffer.get_mut(done..done + count) else {
                break;
            };
            if !memory.read(offset, into) {
                return Err(DmaFault { iova: at });
            }
            done += count;
        }
        Ok(())
    }

    /// Copies memory out.
    pub(crate) fn write(&self, iova: u64, buffer: &[u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < buffer.len() {
            let at = iova.checked_add(done as u64).ok_or(DmaFault { iova })?;
            let (memory, offset, room) = self.locate(at, true)?;
            let count = room.min(buffer.len() - done);
            let Some(from) = buffer.get(done..done + count) else {
                break;
            };
            if !memory.write(offset, from) {
                return Err(DmaFault { iova: at });
            }
            done += count;
        }
        Ok(())
    }

    /// The mapping of an address, the offset in it, and how much of it follows.
    fn locate(&self, iova: u64, write: bool) -> Result<(&Memory, u64, usize), DmaFault> {
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
        Ok((&mapping.memory, offset, (mapping.size - offset) as usize))
    }
}

impl handshake::Memory for DmaMap {
    type Fault = DmaFault;

    fn write(&self, iova: u64, octets: &[u8]) -> Result<(), DmaFault> {
        Self::write(self, iova, octets)
    }

    fn store(&self, iova: u64, value: u64, order: Ordering) -> Result<(), DmaFault> {
        let (memory, offset, room) = self.locate(iova, true)?;
        if room < size_of::<u64>() || !memory.store(offset, value, order) {
            return Err(DmaFault { iova });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    use rustix::fs::MemfdFlags;

    use super::*;

    fn mapping(address: u64, size: u64) -> DmaMapping {
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("t", flags).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
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

    #[test]
    fn memory_that_its_owner_cuts_off_only_faults() {
        let fd = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x3000).unwrap();
        let mut dma = DmaMap::default();
        dma.set_enabled(true);
        let unsealed = DmaMapping {
            address: 0x8000,
            size: 0x2000,
            readable: true,
            writable: true,
            memory: Some((fd.try_clone().unwrap(), 0x1000)),
        };
        dma.map(unsealed).unwrap();
        dma.write(0x8010, &[1, 2, 3]).unwrap();
        handshake::Memory::store(&dma, 0x8018, 0x8000_0000_0000_0042, Ordering::Release).unwrap();
        let mut back = [0; 16];
        dma.read(0x8010, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 0, 0, 0, 0, 0, 0x42, 0, 0, 0, 0, 0, 0, 0x80]);
        assert_eq!(dma.read(0x9ff8, &mut back), Err(DmaFault { iova: 0xa000 }));
        rustix::fs::ftruncate(&fd, 0x1000).unwrap();
        assert_eq!(dma.read(0x8010, &mut back), Err(DmaFault { iova: 0x8010 }));
    }
    /// Pages of one file, one by one.
    fn pages(dma: &mut DmaMap, fd: &OwnedFd, from: u64, count: u64) -> Result<(), Errno> {
        (0..count).try_for_each(|page| {
            dma.map(DmaMapping {
                address: from + page * 0x1000,
                size: 0x1000,
                readable: true,
                writable: true,
                memory: Some((fd.try_clone().unwrap(), 0)),
            })
        })
    }

    #[test]
    fn many_mappings_are_unmapped_one_by_one_in_little_time() {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 0x1000).unwrap();
        let (mut dma, count) = (DmaMap::default(), MOST_MAPPINGS as u64);
        pages(&mut dma, &fd, 0x10_0000, count).unwrap();
        let started = Instant::now();
        for page in (0..count).rev() {
            dma.unmap(0x10_0000 + page * 0x1000, 0x1000).unwrap();
            // A look at all of them each time takes minutes.
            assert!(started.elapsed() < Duration::from_secs(30), "{page} left");
        }
        assert!(dma.mappings.is_empty());
    }

    #[test]
    fn one_function_can_not_map_away_what_the_others_and_the_process_need() {
        let (fd, mut greedy, mut modest) = (
            mapping(0, 0x1000).memory.unwrap().0,
            DmaMap::default(),
            DmaMap::default(),
        );
        let full = pages(&mut greedy, &fd, 0, MOST_MAPPINGS as u64);
        assert_eq!(full, Err(Errno::NOSPC));
        assert!(MAPPED.load(Ordering::Relaxed) <= MOST_MAPPED);
        pages(&mut modest, &fd, 0, 1000).unwrap();
        greedy.clear();
        pages(&mut modest, &fd, 0x1000_0000, 10_000).unwrap();
    }
}
