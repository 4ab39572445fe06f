// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages of the fuzzer's, out of payloads that fit and of such that don't.

use std::time::Duration;

use ikev1_proto::suite::{Encapsulation, Life, emit_phase2, phase2};
use ikev1_proto::wire::{Chain, attribute, identity, notify, payload, sa};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

use crate::Lab;
use crate::ends::{child, nets};
use crate::toy::random;

/// A message id: one of those that were on the wire, or any.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Number {
    Seen(u8),
    Other(u32),
}

/// An SPI: one that is installed, the SA's own, or any.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) enum Spi {
    In(u8),
    Out(u8),
    Cookies,
    Other(u32),
    Octets(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
pub(crate) enum Payload {
    /// A HASH that is believed.
    Hash,
    /// What the target would choose.
    Offer {
        transport: bool,
        spi: Option<u32>,
    },
    Sa {
        protocol: u8,
        spi: Spi,
        transforms: Vec<(u8, Vec<(u16, u16)>)>,
    },
    Nonce(u8),
    Ke(bool),
    /// Proxy ids of the target's, of either side.
    Proxy {
        local: bool,
        which: u8,
    },
    Id {
        kind: u8,
        protocol: u8,
        port: u16,
        data: Vec<u8>,
    },
    Notify {
        protocol: u8,
        spi: Spi,
        known: u8,
        kind: u16,
        data: Vec<u8>,
    },
    Delete {
        protocol: u8,
        spis: Vec<Spi>,
    },
    Attributes {
        kind: u8,
        identifier: u16,
        all: Vec<(u16, Vec<u8>)>,
    },
    Raw {
        kind: u8,
        body: Vec<u8>,
    },
}

impl Lab {
    fn spi(&self, spi: &Spi) -> Vec<u8> {
        let nth = |at: &u8| {
            let count = self.installed.len().max(1);
            self.installed.values().nth(usize::from(*at) % count)
        };
        match spi {
            Spi::In(at) => nth(at).map_or(vec![], |spis| spis.0.to_be_bytes().to_vec()),
            Spi::Out(at) => nth(at).map_or(vec![], |spis| spis.1.to_be_bytes().to_vec()),
            Spi::Cookies => [self.cookies.0.to_be_bytes(), self.cookies.1.to_be_bytes()].concat(),
            Spi::Other(spi) => spi.to_be_bytes().to_vec(),
            Spi::Octets(octets) => octets.iter().copied().take(32).collect(),
        }
    }

    pub(crate) fn push(&self, chain: &mut Chain, part: &Payload) {
        match part {
            Payload::Hash => chain.push(payload::HASH, &[0; 32]),
            Payload::Offer { transport, spi } => {
                let suites = phase2(&child(self.setup, true).esp_proposals);
                let encapsulation = Encapsulation {
                    transport: *transport,
                    udp: self.setup.encap,
                    draft: false,
                };
                let life = Life::of_time(Duration::from_secs(3600));
                let spi = spi.unwrap_or(0x1000 + random() as u32 % 0x1000);
                chain.push(payload::SA, &emit_phase2(&suites, spi, encapsulation, life));
            }
            Payload::Sa {
                protocol,
                spi,
                transforms,
            } => {
                let transforms: Vec<_> = (1..)
                    .zip(transforms.iter().take(8))
                    .map(|(number, (id, attributes))| {
                        let mut out = Vec::new();
                        for (kind, value) in attributes.iter().take(12) {
                            attribute::push(&mut out, *kind, u32::from(*value));
                        }
                        (number, *id, out)
                    })
                    .collect();
                let body = sa::emit(1, *protocol, &self.spi(spi), &transforms);
                chain.push(payload::SA, &body);
            }
            Payload::Nonce(len) => chain.push(payload::NONCE, &vec![9; usize::from(*len)]),
            Payload::Ke(good) => chain.push(payload::KE, &vec![4; if *good { 64 } else { 63 }]),
            Payload::Proxy { local, which } => {
                let nets = nets(self.setup, usize::from(*local));
                let net = nets.get(usize::from(*which) % nets.len().max(1));
                if let Some(body) = net.and_then(identity::emit) {
                    chain.push(payload::ID, &body);
                }
            }
            Payload::Id {
                kind,
                protocol,
                port,
                data,
            } => {
                let mut body = vec![*kind, *protocol];
                body.extend(port.to_be_bytes());
                body.extend(data.iter().take(64));
                chain.push(payload::ID, &body);
            }
            Payload::Notify {
                protocol,
                spi,
                known,
                kind,
                data,
            } => {
                let known = match known {
                    0 => Some(notify::CONNECTED),
                    1 => Some(notify::RESPONDER_LIFETIME),
                    2 => Some(notify::REPLAY_STATUS),
                    3 => Some(notify::INITIAL_CONTACT),
                    4 => Some(notify::R_U_THERE),
                    5 => Some(notify::R_U_THERE_ACK),
                    6 => Some(notify::NO_PROPOSAL_CHOSEN),
                    7 => Some(notify::INVALID_ID_INFORMATION),
                    _ => None,
                };
                let spi = self.spi(spi);
                let told = notify::Notify {
                    protocol: *protocol,
                    spi: &spi,
                    kind: known.unwrap_or(*kind),
                    data: data.get(..64).unwrap_or(data),
                };
                chain.push(payload::NOTIFY, &told.emit());
            }
            Payload::Delete { protocol, spis } => {
                let spis: Vec<Vec<u8>> = spis.iter().take(16).map(|spi| self.spi(spi)).collect();
                let delete = notify::Delete {
                    protocol: *protocol,
                    spis: spis.iter().map(|spi| &spi[..]).collect(),
                };
                chain.push(payload::DELETE, &delete.emit());
            }
            Payload::Attributes {
                kind,
                identifier,
                all,
            } => {
                let mut body = vec![*kind, 0];
                body.extend(identifier.to_be_bytes());
                for (number, value) in all.iter().take(16) {
                    let value = value.get(..32).unwrap_or(value);
                    attribute::push_octets(&mut body, *number, value);
                }
                chain.push(payload::ATTRIBUTES, &body);
            }
            Payload::Raw { kind, body } => {
                chain.push(*kind, body.get(..128).unwrap_or(body));
            }
        }
    }
}
