// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run has found, as it is written to a file and read again.

use hdrhistogram::Histogram;
use offload_api::sa::Suite;
use serde::{Deserialize, Serialize};

use crate::case::{Case, Ptest, operation};
use crate::machine::Machine;
use crate::measure::Round;
use crate::peers::Peer;
use crate::stats::{self, Estimate};

/// Version of the file's form.
pub const FORMAT: u32 = 1;
/// Who measured what comes from this project.
pub const OURS: &str = "esplanade";

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The program's version.
    pub version: String,
    /// Seconds since 1970 when it began.
    pub started: u64,
    /// The machine.
    pub machine: Machine,
    /// The engines and peers that were measured.
    pub engines: Vec<EngineInfo>,
    /// Whether it was stopped before its end: cells have fewer samples then, or are missing.
    pub interrupted: bool,
    /// What was found.
    pub cells: Vec<Cell>,
    /// Peers that were asked for and did not run, and why.
    #[serde(default)]
    pub absent: Vec<String>,
}

/// An engine or a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// The backend's name, or the peer's.
    pub name: String,
    /// Product and version.
    pub product: String,
    /// Firmware, bitstream, or the kernels that software has chosen.
    pub firmware: String,
}

/// A point of the grid, and what was found there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// `esplanade`, or a peer's name.
    pub source: String,
    /// The engine.
    pub backend: String,
    /// The measurement.
    pub ptest: Ptest,
    /// The algorithms.
    pub suite: String,
    /// `encrypt` or `decrypt`.
    pub operation: String,
    /// Octets of a packet in the clear: one size, or a mix.
    pub size: String,
    /// Mean octets of a packet.
    pub octets: f64,
    /// Packets of a burst.
    pub burst: usize,
    /// Queue pairs.
    pub queues: usize,
    /// Threads.
    pub cores: usize,
    /// SAs of each queue pair.
    pub sas: usize,
    /// What the samples are: `cycles per packet`, or `ns at p50`. Less is better.
    pub metric: String,
    /// One of each round, warm-up left out.
    pub samples: Vec<f64>,
    /// Their median.
    pub value: Estimate,
    /// Cycles an octet, at the median; not where latency was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles_per_byte: Option<f64>,
    /// Million packets in a second, at the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpps: Option<f64>,
    /// Gigabits of packets in the clear in a second, at the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gbps: Option<f64>,
    /// Latencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Cycles a packet by stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<StageCycles>,
    /// What checking found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verdict>,
    /// What else a tunnel did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelFigures>,
}

/// Figures of a tunnel beside its samples, each the median of the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelFigures {
    /// Both gateways' processor time: of TCP in seconds a gigabit, of UDP in nanoseconds a packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Part of what was sent that did not arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<f64>,
    /// Packets a second beside which delays were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// What the tunnel adds to the delay that one packet in a hundred exceeds, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_p99_ns: Option<f64>,
    /// The same probe's delay at the same load without any tunnel, in nanoseconds: half of the packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_p50_ns: Option<f64>,
    /// As above, which one packet in a hundred exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_p99_ns: Option<f64>,
    /// How late a real-time thread ran meanwhile that slept until a moment, in nanoseconds: half of the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_p50_ns: Option<f64>,
    /// As above, one time in a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_p99_ns: Option<f64>,
}

/// Which figure of which tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelPoint<'a> {
    /// The tunnel.
    pub name: &'a str,
    /// Whether it is this project's.
    pub ours: bool,
    /// Its algorithms.
    pub suite: &'a str,
    /// `tcp`, `udp`, `pdr` or `delay`.
    pub operation: &'a str,
    /// Octets of a packet.
    pub size: usize,
    /// What the samples are; less is better.
    pub metric: &'a str,
}

/// One of our figures beside a peer's, of the same run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeerRatio {
    /// Our cell.
    pub cell: String,
    /// The peer.
    pub peer: String,
    /// Octets of a packet.
    pub octets: f64,
    /// Our cycles a packet, or a tunnel's time, to the peer's.
    pub ratio: Estimate,
}

