// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Security associations as an accelerator sees them (RFC 4301 §4.4.2).

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::error::InvalidSa;
use crate::replay::ReplaySnapshot;

/// Everything an engine needs to seal or open the packets of one security association.
#[derive(Clone, Debug)]
pub struct SaParams {
    /// Security parameters index, as on the wire.
    pub spi: Spi,
    /// Which way the packets go.
    pub direction: Direction,
    /// Tunnel or transport (RFC 4303 §3.1).
    pub mode: Mode,
    /// Encryption and integrity algorithms.
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
    /// and takes only `udp` from here.
    pub outer: Option<OuterHeaders>,
    /// Soft and hard limits (RFC 4301 §4.4.2.1).
    pub lifetimes: Lifetimes,
    /// Traffic this SA may carry, local to remote in the direction of the SA: (source, destination)
    /// pairs. Empty: anything.
    pub selectors: Vec<(TrafficSelector, TrafficSelector)>,
}

impl SaParams {
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
        Ok(())
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

/// RFC 4303 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A whole IP packet is carried.
    Tunnel,
    /// The payload of an IP packet is carried, its header stays.
    Transport,
}

/// An encryption algorithm of ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// No encryption (RFC 2410).
    Null = 0,
    /// AES-128-GCM with a 16-octet ICV (RFC 4106).
    Aes128Gcm = 1,
    /// AES-256-GCM with a 16-octet ICV (RFC 4106).
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305 = 3,
    /// AES-128-CBC (RFC 3602).
    Aes128Cbc = 4,
    /// AES-192-CBC (RFC 3602).
    Aes192Cbc = 5,
    /// AES-256-CBC (RFC 3602).
    Aes256Cbc = 6,
}

impl Cipher {
    /// The algorithm with this code, as devices and the SA cache store it.
    pub fn from_code(code: u8) -> Option<Self> {
        use Cipher::*;
        [
            Null,
            Aes128Gcm,
            Aes256Gcm,
            ChaCha20Poly1305,
            Aes128Cbc,
            Aes192Cbc,
            Aes256Cbc,
        ]
        .into_iter()
        .find(|cipher| *cipher as u8 == code)
    }
}

/// A separate integrity algorithm of ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Integrity {
    /// None: the cipher is an AEAD.
    None = 0,
    /// HMAC-SHA-256-128 (RFC 4868).
    HmacSha256 = 1,
    /// HMAC-SHA-384-192 (RFC 4868).
    HmacSha384 = 2,
    /// HMAC-SHA-512-256 (RFC 4868).
    HmacSha512 = 3,
}

impl Integrity {
    /// The algorithm with this code, as devices and the SA cache store it.
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::None,
            Self::HmacSha256,
            Self::HmacSha384,
            Self::HmacSha512,
        ]
        .into_iter()
        .find(|integrity| *integrity as u8 == code)
    }
}

/// A valid pair of encryption and integrity algorithms.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suite {
    cipher: Cipher,
    integrity: Integrity,
}

impl Suite {
    /// AES-128-GCM-16.
    pub const AES_128_GCM: Self = Self {
        cipher: Cipher::Aes128Gcm,
        integrity: Integrity::None,
    };
    /// AES-256-GCM-16.
    pub const AES_256_GCM: Self = Self {
        cipher: Cipher::Aes256Gcm,
        integrity: Integrity::None,
    };
    /// ChaCha20-Poly1305.
    pub const CHACHA20_POLY1305: Self = Self {
        cipher: Cipher::ChaCha20Poly1305,
        integrity: Integrity::None,
    };

    /// Every suite there is, AEADs first.
    pub fn all() -> impl Iterator<Item = Self> {
        use Cipher::*;
        let aeads = [Aes128Gcm, Aes256Gcm, ChaCha20Poly1305].map(|c| (c, Integrity::None));
        let pairs = [Aes128Cbc, Aes192Cbc, Aes256Cbc, Null]
            .into_iter()
            .flat_map(|c| {
                [
                    Integrity::HmacSha256,
                    Integrity::HmacSha384,
                    Integrity::HmacSha512,
                ]
                .map(|i| (c, i))
            });
        aeads
            .into_iter()
            .chain(pairs)
            .map(|(cipher, integrity)| Self { cipher, integrity })
    }

    /// Joins a cipher and an integrity algorithm.
    ///
    /// # Errors
    /// An AEAD takes no separate integrity algorithm, every other cipher needs one (RFC 8221 §4).
    pub fn new(cipher: Cipher, integrity: Integrity) -> Result<Self, InvalidSa> {
        let aead = Self { cipher, integrity }.is_aead();
        if aead == (integrity == Integrity::None) {
            Ok(Self { cipher, integrity })
        } else {
            Err(InvalidSa::Suite { cipher, integrity })
        }
    }

    /// The encryption algorithm.
    pub fn cipher(self) -> Cipher {
        self.cipher
    }

