// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets from the TUN. The kernel's large ones are split here, and sums are completed that it left
//! to a network card.

use offload_api::frame::{Frame, FramePool, TAILROOM};
use tun_rs::{
    SyncDevice, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, gso_split,
};

/// Packets that one read may become.
pub(super) const MOST_PACKETS: usize = 128;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

/// Reads a TUN queue.
pub(super) struct FromTun {
    read: Vec<u8>,
    buffers: Vec<TunBuffer>,
    sizes: Vec<usize>,
    packets: Vec<Frame>,
}

/// A frame that is written into.
struct TunBuffer(Frame);

impl AsRef<[u8]> for TunBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for TunBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl FromTun {
    pub(super) fn new() -> Self {
        Self {
            read: vec![0; (1 << 16) + VIRTIO_NET_HDR_LEN],
            buffers: Vec::with_capacity(MOST_PACKETS),
            sizes: vec![0; MOST_PACKETS],
            packets: Vec::with_capacity(MOST_PACKETS),
        }
    }

    /// Reads once; whether anything was there. What it was is [taken](Self::take) next.
    pub(super) fn read(&mut self, tun: &SyncDevice, pool: &FramePool) -> bool {
        let Ok(len) = tun.recv(&mut self.read) else {
            return false;
        };
        self.split(len, pool);
        true
    }

    /// The packets of the last read; the vector is to be [given back](Self::give_back).
    pub(super) fn take(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.packets)
    }

    /// Keeps the vector for the next read.
    pub(super) fn give_back(&mut self, packets: Vec<Frame>) {
        self.packets = packets;
    }

    /// Brings what was read into frames. What makes no sense gives an empty packet, which is counted
    /// as malformed by whoever takes it.
    fn split(&mut self, len: usize, pool: &FramePool) {
        let whole = self.read.get_mut(..len).unwrap_or_default();
        let header = VirtioNetHdr::decode(whole);
        let packet = whole.get_mut(VIRTIO_NET_HDR_LEN..).unwrap_or_default();
        let done = match header {
            Ok(header) if header.gso_type != 0 => cut(
                header,
                packet,
                (&mut self.buffers, &mut self.sizes),
                pool,
                &mut self.packets,
            ),
            Ok(header) => {
                if header.flags & NEEDS_CHECKSUM != 0 {
                    complete(packet, header);
                }
                pool.alloc()
                    .and_then(|mut frame| frame.fill(packet).then(|| self.packets.push(frame)))
            }
            Err(_) => None,
        };
        if done.is_none() {
            self.packets.clear();
            self.packets.extend(pool.alloc());
        }
    }
}

/// Splits a large packet.
fn cut(
    mut header: VirtioNetHdr,
    packet: &mut [u8],
    (buffers, sizes): (&mut Vec<TunBuffer>, &mut [usize]),
    pool: &FramePool,
    packets: &mut Vec<Frame>,
) -> Option<()> {
    let v6 = packet.first()? >> 4 == 6;
    let start = usize::from(header.csum_start);
    // The kernel's own word may be the length of all that it had in one piece.
    let upper = if header.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 {
        8
    } else {
        usize::from(packet.get(start + 12)? >> 4) * 4
    };
    header.hdr_len = u16::try_from(start + upper).ok()?;
    let payload = packet.len().checked_sub(start + upper)?;
    let count = payload.div_ceil(usize::from(header.gso_size).max(1));
    buffers.clear();
    for _ in 0..count.min(MOST_PACKETS) {
        let mut frame = pool.alloc()?;
        let room = frame.tailroom().saturating_sub(TAILROOM);
        frame.push_back(room)?;
        buffers.push(TunBuffer(frame));
    }
    let split = gso_split(packet, header, buffers, sizes, 0, v6);
    let split = split.unwrap_or(0);
    for (TunBuffer(mut frame), size) in buffers.drain(..).zip(sizes.iter()).take(split) {
        frame.truncate(*size);
        packets.push(frame);
    }
    (split != 0).then_some(())
}

/// Completes a sum: its place holds the pseudo header's.
fn complete(packet: &mut [u8], header: VirtioNetHdr) {
    let start = usize::from(header.csum_start);
    let place = start + usize::from(header.csum_offset);
    // Zero would be UDP's word for no sum (RFC 768); its other form says the same.
    let sum = match !checksum(packet.get(start..).unwrap_or_default(), 0) {
        0 => u16::MAX,
        sum => sum,
    };
    if let Some(place) = packet.get_mut(place..place + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}
