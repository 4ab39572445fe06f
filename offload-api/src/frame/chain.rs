// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that lie in several frames.
//!
//! The head is the [`Frame`] that is handed around; what follows is kept in a table of the pool, one
//! entry a slot, so that chaining takes no memory and a single frame is no larger for it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Frame, FramePool, NO_SLOT, Pair};

/// A slot that is not the head of its chain. Only the owner of the chain looks at it, so no order is
/// needed beyond the one in which a frame goes from thread to thread.
pub(super) struct Link {
    /// Offset in the upper half, length in the lower.
    extent: AtomicU64,
    next: AtomicU32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            extent: AtomicU64::new(0),
            next: AtomicU32::new(NO_SLOT),
        }
    }
}

impl Link {
    fn extent(&self) -> (u32, u32) {
        let extent = self.extent.load(Ordering::Relaxed);
        ((extent >> 32) as u32, extent as u32)
    }

    fn set_extent(&self, offset: u32, len: u32) {
        let extent = u64::from(offset) << 32 | u64::from(len);
        self.extent.store(extent, Ordering::Relaxed);
    }

    fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }

    fn set_next(&self, next: u32) {
        self.next.store(next, Ordering::Relaxed);
    }
}

/// One frame of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) index: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    next: u32,
}

/// A part of the chain as a device sees it: see [`Frame::pieces`].
#[derive(Clone, Copy)]
struct Span {
    segment: Segment,
    /// Where it starts in the slot.
    base: u32,
    len: u32,
}

impl FramePool {
    /// A packet in as many frames as it needs, with headroom in front of the first and
    /// [`TAILROOM`](super::TAILROOM) behind the last; nothing where too few are free.
    pub fn hold(&self, packet: &[u8]) -> Option<Frame> {
        let mut head = self.alloc()?;
        if packet.len() + super::TAILROOM <= head.tailroom() {
            return head.fill(packet).then_some(head);
        }
        let room = head.tailroom().checked_sub(super::TAILROOM)?;
        let (first, mut rest) = packet.split_at(room.min(packet.len()));
        if !head.fill(first) {
            return None;
        }
        while !rest.is_empty() {
            let mut next = self.alloc()?;
            next.set_extent(0, 0);
            let room = next.tailroom().checked_sub(super::TAILROOM)?;
            let (part, behind) = rest.split_at(room.min(rest.len()));
            next.push_back(part.len())?.copy_from_slice(part);
            head.append(next).ok()?;
            rest = behind;
        }
        Some(head)
    }
}

impl Frame {
    /// Puts a frame (or a chain) behind this one: the packet goes on there. Its octets stay where
    /// they are.
    ///
    /// # Errors
    /// The frame, where it is of another pool.
    pub fn append(&mut self, mut rest: Self) -> Result<(), Self> {
        if rest.pool.id() != self.pool.id() {
            return Err(rest);
        }
        let last = self.last();
        // Its slots are this chain's from here on.
        let first = rest.take_slots();
        if let Some(link) = self.pool.inner.links.get(first.index as usize) {
            link.set_extent(first.offset, first.len);
            link.set_next(first.next);
        }
        self.set_next_of(last.index, first.index);
        Ok(())
    }

    /// Takes off what follows the first segment.
    pub fn detach(&mut self) -> Option<Self> {
        let next = self.replace_next(NO_SLOT);
        let segment = self.segment_at(next)?;
        Some(Self {
            pool: self.pool.clone(),
            extent: Pair::new(segment.offset, segment.len),
            slots: Pair::new(segment.index, segment.next),
        })
    }

    /// Whether the packet lies in more than one frame.
    #[inline]
    pub fn is_chained(&self) -> bool {
        self.next() != NO_SLOT
    }

    /// Frames that the packet lies in.
    #[inline]
    pub fn segment_count(&self) -> usize {
        if self.is_chained() {
            self.walk().count()
        } else {
            1
        }
    }

    /// Octets of the whole packet.
    #[inline]
    pub fn packet_len(&self) -> usize {
        if self.is_chained() {
            self.walk().map(|segment| segment.len as usize).sum()
        } else {
            self.length() as usize
        }
    }

