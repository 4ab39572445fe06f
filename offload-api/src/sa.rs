// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Security associations as an accelerator sees them (RFC 4301 §4.4.2).

mod numbering;
mod suite;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::InvalidSa;
use crate::replay::ReplaySnapshot;

pub use self::numbering::{Grant, GrantCursor, Numbering};
pub use self::suite::{AeadMode, Cipher, FurtherAead, Integrity, Protocol, Suite};

/// Everything an engine needs to seal or open the packets of one security association.
#[derive(Clone, Debug)]
pub struct SaParams {
    /// Security parameters index, as on the wire.
    pub spi: Spi,
    /// Which way the packets go.
    pub direction: Direction,
    /// Tunnel or transport (RFC 4303 §3.1), or the cryptography alone.
    pub mode: Mode,
    /// Protocol, encryption and integrity algorithms.
    pub suite: Suite,
    /// Keys for `suite`.
    pub keys: KeyMaterial,
    /// 64-bit extended sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// Anti-replay window in packets: 0 (off) or 32..=4096, rounded up to a multiple of 32. Inbound.
    pub replay_window: u32,
    /// What the inbound window has seen already, when an SA moves between engines.
    pub replay_state: Option<ReplaySnapshot>,
    /// Where an outbound SA's sequence numbers come from.
    pub numbering: Numbering,
    /// Outer headers that the engine writes and checks; without them a tunnel-mode frame starts at
    /// the ESP header, and a socket adds the rest. Transport mode always works on whole IP packets
    /// and takes only `udp` from here. AH authenticates them: in tunnel mode it must have them.
    pub outer: Option<OuterHeaders>,
    /// Soft and hard limits (RFC 4301 §4.4.2.1).
    pub lifetimes: Lifetimes,
    /// Outbound: whether frames may go on behind their IP packet. What is there is TFC padding, which is
    /// sealed with it and which the peer takes off by the packet's own length (RFC 4303 §2.7): ESP in
    /// tunnel mode has that. Inbound SAs take padding off in any case.
    pub tfc_padding: bool,
    /// Traffic this SA may carry, local to remote in the direction of the SA: (source, destination)
    /// pairs. Empty: anything.
    pub selectors: Vec<(TrafficSelector, TrafficSelector)>,
}

impl SaParams {
    /// An SA in tunnel mode as RFC 4303 has it where nothing else is said: extended sequence numbers
    /// (§2.2.1), inbound an anti-replay window, here of 1024 packets (§3.4.3). No limits, no outer
    /// headers, and outbound no numbers until they are granted.
    pub fn tunnel(spi: Spi, direction: Direction, suite: Suite, keys: KeyMaterial) -> Self {
        Self {
            spi,
            direction,
            mode: Mode::Tunnel,
            suite,
            keys,
            esn: true,
            replay_window: match direction {
                Direction::Inbound => 1024,
                Direction::Outbound => 0,
            },
            replay_state: None,
            numbering: Numbering::Granted(None),
            outer: None,
            lifetimes: Lifetimes::default(),
            tfc_padding: false,
            selectors: Vec::new(),
        }
    }

    /// Checks what no engine could accept.
    ///
    /// # Errors
    /// A key whose length does not fit the suite, a window out of range, an outbound SA without
    /// grant discipline, or a reserved SPI.
    pub fn validate(&self) -> Result<(), InvalidSa> {
        if self.spi.0.get() < 256 {
            return Err(InvalidSa::ReservedSpi {
                spi: self.spi.0.get(),
            });
        }
        self.keys.check(self.suite)?;
        if self.replay_window != 0 && !(32..=4096).contains(&self.replay_window) {
            return Err(InvalidSa::ReplayWindow {
                found: self.replay_window,
            });
        }
        if self.tfc_padding && (self.mode != Mode::Tunnel || self.suite.protocol() != Protocol::Esp)
        {
            return Err(InvalidSa::PaddingWithoutLength);
        }
        if self.mode == Mode::Crypto {
            return self.validate_crypto();
        }
        if self.direction == Direction::Inbound && self.esn && self.replay_window == 0 {
            return Err(InvalidSa::EsnWithoutWindow);
        }
        if let Numbering::Granted(Some(grant)) = self.numbering {
            grant.check(self.esn)?;
        }
        if let Some(OuterHeaders {
            source,
            destination,
            ..
        }) = self.outer
            && source.is_ipv4() != destination.is_ipv4()
        {
            return Err(InvalidSa::MixedOuterFamilies {
                from: source,
                to: destination,
            });
        }
        if self.suite.protocol() == Protocol::Ah {
            match self.outer {
                Some(outer) if outer.udp.is_some() => return Err(InvalidSa::AhInUdp),
                None if self.mode == Mode::Tunnel => return Err(InvalidSa::AhWithoutOuter),
                _ => {}
            }
        }
        Ok(())
    }
}

