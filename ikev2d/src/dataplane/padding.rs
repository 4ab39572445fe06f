// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TFC padding (RFC 4303 §2.7): behind the inner packet, in its own frame.

use offload_api::frame::{Frame, TAILROOM};

/// Pads a packet until it has so many octets, as far as there is room beside what sealing adds.
#[inline(never)]
pub(super) fn pad(frame: &mut Frame, len: usize) {
    let room = frame.tailroom().saturating_sub(TAILROOM);
    let missing = len.saturating_sub(frame.packet_len());
    if let Some(padding) = frame.push_back(missing.min(room)) {
        padding.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use offload_api::frame::{FramePool, FramePoolConfig};

    use super::*;

    /// B37: a packet is as long as is asked for, or as there is room for, with zeros behind it whatever lay
    /// there; one that is longer stays as it is.
    #[test]
    fn a_packet_is_padded_within_its_frame() {
        let config = FramePoolConfig {
            slots: 1,
            slot_size: 512,
            ..FramePoolConfig::default()
        };
        let most = config.slot_size as usize - config.headroom as usize - TAILROOM;
        let pool = FramePool::new(config).unwrap();
        for (len, asked, expected) in [
            (40, 0, 40),
            (40, 40, 40),
            (40, 41, 41),
            (40, 300, 300),
            (300, 40, 300),
            (most, most, most),
            (most, most + 1, most),
            (40, usize::MAX, most),
            // It came with less room than sealing wants.
            (most + 1, usize::MAX, most + 1),
        ] {
            let mut frame = pool.alloc().unwrap();
            let room = frame.tailroom();
            frame.push_back(room).unwrap().fill(0xa5);
            frame.truncate(len);
            pad(&mut frame, asked);
            assert_eq!(frame.packet_len(), expected, "{len} to {asked}");
            assert!(frame[..len].iter().all(|octet| *octet == 0xa5));
            assert!(frame[len..].iter().all(|octet| *octet == 0));
        }
    }
}
