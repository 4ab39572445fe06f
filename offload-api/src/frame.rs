// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames: owned slots of a pool of memory that devices can reach.
//!
//! The pool is one sealed memfd, mapped here, registered with each accelerator that shall work on
//! its frames. A [`Frame`] is a byte slice while this process owns it; handed to a device it becomes
//! a [`DeviceFrame`], which has no bytes, and it comes back only by [`DeviceFrame::complete`] or
//! [`DeviceFrame::release`]. A device frame that is dropped is quarantined: its slot is never used
//! again, since the device might still write to it.
//!
//! A packet that is larger than a slot lies in a [chain](Frame::append) of frames.
#![expect(unsafe_code, reason = "slices of a shared mapping, one owner a slot")]

use std::fmt;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, Mode, SealFlags};

use crate::error::PoolError;

mod chain;
mod free;

use chain::Link;
pub use chain::{Pieces, Segments};
use free::Free;

/// Octets that sealing may need in front of a packet: outer IPv6, UDP, ESP, IV, rounded up.
pub const HEADROOM: usize = 128;
/// Octets that sealing may need behind a packet: padding, trailer, ICV, rounded up.
pub const TAILROOM: usize = 64;

/// The index of no slot.
const NO_SLOT: u32 = u32::MAX;

/// A pool of frames. Cloning shares it.
#[derive(Clone)]
pub struct FramePool {
    inner: Arc<Inner>,
}

struct Inner {
    map: MmapRaw,
    fd: OwnedFd,
    free: Free,
    /// What follows the head of a chain, by slot.
    links: Box<[Link]>,
    config: FramePoolConfig,
    quarantined: AtomicU32,
    id: u32,
}

/// Size of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePoolConfig {
    /// Frames.
    pub slots: u32,
    /// Octets of a frame with head- and tailroom; a multiple of 64.
    pub slot_size: u32,
    /// Where the packet of a new frame starts.
    pub headroom: u32,
    /// Ask for 2 MiB pages; ordinary ones are used where there are none.
    pub huge_pages: bool,
}

impl Default for FramePoolConfig {
    fn default() -> Self {
        Self {
            slots: 4096,
            slot_size: 2048,
            headroom: HEADROOM as u32,
            huge_pages: false,
        }
    }
}

impl FramePool {
    /// Makes a pool.
    ///
    /// # Errors
    /// Sizes that make no sense, or no memory.
    pub fn new(config: FramePoolConfig) -> Result<Self, PoolError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        let FramePoolConfig {
            slots,
            slot_size,
            headroom,
            ..
        } = config;
        let room = u64::from(headroom) + TAILROOM as u64;
        if slots == 0 || slot_size % 64 != 0 || u64::from(slot_size) <= room {
            return Err(PoolError::Geometry {
                slots,
                slot_size,
                headroom,
            });
        }
        const HUGE_PAGE: u64 = 2 << 20;
        let len = (u64::from(slots) * u64::from(slot_size)).next_multiple_of(HUGE_PAGE);
        let fd = if config.huge_pages {
            memfd(len, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
                .or_else(|_| memfd(len, MemfdFlags::empty()))?
        } else {
            memfd(len, MemfdFlags::empty())?
        };
        let file = File::from(fd);
        let map = MmapOptions::new().len(len as usize).map_raw(&file)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let fd = OwnedFd::from(file);
        let inner = Inner {
            map,
            fd,
            free: Free::all(slots),
            links: (0..slots).map(|_| Link::default()).collect(),
            config,
            quarantined: AtomicU32::new(0),
            id,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// An empty frame with its headroom in front, unless all are out.
    #[inline]
    pub fn alloc(&self) -> Option<Frame> {
        let index = self.inner.free.take()?;
        Some(Frame {
            pool: self.clone(),
            extent: Pair::new(self.inner.config.headroom, 0),
            slots: Pair::new(index, NO_SLOT),
        })
    }

    /// Frames that can be allocated now.
    pub fn available(&self) -> usize {
        self.inner.free.len()
    }

    /// Frames lost to devices that may still write them.
    pub fn quarantined(&self) -> u32 {
        self.inner.quarantined.load(Ordering::Relaxed)
    }

    /// Size of the pool.
    pub fn config(&self) -> FramePoolConfig {
        self.inner.config
    }

    /// A number that tells pools of one process apart.
    #[inline]
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// The pool's memory, for mapping it into a device.
    pub fn memory(&self) -> PoolMemory<'_> {
        PoolMemory {
            fd: self.inner.fd.as_fd(),
            address: self.inner.map.as_mut_ptr().addr(),
            len: self.inner.map.len(),
        }
    }
}

fn memfd(len: u64, flags: MemfdFlags) -> std::io::Result<OwnedFd> {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("esplanade-frames", flags)?;
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&fd, len)?;
    // Hugepages are reserved here, so that a shortage is an error and not a later SIGBUS.
    rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, len)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

