// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA's name, as its owner calls it.

use std::fmt;

use super::layout::NAME_WORDS;

const OCTETS: usize = NAME_WORDS * size_of::<u64>();

/// What an SA's owner calls it, at most 40 octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SaName([u8; OCTETS]);

impl SaName {
    /// A longer name is cut, at a character's end; so is one with a NUL in it.
    pub fn new(name: &str) -> Self {
        let name = name.split('\0').next().unwrap_or_default();
        let mut octets = [0; OCTETS];
        let ends = name.char_indices().map(|(start, c)| start + c.len_utf8());
        let kept = ends.take_while(|end| *end <= OCTETS).last().unwrap_or(0);
        for (octet, value) in octets.iter_mut().zip(name.bytes().take(kept)) {
            *octet = value;
        }
        Self(octets)
    }

    /// The name; empty where there is none.
    pub fn as_str(&self) -> &str {
        let name = self.0.split(|octet| *octet == 0).next().unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }

    pub(super) fn to_words(self) -> [u64; NAME_WORDS] {
        let mut words = [0; NAME_WORDS];
        for (word, octets) in words.iter_mut().zip(self.0.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*octets);
        }
        words
    }

    /// Any words: what is no name is seen when it is asked for, which look-ups don't.
    pub(super) fn from_words(words: &[u64; NAME_WORDS]) -> Self {
        let mut octets = [0; OCTETS];
        for (chunk, word) in octets.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        Self(octets)
    }
}

impl Default for SaName {
    fn default() -> Self {
        Self([0; OCTETS])
    }
}

impl fmt::Display for SaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for SaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_as_far_as_it_fits() {
        let long = "é".repeat(30);
        for (name, kept) in [
            ("", ""),
            ("gw/net", "gw/net"),
            (&*long, &*"é".repeat(20)),
            (&format!("x{long}"), &format!("x{}", "é".repeat(19))),
            ("a\0b", "a"),
        ] {
            let stored = SaName::new(name);
            assert_eq!(stored.as_str(), kept);
            assert_eq!(SaName::from_words(&stored.to_words()), stored);
        }
    }

    #[test]
    fn words_that_are_no_text_are_no_name() {
        for words in [[0xff, 0, 0, 0, 0], [u64::MAX; NAME_WORDS]] {
            assert_eq!(SaName::from_words(&words).as_str(), "");
        }
    }
}
