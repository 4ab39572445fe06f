// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A simulated card in a process of its own: the benchmark's program, run once more.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::thread::{CpuSet, sched_setaffinity};
use sim::{CardConfig, SimulatedCard};

/// First argument of the card's process.
const CARD: &str = "card";

/// Keeps this thread, and those that it starts, to one processor.
///
/// # Errors
/// There is no such processor.
pub fn pin(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

/// The card's process; it ends with this value.
pub struct OwnCard {
    child: Child,
    directory: tempfile::TempDir,
}

impl OwnCard {
    /// Starts a card that polls on processor 0; `null_crypto` leaves packets as they are.
    ///
    /// # Errors
    /// The process does not start, or no card in it.
    pub fn start(null_crypto: bool) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(CARD).arg(directory.path().join("card"));
        command.arg(if null_crypto { "null" } else { "real" });
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let card = Self { child, directory };
        match line.trim() {
            "ready" => Ok(card),
            other => Err(io::Error::other(format!("no card: {other:?}"))),
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("card")
    }
}

impl Drop for OwnCard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `main` begins with: in the card's process this serves the card, and ends with it.
///
/// # Panics
/// The card can't be served.
pub fn be_the_card_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [CARD, socket, crypto] = words[..] else {
        return;
    };
    let serve = || -> Result<(), Box<dyn std::error::Error>> {
        pin(0)?;
        let mut config = CardConfig::new(Path::new(socket));
        config.polls = true;
        config.null_crypto = crypto == "null";
        config.queues = 1;
        config.max_sas = 1 << 16;
        let card = SimulatedCard::bind(&config)?;
        println!("ready");
        Ok(card.run()?)
    };
    if let Err(error) = serve() {
        println!("{error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}
