// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade sa add` and `del`: SAs whose keys are entered at both ends instead of negotiated.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use ikev2d::config::KeyTable;

use crate::daemon::{ANSWER, DaemonArguments, json};
use crate::failure::Outcome;
use crate::vici::Section;

/// How long packets inside SAs that are taken out may take.
const DRAIN: Duration = Duration::from_secs(30);

/// A pair of SAs with manual keys, as `[manual.NAME]` in the configuration has it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file of keys, which nobody else may read, has these lines, in hexadecimal:\n  \
        encryption_in = \"…\"\n  integrity_in = \"…\"\n  encryption_out = \"…\"\n  integrity_out = \"…\"\n\
        (AH has no encryption). The other end has in and out the other way round.\n\n\
        Example:\n  esplanade sa add site --local 192.0.2.1 --remote 192.0.2.2 --local-ts 10.1.0.0/24 \\\n    \
        --remote-ts 10.2.0.0/24 --suite aes256-sha256 --spi-in 1001 --spi-out 1002 --keys site.keys"
)]
pub(crate) struct Add {
    /// What they are called.
    name: String,
    /// Our end.
    #[arg(long, value_name = "ADDRESS")]
    local: IpAddr,
    /// The peer's.
    #[arg(long, value_name = "ADDRESS")]
    remote: IpAddr,
    /// Our side's traffic; several times for several.
    #[arg(long, value_name = "SELECTOR", required = true)]
    local_ts: Vec<String>,
    /// The peer's side's traffic.
    #[arg(long, value_name = "SELECTOR", required = true)]
    remote_ts: Vec<String>,
    /// Protocol and algorithms, such as aes256-sha256 (ESP) or ah-sha256 (AH).
    #[arg(long)]
    suite: String,
    /// SPI of what comes in, hexadecimal: the peer's --spi-out.
    #[arg(long, value_name = "SPI")]
    spi_in: String,
    /// SPI of what goes out, hexadecimal.
    #[arg(long, value_name = "SPI")]
    spi_out: String,
    /// File with the keys.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// ESP in UDP.
    #[arg(long)]
    encap: bool,
    /// 32-bit sequence numbers instead of extended ones; both ends alike.
    #[arg(long)]
    no_esn: bool,
    /// Anti-replay window in packets: 0 (off) or 32 to 4096.
    #[arg(long, value_name = "PACKETS", default_value_t = 1024)]
    replay_window: u32,
    /// Send from this sequence number on: for a key that was used and whose record is lost.
    #[arg(long, value_name = "NUMBER")]
    start_at: Option<u64>,
    /// Also take algorithms that are weak, or not for manual keys.
    #[arg(long)]
    legacy: bool,
    /// no, crypto, packet or auto.
    #[arg(long, value_name = "LEVEL", default_value = "auto")]
    hw_offload: String,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// Manual SAs to take out.
#[derive(Debug, clap::Args)]
pub(crate) struct Del {
    /// What they are called.
    name: String,
    #[command(flatten)]
    daemon: DaemonArguments,
}

impl Add {
    pub(crate) fn run(&self) -> Outcome {
        // The daemon checks the rest; whoever can read the file is this end's business.
        let table = KeyTable::read(&self.keys).map_err(|what| anyhow!("{what}"))?;
        let mut keys = Section::default();
        for (name, key) in [
            ("encryption_in", &table.encryption_in),
            ("integrity_in", &table.integrity_in),
            ("encryption_out", &table.encryption_out),
            ("integrity_out", &table.integrity_out),
        ] {
            if !key.0.is_empty() {
                keys.put(name, key.to_hex().as_str());
            }
        }
        let mut section = Section::default();
        section.put("local", self.local);
        section.put("remote", self.remote);
        section.put_list("local_ts", self.local_ts.iter().cloned());
        section.put_list("remote_ts", self.remote_ts.iter().cloned());
        section.put("suite", &self.suite);
        section.put("spi_in", &self.spi_in);
        section.put("spi_out", &self.spi_out);
        let flag = |set| if set { "yes" } else { "no" };
        section.put("encap", flag(self.encap));
        section.put("esn", flag(!self.no_esn));
        section.put("legacy", flag(self.legacy));
        section.put("replay_window", self.replay_window);
        if let Some(first) = self.start_at {
            section.put("start_at", first);
        }
        section.put("hw_offload", &self.hw_offload);
        section.put_section("keys", keys);
        let mut message = Section::default();
        message.put_section(&self.name, section);
        let response = self.daemon.request("load-manual", &message, ANSWER);
        message.wipe();
        let response = response?;
        let first = response.text("first-sequence").unwrap_or("?").to_owned();
        self.daemon.show(&json(&response), || {
            format!(
                "{} is installed, and sends from number {first} on",
                self.name
            )
        })
    }
}

impl Del {
    pub(crate) fn run(&self) -> Outcome {
        let mut message = Section::default();
        message.put("name", &self.name);
        let response = self.daemon.request("unload-manual", &message, DRAIN)?;
        self.daemon
            .show(&json(&response), || format!("{} is gone", self.name))
    }
}
