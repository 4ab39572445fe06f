// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_INTERMEDIATE (RFC 9242), for additional key exchanges of a new IKE SA (RFC 9370 §2.2.3).

use std::sync::Arc;

use crate::algorithm::Group;
use crate::crypto::CryptoError;
use crate::errand::OwnExchange;
use crate::exchange::init::{emit_ke, read_ke};
use crate::exchange::slow::Then;
use crate::ike_sa::{Ctx, IkeSa, Request, error_notify, find};
use crate::keymat::{IkeKeys, int_auth};
use crate::proposal::methods;
use crate::sk::Opened;
use crate::wire::{Chain, Header, Payload, exchange, notify, payload};

impl IkeSa {
    /// The method of the next additional key exchange.
    pub(crate) fn next_additional(&self) -> Option<Group> {
        let suite = self.suite.as_ref()?;
        methods(&suite.additional).nth(self.init.additional_done)
    }

    /// Goes on with the next additional key exchange, or with IKE_AUTH when all are done.
    pub(crate) fn start_additional(&mut self, ctx: &mut Ctx<'_>) {
        let Some(group) = self.next_additional() else {
            return self.start_auth(ctx);
        };
        let own = self.own_exchange(ctx, group, Then::Additional);
        let sent = own.and_then(|own| {
            let Some(own) = own else { return Ok(()) };
            let mut chain = Chain::default();
            chain.push(payload::KE, &emit_ke(group, own.public()));
            self.request(
                ctx,
                exchange::IKE_INTERMEDIATE,
                chain,
                Request::Intermediate(own),
            )
        });
        if sent.is_err() {
            self.die(ctx, "IKE_INTERMEDIATE could not be made");
        }
    }

    pub(crate) fn handle_intermediate_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        own: Arc<OwnExchange>,
        message: (&Header, &Opened),
        parts: &[Payload<'_>],
    ) {
        if let Some(error) = error_notify(parts) {
            let name = notify::name(error.kind);
            return self.die(ctx, &format!("the peer refused IKE_INTERMEDIATE: {name}"));
        }
        let theirs = self.next_additional().and_then(|group| ke_of(parts, group));
        let mixed = theirs.ok_or(CryptoError).and_then(|public| {
            let secret = own.agree(public)?;
            self.cover_peer(ctx, message)?;
            self.mix(ctx, &secret)
        });
        match mixed {
            Ok(()) => self.start_additional(ctx),
            Err(_) => self.die(ctx, "the peer's additional key exchange value is invalid"),
        }
    }

    pub(crate) fn handle_intermediate_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        message: (&Header, &Opened),
        parts: &[Payload<'_>],
    ) {
        let id = message.0.message_id.get();
        let group = self.next_additional();
        let given = group.and_then(|group| Some((group, ke_of(parts, group)?)));
        let answered = given.ok_or(CryptoError).and_then(|(group, public)| {
            let (own, secret) = self.answer_exchange(ctx, group, public)?;
            self.cover_peer(ctx, message)?;
            let mut chain = Chain::default();
            chain.push(payload::KE, &emit_ke(group, &own));
            self.respond(ctx, exchange::IKE_INTERMEDIATE, id, chain);
            self.mix(ctx, &secret)
        });
        if answered.is_err() {
            let kind = notify::INVALID_SYNTAX;
            self.respond_notify(ctx, exchange::IKE_INTERMEDIATE, id, kind, &[]);
            self.die(ctx, "IKE_INTERMEDIATE without the key exchange that is due");
        }
    }

    /// Keys from one more secret: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr).
    fn mix(&mut self, ctx: &mut Ctx<'_>, secret: &[u8]) -> Result<(), CryptoError> {
        let (suite, keys) = self.suite.zip(self.keys.as_ref()).ok_or(CryptoError)?;
        let nonces = (&self.init.nonce_i[..], &self.init.nonce_r[..]);
        let spis = (self.spi_i, self.spi_r);
        let before = Some((suite.prf, keys.d()));
        let keys = IkeKeys::derive(ctx.crypto, &suite, (secret, &[]), nonces, spis, before)?;
        self.previous_keys = self.keys.replace(keys).map(Box::new);
        self.init.additional_done += 1;
        self.log_keys(ctx);
        Ok(())
    }

    /// What AUTH signs of the IKE_INTERMEDIATE exchanges: nothing unless one has run, whatever the
    /// sides have said that they can.
    pub(crate) fn int_auth(&self) -> Vec<u8> {
        let (i, r) = (&self.init.int_auth_i[..], &self.init.int_auth_r[..]);
        if i.is_empty() && r.is_empty() {
            return Vec::new();
        }
        [i, r, &self.init.auth_id.to_be_bytes()].concat()
    }

    /// A message of ours counts in IntAuth.
    pub(crate) fn cover_own(
        &mut self,
        ctx: &Ctx<'_>,
        header: &Header,
        chain: &Chain,
    ) -> Result<(), CryptoError> {
        let head = (chain.first(), 0);
        self.cover(ctx, self.initiator, header, head, chain.octets())
    }

    fn cover_peer(
        &mut self,
        ctx: &Ctx<'_>,
        (header, opened): (&Header, &Opened),
    ) -> Result<(), CryptoError> {
        let head = (opened.first, opened.flags);
        self.cover(ctx, !self.initiator, header, head, &opened.body)
    }

    fn cover(
        &mut self,
        ctx: &Ctx<'_>,
        by_initiator: bool,
        header: &Header,
        head: (u8, u8),
        inner: &[u8],
    ) -> Result<(), CryptoError> {
        let (suite, keys) = self.suite.zip(self.keys.as_ref()).ok_or(CryptoError)?;
        let (sk_p, place) = if by_initiator {
            (keys.auth().0, &mut self.init.int_auth_i)
        } else {
            (keys.auth().1, &mut self.init.int_auth_r)
        };
        *place = int_auth(ctx.crypto, (suite.prf, sk_p), place, header, head, inner)?;
        Ok(())
    }
}

/// The public value of a KE payload with this method.
pub(crate) fn ke_of<'m>(parts: &[Payload<'m>], group: Group) -> Option<&'m [u8]> {
    let (found, public) = read_ke(find(parts, payload::KE)?).ok()?;
    (found == group as u16).then_some(public)
}
