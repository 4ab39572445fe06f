// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets on their way to the TUN: written from the frames that the device opened them in.

use offload_api::frame::Frame;
use tun_rs::{ExpandBuffer, VIRTIO_NET_HDR_LEN};

/// Room for packets that are joined to one.
const JOINED: usize = (1 << 16) + VIRTIO_NET_HDR_LEN;

/// A packet with the kernel's header in front. It stays in its frame until others are joined to it
/// that don't fit there; then it moves to a buffer of its own, which is kept for the next time.
#[derive(Default)]
pub(super) struct TunPacket {
    frame: Option<Frame>,
    joined: Vec<u8>,
}

impl TunPacket {
    /// Takes a packet in.
    pub(super) fn set(&mut self, mut frame: Frame) {
        self.clear();
        if !frame.is_chained()
            && let Some(header) = frame.push_front(VIRTIO_NET_HDR_LEN)
        {
            header.fill(0);
            self.frame = Some(frame);
            return;
        }
        self.joined.resize(VIRTIO_NET_HDR_LEN, 0);
        frame.gather(&mut self.joined);
    }

    /// Lets the frame go home.
    pub(super) fn clear(&mut self) {
        self.frame = None;
        self.joined.clear();
    }

    fn leave_frame(&mut self) -> &mut Vec<u8> {
        if let Some(frame) = self.frame.take() {
            self.joined.reserve(JOINED);
            self.joined.extend_from_slice(&frame);
        }
        &mut self.joined
    }
}

impl AsRef<[u8]> for TunPacket {
    fn as_ref(&self) -> &[u8] {
        self.frame.as_deref().unwrap_or(&self.joined)
    }
}

impl AsMut<[u8]> for TunPacket {
    fn as_mut(&mut self) -> &mut [u8] {
        self.frame.as_deref_mut().unwrap_or(&mut self.joined)
    }
}

impl ExpandBuffer for TunPacket {
    fn buf_capacity(&self) -> usize {
        JOINED
    }

    fn buf_resize(&mut self, len: usize, value: u8) {
        self.leave_frame().resize(len, value);
    }

    fn buf_extend_from_slice(&mut self, octets: &[u8]) {
        let room = self.frame.as_mut();
        match room.and_then(|frame| frame.push_back(octets.len())) {
            Some(room) => room.copy_from_slice(octets),
            None => self.leave_frame().extend_from_slice(octets),
        }
    }
}

#[cfg(test)]
mod tests {
    use offload_api::frame::{FramePool, FramePoolConfig};

    use super::*;

    #[test]
    fn a_packet_stays_in_its_frame_until_others_are_joined_to_it() {
        let pool = FramePool::new(FramePoolConfig {
            slots: 2,
            ..FramePoolConfig::default()
        })
        .unwrap();
        let frame = |octets: &[u8]| {
            let mut frame = pool.alloc().unwrap();
            assert!(frame.fill(octets));
            frame
        };
        let mut packet = TunPacket::default();
        let expected = |len: usize| {
            let mut octets = vec![0; VIRTIO_NET_HDR_LEN];
            octets.resize(VIRTIO_NET_HDR_LEN + len, 7);
            octets
        };
        packet.set(frame(&[7; 1400]));
        assert_eq!(packet.as_ref(), expected(1400));
        packet.buf_extend_from_slice(&[7; 100]);
        assert_eq!(
            (packet.as_ref(), pool.available()),
            (&expected(1500)[..], 1)
        );
        packet.buf_extend_from_slice(&[7; 1400]);
        assert_eq!(
            (packet.as_ref(), pool.available()),
            (&expected(2900)[..], 2)
        );
        packet.set(frame(&[7; 20]));
        packet.buf_resize(VIRTIO_NET_HDR_LEN + 30, 7);
        assert_eq!(packet.as_ref(), expected(30));
        packet.clear();
        assert!(packet.as_ref().is_empty());

        // Without room in front, or in several frames, it is copied once.
        let mut full = frame(&[7; 500]);
        assert!(full.push_front(full.headroom()).is_some());
        full[..].fill(7);
        let len = full.len();
        packet.set(full);
        assert_eq!(packet.as_ref(), expected(len));
        let mut chain = frame(&[7; 3]);
        chain.append(frame(&[7; 4])).unwrap();
        packet.set(chain);
        assert_eq!((packet.as_ref(), pool.available()), (&expected(7)[..], 2));
    }
}
