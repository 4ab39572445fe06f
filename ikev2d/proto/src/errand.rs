// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key exchanges that take long ([`Crypto::is_slow`]), as either version of IKE has them done elsewhere:
//! errands, and what waits for them.

use std::fmt;
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::algorithm::Group;
use crate::credential::{Job, Work};
use crate::crypto::{Crypto, CryptoError, KeyExchange};
use crate::event::JobId;

/// What two sides have agreed on, or why they have not.
pub type Agreed = Result<Zeroizing<Vec<u8>>, CryptoError>;

/// A responder's public value, and the shared secret.
pub type Answered = Result<(Vec<u8>, Zeroizing<Vec<u8>>), CryptoError>;

/// A key exchange of ours.
pub struct OwnExchange {
    /// Its group.
    pub group: Group,
    exchange: Box<dyn KeyExchange>,
    /// What came of a peer's value elsewhere.
    agreed: Mutex<Option<(Vec<u8>, Agreed)>>,
}

impl OwnExchange {
    /// One that was made elsewhere, if that is of this group, or a new one.
    ///
    /// # Errors
    /// The library refuses the group.
    pub fn made_or_new(
        made: Option<Arc<Self>>,
        crypto: &dyn Crypto,
        group: Group,
    ) -> Result<Arc<Self>, CryptoError> {
        match made.filter(|made| made.group == group) {
            Some(made) => Ok(made),
            None => Self::new(crypto, group),
        }
    }

    fn new(crypto: &dyn Crypto, group: Group) -> Result<Arc<Self>, CryptoError> {
        Ok(Arc::new(Self {
            group,
            exchange: crypto.generate(group)?,
            agreed: Mutex::default(),
        }))
    }

    /// Our public value.
    pub fn public(&self) -> &[u8] {
        self.exchange.public()
    }

    /// The shared secret with a peer's public value.
    ///
    /// # Errors
    /// The value is not one of the group's.
    pub fn agree(&self, peer: &[u8]) -> Agreed {
        let known = self.known(peer);
        known.unwrap_or_else(|| self.exchange.agree(peer))
    }

    fn known(&self, peer: &[u8]) -> Option<Agreed> {
        let agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = agreed.as_ref().filter(|(with, _)| with == peer);
        of_peer.map(|(_, agreed)| agreed.clone())
    }

    /// Whether agreeing with a peer's public value takes long, and is not done yet.
    pub fn is_due(&self, crypto: &dyn Crypto, peer: &[u8]) -> bool {
        crypto.is_slow(self.group) && self.known(peer).is_none()
    }

    fn agree_in_advance(&self, peer: &[u8]) {
        let agreed = self.exchange.agree(peer);
        let mut place = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some((peer.to_vec(), agreed));
    }
}

/// A responder's key exchange.
struct Answer {
    group: Group,
    peer: Vec<u8>,
    made: Answered,
}

impl Answer {
    fn is_to(&self, group: Group, peer: &[u8]) -> bool {
        self.group == group && self.peer == peer
    }
}

/// What was made elsewhere and is not used yet.
#[derive(Default)]
pub struct Made {
    /// A key exchange of ours.
    pub own: Option<Arc<OwnExchange>>,
    answer: Option<Answer>,
}

impl Made {
    /// Whether this public value of a peer's is answered.
    pub fn answers(&self, group: Group, peer: &[u8]) -> bool {
        let answer = self.answer.as_ref();
        answer.is_some_and(|answer| answer.is_to(group, peer))
    }

    /// Our public value to a peer's, and the shared secret: those that were made, or new ones.
    ///
    /// # Errors
    /// The value is not one of the group's.
    pub fn answer(&mut self, crypto: &dyn Crypto, group: Group, peer: &[u8]) -> Answered {
        let made = self.answer.take();
        match made.filter(|answer| answer.is_to(group, peer)) {
            Some(answer) => answer.made,
            None => crypto.answer(group, peer),
        }
    }

    /// What it was for has come to something else.
    pub fn forget_answer(&mut self) {
        self.answer = None;
    }
}

/// Where what is made elsewhere is found.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<Made>>);

/// What is to be done elsewhere.
#[derive(Default)]
pub struct Errand {
    /// Agree with a peer's public value.
    pub agree: Option<(Arc<OwnExchange>, Vec<u8>)>,
    /// Answer a peer's public value.
    pub answer: Option<(Group, Vec<u8>)>,
    /// Make a key exchange of ours.
    pub generate: Option<Group>,
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}

impl Errand {
    fn run(&self, crypto: &dyn Crypto) -> Made {
        if let Some((own, peer)) = &self.agree {
            own.agree_in_advance(peer);
        }
        let answer = self.answer.as_ref().map(|(group, peer)| Answer {
            group: *group,
            peer: peer.clone(),
            made: crypto.answer(*group, peer),
        });
        let own = self.generate.map(|group| OwnExchange::new(crypto, group));
        let own = own.and_then(Result::ok);
        Made { own, answer }
    }

    /// The work, and where what comes of it will be. Nothing is done when nobody has that any more.
    pub fn job(self, crypto: Arc<dyn Crypto>, of_stranger: bool) -> (Job, Place) {
        let place = Place::default();
        let there = Arc::downgrade(&place.0);
        let work: Work = Arc::new(move || {
            // Nobody waits for it any more: it costs who waits behind it nothing.
            if there.strong_count() == 0 {
                return;
            }
            let done = self.run(&*crypto);
            if let Some(there) = there.upgrade() {
                *there.lock().unwrap_or_else(PoisonError::into_inner) = done;
            }
        });
        (Job::key_exchange(work, of_stranger), place)
    }
}

/// A key exchange that goes on elsewhere, and what is gone on with when it is done.
struct Wait<T> {
    job: JobId,
    place: Place,
    then: T,
}

/// What waits for key exchanges.
pub struct Waits<T> {
    all: Vec<Wait<T>>,
    /// What was made, for what goes on with it.
    pub made: Made,
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            made: Made::default(),
        }
    }
}

impl<T> Waits<T> {
    /// The jobs that are waited for.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.all.iter().map(|wait| wait.job)
    }

    /// What waits.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().map(|wait| &wait.then)
    }

    /// Whether nothing does, and nothing is left of what did.
    pub fn is_over(&self) -> bool {
        self.all.is_empty() && self.made.own.is_none()
    }

    /// Some wait no more.
    pub fn forget(&mut self, these: impl Fn(&T) -> bool) {
        self.all.retain(|wait| !these(&wait.then));
    }

    /// Some are another one's.
    pub fn hand_over(&mut self, heir: &mut Self, these: impl Fn(&T) -> bool) {
        let (theirs, ours) = take(&mut self.all)
            .into_iter()
            .partition(|wait| these(&wait.then));
        self.all = ours;
        heir.all.extend::<Vec<_>>(theirs);
    }

    /// Waits for a job.
    pub fn push(&mut self, job: JobId, place: Place, then: T) {
        self.all.push(Wait { job, place, then });
    }

    /// What has waited for a job, and what came of it.
    pub fn take(&mut self, job: JobId) -> Option<(Made, T)> {
        let at = self.all.iter().position(|wait| wait.job == job)?;
        let Wait { place, then, .. } = self.all.swap_remove(at);
        let made = take(&mut *place.0.lock().unwrap_or_else(PoisonError::into_inner));
        Some((made, then))
    }
}
