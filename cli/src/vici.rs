// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client of vici, strongSwan's control protocol.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ikev2d::vici::message::packet::{
    COMMAND_REQUEST, COMMAND_RESPONSE, COMMAND_UNKNOWN, EVENT, EVENT_CONFIRM, EVENT_REGISTER,
    EVENT_UNKNOWN,
};
use ikev2d::vici::message::{DecodeError, PACKET_LIMIT, decode, encode, split_name};
use thiserror::Error;

pub(crate) use ikev2d::vici::message::{Section, Value};

/// Why a daemon could not be asked, or did not answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum ViciError {
    /// The socket failed.
    #[error("vici socket: {0}")]
    Socket(#[from] io::Error),
    /// The daemon did not answer in time.
    #[error("the daemon has not answered in time")]
    Silent,
    /// What it said could not be handed on.
    #[error("{0:#}")]
    HandedOn(anyhow::Error),
    /// A message cannot be written.
    #[error("vici message: {0}")]
    Message(#[from] serde_vici::Error),
    /// The daemon's message cannot be read.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// The daemon sent something else than was due.
    #[error("vici: expected {expected}, found packet type {found}")]
    Unexpected { expected: &'static str, found: u8 },
    /// The daemon does not know the command or event.
    #[error("vici: the daemon does not know `{0}`")]
    Unknown(String),
    /// The daemon refused.
    #[error("the daemon refused `{command}`: {message}")]
    Refused { command: String, message: String },
}

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the daemon's socket; each answer is waited for at most `limit`.
    pub(crate) fn connect(path: &Path, limit: Duration) -> Result<Self, ViciError> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self { stream })
    }

    /// Sends a command and returns the response; `success = no` in it is an error.
    pub(crate) fn request(
        &mut self,
        command: &str,
        message: &Section,
    ) -> Result<Section, ViciError> {
        self.send(COMMAND_REQUEST, command, message)?;
        self.response(command, |_, _| ())
    }

    /// Sends a command that streams its answer as events of one name, and collects them.
    pub(crate) fn stream(
        &mut self,
        command: &str,
        event: &str,
        message: &Section,
    ) -> Result<Vec<Section>, ViciError> {
        self.register(event, &mut |_, _| Ok(true))?;
        self.send(COMMAND_REQUEST, command, message)?;
        let mut events = Vec::new();
        self.response(command, |name, section| {
            if name == event {
                events.push(section);
            }
        })?;
        Ok(events)
    }

    /// Asks for events, and hands them on until it is told to stop or the daemon ends.
    pub(crate) fn follow(
        &mut self,
        events: &[&str],
        mut on_event: impl FnMut(&str, &Section) -> anyhow::Result<bool>,
    ) -> Result<(), ViciError> {
        for event in events {
            if !self.register(event, &mut on_event)? {
                return Ok(());
            }
        }
        // The next one may take for ever.
        self.stream.set_read_timeout(None)?;
        loop {
            let packet = self.receive().map_err(|error| match error {
                ViciError::Socket(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    io::Error::new(error.kind(), "the daemon has ended").into()
                }
                error => error,
            });
            match packet? {
                (EVENT, body) => {
                    let (name, message) = split_name(&body).ok_or_else(nameless)?;
                    if !on_event(name, &decode(message)?).map_err(ViciError::HandedOn)? {
                        return Ok(());
                    }
                }
                (found, _) => {
                    return Err(ViciError::Unexpected {
                        expected: "an event",
                        found,
                    });
                }
            }
        }
    }

    /// Asks for an event; earlier ones may come already. Whether to go on.
    fn register(
        &mut self,
        event: &str,
        on_event: &mut impl FnMut(&str, &Section) -> anyhow::Result<bool>,
    ) -> Result<bool, ViciError> {
        self.send(EVENT_REGISTER, event, &Section::default())?;
        loop {
            match self.receive()? {
                (EVENT_CONFIRM, _) => return Ok(true),
                (EVENT, body) => {
                    let (name, message) = split_name(&body).ok_or_else(nameless)?;
                    if !on_event(name, &decode(message)?).map_err(ViciError::HandedOn)? {
                        return Ok(false);
                    }
                }
                (EVENT_UNKNOWN, _) => return Err(ViciError::Unknown(event.to_owned())),
                (found, _) => {
                    return Err(ViciError::Unexpected {
                        expected: "a confirmation",
                        found,
                    });
                }
            }
        }
    }

    fn response(
        &mut self,
        command: &str,
        mut on_event: impl FnMut(&str, Section),
    ) -> Result<Section, ViciError> {
        loop {
            match self.receive()? {
                (EVENT, body) => {
                    let (name, message) = split_name(&body).ok_or_else(nameless)?;
                    on_event(name, decode(message)?);
                }
                (COMMAND_RESPONSE, body) => {
                    let response = decode(&body)?;
                    if response.text("success") == Some("no") {
                        return Err(ViciError::Refused {
                            command: command.to_owned(),
                            message: response
                                .text("errmsg")
                                .unwrap_or("no reason given")
                                .to_owned(),
                        });
                    }
                    return Ok(response);
                }
                (COMMAND_UNKNOWN, _) => return Err(ViciError::Unknown(command.to_owned())),
                (found, _) => {
                    return Err(ViciError::Unexpected {
                        expected: "a response",
                        found,
                    });
                }
            }
        }
    }

    fn send(&mut self, kind: u8, name: &str, message: &Section) -> Result<(), ViciError> {
        let message = (kind == COMMAND_REQUEST).then_some(message);
        let packet = encode(kind, Some(name), message)?;
        Ok(self.stream.write_all(&packet)?)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>), ViciError> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > PACKET_LIMIT {
            let message =
                format!("expected a packet of 1 to {PACKET_LIMIT} octets, found {length}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message).into());
        }
        let mut packet = vec![0; length];
        self.read(&mut packet)?;
        let kind = packet.remove(0);
        Ok((kind, packet))
    }

    fn read(&mut self, octets: &mut [u8]) -> Result<(), ViciError> {
        self.stream
            .read_exact(octets)
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ViciError::Silent,
                _ => error.into(),
            })
    }
}

