// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The structures lie in memory like those of the RTL: `fpga/rtl/ipa_layout_check.sv` reads the same
//! octets.
#![allow(clippy::unwrap_used)]

use fpga_regs::admin::{Command, CommandCompletion};
use fpga_regs::context::{Lifetimes, Outer, ReplayState, SaContext, Usage};
use fpga_regs::descriptor::{Completion, Event, GatherEntry, Submission};
use zerocopy::FromBytes;

/// The octets of `localparam logic [n:0] GoldenNAME = n'hDIGITS;`, first in memory first.
fn golden(name: &str) -> Vec<u8> {
    let line = include_str!("../../rtl/golden.svh")
        .lines()
        .find(|line| line.contains(&format!(" Golden{name} = ")))
        .unwrap();
    let digits = line.rsplit_once("'h").unwrap().1.trim_end_matches(';');
    let mut octets: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    octets.reverse();
    octets
}

/// The 64-bit word at this octet.
fn word(octets: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(octets[at..at + 8].try_into().unwrap())
}

#[test]
fn submission_lies_as_in_the_rtl() {
    let octets = golden("Submission");
    let submission = Submission::read_from_bytes(&octets).unwrap();
    assert_eq!(submission.opcode, 0x01);
    assert_eq!(submission.flags, 0x02);
    assert_eq!(submission.entries.get(), 0x0403);
    assert_eq!(submission.slot.get(), 0x0807_0605);
    assert_eq!(submission.slot_generation.get(), 0x0c0b_0a09);
    assert_eq!(submission.sa_index.get(), 0x100f_0e0d);
    assert_eq!(submission.sa_generation.get(), 0x1413_1211);
    assert_eq!(submission.buffer_len.get(), 0x1817_1615);
    assert_eq!(submission.buffer.get(), 0x201f_1e1d_1c1b_1a19);
    assert_eq!(submission.offset.get(), 0x2423_2221);
    assert_eq!(submission.len.get(), 0x2827_2625);
    assert_eq!(submission.sequence.get(), 0x302f_2e2d_2c2b_2a29);
    assert_eq!(submission.iv[..], octets[48..64]);
}

#[test]
fn gather_entry_lies_as_in_the_rtl() {
    let octets = golden("GatherEntry");
    let entry = GatherEntry::read_from_bytes(&octets).unwrap();
    assert_eq!(entry.iova.get(), 0x0807_0605_0403_0201);
    assert_eq!(entry.len.get(), 0x0c0b_0a09);
    assert_eq!(entry.reserved.get(), 0x100f_0e0d);
}

#[test]
fn completion_lies_as_in_the_rtl() {
    let octets = golden("Completion");
    let completion = Completion::read_from_bytes(&octets).unwrap();
    assert_eq!(completion.slot.get(), 0x0403_0201);
    assert_eq!(completion.slot_generation.get(), 0x0807_0605);
    assert_eq!(completion.sequence.get(), 0x100f_0e0d_0c0b_0a09);
    assert_eq!(completion.offset.get(), 0x1413_1211);
    assert_eq!(completion.next_header, 0x15);
    assert_eq!(completion.reserved[..], octets[21..24]);
    assert_eq!(completion.len.get(), 0x1c1b_1a19);
    assert_eq!(completion.position.get(), 0x1e1d);
    assert_eq!(completion.status, 0x1f);
    assert_eq!(completion.phase, 0x20);
}

#[test]
fn event_lies_as_in_the_rtl() {
    let octets = golden("Event");
    let event = Event::read_from_bytes(&octets).unwrap();
    assert_eq!(event.sa_index.get(), 0x0403_0201);
    assert_eq!(event.sa_generation.get(), 0x0807_0605);
    assert_eq!(event.value.get(), 0x100f_0e0d_0c0b_0a09);
    assert_eq!(event.time.get(), 0x1817_1615_1413_1211);
    assert_eq!(event.reserved[..], octets[24..30]);
    assert_eq!(event.kind, 0x1f);
    assert_eq!(event.phase, 0x20);
}

#[test]
fn command_lies_as_in_the_rtl() {
    let octets = golden("Command");
    let command = Command::read_from_bytes(&octets).unwrap();
    assert_eq!(command.opcode, 0x01);
    assert_eq!(command.reserved0, 0x02);
    assert_eq!(command.id.get(), 0x0403);
    assert_eq!(command.index.get(), 0x0807_0605);
    assert_eq!(command.generation.get(), 0x0c0b_0a09);
    assert_eq!(command.payload_len.get(), 0x100f_0e0d);
    assert_eq!(command.payload.get(), 0x1817_1615_1413_1211);
    for (n, value) in command.arguments.iter().enumerate() {
        assert_eq!(value.get(), word(&octets, 24 + 8 * n));
    }
}

