// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a peer has narrowed a child by, and allows in further ones (RFC 7296 §2.9: ADDITIONAL_TS_POSSIBLE).

use std::time::Instant;

use crate::config::{ChildConfig, SelectorConfig};
use crate::event::{ChildId, ChildSa};
use crate::exchange::create_child::Wants;
use crate::ike_sa::{Child, Ctx, IkeSa, NotStarted, Part, Phase, Request, Task};
use crate::ts::{self, TrafficSelector, Trigger};

/// Child SAs of one configuration on an IKE SA, from which no further ones are asked for.
const MOST: usize = 8;
/// Parts that an IKE SA asks for in all because its peer allows more: it may delete what it allows, and
/// allow more.
const MOST_ASKED: u8 = 32;
/// Selectors of one side that a rest is reckoned with, at most: it takes the product's time.
const WIDEST: usize = 32;

/// Our side's selectors, and the peer's: traffic from any of the one to any of the other.
type Traffic = (Vec<TrafficSelector>, Vec<TrafficSelector>);

/// What of this traffic a child does not carry.
fn beside((local, remote): Traffic, sa: &ChildSa) -> [Traffic; 2] {
    let within = ts::narrow(&sa.ts_local, &local);
    if within.is_empty() || ts::narrow(&sa.ts_remote, &remote).is_empty() {
        return [(local, remote), Traffic::default()];
    }
    let behind = (within, ts::without(&remote, &sa.ts_remote));
    [(ts::without(&local, &sa.ts_local), remote), behind]
}

impl IkeSa {
    /// What a child's policy is here.
    pub(crate) fn resolved(&self, config: &ChildConfig) -> Traffic {
        (
            SelectorConfig::resolve_by(&config.local_ts, &self.own_dynamic()),
            SelectorConfig::resolve_by(&config.remote_ts, &self.peers_dynamic()),
        )
    }

