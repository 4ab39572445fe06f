// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients that break the protocol: each is refused or cut off, nothing of it stays behind, and the next
//! client is served.
#![allow(clippy::unwrap_used)]

mod device;

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vfio_user::client::Client;
use vfio_user::message::*;
use zerocopy::IntoBytes;

use device::*;

/// What the server answers to a command: an errno, 0 for none.
fn answer(stream: &mut UnixStream, command: Command, payload: &[u8]) -> i32 {
    let request = message(9, command as u16, TYPE_COMMAND, payload);
    stream.write_all(&request).unwrap();
    let (header, _) = receive(stream);
    assert_eq!(header[0..4], request[0..4], "the request's id and command");
    u32::from_ne_bytes(header[12..16].try_into().unwrap()) as i32
}

/// Whether the server hangs up, without a reply.
fn is_cut_off(stream: &mut UnixStream) -> bool {
    let mut octet = [0];
    !matches!(stream.read(&mut octet), Ok(1))
}

fn assert_serves(rig: &Rig) {
    let client = Client::connect(&rig.path, DEADLINE).unwrap();
    assert_eq!(client.device_info().unwrap().regions, PCI_REGIONS);
}

const INVALID: i32 = Errno::INVAL.raw_os_error();

#[test]
fn v01_a_size_below_the_header_or_beyond_the_most_cuts_off() {
    let rig = Rig::new();
    for size in [0, 15, MAX_MESSAGE as u32 + 1, u32::MAX] {
        let mut stream = greeted(&rig);
        let mut octets = message(2, Command::DeviceInfo as u16, TYPE_COMMAND, &[0; 16]);
        octets[4..8].copy_from_slice(&size.to_ne_bytes());
        stream.write_all(&octets).unwrap();
        assert!(is_cut_off(&mut stream), "{size}");
        drop(stream);
        assert_serves(&rig);
    }
}

#[test]
fn v01_unknown_commands_are_refused_and_the_connection_goes_on() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    for command in [0u16, 14, 15, 99, u16::MAX] {
        let request = message(3, command, TYPE_COMMAND, &[0; 64]);
        stream.write_all(&request).unwrap();
        let (header, payload) = receive(&mut stream);
        let errno = u32::from_ne_bytes(header[12..16].try_into().unwrap());
        assert_eq!(errno as i32, Errno::NOSYS.raw_os_error(), "{command}");
        assert!(payload.is_empty());
    }
    assert_eq!(answer(&mut stream, Command::DeviceInfo, &[0; 16]), 0);
}

#[test]
fn v01_a_first_command_that_is_no_greeting_cuts_off() {
    let rig = Rig::new();
    let mut stream = UnixStream::connect(&rig.path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = message(1, Command::DeviceInfo as u16, TYPE_COMMAND, &[0; 16]);
    stream.write_all(&request).unwrap();
    assert!(is_cut_off(&mut stream));
    drop(stream);
    assert_serves(&rig);
}

#[test]
fn v01_a_reply_that_nobody_asked_for_cuts_off() {
    let rig = Rig::new();
    for flags in [TYPE_REPLY, TYPE_REPLY | FLAG_ERROR, 0xf] {
        let mut stream = greeted(&rig);
        let request = message(2, Command::DeviceInfo as u16, flags, &[0; 16]);
        stream.write_all(&request).unwrap();
        assert!(is_cut_off(&mut stream), "{flags:#x}");
        drop(stream);
        assert_serves(&rig);
    }
}

#[test]
fn v01_an_id_that_is_used_again_is_answered_again() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let request = message(5, Command::DeviceInfo as u16, TYPE_COMMAND, &[0; 16]);
    stream
        .write_all(&[&request[..], &request, &request].concat())
        .unwrap();
    for _ in 0..3 {
        let (header, payload) = receive(&mut stream);
        assert_eq!((header[0], payload.len()), (5, 16));
    }
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn send_with(stream: &UnixStream, octets: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let slice = [IoSlice::new(octets)];
    let sent = sendmsg(stream, &slice, &mut control, SendFlags::empty());
    assert_eq!(sent.unwrap(), octets.len());
}

#[test]
fn v01_more_descriptors_than_a_message_may_have_cut_off() {
    let rig = Rig::new();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut stream = greeted(&rig);
    let before = open_descriptors();
    let octets = message(6, Command::DeviceInfo as u16, TYPE_COMMAND, &[0; 16]);
    send_with(&stream, &octets, &[null.as_fd(); MAX_FDS + 1]);
    assert!(is_cut_off(&mut stream));
    drop(stream);
    assert_serves(&rig);
    assert!(open_descriptors() <= before);
}

#[test]
fn v01_descriptors_that_come_along_unasked_are_closed() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let null = std::fs::File::open("/dev/null").unwrap();
    let map = |flags: u32| DmaMapPayload {
        argsz: 32,
        flags,
        offset: 0,
        address: 0x10_0000,
        size: 0x1000,
    };
    let before = open_descriptors();
    for (count, payload, command) in [
        (1, vec![0; 16], Command::DeviceInfo),
        (9, vec![0; 16], Command::RegionRead),
        (16, vec![0xff; 20], Command::SetIrqs),
        (9, map(3).as_bytes().to_vec(), Command::DmaMap),
        (2, map(0).as_bytes().to_vec(), Command::DmaMap),
        (5, Vec::new(), Command::DeviceReset),
        (0, vec![0; 3], Command::SetIrqs),
    ] {
        let octets = message(6, command as u16, TYPE_COMMAND, &payload);
        send_with(&stream, &octets, &vec![null.as_fd(); count]);
        receive(&mut stream);
        assert_eq!(open_descriptors(), before, "{count} with {command:?}");
    }
}

