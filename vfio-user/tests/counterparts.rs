// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our client and server with each other, and each with rust-vmm's `vfio_user` as its counterpart.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use vfio_user::Error;
use vfio_user::client::Client;
use vfio_user::message::*;
use vfio_user::server::{Backend, ClientMemory, DmaMapping, Server, ServerRegion, StopHandle};
use vfio_user_reference as reference;

const BAR_SIZE: u64 = 0x2000;

/// What a toy device has seen.
#[derive(Default)]
struct Seen {
    bar: Vec<u8>,
    mappings: Vec<(u64, u64, bool)>,
    irqs: Vec<Option<OwnedFd>>,
    resets: u32,
    clients: u32,
}

struct Toy {
    seen: Arc<Mutex<Seen>>,
    memory: OwnedFd,
    areas: [SparseArea; 1],
}

impl Toy {
    fn new() -> Self {
        let memory = rustix::fs::memfd_create("bar", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, BAR_SIZE).unwrap();
        let seen = Seen {
            bar: vec![0; BAR_SIZE as usize],
            irqs: (0..4).map(|_| None).collect(),
            ..Seen::default()
        };
        let areas = [SparseArea {
            offset: 0x1000,
            size: 0x1000,
        }];
        Self {
            seen: Arc::new(Mutex::new(seen)),
            memory,
            areas,
        }
    }
}

impl Backend for Toy {
    fn connected(&mut self, _: ClientMemory) {
        self.seen.lock().unwrap().clients += 1;
    }
    fn disconnected(&mut self) {
        self.seen.lock().unwrap().mappings.clear();
    }
    fn region(&self, index: u32) -> ServerRegion<'_> {
        let flags = REGION_READ | REGION_WRITE;
        match index {
            0 => ServerRegion {
                size: BAR_SIZE,
                flags,
                areas: &self.areas,
                memory: Some(self.memory.as_fd()),
            },
            1 => ServerRegion {
                size: 64,
                flags: REGION_READ,
                ..ServerRegion::default()
            },
            REGION_CONFIG => ServerRegion {
                size: 256,
                flags,
                ..ServerRegion::default()
            },
            _ => ServerRegion::default(),
        }
    }
    fn irq_count(&self, index: u32) -> u32 {
        if index == IRQ_MSIX { 4 } else { 0 }
    }
    fn region_read(&mut self, _: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let seen = self.seen.lock().unwrap();
        let at = offset as usize;
        data.copy_from_slice(seen.bar.get(at..at + data.len()).ok_or(Errno::INVAL)?);
        Ok(())
    }
    fn region_write(&mut self, _: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut seen = self.seen.lock().unwrap();
        let at = offset as usize;
        seen.bar
            .get_mut(at..at + data.len())
            .ok_or(Errno::INVAL)?
            .copy_from_slice(data);
        Ok(())
    }
    fn dma_map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        let mut seen = self.seen.lock().unwrap();
        if mapping.address == 0xbad000 {
            return Err(Errno::NOSPC);
        }
        seen.mappings
            .push((mapping.address, mapping.size, mapping.memory.is_some()));
        Ok(())
    }
    fn dma_unmap(&mut self, address: u64, _: u64) -> Result<(), Errno> {
        self.seen
            .lock()
            .unwrap()
            .mappings
            .retain(|(a, ..)| *a != address);
        Ok(())
    }
    fn dma_unmap_all(&mut self) {
        self.seen.lock().unwrap().mappings.clear();
    }
    fn set_irq(&mut self, _: u32, vector: u32, eventfd: Option<OwnedFd>) {
        self.seen.lock().unwrap().irqs[vector as usize] = eventfd;
    }
    fn trigger_irq(&mut self, _: u32, vector: u32) {
        if let Some(Some(fd)) = self.seen.lock().unwrap().irqs.get(vector as usize) {
            rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
        }
    }
    fn reset(&mut self) -> Result<(), Errno> {
        self.seen.lock().unwrap().resets += 1;
        Ok(())
    }
}

struct Rig {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
    stop: StopHandle,
    thread: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy.sock");
        let server = Server::bind(&path).unwrap();
        let mut toy = Toy::new();
        let (seen, stop) = (toy.seen.clone(), server.stop_handle());
        let thread = Some(std::thread::spawn(move || server.serve(&mut toy).unwrap()));
        Self {
            path,
            seen,
            stop,
            thread,
            _dir: dir,
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, Duration::from_secs(5)).unwrap()
    }
}

impl Rig {
    fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop();
    }
}