    /// Leaves a child's policy what is of this traffic; whether there is any.
    pub(crate) fn narrow_to(
        &self,
        config: &mut ChildConfig,
        (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    ) -> bool {
        let policy = self.resolved(config);
        let (local, remote) = (ts::narrow(&policy.0, local), ts::narrow(&policy.1, remote));
        let any = !local.is_empty() && !remote.is_empty();
        if any {
            let fixed = |all: Vec<_>| all.into_iter().map(SelectorConfig::Fixed).collect();
            (config.local_ts, config.remote_ts) = (fixed(local), fixed(remote));
        }
        any
    }

    /// Whether a child is for what the peer has narrowed another one by.
    pub(crate) fn is_part(&self, child: ChildId) -> bool {
        self.child(child).is_some_and(|child| child.part)
    }

    /// Whether the traffic of a child's configuration is that of several child SAs: what replaces it is
    /// for its own.
    pub(crate) fn is_one_of_parts(&self, child: &Child) -> bool {
        let others = self.children.iter().map(|other| &other.sa);
        let mut others = others.filter(|other| other.child == child.sa.child);
        child.part
            || others.any(|other| {
                (&other.ts_local, &other.ts_remote) != (&child.sa.ts_local, &child.sa.ts_remote)
            })
    }

    /// What brings a part back that is lost.
    pub(crate) fn task_for_part(
        &self,
        child: ChildId,
        not_before: Option<Instant>,
    ) -> Option<Task> {
        let child = self.child(child)?;
        if child.sa.resource.is_some() || !self.is_one_of_parts(child) {
            return None;
        }
        Some(Task::Part(Box::new(Part {
            child: child.sa.child.to_string(),
            local: child.sa.ts_local.to_vec(),
            remote: child.sa.ts_remote.to_vec(),
            group: None,
            not_before,
        })))
    }

    /// The peer has narrowed a child, and says that it allows more: it is asked for what no child
    /// carries of this traffic, within bounds whatever it says.
    pub(crate) fn ask_for_rest(&mut self, name: &str, wanted: Traffic) {
        for part in self.uncovered(name, wanted) {
            if self.parts_asked >= MOST_ASKED || !self.has_room(name) {
                return;
            }
            self.parts_asked += 1;
            self.ask_for_part(name, part);
        }
    }

    /// A packet asks for a child that is there, and carries others: it is asked for what none carries of the
    /// rest that the packet is of.
    pub(crate) fn ask_for_packet(&mut self, now: Instant, name: &str, trigger: Trigger) {
        let Some(config) = self.child_config(name) else {
            return;
        };
        let asked = self.tasks.iter().any(|task| {
            matches!(task, Task::Part(part)
                if part.child == name && trigger.is_within(&part.local, &part.remote))
        });
        if asked || matches!(self.asking(), Some(Request::CreateChild(_))) {
            return;
        }
        if let Some(part) = self.part_of(&config, trigger)
            && self.may_ask(now)
        {
            self.triggered(name, trigger);
            self.ask_for_part(name, part);
        }
    }

    /// What is to be asked for because of a packet: the rest that it is of; where selectors can't say that,
    /// all, of which the peer gives what carries the packet.
    fn part_of(&self, config: &ChildConfig, trigger: Trigger) -> Option<Traffic> {
        let (name, all) = (&config.name, self.resolved(config));
        let of_packet = |(local, remote): &Traffic| trigger.is_within(local, remote);
        let carries = |child: &Child| trigger.is_within(&child.sa.ts_local, &child.sa.ts_remote);
        if config.resources.most > 1
            || !self.has_room(name)
            || !of_packet(&all)
            || self.live(name).any(carries)
        {
            return None;
        }
        let mut rest = self.uncovered(name, all.clone()).into_iter();
        let all = || (!self.has_one_twice(name)).then_some(all);
        rest.find(of_packet).or_else(all)
    }

    /// Whether the peer has given as a part what there was already: it does not heed packets' selectors.
    fn has_one_twice(&self, name: &str) -> bool {
        let mut parts = self.live(name).filter(|child| child.part);
        parts.any(|part| {
            let mut others = self.live(name).filter(|other| other.sa.id != part.sa.id);
            others.any(|other| {
                (&other.sa.ts_local, &other.sa.ts_remote) == (&part.sa.ts_local, &part.sa.ts_remote)
            })
        })
    }

    /// The children of a configuration that stay.
    fn live(&self, name: &str) -> impl Iterator<Item = &Child> {
        let named = self.children.iter();
        let named = named.filter(move |child| *child.sa.child == *name);
        named.filter(|child| matches!(child.phase, Phase::Installed | Phase::Rekeying))
    }

    /// Whether there is one.
    pub(crate) fn has_child_of(&self, name: &str) -> bool {
        self.live(name).next().is_some()
    }

    /// What no child of a configuration carries of this traffic.
    fn uncovered(&self, name: &str, wanted: Traffic) -> Vec<Traffic> {
        // Several for the same traffic are told apart by their configuration's name.
        let alone = |config: ChildConfig| config.resources.most <= 1;
        if !self.child_config(name).is_some_and(alone) {
            return Vec::new();
        }
        let widest = |traffic: Traffic| {
            let (local, remote) = (&traffic.0, &traffic.1);
            (local.len().max(remote.len()) <= WIDEST).then_some(traffic)
        };
        let wanted = (ts::merged(&wanted.0), ts::merged(&wanted.1));
        let mut rest: Vec<Traffic> = widest(wanted).into_iter().collect();
        for child in self.live(name) {
            if child.sa.ts_local.len().max(child.sa.ts_remote.len()) > WIDEST {
                return Vec::new();
            }
            let parts = rest.into_iter().flat_map(|part| beside(part, &child.sa));
            let parts = parts.filter(|(local, remote)| !local.is_empty() && !remote.is_empty());
            rest = parts.filter_map(widest).take(MOST).collect();
        }
        rest
    }

    /// Whether a configuration may have another child, beside those that are there and asked for.
    fn has_room(&self, name: &str) -> bool {
        let asked = |task: &&Task| matches!(task, Task::Part(part) if part.child == name);
        let asked = self.tasks.iter().filter(asked).count();
        self.live(name).count() + asked < MOST
    }

    fn ask_for_part(&mut self, name: &str, (local, remote): Traffic) {
        self.tasks.push_back(Task::Part(Box::new(Part {
            child: name.to_owned(),
            local,
            remote,
            group: None,
            not_before: None,
        })));
    }

    pub(crate) fn start_part(&mut self, ctx: &mut Ctx<'_>, part: Part) -> Result<(), NotStarted> {
        // The policy may have changed.
        let config = self.child_config(&part.child);
        let config = config.and_then(|mut config| {
            let any = self.narrow_to(&mut config, (&part.local, &part.remote));
            any.then_some(config)
        });
        let Some(mut config) = config else {
            self.forget_trigger(&part.child);
            return Ok(());
        };
        self.put_trigger_first(&mut config);
        let wants = Wants {
            sibling: true,
            part: true,
            ..Wants::default()
        };
        self.ask_for_child(ctx, config, part.group, wants)
    }
}
