// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Private keys are kept by a process of its own, which has no network and reads nothing that strangers
//! send: it reads the files that the configuration names and signs what the daemon asks it to. It is
//! started before the daemon gives anything up, so it may read files that the daemon may not.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use clap::Args;
use ikev2d_crypto::PrivateKey;
use ikev2d_crypto::credential::{Elsewhere, OwnKey, key_id, public_key};
use ikev2d_proto::credential::{Begun, Hash, Scheme};
use ikev2d_proto::crypto::CryptoError;
use rustix::thread::CapabilitySet;

use crate::beside::{self, Beside};
use crate::config::Draft;
use crate::{privileges, scheduling, seccomp};

/// Octets that are signed at once, at most: a message of IKE, and what goes with it.
const LARGEST: usize = 128 * 1024;
/// Octets of a key's id, in hexadecimal.
const ID: usize = 40;
/// In front of what is to be signed: the key's id, and how.
const HEAD: usize = ID + 2;
/// Octets of the longest signature, RSA's of 8192 bits, and more.
const LONGEST: usize = 4096;

/// What the daemon orders.
mod order {
    /// Read the key files; the answer goes to the descriptor that comes along.
    pub(super) const LOAD: u8 = b'L';
    /// Sign what comes by the descriptor that comes along.
    pub(super) const SERVE: u8 = b'S';
    /// Forget keys that were not among those read last.
    pub(super) const FORGET: u8 = b'F';
}

/// What became of each secret's file: the public key in DER, or what is wrong.
type Loaded = BTreeMap<String, Result<Vec<u8>, String>>;

/// The daemon's way to the keys.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Ways>);

#[derive(Debug)]
struct Ways {
    orders: OwnedFd,
    /// Ways for signatures that nobody uses now: each thread that signs takes one.
    idle: Mutex<Vec<OwnedFd>>,
}

