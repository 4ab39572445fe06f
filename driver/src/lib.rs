// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The userspace driver for IPsec accelerator cards: over kernel VFIO for real ones, over vfio-user
//! for simulated ones, behind one [`transport::Transport`].
//!
//! [`open`] gives an [`offload_api::device::Accelerator`].
#![deny(missing_docs)]

pub mod bar;
mod counters;
pub mod dma;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handshake;
pub mod ipa;
mod let_go;
#[cfg(test)]
mod models;
pub mod patience;
pub mod pci;
pub mod qat;
mod ring;
pub mod transport;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offload_api::device::Accelerator;
use offload_api::error::DeviceError;
use thiserror::Error;
use vfio_user::message::REGION_CONFIG;

use ipa::IpaCard;
use qat::QatCard;
use transport::Transport;
use transport::kernel::KernelTransport;
use transport::user::{CONNECTION, UserTransport};

/// Where a card is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAddress {
    /// A simulated card's socket: `vfio-user:PATH`.
    User(PathBuf),
    /// A PCI function bound to vfio-pci: `pci:DDDD:BB:DD.F`.
    Pci(String),
    /// Several functions as one accelerator, with commas between: QAT only.
    Several(Vec<DeviceAddress>),
}

/// The text is no device address.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "device {found:?}: expected vfio-user:PATH or pci:DDDD:BB:DD.F, or several of them with commas between"
)]
pub struct ParseAddressError {
    found: String,
}

impl FromStr for DeviceAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseAddressError {
            found: text.to_owned(),
        };
        if text.contains(',') {
            let all: Result<Vec<Self>, _> = text.split(',').map(str::parse).collect();
            return all.map(Self::Several).map_err(|_| error());
        }
        match text.split_once(':') {
            Some(("vfio-user", path)) if !path.is_empty() => Ok(Self::User(path.into())),
            Some(("pci", function)) if is_pci_function(function) => {
                Ok(Self::Pci(function.to_owned()))
            }
            _ => Err(error()),
        }
    }
}

/// `0000:01:00.0`
fn is_pci_function(text: &str) -> bool {
    let pattern = b"xxxx:xx:xx.x";
    text.len() == pattern.len()
        && text
            .bytes()
            .zip(pattern)
            .all(|(octet, expected)| match expected {
                b'x' => octet.is_ascii_hexdigit(),
                separator => octet == *separator,
            })
}

impl fmt::Display for DeviceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Pci(function) => write!(f, "pci:{function}"),
            Self::Several(all) => {
                let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join(","))
            }
        }
    }
}

/// Opens an ipa card. A card that vanishes later can be opened again by its
/// [`reset`](offload_api::device::Accelerator::reset).
///
/// # Errors
/// It is not there, is no ipa card, speaks another ABI, or seals nothing.
pub fn open(address: &DeviceAddress) -> Result<Arc<IpaCard>, DeviceError> {
    let at = address.clone();
    IpaCard::open(address.to_string(), Box::new(move || connect(&at))).map(Arc::new)
}

/// As [`open`], also for a card that seals and opens nothing: to measure the way to it and back.
///
/// # Errors
/// It is not there, is no ipa card, or speaks another ABI.
pub fn open_null_crypto(address: &DeviceAddress) -> Result<Arc<IpaCard>, DeviceError> {
    let at = address.clone();
    IpaCard::open_null_crypto(address.to_string(), Box::new(move || connect(&at))).map(Arc::new)
}

/// Goes on with a card whose process has died, by the descriptors that [`IpaCard::kept`] had given to
/// somebody who outlived it, by their names. The SAs that it carries stay, and in inline mode it never
/// stops.
///
/// # Errors
/// Something is missing, or the card can't be gone on with, or it seals nothing. Its connection is shut then, so that
/// [`open`] can open it anew.
pub fn attach(
    address: &DeviceAddress,
    kept: Vec<(String, OwnedFd)>,
) -> Result<Arc<IpaCard>, DeviceError> {
    let at = address.clone();
    let missing = || DeviceError::Host {
        what: "going on with a card",
        error: format!("nothing was kept of {address}"),
    };
    let transport = match address {
        DeviceAddress::User(path) => {
            let connection = kept.into_iter().find(|(name, _)| name == CONNECTION);
            let (_, connection) = connection.ok_or_else(missing)?;
            Box::new(UserTransport::resume(path, connection)?) as Box<dyn Transport>
        }
        DeviceAddress::Pci(function) => Box::new(KernelTransport::resume(function, kept)?),
        DeviceAddress::Several(_) => return Err(missing()),
    };
    let name = address.to_string();
    IpaCard::attach(name, transport, Box::new(move || connect(&at))).map(Arc::new)
}

