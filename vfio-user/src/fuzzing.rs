// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Entry points for fuzzing: hostile octets at either end.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::channel::Channel;
use crate::client::{Client, PrivateMemory};
use crate::message::*;
use crate::server::{self, Backend, ClientMemory, DmaMapping, ServerRegion};

/// A device of a few regions, small enough that no reply fills the socket.
#[derive(Default)]
struct Toy {
    memory: Vec<u8>,
    maps: usize,
    /// Asked at unmappings, and at writes to region 5.
    client: Option<ClientMemory>,
}

const TOY_REGION: usize = 256;
const AREAS: [SparseArea; 1] = [SparseArea {
    offset: 0,
    size: 128,
}];

impl Backend for Toy {
    fn disconnected(&mut self) {}

    fn region(&self, index: u32) -> ServerRegion<'_> {
        let areas: &[SparseArea] = if index == 2 { &AREAS } else { &[] };
        ServerRegion {
            size: self.memory.len() as u64,
            flags: REGION_READ
                | if index == REGION_CONFIG {
                    0
                } else {
                    REGION_WRITE
                },
            areas,
            memory: None,
        }
    }

    fn irq_count(&self, index: u32) -> u32 {
        if index == IRQ_MSIX { 8 } else { 0 }
    }

    fn region_read(&mut self, _: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let end = offset as usize + data.len();
        // What the server promises: the access lies within the region.
        data.copy_from_slice(&self.memory[offset as usize..end]);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        assert_ne!(region, REGION_CONFIG, "it is not writable");
        let end = offset as usize + data.len();
        self.memory[offset as usize..end].copy_from_slice(data);
        match &self.client {
            Some(client) if region == 5 => client.write(offset, data).map_err(|e| (&e).into()),
            _ => Ok(()),
        }
    }

    fn dma_map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        assert!(mapping.address.checked_add(mapping.size).is_some());
        self.maps += 1;
        Ok(())
    }

    fn dma_unmap(&mut self, address: u64, size: u64) -> Result<(), Errno> {
        assert!(address.checked_add(size).is_some());
        let mut data = [0; 16];
        let client = self.client.as_ref();
        client.map_or(Ok(()), |client| {
            client.read(address, &mut data).map_err(|e| (&e).into())
        })
    }

    fn dma_unmap_all(&mut self) {}

    fn set_irq(&mut self, index: u32, vector: u32, _: Option<OwnedFd>) {
        assert!(index == IRQ_MSIX && vector < 8);
    }

    fn trigger_irq(&mut self, index: u32, vector: u32) {
        assert!(index == IRQ_MSIX && vector < 8);
    }

    fn reset(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Memory at address 0 that a device may ask for.
struct Page(Vec<u8>);

impl PrivateMemory for Page {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let from = self.0.get(iova as usize..).ok_or(Errno::FAULT)?;
        data.copy_from_slice(from.get(..data.len()).ok_or(Errno::FAULT)?);
        Ok(())
    }

    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let into = self.0.get_mut(iova as usize..).ok_or(Errno::FAULT)?;
        into.get_mut(..data.len())
            .ok_or(Errno::FAULT)?
            .copy_from_slice(data);
        Ok(())
    }
}

fn header(id: u16, command: u16, flags: u32, len: usize) -> Header {
    Header {
        id,
        command,
        size: (HEADER_LEN + len) as u32,
        flags,
        error: 0,
    }
}

