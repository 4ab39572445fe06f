// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole tunnels between two network namespaces, from TUN device to wire and back: ours, and those of
//! others that are installed.

mod ground;
mod ours;
mod search;
mod strongswan;
mod wireguard;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench_harness::report::{Cell, EngineInfo, TunnelFigures, TunnelPoint};
use bench_harness::stats::median;
use hdrhistogram::Histogram;
use netlab::traffic::{Flood, FloodConfig, FloodReport, Stalls, iperf3};

use self::ground::{Ground, MTU, Running};
use self::search::Search;

/// IPv4 and UDP headers.
const HEADERS: usize = 28;
/// Least octets of a packet: what a flood stamps its payload with needs room.
pub(super) const LEAST: usize = HEADERS + 8;
/// Most octets of a packet.
pub(super) const MOST: usize = MTU;
/// The probe beside half of the load.
const PROBE: usize = 64 - HEADERS;
const PROBES: f64 = 2000.0;
/// Microseconds.
const BUSY_POLL: u32 = 200;
const PROBE_PORT: u16 = 7002;
/// Load goes on while the probe begins and ends.
const MARGIN: Duration = Duration::from_millis(250);

/// A way from one host to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// Two `ikev2d`, ESP in UDP.
    Ours,
    /// Two `ikev2d`, ESP by itself.
    OursNative,
    /// Two `ikev2d`, ESP in UDP, whose workers ask for more for a while before they sleep.
    OursPolling,
    /// strongSwan, its user-space ESP.
    StrongSwan,
    /// A WireGuard in user space.
    WireGuard(&'static wireguard::Program),
    /// No tunnel: the wire alone.
    Wire,
}

impl Tunnel {
    /// Ours, which are measured always.
    pub(super) const OURS: [Self; 3] = [Self::Ours, Self::OursNative, Self::OursPolling];
    /// Those that --peers names.
    pub(super) const PEERS: [Self; 5] = [
        Self::StrongSwan,
        Self::WireGuard(&wireguard::WIREGUARD_GO),
        Self::WireGuard(&wireguard::BORINGTUN),
        Self::WireGuard(&wireguard::GOTATUN),
        Self::Wire,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ikev2d",
            Self::OursNative => "ikev2d-esp",
            Self::OursPolling => "ikev2d-busy-poll",
            Self::StrongSwan => "strongswan",
            Self::WireGuard(program) => program.name,
            Self::Wire => "wire",
        }
    }

    fn is_ours(self) -> bool {
        Self::OURS.contains(&self)
    }

    fn suite(self) -> &'static str {
        match self {
            Self::Ours | Self::OursNative | Self::OursPolling => ours::SUITE,
            Self::StrongSwan => strongswan::SUITE,
            Self::WireGuard(_) => wireguard::SUITE,
            Self::Wire => "none",
        }
    }

    /// What it is, or why it can't run here.
    pub(super) fn find(self) -> Result<String, String> {
        match self {
            Self::Ours | Self::OursNative | Self::OursPolling => ours::find(),
            Self::StrongSwan => strongswan::find(),
            Self::WireGuard(program) => program.find(),
            Self::Wire => Ok("a veth pair".to_owned()),
        }
    }

    fn start(self, ground: &Ground) -> Result<Running> {
        match self {
            Self::Ours => ours::start(ground, true, 0),
            Self::OursNative => ours::start(ground, false, 0),
            Self::OursPolling => ours::start(ground, true, BUSY_POLL),
            Self::StrongSwan => strongswan::start(ground),
            Self::WireGuard(program) => program.start(ground),
            Self::Wire => ground.route_directly(),
        }
    }
}

/// What is measured of each tunnel.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Seconds of a TCP stream; floods take half of it.
    pub(super) seconds: u32,
    /// Octets of UDP packets, IP header and all.
    pub(super) sizes: Vec<usize>,
}

/// One flood's figures.
struct Flooded {
    /// Nanoseconds a packet, at the far end.
    nanos: f64,
    /// Nanoseconds of both gateways' processor time a packet that arrived.
    cpu: f64,
    lost: f64,
}

/// Delays beside half of the load that is carried, with the tunnel and without one.
struct Delayed {
    /// Packets a second beside the probe.
    rate: f64,
    lost: f64,
    tunnel: Histogram<u64>,
    wire: Histogram<u64>,
    /// How late real-time threads ran beside the tunnel.
    stalls: Histogram<u64>,
}

/// A tunnel on its way through the rounds.
pub(super) struct Measured {
    pub(super) tunnel: Tunnel,
    /// Seconds a gigabit, and both gateways' processor seconds a gigabit.
    tcp: Vec<(f64, f64)>,
    floods: Vec<Vec<Flooded>>,
    /// Of the largest packets, what is carried as good as whole.
    carried: Vec<Flooded>,
    delays: Vec<Delayed>,
}

