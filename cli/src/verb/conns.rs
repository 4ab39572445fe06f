// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade conns`: what is configured.

use crate::daemon::{DaemonArguments, list, named, table, text};
use crate::failure::Outcome;
use crate::vici::Section;

/// List the configured connections and their children.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let events = arguments.daemon.stream("list-conns", "list-conn")?;
    let connections: Vec<_> = events.iter().flat_map(Section::sections).collect();
    arguments
        .daemon
        .show(&named("connection", &connections), || show(&connections))
}

fn show(connections: &[(&str, &Section)]) -> String {
    let mut rows = Vec::new();
    for (name, connection) in connections {
        let children = connection.section("children").into_iter();
        for (child, config) in children.flat_map(Section::sections) {
            rows.push(vec![
                (*name).to_owned(),
                list(connection, "local_addrs"),
                list(connection, "remote_addrs"),
                child.to_owned(),
                text(config, "mode"),
                list(config, "local-ts"),
                list(config, "remote-ts"),
            ]);
        }
    }
    let headers = [
        "CONNECTION",
        "LOCAL",
        "REMOTE",
        "CHILD",
        "MODE",
        "LOCAL TS",
        "REMOTE TS",
    ];
    table(&headers, rows, "no connections")
}
