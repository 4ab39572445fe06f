// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that a client maps without a descriptor: the device asks for it by `DMA_READ` and `DMA_WRITE`,
//! from the thread that serves commands and from others, and outlives clients that answer badly.
#![allow(clippy::unwrap_used)]

mod device;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vfio_user::Error;
use vfio_user::client::{Client, PrivateMemory};
use vfio_user::message::*;

use device::*;

fn client(rig: &Rig, memory: &Arc<Mutex<Vec<u8>>>) -> Client {
    let client = Client::connect(&rig.path, DEADLINE).unwrap();
    client.set_private_memory(Box::new(Private(memory.clone())));
    client.dma_map_private(0, 0x1000).unwrap();
    client
}

/// Memory from address 0 on.
struct Private(Arc<Mutex<Vec<u8>>>);

impl PrivateMemory for Private {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let memory = self.0.lock().unwrap();
        let at = iova as usize;
        data.copy_from_slice(memory.get(at..at + data.len()).ok_or(Errno::FAULT)?);
        Ok(())
    }
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let mut memory = self.0.lock().unwrap();
        let at = iova as usize;
        let into = memory.get_mut(at..at + data.len()).ok_or(Errno::FAULT)?;
        into.copy_from_slice(data);
        Ok(())
    }
}

fn counting() -> Arc<Mutex<Vec<u8>>> {
    Arc::new(Mutex::new((0..0x1000).map(|at| at as u8).collect()))
}

#[test]
fn a_device_asks_while_it_serves_a_command() {
    let rig = Rig::new();
    let memory = counting();
    let client = client(&rig, &memory);
    client.region_write(0, 0, &0x20u64.to_le_bytes()).unwrap();
    let octets = memory.lock().unwrap()[0x120..0x130].to_vec();
    assert_eq!(octets, (0x20..0x30).collect::<Vec<u8>>());
    // What the client refuses fails the command, not the connection.
    let refused = client.region_write(0, 0, &0x8000u64.to_le_bytes());
    assert!(
        matches!(
            refused,
            Err(Error::Refused {
                errno: Errno::FAULT,
                ..
            })
        ),
        "{refused:?}"
    );
    client.region_write(0, 0, &0x40u64.to_le_bytes()).unwrap();
}

#[test]
fn another_thread_asks_while_commands_come_in() {
    let rig = Rig::new();
    let memory = counting();
    let client = Arc::new(client(&rig, &memory));
    let asks = rig.asks();
    let device = std::thread::spawn(move || {
        for round in 0..200u64 {
            let address = 0x200 + (round % 16) * 64;
            asks.write(address, &round.to_le_bytes()).unwrap();
            let mut back = [0; 8];
            asks.read(address, &mut back).unwrap();
            assert_eq!(u64::from_le_bytes(back), round);
        }
    });
    let mut data = [0; 8];
    while !device.is_finished() {
        client.region_read(0, 0, &mut data).unwrap();
        client.region_write(0, 0, &0x20u64.to_le_bytes()).unwrap();
        // As a driver that has nothing to say.
        client.serve(Duration::from_millis(1)).unwrap();
    }
    device.join().unwrap();
}

#[test]
fn long_requests_are_cut_into_what_the_client_takes() {
    let rig = Rig::new();
    let length = MAX_DATA + 4096;
    let memory = Arc::new(Mutex::new(
        (0..length).map(|at| (at / 4096) as u8).collect::<Vec<_>>(),
    ));
    let client = client(&rig, &memory);
    let asks = rig.asks();
    let device = std::thread::spawn(move || {
        let mut octets = vec![0; length];
        asks.read(0, &mut octets).unwrap();
        octets
    });
    while !device.is_finished() {
        client.serve(Duration::from_millis(1)).unwrap();
    }
    assert!(device.join().unwrap() == *memory.lock().unwrap());
}

