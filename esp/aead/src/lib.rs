// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AEADs for bursts of packets, each of a key of its own, in place; and [AES-CBC with an HMAC](cbc).
//!
//! Three engines stand behind one façade: a kernel of our own for AES-GCM where the processor has
//! VAES and AVX-512 ([`Engine::Vaes`]), Intel's multi-buffer library where it is installed
//! ([`Engine::IpsecMb`]), and OpenSSL, which is always there. The first two are trusted with
//! nothing before they have agreed with OpenSSL in this process; see [`mod@select`].
#![deny(missing_docs)]

pub mod cbc;
#[cfg(target_arch = "x86_64")]
mod ipsec_mb;
mod openssl_evp;
mod packet;
pub mod select;
#[cfg(target_arch = "x86_64")]
mod vaes;

use openssl::error::ErrorStack;

pub use packet::{Aad, NONCE, Packet, TAG};
pub use select::Engine;

use openssl_evp::Contexts;

/// An AEAD of ESP's (RFC 4106, RFC 7634), with tags of 16 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Octets of a key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}

/// What a key is for. ESP's SAs have one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Encrypting, and making tags.
    Seal,
    /// Checking tags, and decrypting.
    Open,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A key of another length.
    #[error("the key has {found} octets, not the {expected} that {algorithm:?} takes")]
    Length {
        /// For this.
        algorithm: Algorithm,
        /// Octets that it takes.
        expected: usize,
        /// Octets that were given.
        found: usize,
    },
    /// The engine isn't there, or doesn't have the algorithm.
    #[error("{engine} does not run {algorithm:?} here; leave the choice to the default engine")]
    Unavailable {
        /// That was asked for.
        engine: Engine,
        /// That it should run.
        algorithm: Algorithm,
    },
    /// OpenSSL refused.
    #[error("OpenSSL refuses the cipher (its configuration may forbid it): {0}")]
    Openssl(#[from] ErrorStack),
}

/// A key whose table is made for its first packet: it takes some 5.5 KiB, and thousands of SAs may carry
/// nothing.
#[cfg(target_arch = "x86_64")]
struct Table {
    vaes: vaes::Available,
    // Apart from what is moved, for a move leaves a copy behind.
    key: zeroize::Zeroizing<Box<[u8]>>,
    schedule: std::sync::OnceLock<Box<vaes::Schedule>>,
}

#[cfg(target_arch = "x86_64")]
impl Table {
    fn new(vaes: vaes::Available, key: &[u8]) -> Self {
        Self {
            vaes,
            key: zeroize::Zeroizing::new(key.into()),
            schedule: std::sync::OnceLock::new(),
        }
    }

    /// Whether it is of AES-256: known without a look into the schedule.
    #[inline]
    fn is_long(&self) -> bool {
        self.key.len() != 16
    }

    /// The table, where a packet was there before.
    #[inline]
    fn made(&self) -> Option<&vaes::Schedule> {
        self.schedule.get().map(|made| &**made)
    }

    #[inline]
    fn schedule(&self) -> &vaes::Schedule {
        self.schedule.get_or_init(|| self.vaes.expand(&self.key))
    }
}

/// A key, expanded once for all its packets. Any thread may use it.
pub struct Key {
    expanded: Expanded,
    direction: Direction,
}

enum Expanded {
    #[cfg(target_arch = "x86_64")]
    Vaes(vaes::Available, Table),
    #[cfg(target_arch = "x86_64")]
    IpsecMb(ipsec_mb::Key),
    Openssl(Box<Contexts>),
}

impl Key {
    /// Expands a key for the engine that is chosen here for the algorithm.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(algorithm: Algorithm, direction: Direction, key: &[u8]) -> Result<Self, KeyError> {
        Self::for_engine(select::chosen(algorithm), algorithm, direction, key)
    }

    /// Expands a key for an engine.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn for_engine(
        engine: Engine,
        algorithm: Algorithm,
        direction: Direction,
        key: &[u8],
    ) -> Result<Self, KeyError> {
        let expected = algorithm.key_len();
        if key.len() != expected {
            return Err(KeyError::Length {
                algorithm,
                expected,
                found: key.len(),
            });
        }
        let expanded = match engine {
            Engine::Openssl => {
                Expanded::Openssl(Box::new(Contexts::new(algorithm, direction, key)?))
            }
            #[cfg(target_arch = "x86_64")]
            Engine::Vaes if algorithm != Algorithm::ChaCha20Poly1305 => {
                let unavailable = KeyError::Unavailable { engine, algorithm };
                let vaes = vaes::Available::detect().ok_or(unavailable)?;
                Expanded::Vaes(vaes, Table::new(vaes, key))
            }
            #[cfg(target_arch = "x86_64")]
            Engine::IpsecMb => {
                let key = ipsec_mb::Library::get()
                    .ok()
                    .and_then(|library| library.expand(algorithm, direction, key));
                Expanded::IpsecMb(key.ok_or(KeyError::Unavailable { engine, algorithm })?)
            }
            _ => return Err(KeyError::Unavailable { engine, algorithm }),
        };
        Ok(Self {
            expanded,
            direction,
        })
    }

    /// What runs it.
    pub fn engine(&self) -> Engine {
        match &self.expanded {
            #[cfg(target_arch = "x86_64")]
            Expanded::Vaes(..) => Engine::Vaes,
            #[cfg(target_arch = "x86_64")]
            Expanded::IpsecMb(_) => Engine::IpsecMb,
            Expanded::Openssl(_) => Engine::Openssl,
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn table(&self, direction: Direction) -> Option<&Table> {
        match &self.expanded {
            Expanded::Vaes(_, table) if self.direction == direction => Some(table),
            _ => None,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn ipsec_mb(&self) -> Option<&ipsec_mb::Key> {
        match &self.expanded {
            Expanded::IpsecMb(key) => Some(key),
            _ => None,
        }
    }
}

/// Seals each packet in place: its body is encrypted and its tag written. One that can't be sealed (its
/// key is for opening, or its engine refuses) has its body wiped, and is not
/// [authentic](Packet::is_authentic).
#[inline]
pub fn seal_burst(packets: &mut [Packet<'_>]) {
    run(packets, Direction::Seal);
}

/// Opens each packet in place: where its tag matches it is [authentic](Packet::is_authentic), and its
/// body decrypted; where not, its body is zeros.
#[inline]
pub fn open_burst(packets: &mut [Packet<'_>]) {
    run(packets, Direction::Open);
}

fn run(packets: &mut [Packet<'_>], direction: Direction) {
    let kind = |packet: &Packet<'_>| std::mem::discriminant(&packet.key.expanded);
    // Engines are not mixed but in tests; keys are.
    for packets in packets.chunk_by_mut(|a, b| kind(a) == kind(b)) {
        let Some(first) = packets.first() else {
            continue;
        };
        match &first.key.expanded {
            #[cfg(target_arch = "x86_64")]
            Expanded::Vaes(vaes, _) => match direction {
                Direction::Seal => vaes.seal(packets),
                Direction::Open => vaes.open(packets),
            },
            #[cfg(target_arch = "x86_64")]
            Expanded::IpsecMb(key) => key.library().run(packets, direction),
            Expanded::Openssl(_) => {
                for packets in packets.chunk_by_mut(|a, b| std::ptr::eq(a.key, b.key)) {
                    openssl_evp::run(packets, direction);
                }
            }
        }
    }
}
