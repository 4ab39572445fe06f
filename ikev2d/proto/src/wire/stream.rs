// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE and ESP in a TCP stream (RFC 9329 §3, §4): a prefix, then each message behind its length.

use thiserror::Error;

/// What whoever opens a stream sends first.
pub const PREFIX: [u8; 6] = *b"IKETCP";
/// Octets of the length, which counts itself.
pub const LENGTH_LEN: usize = 2;
/// Precedes IKE.
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// Largest message.
const MOST: usize = u16::MAX as usize - LENGTH_LEN;
/// Largest IKE message.
pub const MOST_IKE: usize = MOST - NON_ESP_MARKER.len();
/// Octets of an SPI and a sequence number: ESP has more.
const ESP_HEADER: usize = 8;

/// What comes is no such stream, or none any more: it is to be closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StreamError {
    /// It begins with something else.
    #[error("the stream does not begin with IKETCP (RFC 9329 §4)")]
    Prefix,
    /// A length that counts less than itself, or nothing more.
    #[error("a message of length {length} (RFC 9329 §3.1)")]
    Length {
        /// What it says.
        length: u16,
    },
}

/// A message of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'stream> {
    /// IKE, without the marker.
    Ike(&'stream [u8]),
    /// ESP.
    Esp(&'stream [u8]),
    /// A NAT keepalive, or something too short for the others: passed over (§6.8).
    Other,
}

/// Takes messages off the front of what has come.
#[derive(Clone, Copy, Debug)]
pub struct Splitter {
    prefixed: bool,
}

impl Splitter {
    /// Of a stream that we have opened, which begins without prefix, or of one that the peer has.
    pub fn new(opened_by_us: bool) -> Self {
        Self {
            prefixed: opened_by_us,
        }
    }

    /// Whether the prefix has come, or none is to.
    pub fn is_prefixed(&self) -> bool {
        self.prefixed
    }

    /// The next message, if it is there whole, and how many octets it takes.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn next<'stream>(
        &mut self,
        octets: &'stream [u8],
    ) -> Result<Option<(Message<'stream>, usize)>, StreamError> {
        let mut skip = 0;
        if !self.prefixed {
            let come = octets.len().min(PREFIX.len());
            if octets.get(..come) != PREFIX.get(..come) {
                return Err(StreamError::Prefix);
            }
            if come < PREFIX.len() {
                return Ok(None);
            }
            skip = PREFIX.len();
        }
        let rest = octets.get(skip..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = u16::from_be_bytes(*length);
        if usize::from(length) <= LENGTH_LEN {
            return Err(StreamError::Length { length });
        }
        let Some(message) = rest.get(..usize::from(length) - LENGTH_LEN) else {
            return Ok(None);
        };
        self.prefixed = true;
        let message = match message.strip_prefix(&NON_ESP_MARKER) {
            Some(ike) => Message::Ike(ike),
            None if message.len() > ESP_HEADER => Message::Esp(message),
            None => Message::Other,
        };
        Ok(Some((message, skip + usize::from(length))))
    }
}

/// What goes in front of an IKE message; nothing where it is too long for a stream.
pub fn ike_header(len: usize) -> Option<[u8; LENGTH_LEN + NON_ESP_MARKER.len()]> {
    let [a, b] = esp_header(len.checked_add(NON_ESP_MARKER.len())?)?;
    Some([a, b, 0, 0, 0, 0])
}

/// What goes in front of an ESP packet; nothing where it is too long for a stream.
pub fn esp_header(len: usize) -> Option<[u8; LENGTH_LEN]> {
    let length = u16::try_from(len.checked_add(LENGTH_LEN)?).ok()?;
    Some(length.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages there are.
    fn count(mut octets: &[u8], opened_by_us: bool) -> usize {
        let (mut splitter, mut count) = (Splitter::new(opened_by_us), 0);
        while let Some((_, taken)) = splitter.next(octets).unwrap() {
            (octets, count) = (&octets[taken..], count + 1);
        }
        count
    }

    /// B19, RFC 9329 §4 and appendix B: IKE behind a marker of zeros, ESP as it is, each behind a length
    /// that counts itself.
    #[test]
    fn messages_are_told_apart_however_they_come() {
        let stream = [
            &b"IKETCP"[..],
            &[0, 9, 0, 0, 0, 0, 1, 2, 3],
            &[0, 11, 9, 9, 9, 9, 0, 0, 0, 1, 7],
            &[0, 3, 0xff],
            &[0, 6, 0, 0, 0, 0],
        ]
        .concat();
        let mut splitter = Splitter::new(false);
        for len in 0..6 + 9 {
            assert_eq!(splitter.next(&stream[..len]), Ok(None), "{len}");
        }
        let expected = [
            (Message::Ike(&[1, 2, 3][..]), 15),
            (Message::Esp(&[9, 9, 9, 9, 0, 0, 0, 1, 7][..]), 11),
            (Message::Other, 3),
            (Message::Ike(&[][..]), 6),
        ];
        let mut rest = &stream[..];
        for (message, len) in expected {
            assert_eq!(splitter.next(rest), Ok(Some((message, len))));
            rest = &rest[len..];
        }
        assert_eq!(splitter.next(rest), Ok(None));
        assert_eq!(count(&stream, false), 4);
        assert_eq!(count(&stream[6..], true), 4);
    }

    /// B19, §3.1: what is no stream of IKE is noticed with its first wrong octet.
    #[test]
    fn other_streams_and_lengths_that_lie_are_refused() {
        fn other(octets: &[u8]) -> Result<Option<(Message<'_>, usize)>, StreamError> {
            Splitter::new(false).next(octets)
        }
        assert_eq!(other(b"I"), Ok(None));
        for octets in [&b"GET / HTTP/1.1"[..], b"G", b"IKETCQ", &[0, 9]] {
            assert_eq!(other(octets), Err(StreamError::Prefix));
        }
        for length in 0..=2u16 {
            let octets = [&PREFIX[..], &length.to_be_bytes(), &[0; 9]].concat();
            assert_eq!(other(&octets), Err(StreamError::Length { length }));
        }
        // The largest that there is.
        let octets = [&PREFIX[..], &[0xff; 2], &[1; 65_533]].concat();
        let whole = other(&octets).unwrap().unwrap();
        assert_eq!(whole.1, 6 + 65_535);
        assert_eq!(esp_header(65_533), Some([0xff, 0xff]));
        assert_eq!(esp_header(65_534), None);
        assert_eq!(ike_header(MOST_IKE), Some([0xff, 0xff, 0, 0, 0, 0]));
        assert_eq!(ike_header(MOST_IKE + 1), None);
    }
}
