// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AH processing of one packet (RFC 4302 §3.3 and §3.4): its framing, and the ICV over it.
//!
//! As with ESP, sequence numbers and the replay window are the caller's.

use crossbeam_queue::ArrayQueue;
use esp_framing::ah::{AhFraming, ICV_MAX, Side, immutable};
use esp_framing::framing::{Located, wipe};
use openssl::error::ErrorStack;
use openssl::memcmp;

use offload_api::queue::Status;
use offload_api::sa::{Direction, KeyMaterial, OuterHeaders, SaParams};
use offload_api::wire::ah::Header;

use crate::mac::Mac;
use crate::packet::PacketBuffer;

/// The fixed part of an SA: what does not change from packet to packet.
pub struct AhTransform {
    framing: AhFraming,
    keys: KeyMaterial,
    /// Keyed contexts at rest.
    contexts: ArrayQueue<IcvContext>,
}

/// Contexts kept for reuse; more threads than this make some anew.
const CONTEXTS_KEPT: usize = 16;
/// Headers in front of AH for which a context has room from the start.
const HEADERS: usize = 256;

/// An integrity algorithm with its key, for one thread at a time.
pub struct IcvContext {
    mac: Mac,
    /// The headers in front of AH as the ICV covers them.
    headers: Vec<u8>,
}

impl AhTransform {
    /// Sets an SA up.
    ///
    /// # Errors
    /// OpenSSL refuses the algorithm.
    pub fn new(sa: &SaParams) -> Result<Self, ErrorStack> {
        let this = Self {
            framing: AhFraming::new(sa),
            keys: sa.keys.clone(),
            contexts: ArrayQueue::new(CONTEXTS_KEPT),
        };
        let context = this.make_context()?;
        this.put_context(context);
        Ok(this)
    }

    /// The SA's direction.
    pub fn direction(&self) -> Direction {
        self.framing.direction()
    }

    /// Replaces the outer headers (RFC 4555).
    pub fn set_outer(&mut self, outer: OuterHeaders) {
        self.framing.set_outer(outer);
    }

    /// A keyed context; give it back by [`put_context`](Self::put_context).
    ///
    /// # Errors
    /// OpenSSL has no memory.
    pub fn take_context(&self) -> Result<IcvContext, ErrorStack> {
        match self.contexts.pop() {
            Some(context) => Ok(context),
            None => self.make_context(),
        }
    }

    /// Keeps a context for the next burst.
    pub fn put_context(&self, context: IcvContext) {
        // One too many is dropped, and its key with it.
        let _ = self.contexts.push(context);
    }

    fn make_context(&self) -> Result<IcvContext, ErrorStack> {
        Ok(IcvContext {
            // AH without an algorithm is no suite.
            mac: Mac::new(self.framing.suite(), &self.keys)?.ok_or_else(ErrorStack::get)?,
            headers: Vec::with_capacity(HEADERS),
        })
    }

    /// Puts AH into an IP packet (RFC 4302 §3.3), in place.
    ///
    /// `iv` is what a GMAC has on the wire; without one it is the sequence number, which is unique as
    /// long as that is.
    ///
    /// # Errors
    /// As [`AhFraming::frame`]. The packet is in no state to be sent then.
    pub fn seal(
        &self,
        context: &mut IcvContext,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<(), Status> {
        let start = self.framing.frame(sequence, packet)?;
        let octets = packet.packet();
        let (headers, protected) = octets.split_at_mut_checked(start).ok_or(Status::NoSpace)?;
        immutable(headers, Side::Sender, &mut context.headers)?;
        let counter = sequence.to_be_bytes();
        let iv = match iv {
            Some(iv) => iv.first_chunk().ok_or(Status::WrongNumbering)?,
            None => &counter,
        };
        let high = self.framing.high(sequence);
        let icv = context
            .icv(iv, protected, high)
            .map_err(|_| Status::NoSpace)?;
        let iv_len = self.framing.suite().iv_len();
        let field = Header::LEN..Header::LEN + self.framing.icv_field_len();
        let field = protected.get_mut(field).ok_or(Status::NoSpace)?;
        let (iv_field, icv_field) = field.split_at_mut_checked(iv_len).ok_or(Status::NoSpace)?;
        iv_field.copy_from_slice(iv.get(..iv_len).ok_or(Status::NoSpace)?);
        icv_field.copy_from_slice(icv.get(..icv_field.len()).ok_or(Status::NoSpace)?);
        Ok(())
    }

    /// Finds AH in an inbound packet; see [`AhFraming::locate`].
    ///
    /// # Errors
    /// As there.
    pub fn locate(&self, packet: &[u8]) -> Result<Located, Status> {
        self.framing.locate(packet)
    }

    /// Checks an inbound packet's ICV (RFC 4302 §3.4.4), takes AH off it in place, and tells its next
    /// header. `sequence` is the full number that the caller made of [`Located::sequence_low`].
    ///
    /// # Errors
    /// [`Status::BadIcv`], and what [`AhFraming::deframe`] has. The packet is emptied: nothing
    /// unauthenticated stays reachable.
    pub fn open(
        &self,
        context: &mut IcvContext,
        located: Located,
        sequence: u64,
        packet: &mut impl PacketBuffer,
    ) -> Result<u8, Status> {
        if let Err(status) = self.authenticate(context, located, sequence, packet.packet()) {
            wipe(packet);
            return Err(status);
        }
        self.framing.deframe(located, packet)
    }

    fn authenticate(
        &self,
        context: &mut IcvContext,
        located: Located,
        sequence: u64,
        octets: &mut [u8],
    ) -> Result<(), Status> {
        let (headers, protected) = octets
            .split_at_mut_checked(located.esp)
            .ok_or(Status::BadLength)?;
        immutable(headers, Side::Receiver, &mut context.headers)?;
        let field = Header::LEN..Header::LEN + self.framing.icv_field_len();
        let field = protected.get_mut(field).ok_or(Status::BadLength)?;
        let mut received = [0; ICV_MAX];
        let received = received.get_mut(..field.len()).ok_or(Status::BadLength)?;
        received.copy_from_slice(field);
        // §3.3.3.1.1.1: it counts as zero, and so does a GMAC's IV, which is part of the field.
        field.fill(0);
        let iv_len = self.framing.suite().iv_len();
        let (iv, icv) = received.split_at_checked(iv_len).ok_or(Status::BadLength)?;
        let mut nonce = [0; 8];
        nonce
            .get_mut(..iv_len)
            .ok_or(Status::BadLength)?
            .copy_from_slice(iv);
        let high = self.framing.high(sequence);
        let expected = context
            .icv(&nonce, protected, high)
            .map_err(|_| Status::BadIcv)?;
        match expected.get(..icv.len()) {
            Some(expected) if memcmp::eq(expected, icv) => Ok(()),
            _ => Err(Status::BadIcv),
        }
    }
}

impl IcvContext {
    /// The code over headers, AH with what follows, and the half of the number that is not sent
    /// (RFC 4302 §3.3.3.2.2).
    fn icv(
        &mut self,
        iv: &[u8; 8],
        protected: &[u8],
        high: Option<u32>,
    ) -> Result<[u8; 64], ErrorStack> {
        let high = high.map(u32::to_be_bytes);
        let high = high.as_ref().map_or(&[][..], |high| high);
        let parts = [&self.headers[..], protected, high];
        self.mac.compute(iv, &parts)
    }
}
