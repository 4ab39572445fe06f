// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): additional key exchanges after a CREATE_CHILD_SA. What it asked
//! for is made with the last of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::algorithm::Group;
use crate::crypto::{Crypto, CryptoError};
use crate::errand::OwnExchange;
use crate::event::ChildId;
use crate::exchange::child::{ChildOffer, Chosen};
use crate::exchange::init::emit_ke;
use crate::exchange::intermediate::ke_of;
use crate::exchange::rekey_ike::Renewal;
use crate::exchange::signature::Kept;
use crate::ike_sa::{Ctx, IkeSa, Phase, Standing, notifies};
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// How long the peer's next key exchange is waited for.
const LIFE: Duration = Duration::from_secs(60);
/// Octets of a link of ours.
const LINK: usize = 16;
/// Octets of a peer's, at most.
const MOST_LINK: usize = 256;

/// Additional key exchanges that we ask for, and what the CREATE_CHILD_SA before was answered.
pub(crate) struct Further {
    link: Vec<u8>,
    exchange: Arc<OwnExchange>,
    rest: VecDeque<Group>,
    secrets: Zeroizing<Vec<u8>>,
    response: Kept,
}

/// What came of an answer.
pub(crate) enum Step {
    /// The next one is due.
    More(Box<Further>),
    /// That was the last: the CREATE_CHILD_SA's answer, and the secrets in a row.
    Done(Kept, Zeroizing<Vec<u8>>),
}

