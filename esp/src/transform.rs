// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ESP processing of one packet (RFC 4303 §3.3 and §3.4): its framing, and the cipher between.
//!
//! Sequence numbers and the replay window are the caller's: it takes a number before
//! [`Transform::seal`]; it looks at the window between [`Transform::locate`] and
//! [`Transform::open`], and moves it after.

use crossbeam_queue::ArrayQueue;
use esp_aead::{Key, KeyError, Packet, TAG, cbc, open_burst, seal_burst};
use esp_framing::framing::{Framing, wipe};
use zeroize::Zeroizing;

use offload_api::frame::Frame;
use offload_api::queue::{Explicit, Status};
use offload_api::sa::{Direction, KeyMaterial, Mode, OuterHeaders, SaParams, Spi, Suite};
use offload_api::wire::esp::Header;

use crate::cipher::{CipherContext, aead_alone, aead_key, aead_packet, cbc_key};
use crate::common::Common;
use crate::packet::PacketBuffer;

pub use esp_framing::framing::Located;

/// The fixed part of an SA: what does not change from packet to packet.
pub struct Transform {
    framing: Framing,
    salt: Zeroizing<[u8; 4]>,
    /// An AEAD's key, which threads share. It lies here, where nothing that packets change is beside it.
    aead: Option<Key>,
    /// What any other suite needs.
    separate: Option<Box<Separate>>,
}

/// What there is of suites whose contexts are more than a key.
struct Separate {
    /// Those that contexts are made with.
    keys: KeyMaterial,
    /// Keys of AES-CBC and an HMAC, where packets of such suites go in bursts.
    cbc: Option<Box<cbc::Key>>,
    /// Keyed contexts at rest; as many as threads ever worked on the SA at once.
    contexts: ArrayQueue<CipherContext>,
}

/// Contexts kept for reuse; more threads than this make some anew.
const CONTEXTS_KEPT: usize = 16;

impl Transform {
    /// Sets an SA up.
    ///
    /// # Errors
    /// No engine takes the key.
    pub fn new(sa: &SaParams) -> Result<Self, KeyError> {
        let aead = aead_key(sa.suite, &sa.keys, sa.direction == Direction::Outbound)?;
        let this = Self {
            framing: Framing::new(sa),
            salt: sa.keys.salt.clone(),
            separate: aead.is_none().then(|| {
                Box::new(Separate {
                    keys: sa.keys.clone(),
                    cbc: cbc_key(sa).map(Box::new),
                    contexts: ArrayQueue::new(CONTEXTS_KEPT),
                })
            }),
            aead,
        };
        if this.separate.is_some() {
            this.put_context(this.make_context()?);
        }
        Ok(this)
    }

    /// The SA's direction.
    #[inline]
    pub fn direction(&self) -> Direction {
        self.framing.direction()
    }

    /// The SA's SPI.
    pub fn spi(&self) -> Spi {
        self.framing.spi()
    }

