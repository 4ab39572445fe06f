// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs enter a device that has returned: many with one command, each with what it needs to take over,
//! so that one that rests meanwhile needs no word more.
//!
//! A device may hang over such a command. No SA is held meanwhile: it goes on in software, may be
//! changed or retired, and whoever comes back from the device looks at what has become of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{OffloadLevel, Sa};
use crate::error::{DeviceError, InstallError, SaError};
use crate::event::Engine;
use crate::failover::reconcile::cookie;
use crate::failover::route::Place;
use crate::failover::{Shared, lock};
use crate::replay::ReplaySnapshot;
use crate::sa::{Grant, Numbering, SaHandle, SaParams, SaUsage};

/// SAs that are given to the device at once.
const AT_ONCE: usize = 64;

/// How far an SA's installation in a device that has returned is, and what the device got by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Entry {
    /// There is none, or the device was given nothing to start with.
    #[default]
    None,
    /// It is on its way.
    Begun,
    /// It is on its way, and the SA has changed meanwhile.
    Outdated,
    /// The device has a block of numbers to start with.
    Numbers(Grant),
    /// The device knows of what was delivered then.
    Window(ReplaySnapshot),
}

impl Entry {
    /// The SA is changed.
    pub(super) fn is_outdated(&mut self) {
        if *self == Self::Begun {
            *self = Self::Outdated;
        }
    }
}

/// An SA that is given to the device.
struct Entering<'a> {
    handle: SaHandle,
    sa: &'a Sa,
    params: SaParams,
    before: (SaUsage, Duration),
    given: Entry,
}

/// Installs SAs in a device that has returned; each moves there when nothing of it is on its way.
///
/// # Errors
/// The device is lost again.
pub(in crate::failover) fn enter_device(
    shared: &Shared,
    sas: &[(SaHandle, Arc<Sa>)],
) -> Result<(), DeviceError> {
    let life = shared.life();
    let gone = || DeviceError::Gone {
        reason: shared.device_absence(),
    };
    for sas in sas.chunks(AT_ONCE) {
        if life.is_multiple_of(2) || shared.life() != life {
            return Err(gone());
        }
        let entering: Vec<_> = sas
            .iter()
            .filter_map(|(handle, sa)| sa.begin_entry(shared, *handle, life))
            .collect();
        if entering.is_empty() {
            continue;
        }
        let many: Vec<_> = entering
            .iter()
            .map(|entering| (&entering.params, cookie(entering.sa.slot)))
            .collect();
        let told = shared.with_device(life, |primary| primary.install_many(&many));
        let no_answer = match told {
            Some(_) => DeviceError::Protocol {
                what: "no answer to an SA".to_owned(),
            },
            None => gone(),
        };
        let mut told = told.unwrap_or_default().into_iter();
        let mut lost = None;
        for entering in &entering {
            let told = told.next().unwrap_or_else(|| Err(no_answer.clone().into()));
            if let Err(error) = entering.sa.end_entry(shared, life, entering, told) {
                lost.get_or_insert(error);
            }
        }
        if let Some(error) = lost {
            shared.lost(life, &error.to_string());
            return Err(error);
        }
        for Entering { handle, sa, .. } in &entering {
            if sa.is_moving() {
                sa.finish_move(shared, *handle);
            }
        }
    }
    Ok(())
}

impl Sa {
    /// What the device is to install, if the SA is to go there.
    fn begin_entry(&self, shared: &Shared, handle: SaHandle, life: u64) -> Option<Entering<'_>> {
        let primary = shared.primary.as_ref()?;
        let mut control = self.control();
        let stay = self.route.load();
        if self.level == OffloadLevel::No
            || self.keyless
            || matches!(control.entry(), Some(Entry::Begun | Entry::Outdated))
            // It is there, and was left with software for want of numbers.
            || self.device_life.load(Ordering::Acquire) == life
            || self.retired.load(Ordering::Acquire)
            || self.moving.load(Ordering::Acquire)
            || !matches!(stay.place, Place::Software | Place::Nowhere)
        {
            return None;
        }
        let (numbering, mut given) = if self.granted {
            // Software would abandon what is left of its block if its next one did not continue it, so a
            // block is put by only where it needs no next one. That none is left is told at the move.
            let rests = stay.count == 0;
            let ahead = rests.then(|| self.reserve_ahead(shared).ok()).flatten();
            let given = ahead.map_or(Entry::None, Entry::Numbers);
            (Numbering::Granted(ahead), given)
        } else {
            (control.kept.as_ref()?.params.numbering, Entry::None)
        };
        let (params, before) = self.for_device(&control, numbering)?;
        if let Some(seen) = params
            .replay_state
            .clone()
            .filter(|_| self.guards_replays())
        {
            given = Entry::Window(seen);
        }
        if let Err(error) = self.check_for(primary.capabilities(), &params) {
            // This SA stays in software; others may fit.
            control.reason = Some(error.to_string().into());
            return None;
        }
        control.set_entry(Entry::Begun);
        Some(Entering {
            handle,
            sa: self,
            params,
            before,
            given,
        })
    }

    /// Takes note of what the device said.
    ///
    /// # Errors
    /// The device is lost.
    fn end_entry(
        &self,
        shared: &Shared,
        life: u64,
        entering: &Entering<'_>,
        told: Result<SaHandle, InstallError>,
    ) -> Result<(), DeviceError> {
        let mut control = self.control();
        let entry = control.take_entry();
        let device = match told {
            Ok(device) => device,
            Err(error) => {
                control.reason = Some(error.to_string().into());
                return match error {
                    InstallError::Device(error) => {
                        shared.strays.store(true, Ordering::Release);
                        Err(error)
                    }
                    // This SA stays in software; others may fit.
                    _ => Ok(()),
                };
            }
        };
        if entry != Entry::Begun || self.retired.load(Ordering::Acquire) {
            // It is another one by now: what the device has is of no use, and the next tick looks again.
            drop(control);
            shared.strays.store(true, Ordering::Release);
            let retired = shared.with_device(life, |primary| primary.retire(device));
            return match retired {
                Some(Err(SaError::Device(error))) => Err(error),
                _ => Ok(()),
            };
        }
        self.is_installed(&mut control, life, device, entering.before);
        control.set_entry(entering.given.clone());
        lock(&shared.names).insert(Engine::Device, device, entering.handle);
        self.moving.store(true, Ordering::Release);
        Ok(())
    }
}
