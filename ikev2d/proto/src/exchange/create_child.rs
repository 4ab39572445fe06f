// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CREATE_CHILD_SA for children (RFC 7296 §1.3.1, §1.3.3): further ones and rekeying.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::algorithm::Group;
use crate::config::ChildConfig;
use crate::event::{ChildId, Event, InstallId, KeyedChild};
use crate::exchange::child::{Asked, ChildOffer, Refused};
use crate::exchange::followup::{AwaitedSa, Further, Step};
use crate::exchange::init::{NONCE_RANGE, emit_ke, read_ke};
use crate::exchange::signature::Kept;
use crate::exchange::slow::Then;
use crate::ike_sa::{
    Child, ChildRequest, Collision, Ctx, IkeSa, NONCE_LEN, NotStarted, Part, Pending, Phase,
    Request, Standing, Task, error_notify, find, notifies,
};
use crate::proposal::{self, methods};
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// What a child is asked for as.
#[derive(Default)]
pub(crate) struct Wants {
    /// What it replaces, with its protocol and SPI.
    pub(crate) rekeys: Option<(ChildId, (u8, u32))>,
    /// Which of our resources it is for (RFC 9611).
    pub(crate) resource: Option<u16>,
    /// Nobody has asked for it.
    pub(crate) sibling: bool,
    /// It is for what the peer has narrowed another one by.
    pub(crate) part: bool,
}

/// Wait before a request that met TEMPORARY_FAILURE is tried again, at least (§2.25).
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// A request that is done, the answer to its CREATE_CHILD_SA if that was not the last one, and the
/// secrets of its additional key exchanges.
type Done = (Box<ChildRequest>, Option<Kept>, Zeroizing<Vec<u8>>);