impl Report {
    /// Our throughput on one core beside each peer's that has the same algorithms, sizes and bursts (a
    /// peer without bursts is laid beside all of ours), and our tunnels beside theirs, whatever their
    /// algorithms.
    pub fn against_peers(&self) -> Vec<PeerRatio> {
        let ours = |cell: &&Cell| {
            let compared = matches!(cell.ptest, Ptest::Throughput | Ptest::Tunnel);
            cell.source == OURS && compared && cell.cores == 1
        };
        let same = |our: &Cell, peer: &Cell| {
            (our.ptest, &our.operation, &our.size) == (peer.ptest, &peer.operation, &peer.size)
                && (our.ptest == Ptest::Tunnel || our.suite == peer.suite)
                && (our.burst == peer.burst || peer.source == Peer::OpensslSpeed.name())
        };
        let mut ratios = Vec::new();
        for our in self.cells.iter().filter(ours) {
            let peers = self.cells.iter().filter(|cell| cell.source != OURS);
            ratios.extend(peers.filter(|peer| same(our, peer)).map(|peer| PeerRatio {
                cell: our.key(),
                peer: peer.source.clone(),
                octets: our.octets,
                ratio: stats::ratio(&peer.samples, &our.samples, 1),
            }));
        }
        ratios
    }
}

/// Percentiles in nanoseconds, of all rounds together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Packets.
    pub count: u64,
    /// Least.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// Most.
    pub max: u64,
    /// The curve: percentile and nanoseconds.
    pub curve: Vec<(f64, u64)>,
}

/// Cycles a packet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageCycles {
    /// Making the operations.
    pub build: f64,
    /// `enqueue` and `kick`.
    pub enqueue: f64,
    /// `dequeue` until all were back.
    pub dequeue: f64,
}

/// What checking found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Results that were checked.
    pub checked: u64,
    /// Results that were wrong.
    pub wrong: u64,
    /// Packets that were spoiled to see whether it is found.
    pub spoiled: u64,
    /// Those that were found.
    pub spoiled_found: u64,
    /// What was wrong first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_wrong: Option<String>,
}

impl Verdict {
    /// Whether all is as it must be: nothing wrong, and the check proven able to see it.
    pub fn passed(&self) -> bool {
        self.wrong == 0 && self.checked > 0 && self.spoiled == self.spoiled_found
    }
}

/// The rounds of a cell while they come in.
#[derive(Debug, Default)]
pub struct Samples {
    values: Vec<f64>,
    rates: Vec<f64>,
    sum: Round,
}

impl Samples {
    /// Adds a round.
    pub fn add(&mut self, ptest: Ptest, round: Round) {
        let packets = round.packets.max(1) as f64;
        match (ptest, &round.latency) {
            (Ptest::Latency, Some(latency)) => {
                self.values.push(latency.value_at_quantile(0.5) as f64);
            }
            (Ptest::Verify, _) => {}
            _ => self.values.push(round.cycles as f64 / packets),
        }
        if ptest == Ptest::Throughput && round.seconds > 0.0 {
            self.rates.push(packets / round.seconds);
        }
        self.sum.add(round);
    }

    /// A round of a peer, of which only the cycles a packet are known, and how many packets it did in
    /// a second.
    pub fn add_peer(&mut self, cycles: f64, rate: f64) {
        self.values.push(cycles);
        self.rates.push(rate);
    }

    /// Whether nothing came in.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.sum.checked == 0
    }
}

impl Cell {
    /// A case's cell.
    pub fn of_case(case: &Case, backend: &str, samples: Samples, seed: u64) -> Self {
        let mut cell = Self::new(
            backend,
            case.ptest,
            case.suite.name(),
            operation(case.direction),
            (case.sizes.to_string(), case.sizes.mean()),
            samples,
            seed,
        );
        cell.burst = case.burst;
        cell.queues = case.queues;
        cell.cores = case.cores;
        cell.sas = case.sas;
        cell
    }

