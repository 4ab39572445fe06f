// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The buffer that a submission names, in one piece or in several.

use fpga_regs::descriptor::{FLAG_GATHER, GatherEntry, MAX_BUFFER, Submission};
use offload_api::queue::Status;
use zerocopy::{FromZeros, IntoBytes};

use crate::dma::{DmaFault, DmaMap};

/// Entries of a gather list.
pub(crate) const MAX_GATHER: usize = 16;

/// A piece of the driver's memory.
#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    iova: u64,
    len: u32,
}

impl Piece {
    fn end(&self) -> Option<u64> {
        self.iova.checked_add(self.len.into())
    }

    fn meets(&self, other: &Self) -> bool {
        let before = |a: &Self, b: &Self| a.end().is_some_and(|end| end <= b.iova);
        !before(self, other) && !before(other, self)
    }
}

/// A submission's buffer: its list is copied and checked once, so that it stays what it was whatever
/// the driver writes there later.
#[derive(Debug)]
pub(crate) struct Buffer {
    pieces: [Piece; MAX_GATHER],
    count: usize,
}

/// Why a submission has no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadBuffer {
    /// It makes no sense.
    Refused(Status),
    /// Its list can't be reached.
    Fault(DmaFault),
}

impl Buffer {
    pub(crate) fn of(dma: &DmaMap, submission: &Submission) -> Result<Self, BadBuffer> {
        let (iova, len) = (submission.buffer.get(), submission.buffer_len.get());
        let entries = usize::from(submission.entries.get());
        let mut pieces = [Piece::default(); MAX_GATHER];
        if submission.flags & FLAG_GATHER == 0 {
            let [first, ..] = &mut pieces;
            *first = Piece { iova, len };
            let fits = entries == 0 && len <= MAX_BUFFER;
            return fits
                .then_some(Self { pieces, count: 1 })
                .ok_or(BadBuffer::Refused(Status::BadDescriptor));
        }
        let refused = BadBuffer::Refused(Status::BadGather);
        let mut list = [GatherEntry::new_zeroed(); MAX_GATHER];
        let list = list.get_mut(..entries).ok_or(refused)?;
        let aligned = iova.is_multiple_of(size_of::<GatherEntry>() as u64);
        if list.is_empty() || !aligned {
            return Err(refused);
        }
        dma.read(iova, list.as_mut_bytes())
            .map_err(BadBuffer::Fault)?;
        let mut sum = 0u64;
        for (piece, entry) in pieces.iter_mut().zip(&*list) {
            *piece = Piece {
                iova: entry.iova.get(),
                len: entry.len.get(),
            };
            sum += u64::from(piece.len);
            let makes_sense = piece.len != 0 && entry.reserved.get() == 0;
            if !makes_sense || piece.end().is_none() {
                return Err(refused);
            }
        }
        let buffer = Self {
            pieces,
            count: entries,
        };
        let overlaps = buffer.pieces().iter().enumerate().any(|(n, piece)| {
            let before = buffer.pieces().iter().take(n);
            before.into_iter().any(|other| other.meets(piece))
        });
        if overlaps || sum != u64::from(len) || len > MAX_BUFFER {
            return Err(refused);
        }
        Ok(buffer)
    }

    fn pieces(&self) -> &[Piece] {
        self.pieces.get(..self.count).unwrap_or_default()
    }

    /// The runs of memory that hold so many octets of the buffer from an offset on; no more than
    /// there are.
    fn runs(
        &self,
        mut offset: usize,
        mut left: usize,
    ) -> impl Iterator<Item = Result<(u64, usize), DmaFault>> {
        self.pieces().iter().filter_map(move |piece| {
            let len = piece.len as usize;
            let skip = offset.min(len);
            offset -= skip;
            let count = left.min(len - skip);
            left -= count;
            let at = piece.iova.checked_add(skip as u64);
            let at = at.ok_or(DmaFault { iova: piece.iova });
            (count != 0).then(|| at.map(|at| (at, count)))
        })
    }

    /// Copies octets of the buffer in, from an offset on; no more than there are.
    pub(crate) fn read(
        &self,
        dma: &DmaMap,
        offset: usize,
        mut into: &mut [u8],
    ) -> Result<(), DmaFault> {
        for run in self.runs(offset, into.len()) {
            let (at, count) = run?;
            let (part, rest) = into.split_at_mut(count);
            dma.read(at, part)?;
            into = rest;
        }
        Ok(())
    }

    /// Copies octets out, to an offset of the buffer; to all pieces that can be reached, as writes that nobody
    /// waits for do. The first fault is told.
    pub(crate) fn write(
        &self,
        dma: &DmaMap,
        offset: usize,
        mut from: &[u8],
    ) -> Result<(), DmaFault> {
        let mut written = Ok(());
        for run in self.runs(offset, from.len()) {
            let (at, count) = run?;
            let (part, rest) = from.split_at(count);
            written = written.and(dma.write(at, part));
            from = rest;
        }
        written
    }
}
