// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device unbind`.

use driver::pci::Host;

use super::bind::carry_out;
use super::{parse_function, pci_failure};
use crate::failure::Outcome;
use crate::output::OutputArguments;

/// Take a card from vfio-pci and give it back to the driver that the kernel has for it, if any.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The function: pci:DDDD:BB:DD.F
    #[arg(value_parser = parse_function)]
    address: String,
    /// Only print what would be written.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, host: &Host) -> Outcome {
    let plan = host.plan_unbind(&arguments.address).map_err(pci_failure)?;
    carry_out(&plan, host, arguments.dry_run, &arguments.output)
}
