// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports as tables and as comma-separated values.

use bench_harness::case::Ptest;
use bench_harness::machine::Machine;
use bench_harness::report::{Cell, Report};
use bench_harness::stats::Estimate;

use crate::output::table;

/// What was measured, a table for each kind.
pub(super) fn tables(report: &Report, with_header: bool) -> String {
    let mut parts = Vec::new();
    if with_header {
        parts.push(header(report));
    }
    let kinds = [
        Ptest::Throughput,
        Ptest::Latency,
        Ptest::PmdCyclecount,
        Ptest::Verify,
        Ptest::Tunnel,
    ];
    for kind in kinds {
        let cells = report.cells.iter().filter(|cell| cell.ptest == kind);
        let rows: Vec<_> = cells.map(|cell| row(cell, kind)).collect();
        if !rows.is_empty() {
            parts.push(format!("{kind}\n{}", table(&headers(kind), rows, "")));
        }
    }
    let ratios = report.against_peers();
    if !ratios.is_empty() {
        let rows = ratios.into_iter().map(|ratio| {
            let Estimate { median, low, high } = ratio.ratio;
            vec![
                ratio.cell,
                ratio.peer,
                format!("{median:.2}"),
                format!("{low:.2} to {high:.2}"),
            ]
        });
        let headers = ["OURS", "OF", "RATIO", "95 %"];
        parts.push(format!(
            "beside the peers\n{}",
            table(&headers, rows.collect(), "")
        ));
    }
    if with_header && !report.absent.is_empty() {
        parts.push(format!("not measured:\n  {}", report.absent.join("\n  ")));
    }
    parts.join("\n\n")
}

fn header(report: &Report) -> String {
    let Machine {
        cpu,
        features,
        processors,
        tsc_hz,
        kernel,
        openssl,
        load,
        warnings,
        ..
    } = &report.machine;
    let kind = if report.machine.virtual_machine {
        ", virtual"
    } else {
        ""
    };
    let mut lines = vec![
        format!("esplanade {} on Linux {kernel}, {openssl}", report.version),
        format!(
            "{cpu}{kind}, {processors} processors, {:.2} GHz time-stamp counter, {}",
            tsc_hz / 1e9,
            features.join(" ")
        ),
        format!(
            "load {:.2} {:.2} {:.2} at the start",
            load[0], load[1], load[2]
        ),
    ];
    lines.extend(report.engines.iter().map(|engine| {
        let line = format!("{}: {} {}", engine.name, engine.product, engine.firmware);
        line.trim().to_owned()
    }));
    lines.extend(warnings.iter().map(|warning| format!("WARNING: {warning}")));
    lines.join("\n")
}

const TUNNEL: &[&str] = &[
    "TUNNEL",
    "SUITE",
    "TRAFFIC",
    "SIZE",
    "MBIT/S",
    "PACKETS/S",
    "CPU",
    "LOST",
    "P50 ADDED",
    "P99 ADDED",
    "P50 FLOOR",
    "P99 FLOOR",
    "P50 STALL",
    "P99 STALL",
];

/// A tunnel's figures, whose units differ with the traffic.
fn tunnel(cell: &Cell) -> Vec<String> {
    let figures = cell.tunnel.unwrap_or_default();
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let micros = |nanos: f64| format!("{:.0} us", nanos / 1000.0);
    let dash = || "-".to_owned();
    let cpu = figures.cpu.map(|cpu| match cell.operation.as_str() {
        "tcp" => format!("{cpu:.3} s/Gbit"),
        _ => format!("{:.2} us/packet", cpu / 1000.0),
    });
    let packets = cell.mpps.map(|mpps| mpps * 1e6).or(figures.rate);
    let delay = cell.operation == "delay";
    vec![
        cell.backend.clone(),
        cell.suite.clone(),
        cell.operation.clone(),
        cell.size.clone(),
        cell.gbps
            .map_or_else(dash, |gbps| format!("{:.0}", gbps * 1000.0)),
        packets.map_or_else(dash, |packets| format!("{packets:.0}")),
        cpu.unwrap_or_else(dash),
        figures.lost.map_or_else(dash, percent),
        if delay {
            micros(cell.value.median)
        } else {
            dash()
        },
        figures.added_p99_ns.map_or_else(dash, micros),
        figures.floor_p50_ns.map_or_else(dash, micros),
        figures.floor_p99_ns.map_or_else(dash, micros),
        figures.stall_p50_ns.map_or_else(dash, micros),
        figures.stall_p99_ns.map_or_else(dash, micros),
    ]
}

const COMMON: &[&str] = &[
    "ENGINE",
    "SUITE",
    "OPERATION",
    "SIZE",
    "BURST",
    "Q",
    "C",
    "SAS",
];

fn headers(kind: Ptest) -> Vec<&'static str> {
    let own: &[&str] = match kind {
        Ptest::Throughput => &["CYCLES/PACKET", "95 %", "CYCLES/B", "MPPS", "GBIT/S"],
        Ptest::Latency => &[
            "MIN NS", "P50", "95 %", "P90", "P99", "P99.9", "P99.99", "MAX",
        ],
        Ptest::PmdCyclecount => &[
            "CYCLES/PACKET",
            "95 %",
            "CYCLES/B",
            "BUILD",
            "ENQUEUE",
            "DEQUEUE",
        ],
        Ptest::Verify => &["CHECKED", "WRONG", "SPOILED", "FOUND", "VERDICT"],
        Ptest::Tunnel => return TUNNEL.to_vec(),
    };
    [COMMON, own].concat()
}

