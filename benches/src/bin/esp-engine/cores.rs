// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What two cores do, and what one does.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bench_harness::stats::median;
use crossbeam_utils::CachePadded;
use serde_json::json;

use crate::Options;
use crate::bare::{Written, bare, material};
use crate::rig::{Pair, Times, engine, install};

/// Bursts after which some megabytes have been written since: more than a core's own cache holds.
pub(crate) const AHEAD: usize = 3;

/// What a helper stays awake between bursts: longer than it takes to fill some.
const BETWEEN: Duration = Duration::from_millis(10);

/// What they take for a packet together, each on a core of its own.
fn at_once(pairs: &mut [Pair]) -> [f64; 2] {
    let taken = on_cores(pairs, Pair::round);
    [0, 1].map(|which| together(taken.iter().map(|each| each[which])))
}

/// Large bursts of one SA, which the engine takes to its cores: of packets that this core has just
/// written, or, `ahead` bursts later, of such as neither core has in a cache of its own, as a device's are. The helper
/// stays awake between them, or sleeps.
pub(crate) fn one_sa(
    size: usize,
    ahead: usize,
    awake: bool,
    options: &Options,
) -> serde_json::Value {
    // The first ones of a round find everybody asleep.
    let bursts = (options.cores_kilobytes * 1000 / (size * options.large_burst)).max(11);
    let shape = (size, options.large_burst);
    let busy_poll = if awake { BETWEEN } else { Duration::ZERO };
    let mut pairs = [2, 1, 1].map(|threads| {
        let engine = engine(threads, busy_poll);
        Pair::new(&engine, &install(&engine, 1), shape, bursts, ahead)
    });
    let written = Written::new(shape, ahead, bursts);
    let packets = match ahead {
        0 => "just written by the caller's core",
        _ => "in no core's own cache",
    };
    let cell = Cell {
        sas: 1,
        size,
        burst: options.large_burst,
        packets,
        helpers: Some(if awake { "awake" } else { "asleep" }),
    };
    cell.compare(options, Some(written), |who| {
        let taken = match who {
            Who::OneCore => pairs[1].round(),
            Who::TwoCores => pairs[0].round(),
            Who::Apart => at_once(&mut pairs[1..]),
        };
        // Nobody else is measured beside a helper that is awake.
        std::thread::sleep(busy_poll * 2);
        taken
    })
}

/// Who does a round.
#[derive(Clone, Copy)]
enum Who {
    OneCore,
    TwoCores,
    /// Two cores that share no engine: what the same work gains where nothing of ours is between them.
    Apart,
}

/// Where two cores are compared with one.
struct Cell {
    sas: usize,
    size: usize,
    burst: usize,
    packets: &'static str,
    /// Where the engine has such, what they do between bursts.
    helpers: Option<&'static str>,
}

impl Cell {
    /// How much more two cores do than one, of sealing and of opening, of the AEAD alone, and of that handed over, if it
    /// is, and what a mere look takes there: medians of the rounds'. What they take for a packet is measured by `round`.
    fn compare(
        &self,
        options: &Options,
        mut written: Option<Written>,
        mut round: impl FnMut(Who) -> [f64; 2],
    ) -> serde_json::Value {
        let mut gains = [Who::TwoCores, Who::Apart].map(|who| (who, [const { Vec::new() }; 2]));
        let (mut ones, mut alone) = ([const { Vec::new() }; 2], Vec::new());
        let (mut handed_over, mut looked_at, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let one = round(Who::OneCore);
            for (one, ones) in one.iter().zip(&mut ones) {
                ones.push(*one);
            }
            for (who, gains) in &mut gains {
                for (two, (one, gains)) in round(*who).iter().zip(one.iter().zip(gains)) {
                    gains.push(one / two);
                }
            }
            alone.push(processors(self.size));
            handed_over.extend(written.as_mut().map(Written::gain));
            looked_at.extend(written.as_mut().map(Written::looked_at));
            lines.push(round_trip());
        }
        let of =
            |[seal, open]: &[Vec<f64>; 2]| json!({ "seal": median(seal), "open": median(open) });
        json!({
            "sas": self.sas,
            "size": self.size,
            "burst": self.burst,
            "packets": self.packets,
            "helpers": self.helpers,
            "one_core_ns": of(&ones),
            "two_cores": of(&gains[0].1),
            "apart": of(&gains[1].1),
            "aead": median(&alone),
            "aead_handed_over": written.as_ref().map(|_| median(&handed_over)),
            "looked_at_ns": written.map(|_| median(&looked_at)),
            "line_ns": median(&lines),
        })
    }
}

