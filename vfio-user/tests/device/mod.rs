// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A small device on a socket, and messages written by hand.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vfio_user::message::*;
use vfio_user::server::{Backend, ClientMemory, DmaMapping, Server, ServerRegion, StopHandle};

pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// A device whose region 0 is a window: writing an address there copies 16 octets from it to the address
/// 0x100 further on.
pub(crate) struct Copier {
    memory: Arc<Mutex<Option<ClientMemory>>>,
    mapped: Vec<bool>,
}

impl Backend for Copier {
    fn connected(&mut self, memory: ClientMemory) {
        *self.memory.lock().unwrap() = Some(memory);
    }
    fn disconnected(&mut self) {
        *self.memory.lock().unwrap() = None;
    }
    fn region(&self, index: u32) -> ServerRegion<'_> {
        ServerRegion {
            size: if index == 0 { 8 } else { 0 },
            flags: REGION_READ | REGION_WRITE,
            ..ServerRegion::default()
        }
    }
    fn irq_count(&self, index: u32) -> u32 {
        if index == IRQ_MSIX { 4 } else { 0 }
    }
    fn region_read(&mut self, _: u32, _: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.fill(self.mapped.len() as u8);
        Ok(())
    }
    fn region_write(&mut self, _: u32, _: u64, data: &[u8]) -> Result<(), Errno> {
        let address = u64::from_le_bytes(data.try_into().map_err(|_| Errno::INVAL)?);
        let memory = self.memory.lock().unwrap().clone().unwrap();
        let mut octets = [0; 16];
        memory
            .read(address, &mut octets)
            .map_err(|e| Errno::from(&e))?;
        let target = address.wrapping_add(0x100);
        memory.write(target, &octets).map_err(|e| Errno::from(&e))
    }
    fn dma_map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        self.mapped.push(mapping.memory.is_some());
        Ok(())
    }
    fn dma_unmap(&mut self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
    fn dma_unmap_all(&mut self) {}
    fn set_irq(&mut self, _: u32, _: u32, _: Option<OwnedFd>) {}
    fn trigger_irq(&mut self, _: u32, _: u32) {}
    fn reset(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

pub(crate) struct Rig {
    pub(crate) path: PathBuf,
    memory: Arc<Mutex<Option<ClientMemory>>>,
    stop: StopHandle,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let server = Server::bind(&path).unwrap();
        let stop = server.stop_handle();
        let memory = Arc::default();
        let mut copier = Copier {
            memory: Arc::clone(&memory),
            mapped: Vec::new(),
        };
        let thread = Some(std::thread::spawn(move || {
            server.serve(&mut copier).unwrap()
        }));
        Self {
            path,
            memory,
            stop,
            thread,
            _dir: dir,
        }
    }

    /// The memory of the client that is connected.
    pub(crate) fn asks(&self) -> ClientMemory {
        self.memory.lock().unwrap().clone().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.stop();
        let started = Instant::now();
        self.thread.take().unwrap().join().unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "the server ends at once"
        );
    }
}

/// A client that has greeted and lets the device ask.
pub(crate) fn greeted(rig: &Rig) -> UnixStream {
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&message(1, 1, 0, &[0, 0, 1, 0])).unwrap();
    assert_eq!(receive(&mut stream).0[0..2], 1u16.to_ne_bytes());
    stream
}

pub(crate) fn message(id: u16, command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut octets = id.to_ne_bytes().to_vec();
    octets.extend(command.to_ne_bytes());
    octets.extend(((16 + payload.len()) as u32).to_ne_bytes());
    octets.extend(flags.to_ne_bytes());
    octets.extend([0; 4]);
    octets.extend(payload);
    octets
}

pub(crate) fn receive(stream: &mut UnixStream) -> ([u8; 16], Vec<u8>) {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    let size = u32::from_ne_bytes(header[4..8].try_into().unwrap()) as usize;
    let mut payload = vec![0; size - 16];
    stream.read_exact(&mut payload).unwrap();
    (header, payload)
}
