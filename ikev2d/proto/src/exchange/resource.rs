// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Several child SAs for the same traffic, each with a resource of its own, such as a core: no two of
//! them share sequence numbers or a replay window (RFC 9611).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::algorithm::Group;
use crate::config::{ChildConfig, SelectorConfig};
use crate::event::{ChildId, ChildSa};
use crate::exchange::child::{Asked, Refused};
use crate::exchange::followup::AwaitedSa;
use crate::ike_sa::{Child, ChildRequest, Ctx, IkeSa, NotStarted, Phase, Request, Task, notifies};
use crate::ts::TrafficSelector;
use crate::wire::{Chain, Payload, notify};

/// How long the initiator of the first one gets to ask for as many as it wants.
pub(crate) const PEERS_TURN: Duration = Duration::from_secs(5);

/// Children for the same traffic: their configuration, our side's traffic and the peer's.
type Of<'a> = (&'a str, &'a [TrafficSelector], &'a [TrafficSelector]);

fn of(sa: &ChildSa) -> Of<'_> {
    (&sa.child, &sa.ts_local, &sa.ts_remote)
}

/// Whether a message says that there may be several.
pub(crate) fn has_info(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|notify| notify.kind == notify::SA_RESOURCE_INFO)
}

/// Says it. The first one is for all resources, so it names none (§4).
pub(crate) fn push_info(chain: &mut Chain, resource: Option<u16>) {
    match resource {
        None => {}
        Some(0) => chain.notify(notify::SA_RESOURCE_INFO, &[]),
        Some(bound) => chain.notify(notify::SA_RESOURCE_INFO, &u32::from(bound).to_be_bytes()),
    }
}

/// What the first child of a configuration is for.
pub(crate) fn first(config: &ChildConfig) -> Option<u16> {
    (config.resources.most > 1).then_some(0)
}

/// Selectors with some of them, or parts of them, before the others.
pub(crate) fn prefer(
    first: &[TrafficSelector],
    all: &[SelectorConfig],
    dynamic: &[TrafficSelector],
) -> Vec<SelectorConfig> {
    let mut all = SelectorConfig::resolve_by(all, dynamic);
    all.retain(|selector| !first.contains(selector));
    let all = first.iter().chain(&all).copied();
    all.map(SelectorConfig::Fixed).collect()
}

impl ChildRequest {
    /// What it asks for.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            name: self.config.name.clone(),
            rekeys: self.rekeys,
            sibling: self.sibling,
        }
    }
}

impl Child {
    /// Whether it is one of several, and stays.
    fn is_sibling(&self) -> bool {
        self.sa.resource.is_some() && matches!(self.phase, Phase::Installed | Phase::Rekeying)
    }
}

impl IkeSa {
    /// The first of the children for the same traffic.
    pub(crate) fn first_of(&self, traffic: Of<'_>) -> Option<&Child> {
        let siblings = self.children.iter().filter(|child| child.is_sibling());
        let siblings = siblings.filter(|child| of(&child.sa) == traffic);
        siblings.min_by_key(|child| child.sa.resource)
    }

    /// The same by the name of their configuration.
    fn first_named(&self, name: &str) -> Option<&Child> {
        let siblings = self.children.iter().filter(|child| child.is_sibling());
        let siblings = siblings.filter(|child| *child.sa.child == *name);
        siblings.min_by_key(|child| child.sa.resource)
    }

    /// Whether another child for the same traffic comes before it.
    pub(crate) fn has_elder(&self, child: &Child) -> bool {
        let first = self.first_of(of(&child.sa));
        first.is_some_and(|first| first.sa.resource < child.sa.resource)
    }

