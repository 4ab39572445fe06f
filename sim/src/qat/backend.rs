// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The function on the bus: regions, interrupts and memory, as vfio-user brings them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use qat_regs::csr::Layout;
use qat_regs::{CLASS_CODE, Generation, KNOWN_DEVICES, MISC_BAR, RING_BAR, VENDOR_ID};
use rustix::io::Errno;
use vfio_user::message::{IRQ_MSI, IRQ_MSIX, REGION_CONFIG, REGION_READ, REGION_WRITE};
use vfio_user::server::{Backend, ClientMemory, DmaMapping, ServerRegion};

use super::Vf;
use crate::card::Bell;
use crate::dma::DmaMap;
use crate::fault::FaultPlan;
use crate::irq::Vectors;
use crate::msix::MsixTable;
use crate::pci::{CONFIG_SIZE, ConfigSpace, Identity, Interrupts};

const MISC_BAR_SIZE: u64 = 0x2000;
const MSIX_BAR: u32 = 4;
const MSIX_BAR_SIZE: u64 = 0x1000;
const MSIX_PENDING: u64 = 0x800;

/// What the bus and the engine share.
pub(super) struct Function {
    state: Mutex<State>,
    pub(super) bell: Bell,
}

pub(super) struct State {
    pub(super) vf: Vf,
    pub(super) dma: DmaMap,
    pub(super) irqs: Vectors,
}

impl Function {
    pub(super) fn new(generation: Generation, faults: FaultPlan) -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::new(State {
                vf: Vf::new(generation, faults),
                dma: DmaMap::default(),
                irqs: Vectors::new(interrupts(generation).vectors().into()),
            }),
            bell: Bell::new()?,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// C62x and its like have MSI alone; the others a vector a bundle.
fn interrupts(generation: Generation) -> Interrupts {
    match generation {
        Generation::Gen2 => Interrupts::Msi,
        _ => Interrupts::Msix {
            vectors: Layout::of(generation).bundles as u16,
            bar: MSIX_BAR,
            table: 0,
            pending: MSIX_PENDING as u32,
        },
    }
}

fn identity(generation: Generation) -> Identity {
    let mut known = KNOWN_DEVICES.iter();
    let known = known.find(|known| known.generation == generation);
    let interrupts = interrupts(generation);
    let msix_bar = match interrupts {
        Interrupts::Msi => 0,
        Interrupts::Msix { .. } => MSIX_BAR_SIZE,
    };
    let rings = Layout::of(generation).bar_size();
    let bars = [rings, 0, MISC_BAR_SIZE, 0, msix_bar, 0];
    Identity {
        vendor: VENDOR_ID,
        device: known.map_or(0, |known| known.device),
        // A virtual QAT says by it that it does symmetric cryptography.
        subsystem: 0,
        class_code: CLASS_CODE,
        bar_sizes: bars,
        wide: true,
        interrupts,
    }
}

pub(super) struct QatBackend {
    function: Arc<Function>,
    identity: Identity,
    config: ConfigSpace,
    msix: MsixTable,
}

impl QatBackend {
    pub(super) fn new(function: Arc<Function>, generation: Generation) -> Self {
        let identity = identity(generation);
        Self {
            function,
            identity,
            config: ConfigSpace::of(&identity),
            msix: MsixTable::new(identity.interrupts.vectors(), MSIX_BAR_SIZE, MSIX_PENDING),
        }
    }

    fn power_on(&mut self) {
        let mut state = self.function.lock();
        state.vf.reset();
        state.irqs.reset();
        state.dma.clear();
        state.dma.set_enabled(false);
        state.irqs.unwire();
        drop(state);
        self.power_on_config();
    }

    fn power_on_config(&mut self) {
        self.config = ConfigSpace::of(&self.identity);
        self.msix.clear();
    }

    /// Whether anybody answers on the bus.
    fn answers(&self) -> Result<bool, Errno> {
        if !self.config.memory_space() {
            return Ok(false);
        }
        if self.function.lock().vf.is_refused_by_the_bus() {
            return Err(Errno::IO);
        }
        Ok(true)
    }
}

impl Backend for QatBackend {
    fn connected(&mut self, memory: ClientMemory) {
        self.power_on();
        self.function.lock().dma.set_client(Some(memory));
        tracing::info!("driver connected");
    }

    fn disconnected(&mut self) {
        self.power_on();
        self.function.lock().dma.set_client(None);
        tracing::info!("driver gone: memory unmapped");
    }

    fn region(&self, index: u32) -> ServerRegion<'_> {
        let size = match index {
            RING_BAR | MISC_BAR | MSIX_BAR => self.config.bar_size(index),
            REGION_CONFIG => CONFIG_SIZE as u64,
            _ => return ServerRegion::default(),
        };
        // None can be mapped: a doorbell is a message, since nothing looks at memory meanwhile.
        ServerRegion {
            size,
            flags: REGION_READ | REGION_WRITE,
            ..ServerRegion::default()
        }
    }

    fn irq_count(&self, index: u32) -> u32 {
        let kind = match self.identity.interrupts {
            Interrupts::Msi => IRQ_MSI,
            Interrupts::Msix { .. } => IRQ_MSIX,
        };
        if index == kind {
            self.identity.interrupts.vectors().into()
        } else {
            0
        }
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        match region {
            REGION_CONFIG => self.config.read(offset, data),
            _ if !self.answers()? => data.fill(0xff),
            MSIX_BAR => {
                let state = self.function.lock();
                self.msix.read(&state.irqs, offset, data);
            }
            RING_BAR | MISC_BAR => {
                if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
                    return Err(Errno::INVAL);
                }
                let state = self.function.lock();
                for (word, at) in data.chunks_exact_mut(4).zip((offset..).step_by(4)) {
                    word.copy_from_slice(&state.vf.read(region, at).to_le_bytes());
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        match region {
            REGION_CONFIG => {
                if self.config.write(offset, data) {
                    // Unlike a reset by message, around which the bus keeps the configuration.
                    self.function.lock().vf.reset();
                    self.power_on_config();
                }
                let mut state = self.function.lock();
                state.dma.set_enabled(self.config.bus_master());
                let masked = self.config.all_masked();
                state.irqs.set_all_masked(masked, Instant::now());
            }
            _ if !self.answers()? => {}
            MSIX_BAR => {
                let mut state = self.function.lock();
                self.msix.write(&mut state.irqs, offset, data);
            }
            RING_BAR | MISC_BAR => {
                if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
                    return Err(Errno::INVAL);
                }
                let mut rung = false;
                let mut state = self.function.lock();
                for (word, at) in data.as_chunks::<4>().0.iter().zip((offset..).step_by(4)) {
                    rung |= state.vf.write(region, at, u32::from_le_bytes(*word));
                }
                drop(state);
                if rung {
                    self.function.bell.ring();
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn dma_map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        self.function.lock().dma.map(mapping)
    }

    fn dma_unmap(&mut self, address: u64, size: u64) -> Result<(), Errno> {
        self.function.lock().dma.unmap(address, size)
    }

    fn dma_unmap_all(&mut self) {
        self.function.lock().dma.clear();
    }

    fn set_irq(&mut self, _: u32, vector: u32, eventfd: Option<OwnedFd>) {
        self.function.lock().irqs.wire(vector as usize, eventfd);
    }

    fn trigger_irq(&mut self, _: u32, vector: u32) {
        let now = Instant::now();
        self.function.lock().irqs.fire(vector as usize, now);
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.function.lock().vf.reset();
        Ok(())
    }
}
