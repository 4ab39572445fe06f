// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A connection whose client has died goes on with the next one, whatever it had left in the socket.
#![allow(clippy::unwrap_used)]

mod device;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use device::{Rig, greeted, message};
use vfio_user::Error;
use vfio_user::client::Client;

const DEADLINE: Duration = Duration::from_secs(2);
const READ: u16 = 9;

/// Reads a region's octet.
fn read_region(id: u16) -> Vec<u8> {
    let mut payload = 0u64.to_ne_bytes().to_vec();
    payload.extend(0u32.to_ne_bytes());
    payload.extend(1u32.to_ne_bytes());
    message(id, READ, 0, &payload)
}

/// What a keeper holds while the client dies.
fn kept(stream: &UnixStream) -> UnixStream {
    OwnedFd::from(stream.try_clone().unwrap()).into()
}

fn works(client: &Client) {
    let mut octet = [9];
    client.region_read(0, 0, &mut octet).unwrap();
    assert_eq!(octet, [0]);
    client.region_read(0, 1, &mut octet).unwrap();
}

#[test]
fn a_connection_goes_on_where_its_client_had_read_everything() {
    let rig = Rig::new();
    let stream = greeted(&rig);
    let kept = kept(&stream);
    drop(stream);
    works(&Client::resume(kept, DEADLINE).unwrap());
}

#[test]
fn answers_that_nobody_has_read_are_thrown_away() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let kept = kept(&stream);
    for id in 0..200 {
        stream.write_all(&read_region(id)).unwrap();
    }
    drop(stream);
    works(&Client::resume(kept, DEADLINE).unwrap());
}

#[test]
fn an_answer_that_was_read_in_part_does_not_shift_the_rest() {
    for part in 1..40 {
        let rig = Rig::new();
        let mut stream = greeted(&rig);
        let kept = kept(&stream);
        stream.write_all(&read_region(7)).unwrap();
        stream.write_all(&read_region(8)).unwrap();
        let mut octets = vec![0; part];
        stream.read_exact(&mut octets).unwrap();
        drop(stream);
        works(&Client::resume(kept, DEADLINE).unwrap());
    }
}

#[test]
fn half_a_command_is_told_and_not_guessed_at() {
    let rig = Rig::new();
    let mut stream = greeted(&rig);
    let kept = kept(&stream);
    let command = read_region(7);
    stream.write_all(&command[..command.len() - 3]).unwrap();
    drop(stream);
    let error = Client::resume(kept, Duration::from_millis(300)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout { .. } | Error::Gone | Error::Protocol { .. }
        ),
        "{error}"
    );
    // The device is there for the next one as soon as this one is let go of.
    let mut fresh = greeted(&rig);
    fresh.write_all(&read_region(3)).unwrap();
}

#[test]
fn a_device_that_has_gone_is_gone() {
    let rig = Rig::new();
    let kept = kept(&greeted(&rig));
    drop(rig);
    let error = Client::resume(kept, DEADLINE).unwrap_err();
    assert!(matches!(error, Error::Gone | Error::Io(_)), "{error}");
}
