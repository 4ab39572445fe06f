// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs installed in a second: one by one, and many with a command; and how long a failover takes to give
//! a card that has returned its SAs back. See `benches/sa-install.sh`.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_harness::packet::sa;
use benches::own_card::{OwnCard, be_the_card_if_asked, pin};
use driver::DeviceAddress;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::CacheWriter;
use offload_api::device::Accelerator;
use offload_api::event::Engine;
use offload_api::failover::{Failover, FailoverConfig, HoldOff};
use offload_api::sa::{Direction, Numbering, SaParams, Suite};

const SAS: u32 = 20_000;
/// SAs that return, half of them outbound.
const RETURNING: u32 = 10_000;

/// From a card that is well again to the last SA in it.
fn time_to_return() -> Duration {
    let process = OwnCard::start(false).unwrap();
    let card = driver::open(&DeviceAddress::User(process.socket())).unwrap();
    pin(1).unwrap();
    let config = FailoverConfig {
        sample: 0,
        hold_off: HoldOff::NONE,
        ..FailoverConfig::default()
    };
    let software = Arc::new(SoftwareEngine::new(SoftwareConfig::default()).unwrap());
    let cache = Arc::new(CacheWriter::create("sa-return", RETURNING).unwrap());
    let both = Failover::new(Some(card.clone()), software, cache, config);
    for n in 0..RETURNING {
        let direction = [Direction::Inbound, Direction::Outbound][n as usize % 2];
        let params = SaParams {
            esn: true,
            replay_window: if n % 2 == 0 { 1024 } else { 0 },
            numbering: Numbering::Granted(None),
            ..sa(direction, Suite::AES_256_GCM, n)
        };
        both.install(&params).unwrap();
    }
    card.give_up("to see how long its return takes");
    both.tick();
    let start = Instant::now();
    both.try_return().unwrap();
    both.tick();
    let took = start.elapsed();
    let there = both.placements();
    assert!(
        there
            .iter()
            .all(|(_, placed)| placed.engine == Engine::Device)
    );
    assert_eq!(card.counters().sas, u64::from(RETURNING));
    took
}

fn main() {
    be_the_card_if_asked();
    let suite = Suite::AES_256_GCM;
    let sas: Vec<SaParams> = (0..SAS)
        .map(|n| SaParams {
            esn: true,
            replay_window: 1024,
            ..sa(Direction::Inbound, suite, n)
        })
        .collect();
    let measure = |at_once: bool| {
        let process = OwnCard::start(false).unwrap();
        let card = driver::open(&DeviceAddress::User(process.socket())).unwrap();
        pin(1).unwrap();
        let start = Instant::now();
        if at_once {
            let all: Vec<_> = sas.iter().map(|sa| (sa, 0)).collect();
            assert!(card.install_many(&all).iter().all(Result::is_ok));
        } else {
            assert!(sas.iter().all(|sa| card.install(sa).is_ok()));
        }
        let took = start.elapsed();
        assert_eq!(card.counters().sas, u64::from(SAS));
        f64::from(SAS) / took.as_secs_f64()
    };
    let report = serde_json::json!({
        "sas": SAS,
        "one_by_one_per_second": measure(false).round(),
        "many_at_once_per_second": measure(true).round(),
        "returning": RETURNING,
        "return_ms": time_to_return().as_secs_f64() * 1e3,
    });
    println!("{report:#}");
}
