// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages 1 to 4 of main mode, 1 and 2 of aggressive mode: proposals, public values, nonces.

use ikev2d_proto::config::{Identity, Secret, find_secret};

use super::{Failure, Isakmp};
use crate::slow::Then;
use crate::step::Ctx;
use crate::suite::{Chosen1, End, choose1, emit_phase1, phase1};
use crate::vendor;
use crate::wire::{Chain, HEADER_LEN, Payloads, exchange, notify, parse_header, payload, sa};

impl Isakmp {
    /// Message 1, of either mode.
    pub(crate) fn begin(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        match self.message_1(ctx) {
            Err(Failure::Elsewhere(errand)) => {
                self.send_out(ctx, errand, Then::Begin);
                Ok(())
            }
            begun => begun,
        }
    }

    fn message_1(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        let offered = phase1(&self.connection, End::Initiator);
        let first = offered.first().copied();
        let first = first.ok_or(Failure::Unfitting(
            "no proposal of the connection is IKEv1's",
        ))?;
        let offered: Vec<_> = if self.aggressive {
            // Its public value goes along, so that there is one group only (RFC 2409 §5.4).
            offered
                .into_iter()
                .filter(|suite| suite.group == first.group)
                .collect()
        } else {
            offered
        };
        self.material.sa_i = emit_phase1(&offered, self.life());
        self.material.offered = offered;
        let mut chain = Chain::default();
        chain.push(payload::SA, &self.material.sa_i);
        if self.aggressive {
            self.material.suite = Some(first);
            self.exchange(ctx, &mut chain)?;
            self.material.id_i = self.own_id();
            chain.push(payload::ID, &self.material.id_i);
            self.push_certificate_requests(&mut chain);
        }
        vendor::push(&mut chain, None, &self.connection);
        self.material.expects = 2;
        let message = self.in_the_clear(chain);
        self.send_phase1(ctx, message, true);
        Ok(())
    }

    /// Body of our ID payload.
    pub(super) fn own_id(&self) -> Vec<u8> {
        match &self.local_id {
            Identity::Any => Identity::Address(self.path.local.ip()).emit(),
            id => id.emit(),
        }
    }

    fn in_the_clear(&self, chain: Chain) -> Vec<u8> {
        let mode = if self.aggressive {
            exchange::AGGRESSIVE
        } else {
            exchange::MAIN
        };
        chain.into_message(self.header(mode, 0))
    }

    /// Responder: answers message 1 of main mode.
    pub(crate) fn main_2(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &Payloads<'_>,
        chosen: &Chosen1<'_>,
    ) -> Result<(), Failure> {
        self.accept(ctx, parts, chosen)?;
        self.material.expects = 3;
        let mut chain = Chain::default();
        chain.push(payload::SA, &chosen.emit());
        vendor::push(&mut chain, self.peer.natt, &self.connection);
        let message = self.in_the_clear(chain);
        self.send_phase1(ctx, message, false);
        Ok(())
    }

    fn accept(
        &mut self,
        ctx: &Ctx<'_>,
        parts: &Payloads<'_>,
        chosen: &Chosen1<'_>,
    ) -> Result<(), Failure> {
        self.read_requests(parts);
        self.material.sa_i = parts.one(payload::SA, "SA")?.to_vec();
        self.material.suite = Some(chosen.suite);
        if let Some(life) = chosen.life {
            // Replaced before the peer lets it go.
            self.rekey_at = Some(ctx.now + life.mul_f64(0.9));
        }
        Ok(())
    }

    /// Initiator: what the peer has chosen must be one of ours.
    fn read_choice(&mut self, parts: &Payloads<'_>) -> Result<(), Failure> {
        let body = parts.one(payload::SA, "SA")?;
        let offer = sa::parse(body)?;
        let single = matches!(&offer[..], [one] if one.transforms.len() == 1);
        let chosen = choose1(&self.material.offered, &offer).filter(|_| single);
        let unknown = Failure::Unfitting("the peer has chosen what was not offered");
        self.material.suite = Some(chosen.ok_or(unknown)?.suite);
        self.read_requests(parts);
        Ok(())
    }

    /// Initiator: message 3.
    pub(super) fn main_3(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &Payloads<'_>,
    ) -> Result<(), Failure> {
        self.read_choice(parts)?;
        let mut chain = Chain::default();
        self.exchange(ctx, &mut chain)?;
        // Now, since some look for it no later.
        self.push_certificate_requests(&mut chain);
        self.push_detection(ctx, &mut chain);
        self.material.expects = 4;
        let message = self.in_the_clear(chain);
        self.send_phase1(ctx, message, true);
        Ok(())
    }

    fn push_detection(&self, ctx: &Ctx<'_>, chain: &mut Chain) {
        if let Some(suite) = self.material.suite {
            self.push_nat(ctx, suite.prf, chain);
        }
    }

