// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QAT functions on the guest's bus: the driver keeps the same contract with them through the kernel's
//! VFIO, one alone and two as one, polled and interrupted.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use driver::DeviceAddress;
use driver::pci::PciFunction;
use offload_api::conformance;
use offload_api::device::Accelerator;
use qat_regs::{Generation, known_device};

use crate::{command, dpdk, timed, traffic};

/// What `xtask` plugs in.
const FUNCTIONS: [(Generation, usize); 2] = [(Generation::Gen4, 2), (Generation::Gen2, 1)];

/// Known answers of each generation: twelve of fifteen suites, eleven without ChaCha20-Poly1305.
fn known_answers(generation: Generation) -> u64 {
    if generation == Generation::Gen2 {
        176
    } else {
        192
    }
}

/// The kernel's name of a generation's interrupts.
fn interrupts(generation: Generation) -> &'static str {
    if generation == Generation::Gen2 {
        "vfio-msi["
    } else {
        "vfio-msix"
    }
}

pub(crate) fn run(functions: &[PciFunction]) -> Result<()> {
    for (generation, count) in FUNCTIONS {
        let of = |function: &&PciFunction| {
            let known = known_device(function.vendor, function.device);
            known.is_some_and(|known| known.generation == generation)
        };
        let addresses: Vec<String> = functions
            .iter()
            .filter(of)
            .map(|function| function.address.clone())
            .collect();
        ensure!(
            addresses.len() == count,
            "{count} functions of {generation:?} expected, on the bus: {addresses:?}"
        );
        println!("GUEST QAT {generation:?} {}", addresses.join(", "));
        drive(generation, &addresses)?;
    }
    Ok(())
}

fn drive(generation: Generation, addresses: &[String]) -> Result<()> {
    let step =
        |name: &str, step: &dyn Fn() -> Result<()>| timed(&format!("{generation:?} {name}"), step);
    let first = addresses.first().context("no function")?;
    step("bind", &|| {
        addresses.iter().try_for_each(|at| command::bind(at))
    })?;
    step("self-test", &|| command::self_test(first))?;
    step("conformance", &|| keep_the_contract(generation, addresses))?;
    step("interrupts", &|| {
        traffic::woken_by(&*open(addresses)?, interrupts(generation))
    })?;
    if dpdk::is_due(generation) {
        step("DPDK's driver", &|| dpdk::run(generation, first))?;
    }
    step("unbind", &|| {
        addresses.iter().try_for_each(|at| command::let_go(at))
    })
}

/// All of them as one accelerator.
fn open(addresses: &[String]) -> Result<Arc<dyn Accelerator>> {
    let mut all: Vec<_> = addresses.iter().cloned().map(DeviceAddress::Pci).collect();
    let address = match all.len() {
        1 => all.remove(0),
        _ => DeviceAddress::Several(all),
    };
    Ok(driver::open_card(&address)?.accelerator())
}

/// The same suite that the driver passes over vfio-user, with the same functions.
fn keep_the_contract(generation: Generation, addresses: &[String]) -> Result<()> {
    #[expect(clippy::expect_used, reason = "the suite's own way to fail")]
    let report = conformance::run(&|| open(addresses).expect("the functions open"));
    println!("{report:?}");
    let known = known_answers(generation);
    ensure!((report.known_seals, report.known_opens) == (known, known));
    ensure!(report.round_trips > 3000 && report.refusals > 5000);
    ensure!(report.gathered > 1000);
    Ok(())
}