fn row(cell: &Cell, kind: Ptest) -> Vec<String> {
    let mut row = vec![
        cell.backend.clone(),
        cell.suite.clone(),
        cell.operation.clone(),
        cell.size.clone(),
        cell.burst.to_string(),
        cell.queues.to_string(),
        cell.cores.to_string(),
        cell.sas.to_string(),
    ];
    let value = cell.value;
    let interval = format!("{:.0} to {:.0}", value.low, value.high);
    let or_dash = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    match kind {
        Ptest::Throughput => row.extend([
            format!("{:.0}", value.median),
            interval,
            or_dash(cell.cycles_per_byte, 2),
            or_dash(cell.mpps, 2),
            or_dash(cell.gbps, 2),
        ]),
        Ptest::Latency => {
            if let Some(latency) = &cell.latency {
                row.extend([
                    latency.min.to_string(),
                    latency.p50.to_string(),
                    interval,
                    latency.p90.to_string(),
                    latency.p99.to_string(),
                    latency.p99_9.to_string(),
                    latency.p99_99.to_string(),
                    latency.max.to_string(),
                ]);
            }
        }
        Ptest::PmdCyclecount => {
            row.extend([
                format!("{:.0}", value.median),
                interval,
                or_dash(cell.cycles_per_byte, 2),
            ]);
            if let Some(stages) = cell.stages {
                let each = [stages.build, stages.enqueue, stages.dequeue];
                row.extend(each.map(|cycles| format!("{cycles:.0}")));
            }
        }
        Ptest::Verify => {
            if let Some(verdict) = &cell.verify {
                let word = if verdict.passed() { "PASS" } else { "FAIL" };
                let why = verdict.first_wrong.as_deref().unwrap_or("");
                row.extend([
                    verdict.checked.to_string(),
                    verdict.wrong.to_string(),
                    verdict.spoiled.to_string(),
                    verdict.spoiled_found.to_string(),
                    format!("{word} {why}").trim().to_owned(),
                ]);
            }
        }
        Ptest::Tunnel => return tunnel(cell),
    }
    row
}

const CSV: &str = "source,backend,ptest,suite,operation,size,mean size,burst,queues,cores,sas,metric,rounds,\
                   median,low,high,cycles per byte,mpps,gbps,p50 ns,p90 ns,p99 ns,p99.9 ns,max ns,build,\
                   enqueue,dequeue,checked,wrong,spoiled,spoiled found,cpu,lost,rate,p99 ns added,p50 ns floor,\
                   p99 ns floor,p50 ns stall,p99 ns stall";

/// A line for each cell.
pub(super) fn csv(report: &Report) -> String {
    let mut lines = vec![CSV.to_owned()];
    lines.extend(report.cells.iter().map(|cell| {
        let number =
            |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        let whole = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
        let (latency, stages, verify) = (cell.latency.as_ref(), cell.stages, cell.verify.as_ref());
        [
            cell.source.clone(),
            cell.backend.clone(),
            cell.ptest.to_string(),
            cell.suite.clone(),
            cell.operation.clone(),
            cell.size.clone(),
            format!("{:.1}", cell.octets),
            cell.burst.to_string(),
            cell.queues.to_string(),
            cell.cores.to_string(),
            cell.sas.to_string(),
            cell.metric.clone(),
            cell.samples.len().to_string(),
            number(Some(cell.value.median)),
            number(Some(cell.value.low)),
            number(Some(cell.value.high)),
            number(cell.cycles_per_byte),
            number(cell.mpps),
            number(cell.gbps),
            whole(latency.map(|latency| latency.p50)),
            whole(latency.map(|latency| latency.p90)),
            whole(latency.map(|latency| latency.p99)),
            whole(latency.map(|latency| latency.p99_9)),
            whole(latency.map(|latency| latency.max)),
            number(stages.map(|stages| stages.build)),
            number(stages.map(|stages| stages.enqueue)),
            number(stages.map(|stages| stages.dequeue)),
            whole(verify.map(|verify| verify.checked)),
            whole(verify.map(|verify| verify.wrong)),
            whole(verify.map(|verify| verify.spoiled)),
            whole(verify.map(|verify| verify.spoiled_found)),
            number(cell.tunnel.and_then(|tunnel| tunnel.cpu)),
            number(cell.tunnel.and_then(|tunnel| tunnel.lost)),
            number(cell.tunnel.and_then(|tunnel| tunnel.rate)),
            number(cell.tunnel.and_then(|tunnel| tunnel.added_p99_ns)),
            number(cell.tunnel.and_then(|tunnel| tunnel.floor_p50_ns)),
            number(cell.tunnel.and_then(|tunnel| tunnel.floor_p99_ns)),
            number(cell.tunnel.and_then(|tunnel| tunnel.stall_p50_ns)),
            number(cell.tunnel.and_then(|tunnel| tunnel.stall_p99_ns)),
        ]
        .join(",")
    }));
    lines.join("\n")
}