impl Keeper {
    /// Starts the process.
    ///
    /// # Errors
    /// The system's.
    pub fn start(config: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Ways {
            orders: beside::start("--keep-keys", config)?,
            idle: Mutex::default(),
        })))
    }

    /// Has it read the files, and says what it has found by the names of secrets.
    pub(crate) fn load(&self) -> Result<BTreeMap<String, Result<OwnKey, String>>, String> {
        let asked = || -> io::Result<Loaded> {
            let (mut ours, theirs) = UnixStream::pair()?;
            let order = [IoSlice::new(&[order::LOAD])];
            beside::send(&self.0.orders, &order, &[theirs.as_fd()])?;
            drop(theirs);
            let mut text = Vec::new();
            ours.read_to_end(&mut text)?;
            let loaded: Result<Loaded, String> = serde_json::from_slice(&text)?;
            loaded.map_err(io::Error::other)
        };
        let loaded = asked().map_err(|error| format!("the process that keeps keys: {error}"))?;
        let own = |der: Vec<u8>| {
            let public = public_key(&der).map_err(|error| error.to_string())?;
            let id = key_id(&public).map_err(|error| error.to_string())?;
            let keeper = self.clone();
            Ok(OwnKey::elsewhere(public, Arc::new(Kept { keeper, id })))
        };
        let loaded = loaded.into_iter();
        Ok(loaded
            .map(|(name, found)| (name, found.and_then(own)))
            .collect())
    }

    /// The configuration that was read last is the one that holds.
    pub(crate) fn forget_others(&self) {
        let _ = beside::send(&self.0.orders, &[IoSlice::new(&[order::FORGET])], &[]);
    }

    /// Whether the process has ended.
    pub(crate) fn is_gone(&self) -> bool {
        beside::is_gone(&self.0.orders)
    }

    /// Has something signed; what comes out waits for the signature.
    fn begin(
        &self,
        id: &str,
        scheme: Scheme,
        octets: &[u8],
    ) -> io::Result<impl FnOnce() -> io::Result<Vec<u8>> + use<>> {
        let taken = self.idle().pop();
        let way = match taken {
            Some(way) => way,
            None => {
                let (ours, theirs) = beside::way()?;
                let order = [IoSlice::new(&[order::SERVE])];
                beside::send(&self.0.orders, &order, &[theirs.as_fd()])?;
                ours
            }
        };
        let how = code(scheme);
        let parts = [id.as_bytes(), &how, octets].map(IoSlice::new);
        beside::send(&way, &parts, &[])?;
        let keeper = self.clone();
        Ok(move || {
            let mut room = vec![0; LONGEST];
            let (received, _) = beside::receive(&way, &mut room)?;
            // At the other end of one that says nothing nobody is left.
            if received != 0 {
                keeper.idle().push(way);
            }
            match room.get(..received).and_then(<[u8]>::split_first) {
                Some((1, signature)) => Ok(signature.to_vec()),
                Some(_) => Err(io::Error::other("no signature")),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A private key that the process has.
struct Kept {
    keeper: Keeper,
    id: String,
}

impl Elsewhere for Kept {
    fn begin(&self, scheme: Scheme, octets: &[u8]) -> Result<Begun, CryptoError> {
        let id = self.id.clone();
        let failed = move |error: io::Error| {
            tracing::warn!(%error, key = id, "the process that keeps private keys");
            CryptoError
        };
        match self.keeper.begin(&self.id, scheme, octets) {
            Ok(finish) => Ok(Box::new(move || finish().map_err(failed))),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A scheme in two octets.
fn code(scheme: Scheme) -> [u8; 2] {
    let (number, hash) = match scheme {
        Scheme::RsaPkcs1(hash) => (0, Some(hash)),
        Scheme::RsaPss(hash) => (1, Some(hash)),
        Scheme::Ecdsa(hash) => (2, Some(hash)),
        Scheme::Ed25519 => (3, None),
        Scheme::Ed448 => (4, None),
        Scheme::RsaUntold(hash) => (5, Some(hash)),
        Scheme::EcdsaFixed(hash) => (6, Some(hash)),
        Scheme::RsaBare => (7, None),
        Scheme::EcdsaBare(hash) => (8, Some(hash)),
        Scheme::Dss => (9, None),
    };
    let hash = match hash {
        None => 0,
        Some(Hash::Sha1) => 1,
        Some(Hash::Sha256) => 2,
        Some(Hash::Sha384) => 3,
        Some(Hash::Sha512) => 4,
    };
    [number, hash]
}

/// The scheme of two octets.
fn scheme([number, hash]: [u8; 2]) -> Option<Scheme> {
    let hash = match hash {
        0 => None,
        1 => Some(Hash::Sha1),
        2 => Some(Hash::Sha256),
        3 => Some(Hash::Sha384),
        4 => Some(Hash::Sha512),
        _ => return None,
    };
    match (number, hash) {
        (0, Some(hash)) => Some(Scheme::RsaPkcs1(hash)),
        (1, Some(hash)) => Some(Scheme::RsaPss(hash)),
        (2, Some(hash)) => Some(Scheme::Ecdsa(hash)),
        (3, None) => Some(Scheme::Ed25519),
        (4, None) => Some(Scheme::Ed448),
        (5, Some(hash)) => Some(Scheme::RsaUntold(hash)),
        (6, Some(hash)) => Some(Scheme::EcdsaFixed(hash)),
        (7, None) => Some(Scheme::RsaBare),
        (8, Some(hash)) => Some(Scheme::EcdsaBare(hash)),
        (9, None) => Some(Scheme::Dss),
        _ => None,
    }
}

/// How the daemon starts the process that keeps private keys.
#[derive(Debug, Args)]
pub struct KeepArguments {
    /// Keep the private keys that a configuration names, and sign for the daemon at standard input.
    #[arg(long, hide = true, value_name = "CONFIG")]
    keep_keys: Option<PathBuf>,
}

impl KeepArguments {
    /// Keeps keys, if that is what this process is for.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self) -> io::Result<bool> {
        let Some(config) = &self.keep_keys else {
            return Ok(false);
        };
        let beside = Beside::new()?;
        let draft = Draft::read(config).map_err(io::Error::other)?;
        let owners = draft.owners();
        privileges::give_up_all_but(CapabilitySet::DAC_READ_SEARCH)?;
        let setting = draft.daemon().privileges.seccomp;
        drop(draft);
        scheduling::give_way();
        if let Err(error) = seccomp::apply(setting, seccomp::Process::Keeper) {
            eprintln!("ikev2d: the process that keeps keys: {error}");
        }
        serve(&beside.daemon, config, &owners)?;
        Ok(true)
    }
}

/// Keys by their ids.
type Keys = Arc<RwLock<HashMap<String, Arc<OwnKey>>>>;

/// Until the daemon is gone.
fn serve(daemon: &OwnedFd, config: &Path, owners: &[u32]) -> io::Result<()> {
    let keys = Keys::default();
    let mut last = Vec::new();
    let mut room = [0];
    loop {
        let (received, fds) = beside::receive(daemon, &mut room)?;
        if received == 0 {
            return Ok(());
        }
        let all = || keys.write().unwrap_or_else(PoisonError::into_inner);
        match (room, fds.into_iter().next()) {
            ([order::LOAD], Some(answer)) => {
                // Signatures go on while files are read.
                let loaded = load(config, owners).map(|found| {
                    let mut all = all();
                    last.clear();
                    let mut told = Loaded::new();
                    for (name, key) in found {
                        let kept = key.and_then(|key| {
                            let wrong = |error: &dyn std::error::Error| error.to_string();
                            let id = key_id(&key).map_err(|error| wrong(&error))?;
                            let der = key.public_key_to_der().map_err(|error| wrong(&error))?;
                            last.push(id.clone());
                            all.insert(id, Arc::new(OwnKey::from(key)));
                            Ok(der)
                        });
                        told.insert(name, kept);
                    }
                    told
                });
                let _ = UnixStream::from(answer).write_all(&serde_json::to_vec(&loaded)?);
            }
            ([order::SERVE], Some(way)) => {
                let keys = keys.clone();
                std::thread::spawn(move || sign_for(&way, &keys));
            }
            ([order::FORGET], None) => all().retain(|id, _| last.contains(id)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The private keys that a configuration names.
type Found = Vec<(String, Result<PrivateKey, String>)>;

fn load(config: &Path, owners: &[u32]) -> Result<Found, String> {
    let draft = Draft::read(config).map_err(|error| error.to_string())?;
    Ok(draft.private_keys(owners))
}

/// Signs what comes by a way, until that is closed.
fn sign_for(way: &OwnedFd, keys: &Keys) -> io::Result<()> {
    let mut room = vec![0; LARGEST];
    loop {
        let (received, _) = beside::receive(way, &mut room)?;
        if received == 0 {
            return Ok(());
        }
        let signed = room.get(..received).and_then(|asked| {
            let (head, octets) = asked.split_at_checked(HEAD)?;
            let (id, how) = head.split_at_checked(ID)?;
            let scheme = scheme(how.try_into().ok()?)?;
            let keys = keys.read().unwrap_or_else(PoisonError::into_inner);
            let key = keys.get(std::str::from_utf8(id).ok()?)?.clone();
            drop(keys);
            key.sign(scheme, octets).ok()
        });
        match signed {
            Some(signature) => {
                let parts = [&[1][..], &signature].map(IoSlice::new);
                beside::send(way, &parts, &[])?;
            }
            None => beside::send(way, &[IoSlice::new(&[0])], &[])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_has_a_code_of_its_own() {
        let hashes = [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512];
        let mut all = vec![Scheme::Ed25519, Scheme::Ed448, Scheme::RsaBare, Scheme::Dss];
        for hash in hashes {
            all.extend([
                Scheme::RsaPkcs1(hash),
                Scheme::RsaPss(hash),
                Scheme::Ecdsa(hash),
                Scheme::RsaUntold(hash),
                Scheme::EcdsaFixed(hash),
                Scheme::EcdsaBare(hash),
            ]);
        }
        for one in all {
            assert_eq!(scheme(code(one)), Some(one));
        }
        assert_eq!(scheme([10, 0]), None);
        assert_eq!(scheme([0, 0]), None);
    }
}
