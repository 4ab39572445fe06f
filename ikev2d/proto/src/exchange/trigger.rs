// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that have asked for a child: its offer begins with their own selectors, so that the peer can
//! tell which part of its policy is wanted (RFC 7296 §2.9).

use std::time::{Duration, Instant};

use crate::config::ChildConfig;
use crate::exchange::resource::prefer;
use crate::ike_sa::{IkeSa, nothing};
use crate::moment::Moment;
use crate::ts::{self, Trigger};

/// How long it takes until packets may ask for another part, of which they may ask for so many at once.
/// Anybody may send them, and the peer may refuse what they ask for.
const REFILL: Duration = Duration::from_secs(2);
const AT_ONCE: u32 = 32;

#[derive(Default)]
pub(crate) struct Triggers {
    /// By the name of the child's configuration, until there is an answer.
    asked: Vec<(String, Trigger)>,
    /// When packets may ask for as many parts at once as ever.
    full_at: Option<Moment>,
}

nothing!(Triggers);

impl IkeSa {
    /// A packet asks for a child.
    pub(crate) fn triggered(&mut self, name: &str, trigger: Trigger) {
        self.forget_trigger(name);
        self.triggers.asked.push((name.to_owned(), trigger));
    }

    /// There is an answer.
    pub(crate) fn forget_trigger(&mut self, name: &str) {
        if let Some(triggers) = self.triggers.as_deref_mut() {
            triggers.asked.retain(|(of, _)| of != name);
            if triggers.asked.is_empty() && triggers.full_at.is_none() {
                self.triggers.clear();
            }
        }
    }

    /// Whether a packet may ask for a part now: it counts.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        let full_at = self.triggers.full_at.map(Instant::from);
        let full_at = full_at.map_or(now, |at| at.max(now)) + REFILL;
        let may = full_at.duration_since(now) <= REFILL * AT_ONCE;
        if may {
            self.triggers.full_at = Some(full_at.into());
        }
        may
    }

    /// Puts the packet's selectors before those of a child that it has asked for, as far as they are of
    /// these. Where there are several for the same traffic it is all of that, for each.
    pub(crate) fn put_trigger_first(&self, config: &mut ChildConfig) {
        let mut triggers = self.triggers.asked.iter();
        let Some((_, trigger)) = triggers.find(|(name, _)| *name == config.name) else {
            return;
        };
        let (mine, peers) = self.resolved(config);
        let local = ts::narrow(&mine, &[trigger.local]);
        let remote = ts::narrow(&peers, &[trigger.remote]);
        if local.is_empty() || remote.is_empty() || config.resources.most > 1 {
            return;
        }
        config.local_ts = prefer(&local, &config.local_ts, &self.own_dynamic());
        config.remote_ts = prefer(&remote, &config.remote_ts, &self.peers_dynamic());
    }
}
