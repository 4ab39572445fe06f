// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the members of a cluster share (RFC 6311): a directory with a file for each IKE SA, sealed under a
//! key that all members have. Whoever holds its lock is the active member.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use ikev2d_proto::algorithm::{Encryption, Prf};
use ikev2d_proto::cluster::Claim;
use ikev2d_proto::crypto::{Crypto, CryptoError};
use zeroize::Zeroizing;

use crate::config::ClusterSection;
use crate::kept;

/// What a file begins with.
const VERSION: u8 = 1;
/// Behind it: when it was written, in milliseconds since 1970.
const TIME: usize = 8;
/// Then a number that no other file has had, from which its key is made.
const NONCE: usize = 32;
const HEAD: usize = 1 + TIME + NONCE;
const SEAL: Encryption = Encryption::AesGcm16(256);
/// Octets of its key with the salt.
const SEAL_KEY: usize = 36;
/// Each file has a key of its own.
const IV: [u8; 8] = [0; 8];
/// Octets of the members' key, at least.
const LEAST_KEY: usize = 32;
/// Between two looks at who is active.
const LOOK: Duration = Duration::from_millis(100);
/// Bits of a claim that count; the others say whose it is.
const COUNT: u32 = 24;

/// The directory, as the active member has it.
pub(crate) struct Shared {
    directory: PathBuf,
    member: u8,
    key: Zeroizing<Vec<u8>>,
    /// Locked as long as it is open.
    _lock: File,
}

/// An IKE SA that a member has left.
pub(crate) struct Left {
    /// The SPI that we are known by.
    pub(crate) spi: u64,
    pub(crate) state: Zeroizing<Vec<u8>>,
    /// How long ago that was.
    pub(crate) ago: Duration,
}

impl Shared {
    /// Waits until no other member is active, and is it from then on.
    pub(crate) async fn activate(section: &ClusterSection) -> anyhow::Result<Self> {
        let key = read_key(&section.key_file)
            .with_context(|| format!("cluster.key_file {}", section.key_file.display()))?;
        let directory = &section.directory;
        fs::create_dir_all(directory)
            .with_context(|| format!("cluster.directory {}", directory.display()))?;
        let path = directory.join("lock");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let lock = options.mode(0o600).open(&path);
        let lock = lock.with_context(|| path.display().to_string())?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if !told => {
                    tracing::info!("another member of the cluster is active: standing by");
                    kept::ready();
                    told = true;
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| path.display().to_string());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Self {
            directory: directory.clone(),
            member: section.member,
            key,
            _lock: lock,
        })
    }

    /// A number that no member has had, nor this one before: it is on the disk before anybody uses it.
    pub(crate) fn claim(&self) -> anyhow::Result<Claim> {
        let path = self.directory.join(format!("claims-{}", self.member));
        let before = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u32>().context("it has no number")?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
        let count = before + 1;
        ensure!(count >> COUNT == 0, "this member has taken over too often");
        write(&path, count.to_string().as_bytes(), true)?;
        let number = u32::from(self.member) << COUNT | count;
        let number = NonZeroU32::new(number).context("members are numbered from 1")?;
        Ok(Claim(number))
    }

    fn path(&self, spi: u64) -> PathBuf {
        self.directory.join(format!("{spi:016x}.sa"))
    }

    /// The key of one file.
    fn key_of(&self, crypto: &dyn Crypto, head: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mut key = crypto.prf(Prf::HmacSha384, &self.key, &[b"cluster", head])?;
        key.truncate(SEAL_KEY);
        Ok(key)
    }

    /// Writes an IKE SA down: whoever reads finds what was before or this, whole.
    pub(crate) fn write(&self, crypto: &dyn Crypto, spi: u64, state: &[u8]) -> anyhow::Result<()> {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let mut head = vec![VERSION];
        head.extend(millis.to_be_bytes());
        head.resize(HEAD, 0);
        if let Some(nonce) = head.get_mut(HEAD - NONCE..) {
            crypto.random(nonce);
        }
        let key = self.key_of(crypto, &head)?;
        // With room for the tag, so that nothing of it is left where it grew.
        let mut sealed = Zeroizing::new(Vec::with_capacity(state.len() + SEAL.icv_len()));
        sealed.extend_from_slice(state);
        let bound = [&head[..], &spi.to_be_bytes()].concat();
        crypto.aead_seal(SEAL, &key, &IV, &bound, &mut sealed)?;
        write(&self.path(spi), &[&head[..], &sealed].concat(), false)?;
        Ok(())
    }

    /// An IKE SA is gone.
    pub(crate) fn remove(&self, spi: u64) -> io::Result<()> {
        match fs::remove_file(self.path(spi)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn open(&self, crypto: &dyn Crypto, spi: u64, octets: &[u8]) -> anyhow::Result<Left> {
        let (head, sealed) = octets.split_at_checked(HEAD).context("it is cut off")?;
        let (version, rest) = head.split_first().context("it is cut off")?;
        ensure!(*version == VERSION, "it is of another version");
        let millis = rest.first_chunk::<TIME>().copied().map(u64::from_be_bytes);
        let written = Duration::from_millis(millis.unwrap_or_default());
        let key = self.key_of(crypto, head)?;
        let mut state = Zeroizing::new(sealed.to_vec());
        let bound = [head, &spi.to_be_bytes()].concat();
        let opened = crypto.aead_open(SEAL, &key, &IV, &bound, &mut state);
        opened.map_err(|_| anyhow::anyhow!("it is not sealed under the cluster's key"))?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let ago = now.saturating_sub(written);
        Ok(Left { spi, state, ago })
    }

    /// Every IKE SA that is there; what can't be read stays, and is told.
    pub(crate) fn left(&self, crypto: &dyn Crypto) -> io::Result<Vec<Left>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(spi) = spi_of(&path) else { continue };
            let left = fs::read(&path).map_err(anyhow::Error::from);
            match left.and_then(|octets| self.open(crypto, spi, &octets)) {
                Ok(left) => all.push(left),
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "an IKE SA of the cluster can't be read");
                }
            }
        }
        all.sort_by_key(|left| left.spi);
        Ok(all)
    }
}