    /// The integrity algorithm.
    pub fn integrity(self) -> Integrity {
        self.integrity
    }

    /// Whether one algorithm does both.
    pub fn is_aead(self) -> bool {
        matches!(
            self.cipher,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305
        )
    }

    /// Octets of encryption key, without salt.
    pub fn cipher_key_len(self) -> usize {
        match self.cipher {
            Cipher::Null => 0,
            Cipher::Aes128Gcm | Cipher::Aes128Cbc => 16,
            Cipher::Aes192Cbc => 24,
            Cipher::Aes256Gcm | Cipher::Aes256Cbc | Cipher::ChaCha20Poly1305 => 32,
        }
    }

    /// Octets of salt that follow the encryption key in KEYMAT (RFC 4106 §8.1, RFC 7634 §2).
    pub fn salt_len(self) -> usize {
        if self.is_aead() { 4 } else { 0 }
    }

    /// Octets of integrity key.
    pub fn integrity_key_len(self) -> usize {
        match self.integrity {
            Integrity::None => 0,
            Integrity::HmacSha256 => 32,
            Integrity::HmacSha384 => 48,
            Integrity::HmacSha512 => 64,
        }
    }

    /// Octets of initialisation vector on the wire.
    pub fn iv_len(self) -> usize {
        match self.cipher {
            Cipher::Null => 0,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 8,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
        }
    }

    /// Octets of integrity check value.
    pub fn icv_len(self) -> usize {
        match self.integrity {
            Integrity::None | Integrity::HmacSha256 => 16,
            Integrity::HmacSha384 => 24,
            Integrity::HmacSha512 => 32,
        }
    }

    /// What payload, padding and trailer together must be a multiple of (RFC 4303 §2.4).
    pub fn alignment(self) -> usize {
        match self.cipher {
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => 16,
            _ => 4,
        }
    }

    /// The name in strongSwan's proposal syntax, such as `aes128gcm16` or `aes256-sha384`.
    pub fn name(self) -> &'static str {
        use {Cipher::*, Integrity::*};
        match (self.cipher, self.integrity) {
            (Aes128Gcm, _) => "aes128gcm16",
            (Aes256Gcm, _) => "aes256gcm16",
            (ChaCha20Poly1305, _) => "chacha20poly1305",
            (Aes128Cbc, HmacSha384) => "aes128-sha384",
            (Aes128Cbc, HmacSha512) => "aes128-sha512",
            (Aes128Cbc, _) => "aes128-sha256",
            (Aes192Cbc, HmacSha384) => "aes192-sha384",
            (Aes192Cbc, HmacSha512) => "aes192-sha512",
            (Aes192Cbc, _) => "aes192-sha256",
            (Aes256Cbc, HmacSha384) => "aes256-sha384",
            (Aes256Cbc, HmacSha512) => "aes256-sha512",
            (Aes256Cbc, _) => "aes256-sha256",
            (Null, HmacSha384) => "null-sha384",
            (Null, HmacSha512) => "null-sha512",
            (Null, _) => "null-sha256",
        }
    }

    /// The suite with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|suite| suite.name() == name)
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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
        if let Ok(salt) = <[u8; 4]>::try_from(salt) {
            *salt_octets = salt;
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

/// Where an outbound SA's sequence numbers come from.
///
/// The sequence law: at any instant one engine owns an SA's numbers, and it uses only numbers of a
/// grant that was recorded before it could use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// The engine counts within its grant. `None`: installed, but it may not seal yet.
    Granted(Option<Grant>),
    /// Each operation brings its own number and IV: known answers and offline tools, never traffic.
    Explicit,
}

/// A block of sequence numbers, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// First number that may be used; never 0.
    pub first: u64,
    /// Last number that may be used.
    pub last: u64,
}

impl Grant {
    /// Checks order, the reserved zero and the end of the sequence space.
    ///
    /// # Errors
    /// [`InvalidSa::Grant`].
    pub fn check(self, esn: bool) -> Result<(), InvalidSa> {
        let end = if esn { u64::MAX } else { u64::from(u32::MAX) };
        if self.first == 0 || self.first > self.last || self.last > end {
            return Err(InvalidSa::Grant {
                first: self.first,
                last: self.last,
                end,
            });
        }
        Ok(())
    }
}

/// A cursor over granted numbers: what each engine keeps for an outbound SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantCursor {
    next: u64,
    /// Last usable number; 0 before the first grant, `next > last` when dry.
    last: u64,
    /// Number 2^64 - 1 is used or given up.
    ended: bool,
}

impl GrantCursor {
    /// A cursor that has nothing to give until [`extend`](Self::extend).
    pub fn new(grant: Option<Grant>) -> Self {
        let (next, last) = grant.map_or((1, 0), |grant| (grant.first, grant.last));
        Self {
            next,
            last,
            ended: false,
        }
    }

