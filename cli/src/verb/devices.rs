// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade devices`: the engines behind the daemon.

use crate::daemon::{ANSWER, DaemonArguments, named, table, text};
use crate::failure::Outcome;
use crate::vici::Section;

/// Show the daemon's engines: the accelerator, if there is one, and software.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// First take an accelerator back that is quarantined for a wrong result, or held off because it
    /// kept vanishing.
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let none = Section::default();
    if arguments.release {
        arguments.daemon.request("release-device", &none, ANSWER)?;
    }
    let response = arguments.daemon.request("devices", &none, ANSWER)?;
    let devices: Vec<_> = response.sections().collect();
    arguments
        .daemon
        .show(&named("name", &devices), || show(&devices))
}

const COLUMNS: [(&str, &str); 11] = [
    ("PRODUCT", "product"),
    ("DRIVER", "driver"),
    ("HEALTH", "health"),
    ("SAS", "sas"),
    ("SEALED", "sealed"),
    ("OPENED", "opened"),
    ("ERRORS", "errors"),
    ("LOST", "lost-count"),
    ("RETURNED", "returned-count"),
    ("CHECKED", "checked"),
    ("WRONG", "mismatches"),
];

fn show(devices: &[(&str, &Section)]) -> String {
    let rows = devices.iter().map(|(name, device)| {
        let facts = COLUMNS.iter().map(|(_, key)| text(device, key));
        std::iter::once((*name).to_owned()).chain(facts).collect()
    });
    let headers: Vec<_> = std::iter::once("NAME")
        .chain(COLUMNS.map(|(header, _)| header))
        .collect();
    table(&headers, rows.collect(), "no engines")
}
