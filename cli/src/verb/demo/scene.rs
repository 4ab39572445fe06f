// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo's course of events, and what was recorded of it.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use netlab::Namespace;
use netlab::capture::{Capture, CaptureConfig, CaptureSummary};
use netlab::link::veth;
use netlab::traffic::{
    Bulk, BulkReport, DatagramReport, Datagrams, DatagramsConfig, PingReport, iperf3, ping,
};
use zeroize::Zeroizing;

use super::gateway::{Child, DeviceCounters, Gateway, Ground, Mode, Model, Site};
use super::progress::Progress;
use crate::interrupt::Interrupt;

/// How long IKE, a fallback and a return may take before the demo gives up.
pub(super) const NEGOTIATION: Duration = Duration::from_secs(10);
const FALLBACK: Duration = Duration::from_secs(3);
const RETURN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// What to play.
pub(super) struct Script {
    pub(super) daemon: PathBuf,
    pub(super) out: PathBuf,
    pub(super) phase: Duration,
    /// Of both cards, but in inline mode.
    pub(super) model: Model,
}

/// An instant on both clocks: the one that traffic is counted by, and the one that captures are stamped by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) instant: Instant,
    pub(super) epoch: Duration,
}

impl Mark {
    pub(super) fn now() -> Self {
        Self {
            instant: Instant::now(),
            epoch: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }
}

/// The turning points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    pub(super) start: Mark,
    /// Both streams run.
    pub(super) streaming: Mark,
    /// Just before the counters were read for the last time before the kill.
    pub(super) counted: Mark,
    pub(super) killed: Mark,
    /// The daemon lists the SAs in software.
    pub(super) fell_back: Mark,
    /// A new card listens where the killed one did.
    pub(super) card_back: Mark,
    /// The daemon lists the SAs in the device again.
    pub(super) returned: Mark,
    /// The streams were told to end.
    pub(super) end: Mark,
}

/// One site's state at the moments that count.
pub(super) struct SiteRecord {
    pub(super) site: Site,
    /// Where its SAs lived: with the first card, without, with the second.
    pub(super) children: [Vec<Child>; 3],
    /// The card's counters before the kill and at the end.
    pub(super) device: [DeviceCounters; 2],
}

/// Everything that the report is made from.
pub(super) struct Recorded {
    pub(super) model: Model,
    pub(super) pcap: PathBuf,
    pub(super) capture: CaptureSummary,
    pub(super) timeline: Timeline,
    pub(super) ping: PingReport,
    pub(super) bulk: BulkReport,
    pub(super) datagrams: DatagramReport,
    pub(super) iperf3_mbps: Option<f64>,
    /// The site whose card is killed, and the other.
    pub(super) sites: [SiteRecord; 2],
    pub(super) key_logs: Vec<PathBuf>,
}

