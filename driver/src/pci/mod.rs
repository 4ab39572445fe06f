// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PCI functions as Linux shows them: which cards there are, who has them, how they are handed to
//! vfio-pci and back, and what on the host stands in the way.
//!
//! Everything is read below [`Host`]'s roots, so that tests bring a tree of their own.

mod bind;
mod doctor;
mod function;
#[cfg(test)]
mod tree;

use std::io;
use std::path::{Path, PathBuf};

use fpga_regs::registers::{DEVICE_ID, VENDOR_ID};
use thiserror::Error;

pub use bind::{BindOptions, Plan, Refusal, Step};
pub use doctor::{Finding, Severity};
pub use function::{Bar, GroupMember, Interface, PciFunction, ReservedRegion};

/// The kernel driver that gives functions to user space.
pub const VFIO_PCI: &str = "vfio-pci";

/// Where the kernel's trees are.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/sys`
    pub sysfs: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// `/etc/udev/rules.d`
    pub rules: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl Host {
    /// The trees below a root directory, as in a container or a test.
    pub fn below(root: &Path) -> Self {
        Self {
            sysfs: root.join("sys"),
            dev: root.join("dev"),
            proc: root.join("proc"),
            rules: root.join("etc/udev/rules.d"),
        }
    }

    pub(crate) fn device_path(&self, address: &str) -> PathBuf {
        self.sysfs.join("bus/pci/devices").join(address)
    }
}

/// A kind of card that this project knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCard {
    /// PCI vendor.
    pub vendor: u16,
    /// PCI device.
    pub device: u16,
    /// What it is.
    pub name: &'static str,
    /// Whether [`crate::open_card`] drives it.
    pub driven: bool,
}

/// The card that this project is about.
const IPA: KnownCard = KnownCard {
    vendor: VENDOR_ID,
    device: DEVICE_ID,
    name: "ipa IPsec accelerator",
    driven: true,
};

/// The kinds of cards that this project knows.
fn known_cards() -> impl Iterator<Item = KnownCard> {
    let qats = qat_regs::KNOWN_DEVICES.iter().map(|known| KnownCard {
        vendor: qat_regs::VENDOR_ID,
        device: known.device,
        name: known.name,
        driven: true,
    });
    std::iter::once(IPA).chain(qats)
}

/// The kind of card with these ids.
pub fn known_card(vendor: u16, device: u16) -> Option<KnownCard> {
    known_cards().find(|card| (card.vendor, card.device) == (vendor, device))
}

/// A question to the PCI bus, or a change of it, failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PciError {
    /// There is no PCI bus.
    #[error("no PCI bus to be seen at {path}: {error}")]
    NoBus {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No function has this address.
    #[error(
        "no PCI function {address}; `esplanade device list --all` shows what is on the bus, and a \
         card that was just plugged in may want `echo 1 > /sys/bus/pci/rescan`"
    )]
    NoFunction {
        /// What was looked for.
        address: String,
    },
    /// An attribute can't be read, or makes no sense.
    #[error("{path}: {error}")]
    Attribute {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel did not take what was written. What had been written before is undone.
    #[error("writing {text:?} to {path}: {error}{}", advice(.error))]
    Write {
        /// Where.
        path: PathBuf,
        /// What.
        text: String,
        /// Why.
        error: io::Error,
    },
    /// It was not tried.
    #[error("{address} stays as it is: {}", reasons(.refusals))]
    Refused {
        /// The function.
        address: String,
        /// Every reason.
        refusals: Vec<Refusal>,
    },
    /// Everything was written, and yet another driver has the function.
    #[error(
        "{address} is bound to {} afterwards, expected {expected}; {advice}",
        found.as_deref().unwrap_or("no driver")
    )]
    NotBound {
        /// The function.
        address: String,
        /// The driver that has it.
        found: Option<String>,
        /// The driver that should.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (needs root)",
        io::ErrorKind::ReadOnlyFilesystem => {
            " (mounted read-only there: a container without the right to change it?)"
        }
        _ => "",
    }
}

fn reasons(refusals: &[Refusal]) -> String {
    let texts: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
