// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NAT traversal (RFC 3947).

use std::net::{IpAddr, SocketAddr};

use ikev2d_proto::algorithm::Prf;
use ikev2d_proto::config::Identity;

use crate::isakmp::Isakmp;
use crate::step::Ctx;
use crate::wire::{Chain, Payloads, payload};

/// How a peer does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As RFC 3947.
    Rfc,
    /// As its drafts, which have other numbers.
    Draft,
}

impl Form {
    fn payload(self) -> u8 {
        match self {
            Self::Rfc => payload::NAT_D,
            Self::Draft => payload::NAT_D_DRAFT,
        }
    }

    fn original(self) -> u8 {
        match self {
            Self::Rfc => payload::NAT_OA,
            Self::Draft => payload::NAT_OA_DRAFT,
        }
    }
}

/// Body of a NAT-OA payload (§5.2): an address in the form of an identity without protocol and port.
fn emit_original(address: IpAddr) -> Vec<u8> {
    Identity::Address(address).emit()
}

fn read_original(body: &[u8]) -> Option<IpAddr> {
    match Identity::read(body).ok()? {
        Identity::Address(address) => Some(address),
        _ => None,
    }
}

impl Isakmp {
    /// §3.2: a hash over cookies, address and port, by the negotiated hash.
    fn nat_hash(&self, ctx: &Ctx<'_>, prf: Prf, address: SocketAddr) -> Vec<u8> {
        let (i, r) = (self.cky_i.to_be_bytes(), self.cky_r.to_be_bytes());
        let octets = match address.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let port = address.port().to_be_bytes();
        let parts: [&[u8]; 4] = [&i, &r, &octets, &port];
        ctx.crypto.hash(prf, &parts).unwrap_or_default()
    }

    /// Tells the peer which addresses we see: its own first, then ours.
    pub(crate) fn push_nat(&self, ctx: &Ctx<'_>, prf: Prf, chain: &mut Chain) {
        let Some(form) = self.peer.natt else { return };
        let remote = self.nat_hash(ctx, prf, self.path.remote);
        let local = if self.connection.encap {
            // A hash of no address: the peer believes that there is a NAT.
            ctx.random(remote.len())
        } else {
            self.nat_hash(ctx, prf, self.path.local)
        };
        chain.push(form.payload(), &remote);
        chain.push(form.payload(), &local);
    }

    /// Finds NATs by what the peer sees.
    pub(crate) fn read_nat(&mut self, ctx: &Ctx<'_>, prf: Prf, parts: &Payloads<'_>) {
        let Some(form) = self.peer.natt else { return };
        let mut hashes = parts.of(form.payload());
        let Some(ours) = hashes.next() else { return };
        let local = self.nat_hash(ctx, prf, self.path.local);
        let remote = self.nat_hash(ctx, prf, self.path.remote);
        self.nat_local = ours != local;
        self.nat_remote = !hashes.any(|hash| hash == remote);
        self.encap = self.connection.encap || self.nat_local || self.nat_remote;
        if self.encap {
            tracing::info!(
                connection = self.connection.name,
                local = self.nat_local,
                remote = self.nat_remote,
                "a NAT is between: ESP goes in UDP"
            );
        }
    }

    /// Tells the peer which addresses our packets have when they are sealed (§5.2): the initiator's of the
    /// quick mode, then the responder's.
    pub(crate) fn push_originals(&self, chain: &mut Chain, begins: bool) {
        let Some(form) = self.peer.natt else { return };
        let (own, peer) = (self.path.local.ip(), self.path.remote.ip());
        let both = if begins { [own, peer] } else { [peer, own] };
        for address in both {
            chain.push(form.original(), &emit_original(address));
        }
    }

    /// The same of the peer's: its own address and ours, where it has told both. `begins` says that it has
    /// begun the quick mode.
    pub(crate) fn originals(&self, parts: &Payloads<'_>, begins: bool) -> Option<(IpAddr, IpAddr)> {
        let mut told = parts.of(self.peer.natt?.original());
        let first = read_original(told.next()?)?;
        let second = read_original(told.next()?)?;
        Some(if begins {
            (first, second)
        } else {
            (second, first)
        })
    }

    /// §4: who has begun goes on from port 4500 when there is a NAT.
    pub(crate) fn float(&mut self, ctx: &Ctx<'_>) {
        if self.encap {
            self.path.local.set_port(ctx.config.nat_port);
            self.path.remote.set_port(ctx.config.nat_port);
        }
    }
}
