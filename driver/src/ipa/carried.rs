// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SAs that a card carries, as it tells them.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use fpga_regs::admin::{CommandStatus, Opcode};
use fpga_regs::context::{self, SaDescription, UNLIMITED};
use offload_api::carried::CarriedSa;
use offload_api::error::DeviceError;
use offload_api::sa::{
    Direction, Lifetimes, Limits, Mode, OuterHeaders, Spi, Suite, UdpEncapsulation,
};
use zerocopy::FromBytes;

use super::context::usage;
use super::life::Life;

/// SAs from an index on, at most so many, each known to `life` from then on.
pub(super) fn carried(life: &Life, from: u32, most: usize) -> Result<Vec<CarriedSa>, DeviceError> {
    let mut sas = Vec::new();
    if most == 0 {
        return Ok(sas);
    }
    let sound = walk(life, from, |told| {
        sas.extend(decode(life, told));
        sas.len() < most
    })?;
    if !sound {
        return Err(DeviceError::Protocol {
            what: "description of an SA".to_owned(),
        });
    }
    Ok(sas)
}

/// Has each SA from an index on told, as long as more are wanted. False where the card said what can't be,
/// which ends the walk.
pub(super) fn walk(
    life: &Life,
    from: u32,
    mut tell: impl FnMut(&SaDescription) -> bool,
) -> Result<bool, DeviceError> {
    const AT_ONCE: usize = SaDescription::AT_ONCE;
    let mut next = from;
    loop {
        let room = [0; AT_ONCE * size_of::<SaDescription>()];
        let answer = life.command(Opcode::SaNext, next, 0, [0; 5], &room)?;
        // Stale: there is none any more.
        if answer.status != CommandStatus::Ok {
            return Ok(true);
        }
        let count = usize::try_from(answer.value).unwrap_or(AT_ONCE);
        let told = answer
            .payload
            .as_chunks::<{ size_of::<SaDescription>() }>()
            .0;
        for octets in told.iter().take(count.max(1)) {
            let Some(told) = describe(octets, next..life.capabilities.max_sas) else {
                return Ok(false);
            };
            next = told.index.get().saturating_add(1);
            if !tell(&told) {
                return Ok(true);
            }
        }
    }
}

/// The suite of an SA, if it is one that we know.
pub(super) fn suite(told: &SaDescription) -> Option<Suite> {
    Suite::all().find(|suite| {
        (suite.cipher() as u8, suite.integrity() as u8) == (told.cipher, told.integrity)
    })
}

/// What a card says of an SA, if its index is one of those that may follow: a card that goes back, or
/// stays at its end, would keep us for ever.
fn describe(octets: &[u8], indexes: Range<u32>) -> Option<SaDescription> {
    let told = SaDescription::read_from_bytes(octets).ok()?;
    (indexes.contains(&told.index.get()) && told.generation.get() != 0).then_some(told)
}

/// Nothing where the card says what no SA can be.
fn decode(life: &Life, told: &SaDescription) -> Option<CarriedSa> {
    let is = |flag| told.flags & flag != 0;
    Some(CarriedSa {
        spi: Spi::new(told.spi.get())?,
        sa: life.meet(told.index.get(), told.generation.get()),
        cookie: told.cookie.get(),
        direction: if is(context::FLAG_OUTBOUND) {
            Direction::Outbound
        } else {
            Direction::Inbound
        },
        mode: if is(context::FLAG_TRANSPORT) {
            Mode::Transport
        } else {
            Mode::Tunnel
        },
        suite: suite(told),
        esn: is(context::FLAG_ESN),
        explicit: is(context::FLAG_EXPLICIT),
        replay_window: told.replay_window.get(),
        outer: is(context::FLAG_OUTER).then(|| outer(&told.outer)),
        lifetimes: lifetimes(&told.lifetimes),
        usage: usage(&told.usage),
        age: Duration::from_nanos(told.age.get()),
        next: told.sequence_next.get(),
        granted: told.grant_last.get(),
        draining: told.draining != 0,
    })
}

fn outer(told: &context::Outer) -> OuterHeaders {
    let address = |octets: [u8; 16]| match told.version {
        4 => {
            let [a, b, c, d, ..] = octets;
            IpAddr::from([a, b, c, d])
        }
        _ => IpAddr::from(octets),
    };
    let ports = (told.source_port.get(), told.destination_port.get());
    OuterHeaders {
        source: address(told.source),
        destination: address(told.destination),
        udp: (ports != (0, 0)).then_some(UdpEncapsulation {
            source_port: ports.0,
            destination_port: ports.1,
        }),
    }
}

fn lifetimes(told: &context::Lifetimes) -> Lifetimes {
    let limit = |value: u64| (value != UNLIMITED).then_some(value);
    let time = |value: u64| limit(value).map(Duration::from_nanos);
    Lifetimes {
        soft: Limits {
            bytes: limit(told.soft_bytes.get()),
            packets: limit(told.soft_packets.get()),
            time: time(told.soft_time.get()),
        },
        hard: Limits {
            bytes: limit(told.hard_bytes.get()),
            packets: limit(told.hard_packets.get()),
            time: time(told.hard_time.get()),
        },
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use sim::{CardConfig, RunningCard};

    use super::super::NullCrypto;
    use super::super::life::Start;
    use super::*;
    use crate::transport::user::UserTransport;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn what_a_card_told_before_does_not_unseat_an_sa_that_came_after() {
        let dir = tempfile::tempdir().unwrap();
        let config = CardConfig::new(dir.path().join("card.sock"));
        let card = RunningCard::start(&config).unwrap();
        let transport = Box::new(UserTransport::connect(&config.socket).unwrap());
        let life = Life::begin(transport, 1, Start::Afresh, NullCrypto::Refused).unwrap();
        let mut told = SaDescription::new_zeroed();
        (told.index, told.generation, told.spi) = (3.into(), 1.into(), 0x1000.into());
        let old = decode(&life, &told).unwrap().sa;
        assert_eq!(
            life.card_generation(old),
            Some(1),
            "an empty place is filled"
        );
        life.forget(old);
        let new = life.adopt(3, 2);
        decode(&life, &told).unwrap();
        assert_eq!(life.card_generation(new), Some(2));
        assert_eq!(life.card_generation(old), None);
        // Retired by one thread, whose place another's SA has by then.
        life.forget(old);
        assert_eq!(life.card_generation(new), Some(2));
        drop(life);
        card.stop().unwrap();
    }

    #[test]
    fn a_card_that_names_an_index_beyond_its_table_or_goes_back_is_not_believed() {
        let believed = |index: u32, next| {
            let mut told = SaDescription::new_zeroed();
            told.index = index.into();
            told.generation = 1.into();
            describe(told.as_bytes(), next..64).is_some()
        };
        assert!(believed(0, 0) && believed(63, 1) && believed(63, 63));
        assert!(!believed(64, 0) && !believed(u32::MAX, 0), "beyond it");
        assert!(!believed(62, 63) && !believed(63, 64), "again");
    }
}
