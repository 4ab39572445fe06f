// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cards in processes of their own, one of which is killed, hangs, is reset or removed in the middle of
//! traffic and comes back: every packet that left is openable, no number and no IV leaves twice, and
//! the SAs follow the card.
//!
//! `ESPLANADE_TRIALS=1000` makes as many trials of each kind; a few are made otherwise.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use netlab::process::{Guarded, wait_for_listener};
use offload_api::cache::CacheWriter;
use offload_api::device::Accelerator;
use offload_api::event::Engine;
use offload_api::failover::{Failover, FailoverConfig, HoldOff};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, KeyMaterial, SaHandle, SaParams, Spi, Suite};

const BURST: usize = 32;

/// A simulated card as a deployment runs it: the `esplanade` program, a socket.
fn card(socket: &Path) -> Guarded {
    let mut command = Command::new(tests::program("esplanade"));
    command
        .arg("sim")
        .arg("--socket")
        .arg(socket)
        .stdin(Stdio::null());
    let mut card = Guarded::spawn(command).unwrap();
    wait_for_listener(socket, Duration::from_secs(10), || {
        assert!(card.ended()?.is_none(), "the card ended");
        Ok(())
    })
    .unwrap();
    card
}

/// One gateway's accelerator: a card, with software behind it.
struct Gateway {
    both: Failover,
    pool: FramePool,
    queue: Box<dyn QueuePair>,
    sa: SaHandle,
}

impl Gateway {
    fn new(socket: &Path, direction: Direction) -> Self {
        Self::with_key(socket, direction, 0)
    }

    /// With a key of its own.
    fn with_key(socket: &Path, direction: Direction, key: u64) -> Self {
        let card = driver::open(&DeviceAddress::User(socket.to_owned())).unwrap();
        let software = Arc::new(SoftwareEngine::new(SoftwareConfig::default()).unwrap());
        let cache = Arc::new(CacheWriter::create("card-killed", 16).unwrap());
        let config = FailoverConfig {
            // Trials follow each other at once, which flapping cards are given a rest for.
            hold_off: HoldOff::NONE,
            ..FailoverConfig::default()
        };
        let both = Failover::new(Some(card), software, cache, config);
        let pool = FramePool::new(FramePoolConfig {
            slots: 512,
            ..Default::default()
        })
        .unwrap();
        both.register_pool(&pool).unwrap();
        let queue = both.open_queue(&QueueConfig { depth: 256 }).unwrap();
        let sa = both.install(&params(direction, key)).unwrap();
        Self {
            both,
            pool,
            queue,
            sa,
        }
    }

    fn engine(&self) -> Engine {
        self.both.placement(self.sa).unwrap().engine
    }

    /// Gives a burst of packets to the SA and waits until each has come back; not for those that a lost
    /// card may write still, which come later as aborted, or never.
    fn pass(&mut self, packets: &[Vec<u8>]) -> Vec<Done> {
        let mut ops: Vec<Op> = packets
            .iter()
            .zip(0..)
            .map(|(packet, cookie)| {
                let mut frame = self.pool.alloc().expect("frames come home");
                assert!(frame.fill(packet));
                Op::new(self.sa, frame, cookie)
            })
            .collect();
        let mut done = Vec::new();
        let start = Instant::now();
        let mut progress = start;
        while done.len() < packets.len() {
            self.queue.enqueue(&mut ops).unwrap();
            self.queue.kick().unwrap();
            if self.queue.dequeue(&mut done, BURST).unwrap() != 0 {
                progress = Instant::now();
            }
            self.both.tick();
            let lost = !self.both.device_up() && ops.is_empty();
            if lost && progress.elapsed() > Duration::from_millis(2) {
                break;
            }
            let late = start.elapsed() > Duration::from_secs(5);
            assert!(!late, "{} of {} came back", done.len(), packets.len());
        }
        done
    }
}

fn params(direction: Direction, key: u64) -> SaParams {
    let suite = Suite::AES_256_GCM;
    let mut keymat = [3; 36];
    keymat[..8].copy_from_slice(&key.to_be_bytes());
    SaParams::tunnel(
        Spi::new(0xcafe_0001).unwrap(),
        direction,
        suite,
        KeyMaterial::from_keymat(suite, &keymat, &[]).unwrap(),
    )
}

/// An IPv4 packet that carries its own number.
fn packet(number: u64) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 228, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ];
    packet.resize(228, number as u8);
    packet[20..28].copy_from_slice(&number.to_be_bytes());
    packet
}

/// What must never be, as often as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wrongs {
    /// Packets on the wire with a number that was there before.
    numbers: u64,
    /// … with an IV that this key had before.
    ivs: u64,
    /// … that show what they carry.
    clear: u64,
    /// Packets that came out changed, or refused.
    changed: u64,
    /// … before one that was sent earlier.
    disordered: u64,
}

