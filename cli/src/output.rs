// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How answers are shown: as a table for people, as JSON for programs.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::{Table, presets};
use serde_json::Value as Json;

use crate::failure::Outcome;

/// How to show an answer.
#[derive(Debug, clap::Args)]
pub(crate) struct OutputArguments {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// The same as -o json.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl OutputArguments {
    /// Whether a program is going to read it.
    pub(crate) fn is_json(&self) -> bool {
        self.json || self.output == Format::Json
    }

    /// Prints an answer the way that was asked for.
    pub(crate) fn show(&self, json: &Json, table: impl FnOnce() -> String) -> Outcome {
        if self.is_json() {
            print(&serde_json::to_string_pretty(json)?)?;
        } else {
            print(&table())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints to standard output; a reader that has seen enough is no failure. Whether one is still there.
pub(crate) fn print(text: &str) -> anyhow::Result<bool> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true).context("standard output"),
    }
}

/// A table without lines, or `none` where there are no rows.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return none.to_owned();
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(headers.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

/// Names and what they are, in two columns.
pub(crate) fn facts(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in rows {
        table.add_row([name, value]);
    }
    table.trim_fmt()
}
