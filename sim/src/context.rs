// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the ABI's SA context and its parts. The other direction is the driver's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use fpga_regs::admin::CommandStatus;
use fpga_regs::context::{self, Outer, ReplayState, SaContext, UNLIMITED};
use offload_api::replay::ReplaySnapshot;
use offload_api::sa::{
    Cipher, Direction, Grant, Integrity, KeyMaterial, Lifetimes, Limits, Mode, Numbering,
    OuterHeaders, SaParams, Spi, Suite, UdpEncapsulation,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;
use zeroize::Zeroizing;

/// An SA out of its context.
pub(crate) fn decode(sa: &SaContext) -> Result<SaParams, CommandStatus> {
    let bad = CommandStatus::BadField;
    let cipher = Cipher::from_code(sa.cipher).ok_or(CommandStatus::Unsupported)?;
    let integrity = Integrity::from_code(sa.integrity).ok_or(CommandStatus::Unsupported)?;
    let suite = Suite::new(cipher, integrity).map_err(|_| CommandStatus::Unsupported)?;
    let flag = |flag: u8| sa.flags & flag != 0;
    let outbound = flag(context::FLAG_OUTBOUND);
    let key = |octets: &[u8], len: usize| -> Result<Zeroizing<Vec<u8>>, CommandStatus> {
        octets
            .get(..len)
            .map(|key| Zeroizing::new(key.to_vec()))
            .ok_or(bad)
    };
    let keys = KeyMaterial {
        cipher: key(&sa.cipher_key, suite.cipher_key_len())?,
        salt: Zeroizing::new(sa.salt),
        integrity: key(&sa.integrity_key, suite.integrity_key_len())?,
    };
    let grant = match (
        u64::from_le_bytes(sa.grant_first),
        u64::from_le_bytes(sa.grant_last),
    ) {
        (0, _) => None,
        (first, last) => Some(Grant { first, last }),
    };
    let replay: ReplayState = part(&sa.replay)?;
    let params = SaParams {
        spi: Spi::new(u32::from_le_bytes(sa.spi)).ok_or(bad)?,
        direction: if outbound {
            Direction::Outbound
        } else {
            Direction::Inbound
        },
        mode: if flag(context::FLAG_TRANSPORT) {
            Mode::Transport
        } else {
            Mode::Tunnel
        },
        suite,
        keys,
        esn: flag(context::FLAG_ESN),
        replay_window: u32::from_le_bytes(sa.replay_window),
        replay_state: (replay.top.get() != 0).then(|| snapshot(&replay)),
        numbering: if flag(context::FLAG_EXPLICIT) {
            Numbering::Explicit
        } else {
            Numbering::Granted(grant)
        },
        outer: if flag(context::FLAG_OUTER) {
            Some(outer(&part(&sa.outer)?)?)
        } else {
            None
        },
        lifetimes: lifetimes(&part(&sa.lifetimes)?),
        selectors: Vec::new(),
    };
    params.validate().map_err(|_| bad)?;
    Ok(params)
}

fn part<T: FromBytes>(octets: &[u8]) -> Result<T, CommandStatus> {
    T::read_from_bytes(octets).map_err(|_| CommandStatus::BadField)
}

pub(crate) fn snapshot(state: &ReplayState) -> ReplaySnapshot {
    ReplaySnapshot {
        top: state.top.get(),
        seen: state.seen.iter().map(|word| word.get()).collect(),
    }
}

pub(crate) fn outer(outer: &Outer) -> Result<OuterHeaders, CommandStatus> {
    let address = |octets: [u8; 16]| match outer.version {
        4 => {
            let [a, b, c, d, ..] = octets;
            Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        6 => Ok(IpAddr::V6(Ipv6Addr::from(octets))),
        _ => Err(CommandStatus::BadField),
    };
    let udp = match (outer.source_port.get(), outer.destination_port.get()) {
        (0, 0) => None,
        (source_port, destination_port) => Some(UdpEncapsulation {
            source_port,
            destination_port,
        }),
    };
    Ok(OuterHeaders {
        source: address(outer.source)?,
        destination: address(outer.destination)?,
        udp,
    })
}

pub(crate) fn lifetimes(limits: &context::Lifetimes) -> Lifetimes {
    let limit = |value: U64| Some(value.get()).filter(|value| *value != UNLIMITED);
    let time = |value: U64| limit(value).map(Duration::from_nanos);
    Lifetimes {
        soft: Limits {
            bytes: limit(limits.soft_bytes),
            packets: limit(limits.soft_packets),
            time: time(limits.soft_time),
        },
        hard: Limits {
            bytes: limit(limits.hard_bytes),
            packets: limit(limits.hard_packets),
            time: time(limits.hard_time),
        },
    }
}
