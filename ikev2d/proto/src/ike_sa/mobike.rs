// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MOBIKE (RFC 4555): an IKE SA and its children go on between other addresses. Only the original
//! initiator moves them, and only an authenticated, new message does.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Ctx, IkeSa, Request, Standing, State, Task, error_notify, notifies};
use crate::crypto::CryptoError;
use crate::event::{Event, Path};
use crate::wire::{Chain, Payload, exchange, notify};

impl IkeSa {
    /// Goes on from another address of ours; whether that is possible.
    pub(crate) fn move_to(&mut self, ctx: &mut Ctx<'_>, local: IpAddr) -> bool {
        let can = self.mobike
            && self.moves
            && crate::endpoint::permits(&self.connection.local_addrs, local)
            && self.state == State::Established
            && self.standing == Standing::Current;
        if can && self.path.local.ip() != local {
            // Another address to look for the peer from, or an end to that.
            let home = match self.looks_elsewhere() {
                true => None,
                false => self.end_search(),
            };
            if let Some(home) = home.filter(|home| home.remote.is_ipv4() == local.is_ipv4()) {
                self.path.remote = home.remote;
            }
            self.path.local.set_ip(local);
            self.choose_carrier(ctx);
            self.tasks.retain(|task| *task != Task::Move);
            self.tasks.push_front(Task::Move);
            // What is on its way is sent again from there (RFC 4555 §3.5).
            if self.outstanding.is_some() {
                self.retransmit(ctx);
            }
        }
        can
    }

    pub(crate) fn start_move(&mut self, ctx: &mut Ctx<'_>) -> Result<(), CryptoError> {
        let mut chain = Chain::default();
        chain.notify(notify::UPDATE_SA_ADDRESSES, &[]);
        self.push_nat_detection(ctx, &mut chain);
        self.request(ctx, exchange::INFORMATIONAL, chain, Request::Move)
    }

    pub(crate) fn handle_move_response(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        if let Some(error) = error_notify(parts) {
            // The peer keeps the old addresses, and so do the children; liveness tells what comes of it.
            let kept = self.children.first().map(|child| child.sa.path);
            let is_here = |at: &IpAddr| ctx.addresses.is_empty() || ctx.addresses.contains(at);
            // Unless it is to be asked about yet another path.
            let asks_again = self.tasks.contains(&Task::Move);
            let kept = kept.filter(|kept| kept.stream == self.path.stream && !asks_again);
            if let Some(kept) = kept.filter(|kept| is_here(&kept.local.ip())) {
                self.path = kept;
            }
            let error = notify::name(error.kind);
            return tracing::warn!(ike = self.id.0, error, "the peer does not move along");
        }
        self.detect_nat(ctx, parts, self.spi_r);
        self.tell_path(ctx);
    }

    /// Takes in what an INFORMATIONAL request says of addresses, and adds what the answer needs. An
    /// error to answer instead.
    pub(crate) fn answer_move(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        parts: &[Payload<'_>],
        chain: &mut Chain,
    ) -> Result<(), u16> {
        let has = |kind| notifies(parts).any(|notify| notify.kind == kind);
        // COOKIE2 goes back as it came, whoever asks (RFC 4555 §3.7).
        if let Some(cookie) = notifies(parts).find(|notify| notify.kind == notify::COOKIE2) {
            chain.notify(notify::COOKIE2, cookie.data);
        }
        if !self.mobike || self.moves || !has(notify::UPDATE_SA_ADDRESSES) {
            return Ok(());
        }
        if !crate::endpoint::may_come(&self.connection, path) {
            return Err(notify::UNACCEPTABLE_ADDRESSES);
        }
        // Before anything moves: whoever has changed an address on the way must gain nothing.
        let mut forbidding = notifies(parts).filter(|n| n.kind == notify::NO_NATS_ALLOWED);
        if forbidding.any(|notify| !came_as_sent(notify.data, path)) {
            return Err(notify::UNEXPECTED_NAT_DETECTED);
        }
        self.take_path(ctx, path);
        self.detect_nat(ctx, parts, self.spi_r);
        self.push_nat_detection(ctx, chain);
        self.tell_path(ctx);
        Ok(())
    }

    /// The children go along.
    pub(crate) fn tell_path(&mut self, ctx: &mut Ctx<'_>) {
        if self.state != State::Established {
            return;
        }
        if self.counted.is_some() {
            ctx.out.lost_ike(self);
            ctx.out.count_ike(self);
        }
        let (ike, path, udp_encap) = (self.id, self.path, self.udp_encap());
        for child in &mut self.children {
            let sa = Arc::make_mut(&mut child.sa);
            (sa.path, sa.udp_encap) = (path, udp_encap);
        }
        ctx.event(Event::PathChanged {
            ike,
            path,
            udp_encap,
        });
    }
}

/// Whether a message that must meet no NAT came from and to where it was sent from and to: source and
/// destination, then both ports (RFC 4555 §3.9, §4.2.5).
fn came_as_sent(data: &[u8], path: Path) -> bool {
    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }
    }
    let (from, to) = (path.remote, path.local);
    let mut seen = octets(from.ip());
    seen.extend(octets(to.ip()));
    seen.extend(from.port().to_be_bytes());
    seen.extend(to.port().to_be_bytes());
    data == seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_nat_has_changed_is_noticed() {
        let path = Path::new(
            "192.0.2.2:4500".parse().unwrap(),
            "198.51.100.1:4501".parse().unwrap(),
        );
        let sent = [198, 51, 100, 1, 192, 0, 2, 2, 0x11, 0x95, 0x11, 0x94];
        assert!(came_as_sent(&sent, path));
        for at in 0..sent.len() {
            let mut other = sent;
            other[at] ^= 1;
            assert!(!came_as_sent(&other, path));
            assert!(!came_as_sent(&sent[..at], path));
        }
        let path = Path::new(
            "[2001:db8::2]:500".parse().unwrap(),
            "[2001:db8::1]:500".parse().unwrap(),
        );
        let mut sent = [0; 36];
        sent[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        sent[16..20].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        (sent[15], sent[31]) = (1, 2);
        sent[32..].copy_from_slice(&[1, 0xf4, 1, 0xf4]);
        assert!(came_as_sent(&sent, path));
    }
}
