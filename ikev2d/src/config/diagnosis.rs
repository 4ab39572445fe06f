// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is wrong with a configuration, and where. Its lines are never quoted: they hold secrets.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// A place in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line and column, from 1, where they are known.
    pub position: Option<(usize, usize)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.position {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

impl Place {
    fn at(path: &Path, text: &str, offset: Option<usize>) -> Self {
        let before = offset.and_then(|offset| text.get(..offset));
        let position = before.map(|before| {
            let line = before.matches('\n').count() + 1;
            let start = before.rfind('\n').map_or(0, |at| at + 1);
            let column = before.get(start..).map_or(0, |part| part.chars().count());
            (line, column + 1)
        });
        Self {
            path: path.to_owned(),
            position,
        }
    }

    /// Where a setting is, by its path such as `connections.gw.version`; names may hold dots.
    pub(super) fn of_key(path: &Path, text: &str, key: &str) -> Self {
        let offset = DeTable::parse(text)
            .ok()
            .and_then(|table| offset_of(table.get_ref(), key));
        Self::at(path, text, offset)
    }
}

/// The setting itself, or the nearest table around it that is there.
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    table.iter().find_map(|(name, value)| {
        let rest = key.strip_prefix(name.get_ref().as_ref())?;
        let here = name.span().start;
        match (rest.strip_prefix('.'), value.get_ref()) {
            _ if rest.is_empty() => Some(here),
            (Some(rest), DeValue::Table(inner)) => Some(offset_of(inner, rest).unwrap_or(here)),
            _ => None,
        }
    })
}

/// The parser's error: where, and what, without what was found if that may be a secret.
pub(super) fn of_parser(path: &Path, text: &str, error: &toml::de::Error) -> (Place, String) {
    let offset = error.span().map(|span| span.start);
    let message = error.message().trim().replace('\n', ", ");
    let shows_value = message.starts_with("invalid type") || message.starts_with("invalid value");
    let what = if shows_value && offset.is_some_and(|at| is_secret(text, at)) {
        "expected a text in quotes (what was found is not shown)".to_owned()
    } else {
        match nearest(&message) {
            Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
            None => message,
        }
    };
    (Place::at(path, text, offset), what)
}

/// Whether a place is a secret's: its line says so, or the table that it is in.
fn is_secret(text: &str, offset: usize) -> bool {
    let (before, after) = text.split_at_checked(offset).unwrap_or((text, ""));
    let line_end = after.lines().next().unwrap_or_default();
    let line_start = before.rsplit('\n').next().unwrap_or_default();
    let header = before.lines().rev().map(str::trim_start);
    let header = header.into_iter().find(|line| line.starts_with('['));
    line_start.contains("secret")
        || line_end.contains("secret")
        || header.is_some_and(|header| header.contains("secret"))
}

/// The known word that an unknown one is likely meant to be.
fn nearest(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words.next()?;
    let (distance, nearest) = words
        .map(|word| (strsim::damerau_levenshtein(unknown, word), word))
        .min()?;
    (distance <= (unknown.len() / 3).max(2)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    /// Each: a configuration, and what its error must begin with and contain.
    #[test]
    fn an_error_has_its_place_and_says_what_was_meant() {
        let ends = "local = { id = \"a\" }\nremote = { id = \"b\" }\n";
        for (text, place, expected) in [
            (
                format!("[connections.gw]\n{ends}encapp = true\n"),
                "4:1",
                "did you mean `encap`?",
            ),
            ("[deamon]\n".to_owned(), "1:2", "did you mean `daemon`?"),
            (
                "[daemon]\ntun = { name = \"x\", mut = 9 }\n".to_owned(),
                "2:21",
                "did you mean `mtu`?",
            ),
            (
                format!("[connections.gw]\n{ends}\n  version = 3\n"),
                "5:3",
                "connections.gw.version",
            ),
            (
                format!("[connections.\"a.b\"]\n{ends}version = 3\n"),
                "4:1",
                "connections.a.b.version",
            ),
            (
                format!(
                    "[connections.gw]\n{ends}[connections.gw.children.net]\nreplay_window = 7\n"
                ),
                "5:1",
                "children.net.replay_window: 7: expected 0 (off) or 32 to 4096",
            ),
            (
                "[connections.gw]\nlocal = { auth = \"rsa\" }\nremote = {}\n".to_owned(),
                "2:11",
                "local.auth",
            ),
            ("[daemon]\nport = \"x\"\n".to_owned(), "2:8", "expected u16"),
            ("[daemon]\n\nport = \n".to_owned(), "3:8", ""),
            (
                "[secrets.ike-1]\nsecret = \"short\"\n".to_owned(),
                "2:1",
                "at least 8",
            ),
        ] {
            let error = text.parse::<Config>().unwrap_err().to_string();
            let place = format!("configuration:{place}: ");
            assert!(error.starts_with(&place), "{place} {error}");
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_secret() {
        for text in [
            "[secrets.ike-1]\nsecret = \"hunter2hunter2\n",
            "[secrets.ike-1]\nsecret = 20261123\n",
            "[secrets.ike-1]\nsecret = [\"hunter2hunter2\"]\n",
            "[secrets]\nike-1 = \"hunter2hunter2\"\n",
            "[secrets]\nike-1 = { secret = 20261123 }\n",
            "secrets = { ike-1 = 20261123 }\n",
            "[secrets.ike-1]\nsecret = \"hunter2\"\n",
            "[secrets.ike-1]\nsecret = hunter2hunter2\n",
            "[secrets.ike-1]\nsecret = \"hunter2hunter2\"\nids = 20261123\n",
        ] {
            let error = text.parse::<Config>().unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(
                    !shown.contains("hunter2") && !shown.contains("20261123"),
                    "{text}: {shown}"
                );
            }
        }
    }
}
