// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[secrets.NAME]`: keys, and what makes a preshared one too weak.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

/// Fewest octets of a preshared key.
const PSK_LEAST: usize = 8;
/// Fewest that raise no warning.
const PSK_RECOMMENDED: usize = 12;
/// Words that no preshared key may be, one a line, in lower case.
const WORDS: &str = include_str!("words.txt");

/// A preshared key, or a private key's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSection {
    /// Whose it is; nobody named is everybody's.
    #[serde(default)]
    pub ids: Vec<String>,
    /// The preshared key, or what opens the file: text, `0x…` or `0s…` is not decoded here.
    pub secret: Option<Zeroizing<String>>,
    /// File with a private key in PEM or DER.
    pub file: Option<String>,
}

impl fmt::Debug for SecretSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretSection({:?})", self.ids)
    }
}

/// Refuses a preshared key that is too short, or a word of a dictionary. What is only less than good
/// comes back as warnings. None of them tells the key.
pub(crate) fn check_secret(secret: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(secret).ok();
    let len = text.map_or(secret.len(), |text| text.chars().count());
    if len < PSK_LEAST {
        return Err(format!(
            "{len} characters: a preshared key has at least {PSK_LEAST}, better {PSK_RECOMMENDED}"
        ));
    }
    let mut warnings = Vec::new();
    if len < PSK_RECOMMENDED {
        warnings.push(format!(
            "{len} characters: {PSK_RECOMMENDED} or more are recommended for a preshared key"
        ));
    }
    // Octets that are no text are nobody's word.
    let Some(text) = text else {
        return Ok(warnings);
    };
    if is_word(text) {
        return Err(
            "a dictionary's word, or one with digits and signs around it: a preshared key must be \
             unguessable (try `openssl rand -base64 24`)"
                .to_owned(),
        );
    }
    let mut first = text.chars();
    let first = first.next();
    if text.chars().all(|c| Some(c) == first) {
        return Err("one character again and again is no preshared key".to_owned());
    }
    let missing: Vec<&str> = [
        ("small letters", text.chars().any(char::is_lowercase)),
        ("capital letters", text.chars().any(char::is_uppercase)),
        ("digits", text.chars().any(|c| c.is_ascii_digit())),
        ("other signs", text.chars().any(|c| !c.is_alphanumeric())),
    ]
    .into_iter()
    .filter_map(|(class, there)| (!there).then_some(class))
    .collect();
    if !missing.is_empty() {
        warnings.push(format!(
            "no {}: a preshared key should mix letters of both cases, digits and other signs",
            missing.join(", no ")
        ));
    }
    Ok(warnings)
}

/// Whether a text is a word, whatever its case and the digits and signs around it, or one twice.
fn is_word(text: &str) -> bool {
    let bare = text
        .trim_matches(|c: char| !c.is_alphabetic())
        .to_lowercase();
    let listed = |word: &str| WORDS.lines().any(|line| line == word);
    let half = bare.get(..bare.len() / 2).unwrap_or_default();
    listed(&bare)
        || (bare.len().is_multiple_of(2) && bare.strip_prefix(half) == Some(half) && listed(half))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S98, CVE-2018-5389: at least 8 characters, 12 recommended: who plays the responder of main mode gets a hash
    /// to guess at offline, against which the key's strength alone helps.
    #[test]
    fn a_short_key_is_refused_and_a_middling_one_warned_of() {
        for short in ["", "a", "aB3$xyz", "\u{e9}\u{e8}\u{e0}\u{fc}\u{f6}\u{e4}1"] {
            assert!(
                check_secret(short.as_bytes())
                    .unwrap_err()
                    .contains("at least 8")
            );
        }
        let warned = check_secret(b"aB3$xyzK").unwrap();
        assert_eq!(warned.len(), 1);
        assert!(warned[0].contains("12 or more"), "{warned:?}");
        assert!(check_secret(b"aB3$xyzKq9!m").unwrap().is_empty());
        assert!(check_secret(&[0xff; 7]).is_err());
    }

    /// S99: letters of both cases, digits and other signs.
    #[test]
    fn a_key_of_few_classes_is_warned_of() {
        for (key, missing) in [
            (
                "qjxkvbzmwqpf",
                "no capital letters, no digits, no other signs",
            ),
            ("QJXKVBZMWQPF1", "no small letters, no other signs"),
            ("qJxKvBzMwQpF$", "no digits"),
            (
                "918273645546372",
                "no small letters, no capital letters, no other signs",
            ),
        ] {
            let warned = check_secret(key.as_bytes()).unwrap().join("; ");
            assert!(warned.contains(missing), "{key}: {warned}");
        }
    }

    /// S100: no dictionary word, in any case, with digits around it or twice.
    #[test]
    fn a_dictionarys_word_is_refused() {
        for word in [
            "password",
            "PassWord",
            "password123!",
            "1234dragon1234",
            "administrator",
            "summersummer",
            "2024-Security-2025",
        ] {
            let error = check_secret(word.as_bytes()).unwrap_err();
            assert!(error.contains("dictionary"), "{word}: {error}");
            assert!(!error.contains(word), "the key is told: {error}");
        }
        assert!(check_secret(b"aaaaaaaaaaaaaaaa").is_err());
        assert!(check_secret(b"Interop-PSK-0123456789").unwrap().is_empty());
        assert!(check_secret(b"correct horse battery").is_ok());
    }

    #[test]
    fn the_dictionary_is_clean() {
        let words: Vec<&str> = WORDS.lines().collect();
        assert!(words.len() > 400 && words.is_sorted());
        let small = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
        assert!(words.iter().all(small));
    }
}
