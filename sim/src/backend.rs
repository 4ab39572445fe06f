// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card on the bus: regions, interrupts and memory, as vfio-user brings them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fpga_regs::registers::{
    Control, DOORBELL_BAR, MSIX_BAR, MSIX_BAR_SIZE, MSIX_PENDING, REGISTER_BAR, REGISTER_BAR_SIZE,
    control,
};
use rustix::io::Errno;
use vfio_user::message::{IRQ_MSIX, REGION_CONFIG, REGION_READ, REGION_WRITE, SparseArea};
use vfio_user::server::{Backend, ClientMemory, DmaMapping, ServerRegion};

use crate::admin;
use crate::card::{Card, Core, Reset};
use crate::fault::Fault;
use crate::handshake::Pages;
use crate::msix::MsixTable;
use crate::pci::{CONFIG_SIZE, ConfigSpace};

pub(crate) struct PciBackend {
    card: Arc<Card>,
    config: ConfigSpace,
    msix: MsixTable,
    doorbell_areas: [SparseArea; 1],
    vectors: u16,
}

impl PciBackend {
    pub(crate) fn new(card: Arc<Card>) -> Self {
        let queues = card.doorbells.queues();
        let vectors = queues + 1;
        Self {
            config: ConfigSpace::new(vectors, queues),
            msix: MsixTable::new(vectors, MSIX_BAR_SIZE, MSIX_PENDING),
            doorbell_areas: [SparseArea {
                offset: 0,
                size: card.doorbells.len(),
            }],
            vectors,
            card,
        }
    }

    fn power_on(&mut self) {
        self.card.reset(Reset::Bus);
        let mut core = self.card.lock();
        core.dma.clear();
        core.dma.set_enabled(false);
        for vector in 0..self.vectors {
            core.wire(vector.into(), None);
        }
        drop(core);
        self.power_on_config();
    }

    fn power_on_config(&mut self) {
        self.config = ConfigSpace::new(self.vectors, self.vectors - 1);
        self.msix.clear();
    }

    /// Whether anybody answers on the bus: not while memory is disabled, nor where the registers do
    /// not, on purpose.
    fn answers(&self, region: u32) -> Result<bool, Errno> {
        if !self.config.memory_space() {
            return Ok(false);
        }
        if region != REGISTER_BAR || !self.card.is_faulty {
            return Ok(true);
        }
        let mut core = self.card.lock();
        if core.faults.strikes(Fault::BusError) {
            return Err(Errno::IO);
        }
        Ok(!core.vanished)
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        let mut core = self.card.lock();
        let asked = match core.rtl_write_register(offset, value) {
            Some(asked) => asked,
            None => core.write_register(offset, value),
        };
        if let Some(tail) = asked.admin_tail {
            admin::run(&self.card, &mut core, tail);
        }
        if let Some(control) = asked.control {
            if !control.intersects(Control::RESET | Control::DETACH) {
                core.set_control(control);
            }
            drop(core);
            if control.contains(Control::RESET) {
                self.card.reset(Reset::Driver);
            } else if control.contains(Control::DETACH) {
                self.card.detach();
            }
        }
        if asked.control.is_some() || asked.wake {
            self.card.wake();
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let heartbeat = self.card.heartbeat.load(Ordering::Relaxed);
        if offset == control::HEARTBEAT && !self.card.is_rtl {
            return heartbeat;
        }
        let mut core = self.card.lock();
        match core.rtl_read_register(offset, heartbeat) {
            Some(value) => value,
            None => core.read_register(offset) ^ lie(&mut core, offset),
        }
    }
}

/// What is wrong with an identity register, on purpose.
fn lie(core: &mut Core, register: u64) -> u32 {
    let identity = register < control::CONTROL;
    let lies = identity && core.faults.strikes(Fault::LieIdentity);
    u32::from(lies) * 0x0101_0101
}

impl Backend for PciBackend {
    fn connected(&mut self, memory: ClientMemory) {
        self.power_on();
        self.card.lock().dma.set_client(Some(memory));
        tracing::info!("driver connected");
    }

