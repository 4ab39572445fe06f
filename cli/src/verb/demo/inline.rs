// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade demo --inline`: the cards move the packets themselves. Their wire ports lie in
//! namespaces of their own, so the gateways have no interface that ESP could come by; what the cards
//! leave to them is captured too, and must hold no ESP.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use netlab::Namespace;
use netlab::analyse::Wire;
use netlab::capture::{Capture, CaptureConfig};
use netlab::link::veth;
use netlab::traffic::{Bulk, Datagrams, DatagramsConfig, iperf3, ping};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::gateway::{Child, EXCEPTION_PORT, Gateway, Ground, Mode};
use super::progress::Progress;
use super::scene::{NEGOTIATION, Script, Stage, plan, random_secret};
use crate::interrupt::Interrupt;

/// What was seen, and what was not as it should be.
#[derive(Debug, Serialize)]
pub(super) struct InlineReport {
    /// Nothing was otherwise than it should be.
    pub(super) ok: bool,
    /// What was.
    failures: Vec<String>,
    /// What IKE negotiated for ESP.
    suite: String,
    /// Where the SAs of each site lived.
    engines: [Vec<String>; 2],
    /// TCP through the tunnel, Mbit/s.
    throughput_mbps: f64,
    /// By iperf3, where it is installed.
    iperf3_mbps: Option<f64>,
    /// Octets of TCP that arrived as they were sent.
    tcp_octets_verified: u64,
    /// Datagrams sent, arrived, lost, doubled, changed.
    datagrams: [u64; 5],
    /// One-way delay of datagrams: median and 99 % in microseconds.
    datagram_latency_us: [u64; 2],
    /// Echo requests and answers.
    pings: [u32; 2],
    /// Rekeyings of the child SA while the streams ran.
    rekeyings: usize,
    /// Packets captured on the wire and missed.
    captured: [u64; 2],
    /// ESP packets on the wire.
    esp_packets_on_wire: u64,
    /// ESP packets that came by an interface of a gateway.
    esp_packets_at_hosts: u64,
    /// IKE messages that came by one.
    ike_packets_at_hosts: u64,
    /// Sequence numbers used twice.
    duplicate_sequence_numbers: u64,
    /// (key, IV) pairs used twice.
    repeated_key_iv: u64,
    /// Packets on the wire that are neither ESP nor IKE.
    plaintext_packets_on_wire: u64,
    /// What the cards' ports counted at each site.
    ports: [Vec<(String, u64)>; 2],
}

/// Rekeyings while the streams run.
const REKEYINGS: usize = 3;

