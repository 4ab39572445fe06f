// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade esp seal` and `esplanade esp open`: ESP offline, packet by packet.

mod capture;
mod lines;
mod sa_file;
mod wireshark;
mod worker;

use std::io::{self, BufReader, BufWriter, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use offload_api::sa::{Direction, Mode};

use crate::engine::Engine;
use crate::failure::{Failure, Outcome};
use sa_file::Untold;
use worker::Worker;

/// Seal packets as ESP, or open them, from standard input to standard output.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Seal packets.
    ///
    /// JSON lines such as {"packet": "hex"}, each answered by {"ok": true, "packet": "hex", "seq": n}
    /// or {"ok": false, "error": "bad-length"}; or a capture (pcap, pcapng), answered by a capture. A
    /// line may bring its own "seq" and "iv"; an SA's lines do so all or not at all. Several SAs are
    /// told apart by "spi".
    #[command(after_help = SEAL_EXAMPLE)]
    Seal(Options),
    /// Open packets.
    ///
    /// As for seal; the SA is found by its SPI in the packet. What `seal` prints can be piped in. Of a
    /// capture, packets without an SA are passed over, and so are those that were not captured whole.
    #[command(after_help = OPEN_EXAMPLE)]
    Open(Options),
}

const SEAL_EXAMPLE: &str = "Exit status 1 when a packet was refused.

Example:
  echo '{\"packet\": \"4500001c00000000401166cf0a0000010a00000200350035000866b2\"}' |
    esplanade esp seal --sa sa.toml";

const OPEN_EXAMPLE: &str = "Exit status 1 when a packet was refused.

Example:
  esplanade esp open --sa keys/esp_sa --esn --backend sim < esp.pcapng > plain.pcap";

#[derive(Debug, clap::Args)]
struct Options {
    /// SAs: TOML or JSON, or lines of Wireshark's esp_sa table.
    #[arg(long, value_name = "FILE")]
    sa: PathBuf,
    /// What does the work.
    #[arg(long, value_enum, default_value_t = Backend::Software)]
    backend: Backend,
    /// Mode of SAs from an esp_sa table, which does not tell it.
    #[arg(long, value_enum, default_value_t = ModeName::Tunnel)]
    mode: ModeName,
    /// Extended sequence numbers, for SAs from an esp_sa table that does not tell.
    #[arg(long)]
    esn: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    /// The software engine.
    Software,
    /// A simulated card of this process, through its driver.
    Sim,
}

#[derive(Clone, Copy, Debug, serde::Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum ModeName {
    /// RFC 4303's tunnel mode.
    Tunnel,
    /// RFC 4303's transport mode.
    Transport,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Tunnel => Self::Tunnel,
            ModeName::Transport => Self::Transport,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let (direction, options) = match &arguments.what {
        What::Seal(options) => (Direction::Outbound, options),
        What::Open(options) => (Direction::Inbound, options),
    };
    let untold = Untold {
        mode: options.mode.into(),
        esn: options.esn,
    };
    let sas = sa_file::read(&options.sa, untold)?;
    let engine = match options.backend {
        Backend::Software => Engine::software(),
        Backend::Sim => Engine::simulated(),
    };
    let mut worker = Worker::new(engine.map_err(Failure::no_device)?, sas, direction);
    // Four octets tell a capture from text.
    let mut magic = Vec::new();
    io::stdin().lock().take(4).read_to_end(&mut magic)?;
    let kind = capture::Kind::of(&magic);
    let input = BufReader::new(io::Cursor::new(magic).chain(io::stdin().lock()));
    let output = BufWriter::new(io::stdout().lock());
    let result = match kind {
        Some(kind) => capture::run(&mut worker, kind, input, output),
        None => lines::run(&mut worker, input, output),
    };
    match result {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error.into()),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
