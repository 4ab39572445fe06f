// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What manual keys have been used for, on disk: a manual key outlives every process and every boot, so
//! its numbers are reserved in a file before they are used, and one that is gone is noticed.
//!
//! A directory holds one file for each key, named by the key's digest, and `keys`, which lists the
//! digests of all outbound keys that were ever used. A key that is listed and has no file is refused.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::fcntl::{Flock, FlockArg};
use offload_api::failover::NumberLedger;
use offload_api::sa::KeyMaterial;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Numbers that are reserved on disk at once: the most that a crash skips.
pub(crate) const AHEAD: u64 = 1 << 20;
/// First word of a file, with the version of its form.
const MAGIC: &str = "esplanade-manual-1";
/// What lists the keys.
const KEYS: &str = "keys";

/// A key by its digest, which tells nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyId(String);

impl KeyId {
    /// The id of a key, whatever SPI or peer it is used with: numbers must not repeat under one key.
    pub(crate) fn of(keys: &KeyMaterial) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"esplanade manual key");
        for part in [&keys.cipher[..], &keys.salt[..], &keys.integrity[..]] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self(hex::encode(&digest.finalize()[..16]))
    }
}

/// The ledger can't be used.
#[derive(Debug, Error)]
pub(crate) enum LedgerError {
    /// The system refused.
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    /// Another daemon has it.
    #[error(
        "{path}: another daemon keeps manual keys there: end it, or set daemon.state_directory",
        path = path.display()
    )]
    Taken { path: PathBuf },
    /// The record of a used key is gone.
    #[error(
        "{path} is gone, and this key was used before: its numbers would be used again. Use a new key, \
         or start above every number that it ever had (start_at, --start-at)",
        path = path.display()
    )]
    Gone { path: PathBuf },
    /// It is damaged.
    #[error(
        "{path} is damaged: the key's numbers are not known. Use a new key, or start above every number \
         that it ever had (start_at, --start-at)",
        path = path.display()
    )]
    Damaged { path: PathBuf },
    /// Two SAs with one key.
    #[error("another manual SA seals with this key: each needs a key of its own")]
    InUse,
}

/// The directory, and the right to write there.
#[derive(Debug)]
pub(crate) struct Ledger {
    directory: PathBuf,
    _lock: Flock<File>,
    /// Outbound keys that an SA has now.
    in_use: Mutex<HashMap<String, Weak<Reservation>>>,
}

impl Ledger {
    /// Takes the directory, which is made if there is none.
    pub(crate) fn open(directory: &Path) -> Result<Self, LedgerError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| LedgerError::Io { path, error }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed(directory))?;
        let lock = directory.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(failed(&lock))?;
        let taken = |_| LedgerError::Taken {
            path: directory.to_owned(),
        };
        Ok(Self {
            directory: directory.to_owned(),
            _lock: Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(taken)?,
            in_use: Mutex::default(),
        })
    }

    fn path(&self, key: &KeyId) -> PathBuf {
        self.directory.join(&key.0)
    }

    /// The first number that an outbound key may use, and what records those after it. It is `start_at`
    /// at least, which a key without its record must have.
    pub(crate) fn outbound(
        &self,
        key: &KeyId,
        start_at: Option<u64>,
    ) -> Result<(u64, Arc<Reservation>), LedgerError> {
        let path = self.path(key);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if in_use
            .get(&key.0)
            .is_some_and(|used| used.strong_count() != 0)
        {
            return Err(LedgerError::InUse);
        }
        let first = match (read(&path)?, start_at) {
            (Record::Upto(reserved), at_least) => {
                let next = reserved.saturating_add(1);
                at_least.map_or(next, |at_least| at_least.max(next))
            }
            // The way out of a loss.
            (_, Some(wanted)) => wanted.max(1),
            (Record::Damaged, None) => return Err(LedgerError::Damaged { path }),
            (Record::Missing, None) if self.is_known(key)? => {
                return Err(LedgerError::Gone { path });
            }
            (Record::Missing, None) => 1,
        };
        // The list first: a file without its key there is no harm.
        self.note(key)?;
        let reserved = first.saturating_sub(1);
        write(&path, reserved).map_err(|error| LedgerError::Io {
            path: path.clone(),
            error,
        })?;
        let reserved = Mutex::new(reserved);
        let reservation = Arc::new(Reservation { path, reserved });
        in_use.insert(key.0.clone(), Arc::downgrade(&reservation));
        Ok((first, reservation))
    }

    /// The highest number that an inbound key was seen with.
    pub(crate) fn inbound(&self, key: &KeyId) -> Result<(u64, Reservation), LedgerError> {
        let path = self.directory.join(format!("{}.in", key.0));
        let seen = match read(&path)? {
            Record::Upto(seen) => seen,
            // Nothing is lost that the peer's own numbers don't bring back.
            Record::Missing | Record::Damaged => 0,
        };
        let reserved = Mutex::new(seen);
        Ok((seen, Reservation { path, reserved }))
    }

    fn keys(&self) -> PathBuf {
        self.directory.join(KEYS)
    }

    fn is_known(&self, key: &KeyId) -> Result<bool, LedgerError> {
        let path = self.keys();
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().any(|line| line == key.0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(LedgerError::Io { path, error }),
        }
    }

    fn note(&self, key: &KeyId) -> Result<(), LedgerError> {
        if self.is_known(key)? {
            return Ok(());
        }
        let path = self.keys();
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(format!("{}\n", key.0).as_bytes())?;
            file.sync_all()?;
            File::open(&self.directory)?.sync_all()
        };
        append().map_err(|error| LedgerError::Io {
            path: path.clone(),
            error,
        })
    }
}

