// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the card has a key mailbox, a key that is installed lies in no memory that the card reads.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use driver::ipa::IpaCard;
use driver::transport::user::UserTransport;
use driver::transport::{MappedRegion, Transport};
use fpga_regs::registers::{
    CardFeatures, MailboxCommand, REGISTER_BAR, admin_queue, identity, key_mailbox,
};
use offload_api::device::Accelerator;
use offload_api::error::{DeviceError, InstallError};
use offload_api::frame::PoolMemory;
use offload_api::sa::{Cipher, Direction, Integrity, KeyMaterial, SaParams, Spi, Suite};
use sim::{CardConfig, RunningCard};

/// What a connection was used for.
#[derive(Default)]
struct Seen {
    /// Memory that the card may read.
    memory: Vec<(File, usize)>,
    /// Writes to the mailbox, and what they wrote.
    mailbox: Vec<(u64, u32)>,
    /// Of each command since it was last asked, whether the key lay in that memory.
    in_memory: Vec<bool>,
}

impl Seen {
    fn holds(&self, key: &[u8]) -> bool {
        const PAGE: usize = 4096;
        self.memory.iter().any(|(file, len)| {
            let mut octets = vec![0; PAGE + key.len()];
            (0..*len).step_by(PAGE).any(|at| {
                let there = octets.len().min(len - at);
                let page = &mut octets[..there];
                file.read_exact_at(page, at as u64).unwrap();
                // Nearly all of it was never touched.
                page[..PAGE] != [0; PAGE] && page.windows(key.len()).any(|found| found == key)
            })
        })
    }
}

/// A connection that is watched, to a card whose mailbox can be hidden.
struct Watched {
    inner: UserTransport,
    hides_mailbox: bool,
    key: Vec<u8>,
    seen: Arc<Mutex<Seen>>,
}

impl Transport for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(region, offset, data)?;
        if self.hides_mailbox && (region, offset) == (REGISTER_BAR, identity::FEATURES) {
            let features = u32::from_le_bytes(data.try_into().unwrap());
            let fewer = CardFeatures::from_bits_retain(features) - CardFeatures::KEY_MAILBOX;
            data.copy_from_slice(&fewer.bits().to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if region == REGISTER_BAR {
            let mut seen = self.seen.lock().unwrap();
            if (key_mailbox::KEY..key_mailbox::STATUS).contains(&offset) {
                let value = u32::from_le_bytes(data.try_into().unwrap());
                seen.mailbox.push((offset, value));
            } else if offset == admin_queue::TAIL {
                let holds = seen.holds(&self.key);
                seen.in_memory.push(holds);
            }
        }
        self.inner.write(region, offset, data)
    }

    fn map(&self, region: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        self.inner.map(region, offset, len)
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        let file = File::from(memory.fd.try_clone_to_owned().unwrap());
        self.seen.lock().unwrap().memory.push((file, memory.len));
        self.inner.dma_map(iova, memory)
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<(), DeviceError> {
        self.inner.dma_unmap(iova, len)
    }

    fn enable_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        self.inner.enable_msix(eventfds)
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.inner.reset()
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        self.inner.liveness()
    }

    fn close(&self) {
        self.inner.close();
    }

    fn ended(&self) -> bool {
        self.inner.ended()
    }
}

fn open(socket: &Path, hides_mailbox: bool, key: &[u8]) -> (IpaCard, Arc<Mutex<Seen>>) {
    let seen = Arc::<Mutex<Seen>>::default();
    let (path, key, theirs) = (socket.to_owned(), key.to_owned(), seen.clone());
    let connect = move || -> Result<Box<dyn Transport>, DeviceError> {
        Ok(Box::new(Watched {
            inner: UserTransport::connect(&path)?,
            hides_mailbox,
            key: key.clone(),
            seen: theirs.clone(),
        }))
    };
    let card = IpaCard::open("card".to_owned(), Box::new(connect)).unwrap();
    (card, seen)
}

fn sa(suite: Suite, key: &[u8], salt: u8) -> SaParams {
    let cipher = key.iter().copied().cycle().take(suite.cipher_key_len());
    let encryption: Vec<u8> = cipher.chain(vec![salt; suite.salt_len()]).collect();
    let integrity = vec![0x17; suite.integrity_key_len()];
    let keys = KeyMaterial::from_keymat(suite, &encryption, &integrity).unwrap();
    let spi = Spi::new(0x4000_0001).unwrap();
    SaParams::tunnel(spi, Direction::Outbound, suite, keys)
}

