// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Trap policies: traffic that sets up its own tunnel. Their routes stand before any SA does, or no
//! packet would come here to ask for one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ikev2d_proto::config::{AddressPattern, ChildConfig, Connection, SelectorConfig};
use ikev2d_proto::ts::TrafficSelector;

use super::Daemon;
use crate::config::StartAction;
use crate::install::pairs;
use crate::net;
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
    transport: bool,
}

impl Trap {
    fn new(child: &ChildConfig, connection: &Connection) -> Option<Self> {
        let single = |patterns: &[AddressPattern]| patterns.iter().find_map(AddressPattern::single);
        let peer = single(&connection.remote_addrs)?;
        let towards = || net::source_towards(SocketAddr::new(peer, connection.remote_port));
        let own = single(&connection.local_addrs).or_else(towards);
        let known = |selectors: &[SelectorConfig], end: Option<IpAddr>| -> Vec<TrafficSelector> {
            let known = selectors.iter().filter_map(|selector| match selector {
                SelectorConfig::Fixed(ts) => Some(*ts),
                SelectorConfig::Dynamic => Some(TrafficSelector::prefix(end?, u8::MAX)),
            });
            known.collect()
        };
        let local = known(&child.local_ts, own);
        let remote = known(&child.remote_ts, Some(peer));
        // Other traffic than the two hosts' own gets a tunnel, whatever is configured.
        let host = |ts: &TrafficSelector, end| Some(ts.start) == end && ts.start == ts.end;
        let transport = child.transport
            && local.iter().all(|ts| host(ts, own))
            && remote.iter().all(|ts| host(ts, Some(peer)));
        Some(Self {
            local,
            remote,
            peer,
            transport,
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

/// What is done about a trap's routes.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Set(&'a Trap),
    Unset(&'a Trap),
    /// They stand, with what another trap has said of them.
    Renew(&'a Trap),
}

/// From some traps to others. What both lead is led all the time, or its packets would leave in the
/// clear: routes are counted, so the new ones are set before the old ones go.
fn steps<'a>(
    before: &'a BTreeMap<(String, String), Trap>,
    wanted: &'a BTreeMap<(String, String), Trap>,
) -> Vec<Step<'a>> {
    let changed = |from: &'a BTreeMap<_, Trap>, to: &'a BTreeMap<_, Trap>| {
        let all = from
            .iter()
            .filter(|(key, trap)| to.get(*key) != Some(*trap));
        all.map(|(_, trap)| trap)
    };
    let set = changed(wanted, before).map(Step::Set);
    let unset = changed(before, wanted).map(Step::Unset);
    let renew = wanted.iter().filter_map(|(key, trap)| {
        let other = before.get(key).filter(|before| *before != trap);
        other.map(|_| Step::Renew(trap))
    });
    set.chain(unset).chain(renew).collect()
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
                    && let Some(trap) = Trap::new(child, connection)
                {
                    wanted.insert((connection.name.clone(), child.name.clone()), trap);
                }
            }
        }
        let before = std::mem::replace(&mut self.traps.set, wanted.clone());
        // Before the routes are: who comes by them may wait.
        let all = wanted.values();
        self.plane.set_traps(
            all.flat_map(|trap| pairs(&trap.local, &trap.remote))
                .collect(),
        );
        for step in steps(&before, &wanted) {
            match step {
                Step::Set(trap) if trap.transport => {
                    self.routes.lead(&trap.local, &trap.remote).await;
                }
                Step::Set(trap) => self.routes.add(&trap.local, &trap.remote, trap.peer),
                Step::Unset(trap) if trap.transport => {
                    self.routes.lead_no_more(&trap.local, &trap.remote).await;
                }
                Step::Unset(trap) => self.routes.remove(&trap.remote),
                Step::Renew(trap) if trap.transport => {}
                Step::Renew(trap) => self.routes.renew(&trap.local, &trap.remote, trap.peer),
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
            let mode = match trap.transport {
                true => "TRANSPORT",
                false => "TUNNEL",
            };
            section.put("mode", mode);
            section.put_list("local-ts", trap.local.iter().map(lists::selector));
            section.put_list("remote-ts", trap.remote.iter().map(lists::selector));
            let mut event = Section::default();
            event.put_section(&format!("{ike}/{child}"), section);
            ("list-policy", event)
        });
        events.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a trap that changes, and of one that comes by another name, nothing is unset before it is set
    /// again; what stays as it is is left alone.
    #[test]
    fn traffic_of_traps_is_led_while_they_change() {
        let prefix = |text: &str, bits| TrafficSelector::prefix(text.parse().unwrap(), bits);
        let trap = |local: &str| Trap {
            local: vec![prefix(local, 24)],
            remote: vec![prefix("10.2.0.0", 16)],
            peer: "192.0.2.2".parse().unwrap(),
            transport: false,
        };
        let (a, b, c) = (trap("10.1.0.0"), trap("10.1.1.0"), trap("10.1.2.0"));
        let named = |all: &[(&str, &Trap)]| -> BTreeMap<_, _> {
            let all = all.iter().map(|(name, trap)| {
                let key = ("gw".to_owned(), (*name).to_owned());
                (key, (*trap).clone())
            });
            all.collect()
        };
        let before = named(&[("changes", &a), ("old", &b), ("same", &c)]);
        let wanted = named(&[("changes", &c), ("new", &b), ("same", &c)]);
        let expected = [
            Step::Set(&c),
            Step::Set(&b),
            Step::Unset(&a),
            Step::Unset(&b),
            Step::Renew(&c),
        ];
        assert_eq!(steps(&before, &wanted), expected);
        assert_eq!(steps(&wanted, &wanted), []);
    }
}
