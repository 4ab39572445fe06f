// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ipa card in software: a PCI device in a process of its own, over the vfio-user protocol.
//!
//! It follows `docs/device-abi.md` to the register. Whatever a driver writes, the card answers with
//! a status or an error bit; it reaches no memory that the driver has not mapped for it.
//!
//! `esplanade sim` runs one; in a Rust test, [`RunningCard`] does (docs/ci.md has an example):
//!
//! ```
//! use sim::fault::FaultPlan;
//! use sim::{CardConfig, RunningCard};
//!
//! let directory = tempfile::tempdir()?;
//! let mut config = CardConfig::new(directory.path().join("card.sock"));
//! // Every hundredth completion or so is lost: the same ones in each run.
//! config.faults = FaultPlan::new(vec!["drop-completion=1/100".parse()?], 7);
//! let card = RunningCard::start(&config)?;
//! assert!(card.socket().exists());
//! card.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

mod admin;
mod backend;
pub mod capture;
mod card;
mod context;
mod datapath;
mod dma;
mod doorbell;
pub mod fault;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod gather;
pub mod handshake;
pub mod inline;
mod irq;
mod mailbox;
mod msix;
pub mod pace;
mod paced;
mod pci;
pub mod port;
pub mod qat;
mod registers;
mod rtl;
mod running;
mod sas;
mod submission;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use vfio_user::server::{Server, StopHandle};

use capture::{CaptureConfig, Writer};
use card::{Bell, Card, FunctionConfig};
use fault::FaultPlan;
use handshake::Pages;
use inline::{Inline, InlineConfig};
use pace::{Pace, VirtualClock};
use paced::Pacer;

pub use rtl::BusTiming;
pub use running::RunningCard;

/// What card to be.
#[derive(Clone, Debug)]
pub struct CardConfig {
    /// Socket to listen on. Functions beyond the first listen at `SOCKET.1`, `SOCKET.2`, ….
    pub socket: PathBuf,
    /// Functions, 1 to 16: each shows as a PCI device of its own, with an equal share of the SAs and
    /// queue pairs, and reaches nothing of the others.
    pub functions: u16,
    /// SAs that it holds, shared out to the functions.
    pub max_sas: u32,
    /// Queue pairs, 1 to 64, shared out to the functions.
    pub queues: u16,
    /// Faults to inject.
    pub faults: FaultPlan,
    /// Poll doorbells without ever sleeping: keeps a processor busy, and answers soonest.
    pub polls: bool,
    /// Number packets, but leave them as they are: for measuring the way to the card and back. The
    /// driver refuses such a card for traffic.
    pub null_crypto: bool,
    /// Ports of its own, for inline mode of the first function.
    pub inline: Option<InlineConfig>,
    /// How fast it is.
    pub pace: Pace,
    /// Its own capture.
    pub capture: Option<CaptureConfig>,
    /// Its data path is the verilated RTL, with a bus like this; needs feature `rtl`.
    pub rtl: Option<BusTiming>,
    /// The time of its pace, for tests; the host's where there is none.
    pub clock: Option<VirtualClock>,
}

impl CardConfig {
    /// A card with sane limits at a socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            functions: 1,
            max_sas: 4096,
            queues: 8,
            faults: FaultPlan::default(),
            polls: false,
            null_crypto: false,
            inline: None,
            pace: Pace::default(),
            capture: None,
            rtl: None,
            clock: None,
        }
    }

    /// Where a function listens.
    pub fn function_socket(&self, function: u16) -> PathBuf {
        of_function(&self.socket, function)
    }
}

/// What the functional model does and the RTL doesn't.
fn check_rtl(config: &CardConfig) -> Result<(), SimError> {
    let refused = [
        (
            !cfg!(feature = "rtl"),
            "was not built in: use feature `rtl`, which needs verilator 5",
        ),
        (config.functions != 1, "has one function"),
        (!config.faults.is_empty(), "injects no faults"),
        (config.null_crypto, "always seals"),
        (config.pace.is_set(), "is as fast as its clock"),
        (config.capture.is_some(), "captures nothing"),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, why)) => Err(SimError::Rtl(why)),
        None => Ok(()),
    }
}

/// A path, and those of further functions, which have .1, .2, … behind it.
fn of_function(path: &Path, function: u16) -> PathBuf {
    if function == 0 {
        return path.to_owned();
    }
    let mut path = path.as_os_str().to_owned();
    path.push(format!(".{function}"));
    path.into()
}