/// The names of what may be kept of a card, by whatever way it is reached.
pub fn kept_names() -> impl Iterator<Item = &'static str> {
    std::iter::once(CONNECTION).chain(transport::kernel::KEPT)
}

/// A device of a kind that this drives.
#[derive(Clone)]
pub enum Card {
    /// An ipa card.
    Ipa(Arc<IpaCard>),
    /// One or several QAT functions.
    Qat(Arc<QatCard>),
}

impl Card {
    /// The contract's view of it.
    pub fn accelerator(&self) -> Arc<dyn Accelerator> {
        match self {
            Self::Ipa(card) => card.clone(),
            Self::Qat(card) => card.clone(),
        }
    }

    /// Has it lost, for a reset that everybody above notices.
    pub fn give_up(&self, reason: &str) {
        match self {
            Self::Ipa(card) => card.give_up(reason),
            Self::Qat(card) => card.give_up(reason),
        }
    }

    /// The ipa card, if it is one.
    pub fn ipa(&self) -> Option<&Arc<IpaCard>> {
        match self {
            Self::Ipa(card) => Some(card),
            Self::Qat(_) => None,
        }
    }
}

/// Opens whatever is there, by its PCI id.
///
/// # Errors
/// It is not there, nothing that this drives, or seals nothing.
pub fn open_card(address: &DeviceAddress) -> Result<Card, DeviceError> {
    let all = match address {
        DeviceAddress::Several(all) => all.clone(),
        one => vec![one.clone()],
    };
    let mut connectors: Vec<qat::Connector> = Vec::new();
    let mut is_qat = false;
    for at in all {
        let first = connect(&at)?;
        let mut id = [0; 4];
        first.read(REGION_CONFIG, 0, &mut id)?;
        let [a, b, c, d] = id;
        let (vendor, device) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        is_qat = qat_regs::known_device(vendor, device).is_some();
        // A simulated device serves one driver at a time: the one that asked goes on.
        let first = Mutex::new(Some(first));
        connectors.push(Box::new(move || {
            lock(&first).take().map_or_else(|| connect(&at), Ok)
        }));
    }
    let name = address.to_string();
    match (is_qat, connectors.pop()) {
        (false, Some(connector)) if connectors.is_empty() => {
            IpaCard::open(name, connector).map(|card| Card::Ipa(Arc::new(card)))
        }
        (true, Some(connector)) => {
            connectors.push(connector);
            QatCard::open(name, connectors).map(|card| Card::Qat(Arc::new(card)))
        }
        _ => Err(DeviceError::Protocol {
            what: "several functions make one accelerator with QAT only".to_owned(),
        }),
    }
}

/// Takes a lock, also after a holder of it has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(address: &DeviceAddress) -> Result<Box<dyn Transport>, DeviceError> {
    match address {
        DeviceAddress::User(path) => Ok(Box::new(UserTransport::connect(path)?)),
        DeviceAddress::Pci(function) => Ok(Box::new(KernelTransport::open(function)?)),
        DeviceAddress::Several(_) => Err(DeviceError::Host {
            what: "connecting",
            error: "several functions where one is wanted".to_owned(),
        }),
    }
}

/// The example of docs/ci.md, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/ci.md")]
struct CiDocument;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_bad_ones_told() {
        for good in [
            "vfio-user:/run/card.sock",
            "pci:0000:01:00.0",
            "pci:0000:01:00.1,pci:0000:01:00.2",
        ] {
            assert_eq!(good.parse::<DeviceAddress>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "vfio-user:",
            "pci:1:0.0",
            "pci:0000:01:00.00",
            "usb:1",
            "pci:0000:01:00.1,",
            "/run/card.sock",
        ] {
            let error = bad.parse::<DeviceAddress>().unwrap_err().to_string();
            assert!(error.contains("vfio-user:PATH"), "{error}");
        }
    }
}
