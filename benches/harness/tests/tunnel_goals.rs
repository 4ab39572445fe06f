// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `benches/tunnel.py` holds a run against the goals: what misses one, and what was not measured, is told and
//! ends it with 1.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

use serde_json::{Value, json};

fn cell(backend: &str, operation: &str, median: f64, cpu: f64) -> Value {
    json!({
        "backend": backend, "operation": operation, "size": 1400, "value": { "median": median },
        "tunnel": { "cpu": cpu, "added_p99_ns": 200_000 },
    })
}

/// A run in which every goal is reached: a tenth of strongSwan's time, and 50 and 200 µs.
fn good() -> Vec<Value> {
    let mut cells = vec![
        cell("strongswan", "tcp", 1.0, 3.0),
        cell("strongswan", "udp", 10_000.0, 30.0),
        cell("strongswan", "delay", 500_000.0, 0.0),
        // Compared with nobody.
        cell("wire", "tcp", 0.01, 0.0),
        cell("ikev2d-esp", "tcp", 2.0, 5.0),
    ];
    for ours in ["ikev2d", "ikev2d-busy-poll"] {
        cells.push(cell(ours, "tcp", 0.1, 0.3));
        cells.push(cell(ours, "udp", 1_000.0, 3.0));
        cells.push(cell(ours, "delay", 50_000.0, 0.0));
    }
    cells
}

/// Exit status, and the lines of what is missed.
fn judged(cells: &[Value]) -> (Option<i32>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run.json");
    std::fs::write(&run, json!({ "cells": cells }).to_string()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tunnel.py");
    let output = Command::new("python3").arg(script).arg(&run).output();
    let output = output.expect("python3");
    let text = String::from_utf8(output.stdout).unwrap();
    let missed = text.lines().filter(|line| line.starts_with("MISSED"));
    (output.status.code(), missed.map(str::to_owned).collect())
}

fn find<'a>(cells: &'a mut [Value], backend: &str, operation: &str) -> &'a mut Value {
    cells
        .iter_mut()
        .find(|cell| cell["backend"] == backend && cell["operation"] == operation)
        .unwrap()
}

#[test]
fn a_run_that_reaches_all_goals_passes() {
    assert_eq!(judged(&good()), (Some(0), vec![]));
}

#[test]
fn what_misses_a_goal_is_told() {
    let misses = |change: &dyn Fn(&mut Vec<Value>), expected: &str| {
        let mut cells = good();
        change(&mut cells);
        let (status, missed) = judged(&cells);
        assert_eq!(status, Some(1), "{expected}");
        assert!(
            missed.len() == 1 && missed[0].contains(expected),
            "{missed:?}"
        );
    };
    misses(
        &|cells| find(cells, "ikev2d", "tcp")["value"]["median"] = json!(0.2),
        "ikev2d, tcp 1400 B: 5.0 x the rate of strongswan, goal 6",
    );
    misses(
        &|cells| find(cells, "ikev2d-busy-poll", "udp")["value"]["median"] = json!(10_001.0),
        "ikev2d-busy-poll, udp 1400 B: 1.0 x the rate",
    );
    misses(
        &|cells| find(cells, "ikev2d", "udp")["tunnel"]["cpu"] = json!(31.0),
        "1.03 x the processor time of strongswan",
    );
    misses(
        &|cells| find(cells, "ikev2d-busy-poll", "delay")["value"]["median"] = json!(61_000.0),
        "p50: 61 us, goal 60 (ikev2d: 50)",
    );
    misses(
        &|cells| {
            find(cells, "ikev2d-busy-poll", "delay")["tunnel"]["added_p99_ns"] = json!(251_000)
        },
        "p99: 251 us, goal 250 (ikev2d: 200)",
    );
    misses(
        &|cells| cells.retain(|cell| cell["backend"] != "ikev2d" || cell["operation"] != "udp"),
        "ikev2d, udp 1400 B: not measured",
    );
}

/// Without ours nothing is reached, delays included.
#[test]
fn what_was_not_measured_is_missed() {
    let mut cells = good();
    cells.retain(|cell| !cell["backend"].as_str().unwrap().starts_with("ikev2d"));
    let (status, missed) = judged(&cells);
    assert_eq!((status, missed.len()), (Some(1), 6), "{missed:?}");
    assert!(missed.iter().all(|line| line.contains("not measured")));
}
