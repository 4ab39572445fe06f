// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade man`: manual pages, made from the same definitions as `--help`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::failure::Outcome;

/// Write the manual pages: one for each verb into a directory, or the main one to standard output.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  esplanade man --to /usr/local/share/man/man1 && man esplanade-device-bind"
)]
pub(crate) struct Arguments {
    /// Directory for the pages of all verbs.
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, command: clap::Command) -> Outcome {
    let command = command.disable_help_subcommand(true);
    match &arguments.to {
        Some(directory) => {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            clap_mangen::generate_to(command, directory)
                .with_context(|| format!("cannot write to {}", directory.display()))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            match std::io::stdout().write_all(&page) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                result => result?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
