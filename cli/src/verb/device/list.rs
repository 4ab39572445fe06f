// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device list`.

use std::process::ExitCode;

use driver::pci::{Host, PciError, PciFunction};
use serde_json::json;

use super::{or_dash, pci_failure};
use crate::failure::Outcome;
use crate::output::{OutputArguments, print, table};

/// List the cards on the PCI bus: who has each, and whether this project drives it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Simulated cards are not on the bus: `esplanade device inspect vfio-user:PATH`."
)]
pub(super) struct Arguments {
    /// All PCI functions, not just the cards that this project knows.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputArguments,
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
    if shown.is_empty() && !arguments.output.is_json() {
        print("no cards on the PCI bus (`esplanade device list --all` shows everything on it)")?;
        return Ok(ExitCode::SUCCESS);
    }
    arguments
        .output
        .show(&json!(shown), || table(&HEADERS, rows(&shown), ""))
}

const HEADERS: [&str; 9] = [
    "ADDRESS", "ID", "PRODUCT", "DRIVEN", "DRIVER", "GROUP", "NUMA", "VFS", "IN USE",
];

fn rows(functions: &[PciFunction]) -> Vec<Vec<String>> {
    let row = |function: &PciFunction| {
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
    };
    functions.iter().map(row).collect()
}