fn memory(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("dma", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

#[test]
fn our_client_and_our_server_understand_each_other() {
    let rig = Rig::new();
    let client = rig.client();
    let info = client.device_info().unwrap();
    assert_eq!((info.regions, info.irqs), (PCI_REGIONS, PCI_IRQS));
    let region = client.region_info(0).unwrap();
    assert_eq!(region.size, BAR_SIZE);
    assert_eq!(
        region.areas,
        [SparseArea {
            offset: 0x1000,
            size: 0x1000
        }]
    );
    assert!(region.memory.is_some());
    client.region_write(0, 8, &[1, 2, 3, 4]).unwrap();
    client.region_write_posted(0, 12, &[5]).unwrap();
    let mut back = [0; 5];
    client.region_read(0, 8, &mut back).unwrap();
    assert_eq!(back, [1, 2, 3, 4, 5]);
    let dma = memory(0x4000);
    client.dma_map(0x10000, 0x4000, dma.as_fd(), 0).unwrap();
    assert_eq!(rig.seen.lock().unwrap().mappings, [(0x10000, 0x4000, true)]);
    client.dma_unmap(0x10000, 0x4000).unwrap();
    let fds: Vec<OwnedFd> = (0..4)
        .map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap())
        .collect();
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.set_irqs(IRQ_MSIX, 0, &borrowed).unwrap();
    assert!(rig.seen.lock().unwrap().irqs.iter().all(Option::is_some));
    client.clear_irqs(IRQ_MSIX).unwrap();
    assert!(rig.seen.lock().unwrap().irqs.iter().all(Option::is_none));
    client.reset().unwrap();
    assert_eq!(rig.seen.lock().unwrap().resets, 1);
}

#[test]
fn a_probe_waits_no_longer_than_it_is_told_and_its_late_answer_disturbs_nobody() {
    let rig = Rig::new();
    let client = rig.client();
    client.region_write(0, 8, &[1, 2, 3, 4]).unwrap();
    let soon = Duration::from_millis(10);
    let mut found = [0; 4];
    assert!(client.region_probe(0, 8, &mut found, soon).unwrap());
    assert_eq!(found, [1, 2, 3, 4]);

    // The device hangs: two probes are one request.
    let held = rig.seen.lock().unwrap();
    let start = Instant::now();
    found = [0; 4];
    assert!(!client.region_probe(0, 8, &mut found, soon).unwrap());
    assert!(!client.region_probe(0, 8, &mut found, soon).unwrap());
    assert!(start.elapsed() < Duration::from_secs(1));
    drop(held);
    // Its answer comes behind another call's request, and is passed over.
    let mut back = [0; 2];
    client.region_read(0, 10, &mut back).unwrap();
    assert_eq!(back, [3, 4]);
    assert!(client.region_probe(0, 8, &mut found, soon * 100).unwrap());
    assert_eq!(found, [1, 2, 3, 4]);

    // A late answer to another question is no answer to this one.
    let held = rig.seen.lock().unwrap();
    assert!(!client.region_probe(0, 8, &mut found, soon).unwrap());
    drop(held);
    found = [0; 4];
    assert!(
        !client
            .region_probe(0, 10, &mut found[..2], soon * 100)
            .unwrap()
    );
    assert!(
        client
            .region_probe(0, 10, &mut found[..2], soon * 100)
            .unwrap()
    );
    assert_eq!(found, [3, 4, 0, 0]);
}

#[test]
fn refusals_carry_the_servers_errno_and_the_connection_goes_on() {
    let rig = Rig::new();
    let client = rig.client();
    let dma = memory(0x1000);
    let refused = client.dma_map(0xbad000, 0x1000, dma.as_fd(), 0);
    assert!(
        matches!(
            refused,
            Err(Error::Refused {
                errno: Errno::NOSPC,
                ..
            })
        ),
        "{refused:?}"
    );
    let mut octets = [0; 8];
    for (region, offset) in [(0, BAR_SIZE - 4), (0, u64::MAX - 3), (5, 0), (77, 0)] {
        let refused = client.region_read(region, offset, &mut octets);
        assert!(
            matches!(
                refused,
                Err(Error::Refused {
                    errno: Errno::INVAL,
                    ..
                })
            ),
            "{region} {offset:#x}"
        );
    }
    assert!(client.region_write(1, 0, &octets).is_err(), "read-only");
    assert!(client.irq_info(99).is_err());
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    assert!(client.set_irqs(IRQ_MSIX, 4, &[fd.as_fd()]).is_err());
    assert!(client.set_irqs(IRQ_MSIX, u32::MAX, &[fd.as_fd()]).is_err());
    assert!(!client.is_gone());
    client.region_read(0, 0, &mut octets).unwrap();
}

#[test]
fn clients_come_one_after_another_and_a_dead_server_is_told() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.client().device_info().unwrap();
    }
    assert_eq!(rig.seen.lock().unwrap().clients, 3);
    let client = rig.client();
    rig.stop.stop();
    rig.thread.take().unwrap().join().unwrap();
    assert!(matches!(client.device_info(), Err(Error::Gone)));
    assert!(client.is_gone());
}

