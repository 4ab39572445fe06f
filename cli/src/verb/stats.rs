// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade stats`: what the daemon and its data path have done.

use crate::daemon::{ANSWER, DaemonArguments, json, table};
use crate::failure::Outcome;
use crate::vici::{Section, Value};

/// Show the daemon's statistics and what its data path did with packets.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let none = Section::default();
    let response = arguments.daemon.request("stats", &none, ANSWER)?;
    arguments.daemon.show(&json(&response), || show(&response))
}

/// Sections that mean something for this daemon; the others are there for `swanctl --stats`.
const SHOWN: [&str; 3] = ["uptime", "ikesas", "dataplane"];

fn show(response: &Section) -> String {
    let mut rows = Vec::new();
    for name in SHOWN {
        let entries = response.section(name).map_or(&[][..], |s| &s.0);
        for (key, value) in entries {
            if let Value::Text(text) = value {
                rows.push(vec![name.to_owned(), key.clone(), text.clone()]);
            }
        }
    }
    table(&["OF", "WHAT", "VALUE"], rows, "no statistics")
}
