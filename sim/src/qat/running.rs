// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A function that listens.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Instant;

use qat_regs::Generation;
use vfio_user::server::Server;

use super::Served;
use super::backend::{Function, QatBackend};
use crate::fault::FaultPlan;
use crate::{CardStop, SimError};

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
    pub fn stop_handle(&self) -> CardStop {
        CardStop {
            handles: vec![self.server.stop_handle()],
        }
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
