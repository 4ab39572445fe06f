// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ipa card.

mod admin;
mod carried;
mod context;
mod events;
pub mod flights;
mod inline;
pub mod inspect;
mod life;
mod mailbox;
mod queue;
mod watchdog;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fpga_regs::admin::{CommandStatus, Opcode};
use fpga_regs::context::{SaContext, Usage};
use fpga_regs::registers::statistics;
use offload_api::capability::{Capabilities, Features};
use offload_api::carried::CarriedSa;
use offload_api::device::{Accelerator, AcceleratorInfo, Counters, Health};
use offload_api::error::{
    DeviceError, InstallError, InvalidSa, OpenQueueError, SaError, Unsupported,
};
use offload_api::event::Event;
use offload_api::frame::FramePool;
use offload_api::inline::Inline;
use offload_api::queue::{QueueConfig, QueuePair};
use offload_api::sa::{Amend, SaHandle, SaParams, SaUsage};
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use crate::counters::add;
use crate::lock;
use crate::transport::Transport;
use admin::Answer;
use context::KeyWay;
use life::{Life, Start};

/// Connects to the card, each time anew.
type Connector = Box<dyn Fn() -> Result<Box<dyn Transport>, DeviceError> + Send + Sync>;

/// Whether a card may seal and open nothing, which is for measuring only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NullCrypto {
    Refused,
    Allowed,
}

/// An ipa card. It survives the loss of its device: see [`Accelerator::reset`].
pub struct IpaCard {
    name: String,
    connect: Connector,
    null_crypto: NullCrypto,
    capabilities: Capabilities,
    /// Locked for writing only to exchange it: nobody waits for a reset.
    life: RwLock<Arc<Life>>,
    /// Held by a reset.
    resetting: Mutex<()>,
    /// Counters of lives that are over.
    past: Mutex<Counters>,
    lives: AtomicU64,
}

impl IpaCard {
    /// Opens a card by a connector.
    ///
    /// # Errors
    /// It is not there, is no ipa card, speaks another ABI, or seals nothing.
    pub fn open(name: String, connect: Connector) -> Result<Self, DeviceError> {
        Self::with(
            name,
            connect()?,
            connect,
            Start::Afresh,
            NullCrypto::Refused,
        )
    }

    /// As [`open`](Self::open), also for a card that seals and opens nothing: to measure the way to it
    /// and back.
    ///
    /// # Errors
    /// It is not there, is no ipa card, or speaks another ABI.
    pub fn open_null_crypto(name: String, connect: Connector) -> Result<Self, DeviceError> {
        Self::with(
            name,
            connect()?,
            connect,
            Start::Afresh,
            NullCrypto::Allowed,
        )
    }

    /// Goes on with a card that an earlier process has left behind, by a transport that was kept for it:
    /// what it carries stays, and [`Accelerator::carried`] tells it. A later loss opens it by the
    /// connector.
    ///
    /// # Errors
    /// It is no ipa card, has failed, is too old, or seals nothing. All but the last can be opened anew.
    pub fn attach(
        name: String,
        transport: Box<dyn Transport>,
        connect: Connector,
    ) -> Result<Self, DeviceError> {
        Self::with(name, transport, connect, Start::Again, NullCrypto::Refused)
    }

    fn with(
        name: String,
        transport: Box<dyn Transport>,
        connect: Connector,
        start: Start,
        null_crypto: NullCrypto,
    ) -> Result<Self, DeviceError> {
        let life = Life::begin(transport, 1, start, null_crypto)?;
        Ok(Self {
            name,
            connect,
            null_crypto,
            capabilities: life.capabilities.clone(),
            life: RwLock::new(life),
            resetting: Mutex::default(),
            past: Mutex::default(),
            lives: AtomicU64::new(1),
        })
    }

    /// Copies of what to keep open, by name, so that a later process can [`attach`](Self::attach); other
    /// ones after each reset. Nothing where the transport can't be kept.
    ///
    /// # Errors
    /// The card is lost, or this process may have no more descriptors.
    pub fn kept(&self) -> Result<Vec<(&'static str, OwnedFd)>, DeviceError> {
        let life = self.life();
        life.check()?;
        let copies = life.transport.kept().into_iter().map(|(name, fd)| {
            let copy = fd.try_clone_to_owned().map_err(|error| DeviceError::Host {
                what: "keeping a card's connection",
                error: error.to_string(),
            })?;
            Ok((name, copy))
        });
        copies.collect()
    }

