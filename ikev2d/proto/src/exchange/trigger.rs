// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that have asked for a child: its offer begins with their own selectors, so that the peer can
//! tell which part of its policy is wanted (RFC 7296 §2.9).

use crate::config::ChildConfig;
use crate::exchange::resource::prefer;
use crate::ike_sa::{IkeSa, nothing};
use crate::ts::{self, Trigger};

/// By the name of the child's configuration, until there is an answer.
#[derive(Default)]
pub(crate) struct Triggers(Vec<(String, Trigger)>);

nothing!(Triggers);

impl IkeSa {
    /// A packet asks for a child.
    pub(crate) fn triggered(&mut self, name: &str, trigger: Trigger) {
        self.forget_trigger(name);
        self.triggers.0.push((name.to_owned(), trigger));
    }

    /// There is an answer.
    pub(crate) fn forget_trigger(&mut self, name: &str) {
        if let Some(triggers) = self.triggers.as_deref_mut() {
            triggers.0.retain(|(of, _)| of != name);
            if triggers.0.is_empty() {
                self.triggers.clear();
            }
        }
    }

    /// Puts the packet's selectors before those of a child that it has asked for, as far as they are of
    /// these. Where there are several for the same traffic it is all of that, for each.
    pub(crate) fn put_trigger_first(&self, config: &mut ChildConfig) {
        let mut triggers = self.triggers.0.iter();
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
