// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SPIs of what comes in: one is never two children's, whatever IKE SAs they are of, since packets name
//! nothing else (RFC 4301 §4.1).

use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto::Crypto;

/// Those that are taken, and whether peers are told them.
#[derive(Clone, Debug, Default)]
pub struct Spis(Arc<Mutex<HashMap<u32, bool>>>);

/// One of them, given back when it is dropped.
pub struct OwnSpi {
    spi: u32,
    all: Spis,
}

impl fmt::Debug for OwnSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnSpi({:x})", self.spi)
    }
}

/// There are no two of the same.
impl PartialEq for OwnSpi {
    fn eq(&self, other: &Self) -> bool {
        self.spi == other.spi
    }
}

impl Eq for OwnSpi {}

impl Spis {
    /// Takes one that is free, for a peer.
    pub fn take(&self, crypto: &dyn Crypto) -> OwnSpi {
        loop {
            let mut octets = [0; 4];
            crypto.random(&mut octets);
            // 0 to 255 are reserved (RFC 4303 §2.1).
            let spi = u32::from_be_bytes(octets) | 0x100;
            if self.insert(spi, true) {
                let all = self.clone();
                return OwnSpi { spi, all };
            }
        }
    }

    /// Takes this one for a child that another member of a cluster has made, if it is free.
    pub(crate) fn take_this(&self, spi: u32) -> Option<OwnSpi> {
        let all = self.clone();
        self.reserve(spi).then_some(OwnSpi { spi, all })
    }

    /// Takes this one, which no child of ours is for; whether it was free.
    pub fn reserve(&self, spi: u32) -> bool {
        self.insert(spi, false)
    }

    /// Whether a peer is told this one: that of a child which is there, or may be soon.
    pub fn is_promised(&self, spi: u32) -> bool {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get(&spi).is_some_and(|promised| *promised)
    }

    fn insert(&self, spi: u32, promised: bool) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.entry(spi) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(promised);
                true
            }
        }
    }

    /// Gives one back.
    fn release(&self, spi: u32) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&spi);
    }
}

impl OwnSpi {
    /// It.
    pub fn value(&self) -> u32 {
        self.spi
    }
}

impl Drop for OwnSpi {
    fn drop(&mut self) {
        self.all.release(self.spi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_is_taken_once_and_given_back() {
        let all = Spis::default();
        assert!(all.reserve(0x1234));
        assert!(!all.reserve(0x1234));
        assert!(!all.is_promised(0x1234));
        let own = OwnSpi {
            spi: 0x1234,
            all: all.clone(),
        };
        drop(own);
        assert!(all.reserve(0x1234));
    }
}
