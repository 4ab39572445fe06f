// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A function that listens, and one in the process of a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use qat_regs::Generation;
use vfio_user::server::{Server, StopHandle};

use super::Served;
use super::backend::{Function, QatBackend};
use crate::SimError;
use crate::fault::FaultPlan;

/// Requests of a ring that are done in one go: between two the bus has its turn.
const TURN: usize = 16;

/// What function to be.
#[derive(Clone, Debug)]
pub struct QatConfig {
    /// Socket to listen on.
    pub socket: PathBuf,
    /// Generation.
    pub generation: Generation,
    /// Faults to inject.
    pub faults: FaultPlan,
}

impl QatConfig {
    /// A 4xxx virtual function at a socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            generation: Generation::Gen4,
            faults: FaultPlan::default(),
        }
    }
}

/// A function that listens and is not served yet.
pub struct SimulatedQat {
    server: Server,
    function: Arc<Function>,
    generation: Generation,
}

/// Ends a function from another thread.
#[derive(Clone, Debug)]
pub struct QatStop(StopHandle);

impl QatStop {
    /// Ends it.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl SimulatedQat {
    /// Makes the function and listens; a driver may connect from here on.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn bind(config: &QatConfig) -> Result<Self, SimError> {
        let server = Server::bind(&config.socket).map_err(|error| SimError::Socket {
            path: config.socket.clone(),
            error,
        })?;
        let function = Function::new(config.generation, config.faults.clone())?;
        Ok(Self {
            server,
            function: Arc::new(function),
            generation: config.generation,
        })
    }

    /// Ends [`run`](Self::run) from another thread.
    pub fn stop_handle(&self) -> QatStop {
        QatStop(self.server.stop_handle())
    }

    /// Serves drivers, one after another, until stopped.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn run(self) -> Result<(), SimError> {
        let function = self.function.clone();
        let engine = Builder::new()
            .name("qat-engine".to_owned())
            .spawn(move || work(&function))?;
        let mut backend = QatBackend::new(self.function.clone(), self.generation);
        let result = self.server.serve(&mut backend);
        self.function.bell.end();
        let _ = engine.join();
        Ok(result?)
    }
}

/// The engine's thread.
fn work(function: &Function) {
    while !function.bell.has_ended() {
        let served = turn(function);
        if !served.more {
            function.bell.sleep(served.rests);
        }
    }
}

fn turn(function: &Function) -> Served {
    let mut state = function.lock();
    let state = &mut *state;
    let served = state.vf.serve(&state.dma, TURN);
    let now = Instant::now();
    for (vector, times) in &served.interrupts {
        for _ in 0..*times {
            state.irqs.fire(*vector, now);
        }
    }
    served
}

/// A simulated function that threads of this process serve, for tests. It ends when it is dropped.
#[derive(Debug)]
pub struct RunningQat {
    socket: PathBuf,
    stop: QatStop,
    thread: Option<JoinHandle<Result<(), SimError>>>,
}

impl RunningQat {
    /// Starts a function; when this returns, drivers may connect.
    ///
    /// # Errors
    /// [`SimError`].
    pub fn start(config: &QatConfig) -> Result<Self, SimError> {
        let function = SimulatedQat::bind(config)?;
        let stop = function.stop_handle();
        let thread = Builder::new().name("qat-bus".to_owned());
        Ok(Self {
            socket: config.socket.clone(),
            stop,
            thread: Some(thread.spawn(move || function.run())?),
        })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Takes the function away and waits until it is gone.
    ///
    /// # Errors
    /// What [`SimulatedQat::run`] ended with.
    pub fn stop(mut self) -> Result<(), SimError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SimError> {
        self.stop.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => {
                let error = std::io::Error::other("the function's thread has panicked");
                Err(error.into())
            }
            None => Ok(()),
        }
    }
}

impl Drop for RunningQat {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the simulated function");
        }
    }
}
