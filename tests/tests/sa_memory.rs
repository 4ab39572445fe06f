// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engines keep of a child SA, in octets: `ike_scale` has the same of the core, and
//! `benches/ike-load.sh` of the whole daemon.

use std::sync::Arc;

use benches::counting::{Counting, in_use};
use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::cache::{Cache, SaLabel, SaName};
use offload_api::device::Accelerator;
use offload_api::failover::{Failover, FailoverConfig, OffloadLevel};
use offload_api::sa::{Cipher, Direction, Integrity, KeyMaterial, SaHandle, SaParams, Spi, Suite};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COUNT: u32 = 1000;
/// Octets that the software engine may keep of both SAs of a child, where its own kernel has the keys:
/// those of other libraries take what they take.
const MOST_OF_ENGINE: i64 = 1000;
/// What the failover around it may add.
const MOST_OF_FAILOVER: i64 = 640;

fn params(number: u32, direction: Direction) -> SaParams {
    let suite = Suite::new(Cipher::Aes128Gcm, Integrity::None).unwrap();
    let keys = KeyMaterial::from_keymat(suite, &[number as u8; 20], &[]).unwrap();
    let spi = Spi::new(0x1000 + number).unwrap();
    let mut params = SaParams::tunnel(spi, direction, suite, keys);
    params.lifetimes.hard.time = Some(std::time::Duration::from_secs(3960));
    params
}

/// Octets of each child of `COUNT`.
fn each(install: impl Fn(&SaParams) -> SaHandle) -> i64 {
    let both = |number| {
        for direction in [Direction::Inbound, Direction::Outbound] {
            install(&params(number, direction));
        }
    };
    // What is there once does not count.
    both(0);
    let before = in_use();
    (1..=COUNT).for_each(both);
    (in_use() - before) / i64::from(COUNT)
}

#[test]
fn the_engines_keep_little_of_a_child() {
    let engine = || {
        SoftwareEngine::new(SoftwareConfig {
            threads: 1,
            ..SoftwareConfig::default()
        })
        .unwrap()
    };
    let alone = engine();
    let of_engine = each(|sa| alone.install(sa).unwrap());
    let cache = Cache::create("sa-memory", 1 << 14).unwrap();
    let cache = Arc::new(cache.writer().unwrap());
    let both = Failover::new(None, Arc::new(engine()), cache, FailoverConfig::default());
    let label = SaLabel {
        name: SaName::new("load/net"),
        ..SaLabel::default()
    };
    let with_failover = each(|sa| both.install_at(OffloadLevel::Auto, sa, label).unwrap());
    let of_failover = with_failover - of_engine;
    println!("{of_engine} octets in the engine, {of_failover} in the failover");
    if alone.info().firmware.contains("AES-128-GCM by vaes") {
        assert!(of_engine <= MOST_OF_ENGINE, "{of_engine} octets");
    }
    assert!(of_failover <= MOST_OF_FAILOVER, "{of_failover} octets");
}