/// One key's numbers on disk.
#[derive(Debug)]
pub(crate) struct Reservation {
    path: PathBuf,
    reserved: Mutex<u64>,
}

impl Reservation {
    /// Notes the highest number that was seen (inbound); nothing when it is noted already.
    pub(crate) fn saw(&self, number: u64) -> io::Result<()> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if number > *reserved {
            write(&self.path, number)?;
            *reserved = number;
        }
        Ok(())
    }
}

impl NumberLedger for Reservation {
    fn record(&self, last: u64) -> Result<(), String> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if last <= *reserved {
            return Ok(());
        }
        let ahead = last.saturating_add(AHEAD);
        write(&self.path, ahead).map_err(|error| format!("{}: {error}", self.path.display()))?;
        *reserved = ahead;
        Ok(())
    }
}

enum Record {
    Upto(u64),
    Missing,
    Damaged,
}

fn read(path: &Path) -> Result<Record, LedgerError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(256).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Record::Damaged),
        Err(error) => {
            let path = path.to_owned();
            return Err(LedgerError::Io { path, error });
        }
        Ok(_) => {}
    }
    let mut words = text.split_whitespace();
    let (magic, number, sum) = (words.next(), words.next(), words.next());
    let number = number.and_then(|number| number.parse().ok());
    Ok(match (magic, number, sum) {
        (Some(MAGIC), Some(number), Some(sum)) if sum == checksum(number) => Record::Upto(number),
        _ => Record::Damaged,
    })
}

fn checksum(number: u64) -> String {
    hex::encode(&Sha256::digest(number.to_be_bytes())[..4])
}

/// Replaces a file as a whole: another name, the octets on disk, the right name, that on disk.
fn write(path: &Path, number: u64) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{MAGIC} {number} {}", checksum(number))?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use offload_api::sa::Suite;

    use super::*;

    fn key(octet: u8) -> KeyId {
        let suite = Suite::from_name("aes128-sha256").unwrap();
        let keys = KeyMaterial::from_keymat(suite, &[octet; 16], &[9; 32]).unwrap();
        KeyId::of(&keys)
    }

    #[test]
    fn a_number_is_on_disk_before_it_is_used_and_never_given_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut last = 0;
        for round in 0..20u64 {
            // Each round ends without a word, as a crash does.
            let ledger = Ledger::open(directory.path()).unwrap();
            let (first, reservation) = ledger.outbound(&key(1), None).unwrap();
            assert!(first > last, "round {round}: {first} after {last}");
            last = first + 65_535 * (1 + round % 3);
            reservation.record(last).unwrap();
            let Ok(Record::Upto(on_disk)) = read(&ledger.path(&key(1))) else {
                panic!("no record")
            };
            assert!(on_disk >= last && on_disk <= last + AHEAD);
            // Most grants write nothing.
            reservation.record(last + 1).unwrap();
        }
        let ledger = Ledger::open(directory.path()).unwrap();
        assert_eq!(ledger.outbound(&key(2), None).unwrap().0, 1);
    }

    #[test]
    fn a_record_that_is_gone_or_damaged_is_refused_and_there_is_a_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let (_, reservation) = ledger.outbound(&key(1), None).unwrap();
        reservation.record(5000).unwrap();
        let path = ledger.path(&key(1));

        let twice = ledger.outbound(&key(1), None).unwrap_err();
        assert!(matches!(twice, LedgerError::InUse), "{twice}");
        drop(reservation);
        let (first, _) = ledger.outbound(&key(1), Some(6000)).unwrap();
        assert_eq!(
            first,
            5000 + AHEAD + 1,
            "a start below what is recorded does not lower it"
        );

        std::fs::remove_file(&path).unwrap();
        let error = ledger.outbound(&key(1), None).unwrap_err();
        assert!(matches!(error, LedgerError::Gone { .. }), "{error}");
        assert!(error.to_string().contains("--start-at"), "{error}");
        assert_eq!(ledger.outbound(&key(7), None).unwrap().0, 1, "a new key");
        let (first, _) = ledger.outbound(&key(1), Some(1 << 30)).unwrap();
        assert_eq!(first, 1 << 30);
        assert_eq!(ledger.outbound(&key(1), None).unwrap().0, 1 << 30);

        for damage in [
            "",
            "esplanade-manual-1 7 00000000",
            "esplanade-manual-1 x",
            "\u{0}",
        ] {
            std::fs::write(&path, damage).unwrap();
            let error = ledger.outbound(&key(1), None).unwrap_err();
            assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
        }
        std::fs::write(&path, [0xff; 40]).unwrap();
        assert!(ledger.outbound(&key(1), None).is_err());
        assert!(ledger.outbound(&key(1), Some(1 << 31)).is_ok());
    }

    #[test]
    fn one_daemon_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = Ledger::open(directory.path()).unwrap();
        let error = Ledger::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("another daemon"), "{error}");
        drop(first);
        Ledger::open(directory.path()).unwrap();
    }

    #[test]
    fn what_came_in_is_remembered_and_only_grows() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let (seen, reservation) = ledger.inbound(&key(3)).unwrap();
        assert_eq!(seen, 0);
        reservation.saw(40).unwrap();
        reservation.saw(30).unwrap();
        assert_eq!(ledger.inbound(&key(3)).unwrap().0, 40);
    }
}