impl fmt::Debug for FramePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool")
            .field("id", &self.inner.id)
            .field("config", &self.inner.config)
            .field("available", &self.available())
            .finish()
    }
}

/// A pool's memory as drivers map it.
#[derive(Clone, Copy, Debug)]
pub struct PoolMemory<'pool> {
    /// The memfd (vfio-user passes it on).
    pub fd: BorrowedFd<'pool>,
    /// Where it is mapped in this process (kernel VFIO pins it), page-aligned.
    pub address: usize,
    /// Octets, a multiple of 2 MiB.
    pub len: usize,
}

/// A packet in a slot of a pool, owned by the CPU. Goes back to its pool when dropped.
///
/// As a byte slice it is the packet, or the first segment of a packet in a
/// [chain](Self::append); what changes it in front changes the first segment, what changes it behind
/// the last.
pub struct Frame {
    pool: FramePool,
    /// Offset and length of the packet within the slot.
    extent: Pair,
    /// The slot, and that of the next segment.
    slots: Pair,
}

/// Two numbers in one word: frames are moved often, and a load that needs two earlier stores waits for
/// both.
#[derive(Clone, Copy)]
struct Pair(u64);

impl Pair {
    #[inline]
    fn new(first: u32, second: u32) -> Self {
        Self(u64::from(second) << 32 | u64::from(first))
    }

    #[inline]
    fn first(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    fn second(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        if self.is_chained() {
            self.drop_rest();
        }
        if self.index() != NO_SLOT {
            self.pool.inner.free.bring(self.index());
        }
    }
}

impl Frame {
    /// Octets free in front of the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.offset() as usize
    }

    /// Octets free behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        let last = self.last();
        (self.pool.inner.config.slot_size - last.offset - last.len) as usize
    }

    /// Grows the packet by `count` octets in front and returns them, or nothing where there is no
    /// room.
    #[inline]
    #[must_use]
    pub fn push_front(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.headroom() {
            return None;
        }
        let (offset, len) = (self.offset(), self.length());
        self.set_extent(offset - count as u32, len + count as u32);
        self.get_mut(..count)
    }

    /// Grows the packet by `count` octets behind and returns them, with whatever they held.
    #[inline]
    #[must_use]
    pub fn push_back(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.tailroom() {
            return None;
        }
        if self.is_chained() {
            return self.grow_last(count as u32);
        }
        let before = self.length() as usize;
        self.set_extent(self.offset(), self.length() + count as u32);
        self.get_mut(before..)
    }

    /// As [`push_front`](Self::push_front) and [`push_back`](Self::push_back) at once, of a packet
    /// that lies in one frame; gives all of it.
    #[inline]
    #[must_use]
    pub fn grow(&mut self, front: usize, back: usize) -> Option<&mut [u8]> {
        if self.is_chained() || front > self.headroom() || back > self.tailroom() {
            return None;
        }
        let (offset, len) = (self.offset(), self.length());
        self.set_extent(offset - front as u32, len + (front + back) as u32);
        Some(self)
    }

    /// Takes `count` octets off the front; false where there are fewer (in the first segment).
    #[inline]
    #[must_use]
    pub fn pull_front(&mut self, count: usize) -> bool {
        if count > self.length() as usize {
            return false;
        }
        let (offset, len) = (self.offset(), self.length());
        self.set_extent(offset + count as u32, len - count as u32);
        true
    }

    /// As [`pull_front`](Self::pull_front) and [`truncate`](Self::truncate) at once.
    #[inline]
    #[must_use]
    pub fn keep(&mut self, front: usize, len: usize) -> bool {
        if self.is_chained() {
            let fits = self.pull_front(front);
            self.truncate(len);
            return fits;
        }
        let Some(left) = (self.length() as usize).checked_sub(front) else {
            return false;
        };
        self.set_extent(self.offset() + front as u32, left.min(len) as u32);
        true
    }

    /// Shortens the packet to `len` octets, if it is longer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        let len = len.try_into().unwrap_or(u32::MAX);
        if self.is_chained() {
            return self.cut(0, len, true);
        }
        self.set_extent(self.offset(), self.length().min(len));
    }

    /// Empties the frame and restores the pool's headroom; the rest of a chain goes home.
    #[inline]
    pub fn clear(&mut self) {
        if self.is_chained() {
            self.drop_rest();
        }
        self.set_extent(self.pool.inner.config.headroom, 0);
    }

    /// Replaces the packet; false where it does not fit.
    #[inline]
    #[must_use]
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        self.clear();
        match self.push_back(packet.len()) {
            Some(room) => {
                room.copy_from_slice(packet);
                true
            }
            None => false,
        }
    }

    /// The pool it belongs to.
    #[inline]
    pub fn pool(&self) -> &FramePool {
        &self.pool
    }

    /// Where the whole slot starts in the pool's memory, and its size: what a device is told
    /// together with [`headroom`](Self::headroom) and the length.
    #[inline]
    pub fn extent(&self) -> (u64, u32) {
        let size = self.pool.inner.config.slot_size;
        (u64::from(self.index()) * u64::from(size), size)
    }

    /// Makes `len` octets from `offset` of the slot, or of a chain's [pieces](Self::pieces), the
    /// packet; false where they do not lie within.
    #[inline]
    #[must_use]
    pub fn place(&mut self, offset: u32, len: u32) -> bool {
        if self.is_chained() {
            return self.place_pieces(offset, len);
        }
        let size = self.pool.inner.config.slot_size;
        let fits = offset.checked_add(len).is_some_and(|end| end <= size);
        if fits {
            self.set_extent(offset, len);
        }
        fits
    }

    /// Gives the frame to a device.
    #[inline]
    pub fn into_device(self) -> DeviceFrame {
        let frame = ManuallyDrop::new(self);
        DeviceFrame { frame }
    }

    #[inline]
    fn offset(&self) -> u32 {
        self.extent.first()
    }

    /// Of the first segment, as the slice's length is.
    #[inline]
    fn length(&self) -> u32 {
        self.extent.second()
    }

    #[inline]
    fn set_extent(&mut self, offset: u32, len: u32) {
        self.extent = Pair::new(offset, len);
    }

    #[inline]
    fn index(&self) -> u32 {
        self.slots.first()
    }

    #[inline]
    fn next(&self) -> u32 {
        self.slots.second()
    }

    /// Sets the next segment's slot and gives the one before.
    #[inline]
    fn replace_next(&mut self, next: u32) -> u32 {
        let before = self.next();
        self.slots = Pair::new(self.index(), next);
        before
    }

    /// Where a packet in a slot of this chain starts.
    #[inline]
    fn start(&self, index: u32, offset: u32) -> *mut u8 {
        let inner = &*self.pool.inner;
        let slot = index as usize * inner.config.slot_size as usize;
        // SAFETY: every slot lies within the mapping by construction of the pool, and
        // `offset + len <= slot_size` is kept by every method, for the head as for its links.
        unsafe { inner.map.as_mut_ptr().add(slot + offset as usize) }
    }

    /// The octets of a segment of this chain.
    #[inline]
    fn octets(&self, index: u32, offset: u32, len: u32) -> &[u8] {
        // SAFETY: (1) within the mapping, see `start`; the mapping can't shrink (sealed) and lives
        // as long as the pool, which the frame holds; (2) each slot index has one owner, be it as
        // a head or as one link of one chain, so no other slice of it exists in this process; (3) a
        // device may write a slot only between `into_device` and `complete`/`release`, when no
        // `Frame` of it exists.
        unsafe { std::slice::from_raw_parts(self.start(index, offset), len as usize) }
    }

    /// As [`octets`](Self::octets), to change them.
    #[inline]
    fn octets_mut(&mut self, index: u32, offset: u32, len: u32) -> &mut [u8] {
        // SAFETY: as for `octets`, and `&mut self` makes this slice the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start(index, offset), len as usize) }
    }
}