    /// Takes in a further grant. One that continues the present one extends it; one that starts
    /// later abandons what is left, so that numbers only ever grow.
    ///
    /// # Errors
    /// The number that a grant must at least start at, when it lies behind.
    pub fn extend(&mut self, grant: Grant) -> Result<(), u64> {
        if grant.first <= self.last {
            return Err(self.last.saturating_add(1));
        }
        if self.last == 0 || grant.first != self.last + 1 {
            self.next = grant.first;
        }
        // Else it continues: a dry cursor stands at `grant.first` already.
        self.last = grant.last;
        Ok(())
    }

    /// Takes up to `count` consecutive numbers: the first and how many.
    pub fn take(&mut self, count: u64) -> Option<(u64, u64)> {
        let taken = count.min(self.remaining());
        if taken == 0 {
            return None;
        }
        let first = self.next;
        match self.next.checked_add(taken) {
            Some(next) => self.next = next,
            // The very last number of the 64-bit space: dry for ever.
            None => self.ended = true,
        }
        Some((first, taken))
    }

    /// Gives up what is left; a later grant must still start past it.
    pub fn revoke(&mut self) {
        match self.last.checked_add(1) {
            Some(next) => self.next = next,
            None => self.ended = true,
        }
    }

    /// Numbers left.
    pub fn remaining(&self) -> u64 {
        if self.next > self.last || self.ended {
            0
        } else {
            (self.last - self.next).saturating_add(1)
        }
    }

    /// The number that the next packet would get.
    pub fn next(&self) -> u64 {
        self.next
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

/// One side of a traffic selector (RFC 7296 §3.13.1).
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
    /// Whether an address, protocol and port (`None`: the packet shows none) lie within.
    pub fn contains(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        let address_fits = match (self.start, address, self.end) {
            (IpAddr::V4(start), IpAddr::V4(a), IpAddr::V4(end)) => start <= a && a <= end,
            (IpAddr::V6(start), IpAddr::V6(a), IpAddr::V6(end)) => start <= a && a <= end,
            _ => false,
        };
        let any_port = self.start_port == 0 && self.end_port == u16::MAX;
        let port_fits =
            any_port || port.is_some_and(|p| (self.start_port..=self.end_port).contains(&p));
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
    fn a_cursor_never_gives_a_number_twice_nor_one_outside_its_grants() {
        let mut cursor = GrantCursor::new(Some(Grant { first: 1, last: 10 }));
        assert_eq!(cursor.take(4), Some((1, 4)));
        cursor
            .extend(Grant {
                first: 11,
                last: 20,
            })
            .unwrap();
        assert_eq!(cursor.take(100), Some((5, 16)));
        assert_eq!(cursor.take(1), None);
        assert_eq!(
            cursor.extend(Grant {
                first: 20,
                last: 40
            }),
            Err(21)
        );
        cursor
            .extend(Grant {
                first: 100,
                last: 101,
            })
            .unwrap();
        assert_eq!(cursor.take(1), Some((100, 1)));
        cursor
            .extend(Grant {
                first: 200,
                last: 200,
            })
            .unwrap();
        assert_eq!(cursor.take(2), Some((200, 1)));
    }

    #[test]
    fn the_end_of_the_64_bit_space_refuses_and_never_wraps() {
        let mut cursor = GrantCursor::new(Some(Grant {
            first: u64::MAX - 1,
            last: u64::MAX,
        }));
        assert_eq!(cursor.take(8), Some((u64::MAX - 1, 2)));
        assert_eq!(cursor.take(1), None);
        assert!(cursor.extend(Grant { first: 1, last: 5 }).is_err());
    }

    #[test]
    fn a_standby_cursor_starts_with_its_first_grant() {
        let mut cursor = GrantCursor::new(None);
        assert_eq!(cursor.take(1), None);
        cursor
            .extend(Grant {
                first: 65537,
                last: 131072,
            })
            .unwrap();
        assert_eq!(cursor.take(1), Some((65537, 1)));
    }

    #[test]
    fn keys_never_reach_debug_output() {
        let keys = KeyMaterial::from_keymat(Suite::AES_128_GCM, &[0xab; 20], &[]).unwrap();
        assert!(!format!("{keys:?}").contains("ab"));
    }

    #[test]
    fn key_lengths_must_fit_the_suite() {
        assert!(KeyMaterial::from_keymat(Suite::AES_128_GCM, &[0; 16], &[]).is_err());
        assert!(KeyMaterial::from_keymat(Suite::AES_128_GCM, &[0; 20], &[0; 32]).is_err());
        for suite in Suite::all() {
            let encryption = vec![0; suite.cipher_key_len() + suite.salt_len()];
            let integrity = vec![0; suite.integrity_key_len()];
            KeyMaterial::from_keymat(suite, &encryption, &integrity).unwrap();
            assert_eq!(Suite::from_name(suite.name()), Some(suite));
        }
    }
}
