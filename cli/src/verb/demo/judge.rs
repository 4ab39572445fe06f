// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Judges what was recorded: each claim of the demo is a check that can fail.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use netlab::analyse::Wire;

use super::report::{Card, Cards, Fallback, Phase, Report, SaLine, Throughput};
use super::scene::{Mark, Recorded, SiteRecord, Timeline};

/// How far around the kill a silence of the gateway is looked for.
const AFTER_KILL: Duration = Duration::from_secs(1);
const BEFORE_KILL: Duration = Duration::from_millis(20);
/// The octets of payload that one packet through a TUN of 1400 octets carries at most.
const SEGMENT: u64 = 1400 - 40;

/// Reads the capture and makes the report.
pub(super) fn judge(recorded: &Recorded) -> Result<Report> {
    let wire = Wire::read(&recorded.pcap)?;
    let mut report = measure(recorded, &wire);
    report.failures = failures(recorded, &wire, &report);
    report.ok = report.failures.is_empty();
    Ok(report)
}

fn measure(recorded: &Recorded, wire: &Wire) -> Report {
    let Timeline {
        streaming,
        killed,
        fell_back,
        card_back,
        returned,
        end,
        ..
    } = recorded.timeline;
    let mbps =
        |from: Mark, until: Mark| recorded.bulk.series.rate(from.instant, until.instant) * 8e-6;
    let phase = |name, from: Mark, until: Mark| Phase {
        name,
        from_s: seconds(recorded, from),
        until_s: seconds(recorded, until),
        throughput_mbps: mbps(from, until),
        datagrams_lost: recorded
            .datagrams
            .losses
            .between(from.instant, until.instant),
    };
    let [a, b] = &recorded.sites;
    let silence = wire.longest_silence(
        a.site.outer,
        killed.epoch.saturating_sub(BEFORE_KILL),
        killed.epoch + AFTER_KILL,
    );
    let first = a.children[0].first();
    Report {
        ok: false,
        failures: Vec::new(),
        cards: recorded.model,
        suite: first
            .map(|child| child.esp_suite.clone())
            .unwrap_or_default(),
        ike_suite: first
            .map(|child| child.ike_suite.clone())
            .unwrap_or_default(),
        duplicate_sequence_numbers: wire.duplicate_sequence_numbers(),
        repeated_key_iv: wire.repeated_key_iv(),
        plaintext_packets_on_wire: wire.plaintext + wire.unknown,
        offenders: wire.offenders.clone(),
        fallback_ms: silence.map(|(length, _)| milliseconds(length)),
        fallback: Fallback {
            silence_began_ms_after_kill: silence
                .map(|(_, since)| (since.as_secs_f64() - killed.epoch.as_secs_f64()) * 1e3),
            daemon_us: a.device[1].last_fallback_us,
            listed_in_software_ms: milliseconds(fell_back.instant - killed.instant),
            listed_in_device_ms: milliseconds(returned.instant - card_back.instant),
        },
        packets_lost: recorded.datagrams.lost,
        duplicates: recorded.datagrams.duplicates,
        throughput_mbps: Throughput {
            device: mbps(streaming, killed),
            software: mbps(fell_back, card_back),
            returned: mbps(returned, end),
        },
        phases: vec![
            phase("device", streaming, killed),
            phase("software", killed, card_back),
            phase("returned", card_back, end),
        ],
        esp_packets_by_card: Cards {
            a: card(a, wire),
            b: card(b, wire),
        },
        esp_packets_on_wire: wire
            .flows
            .iter()
            .map(|flow| flow.sightings.len() as u64)
            .sum(),
        sas: recorded
            .sites
            .iter()
            .flat_map(|site| sa_lines(site, wire))
            .collect(),
        ping: recorded.ping,
        iperf3_mbps: recorded.iperf3_mbps,
        tcp_octets_verified: recorded.bulk.received,
        datagrams_verified: recorded.datagrams.received,
        datagram_latency: recorded.datagrams.latency,
        captured_packets: recorded.capture.packets,
        capture_drops: recorded.capture.dropped,
        ike_packets: wire.ike,
    }
}

/// What a card says it did, beside what its gateway's ESP packets on the wire say.
fn card(site: &SiteRecord, wire: &Wire) -> Card {
    let [before, last] = &site.device;
    Card {
        sealed: last.sealed,
        opened: last.opened,
        sealed_before_the_kill: before.sealed,
        errors: last.errors,
        bogus_completions: last.bogus_completions,
        lost: last.lost_count,
        health: last.health.clone(),
        sent_on_wire: wire
            .sent_by(site.site.outer)
            .map(|flow| flow.sightings.len() as u64)
            .sum(),
    }
}