    /// The resources that have a child for the same traffic, or will.
    fn taken(&self, traffic: Of<'_>) -> BTreeSet<u16> {
        let there = self.children.iter().filter(|child| child.is_sibling());
        let pending = self.pending.iter().map(|pending| &pending.child);
        let there = there.chain(pending).map(|child| &child.sa);
        let there = there.filter(|sa| of(sa) == traffic);
        let asked = match self.asking() {
            Some(Request::CreateChild(mine)) if mine.config.name == traffic.0 => mine.resource,
            _ => None,
        };
        let awaited = match self.awaited.as_ref().map(|awaited| &awaited.sa) {
            Some(AwaitedSa::Child { chosen, .. }) => chosen.resource_of(traffic.0),
            _ => None,
        };
        let there = there.filter_map(|sa| sa.resource);
        there.chain(asked).chain(awaited).collect()
    }

    /// The lowest of ours that has none.
    fn free_resource(&self, traffic: Of<'_>) -> u16 {
        let taken = self.taken(traffic);
        let free = (0..=u16::MAX).find(|resource| !taken.contains(resource));
        free.unwrap_or(u16::MAX)
    }

    /// What we ask for, and for which resource: one more for the same traffic is like the first in
    /// everything but its keys (§4).
    pub(crate) fn for_resource(
        &self,
        mut config: ChildConfig,
        rekeys: Option<ChildId>,
    ) -> (ChildConfig, Option<u16>) {
        if let Some(old) = rekeys {
            let Some(sa) = self.child(old).map(|old| &*old.sa) else {
                return (config, None);
            };
            // What is in use comes first: another child of the peer's might fit the rest (§2.9.2).
            let (local, remote) = self.in_use(sa);
            config.local_ts = prefer(&local, &config.local_ts, &self.own_dynamic());
            config.remote_ts = prefer(&remote, &config.remote_ts, &self.peers_dynamic());
            return (config, sa.resource);
        }
        let Some(sa) = self.first_named(&config.name).map(|first| &first.sa) else {
            let resource = first(&config);
            return (config, resource);
        };
        let fixed = |all: &[TrafficSelector]| -> Vec<SelectorConfig> {
            all.iter().copied().map(SelectorConfig::Fixed).collect()
        };
        (config.local_ts, config.remote_ts) = (fixed(&sa.ts_local), fixed(&sa.ts_remote));
        config.transport = sa.transport;
        config
            .esp_proposals
            .retain_mut(|proposal| proposal.narrow_to(&sa.suite));
        (config, Some(self.free_resource(of(sa))))
    }

    /// Which resource of ours a child is for that the peer asks for; nothing if it is one of its own.
    pub(crate) fn answer_resource(
        &self,
        parts: &[Payload<'_>],
        config: &ChildConfig,
        traffic: Of<'_>,
    ) -> Result<Option<u16>, Refused> {
        let most = config.resources.most;
        if most <= 1 || !has_info(parts) {
            return Ok(None);
        }
        let taken = self.taken(traffic);
        if taken.len() >= usize::from(most) {
            return Err(Refused::By(notify::TS_MAX_QUEUE));
        }
        Ok(Some(self.free_resource(traffic)))
    }

    /// Has as many child SAs made for a child's traffic as there are resources of ours, from `at` on.
    pub(crate) fn ask_for_siblings(&mut self, child: ChildId, at: Option<Instant>) {
        let Some(sa) = self.child(child).map(|child| &child.sa) else {
            return;
        };
        let Some(config) = self
            .child_config(&sa.child)
            .filter(|_| sa.resource == Some(0))
        else {
            return;
        };
        let missing = usize::from(config.resources.own).saturating_sub(self.taken(of(sa)).len());
        for _ in 0..missing {
            self.tasks.push_back(Task::Sibling {
                name: config.name.clone(),
                group: None,
                not_before: at,
            });
        }
    }

    /// Asks for one more, if one is missing still: the peer may have asked meanwhile.
    pub(crate) fn start_sibling(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        group: Option<Group>,
    ) -> Result<(), NotStarted> {
        let own = self.child_config(name).map(|config| config.resources.own);
        let there = self.first_named(name);
        let there = there.map(|first| self.taken(of(&first.sa)).len());
        match (own, there) {
            (Some(own), Some(there)) if there < usize::from(own) => {
                self.start_child(ctx, name, None, group, true)
            }
            _ => Ok(()),
        }
    }
}
