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
            // The peer keeps the old addresses; liveness tells what comes of it.
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
        let before = (self.path, self.nat_local, self.nat_remote);
        self.take_path(ctx, path);
        self.detect_nat(ctx, parts, self.spi_r);
        if has(notify::NO_NATS_ALLOWED) && (self.nat_local || self.nat_remote) {
            (self.path, self.nat_local, self.nat_remote) = before;
            return Err(notify::UNEXPECTED_NAT_DETECTED);
        }
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