/// A request that came to nothing, the peer's child of a collision, and why.
type Failed = (Asked, Option<ChildId>, &'static str);

/// The additional key exchanges that an answer has chosen, if there are any.
pub(crate) fn additional_of(config: &ChildConfig, parts: &[Payload<'_>]) -> Option<Vec<Group>> {
    let chosen = proposal::parse(find(parts, payload::SA)?, false).ok()?;
    let chosen = &chosen.first()?.proposal;
    let mut ours = config.esp_proposals.iter();
    let suite = ours.find_map(|ours| ours.choose_esp(chosen, false))?;
    let groups: Vec<Group> = methods(&suite.additional).collect();
    (!groups.is_empty()).then_some(groups)
}

impl IkeSa {
    pub(crate) fn start_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        rekeys: Option<ChildId>,
        group: Option<Group>,
        sibling: bool,
    ) -> Result<(), NotStarted> {
        let Some(config) = self.child_config(name) else {
            self.forget_trigger(name);
            let (connection, child) = (self.connection.name.clone(), Some(name.to_owned()));
            let reason = "no such child in the configuration".to_owned();
            ctx.event(Event::InitiateFailed {
                connection,
                child,
                reason,
            });
            return Ok(());
        };
        let old_spi = match rekeys {
            // It may be gone meanwhile, or the peer may have rekeyed it.
            Some(id) => match self.child(id).filter(|c| c.phase == Phase::Rekeying) {
                Some(child) => Some((child.sa.suite.protocol(), child.sa.spi_in)),
                None => return Ok(()),
            },
            None => None,
        };
        let (mut config, resource) = self.for_resource(config, rekeys);
        if rekeys.is_none() && !sibling {
            self.put_trigger_first(&mut config);
        }
        if let Some(old) = rekeys.and_then(|old| self.child(old))
            && self.is_one_of_parts(old)
        {
            self.narrow_to(&mut config, (&old.sa.ts_local, &old.sa.ts_remote));
        }
        let wants = Wants {
            rekeys: rekeys.zip(old_spi),
            resource,
            sibling,
            part: false,
        };
        self.ask_for_child(ctx, config, group, wants)
    }

    /// Asks for a child of this policy.
    pub(crate) fn ask_for_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: ChildConfig,
        group: Option<Group>,
        wants: Wants,
    ) -> Result<(), NotStarted> {
        let (rekeys, old_spi) = wants.rekeys.unzip();
        let Wants {
            resource,
            sibling,
            part,
            ..
        } = wants;
        let wanted = config
            .esp_proposals
            .iter()
            .find_map(|p| p.groups.first())
            .copied();
        let group = group.or(wanted);
        let exchange = match group {
            Some(group) => {
                let made = self.own_exchange(ctx, group, Then::Task)?;
                Some(made.ok_or(NotStarted::Later)?)
            }
            None => None,
        };
        let nonce = ctx.random(NONCE_LEN);
        let spi = ctx.new_spi();
        let mut chain = Chain::default();
        if let Some((protocol, old)) = old_spi {
            let body = notify::emit(protocol, &old.to_be_bytes(), notify::REKEY_SA, &[]);
            chain.push(payload::NOTIFY, &body);
        }
        let (group, public) = exchange
            .as_ref()
            .map_or((Group::X25519, &[][..]), |own| (own.group, own.public()));
        self.push_child_offer(
            &mut chain,
            &config,
            (spi.value(), resource),
            false,
            Some((&nonce, group, public)),
        );
        let request = ChildRequest {
            config,
            spi_in: spi,
            nonce,
            exchange,
            rekeys,
            named: old_spi.is_some(),
            resource,
            sibling,
            part,
            further: None,
            collision: None,
            deleted: Vec::new(),
        };
        let request = Request::CreateChild(Box::new(request));
        self.request(ctx, exchange::CREATE_CHILD_SA, chain, request)?;
        Ok(())
    }

    pub(crate) fn handle_child_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: Box<ChildRequest>,
        parts: &[Payload<'_>],
    ) {
        let request = match self.go_further(ctx, request, parts) {
            Ok(Some(done)) => done,
            Ok(None) => return,
            Err((asked, theirs, reason)) => {
                return self.child_not_made(ctx, &asked, theirs, reason.to_owned());
            }
        };
        let (request, kept, further) = request;
        let kept = kept.as_ref().map(Kept::parts);
        let parts = kept.as_deref().unwrap_or(parts);
        let asked = request.asked();
        let ChildRequest {
            config,
            spi_in,
            nonce,
            exchange,
            rekeys,
            named,
            resource,
            sibling,
            part,
            collision,
            deleted,
            ..
        } = *request;
        let theirs = collision.as_ref().map(|theirs| theirs.new);
        let retry = |this: &mut Self, group, not_before| {
            let name = config.name.clone();
            let task = match (part, sibling) {
                (true, _) => {
                    let (local, remote) = this.resolved(&config);
                    Task::Part(Box::new(Part {
                        child: name,
                        local,
                        remote,
                        group,
                        not_before,
                    }))
                }
                (false, true) => Task::Sibling {
                    name,
                    group,
                    not_before,
                },
                (false, false) => Task::Child {
                    name,
                    rekeys,
                    group,
                    not_before,
                },
            };
            this.tasks.push_back(task);
        };
        if let Some(error) = error_notify(parts) {
            match error.kind {
                // The peer's own rekeying is the one that counts.
                _ if theirs.is_some() => {}
                notify::TEMPORARY_FAILURE | notify::STATE_NOT_FOUND => {
                    let wait = RETRY + Duration::from_millis(ctx.random_u64() % 1000);
                    let at = ctx.now + wait;
                    if let Some(old) = rekeys.filter(|old| self.is_left_behind(*old)) {
                        // The dead member has rekeyed it already, as the peer knows it: it is left behind.
                        let part = self.task_for_part(old, Some(at));
                        self.delete_child(old);
                        return self.tasks.push_back(part.unwrap_or(Task::Child {
                            name: config.name,
                            rekeys: None,
                            group: None,
                            not_before: Some(at),
                        }));
                    }
                    return retry(self, None, Some(at));
                }
                notify::INVALID_KE_PAYLOAD => {
                    let wanted = <[u8; 2]>::try_from(error.data).ok().map(u16::from_be_bytes);
                    let wanted = wanted.and_then(Group::from_wire).filter(|group| {
                        config
                            .esp_proposals
                            .iter()
                            .any(|p| p.groups.contains(group))
                    });
                    if let Some(group) = wanted
                        && exchange.as_ref().is_none_or(|tried| tried.group != group)
                    {
                        return retry(self, Some(group), None);
                    }
                }
                // It was to replace one that the peer has deleted meanwhile.
                notify::CHILD_SA_NOT_FOUND if rekeys.is_none() && named => {
                    return retry(self, None, Some(ctx.now + RETRY));
                }
                // Who has named none is refused like that for good.
                notify::CHILD_SA_NOT_FOUND if rekeys.is_some() => {
                    // The peer has lost it: a new one is made from scratch (§2.25).
                    if let Some(old) = rekeys.filter(|old| self.child(*old).is_some()) {
                        let part = self.task_for_part(old, None);
                        self.drop_child(ctx, old, "the peer does not know it");
                        let name = config.name;
                        let lives =
                            |c: &Child| matches!(c.phase, Phase::Installed | Phase::Rekeying);
                        let mut others = self.children.iter().filter(|c| lives(c));
                        let other = others.any(|c| *c.sa.child == *name);
                        if let Some(part) = part {
                            self.tasks.push_back(part);
                        } else if other && resource.is_some() {
                            self.tasks.push_back(Task::Sibling {
                                name,
                                group: None,
                                not_before: None,
                            });
                        } else if !other {
                            self.tasks.push_back(Task::Child {
                                name,
                                rekeys: None,
                                group: None,
                                not_before: None,
                            });
                        }
                    }
                    return;
                }
                _ => {}
            }
            let reason = format!("the peer refused: {}", notify::name(error.kind));
            return self.child_not_made(ctx, &asked, theirs, reason);
        }
        let nonce_r = find(parts, payload::NONCE).filter(|n| NONCE_RANGE.contains(&n.len()));
        let Some(nonce_r) = nonce_r.map(<[u8]>::to_vec) else {
            let reason = "the response has no nonce of 16 to 256 octets".to_owned();
            self.disown_child(&config, spi_in);
            return self.child_not_made(ctx, &asked, theirs, reason);
        };
        let mut offer = ChildOffer {
            nonces: (nonce, nonce_r),
            further,
            collision,
            resource,
            sibling,
            part,
            deleted,
            ..ChildOffer::default()
        };
        if let (Some(body), Some(exchange)) = (find(parts, payload::KE), &exchange) {
            let agreed = read_ke(body)
                .ok()
                .filter(|(theirs, _)| *theirs == exchange.group as u16)
                .and_then(|(_, public)| exchange.agree(public).ok());
            let Some(secret) = agreed else {
                let reason = "the peer's key exchange value is invalid".to_owned();
                self.disown_child(&config, spi_in);
                return self.child_not_made(ctx, &asked, theirs, reason);
            };
            offer.secret = Some(secret);
            offer.chosen_group = Some(exchange.group);
        }
        self.complete_child(ctx, parts, config, spi_in, offer, rekeys);
    }

    /// The peer can't rekey a child for now. Whether it is another member's, and the peer will never be able
    /// to: it may know it as rekeyed already, by that member, whom the answer has not reached.
    fn is_left_behind(&mut self, id: ChildId) -> bool {
        const MOST: u8 = 3;
        let child = self.child_mut(id).and_then(|child| child.taken_up.as_mut());
        child.is_some_and(|times| {
            *times = times.saturating_add(1);
            *times >= MOST
        })
    }

    /// Takes in an answer to CREATE_CHILD_SA or IKE_FOLLOWUP_KE and asks for the next additional key
    /// exchange, if one is due. Otherwise the request is done: with the CREATE_CHILD_SA's answer, if
    /// that was another, and the secrets.
    fn go_further(
        &mut self,
        ctx: &mut Ctx<'_>,
        mut request: Box<ChildRequest>,
        parts: &[Payload<'_>],
    ) -> Result<Option<Done>, Failed> {
        const INVALID: &str = "the peer's additional key exchange is invalid";
        const UNSEALED: &str = "a request could not be made";
        if error_notify(parts).is_some() {
            return Ok(Some((request, None, Zeroizing::default())));
        }
        let theirs = request.collision.as_ref().map(|theirs| theirs.new);
        let failed = |asked, reason| Err((asked, theirs, reason));
        let made = (ctx.crypto, self.take_made());
        let step = match request.further.take() {
            Some(further) => further.advance(made, parts),
            None => match additional_of(&request.config, parts) {
                Some(groups) => Further::begin(made, groups.into_iter(), parts).map(Step::More),
                None => return Ok(Some((request, None, Zeroizing::default()))),
            },
        };
        match step {
            Ok(Step::Done(response, secrets)) => Ok(Some((request, Some(response), secrets))),
            Ok(Step::More(further)) => {
                let (asked, chain) = (request.asked(), further.payloads());
                request.further = Some(further);
                let request = Request::CreateChild(request);
                match self.request(ctx, exchange::IKE_FOLLOWUP_KE, chain, request) {
                    Ok(()) => Ok(None),
                    Err(_) => failed(asked, UNSEALED),
                }
            }
            Err(_) => {
                let asked = request.asked();
                // It may have been the last one.
                self.disown_child(&request.config, request.spi_in);
                failed(asked, INVALID)
            }
        }
    }

    /// Whether the peer has had all child SAs made that it may ask for (§1.3): what one peer holds, in a
    /// device with few places too, is bounded, and yet room for every child several times over.
    fn is_full(&self) -> bool {
        const LEAST: usize = 64;
        let configured = self.connection.children.iter();
        let wanted: usize = configured
            .map(|child| usize::from(child.resources.most))
            .sum();
        let going = |child: &&Child| child.phase == Phase::Deleting;
        let held = self.children.len() - self.children.iter().filter(going).count();
        held >= LEAST.max(4 * wanted)
    }

    pub(crate) fn handle_create_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let kind = exchange::CREATE_CHILD_SA;
        let refuse = |this: &mut Self, ctx: &mut Ctx<'_>, notify: u16, data: &[u8]| {
            this.respond_notify(ctx, kind, id, notify, data);
        };
        if self.standing != Standing::Current {
            return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
        }
        // A peer that asks for something else has given up what it was at.
        self.awaited = None;
        let Some(nonce_i) = find(parts, payload::NONCE).filter(|n| NONCE_RANGE.contains(&n.len()))
        else {
            return refuse(self, ctx, notify::INVALID_SYNTAX, &[]);
        };
        if find(parts, payload::TSI).is_none() {
            return self.handle_rekey_ike(ctx, id, nonce_i, parts);
        }
        if matches!(self.asking(), Some(Request::RekeyIke(_))) {
            // §2.25.1
            return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
        }
        let rekeys = match notifies(parts).find(|notify| notify.kind == notify::REKEY_SA) {
            Some(notify) => {
                let spi = <[u8; 4]>::try_from(notify.spi).ok().map(u32::from_be_bytes);
                // The peer names its inbound SA, our outbound one.
                match self.children.iter().find(|child| {
                    let protocol = child.sa.suite.protocol();
                    (Some(child.sa.spi_out), protocol) == (spi, notify.protocol)
                }) {
                    // §2.25.1: one that we delete, or that has a successor already.
                    Some(child)
                        if child.phase == Phase::Deleting
                            || self.successor(child.sa.id).is_some() =>
                    {
                        return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
                    }
                    Some(child) => Some(child.sa.id),
                    // It may be the one that our own request has made, and the answer got lost.
                    None if matches!(self.asking(), Some(Request::CreateChild(_))) => {
                        return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
                    }
                    None => {
                        let spi = notify.spi;
                        let body =
                            notify::emit(notify.protocol, spi, notify::CHILD_SA_NOT_FOUND, &[]);
                        let mut chain = Chain::default();
                        chain.push(payload::NOTIFY, &body);
                        return self.respond(ctx, kind, id, chain);
                    }
                }
            }
            None => None,
        };
        if rekeys.is_none() && self.is_full() {
            return refuse(self, ctx, notify::NO_ADDITIONAL_SAS, &[]);
        }
        let mut offer = ChildOffer {
            nonces: (nonce_i.to_vec(), ctx.random(NONCE_LEN)),
            ..ChildOffer::default()
        };
        let mut answer_ke = None;
        if let Some(body) = find(parts, payload::KE) {
            let read = read_ke(body)
                .ok()
                .and_then(|(g, public)| Some((Group::from_wire(g)?, public)));
            let agreed = read.and_then(|(group, public)| {
                // In another group it is of no use.
                if !self.may_exchange(group, true) {
                    return None;
                }
                let (own, secret) = self.answer_exchange(ctx, group, public).ok()?;
                Some((group, secret, own))
            });
            if let Some((group, secret, own)) = agreed {
                offer.secret = Some(secret);
                offer.chosen_group = Some(group);
                answer_ke = Some(emit_ke(group, &own));
            }
        }
        let mut chain = Chain::default();
        match self.answer_child(ctx, parts, (offer.chosen_group, rekeys), false, &mut chain) {
            Ok(chosen) => {
                if chosen.suite.group.is_none() {
                    (offer.secret, offer.chosen_group, answer_ke) = (None, None, None);
                }
                chain.push(payload::NONCE, &offer.nonces.1);
                if let Some(body) = answer_ke {
                    chain.push(payload::KE, &body);
                }
                let additional = chosen.suite.additional;
                let further = methods(&additional).next().is_some();
                let collides = matches!(self.asking(), Some(Request::CreateChild(mine))
                    if rekeys.is_some() && mine.rekeys == rekeys
                        && (further || mine.further.is_some()));
                if collides {
                    // It would not be known for long which of the two stays: both try again.
                    return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
                }
                if further {
                    let sa = AwaitedSa::Child {
                        chosen: Box::new(chosen),
                        offer: Box::new(offer),
                        rekeys,
                    };
                    self.await_further(ctx, methods(&additional), sa, &mut chain);
                    return self.respond(ctx, kind, id, chain);
                }
                match self.make_answered(ctx, chosen, &offer, rekeys) {
                    Ok(made) => {
                        // Both rekey it: nonces tell later which one stays (§2.8.1).
                        if let Some(Request::CreateChild(mine)) = self.asking_mut()
                            && rekeys.is_some()
                            && mine.rekeys == rekeys
                        {
                            let nonces = (&offer.nonces.0[..], &offer.nonces.1[..]);
                            mine.collision = Some(Collision::new(made.0.sa.id, nonces));
                        }
                        self.install_for_peer(ctx, (kind, id), made, chain, rekeys);
                    }
                    Err(notify) => refuse(self, ctx, notify, &[]),
                }
            }
            Err(refused) => {
                let wanted = match refused {
                    Refused::WantsGroup(group) => &(group as u16).to_be_bytes()[..],
                    Refused::By(_) => &[],
                };
                refuse(self, ctx, refused.kind(), wanted);
            }
        }
    }

    /// Has a child installed that the peer asks for; the answer waits for that.
    pub(crate) fn install_for_peer(
        &mut self,
        ctx: &mut Ctx<'_>,
        (exchange, message_id): (u8, u32),
        (child, keyed): (Child, KeyedChild),
        installed: Chain,
        rekeys: Option<ChildId>,
    ) {
        let mut failed = Chain::default();
        failed.notify(notify::NO_PROPOSAL_CHOSEN, &[]);
        let install = InstallId(ctx.out.id());
        ctx.event(Event::InstallInbound {
            install,
            child: Box::new(keyed),
        });
        self.pending = Some(Box::new(Pending {
            install,
            message_id,
            exchange,
            installed,
            failed,
            child,
            rekeys,
        }));
    }
}
