// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device` on a real bus: what it says is compared with what the kernel says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const ESPLANADE: &str = "/bin/esplanade";
/// Exit statuses of the command.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const REFUSED: i32 = 4;

/// Runs the command, and gives its output where it ended with this status.
fn esplanade(arguments: &[&str], status: i32) -> Result<String> {
    let output = Command::new(ESPLANADE)
        .arg("device")
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {ESPLANADE}"))?;
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let said = said.concat();
    ensure!(
        output.status.code() == Some(status),
        "{arguments:?}: {}, expected {status}\n{said}",
        output.status
    );
    Ok(said)
}

/// Who has the card, by the kernel.
fn driver(card: &str) -> Option<String> {
    let link = fs::read_link(device(card).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

fn device(card: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(card)
}

/// The line of the card in the list.
fn listed(card: &str) -> Result<String> {
    let list = esplanade(&["list"], DONE)?;
    let line = list.lines().find(|line| line.contains(card));
    Ok(line.with_context(|| list.clone())?.to_owned())
}

/// From a card that nobody has to one that vfio-pci has, and nothing left to complain of.
pub(crate) fn bind(card: &str) -> Result<()> {
    ensure!(driver(card).is_none(), "{:?} has it", driver(card));
    let doctor = esplanade(&["doctor", card], FAILED)?;
    ensure!(doctor.contains("PROBLEM"), "{doctor}");
    ensure!(doctor.contains("esplanade device bind"), "{doctor}");

    let plan = esplanade(&["bind", card, "--dry-run"], DONE)?;
    for attribute in ["driver_override", "drivers_probe"] {
        ensure!(plan.contains(attribute), "{plan}");
    }
    ensure!(driver(card).is_none(), "--dry-run has bound it");

    let said = esplanade(&["bind", card], DONE)?;
    ensure!(said.contains("is bound to vfio-pci"), "{said}");
    ensure!(driver(card).as_deref() == Some("vfio-pci"), "{said}");
    let name = fs::read_to_string(device(card).join("driver_override"))?;
    ensure!(name.trim() == "vfio-pci", "driver_override is {name:?}");

    let group = fs::read_link(device(card).join("iommu_group"))?;
    let group = group
        .file_name()
        .context("no group")?
        .to_string_lossy()
        .into_owned();
    let line = listed(card)?;
    let cells: Vec<_> = line.split_whitespace().collect();
    for cell in ["vfio-pci", &group] {
        ensure!(cells.contains(&cell), "{cell} is not in {line:?}");
    }
    let doctor = esplanade(&["doctor", card], DONE)?;
    let complains = ["PROBLEM", "warning"]
        .iter()
        .any(|mark| doctor.contains(mark));
    ensure!(!complains, "{doctor}");
    println!("GUEST doctor {} findings, all well", doctor.lines().count());

    let again = esplanade(&["bind", card], DONE)?;
    ensure!(again.contains("already"), "{again}");
    Ok(())
}

/// The command's own test of the card, through the kernel.
pub(crate) fn self_test(card: &str) -> Result<()> {
    let said = esplanade(&["selftest", card], DONE)?;
    let verdict = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    ensure!(
        verdict.is_some_and(|line| line.starts_with("PASS: ")),
        "{said}"
    );
    Ok(())
}

/// While a process has the card open it stays where it is, whatever is asked.
pub(crate) fn in_use(card: &str) -> Result<()> {
    let open = crate::open(card)?;
    let me = std::process::id().to_string();
    let line = listed(card)?;
    ensure!(line.contains(&format!("process {me}")), "{line}");
    let refused = esplanade(&["unbind", card], REFUSED)?;
    ensure!(refused.contains(&me), "{refused}");
    ensure!(driver(card).as_deref() == Some("vfio-pci"), "{refused}");
    drop(open);
    let line = listed(card)?;
    ensure!(!line.contains("process"), "{line}");
    Ok(())
}

/// Gives it back: no driver of this kernel wants it.
pub(crate) fn unbind(card: &str) -> Result<()> {
    let_go(card)?;
    ensure!(crate::open(card).is_err(), "opened though it is unbound");
    esplanade(&["unbind", card], REFUSED)?;
    esplanade(&["doctor", card], FAILED)?;
    Ok(())
}

/// Takes it from vfio-pci.
pub(crate) fn let_go(card: &str) -> Result<()> {
    let said = esplanade(&["unbind", card], DONE)?;
    ensure!(driver(card).is_none(), "{said}");
    let name = fs::read_to_string(device(card).join("driver_override"))?;
    ensure!(
        matches!(name.trim(), "" | "(null)"),
        "driver_override is {name:?}"
    );
    Ok(())
}
