// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade bench --compare`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bench_harness::compare::{Change, Comparison};
use bench_harness::report::{FORMAT, Report};
use bench_harness::stats::ENOUGH;

use super::Arguments;
use crate::failure::{Failure, Outcome};
use crate::output::{print, table};

pub(super) fn run(before: &Path, after: &Path, arguments: &Arguments) -> Outcome {
    if !(0.0..10.0).contains(&arguments.threshold) {
        return Err(Failure::usage(anyhow!(
            "--threshold {}: 0.05 is 5 %",
            arguments.threshold
        )));
    }
    let (before, after) = (read(before)?, read(after)?);
    let found = Comparison::new(&before, &after, arguments.threshold, arguments.seed);
    if arguments.json {
        print(&serde_json::to_string_pretty(&found)?)?;
    } else {
        print(&show(&found))?;
    }
    if found.cells.is_empty() {
        return Err(Failure::usage(anyhow!(
            "the two runs have nothing in common that can be compared"
        )));
    }
    Ok(if found.regressed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn read(path: &Path) -> Result<Report, Failure> {
    let read = || -> anyhow::Result<Report> {
        let report: Report = serde_json::from_slice(&std::fs::read(path)?)?;
        if report.format != FORMAT {
            return Err(anyhow!(
                "form {}, this program reads {FORMAT}",
                report.format
            ));
        }
        Ok(report)
    };
    let report = read().with_context(|| format!("{} is no saved run", path.display()));
    report.map_err(Failure::usage)
}

fn show(found: &Comparison) -> String {
    let rows = found.cells.iter().map(|cell| {
        let change = match cell.change {
            Change::Regression => "REGRESSION",
            Change::Broken => "BROKEN",
            Change::Improvement => "better",
            Change::Same if cell.significant => "same (within the threshold)",
            Change::Same => "same",
        };
        let mut row = vec![change.to_owned(), cell.cell.clone()];
        if let Some(ratio) = cell.ratio {
            row.extend([
                format!("{:.1}", cell.before),
                format!("{:.1}", cell.after),
                format!("{:.3}", ratio.median),
                format!("{:.3} to {:.3}", ratio.low, ratio.high),
                cell.metric.clone(),
            ]);
        }
        row
    });
    let headers = ["CHANGE", "CELL", "BEFORE", "AFTER", "RATIO", "95 %", "UNIT"];
    let mut lines = vec![table(&headers, rows.collect(), "nothing to compare")];
    let mut list = |what: &str, cells: &[String]| {
        if !cells.is_empty() {
            lines.push(format!("{what}:\n  {}", cells.join("\n  ")));
        }
    };
    list("not in the second run", &found.missing);
    list("only in the second run", &found.new);
    list(
        &format!("fewer than {ENOUGH} rounds, not judged (--repeats)"),
        &found.too_few_rounds,
    );
    list("the machines differ", &found.machines);
    lines.join("\n\n")
}
