// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A TAP interface that the card makes: the host sees an Ethernet interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::FramePort;

pub(super) struct Tap {
    device: SyncDevice,
    mac: [u8; 6],
    mtu: u32,
}

impl Tap {
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let device = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .build_sync()?;
        device.set_nonblocking(true)?;
        let (mac, mtu) = (device.mac_address()?, device.mtu()?.into());
        Ok(Self { device, mac, mtu })
    }
}

impl FramePort for Tap {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        self.device.recv(buffer).ok()
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        self.device.send(frame).is_ok()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac)
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }
}
