// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A card in the process of a test.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};

use crate::qat::{QatConfig, SimulatedQat};
use crate::{CardConfig, CardStop, SimError, SimulatedCard};

/// A simulated card that threads of this process serve, for tests. It ends when it is dropped.
#[derive(Debug)]
pub struct RunningCard {
    socket: PathBuf,
    stop: CardStop,
    thread: Option<JoinHandle<Result<(), SimError>>>,
}

impl RunningCard {
    /// Starts a card; when this returns, drivers may connect.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn start(config: &CardConfig) -> Result<Self, SimError> {
        let card = SimulatedCard::bind(config)?;
        let stop = card.stop_handle();
        Self::serve("ipa-card", &config.socket, stop, move || card.run())
    }

    /// Starts an Intel QAT function; when this returns, drivers may connect.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn start_qat(config: &QatConfig) -> Result<Self, SimError> {
        let function = SimulatedQat::bind(config)?;
        let stop = function.stop_handle();
        Self::serve("qat-bus", &config.socket, stop, move || function.run())
    }

    fn serve(
        name: &str,
        socket: &Path,
        stop: CardStop,
        run: impl FnOnce() -> Result<(), SimError> + Send + 'static,
    ) -> Result<Self, SimError> {
        Ok(Self {
            socket: socket.to_owned(),
            stop,
            thread: Some(Builder::new().name(name.to_owned()).spawn(run)?),
        })
    }

    /// Where its first function listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes the card away, as if it were pulled out of its slot, and waits until it is gone.
    ///
    /// # Errors
    /// What [`SimulatedCard::run`] or [`SimulatedQat::run`] ended with.
    pub fn stop(mut self) -> Result<(), SimError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SimError> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the card's thread has panicked").into()),
            None => Ok(()),
        }
    }
}

impl Drop for RunningCard {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the simulated card");
        }
    }
}