/// Whether a packet on the wire shows a part of its inner packet: the addresses, or its filling, which
/// is one octet over and over.
fn is_clear(sealed: &[u8]) -> bool {
    let addresses = &packet(0)[12..20];
    sealed.windows(8).any(|octets| octets == addresses)
        || sealed
            .windows(12)
            .any(|octets| octets.iter().all(|octet| *octet == octets[0]))
}

/// What traffic has shown so far.
#[derive(Default)]
struct Wire {
    sequences: HashSet<u32>,
    ivs: HashSet<[u8; 8]>,
    wrongs: Wrongs,
    checked: u64,
    sent: u64,
    aborted: u64,
    delivered: u64,
    last_delivered: Option<u64>,
    longest_pause: Duration,
}

impl Wire {
    /// Sends one burst from gateway to gateway.
    fn burst(&mut self, from: &mut Gateway, to: &mut Gateway) {
        let packets: Vec<_> = (self.sent..self.sent + BURST as u64).map(packet).collect();
        let before = Instant::now();
        let sealed = from.pass(&packets);
        self.longest_pause = self.longest_pause.max(before.elapsed());
        self.sent += BURST as u64;
        self.carry(sealed, to);
    }

    /// Waits for what is still on its way in software, and tells how much died since `sent` and
    /// `delivered`.
    fn settle(&mut self, from: &mut Gateway, to: &mut Gateway) {
        let start = Instant::now();
        while from.queue.in_flight() != 0 && start.elapsed() < Duration::from_millis(20) {
            let mut done = Vec::new();
            from.queue.dequeue(&mut done, BURST).unwrap();
            self.carry(done, to);
        }
        self.aborted = self.sent - self.delivered;
    }

    /// Takes what was sealed to the other gateway.
    fn carry(&mut self, sealed: Vec<Done>, to: &mut Gateway) {
        let mut wire = Vec::new();
        for done in sealed {
            match done.status {
                Status::Ok => wire.push(done.frame.to_vec()),
                Status::Aborted => {}
                other => panic!("sealing ended with {other:?}"),
            }
        }
        let wrongs = &mut self.wrongs;
        for packet in &wire {
            self.checked += 1;
            let sequence = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            wrongs.numbers += u64::from(!self.sequences.insert(sequence));
            let iv = packet[8..16].try_into().unwrap();
            wrongs.ivs += u64::from(!self.ivs.insert(iv));
            wrongs.clear += u64::from(is_clear(packet));
        }
        for done in to.pass(&wire) {
            let inner = &done.frame[..];
            let number = inner.get(20..28).and_then(|octets| octets.try_into().ok());
            let number = number.map_or(u64::MAX, u64::from_be_bytes);
            if done.status != Status::Ok || number >= self.sent || inner != packet(number) {
                wrongs.changed += 1;
                continue;
            }
            wrongs.disordered += u64::from(self.last_delivered.is_some_and(|last| last >= number));
            self.last_delivered = Some(number);
            self.delivered += 1;
        }
    }

    fn for_a_while(&mut self, from: &mut Gateway, to: &mut Gateway) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            self.burst(from, to);
        }
    }
}

#[test]
fn a_killed_card_costs_neither_numbers_nor_the_tunnel_and_gets_its_sas_back() {
    let directory = tempfile::tempdir().unwrap();
    let sockets = ["a", "b"].map(|name| directory.path().join(name));
    let mut card_a = card(&sockets[0]);
    let _card_b = card(&sockets[1]);
    let mut from = Gateway::new(&sockets[0], Direction::Outbound);
    let mut to = Gateway::new(&sockets[1], Direction::Inbound);
    let mut wire = Wire::default();

    assert_eq!(from.engine(), Engine::Device);
    wire.for_a_while(&mut from, &mut to);
    let by_card = from.both.primary().unwrap().counters().sealed;
    assert_eq!(by_card, wire.delivered, "the card sealed all of it");

    card_a.kill().unwrap();
    wire.for_a_while(&mut from, &mut to);
    wire.settle(&mut from, &mut to);
    assert_eq!(from.engine(), Engine::Software);
    assert!(!from.both.device_up());
    assert_eq!(from.both.statistics().losses, 1);
    assert!(
        wire.aborted <= BURST as u64,
        "{} packets died with the card",
        wire.aborted
    );
    let paused = wire.longest_pause;
    assert!(
        paused < Duration::from_secs(1),
        "traffic stood still for {paused:?}"
    );

    let _card_a = card(&sockets[0]);
    from.both.try_return().unwrap();
    wire.for_a_while(&mut from, &mut to);
    assert_eq!(from.engine(), Engine::Device);
    assert_eq!(from.both.statistics().returns, 1);
    wire.settle(&mut from, &mut to);
    assert!(wire.aborted <= BURST as u64);
    assert_eq!(to.both.statistics().losses, 0);
    assert_eq!(wire.wrongs, Wrongs::default());
}

