// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages of strongSwan's control protocol: bodies by serde_vici, and their packets.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

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
) -> Result<Zeroizing<Vec<u8>>, serde_vici::Error> {
    // Secrets are loaded by it.
    let message = message.map(serde_vici::to_vec).transpose()?;
    let message = Zeroizing::new(message.unwrap_or_default());
    // One that grew would leave copies behind.
    let mut packet = Zeroizing::new(Vec::with_capacity(HEAD + message.len()));
    packet.extend([0, 0, 0, 0, kind]);
    if let Some(name) = name {
        // Names are the protocol's own, all of them short.
        packet.push(name.len().min(255) as u8);
        packet.extend(name.as_bytes());
    }
    packet.extend_from_slice(&message);
    let total = (packet.len() - 4) as u32;
    if let Some(front) = packet.first_chunk_mut::<4>() {
        *front = total.to_be_bytes();
    }
    Ok(packet)
}

/// Octets before a message, at most: length, kind, the name's length and the name.
const HEAD: usize = 4 + 1 + 1 + 255;

/// The deepest nesting of sections that is read: lists of SAs need four.
const DEPTH: usize = 16;

/// A message can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is malformed.
    #[error("vici message: {0}")]
    Malformed(#[from] serde_vici::Error),
    /// Sections within sections within sections.
    #[error("vici message: sections are nested deeper than {DEPTH}")]
    TooDeep,
}

/// Reads a message.
///
/// # Errors
/// It is malformed, or nested beyond reason.
pub fn decode(message: &[u8]) -> Result<Section, DecodeError> {
    if message.is_empty() {
        return Ok(Section::default());
    }
    check_depth(message)?;
    Ok(serde_vici::from_slice(message)?)
}

/// Refuses what would take the decoder, which follows sections by recursion, down too far.
fn check_depth(mut message: &[u8]) -> Result<(), DecodeError> {
    const SECTION_START: u8 = 1;
    const SECTION_END: u8 = 2;
    const KEY_VALUE: u8 = 3;
    const LIST_START: u8 = 4;
    const LIST_ITEM: u8 = 5;
    let mut depth = 0usize;
    while let Some((element, rest)) = message.split_first() {
        message = rest;
        match *element {
            SECTION_START => depth += 1,
            SECTION_END => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return Err(DecodeError::TooDeep);
        }
        if let SECTION_START | KEY_VALUE | LIST_START = *element {
            let Some((length, rest)) = message.split_first() else {
                break;
            };
            message = rest.get(usize::from(*length)..).unwrap_or_default();
        }
        if let KEY_VALUE | LIST_ITEM = *element {
            let Some((length, rest)) = message.split_first_chunk::<2>() else {
                break;
            };
            let length = usize::from(u16::from_be_bytes(*length));
            message = rest.get(length..).unwrap_or_default();
        }
    }
    // What is cut off is the decoder's to refuse.
    Ok(())
}

/// A vici section: keys in order, with texts, lists and sections as values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section(pub Vec<(String, Value)>);

/// A value in a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// Octets that are no text.
    Octets(Vec<u8>),
    /// A list of texts.
    List(Vec<String>),
    /// A list with items that are no texts.
    OctetsList(Vec<Vec<u8>>),
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

    /// The octets of a key, text or not.
    pub fn octets(&self, key: &str) -> Option<&[u8]> {
        match self.value(key)? {
            Value::Text(text) => Some(text.as_bytes()),
            Value::Octets(octets) => Some(octets),
            _ => None,
        }
    }

    /// The texts of a key: a list, or one text.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        match self.value(key) {
            Some(Value::List(items)) => items.iter().map(String::as_str).collect(),
            Some(Value::Text(text)) => vec![text],
            _ => Vec::new(),
        }
    }

    /// Gives a key that is there another text.
    pub fn replace(&mut self, key: &str, value: impl fmt::Display) {
        if let Some((_, old)) = self.0.iter_mut().find(|(name, _)| name == key) {
            *old = Value::Text(value.to_string());
        }
    }

    /// Overwrites every value with zeros: a message may carry secrets.
    pub fn wipe(&mut self) {
        for (_, value) in &mut self.0 {
            match value {
                Value::Text(text) => text.zeroize(),
                Value::Octets(octets) => octets.zeroize(),
                Value::List(items) => items.zeroize(),
                Value::OctetsList(items) => items.zeroize(),
                Value::Section(section) => section.wipe(),
            }
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
            Self::Octets(octets) => serializer.serialize_bytes(octets),
            Self::List(list) => list.serialize(serializer),
            Self::OctetsList(list) => serializer.collect_seq(list.iter().map(|item| Octets(item))),
            Self::Section(section) => section.serialize(serializer),
        }
    }
}

