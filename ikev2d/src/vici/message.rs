// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages of strongSwan's control protocol: bodies by serde_vici, and their packets.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The largest packet that the protocol allows.
pub const PACKET_LIMIT: usize = 512 << 10;

/// Packet types.
pub mod packet {
    /// A named request.
    pub const COMMAND_REQUEST: u8 = 0;
    /// Its response.
    pub const COMMAND_RESPONSE: u8 = 1;
    /// The command is not known.
    pub const COMMAND_UNKNOWN: u8 = 2;
    /// A named event is asked for.
    pub const EVENT_REGISTER: u8 = 3;
    /// A named event is asked for no more.
    pub const EVENT_UNREGISTER: u8 = 4;
    /// The (un)registration is done.
    pub const EVENT_CONFIRM: u8 = 5;
    /// The event is not known.
    pub const EVENT_UNKNOWN: u8 = 6;
    /// A named event.
    pub const EVENT: u8 = 7;
}

/// Name and message of a named packet's body; nothing if they are malformed.
pub fn split_name(body: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = body.split_first()?;
    let (name, message) = rest.split_at_checked((*length).into())?;
    Some((std::str::from_utf8(name).ok()?, message))
}

/// A packet with its length in front: type, name if it has one, message if it has one.
///
/// # Errors
/// The message can't be encoded: a name or text is too long.
pub fn encode(
    kind: u8,
    name: Option<&str>,
    message: Option<&Section>,
) -> Result<Vec<u8>, serde_vici::Error> {
    let mut packet = vec![0, 0, 0, 0, kind];
    if let Some(name) = name {
        // Names are the protocol's own, all of them short.
        packet.push(name.len().min(255) as u8);
        packet.extend(name.as_bytes());
    }
    if let Some(message) = message {
        packet.extend(serde_vici::to_vec(message)?);
    }
    let total = (packet.len() - 4) as u32;
    if let Some(front) = packet.first_chunk_mut::<4>() {
        *front = total.to_be_bytes();
    }
    Ok(packet)
}

/// Reads a message.
///
/// # Errors
/// It is malformed.
pub fn decode(message: &[u8]) -> Result<Section, serde_vici::Error> {
    if message.is_empty() {
        return Ok(Section::default());
    }
    serde_vici::from_slice(message)
}

/// A vici section: keys in order, with texts, lists and sections as values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section(pub Vec<(String, Value)>);

/// A value in a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
    /// A section.
    Section(Section),
}

impl Section {
    /// Adds a text.
    pub fn put(&mut self, key: &str, value: impl fmt::Display) {
        self.0
            .push((key.to_owned(), Value::Text(value.to_string())));
    }

    /// Adds a list.
    pub fn put_list(&mut self, key: &str, items: impl IntoIterator<Item = String>) {
        self.0
            .push((key.to_owned(), Value::List(items.into_iter().collect())));
    }

    /// Adds a section.
    pub fn put_section(&mut self, key: &str, section: Section) {
        self.0.push((key.to_owned(), Value::Section(section)));
    }

    /// The text of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number that a key's text is.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    /// The section of a key.
    pub fn section(&self, key: &str) -> Option<&Section> {
        match self.value(key)? {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }

    /// All sections in it, with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, value)| match value {
            Value::Section(section) => Some((name.as_str(), section)),
            _ => None,
        })
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => list.serialize(serializer),
            Self::Section(section) => section.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Section;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a section")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
                let mut section = Section::default();
                while let Some(entry) = map.next_entry()? {
                    section.0.push(entry);
                }
                Ok(section)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a list or a section")
            }

            fn visit_bytes<E: serde::de::Error>(self, octets: &[u8]) -> Result<Value, E> {
                Ok(Value::Text(String::from_utf8_lossy(octets).into_owned()))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(Value::Text(item)) = list.next_element()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                let section =
                    Section::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Value::Section(section))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
