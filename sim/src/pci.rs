// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration space (PCI Local Bus 3.0 §6, PCI Express 2.0 §7.8).

use fpga_regs::registers::{
    CLASS_CODE, DEVICE_ID, DOORBELL_PAGE, MSIX_BAR, MSIX_BAR_SIZE, MSIX_PENDING, MSIX_TABLE,
    REGISTER_BAR_SIZE, VENDOR_ID,
};

/// Octets of the configuration space.
pub(crate) const CONFIG_SIZE: usize = 256;
const COMMAND: usize = 0x04;
const BARS: usize = 0x10;
/// The interrupts' capability.
const INTERRUPTS: usize = 0x40;
const EXPRESS: usize = 0x60;
const DEVICE_CONTROL: usize = EXPRESS + 8;
const MEMORY_SPACE: u8 = 1 << 1;
const BUS_MASTER: u8 = 1 << 2;

/// The card's configuration space.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    octets: [u8; CONFIG_SIZE],
    bar_sizes: [u64; 6],
    /// BARs have 64 bits.
    wide: bool,
    interrupts: Interrupts,
}

/// What a configuration space says of its function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) subsystem: u16,
    pub(crate) class_code: u32,
    pub(crate) bar_sizes: [u64; 6],
    /// BARs have 64 bits: each second one is the first one's upper half.
    pub(crate) wide: bool,
    pub(crate) interrupts: Interrupts,
}

/// How a function interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupts {
    /// By one message, to a 64-bit address (PCI Local Bus 3.0 §6.8.1).
    Msi,
    /// By a table of messages, in a BAR as its pending bits are.
    Msix {
        vectors: u16,
        bar: u32,
        table: u32,
        pending: u32,
    },
}

impl Interrupts {
    pub(crate) fn vectors(self) -> u16 {
        match self {
            Self::Msi => 1,
            Self::Msix { vectors, .. } => vectors,
        }
    }
}

impl ConfigSpace {
    /// The ipa card's.
    pub(crate) fn new(vectors: u16, queues: u16) -> Self {
        let doorbells = (u64::from(queues) * DOORBELL_PAGE).next_power_of_two();
        Self::of(&Identity {
            vendor: VENDOR_ID,
            device: DEVICE_ID,
            subsystem: 1,
            class_code: CLASS_CODE,
            bar_sizes: [REGISTER_BAR_SIZE, 0, doorbells, 0, MSIX_BAR_SIZE, 0],
            wide: false,
            interrupts: Interrupts::Msix {
                vectors,
                bar: MSIX_BAR,
                table: MSIX_TABLE as u32,
                pending: MSIX_PENDING as u32,
            },
        })
    }

    pub(crate) fn of(identity: &Identity) -> Self {
        let mut this = Self {
            octets: [0; CONFIG_SIZE],
            bar_sizes: identity.bar_sizes,
            wide: identity.wide,
            interrupts: identity.interrupts,
        };
        this.set(0x00, &identity.vendor.to_le_bytes());
        this.set(0x02, &identity.device.to_le_bytes());
        // Status: a capability list.
        this.set(0x06, &[0x10]);
        // Revision 1, then the class code.
        this.set(0x08, &(identity.class_code << 8 | 1).to_le_bytes());
        this.set(0x2c, &identity.vendor.to_le_bytes());
        this.set(0x2e, &identity.subsystem.to_le_bytes());
        this.set(0x34, &[INTERRUPTS as u8]);
        match identity.interrupts {
            // One message, to a 64-bit address, without masks.
            Interrupts::Msi => this.set(INTERRUPTS, &[0x05, EXPRESS as u8, 0x80, 0]),
            Interrupts::Msix {
                vectors,
                bar,
                table,
                pending,
            } => {
                this.set(INTERRUPTS, &[0x11, EXPRESS as u8]);
                this.set(INTERRUPTS + 2, &(vectors - 1).to_le_bytes());
                this.set(INTERRUPTS + 4, &(table | bar).to_le_bytes());
                this.set(INTERRUPTS + 8, &(pending | bar).to_le_bytes());
            }
        }
        // PCI Express capability version 2, endpoint, with function-level reset.
        this.set(EXPRESS, &[0x10, 0, 0x02, 0]);
        this.set(EXPRESS + 4, &(1u32 << 28 | 1 << 15).to_le_bytes());
        this.size_bars();
        this
    }

    pub(crate) fn bar_size(&self, bar: u32) -> u64 {
        self.bar_sizes.get(bar as usize).copied().unwrap_or(0)
    }

    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        for (octet, at) in data.iter_mut().zip(offset as usize..) {
            *octet = self.octets.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes what can be written and tells whether that was a function-level reset.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let mut reset = false;
        for (value, at) in data.iter().zip(offset as usize..) {
            let (mask, flr) = match at {
                COMMAND => (0x07, false),
                0x05 => (0x04, false),
                0x0c | 0x3c => (0xff, false),
                _ if (BARS..BARS + 24).contains(&at) => (0xff, false),
                _ if (INTERRUPTS..EXPRESS).contains(&at) => (self.interrupts_mask(at), false),
                _ if at == DEVICE_CONTROL => (0xff, false),
                _ if at == DEVICE_CONTROL + 1 => (0x7f, value & 0x80 != 0),
                _ => (0, false),
            };
            if let Some(octet) = self.octets.get_mut(at) {
                *octet = (*octet & !mask) | (value & mask);
            }
            reset |= flr;
        }
        self.size_bars();
        reset
    }