/// A client sends these octets: at once when `raw`, else as payloads of commands that are framed
/// well, behind a version that is agreed on.
pub fn server(octets: &[u8], raw: bool) {
    let Ok((mut client, stream)) = UnixStream::pair() else {
        return;
    };
    let Ok(stop) = eventfd(0, EventfdFlags::CLOEXEC) else {
        return;
    };
    if stream.set_nonblocking(true).is_err() {
        return;
    }
    let mut sent = Vec::new();
    if raw {
        sent.extend_from_slice(octets);
    } else {
        sent.extend_from_slice(header(1, 1, TYPE_COMMAND, 4).as_bytes());
        sent.extend_from_slice(&[0, 0, 1, 0]);
        let mut rest = octets;
        let mut answers = 0;
        while let [command, len, behind @ ..] = rest {
            let payload = behind.get(..usize::from(*len)).unwrap_or(behind);
            let header = match u16::from(command % 16) {
                // Answers to what the server asks.
                code @ 14.. => {
                    answers += 1;
                    header(answers - 1, code - 3, TYPE_REPLY, payload.len())
                }
                code => header(2, code, TYPE_COMMAND, payload.len()),
            };
            sent.extend_from_slice(header.as_bytes());
            sent.extend_from_slice(payload);
            rest = behind.get(payload.len()..).unwrap_or_default();
        }
    }
    sent.truncate(1 << 16);
    let Ok(mut reader) = client.try_clone() else {
        return;
    };
    // Replies must go somewhere.
    let drain = std::thread::spawn(move || {
        let mut replies = Vec::new();
        let _ = reader.read_to_end(&mut replies);
        replies
    });
    if client.write_all(&sent).is_ok() {
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut toy = Toy {
            memory: vec![0; TOY_REGION],
            ..Toy::default()
        };
        if let Ok(channel) = Channel::new(stream, Arc::new(stop)) {
            toy.client = Some(channel.memory());
            let Err(_) = server::converse(&channel, &mut toy);
            channel.close();
        }
    }
    let _ = drain.join();
}

/// A device answers with these octets: payloads of replies that are framed well, behind a version
/// that is agreed on.
pub fn client(octets: &[u8]) {
    let Ok((mut device, stream)) = UnixStream::pair() else {
        return;
    };
    let commands = [
        Command::DeviceInfo,
        Command::RegionInfo,
        Command::IrqInfo,
        Command::RegionRead,
        Command::RegionWrite,
        Command::DeviceReset,
    ];
    let (mut sent, mut rest) = (Vec::new(), octets);
    let mut take = |most: usize| {
        let Some((len, behind)) = rest.split_first() else {
            return Vec::new();
        };
        let payload = behind.get(..usize::from(*len).min(most)).unwrap_or(behind);
        rest = behind.get(payload.len()..).unwrap_or_default();
        payload.to_vec()
    };
    let mut version = vec![0, 0, 1, 0];
    version.extend(take(64));
    sent.extend_from_slice(header(1, 1, TYPE_REPLY, version.len()).as_bytes());
    sent.extend_from_slice(&version);
    for (command, id) in commands.iter().cycle().take(24).zip(2..) {
        let payload = take(255);
        // Now and then an error instead of the reply, a command, or a question for memory before it.
        let asks = match payload.first() {
            Some(0xfd) => Some(Command::DmaRead),
            Some(0xfc) => Some(Command::DmaWrite),
            _ => None,
        };
        if let Some(asks) = asks {
            let question = take(255);
            sent.extend_from_slice(header(0, asks as u16, TYPE_COMMAND, question.len()).as_bytes());
            sent.extend_from_slice(&question);
        }
        let flags = match payload.first() {
            Some(0xff) => TYPE_COMMAND,
            Some(0xfe) => TYPE_REPLY | FLAG_ERROR,
            _ => TYPE_REPLY,
        };
        sent.extend_from_slice(header(id, *command as u16, flags, payload.len()).as_bytes());
        sent.extend_from_slice(&payload);
    }
    let Ok(mut sink) = device.try_clone() else {
        return;
    };
    let drain = std::thread::spawn(move || {
        let _ = std::io::copy(&mut sink, &mut std::io::sink());
    });
    if device.write_all(&sent).is_ok() {
        let _ = device.shutdown(std::net::Shutdown::Write);
        if let Ok(client) = Client::from_stream(stream, Duration::from_secs(1)) {
            client.set_private_memory(Box::new(Page(vec![0; 4096])));
            let mut data = [0; 16];
            for _ in 0..4 {
                let _ = client.device_info();
                if let Ok(region) = client.region_info(0) {
                    assert!(region.areas.len() <= 64 * 64);
                }
                let _ = client.irq_info(2);
                let _ = client.region_read(0, 0, &mut data);
                let _ = client.region_write(0, 0, &data);
                let _ = client.reset();
            }
        }
    }
    drop(device);
    let _ = drain.join();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn octets_of_a_client_break_no_server(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::server(&octets, true);
        }

        #[test]
        fn commands_of_a_client_break_no_server(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::server(&octets, false);
        }

        #[test]
        fn replies_of_a_device_break_no_client(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::client(&octets);
        }
    }
}
