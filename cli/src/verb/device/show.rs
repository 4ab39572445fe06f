// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device show`.

use driver::DeviceAddress;
use driver::pci::{Host, PciFunction};
use serde_json::json;

use super::inspect::{Looked, identity, look, qat_identity};
use super::{or_dash, parse_address, pci_failure, with_address};
use crate::daemon::DaemonArguments;
use crate::failure::Outcome;
use crate::output::facts;

/// Show what a card is: all that the kernel tells about a PCI function, what a simulated card tells itself.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The card: pci:DDDD:BB:DD.F or vfio-user:PATH
    #[arg(value_parser = parse_address)]
    address: DeviceAddress,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments, host: &Host) -> Outcome {
    match &arguments.address {
        DeviceAddress::Pci(address) => {
            let function = host.function(address).map_err(pci_failure)?;
            let json = with_address(address, json!(function));
            arguments.daemon.show(&json, || show(&function))
        }
        address => {
            let card = match look(&arguments.daemon, address)? {
                Looked::Ipa(card) => card,
                Looked::Qat(report) => {
                    let daemon = &arguments.daemon;
                    return daemon.show(&json!(report), || facts(qat_identity(&report)));
                }
            };
            let json = json!({
                "address": card.address,
                "product": card.product,
                "driver": card.driver,
                "firmware": card.firmware,
                "health": card.health,
                "abi": card.abi,
                "function": card.function,
                "limits": card.limits,
                "features": card.features,
                "suites": card.suites,
            });
            arguments.daemon.show(&json, || facts(identity(&card)))
        }
    }
}

fn show(function: &PciFunction) -> String {
    let on_off = |set: Option<bool>| or_dash(set.map(|set| if set { "on" } else { "off" }));
    let (vendor, device) = function.subsystem;
    let mut rows = vec![
        ("address", format!("pci:{}", function.address)),
        ("product", or_dash(function.product)),
        (
            "driven by this release",
            if function.driven { "yes" } else { "no" }.to_owned(),
        ),
        (
            "id",
            format!("{:04x}:{:04x}", function.vendor, function.device),
        ),
        ("subsystem", format!("{vendor:04x}:{device:04x}")),
        (
            "class",
            format!("{:06x}, revision {}", function.class, function.revision),
        ),
        ("driver", or_dash(function.driver.as_ref())),
        (
            "driver override",
            or_dash(function.driver_override.as_ref()),
        ),
        ("IOMMU group", or_dash(function.iommu_group)),
    ];
    for member in &function.group_members {
        let blocks = if member.blocks {
            ", keeps the group from user space"
        } else {
            ""
        };
        let driver = member.driver.as_deref().unwrap_or("no driver");
        rows.push(("  with", format!("{} ({driver}{blocks})", member.address)));
    }
    for region in &function.reserved_regions {
        rows.push((
            "  reserved",
            format!(
                "{:#x} to {:#x} ({})",
                region.first, region.last, region.kind
            ),
        ));
    }
    rows.push(("NUMA node", or_dash(function.numa_node)));
    for bar in &function.bars {
        let text = format!(
            "{} at {:#x}, {} KiB",
            bar.number,
            bar.address,
            bar.size >> 10
        );
        rows.push(("BAR", text));
    }
    rows.push(("memory space", on_off(function.memory_space)));
    rows.push(("bus mastering", on_off(function.bus_master)));
    if let Some((now, possible)) = function.virtual_functions {
        rows.push(("virtual functions", format!("{now} of {possible}")));
    }
    if let Some(physical) = &function.physical_function {
        rows.push(("virtual function of", format!("pci:{physical}")));
    }
    for interface in &function.interfaces {
        let state = if interface.up { "up" } else { "down" };
        rows.push(("interface", format!("{} ({state})", interface.name)));
    }
    for pid in &function.vfio_users {
        rows.push(("open in", format!("process {pid}")));
    }
    facts(
        rows.into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    )
}
