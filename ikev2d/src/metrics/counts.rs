// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happens to SAs, counted as it does.

use std::collections::BTreeMap;

use ikev2d_proto::event::{Event, reason};

use super::Traffic;

/// Counters of the daemon's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) ikes_up: u64,
    pub(crate) ikes_rekeyed: u64,
    /// By why they went.
    pub(crate) ikes_down: BTreeMap<&'static str, u64>,
    pub(crate) children_up: u64,
    pub(crate) children_rekeyed: u64,
    /// By why they went.
    pub(crate) children_down: BTreeMap<&'static str, u64>,
    /// Signatures made and checked, and what else is slow.
    pub(crate) jobs: u64,
    pub(crate) initiations_failed: u64,
    pub(crate) paths_changed: u64,
    pub(crate) scrapes: u64,
    /// What child SAs that are gone have carried, in and out, by connection and child.
    pub(crate) carried: BTreeMap<(String, String), [Traffic; 2]>,
}

impl Counts {
    /// Looks at an event of the core.
    pub(crate) fn count(&mut self, event: &Event) {
        match event {
            Event::IkeUp { .. } => self.ikes_up += 1,
            Event::IkeRekeyed { .. } => self.ikes_rekeyed += 1,
            Event::Job { .. } => self.jobs += 1,
            Event::IkeDown { reason, .. } => {
                *self.ikes_down.entry(class(reason)).or_default() += 1;
            }
            Event::ChildUp { .. } => self.children_up += 1,
            Event::ChildRekeyed { .. } => self.children_rekeyed += 1,
            Event::InitiateFailed { .. } => self.initiations_failed += 1,
            Event::PathChanged { .. } => self.paths_changed += 1,
            _ => {}
        }
    }

    /// A child SA is gone that nothing has taken the place of: the core tells of those, too, that were
    /// rekeyed, when their deletion is through.
    pub(crate) fn child_down(&mut self, reason: &str) {
        *self.children_down.entry(class(reason)).or_default() += 1;
    }
}

/// Reasons have words of peers and of the system in them: a label has one of these few.
fn class(why: &str) -> &'static str {
    match why {
        reason::DELETED_BY_PEER => "deleted_by_peer",
        reason::REFUSED_BY_PEER => "refused_by_peer",
        reason::EXPIRED | "lifetime is over" => "expired",
        reason::NO_ANSWER => "no_answer",
        "terminated" | "deleted" => "terminated",
        "reauthenticated" => "reauthenticated",
        "the peer did not authenticate in time" => "half_open",
        "the peer made initial contact" | "the peer has set up another one" => "replaced",
        _ => "other",
    }
}