impl Further {
    /// Begins those that an answer to CREATE_CHILD_SA has chosen, maybe with one that is made.
    pub(crate) fn begin(
        (crypto, made): (&dyn Crypto, Option<Arc<OwnExchange>>),
        groups: impl Iterator<Item = Group>,
        parts: &[Payload<'_>],
    ) -> Result<Box<Self>, CryptoError> {
        let mut rest: VecDeque<Group> = groups.collect();
        let group = rest.pop_front().ok_or(CryptoError)?;
        Ok(Box::new(Self {
            link: link_of(parts).ok_or(CryptoError)?.to_vec(),
            exchange: OwnExchange::made_or_new(made, crypto, group)?,
            rest,
            secrets: Zeroizing::default(),
            response: Kept::new(parts),
        }))
    }

    /// The one that goes on.
    pub(crate) fn exchange(&self) -> &Arc<OwnExchange> {
        &self.exchange
    }

    /// The group of the one after it.
    pub(crate) fn next(&self) -> Option<Group> {
        self.rest.front().copied()
    }

    /// Takes an answer in.
    pub(crate) fn advance(
        mut self: Box<Self>,
        (crypto, made): (&dyn Crypto, Option<Arc<OwnExchange>>),
        parts: &[Payload<'_>],
    ) -> Result<Step, CryptoError> {
        let public = ke_of(parts, self.exchange.group).ok_or(CryptoError)?;
        self.secrets
            .extend_from_slice(&self.exchange.agree(public)?);
        let Some(next) = self.rest.pop_front() else {
            return Ok(Step::Done(self.response, self.secrets));
        };
        self.link = link_of(parts).ok_or(CryptoError)?.to_vec();
        self.exchange = OwnExchange::made_or_new(made, crypto, next)?;
        Ok(Step::More(self))
    }

    /// The payloads of the request that is due.
    pub(crate) fn payloads(&self) -> Chain {
        let mut chain = Chain::default();
        let own = emit_ke(self.exchange.group, self.exchange.public());
        chain.push(payload::KE, &own);
        chain.notify(notify::ADDITIONAL_KEY_EXCHANGE, &self.link);
        chain
    }
}

/// Additional key exchanges that the peer goes on with.
pub(crate) struct Awaited {
    link: Vec<u8>,
    rest: VecDeque<Group>,
    secrets: Zeroizing<Vec<u8>>,
    /// When the peer has given up.
    pub(crate) until: Instant,
    pub(crate) sa: AwaitedSa,
}

impl Awaited {
    /// The group of the next one.
    pub(crate) fn next(&self) -> Option<Group> {
        self.rest.front().copied()
    }
}

/// What they make.
pub(crate) enum AwaitedSa {
    /// An IKE SA that takes over from this one.
    Ike(Box<Renewal>),
    /// A child SA.
    Child {
        chosen: Box<Chosen>,
        offer: Box<ChildOffer>,
        rekeys: Option<ChildId>,
    },
}

/// The link of a message.
fn link_of<'m>(parts: &'m [Payload<'m>]) -> Option<&'m [u8]> {
    let mut notifies = notifies(parts);
    let link = notifies.find(|notify| notify.kind == notify::ADDITIONAL_KEY_EXCHANGE)?;
    (link.data.len() <= MOST_LINK).then_some(link.data)
}

impl IkeSa {
    /// Waits for the peer's additional key exchanges; the link goes with the answer.
    pub(crate) fn await_further(
        &mut self,
        ctx: &Ctx<'_>,
        groups: impl Iterator<Item = Group>,
        sa: AwaitedSa,
        chain: &mut Chain,
    ) {
        let link = ctx.random(LINK);
        chain.notify(notify::ADDITIONAL_KEY_EXCHANGE, &link);
        self.awaited = Some(Box::new(Awaited {
            link,
            rest: groups.collect(),
            secrets: Zeroizing::default(),
            until: ctx.now + LIFE,
            sa,
        }));
    }

    pub(crate) fn handle_followup(&mut self, ctx: &mut Ctx<'_>, id: u32, parts: &[Payload<'_>]) {
        let kind = exchange::IKE_FOLLOWUP_KE;
        let link = link_of(parts).unwrap_or_default();
        let known = |awaited: &mut Box<Awaited>| ctx.crypto.equal(&awaited.link, link);
        let Some(mut awaited) = self.awaited.take_if(known) else {
            return self.respond_notify(ctx, kind, id, notify::STATE_NOT_FOUND, &[]);
        };
        if self.standing != Standing::Current {
            return self.respond_notify(ctx, kind, id, notify::TEMPORARY_FAILURE, &[]);
        }
        let answered = awaited.rest.pop_front().and_then(|group| {
            let public = ke_of(parts, group)?;
            let (own, secret) = self.answer_exchange(ctx, group, public).ok()?;
            Some((emit_ke(group, &own), secret))
        });
        let Some((own, secret)) = answered else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        awaited.secrets.extend_from_slice(&secret);
        let mut chain = Chain::default();
        chain.push(payload::KE, &own);
        if !awaited.rest.is_empty() {
            chain.notify(notify::ADDITIONAL_KEY_EXCHANGE, &awaited.link);
            awaited.until = ctx.now + LIFE;
            self.awaited = Some(awaited);
            return self.respond(ctx, kind, id, chain);
        }
        match awaited.sa {
            AwaitedSa::Ike(renewal) => {
                if self.refuses_renewal() {
                    let kind_of_error = notify::TEMPORARY_FAILURE;
                    return self.respond_notify(ctx, kind, id, kind_of_error, &[]);
                }
                self.renew_for_peer(ctx, (kind, id), *renewal, &awaited.secrets, chain);
            }
            AwaitedSa::Child {
                chosen,
                mut offer,
                rekeys,
            } => {
                // What it is to take over from may have gone meanwhile.
                let lives = |old| self.child(old).is_some_and(|c| c.phase != Phase::Deleting);
                if !rekeys.is_none_or(lives) {
                    let kind_of_error = notify::TEMPORARY_FAILURE;
                    return self.respond_notify(ctx, kind, id, kind_of_error, &[]);
                }
                offer.further = awaited.secrets;
                match self.make_answered(ctx, *chosen, &offer, rekeys) {
                    Ok(made) => self.install_for_peer(ctx, (kind, id), made, chain, rekeys),
                    Err(error) => self.respond_notify(ctx, kind, id, error, &[]),
                }
            }
        }
    }
}
