// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counters at a time, and the rates between two of them.

use std::time::{Instant, SystemTime};

use driver::ipa::inspect::Inspection;
use serde_json::{Map, Value as Json, json};

use crate::daemon::{ANSWER, DaemonArguments, text};
use crate::failure::Failure;
use crate::output::table;
use crate::verb::device;
use crate::vici::Section;

/// Counters of everything, at one time.
pub(super) struct Sample {
    at: Instant,
    groups: Vec<Group>,
}

/// Things of one kind.
struct Group {
    name: &'static str,
    rows: Vec<Row>,
}

/// One thing: facts that are shown as they are, and counters whose rates are.
struct Row {
    key: String,
    facts: Vec<(&'static str, String)>,
    counters: Vec<(&'static str, u64)>,
}

impl Sample {
    /// Engines, queue pairs of the card, and SAs.
    pub(super) fn of_daemon(daemon: &DaemonArguments) -> Result<Self, Failure> {
        let at = Instant::now();
        let devices = daemon.request("devices", &Section::default(), ANSWER)?;
        let sas = daemon.stream("list-sas", "list-sa")?;
        let (mut queues, mut ports) = (Vec::new(), Vec::new());
        for (name, engine) in devices.sections() {
            // Only a card has queue pairs to tell of; software has no address.
            if engine.text("health") != Some("ok") {
                continue;
            }
            if let Ok(address) = name.parse()
                && let Ok(card) = device::through_daemon(daemon, &address)
            {
                queues.extend(queue_rows(&card));
                ports.extend(port_rows(&card));
            }
        }
        let devices = devices.sections().map(|(name, engine)| Row {
            key: name.to_owned(),
            facts: vec![
                ("name", name.to_owned()),
                ("health", text(engine, "health")),
                ("sas", text(engine, "sas")),
            ],
            counters: counters(
                engine,
                &["sealed", "sealed-bytes", "opened", "opened-bytes", "errors"],
            ),
        });
        let sas = sas.iter().flat_map(Section::sections);
        let sas = sas.flat_map(|(connection, sa)| child_rows(connection, sa));
        Ok(Self {
            at,
            groups: vec![
                Group {
                    name: "devices",
                    rows: devices.collect(),
                },
                Group {
                    name: "queues",
                    rows: queues,
                },
                Group {
                    name: "ports",
                    rows: ports,
                },
                Group {
                    name: "sas",
                    rows: sas.collect(),
                },
            ],
        })
    }

    /// A card, its queue pairs and its SAs.
    pub(super) fn of_card(card: &Inspection) -> Self {
        let count = |name: &str| {
            let found = card.counters.iter().find(|(counter, _)| counter == name);
            found.map_or(0, |(_, value)| *value)
        };
        let device = Row {
            key: card.address.clone(),
            facts: vec![
                ("name", card.address.clone()),
                ("health", card.health.clone()),
                ("sas", count("sas").to_string()),
            ],
            counters: vec![
                ("sealed", count("sealed")),
                ("sealed-bytes", count("sealed_bytes")),
                ("opened", count("opened")),
                ("opened-bytes", count("opened_bytes")),
                ("errors", count("errors")),
            ],
        };
        let sas = card.sas.iter().map(|sa| Row {
            key: format!("{} {} {}", sa.index, sa.spi, sa.direction),
            facts: vec![
                ("sa", sa.index.to_string()),
                ("spi", sa.spi.clone()),
                ("way", sa.direction.clone()),
                ("suite", sa.suite.clone()),
            ],
            counters: vec![("packets", sa.packets), ("bytes", sa.bytes)],
        });
        Self {
            at: Instant::now(),
            groups: vec![
                Group {
                    name: "devices",
                    rows: vec![device],
                },
                Group {
                    name: "queues",
                    rows: queue_rows(card).collect(),
                },
                Group {
                    name: "ports",
                    rows: port_rows(card).collect(),
                },
                Group {
                    name: "sas",
                    rows: sas.collect(),
                },
            ],
        }
    }
}

fn queue_rows(card: &Inspection) -> impl Iterator<Item = Row> {
    card.queues.iter().map(|queue| Row {
        key: format!("{} {}", card.address, queue.number),
        facts: vec![
            ("device", card.address.clone()),
            ("queue", queue.number.to_string()),
            ("state", queue.state.clone()),
        ],
        counters: vec![
            ("packets", queue.completed),
            ("bytes", queue.bytes),
            ("errors", queue.errors),
            ("interrupts", queue.interrupts),
        ],
    })
}

fn port_rows(card: &Inspection) -> impl Iterator<Item = Row> {
    card.ports.iter().map(|port| Row {
        key: format!("{} {}", card.address, port.role),
        facts: vec![
            ("device", card.address.clone()),
            ("port", port.role.clone()),
            ("link", if port.link { "up" } else { "down" }.to_owned()),
        ],
        counters: vec![
            ("received", port.traffic.received),
            ("received-bytes", port.traffic.received_bytes),
            ("sent", port.traffic.sent),
            ("sent-bytes", port.traffic.sent_bytes),
            ("dropped", port.dropped.iter().map(|(_, count)| count).sum()),
        ],
    })
}

fn child_rows(connection: &str, sa: &Section) -> Vec<Row> {
    let children = sa.section("child-sas").into_iter();
    let children = children.flat_map(Section::sections);
    let row = |(name, child): (&str, &Section)| Row {
        key: name.to_owned(),
        facts: vec![
            ("connection", connection.to_owned()),
            ("child", name.to_owned()),
            ("spi-in", text(child, "spi-in")),
            ("spi-out", text(child, "spi-out")),
            ("engine", text(child, "engine")),
        ],
        counters: counters(
            child,
            &["packets-in", "bytes-in", "packets-out", "bytes-out"],
        ),
    };
    children.map(row).collect()
}

fn counters(section: &Section, names: &[&'static str]) -> Vec<(&'static str, u64)> {
    let value = |name| section.number(name).unwrap_or(0);
    names.iter().map(|name| (*name, value(name))).collect()
}

/// What happened a second, between two samples.
pub(super) struct Rates {
    seconds: f64,
    groups: Vec<(&'static str, Vec<RateRow>)>,
}

struct RateRow {
    facts: Vec<(&'static str, String)>,
    rates: Vec<(&'static str, f64)>,
}

impl Rates {
    pub(super) fn between(before: &Sample, after: &Sample) -> Self {
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
        let group = |group: &Group| {
            let old = before.groups.iter().find(|old| old.name == group.name);
            let old = old.map_or(&[][..], |old| &old.rows);
            let rows = group.rows.iter();
            let rows =
                rows.map(|row| rate_row(row, old.iter().find(|old| old.key == row.key), seconds));
            (group.name, rows.collect())
        };
        Self {
            seconds,
            groups: after.groups.iter().map(group).collect(),
        }
    }

    pub(super) fn json(&self) -> Json {
        let mut object = Map::new();
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        object.insert("time".to_owned(), time.into());
        object.insert("seconds".to_owned(), json!(self.seconds));
        for (name, rows) in &self.groups {
            let rows = rows.iter().map(|row| {
                let facts = row.facts.iter().map(|(name, text)| (*name, json!(text)));
                let rates = row.rates.iter().map(|(name, rate)| (*name, json!(rate)));
                let entries = facts.chain(rates);
                let entries = entries.map(|(name, value)| (name.to_owned(), value));
                Json::Object(entries.collect())
            });
            object.insert((*name).to_owned(), rows.collect());
        }
        Json::Object(object)
    }

    pub(super) fn table(&self) -> String {
        let shown = self.groups.iter().filter(|(_, rows)| !rows.is_empty());
        let tables = shown.map(|(_, rows)| {
            let headers: Vec<String> = rows.first().map_or_else(Vec::new, |row| {
                let facts = row.facts.iter().map(|(name, _)| name.to_uppercase());
                let rates = row.rates.iter().map(|(name, _)| header(name));
                facts.chain(rates).collect()
            });
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let cells = rows.iter().map(|row| {
                let facts = row.facts.iter().map(|(_, text)| text.clone());
                let rates = row.rates.iter().map(|(name, rate)| cell(name, *rate));
                facts.chain(rates).collect()
            });
            table(&headers, cells.collect(), "")
        });
        let tables: Vec<_> = tables.collect();
        format!("over {:.1} s\n\n{}\n", self.seconds, tables.join("\n\n"))
    }
}

/// What has come since; a thing that is new has done all of it since, one whose counters fell was reset.
fn rate_row(row: &Row, before: Option<&Row>, seconds: f64) -> RateRow {
    let rate = |(name, now): &(&'static str, u64)| {
        let before = before.map_or(&[][..], |row| &row.counters);
        let then = before.iter().find(|(other, _)| other == name);
        let then = then.map_or(0, |(_, value)| *value);
        let since = now.checked_sub(then).unwrap_or(*now);
        (*name, since as f64 / seconds.max(f64::EPSILON))
    };
    RateRow {
        facts: row.facts.clone(),
        rates: row.counters.iter().map(rate).collect(),
    }
}

/// Octets are shown as bits.
fn header(counter: &str) -> String {
    match counter.contains("bytes") {
        true => {
            format!("{}, MBIT/S", counter.replace("bytes", "").trim_matches('-')).to_uppercase()
        }
        false => format!("{counter}/S").to_uppercase(),
    }
    .trim_start_matches(", ")
    .to_owned()
}

fn cell(counter: &str, rate: f64) -> String {
    match counter.contains("bytes") {
        true => format!("{:.1}", rate * 8.0 / 1e6),
        false => format!("{rate:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(at: Instant, packets: u64, bytes: u64) -> Sample {
        let row = Row {
            key: "q".to_owned(),
            facts: vec![("queue", "0".to_owned())],
            counters: vec![("packets", packets), ("bytes-in", bytes)],
        };
        Sample {
            at,
            groups: vec![Group {
                name: "queues",
                rows: vec![row],
            }],
        }
    }

    #[test]
    fn rates_are_what_came_in_a_second() {
        let start = Instant::now();
        let before = sample(start, 1000, 0);
        let after = sample(start + Duration::from_secs(2), 3000, 1_000_000);
        let rates = Rates::between(&before, &after);
        let json = rates.json();
        assert_eq!(json["queues"][0]["packets"], 1000.0);
        assert_eq!(json["queues"][0]["bytes-in"], 500_000.0);
        let table = rates.table();
        assert!(
            table.contains("PACKETS/S") && table.contains("IN, MBIT/S"),
            "{table}"
        );
        assert!(table.contains("1000") && table.contains("4.0"), "{table}");
    }

    #[test]
    fn counters_that_fell_were_reset() {
        let start = Instant::now();
        let (before, after) = (
            sample(start, 5000, 0),
            sample(start + Duration::from_secs(1), 10, 0),
        );
        assert_eq!(
            Rates::between(&before, &after).json()["queues"][0]["packets"],
            10.0
        );
    }
}
