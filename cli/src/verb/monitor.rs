// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade monitor`: what happens, as it happens.

use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::{Map, Value as Json};

use crate::daemon::{DaemonArguments, json, text};
use crate::failure::Outcome;
use crate::output::print;
use crate::vici::Section;

/// Follow the daemon's events: IKE and child SAs up, down and rekeyed, SAs moved between card and software,
/// cards lost and returned, lifetimes reached, refused packets.
///
/// One line an event; with -o json one object a line. Ends with the daemon (exit status 3).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  esplanade monitor -o json | jq 'select(.event == \"engine\")'\n  esplanade monitor --only engine"
)]
pub(crate) struct Arguments {
    /// Only events of this name; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = NAMES)]
    only: Vec<String>,
    /// Lines of the daemon's log too.
    #[arg(long)]
    log: bool,
    /// End after so many events.
    #[arg(long, value_name = "EVENTS")]
    count: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// Events that are followed unless told otherwise.
const NAMES: [&str; 5] = [
    "ike-updown",
    "ike-rekey",
    "child-updown",
    "child-rekey",
    "engine",
];

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let named = |name: &&str| arguments.only.is_empty() || arguments.only.iter().any(|o| o == name);
    let mut names: Vec<_> = NAMES.iter().copied().filter(named).collect();
    if arguments.log {
        names.push("log");
    }
    let mut seen = 0;
    arguments.daemon.follow(&names, |name, section| {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = if arguments.daemon.is_json() {
            let mut object = Map::new();
            object.insert("time".to_owned(), time.into());
            object.insert("event".to_owned(), name.into());
            object.insert("data".to_owned(), json(section));
            Json::Object(object).to_string()
        } else {
            format!("{time}  {}", tell(name, section))
        };
        seen += 1;
        Ok(print(&line)? && arguments.count.is_none_or(|count| seen < count))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An event in words.
fn tell(name: &str, section: &Section) -> String {
    match name {
        "ike-updown" | "child-updown" => {
            let way = if section.text("up") == Some("yes") {
                "up"
            } else {
                "down"
            };
            let mut sas = section.sections();
            let Some((connection, sa)) = sas.next() else {
                return format!("{name} {way}");
            };
            if name == "ike-updown" {
                let id = text(sa, "uniqueid");
                let (local, remote) = (text(sa, "local-id"), text(sa, "remote-id"));
                return format!("IKE SA {connection}[{id}] {way}: {local} = {remote}");
            }
            let children = sa.section("child-sas").into_iter();
            let children: Vec<_> = children
                .flat_map(Section::sections)
                .map(|(_, child)| child_in_words(child))
                .collect();
            format!("child SA {way}: {connection}, {}", children.join(", "))
        }
        "ike-rekey" => {
            let rekeyed = section.sections().next();
            rekeyed.map_or_else(String::new, |(connection, both)| {
                let id = |which| both.section(which).map(|sa| text(sa, "uniqueid"));
                let (old, new) = (id("old").unwrap_or_default(), id("new").unwrap_or_default());
                format!("IKE SA {connection}[{old}] rekeyed: now [{new}]")
            })
        }
        "child-rekey" => {
            let sas = section.sections().next();
            let children = sas.and_then(|(_, sa)| sa.section("child-sas"));
            let child = children.and_then(|children| children.sections().next());
            child.map_or_else(String::new, |(name, both)| {
                let new = both.section("new").map(child_in_words);
                format!("child SA {name} rekeyed: now {}", new.unwrap_or_default())
            })
        }
        "log" => text(section, "msg"),
        _ => engine(section),
    }
}

fn child_in_words(child: &Section) -> String {
    format!(
        "{}{{{}}} SPIs {} in, {} out, by {}",
        text(child, "name"),
        text(child, "uniqueid"),
        text(child, "spi-in"),
        text(child, "spi-out"),
        text(child, "engine")
    )
}

fn engine(section: &Section) -> String {
    let mut line = match (section.text("event"), section.text("engine")) {
        (Some("moved"), Some(engine)) => format!("SA moved to {engine}"),
        (event, _) => event.unwrap_or("engine").replace('-', " "),
    };
    if let Some(child) = section.text("child") {
        let (id, way) = (text(section, "child-id"), text(section, "way"));
        line.push_str(&format!(": {child}{{{id}}} {way}"));
    }
    for key in ["limit", "count", "queue", "reason"] {
        if let Some(value) = section.text(key) {
            line.push_str(&format!(", {key} {value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let mut moved = Section::default();
        for (key, value) in [
            ("event", "moved"),
            ("child-id", "3"),
            ("way", "out"),
            ("child", "net"),
            ("engine", "software"),
        ] {
            moved.put(key, value);
        }
        assert_eq!(tell("engine", &moved), "SA moved to software: net{3} out");
        let mut lost = Section::default();
        lost.put("event", "device-lost");
        lost.put("reason", "its process has ended");
        assert_eq!(
            tell("engine", &lost),
            "device lost, reason its process has ended"
        );

        let mut sa = Section::default();
        sa.put("uniqueid", 7);
        sa.put("local-id", "a");
        sa.put("remote-id", "b");
        let mut up = Section::default();
        up.put("up", "yes");
        up.put_section("gw", sa);
        assert_eq!(tell("ike-updown", &up), "IKE SA gw[7] up: a = b");
        // What is not there breaks nothing.
        for name in NAMES {
            tell(name, &Section::default());
        }
    }
}
