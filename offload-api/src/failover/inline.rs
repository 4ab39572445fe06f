// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules of a device in inline mode, under the failover's handles. There is no falling back: an SA
//! that is led through the device's ports is installed at a named level.

use super::Failover;
use crate::error::{DeviceError, SaError};
use crate::inline::{Inline, Port, Rule, RuleHandle};
use crate::sa::{SaHandle, SaUsage};

impl Failover {
    /// What an SA has done by the device's own count: in inline mode packets pass nobody else.
    ///
    /// # Errors
    /// [`SaError::Stale`] when the SA is not in the device; the device is gone.
    pub fn device_usage(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        let (life, handle) = self.in_device(sa)?;
        let used = self
            .shared
            .with_device(life, |primary| primary.usage(handle));
        used.unwrap_or(Err(SaError::Stale))
    }

    /// Its handle in the device, and in which life.
    fn in_device(&self, sa: SaHandle) -> Result<(u64, SaHandle), SaError> {
        self.shared.sa(sa)?.device_handle().ok_or(SaError::Stale)
    }

    fn with_inline<R>(
        &self,
        life: u64,
        command: impl FnOnce(&dyn Inline) -> Result<R, SaError>,
    ) -> Result<R, SaError> {
        let gone = || DeviceError::Gone {
            reason: self.shared.device_absence(),
        };
        let result = self.shared.with_device(life, |primary| {
            primary.inline().map(command).unwrap_or(Err(NOT_INLINE))
        });
        let result = result.unwrap_or_else(|| Err(gone().into()));
        if let Err(SaError::Device(error)) = &result {
            self.shared.lost(life, &error.to_string());
        }
        result
    }
}

const NOT_INLINE: SaError = SaError::NotApplicable {
    what: "the device is not in inline mode",
};

impl Inline for Failover {
    fn add_rule(&self, rule: &Rule) -> Result<RuleHandle, SaError> {
        let (life, sa) = self.in_device(rule.sa)?;
        self.with_inline(life, |inline| inline.add_rule(&Rule { sa, ..*rule }))
    }

    fn remove_rule(&self, rule: RuleHandle) -> Result<(), SaError> {
        self.with_inline(self.shared.life(), |inline| inline.remove_rule(rule))
    }

    fn ports(&self) -> Result<Vec<Port>, SaError> {
        self.with_inline(self.shared.life(), |inline| inline.ports())
    }
}
