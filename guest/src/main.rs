// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `cargo xtask vm` runs in its guest: binds the card to vfio-pci, has the driver keep the contract
//! through the kernel's VFIO and the IOMMU, and unbinds it.
//!
//! `xtask` reads the lines that start with `GUEST`; the last is `GUEST PASS`, or it did not pass.

#![forbid(unsafe_code)]

mod traffic;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use driver::DeviceAddress;
use driver::ipa::IpaCard;
use driver::pci::{BindOptions, Host, VFIO_PCI};
use offload_api::conformance;

/// A step's name, and what it does with the card at this PCI address.
type Step = (&'static str, fn(&str) -> Result<()>);

const STEPS: &[Step] = &[
    ("bind", bind),
    ("conformance", keep_the_contract),
    ("unbind", unbind),
    ("bind again", bind),
    ("interrupts", traffic::interrupts),
    ("two queues", traffic::two_queues),
    ("memory out of reach", traffic::refused_memory),
    ("card killed", traffic::killed),
];

fn main() -> Result<()> {
    let functions = Host::default().functions()?;
    let card = functions
        .into_iter()
        .find(|function| function.driven)
        .context("no card on the PCI bus")?
        .address;
    println!("GUEST card {card}");
    for (name, step) in STEPS {
        let begun = Instant::now();
        step(&card).with_context(|| format!("step {name:?}"))?;
        println!("GUEST ok {:.1} s {name}", begun.elapsed().as_secs_f64());
    }
    println!("GUEST PASS");
    Ok(())
}

fn bind(card: &str) -> Result<()> {
    let host = Host::default();
    let plan = host.plan_bind(card, BindOptions::default())?;
    ensure!(!plan.steps.is_empty(), "bound already");
    let function = host.apply(&plan)?;
    ensure!(function.driver.as_deref() == Some(VFIO_PCI), "{function:?}");
    ensure!(function.iommu_group.is_some(), "{function:?}");
    Ok(())
}

fn unbind(card: &str) -> Result<()> {
    let host = Host::default();
    let function = host.apply(&host.plan_unbind(card)?)?;
    ensure!(function.driver.is_none(), "{function:?}");
    ensure!(open(card).is_err(), "opened though it is unbound");
    Ok(())
}

fn open(card: &str) -> Result<Arc<IpaCard>> {
    Ok(driver::open(&DeviceAddress::Pci(card.to_owned()))?)
}

/// The same suite that the driver passes over vfio-user, with the same card.
fn keep_the_contract(card: &str) -> Result<()> {
    #[expect(clippy::expect_used, reason = "the suite's own way to fail")]
    let report = conformance::run(&|| open(card).expect("the card opens"));
    println!("{report:?}");
    ensure!(report.unsupported == 0, "the card refused what it claims");
    ensure!((report.known_seals, report.known_opens) == (240, 240));
    ensure!(report.refusals > 6000);
    Ok(())
}
