// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade completions`: for shells.

use std::io::Write;
use std::process::ExitCode;

use clap_complete::Shell;

use crate::failure::Outcome;

/// Print a shell's completions.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  esplanade completions bash > /etc/bash_completion.d/esplanade")]
pub(crate) struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, mut command: clap::Command) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "esplanade", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    Ok(ExitCode::SUCCESS)
}
