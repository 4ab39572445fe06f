// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade demo`: two cards, two gateways, real traffic; one card dies and comes back; the wire is
//! captured and judged.

mod gateway;
mod inline;
mod judge;
mod plot;
mod progress;
mod report;
mod scene;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use gateway::Model;
pub(crate) use gateway::{daemon_program, write_private};
use progress::Progress;
pub(crate) use scene::random_secret;

/// Show the whole system at work: cards, tunnels, the loss of a card and its return.
///
/// Two simulated cards and two IKE daemons in network namespaces of their own; a TCP and a UDP stream
/// through the tunnel are verified octet by octet while one card is killed and later comes back. The wire
/// is captured and checked for repeated sequence numbers, repeated IVs and plaintext.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without root it works in a user namespace. Exit status 0 only if every check passed."
)]
pub(crate) struct Arguments {
    /// Where the capture, the keys, the report and the plot go.
    #[arg(long, value_name = "DIR", default_value = "demo-out")]
    out: PathBuf,
    /// Length of each of the three phases.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// Cards in inline mode instead: they move the packets from port to port, and no ESP touches a
    /// host. One phase of streams, with rekeyings.
    #[arg(long)]
    inline: bool,
    /// Cards whose data path is the verilated RTL: true to the clock, and slow. Only where `esplanade`
    /// was built with feature `rtl`; `cargo demo --rtl` sees to that.
    #[arg(long, conflicts_with = "inline")]
    rtl: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if arguments.rtl && !cfg!(feature = "rtl") {
        return Err(Failure::usage(anyhow::anyhow!(
            "this esplanade was built without the RTL: use `cargo demo --rtl`, or build the package cli \
             with `--features rtl` (needs verilator 5 and g++)"
        )));
    }
    // Both need a process of one thread.
    netlab::ensure_privileges()?;
    let interrupt = Interrupt::install()?;
    let daemon = daemon_program().map_err(Failure::no_device)?;
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make {}", arguments.out.display()))?;
    let out = arguments
        .out
        .canonicalize()
        .with_context(|| format!("cannot find {}", arguments.out.display()))?;

    let progress = Progress::new();
    let script = scene::Script {
        daemon,
        out: out.clone(),
        phase: Duration::from_secs(arguments.seconds),
        model: if arguments.rtl {
            Model::Rtl
        } else {
            Model::Functional
        },
    };
    if arguments.inline {
        let report = inline::play(&script, &interrupt, &progress)?;
        progress.finish();
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(out.join("report.json"), format!("{json}\n"))
            .context("cannot write report.json")?;
        if arguments.json {
            anstream::println!("{json}");
        } else {
            inline::print(&report, &arguments.out);
        }
        return Ok(if report.ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let recorded = scene::play(&script, &interrupt, &progress)?;
    progress.step("reading the capture");
    let report = judge::judge(&recorded)?;
    progress.finish();

    let file = |name: &str| out.join(name);
    let json = serde_json::to_string_pretty(&report)?;
    fs::write(file("report.json"), format!("{json}\n")).context("cannot write report.json")?;
    plot::draw(&file("throughput.svg"), &recorded, &report)?;
    if arguments.json {
        anstream::println!("{json}");
    } else {
        report::print(&report, &arguments.out);
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
