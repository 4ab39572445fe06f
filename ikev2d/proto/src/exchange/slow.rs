// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key exchanges that take long ([`Crypto::is_slow`]): they are done elsewhere. Until then a message that
//! needs one is as if it were on its way still: it is taken in, and judged, when the key exchange is done.

use std::mem::{discriminant, take};
use std::sync::Arc;

use crate::algorithm::Group;
use crate::credential::JobResult;
use crate::crypto::CryptoError;
use crate::errand::{Answered, Errand, OwnExchange, Waits};
use crate::event::JobId;
use crate::exchange::create_child::additional_of;
use crate::exchange::init::{InitRequest, read_ke};
use crate::exchange::intermediate::ke_of;
use crate::ike_sa::{AGAIN, Ctx, IkeSa, Request, Standing, State, error_notify, find, nothing};
use crate::proposal::{IkeSuite, Proposal};
use crate::sk::Opened;
use crate::wire::{Header, Payload, exchange, payload};

/// What is gone on with when a key exchange is done.
pub(crate) enum Then {
    /// Our first message.
    Init,
    /// The response to it.
    InitResponse(Vec<u8>),
    /// The peer's first message, and what was chosen of it.
    InitRequest(IkeSuite, u8),
    /// IKE_INTERMEDIATE.
    Additional,
    /// A request of the peer's.
    Request(Header, Opened),
    /// The response to ours.
    Response(Header, Opened),
    /// A task that is ours.
    Task,
}

nothing!(Waits<Then>);

impl IkeSa {
    /// The jobs of key exchanges that are waited for.
    pub(crate) fn exchange_jobs(&self) -> impl Iterator<Item = JobId> {
        self.elsewhere.jobs()
    }

    fn waits(&self, test: impl Fn(&Then) -> bool) -> bool {
        self.elsewhere.iter().any(test)
    }

    /// Whether a request of the peer's is here whose key exchange goes on.
    pub(crate) fn holds_request(&self) -> bool {
        self.waits(|then| matches!(then, Then::Request(..)))
    }

    /// The same for the response to our own.
    pub(crate) fn holds_response(&self) -> bool {
        self.waits(|then| matches!(then, Then::Response(..) | Then::InitResponse(_)))
    }

    /// Whether a key exchange is being made for a task.
    pub(crate) fn prepares_task(&self) -> bool {
        self.waits(|then| matches!(then, Then::Task))
    }

    /// Whether no response to a first message is of use now.
    pub(crate) fn prepares_init(&self) -> bool {
        self.waits(|then| matches!(then, Then::Init | Then::InitResponse(_)))
    }

    /// IKE_SA_INIT begins anew: what answered an earlier first message is of no use.
    pub(crate) fn forget_init_response(&mut self) {
        self.forget(|then| matches!(then, Then::InitResponse(_)));
    }

    /// The messages that wait are nobody's any more.
    pub(crate) fn forget_held(&mut self) {
        self.forget(|then| matches!(then, Then::Request(..) | Then::Response(..)));
    }

    fn forget(&mut self, these: impl Fn(&Then) -> bool) {
        if let Some(elsewhere) = self.elsewhere.as_deref_mut() {
            elsewhere.forget(these);
        }
    }

    /// Has a key exchange done elsewhere, once for each that waits.
    pub(crate) fn send_out(&mut self, ctx: &mut Ctx<'_>, errand: Errand, then: Then) {
        let kind = discriminant(&then);
        if self.waits(|other| discriminant(other) == kind) {
            return;
        }
        let of_peer = matches!(then, Then::InitRequest(..) | Then::Request(..));
        let of_stranger = of_peer && self.state == State::Connecting;
        let (work, place) = errand.job(ctx.shared_crypto.clone(), of_stranger);
        let job = ctx.job(match of_peer {
            true => work.for_peer(),
            false => work,
        });
        self.elsewhere.push(job, place, then);
    }

    /// A key exchange of ours that was made elsewhere.
    pub(crate) fn take_made(&mut self) -> Option<Arc<OwnExchange>> {
        self.elsewhere.as_deref_mut()?.made.own.take()
    }

    /// A key exchange of ours; nothing if it has to be made elsewhere, with which `then` goes on.
    pub(crate) fn own_exchange(
        &mut self,
        ctx: &mut Ctx<'_>,
        group: Group,
        then: Then,
    ) -> Result<Option<Arc<OwnExchange>>, CryptoError> {
        let made = self.take_made().filter(|made| made.group == group);
        if made.is_none() && ctx.crypto.is_slow(group) {
            let errand = Errand {
                generate: Some(group),
                ..Errand::default()
            };
            self.send_out(ctx, errand, then);
            return Ok(None);
        }
        OwnExchange::made_or_new(made, ctx.crypto, group).map(Some)
    }

    /// Our public value to a peer's, and the shared secret.
    pub(crate) fn answer_exchange(&mut self, ctx: &Ctx<'_>, group: Group, peer: &[u8]) -> Answered {
        match self.elsewhere.as_deref_mut() {
            Some(elsewhere) => elsewhere.made.answer(ctx.crypto, group, peer),
            None => ctx.crypto.answer(group, peer),
        }
    }

    /// Begins to answer a first message.
    pub(crate) fn begin_answer(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: &InitRequest<'_>,
        (suite, number): (IkeSuite, u8),
        message: &[u8],
    ) -> Result<(), CryptoError> {
        if !ctx.crypto.is_slow(suite.group) {
            return self.answer_init(ctx, request, (suite, number), message);
        }
        self.init.message_i = message.to_vec();
        let errand = Errand {
            answer: Some((suite.group, request.public.to_vec())),
            ..Errand::default()
        };
        self.send_out(ctx, errand, Then::InitRequest(suite, number));
        Ok(())
    }

