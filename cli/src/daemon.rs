// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What verbs that ask the daemon have in common: where it is, what a failure means, how answers
//! are shown.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Number, Value as Json};

use crate::failure::{Failure, Outcome};
use crate::output::OutputArguments;
pub(crate) use crate::output::table;
use crate::vici::{Client, Section, Value, ViciError};

/// How long an answer may take that waits for nobody else.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// Where the daemon is, and how to show what it says.
#[derive(Debug, clap::Args)]
pub(crate) struct DaemonArguments {
    /// The daemon's control socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "ESPLANADE_VICI",
        default_value = "/run/esplanade.vici"
    )]
    socket: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
}

impl DaemonArguments {
    /// Sends a command and waits for the response.
    pub(crate) fn request(
        &self,
        command: &str,
        message: &Section,
        limit: Duration,
    ) -> Result<Section, Failure> {
        let result =
            Client::connect(&self.socket, limit).and_then(|mut c| c.request(command, message));
        result.map_err(|error| self.failure(error))
    }

    /// Sends a command whose answer is streamed as events.
    pub(crate) fn stream(&self, command: &str, event: &str) -> Result<Vec<Section>, Failure> {
        let result = Client::connect(&self.socket, ANSWER)
            .and_then(|mut client| client.stream(command, event, &Section::default()));
        result.map_err(|error| self.failure(error))
    }

    /// Hands events of these names on until it is told to stop.
    pub(crate) fn follow(
        &self,
        names: &[&str],
        on_event: impl FnMut(&str, &Section) -> anyhow::Result<bool>,
    ) -> Result<(), Failure> {
        let result = Client::connect(&self.socket, ANSWER)
            .and_then(|mut client| client.follow(names, on_event));
        result.map_err(|error| self.failure(error))
    }

    /// Whether a program is going to read it.
    pub(crate) fn is_json(&self) -> bool {
        self.output.is_json()
    }

    fn failure(&self, error: ViciError) -> Failure {
        match error {
            ViciError::Socket(_) => Failure::no_device(
                anyhow::Error::from(error)
                    .context(format!("no daemon answers at {}", self.socket.display())),
            ),
            ViciError::Silent => Failure::no_device(anyhow::Error::from(error).context(format!(
                "the daemon at {} is there, and does not answer",
                self.socket.display()
            ))),
            ViciError::HandedOn(error) => error.into(),
            ViciError::Refused { .. } => Failure::refused(error),
            error => error.into(),
        }
    }

    /// Prints an answer the way that was asked for.
    pub(crate) fn show(&self, json: &Json, table: impl FnOnce() -> String) -> Outcome {
        self.output.show(json, table)
    }
}

/// Names, identities and SPIs stay texts in JSON, even where they look like numbers.
const TEXTS: &[&str] = &[
    "connection",
    "name",
    "id",
    "local-id",
    "remote-id",
    "initiator-spi",
    "responder-spi",
    "spi-in",
    "spi-out",
    "firmware",
    "product",
    "driver",
    "engine-reason",
    "child",
    "reason",
    "limit",
];

/// A section as a JSON object; counts become numbers.
pub(crate) fn json(section: &Section) -> Json {
    let entries = section.0.iter().map(|(key, value)| {
        let value = match value {
            Value::Text(text) => match text.parse::<u64>() {
                Ok(number) if !TEXTS.contains(&key.as_str()) => Number::from(number).into(),
                _ => Json::from(text.as_str()),
            },
            Value::List(list) => list.clone().into(),
            Value::OctetsList(list) => list.iter().map(hex::encode).collect(),
            Value::Octets(octets) => hex::encode(octets).into(),
            Value::Section(section) => json(section),
        };
        (key.clone(), value)
    });
    Json::Object(entries.collect::<Map<_, _>>())
}

/// Sections by name as a JSON array, since names may repeat.
pub(crate) fn named(key: &str, sections: &[(&str, &Section)]) -> Json {
    let items = sections.iter().map(|(name, section)| {
        let mut item = Map::from_iter([(key.to_owned(), Json::from(*name))]);
        if let Json::Object(entries) = json(section) {
            item.extend(entries);
        }
        Json::Object(item)
    });
    items.collect()
}

/// The text of a key, or a dash.
pub(crate) fn text(section: &Section, key: &str) -> String {
    section.text(key).unwrap_or("-").to_owned()
}

/// The items of a list, joined, or a dash.
pub(crate) fn list(section: &Section, key: &str) -> String {
    let items = section
        .0
        .iter()
        .find_map(|(name, value)| match value {
            Value::List(items) if name == key => Some(items.join(" ")),
            _ => None,
        })
        .unwrap_or_default();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_texts_whatever_they_look_like() {
        let mut section = Section::default();
        for name in ["child", "reason", "limit"] {
            section.put(name, "007");
        }
        let expected = serde_json::json!({ "child": "007", "reason": "007", "limit": "007" });
        assert_eq!(json(&section), expected);
    }

    #[test]
    fn counts_become_numbers_and_spis_stay_texts() {
        let mut section = Section::default();
        section.put("packets-in", 12);
        section.put("spi-in", "12345678");
        section.put_list("local-ts", ["10.0.0.0/8".to_owned()]);
        let found = named("connection", &[("7", &section)]);
        let expected = serde_json::json!([{
            "connection": "7", "packets-in": 12, "spi-in": "12345678", "local-ts": ["10.0.0.0/8"]
        }]);
        assert_eq!(found, expected);
    }
}
