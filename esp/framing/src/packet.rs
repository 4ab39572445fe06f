// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A packet with room at both ends, whoever owns the memory.

use offload_api::frame::Frame;

/// A packet that can grow and shrink at both ends in place.
pub trait PacketBuffer {
    /// The packet.
    fn packet(&mut self) -> &mut [u8];
    /// Grows the packet in front; false where there is no room.
    fn grow_front(&mut self, count: usize) -> bool;
    /// Grows the packet behind; false where there is no room.
    fn grow_back(&mut self, count: usize) -> bool;
    /// Takes octets off the front; false where there are fewer.
    fn shrink_front(&mut self, count: usize) -> bool;
    /// Shortens the packet to `len` octets, if it is longer.
    fn truncate(&mut self, len: usize);
}

impl PacketBuffer for Frame {
    fn packet(&mut self) -> &mut [u8] {
        self
    }

    fn grow_front(&mut self, count: usize) -> bool {
        self.push_front(count).is_some()
    }

    fn grow_back(&mut self, count: usize) -> bool {
        self.push_back(count).is_some()
    }

    fn shrink_front(&mut self, count: usize) -> bool {
        self.pull_front(count)
    }

    fn truncate(&mut self, len: usize) {
        Frame::truncate(self, len);
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
    fn packet(&mut self) -> &mut [u8] {
        // `new` and every method keep the extent within the buffer.
        self.buffer
            .get_mut(self.offset..self.offset + self.len)
            .unwrap_or_default()
    }

    fn grow_front(&mut self, count: usize) -> bool {
        let fits = count <= self.offset;
        if fits {
            self.offset -= count;
            self.len += count;
        }
        fits
    }

    fn grow_back(&mut self, count: usize) -> bool {
        let fits = count <= self.buffer.len() - self.offset - self.len;
        if fits {
            self.len += count;
        }
        fits
    }

    fn shrink_front(&mut self, count: usize) -> bool {
        let fits = count <= self.len;
        if fits {
            self.offset += count;
            self.len -= count;
        }
        fits
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
