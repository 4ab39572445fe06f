// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registers of a BAR: a card that is gone reads as all ones, and that is an error here.

use offload_api::error::DeviceError;

use crate::transport::Transport;

/// The registers of one BAR.
#[derive(Clone, Copy)]
pub struct Registers<'device> {
    transport: &'device dyn Transport,
    bar: u32,
}

impl<'device> Registers<'device> {
    /// The registers of a BAR.
    pub fn new(transport: &'device dyn Transport, bar: u32) -> Self {
        Self { transport, bar }
    }

    /// Reads a 32-bit register.
    ///
    /// # Errors
    /// [`DeviceError::Gone`] for all ones, or the transport's.
    pub fn read(&self, offset: u64) -> Result<u32, DeviceError> {
        match self.read_any(offset)? {
            u32::MAX => Err(DeviceError::Gone {
                reason: format!("register {offset:#x} reads all ones"),
            }),
            value => Ok(value),
        }
    }

    /// Reads a 32-bit register that may hold all ones.
    ///
    /// # Errors
    /// The transport's.
    pub fn read_any(&self, offset: u64) -> Result<u32, DeviceError> {
        let mut value = [0; 4];
        self.transport.read(self.bar, offset, &mut value)?;
        Ok(u32::from_le_bytes(value))
    }

    /// Reads a 64-bit register, low half first: that latches the high one.
    ///
    /// # Errors
    /// The transport's.
    pub fn read_wide(&self, offset: u64) -> Result<u64, DeviceError> {
        let low = self.read_any(offset)?;
        let high = self.read_any(offset + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// Writes a 32-bit register.
    ///
    /// # Errors
    /// The transport's.
    pub fn write(&self, offset: u64, value: u32) -> Result<(), DeviceError> {
        self.transport.write(self.bar, offset, &value.to_le_bytes())
    }

    /// Writes a 32-bit register without waiting.
    ///
    /// # Errors
    /// The transport's.
    pub fn write_posted(&self, offset: u64, value: u32) -> Result<(), DeviceError> {
        self.transport
            .write_posted(self.bar, offset, &value.to_le_bytes())
    }

    /// Writes a 64-bit register, low half first.
    ///
    /// # Errors
    /// The transport's.
    pub fn write_wide(&self, offset: u64, value: u64) -> Result<(), DeviceError> {
        self.write(offset, value as u32)?;
        self.write(offset + 4, (value >> 32) as u32)
    }
}
