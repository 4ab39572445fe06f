// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade`: accelerator cards and the tunnels on them, from the command line. One file per verb.
#![forbid(unsafe_code)]

mod daemon;
mod engine;
mod failure;
mod interrupt;
mod output;
mod verb;
mod vici;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use failure::Failure;

/// IPsec on accelerator cards: run, look, measure.
#[derive(Debug, Parser)]
#[command(name = "esplanade", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such device or daemon, 4 refused."
)]
struct Arguments {
    /// What to log to standard error: error, warn, info, debug, trace, or a tracing filter.
    #[arg(long, global = true, default_value = "warn", env = "ESPLANADE_LOG")]
    log_level: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Sas(verb::sas::Arguments),
    Sa(verb::sa::Arguments),
    Conns(verb::conns::Arguments),
    Up(verb::up::Arguments),
    Down(verb::down::Arguments),
    Stats(verb::stats::Arguments),
    Devices(verb::devices::Arguments),
    Device(verb::device::Arguments),
    Top(verb::top::Arguments),
    Monitor(verb::monitor::Arguments),
    Esp(verb::esp::Arguments),
    Bench(Box<verb::bench::Arguments>),
    Sim(Box<verb::sim::Arguments>),
    IkeLoad(Box<verb::ike_load::Arguments>),
    Keep(verb::keep::Arguments),
    Demo(verb::demo::Arguments),
    Man(verb::man::Arguments),
    Completions(verb::completions::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&arguments.log_level))
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .init();
    let result = match arguments.verb {
        Verb::Sas(arguments) => verb::sas::run(&arguments),
        Verb::Sa(arguments) => verb::sa::run(&arguments),
        Verb::Conns(arguments) => verb::conns::run(&arguments),
        Verb::Up(arguments) => verb::up::run(&arguments),
        Verb::Down(arguments) => verb::down::run(&arguments),
        Verb::Stats(arguments) => verb::stats::run(&arguments),
        Verb::Devices(arguments) => verb::devices::run(&arguments),
        Verb::Device(arguments) => verb::device::run(&arguments),
        Verb::Top(arguments) => verb::top::run(&arguments),
        Verb::Monitor(arguments) => verb::monitor::run(&arguments),
        Verb::Esp(arguments) => verb::esp::run(&arguments),
        Verb::Bench(arguments) => verb::bench::run(&arguments),
        Verb::Sim(arguments) => verb::sim::run(*arguments),
        Verb::IkeLoad(arguments) => verb::ike_load::run(&arguments),
        Verb::Keep(arguments) => verb::keep::run(&arguments),
        Verb::Demo(arguments) => verb::demo::run(&arguments),
        Verb::Man(arguments) => verb::man::run(&arguments, Arguments::command()),
        Verb::Completions(arguments) => verb::completions::run(&arguments, Arguments::command()),
    };
    match result {
        Ok(code) => code,
        Err(Failure { code, error }) => {
            anstream::eprintln!("esplanade: {error:#}");
            code
        }
    }
}
