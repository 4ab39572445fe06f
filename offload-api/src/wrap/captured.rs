// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets as they go in and as they come out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use super::pass_on;
use crate::device::Accelerator;
use crate::error::{DeviceError, InstallError, OpenQueueError, SaError};
use crate::frame::Frame;
use crate::queue::{Arm, Done, Op, QueueConfig, QueuePair};
use crate::sa::{Direction, SaHandle, SaParams, SaUsage};

/// Which side of the accelerator a packet was seen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Not protected: an IP packet.
    Plain,
    /// Protected: with the outer IP header where the SA has outer headers or is in transport mode,
    /// from the ESP header on otherwise.
    Cipher,
}

/// A packet that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// On which side.
    pub side: Side,
    /// Its SA's.
    pub direction: Direction,
    /// Time since 1970.
    pub at: Duration,
    /// Its SA's index in the card, where a card tells.
    pub sa: Option<u32>,
    /// Its SA's.
    pub spi: u32,
    /// Its number; 0 where that is not known.
    pub sequence: u64,
    /// As it was.
    pub octets: &'a [u8],
}

/// Takes packets that were captured.
pub trait PacketSink: Send {
    /// A packet.
    fn packet(&mut self, seen: &Seen<'_>);
}

/// Shows packets to a sink: those that are submitted, and those that come back good. The sink sees
/// plain traffic: whoever keeps it must keep it to themselves.
pub struct Captured {
    inner: Arc<dyn Accelerator>,
    shared: Arc<Shared>,
}

struct Shared {
    sink: Mutex<Box<dyn PacketSink>>,
    /// SPI and direction.
    sas: RwLock<HashMap<SaHandle, (u32, Direction)>>,
}

impl Captured {
    /// Around an accelerator.
    pub fn new(inner: Arc<dyn Accelerator>, sink: Box<dyn PacketSink>) -> Self {
        let shared = Arc::new(Shared {
            sink: Mutex::new(sink),
            sas: RwLock::default(),
        });
        Self { inner, shared }
    }
}

impl Shared {
    fn know(&self, handle: SaHandle, sa: &SaParams) {
        let mut sas = self.sas.write().unwrap_or_else(PoisonError::into_inner);
        sas.insert(handle, (sa.spi.value(), sa.direction));
    }

    fn show<'a>(&self, goes_in: bool, packets: impl Iterator<Item = (SaHandle, u64, &'a Frame)>) {
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let sas = self.sas.read().unwrap_or_else(PoisonError::into_inner);
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gathered = Vec::new();
        for (sa, sequence, frame) in packets {
            let Some(&(spi, direction)) = sas.get(&sa) else {
                continue;
            };
            let side = match (direction, goes_in) {
                (Direction::Outbound, true) | (Direction::Inbound, false) => Side::Plain,
                (Direction::Outbound, false) | (Direction::Inbound, true) => Side::Cipher,
            };
            let octets = if frame.is_chained() {
                gathered.clear();
                frame.gather(&mut gathered);
                &gathered[..]
            } else {
                &frame[..]
            };
            sink.packet(&Seen {
                side,
                direction,
                at,
                sa: None,
                spi,
                sequence,
                octets,
            });
        }
    }
}

impl Accelerator for Captured {
    pass_on!(
        info,
        capabilities,
        register_pool,
        install,
        carried,
        amend,
        usage,
        poll_events,
        event_fd,
        inline,
        counters,
        health
    );

    fn open_queue(&self, config: &QueueConfig) -> Result<Box<dyn QueuePair>, OpenQueueError> {
        let inner = self.inner.open_queue(config)?;
        let shared = self.shared.clone();
        Ok(Box::new(CapturedQueue { inner, shared }))
    }

    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        let handle = self.inner.install_as(sa, cookie)?;
        self.shared.know(handle, sa);
        Ok(handle)
    }

    fn install_many(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        let told = self.inner.install_many(sas);
        for (told, (sa, _)) in told.iter().zip(sas) {
            if let Ok(handle) = told {
                self.shared.know(*handle, sa);
            }
        }
        told
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let usage = self.inner.retire(sa)?;
        let sas = self.shared.sas.write();
        sas.unwrap_or_else(PoisonError::into_inner).remove(&sa);
        Ok(usage)
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.inner.reset()?;
        let sas = self.shared.sas.write();
        sas.unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

struct CapturedQueue {
    inner: Box<dyn QueuePair>,
    shared: Arc<Shared>,
}

impl QueuePair for CapturedQueue {
    fn enqueue(&mut self, ops: &mut Vec<Op>) -> Result<usize, DeviceError> {
        // Shown before the engine changes them in place; one that it does not take is shown again.
        let number = |op: &Op| op.explicit().map_or(0, |explicit| explicit.sequence);
        let packets = ops.iter().map(|op| (op.sa, number(op), &op.frame));
        self.shared.show(true, packets);
        self.inner.enqueue(ops)
    }

    fn kick(&mut self) -> Result<(), DeviceError> {
        self.inner.kick()
    }

    fn dequeue(&mut self, done: &mut Vec<Done>, limit: usize) -> Result<usize, DeviceError> {
        let before = done.len();
        let result = self.inner.dequeue(done, limit);
        let good = done.iter().skip(before).filter(|done| done.status.is_ok());
        self.shared.show(
            false,
            good.map(|done| (done.sa, done.sequence, &done.frame)),
        );
        result
    }

    fn arm(&mut self) -> Result<Arm<'_>, DeviceError> {
        self.inner.arm()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn close(self: Box<Self>) -> Vec<Done> {
        self.inner.close()
    }
}
