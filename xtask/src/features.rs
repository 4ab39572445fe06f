// SPDX-License-Identifier: Apache-2.0 OR MIT
//! That docs/features.md is true of the tests that it names: each is there, and its own words name a row
//! that it is listed for, and each row is named by one of them.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{files, read};

const TABLE: &str = "docs/features.md";

/// A test's file, and the comment in front of it.
type Told = (String, String);

/// The rows that a text names: `S8`, `S59a`, `I01`, and whatever is in `S104 to S107` or `S104-S107`.
fn rows(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut named = BTreeSet::new();
    for (at, word) in words.iter().enumerate() {
        let Some((kind, number, part)) = row(word) else {
            continue;
        };
        named.insert(format!("{kind}{number}{part}"));
        let spelled = |until: &str| ["-", " to "].map(|to| format!("{word}{to}{until}"));
        let behind = words[at + 1..].iter().take(2);
        for until in behind.filter(|until| spelled(until).iter().any(|s| text.contains(s))) {
            if let Some((_, last, _)) = row(until).filter(|(other, ..)| *other == kind) {
                named.extend((number..=last).map(|number| format!("{kind}{number}")));
            }
        }
    }
    named
}

/// A row's kind and number, and what is behind that.
fn row(word: &str) -> Option<(char, u32, &str)> {
    let kind = word.chars().next().filter(|c| "SBIAEDVPR".contains(*c))?;
    let digits = word[1..].trim_end_matches(['a', 'b']);
    let number = digits.parse().ok()?;
    Some((kind, number, &word[1 + digits.len()..]))
}

/// Every test by its name, with its file and the comment in front of it.
fn tests(sources: &BTreeMap<String, String>) -> BTreeMap<String, Vec<Told>> {
    let mut all: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for (file, text) in sources {
        let (mut comment, mut is_test) = (String::new(), false);
        for line in text.lines().map(str::trim) {
            if line.starts_with("//") {
                comment += line;
                comment.push('\n');
            } else if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else {
                let function = line.strip_prefix("async ").unwrap_or(line);
                if let Some(rest) = function.strip_prefix("fn ").filter(|_| is_test) {
                    let name = rest.split('(').next().unwrap_or(rest);
                    let told = (file.clone(), comment.clone());
                    all.entry(name.to_owned()).or_default().push(told);
                }
                comment.clear();
                is_test = false;
            }
        }
    }
    all
}

/// The folder of a package that the table names.
fn folder(package: &str) -> Option<String> {
    Some(match package {
        "ikev1-proto" => "ikev2d/ikev1/".to_owned(),
        "ikev2d-proto" | "ikev2d-crypto" => package.replace('-', "/") + "/",
        "esp-framing" | "esp" | "driver" | "offload-api" | "cli" | "tests" | "ikev2d" => {
            format!("{}/", package.trim_end_matches("-framing"))
        }
        _ => return None,
    })
}

/// Whether a file is the module of that path, or a part of it.
fn is_of(file: &str, module: &str) -> bool {
    let file = format!("/{}/", file.trim_end_matches(".rs"));
    file.contains(&format!("/{}/", module.replace("::", "/")))
}

/// A line of the table, and what is wrong with it.
struct Line<'a> {
    told: String,
    rows: BTreeSet<String>,
    /// Rows that a test, or a file that is listed as a whole, names.
    held: BTreeSet<String>,
    ikev1: bool,
    sources: &'a BTreeMap<String, String>,
    tests: &'a BTreeMap<String, Vec<Told>>,
    wrong: Vec<String>,
}

