// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade bench`: tiny runs on each backend, checked packets, comparisons, and what it says to nonsense.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn bench(arguments: &[&str]) -> Output {
    Command::cargo_bin("esplanade")
        .unwrap()
        .arg("bench")
        .args(arguments)
        .timeout(Duration::from_secs(120))
        .output()
        .unwrap()
}

fn report(arguments: &[&str], code: i32) -> Value {
    let output = bench(&[arguments, &["--json", "--silent"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(arguments: &[&str], code: i32) -> String {
    let output = bench(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    errors
}

#[test]
fn every_backend_measures_every_ptest() {
    let found = report(
        &[
            "--backend=software,sim,qat",
            "--ptest=throughput,latency,pmd-cyclecount",
            "--aead-op=encrypt,decrypt",
            "--buffer-sz=64,1420",
            "--burst-sz=8",
            "--total-ops=64",
            "--repeats=2",
        ],
        0,
    );
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 3 * 3 * 2 * 2);
    for cell in cells {
        assert_eq!(cell["samples"].as_array().unwrap().len(), 2, "{cell}");
        let value = &cell["value"];
        let [low, median, high] =
            ["low", "median", "high"].map(|name| value[name].as_f64().unwrap());
        assert!(low > 0.0 && low <= median && median <= high, "{cell}");
        match cell["ptest"].as_str().unwrap() {
            "throughput" => {
                // Cycles, rate and size are one figure, seen three ways.
                let (mpps, gbps) = (
                    cell["mpps"].as_f64().unwrap(),
                    cell["gbps"].as_f64().unwrap(),
                );
                let octets = cell["octets"].as_f64().unwrap();
                assert!(
                    (mpps * octets * 8.0 / 1e3 - gbps).abs() < 1e-6 * gbps,
                    "{cell}"
                );
            }
            "latency" => {
                let latency = &cell["latency"];
                assert_eq!(latency["count"], 128, "{cell}");
                let at = |name: &str| latency[name].as_u64().unwrap();
                assert!(at("min") <= at("p50") && at("p50") <= at("p99"), "{cell}");
                assert!(at("p99") <= at("max"), "{cell}");
            }
            _ => {
                let stages = &cell["stages"];
                assert!(stages["enqueue"].as_f64().unwrap() > 0.0, "{cell}");
                assert!(stages["dequeue"].as_f64().unwrap() > 0.0, "{cell}");
            }
        }
    }
    assert!(found["machine"]["tsc_hz"].as_f64().unwrap() > 1e6);
    let names: Vec<_> = found["engines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["name"])
        .collect();
    assert_eq!(names, ["software", "sim", "qat"]);
}

#[test]
fn the_cryptography_alone_is_measured_where_an_engine_has_it() {
    let found = report(
        &[
            "--backend=software,sim,qat",
            "--level=crypto,packet",
            "--aead-op=encrypt,decrypt",
            "--buffer-sz=64,1420",
            "--burst-sz=8",
            "--total-ops=64",
            "--repeats=1",
        ],
        0,
    );
    let cells = found["cells"].as_array().unwrap();
    let of = |name| cells.iter().filter(|cell| cell["backend"] == name).count();
    let names = [
        "software",
        "software-crypto",
        "qat",
        "qat-crypto",
        "sim",
        "sim-crypto",
    ];
    assert_eq!(names.map(of), [4, 4, 4, 4, 4, 0]);
    // The card has whole ESP only, and says so.
    let absent = found["absent"].as_array().unwrap();
    let said = |why: &Value| why.as_str().is_some_and(|why| why.contains("CRYPTO"));
    assert_eq!(
        absent.iter().filter(|why| said(why)).count(),
        4,
        "{absent:?}"
    );
}

#[test]
fn every_packet_of_every_suite_is_right_both_ways() {
    let found = report(
        &[
            "--backend=software,sim,qat,qat-gen2",
            "--ptest=verify",
            "--suite=all",
            "--aead-op=encrypt,decrypt",
            "--buffer-sz=20,61,1420",
            "--imix=3,2,1",
            "--total-ops=96",
            "--sas=3",
            "--repeats=2",
        ],
        0,
    );
    let cells = found["cells"].as_array().unwrap();
    let of = |backend: &str| {
        cells
            .iter()
            .filter(|cell| cell["backend"] == backend)
            .count()
    };
    assert_eq!(of("software"), 2 * 15);
    assert!(of("sim") >= 2 * 3 && of("qat") >= 2 * 2, "{found}");
    // All but ChaCha20-Poly1305, which a C62x does not have.
    assert_eq!(of("qat-gen2"), of("qat") - 2, "{found}");
    for cell in cells {
        let verify = &cell["verify"];
        assert_eq!(
            (&verify["checked"], &verify["wrong"]),
            (&json!(192), &json!(0)),
            "{cell}"
        );
        assert!(verify["spoiled"].as_u64().unwrap() >= 2, "{cell}");
        assert_eq!(verify["spoiled"], verify["spoiled_found"], "{cell}");
    }
    // What a device can't do is told, with the reason.
    for absent in found["absent"].as_array().unwrap() {
        assert!(absent.as_str().unwrap().contains(": "), "{absent}");
    }
}

#[test]
fn one_flipped_bit_is_found_and_fails_the_run() {
    for operation in ["encrypt", "decrypt"] {
        let arguments = [
            "--ptest=verify",
            "--total-ops=64",
            "--repeats=1",
            "--buffer-sz=64",
        ];
        let spoiling = [
            &arguments[..],
            &["--corrupt=64", "--warm-up=0", "--aead-op", operation],
        ];
        let found = report(&spoiling.concat(), 1);
        let verify = &found["cells"][0]["verify"];
        assert_eq!(verify["wrong"], 1, "{found}");
        assert!(
            verify["first_wrong"]
                .as_str()
                .unwrap()
                .starts_with("packet 64 "),
            "{found}"
        );
    }
}

#[test]
fn cores_queues_and_sas_share_the_packets() {
    let found = report(
        &[
            "--backend=software,sim",
            "--cores=1,2",
            "--queues=4",
            "--sas=2",
            "--burst-sz=4:4:8",
            "--buffer-sz=64:64:128",
            "--imix=1,1",
            "--total-ops=512",
            "--repeats=1",
        ],
        0,
    );
    let cells = found["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2 * 2 * 2);
    assert!(
        cells
            .iter()
            .all(|cell| cell["octets"] == 96.0 && cell["mpps"].as_f64() > Some(0.0))
    );
}

#[test]
fn values_come_in_columns_and_plots_in_one_page() {
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("bench.html");
    let output = bench(&[
        "--ptest=throughput,latency,verify",
        "--buffer-sz=64,256",
        "--total-ops=64",
        "--repeats=3",
        "--csv-friendly",
        "--html",
        page.to_str().unwrap(),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 1 + 3 * 2);
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    let median = rows[0].iter().position(|name| *name == "median").unwrap();
    assert!(rows[1][median].parse::<f64>().unwrap() > 0.0);
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(
        page.matches("<svg").count(),
        3,
        "cycles, Gbit/s and latency"
    );
    assert!(
        !page.contains("src=") && !page.contains("href="),
        "it needs nothing from elsewhere"
    );
}

/// A saved run with its samples multiplied.
fn scaled(report: &Value, factor: f64, path: &Path) {
    let mut report = report.clone();
    for cell in report["cells"].as_array_mut().unwrap() {
        for (n, sample) in cell["samples"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            *sample = json!((100.0 + n as f64) * factor);
        }
        cell["value"]["median"] = json!(103.0 * factor);
    }
    std::fs::write(path, report.to_string()).unwrap();
}

#[test]
fn a_regression_is_told_from_noise() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (before, slower, noise, faster, few) =
        (path("a"), path("b"), path("c"), path("d"), path("e"));
    let base = report(&["--buffer-sz=64", "--total-ops=64", "--repeats=7"], 0);
    for (name, factor) in [
        (&before, 1.0),
        (&slower, 1.2),
        (&noise, 1.01),
        (&faster, 0.8),
    ] {
        scaled(&base, factor, Path::new(name));
    }
    let compared = |after: &str, more: &[&str], code| {
        report(
            &[&["--compare", before.as_str(), after][..], more].concat(),
            code,
        )
    };
    assert_eq!(
        compared(&slower, &[], 1)["cells"][0]["change"],
        "regression"
    );
    assert_eq!(
        compared(&slower, &["--threshold=0.5"], 0)["cells"][0]["change"],
        "same"
    );
    assert_eq!(compared(&noise, &[], 0)["cells"][0]["change"], "same");
    assert_eq!(
        compared(&before, &[], 0)["cells"][0]["ratio"]["median"],
        1.0
    );
    assert_eq!(
        compared(&faster, &[], 0)["cells"][0]["change"],
        "improvement"
    );
    // Too few rounds are not judged, and a run in which nothing can be judged is no pass.
    let once = report(&["--buffer-sz=64", "--total-ops=64", "--repeats=1"], 0);
    std::fs::write(&few, once.to_string()).unwrap();
    let output = bench(&["--compare", &before, &few]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stdout).contains("fewer than 5 rounds"));
    std::fs::write(&few, "{}").unwrap();
    assert!(refused(&["--compare", &before, &few], 2).contains("is no saved run"));
}

#[test]
fn a_report_that_can_t_be_written_is_told_before_anything_is_measured() {
    for option in ["--save", "--html"] {
        let endless = ["--total-ops=1000000000", "--repeats=1000"];
        let place = "/nowhere/report";
        let told = refused(&[&endless[..], &[option, place]].concat(), 2);
        assert!(told.contains(place), "{told}");
    }
}

/// Whether a process has SIGINT blocked, as this one has once it listens for it.
fn listens_for_interrupts(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask & (1 << (Signal::SIGINT as u64 - 1)) != 0
}

#[test]
fn an_interrupted_run_gives_what_it_has() {
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_esplanade"))
        .args([
            "bench",
            "--json",
            "--buffer-sz=64",
            "--total-ops=64",
            "--repeats=10000",
        ])
        .args([
            "--backend=software,sim",
            "--ptest=throughput,latency,pmd-cyclecount",
        ])
        .args([
            "--aead-op=encrypt,decrypt",
            "--burst-sz=1,2,4,8",
            "--sas=1,2,3",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let process = Pid::from_raw(child.id() as i32);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !listens_for_interrupts(child.id()) {
        assert!(Instant::now() < deadline, "it never listened for SIGINT");
        std::thread::sleep(Duration::from_millis(5));
    }
    kill(process, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["interrupted"], true);
    assert!(errors.contains("interrupted"), "{errors}");
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let cases: [(&[&str], i32, &str); 12] = [
        (
            &["--aead-algo=aes-ccm"],
            2,
            "known are aes-gcm, chacha20-poly1305",
        ),
        (&["--aead-key-sz=24"], 2, "known are 16, 32"),
        (
            &["--optype=cipher-then-auth", "--cipher-algo=3des"],
            2,
            "known are aes-cbc, null",
        ),
        (
            &["--optype=auth-only", "--auth-algo=md5-hmac"],
            2,
            "known are sha2-256-hmac",
        ),
        (&["--suite=rot13"], 2, "known are aes128gcm16"),
        (&["--optype=cipher-only"], 4, "RFC 8221"),
        (&["--backend=card"], 2, "--device"),
        (&["--buffer-sz=19"], 2, "IPv4 header"),
        (&["--buffer-sz=64,128", "--imix=1"], 2, "one for each"),
        (&["--burst-sz=2048"], 2, "--pool-sz"),
        (&["--cores=2", "--queues=1"], 2, "one of its own"),
        (&["--peers=vpp"], 2, "known are dpdk-aesni-gcm"),
    ];
    for (arguments, code, expected) in cases {
        let errors = refused(arguments, code);
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
    // A device that can't do it says why, and where none is left the run fails.
    let errors = refused(&["--backend=qat", "--buffer-sz=65535"], 4);
    assert!(errors.contains("its largest packet has"), "{errors}");
    let absent = "vfio-user:/nonexistent/card";
    refused(&["--backend=card", "--device", absent], 3);
}
