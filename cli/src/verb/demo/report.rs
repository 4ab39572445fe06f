// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo's report, for a program (`report.json`) and for a person.

use std::path::Path;

use comfy_table::{Table, presets};
use netlab::analyse::{FlowSummary, Offender};
use netlab::traffic::{Latency, PingReport};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::gateway::Model;

/// Everything that the demo found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether every check passed.
    pub(super) ok: bool,
    /// Those that did not.
    pub(super) failures: Vec<String>,
    /// What the cards' data paths were.
    pub(super) cards: Model,
    /// The ESP suite that IKE negotiated.
    pub(super) suite: String,
    /// The suite of the IKE SA.
    pub(super) ike_suite: String,
    pub(super) duplicate_sequence_numbers: u64,
    pub(super) repeated_key_iv: u64,
    pub(super) plaintext_packets_on_wire: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) offenders: Vec<Offender>,
    /// The longest silence in the killed gateway's ESP within a second of the kill, from the capture.
    pub(super) fallback_ms: Option<f64>,
    pub(super) fallback: Fallback,
    /// Datagrams of the UDP stream that never arrived.
    pub(super) packets_lost: u64,
    /// Datagrams that arrived twice.
    pub(super) duplicates: u64,
    /// Verified TCP payload.
    pub(super) throughput_mbps: Throughput,
    pub(super) phases: Vec<Phase>,
    pub(super) esp_packets_by_card: Cards,
    pub(super) esp_packets_on_wire: u64,
    pub(super) sas: Vec<SaLine>,
    pub(super) ping: PingReport,
    pub(super) iperf3_mbps: Option<f64>,
    pub(super) tcp_octets_verified: u64,
    pub(super) datagrams_verified: u64,
    pub(super) datagram_latency: Latency,
    pub(super) captured_packets: u64,
    pub(super) capture_drops: u64,
    pub(super) ike_packets: u64,
}

/// The loss of the card in figures.
#[derive(Debug, Serialize)]
pub(super) struct Fallback {
    pub(super) silence_began_ms_after_kill: Option<f64>,
    /// The daemon's own: from noticing to the first packet sealed in software.
    pub(super) daemon_us: Option<u64>,
    /// From the kill until the daemon listed the SAs in software.
    pub(super) listed_in_software_ms: f64,
    /// From the new card's first word until the daemon listed the SAs in the device.
    pub(super) listed_in_device_ms: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) device: f64,
    pub(super) software: f64,
    pub(super) returned: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) from_s: f64,
    pub(super) until_s: f64,
    pub(super) throughput_mbps: f64,
    pub(super) datagrams_lost: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Cards {
    pub(super) a: Card,
    pub(super) b: Card,
}

/// One card's own counters, beside what the wire saw.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    pub(super) sealed: u64,
    pub(super) opened: u64,
    pub(super) sealed_before_the_kill: u64,
    pub(super) errors: u64,
    pub(super) bogus_completions: u64,
    pub(super) lost: u64,
    pub(super) health: String,
    /// ESP packets of its gateway on the wire, sealed by the card or in software.
    pub(super) sent_on_wire: u64,
}

/// One SA.
#[derive(Debug, Serialize)]
pub(super) struct SaLine {
    pub(super) sender: &'static str,
    /// In phases one to three.
    pub(super) lived_in: [String; 3],
    #[serde(flatten)]
    pub(super) wire: FlowSummary,
}

