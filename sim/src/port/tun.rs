// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host port: IP packets in bursts, by a TUN interface with segmentation offload, or by captures
//! for tests.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

use super::{FramePort, PortSpec};

/// Where a packet starts in its buffer: room for what ESP puts in front.
pub(crate) const OFFSET: usize = 160;
/// Octets of a buffer: a packet with room at both ends.
pub(crate) const BUFFER: usize = 2048 + 512;
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;

/// Carries IP packets between card and host.
pub(crate) trait PacketPort: Send {
    /// Takes packets that are there: their lengths; each starts at [`OFFSET`] of its buffer.
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> usize;

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
    let mtu = wire_mtu.saturating_sub(ESP_ROOM).max(1280);
    match spec {
        PortSpec::Tun(name) => Ok(Box::new(Tun::open(name, mtu)?)),
        PortSpec::Pcap { .. } | PortSpec::None => Ok(Box::new(Framed {
            port: super::open(spec)?,
            mtu,
            frame: vec![0; BUFFER],
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
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> usize {
        self.device
            .recv_multiple(&mut self.raw, buffers, sizes, OFFSET)
            .unwrap_or(0)
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
}

impl PacketPort for Framed {
    fn receive(&mut self, buffers: &mut [Vec<u8>], sizes: &mut [usize]) -> usize {
        let mut count = 0;
        for (buffer, size) in buffers.iter_mut().zip(sizes) {
            let Some(len) = self.port.receive(&mut self.frame) else {
                break;
            };
            let packet = self.frame.get(ETHERNET..len).unwrap_or_default();
            let Some(into) = buffer.get_mut(OFFSET..OFFSET + packet.len()) else {
                continue;
            };
            into.copy_from_slice(packet);
            *size = packet.len();
            count += 1;
        }
        count
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
            self.frame.clear();
            self.frame.extend_from_slice(&[0; 12]);
            self.frame.extend_from_slice(&kind);
            self.frame.extend_from_slice(packet);
            sent += usize::from(self.port.send(&self.frame));
        }
        self.frame.resize(BUFFER, 0);
        sent
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }
}
