// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An SA of either protocol, as the engine works on it.

use esp_aead::KeyError;
use esp_framing::framing::Located;

use offload_api::queue::Status;
use offload_api::sa::{Direction, Mode, OuterHeaders, Protocol, SaParams};

use crate::ah::{AhTransform, IcvContext};
use crate::cipher::CipherContext;
use crate::packet::PacketBuffer;
use crate::transform::Transform;

/// The fixed part of an SA.
pub(crate) enum SaTransform {
    Esp(Transform),
    Ah(Box<AhTransform>),
}

/// What an SA's cryptography needs, for one thread at a time.
pub(crate) enum Context {
    Esp(CipherContext),
    Ah(IcvContext),
}

impl SaTransform {
    pub(crate) fn new(sa: &SaParams) -> Result<Self, KeyError> {
        match sa.suite.protocol() {
            Protocol::Esp => Transform::new(sa).map(Self::Esp),
            Protocol::Ah => Ok(Self::Ah(Box::new(AhTransform::new(sa)?))),
        }
    }

    #[inline]
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Esp(esp) => esp.direction(),
            Self::Ah(ah) => ah.direction(),
        }
    }

    pub(crate) fn set_outer(&mut self, outer: OuterHeaders) {
        match self {
            Self::Esp(esp) => esp.set_outer(outer),
            Self::Ah(ah) => ah.set_outer(outer),
        }
    }

    pub(crate) fn take_context(&self) -> Result<Context, KeyError> {
        match self {
            Self::Esp(esp) => esp.take_context().map(Context::Esp),
            Self::Ah(ah) => Ok(Context::Ah(ah.take_context()?)),
        }
    }

    pub(crate) fn put_context(&self, context: Context) {
        match (self, context) {
            (Self::Esp(esp), Context::Esp(context)) => esp.put_context(context),
            (Self::Ah(ah), Context::Ah(context)) => ah.put_context(context),
            // Another SA's is dropped.
            _ => {}
        }
    }

    /// ESP with an AEAD, whose packets can go in bursts.
    #[inline]
    pub(crate) fn aead(&self) -> Option<&Transform> {
        match self {
            Self::Esp(esp) => Some(esp).filter(|esp| esp.is_aead()),
            Self::Ah(_) => None,
        }
    }

    /// ESP with AES-CBC and an HMAC whose packets can go in bursts.
    #[inline]
    pub(crate) fn cbc(&self) -> Option<&Transform> {
        match self {
            Self::Esp(esp) => Some(esp).filter(|esp| esp.is_cbc()),
            Self::Ah(_) => None,
        }
    }

    /// The transform of an SA that has its cryptography done and nothing else.
    #[inline]
    pub(crate) fn crypto(&self) -> Option<&Transform> {
        match self {
            Self::Esp(esp) => Some(esp).filter(|esp| esp.mode() == Mode::Crypto),
            Self::Ah(_) => None,
        }
    }

    /// Octets of unpredictable IV that [`seal`](Self::seal) must be given.
    #[inline]
    pub(crate) fn random_iv_len(&self) -> usize {
        match self {
            Self::Esp(esp) => esp.random_iv_len(),
            Self::Ah(_) => 0,
        }
    }

    pub(crate) fn seal(
        &self,
        context: &mut Context,
        sequence: u64,
        iv: Option<&[u8; 16]>,
        packet: &mut impl PacketBuffer,
    ) -> Result<(), Status> {
        match (self, context) {
            (Self::Esp(esp), Context::Esp(context)) => esp.seal(context, sequence, iv, packet),
            (Self::Ah(ah), Context::Ah(context)) => ah.seal(context, sequence, iv, packet),
            _ => Err(Status::SaInvalid),
        }
    }

    #[inline]
    pub(crate) fn locate(&self, packet: &[u8]) -> Result<Located, Status> {
        match self {
            Self::Esp(esp) => esp.locate(packet),
            Self::Ah(ah) => ah.locate(packet),
        }
    }

    pub(crate) fn open(
        &self,
        context: &mut Context,
        located: Located,
        sequence: u64,
        packet: &mut impl PacketBuffer,
    ) -> Result<u8, Status> {
        match (self, context) {
            (Self::Esp(esp), Context::Esp(context)) => esp.open(context, located, sequence, packet),
            (Self::Ah(ah), Context::Ah(context)) => ah.open(context, located, sequence, packet),
            _ => Err(Status::SaInvalid),
        }
    }
}