    fn read_detection(&mut self, ctx: &Ctx<'_>, parts: &Payloads<'_>) {
        if let Some(suite) = self.material.suite {
            self.read_nat(ctx, suite.prf, parts);
        }
    }

    /// Responder: message 4; the keys are there from now on.
    pub(super) fn main_4(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &Payloads<'_>,
    ) -> Result<(), Failure> {
        self.read_exchange(parts)?;
        // The identity is not known yet: the address stands for it (RFC 2409 §5.4).
        let psk = self.psk(ctx, None)?;
        let mut chain = Chain::default();
        self.exchange(ctx, &mut chain)?;
        self.derive(ctx, psk.as_ref().map(|psk| &psk.secret[..]))?;
        self.read_requests(parts);
        self.read_detection(ctx, parts);
        self.push_certificate_requests(&mut chain);
        self.push_detection(ctx, &mut chain);
        self.material.expects = 5;
        let message = self.in_the_clear(chain);
        self.send_phase1(ctx, message, false);
        Ok(())
    }

    /// Initiator: message 5.
    pub(super) fn main_5(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &Payloads<'_>,
    ) -> Result<(), Failure> {
        self.read_exchange(parts)?;
        let psk = self.psk(ctx, None)?;
        self.derive(ctx, psk.as_ref().map(|psk| &psk.secret[..]))?;
        self.read_requests(parts);
        self.read_detection(ctx, parts);
        self.float(ctx);
        self.material.id_i = self.own_id();
        self.prove(ctx, None)
    }

    /// Responder: message 2 of aggressive mode, once the peer's identity is known to us.
    pub(crate) fn aggressive_2(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &Payloads<'_>,
        chosen: &Chosen1<'_>,
    ) -> Result<(), Failure> {
        self.accept(ctx, parts, chosen)?;
        self.read_exchange(parts)?;
        let id = parts.one(payload::ID, "ID")?;
        let remote = Identity::read(id)?;
        self.material.id_i = id.to_vec();
        let psk = self.psk(ctx, Some(&remote))?;
        self.remote_id = remote;
        let mut chain = Chain::default();
        chain.push(payload::SA, &chosen.emit());
        self.exchange(ctx, &mut chain)?;
        self.derive(ctx, psk.as_ref().map(|psk| &psk.secret[..]))?;
        self.material.id_r = self.own_id();
        self.prove(ctx, Some(chain))
    }

    /// The same for one that was held.
    pub(crate) fn begin_held(&mut self, ctx: &mut Ctx<'_>, message: &[u8]) -> Result<(), Failure> {
        let header = parse_header(message)?;
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let parts = Payloads::parse(header.next_payload, body, false)?;
        let offer = sa::parse(parts.one(payload::SA, "SA")?)?;
        let chosen = choose1(&phase1(&self.connection, End::Responder), &offer);
        let chosen = chosen.ok_or(Failure::Unfitting("no proposal fits"))?;
        self.aggressive_2(ctx, &parts, &chosen)
    }

    /// Initiator: what message 2 of aggressive mode brings; message 3 follows when it is believed.
    pub(super) fn aggressive_3(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: ikev2d_proto::event::Path,
        parts: &Payloads<'_>,
    ) -> Result<(), Failure> {
        self.read_choice(parts)?;
        self.read_exchange(parts)?;
        let id = parts.one(payload::ID, "ID")?;
        let remote = Identity::read(id)?;
        let psk = self.psk(ctx, Some(&remote))?;
        self.derive(ctx, psk.as_ref().map(|psk| &psk.secret[..]))?;
        self.read_detection(ctx, parts);
        let iv = self.keys.as_ref().map(|keys| keys.iv.clone());
        self.proof(ctx, path, parts, iv.unwrap_or_default())
    }

    /// What the shell adds to message 2 of aggressive mode behind the proof.
    pub(super) fn push_aggressive_end(&self, ctx: &Ctx<'_>, chain: &mut Chain) {
        self.push_detection(ctx, chain);
        vendor::push(chain, self.peer.natt, &self.connection);
    }

    /// The preshared key for this peer, if it is to be one.
    pub(super) fn psk(
        &self,
        ctx: &Ctx<'_>,
        remote: Option<&Identity>,
    ) -> Result<Option<Secret>, Failure> {
        let suite = self.material.suite;
        if suite.is_none_or(|suite| suite.method.signs()) {
            return Ok(None);
        }
        let local = match &self.local_id {
            Identity::Any => Identity::Address(self.path.local.ip()),
            id => id.clone(),
        };
        let address = Identity::Address(self.path.remote.ip());
        let remote = match (remote, &self.connection.remote_id) {
            (Some(remote), _) => remote,
            (None, Identity::Any) => &address,
            (None, id) => id,
        };
        let secret = find_secret(ctx.secrets, &local, remote).cloned();
        let none = || {
            let what = format!("no preshared key for {local} and {remote}");
            Failure::refused(notify::AUTHENTICATION_FAILED, what)
        };
        secret.ok_or_else(none).map(Some)
    }
}
