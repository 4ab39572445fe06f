// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device bind`.

use driver::pci::{BindOptions, Host, Plan, VFIO_PCI};
use serde_json::json;

use super::{parse_function, pci_failure};
use crate::failure::Outcome;
use crate::output::OutputArguments;

/// Hand a card to vfio-pci, so that a driver in user space can open it.
///
/// Prints what it writes to sysfs. What it does is forgotten at the next boot, unless --persist is given.
/// A card that is in use stays as it is.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  esplanade device bind pci:0000:01:00.0 --dry-run\n  esplanade device bind pci:0000:01:00.0 --persist"
)]
pub(super) struct Arguments {
    /// The function: pci:DDDD:BB:DD.F
    #[arg(value_parser = parse_function)]
    address: String,
    /// Only print what would be written.
    #[arg(long)]
    dry_run: bool,
    /// Go on although a network interface of it is up, or its IOMMU group has members with host drivers.
    /// A card that a process or virtual functions use stays in any case.
    #[arg(long)]
    force: bool,
    /// Write a udev rule, so that it is bound again after a boot; `unbind` removes the rule.
    #[arg(long)]
    persist: bool,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, host: &Host) -> Outcome {
    let options = BindOptions {
        force: arguments.force,
        persist: arguments.persist,
    };
    let plan = host
        .plan_bind(&arguments.address, options)
        .map_err(pci_failure)?;
    for refusal in &plan.overridden {
        anstream::eprintln!("esplanade: going on by --force although {refusal}");
    }
    carry_out(&plan, host, arguments.dry_run, &arguments.output)
}

/// Prints a plan, and does it unless it is only asked for.
pub(super) fn carry_out(
    plan: &Plan,
    host: &Host,
    dry_run: bool,
    output: &OutputArguments,
) -> Outcome {
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    let driver = if dry_run {
        host.function(&plan.address).map_err(pci_failure)?.driver
    } else {
        host.apply(plan).map_err(pci_failure)?.driver
    };
    let json = json!({
        "address": format!("pci:{}", plan.address),
        "dry-run": dry_run,
        "steps": steps,
        "driver": driver,
    });
    output.show(&json, || {
        let mut lines = steps.clone();
        let now = driver.as_deref().unwrap_or("no driver");
        lines.push(match (dry_run, steps.is_empty()) {
            (_, true) => format!("pci:{} is bound to {VFIO_PCI} already", plan.address),
            (true, false) => "nothing was written".to_owned(),
            (false, false) => format!("pci:{} is bound to {now}", plan.address),
        });
        lines.join("\n")
    })
}
