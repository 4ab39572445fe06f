// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of an operation's own, which the device reaches: for what has no place in the packet, and for
//! the list of the frames that a packet lies in.

use offload_api::frame::Frame;
use offload_api::queue::Status;
use qat_regs::message::{ListEntry, ListHead};
use zerocopy::{FromZeros, IntoBytes};

use crate::dma::{DmaArena, DmaSlice};

/// Entries of a list: the frames, and the high half of an extended number.
const ENTRIES: usize = super::MAX_GATHER + 1;
/// Additional data, where they are no part of the packet.
pub(super) const AAD: u64 = 0;
/// An integrity check value.
pub(super) const ICV: u64 = 16;
/// An extended number's high half.
const HIGH: u64 = 48;
/// Octets in front of the list.
pub(super) const OWN: usize = 64;
/// Octets in all.
pub(super) const EXTRA: u64 =
    (OWN + size_of::<ListHead>() + ENTRIES * size_of::<ListEntry>()).next_multiple_of(64) as u64;

/// Memory of an operation's own.
pub(super) struct Extra<'memory> {
    pub(super) arena: &'memory DmaArena,
    pub(super) slice: DmaSlice,
    /// Offset in the slice.
    pub(super) at: u64,
}

impl Extra<'_> {
    pub(super) fn address(&self, at: u64) -> u64 {
        self.arena.iova_of(self.slice) + self.at + at
    }

    pub(super) fn write(&self, at: u64, octets: &[u8]) {
        self.arena.write(self.slice, self.at + at, octets);
    }

    /// What lies in front of the list.
    pub(super) fn read(&self, octets: &mut [u8; OWN]) {
        self.arena.read(self.slice, self.at, octets);
    }
}

/// What a request says of a packet, and where.
pub(super) struct Work<'packet> {
    /// The packet; of one in several frames the first holds its headers.
    pub(super) frame: &'packet mut Frame,
    /// Where the device sees the frame's pool.
    pub(super) pool: u64,
    /// Where ESP starts in the packet.
    pub(super) esp: usize,
    /// Full sequence number.
    pub(super) sequence: u64,
    pub(super) extra: Extra<'packet>,
}

impl Work<'_> {
    /// Octets of the ESP packet.
    pub(super) fn len(&self) -> usize {
        self.frame.packet_len().saturating_sub(self.esp)
    }

    /// The ESP packet, as far as the first frame has it.
    pub(super) fn head(&self) -> &[u8] {
        self.frame.get(self.esp..).unwrap_or_default()
    }

    /// Where the device sees its first octet.
    pub(super) fn address(&self) -> u64 {
        let (slot, _) = self.frame.extent();
        self.pool + slot + self.start()
    }

    /// From the start of the first slot.
    fn start(&self) -> u64 {
        (self.frame.headroom() + self.esp) as u64
    }

    /// The memory of the ESP packet from an offset on, frame by frame, with the room behind it.
    fn places(&self, from: usize) -> impl Iterator<Item = (u64, u32)> {
        let mut skip = self.start() + from as u64;
        self.frame.pieces().filter_map(move |(start, len)| {
            let skipped = skip.min(len.into());
            skip -= skipped;
            let len = len - skipped as u32;
            (len != 0).then_some((self.pool + start + skipped, len))
        })
    }

    /// Where the integrity check value is, or goes: one that is cut in two is copied to where it is
    /// in one.
    pub(super) fn icv(&self, at: usize, len: usize, seals: bool) -> Result<u64, Status> {
        match self.places(at).next() {
            Some((address, room)) if room as usize >= len => Ok(address),
            // It was put behind the last frame's octets, at one go.
            _ if seals => Err(Status::BadGather),
            _ => {
                let mut icv = [0; (HIGH - ICV) as usize];
                let icv = icv.get_mut(..len).ok_or(Status::BadLength)?;
                if !self.frame.copy_out(self.esp + at, icv) {
                    return Err(Status::BadLength);
                }
                self.extra.write(ICV, icv);
                Ok(self.extra.address(ICV))
            }
        }
    }

    /// Writes the list of so many octets of the ESP packet, and of an extended number's high half
    /// behind them (RFC 4303 §2.2.1): where it is, and how many octets it is of.
    pub(super) fn list(&self, len: usize, high: Option<u32>) -> Result<(u64, u32), Status> {
        const LIST: u64 = OWN as u64;
        let mut entries = [ListEntry::new_zeroed(); ENTRIES];
        let (mut left, mut count) = (len as u32, 0);
        for (address, room) in self.places(0) {
            if left == 0 {
                break;
            }
            let entry = entries.get_mut(count).ok_or(Status::BadGather)?;
            let here = room.min(left);
            (entry.address, entry.len) = (address.into(), here.into());
            left -= here;
            count += 1;
        }
        if left != 0 {
            return Err(Status::BadLength);
        }
        let mut octets = len as u32;
        if let Some(high) = high {
            let entry = entries.get_mut(count).ok_or(Status::BadGather)?;
            let high = high.to_be_bytes();
            self.extra.write(HIGH, &high);
            let address = self.extra.address(HIGH);
            (entry.address, entry.len) = (address.into(), (high.len() as u32).into());
            octets += high.len() as u32;
            count += 1;
        }
        let mut head = ListHead::new_zeroed();
        head.entries = (count as u32).into();
        self.extra.write(LIST, head.as_bytes());
        let used = entries.get(..count).unwrap_or_default();
        let behind = LIST + size_of::<ListHead>() as u64;
        self.extra.write(behind, used.as_bytes());
        Ok((self.extra.address(LIST), octets))
    }
}
