// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device selftest`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use driver::ipa::IpaCard;
use driver::{Card, DeviceAddress};
use esp::self_test::{Case, cases};
use offload_api::capability::Features;
use offload_api::queue::{Explicit, Status};
use offload_api::sa::{Direction, Grant, Numbering, SaHandle};
use serde::Serialize;
use serde_json::json;

use super::{open_card, parse_address};
use crate::engine::Engine;
use crate::failure::Outcome;
use crate::output::{OutputArguments, table};

/// Test a card that nobody uses: its own known answers, its clock, admin queue, DMA, interrupts, anti-replay,
/// and each suite against packets of an independent implementation.
///
/// The card is reset. Exit status 1 when a test fails.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The card: pci:DDDD:BB:DD.F or vfio-user:PATH
    #[arg(value_parser = parse_address)]
    address: DeviceAddress,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let card = open_card(&arguments.address)?;
    let results = run_all(&card);
    let failed = results
        .iter()
        .filter(|result| result.failure.is_some())
        .count();
    arguments.output.show(&json!(results), || show(&results))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How a test went.
#[derive(Debug, Serialize)]
struct TestResult {
    test: String,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    microseconds: u64,
}

fn run_all(card: &Card) -> Vec<TestResult> {
    let mut results = Vec::new();
    if let Some(card) = card.ipa() {
        results.push(judge("registers", || registers(card)));
        results.push(judge("heartbeat", || heartbeat(card)));
        results.push(judge("the card's own known answers", || own_test(card)));
    }
    let card = card.accelerator();
    let mut engine = match Engine::opened(card.clone()) {
        Ok(engine) => engine,
        Err(error) => {
            results.push(judge("a queue pair", || Err(error)));
            return results;
        }
    };
    let suites = &card.capabilities().suites;
    let mut cases = cases().filter(|case| {
        let suite = case.params(Direction::Outbound).map(|sa| sa.suite);
        suite.is_some_and(|suite| suites.contains(&suite))
    });
    if let Some(case) = cases.by_ref().next() {
        // Without them completions are polled for, which every other test does.
        if card.capabilities().features.contains(Features::INTERRUPTS) {
            results.push(judge("interrupt", || interrupt(&mut engine, &case)));
        }
        results.push(judge("anti-replay", || replay(&mut engine, &case)));
        results.push(judge("sequence numbers", || numbers(&mut engine, &case)));
        results.push(judge("retirement", || retirement(&mut engine, &case)));
        results.push(suite(&mut engine, &case));
    }
    for case in cases {
        results.push(suite(&mut engine, &case));
    }
    results
}

fn judge(test: &str, run: impl FnOnce() -> Result<()>) -> TestResult {
    let started = Instant::now();
    let failure = run().err().map(|error| format!("{error:#}"));
    TestResult {
        test: test.to_owned(),
        result: if failure.is_none() { "pass" } else { "fail" },
        failure,
        microseconds: started.elapsed().as_micros() as u64,
    }
}

fn show(results: &[TestResult]) -> String {
    let rows = results.iter().map(|result| {
        vec![
            result.result.to_uppercase(),
            result.test.clone(),
            format!("{} µs", result.microseconds),
            result.failure.clone().unwrap_or_default(),
        ]
    });
    let failed = results
        .iter()
        .filter(|result| result.failure.is_some())
        .count();
    let (of, rows) = (results.len(), rows.collect());
    let verdict = match failed {
        0 => format!("PASS: {of} tests"),
        failed => format!("FAIL: {failed} of {of} tests"),
    };
    format!(
        "{}\n\n{verdict}",
        table(&["RESULT", "TEST", "TOOK", "FAILURE"], rows, "")
    )
}

/// The clock goes on, and what the registers say is what the queues say.
fn registers(card: &IpaCard) -> Result<()> {
    let time = |card: &IpaCard| -> Result<u64> {
        let registers = card.inspect()?.registers;
        let found = registers
            .iter()
            .find(|register| register.name == "identity.TIME");
        Ok(found.map_or(0, |register| register.value))
    };
    let before = time(card)?;
    std::thread::sleep(Duration::from_millis(10));
    let passed = time(card)?.saturating_sub(before);
    ensure!(
        passed >= 10_000_000,
        "the card's clock went on by {passed} ns in 10 ms"
    );
    Ok(())
}

