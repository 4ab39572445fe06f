// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade top`: rates of cards, queue pairs and SAs.

mod sample;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use driver::DeviceAddress;
use driver::ipa::IpaCard;

use crate::daemon::DaemonArguments;
use crate::failure::{Failure, Outcome};
use crate::output::print;
use crate::verb::device;
use sample::{Rates, Sample};

/// Watch the rates of engines, queue pairs and SAs, as the daemon or one card tells them.
///
/// Refreshes until interrupted; when not on a terminal, or with -o json, prints one sample after another.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  esplanade top --once -o json | jq .sas")]
pub(crate) struct Arguments {
    /// Seconds between samples.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// One sample, then end.
    #[arg(long)]
    once: bool,
    /// Only this card, without the daemon unless that has it: pci:DDDD:BB:DD.F or vfio-user:PATH
    #[arg(long, value_name = "ADDRESS", value_parser = device::parse_address)]
    device: Option<DeviceAddress>,
    #[command(flatten)]
    daemon: DaemonArguments,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("expected 0.1 to 3600 seconds".to_owned())
    }
}

/// Where samples come from.
enum Source<'a> {
    /// Everything that the daemon has.
    Daemon(&'a DaemonArguments),
    /// The daemon's card.
    DaemonsCard(&'a DaemonArguments, &'a DeviceAddress),
    /// A card of our own.
    Card(Arc<IpaCard>),
}

impl Source<'_> {
    fn sample(&self) -> Result<Sample, Failure> {
        match self {
            Self::Daemon(daemon) => Sample::of_daemon(daemon),
            Self::DaemonsCard(daemon, address) => {
                Ok(Sample::of_card(&device::through_daemon(daemon, address)?))
            }
            Self::Card(card) => Ok(Sample::of_card(&card.inspect()?)),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let daemon = &arguments.daemon;
    let source = match &arguments.device {
        None => Source::Daemon(daemon),
        Some(address) if device::carried_by_daemon(daemon, address).is_some() => {
            Source::DaemonsCard(daemon, address)
        }
        Some(address) => Source::Card(device::open(address)?),
    };
    let redraw = std::io::stdout().is_terminal() && !daemon.is_json() && !arguments.once;
    let mut before = source.sample()?;
    loop {
        std::thread::sleep(Duration::from_secs_f64(arguments.interval));
        let after = source.sample()?;
        let rates = Rates::between(&before, &after);
        let text = if daemon.is_json() {
            rates.json().to_string()
        } else {
            rates.table()
        };
        let read_on = if redraw {
            // Home, and nothing of what was there.
            print(&format!("\x1b[H\x1b[2J{text}"))?
        } else {
            print(&text)?
        };
        if arguments.once || !read_on {
            return Ok(ExitCode::SUCCESS);
        }
        before = after;
    }
}