#[test]
fn a_server_that_does_not_answer_meets_the_deadline() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let start = Instant::now();
    let refused = Client::from_stream(ours, Duration::from_millis(100));
    assert!(matches!(refused, Err(Error::Timeout { .. })));
    assert!(start.elapsed() < Duration::from_secs(2));
}

fn header(id: u16, command: u16, size: u32, flags: u32) -> Vec<u8> {
    let mut octets = id.to_ne_bytes().to_vec();
    octets.extend(command.to_ne_bytes());
    octets.extend(size.to_ne_bytes());
    octets.extend(flags.to_ne_bytes());
    octets.extend([0; 4]);
    octets
}

#[test]
fn garbage_cuts_its_sender_off_and_the_next_client_is_served() {
    let rig = Rig::new();
    let mut version = header(0, 1, 0, 0);
    version.extend([0, 0, 1, 0]);
    version.extend(b"{}\0");
    let size = (version.len() as u32).to_ne_bytes();
    version[4..8].copy_from_slice(&size);
    let mut bad: Vec<Vec<u8>> = vec![
        header(0, 1, 15, 0),
        header(0, 1, u32::MAX, 0),
        header(0, 1, 16, 1),
        header(0, 9, 16, 0),
        header(0, 1, 100, 0)[..7].to_vec(),
        vec![0xff; 64],
        [version.clone(), header(1, 8, 15, 0)].concat(),
        [version.clone(), header(1, 9, 16, TYPE_REPLY)].concat(),
    ];
    // After a proper greeting: every command with every short payload.
    for command in 0..20u16 {
        for len in [0usize, 1, 4, 15, 20, 31, 32] {
            let mut message = header(1, command, (16 + len) as u32, 0);
            message.extend(std::iter::repeat_n(0xff, len));
            bad.push([version.clone(), message].concat());
        }
    }
    let mut state = 1u64;
    for len in 0..200 {
        let noise = (0..len).map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        });
        bad.push([version.clone(), noise.collect()].concat());
    }
    for octets in bad {
        let mut stream = UnixStream::connect(&rig.path).unwrap();
        let _ = stream.write_all(&octets);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    rig.client().device_info().unwrap();
}

