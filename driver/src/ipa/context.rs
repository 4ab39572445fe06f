// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes the ABI's SA context and its parts, and reads what an SA has done.

use std::net::IpAddr;
use std::time::Duration;

use fpga_regs::context::{self, Lifetimes, Outer, ReplayState, SaContext, UNLIMITED, Usage};
use offload_api::replay::ReplaySnapshot;
use offload_api::sa::{self, Direction, Mode, Numbering, OuterHeaders, SaParams, SaUsage};
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

/// How an SA's key comes to the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyWay {
    /// In the context, with which it lies in memory that the card reads.
    Context,
    /// By the key mailbox.
    Mailbox,
}

/// The context of an SA, zeroised when dropped.
pub(super) fn encode(sa: &SaParams, cookie: u64, key: KeyWay) -> Zeroizing<Vec<u8>> {
    let mut context = SaContext::new_zeroed();
    context.cookie = cookie.to_le_bytes();
    context.spi = sa.spi.value().to_le_bytes();
    context.cipher = sa.suite.cipher() as u8;
    context.integrity = sa.suite.integrity() as u8;
    let flags = [
        (sa.direction == Direction::Outbound, context::FLAG_OUTBOUND),
        (sa.mode == Mode::Transport, context::FLAG_TRANSPORT),
        (sa.esn, context::FLAG_ESN),
        (sa.numbering == Numbering::Explicit, context::FLAG_EXPLICIT),
        (sa.outer.is_some(), context::FLAG_OUTER),
        (key == KeyWay::Mailbox, context::FLAG_MAILBOX),
    ];
    context.flags = flags
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |all, (_, flag)| all | flag);
    context.replay_window = sa.replay_window.to_le_bytes();
    if key == KeyWay::Context {
        context.salt = *sa.keys.salt;
        copy(&mut context.cipher_key, &sa.keys.cipher);
        copy(&mut context.integrity_key, &sa.keys.integrity);
    }
    if let Numbering::Granted(Some(grant)) = sa.numbering {
        context.grant_first = grant.first.to_le_bytes();
        context.grant_last = grant.last.to_le_bytes();
    }
    if let Some(headers) = &sa.outer {
        copy(&mut context.outer, outer(headers).as_bytes());
    }
    copy(&mut context.lifetimes, lifetimes(&sa.lifetimes).as_bytes());
    if let Some(seen) = &sa.replay_state {
        copy(&mut context.replay, replay(seen).as_bytes());
    }
    let octets = Zeroizing::new(context.as_bytes().to_vec());
    zeroize::Zeroize::zeroize(&mut context);
    octets
}

/// Lengths were checked when the SA was validated.
fn copy(into: &mut [u8], from: &[u8]) {
    for (octet, value) in into.iter_mut().zip(from) {
        *octet = *value;
    }
}

pub(super) fn outer(headers: &OuterHeaders) -> Outer {
    let octets = |address: IpAddr| {
        let mut field = [0; 16];
        match address {
            IpAddr::V4(v4) => copy(&mut field, &v4.octets()),
            IpAddr::V6(v6) => field = v6.octets(),
        }
        field
    };
    let (source_port, destination_port) = headers
        .udp
        .map_or((0, 0), |udp| (udp.source_port, udp.destination_port));
    Outer {
        source: octets(headers.source),
        destination: octets(headers.destination),
        source_port: source_port.into(),
        destination_port: destination_port.into(),
        version: if headers.source.is_ipv4() { 4 } else { 6 },
        reserved: [0; 3],
    }
}

pub(super) fn lifetimes(limits: &sa::Lifetimes) -> Lifetimes {
    let limit = |value: Option<u64>| value.unwrap_or(UNLIMITED).into();
    let time = |value: Option<Duration>| {
        limit(value.map(|time| u64::try_from(time.as_nanos()).unwrap_or(UNLIMITED - 1)))
    };
    Lifetimes {
        soft_bytes: limit(limits.soft.bytes),
        soft_packets: limit(limits.soft.packets),
        soft_time: time(limits.soft.time),
        hard_bytes: limit(limits.hard.bytes),
        hard_packets: limit(limits.hard.packets),
        hard_time: time(limits.hard.time),
    }
}

pub(super) fn replay(seen: &ReplaySnapshot) -> ReplayState {
    let mut state = ReplayState::new_zeroed();
    state.top = seen.top.into();
    for (word, value) in state.seen.iter_mut().zip(&seen.seen) {
        *word = (*value).into();
    }
    state
}

/// What the card says that an SA has done.
pub(super) fn usage(told: &Usage) -> SaUsage {
    SaUsage {
        packets: told.packets.get(),
        bytes: told.bytes.get(),
        sequence: told.sequence.get(),
        bad_icv: told.bad_icv.get(),
        replayed: told.replayed.get(),
        errors: told.errors.get(),
    }
}