    pub(crate) fn bus_master(&self) -> bool {
        self.command(BUS_MASTER)
    }

    /// Whether the BARs answer.
    pub(crate) fn memory_space(&self) -> bool {
        self.command(MEMORY_SPACE)
    }

    /// Whether the MSI-X capability masks all vectors.
    pub(crate) fn all_masked(&self) -> bool {
        const FUNCTION_MASK: u8 = 1 << 6;
        let control = self.octets.get(INTERRUPTS + 3);
        self.interrupts != Interrupts::Msi
            && control.is_some_and(|control| control & FUNCTION_MASK != 0)
    }

    /// What can be written of an octet of the interrupts' capability.
    fn interrupts_mask(&self, at: usize) -> u8 {
        match (self.interrupts, at - INTERRUPTS) {
            // Enabled; the message's address, without its lowest bits; its data.
            (Interrupts::Msi, 2) => 0x01,
            (Interrupts::Msi, 4) => 0xfc,
            (Interrupts::Msi, 5..14) => 0xff,
            (Interrupts::Msix { .. }, 3) => 0xc0,
            _ => 0,
        }
    }

    fn command(&self, bit: u8) -> bool {
        self.octets
            .get(COMMAND)
            .is_some_and(|command| command & bit != 0)
    }

    /// Low bits of a BAR are fixed: writing ones and reading back tells its size.
    fn size_bars(&mut self) {
        const WIDE: u32 = 2 << 1;
        for (bar, size) in self.bar_sizes.into_iter().enumerate() {
            let at = BARS + bar * 4;
            let mut value = [0; 4];
            self.read(at as u64, &mut value);
            let value = u32::from_le_bytes(value);
            let value = match size {
                0 if self.wide && bar % 2 == 1 => value,
                0 => 0,
                _ if self.wide => value & !(size as u32 - 1) | WIDE,
                _ => value & !(size as u32 - 1),
            };
            self.set(at, &value.to_le_bytes());
        }
    }

    fn set(&mut self, offset: usize, value: &[u8]) {
        if let Some(octets) = self.octets.get_mut(offset..offset + value.len()) {
            octets.copy_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_tell_their_size_and_capabilities_are_chained() {
        let mut config = ConfigSpace::new(9, 8);
        config.write(0x10, &[0xff; 24]);
        let mut bars = [0; 24];
        config.read(0x10, &mut bars);
        let bar = |n: usize| u32::from_le_bytes(bars[n * 4..n * 4 + 4].try_into().unwrap());
        assert_eq!(!bar(0) as u64 + 1, REGISTER_BAR_SIZE);
        assert_eq!(!bar(2) as u64 + 1, 8 * DOORBELL_PAGE);
        assert_eq!(bar(1), 0);
        let mut at = [0x34u8; 1];
        config.read(at[0].into(), &mut at);
        let mut seen = Vec::new();
        while at[0] != 0 {
            let mut capability = [0; 2];
            config.read(at[0].into(), &mut capability);
            seen.push(capability[0]);
            at[0] = capability[1];
        }
        assert_eq!(seen, [0x11, 0x10]);
    }

    #[test]
    fn read_only_fields_stay_and_flr_is_seen() {
        let mut config = ConfigSpace::new(2, 1);
        assert!(!config.write(0, &[0xff; 4]));
        let mut id = [0; 2];
        config.read(0, &mut id);
        assert_eq!(u16::from_le_bytes(id), VENDOR_ID);
        assert!(config.write(DEVICE_CONTROL as u64 + 1, &[0x80]));
        assert!(!config.bus_master());
        config.write(4, &[6]);
        assert!(config.bus_master());
        config.write(CONFIG_SIZE as u64 + 9, &[1, 2, 3]);
    }

    #[test]
    fn msi_takes_a_message_s_address_and_data_and_nothing_else() {
        let mut config = ConfigSpace::of(&Identity {
            vendor: 1,
            device: 2,
            subsystem: 3,
            class_code: 0,
            bar_sizes: [0x1000, 0, 0, 0, 0, 0],
            wide: true,
            interrupts: Interrupts::Msi,
        });
        config.write(INTERRUPTS as u64, &[0xff; EXPRESS - INTERRUPTS]);
        let mut capability = [0; EXPRESS - INTERRUPTS];
        config.read(INTERRUPTS as u64, &mut capability);
        assert_eq!(capability[..4], [0x05, EXPRESS as u8, 0x81, 0]);
        assert_eq!(capability[4], 0xfc);
        assert_eq!(capability[5..14], [0xff; 9]);
        assert_eq!(capability[14..], [0; EXPRESS - INTERRUPTS - 14]);
        assert!(!config.all_masked());
    }
}