impl Line<'_> {
    fn test(&mut self, name: &str, package: Option<&str>, modules: &[&str]) {
        let mut found: Vec<&Told> = self.tests.get(name).into_iter().flatten().collect();
        // Where several files have one, the words in front of it say which.
        let package = |file: &str| package.is_some_and(|package| file.starts_with(package));
        let nearest = |file: &str| modules.last().is_some_and(|module| is_of(file, module));
        let any = |file: &str| modules.iter().any(|module| is_of(file, module));
        let version = |file: &str| self.is_of_version(file);
        let tests: [&dyn Fn(&str) -> bool; 4] = [&package, &nearest, &any, &version];
        for test in tests {
            if found.iter().any(|(file, _)| test(file)) {
                found.retain(|(file, _)| test(file));
            }
        }
        let (file, comment) = match found[..] {
            [told] => told,
            [] => return self.wrong(&format!("there is no test `{name}`")),
            _ => return self.wrong(&format!("say which `{name}`: several files have one")),
        };
        let named = &rows(comment) & &self.rows;
        if named.is_empty() {
            let told = format!("`{name}` ({file}) names none of these rows in its doc comment");
            self.wrong(&told);
        }
        self.held.extend(named);
    }

    /// Whether a file can be of the version of IKE that the line is of: all can, but for the other's crate.
    fn is_of_version(&self, file: &str) -> bool {
        file.starts_with("ikev2d/ikev1/") <= self.ikev1
            && file.starts_with("ikev2d/crypto/tests/") <= !self.ikev1
    }

    /// A file that is listed with all that is in it.
    fn file(&mut self, module: &str) {
        for (file, text) in self.sources {
            if is_of(file, module) && self.is_of_version(file) {
                let comments: Vec<&str> = text
                    .lines()
                    .filter(|line| line.trim().starts_with("//"))
                    .collect();
                self.held.extend(rows(&comments.join("\n")));
            }
        }
    }

    fn wrong(&mut self, what: &str) {
        self.wrong.push(format!("{}: {what}", self.told));
    }
}

#[test]
fn tests_name_the_rows_that_they_are_listed_for() {
    let sources: BTreeMap<String, String> = files(".rs")
        .into_iter()
        .map(|file| (file.clone(), read(file)))
        .collect();
    let known = tests(&sources);
    let text = read(TABLE);
    let (mut ikev1, mut lines, mut wrong) = (false, 0, Vec::new());
    for (at, line) in text.lines().enumerate() {
        if let Some(title) = line.strip_prefix("## ") {
            ikev1 = title == "IKEv1";
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        let [first, _, tests] = cells[..] else {
            continue;
        };
        let rows = rows(first);
        if rows.is_empty() || !line.starts_with("| ") {
            continue;
        }
        lines += 1;
        let mut line = Line {
            told: format!("{TABLE}:{} ({})", at + 1, first.trim_start_matches("| ")),
            rows,
            held: BTreeSet::new(),
            ikev1,
            sources: &sources,
            tests: &known,
            wrong: Vec::new(),
        };
        for item in tests.trim_end_matches(" |").split("; ") {
            let (mut package, mut modules) = (None, Vec::new());
            let fuzz = item.contains("fuzz target");
            for (at, part) in item.split('`').enumerate() {
                let is_word = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
                let words = part.split(|c| !is_word(c)).map(|w| w.trim_matches(':'));
                if let Some(folder) = folder(part).filter(|_| at % 2 == 1) {
                    package = Some(folder);
                } else if at % 2 == 1 && !fuzz && !part.contains([' ', '-']) {
                    line.test(part, package.as_deref(), &modules);
                } else {
                    let before = modules.len();
                    modules.extend(words.filter(|word| !word.is_empty()));
                    for module in &modules[before..] {
                        line.file(module);
                    }
                }
            }
        }
        let missing: Vec<&String> = line.rows.difference(&line.held).collect();
        if !missing.is_empty() {
            line.wrong(&format!("no test that is listed names {missing:?}"));
        }
        wrong.extend(line.wrong);
    }
    assert!(lines > 100, "{lines} lines of {TABLE} were understood");
    assert!(
        wrong.is_empty(),
        "write the row into the test's doc comment (`/// S82: what it holds`), or list another test:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn rows_are_read_with_their_ranges() {
    let named = |text| rows(text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(named("S1 to S3, I05: S59a, by P-256"), "I5 S1 S2 S3 S59a");
    assert_eq!(named("S104-S106 and B47"), "B47 S104 S105 S106");
    assert_eq!(named("RSA, SHA256, S and B"), "");
}
