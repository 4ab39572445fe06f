// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A packet with room at both ends, whoever owns the memory.

use offload_api::frame::Frame;

/// A packet that can grow and shrink at both ends in place.
pub trait PacketBuffer {
    /// The packet; of one that lies in several pieces, the first, which holds its headers.
    fn packet(&mut self) -> &mut [u8];
    /// Octets of the packet.
    fn packet_len(&self) -> usize;
    /// Grows the packet in front; false where there is no room.
    fn grow_front(&mut self, count: usize) -> bool;
    /// Grows the packet behind and gives what it has grown by; nothing where there is no room.
    fn grow_back(&mut self, count: usize) -> Option<&mut [u8]>;
    /// Grows the packet at both ends at once and gives it whole; nothing where there is no room, or it
    /// lies in several pieces.
    fn grow(&mut self, front: usize, back: usize) -> Option<&mut [u8]>;
    /// The packet, unless it lies in several pieces.
    fn whole(&mut self) -> Option<&mut [u8]>;
    /// Whether [`grow`](Self::grow) would find the room.
    fn has_room(&self, front: usize, back: usize) -> bool;
    /// Takes octets off the front; false where there are fewer.
    fn shrink_front(&mut self, count: usize) -> bool;
    /// Shortens the packet to `len` octets, if it is longer.
    fn truncate(&mut self, len: usize);
    /// Takes octets off the front, and leaves `len` of the others if there are more; false where there
    /// are fewer to take off.
    fn keep(&mut self, front: usize, len: usize) -> bool {
        let fits = self.shrink_front(front);
        self.truncate(len);
        fits
    }
    /// Octets of the packet: where they lie, or copied into `room`, which has their number.
    fn part<'part>(&'part mut self, at: usize, room: &'part mut [u8]) -> Option<&'part [u8]>;
    /// Overwrites all its octets with zeros.
    fn zero(&mut self);
}

impl PacketBuffer for Frame {
    #[inline]
    fn packet(&mut self) -> &mut [u8] {
        self
    }

    #[inline]
    fn packet_len(&self) -> usize {
        Frame::packet_len(self)
    }

    #[inline]
    fn grow_front(&mut self, count: usize) -> bool {
        self.push_front(count).is_some()
    }

    #[inline]
    fn grow_back(&mut self, count: usize) -> Option<&mut [u8]> {
        self.push_back(count)
    }

    #[inline]
    fn grow(&mut self, front: usize, back: usize) -> Option<&mut [u8]> {
        Frame::grow(self, front, back)
    }

    #[inline]
    fn has_room(&self, front: usize, back: usize) -> bool {
        !self.is_chained() && front <= self.headroom() && back <= self.tailroom()
    }

    #[inline]
    fn whole(&mut self) -> Option<&mut [u8]> {
        (!self.is_chained()).then_some(self)
    }

    #[inline]
    fn shrink_front(&mut self, count: usize) -> bool {
        self.pull_front(count)
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        Frame::truncate(self, len);
    }

    #[inline]
    fn keep(&mut self, front: usize, len: usize) -> bool {
        Frame::keep(self, front, len)
    }

    #[inline]
    fn part<'part>(&'part mut self, at: usize, room: &'part mut [u8]) -> Option<&'part [u8]> {
        if self.is_chained() {
            return self.copy_out(at, room).then_some(room);
        }
        self.get(at..at.checked_add(room.len())?)
    }

    #[inline]
    fn zero(&mut self) {
        Frame::zero(self);
    }
}

/// A packet within a borrowed buffer.
#[derive(Debug)]
pub struct SlicePacket<'buffer> {
    buffer: &'buffer mut [u8],
    offset: usize,
    len: usize,
}

impl<'buffer> SlicePacket<'buffer> {
    /// The packet of `len` octets at `offset`, if it lies within the buffer.
    pub fn new(buffer: &'buffer mut [u8], offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (end <= buffer.len()).then_some(Self {
            buffer,
            offset,
            len,
        })
    }

    /// Where the packet starts, and its length.
    pub fn extent(&self) -> (usize, usize) {
        (self.offset, self.len)
    }
}

impl PacketBuffer for SlicePacket<'_> {
    #[inline]
    fn packet(&mut self) -> &mut [u8] {
        // `new` and every method keep the extent within the buffer.
        self.buffer
            .get_mut(self.offset..self.offset + self.len)
            .unwrap_or_default()
    }

    #[inline]
    fn packet_len(&self) -> usize {
        self.len
    }

    #[inline]
    fn grow_front(&mut self, count: usize) -> bool {
        let fits = count <= self.offset;
        if fits {
            self.offset -= count;
            self.len += count;
        }
        fits
    }

    #[inline]
    fn grow_back(&mut self, count: usize) -> Option<&mut [u8]> {
        if count > self.buffer.len() - self.offset - self.len {
            return None;
        }
        let end = self.offset + self.len;
        self.len += count;
        self.buffer.get_mut(end..end + count)
    }

    #[inline]
    fn has_room(&self, front: usize, back: usize) -> bool {
        front <= self.offset && back <= self.buffer.len() - self.offset - self.len
    }

    #[inline]
    fn grow(&mut self, front: usize, back: usize) -> Option<&mut [u8]> {
        self.has_room(front, back).then_some(())?;
        self.offset -= front;
        self.len += front + back;
        Some(self.packet())
    }

    #[inline]
    fn whole(&mut self) -> Option<&mut [u8]> {
        Some(self.packet())
    }

    #[inline]
    fn shrink_front(&mut self, count: usize) -> bool {
        let fits = count <= self.len;
        if fits {
            self.offset += count;
            self.len -= count;
        }
        fits
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[inline]
    fn part<'part>(&'part mut self, at: usize, room: &'part mut [u8]) -> Option<&'part [u8]> {
        let end = at.checked_add(room.len())?;
        self.packet().get(at..end)
    }

    #[inline]
    fn zero(&mut self) {
        self.packet().fill(0);
    }
}
