// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs installed in a second: one by one, and many with a command. See `benches/sa-install.sh`.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use bench_harness::packet::sa;
use benches::own_card::{OwnCard, be_the_card_if_asked, pin};
use driver::DeviceAddress;
use offload_api::device::Accelerator;
use offload_api::sa::{Direction, SaParams, Suite};

const SAS: u32 = 20_000;

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
    });
    println!("{report:#}");
}