/// Each SA that a site sends on, where it lived in each phase, and what the wire saw of it.
fn sa_lines(site: &SiteRecord, wire: &Wire) -> Vec<SaLine> {
    wire.sent_by(site.site.outer)
        .map(|flow| {
            let wire = flow.summary();
            let engine = |children: &Vec<super::gateway::Child>| {
                children
                    .iter()
                    .find(|child| same_spi(&child.spi_out, flow.spi))
                    .map_or("absent", |child| child.engine.as_str())
                    .to_owned()
            };
            SaLine {
                sender: site.site.name,
                lived_in: site.children.each_ref().map(engine),
                wire,
            }
        })
        .collect()
}

fn failures(recorded: &Recorded, wire: &Wire, report: &Report) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |holds: bool, otherwise: String| {
        if !holds {
            failures.push(otherwise);
        }
    };
    let [a, b] = &recorded.sites;

    let dropped = recorded.capture.dropped;
    check(
        dropped == 0,
        format!("the capture missed {dropped} packets, so it proves nothing"),
    );
    check(report.esp_packets_on_wire > 0, "no ESP on the wire".into());
    check(report.ike_packets > 0, "no IKE on the wire".into());
    let zeros = [
        (
            "sequence numbers used twice",
            report.duplicate_sequence_numbers,
        ),
        ("(key, IV) pairs used twice", report.repeated_key_iv),
        (
            "packets on the wire that are neither ESP nor IKE",
            report.plaintext_packets_on_wire,
        ),
        ("datagrams delivered twice", report.duplicates),
        ("datagrams changed on the way", recorded.datagrams.corrupted),
    ];
    for (what, count) in zeros {
        check(count == 0, format!("{count} {what}"));
    }
    check(
        recorded.ping.received == recorded.ping.sent,
        format!(
            "{} of {} pings answered",
            recorded.ping.received, recorded.ping.sent
        ),
    );
    let bulk = &recorded.bulk;
    check(
        bulk.intact(),
        format!(
            "the TCP stream is not intact: {} octets sent, {} received, first difference at {:?}, ended: {}",
            bulk.sent, bulk.received, bulk.first_difference, bulk.complete
        ),
    );
    for (phase, mbps) in [
        ("device", report.throughput_mbps.device),
        ("software", report.throughput_mbps.software),
        ("returned", report.throughput_mbps.returned),
    ] {
        check(mbps > 1.0, format!("phase {phase}: only {mbps:.2} Mbit/s"));
    }
    for (site, expected) in [(a, ["device", "software", "device"]), (b, ["device"; 3])] {
        for (children, expected) in site.children.iter().zip(expected) {
            let found: Vec<&str> = children.iter().map(|child| child.engine.as_str()).collect();
            check(
                !found.is_empty() && found.iter().all(|engine| *engine == expected),
                format!(
                    "site {}: SAs expected in {expected}, found in {found:?}",
                    site.site.name
                ),
            );
        }
    }
    check(
        report.fallback_ms.is_some(),
        "no ESP from the gateway around the kill".into(),
    );

    // The cards' own counters against the wire and against the generators.
    for site in [a, b] {
        let sent = wire
            .sent_by(site.site.outer)
            .flat_map(|flow| &flow.sightings)
            .filter(|sighting| sighting.time < recorded.timeline.counted.epoch)
            .count() as u64;
        let sealed = site.device[0].sealed;
        check(
            sealed >= sent && sent > 0,
            format!(
                "site {}: {sent} ESP packets on the wire before the kill, but its card sealed {sealed}",
                site.site.name
            ),
        );
    }
    let payloads = bulk.received / SEGMENT + recorded.datagrams.received;
    check(
        b.device[1].opened >= payloads,
        format!(
            "{payloads} packets' worth of payload arrived, but the card opened {}",
            b.device[1].opened
        ),
    );
    check(
        a.device[1].lost_count >= 1,
        "the daemon did not count the loss of its card".into(),
    );
    for directory in &recorded.key_logs {
        let table = directory.join("ikev2_decryption_table");
        check(
            !is_empty(&table),
            format!("no key log in {}", table.display()),
        );
    }
    failures
}

fn same_spi(listed: &str, spi: u32) -> bool {
    u32::from_str_radix(listed.trim_start_matches("0x"), 16) == Ok(spi)
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.len() == 0)
}

fn seconds(recorded: &Recorded, mark: Mark) -> f64 {
    (mark.instant - recorded.timeline.start.instant).as_secs_f64()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