impl SaParams {
    /// What would be somebody's to do whom there is not.
    fn validate_crypto(&self) -> Result<(), InvalidSa> {
        let granted =
            self.direction == Direction::Outbound && self.numbering != Numbering::Explicit;
        let what = if self.suite.protocol() != Protocol::Esp {
            "AH"
        } else if granted {
            "sequence numbers"
        } else if self.replay_window != 0 || self.replay_state.is_some() {
            "an anti-replay window"
        } else if self.outer.is_some() {
            "outer headers"
        } else {
            return Ok(());
        };
        Err(InvalidSa::BeyondCrypto { what })
    }
}

/// A security parameters index; 1..=255 are reserved by IANA and refused at installation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(pub NonZeroU32);

impl Spi {
    /// The SPI with this value, unless it is zero ("no SA", RFC 4303 §2.1).
    pub fn new(value: u32) -> Option<Self> {
        NonZeroU32::new(value).map(Self)
    }

    /// The value in host order.
    #[inline]
    pub fn value(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

/// Direction of an SA, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Opens what the peer sealed.
    Inbound,
    /// Seals what the peer will open.
    Outbound,
}

/// RFC 4303 §3.1, and below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A whole IP packet is carried.
    Tunnel,
    /// The payload of an IP packet is carried, its header stays.
    Transport,
    /// The cryptography alone, for who does ESP's protocol itself. Going out, the frame holds ESP header,
    /// IV, and what is to be enciphered, padding and trailer in it; the ICV is added. Coming in, it holds
    /// an ESP packet, and is left with header, IV and what was deciphered. The engine numbers nothing and
    /// knows no window: that no IV comes twice under a key, and no packet, is its caller's to see to.
    Crypto,
}

/// The keys of one SA. Zeroed when dropped; never shown.
#[derive(Clone)]
pub struct KeyMaterial {
    /// Encryption key.
    pub cipher: Zeroizing<Vec<u8>>,
    /// Salt of an AEAD's nonce; all zero otherwise.
    pub salt: Zeroizing<[u8; 4]>,
    /// Integrity key.
    pub integrity: Zeroizing<Vec<u8>>,
}

impl KeyMaterial {
    /// Splits KEYMAT as IKE derives it: encryption key with its salt at the end, integrity key.
    ///
    /// # Errors
    /// Lengths that do not fit the suite.
    pub fn from_keymat(
        suite: Suite,
        encryption: &[u8],
        integrity: &[u8],
    ) -> Result<Self, InvalidSa> {
        let expected = suite.cipher_key_len() + suite.salt_len();
        let (key, salt) = match encryption.split_at_checked(suite.cipher_key_len()) {
            Some(parts) if encryption.len() == expected => parts,
            _ => {
                return Err(InvalidSa::KeyLength {
                    what: "encryption key with salt",
                    expected,
                    found: encryption.len(),
                });
            }
        };
        let mut salt_octets = Zeroizing::new([0; 4]);
        if let Some(room) = salt_octets.get_mut(..salt.len()) {
            room.copy_from_slice(salt);
        }
        let keys = Self {
            cipher: Zeroizing::new(key.to_vec()),
            salt: salt_octets,
            integrity: Zeroizing::new(integrity.to_vec()),
        };
        keys.check(suite)?;
        Ok(keys)
    }

    fn check(&self, suite: Suite) -> Result<(), InvalidSa> {
        let lengths = [
            ("encryption key", suite.cipher_key_len(), self.cipher.len()),
            (
                "integrity key",
                suite.integrity_key_len(),
                self.integrity.len(),
            ),
        ];
        for (what, expected, found) in lengths {
            if expected != found {
                return Err(InvalidSa::KeyLength {
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(..)")
    }
}

/// Outer IP and UDP headers of a tunnel (RFC 4303 §3.1.2, RFC 3948).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterHeaders {
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address.
    pub destination: IpAddr,
    /// UDP encapsulation, when there is a NAT.
    pub udp: Option<UdpEncapsulation>,
}

/// Ports of ESP in UDP (RFC 3948 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpEncapsulation {
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
}

/// Soft and hard limits of an SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// Reaching one asks for a rekey, once.
    pub soft: Limits,
    /// Reaching one stops the SA with the very next packet.
    pub hard: Limits,
}

/// Limits of one kind; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Octets of inner packets.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Time from installation.
    pub time: Option<Duration>,
}