    /// How often it was opened, attaching included.
    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Treats the device as lost: what it has comes back as aborted, and [`Accelerator::reset`] opens it
    /// anew. For whoever wants a reset that everybody above notices.
    pub fn give_up(&self, reason: &str) {
        self.life().lose(reason);
    }

    fn life(&self) -> Arc<Life> {
        self.life
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn command(
        life: &Life,
        sa: SaHandle,
        opcode: Opcode,
        arguments: [u64; 5],
        payload: &[u8],
    ) -> Result<Answer, SaError> {
        let generation = life.card_generation(sa).ok_or(SaError::Stale)?;
        let answer = life.command(opcode, sa.index, generation, arguments, payload)?;
        match answer.status {
            CommandStatus::Ok => Ok(answer),
            CommandStatus::Stale => Err(SaError::Stale),
            CommandStatus::GrantBehind => Err(SaError::GrantBehind {
                expected: answer.value,
                found: arguments[0],
            }),
            CommandStatus::NotApplicable => Err(SaError::NotApplicable {
                what: "the change does not fit the SA's direction",
            }),
            // `amend` has checked everything but the end of a 32-bit space, which the card knows.
            CommandStatus::BadField if opcode == Opcode::SaGrant => Err(InvalidSa::Grant {
                first: arguments[0],
                last: arguments[1],
                end: u64::from(u32::MAX),
            }
            .into()),
            status => Err(DeviceError::Protocol {
                what: format!("{opcode:?}: {status:?}"),
            }
            .into()),
        }
    }

    /// What the card said to an SA.
    fn added(
        &self,
        life: &Life,
        sa: &SaParams,
        status: CommandStatus,
        (index, generation): (u32, u32),
    ) -> Result<SaHandle, InstallError> {
        match status {
            CommandStatus::Ok => Ok(life.adopt(index, generation)),
            CommandStatus::TableFull => Err(InstallError::TableFull {
                capacity: self.capabilities.max_sas,
            }),
            CommandStatus::Unsupported => Err(Unsupported::Suite { suite: sa.suite }.into()),
            status => Err(DeviceError::Protocol {
                what: format!("SA refused: {status:?}"),
            }
            .into()),
        }
    }

    /// Installs as many SAs as one command takes.
    fn install_chunk(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        let life = self.life();
        let check = |sa: &SaParams| -> Result<(), InstallError> {
            sa.validate()?;
            Ok(self.capabilities.check(sa)?)
        };
        let checked: Vec<_> = sas.iter().map(|(sa, _)| check(sa)).collect();
        let mut contexts = Zeroizing::new(Vec::with_capacity(sas.len() * size_of::<SaContext>()));
        for ((sa, cookie), _) in sas.iter().zip(&checked).filter(|(_, good)| good.is_ok()) {
            contexts.extend_from_slice(&context::encode(sa, *cookie, KeyWay::Context));
        }
        let added = if contexts.is_empty() {
            Ok(Vec::new())
        } else {
            life.add_bulk(&contexts)
        };
        let mut added = added.map(Vec::into_iter);
        let told = sas.iter().zip(checked).map(|((sa, _), checked)| {
            checked?;
            let added = added.as_mut().map_err(|error| error.clone())?.next();
            let status = added.and_then(|added| CommandStatus::from_code(added.status));
            let (Some(added), Some(status)) = (added, status) else {
                let what = "no answer to an SA".to_owned();
                return Err(DeviceError::Protocol { what }.into());
            };
            let place = (added.index.get(), added.generation.get());
            self.added(&life, sa, status, place)
        });
        told.collect()
    }

    fn usage_command(life: &Life, sa: SaHandle, opcode: Opcode) -> Result<SaUsage, SaError> {
        let answer = Self::command(life, sa, opcode, [0; 5], &[0; size_of::<Usage>()])?;
        let usage = Usage::read_from_prefix(&answer.payload).map(|(usage, _)| usage);
        let usage = usage.map_err(|_| DeviceError::Protocol {
            what: "usage payload".to_owned(),
        })?;
        Ok(context::usage(&usage))
    }
}

impl Accelerator for IpaCard {
    fn info(&self) -> AcceleratorInfo {
        let life = self.life();
        AcceleratorInfo {
            name: self.name.clone(),
            product: "ipa IPsec accelerator".to_owned(),
            driver: life.transport.name().to_owned(),
            firmware: life.firmware.clone(),
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
        let queue = queue::IpaQueue::open(self.life(), config.depth)?;
        Ok(Box::new(queue))
    }

    fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.install_as(sa, 0)
    }

