// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole ESP in tunnel mode through the software engine's queue pair, against the AEAD alone, in turn:
//! `benches/esp-engine.sh` reads it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use bench_harness::packet::{inner, op, sa};
use bench_harness::stats::median;
use benches::counting::{Counting, allocations};
use clap::Parser;
use crossbeam_utils::CachePadded;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use esp_aead::{Aad, Algorithm, Packet, seal_burst};
use offload_api::device::Accelerator;
use offload_api::frame::{Frame, FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::replay::WINDOW_MAX;
use offload_api::sa::{Direction, OuterHeaders, SaHandle, SaParams, Suite};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Parser)]
struct Options {
    /// Rounds, each of every cell in turn.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Octets of an inner packet, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "64,1420")]
    sizes: Vec<usize>,
    /// SAs that a burst's packets have in turn.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    sas: Vec<usize>,
    /// Packets of a burst on one core.
    #[arg(long, default_value_t = 32)]
    burst: usize,
    /// Packets of a burst where cores are compared.
    #[arg(long, default_value_t = 4096)]
    large_burst: usize,
    /// Octets of packets that a round works on, in thousands.
    #[arg(long, default_value_t = 4000)]
    kilobytes: usize,
    /// The same where cores are compared: some milliseconds, of which the begin, when whoever is woken comes late and
    /// finds nothing in its caches, is a small part.
    #[arg(long, default_value_t = 100_000)]
    cores_kilobytes: usize,
    /// One core only.
    #[arg(long)]
    one_core: bool,
}

/// Bursts after which some megabytes have been written since: more than a core's own cache holds.
const AHEAD: usize = 3;

/// What a helper stays awake between bursts: longer than it takes to fill some.
const BETWEEN: Duration = Duration::from_millis(10);

/// Octets of a frame.
const FRAME: usize = 2048;

const SUITE: Suite = Suite::AES_128_GCM;

fn params(direction: Direction, number: usize) -> SaParams {
    SaParams {
        esn: true,
        // Bursts of one SA fit, of several workers, too.
        replay_window: match direction {
            Direction::Outbound => 0,
            Direction::Inbound => WINDOW_MAX,
        },
        outer: Some(OuterHeaders {
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            udp: None,
        }),
        ..sa(direction, SUITE, number as u32)
    }
}

/// With so many threads, of which the helpers stay awake for so long.
fn engine(threads: usize, busy_poll: Duration) -> SoftwareEngine {
    let config = SoftwareConfig {
        threads,
        busy_poll,
        ..SoftwareConfig::default()
    };
    SoftwareEngine::new(config).unwrap()
}

/// SAs to seal with, and to open.
type Sas = [Vec<SaHandle>; 2];

fn install(engine: &SoftwareEngine, count: usize) -> Sas {
    [Direction::Outbound, Direction::Inbound].map(|direction| {
        let each = (0..count).map(|sa| engine.install(&params(direction, sa)).unwrap());
        each.collect()
    })
}

/// A queue pair with its SAs, and frames that go round.
struct Rig {
    queue: Box<dyn QueuePair>,
    sas: Vec<SaHandle>,
    ops: Vec<Op>,
    done: Vec<Done>,
    /// The last burst's are behind.
    frames: Vec<Frame>,
    /// Filled before, the earliest in front.
    filled: VecDeque<Vec<Frame>>,
    /// Bursts between filling and handing over.
    ahead: usize,
    packets: Vec<Vec<u8>>,
    /// Others open with its SA, too: what was stopped for long comes too late.
    may_be_late: bool,
}

impl Rig {
    /// For packets that are sealed, or, sealed by another rig, opened.
    fn new(engine: &SoftwareEngine, sas: &[SaHandle], packets: Vec<Vec<u8>>, ahead: usize) -> Self {
        let frames = packets.len() * (ahead + 1);
        let pool = FramePool::new(FramePoolConfig {
            slots: frames as u32,
            slot_size: FRAME as u32,
            ..FramePoolConfig::default()
        })
        .unwrap();
        let burst = packets.len();
        let depth = (burst as u32).next_power_of_two().max(2);
        Self {
            sas: sas.to_vec(),
            queue: engine.open_queue(&QueueConfig { depth }).unwrap(),
            ops: Vec::with_capacity(burst),
            done: Vec::with_capacity(burst),
            frames: (0..frames).map(|_| pool.alloc().unwrap()).collect(),
            filled: (0..=ahead).map(|_| Vec::with_capacity(burst)).collect(),
            ahead: ahead + 1,
            packets,
            may_be_late: false,
        }
    }

