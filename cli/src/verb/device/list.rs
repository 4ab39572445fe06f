// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device list`.

use driver::DeviceAddress;
use driver::pci::{Host, PciError, PciFunction};
use serde_json::{Value as Json, json};

use super::{or_dash, pci_failure, with_address};
use crate::daemon::{ANSWER, DaemonArguments, text};
use crate::failure::Outcome;
use crate::output::table;
use crate::vici::Section;

/// List the cards: those on the PCI bus, and those that the daemon uses.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A simulated card that the daemon does not use is nowhere to be found: `esplanade device show vfio-user:PATH`."
)]
pub(super) struct Arguments {
    /// All PCI functions, not just the cards that this project knows.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments, host: &Host) -> Outcome {
    let functions = match host.functions() {
        Ok(functions) => functions,
        // No bus, no cards.
        Err(PciError::NoBus { .. }) => Vec::new(),
        Err(error) => return Err(pci_failure(error)),
    };
    let shown: Vec<_> = functions
        .into_iter()
        .filter(|function| arguments.all || function.product.is_some())
        .collect();
    // Without a daemon nobody uses any.
    let none = Section::default();
    let daemon = arguments.daemon.request("devices", &none, ANSWER);
    let daemon = daemon.unwrap_or_default();
    let used: Vec<_> = daemon
        .sections()
        .filter(|(name, _)| is_card(name))
        .collect();

    let mut json: Vec<Json> = shown.iter().map(function_json).collect();
    let mut rows: Vec<_> = shown.iter().map(row).collect();
    for (name, card) in used {
        let known = shown
            .iter()
            .position(|f| format!("pci:{}", f.address) == name);
        if let Some(object) = known.and_then(|at| json.get_mut(at)) {
            object["daemon"] = crate::daemon::json(card);
        } else {
            json.push(json!({
                "address": name,
                "product": text(card, "product"),
                "driven": true,
                "driver": text(card, "driver"),
                "daemon": crate::daemon::json(card),
            }));
        }
        let used = format!(
            "daemon, {} SAs, {}",
            text(card, "sas"),
            text(card, "health")
        );
        match known.and_then(|at| rows.get_mut(at)?.last_mut()) {
            Some(cell) => *cell = used,
            None => {
                let mut row = vec![name.to_owned(), "-".to_owned(), text(card, "product")];
                row.extend(["yes".to_owned(), text(card, "driver")]);
                row.resize(HEADERS.len() - 1, "-".to_owned());
                row.push(used);
                rows.push(row);
            }
        }
    }
    let none = "no cards on the PCI bus (`esplanade device list --all` shows everything on it)";
    arguments
        .daemon
        .show(&json.into(), || table(&HEADERS, rows, none))
}

const HEADERS: [&str; 9] = [
    "ADDRESS", "ID", "PRODUCT", "DRIVEN", "DRIVER", "GROUP", "NUMA", "VFS", "IN USE",
];

/// Whether one of the daemon's engines is a card.
fn is_card(name: &str) -> bool {
    name.parse::<DeviceAddress>().is_ok()
}

fn function_json(function: &PciFunction) -> Json {
    with_address(&function.address, json!(function))
}

fn row(function: &PciFunction) -> Vec<String> {
    let driven = if function.driven { "yes" } else { "no" };
    let used = function.vfio_users.first();
    vec![
        format!("pci:{}", function.address),
        format!("{:04x}:{:04x}", function.vendor, function.device),
        or_dash(function.product),
        driven.to_owned(),
        or_dash(function.driver.as_ref()),
        or_dash(function.iommu_group),
        or_dash(function.numa_node),
        or_dash(
            function
                .virtual_functions
                .map(|(now, of)| format!("{now}/{of}")),
        ),
        or_dash(used.map(|pid| format!("process {pid}"))),
    ]
}