    fn install_as(&self, sa: &SaParams, cookie: u64) -> Result<SaHandle, InstallError> {
        sa.validate()?;
        self.capabilities.check(sa)?;
        let life = self.life();
        let answer = life.add(sa, cookie)?;
        self.added(&life, sa, answer.status, (answer.index, answer.generation))
    }

    fn install_many(&self, sas: &[(&SaParams, u64)]) -> Vec<Result<SaHandle, InstallError>> {
        // By the key mailbox, which is slower than one command for many, but not for one.
        if let [(sa, cookie)] = sas {
            return vec![self.install_as(sa, *cookie)];
        }
        sas.chunks(admin::BULK)
            .flat_map(|sas| self.install_chunk(sas))
            .collect()
    }

    fn carried(&self, from: u32, most: usize) -> Result<Vec<CarriedSa>, DeviceError> {
        carried::carried(&self.life(), from, most)
    }

    fn amend(&self, sa: SaHandle, change: &Amend) -> Result<(), SaError> {
        let life = self.life();
        let command = |opcode, arguments, payload: &[u8]| {
            Self::command(&life, sa, opcode, arguments, payload).map(drop)
        };
        match change {
            Amend::Grant(grant) => {
                life.card_generation(sa).ok_or(SaError::Stale)?;
                grant.check(true)?;
                command(Opcode::SaGrant, [grant.first, grant.last, 0, 0, 0], &[])
            }
            Amend::Revoke => command(Opcode::SaRevoke, [0; 5], &[]),
            Amend::Replay(seen) => {
                command(Opcode::SaReplay, [0; 5], context::replay(seen).as_bytes())
            }
            Amend::Lifetimes(limits) => command(
                Opcode::SaLifetimes,
                [0; 5],
                context::lifetimes(limits).as_bytes(),
            ),
            Amend::Outer(outer) => {
                command(Opcode::SaOuter, [0; 5], context::outer(outer).as_bytes())
            }
        }
    }

    fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let life = self.life();
        let usage = Self::usage_command(&life, sa, Opcode::SaRetire)?;
        life.forget(sa);
        Ok(usage)
    }

    fn usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        Self::usage_command(&self.life(), sa, Opcode::SaUsage)
    }

    fn poll_events(&self, out: &mut Vec<Event>) -> usize {
        let life = self.life();
        let before = out.len();
        life.drain_events(|event| {
            let sa = life.handle(event.sa_index.get(), event.sa_generation.get());
            out.extend(events::decode(&event, sa));
        });
        out.len() - before
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn inline(&self) -> Option<&dyn Inline> {
        let inline = self.capabilities.features.contains(Features::INLINE);
        inline.then_some(self)
    }

    fn counters(&self) -> Counters {
        // Both at once, so that a reset between counts a life neither twice nor not at all.
        let past = lock(&self.past);
        let (past, life) = (*past, self.life());
        add(past, life.counters())
    }

    fn health(&self) -> Health {
        match self.life().lost_reason() {
            Some(reason) => Health::Lost { reason },
            None => Health::Ok,
        }
    }

    fn reset(&self) -> Result<(), DeviceError> {
        let _alone = lock(&self.resetting);
        let old = self.life();
        let counters = old.counters();
        old.end("reset");
        // A new life even where the device never left: nothing of the old one can leak into it.
        let number = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
        let transport = (self.connect)()?;
        let life = Life::begin(transport, number, Start::Afresh, self.null_crypto)?;
        if life.capabilities != self.capabilities {
            life.end("capabilities differ");
            return Err(DeviceError::Protocol {
                what: "the card came back with other capabilities".to_owned(),
            });
        }
        let mut past = lock(&self.past);
        *past = add(*past, Counters { sas: 0, ..counters });
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = life;
        Ok(())
    }
}

/// The card's own counters.
const STATISTICS: [u64; 6] = [
    statistics::SEALED,
    statistics::SEALED_BYTES,
    statistics::OPENED,
    statistics::OPENED_BYTES,
    statistics::ERRORS,
    statistics::SAS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_card_that_claims_too_much_do_not_overflow() {
        let most = Counters {
            sealed: u64::MAX,
            sas: u64::MAX,
            ..Counters::default()
        };
        let sum = add(most, most);
        assert_eq!((sum.sealed, sum.sas, sum.opened), (u64::MAX, u64::MAX, 0));
    }
}