    /// A peer's cell, of one core.
    pub fn of_peer(
        peer: &str,
        suite: Suite,
        operation: &str,
        size: usize,
        burst: usize,
        samples: Samples,
        seed: u64,
    ) -> Self {
        let size = (size.to_string(), size as f64);
        let mut cell = Self::new(
            peer,
            Ptest::Throughput,
            suite.name(),
            operation,
            size,
            samples,
            seed,
        );
        cell.source = peer.to_owned();
        cell.burst = burst;
        cell
    }

    /// A tunnel's cell: `samples` are of what the point's metric says, one of each round.
    pub fn of_tunnel(
        point: &TunnelPoint<'_>,
        samples: Vec<f64>,
        figures: TunnelFigures,
        delays: Option<&Histogram<u64>>,
        seed: u64,
    ) -> Self {
        let samples = Samples {
            values: samples,
            ..Samples::default()
        };
        let size = (point.size.to_string(), point.size as f64);
        let (suite, operation) = (point.suite, point.operation);
        let ptest = Ptest::Tunnel;
        let mut cell = Self::new(point.name, ptest, suite, operation, size, samples, seed);
        if !point.ours {
            cell.source = point.name.to_owned();
        }
        cell.metric = point.metric.to_owned();
        cell.latency = delays.map(Latency::of);
        cell.tunnel = Some(figures);
        cell
    }

    fn new(
        backend: &str,
        ptest: Ptest,
        suite: &str,
        operation: &str,
        (size, octets): (String, f64),
        samples: Samples,
        seed: u64,
    ) -> Self {
        let Samples { values, rates, sum } = samples;
        let value = stats::estimate(&values, seed);
        let packets = sum.packets.max(1) as f64;
        let rate = (!rates.is_empty()).then(|| stats::median(&rates));
        let in_cycles = matches!(ptest, Ptest::Throughput | Ptest::PmdCyclecount);
        Self {
            source: OURS.to_owned(),
            backend: backend.to_owned(),
            ptest,
            suite: suite.to_owned(),
            operation: operation.to_owned(),
            size,
            octets,
            burst: 1,
            queues: 1,
            cores: 1,
            sas: 1,
            metric: match ptest {
                Ptest::Latency => "ns at p50",
                Ptest::Verify | Ptest::Tunnel => "none",
                Ptest::Throughput | Ptest::PmdCyclecount => "cycles per packet",
            }
            .to_owned(),
            samples: values,
            value,
            cycles_per_byte: in_cycles.then(|| value.median / octets.max(1.0)),
            mpps: rate.map(|rate| rate / 1e6),
            gbps: rate.map(|rate| rate * octets * 8.0 / 1e9),
            latency: sum.latency.as_ref().map(Latency::of),
            stages: (ptest == Ptest::PmdCyclecount).then(|| {
                let [build, enqueue, dequeue] = sum.stages.map(|cycles| cycles as f64 / packets);
                StageCycles {
                    build,
                    enqueue,
                    dequeue,
                }
            }),
            verify: (ptest == Ptest::Verify).then(|| Verdict {
                checked: sum.checked,
                wrong: sum.wrong,
                spoiled: sum.control.1,
                spoiled_found: sum.control.0,
                first_wrong: sum.first_wrong.clone(),
            }),
            tunnel: None,
        }
    }

    /// What tells it from the other cells, so that two runs can be laid beside each other.
    pub fn key(&self) -> String {
        if self.ptest == Ptest::Tunnel {
            let (name, operation, size) = (&self.backend, &self.operation, &self.size);
            return format!("{name} {} {operation} {size} B", self.ptest);
        }
        format!(
            "{} {} {} {} {} B, burst {}, queues {}, cores {}, SAs {}",
            self.backend,
            self.ptest,
            self.suite,
            self.operation,
            self.size,
            self.burst,
            self.queues,
            self.cores,
            self.sas
        )
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile);
        // Halving what is left with each step: the tail is where latencies are told apart.
        let curve = (0..20).map(|step| {
            let quantile = 1.0 - 0.5f64.powi(step);
            (quantile * 100.0, at(quantile))
        });
        let reached = |(percentile, _): &(f64, u64)| {
            (100.0 - percentile) / 100.0 * histogram.len() as f64 >= 1.0
        };
        Self {
            count: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
            curve: curve.take_while(reached).collect(),
        }
    }
}
