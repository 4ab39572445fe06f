// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that has no descriptor left for a client. Alone in its program: the limit is everybody's.
#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vfio_user::client::Client;
use vfio_user::server::{Backend, DmaMapping, Server, ServerRegion};

struct Nothing;

impl Backend for Nothing {
    fn disconnected(&mut self) {}
    fn region(&self, _: u32) -> ServerRegion<'_> {
        ServerRegion::default()
    }
    fn irq_count(&self, _: u32) -> u32 {
        0
    }
    fn region_read(&mut self, _: u32, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }
    fn region_write(&mut self, _: u32, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }
    fn dma_map(&mut self, _: DmaMapping) -> Result<(), Errno> {
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

#[test]
fn a_server_short_of_descriptors_serves_again_when_there_are_some() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device.sock");
    let server = Server::bind(&path).unwrap();
    let stop = server.stop_handle();
    let thread = std::thread::spawn(move || server.serve(&mut Nothing));
    // Ours goes first, so that the server is the one that finds none.
    let waiting = UnixStream::connect(&path);
    drop(waiting);
    let before = getrlimit(Resource::Nofile);
    let client = {
        let stream = UnixStream::connect(&path).unwrap();
        drop(stream);
        let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let tight = Rlimit {
            current: Some(used),
            maximum: before.maximum,
        };
        let spare = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        setrlimit(Resource::Nofile, tight).unwrap();
        // One descriptor is free: the client takes it.
        drop(spare);
        let stream = UnixStream::connect(&path);
        std::thread::sleep(Duration::from_millis(300));
        setrlimit(Resource::Nofile, before).unwrap();
        assert!(!thread.is_finished(), "the server gave up");
        drop(stream);
        Client::connect(&path, Duration::from_secs(5)).unwrap()
    };
    client.device_info().unwrap();
    drop(client);
    stop.stop();
    thread.join().unwrap().unwrap();
}