#[test]
fn v01_accesses_beyond_a_region_are_refused() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    for (region, offset, count) in [
        (0, 8, 1),
        (0, 0, 9),
        (0, u64::MAX, 1),
        (0, u64::MAX - 3, 8),
        (0, 0, u32::MAX),
        (0, 0, MAX_DATA as u32 + 1),
        (1, 0, 1),
        (9, 0, 0),
        (u32::MAX, 0, 1),
    ] {
        let access = RegionAccess {
            offset,
            region,
            count,
        };
        for command in [Command::RegionRead, Command::RegionWrite] {
            let errno = answer(&mut stream, command, access.as_bytes());
            assert_eq!(errno, INVALID, "{command:?} {access:?}");
        }
    }
    // Less or more data than said.
    let access = RegionAccess {
        offset: 0,
        region: 0,
        count: 4,
    };
    for data in [0usize, 3, 5] {
        let payload = [access.as_bytes(), &vec![0; data]].concat();
        assert_eq!(answer(&mut stream, Command::RegionWrite, &payload), INVALID);
    }
}

#[test]
fn v01_interrupts_beyond_what_there_is_are_refused() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let wire = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER;
    let fire = IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER;
    for (flags, index, start, count) in [
        (wire, IRQ_MSIX, 4, 1),
        (wire, IRQ_MSIX, 0, 5),
        (wire, IRQ_MSIX, u32::MAX, 2),
        (fire, IRQ_MSIX, 1, u32::MAX),
        (fire, 0, 0, 1),
        (fire, PCI_IRQS, 0, 0),
        (fire, u32::MAX, 0, 0),
        (IRQ_SET_ACTION_TRIGGER, IRQ_MSIX, 0, 1),
    ] {
        let request = SetIrqsPayload {
            argsz: 20,
            flags,
            index,
            start,
            count,
        };
        let errno = answer(&mut stream, Command::SetIrqs, request.as_bytes());
        assert_eq!(errno, INVALID, "{request:?}");
    }
    let request = IrqInfoPayload {
        argsz: 16,
        flags: 0,
        index: PCI_IRQS,
        count: 0,
    };
    assert_eq!(
        answer(&mut stream, Command::IrqInfo, request.as_bytes()),
        INVALID
    );
}

#[test]
fn v01_d15_mappings_that_make_no_sense_are_refused() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    for (flags, offset, address, size) in [
        // No access, and one that there is not.
        (0, 0, 0, 0x1000),
        (4, 0, 0, 0x1000),
        (7, 0, 0, 0x1000),
        // Nothing, around the end, and not whole pages.
        (3, 0, 0, 0),
        (3, 0, u64::MAX - 0xfff, 0x2000),
        (3, u64::MAX - 0xfff, 0, 0x2000),
        (3, 0, 0x800, 0x1000),
        (3, 0, 0x1000, 0x800),
        (3, 0x10, 0x1000, 0x1000),
    ] {
        let request = DmaMapPayload {
            argsz: 32,
            flags,
            offset,
            address,
            size,
        };
        let errno = answer(&mut stream, Command::DmaMap, request.as_bytes());
        assert_eq!(errno, INVALID, "{request:?}");
    }
    let beyond = DmaUnmapPayload {
        argsz: 24,
        flags: 0,
        address: u64::MAX,
        size: 2,
    };
    assert_eq!(
        answer(&mut stream, Command::DmaUnmap, beyond.as_bytes()),
        INVALID
    );
}

#[test]
fn v01_half_a_message_and_a_hang_up_keep_nobody_waiting() {
    let rig = Rig::new();
    let whole = message(2, Command::RegionWrite as u16, TYPE_COMMAND, &[0; 64]);
    for length in [1, 15, 16, 17, 79] {
        let mut stream = greeted(&rig);
        stream.write_all(&whole[..length]).unwrap();
        drop(stream);
        let started = Instant::now();
        assert_serves(&rig);
        assert!(started.elapsed() < Duration::from_secs(1), "{length}");
    }
}
