// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key exchanges that take long are done elsewhere. Until then a message that needs one is as if it were on
//! its way still: it is taken in, and judged, when the key exchange is done.

use std::sync::Arc;

use ikev2d_proto::algorithm::Group;
use ikev2d_proto::credential::JobResult;
use ikev2d_proto::crypto::CryptoError;
use ikev2d_proto::errand::{Errand, Made, OwnExchange};
use ikev2d_proto::event::{ChildId, Event, JobId, Path};
use zeroize::Zeroizing;

use crate::isakmp::{Isakmp, State};
use crate::phase1::Failure;
use crate::quick::Pair;
use crate::step::Ctx;

/// A key exchange has not been done.
pub(crate) enum Undone {
    /// It takes long: this is to be done elsewhere.
    Elsewhere(Errand),
    /// It can't be.
    Failed,
}

impl From<CryptoError> for Undone {
    fn from(_: CryptoError) -> Self {
        Self::Failed
    }
}

/// What is gone on with when a key exchange is done.
pub(crate) enum Then {
    /// Our first message of aggressive mode.
    Begin,
    /// The peer's.
    First(Vec<u8>),
    /// A further message of phase 1, and where it has come from.
    Phase1(Path, Vec<u8>),
    /// A quick mode of ours: its child, its selectors, what it rekeys.
    Ask(String, Pair, Option<ChildId>),
    /// A message of a quick mode.
    Quick(u32, Vec<u8>),
}

impl Then {
    /// Octets that nothing vouches for.
    fn unproved(&self) -> usize {
        match self {
            Self::First(message) | Self::Phase1(_, message) => message.len(),
            Self::Begin | Self::Ask(..) | Self::Quick(..) => 0,
        }
    }
}

impl Isakmp {
    /// A key exchange of ours.
    pub(crate) fn own_exchange(
        &mut self,
        ctx: &Ctx<'_>,
        group: Group,
    ) -> Result<Arc<OwnExchange>, Undone> {
        let made = self.elsewhere.made.own.take();
        let made = made.filter(|made| made.group == group);
        if made.is_none() && ctx.crypto.is_slow(group) {
            return Err(Undone::Elsewhere(Errand {
                generate: Some(group),
                ..Errand::default()
            }));
        }
        Ok(OwnExchange::made_or_new(made, ctx.crypto, group)?)
    }

    /// Our public value to a peer's, and the shared secret.
    pub(crate) fn answer_exchange(
        &mut self,
        ctx: &Ctx<'_>,
        group: Group,
        peer: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Undone> {
        let made = &mut self.elsewhere.made;
        if ctx.crypto.is_slow(group) && !made.answers(group, peer) {
            return Err(Undone::Elsewhere(Errand {
                answer: Some((group, peer.to_vec())),
                ..Errand::default()
            }));
        }
        Ok(made.answer(ctx.crypto, group, peer)?)
    }

    /// Whether a message of phase 1 is here whose key exchange goes on.
    pub(crate) fn holds_phase1(&self) -> bool {
        let held = |then: &Then| matches!(then, Then::First(_) | Then::Phase1(..));
        self.elsewhere.iter().any(held)
    }

    /// The same of quick modes: their message ids.
    pub(crate) fn held_quick(&self) -> impl Iterator<Item = u32> {
        self.elsewhere.iter().filter_map(|then| match then {
            Then::Quick(id, _) => Some(*id),
            _ => None,
        })
    }

    /// Octets that are held of a peer that may be anybody.
    pub(crate) fn held(&self) -> usize {
        self.elsewhere.iter().map(Then::unproved).sum()
    }

    /// Has a key exchange done elsewhere. What there is no room to hold is as if it had been lost.
    pub(crate) fn send_out(&mut self, ctx: &mut Ctx<'_>, errand: Errand, then: Then) {
        if !self.has_room(ctx, then.unproved()) {
            return;
        }
        let of_peer = errand.answer.is_some();
        let of_stranger = of_peer && !self.is_proved();
        let (work, place) = errand.job(ctx.shared_crypto.clone(), of_stranger);
        let job = JobId(ctx.id());
        // A peer's share in what is done at once is bounded, ours not.
        let work = Box::new(match of_peer {
            true => work.for_peer(),
            false => work,
        });
        ctx.event(Event::Job { job, work });
        self.elsewhere.push(job, place, then);
    }

    /// Goes on where a key exchange was waited for. What could not be done is as if its message had been
    /// lost.
    pub(crate) fn exchange_done(&mut self, ctx: &mut Ctx<'_>, job: JobId, result: &JobResult) {
        let Some((made, then)) = self.elsewhere.take(job) else {
            return;
        };
        let unmade = made.own.is_none();
        self.elsewhere.made = made;
        match then {
            Then::Begin => {
                let begun = match unmade {
                    true => Err(Failure::from(CryptoError)),
                    false => self.begin(ctx),
                };
                if let Err(failure) = begun {
                    self.die(ctx, &failure.to_string());
                }
            }
            Then::First(message) => {
                let begun = match result {
                    Ok(_) => self.begin_held(ctx, &message),
                    Err(error) => {
                        // Strangers can have as many not done as they like: a line for each is too much.
                        tracing::debug!(peer = %self.path.remote, %error, "message 1 is let go");
                        self.state = State::Dead;
                        return;
                    }
                };
                if let Err(failure) = begun {
                    crate::endpoint::not_begun(ctx, self.path, self.cky_i, &failure);
                    // Nobody knows of it yet.
                    self.state = State::Dead;
                }
            }
            Then::Ask(name, pair, rekeys) => {
                self.ask_held(ctx, &name, pair, rekeys, unmade);
            }
            Then::Phase1(..) | Then::Quick(..) if result.is_err() => {}
            Then::Phase1(path, message) => self.handle(ctx, path, &message),
            Then::Quick(_, message) => self.handle(ctx, self.path, &message),
        }
        self.elsewhere.made = Made::default();
    }
}