/// One side of a traffic selector (RFC 7296 §3.13.1). Ports from 65535 to 0 are OPAQUE: they stand for
/// packets that show none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// First address.
    pub start: IpAddr,
    /// Last address, of the same family.
    pub end: IpAddr,
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// First port.
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
}

impl TrafficSelector {
    /// Whether it is for packets alone that show no port.
    pub fn is_opaque(&self) -> bool {
        (self.start_port, self.end_port) == (u16::MAX, 0)
    }

    /// Whether an address, protocol and port (`None`: the packet shows none) lie within.
    pub fn contains(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        let address_fits = match (self.start, address, self.end) {
            (IpAddr::V4(start), IpAddr::V4(a), IpAddr::V4(end)) => start <= a && a <= end,
            (IpAddr::V6(start), IpAddr::V6(a), IpAddr::V6(end)) => start <= a && a <= end,
            _ => false,
        };
        let port_fits = match (self.start_port, self.end_port, port) {
            (0, u16::MAX, _) => true,
            (start, end, Some(port)) => (start..=end).contains(&port),
            (.., None) => self.is_opaque(),
        };
        address_fits && (self.protocol == 0 || self.protocol == protocol) && port_fits
    }
}

/// An installed SA in one engine. A handle that outlived its SA is refused as stale, never taken
/// for another SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SaHandle {
    /// Slot in the engine's table.
    pub index: u32,
    /// How often the slot was used.
    pub generation: u32,
}

/// A change to an installed SA.
#[derive(Clone, Debug)]
pub enum Amend {
    /// More sequence numbers, by the rule of [`GrantCursor::extend`].
    Grant(Grant),
    /// Takes back what is left of the grant: the SA seals no more until granted anew.
    Revoke,
    /// Marks as seen what another engine has delivered.
    Replay(ReplaySnapshot),
    /// New limits.
    Lifetimes(Lifetimes),
    /// The peer or we moved (RFC 4555, NAT rebinding).
    Outer(OuterHeaders),
}

/// What an SA has done so far in one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaUsage {
    /// Packets sealed or opened.
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
    /// Outbound: the last sequence number used. Inbound: the highest one accepted.
    pub sequence: u64,
    /// Packets refused for a bad ICV.
    pub bad_icv: u64,
    /// Packets refused as replayed or too old.
    pub replayed: u64,
    /// Packets refused for any other reason.
    pub errors: u64,
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_never_reach_debug_output() {
        let keys = KeyMaterial::from_keymat(Suite::AES_128_GCM, &[0xab; 20], &[]).unwrap();
        assert!(!format!("{keys:?}").contains("ab"));
    }

    /// S88, RFC 4301 §4.4.1.1: ANY includes OPAQUE, which only packets are that show no port.
    #[test]
    fn opaque_ports_are_those_that_no_packet_shows() {
        let contains = |start_port, end_port, port| {
            let host = IpAddr::from([192, 0, 2, 1]);
            let selector = TrafficSelector {
                start: host,
                end: host,
                protocol: 17,
                start_port,
                end_port,
            };
            selector.contains(host, 17, port)
        };
        for port in [None, Some(0), Some(53), Some(65535)] {
            assert!(contains(0, 65535, port));
            assert_eq!(contains(65535, 0, port), port.is_none());
            assert_eq!(contains(53, 53, port), port == Some(53));
        }
    }

    #[test]
    fn key_lengths_must_fit_the_suite() {
        assert!(KeyMaterial::from_keymat(Suite::AES_128_GCM, &[0; 16], &[]).is_err());
        assert!(KeyMaterial::from_keymat(Suite::AES_128_GCM, &[0; 20], &[0; 32]).is_err());
        for suite in Suite::all().chain(Suite::all_ah()).chain(Suite::further()) {
            let encryption = vec![0; suite.cipher_key_len() + suite.salt_len()];
            let integrity = vec![0; suite.integrity_key_len()];
            KeyMaterial::from_keymat(suite, &encryption, &integrity).unwrap();
            assert_eq!(Suite::from_name(suite.name()), Some(suite));
        }
    }
}
