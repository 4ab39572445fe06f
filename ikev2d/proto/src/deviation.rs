// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A sender that breaks the rules: what it says is changed before it is sealed, with the right keys.
//! For tests only.

use crate::wire::{Chain, Header, payloads};

/// A message before it is sealed.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its header; length and next payload follow from the rest.
    pub header: Header,
    /// Types and bodies of its payloads.
    pub payloads: Vec<(u8, Vec<u8>)>,
    /// Critical bit and reserved ones (RFC 7296 §3.2) of payloads of a type, where there are any.
    pub bits: Vec<(u8, u8)>,
}

/// Changes messages.
pub type Deviation = Box<dyn Fn(&mut Outgoing) + Send + Sync>;

/// What is sent instead.
pub(crate) fn apply(
    deviation: Option<&Deviation>,
    header: Header,
    chain: &Chain,
) -> (Header, Chain) {
    let parts = payloads(chain.first(), chain.octets()).unwrap_or_default();
    let mut outgoing = Outgoing {
        header,
        payloads: parts
            .iter()
            .map(|part| (part.kind, part.body.to_vec()))
            .collect(),
        bits: Vec::new(),
    };
    if let Some(deviation) = deviation {
        deviation(&mut outgoing);
    }
    let mut chain = Chain::default();
    for (kind, body) in &outgoing.payloads {
        let bits = outgoing.bits.iter().find(|(of, _)| of == kind);
        chain.push_with(*kind, bits.map_or(0, |(_, bits)| *bits), body);
    }
    (outgoing.header, chain)
}