    /// The packet's octets, frame by frame.
    pub fn segments(&self) -> Segments<'_> {
        Segments { walk: self.walk() }
    }

    /// Appends the whole packet to a buffer.
    pub fn gather(&self, into: &mut Vec<u8>) {
        self.segments()
            .for_each(|part| into.extend_from_slice(part));
    }

    /// Whether the packet is just these octets.
    pub fn holds(&self, mut octets: &[u8]) -> bool {
        for part in self.segments() {
            match octets.strip_prefix(part) {
                Some(rest) => octets = rest,
                None => return false,
            }
        }
        octets.is_empty()
    }

    /// One octet of the packet.
    pub fn octet_mut(&mut self, mut at: usize) -> Option<&mut u8> {
        let find = |segment: &Segment| match at.checked_sub(segment.len as usize) {
            Some(behind) => {
                at = behind;
                false
            }
            None => true,
        };
        let segment = self.walk().find(find)?;
        self.octets_mut(segment.index, segment.offset, segment.len)
            .get_mut(at)
    }

    /// Copies octets of the packet from an offset; false where there are fewer.
    #[must_use]
    pub fn copy_out(&self, mut at: usize, mut into: &mut [u8]) -> bool {
        for part in self.segments() {
            let Some(part) = part.get(at..) else {
                at -= part.len();
                continue;
            };
            at = 0;
            let (now, later) = into.split_at_mut(part.len().min(into.len()));
            now.copy_from_slice(&part[..now.len()]);
            into = later;
        }
        into.is_empty()
    }

    /// Moves octets forward from segment to segment, until the first has so many (or all) of the
    /// packet's: whoever reads headers reads them there. False where its slot has no room for them.
    pub fn pull_up(&mut self, count: usize) -> bool {
        /// Octets that go at once.
        const STEP: usize = 64;
        let size = self.pool.inner.config.slot_size;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut next = self.next();
        while let Some(segment) = self.segment_at(next)
            && self.length() < count
        {
            if segment.len == 0 {
                next = segment.next;
                continue;
            }
            let (offset, len) = (self.offset(), self.length());
            let moved = (count - len).min(segment.len).min(STEP as u32);
            let mut octets = [0; STEP];
            let (Some(octets), true) = (
                octets.get_mut(..moved as usize),
                u64::from(offset) + u64::from(len) + u64::from(moved) <= u64::from(size),
            ) else {
                return false;
            };
            octets.copy_from_slice(self.octets(segment.index, segment.offset, moved));
            self.set_extent_of(segment.index, segment.offset + moved, segment.len - moved);
            self.set_extent(offset, len + moved);
            self.octets_mut(self.index(), offset + len, moved)
                .copy_from_slice(octets);
        }
        true
    }

    /// Overwrites the packet's octets with zeros.
    pub fn zero(&mut self) {
        let mut at = Some(self.head());
        while let Some(segment) = at {
            self.octets_mut(segment.index, segment.offset, segment.len)
                .fill(0);
            at = self.segment_at(segment.next);
        }
    }

    /// The memory of the packet and of the room at both its ends, as offsets in the pool's memory
    /// and lengths, in order: what a device is told. Together they are one buffer, in which the
    /// packet starts at [`headroom`](Self::headroom). The first is the first slot up to the end of
    /// its octets, the last goes on to the end of its slot, those between hold octets only.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces {
            spans: self.spans(),
        }
    }

    /// Writes a buffer back that [`pieces`](Self::pieces) describe, of which `len` octets from
    /// `offset` are the packet now; false where they do not fit.
    #[must_use]
    pub fn put_back(&mut self, buffer: &[u8], offset: usize, len: usize) -> bool {
        let extent = u32::try_from(offset).ok().zip(u32::try_from(len).ok());
        let packet = offset
            .checked_add(len)
            .and_then(|end| buffer.get(offset..end));
        let (Some((offset, len)), Some(mut packet)) = (extent, packet) else {
            return false;
        };
        if !self.place(offset, len) {
            return false;
        }
        let mut at = Some(self.head());
        while let Some(segment) = at {
            let Some((part, rest)) = packet.split_at_checked(segment.len as usize) else {
                return false;
            };
            self.octets_mut(segment.index, segment.offset, segment.len)
                .copy_from_slice(part);
            packet = rest;
            at = self.segment_at(segment.next);
        }
        true
    }

    /// [`place`](Self::place), of a chain.
    #[cold]
    pub(super) fn place_pieces(&mut self, offset: u32, len: u32) -> bool {
        let whole: u64 = self.spans().map(|span| u64::from(span.len)).sum();
        let fits = u64::from(offset) + u64::from(len) <= whole;
        if fits {
            self.cut(offset, len, false);
        }
        fits
    }

    /// Keeps `len` octets from `offset`: of the packet, or of the pieces.
    pub(super) fn cut(&mut self, offset: u32, len: u32, of_packet: bool) {
        let (first, end) = (u64::from(offset), u64::from(offset) + u64::from(len));
        let mut position = 0;
        let mut at = Some(self.head());
        while let Some(segment) = at {
            at = self.segment_at(segment.next);
            let (base, room) = if of_packet {
                (segment.offset, segment.len)
            } else {
                let span = self.span(segment);
                (span.base, span.len)
            };
            let start = first.clamp(position, position + u64::from(room)) - position;
            let stop = end.clamp(position, position + u64::from(room)) - position;
            position += u64::from(room);
            let (start, stop) = (start as u32, stop as u32);
            self.set_extent_of(segment.index, base + start, stop.saturating_sub(start));
        }
    }

    /// Grows the last segment and gives what it has grown by; the caller has looked for room.
    pub(super) fn grow_last(&mut self, count: u32) -> Option<&mut [u8]> {
        let last = self.last();
        self.set_extent_of(last.index, last.offset, last.len + count);
        Some(self.octets_mut(last.index, last.offset + last.len, count))
    }

    /// Everything behind the first segment goes home.
    #[cold]
    pub(super) fn drop_rest(&mut self) {
        let mut next = self.replace_next(NO_SLOT);
        while let Some(segment) = self.segment_at(next) {
            next = segment.next;
            self.pool.inner.free.bring(segment.index);
        }
    }

    /// Leaves a frame without a slot, which takes nothing home.
    pub(super) fn take_slots(&mut self) -> Segment {
        let head = self.head();
        self.slots = Pair::new(NO_SLOT, NO_SLOT);
        head
    }

    /// The last segment, which is the first of a frame that is alone.
    #[inline]
    pub(super) fn last(&self) -> Segment {
        let mut last = self.head();
        while let Some(segment) = self.segment_at(last.next) {
            last = segment;
        }
        last
    }

    #[inline]
    fn head(&self) -> Segment {
        Segment {
            index: self.index(),
            offset: self.offset(),
            len: self.length(),
            next: self.next(),
        }
    }

    #[inline]
    fn segment_at(&self, index: u32) -> Option<Segment> {
        let link = self.pool.inner.links.get(index as usize)?;
        let (offset, len) = link.extent();
        Some(Segment {
            index,
            offset,
            len,
            next: link.next(),
        })
    }

    fn walk(&self) -> Walk<'_> {
        Walk {
            frame: self,
            next: Some(self.head()),
        }
    }

    fn span(&self, segment: Segment) -> Span {
        let size = self.pool.inner.config.slot_size;
        let base = if segment.index == self.index() {
            0
        } else {
            segment.offset
        };
        let end = if segment.next == NO_SLOT {
            size
        } else {
            segment.offset + segment.len
        };
        Span {
            segment,
            base,
            len: end - base,
        }
    }

    fn spans(&self) -> Spans<'_> {
        Spans { walk: self.walk() }
    }

    fn set_extent_of(&mut self, index: u32, offset: u32, len: u32) {
        if index == self.index() {
            self.set_extent(offset, len);
        } else if let Some(link) = self.pool.inner.links.get(index as usize) {
            link.set_extent(offset, len);
        }
    }

    fn set_next_of(&mut self, index: u32, next: u32) {
        if index == self.index() {
            self.replace_next(next);
        } else if let Some(link) = self.pool.inner.links.get(index as usize) {
            link.set_next(next);
        }
    }
}

