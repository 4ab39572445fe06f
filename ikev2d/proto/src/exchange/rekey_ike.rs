// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rekeying of the IKE SA by CREATE_CHILD_SA (RFC 7296 §1.3.2, §2.18).

use std::time::Duration;

use crate::algorithm::Group;
use crate::crypto::CryptoError;
use crate::event::Event;
use crate::exchange::create_child::RETRY;
use crate::exchange::init::{choose, emit_ke, read_ke};
use crate::ike_sa::{
    Ctx, IkeSa, NONCE_LEN, RekeyRequest, Request, State, Task, error_notify, find,
};
use crate::keymat::IkeKeys;
use crate::proposal::{self, Proposal};
use crate::wire::{Chain, Payload, exchange, notify, payload};

impl IkeSa {
    /// Starts rekeying this IKE SA (§2.18).
    pub(crate) fn start_rekey(
        &mut self,
        ctx: &mut Ctx<'_>,
        group: Option<Group>,
    ) -> Result<(), CryptoError> {
        let first = self.suite.map(|suite| suite.group);
        let group = group.or(first).ok_or(CryptoError)?;
        let exchange = ctx.crypto.generate(group)?;
        let spi = ctx.random_u64();
        let nonce = ctx.random(NONCE_LEN);
        let mut chain = Chain::default();
        let numbered: Vec<(u8, Proposal)> = (1..).zip(self.connection.proposals.clone()).collect();
        chain.push(
            payload::SA,
            &proposal::emit(&numbered, true, &spi.to_be_bytes()),
        );
        chain.push(payload::NONCE, &nonce);
        chain.push(payload::KE, &emit_ke(group, exchange.public()));
        let request = RekeyRequest {
            spi,
            nonce,
            group,
            exchange,
        };
        self.request(
            ctx,
            exchange::CREATE_CHILD_SA,
            &chain,
            Request::RekeyIke(Box::new(request)),
        )
    }

    pub(crate) fn handle_rekey_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: RekeyRequest,
        parts: &[Payload<'_>],
    ) {
        if let Some(error) = error_notify(parts) {
            let wanted = <[u8; 2]>::try_from(error.data).ok().map(u16::from_be_bytes);
            let wanted = wanted.and_then(Group::from_wire).filter(|group| {
                *group != request.group
                    && self
                        .connection
                        .proposals
                        .iter()
                        .any(|p| p.groups.contains(group))
            });
            let wait = RETRY + Duration::from_millis(ctx.random_u64() % 1000);
            let (group, wait) = match (error.kind, wanted) {
                (notify::INVALID_KE_PAYLOAD, Some(group)) => (Some(group), Duration::ZERO),
                (notify::TEMPORARY_FAILURE, _) => (None, wait),
                _ => {
                    tracing::warn!(
                        error = notify::name(error.kind),
                        "IKE SA could not be rekeyed"
                    );
                    (None, Duration::from_secs(10))
                }
            };
            let not_before = Some(ctx.now + wait);
            return self.tasks.push_back(Task::RekeyIke { group, not_before });
        }
        let born = self.read_rekey(ctx, &request, parts);
        let Some(born) = born else {
            tracing::warn!("malformed answer to the rekeying of an IKE SA");
            return;
        };
        self.hand_over(ctx, born);
        self.tasks.push_front(Task::DeleteIke {
            reason: "rekeyed".to_owned(),
        });
    }

