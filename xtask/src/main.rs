// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The project's own chores: `cargo demo`, `cargo ci`, and `cargo xtask` with deny, dpdk, fuzz,
//! instructions, peers, regs, rtl, sanitize, synth, vm.
#![forbid(unsafe_code)]

mod ci;
mod debian;
mod demo;
mod deny;
mod dpdk;
mod features;
mod fuzz;
mod instructions;
mod peers;
mod prerequisites;
mod python;
mod regs;
mod rtl;
mod run;
mod sanitize;
mod sources;
mod synth;
mod unsafe_code;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Build what the demo needs and run it; further arguments go to `esplanade demo`.
    #[command(disable_help_flag = true)]
    Demo {
        /// For `esplanade demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Format, lints, all tests, documentation.
    Ci,
    /// Fuzz every target.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only targets whose name contains this.
        #[arg(default_value = "")]
        name: String,
    },
    /// Count the instructions that a packet costs in the data path, and compare with those committed.
    Instructions {
        /// Write what is found to the committed file.
        #[arg(long)]
        update: bool,
    },
    /// Check licences, layers and sources of the dependencies.
    Deny,
    /// Run the tests of what is concurrent, or holds `unsafe`, under sanitizers.
    Sanitize {
        /// Only this one.
        #[arg(value_enum)]
        which: Option<sanitize::Sanitizer>,
        /// Only tests whose name contains this.
        #[arg(long)]
        test: Option<String>,
    },
    /// Lint, simulate and prove the accelerator's RTL.
    Rtl {
        /// Only these parts.
        #[arg(value_enum)]
        parts: Vec<rtl::Part>,
    },
    /// Count the RTL's cells by yosys, route small blocks by nextpnr; writes fpga/syn/report.md.
    Synth {
        /// How many at a time.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        jobs: u32,
        /// Only these blocks (see fpga/syn/synth.py); else all but those that take many minutes.
        blocks: Vec<String>,
    },
    /// Run the tests with IKE peers, strongSwan's against a newer one: Debian testing's, which has ML-KEM.
    Peers {
        /// Only test files whose name contains this.
        #[arg(default_value = "")]
        name: String,
    },
    /// Run DPDK's own QAT driver on the simulated QAT function. Needs root.
    Dpdk,
    /// Boot a virtual machine with the simulated card, and drive it through the kernel's VFIO.
    Vm(vm::Arguments),
    /// Generate what comes from the register map: RTL, Rust, documentation.
    Regs {
        /// Write nothing; fail if anything would change.
        #[arg(long)]
        check: bool,
        /// Also write a browsable reference to this folder.
        #[arg(long)]
        html: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Demo { arguments } => demo::run(&arguments),
        Chore::Ci => ci::run(),
        Chore::Fuzz { seconds, name } => fuzz::run(seconds, &name),
        Chore::Rtl { parts } => rtl::run(&parts),
        Chore::Synth { jobs, blocks } => synth::run(jobs, &blocks),
        Chore::Instructions { update } => instructions::run(update),
        Chore::Deny => deny::run(),
        Chore::Sanitize { which, test } => sanitize::run(which, test.as_deref()),
        Chore::Peers { name } => peers::run(&name),
        Chore::Dpdk => dpdk::run(),
        Chore::Vm(arguments) => vm::run(&arguments),
        Chore::Regs { check, html } => regs::run(check, html.as_deref()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
