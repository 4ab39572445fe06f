// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What of the RTL the tests of simulation reach, counted by verilator: lines, branches, and bits of signals
//! that have been both high and low.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{DESIGNS, by_hand, folder};
use crate::run;

/// Points of a kind: those that were reached, and all.
#[derive(Clone, Copy, Default)]
struct Points {
    reached: usize,
    all: usize,
}

/// A module's file, and its points by kind.
type Blocks = BTreeMap<String, BTreeMap<String, Points>>;

const KINDS: [&str; 3] = ["line", "branch", "toggle"];

/// Runs the tests of the blocks, of the card, in lock-step, and by hand; writes fpga/coverage.md, and the sources with
/// their counts below the target directory.
pub(super) fn measure() -> Result<()> {
    let place = run::target_directory().join("rtl-coverage");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir_all(&place)?;
    let build = [
        "--features",
        "fpga-cosim/coverage",
        "--package",
        "sim",
        "--features",
        "sim/rtl",
    ];
    let tests = |tests: &[&str]| {
        let mut command = run::cargo();
        command.arg("test").args(DESIGNS).args(build).args(tests);
        command.env("RTL_COVERAGE", &place);
        command
    };
    let quick = ["--test", "rtl", "--test", "card", "--test", "lockstep"];
    run::succeed(&mut tests(&quick))?;
    run::succeed(&mut tests(&["--lib", "--", "rtl::", "inline::lockstep::"]))?;
    run::succeed(&mut by_hand(tests(&[])))?;
    let merged = place.join("all.dat");
    let mut models = Vec::new();
    for entry in fs::read_dir(&place)? {
        models.push(entry?.path());
    }
    run::succeed(
        Command::new("verilator_coverage")
            .arg("--write")
            .arg(&merged)
            .args(models),
    )?;
    run::succeed(
        Command::new("verilator_coverage")
            .arg("--annotate")
            .arg(place.join("annotated"))
            .arg(&merged),
    )?;
    let text =
        fs::read_to_string(&merged).with_context(|| format!("cannot read {}", merged.display()))?;
    let table = table(&blocks(&text));
    eprint!("{table}");
    fs::write(folder().with_file_name("coverage.md"), table)?;
    Ok(())
}

/// A module's points, each reached if it is in any instance of any model.
fn blocks(merged: &str) -> Blocks {
    let mut points: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for line in merged.lines() {
        let Some((key, count)) = line
            .strip_prefix("C '")
            .and_then(|rest| rest.rsplit_once("' "))
        else {
            continue;
        };
        let fields: BTreeMap<&str, &str> = key
            .split('\u{1}')
            .filter_map(|field| field.split_once('\u{2}'))
            .collect();
        let of = |name| fields.get(name).copied().unwrap_or_default();
        let Some(block) = Path::new(of("f"))
            .file_stem()
            .and_then(|stem| stem.to_str())
        else {
            continue;
        };
        // "v_line/ipa_fifo"
        let kind = of("page").trim_start_matches("v_").split('/').next();
        let kind = kind.unwrap_or_default().to_owned();
        // Of a toggle, which bit: but not of which instance.
        let which = format!("{}:{}:{}", of("l"), of("n"), of("o"));
        *points.entry((block.to_owned(), kind, which)).or_default() +=
            count.trim().parse().unwrap_or(0);
    }
    let mut blocks = Blocks::new();
    for ((block, kind, _), count) in points {
        let points = blocks.entry(block).or_default().entry(kind).or_default();
        points.all += 1;
        points.reached += usize::from(count > 0);
    }
    blocks
}

fn table(blocks: &Blocks) -> String {
    let mut text = String::from(
        "# Coverage of the RTL\n\n\
         By verilator, of the tests `rtl` and `card` of `fpga/cosim`, and `lockstep`, `raw_*`, `rtl::` and `inline::lockstep::` of \
         `sim`; made by `cargo xtask rtl coverage`. Points reached, of those there are, in any instance of a module: lines, \
         branches, and toggles (bits of signals up to 64 bits wide, each edge). What is left out stands in \
         `fpga/rtl/coverage.vlt`; what is not reached, and why, in [docs/rtl.md](../docs/rtl.md).\n\n\
         | module | lines | branches | toggles |\n|---|---|---|---|\n",
    );
    let mut sums = BTreeMap::<&str, Points>::new();
    for (block, kinds) in blocks {
        let mut row = format!("| {block} |");
        for kind in KINDS {
            let points = kinds.get(kind).copied().unwrap_or_default();
            let sum = sums.entry(kind).or_default();
            sum.reached += points.reached;
            sum.all += points.all;
            row += &cell(points);
        }
        writeln!(text, "{row}").unwrap_or_default();
    }
    let total: String = KINDS
        .iter()
        .map(|kind| cell(sums.get(kind).copied().unwrap_or_default()))
        .collect();
    writeln!(text, "| all |{total}").unwrap_or_default();
    text
}

fn cell(points: Points) -> String {
    match points.all {
        0 => " |".to_owned(),
        all => format!(
            " {} of {all}, {:.0} % |",
            points.reached,
            100.0 * points.reached as f64 / all as f64
        ),
    }
}
