// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask instructions`: what a packet costs in the data path's own code, in instructions, which
//! are the same on a busy machine and on an idle one. Beyond the tolerance of the committed figures it
//! fails, so that a slower data path is a decision and no accident.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::run;

/// More than this much above the committed figure is a regression, less is worth committing.
const TOLERANCE: f64 = 0.05;
/// In CI, which runs on processors for which the C library copies by other instructions.
const TOLERANCE_ELSEWHERE: f64 = 0.15;
/// Crates of the data path, which are each compiled in one piece, as in a release: how they are cut decides what is
/// inlined.
const WHOLE: [&str; 4] = ["esp", "esp-aead", "esp-framing", "offload-api"];
const CASES: [&str; 6] = [
    "enqueue",
    "dequeue",
    "seal-framing",
    "open-framing",
    "replay-in-order",
    "replay-out-of-order",
];

/// The committed figures: the compiler's version, then a case and its instructions a packet each line.
fn baseline_file() -> PathBuf {
    run::workspace().join("benches/instructions.txt")
}

pub(crate) fn run(update: bool) -> Result<ExitCode> {
    run_within(update, TOLERANCE)
}

fn run_within(update: bool, tolerance: f64) -> Result<ExitCode> {
    if !run::answers("valgrind", &["--version"]) {
        bail!("missing: apt-get install valgrind");
    }
    let program = build()?;
    let compiler = compiler()?;
    let packets: f64 = output(Command::new(&program).arg("packets"))?
        .trim()
        .parse()?;
    let mut found = BTreeMap::new();
    for case in CASES {
        found.insert(case, count(&program, case)? as f64 / packets);
    }
    if update {
        let lines = found
            .iter()
            .map(|(case, each)| format!("{case} {each:.2}\n"));
        let text = format!("{compiler}\n{}", lines.collect::<String>());
        fs::write(baseline_file(), text)?;
    }
    let committed = fs::read_to_string(baseline_file())
        .context("no committed figures: cargo xtask instructions --update")?;
    judge(&committed, &compiler, &found, tolerance)
}

/// As a step of CI: where valgrind is installed.
pub(crate) fn check_if_installed() -> Result<()> {
    if !run::answers("valgrind", &["--version"]) {
        eprintln!("valgrind is not installed: not counted (apt-get install valgrind)");
        return Ok(());
    }
    let code = run_within(false, TOLERANCE_ELSEWHERE)?;
    ensure!(
        code == ExitCode::SUCCESS,
        "more instructions than were committed"
    );
    Ok(())
}

fn judge(
    committed: &str,
    compiler: &str,
    found: &BTreeMap<&str, f64>,
    tolerance: f64,
) -> Result<ExitCode> {
    let mut lines = committed.lines();
    let same_compiler = lines.next() == Some(compiler);
    let before: BTreeMap<&str, f64> = lines
        .filter_map(|line| {
            let (case, figure) = line.split_once(' ')?;
            Some((case, figure.parse().ok()?))
        })
        .collect();
    let mut worse = false;
    println!("instructions a packet   committed       now   ratio");
    for (case, now) in found {
        let old = *before
            .get(case)
            .with_context(|| format!("no committed figure for {case}: --update"))?;
        let ratio = now / old;
        let verdict = match ratio {
            more if more > 1.0 + tolerance => "MORE",
            less if less < 1.0 - tolerance => "less: commit it with --update",
            _ => "",
        };
        worse |= ratio > 1.0 + tolerance;
        println!("{case:21} {old:11.2} {now:9.2} {ratio:7.3}  {verdict}");
    }
    if worse && !same_compiler {
        println!("the committed figures are another compiler's: nothing is judged");
    }
    Ok(if worse && same_compiler {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Optimised, beside the dependencies that the tests have built already.
fn build() -> Result<PathBuf> {
    let mut command = run::cargo();
    command.args(["build", "--quiet", "--locked", "--package", "benches"]);
    command.args(["--bin", "instructions"]);
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "3");
    command.env("CARGO_INCREMENTAL", "0");
    for package in WHOLE {
        let whole = format!("profile.dev.package.{package}.codegen-units=1");
        command.args(["--config", &whole]);
    }
    run::succeed(&mut command)?;
    Ok(run::target_directory().join("debug/instructions"))
}

fn compiler() -> Result<String> {
    Ok(output(Command::new("rustc").arg("--version"))?
        .trim()
        .to_owned())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Instructions that a case's counted part takes; threads beside it are not in it.
fn count(program: &Path, case: &str) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args([
            "--collect-atstart=no",
            "--toggle-collect=*instructions*counted*",
        ])
        .arg(program)
        .arg(case)
        .output()
        .context("valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let number = collected.and_then(|(_, number)| number.trim().parse().ok());
    match number {
        Some(number) if output.status.success() && number > 0 => Ok(number),
        _ => bail!("callgrind counted nothing of {case}:\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_tolerance_fails_and_another_compiler_is_not_judged() {
        let committed = "rustc 1\nenqueue 100.00\n";
        let judge = |compiler: &str, now: f64| {
            let found = BTreeMap::from([("enqueue", now)]);
            judge(committed, compiler, &found, TOLERANCE).unwrap()
        };
        assert_eq!(judge("rustc 1", 104.9), ExitCode::SUCCESS);
        assert_eq!(judge("rustc 1", 105.1), ExitCode::FAILURE);
        assert_eq!(judge("rustc 1", 50.0), ExitCode::SUCCESS);
        assert_eq!(judge("rustc 2", 200.0), ExitCode::SUCCESS);
        let unknown = BTreeMap::from([("dequeue", 1.0)]);
        assert!(super::judge(committed, "rustc 1", &unknown, TOLERANCE).is_err());
    }
}
