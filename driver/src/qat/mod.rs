// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Intel QAT virtual functions: lookaside cryptography without SAs.
//!
//! The device ciphers and hashes. Sequence numbers, IVs, headers, padding, the replay window and
//! lifetimes are done here, by [`esp_framing`]. Several functions make one accelerator, over which SAs
//! are spread; when one is lost, its SAs go on in the others.

mod extra;
mod function;
mod greet;
mod hmac;
mod inspect;
mod life;
mod queue;
mod ring;
mod session;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use offload_api::capability::{Capabilities, Features};
use offload_api::device::{Accelerator, AcceleratorInfo, Counters, Health};
use offload_api::error::{DeviceError, InstallError, OpenQueueError, SaError};
use offload_api::event::Event;
use offload_api::frame::FramePool;
use offload_api::queue::{QueueConfig, QueuePair};
use offload_api::replay::WINDOW_MAX;
use offload_api::sa::{Amend, SaHandle, SaParams, SaUsage, Suite};

use crate::counters::add;
use crate::lock;
use crate::transport::Transport;
use function::MAX_DEPTH;
pub use inspect::{FunctionReport, PairReport, QatReport};
use life::{Life, MAX_SAS};

/// Largest packet in octets, sealed.
const MAX_PACKET: u32 = 1 << 16;
/// Frames that a packet may lie in.
const MAX_GATHER: usize = 16;

/// Connects to a function, each time anew.
pub type Connector = Box<dyn Fn() -> Result<Box<dyn Transport>, DeviceError> + Send + Sync>;

/// QAT functions as one accelerator. It survives the loss of its device: see [`Accelerator::reset`].
pub struct QatCard {
    name: String,
    connect: Vec<Connector>,
    capabilities: Capabilities,
    life: RwLock<Arc<Life>>,
    /// Counters of lives that are over.
    past: Mutex<Counters>,
    lives: AtomicU64,
}

impl QatCard {
    /// Opens functions by a connector each.
    ///
    /// # Errors
    /// One is not there, or is no QAT that this drives.
    pub fn open(name: String, connect: Vec<Connector>) -> Result<Self, DeviceError> {
        let life = Life::begin(connect_all(&connect)?, 1)?;
        let capabilities = capabilities(&life);
        Ok(Self {
            name,
            connect,
            capabilities,
            life: RwLock::new(life),
            past: Mutex::default(),
            lives: AtomicU64::new(1),
        })
    }

    /// Treats the device as lost: what it has comes back as aborted, and [`Accelerator::reset`] opens it
    /// anew. For whoever wants a reset that everybody above notices.
    pub fn give_up(&self, reason: &str) {
        for function in &self.life().functions {
            function.lose(reason);
        }
    }

    fn life(&self) -> Arc<Life> {
        let life = self.life.read().unwrap_or_else(PoisonError::into_inner);
        life.clone()
    }
}

fn connect_all(connect: &[Connector]) -> Result<Vec<Box<dyn Transport>>, DeviceError> {
    connect.iter().map(|connect| connect()).collect()
}

fn capabilities(life: &Life) -> Capabilities {
    let everywhere = |suite: &Suite| {
        let mut functions = life.functions.iter();
        functions.all(|function| session::supports(function.generation, *suite))
    };
    let mut features = Features::ESN
        | Features::TUNNEL
        | Features::TRANSPORT
        | Features::OUTER_HEADERS
        | Features::OUTER_IPV6
        | Features::UDP_ENCAPSULATION
        | Features::EXPLICIT_NUMBERING
        | Features::LIFETIMES
        | Features::CRYPTO
        | Features::LOOKASIDE;
    features.set(Features::INTERRUPTS, life.interrupts());
    Capabilities {
        suites: Suite::all().filter(everywhere).collect(),
        features,
        replay_window_max: WINDOW_MAX,
        max_sas: MAX_SAS,
        max_queues: life.max_queues() as u16,
        max_depth: MAX_DEPTH,
        max_packet: MAX_PACKET,
        max_gather: MAX_GATHER as u16,
    }
}

impl Accelerator for QatCard {
    fn info(&self) -> AcceleratorInfo {
        let life = self.life();
        let first = life.functions.first();
        let product = first.map_or("", |function| function.product);
        let product = match life.functions.len() {
            1 => product.to_owned(),
            count => format!("{count} × {product}"),
        };
        AcceleratorInfo {
            name: self.name.clone(),
            product,
            driver: first.map_or("", |f| f.transport.name()).to_owned(),
            firmware: first.map_or_else(String::new, |f| format!("{:?}", f.generation)),
        }
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        self.life().register_pool(pool)
    }

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        config.check(&self.capabilities)?;
        let queue = queue::QatQueue::open(self.life(), config.depth)?;
        Ok(Box::new(queue))
    }

    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        sa.validate()?;
        self.capabilities.check(sa)?;
        self.life().install(sa)
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        let life = self.life();
        match change {
            Amend::Outer(outer) => life.set_outer(sa, *outer),
            _ => life.read_table().entry(sa)?.amend(change, Instant::now()),
        }
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.life().retire(sa)
    }

    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        Ok(self.life().read_table().entry(sa)?.usage())
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        let life = self.life();
        let before = out.len();
        out.append(&mut lock(&life.events));
        // Without that lock, which a queue takes while it has an SA's.
        life.read_table().expire(Instant::now(), out);
        out.len() - before
    }

    fn counters(&self) -> Counters {
        let past = *lock(&self.past);
        add(past, self.life().counters())
    }

    fn health(&self) -> Health {
        match self.life().lost_reason() {
            Some(reason) => Health::Lost { reason },
            None => Health::Ok,
        }
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let mut current = self.life.write().unwrap_or_else(PoisonError::into_inner);
        current.end("reset");
        let counters = current.counters();
        // A new life even where the device never left: nothing of the old one can leak into it.
        let number = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let life = Life::begin(connect_all(&self.connect)?, number)?;
        if capabilities(&life) != self.capabilities {
            life.end("capabilities differ");
            return Err(DeviceError::Protocol {
                what: "the device came back with other capabilities".to_owned(),
            });
        }
        *current = life;
        drop(current);
        let mut past = lock(&self.past);
        *past = add(*past, Counters { sas: 0, ..counters });
        Ok(())
    }
}