fn heartbeat(card: &IpaCard) -> Result<()> {
    let before = card.heartbeat()?;
    let started = Instant::now();
    while card.heartbeat()? == before {
        ensure!(
            started.elapsed() < Duration::from_secs(1),
            "it stays at {before} for a second: the data path does not run"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn own_test(card: &IpaCard) -> Result<()> {
    match card.self_test()? {
        None => Ok(()),
        Some(suite) => bail!("suite {suite} gives a wrong answer"),
    }
}

fn explicit(case: &Case) -> Option<Explicit> {
    Some(Explicit {
        sequence: case.sequence(),
        iv: case.iv(),
    })
}

/// Installs the SA of a known answer, adjusted, has it used, and retires it.
fn with_sa(
    engine: &mut Engine,
    case: &Case,
    direction: Direction,
    adjust: impl FnOnce(&mut offload_api::sa::SaParams),
    run: impl FnOnce(&mut Engine, SaHandle) -> Result<()>,
) -> Result<()> {
    let Some(mut sa) = case.params(direction) else {
        bail!("the known answer makes no SA");
    };
    adjust(&mut sa);
    let handle = engine.install(&sa)?;
    let result = run(engine, handle);
    let retired = engine.retire(handle);
    result.and(retired)
}

fn interrupt(engine: &mut Engine, case: &Case) -> Result<()> {
    with_sa(
        engine,
        case,
        Direction::Outbound,
        |_| {},
        |engine, sa| {
            let came = engine.interrupts(sa, &case.plain(), explicit(case))?;
            ensure!(came, "a completion came, and its interrupt did not");
            Ok(())
        },
    )
}

fn replay(engine: &mut Engine, case: &Case) -> Result<()> {
    let window = |sa: &mut offload_api::sa::SaParams| sa.replay_window = 64;
    with_sa(engine, case, Direction::Inbound, window, |engine, sa| {
        for (time, expected) in [("first", Status::Ok), ("second", Status::Replayed)] {
            let found = engine.process(sa, &case.sealed(), None)?.status;
            ensure!(
                found == expected,
                "the {time} time it says {found:?}, expected {expected:?}"
            );
        }
        Ok(())
    })
}

/// The card keeps to its grant: three numbers, in order, and no fourth.
fn numbers(engine: &mut Engine, case: &Case) -> Result<()> {
    let granted = |sa: &mut offload_api::sa::SaParams| {
        sa.numbering = Numbering::Granted(Some(Grant { first: 7, last: 9 }));
    };
    with_sa(engine, case, Direction::Outbound, granted, |engine, sa| {
        for number in 7..=9 {
            let found = engine.process(sa, &case.plain(), None)?;
            ensure!(
                (found.status, found.sequence) == (Status::Ok, number),
                "number {number}: it says {:?} and {}",
                found.status,
                found.sequence
            );
        }
        let found = engine.process(sa, &case.plain(), None)?.status;
        ensure!(
            found == Status::SequenceExhausted,
            "behind the grant it says {found:?}"
        );
        Ok(())
    })
}

fn retirement(engine: &mut Engine, case: &Case) -> Result<()> {
    let mut handle = None;
    with_sa(
        engine,
        case,
        Direction::Outbound,
        |_| {},
        |_, sa| {
            handle = Some(sa);
            Ok(())
        },
    )?;
    let Some(stale) = handle else { return Ok(()) };
    let found = engine.process(stale, &case.plain(), explicit(case))?.status;
    ensure!(found == Status::SaStale, "a retired SA says {found:?}");
    Ok(())
}

/// Seals to the expected octets, opens them, refuses them with one bit changed.
fn suite(engine: &mut Engine, case: &Case) -> TestResult {
    let name = case
        .params(Direction::Outbound)
        .map(|sa| sa.suite.to_string());
    let name = name.unwrap_or_default();
    judge(&format!("known answer {name}"), || {
        let (plain, sealed) = (case.plain(), case.sealed());
        with_sa(
            engine,
            case,
            Direction::Outbound,
            |_| {},
            |engine, sa| {
                let found = engine.process(sa, &plain, explicit(case))?;
                ensure!(found.status == Status::Ok, "sealing: {:?}", found.status);
                ensure!(found.packet == sealed, "the sealed octets differ");
                Ok(())
            },
        )?;
        with_sa(
            engine,
            case,
            Direction::Inbound,
            |_| {},
            |engine, sa| {
                let mut forged = sealed.clone();
                if let Some(last) = forged.last_mut() {
                    *last ^= 1;
                }
                let found = engine.process(sa, &forged, None)?.status;
                ensure!(found == Status::BadIcv, "a forged packet: {found:?}");
                let found = engine.process(sa, &sealed, None)?;
                ensure!(found.status == Status::Ok, "opening: {:?}", found.status);
                ensure!(found.packet == plain, "the opened octets differ");
                Ok(())
            },
        )
    })
}