    fn answer_kept_init(
        &mut self,
        ctx: &mut Ctx<'_>,
        choice: (IkeSuite, u8),
    ) -> Result<(), CryptoError> {
        let message = take(&mut self.init.message_i);
        let header = Header::parse(&message).map_err(|_| CryptoError)?;
        let request = InitRequest::parse(&header, &message).map_err(|_| CryptoError)?;
        self.answer_init(ctx, &request, choice, &message)
    }

    /// What the response to our first message needs, if that takes long.
    pub(crate) fn init_response_errand(
        &self,
        ctx: &Ctx<'_>,
        own: &Arc<OwnExchange>,
        peer: &[u8],
    ) -> Option<Errand> {
        own.is_due(ctx.crypto, peer).then(|| Errand {
            agree: Some((own.clone(), peer.to_vec())),
            ..Errand::default()
        })
    }

    /// What the response to a request of ours needs, if that takes long.
    pub(crate) fn response_errand(&self, ctx: &Ctx<'_>, parts: &[Payload<'_>]) -> Option<Errand> {
        if error_notify(parts).is_some() {
            return None;
        }
        let first = |groups: Vec<Group>| groups.first().copied();
        let (own, next) = match self.asking()? {
            Request::Intermediate(own) => (Some(own), None),
            Request::CreateChild(mine) => match &mine.further {
                Some(further) => (Some(further.exchange()), further.next()),
                None => {
                    let next = additional_of(&mine.config, parts).and_then(first);
                    (mine.exchange.as_ref(), next)
                }
            },
            Request::RekeyIke(mine) => match &mine.further {
                Some(further) => (Some(further.exchange()), further.next()),
                None => {
                    let next = self.additional_of(parts).and_then(first);
                    (Some(&mine.exchange), next)
                }
            },
            _ => return None,
        };
        let own = own.filter(|own| ctx.crypto.is_slow(own.group));
        let agree = own.and_then(|own| Some((own.clone(), ke_of(parts, own.group)?.to_vec())));
        let generate = next.filter(|group| ctx.crypto.is_slow(*group));
        (agree.is_some() || generate.is_some()).then_some(Errand {
            agree,
            generate,
            answer: None,
        })
    }

    /// Whether a request of the peer's for a new SA may have a key exchange in a group.
    pub(crate) fn may_exchange(&self, group: Group, child: bool) -> bool {
        let has = |proposal: &Proposal| proposal.groups.contains(&group);
        match child {
            true => {
                let mut children = self.connection.children.iter();
                children.any(|child| child.esp_proposals.iter().any(has))
            }
            false => self.connection.proposals.iter().any(has),
        }
    }

    /// What a request of the peer's needs, if that takes long.
    pub(crate) fn request_errand(
        &self,
        ctx: &Ctx<'_>,
        header: &Header,
        parts: &[Payload<'_>],
    ) -> Option<Errand> {
        let with = |group| Some((group, ke_of(parts, group)?));
        let (group, peer) = match (header.exchange, self.state) {
            (exchange::IKE_INTERMEDIATE, State::Connecting) if !self.initiator => {
                with(self.next_additional()?)?
            }
            (exchange::IKE_FOLLOWUP_KE, State::Established) => {
                with(self.awaited.as_ref()?.next()?)?
            }
            (exchange::CREATE_CHILD_SA, State::Established)
                if self.standing == Standing::Current =>
            {
                let (group, peer) = read_ke(find(parts, payload::KE)?).ok()?;
                let child = find(parts, payload::TSI).is_some();
                let group = Group::from_wire(group).filter(|g| self.may_exchange(*g, child))?;
                (group, peer)
            }
            _ => return None,
        };
        ctx.crypto.is_slow(group).then(|| Errand {
            answer: Some((group, peer.to_vec())),
            ..Errand::default()
        })
    }

    /// Goes on where a key exchange was waited for. What could not be done is as if its message had been
    /// lost.
    pub(crate) fn exchange_done(&mut self, ctx: &mut Ctx<'_>, job: JobId, result: &JobResult) {
        let elsewhere = self.elsewhere.as_deref_mut();
        let Some((mut made, then)) = elsewhere.and_then(|elsewhere| elsewhere.take(job)) else {
            return;
        };
        let unmade = made.own.is_none();
        if unmade {
            made.own = self.take_made();
        }
        self.elsewhere.made = made;
        match then {
            Then::Init | Then::Additional if unmade => {
                self.die(ctx, "a key exchange could not be made");
            }
            Then::Task if unmade => {
                let at = ctx.now + AGAIN;
                for task in self.tasks.iter_mut() {
                    if let Some(later) = task.later(at) {
                        *task = later;
                    }
                }
            }
            Then::InitRequest(suite, number) => {
                let answered = match result {
                    Ok(_) => self.answer_kept_init(ctx, (suite, number)),
                    Err(_) => Err(CryptoError),
                };
                if answered.is_err() {
                    // Nobody knows of it yet.
                    self.state = State::Dead;
                }
            }
            _ if result.is_err() => {}
            Then::Init => {
                if self.start_init(ctx).is_err() {
                    self.die(ctx, "IKE_SA_INIT could not be made");
                }
            }
            Then::InitResponse(message) => {
                if let Ok(header) = Header::parse(&message) {
                    self.handle_init_response(ctx, &header, &message);
                }
            }
            Then::Additional => self.start_additional(ctx),
            Then::Request(header, opened) | Then::Response(header, opened) => {
                self.take_in(ctx, self.path, &header, (opened, true));
            }
            Then::Task => {}
        }
        // What it was for has come to something else.
        self.elsewhere.made.forget_answer();
        if self.elsewhere.is_over() {
            self.elsewhere.clear();
        }
    }
}