    /// A burst from hand-over to the last completion; filling the frames is not in it. Nothing as long as
    /// none was filled long enough ago.
    fn burst(&mut self) -> Option<Duration> {
        let count = self.packets.len();
        // Emptied by the burst before.
        let mut set = self.filled.pop_front().unwrap();
        for (mut frame, packet) in self.frames.drain(..count).zip(&self.packets) {
            assert!(frame.fill(packet));
            set.push(frame);
        }
        self.filled.push_back(set);
        if self.ahead > 1 {
            self.ahead -= 1;
            return None;
        }
        let sas = self.sas.iter().cycle();
        let set = self.filled.front_mut().unwrap();
        self.ops
            .extend(set.drain(..).zip(sas).map(|(frame, &sa)| op(sa, frame)));
        let start = Instant::now();
        self.queue.enqueue(&mut self.ops).unwrap();
        self.queue.kick().unwrap();
        self.queue.dequeue(&mut self.done, count).unwrap();
        let taken = start.elapsed();
        let late = self.may_be_late;
        let good = |done: &Done| match done.status {
            Status::Ok => true,
            // Left of the window a number is taken for one of the next 2^32 (RFC 4303 appendix A2.2).
            status => late && matches!(status, Status::TooOld | Status::BadIcv),
        };
        assert!(self.done.len() == count && self.done.iter().all(good));
        self.frames
            .extend(self.done.drain(..).map(|done| done.frame));
        Some(taken)
    }
}

/// What each burst of a round took.
struct Times(Vec<Duration>);

impl Times {
    fn with_room(bursts: usize) -> Self {
        Self(Vec::with_capacity(bursts))
    }

    /// Nanoseconds a packet in the round's middle burst, and room for the next round.
    fn take(&mut self, packets: usize) -> f64 {
        let middle = self.0.len() / 2;
        let (_, median, _) = self.0.select_nth_unstable(middle);
        let taken = median.as_nanos() as f64 / packets as f64;
        self.0.clear();
        taken
    }
}

/// A rig that seals, and one that opens what it sealed; in cache lines of its own.
#[repr(align(64))]
struct Pair {
    seal: Rig,
    open: Rig,
    times: [Times; 2],
    bursts: usize,
}

impl Pair {
    fn new(
        engine: &SoftwareEngine,
        [outbound, inbound]: &Sas,
        (size, burst): (usize, usize),
        bursts: usize,
        ahead: usize,
    ) -> Self {
        // Room for sealed packets.
        let roomy = vec![Vec::with_capacity(size + 128); burst];
        Self {
            seal: Rig::new(engine, outbound, vec![inner(size); burst], ahead),
            open: Rig::new(engine, inbound, roomy, ahead),
            times: [(); 2].map(|()| Times::with_room(bursts)),
            bursts,
        }
    }

    /// Each number once: nanoseconds a packet of sealing and of opening.
    fn round(&mut self) -> [f64; 2] {
        let count = self.seal.packets.len();
        while self.times[1].0.len() < self.bursts {
            let Some(taken) = self.seal.burst() else {
                continue;
            };
            self.times[0].0.push(taken);
            let sealed = self.seal.frames.iter().rev().take(count);
            for (packet, frame) in self.open.packets.iter_mut().rev().zip(sealed) {
                packet.clear();
                packet.extend_from_slice(frame);
            }
            self.times[1].0.extend(self.open.burst());
        }
        self.times.each_mut().map(|times| times.take(count))
    }
}

/// Bodies that the AEAD alone seals at once.
const TOGETHER: usize = 32;

/// Seals [`TOGETHER`] bodies at most by the AEAD alone.
#[inline]
fn seal_bare<'body>(
    keys: &[esp_aead::Key],
    bodies: impl Iterator<Item = &'body mut [u8]>,
    tags: &mut [[u8; 16]],
    n: usize,
) {
    let mut packets: ArrayVec<_, TOGETHER> = bodies
        .zip(tags)
        .zip(keys.iter().cycle())
        .map(|((body, tag), key)| Packet::new(key, &[n as u8; 12], Aad::from([7; 8]), body, tag))
        .collect();
    seal_burst(&mut packets);
}