/// Prints the report for a person.
pub(super) fn print(report: &Report, out: &Path) {
    anstream::println!(
        "\n{}  {} (IKE: {})\n",
        "Suite".bold(),
        report.suite,
        report.ike_suite
    );

    if report.cards == Model::Rtl {
        anstream::println!(
            "{}  the verilated RTL; the figures are those of a simulated clock\n",
            "Cards".bold()
        );
    }
    let mut phases = table(["phase", "from s", "to s", "TCP, Mbit/s", "datagrams lost"]);
    for phase in &report.phases {
        phases.add_row([
            phase.name.to_owned(),
            format!("{:.1}", phase.from_s),
            format!("{:.1}", phase.until_s),
            format!("{:.0}", phase.throughput_mbps),
            phase.datagrams_lost.to_string(),
        ]);
    }
    anstream::println!("{phases}\n");

    let mut sas = table([
        "SA",
        "lived in",
        "packets",
        "numbers twice",
        "IVs twice",
        "widest gap",
    ]);
    for sa in &report.sas {
        sas.add_row([
            format!("{} {}→{}", sa.wire.spi, sa.wire.source, sa.wire.destination),
            sa.lived_in.join(" → "),
            sa.wire.packets.to_string(),
            sa.wire.duplicate_sequence_numbers.to_string(),
            sa.wire.repeated_ivs.to_string(),
            sa.wire.widest_gap.to_string(),
        ]);
    }
    anstream::println!("{sas}\n");

    let mut cards = table([
        "card",
        "health",
        "sealed",
        "opened",
        "errors",
        "lost",
        "ESP sent on the wire",
    ]);
    for (name, card) in [
        ("a (killed)", &report.esp_packets_by_card.a),
        ("b", &report.esp_packets_by_card.b),
    ] {
        cards.add_row([
            name.to_owned(),
            card.health.clone(),
            card.sealed.to_string(),
            card.opened.to_string(),
            card.errors.to_string(),
            card.lost.to_string(),
            card.sent_on_wire.to_string(),
        ]);
    }
    anstream::println!("{cards}\n");

    let line = |name: &str, text: String| anstream::println!("{name:<22}{text}");
    let optional = |value: Option<f64>, unit: &str| {
        value.map_or("–".to_owned(), |v| format!("{v:.1} {unit}"))
    };
    line(
        "time to fall back",
        format!(
            "{} of silence on the wire; the daemon's own figure: {}",
            optional(report.fallback_ms, "ms"),
            optional(report.fallback.daemon_us.map(|us| us as f64), "µs"),
        ),
    );
    line(
        "return to the card",
        format!(
            "{:.0} ms after the new card listened",
            report.fallback.listed_in_device_ms
        ),
    );
    line(
        "verified",
        format!(
            "{:.0} MB of TCP, {} datagrams (median {} µs, 99 % {} µs), {} of {} pings",
            report.tcp_octets_verified as f64 * 1e-6,
            report.datagrams_verified,
            report.datagram_latency.median_us,
            report.datagram_latency.p99_us,
            report.ping.received,
            report.ping.sent,
        ),
    );
    line(
        "lost, duplicates",
        format!(
            "{} datagrams lost, duplicates: {}",
            report.packets_lost, report.duplicates
        ),
    );
    line(
        "on the wire",
        format!(
            "{} packets captured, {} missed; {} ESP, {} plaintext; sequence numbers twice: {}, (key, IV) twice: {}",
            report.captured_packets,
            report.capture_drops,
            report.esp_packets_on_wire,
            report.plaintext_packets_on_wire,
            report.duplicate_sequence_numbers,
            report.repeated_key_iv,
        ),
    );
    if let Some(rate) = report.iperf3_mbps {
        line("iperf3 says", format!("{rate:.0} Mbit/s"));
    }
    let out = out.display();
    line(
        "written",
        format!("{out}/{{wire.pcap,keys-a,keys-b,report.json,throughput.svg,logs}}"),
    );
    anstream::println!();
    for offender in &report.offenders {
        anstream::println!(
            "  packet {}: {} → {}: {}",
            offender.packet,
            offender.source,
            offender.destination,
            offender.what
        );
    }
    for failure in &report.failures {
        anstream::println!("{} {failure}", "not so:".red().bold());
    }
    if report.ok {
        anstream::println!("{}", "Everything held.".green().bold());
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_NO_BORDERS)
        .set_header(header);
    table
}
