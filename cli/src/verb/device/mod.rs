// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device`: cards on this machine, without the daemon.

mod bind;
mod doctor;
mod inspect;
mod list;
mod reset;
mod selftest;
mod show;
mod unbind;

use std::path::PathBuf;
use std::sync::Arc;

use driver::ipa::IpaCard;
use driver::pci::{Host, PciError};
use driver::{Card, DeviceAddress};
use offload_api::error::DeviceError;
use serde_json::Value as Json;

use crate::daemon::{ANSWER, DaemonArguments};
use crate::failure::{Failure, Outcome};
use crate::vici::Section;

pub(crate) use inspect::through_daemon;

/// Find cards, hand them to user space and back, look into them, test and reset them.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "A card's address is pci:DDDD:BB:DD.F (the prefix may be left out) or vfio-user:PATH.\n\
                  `esplanade devices` asks the daemon about the engines that it uses."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// Root of the trees sys, dev, proc and etc.
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/",
        hide = true,
        global = true
    )]
    root: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    List(list::Arguments),
    Show(show::Arguments),
    Bind(bind::Arguments),
    Unbind(unbind::Arguments),
    Inspect(inspect::Arguments),
    Selftest(selftest::Arguments),
    Reset(reset::Arguments),
    Doctor(doctor::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let host = Host::below(&arguments.root);
    match &arguments.verb {
        Verb::List(arguments) => list::run(arguments, &host),
        Verb::Show(arguments) => show::run(arguments, &host),
        Verb::Bind(arguments) => bind::run(arguments, &host),
        Verb::Unbind(arguments) => unbind::run(arguments, &host),
        Verb::Inspect(arguments) => inspect::run(arguments),
        Verb::Selftest(arguments) => selftest::run(arguments),
        Verb::Reset(arguments) => reset::run(arguments),
        Verb::Doctor(arguments) => doctor::run(arguments, &host),
    }
}

/// A card's address; `pci:` may be left out.
pub(crate) fn parse_address(text: &str) -> Result<DeviceAddress, String> {
    let whole = text.parse::<DeviceAddress>();
    whole.or_else(|error| {
        let function = format!("pci:{text}").parse();
        function.map_err(|_| error.to_string())
    })
}

/// The address of a PCI function.
fn parse_function(text: &str) -> Result<String, String> {
    match parse_address(text)? {
        DeviceAddress::Pci(function) => Ok(function),
        DeviceAddress::User(_) => {
            Err("a simulated card needs no kernel driver: there is nothing to bind".to_owned())
        }
        DeviceAddress::Several(_) => Err("one function at a time".to_owned()),
    }
}

/// The exit status that a failure on the PCI bus stands for.
fn pci_failure(error: PciError) -> Failure {
    match error {
        PciError::NoBus { .. } | PciError::NoFunction { .. } => Failure::no_device(error),
        PciError::Refused { .. } => Failure::refused(error),
        error => error.into(),
    }
}

/// Opens a device that nobody else has.
pub(crate) fn open_card(address: &DeviceAddress) -> Result<Card, Failure> {
    driver::open_card(address).map_err(|error| match error {
        DeviceError::Gone { .. } => Failure::no_device(error),
        DeviceError::Host { .. } => Failure::refused(error),
        error => error.into(),
    })
}

/// Opens an ipa card that nobody else has.
pub(crate) fn open(address: &DeviceAddress) -> Result<Arc<IpaCard>, Failure> {
    match open_card(address)? {
        Card::Ipa(card) => Ok(card),
        Card::Qat(_) => Err(not_ipa(address)),
    }
}

fn not_ipa(address: &DeviceAddress) -> Failure {
    Failure::usage(anyhow::anyhow!(
        "{address} is a QAT: it has no queues and SAs of its own to look into"
    ))
}

/// How many SAs a daemon's card carries; nothing where no daemon answers, or it has another card.
pub(crate) fn carried_by_daemon(daemon: &DaemonArguments, address: &DeviceAddress) -> Option<u64> {
    let devices = daemon
        .request("devices", &Section::default(), ANSWER)
        .ok()?;
    let card = devices.section(&address.to_string())?;
    Some(card.number("sas").unwrap_or(0))
}

/// What the kernel tells, under the address that the verbs take.
fn with_address(function: &str, mut json: Json) -> Json {
    json["address"] = format!("pci:{function}").into();
    json
}

/// A value, or a dash.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_come_without_its_prefix() {
        let function = DeviceAddress::Pci("0000:01:00.0".to_owned());
        for text in ["pci:0000:01:00.0", "0000:01:00.0"] {
            assert_eq!(parse_address(text), Ok(function.clone()));
        }
        assert!(parse_address("vfio-user:/tmp/card").is_ok());
        assert!(parse_address("01:00.0").unwrap_err().contains("pci:DDDD"));
        assert!(parse_function("vfio-user:/tmp/card").is_err());
    }
}