/// Plays the scene to its end. Whatever happens, nothing of it is left running.
pub(super) fn play(
    script: &Script,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<InlineReport> {
    let plan = plan();
    progress.step("two gateways without a wire, two wires between their cards");
    let hosts = [Namespace::new("a")?, Namespace::new("b")?];
    let wires = [Namespace::new("wire-a")?, Namespace::new("wire-b")?];
    veth((&wires[0], "wire"), (&wires[1], "wire"))?;
    for wire in &wires {
        wire.sysctl("net.ipv6.conf.wire.disable_ipv6", "1")?;
    }
    for (host, site) in hosts.iter().zip(&plan) {
        host.address("lo", &format!("{}/32", site.inner))?;
    }
    let file = |name: &str| script.out.join(name);
    let on_wire = Capture::start(
        &wires[0],
        "wire",
        &file("wire.pcap"),
        CaptureConfig::default(),
    )?;

    progress.step("two simulated cards in inline mode, two ikev2d");
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
            hosts[mine].clone(),
            &plan[other],
            ground,
            Mode::Inline(&wires[mine]),
        )
    };
    let responder = open(1, 0)?;
    let at_b = at_host(&hosts[1], &file("host-b.pcap"))?;
    let initiator = open(0, 1)?;
    let at_a = at_host(&hosts[0], &file("host-a.pcap"))?;
    let mut stage = Stage {
        gateways: [initiator, responder],
        interrupt,
        progress,
    };

    progress.step("IKE by the exception ports; the child SAs and their rules go into the cards");
    stage.await_engine(&[0, 1], "device", NEGOTIATION, true)?;
    let children = stage.children()?;
    let pinged = ping(&hosts[0], plan[0].inner, plan[1].inner, 10)?;

    progress.step("a TCP and a UDP stream, card to card, rekeyed on the way");
    let start = Instant::now();
    let sink = |port| SocketAddr::new(plan[1].inner, port);
    let (from, to) = ((&hosts[0], plan[0].inner), &hosts[1]);
    let bulk = Bulk::start(from, (to, sink(5001)), 0x5eed, start)?;
    let shape = DatagramsConfig {
        size: 1000,
        rate: 2500,
        seed: 0xfeed,
    };
    let datagrams = Datagrams::start(from, (to, sink(5002)), shape, start)?;
    let streaming = Instant::now();
    let mut rekeyings = 0;
    for _ in 0..REKEYINGS {
        stage.hold(script.phase / (REKEYINGS as u32 + 1), &bulk)?;
        let before = stage.children()?[0].clone();
        stage.gateways[0].rekey()?;
        stage.hold(Duration::from_millis(500), &bulk)?;
        rekeyings += usize::from(!same_spis(&before, &stage.children()?[0]));
    }
    stage.hold(script.phase / (REKEYINGS as u32 + 1), &bulk)?;
    let end = Instant::now();
    let bulk = bulk.finish()?;
    let datagrams = datagrams.finish()?;
    progress.step("iperf3 for a second opinion, where it is installed");
    let iperf3_mbps = iperf3(from, (to, sink(5003)), 2)?.map(|report| report.mbps);
    let ports = [
        stage.gateways[0].dataplane()?,
        stage.gateways[1].dataplane()?,
    ];
    let engines = children
        .each_ref()
        .map(|children| children.iter().map(|child| child.engine.clone()).collect());

    progress.step("taking everything down");
    for gateway in &mut stage.gateways {
        gateway.stop()?;
    }
    let captured = on_wire.finish()?;
    at_a.finish()?;
    at_b.finish()?;
    progress.step("reading the captures");
    let wire = Wire::read(&file("wire.pcap"))?;
    let at_hosts = [
        Wire::read(&file("host-a.pcap"))?,
        Wire::read(&file("host-b.pcap"))?,
    ];
    let esp = |wire: &Wire| -> u64 {
        let flows = wire.flows.iter();
        flows.map(|flow| flow.sightings.len() as u64).sum()
    };
    let mut report = InlineReport {
        ok: false,
        failures: Vec::new(),
        suite: children[0]
            .first()
            .map(|child| child.esp_suite.clone())
            .unwrap_or_default(),
        engines,
        throughput_mbps: bulk.series.rate(streaming, end) * 8e-6,
        iperf3_mbps,
        tcp_octets_verified: bulk.received,
        datagrams: [
            datagrams.sent,
            datagrams.received,
            datagrams.lost,
            datagrams.duplicates,
            datagrams.corrupted,
        ],
        datagram_latency_us: [datagrams.latency.median_us, datagrams.latency.p99_us],
        pings: [pinged.sent, pinged.received],
        rekeyings,
        captured: [captured.packets, captured.dropped],
        esp_packets_on_wire: esp(&wire),
        esp_packets_at_hosts: at_hosts.iter().map(esp).sum(),
        ike_packets_at_hosts: at_hosts.iter().map(|wire| wire.ike).sum(),
        duplicate_sequence_numbers: wire.duplicate_sequence_numbers(),
        repeated_key_iv: wire.repeated_key_iv(),
        plaintext_packets_on_wire: wire.plaintext + wire.unknown,
        ports,
    };
    report.failures = failures(&report, bulk.intact());
    report.ok = report.failures.is_empty();
    Ok(report)
}

/// Captures what a card leaves to its gateway.
fn at_host(host: &Namespace, file: &Path) -> Result<Capture> {
    Ok(Capture::start(
        host,
        EXCEPTION_PORT,
        file,
        CaptureConfig::default(),
    )?)
}

