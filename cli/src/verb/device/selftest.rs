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
use offload_api::sa::{Direction, Grant, Numbering, SaHandle, Suite};
use serde::Serialize;
use serde_json::json;

use super::{open_card, parse_address};
use crate::engine::Engine;
use crate::failure::Outcome;
use crate::output::{OutputArguments, table};

/// Test a card that nobody uses: its own known answers, its clock and counters, admin queue, DMA,
/// interrupts, anti-replay, and each suite against packets of an independent implementation.
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
    let ipa = card.ipa();
    if let Some(card) = ipa {
        results.push(judge("clock", || clock(card)));
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
    let cases = match known(&card.capabilities().suites) {
        Ok(cases) => cases,
        Err(error) => {
            results.push(judge("known answers", || Err(error)));
            return results;
        }
    };
    if let Some(case) = cases.first() {
        // Without them completions are polled for, which every other test does.
        if card.capabilities().features.contains(Features::INTERRUPTS) {
            results.push(judge("interrupt", || interrupt(&mut engine, case)));
        }
        if let Some(card) = ipa {
            results.push(judge("counters", || counters(card, &mut engine, case)));
        }
        results.push(judge("anti-replay", || replay(&mut engine, case)));
        results.push(judge("sequence numbers", || numbers(&mut engine, case)));
        results.push(judge("retirement", || retirement(&mut engine, case)));
    }
    for case in &cases {
        results.push(suite(&mut engine, case));
    }
    results
}

/// The known answers of a card's suites. One without any could pass without a packet.
fn known(suites: &[Suite]) -> Result<Vec<Case>> {
    let cases = cases().filter(|case| {
        let suite = case.params(Direction::Outbound).map(|sa| sa.suite);
        suite.is_some_and(|suite| suites.contains(&suite))
    });
    let cases: Vec<_> = cases.collect();
    ensure!(
        !cases.is_empty(),
        "there is a known answer for none of the {} suites that it tells",
        suites.len()
    );
    Ok(cases)
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

/// The clock goes on.
fn clock(card: &IpaCard) -> Result<()> {
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

/// What the card counts of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    sealed: u64,
    sealed_octets: u64,
    /// By all queue pairs.
    submitted: u64,
    completed: u64,
    errors: u64,
}

impl Counted {
    fn by(card: &IpaCard) -> Result<Self> {
        let told = card.inspect()?;
        let counter = |name: &str| {
            let found = told.counters.iter().find(|(counter, _)| counter == name);
            found.map_or(0, |(_, value)| *value)
        };
        let mut counted = Self {
            sealed: counter("sealed"),
            sealed_octets: counter("sealed_bytes"),
            ..Self::default()
        };
        for queue in &told.queues {
            counted.submitted = counted.submitted.saturating_add(queue.submitted);
            counted.completed = counted.completed.saturating_add(queue.completed);
            counted.errors = counted.errors.saturating_add(queue.errors);
        }
        Ok(counted)
    }

    fn since(self, before: Self) -> Self {
        Self {
            sealed: self.sealed.wrapping_sub(before.sealed),
            sealed_octets: self.sealed_octets.wrapping_sub(before.sealed_octets),
            submitted: self.submitted.wrapping_sub(before.submitted),
            completed: self.completed.wrapping_sub(before.completed),
            errors: self.errors.wrapping_sub(before.errors),
        }
    }
}

/// Registers and queues say what was sent: three packets, and one beyond the grant.
fn counters(card: &IpaCard, engine: &mut Engine, case: &Case) -> Result<()> {
    let granted = |sa: &mut offload_api::sa::SaParams| {
        sa.numbering = Numbering::Granted(Some(Grant { first: 1, last: 3 }));
    };
    let packet = case.plain();
    let expected = Counted {
        sealed: 3,
        sealed_octets: 3 * packet.len() as u64,
        submitted: 4,
        completed: 4,
        errors: 1,
    };
    let before = Counted::by(card)?;
    with_sa(engine, case, Direction::Outbound, granted, |engine, sa| {
        for _ in 0..4 {
            engine.process(sa, &packet, None)?;
        }
        Ok(())
    })?;
    let found = Counted::by(card)?.since(before);
    ensure!(
        found == expected,
        "it counted {found:?}, expected {expected:?}"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_tells_no_suite_fails() {
        let failed = judge("known answers", || known(&[]).map(drop));
        assert_eq!(failed.result, "fail");
        assert_eq!(known(&[Suite::AES_256_GCM]).unwrap().len(), 1);
    }
}