    fn read_rekey(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: &RekeyRequest,
        parts: &[Payload<'_>],
    ) -> Option<Self> {
        let chosen = proposal::parse(find(parts, payload::SA)?, true).ok()?;
        let [theirs] = &chosen[..] else { return None };
        let (suite, _) = choose(&self.connection.proposals, &chosen)?;
        let spi_r = ike_spi(&theirs.spi)?;
        let (group, public) = read_ke(find(parts, payload::KE)?).ok()?;
        if group != request.group as u16 || suite.group != request.group {
            return None;
        }
        let secret = request.exchange.agree(public).ok()?;
        let nonce_r = find(parts, payload::NONCE)?;
        let (old, keys) = self.suite.as_ref().zip(self.keys.as_ref())?;
        let nonces = (&request.nonce[..], nonce_r);
        let spis = (request.spi, spi_r);
        let keys = IkeKeys::derive(
            ctx.crypto,
            &suite,
            &secret,
            nonces,
            spis,
            Some((old.prf, &keys.d)),
        )
        .ok()?;
        let mut born = Self::new(ctx, self.connection.clone(), true, spis, self.path);
        born.suite = Some(suite);
        born.keys = Some(keys);
        Some(born)
    }

    pub(crate) fn handle_rekey_ike(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        nonce_i: &[u8],
        parts: &[Payload<'_>],
    ) {
        let kind = exchange::CREATE_CHILD_SA;
        // §2.25.2: not while a child or the IKE SA is being made, rekeyed or closed by us.
        let asking = self
            .asking()
            .is_some_and(|request| !matches!(request, Request::Liveness));
        if asking
            || self
                .tasks
                .iter()
                .any(|task| matches!(task, Task::DeleteChild(_)))
        {
            return self.respond_notify(ctx, kind, id, notify::TEMPORARY_FAILURE, &[]);
        }
        let offers = find(parts, payload::SA).and_then(|body| proposal::parse(body, true).ok());
        let ke = find(parts, payload::KE).and_then(|body| read_ke(body).ok());
        let (Some(offers), Some((group, public))) = (offers, ke) else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        let Some((suite, number)) = choose(&self.connection.proposals, &offers) else {
            return self.respond_notify(ctx, kind, id, notify::NO_PROPOSAL_CHOSEN, &[]);
        };
        let spi_i = offers
            .iter()
            .find(|o| o.number == number)
            .and_then(|o| ike_spi(&o.spi));
        let Some(spi_i) = spi_i else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        if group != suite.group as u16 {
            let wanted = (suite.group as u16).to_be_bytes();
            return self.respond_notify(ctx, kind, id, notify::INVALID_KE_PAYLOAD, &wanted);
        }
        let spi_r = ctx.random_u64();
        let nonce_r = ctx.random(NONCE_LEN);
        let derived = || -> Result<_, CryptoError> {
            let exchange = ctx.crypto.generate(suite.group)?;
            let secret = exchange.agree(public)?;
            let (old, keys) = self
                .suite
                .as_ref()
                .zip(self.keys.as_ref())
                .ok_or(CryptoError)?;
            let nonces = (nonce_i, &nonce_r[..]);
            let rekeyed = Some((old.prf, &keys.d[..]));
            let keys =
                IkeKeys::derive(ctx.crypto, &suite, &secret, nonces, (spi_i, spi_r), rekeyed)?;
            Ok((keys, emit_ke(suite.group, exchange.public())))
        };
        let Ok((keys, ke)) = derived() else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        let mut chain = Chain::default();
        let answer = [(number, suite.to_proposal())];
        chain.push(
            payload::SA,
            &proposal::emit(&answer, true, &spi_r.to_be_bytes()),
        );
        chain.push(payload::NONCE, &nonce_r);
        chain.push(payload::KE, &ke);
        self.respond(ctx, kind, id, &chain);
        let mut born = Self::new(
            ctx,
            self.connection.clone(),
            false,
            (spi_i, spi_r),
            self.path,
        );
        born.suite = Some(suite);
        born.keys = Some(keys);
        self.hand_over(ctx, born);
    }

    /// The new IKE SA takes the children and what was to be done.
    fn hand_over(&mut self, ctx: &mut Ctx<'_>, mut born: Self) {
        born.state = State::Established;
        born.established = Some(ctx.now);
        born.local_id = self.local_id.clone();
        born.remote_id = self.remote_id.clone();
        (born.nat_local, born.nat_remote, born.encap) =
            (self.nat_local, self.nat_remote, self.encap);
        born.children = std::mem::take(&mut self.children);
        for child in &mut born.children {
            child.sa.ike = born.id;
        }
        born.tasks = self
            .tasks
            .drain(..)
            .filter(|task| !matches!(task, Task::RekeyIke { .. } | Task::Liveness))
            .collect();
        born.arm_rekey(ctx);
        born.log_keys(ctx);
        self.replaced = true;
        self.rekey_at = None;
        self.expire_at = None;
        let (old, new) = (self.id, born.id);
        ctx.event(Event::IkeRekeyed { old, new });
        born.pump(ctx);
        ctx.out.born.push(born);
    }
}

fn ike_spi(octets: &[u8]) -> Option<u64> {
    let spi = u64::from_be_bytes(octets.try_into().ok()?);
    (spi != 0).then_some(spi)
}
