// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device reset`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Instant;

use anyhow::{Context, anyhow};
use driver::DeviceAddress;
use serde_json::json;

use super::{carried_by_daemon, open_card, parse_address};
use crate::daemon::{ANSWER, DaemonArguments};
use crate::failure::{Failure, Outcome};
use crate::vici::Section;

/// Reset a card: its queues and SAs go, its keys are zeroised.
///
/// The daemon resets a card that it uses itself: its SAs go on in software until the card is back, or, where
/// the card moves the packets itself (dataplane = "inline"), wait for it. With SAs installed you are asked
/// first, or have to say --yes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The card: pci:DDDD:BB:DD.F or vfio-user:PATH
    #[arg(value_parser = parse_address)]
    address: DeviceAddress,
    /// Do it although SAs are installed.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let address = &arguments.address;
    let started = Instant::now();
    let carried = carried_by_daemon(&arguments.daemon, address);
    let sas = match carried {
        Some(sas) => {
            consent(arguments, sas)?;
            let mut message = Section::default();
            message.put("name", address);
            arguments.daemon.request("reset-device", &message, ANSWER)?;
            sas
        }
        None => {
            // Nobody else has it, and opening has emptied it.
            let card = open_card(address)?.accelerator();
            card.reset()?;
            let sas = card.counters().sas;
            if sas != 0 {
                return Err(anyhow!("{address} still has {sas} SAs after its reset").into());
            }
            0
        }
    };
    let millis = started.elapsed().as_millis() as u64;
    let json = json!({
        "address": address.to_string(),
        "by-daemon": carried.is_some(),
        "sas": sas,
        "milliseconds": millis,
    });
    arguments.daemon.show(&json, || match carried {
        Some(sas) => {
            format!(
                "{address} is reset by the daemon; its {sas} SAs are installed anew when it is back"
            )
        }
        None => format!("{address} is reset, in {millis} ms"),
    })
}

/// Whether SAs may be disturbed.
fn consent(arguments: &Arguments, sas: u64) -> Result<(), Failure> {
    if sas == 0 || arguments.yes {
        return Ok(());
    }
    let address = &arguments.address;
    let refused = || {
        Failure::refused(anyhow!(
            "{address} carries {sas} SAs: say --yes to reset it all the same"
        ))
    };
    if !io::stdin().is_terminal() {
        return Err(refused());
    }
    write!(
        io::stderr(),
        "{address} carries {sas} SAs. Reset it? [y/N] "
    )
    .context("standard error")?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("standard input")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(refused()),
    }
}
