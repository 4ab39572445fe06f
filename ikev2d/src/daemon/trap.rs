// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Trap policies: traffic that sets up its own tunnel. Their routes stand before any SA does, or no
//! packet would come here to ask for one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::config::{AddressPattern, ChildConfig, SelectorConfig};
use ikev2d_proto::ts::TrafficSelector;

use super::Daemon;
use crate::config::StartAction;
use crate::vici::lists;
use crate::vici::message::Section;

/// After a packet has asked for a tunnel, others are not heard for so long: the answer takes a while.
const PAUSE: Duration = Duration::from_secs(2);

/// Traps by connection and child.
#[derive(Default)]
pub(super) struct Traps {
    /// Those whose routes are set.
    set: BTreeMap<(String, String), Trap>,
    /// When each was last asked for.
    asked: BTreeMap<(String, String), Instant>,
}

impl Traps {
    /// What was asked for is there.
    pub(super) fn answered(&mut self, key: &(String, String)) {
        self.asked.remove(key);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trap {
    local: Vec<TrafficSelector>,
    remote: Vec<TrafficSelector>,
    peer: IpAddr,
}

impl Trap {
    fn new(child: &ChildConfig, peers: &[AddressPattern]) -> Option<Self> {
        let fixed = |selectors: &[SelectorConfig]| -> Vec<TrafficSelector> {
            let fixed = selectors.iter().filter_map(|selector| match selector {
                SelectorConfig::Fixed(ts) => Some(*ts),
                SelectorConfig::Dynamic => None,
            });
            fixed.collect()
        };
        Some(Self {
            local: fixed(&child.local_ts),
            remote: fixed(&child.remote_ts),
            peer: peers.iter().find_map(AddressPattern::single)?,
        })
    }

    fn takes(&self, source: IpAddr, destination: IpAddr) -> bool {
        let within = |selectors: &[TrafficSelector], address: IpAddr| {
            selectors.iter().any(|ts| {
                ts.start.is_ipv4() == address.is_ipv4() && (ts.start..=ts.end).contains(&address)
            })
        };
        within(&self.local, source) && within(&self.remote, destination)
    }
}

impl Daemon {
    /// Sets the routes of traps that are new, and removes those of traps that are no more.
    pub(super) async fn update_traps(&mut self) {
        let mut wanted = BTreeMap::new();
        for connection in self.endpoint.connections() {
            for child in &connection.children {
                let section = self
                    .loaded
                    .child(&self.config, &connection.name, &child.name);
                if section.is_some_and(|section| section.start_action == StartAction::Trap)
                    && let Some(trap) = Trap::new(child, &connection.remote_addrs)
                {
                    wanted.insert((connection.name.clone(), child.name.clone()), trap);
                }
            }
        }
        let before = std::mem::replace(&mut self.traps.set, wanted.clone());
        for (key, trap) in &before {
            if wanted.get(key) != Some(trap) {
                self.routes.remove(&trap.remote).await;
            }
        }
        for (key, trap) in &wanted {
            if before.get(key) != Some(trap) {
                self.routes.add(&trap.local, &trap.remote, trap.peer).await;
            }
        }
    }

    /// A packet that no SA takes: sets up the child that would.
    pub(super) fn acquire(&mut self, source: IpAddr, destination: IpAddr) {
        let trap = self
            .traps
            .set
            .iter()
            .find(|(_, trap)| trap.takes(source, destination));
        let Some((connection, child)) = trap.map(|(key, _)| key.clone()) else {
            return;
        };
        let now = Instant::now();
        let key = (connection.clone(), child.clone());
        let lately = self.traps.asked.get(&key);
        if lately.is_some_and(|at| now.duration_since(*at) < PAUSE) {
            return;
        }
        let present = self
            .endpoint
            .ike_sas_of(&connection)
            .any(|sa| sa.state == "CONNECTING" || sa.children.iter().any(|c| c.sa.child == child));
        if present {
            return;
        }
        self.traps.asked.insert(key, now);
        tracing::info!(connection, child, %source, %destination, "traffic asks for a tunnel");
        if let Err(error) = self.initiate(&connection, Some(&child)) {
            tracing::warn!(connection, child, %error, "could not be started");
        }
    }

    /// The answer to `list-policies`.
    pub(super) fn list_traps(&self, message: &Section) -> Vec<(&'static str, Section)> {
        if message.text("trap") != Some("yes") {
            return Vec::new();
        }
        let wanted = |key: &str, name: &str| message.text(key).is_none_or(|text| text == name);
        let traps = self
            .traps
            .set
            .iter()
            .filter(|((ike, child), _)| wanted("ike", ike) && wanted("child", child));
        let events = traps.map(|((ike, child), trap)| {
            let mut section = Section::default();
            section.put("child", child);
            section.put("ike", ike);
            section.put("mode", "TUNNEL");
            section.put_list("local-ts", trap.local.iter().map(lists::selector));
            section.put_list("remote-ts", trap.remote.iter().map(lists::selector));
            let mut event = Section::default();
            event.put_section(&format!("{ike}/{child}"), section);
            ("list-policy", event)
        });
        events.collect()
    }
}
