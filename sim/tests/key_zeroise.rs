// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keys leave no trace in the card's process once their SA, or the driver, is gone.
//!
//! A test of its own process: it looks through all of the memory, where the key is kept only by the
//! card and, complemented, here.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use fpga_regs::admin::{Command, CommandCompletion, Opcode};
use fpga_regs::context::{FLAG_OUTBOUND, Lifetimes, SaContext, UNLIMITED};
use fpga_regs::registers::{Control, REGISTER_BAR, admin_queue, control};
use offload_api::sa::Suite;
use sim::{CardConfig, RunningCard};
use vfio_user::client::Client;
use vfio_user::message::REGION_CONFIG;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroize;

const PAYLOAD: u64 = 0x3000;

struct Host {
    client: Client,
    memory: OwnedFd,
    commands: u64,
}

impl Host {
    fn new(path: &std::path::Path) -> Self {
        let client = Client::connect(path, Duration::from_secs(5)).unwrap();
        let memory = rustix::fs::memfd_create("host", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 0x4000).unwrap();
        client.dma_map(0, 0x4000, memory.as_fd(), 0).unwrap();
        client.region_write(REGION_CONFIG, 4, &[6, 0]).unwrap();
        let host = Self {
            client,
            memory,
            commands: 0,
        };
        host.enable();
        host
    }

    fn enable(&self) {
        self.register(admin_queue::COMPLETION_BASE, 0x2000);
        self.register(admin_queue::DEPTH, 64);
        self.register(control::CONTROL, Control::ENABLE.bits());
    }

    fn register(&self, at: u64, value: u32) {
        let octets = value.to_le_bytes();
        self.client.region_write(REGISTER_BAR, at, &octets).unwrap();
    }

    fn command(&mut self, command: &Command) -> CommandCompletion {
        rustix::io::pwrite(&self.memory, command.as_bytes(), self.commands * 64).unwrap();
        let mut done = CommandCompletion::new_zeroed();
        self.register(admin_queue::TAIL, self.commands as u32 + 1);
        rustix::io::pread(
            &self.memory,
            done.as_mut_bytes(),
            0x2000 + self.commands * 32,
        )
        .unwrap();
        self.commands += 1;
        assert_eq!(done.status, 0);
        done
    }

    /// Adds an SA with the key whose complement this is, and forgets the key as a driver does.
    fn add(&mut self, complement: &[u8; 32]) -> CommandCompletion {
        let mut sa = Box::new(SaContext::new_zeroed());
        sa.spi = [1; 4];
        sa.cipher = Suite::AES_256_GCM.cipher() as u8;
        sa.integrity = Suite::AES_256_GCM.integrity() as u8;
        sa.flags = FLAG_OUTBOUND;
        for (octet, from) in sa.cipher_key.iter_mut().zip(complement) {
            *octet = !from;
        }
        let mut limits = Lifetimes::new_zeroed();
        limits
            .as_mut_bytes()
            .copy_from_slice(&[UNLIMITED; 6].map(u64::to_le_bytes).concat());
        sa.lifetimes.copy_from_slice(limits.as_bytes());
        rustix::io::pwrite(&self.memory, sa.as_bytes(), PAYLOAD).unwrap();
        sa.zeroize();
        let mut add = Command::new_zeroed();
        add.opcode = Opcode::SaAdd as u8;
        add.payload = PAYLOAD.into();
        add.payload_len = (size_of::<SaContext>() as u32).into();
        let done = self.command(&add);
        rustix::io::pwrite(&self.memory, &[0; size_of::<SaContext>()], PAYLOAD).unwrap();
        done
    }
}

/// How often a half of the key is found in this process.
fn traces(complement: &[u8; 32]) -> usize {
    const STEP: usize = 1 << 20;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut buffer = vec![0u8; STEP];
    let own = buffer.as_ptr() as u64;
    let own = own..own + STEP as u64;
    let mut found = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let mut at = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        while at < end {
            buffer.zeroize();
            buffer.resize(STEP.min((end - at) as usize), 0);
            let Ok(len) = memory.read_at(&mut buffer, at) else {
                break;
            };
            for (offset, window) in buffer[..len].windows(16).enumerate() {
                let address = at + offset as u64;
                let half = |half: &[u8]| window.iter().zip(half).all(|(a, b)| *a == !*b);
                if !own.contains(&address) && (half(&complement[..16]) || half(&complement[16..])) {
                    found += 1;
                }
            }
            if len < STEP {
                break;
            }
            // A key across two steps is seen too.
            at += (len - 15) as u64;
        }
    }
    buffer.zeroize();
    found
}

fn complement(seed: u8) -> [u8; 32] {
    let mut state = u64::from(seed) | 0x9e37_79b9_7f4a_7c00;
    std::array::from_fn(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
}

#[test]
fn keys_are_gone_after_retire_reset_and_disconnect() {
    let dir = tempfile::tempdir().unwrap();
    let config = CardConfig::new(dir.path().join("card.sock"));
    let card = RunningCard::start(&config).unwrap();
    let mut host = Host::new(&config.socket);

    let key = complement(1);
    let sa = host.add(&key);
    assert!(traces(&key) > 0, "the search finds a key that is there");
    let mut retire = Command::new_zeroed();
    retire.opcode = Opcode::SaRetire as u8;
    (retire.index, retire.generation) = (sa.index, sa.generation);
    host.command(&retire);
    assert_eq!(traces(&key), 0, "after retire");

    let key = complement(2);
    host.add(&key);
    assert!(traces(&key) > 0);
    host.register(control::CONTROL, Control::RESET.bits());
    assert_eq!(traces(&key), 0, "after reset");

    rustix::io::pwrite(&host.memory, &[0; 0x4000], 0).unwrap();
    host.commands = 0;
    host.enable();
    let key = complement(3);
    host.add(&key);
    assert!(traces(&key) > 0);
    drop(host);
    // The next driver is served only when the one before is cleared away.
    let host = Host::new(&config.socket);
    assert_eq!(traces(&key), 0, "after the driver has gone");
    drop(host);
    card.stop().unwrap();
}