/// The AEAD alone, on bodies of the length that ESP makes of a packet.
fn bare(keys: &[esp_aead::Key], bodies: &mut [Vec<u8>], times: &mut Times, bursts: usize) -> f64 {
    let mut tags = vec![[0; 16]; bodies.len()];
    for n in 0..bursts {
        let start = Instant::now();
        let together = bodies.chunks_mut(TOGETHER).zip(tags.chunks_mut(TOGETHER));
        for (bodies, tags) in together {
            seal_bare(keys, bodies.iter_mut().map(Vec::as_mut_slice), tags, n);
        }
        times.0.push(start.elapsed());
    }
    times.take(bodies.len())
}

/// What they take for a packet together, each on a core of its own.
fn at_once(pairs: &mut [Pair]) -> [f64; 2] {
    let taken = on_cores(pairs, Pair::round);
    [0, 1].map(|which| together(taken.iter().map(|each| each[which])))
}

/// Keys of so many SAs, and a burst's bodies of the length that ESP makes of a packet.
fn material(size: usize, sas: usize, burst: usize) -> (Vec<esp_aead::Key>, Vec<Vec<u8>>) {
    let key = |sa: usize| {
        let key: Vec<u8> = (0..16).map(|n| (n + sa) as u8).collect();
        esp_aead::Key::new(Algorithm::Aes128Gcm, esp_aead::Direction::Seal, &key).unwrap()
    };
    let bodies = vec![vec![0; (size + 2).next_multiple_of(4)]; burst];
    ((0..sas).map(key).collect(), bodies)
}

fn one_core(size: usize, sas: usize, options: &Options) -> serde_json::Value {
    let bursts = (options.kilobytes * 1000 / (size * options.burst)).max(1);
    let engine = engine(1, Duration::ZERO);
    let shape = (size, options.burst);
    let mut pair = Pair::new(&engine, &install(&engine, sas), shape, bursts, 0);
    let (keys, mut bodies) = material(size, sas, options.burst);
    let [mut sealing, mut opening, mut alone] =
        [(); 3].map(|()| Vec::with_capacity(options.rounds + 1));
    let mut times = Times::with_room(bursts);
    let mut allocated = 0;
    for turn in 0..=options.rounds {
        alone.push(bare(&keys, &mut bodies, &mut times, bursts));
        let before = allocations();
        let [sealed, opened] = pair.round();
        sealing.push(sealed);
        opening.push(opened);
        // The first round is a warm-up.
        if turn == 0 {
            for times in [&mut alone, &mut sealing, &mut opening] {
                times.clear();
            }
        } else {
            allocated += allocations() - before;
        }
    }
    json!({
        "size": size,
        "sas": sas,
        "aead_ns": median(&alone),
        "seal_ns": median(&sealing),
        "open_ns": median(&opening),
        "allocations": allocated,
    })
}

/// Half of a burst's bodies, each in room of a frame's size.
struct Half {
    room: Vec<u8>,
    tags: Vec<[u8; 16]>,
}

/// The AEAD alone, on a burst's bodies that lie where packets do: what there is to gain where one core has written what
/// the other works on.
struct Written {
    keys: Vec<esp_aead::Key>,
    source: Vec<u8>,
    /// As many as take the memory of a [`Pair`]: its frames, and what they are filled with.
    sets: Vec<[Mutex<Half>; 2]>,
    /// Bursts between writing and sealing.
    ahead: usize,
    times: Times,
    bursts: usize,
    burst: usize,
}

impl Written {
    fn new((size, burst): (usize, usize), ahead: usize, bursts: usize) -> Self {
        let half = || {
            let room = vec![0; burst / 2 * FRAME];
            let tags = vec![[0; 16]; burst / 2];
            Mutex::new(Half { room, tags })
        };
        let (keys, mut bodies) = material(size, 1, 1);
        Self {
            keys,
            source: bodies.remove(0),
            sets: (0..2 * (ahead + 2)).map(|_| [half(), half()]).collect(),
            ahead,
            times: Times::with_room(bursts),
            bursts,
            burst: burst / 2 * 2,
        }
    }

    /// How much faster it goes where another core does half of it.
    fn gain(&mut self) -> f64 {
        self.round(false) / self.round(true)
    }