impl Measured {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        Self {
            tunnel,
            tcp: Vec::new(),
            floods: Vec::new(),
            carried: Vec::new(),
            delays: Vec::new(),
        }
    }

    /// A round: everything is set up anew, measured, and taken down again. What it finds is kept where it
    /// `counts`.
    pub(super) fn round(&mut self, shape: &Shape, counts: bool) -> Result<()> {
        let name = self.tunnel.name();
        let ground = Ground::lay()?;
        let mut running = self
            .tunnel
            .start(&ground)
            .and_then(|running| ground.await_other_end().map(|()| running))
            .map_err(|error| match ground.logs() {
                logs if logs.is_empty() => error,
                logs => error.context(logs),
            })
            .with_context(|| format!("{name} does not come up"))?;
        let tcp = stream(&ground, &mut running, shape.seconds)?;
        let mut floods = Vec::new();
        let length = Duration::from_secs_f64(f64::from(shape.seconds) / 2.0);
        for &size in &shape.sizes {
            let flooded = flooded(&ground, &mut running, size, None, length)?.0;
            if flooded.nanos.is_infinite() {
                bail!("{name}: none of the packets of {size} octets arrived");
            }
            floods.push(flooded);
        }
        let sizes = shape.sizes.iter().copied().zip(&floods);
        let largest = sizes
            .max_by_key(|(size, _)| *size)
            .map(|(size, flooded)| (size, 1e9 / flooded.nanos))
            .filter(|_| self.tunnel != Tunnel::Wire);
        if counts {
            self.tcp.extend(tcp);
            self.floods.push(floods);
        }
        let Some((size, flooded)) = largest else {
            return Ok(());
        };
        let carried =
            carried(&ground, &mut running, size, flooded, length / 2)?.with_context(|| {
                format!(
                    "{name} loses more than {} % of any rate",
                    search::LOSS * 100.0
                )
            })?;
        let delayed = delayed(ground, running, size, 0.5e9 / carried.nanos, length)?;
        if counts {
            self.carried.push(carried);
            self.delays.push(delayed);
        }
        Ok(())
    }

    /// What was found, a cell for each figure.
    pub(super) fn cells(&self, shape: &Shape, seed: u64) -> Vec<Cell> {
        let mut cells = Vec::new();
        let point = |operation: &'static str, size: usize, metric: &'static str| TunnelPoint {
            name: self.tunnel.name(),
            ours: self.tunnel.is_ours(),
            suite: self.tunnel.suite(),
            operation,
            size,
            metric,
        };
        if !self.tcp.is_empty() {
            let (wall, cpu): (Vec<f64>, Vec<f64>) = self.tcp.iter().copied().unzip();
            let figures = TunnelFigures {
                cpu: Some(median(&cpu)),
                ..TunnelFigures::default()
            };
            let mut cell =
                Cell::of_tunnel(&point("tcp", MTU, "s per Gbit"), wall, figures, None, seed);
            cell.gbps = Some(1.0 / cell.value.median);
            cells.push(cell);
        }
        let mut rates = |operation: &'static str, size: usize, found: &[&Flooded]| {
            if found.is_empty() {
                return;
            }
            let of = |pick: fn(&Flooded) -> f64| found.iter().map(|f| pick(f)).collect::<Vec<_>>();
            let figures = TunnelFigures {
                cpu: Some(median(&of(|f| f.cpu))),
                lost: Some(median(&of(|f| f.lost))),
                ..TunnelFigures::default()
            };
            let point = point(operation, size, "ns per packet");
            let mut cell = Cell::of_tunnel(&point, of(|f| f.nanos), figures, None, seed);
            cell.mpps = Some(1e3 / cell.value.median);
            cell.gbps = Some(size as f64 * 8.0 / cell.value.median);
            cells.push(cell);
        };
        for (at, &size) in shape.sizes.iter().enumerate() {
            let found: Vec<&Flooded> = self.floods.iter().filter_map(|all| all.get(at)).collect();
            rates("udp", size, &found);
        }
        if let Some(&size) = shape.sizes.iter().max() {
            rates("pdr", size, &self.carried.iter().collect::<Vec<_>>());
        }
        if let (Some(first), Some(&size)) = (self.delays.first(), shape.sizes.iter().max()) {
            let at = |delays: &Histogram<u64>, quantile| delays.value_at_quantile(quantile) as f64;
            let added = |quantile: f64| {
                let all = self.delays.iter();
                all.map(|d| at(&d.tunnel, quantile) - at(&d.wire, quantile))
                    .collect::<Vec<_>>()
            };
            let middle = |of: fn(&Delayed) -> &Histogram<u64>, quantile| {
                let all: Vec<f64> = self.delays.iter().map(|d| at(of(d), quantile)).collect();
                Some(median(&all))
            };
            let of = |pick: fn(&Delayed) -> f64| self.delays.iter().map(pick).collect::<Vec<_>>();
            let figures = TunnelFigures {
                rate: Some(median(&of(|d| d.rate))),
                lost: Some(median(&of(|d| d.lost))),
                added_p99_ns: Some(median(&added(0.99))),
                floor_p50_ns: middle(|d| &d.wire, 0.5),
                floor_p99_ns: middle(|d| &d.wire, 0.99),
                stall_p50_ns: middle(|d| &d.stalls, 0.5),
                stall_p99_ns: middle(|d| &d.stalls, 0.99),
                ..TunnelFigures::default()
            };
            let mut all = first.tunnel.clone();
            for delayed in self.delays.iter().skip(1) {
                // Both have the same bounds.
                let _ = all.add(&delayed.tunnel);
            }
            let point = point("delay", size, "ns added at p50");
            let cell = Cell::of_tunnel(&point, added(0.5), figures, Some(&all), seed);
            cells.push(cell);
        }
        cells
    }

    pub(super) fn info(&self) -> EngineInfo {
        EngineInfo {
            name: self.tunnel.name().to_owned(),
            product: self.tunnel.find().unwrap_or_default(),
            firmware: String::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.floods.is_empty()
    }
}

