// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ipa card in software: a PCI device in a process of its own, over the vfio-user protocol.
//!
//! It follows `docs/device-abi.md` to the register. Whatever a driver writes, the card answers with
//! a status or an error bit; it reaches no memory that the driver has not mapped for it.
#![deny(missing_docs)]

mod admin;
mod backend;
mod card;
mod context;
mod datapath;
mod dma;
mod doorbell;
pub mod fault;
#[cfg(fuzzing)]
pub mod fuzzing;
mod pci;

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use vfio_user::server::{Server, StopHandle};

use card::Card;
use fault::FaultPlan;

/// What card to be.
#[derive(Clone, Debug)]
pub struct CardConfig {
    /// Socket to listen on.
    pub socket: PathBuf,
    /// SAs that it holds.
    pub max_sas: u32,
    /// Queue pairs, 1 to 64.
    pub queues: u16,
    /// Faults to inject.
    pub faults: FaultPlan,
}

impl CardConfig {
    /// A card with sane limits at a socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            max_sas: 4096,
            queues: 8,
            faults: FaultPlan::default(),
        }
    }
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
#[derive(Debug)]
pub struct SimulatedCard {
    server: Server,
    card: Arc<Card>,
}

impl SimulatedCard {
    /// Makes the card and listens; a driver may connect from here on.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn bind(config: &CardConfig) -> Result<Self, SimError> {
        if !(1..=64).contains(&config.queues) {
            let found = config.queues.into();
            return Err(SimError::Config {
                what: "queues",
                expected: "1 to 64",
                found,
            });
        }
        if !(1..=1 << 20).contains(&config.max_sas) {
            let found = config.max_sas.into();
            return Err(SimError::Config {
                what: "SAs",
                expected: "1 to 1048576",
                found,
            });
        }
        let server = Server::bind(&config.socket).map_err(|error| SimError::Socket {
            path: config.socket.clone(),
            error,
        })?;
        Ok(Self {
            server,
            card: Arc::new(Card::new(config)?),
        })
    }

    /// Ends [`run`](Self::run) from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.server.stop_handle()
    }

    /// Serves drivers, one after another, until stopped.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn run(self) -> Result<(), SimError> {
        let data_card = self.card.clone();
        let data = std::thread::Builder::new()
            .name("ipa-data".to_owned())
            .spawn(move || datapath::run(&data_card))?;
        let result = self
            .server
            .serve(&mut backend::PciBackend::new(self.card.clone()));
        self.card.end();
        // It panics nowhere; if it did, the message was printed.
        let _ = data.join();
        Ok(result?)
    }
}
