// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A conversation with a program of this folder, for tests of the cores.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// What it says of a child SA: SPI and keys of what comes in at the responder, and of what goes out.
pub(crate) struct Told {
    pub(crate) inbound: (u32, String),
    pub(crate) outbound: (u32, String),
}

/// Starts it with the first message of an initiator of ours; its datagrams get what `answer` makes of them, if
/// they want an answer, and what it tells is given to `told`. Whether it was there: it may be missing where nobody has
/// promised it.
pub(crate) fn talk<Side>(
    script: &str,
    first: &[u8],
    side: &mut Side,
    answer: impl Fn(&mut Side, &[u8]) -> Option<Vec<u8>>,
    told: impl Fn(&Side, &Told),
) -> bool {
    let promised = std::env::var("ESPLANADE_PYTHON");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/scapy");
    let mut program = Command::new(promised.as_deref().unwrap_or("python3"));
    program.arg(path.join(script));
    program.env("PYTHONDONTWRITEBYTECODE", "1");
    let started = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        assert!(promised.is_err(), "{promised:?} can't be started");
        eprintln!("skipped: no Python is installed");
        return false;
    };
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // It may end before it reads: its status says why.
    let _ = writeln!(input, "{}", hex::encode(first));
    let (mut children, mut done) = (0, false);
    for line in BufReader::new(output).lines().map(Result::unwrap) {
        if let Ok(datagram) = hex::decode(line.trim_start_matches('-')) {
            let reply = answer(side, &datagram);
            assert_eq!(reply.is_none(), line.starts_with('-'), "{reply:?}: {line}");
            if let Some(reply) = reply {
                let _ = writeln!(input, "{}", hex::encode(reply));
            }
        } else if line.starts_with('{') {
            let sa = |spi, keys| {
                let number = u32::from_str_radix(text(&line, spi), 16).unwrap();
                (number, text(&line, keys).to_owned())
            };
            let child = Told {
                inbound: sa("spi_in", "in"),
                outbound: sa("spi_out", "out"),
            };
            told(side, &child);
            children += 1;
            let _ = writeln!(input);
        } else {
            done = line == "done";
            eprintln!("{script}: {line}");
        }
    }
    let status = child.wait().unwrap();
    if status.code() == Some(77) {
        assert!(promised.is_err(), "{promised:?} has no scapy");
        eprintln!("skipped: scapy is not installed (ESPLANADE_PYTHON names a Python that has it)");
        return false;
    }
    assert!(status.success() && done && children == 1, "{status}");
    true
}

/// A text by its name, of an object that has texts alone.
fn text<'o>(object: &'o str, name: &str) -> &'o str {
    let mut words = object.split('"').skip_while(|word| *word != name);
    words.nth(2).unwrap()
}
