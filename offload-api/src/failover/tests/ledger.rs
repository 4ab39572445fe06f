// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A second record of numbers: for keys that outlive the SA cache.

use super::*;
use crate::failover::NumberLedger;

#[derive(Default)]
struct Notes {
    last: AtomicU64,
    full: AtomicBool,
}

impl NumberLedger for Notes {
    fn record(&self, last: u64) -> Result<(), String> {
        if self.full.load(Ordering::SeqCst) {
            return Err("no space left".to_owned());
        }
        self.last.fetch_max(last, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn every_number_is_in_the_ledger_before_it_is_used_and_none_is_used_that_is_not() {
    let bench = bench(77, 64);
    let notes = Arc::new(Notes::default());
    let mut outbound = params(0x1000, Direction::Outbound);
    // It goes on where an earlier process left off.
    outbound.numbering = Numbering::Granted(Some(Grant {
        first: 1000,
        last: 1000,
    }));
    let ledger: Arc<dyn NumberLedger> = notes.clone();
    let install = || {
        let ledger = Some(ledger.clone());
        bench
            .both
            .install_recorded(OffloadLevel::Auto, &outbound, 0, ledger)
    };
    let sa = install().unwrap();
    let mut queue = bench.both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let mut last = 999;
    for round in 0..40 {
        match round {
            13 => bench.device.set_mood(Mood::Gone),
            26 => {
                bench.device.set_mood(Mood::Well);
                bench.come_back();
            }
            _ => {}
        }
        bench.both.tick();
        for done in bench.send(&mut *queue, sa, 16) {
            if done.status.is_ok() {
                assert!(done.sequence > last, "{} after {last}", done.sequence);
                last = done.sequence;
                assert!(last <= notes.last.load(Ordering::SeqCst), "round {round}");
            }
        }
    }
    assert!(last > 1500, "{last}");

    notes.full.store(true, Ordering::SeqCst);
    let recorded = notes.last.load(Ordering::SeqCst);
    let mut refused = 0;
    for _ in 0..20 {
        bench.both.tick();
        for done in bench.send(&mut *queue, sa, 16) {
            if done.status.is_ok() {
                assert!(done.sequence <= recorded);
            } else {
                assert_eq!(done.status, Status::SequenceExhausted);
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
    assert!(
        install().is_err(),
        "an SA that has no record is not installed"
    );
}
