// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host port: IP packets in bursts, by a TUN interface with segmentation offload, or by captures
//! for tests.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

use super::{FramePort, MAX_FRAME, PortSpec};

/// Where a packet starts in its buffer: room for what ESP puts in front.
pub(crate) const OFFSET: usize = 160;
/// Room for what ESP puts behind a packet, and more: captures may bring longer ones than the port's.
const BEHIND: usize = 1024;
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

/// Octets of a buffer for packets of a port of this MTU, with room at both ends.
pub(crate) fn buffer_len(mtu: u32) -> usize {
    OFFSET + mtu as usize + BEHIND
}

/// What was taken from a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Packets, in the first buffers.
    pub(crate) packets: usize,
    /// Packets that were there and fit no buffer.
    pub(crate) lost: u64,
}

/// Carries IP packets between card and host.
pub(crate) trait PacketPort: Send {
    /// Takes packets that are there, with their lengths; each starts at [`OFFSET`] of its buffer.
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> Received;

    /// Sends packets, each behind [`VIRTIO_NET_HDR_LEN`] octets of its buffer; how many were taken.
    fn send(&mut self, packets: &mut [Vec<u8>]) -> usize;

    /// Becomes readable with the next packet, where it can tell.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Octets of the largest packet.
    fn mtu(&self) -> u32;
}

/// Packets of one burst.
pub(crate) const BURST: usize = IDEAL_BATCH_SIZE;

/// Opens the host port. Its MTU leaves room for what ESP adds on the wire.
pub(crate) fn open(spec: &PortSpec, wire_mtu: u32) -> io::Result<Box<dyn PacketPort>> {
    // The card takes no larger frames from the wire, whatever its MTU.
    let wire_mtu = wire_mtu.min((MAX_FRAME - ETHERNET) as u32);
    let mtu = wire_mtu.saturating_sub(ESP_ROOM).max(1280);
    match spec {
        PortSpec::Tun(name) => Ok(Box::new(Tun::open(name, mtu)?)),
        PortSpec::Pcap { .. } | PortSpec::None => Ok(Box::new(Framed {
            port: super::open(spec)?,
            mtu,
            frame: vec![0; MAX_FRAME],
            sent: Vec::with_capacity(MAX_FRAME),
        })),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the host port carries IP packets: expected tun:NAME or pcap:in=FILE,out=FILE",
        )),
    }
}

/// The most that ESP adds: outer IPv6, UDP, ESP header, IV, padding and trailer, ICV.
const ESP_ROOM: u32 = 40 + 8 + 8 + 16 + 17 + 32;

struct Tun {
    device: SyncDevice,
    raw: Vec<u8>,
    gro: GROTable,
    mtu: u32,
}

impl Tun {
    fn open(name: &str, mtu: u32) -> io::Result<Self> {
        let device = DeviceBuilder::new()
            .name(name)
            .mtu(mtu as u16)
            .offload(true)
            .build_sync()?;
        device.set_nonblocking(true)?;
        Ok(Self {
            device,
            raw: vec![0; (1 << 16) + VIRTIO_NET_HDR_LEN],
            gro: GROTable::default(),
            mtu,
        })
    }
}

impl PacketPort for Tun {
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> Received {
        match self
            .device
            .recv_multiple(&mut self.raw, buffers, sizes, OFFSET)
        {
            Ok(packets) => Received { packets, lost: 0 },
            // The kernel's own errors bring no packet: there is none, or the interface is down.
            Err(error) => Received {
                packets: 0,
                lost: u64::from(error.raw_os_error().is_none()),
            },
        }
    }

    fn send(&mut self, packets: &mut [Vec<u8>]) -> usize {
        let count = packets.len();
        let sent = self
            .device
            .send_multiple(&mut self.gro, packets, VIRTIO_NET_HDR_LEN);
        if sent.is_ok() { count } else { 0 }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }
}

/// A port of frames whose Ethernet headers don't matter.
struct Framed {
    port: Box<dyn FramePort>,
    mtu: u32,
    frame: Vec<u8>,
    sent: Vec<u8>,
}

impl PacketPort for Framed {
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> Received {
        let mut received = Received::default();
        for _ in 0..buffers.len() {
            let Some(len) = self.port.receive(&mut self.frame) else {
                break;
            };
            let packet = self.frame.get(ETHERNET..len).unwrap_or_default();
            let place = (
                buffers.get_mut(received.packets),
                sizes.get_mut(received.packets),
            );
            let (Some(buffer), Some(size)) = place else {
                break;
            };
            let Some(into) = buffer.get_mut(OFFSET..OFFSET + packet.len()) else {
                received.lost += 1;
                continue;
            };
            into.copy_from_slice(packet);
            *size = packet.len();
            received.packets += 1;
        }
        received
    }

    fn send(&mut self, packets: &mut [Vec<u8>]) -> usize {
        let mut sent = 0;
        for packet in packets {
            let packet = packet.get(VIRTIO_NET_HDR_LEN..).unwrap_or_default();
            let kind: [u8; 2] = if packet.first().is_some_and(|octet| octet >> 4 == 6) {
                [0x86, 0xdd]
            } else {
                [0x08, 0x00]
            };
            self.sent.clear();
            self.sent.extend_from_slice(&[0; 12]);
            self.sent.extend_from_slice(&kind);
            self.sent.extend_from_slice(packet);
            sent += usize::from(self.port.send(&self.sent));
        }
        sent
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of these lengths, each full of its number.
    struct Frames(Vec<usize>);

    impl FramePort for Frames {
        fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
            let len = self.0.pop()?;
            buffer.get_mut(..len)?.fill(self.0.len() as u8);
            Some(len)
        }

        fn send(&mut self, _: &[u8]) -> bool {
            false
        }

        fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn mtu(&self) -> u32 {
            1500
        }
    }

    #[test]
    fn a_packet_too_large_is_counted_and_leaves_no_gap() {
        let mut port = Framed {
            port: Box::new(Frames(vec![214, 9000, 114])),
            mtu: 1379,
            frame: vec![0; MAX_FRAME],
            sent: Vec::new(),
        };
        let mut buffers = vec![vec![0xff; buffer_len(1379)]; 4];
        let mut sizes = [0; 4];
        let (packets, lost) = (2, 1);
        let received = port.receive(&mut buffers, &mut sizes);
        assert_eq!(received, Received { packets, lost });
        assert_eq!(sizes, [100, 200, 0, 0]);
        assert_eq!(buffers[0][OFFSET..OFFSET + 100], [2; 100]);
        assert_eq!(buffers[1][OFFSET..OFFSET + 200], [0; 200]);
        assert_eq!(buffers[2][OFFSET], 0xff);
    }

    #[test]
    fn buffers_hold_what_a_wire_of_any_size_lets_in() {
        for (wire, mtu) in [(1500, 1379), (9000, 8879), (65_536, 8883), (68, 1280)] {
            let port = open(&PortSpec::None, wire).unwrap();
            assert_eq!(port.mtu(), mtu);
            // A sealed packet, with its frame's header.
            let sealed = ESP_ROOM as usize + ETHERNET;
            assert!(buffer_len(mtu) >= mtu as usize + 2 * sealed);
        }
    }
}
