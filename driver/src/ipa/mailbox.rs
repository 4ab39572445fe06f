// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA whose key goes to the card's mailbox, by registers, and so through no memory that the card reads
//! (docs/device-abi.md, "Keys by mailbox").

use fpga_regs::admin::Opcode;
use fpga_regs::registers::{MailboxCommand, key_mailbox};
use offload_api::error::DeviceError;
use offload_api::sa::{KeyMaterial, SaParams, Suite};
use zeroize::Zeroizing;

use super::admin::Answer;
use super::context::{self, KeyWay};
use super::life::Life;
use crate::bar::Registers;
use crate::lock;

impl Life {
    /// Adds an SA, its key by the card's mailbox where there is one and the key fits it.
    pub(super) fn add(&self, sa: &SaParams, cookie: u64) -> Result<Answer, DeviceError> {
        if !self.key_mailbox || !fits(sa.suite) {
            let context = context::encode(sa, cookie, KeyWay::Context);
            return self.command(Opcode::SaAdd, 0, 0, [0; 5], &context);
        }
        self.check()?;
        let context = context::encode(sa, cookie, KeyWay::Mailbox);
        let registers = self.registers();
        // Whoever else adds an SA waits, so that no other key comes in between.
        let mut admin = lock(&self.admin);
        let added = leave(&registers, &sa.keys)
            .and_then(|()| admin.run(&registers, Opcode::SaAdd, 0, 0, [0; 5], &context));
        if added.is_err() {
            // The command may not have come to take it.
            let _ = registers.write_posted(key_mailbox::COMMAND, MailboxCommand::CLEAR.bits());
        }
        drop(admin);
        self.judge(added)
    }
}

/// Whether the mailbox takes keys of this kind: of AEADs, of 16 or 32 octets.
fn fits(suite: Suite) -> bool {
    matches!(
        (suite.cipher_key_len(), suite.integrity_key_len()),
        (16 | 32, 0)
    )
}

/// Writes a key and its salt, and says that it is there. Nothing waits for these writes but the doorbell of
/// the command, which comes behind them.
fn leave(registers: &Registers<'_>, keys: &KeyMaterial) -> Result<(), DeviceError> {
    let words = keys.cipher.chunks_exact(4);
    let places = (key_mailbox::KEY..key_mailbox::SALT).step_by(4);
    let salt = (&keys.salt[..], key_mailbox::SALT);
    for (word, register) in words.zip(places).chain([salt]) {
        let mut octets = Zeroizing::new([0; 4]);
        octets.copy_from_slice(word);
        registers.write_posted(register, u32::from_le_bytes(*octets))?;
    }
    let load = match keys.cipher.len() {
        16 => MailboxCommand::LOAD_128,
        _ => MailboxCommand::LOAD_256,
    };
    registers.write_posted(key_mailbox::COMMAND, load.bits())
}