#[test]
fn half_a_message_does_not_hold_up_the_end() {
    let mut rig = Rig::new();
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    stream.write_all(&header(0, 1, 100, 0)[..7]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    rig.stop();
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    drop(stream);
}

#[test]
fn v01_a_thousand_connections_leak_no_descriptor() {
    let rig = Rig::new();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    rig.client().device_info().unwrap();
    let before = open();
    for round in 0..1000 {
        let mut stream = UnixStream::connect(&rig.path).unwrap();
        let _ = stream.write_all(&header(0, 1, 16, 0)[..round % 16]);
    }
    rig.client().device_info().unwrap();
    // Other tests of this process run meanwhile.
    assert!(open() < before + 100, "{before} before, {} after", open());
}

#[test]
fn our_server_serves_rust_vmms_client() {
    let rig = Rig::new();
    let mut client = reference::Client::new(&rig.path).unwrap();
    client.region_write(0, 16, &[9, 8, 7, 6]).unwrap();
    let mut back = [0; 4];
    client.region_read(0, 16, &mut back).unwrap();
    assert_eq!(back, [9, 8, 7, 6]);
    let region = client.region(0).unwrap();
    assert_eq!(region.sparse_areas.len(), 1);
    assert!(region.file_offset.is_some());
    let dma = memory(0x2000);
    client.dma_map(0, 0x20000, 0x2000, dma.as_raw_fd()).unwrap();
    assert_eq!(rig.seen.lock().unwrap().mappings, [(0x20000, 0x2000, true)]);
    client.dma_unmap(0x20000, 0x2000).unwrap();
    assert_eq!(client.get_irq_info(IRQ_MSIX).unwrap().count, 4);
    let fd = eventfd(0, EventfdFlags::empty()).unwrap();
    let flags = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER;
    client
        .set_irqs(IRQ_MSIX, flags, 2, 1, &[fd.as_raw_fd()])
        .unwrap();
    assert!(rig.seen.lock().unwrap().irqs[2].is_some());
    client.reset().unwrap();
    assert_eq!(rig.seen.lock().unwrap().resets, 1);
}

/// A device on rust-vmm's server.
struct ReferenceToy {
    bar: Vec<u8>,
    mapped: Arc<Mutex<Vec<u64>>>,
}

impl reference::ServerBackend for ReferenceToy {
    fn region_read(&mut self, _: u32, offset: u64, data: &mut [u8]) -> Result<(), std::io::Error> {
        let at = offset as usize;
        data.copy_from_slice(&self.bar[at..at + data.len()]);
        Ok(())
    }
    fn region_write(&mut self, _: u32, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let at = offset as usize;
        self.bar[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn dma_map(
        &mut self,
        _: reference::DmaMapFlags,
        _: u64,
        address: u64,
        _: u64,
        fd: Option<std::fs::File>,
    ) -> Result<(), std::io::Error> {
        assert!(fd.is_some());
        self.mapped.lock().unwrap().push(address);
        Ok(())
    }
    fn dma_unmap(
        &mut self,
        _: reference::DmaUnmapFlags,
        address: u64,
        _: u64,
    ) -> Result<(), std::io::Error> {
        self.mapped.lock().unwrap().retain(|a| *a != address);
        Ok(())
    }
    fn reset(&mut self) -> Result<(), std::io::Error> {
        self.bar.fill(0);
        Ok(())
    }
    fn set_irqs(
        &mut self,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: Vec<std::fs::File>,
    ) -> Result<(), std::io::Error> {
        Ok(())
    }
}

fn reference_server(path: &Path, mapped: Arc<Mutex<Vec<u64>>>) {
    use vfio_bindings::bindings::vfio::{vfio_region_info, vfio_region_sparse_mmap_area};
    let memory = memory(BAR_SIZE);
    let regions = (0..PCI_REGIONS)
        .map(|index| {
            let mut region_info = vfio_region_info {
                argsz: 32,
                index,
                ..Default::default()
            };
            let mut sparse_areas = Vec::new();
            let mut mmap_fd = None;
            if index == 0 {
                region_info.size = BAR_SIZE;
                region_info.flags = REGION_READ | REGION_WRITE | REGION_MMAP;
                let area = vfio_region_sparse_mmap_area {
                    offset: 0x1000,
                    size: 0x1000,
                };
                sparse_areas.push(reference::SparseArea { area });
                mmap_fd = Some(memory.as_raw_fd());
            }
            reference::ServerRegion {
                region_info,
                sparse_areas,
                mmap_fd,
            }
        })
        .collect();
    let irqs = (0..PCI_IRQS)
        .map(|index| reference::IrqInfo {
            index,
            count: if index == IRQ_MSIX { 4 } else { 0 },
            flags: IRQ_EVENTFD,
        })
        .collect();
    let server = reference::Server::new(path, true, irqs, regions).unwrap();
    let mut toy = ReferenceToy {
        bar: vec![0; BAR_SIZE as usize],
        mapped,
    };
    let _ = server.run(&mut toy);
}

#[test]
fn our_client_drives_a_device_on_rust_vmms_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reference.sock");
    let mapped = Arc::new(Mutex::new(Vec::new()));
    let (at, seen) = (path.clone(), mapped.clone());
    let thread = std::thread::spawn(move || reference_server(&at, seen));
    let start = Instant::now();
    let client = loop {
        match Client::connect(&path, Duration::from_secs(5)) {
            Ok(client) => break client,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(5), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(client.device_info().unwrap().regions, PCI_REGIONS);
    let region = client.region_info(0).unwrap();
    assert_eq!(
        region.areas,
        [SparseArea {
            offset: 0x1000,
            size: 0x1000
        }]
    );
    client.region_write(0, 4, &[1, 2, 3, 4]).unwrap();
    let mut back = [0; 4];
    client.region_read(0, 4, &mut back).unwrap();
    assert_eq!(back, [1, 2, 3, 4]);
    let dma = memory(0x1000);
    client.dma_map(0x5000, 0x1000, dma.as_fd(), 0).unwrap();
    assert_eq!(*mapped.lock().unwrap(), [0x5000]);
    client.dma_unmap(0x5000, 0x1000).unwrap();
    assert_eq!(client.irq_info(IRQ_MSIX).unwrap().count, 4);
    let fds: Vec<OwnedFd> = (0..3)
        .map(|_| eventfd(0, EventfdFlags::empty()).unwrap())
        .collect();
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.set_irqs(IRQ_MSIX, 0, &borrowed).unwrap();
    client.reset().unwrap();
    client.close();
    thread.join().unwrap();
}