impl Deref for Frame {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.octets(self.index(), self.offset(), self.length())
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.octets_mut(self.index(), self.offset(), self.length())
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Frame(slot {}, {}+{}{})",
            self.index(),
            self.offset(),
            self.length(),
            if self.is_chained() { ", …" } else { "" }
        )
    }
}

/// A frame that a device owns. Dropping it quarantines the slot.
#[derive(Debug)]
pub struct DeviceFrame {
    frame: ManuallyDrop<Frame>,
}

impl DeviceFrame {
    /// Takes the frame back with the extent that the device's completion names: from the start of
    /// the slot, or of the [pieces](Frame::pieces) that a chain makes.
    ///
    /// # Errors
    /// The frame, untouched, when the extent does not lie within the slot, or the pieces.
    #[inline]
    pub fn complete(self, offset: u32, len: u32) -> Result<Frame, Self> {
        let mut frame = self.reclaim();
        if frame.place(offset, len) {
            Ok(frame)
        } else {
            Err(frame.into_device())
        }
    }

    /// Takes the frame back as it was given, when the device provably can't write it any more: it
    /// completed the operation, its queue is stopped, the memory is unmapped, or its process has
    /// ended.
    #[inline]
    pub fn reclaim(self) -> Frame {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used nor dropped after this.
        unsafe { ManuallyDrop::take(&mut this.frame) }
    }

    /// As [`reclaim`](Self::reclaim), emptied.
    #[inline]
    pub fn release(self) -> Frame {
        let mut frame = self.reclaim();
        frame.clear();
        frame
    }
}

impl Drop for DeviceFrame {
    fn drop(&mut self) {
        // SAFETY: `self` is being dropped, and its field is not looked at again.
        let mut frame = unsafe { ManuallyDrop::take(&mut self.frame) };
        let lost = frame.segment_count() as u32;
        let quarantined = &frame.pool.inner.quarantined;
        quarantined.fetch_add(lost, Ordering::Relaxed);
        // They must not go home; the pool's own count is the leak's record.
        frame.take_slots();
    }
}

#[cfg(test)]
mod tests;
