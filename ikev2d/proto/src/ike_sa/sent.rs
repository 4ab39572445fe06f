// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A message that may have to be sent again (RFC 7296 §2.1), in smaller fragments if need be (RFC 7383 §2.5.2).

use super::SMALL;
use crate::wire::{Chain, Header};

/// A message as it was sent; the last response of each IKE SA stays.
pub(crate) enum Sent {
    /// One datagram that is never divided; none where it is empty.
    Whole(Box<[u8]>),
    Divided(Box<Divided>),
}

/// A message that may be too long for one datagram.
pub(crate) struct Divided {
    /// One, or fragments.
    pub(super) messages: Box<[Box<[u8]>]>,
    /// What is inside, to divide it further.
    pub(super) plain: (Header, Chain),
}

pub(super) fn boxed(messages: Vec<Vec<u8>>) -> Box<[Box<[u8]>]> {
    messages.into_iter().map(Vec::into_boxed_slice).collect()
}

impl Default for Sent {
    fn default() -> Self {
        Self::Whole(Box::default())
    }
}

impl Sent {
    pub(super) fn new(mut messages: Vec<Vec<u8>>, header: Header, chain: Chain) -> Self {
        // A message that fits the smallest datagram needs no second try.
        if let [whole] = &mut messages[..]
            && whole.len() <= SMALL
        {
            return Self::clear(std::mem::take(whole));
        }
        Self::Divided(Box::new(Divided {
            messages: boxed(messages),
            plain: (header, chain),
        }))
    }

    /// A message in the clear.
    pub(crate) fn clear(message: Vec<u8>) -> Self {
        Self::Whole(message.into())
    }

    /// Its datagrams.
    pub(super) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let all = match self {
            Self::Whole(message) if message.is_empty() => &[],
            Self::Whole(message) => std::slice::from_ref(message),
            Self::Divided(divided) => &divided.messages,
        };
        all.iter().map(|message| &**message)
    }
}
