// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rekeying of the IKE SA by CREATE_CHILD_SA (RFC 7296 §1.3.2, §2.18).

use std::time::Duration;

use zeroize::Zeroizing;

use crate::algorithm::Group;
use crate::crypto::CryptoError;
use crate::event::{Event, IkeId};
use crate::exchange::create_child::RETRY;
use crate::exchange::followup::{AwaitedSa, Further, Step};
use crate::exchange::init::{NONCE_RANGE, choose, emit_ke, read_ke};
use crate::exchange::slow::Then;
use crate::ike_sa::{
    AGAIN, Collision, Ctx, FORGET, Handover, IkeSa, NONCE_LEN, NotStarted, RekeyRequest, Request,
    Standing, State, Task, error_notify, find,
};
use crate::keymat::IkeKeys;
use crate::proposal::{self, IkeSuite, Proposal, methods};
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// A rekeying by the peer, as it is answered.
pub(crate) struct Renewal {
    suite: IkeSuite,
    spis: (u64, u64),
    nonces: (Vec<u8>, Vec<u8>),
    secret: Zeroizing<Vec<u8>>,
}

impl IkeSa {
    /// Starts rekeying this IKE SA (§2.18).
    pub(crate) fn start_rekey(
        &mut self,
        ctx: &mut Ctx<'_>,
        group: Option<Group>,
    ) -> Result<(), NotStarted> {
        let first = self.suite.map(|suite| suite.group);
        let group = group.or(first).ok_or(CryptoError)?;
        let exchange = self.own_exchange(ctx, group, Then::Task)?;
        let exchange = exchange.ok_or(NotStarted::Later)?;
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
            exchange,
            further: None,
            collision: None,
        };
        self.request(
            ctx,
            exchange::CREATE_CHILD_SA,
            chain,
            Request::RekeyIke(Box::new(request)),
        )?;
        Ok(())
    }

    pub(crate) fn handle_rekey_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        mut request: RekeyRequest,
        parts: &[Payload<'_>],
    ) {
        let theirs = request.collision.as_ref().map(|theirs| theirs.new);
        if let Some(error) = error_notify(parts) {
            if let Some(theirs) = theirs {
                return self.replaced_by_peer(ctx, theirs);
            }
            if self.standing != Standing::Current {
                return;
            }
            let wanted = <[u8; 2]>::try_from(error.data).ok().map(u16::from_be_bytes);
            let wanted = wanted.and_then(Group::from_wire).filter(|group| {
                *group != request.exchange.group
                    && self
                        .connection
                        .proposals
                        .iter()
                        .any(|p| p.groups.contains(group))
            });
            let wait = RETRY + Duration::from_millis(ctx.random_u64() % 1000);
            let (group, wait) = match (error.kind, wanted) {
                (notify::INVALID_KE_PAYLOAD, Some(group)) => (Some(group), Duration::ZERO),
                (notify::TEMPORARY_FAILURE | notify::STATE_NOT_FOUND, _) => (None, wait),
                _ => {
                    tracing::warn!(
                        error = notify::name(error.kind),
                        "IKE SA could not be rekeyed"
                    );
                    (None, AGAIN)
                }
            };
            let not_before = Some(ctx.now + wait);
            return self.tasks.push_back(Task::RekeyIke { group, not_before });
        }
        let made = (ctx.crypto, self.take_made());
        let step = match request.further.take() {
            Some(further) => further.advance(made, parts).map(Some),
            None => match self.additional_of(parts) {
                Some(groups) => Further::begin(made, groups.into_iter(), parts)
                    .map(|further| Some(Step::More(further))),
                None => Ok(None),
            },
        };
        let born = match step {
            Ok(Some(Step::More(further))) => {
                let chain = further.payloads();
                request.further = Some(further);
                let request = Request::RekeyIke(Box::new(request));
                let kind = exchange::IKE_FOLLOWUP_KE;
                return match self.request(ctx, kind, chain, request) {
                    Ok(()) => {}
                    Err(_) => self.not_rekeyed(ctx, theirs, "a request could not be made"),
                };
            }
            Ok(Some(Step::Done(response, further))) => {
                self.read_rekey(ctx, &request, &response.parts(), &further)
            }
            Ok(None) => self.read_rekey(ctx, &request, parts, &[]),
            Err(_) => None,
        };
        let Some((mut born, nonce_r)) = born else {
            return self.not_rekeyed(ctx, theirs, "malformed answer");
        };
        let nonces = (&request.nonce[..], &nonce_r[..]);
        let collision = request.collision.as_ref();
        let won = collision.is_none_or(|theirs| theirs.is_won(nonces));
        if won && self.standing == Standing::Current {
            ctx.out.redundant.extend(theirs);
            self.standing = Standing::Replaced;
            let (old, new, delete) = (self.id, born.id, true);
            ctx.out.handovers.push(Handover { old, new, delete });
        } else {
            // Ours is one too many, and its deletion our part (§2.8.2).
            born.standing = Standing::Redundant;
            born.tasks.push_back(Task::DeleteIke {
                reason: "redundant".to_owned(),
            });
            if let Some(theirs) = theirs {
                self.replaced_by_peer(ctx, theirs);
            }
        }
        born.log_keys(ctx);
        born.pump(ctx);
        ctx.out.born.push(born);
    }

    /// Whatever becomes of our rekeying, the peer's own stands.
    fn replaced_by_peer(&mut self, ctx: &mut Ctx<'_>, new: IkeId) {
        if self.standing == Standing::Current {
            self.standing = Standing::Replaced;
            let (old, delete) = (self.id, false);
            ctx.out.handovers.push(Handover { old, new, delete });
        }
    }

    /// Our rekeying came to nothing for a reason of its own: it is tried again, unless the peer's stands.
    fn not_rekeyed(&mut self, ctx: &mut Ctx<'_>, theirs: Option<IkeId>, reason: &str) {
        tracing::warn!(ike = self.id.0, reason, "IKE SA could not be rekeyed");
        if let Some(theirs) = theirs {
            self.replaced_by_peer(ctx, theirs);
        } else if self.standing == Standing::Current {
            let (group, not_before) = (None, Some(ctx.now + AGAIN));
            self.tasks.push_back(Task::RekeyIke { group, not_before });
        }
    }

    /// The additional key exchanges that an answer has chosen, if there are any.
    pub(crate) fn additional_of(&self, parts: &[Payload<'_>]) -> Option<Vec<Group>> {
        let chosen = proposal::parse(find(parts, payload::SA)?, true).ok()?;
        let (suite, _) = choose(&self.connection.proposals, &chosen, true)?;
        let groups: Vec<Group> = methods(&suite.additional).collect();
        (!groups.is_empty()).then_some(groups)
    }

    fn read_rekey(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: &RekeyRequest,
        parts: &[Payload<'_>],
        further: &[u8],
    ) -> Option<(Self, Vec<u8>)> {
        let chosen = proposal::parse(find(parts, payload::SA)?, true).ok()?;
        let [theirs] = &chosen[..] else { return None };
        let (suite, _) = choose(&self.connection.proposals, &chosen, true)?;
        let spi_r = ike_spi(&theirs.spi)?;
        let (group, public) = read_ke(find(parts, payload::KE)?).ok()?;
        if group != request.exchange.group as u16 || suite.group != request.exchange.group {
            return None;
        }
        let secret = request.exchange.agree(public).ok()?;
        let nonce_r = find(parts, payload::NONCE).filter(|n| NONCE_RANGE.contains(&n.len()))?;
        let (old, keys) = self.suite.as_ref().zip(self.keys.as_ref())?;
        let nonces = (&request.nonce[..], nonce_r);
        let spis = (request.spi, spi_r);
        let keys = IkeKeys::derive(
            ctx.crypto,
            &suite,
            (&secret, further),
            nonces,
            spis,
            Some((old.prf, keys.d())),
        )
        .ok()?;
        Some((self.bear(ctx, true, spis, suite, keys), nonce_r.to_vec()))
    }

    pub(crate) fn handle_rekey_ike(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        nonce_i: &[u8],
        parts: &[Payload<'_>],
    ) {
        let kind = exchange::CREATE_CHILD_SA;
        if self.refuses_renewal() {
            return self.respond_notify(ctx, kind, id, notify::TEMPORARY_FAILURE, &[]);
        }
        let offers = find(parts, payload::SA).and_then(|body| proposal::parse(body, true).ok());
        let ke = find(parts, payload::KE).and_then(|body| read_ke(body).ok());
        let (Some(offers), Some((group, public))) = (offers, ke) else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        let Some((suite, number)) = choose(&self.connection.proposals, &offers, true) else {
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
        let further = methods(&suite.additional).next().is_some();
        // With further exchanges it would not be known for long which of the two stays: both try again.
        if let Some(Request::RekeyIke(mine)) = self.asking()
            && (further || mine.further.is_some())
        {
            return self.respond_notify(ctx, kind, id, notify::TEMPORARY_FAILURE, &[]);
        }
        let Ok((own, secret)) = self.answer_exchange(ctx, suite.group, public) else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        let spi_r = ctx.random_u64();
        let nonce_r = ctx.random(NONCE_LEN);
        let mut chain = Chain::default();
        let answer = [(number, suite.to_proposal())];
        chain.push(
            payload::SA,
            &proposal::emit(&answer, true, &spi_r.to_be_bytes()),
        );
        chain.push(payload::NONCE, &nonce_r);
        chain.push(payload::KE, &emit_ke(suite.group, &own));
        let renewal = Renewal {
            suite,
            spis: (spi_i, spi_r),
            nonces: (nonce_i.to_vec(), nonce_r),
            secret,
        };
        if further {
            let sa = AwaitedSa::Ike(Box::new(renewal));
            self.await_further(ctx, methods(&suite.additional), sa, &mut chain);
            return self.respond(ctx, kind, id, chain);
        }
        self.renew_for_peer(ctx, (kind, id), renewal, &[], chain);
    }

    /// Whether the peer can't rekey the IKE SA now. §2.25.1: not while a child is being made, rekeyed or
    /// closed by us; §2.25.2: nor while the IKE SA is being closed.
    pub(crate) fn refuses_renewal(&self) -> bool {
        let asking = match self.asking() {
            Some(
                Request::CreateChild(_)
                | Request::DeleteChild(_)
                | Request::DeleteUnmade { .. }
                | Request::DeleteIke { .. },
            ) => true,
            Some(Request::RekeyIke(mine)) => mine.collision.is_some(),
            // The heir would know nothing of the new address.
            Some(Request::Move) => true,
            _ => false,
        };
        let ends = |task: &Task| matches!(task, Task::DeleteIke { .. });
        asking || self.tasks.iter().any(ends)
    }

    /// The peer's rekeying is complete: answers so.
    pub(crate) fn renew_for_peer(
        &mut self,
        ctx: &mut Ctx<'_>,
        (kind, id): (u8, u32),
        renewal: Renewal,
        further: &[u8],
        chain: Chain,
    ) {
        let Renewal {
            suite,
            spis,
            nonces,
            secret,
        } = renewal;
        let nonces = (&nonces.0[..], &nonces.1[..]);
        let before = self.suite.zip(self.keys.as_ref());
        let keys = before.ok_or(CryptoError).and_then(|(old, keys)| {
            let (crypto, before) = (ctx.crypto, Some((old.prf, keys.d())));
            IkeKeys::derive(crypto, &suite, (&secret, further), nonces, spis, before)
        });
        let Ok(keys) = keys else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        self.respond(ctx, kind, id, chain);
        let mut born = self.bear(ctx, false, spis, suite, keys);
        born.log_keys(ctx);
        let (old, new) = (self.id, born.id);
        match self.asking_mut() {
            // Both rekey at once: the children stay until it is known which SA does (§2.8.2).
            Some(Request::RekeyIke(mine)) => {
                mine.collision = Some(Collision::new(new, nonces));
                born.standing = Standing::Undecided { old };
                born.forget_at = Some((ctx.now + FORGET).into());
            }
            _ => {
                self.standing = Standing::Replaced;
                let delete = false;
                ctx.out.handovers.push(Handover { old, new, delete });
            }
        }
        ctx.out.born.push(born);
    }

    /// A new IKE SA out of this one's rekeying.
    fn bear(
        &self,
        ctx: &mut Ctx<'_>,
        initiator: bool,
        spis: (u64, u64),
        suite: IkeSuite,
        keys: IkeKeys,
    ) -> Self {
        let connection = self.connection.clone();
        let mut born = Self::new(ctx, connection, initiator, spis, self.path);
        born.suite = Some(suite);
        born.keys = Some(keys);
        born.moves = self.moves;
        born.state = State::Established;
        born.established = Some(ctx.now.into());
        born.other_id = self.other_id.clone();
        born.remote_id = self.remote_id.clone();
        (born.nat_local, born.nat_remote, born.encap) =
            (self.nat_local, self.nat_remote, self.encap);
        born.ppk = self.ppk;
        born.fragment_as(self);
        born
    }

    /// Gives the children, and what was to be done, to a new IKE SA.
    pub(crate) fn hand_over(&mut self, ctx: &mut Ctx<'_>, heir: &mut Self, delete: bool) {
        heir.standing = Standing::Current;
        heir.forget_at = None;
        heir.children.reserve_exact(self.children.len());
        heir.children.append(&mut self.children);
        let moves = |task: &Task| !matches!(task, Task::RekeyIke { .. } | Task::Liveness);
        heir.tasks.extend(self.tasks.drain(..).filter(moves));
        heir.triggers = std::mem::take(&mut self.triggers);
        heir.arm_rekey(ctx);
        (heir.counted, heir.mobike) = (self.counted.take(), self.mobike);
        self.end_search();
        heir.addresses = std::mem::take(&mut self.addresses);
        if matches!(self.asking(), Some(Request::Addresses))
            && !heir.tasks.contains(&Task::Addresses)
        {
            // The peer may not have heard of them.
            heir.tasks.push_back(Task::Addresses);
        }
        heir.redirectable = self.redirectable;
        (heir.syncs_ids, heir.syncs_counters) = (self.syncs_ids, self.syncs_counters);
        heir.succeeds = self.succeeds;
        heir.on_probation = self.on_probation.take();
        heir.assigned = std::mem::take(&mut self.assigned);
        heir.inherit_auth(ctx, self);
        self.standing = Standing::Replaced;
        self.rekey_at = None;
        self.expire_at = None;
        if delete {
            self.tasks.push_back(Task::DeleteIke {
                reason: "rekeyed".to_owned(),
            });
        } else {
            self.forget_at = Some((ctx.now + FORGET).into());
        }
        let (old, new) = (self.id, heir.id);
        let rekeyings = heir.reauth.rekeyings;
        ctx.out.tickets.hand_over(old, new, rekeyings);
        ctx.event(Event::IkeRekeyed { old, new });
    }
}

fn ike_spi(octets: &[u8]) -> Option<u64> {
    let spi = u64::from_be_bytes(octets.try_into().ok()?);
    (spi != 0).then_some(spi)
}
