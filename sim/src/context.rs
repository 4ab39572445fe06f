// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads the ABI's SA context and its parts, and writes what the card tells of an SA.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use fpga_regs::admin::CommandStatus;
use fpga_regs::context::{self, Outer, ReplayState, SaContext, SaDescription, UNLIMITED, Usage};
use offload_api::replay::ReplaySnapshot;
use offload_api::sa::{
    Cipher, Direction, Grant, Integrity, KeyMaterial, Lifetimes, Limits, Mode, Numbering,
    OuterHeaders, SaParams, SaUsage, Spi, Suite, UdpEncapsulation,
};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, FromZeros};
use zeroize::Zeroizing;

use crate::sas::CardSa;

/// An SA out of its context.
pub(crate) fn decode(sa: &SaContext) -> Result<SaParams, CommandStatus> {
    let bad = CommandStatus::BadField;
    let cipher = Cipher::from_code(sa.cipher).ok_or(CommandStatus::Unsupported)?;
    let integrity = Integrity::from_code(sa.integrity).ok_or(CommandStatus::Unsupported)?;
    let suite = Suite::new(cipher, integrity).map_err(|_| CommandStatus::Unsupported)?;
    if Suite::further().any(|further| further == suite) {
        return Err(CommandStatus::Unsupported);
    }
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
        tfc_padding: false,
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

/// An SA as the host may know it: without its keys.
pub(crate) fn describe(index: u32, generation: u32, sa: &CardSa, now: Instant) -> SaDescription {
    let suite = sa.transform.suite();
    let outbound = sa.transform.direction() == Direction::Outbound;
    let flags = [
        (outbound, context::FLAG_OUTBOUND),
        (
            sa.transform.mode() == Mode::Transport,
            context::FLAG_TRANSPORT,
        ),
        (sa.esn, context::FLAG_ESN),
        (sa.explicit, context::FLAG_EXPLICIT),
        (sa.transform.outer().is_some(), context::FLAG_OUTER),
    ];
    let flags = flags.into_iter().filter(|(set, _)| *set);
    let next = sa.state.next_sequence();
    SaDescription {
        index: index.into(),
        generation: generation.into(),
        spi: sa.transform.spi().value().into(),
        cipher: suite.cipher() as u8,
        integrity: suite.integrity() as u8,
        flags: flags.fold(0, |all, (_, flag)| all | flag),
        draining: sa.drain.is_some().into(),
        cookie: sa.cookie.into(),
        sequence_next: if outbound { next } else { 0 }.into(),
        grant_last: next
            .saturating_add(sa.state.remaining())
            .saturating_sub(1)
            .into(),
        replay_window: sa.replay_window.into(),
        reserved0: 0.into(),
        outer: sa
            .transform
            .outer()
            .map_or_else(Outer::new_zeroed, write_outer),
        lifetimes: write_lifetimes(&sa.state.lifetimes()),
        usage: usage(&sa.state.usage()),
        age: nanos(sa.state.age(now)).into(),
        reserved1: [0; 64],
    }
}

pub(crate) fn usage(usage: &SaUsage) -> Usage {
    Usage {
        packets: usage.packets.into(),
        bytes: usage.bytes.into(),
        sequence: usage.sequence.into(),
        bad_icv: usage.bad_icv.into(),
        replayed: usage.replayed.into(),
        errors: usage.errors.into(),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(UNLIMITED - 1)
}

pub(crate) fn write_outer(outer: &OuterHeaders) -> Outer {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    };
    let (source_port, destination_port) = outer
        .udp
        .map_or((0, 0), |udp| (udp.source_port, udp.destination_port));
    Outer {
        source: octets(outer.source),
        destination: octets(outer.destination),
        source_port: source_port.into(),
        destination_port: destination_port.into(),
        version: if outer.source.is_ipv4() { 4 } else { 6 },
        reserved: [0; 3],
    }
}

fn write_lifetimes(limits: &Lifetimes) -> context::Lifetimes {
    let limit = |value: Option<u64>| value.unwrap_or(UNLIMITED).into();
    context::Lifetimes {
        soft_bytes: limit(limits.soft.bytes),
        soft_packets: limit(limits.soft.packets),
        soft_time: limit(limits.soft.time.map(nanos)),
        hard_bytes: limit(limits.hard.bytes),
        hard_packets: limit(limits.hard.packets),
        hard_time: limit(limits.hard.time.map(nanos)),
    }
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