#[test]
fn command_completion_lies_as_in_the_rtl() {
    let octets = golden("CommandCompletion");
    let command_completion = CommandCompletion::read_from_bytes(&octets).unwrap();
    assert_eq!(command_completion.id.get(), 0x0201);
    assert_eq!(command_completion.reserved0.get(), 0x0403);
    assert_eq!(command_completion.index.get(), 0x0807_0605);
    assert_eq!(command_completion.generation.get(), 0x0c0b_0a09);
    assert_eq!(command_completion.reserved1.get(), 0x100f_0e0d);
    assert_eq!(command_completion.value.get(), 0x1817_1615_1413_1211);
    assert_eq!(command_completion.reserved2[..], octets[24..30]);
    assert_eq!(command_completion.status, 0x1f);
    assert_eq!(command_completion.phase, 0x20);
}

#[test]
fn outer_lies_as_in_the_rtl() {
    let octets = golden("Outer");
    let outer = Outer::read_from_bytes(&octets).unwrap();
    assert_eq!(outer.source[..], octets[0..16]);
    assert_eq!(outer.destination[..], octets[16..32]);
    assert_eq!(outer.source_port.get(), 0x2221);
    assert_eq!(outer.destination_port.get(), 0x2423);
    assert_eq!(outer.version, 0x25);
    assert_eq!(outer.reserved[..], octets[37..40]);
}

#[test]
fn lifetimes_lies_as_in_the_rtl() {
    let octets = golden("Lifetimes");
    let lifetimes = Lifetimes::read_from_bytes(&octets).unwrap();
    assert_eq!(lifetimes.soft_bytes.get(), 0x0807_0605_0403_0201);
    assert_eq!(lifetimes.soft_packets.get(), 0x100f_0e0d_0c0b_0a09);
    assert_eq!(lifetimes.soft_time.get(), 0x1817_1615_1413_1211);
    assert_eq!(lifetimes.hard_bytes.get(), 0x201f_1e1d_1c1b_1a19);
    assert_eq!(lifetimes.hard_packets.get(), 0x2827_2625_2423_2221);
    assert_eq!(lifetimes.hard_time.get(), 0x302f_2e2d_2c2b_2a29);
}

#[test]
fn replay_state_lies_as_in_the_rtl() {
    let octets = golden("ReplayState");
    let replay_state = ReplayState::read_from_bytes(&octets).unwrap();
    assert_eq!(replay_state.top.get(), 0x0807_0605_0403_0201);
    for (n, value) in replay_state.seen.iter().enumerate() {
        assert_eq!(value.get(), word(&octets, 8 + 8 * n));
    }
}

#[test]
fn usage_lies_as_in_the_rtl() {
    let octets = golden("Usage");
    let usage = Usage::read_from_bytes(&octets).unwrap();
    assert_eq!(usage.packets.get(), 0x0807_0605_0403_0201);
    assert_eq!(usage.bytes.get(), 0x100f_0e0d_0c0b_0a09);
    assert_eq!(usage.sequence.get(), 0x1817_1615_1413_1211);
    assert_eq!(usage.bad_icv.get(), 0x201f_1e1d_1c1b_1a19);
    assert_eq!(usage.replayed.get(), 0x2827_2625_2423_2221);
    assert_eq!(usage.errors.get(), 0x302f_2e2d_2c2b_2a29);
}

#[test]
fn sa_context_lies_as_in_the_rtl() {
    let octets = golden("SaContext");
    let sa_context = SaContext::read_from_bytes(&octets).unwrap();
    assert_eq!(sa_context.spi[..], octets[0..4]);
    assert_eq!(sa_context.cipher, 0x05);
    assert_eq!(sa_context.integrity, 0x06);
    assert_eq!(sa_context.flags, 0x07);
    assert_eq!(sa_context.reserved0, 0x08);
    assert_eq!(sa_context.replay_window[..], octets[8..12]);
    assert_eq!(sa_context.salt[..], octets[12..16]);
    assert_eq!(sa_context.cipher_key[..], octets[16..48]);
    assert_eq!(sa_context.integrity_key[..], octets[48..112]);
    assert_eq!(sa_context.grant_first[..], octets[112..120]);
    assert_eq!(sa_context.grant_last[..], octets[120..128]);
    assert_eq!(sa_context.outer[..], octets[128..168]);
    assert_eq!(sa_context.lifetimes[..], octets[168..216]);
    assert_eq!(sa_context.replay[..], octets[216..736]);
    assert_eq!(sa_context.cookie[..], octets[736..744]);
    assert_eq!(sa_context.reserved1[..], octets[744..1024]);
}
