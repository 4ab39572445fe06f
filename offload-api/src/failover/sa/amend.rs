// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What changes of an SA while it lives, in each engine that has it.

use std::sync::atomic::Ordering;

use super::*;

impl Sa {
    pub(in crate::failover) fn amend(
        &self,
        shared: &Shared,
        change: &Amend,
    ) -> Result<(), SaError> {
        let mut control = self.control();
        let moves = match change {
            Amend::Outer(_) => self.verifier.as_deref(),
            _ => None,
        };
        // Until all engines have it, packets go out, and are looked at, by either.
        moves.into_iter().for_each(Verifier::moves);
        let amended = self.amend_engines(shared, &mut control, change);
        moves.into_iter().for_each(Verifier::moves);
        amended
    }

    fn amend_engines(
        &self,
        shared: &Shared,
        control: &mut Control,
        change: &Amend,
    ) -> Result<(), SaError> {
        if let Some(entry) = control.entry() {
            entry.is_outdated();
        }
        let (mut in_software, mut in_device) = (change.clone(), change.clone());
        match change {
            Amend::Grant(_) | Amend::Revoke => {
                return Err(SaError::NotApplicable {
                    what: "grants are the failover's own",
                });
            }
            Amend::Outer(outer) => {
                if let Some(kept) = &mut control.kept {
                    kept.params.outer = Some(*outer);
                }
                self.note_path(shared, outer);
                if let Some(verifier) = &self.verifier {
                    verifier.amend(shared, change);
                }
            }
            Amend::Replay(seen) => {
                if let Some(shadow) = &self.shadow {
                    lock(shadow).merge(seen);
                }
            }
            Amend::Lifetimes(lifetimes) => {
                self.soft_told.store(false, Ordering::Release);
                self.hard_told.store(false, Ordering::Release);
                self.record_engine(shared, self.engine());
                if let Some(kept) = &mut control.kept {
                    kept.params.lifetimes = *lifetimes;
                    let (usage, age) = &kept.before_device;
                    in_device = Amend::Lifetimes(lifetimes_left(lifetimes, usage, *age));
                }
                if let Some(software) = self.software {
                    let left = self.lifetimes_in_software(shared, software, lifetimes);
                    in_software = Amend::Lifetimes(left);
                }
            }
        }
        if let Some(handle) = self.software {
            shared.software.amend(handle, &in_software)?;
        }
        let life = self.device_life.load(Ordering::Acquire);
        let device = unpack(self.device.load(Ordering::Acquire));
        if self.route.load().place == Place::Device || self.is_moving() {
            match shared.with_device(life, |primary| primary.amend(device, &in_device)) {
                Some(Err(SaError::Device(error))) => shared.lost(life, &error.to_string()),
                Some(Err(error)) => return Err(error),
                Some(Ok(())) | None => {}
            }
        }
        Ok(())
    }
}
