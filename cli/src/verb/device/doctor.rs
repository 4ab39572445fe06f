// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device doctor`.

use std::process::ExitCode;

use driver::pci::{Finding, Host, PciError, Severity};
use serde_json::json;

use super::{parse_function, pci_failure};
use crate::failure::Outcome;
use crate::output::OutputArguments;

/// Tell what keeps cards from being driven on this machine, and what to do about it.
///
/// Looks at the IOMMU and its groups, vfio-pci, /dev/vfio and its permissions, huge pages, the limit of
/// locked memory, and each card's driver. Exit status 1 when there is a problem.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only this card; without it all that are found.
    #[arg(value_parser = parse_function)]
    address: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) fn run(arguments: &Arguments, host: &Host) -> Outcome {
    let functions = match &arguments.address {
        Some(address) => vec![host.function(address).map_err(pci_failure)?],
        None => match host.functions() {
            Ok(functions) => {
                let known = functions.into_iter().filter(|f| f.product.is_some());
                known.collect()
            }
            Err(PciError::NoBus { .. }) => Vec::new(),
            Err(error) => return Err(pci_failure(error)),
        },
    };
    let mut findings = host.examine();
    for function in &functions {
        findings.extend(host.examine_function(function));
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    arguments
        .output
        .show(&json!(findings), || show(&findings, functions.is_empty()))?;
    Ok(match worst {
        Some(Severity::Problem) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn show(findings: &[Finding], no_cards: bool) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => "ok     ",
            Severity::Warning => "warning",
            Severity::Problem => "PROBLEM",
        };
        lines.push(format!("{mark}  {}: {}", finding.about, finding.found));
        for (word, text) in [("why", &finding.cause), ("do", &finding.fix)] {
            if let Some(text) = text {
                lines.push(format!("           {word}: {text}"));
            }
        }
    }
    if no_cards {
        lines.push("no cards on the PCI bus".to_owned());
    }
    lines.join("\n")
}