fn lost(report: &FloodReport) -> f64 {
    1.0 - report.received as f64 / report.sent.max(1) as f64
}

/// A TCP stream by iperf3: seconds a gigabit, and the gateways' processor seconds a gigabit. Nothing where
/// there is no iperf3.
fn stream(ground: &Ground, running: &mut Running, seconds: u32) -> Result<Option<(f64, f64)>> {
    let [a, b] = &ground.ends;
    let before = running.cpu()?;
    let to = SocketAddr::new(b.inner, 5201);
    let report = iperf3((&a.namespace, a.inner), (&b.namespace, to), seconds)?;
    let spent = running.cpu()? - before;
    Ok(report.map(|report| {
        let gigabits = report.octets * 8.0 / 1e9;
        (1e3 / report.mbps, spent.as_secs_f64() / gigabits)
    }))
}

fn begin(
    ground: &Ground,
    size: usize,
    rate: Option<f64>,
    length: Duration,
    port: u16,
) -> Result<Flood> {
    let [a, b] = &ground.ends;
    let config = FloodConfig {
        payload: size - HEADERS,
        rate,
        length,
        urgent: port == PROBE_PORT,
    };
    let from = (&a.namespace, SocketAddr::new(a.inner, port));
    let to = (&b.namespace, SocketAddr::new(b.inner, port));
    Ok(Flood::start(from, to, config)?)
}

/// Packets through a tunnel, at a rate or as fast as the host sends, and the gateways' part in it; and how
/// many were sent in a second.
fn flooded(
    ground: &Ground,
    running: &mut Running,
    size: usize,
    rate: Option<f64>,
    length: Duration,
) -> Result<(Flooded, f64)> {
    ground.settle()?;
    let before = running.cpu()?;
    let report = begin(ground, size, rate, length, 7000)?.finish()?;
    let spent = running.cpu()? - before;
    // Of a flood by the receiver's clock, of a rate by the sender's, which has kept it.
    let arrived = match rate {
        None => report.rate(),
        Some(_) => report.received as f64 / length.as_secs_f64(),
    };
    let flooded = Flooded {
        nanos: 1e9 / arrived,
        cpu: spent.as_nanos() as f64 / report.received.max(1) as f64,
        lost: lost(&report),
    };
    Ok((flooded, report.sent as f64 / length.as_secs_f64()))
}

/// The highest rate of which as good as nothing is lost.
fn carried(
    ground: &Ground,
    running: &mut Running,
    size: usize,
    flooded_rate: f64,
    length: Duration,
) -> Result<Option<Flooded>> {
    let (mut search, mut best) = (Search::new(flooded_rate), None);
    while let Some(rate) = search.trial() {
        let (trial, sent) = flooded(ground, running, size, Some(rate), length)?;
        if search.tell(sent, trial.lost) {
            best = Some(trial);
        }
    }
    Ok(best)
}

/// How long packets are under way beside a load of that many a second: through the tunnel, which is taken down
/// then, and without it, since whatever the hosts and the wire add is there without a tunnel as well.
fn delayed(
    ground: Ground,
    mut running: Running,
    size: usize,
    rate: f64,
    length: Duration,
) -> Result<Delayed> {
    ground.settle()?;
    let (tunnel, stalls, report) = probe(&ground, size, rate, length)?;
    running.stop();
    drop(ground);
    // As many as were sent into the tunnel, which may have been fewer.
    let rate = report.sent as f64 / (length + 2 * MARGIN).as_secs_f64();
    let ground = Ground::lay()?;
    let _bare = ground.route_directly()?;
    let (wire, ..) = probe(&ground, size, rate, length)?;
    Ok(Delayed {
        rate,
        lost: lost(&report),
        tunnel,
        wire,
        stalls,
    })
}

/// Delays of a probe beside a load, how late real-time threads ran meanwhile, and what became of the load.
fn probe(
    ground: &Ground,
    size: usize,
    rate: f64,
    length: Duration,
) -> Result<(Histogram<u64>, Histogram<u64>, FloodReport)> {
    let load = begin(ground, size, Some(rate), length + 2 * MARGIN, 7001)?;
    std::thread::sleep(MARGIN);
    let stalls = Stalls::watch()?;
    let probe = begin(ground, PROBE + HEADERS, Some(PROBES), length, PROBE_PORT)?.finish()?;
    let stalls = stalls.finish()?;
    let load = load.finish()?;
    if probe.received == 0 {
        bail!("none of {} probes arrived", probe.sent);
    }
    Ok((probe.delays, stalls, load))
}
