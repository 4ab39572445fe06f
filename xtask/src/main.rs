// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The project's own chores: `cargo demo`, `cargo ci`, `cargo xtask fuzz`, `cargo xtask regs`,
//! `cargo xtask rtl`, `cargo xtask vm`.

mod ci;
mod demo;
mod fuzz;
mod prerequisites;
mod python;
mod regs;
mod rtl;
mod run;
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
    /// Lint, simulate and prove the accelerator's RTL.
    Rtl {
        /// Only these parts.
        #[arg(value_enum)]
        parts: Vec<rtl::Part>,
    },
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