/// What happens to a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// SIGKILL.
    Killed,
    /// Stopped, without a word; later it goes on.
    Hung,
    /// Reset under the driver's feet.
    Reset,
    /// Its process ends and hangs up.
    Removed,
}

impl Death {
    /// How long after it the first packet may pass, 99 times in 100. The watchdog's ticks stretch on a
    /// machine that runs other tests beside this, which a few trials don't average out.
    fn limit(self, few: bool) -> Duration {
        Duration::from_millis(match self {
            Self::Hung if few => 250,
            Self::Hung => 150,
            Self::Killed | Self::Reset | Self::Removed => 100,
        })
    }
}

fn signal(card: &Guarded, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(card.id() as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Trials of a kind, or as many as the environment wants.
fn trials(few: u64) -> u64 {
    let wanted = std::env::var("ESPLANADE_TRIALS").ok();
    wanted.map_or(few, |wanted| wanted.parse().expect("ESPLANADE_TRIALS"))
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// A card dies so often, at random moments under load, and comes back.
fn die(death: Death, count: u64) {
    let directory = tempfile::tempdir().unwrap();
    let sockets = ["a", "b"].map(|name| directory.path().join(name));
    let mut card_a = card(&sockets[0]);
    let _card_b = card(&sockets[1]);
    let mut from = Gateway::new(&sockets[0], Direction::Outbound);
    let mut to = Gateway::new(&sockets[1], Direction::Inbound);
    let mut wire = Wire::default();
    let (mut fallbacks, mut returns) = (Vec::new(), Vec::new());
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let (mut totals, mut most_lost) = (Totals::default(), 0);
    for trial in 1..=count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let delay = Duration::from_micros(random % 15_000);
        let aborted_before = wire.aborted;
        let device = from.both.primary().unwrap().clone();
        let striker = std::thread::spawn(move || {
            std::thread::sleep(delay);
            let struck = Instant::now();
            match death {
                Death::Killed => drop(card_a.kill().unwrap()),
                Death::Removed => drop(card_a.stop().unwrap()),
                Death::Hung => signal(&card_a, rustix::process::Signal::STOP),
                Death::Reset => device.reset().unwrap(),
            }
            (struck, card_a)
        });
        // The last packet before the stroke is seen tells nothing of what comes after it.
        while !striker.is_finished() {
            wire.burst(&mut from, &mut to);
        }
        let (struck, card_left) = striker.join().unwrap();
        let losses = from.both.statistics().losses;
        let delivered = wire.delivered;
        while wire.delivered == delivered || (from.engine() == Engine::Device && losses < trial) {
            wire.burst(&mut from, &mut to);
            assert!(
                struck.elapsed() < Duration::from_secs(5),
                "{death:?} {trial}: traffic stands still"
            );
        }
        fallbacks.push(struck.elapsed());
        wire.settle(&mut from, &mut to);
        let lost = wire.aborted - aborted_before;
        most_lost = most_lost.max(lost);
        assert!(
            lost <= BURST as u64,
            "{death:?} {trial} cost {lost} packets"
        );

        card_a = match death {
            Death::Killed | Death::Removed => card(&sockets[0]),
            Death::Hung => {
                signal(&card_left, rustix::process::Signal::CONT);
                card_left
            }
            Death::Reset => card_left,
        };
        let back = Instant::now();
        while let Err(error) = from.both.try_return() {
            assert!(back.elapsed() < Duration::from_secs(5), "{trial}: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
        while from.engine() != Engine::Device {
            wire.burst(&mut from, &mut to);
            assert!(
                back.elapsed() < Duration::from_secs(5),
                "{trial}: no return"
            );
        }
        returns.push(back.elapsed());
        wire.settle(&mut from, &mut to);
        if death == Death::Hung && trial % 8 == 0 {
            // Frames that a hung card had are never used again: another gateway, another pool, and
            // other keys with it.
            totals.add(&wire);
            (from, to) = renew(from, to, &sockets, trial);
            wire = Wire::default();
        }
    }
    wire.settle(&mut from, &mut to);
    totals.add(&wire);
    // Of few trials the slowest is no percentile.
    let few = count < 500;
    let high = if few { 90 } else { 99 };
    let [median, slow] = [50, high].map(|percent| percentile(&mut fallbacks, percent));
    let [return_median, return_high] = [50, high].map(|percent| percentile(&mut returns, percent));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let (worst, worst_return) = (fallbacks[fallbacks.len() - 1], returns[returns.len() - 1]);
    let Wrongs {
        numbers,
        ivs,
        clear,
        changed,
        disordered,
    } = totals.wrongs;
    println!(
        "card-death: kind={death:?} trials={count} sent={} checked={} lost={} most_lost={most_lost} \
         percentile={high} fallback_median_ms={:.2} fallback_ms={:.2} fallback_worst_ms={:.2} \
         fallback_bar_ms={} return_median_ms={:.2} return_ms={:.2} return_worst_ms={:.2} \
         numbers_twice={numbers} ivs_twice={ivs} in_the_clear={clear} changed={changed} \
         out_of_order={disordered}",
        totals.sent,
        totals.checked,
        totals.aborted,
        milliseconds(median),
        milliseconds(slow),
        milliseconds(worst),
        death.limit(few).as_millis(),
        milliseconds(return_median),
        milliseconds(return_high),
        milliseconds(worst_return),
    );
    assert_eq!(totals.wrongs, Wrongs::default());
    assert!(
        slow <= death.limit(few),
        "{slow:?} at the {high}th percentile"
    );
    assert!(return_high <= Duration::from_secs(1), "{return_high:?}");
}

/// What all gateways of a run have seen.
#[derive(Default)]
struct Totals {
    sent: u64,
    checked: u64,
    aborted: u64,
    wrongs: Wrongs,
}

impl Totals {
    fn add(&mut self, wire: &Wire) {
        self.sent += wire.sent;
        self.checked += wire.checked;
        self.aborted += wire.aborted;
        let (all, more) = (&mut self.wrongs, &wire.wrongs);
        all.numbers += more.numbers;
        all.ivs += more.ivs;
        all.clear += more.clear;
        all.changed += more.changed;
        all.disordered += more.disordered;
    }
}

fn renew(
    from: Gateway,
    to: Gateway,
    sockets: &[std::path::PathBuf; 2],
    key: u64,
) -> (Gateway, Gateway) {
    drop((from, to));
    (
        Gateway::with_key(&sockets[0], Direction::Outbound, key),
        Gateway::with_key(&sockets[1], Direction::Inbound, key),
    )
}

#[test]
fn kills_at_random_moments_repeat_no_number_and_cost_no_more_than_the_rings_held() {
    die(Death::Killed, trials(200));
}

#[test]
fn removals_at_random_moments_repeat_no_number_and_cost_no_more_than_the_rings_held() {
    die(Death::Removed, trials(60));
}

#[test]
fn resets_at_random_moments_repeat_no_number_and_cost_no_more_than_the_rings_held() {
    die(Death::Reset, trials(60));
}

#[test]
fn hangs_at_random_moments_repeat_no_number_and_cost_no_more_than_the_rings_held() {
    die(Death::Hung, trials(16));
}

#[test]
fn traffic_goes_on_while_a_card_hangs_and_its_frames_are_written_off() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("card");
    let card = card(&socket);
    let mut gateway = Gateway::new(&socket, Direction::Outbound);
    gateway.pass(&[packet(0)]);
    signal(&card, rustix::process::Signal::STOP);
    let start = Instant::now();
    let mut sealed_after = None;
    let mut longest_call = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(4) {
        let before = Instant::now();
        let mut ops = Vec::new();
        if let Some(mut frame) = gateway.pool.alloc() {
            assert!(frame.fill(&packet(1)));
            ops.push(Op::new(gateway.sa, frame, 1));
        }
        gateway.queue.enqueue(&mut ops).unwrap();
        gateway.queue.kick().unwrap();
        let mut done = Vec::new();
        gateway.queue.dequeue(&mut done, BURST).unwrap();
        gateway.both.tick();
        longest_call = longest_call.max(before.elapsed());
        if done.iter().any(|done| done.status == Status::Ok) {
            sealed_after.get_or_insert(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let sealed_after = sealed_after.expect("software seals");
    assert!(sealed_after < Duration::from_secs(1), "{sealed_after:?}");
    assert!(
        longest_call < Duration::from_millis(200),
        "traffic waited for the card: {longest_call:?}"
    );
    // It might write them still.
    let quarantined = gateway.pool.quarantined() as usize;
    assert!(quarantined > 0);
    assert_eq!(gateway.queue.in_flight(), 0);
    assert_eq!(gateway.pool.available() + quarantined, 512);

    signal(&card, rustix::process::Signal::CONT);
    let start = Instant::now();
    while let Err(error) = gateway.both.try_return() {
        assert!(start.elapsed() < Duration::from_secs(5), "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(gateway.pass(&[packet(2)])[0].status.is_ok());
    assert_eq!(gateway.engine(), Engine::Device);
}