/// Octets, and no list of numbers.
struct Octets<'a>(&'a [u8]);

impl Serialize for Octets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
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
                Ok(match std::str::from_utf8(octets) {
                    Ok(text) => Value::Text(text.to_owned()),
                    Err(_) => Value::Octets(octets.to_vec()),
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    match item {
                        Value::Text(text) => items.push(text.into_bytes()),
                        Value::Octets(octets) => items.push(octets),
                        _ => return Err(serde::de::Error::custom("a list in a list")),
                    }
                }
                let texts = items.iter().map(|item| std::str::from_utf8(item));
                let texts: Result<Vec<&str>, _> = texts.collect();
                Ok(match texts {
                    Ok(texts) => Value::List(texts.into_iter().map(str::to_owned).collect()),
                    Err(_) => Value::OctetsList(items),
                })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoding example of the protocol's description, octet by octet.
    const EXAMPLE: &[u8] = b"\x03\x04key1\x00\x06value1\x01\x08section1\
        \x01\x0bsub-section\x03\x04key2\x00\x06value2\x02\
        \x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02";

    #[test]
    fn messages_are_those_of_the_protocol() {
        let message = decode(EXAMPLE).unwrap();
        assert_eq!(message.text("key1"), Some("value1"));
        let section = message.section("section1").unwrap();
        let inner = section.section("sub-section").unwrap();
        assert_eq!(inner.text("key2"), Some("value2"));
        assert_eq!(section.texts("list1"), ["item1", "item2"]);
        assert_eq!(serde_vici::to_vec(&message).unwrap(), EXAMPLE);
    }

    #[test]
    fn every_truncation_is_refused_or_a_whole_message() {
        for len in 1..EXAMPLE.len() {
            if let Ok(message) = decode(&EXAMPLE[..len]) {
                let again = serde_vici::to_vec(&message).unwrap();
                assert_eq!(again, &EXAMPLE[..len], "{len}");
            }
        }
    }

    #[test]
    fn sections_may_be_nested_but_not_without_end() {
        let nested = |depth: usize| [b"\x01\x01a".repeat(depth), vec![2; depth]].concat();
        assert!(decode(&nested(DEPTH)).is_ok());
        for depth in [DEPTH + 1, 100_000] {
            let error = decode(&nested(depth)).unwrap_err();
            assert!(matches!(error, DecodeError::TooDeep), "{error}");
        }
        // A value that looks like sections is none.
        let mut value = b"\x03\x01k\x01\x00".to_vec();
        value.extend([1; 256]);
        assert!(decode(&value).is_ok());
    }

    #[test]
    fn octets_that_are_no_text_stay_whole() {
        let message = decode(b"\x03\x04data\x00\x03\xff\x00\x80").unwrap();
        assert_eq!(message.octets("data"), Some(&[0xff, 0, 0x80][..]));
        assert_eq!(message.text("data"), None);
        let mut message = message;
        message.wipe();
        assert!(message.octets("data").is_none_or(<[u8]>::is_empty));
    }

    /// B54: as `swanctl` sends certificates in DER, and what comes behind them.
    #[test]
    fn lists_may_have_octets_among_texts() {
        let octets =
            b"\x04\x05certs\x05\x00\x01a\x05\x00\x02\x30\xff\x05\x00\x01b\x06\x03\x02id\x00\x01c";
        let message = decode(octets).unwrap();
        let items = [b"a".to_vec(), vec![0x30, 0xff], b"b".to_vec()].to_vec();
        assert_eq!(message.value("certs"), Some(&Value::OctetsList(items)));
        assert_eq!(message.text("id"), Some("c"));
        assert_eq!(serde_vici::to_vec(&message).unwrap(), octets);
    }
}