    /// Nanoseconds a packet, sealed by this core, or half of them by another that is awake.
    fn round(&mut self, both: bool) -> f64 {
        let (turn, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (keys, sets, len) = (&self.keys, &self.sets, self.source.len());
        let seal = |n: usize, which: usize| {
            let half = &mut *sets[n % sets.len()][which].lock().unwrap();
            let together = half.room.chunks_mut(TOGETHER * FRAME);
            for (room, tags) in together.zip(half.tags.chunks_mut(TOGETHER)) {
                let bodies = room.chunks_mut(FRAME).map(|frame| &mut frame[..len]);
                seal_bare(keys, bodies, tags, n);
            }
        };
        let wait = |flag: &AtomicUsize, n| {
            while flag.load(Ordering::Acquire) < n {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|scope| {
            if both {
                scope.spawn(|| {
                    for n in 1..=self.bursts {
                        wait(&turn, n);
                        seal(n, 1);
                        done.store(n, Ordering::Release);
                    }
                });
            }
            for n in 1..=self.bursts {
                for half in &sets[(n + self.ahead) % sets.len()] {
                    for room in half.lock().unwrap().room.chunks_mut(FRAME) {
                        room[..len].copy_from_slice(&self.source);
                    }
                }
                let start = Instant::now();
                turn.store(n, Ordering::Release);
                seal(n, 0);
                match both {
                    true => wait(&done, n),
                    false => seal(n, 1),
                }
                self.times.0.push(start.elapsed());
            }
        });
        self.times.take(self.burst)
    }
}

/// Large bursts of one SA, which the engine takes to its cores: of packets that this core has just
/// written, or, `ahead` bursts later, of such as neither core has in a cache of its own, as a device's are. The helper
/// stays awake between them, or sleeps.
fn one_sa(size: usize, ahead: usize, awake: bool, options: &Options) -> serde_json::Value {
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
    /// is: medians of the rounds'. What they take for a packet is measured by `round`.
    fn compare(
        &self,
        options: &Options,
        mut written: Option<Written>,
        mut round: impl FnMut(Who) -> [f64; 2],
    ) -> serde_json::Value {
        let mut gains = [Who::TwoCores, Who::Apart].map(|who| (who, [const { Vec::new() }; 2]));
        let (mut ones, mut alone) = ([const { Vec::new() }; 2], Vec::new());
        let (mut handed_over, mut lines) = (Vec::new(), Vec::new());
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
            "aead_handed_over": written.map(|_| median(&handed_over)),
            "line_ns": median(&lines),
        })
    }
}

/// Has each done on a core of its own, all at once.
fn on_cores<T: Send, R: Send>(work: &mut [T], each: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let start = Barrier::new(work.len());
    std::thread::scope(|scope| {
        let begin = |(core, work): (usize, _)| {
            let (start, each) = (&start, &each);
            scope.spawn(move || {
                let mut set = nix::sched::CpuSet::new();
                set.set(core).unwrap();
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
    let mut work = [(); 2].map(|()| (material(size, 1, 32), Times::with_room(BURSTS)));
    let seal =
        |((keys, bodies), times): &mut ((Vec<_>, Vec<_>), Times)| bare(keys, bodies, times, BURSTS);
    together(on_cores(&mut work[..1], seal)) / together(on_cores(&mut work, seal))
}

/// A worker on each core, run to completion, with a queue pair of its own, and so many SAs of its own or, for none,
/// one that both have: alone, both at once, and both with an engine each. Two's figures are of what they do together.
fn workers(size: usize, own: usize, options: &Options) -> serde_json::Value {
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
    let mut pairs = [(&shared, &first), (&shared, &second), (&other, &third)]
        .map(|(engine, sas)| Pair::new(engine, sas, shape, bursts, 0));
    for pair in &mut pairs {
        pair.open.may_be_late = own == 0;
    }
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

fn main() {
    let options = Options::parse();
    let mut cells = Vec::new();
    for &size in &options.sizes {
        for &sas in &options.sas {
            cells.push(one_core(size, sas, &options));
        }
    }
    let cores = match options.one_core {
        true => Vec::new(),
        false => vec![
            one_sa(1420, 0, true, &options),
            one_sa(1420, AHEAD, true, &options),
            one_sa(1420, 0, false, &options),
            one_sa(1420, AHEAD, false, &options),
            workers(1420, 0, &options),
            workers(1420, 32, &options),
        ],
    };
    println!("{:#}", json!({ "one_core": cells, "cores": cores }));
}
