// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The key mailbox: a key that comes by registers, and by no memory of the driver
//! (docs/device-abi.md, "Security associations"). A card in RTL has its own (`ipa_mailbox.sv`).

use fpga_regs::admin::CommandStatus;
use fpga_regs::context::SaContext;
use fpga_regs::registers::{MailboxCommand, MailboxState, key_mailbox};
use offload_api::sa::{Cipher, Integrity, Suite};
use zeroize::Zeroizing;

use crate::card::Core;

/// Words of a key.
const WORDS: usize = key_mailbox::WORDS as usize;
/// Bits of the words of a key of 16 octets, and of the salt.
const HALF: u16 = 0x10f;
const ALL: u16 = 0x1ff;

/// Words that were written, the salt's behind the key's, and what they make.
pub(crate) struct Mailbox {
    words: Zeroizing<[u32; WORDS + 1]>,
    there: u16,
    state: MailboxState,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self {
            words: Zeroizing::default(),
            there: 0,
            state: MailboxState::Empty,
        }
    }
}

impl Mailbox {
    pub(crate) fn state(&self) -> MailboxState {
        self.state
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// A write to one of its registers, if it is one.
    pub(crate) fn write(&mut self, register: u64, value: u32) {
        if register == key_mailbox::COMMAND {
            self.command(MailboxCommand::from_bits_truncate(value));
            return;
        }
        let word = register.checked_sub(key_mailbox::KEY).map(|at| at / 4);
        let Some(place) = word.and_then(|word| self.words.get_mut(word as usize)) else {
            return;
        };
        *place = value;
        // Another key begins.
        if self.is_loaded() {
            self.there = 0;
        }
        self.there |= 1 << ((register - key_mailbox::KEY) / 4);
        self.state = MailboxState::Empty;
    }

    fn is_loaded(&self) -> bool {
        matches!(self.state, MailboxState::Key128 | MailboxState::Key256)
    }

    fn command(&mut self, command: MailboxCommand) {
        let (wanted, loaded) = if command.contains(MailboxCommand::CLEAR) {
            return self.clear();
        } else if command.contains(MailboxCommand::LOAD_256) {
            (ALL, MailboxState::Key256)
        } else if command.contains(MailboxCommand::LOAD_128) {
            (HALF, MailboxState::Key128)
        } else {
            return;
        };
        if self.there & wanted == wanted {
            self.state = loaded;
        } else {
            self.clear();
            self.state = MailboxState::Incomplete;
        }
    }
}

impl Core {
    /// Puts the mailbox's key into an SA's context, if it fits; a card in RTL only looks whether it does.
    pub(crate) fn key_by_mailbox(&mut self, sa: &mut SaContext) -> Result<(), CommandStatus> {
        let keys = [&sa.salt[..], &sa.cipher_key, &sa.integrity_key];
        if keys.iter().any(|key| key.iter().any(|octet| *octet != 0)) {
            return Err(CommandStatus::BadField);
        }
        let cipher = Cipher::from_code(sa.cipher).ok_or(CommandStatus::Unsupported)?;
        let integrity = Integrity::from_code(sa.integrity).ok_or(CommandStatus::Unsupported)?;
        let suite = Suite::new(cipher, integrity).map_err(|_| CommandStatus::Unsupported)?;
        let wanted = match (suite.cipher_key_len(), suite.integrity_key_len()) {
            (16, 0) => MailboxState::Key128,
            (32, 0) => MailboxState::Key256,
            _ => return Err(CommandStatus::Unsupported),
        };
        let state = match self.rtl {
            Some(_) => self.rtl_mailbox(),
            None => self.mailbox.state(),
        };
        if state != wanted {
            return Err(CommandStatus::KeyMissing);
        }
        if self.rtl.is_none()
            && let Some((salt, key)) = self.mailbox.words.split_last()
        {
            sa.salt = salt.to_le_bytes();
            let places = sa.cipher_key.chunks_exact_mut(4);
            let len = suite.cipher_key_len() / 4;
            for (place, word) in places.zip(key.iter().take(len)) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        Ok(())
    }

    /// A command that was to take the mailbox's key leaves none there, whatever becomes of it.
    pub(crate) fn clear_mailbox(&mut self) {
        self.mailbox.clear();
        self.rtl_clear_mailbox();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u16 = WORDS as u16;

    fn written(words: impl IntoIterator<Item = u16>) -> Mailbox {
        let mut mailbox = Mailbox::default();
        for word in words {
            mailbox.write(key_mailbox::KEY + 4 * u64::from(word), 0x1111_1111);
        }
        mailbox
    }

    fn load(mailbox: &mut Mailbox, command: MailboxCommand) -> MailboxState {
        mailbox.write(key_mailbox::COMMAND, command.bits());
        mailbox.state()
    }

    #[test]
    fn a_key_is_loaded_only_with_all_its_words_and_its_salt() {
        let (half, all) = (MailboxCommand::LOAD_128, MailboxCommand::LOAD_256);
        let missing = MailboxState::Incomplete;
        assert_eq!(load(&mut written(0..9), all), MailboxState::Key256);
        assert_eq!(load(&mut written(0..8), all), missing);
        assert_eq!(load(&mut written((0..7).chain([SALT])), all), missing);
        let mut short = written((0..4).chain([SALT]));
        assert_eq!(load(&mut short, half), MailboxState::Key128);
        // Loaded already; but a word of another key empties it.
        assert_eq!(load(&mut short, half), MailboxState::Key128);
        short.write(key_mailbox::SALT, 1);
        assert_eq!(short.state(), MailboxState::Empty);
        assert_eq!(load(&mut short, half), missing);
        assert_eq!(short.words, Zeroizing::default());
        let mut full = written(0..9);
        assert_eq!(
            load(&mut full, all | MailboxCommand::CLEAR),
            MailboxState::Empty
        );
        assert_eq!(full.words, Zeroizing::default());
    }
}