    fn disconnected(&mut self) {
        self.power_on();
        self.card.lock().dma.set_client(None);
        tracing::info!("driver gone: keys zeroised, memory unmapped");
    }

    fn region(&self, index: u32) -> ServerRegion<'_> {
        let flags = REGION_READ | REGION_WRITE;
        let plain = |size| ServerRegion {
            size,
            flags,
            ..ServerRegion::default()
        };
        match index {
            REGISTER_BAR => plain(REGISTER_BAR_SIZE),
            DOORBELL_BAR => ServerRegion {
                size: self.config.bar_size(DOORBELL_BAR),
                flags,
                areas: &self.doorbell_areas,
                memory: Some(self.card.doorbells.fd()),
            },
            MSIX_BAR => plain(MSIX_BAR_SIZE),
            REGION_CONFIG => plain(CONFIG_SIZE as u64),
            _ => ServerRegion::default(),
        }
    }

    fn irq_count(&self, index: u32) -> u32 {
        if index == IRQ_MSIX {
            self.vectors.into()
        } else {
            0
        }
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        match region {
            REGION_CONFIG => self.config.read(offset, data),
            _ if !self.answers(region)? => data.fill(0xff),
            MSIX_BAR => {
                let mut core = self.card.lock();
                if !core.rtl_read_table(offset, data) {
                    self.msix.read(&core.irqs, offset, data);
                }
            }
            REGISTER_BAR | DOORBELL_BAR => {
                if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
                    return Err(Errno::INVAL);
                }
                for (word, at) in data.chunks_exact_mut(4).zip((offset..).step_by(4)) {
                    let value = if region == REGISTER_BAR {
                        self.read_register(at)
                    } else {
                        self.card.doorbells.read(at)
                    };
                    word.copy_from_slice(&value.to_le_bytes());
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
                    self.card.reset(Reset::Bus);
                    self.power_on_config();
                }
                let mut core = self.card.lock();
                core.dma.set_enabled(self.config.bus_master());
                core.set_all_masked(self.config.all_masked());
            }
            _ if !self.answers(region)? => {}
            MSIX_BAR => {
                let mut core = self.card.lock();
                if !core.rtl_write_table(offset, data) {
                    self.msix.write(&mut core.irqs, offset, data);
                }
            }
            REGISTER_BAR | DOORBELL_BAR => {
                if !offset.is_multiple_of(4) || !data.len().is_multiple_of(4) {
                    return Err(Errno::INVAL);
                }
                for (word, at) in data.chunks_exact(4).zip((offset..).step_by(4)) {
                    let Ok(word) = <[u8; 4]>::try_from(word) else {
                        continue;
                    };
                    let value = u32::from_le_bytes(word);
                    if region == REGISTER_BAR {
                        self.write_register(at, value);
                    } else {
                        self.card.doorbells.write(at, value);
                        self.card.wake();
                    }
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn dma_map(&mut self, mapping: DmaMapping) -> Result<(), Errno> {
        self.card.lock().dma.map(mapping)
    }

    fn dma_unmap(&mut self, address: u64, size: u64) -> Result<(), Errno> {
        self.card.lock().dma.unmap(address, size)
    }

    fn dma_unmap_all(&mut self) {
        self.card.lock().dma.clear();
    }

    fn set_irq(&mut self, _: u32, vector: u32, eventfd: Option<OwnedFd>) {
        self.card.lock().wire(vector as usize, eventfd);
    }

    fn trigger_irq(&mut self, _: u32, vector: u32) {
        let mut core = self.card.lock();
        match core.rtl {
            // By its eventfd alone, as the kernel's VFIO does.
            Some(_) => core.irqs.deliver(vector as usize),
            None => core.irqs.fire(vector as usize, Instant::now()),
        }
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.card.reset(Reset::Driver);
        Ok(())
    }
}
