// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade sas`: the SAs, and which engine carries each.

use crate::daemon::{DaemonArguments, list, named, table, text};
use crate::failure::Outcome;
use crate::vici::Section;

/// List the SAs, with the engine that carries each and why it is not the device.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  esplanade sas --json | jq '.[].\"child-sas\"'")]
pub(crate) struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let events = arguments.daemon.stream("list-sas", "list-sa")?;
    let sas: Vec<_> = events.iter().flat_map(Section::sections).collect();
    arguments
        .daemon
        .show(&named("connection", &sas), || show(&sas))
}

const HEADERS: &[&str] = &[
    "CONNECTION",
    "STATE",
    "REMOTE",
    "CHILD",
    "CHILD STATE",
    "SPI IN/OUT",
    "SELECTORS",
    "PACKETS IN/OUT",
    "ENGINE",
    "REASON",
];

fn show(sas: &[(&str, &Section)]) -> String {
    let mut rows = Vec::new();
    for (connection, sa) in sas {
        let ike = [
            (*connection).to_owned(),
            text(sa, "state"),
            text(sa, "remote-host"),
        ];
        let children = sa.section("child-sas").into_iter();
        let before = rows.len();
        for (_, child) in children.flat_map(Section::sections) {
            let pair = |a, b| format!("{}/{}", text(child, a), text(child, b));
            let selectors = format!("{} = {}", list(child, "local-ts"), list(child, "remote-ts"));
            let mut row = ike.to_vec();
            row.extend([
                text(child, "name"),
                text(child, "state"),
                pair("spi-in", "spi-out"),
                selectors,
                pair("packets-in", "packets-out"),
                text(child, "engine"),
                text(child, "engine-reason"),
            ]);
            rows.push(row);
        }
        if rows.len() == before {
            let mut row = ike.to_vec();
            row.resize(HEADERS.len(), "-".to_owned());
            rows.push(row);
        }
    }
    table(HEADERS, rows, "no SAs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sa_without_children_and_one_in_fallback_are_both_shown() {
        let mut child = Section::default();
        child.put("name", "net");
        child.put("engine", "software");
        child.put("engine-reason", "device lost");
        let mut children = Section::default();
        children.put_section("net-1", child);
        let mut sa = Section::default();
        sa.put("state", "ESTABLISHED");
        sa.put_section("child-sas", children);
        let shown = show(&[("site", &sa), ("bare", &Section::default())]);
        assert_eq!(shown.lines().count(), 3, "{shown}");
        assert!(
            shown.contains("software") && shown.contains("device lost"),
            "{shown}"
        );
        assert!(shown.contains("bare"), "{shown}");
    }
}