fn nameless() -> io::Error {
    let what = "a packet without a proper name";
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// The encoding example of the protocol's description, octet by octet.
    fn example() -> (Section, Vec<u8>) {
        let section = Section(vec![
            ("key1".to_owned(), text("value1")),
            (
                "section1".to_owned(),
                Value::Section(Section(vec![
                    (
                        "sub-section".to_owned(),
                        Value::Section(Section(vec![("key2".to_owned(), text("value2"))])),
                    ),
                    (
                        "list1".to_owned(),
                        Value::List(vec!["item1".to_owned(), "item2".to_owned()]),
                    ),
                ])),
            ),
        ]);
        let mut octets = Vec::new();
        octets.extend(b"\x03\x04key1\x00\x06value1");
        octets.extend(b"\x01\x08section1");
        octets.extend(b"\x01\x0bsub-section\x03\x04key2\x00\x06value2\x02");
        octets.extend(b"\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02");
        (section, octets)
    }

    #[test]
    fn messages_are_those_of_the_protocol() {
        let (section, octets) = example();
        assert_eq!(serde_vici::to_vec(&section).unwrap(), octets);
        assert_eq!(decode(&octets).unwrap(), section);
        assert_eq!(decode(&[]).unwrap(), Section::default());
    }

    /// A daemon that answers each packet with the next of `answers`, whole packets with their length.
    fn daemon(answers: Vec<Vec<Vec<u8>>>) -> (Client, std::thread::JoinHandle<Vec<Vec<u8>>>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let mut length = [0; 4];
                theirs.read_exact(&mut length).unwrap();
                let mut packet = vec![0; u32::from_be_bytes(length) as usize];
                theirs.read_exact(&mut packet).unwrap();
                asked.push(packet);
                for packet in answer {
                    theirs
                        .write_all(&(packet.len() as u32).to_be_bytes())
                        .unwrap();
                    theirs.write_all(&packet).unwrap();
                }
            }
            asked
        });
        (Client { stream: ours }, thread)
    }

    #[test]
    fn streamed_events_are_collected_until_the_response() {
        let (section, octets) = example();
        let event = |name: &[u8]| [&[EVENT, name.len() as u8], name, &octets].concat();
        let (mut client, thread) = daemon(vec![
            vec![vec![EVENT_CONFIRM]],
            vec![
                event(b"list-sa"),
                event(b"log"),
                event(b"list-sa"),
                vec![COMMAND_RESPONSE],
            ],
        ]);
        let events = client
            .stream("list-sas", "list-sa", &Section::default())
            .unwrap();
        assert_eq!(events, [section.clone(), section]);
        let asked = thread.join().unwrap();
        assert_eq!(
            asked,
            [b"\x03\x07list-sa".to_vec(), b"\x00\x08list-sas".to_vec()]
        );
    }

    #[test]
    fn events_are_followed_until_enough_or_the_daemons_end() {
        let (section, octets) = example();
        let event = |name: &[u8]| [&[EVENT, name.len() as u8], name, &octets].concat();
        let (mut client, _thread) = daemon(vec![
            vec![vec![EVENT_CONFIRM]],
            // The first event may come before the second one is confirmed.
            vec![event(b"engine"), vec![EVENT_CONFIRM], event(b"log")],
        ]);
        let mut seen = Vec::new();
        let error = client
            .follow(&["engine", "log"], |name, message| {
                assert_eq!(message, &section);
                seen.push(name.to_owned());
                Ok(true)
            })
            .unwrap_err();
        assert_eq!(seen, ["engine", "log"]);
        assert!(error.to_string().contains("has ended"), "{error}");

        let (mut client, _thread) = daemon(vec![vec![vec![EVENT_CONFIRM], event(b"log")]]);
        client.follow(&["log"], |_, _| Ok(false)).unwrap();
        let (mut client, _thread) = daemon(vec![vec![vec![EVENT_UNKNOWN]]]);
        let error = client.follow(&["dance"], |_, _| Ok(true)).unwrap_err();
        assert!(matches!(error, ViciError::Unknown(name) if name == "dance"));
    }

    #[test]
    fn an_event_that_comes_while_another_is_asked_for_can_be_enough() {
        let (_, octets) = example();
        let event = [&[EVENT, 3], &b"log"[..], &octets].concat();
        let both = vec![event.clone(), vec![EVENT_CONFIRM], event];
        let (mut client, _thread) = daemon(vec![vec![vec![EVENT_CONFIRM]], both]);
        let mut seen = 0;
        client
            .follow(&["log", "engine"], |_, _| {
                seen += 1;
                Ok(false)
            })
            .unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_daemon_that_says_nothing_and_a_reader_that_fails_are_told_apart() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let mut client = Client { stream: ours };
        let error = client.request("stats", &Section::default()).unwrap_err();
        assert!(matches!(error, ViciError::Silent), "{error}");

        let (_, octets) = example();
        let event = [&[EVENT, 3], &b"log"[..], &octets].concat();
        let (mut client, _thread) = daemon(vec![vec![vec![EVENT_CONFIRM], event]]);
        let full = || anyhow::anyhow!("no space left");
        let error = client.follow(&["log"], |_, _| Err(full())).unwrap_err();
        assert!(matches!(error, ViciError::HandedOn(_)), "{error}");
    }

    #[test]
    fn a_refusal_carries_the_daemons_reason() {
        let refusal = b"\x01\x03\x07success\x00\x02no\x03\x06errmsg\x00\x04busy".to_vec();
        let (mut client, _thread) = daemon(vec![vec![refusal], vec![vec![COMMAND_UNKNOWN]]]);
        let error = client
            .request("terminate", &Section::default())
            .unwrap_err();
        assert!(
            matches!(&error, ViciError::Refused { message, .. } if message == "busy"),
            "{error}"
        );
        let error = client.request("dance", &Section::default()).unwrap_err();
        assert!(matches!(error, ViciError::Unknown(name) if name == "dance"));
    }

    #[test]
    fn garbage_from_the_daemon_is_an_error() {
        for answer in [
            vec![EVENT, 200, 1],
            vec![EVENT],
            vec![9],
            vec![COMMAND_RESPONSE, 3, 9, 1],
        ] {
            let (mut client, _thread) = daemon(vec![vec![answer.clone()]]);
            assert!(
                client.request("stats", &Section::default()).is_err(),
                "{answer:?}"
            );
        }
    }
}