fn key() -> Vec<u8> {
    (0..16u8).map(|octet| (octet * 7) ^ 0xa5).collect()
}

#[test]
fn a_key_lies_in_no_memory_of_the_host_where_the_card_has_a_mailbox() {
    let dir = tempfile::tempdir().unwrap();
    let config = CardConfig::new(dir.path().join("card"));
    let running = RunningCard::start(&config).unwrap();
    let key = key();
    let long = Suite::new(Cipher::Aes256Cbc, Integrity::HmacSha256).unwrap();
    for (hides, suite, by_mailbox) in [
        (false, Suite::AES_128_GCM, true),
        (false, Suite::AES_256_GCM, true),
        (false, Suite::CHACHA20_POLY1305, true),
        // More key than it takes.
        (false, long, false),
        (true, Suite::AES_128_GCM, false),
    ] {
        let (card, seen) = open(running.socket(), hides, &key);
        let params = sa(suite, &key, 1);
        seen.lock().unwrap().in_memory.clear();
        card.install(&params).unwrap();
        let words = params.keys.cipher.len() / 4 + 2;
        let told = seen.lock().unwrap();
        assert_eq!(told.in_memory, [!by_mailbox], "{suite:?}");
        assert_eq!(told.mailbox.len(), if by_mailbox { words } else { 0 });
        assert!(!told.holds(&key), "{suite:?}");
        drop(told);
        // However it is asked for.
        seen.lock().unwrap().in_memory.clear();
        assert!(card.install_many(&[(&params, 0)])[0].is_ok());
        assert_eq!(seen.lock().unwrap().in_memory, [!by_mailbox]);
        // Many at once go by memory, and leave none there.
        seen.lock().unwrap().in_memory.clear();
        let many = card.install_many(&[(&params, 0), (&params, 0)]);
        assert!(many.iter().all(Result::is_ok));
        let told = seen.lock().unwrap();
        assert_eq!(told.in_memory, [true]);
        assert!(!told.holds(&key));
        let twice = if by_mailbox { 2 * words } else { 0 };
        assert_eq!(told.mailbox.len(), twice);
    }
}

#[test]
fn who_installs_from_several_threads_takes_turns_at_the_mailbox() {
    let dir = tempfile::tempdir().unwrap();
    let running = RunningCard::start(&CardConfig::new(dir.path().join("card"))).unwrap();
    let (card, seen) = open(running.socket(), false, &[0xff; 16]);
    std::thread::scope(|scope| {
        for salt in 1..=4 {
            let card = &card;
            scope.spawn(move || {
                let params = sa(Suite::AES_128_GCM, &[salt; 16], salt);
                for _ in 0..8 {
                    card.install(&params).unwrap();
                }
            });
        }
    });
    // Four words, the salt, and that they are all there: of one key each time.
    let told = seen.lock().unwrap();
    assert_eq!(told.mailbox.len(), 4 * 8 * 6);
    for key in told.mailbox.chunks_exact(6) {
        let (load, words) = key.split_last().unwrap();
        let places: Vec<u64> = words.iter().map(|(place, _)| *place).collect();
        let first = key_mailbox::KEY;
        let salt = key_mailbox::SALT;
        assert_eq!(places, [first, first + 4, first + 8, first + 12, salt]);
        assert!(words.iter().all(|(_, word)| *word == words[0].1));
        let load_128 = MailboxCommand::LOAD_128.bits();
        assert_eq!(*load, (key_mailbox::COMMAND, load_128));
    }
}

#[test]
fn an_sa_finds_room_after_one_that_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = CardConfig::new(dir.path().join("card"));
    config.max_sas = 1;
    let running = RunningCard::start(&config).unwrap();
    let (card, _) = open(running.socket(), false, &key());
    let params = sa(Suite::AES_256_GCM, &key(), 1);
    let added = card.install(&params).unwrap();
    let full = card.install(&params).unwrap_err();
    assert!(matches!(full, InstallError::TableFull { .. }), "{full}");
    card.retire(added).unwrap();
    // What the refused one has left would be no key for this one.
    card.install(&params).unwrap();
}