#[derive(Debug)]
struct Walk<'frame> {
    frame: &'frame Frame,
    next: Option<Segment>,
}

impl Iterator for Walk<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let segment = self.next?;
        self.next = self.frame.segment_at(segment.next);
        Some(segment)
    }
}

#[derive(Debug)]
struct Spans<'frame> {
    walk: Walk<'frame>,
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let segment = self.walk.next()?;
        Some(self.walk.frame.span(segment))
    }
}

/// The octets of a packet, frame by frame.
#[derive(Debug)]
pub struct Segments<'frame> {
    walk: Walk<'frame>,
}

impl<'frame> Iterator for Segments<'frame> {
    type Item = &'frame [u8];

    fn next(&mut self) -> Option<&'frame [u8]> {
        let segment = self.walk.next()?;
        let frame: &'frame Frame = self.walk.frame;
        Some(frame.octets(segment.index, segment.offset, segment.len))
    }
}

/// Memory of a packet: see [`Frame::pieces`].
#[derive(Debug)]
pub struct Pieces<'frame> {
    spans: Spans<'frame>,
}

impl Iterator for Pieces<'_> {
    type Item = (u64, u32);

    fn next(&mut self) -> Option<(u64, u32)> {
        // One that holds nothing is no place in the buffer.
        let span = self.spans.find(|span| span.len != 0)?;
        let frame = self.spans.walk.frame;
        let size = u64::from(frame.pool.inner.config.slot_size);
        let start = u64::from(span.segment.index) * size + u64::from(span.base);
        Some((start, span.len))
    }
}