fn same_spis(before: &[Child], after: &[Child]) -> bool {
    let newest = |children: &[Child]| children.last().map(|child| child.spi_out.clone());
    newest(before) == newest(after)
}

fn failures(report: &InlineReport, intact: bool) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |holds: bool, otherwise: String| {
        if !holds {
            failures.push(otherwise);
        }
    };
    let [_, missed] = report.captured;
    check(
        missed == 0,
        format!("the capture missed {missed} packets, so it proves nothing"),
    );
    check(report.esp_packets_on_wire > 0, "no ESP on the wire".into());
    check(
        report.ike_packets_at_hosts > 0,
        "no IKE at the gateways".into(),
    );
    let [_, _, _, doubled, changed] = report.datagrams;
    for (what, count) in [
        (
            "ESP packets at the gateways' interfaces",
            report.esp_packets_at_hosts,
        ),
        (
            "sequence numbers used twice",
            report.duplicate_sequence_numbers,
        ),
        ("(key, IV) pairs used twice", report.repeated_key_iv),
        (
            "packets on the wire that are neither ESP nor IKE",
            report.plaintext_packets_on_wire,
        ),
        ("datagrams delivered twice", doubled),
        ("datagrams changed on the way", changed),
    ] {
        check(count == 0, format!("{count} {what}"));
    }
    let [sent, answered] = report.pings;
    check(
        sent == answered,
        format!("{answered} of {sent} pings answered"),
    );
    check(intact, "the TCP stream is not intact".into());
    check(
        report.throughput_mbps > 1.0,
        format!("only {:.2} Mbit/s", report.throughput_mbps),
    );
    check(
        report.rekeyings == REKEYINGS,
        format!("{} of {REKEYINGS} rekeyings took place", report.rekeyings),
    );
    for engines in &report.engines {
        check(
            !engines.is_empty() && engines.iter().all(|engine| engine == "device"),
            format!("SAs expected in the device, found in {engines:?}"),
        );
    }
    failures
}

/// For people.
pub(super) fn print(report: &InlineReport, out: &Path) {
    let line = |name: &str, text: String| anstream::println!("{name:<22}{text}");
    anstream::println!();
    line("ESP", report.suite.clone());
    line(
        "throughput",
        format!(
            "{:.0} Mbit/s of TCP{}",
            report.throughput_mbps,
            report
                .iperf3_mbps
                .map_or_else(String::new, |rate| format!(", iperf3 says {rate:.0}"))
        ),
    );
    let [sent, received, lost, ..] = report.datagrams;
    let [median, p99] = report.datagram_latency_us;
    line(
        "verified",
        format!(
            "{:.0} MB of TCP, {received} of {sent} datagrams ({lost} lost; median {median} µs, 99 % {p99} µs), {} of {} pings",
            report.tcp_octets_verified as f64 * 1e-6,
            report.pings[1],
            report.pings[0],
        ),
    );
    line(
        "rekeyed",
        format!("{} times under traffic", report.rekeyings),
    );
    line(
        "on the wire",
        format!(
            "{} packets captured, {} missed; {} ESP, {} plaintext; sequence numbers twice: {}, (key, IV) twice: {}",
            report.captured[0],
            report.captured[1],
            report.esp_packets_on_wire,
            report.plaintext_packets_on_wire,
            report.duplicate_sequence_numbers,
            report.repeated_key_iv,
        ),
    );
    line(
        "at the gateways",
        format!(
            "{} ESP packets, {} IKE messages",
            report.esp_packets_at_hosts, report.ike_packets_at_hosts
        ),
    );
    let out = out.display();
    line(
        "written",
        format!("{out}/{{wire.pcap,host-a.pcap,host-b.pcap,keys-a,keys-b,report.json,logs}}"),
    );
    anstream::println!();
    for failure in &report.failures {
        anstream::println!("{} {failure}", "not so:".red().bold());
    }
    if report.ok {
        anstream::println!("{}", "Everything held.".green().bold());
    }
}