    /// The SA's mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.framing.mode()
    }

    /// The SA's algorithms.
    pub fn suite(&self) -> Suite {
        self.framing.suite()
    }

    /// The SA's outer headers.
    pub fn outer(&self) -> Option<&OuterHeaders> {
        self.framing.outer()
    }

    /// Whether sequence numbers are extended.
    pub fn esn(&self) -> bool {
        self.framing.esn()
    }

    /// Replaces the outer headers (RFC 4555, NAT rebinding).
    pub fn set_outer(&mut self, outer: OuterHeaders) {
        self.framing.set_outer(outer);
    }

    /// A keyed context; give it back by [`put_context`](Self::put_context).
    ///
    /// # Errors
    /// OpenSSL has no memory.
    pub fn take_context(&self) -> Result<CipherContext, KeyError> {
        let kept = self.separate.as_ref();
        match kept.and_then(|separate| separate.contexts.pop()) {
            Some(context) => Ok(context),
            None => self.make_context(),
        }
    }

    /// Keeps a context for the next burst.
    pub fn put_context(&self, context: CipherContext) {
        // One too many is dropped, and its key with it.
        if let Some(separate) = &self.separate {
            let _ = separate.contexts.push(context);
        }
    }

    fn make_context(&self) -> Result<CipherContext, KeyError> {
        let seals = self.direction() == Direction::Outbound;
        let of_aead;
        let keys = match self.separate.as_deref() {
            Some(separate) => &separate.keys,
            None => {
                of_aead = KeyMaterial {
                    cipher: Zeroizing::default(),
                    integrity: Zeroizing::default(),
                    salt: self.salt.clone(),
                };
                &of_aead
            }
        };
        CipherContext::beside_aead(self.suite(), keys, seals)
    }

    /// Octets of IV that [`seal`](Self::seal) must be given, because they may not be predictable
    /// (RFC 3602 §2.1).
    pub fn random_iv_len(&self) -> usize {
        self.framing.random_iv_len()
    }

    /// Seals an IP packet (RFC 4303 §3.3): in place, growing at both ends.
    ///
    /// `iv` is what goes on the wire; without one an AEAD's IV is the sequence number, which is
    /// unique as long as that is, and a CBC suite refuses.
    ///
    /// # Errors
    /// [`Status::BadIpHeader`], [`Status::Fragment`] (transport mode), [`Status::NoSpace`],
    /// [`Status::BadLength`], or [`Status::WrongNumbering`] for a missing IV. The packet is in no state
    /// to be sent then.
    pub fn seal(
        &self,
        context: &mut CipherContext,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<(), Status> {
        let start = self.framing.frame(sequence, iv, packet)?;
        let esp = packet.packet().get_mut(start..).ok_or(Status::NoSpace)?;
        let high = self.framing.high(sequence);
        let sealed = match &self.aead {
            Some(key) => aead_alone(key, (self.suite(), &self.salt), esp, high, seal_burst),
            None => context.seal(esp, high).ok(),
        };
        sealed.ok_or(Status::NoSpace)
    }

    /// Finds the ESP header of an inbound packet and checks everything in front of the payload
    /// (RFC 4303 §3.4.2): outer headers against the SA's, the SPI, and the length.
    ///
    /// # Errors
    /// [`Status::BadIpHeader`], [`Status::Fragment`], [`Status::OuterMismatch`] or
    /// [`Status::BadLength`].
    #[inline(always)]
    pub fn locate(&self, packet: &[u8]) -> Result<Located, Status> {
        self.framing.locate(packet)
    }

    /// Opens an inbound packet (RFC 4303 §3.4.4) in place and tells its next header. `sequence` is
    /// the full number that the caller made of [`Located::sequence_low`].
    ///
    /// # Errors
    /// [`Status::BadIcv`], [`Status::BadPad`], [`Status::BadNextHeader`], [`Status::BadIpHeader`].
    /// The packet is emptied: nothing unauthenticated stays reachable.
    pub fn open(
        &self,
        context: &mut CipherContext,
        located: Located,
        sequence: u64,
        packet: &mut impl PacketBuffer,
    ) -> Result<u8, Status> {
        let high = self.framing.high(sequence);
        let esp = packet.packet().get_mut(located.esp..);
        let opened = match esp {
            Some(esp) => {
                let opened = match &self.aead {
                    Some(key) => aead_alone(key, (self.suite(), &self.salt), esp, high, open_burst),
                    None => context.open(esp, high).ok(),
                };
                opened.ok_or(Status::BadIcv)
            }
            None => Err(Status::BadLength),
        };
        if let Err(status) = opened {
            wipe(packet);
            return Err(status);
        }
        self.framing.deframe(located, packet)
    }

    /// Whether the suite is an AEAD, whose packets can go in bursts.
    pub(crate) fn is_aead(&self) -> bool {
        self.aead.is_some()
    }

    /// Keys of bursts of CBC.
    #[inline]
    fn cbc(&self) -> Option<&cbc::Key> {
        self.separate.as_ref()?.cbc.as_deref()
    }

    /// Whether packets can go in bursts of CBC.
    pub(crate) fn is_cbc(&self) -> bool {
        self.cbc().is_some()
    }

    /// The hash of those bursts.
    pub(crate) fn cbc_hash(&self) -> Option<cbc::Hash> {
        self.cbc().map(cbc::Key::hash)
    }

    /// Whether a packet of this length, located if it is inbound, can go in a burst of CBC.
    pub(crate) fn fits_cbc(&self, len: usize, located: Option<Located>) -> bool {
        let Some(key) = self.cbc() else { return false };
        key.takes(match (located, self.framing.mode()) {
            (Some(located), _) => len.saturating_sub(located.esp),
            (None, Mode::Crypto) => len + self.suite().icv_len(),
            // In transport mode it will be somewhat less, and not empty either.
            (None, _) => key.sealed_len(len),
        })
    }

    /// As [`frame_aead`](Self::frame_aead), for CBC.
    ///
    /// # Errors
    /// As [`seal`](Self::seal)'s.
    pub(crate) fn frame_cbc<'data>(
        &'data self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &'data mut impl PacketBuffer,
    ) -> Result<cbc::Packet<'data>, Status> {
        let start = self.framing.frame(sequence, iv, packet)?;
        let esp = packet.packet().get_mut(start..).ok_or(Status::NoSpace)?;
        self.to_cbc(esp, sequence).ok_or(Status::NoSpace)
    }

    /// As [`packet_aead`](Self::packet_aead), for CBC.
    ///
    /// # Errors
    /// [`Status::BadLength`].
    pub(crate) fn packet_cbc<'data>(
        &'data self,
        located: Located,
        sequence: u64,
        packet: &'data mut impl PacketBuffer,
    ) -> Result<cbc::Packet<'data>, Status> {
        let esp = packet.packet().get_mut(located.esp..);
        esp.and_then(|esp| self.to_cbc(esp, sequence))
            .ok_or(Status::BadLength)
    }

    fn to_cbc<'data>(
        &'data self,
        esp: &'data mut [u8],
        sequence: u64,
    ) -> Option<cbc::Packet<'data>> {
        cbc::Packet::new(self.cbc()?, esp, self.framing.high(sequence))
    }

    /// The first half of [`seal`](Self::seal): everything but the cryptography, which the AEAD's burst
    /// does.
    ///
    /// # Errors
    /// As `seal`'s.
    // A packet that is moved waits for the stores that made it, so it is made where it goes.
    #[inline(always)]
    pub(crate) fn frame_aead<'data>(
        &'data self,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &'data mut impl PacketBuffer,
    ) -> Result<Packet<'data>, Status> {
        let esp = match self.framing.mode() {
            Mode::Tunnel => {
                let (octets, start) = self.framing.frame_whole(sequence, iv, packet)?;
                octets.get_mut(start..)
            }
            Mode::Transport => {
                let start = self.framing.frame(sequence, iv, packet)?;
                packet.packet().get_mut(start..)
            }
            Mode::Crypto => return self.frame_crypto(sequence, packet),
        };
        let esp = esp.ok_or(Status::NoSpace)?;
        // What was just written is not read again: a load waits for the stores that it spans.
        let mut head = [0; Header::LEN + 8];
        let (spi, sequence_low) = (self.spi().value(), sequence as u32);
        let header = u64::from(spi) << 32 | u64::from(sequence_low);
        head[..Header::LEN].copy_from_slice(&header.to_be_bytes());
        match iv.and_then(|iv| iv.first_chunk::<8>()) {
            Some(iv) => head[Header::LEN..].copy_from_slice(iv),
            None => head[Header::LEN..].copy_from_slice(&sequence.to_be_bytes()),
        }
        self.to_aead(esp, head, sequence).ok_or(Status::NoSpace)
    }

    /// As [`frame_aead`](Self::frame_aead), of a packet that is framed already.
    ///
    /// # Errors
    /// [`Status::NoSpace`] or [`Status::BadLength`].
    #[inline(always)]
    pub(crate) fn frame_crypto<'data>(
        &'data self,
        sequence: u64,
        packet: &'data mut impl PacketBuffer,
    ) -> Result<Packet<'data>, Status> {
        let esp = packet.grow(0, TAG).ok_or(Status::NoSpace)?;
        let head = *esp.first_chunk().ok_or(Status::BadLength)?;
        self.to_aead(esp, head, sequence).ok_or(Status::BadLength)
    }

    /// What the AEAD's burst does of a packet in [`Mode::Crypto`]; `given` came with it. Its full number is
    /// told where it has one, refused or not.
    ///
    /// # Errors
    /// As [`locate_crypto`](Self::locate_crypto)'s and [`frame_crypto`](Self::frame_crypto)'s.
    #[inline(always)]
    pub(crate) fn take_crypto<'data>(
        &'data self,
        given: Option<Explicit>,
        packet: &'data mut Frame,
        number: &mut u64,
    ) -> Result<Packet<'data>, Status> {
        let len = packet.len();
        let room = match self.direction() {
            Direction::Outbound => TAG,
            Direction::Inbound => 0,
        };
        if room > packet.tailroom() {
            // What is wrong with it otherwise is told first.
            *number = self.locate_crypto(packet, len, given)?;
            return Err(Status::NoSpace);
        }
        let octets = packet.grow(0, room).ok_or(Status::NoSpace)?;
        let Some(&head) = octets.first_chunk() else {
            *number = self.locate_crypto(octets, len, given)?;
            return Err(Status::BadLength);
        };
        // Not what lies behind a shorter one.
        let sequence = self.locate_crypto(head.get(..len).unwrap_or(&head), len, given)?;
        *number = sequence;
        self.to_aead(octets, head, sequence)
            .ok_or(Status::BadLength)
    }

    /// What packets in [`Mode::Crypto`] have in common, where they are of the kind that has.
    pub(crate) fn common(&self) -> Option<Common<'_>> {
        let seals = self.direction() == Direction::Outbound;
        let framing = &self.framing;
        let is_alike = self.mode() == Mode::Crypto
            && !framing.esn()
            && framing.iv_len() == 8
            && framing.icv_len() == TAG;
        is_alike.then_some(Common {
            key: self.aead.as_ref()?,
            salt: &self.salt,
            spi: framing.spi().value(),
            around: framing.around_crypto(),
            alignment: framing.alignment(),
            room: if seals { TAG } else { 0 },
        })
    }

    /// The full number of a packet in [`Mode::Crypto`], sealed or not; `given` came with it.
    ///
    /// # Errors
    /// As [`Framing::locate_crypto`]'s.
    #[inline(always)]
    pub(crate) fn locate_crypto(
        &self,
        packet: &[u8],
        len: usize,
        given: Option<Explicit>,
    ) -> Result<u64, Status> {
        let given = given.map(|explicit| explicit.sequence);
        self.framing.locate_crypto(packet, len, given)
    }

    /// What the AEAD's burst opens of an inbound packet.
    ///
    /// # Errors
    /// [`Status::BadLength`].
    #[inline(always)]
    pub(crate) fn packet_aead<'data>(
        &'data self,
        located: Located,
        sequence: u64,
        packet: &'data mut impl PacketBuffer,
    ) -> Result<Packet<'data>, Status> {
        let esp = packet.packet().get_mut(located.esp..);
        esp.and_then(|esp| {
            let head = *esp.first_chunk()?;
            self.to_aead(esp, head, sequence)
        })
        .ok_or(Status::BadLength)
    }

    /// The rest of [`open`](Self::open), when the burst has answered.
    ///
    /// # Errors
    /// As `open`'s.
    #[inline(always)]
    pub(crate) fn finish_aead(
        &self,
        located: Located,
        opened: Result<(), Status>,
        packet: &mut impl PacketBuffer,
    ) -> Result<u8, Status> {
        if let Err(status) = opened {
            wipe(packet);
            return Err(status);
        }
        self.framing.deframe(located, packet)
    }

    /// `head` is ESP header and IV, as they are in the packet.
    #[inline(always)]
    fn to_aead<'data>(
        &'data self,
        esp: &'data mut [u8],
        head: [u8; Header::LEN + 8],
        sequence: u64,
    ) -> Option<Packet<'data>> {
        let key = self.aead.as_ref()?;
        let split = self.framing.layout(esp.len())?;
        let high = self.framing.high(sequence);
        aead_packet(key, &self.salt, esp, &head, split, high)
    }
}
