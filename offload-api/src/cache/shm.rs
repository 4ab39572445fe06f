// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sealed memory file and its mappings as atomic words.
#![expect(unsafe_code, reason = "atomic words over a shared mapping")]

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom};
use rustix::io::Errno;

use super::error::OpenError;
use super::layout::{Geometry, HEADER, LAYOUT_HASH, LINE, MAGIC, VERSION, digest};

/// Octets from which huge pages are asked for.
const HUGE_FROM: usize = 64 << 20;

/// A sealed memory file whose header has been checked.
#[derive(Debug)]
pub(super) struct File {
    fd: OwnedFd,
    geometry: Geometry,
}

impl File {
    pub(super) fn create(name: &str, geometry: Geometry) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags)?;
        rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::ftruncate(&fd, size(geometry))?;
        rustix::fs::fcntl_add_seals(&fd, seals())?;
        let file = Self { fd, geometry };
        let map = file.map_writable()?;
        for (word, value) in map.words().iter().zip(geometry.header()) {
            word.store(value, Ordering::Release);
        }
        Ok(file)
    }

    pub(super) fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        if !rustix::fs::fcntl_get_seals(&fd)
            .map_err(io::Error::from)?
            .contains(seals())
        {
            return Err(OpenError::NotSealed);
        }
        let found = rustix::fs::fstat(&fd).map_err(io::Error::from)?.st_size as u64;
        let expected = (LINE * size_of::<u64>()) as u64;
        if found < expected {
            return Err(OpenError::Size { found, expected });
        }
        let map = Map::new(&fd, LINE, false)?;
        let geometry = check_header(map.words())?;
        let expected = size(geometry);
        if found != expected {
            return Err(OpenError::Size { found, expected });
        }
        Ok(Self { fd, geometry })
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The words that take memory: the others are zeros, and looking at them would give them some.
    /// All where the system can't tell.
    pub(super) fn used(&self) -> Vec<Range<usize>> {
        let all = 0..self.geometry.words();
        let mut used = Vec::new();
        let mut offset = 0;
        loop {
            let start = match rustix::fs::seek(&self.fd, SeekFrom::Data(offset)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return used,
                Err(_) => return vec![all],
            };
            let Ok(end) = rustix::fs::seek(&self.fd, SeekFrom::Hole(start)) else {
                return vec![all];
            };
            if end <= offset {
                return vec![all];
            }
            let word = |offset: u64| offset as usize / size_of::<u64>();
            used.push(word(start)..word(end));
            offset = end;
        }
    }

    /// Makes words zeros and gives their memory back.
    pub(super) fn release(&self, words: &Range<usize>) -> io::Result<()> {
        let octets = |words: usize| (words * size_of::<u64>()) as u64;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, length) = (octets(words.start), octets(words.len()));
        Ok(rustix::fs::fallocate(&self.fd, flags, offset, length)?)
    }

    pub(super) fn map_writable(&self) -> io::Result<Map> {
        Map::new(&self.fd, self.geometry.words(), true)
    }

    pub(super) fn map_read_only(&self) -> io::Result<Map> {
        Map::new(&self.fd, self.geometry.words(), false)
    }

    /// An open file of its own, whose lock ends with it: the descriptor that is handed to others
    /// shares none.
    pub(super) fn lock(&self) -> io::Result<Option<Lock>> {
        let fd = self.reopen(OFlags::RDWR)?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _fd: fd })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn reopen_read_only(&self) -> io::Result<OwnedFd> {
        self.reopen(OFlags::RDONLY)
    }

    fn reopen(&self, access: OFlags) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(rustix::fs::open(
            path,
            access | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The writer's lock; the kernel takes it back when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    _fd: OwnedFd,
}

fn seals() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
}

fn size(geometry: Geometry) -> u64 {
    (geometry.words() * size_of::<u64>()) as u64
}

fn check_header(words: &[AtomicU64]) -> Result<Geometry, OpenError> {
    let mut header = [0; LINE];
    for (value, word) in header.iter_mut().zip(words.get(HEADER).unwrap_or_default()) {
        *value = word.load(Ordering::Acquire);
    }
    let [magic, version, layout, capacity, _, seed, _, checksum] = header;
    if magic != MAGIC {
        return Err(OpenError::Magic {
            found: magic,
            expected: MAGIC,
        });
    }
    let expected = digest(&header[..LINE - 1]);
    // A fuzzer can't make checksums.
    if checksum != expected && !cfg!(fuzzing) {
        return Err(OpenError::Checksum {
            found: checksum,
            expected,
        });
    }
    if version != VERSION || layout != LAYOUT_HASH {
        return Err(OpenError::Version {
            found: version,
            expected: VERSION,
            found_layout: layout,
            expected_layout: LAYOUT_HASH,
        });
    }
    u32::try_from(capacity)
        .ok()
        .and_then(|capacity| Geometry::new(capacity, seed))
        .filter(|geometry| geometry.header()[..LINE - 1] == header[..LINE - 1])
        .ok_or(OpenError::Checksum {
            found: checksum,
            expected,
        })
}

/// A mapping as words.
#[derive(Debug)]
pub(super) struct Map {
    map: MmapRaw,
    words: usize,
}

impl Map {
    fn new(fd: &OwnedFd, words: usize, writable: bool) -> io::Result<Self> {
        let file = fs::File::from(fd.try_clone()?);
        let mut options = MmapOptions::new();
        options.len(words * size_of::<u64>());
        let map = if writable {
            let map = options.map_raw(&file)?;
            // Look-ups go all over a large table. A system that has huge pages of shared memory for
            // whoever asks (shmem_enabled = advise) gives them; no other is the worse for it.
            if map.len() >= HUGE_FROM {
                let _ = map.advise(Advice::HugePage);
            }
            map
        } else {
            options.map_raw_read_only(&file)?
        };
        Ok(Self { map, words })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: (1) the mapping starts at a page, so words are aligned, and it is `words` words
        // long; (2) the file is as long as the geometry says, checked at open, and sealed against
        // shrinking, so no access faults; (3) other processes may write at any time, which atomic
        // words allow, and every bit pattern is a word; (4) of a read-only mapping words are only
        // loaded, which is a plain load for 64 bits on the 64-bit targets; (5) the slice borrows
        // `self`, which owns the mapping.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.words) }
    }
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the SA cache needs 64-bit words that are loaded and stored whole");
