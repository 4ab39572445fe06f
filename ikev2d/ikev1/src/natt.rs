// SPDX-License-Identifier: Apache-2.0 OR MIT
//! NAT traversal (RFC 3947).

use std::net::{IpAddr, SocketAddr};

use ikev2d_proto::algorithm::Prf;

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

    /// §4: who has begun goes on from port 4500 when there is a NAT.
    pub(crate) fn float(&mut self, ctx: &Ctx<'_>) {
        if self.encap {
            self.path.local.set_port(ctx.config.nat_port);
            self.path.remote.set_port(ctx.config.nat_port);
        }
    }
}
