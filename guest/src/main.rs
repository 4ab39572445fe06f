// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `cargo xtask vm` runs in its guest: has `esplanade device bind` hand the card to vfio-pci and
//! `unbind` give it back, and has the driver keep the contract through the kernel's VFIO and the IOMMU.
//!
//! `xtask` reads the lines that start with `GUEST`; the last is `GUEST PASS`, or it did not pass.

#![forbid(unsafe_code)]

mod command;
mod dpdk;
mod kept;
mod qat;
mod traffic;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use driver::DeviceAddress;
use driver::ipa::IpaCard;
use driver::pci::Host;
use offload_api::conformance;

/// A step's name, and what it does with the card at this PCI address.
type Step = (&'static str, fn(&str) -> Result<()>);

const STEPS: &[Step] = &[
    ("bind", command::bind),
    ("conformance", keep_the_contract),
    ("self-test", command::self_test),
    ("in use", command::in_use),
    ("unbind", command::unbind),
    ("bind again", command::bind),
    ("interrupts", traffic::interrupts),
    ("two queues", traffic::two_queues),
    ("memory out of reach", traffic::refused_memory),
    ("process killed", kept::go_on),
];

/// The last: its card is dead afterwards.
const END: Step = ("card killed", traffic::killed);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(kept::ROLE), Some(card)) = (arguments.next().as_deref(), arguments.next()) {
        return kept::have_the_card(&card);
    }
    let functions = Host::default().functions()?;
    let (qat, cards): (Vec<_>, Vec<_>) = functions
        .into_iter()
        .filter(|function| function.driven)
        .partition(|function| qat_regs::known_device(function.vendor, function.device).is_some());
    let card = cards.into_iter().next().context("no card on the PCI bus")?;
    let card = card.address;
    println!("GUEST card {card}");
    for step in STEPS {
        run(*step, &card)?;
    }
    qat::run(&qat)?;
    run(END, &card)?;
    println!("GUEST PASS");
    Ok(())
}

fn run((name, step): Step, card: &str) -> Result<()> {
    timed(name, || step(card))
}

/// Does a step and tells how long it took.
fn timed(name: &str, step: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    step().with_context(|| format!("step {name:?}"))?;
    println!("GUEST ok {:.1} s {name}", begun.elapsed().as_secs_f64());
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