fn spi_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".sa")?;
    u64::from_str_radix(name, 16).ok()
}

/// The members' key: a file that is its owner's alone.
fn read_key(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mode = fs::metadata(path)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("others may read it: mode is {mode:o}, expected 600");
    }
    let key = Zeroizing::new(fs::read(path)?);
    let len = key.len();
    ensure!(
        len >= LEAST_KEY,
        "{len} octets, expected {LEAST_KEY} at least"
    );
    Ok(key)
}

/// Puts a file in the place of another, on the disk when this returns if it has to last.
fn write(path: &Path, octets: &[u8], lasts: bool) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(octets)?;
    if lasts {
        file.sync_all()?;
    }
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(directory) if lasts => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ikev2d_crypto::OpensslCrypto;

    use super::*;

    fn section(directory: &Path, member: u8) -> ClusterSection {
        let key_file = directory.join("key");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&key_file)
            .unwrap()
            .write_all(&[7; 32])
            .unwrap();
        ClusterSection {
            directory: directory.join("shared"),
            key_file,
            member,
        }
    }

    /// B18: sealed, each time otherwise, for its own place only, and under this key only.
    #[tokio::test]
    async fn states_are_sealed_and_bound_to_their_place() {
        let crypto = OpensslCrypto::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut shared = Shared::activate(&section(directory.path(), 1))
            .await
            .unwrap();
        let state = b"SK_d and all the others";
        shared.write(&crypto, 5, state).unwrap();
        let first = fs::read(shared.path(5)).unwrap();
        shared.write(&crypto, 5, state).unwrap();
        let second = fs::read(shared.path(5)).unwrap();
        assert_ne!(first[HEAD..], second[HEAD..]);
        assert!(!second.windows(4).any(|octets| octets == b"SK_d"));
        assert_eq!(fs::metadata(shared.path(5)).unwrap().mode() & 0o777, 0o600);
        let left = shared.left(&crypto).unwrap();
        assert_eq!((left[0].spi, &left[0].state[..]), (5, &state[..]));
        assert!(left[0].ago < Duration::from_secs(60));
        fs::write(shared.path(6), &second).unwrap();
        let mut other = second.clone();
        other[HEAD + 2] ^= 1;
        fs::write(shared.path(7), &other).unwrap();
        other = second.clone();
        other[3] ^= 1;
        fs::write(shared.path(8), &other).unwrap();
        fs::write(shared.path(9), &second[..HEAD - 1]).unwrap();
        let spis: Vec<u64> = shared
            .left(&crypto)
            .unwrap()
            .iter()
            .map(|l| l.spi)
            .collect();
        assert_eq!(spis, [5]);
        shared.key = Zeroizing::new(vec![8; 32]);
        assert!(shared.left(&crypto).unwrap().is_empty());
        shared.remove(5).unwrap();
        shared.remove(5).unwrap();
    }

    /// No claim comes twice, whichever member has which number, and one member is active at a time.
    #[tokio::test]
    async fn claims_are_taken_once_and_one_member_is_active() {
        let directory = tempfile::tempdir().unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 {
            for member in [1, 2, 255] {
                let section = section(directory.path(), member);
                let shared = Shared::activate(&section).await.unwrap();
                assert!(seen.insert(shared.claim().unwrap().0));
                assert!(seen.insert(shared.claim().unwrap().0));
                let second = tokio::time::timeout(LOOK * 3, Shared::activate(&section));
                assert!(second.await.is_err());
            }
        }
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_short_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let section = section(directory.path(), 1);
        assert!(read_key(&section.key_file).is_ok());
        fs::write(&section.key_file, [1; LEAST_KEY - 1]).unwrap();
        assert!(read_key(&section.key_file).is_err());
        fs::write(&section.key_file, [1; LEAST_KEY]).unwrap();
        let open = fs::Permissions::from_mode(0o640);
        fs::set_permissions(&section.key_file, open).unwrap();
        assert!(read_key(&section.key_file).is_err());
    }
}