/// Those that are compared with one.
const CORES: usize = 2;

/// Has each done on a core of its own, a third on the first's, all at once.
fn on_cores<T: Send, R: Send>(work: &mut [T], each: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let start = Barrier::new(work.len());
    std::thread::scope(|scope| {
        let begin = |(core, work): (usize, _)| {
            let (start, each) = (&start, &each);
            scope.spawn(move || {
                let mut set = nix::sched::CpuSet::new();
                set.set(core % CORES).unwrap();
                nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).unwrap();
                start.wait();
                each(work)
            })
        };
        let workers: Vec<_> = work.iter_mut().enumerate().map(begin).collect();
        let done = workers.into_iter().map(|worker| worker.join().unwrap());
        done.collect()
    })
}

/// Nanoseconds in which a cache line goes from one core to the other and back: some hundred where they share a cache.
fn round_trip() -> f64 {
    const TIMES: usize = 5000;
    let line = CachePadded::new(AtomicUsize::new(0));
    let taken = on_cores(&mut [0, 1], |which| {
        let start = Instant::now();
        for n in (*which..2 * TIMES).step_by(2) {
            while line.load(Ordering::Acquire) != n {
                std::hint::spin_loop();
            }
            line.store(n + 1, Ordering::Release);
        }
        start.elapsed()
    });
    taken[0].as_nanos() as f64 / TIMES as f64
}

/// Nanoseconds a packet of what several do together.
fn together(each: impl IntoIterator<Item = f64>) -> f64 {
    1.0 / each.into_iter().map(f64::recip).sum::<f64>()
}

/// How much more two cores do of the AEAD alone than one, each on its own: what the processors give whoever uses
/// them. Those of a virtual machine may be threads of one core, now and then.
fn processors(size: usize) -> f64 {
    // Some milliseconds: whoever is woken begins late.
    const BURSTS: usize = 2000;
    let mut work = on_cores(&mut [(), ()], |()| {
        (material(size, 1, 32), Times::with_room(BURSTS))
    });
    let seal =
        |((keys, bodies), times): &mut ((Vec<_>, Vec<_>), Times)| bare(keys, bodies, times, BURSTS);
    together(on_cores(&mut work[..1], seal)) / together(on_cores(&mut work, seal))
}

/// A worker on each core, run to completion, with a queue pair of its own, and so many SAs of its own or, for none,
/// one that both have: alone, both at once, and both with an engine each. Two's figures are of what they do together.
pub(crate) fn workers(size: usize, own: usize, options: &Options) -> serde_json::Value {
    let bursts = (options.cores_kilobytes * 1000 / (size * options.burst)).max(1);
    let shape = (size, options.burst);
    let (shared, other) = (engine(1, Duration::ZERO), engine(1, Duration::ZERO));
    let sas = own.max(1);
    let first = install(&shared, sas);
    let second = match own {
        0 => first.clone(),
        _ => install(&shared, sas),
    };
    let third = install(&other, sas);
    // Made by threads that run at once, as workers do: what one thread makes lies side by side in memory.
    let mut of = [(&shared, &first), (&shared, &second), (&other, &third)];
    let mut pairs = on_cores(&mut of, |(engine, sas)| {
        let mut pair = Pair::new(engine, sas, shape, bursts, 0);
        if own == 0 {
            pair.shares_its_sa();
        }
        pair
    });
    let cell = Cell {
        sas,
        size,
        burst: options.burst,
        packets: "of a worker on each core",
        helpers: None,
    };
    cell.compare(options, None, |who| {
        let pairs = match who {
            Who::OneCore => &mut pairs[..1],
            Who::TwoCores => &mut pairs[..2],
            Who::Apart => &mut pairs[1..],
        };
        at_once(pairs)
    })
}