/// What becomes of a request that is answered so: nothing is answered where it is nothing.
fn asked(answer: impl FnOnce(u16, &[u8]) -> Option<Vec<u8>>) -> (Result<(), Error>, bool) {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let asks = rig.asks();
    let device = std::thread::spawn(move || {
        let mut octets = [0; 8];
        asks.read(0x40, &mut octets)
    });
    let (header, payload) = receive(&mut stream);
    assert_eq!(
        u16::from_ne_bytes([header[2], header[3]]),
        Command::DmaRead as u16
    );
    let id = u16::from_ne_bytes([header[0], header[1]]);
    if let Some(answer) = answer(id, &payload) {
        stream.write_all(&answer).unwrap();
    }
    let result = device.join().unwrap();
    // Either it is served on, or it is cut off and the next client is served.
    let alive = stream.write_all(&message(7, 4, 0, &[0; 16])).is_ok() && {
        let mut header = [0; 16];
        stream.read_exact(&mut header).is_ok()
    };
    drop(stream);
    Client::connect(&rig.path, DEADLINE)
        .unwrap()
        .device_info()
        .unwrap();
    (result, alive)
}

const READ: u16 = Command::DmaRead as u16;

#[test]
fn v01_a_short_dma_reply_fails_the_access() {
    let (result, _) = asked(|id, request| {
        let short = [request, &[1, 2, 3]].concat();
        Some(message(id, READ, TYPE_REPLY, &short))
    });
    assert!(
        matches!(
            result,
            Err(Error::Protocol {
                what: "octets read",
                found: 3
            })
        ),
        "{result:?}"
    );
}

#[test]
fn v01_a_dma_error_reply_fails_the_access_and_nothing_else() {
    let (result, alive) = asked(|id, _| Some(message(id, READ, TYPE_REPLY | FLAG_ERROR, &[])));
    assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
    assert!(alive);
}

#[test]
fn v01_a_client_that_does_not_answer_a_dma_request_is_cut_off() {
    let started = Instant::now();
    let (result, alive) = asked(|_, _| None);
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    assert!(!alive && started.elapsed() < Duration::from_secs(3));
}

#[test]
fn v01_a_dma_reply_to_nobody_or_of_another_command_cuts_its_sender_off() {
    let (result, alive) =
        asked(|id, request| Some(message(id.wrapping_add(1), READ, TYPE_REPLY, request)));
    // Whichever thread reads it: both are told.
    assert!(result.is_err());
    assert!(!alive);
    let (result, alive) = asked(|id, request| Some(message(id, 12, TYPE_REPLY, request)));
    assert!(result.is_err());
    assert!(!alive);
}

#[test]
fn v01_a_client_that_hangs_up_amid_a_dma_request_fails_it_at_once() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let asks = rig.asks();
    let later = asks.clone();
    let device = std::thread::spawn(move || asks.write(0, &[0; 64]));
    receive(&mut stream);
    let started = Instant::now();
    drop(stream);
    assert!(device.join().unwrap().is_err());
    assert!(started.elapsed() < Duration::from_millis(400));
    // Its memory is nobody's any more.
    Client::connect(&rig.path, DEADLINE).unwrap();
    assert!(later.read(0, &mut [0; 8]).is_err());
}

#[test]
fn commands_that_come_before_the_answer_are_served_after_it() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let asks = rig.asks();
    let device = std::thread::spawn(move || {
        let mut octets = [0; 8];
        asks.read(0x40, &mut octets).map(|()| octets)
    });
    let (header, request) = receive(&mut stream);
    let id = u16::from_ne_bytes([header[0], header[1]]);
    let info = message(40, 4, 0, &[0; 16]);
    let answer = message(id, READ, TYPE_REPLY, &[&request[..], &[9; 8]].concat());
    stream
        .write_all(&[info.clone(), info.clone(), answer, info].concat())
        .unwrap();
    assert_eq!(device.join().unwrap().unwrap(), [9; 8]);
    for _ in 0..3 {
        let (header, payload) = receive(&mut stream);
        assert_eq!((header[0], payload.len()), (40, 16));
    }
}