/// The card can't run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SimError {
    /// Limits out of range.
    #[error("{what}: expected {expected}, found {found}")]
    Config {
        /// Which.
        what: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was asked.
        found: u64,
    },
    /// The data path can't be the RTL.
    #[error("the RTL {0}")]
    Rtl(&'static str),
    /// The socket can't be used.
    #[error("cannot listen on {path}: {error}")]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        error: vfio_user::Error,
    },
    /// The socket failed later.
    #[error("{0}")]
    Serve(#[from] vfio_user::Error),
    /// The system refused memory or threads.
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

/// A card that listens and is not served yet.
pub struct SimulatedCard {
    functions: Vec<(Server, Arc<Card>)>,
    inline: Option<Inline>,
    pacer: Option<Pacer>,
    captures: Vec<Writer>,
    bell: Arc<Bell>,
}

/// Ends a card from another thread.
#[derive(Clone, Debug)]
pub struct CardStop {
    pub(crate) handles: Vec<StopHandle>,
}

impl CardStop {
    /// Ends it.
    pub fn stop(&self) {
        self.handles.iter().for_each(StopHandle::stop);
    }
}

impl SimulatedCard {
    /// Makes the card and listens; a driver may connect from here on.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn bind(config: &CardConfig) -> Result<Self, SimError> {
        let check = |what, expected, found: u64, range: std::ops::RangeInclusive<u64>| {
            let error = SimError::Config {
                what,
                expected,
                found,
            };
            range.contains(&found).then_some(()).ok_or(error)
        };
        let of = config.functions;
        check("functions", "1 to 16", of.into(), 1..=16)?;
        check("queues", "1 to 64", config.queues.into(), 1..=64)?;
        check("SAs", "1 to 1048576", config.max_sas.into(), 1..=1 << 20)?;
        let (queues, max_sas) = (config.queues / of, config.max_sas / u32::from(of));
        let at_least = "one for each function";
        check("queues", at_least, queues.into(), 1..=64)?;
        check("SAs", at_least, max_sas.into(), 1..=1 << 20)?;
        let nanoseconds = |time: Duration| time.as_nanos().try_into().unwrap_or(u64::MAX);
        let longest = nanoseconds(Pace::MAX_LATENCY);
        let latency = nanoseconds(config.pace.latency);
        check("latency in ns", "at most 100 ms", latency, 0..=longest)?;

        if config.rtl.is_some() {
            check(
                "queues of the RTL",
                "1 to 8",
                queues.into(),
                1..=rtl::MAX_QUEUES.into(),
            )?;
            check(
                "SAs of the RTL",
                "1 to 4096",
                max_sas.into(),
                1..=rtl::MAX_SAS.into(),
            )?;
            check_rtl(config)?;
        }

        let bell = Arc::new(Bell::new()?);
        let card = |number| {
            let function = FunctionConfig {
                number,
                of,
                queues,
                max_sas,
                faults: config.faults.clone(),
                polls: config.polls,
                null_crypto: config.null_crypto,
                paced: config.pace.is_set(),
                rtl: config.rtl,
            };
            Card::new(function, bell.clone()).map(Arc::new)
        };
        let cards = (0..of).map(card).collect::<Result<Vec<_>, _>>()?;
        // Before the sockets: whoever finds the card listening finds its ports.
        let inline = match (&config.inline, cards.first()) {
            (Some(inline), Some(card)) => Some(Inline::open(inline, &config.pace, card)?),
            _ => None,
        };
        let function = |(card, number)| {
            let path = config.function_socket(number);
            let server = Server::bind(&path).map_err(|error| SimError::Socket { path, error })?;
            Ok((server, card))
        };
        let functions: Result<Vec<_>, SimError> =
            cards.into_iter().zip(0..).map(function).collect();
        let functions = functions?;
        let mut captures = Vec::new();
        for ((_, card), number) in functions.iter().zip(0..) {
            if let Some(capture) = &config.capture {
                let path = of_function(&capture.path, number);
                let (writer, tap) = Writer::start(path, capture.limit, config.clock.clone())?;
                card.lock().tap = Some(tap);
                captures.push(writer);
            }
        }
        let pacer = config.pace.is_set().then(|| {
            let queues = functions.iter().map(|(_, card)| card.doorbells.queues());
            Pacer::new(&config.pace, config.clock.clone(), queues)
        });
        Ok(Self {
            functions,
            inline,
            pacer,
            captures,
            bell,
        })
    }

    /// Ends [`run`](Self::run) from another thread.
    pub fn stop_handle(&self) -> CardStop {
        let handles = self.functions.iter();
        CardStop {
            handles: handles.map(|(server, _)| server.stop_handle()).collect(),
        }
    }

    /// Serves drivers, one after another at each function, until stopped.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn run(self) -> Result<(), SimError> {
        let cards: Vec<_> = self
            .functions
            .iter()
            .map(|(_, card)| card.clone())
            .collect();
        let stop = self.stop_handle();
        let bell = self.bell.clone();
        let thread = |name: String| std::thread::Builder::new().name(name);
        let pacer = self.pacer;
        let data = thread("ipa-data".to_owned());
        let data = data.spawn(move || datapath::run(&cards, &bell, pacer))?;
        let ports = match (self.inline, self.functions.first()) {
            (Some(mut inline), Some((_, card))) => {
                let (card, bell) = (card.clone(), self.bell.clone());
                let ports = thread("ipa-ports".to_owned());
                Some(ports.spawn(move || inline.run(&card, &bell))?)
            }
            _ => None,
        };
        let mut servers = Vec::new();
        for (number, (server, card)) in self.functions.into_iter().enumerate() {
            let stop = stop.clone();
            let serve = move || {
                let result = server.serve(&mut backend::PciBackend::new(card));
                // A card is whole or not there.
                stop.stop();
                result
            };
            servers.push(thread(format!("ipa-bus-{number}")).spawn(serve)?);
        }
        let mut result = Ok(());
        for server in servers {
            // They panic nowhere; if one did, the message was printed.
            if let Ok(Err(error)) = server.join() {
                result = Err(error.into());
            }
        }
        self.bell.end();
        let _ = data.join();
        if let Some(ports) = ports {
            let _ = ports.join();
        }
        drop(self.captures);
        result
    }
}