/// Plays the scene to its end. Whatever happens, nothing of it is left running.
pub(super) fn play(
    script: &Script,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<Recorded> {
    let plan = plan();
    let start = Mark::now();

    progress.step("two network namespaces, joined by a veth");
    let wires = wire_up(&plan)?;
    let pcap = script.out.join("wire.pcap");
    let capture = Capture::start(&wires[0], "wire", &pcap, CaptureConfig::default())?;

    progress.step(match script.model {
        Model::Functional => "two simulated cards, two ikev2d",
        Model::Rtl => "two simulated cards whose data path is the RTL, two ikev2d",
    });
    let directory = tempfile::Builder::new()
        .prefix("esplanade-demo-")
        .tempdir()?;
    let secret = random_secret()?;
    let ground = Ground {
        secret: &secret,
        daemon: &script.daemon,
        directory: directory.path(),
        out: &script.out,
    };
    let open = |mine: usize, other: usize| {
        Gateway::start(
            plan[mine].clone(),
            wires[mine].clone(),
            &plan[other],
            ground,
            Mode::Lookaside(script.model),
        )
    };
    // The responder first, so that the initiator's first message finds it.
    let responder = open(1, 0)?;
    let initiator = open(0, 1)?;
    let mut stage = Stage {
        gateways: [initiator, responder],
        interrupt,
        progress,
    };

    progress.step("IKE negotiates; the child SAs go into the cards");
    stage.await_engine(&[0, 1], "device", NEGOTIATION, true)?;
    let children_first = stage.children()?;
    let ping = ping(
        &stage.gateways[0].namespace,
        plan[0].inner,
        plan[1].inner,
        10,
    )?;

    progress.step("phase 1: a TCP and a UDP stream through the cards");
    let sink = |port| SocketAddr::new(plan[1].inner, port);
    let (from, to) = ((&wires[0], plan[0].inner), &wires[1]);
    let bulk = Bulk::start(from, (to, sink(5001)), 0x5eed, start.instant)?;
    let shape = DatagramsConfig {
        size: 1000,
        rate: match script.model {
            Model::Functional => 2500,
            // A simulated clock does a few thousand packets a second, and TCP wants some of them.
            Model::Rtl => 250,
        },
        seed: 0xfeed,
    };
    let datagrams = Datagrams::start(from, (to, sink(5002)), shape, start.instant)?;
    let streaming = Mark::now();
    stage.hold(script.phase, &bulk)?;
    let counted = Mark::now();
    let device_first = stage.devices()?;

    progress.step("phase 2: SIGKILL to card a; the tunnel goes on in software");
    let killed = Mark::now();
    stage.gateways[0].kill_card()?;
    stage.await_engine(&[0], "software", FALLBACK, false)?;
    let fell_back = Mark::now();
    let children_software = stage.children()?;
    stage.hold(script.phase, &bulk)?;

    progress.step("phase 3: the card comes back and the SAs return to it");
    stage.gateways[0].replace_card()?;
    let card_back = Mark::now();
    stage.await_engine(&[0], "device", RETURN, false)?;
    let returned = Mark::now();
    stage.hold(script.phase, &bulk)?;
    let children_returned = stage.children()?;

    let end = Mark::now();
    let bulk = bulk.finish()?;
    let datagrams = datagrams.finish()?;
    progress.step("iperf3 for a second opinion, where it is installed");
    let iperf3_mbps = iperf3(from, (to, sink(5003)), 2)?.map(|report| report.mbps);
    let device_last = stage.devices()?;

    progress.step("taking everything down");
    // The initiator first: it deletes the SAs, and the responder answers.
    for gateway in &mut stage.gateways {
        gateway.stop()?;
    }
    let capture = capture.finish()?;
    let [a, b] = plan;
    let record = |site: Site, index: usize| SiteRecord {
        site,
        children: [&children_first, &children_software, &children_returned]
            .map(|all| all[index].clone()),
        device: [&device_first, &device_last].map(|all| all[index].clone()),
    };
    Ok(Recorded {
        model: script.model,
        pcap,
        capture,
        timeline: Timeline {
            start,
            streaming,
            counted,
            killed,
            fell_back,
            card_back,
            returned,
            end,
        },
        ping,
        bulk,
        datagrams,
        iperf3_mbps,
        sites: [record(a, 0), record(b, 1)],
        key_logs: ["a", "b"]
            .map(|name| script.out.join(format!("keys-{name}")))
            .to_vec(),
    })
}

/// The two sites.
pub(super) fn plan() -> [Site; 2] {
    let site = |name, host: u8, network, initiates| Site {
        name,
        outer: IpAddr::from([10, 77, 0, host]),
        inner: IpAddr::from([10, host, 0, 1]),
        network,
        initiates,
    };
    [
        site("a", 1, "10.1.0.0/24", true),
        site("b", 2, "10.2.0.0/24", false),
    ]
}

/// Namespaces with a wire between them, and each site's protected address on its loopback.
fn wire_up(plan: &[Site; 2]) -> Result<[Namespace; 2]> {
    let wires = [Namespace::new(plan[0].name)?, Namespace::new(plan[1].name)?];
    veth((&wires[0], "wire"), (&wires[1], "wire"))?;
    for (namespace, site) in wires.iter().zip(plan) {
        // No neighbour or router solicitations on a wire that is to be read.
        namespace.sysctl("net.ipv6.conf.wire.disable_ipv6", "1")?;
        namespace.address("wire", &format!("{}/24", site.outer))?;
        namespace.address("lo", &format!("{}/32", site.inner))?;
    }
    Ok(wires)
}

/// A pre-shared key of 256 bits for this run.
pub(crate) fn random_secret() -> Result<Zeroizing<String>> {
    let mut octets = Zeroizing::new([0u8; 32]);
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut *octets))
        .context("cannot read /dev/urandom")?;
    Ok(Zeroizing::new(hex::encode(*octets)))
}

/// The running gateways, under watch.
pub(super) struct Stage<'a> {
    pub(super) gateways: [Gateway; 2],
    pub(super) interrupt: &'a Interrupt,
    pub(super) progress: &'a Progress,
}

impl Stage<'_> {
    /// Lets time pass while the streams run; an error if a process ended or somebody interrupts.
    pub(super) fn hold(&mut self, length: Duration, bulk: &Bulk) -> Result<()> {
        let start = Instant::now();
        let (mut seen, mut shown) = (bulk.received(), start);
        while start.elapsed() < length {
            std::thread::sleep(TICK);
            self.check()?;
            let interval = shown.elapsed();
            if interval > Duration::from_millis(250) {
                let now = bulk.received();
                let rate = (now - seen) as f64 * 8e-6 / interval.as_secs_f64();
                self.progress
                    .note(format!("{rate:.0} Mbit/s of TCP, verified"));
                (seen, shown) = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// Waits until the named gateways have child SAs and all of them live in `engine`.
    pub(super) fn await_engine(
        &mut self,
        which: &[usize],
        engine: &str,
        limit: Duration,
        fresh: bool,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            self.check()?;
            let mut state = String::new();
            let mut reached = true;
            for &index in which {
                let gateway = &self.gateways[index];
                let children = gateway.children()?;
                reached &=
                    !children.is_empty() && children.iter().all(|child| child.engine == engine);
                let engines: Vec<&str> =
                    children.iter().map(|child| child.engine.as_str()).collect();
                state += &format!(
                    " {}: {}",
                    gateway.site.name,
                    if engines.is_empty() {
                        "none".to_owned()
                    } else {
                        engines.join(", ")
                    }
                );
            }
            if reached {
                return Ok(());
            }
            if start.elapsed() > limit {
                if fresh {
                    // The daemon's own word on why there is no tunnel is better than a timeout.
                    self.gateways[0]
                        .initiate(Duration::from_secs(5))
                        .context("the tunnel does not come up")?;
                }
                bail!(
                    "after {limit:?} the child SAs should live in the {engine}; they are:{state}"
                );
            }
            std::thread::sleep(TICK);
        }
    }

    pub(super) fn children(&self) -> Result<[Vec<Child>; 2]> {
        Ok([self.gateways[0].children()?, self.gateways[1].children()?])
    }

    fn devices(&self) -> Result<[DeviceCounters; 2]> {
        Ok([self.gateways[0].device()?, self.gateways[1].device()?])
    }

    fn check(&mut self) -> Result<()> {
        self.interrupt.check()?;
        self.gateways.iter_mut().try_for_each(Gateway::check)
    }
}
