// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Traffic of configured tunnels: its routes stand before any SA does and while it is away, so that none of
//! it is let out in the clear (RFC 4301 §4.4.1). With `start_action = "start"` it is dropped meanwhile; of
//! trap policies it sets up its own tunnel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ikev2d_proto::config::{AddressPattern, ChildConfig, Connection, SelectorConfig};
use ikev2d_proto::event::{ChildSa, IkeId};
use ikev2d_proto::ts::{TrafficSelector, Trigger};
use ipnet::IpNet;

use super::Daemon;
use crate::config::StartAction;
use crate::dataplane::{self, InterfaceId};
use crate::install::pairs;
use crate::net;
use crate::routes::{Held, Traffic, networks};
use crate::vici::lists;
use crate::vici::message::Section;

/// After a packet has asked for a tunnel, others are not heard for so long: the answer takes a while.
const PAUSE: Duration = Duration::from_secs(2);

/// Between looks for what is not known yet.
const LOOK: Duration = Duration::from_secs(1);

/// A connection and its child.
type Key = (String, String);

/// Traps by connection and child.
#[derive(Default)]
pub(super) struct Traps {
    /// Those whose routes are set.
    set: BTreeMap<Key, Trap>,
    held: BTreeMap<Key, Held>,
    /// When each was last asked for.
    asked: BTreeMap<Key, Instant>,
    /// When to look again for what some need to know of this host.
    look: Option<Instant>,
}

impl Traps {
    /// Whether some lack what may be known by now.
    pub(super) fn due(&self, now: Instant) -> bool {
        self.look.is_some_and(|at| at <= now)
    }

    /// Those of a connection.
    fn of(&self, connection: &str) -> impl Iterator<Item = &Trap> {
        let from = self.set.range((connection.to_owned(), String::new())..);
        let of = from.take_while(move |((name, _), _)| name == connection);
        of.map(|(_, trap)| trap)
    }

    /// The one whose child a packet asks for. Several may have its addresses, each for other protocols or
    /// ports; where none has those, such as a fragment's, it is the first of them.
    fn asked_by(&self, interface: InterfaceId, packet: Trigger) -> Option<&Key> {
        let (source, destination) = (packet.local.start, packet.remote.start);
        let here = self.set.iter();
        let here = here.filter(|(_, trap)| trap.asks && trap.interface == interface);
        let of_packet = |(_, trap): &(&Key, &Trap)| packet.is_within(&trap.local, &trap.remote);
        let exact = here.clone().find(of_packet);
        let mut of_addresses = here.filter(|(_, trap)| trap.takes(source, destination));
        exact.or_else(|| of_addresses.next()).map(|(key, _)| key)
    }

    /// Where a connection's peers may be.
    pub(super) fn peers(&self, connection: &str) -> impl Iterator<Item = IpAddr> {
        self.of(connection)
            .flat_map(|trap| trap.peers.iter().copied())
    }

    /// What was asked for is there.
    pub(super) fn answered(&mut self, key: &(String, String)) {
        self.asked.remove(key);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trap {
    local: Vec<TrafficSelector>,
    remote: Vec<TrafficSelector>,
    /// Where the peer may be, and where it has come to in its own net; of a range within that, one address
    /// of each of its parts.
    peers: Vec<IpAddr>,
    /// Whether it is there.
    inside: bool,
    transport: bool,
    /// Where its packets are routed to; only those of the daemon's own interface have routes of the daemon's.
    interface: InterfaceId,
    /// Its packets ask for an SA.
    asks: bool,
    /// Its addresses of our side come from the peer, with the SA.
    given: bool,
    /// This host's own address towards the peer is wanted, and there is none.
    blind: bool,
}

impl Trap {
    fn new(
        child: &ChildConfig,
        connection: &Connection,
        asks: bool,
        present: &BTreeSet<IpAddr>,
    ) -> Option<Self> {
        let singles = |patterns: &[AddressPattern]| -> Vec<IpAddr> {
            patterns.iter().filter_map(AddressPattern::single).collect()
        };
        let mut peers = singles(&connection.remote_addrs);
        let peer = *peers.first()?;
        let is_dynamic = |selector: &SelectorConfig| matches!(selector, SelectorConfig::Dynamic);
        let dynamic = child.local_ts.iter().any(is_dynamic);
        let towards = || net::source_towards(SocketAddr::new(peer, connection.remote_port));
        let own = singles(&connection.local_addrs).first().copied();
        let own = own.or_else(|| (dynamic || child.transport).then(towards).flatten());
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
        let patterns = connection.remote_addrs.iter();
        let ranges = patterns.filter(|pattern| pattern.single().is_none());
        for net in remote.iter().flat_map(networks) {
            peers.extend(ranges.clone().filter_map(|range| common(net, range)));
        }
        let told = peers.len();
        for address in present {
            if loops(&remote, &peers, *address) {
                peers.push(*address);
            }
        }
        let inside = peers.len() > told;
        Some(Self {
            local,
            remote,
            peers,
            inside,
            transport,
            interface: InterfaceId::MAIN,
            asks,
            given: dynamic && !connection.vips.is_empty(),
            blind: dynamic && own.is_none(),
        })
    }

    fn traffic(&self) -> Traffic<'_> {
        Traffic {
            local: self.sources(),
            remote: &self.remote,
            peers: &self.peers,
            transport: self.transport,
            standing: true,
        }
    }

    /// Our side's traffic, as far as it is known.
    fn sources(&self) -> &[TrafficSelector] {
        if self.given { &[] } else { &self.local }
    }

    fn takes(&self, source: IpAddr, destination: IpAddr) -> bool {
        contains(&self.local, source) && contains(&self.remote, destination)
    }

    /// Whether its routes are to change for a peer that is there by now.
    fn minds(&self, peer: IpAddr) -> bool {
        loops(&self.remote, &self.peers, peer) || (self.inside && !contains(&self.remote, peer))
    }
}

/// Whether routes to a peer's nets would take what we say to it where it is, if it is known to be here and
/// there alone.
fn loops(remote: &[TrafficSelector], known: &[IpAddr], peer: IpAddr) -> bool {
    let mut nets = remote.iter().flat_map(networks);
    nets.any(|net| net.contains(&peer) && !known.iter().any(|known| net.contains(known)))
}

fn contains(selectors: &[TrafficSelector], address: IpAddr) -> bool {
    selectors
        .iter()
        .any(|ts| ts.start.is_ipv4() == address.is_ipv4() && (ts.start..=ts.end).contains(&address))
}

/// An address that is both in a net and in a pattern's range.
fn common(net: IpNet, pattern: &AddressPattern) -> Option<IpAddr> {
    match pattern {
        AddressPattern::Prefix(base, _) if net.contains(base) => Some(*base),
        pattern => Some(net.addr()).filter(|address| pattern.matches(*address)),
    }
}

/// What is done about a trap's routes.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Set(&'a Key, &'a Trap),
    Unset(&'a Key),
    /// They stand, with what another trap has said of them.
    Renew(&'a Key, &'a Trap),
}

/// From some traps to others. What both lead is led all the time, or its packets would leave in the
/// clear: routes are counted, so the new ones are set before the old ones go.
fn steps<'a>(before: &'a BTreeMap<Key, Trap>, wanted: &'a BTreeMap<Key, Trap>) -> Vec<Step<'a>> {
    let changed = |from: &'a BTreeMap<Key, Trap>, to: &'a BTreeMap<Key, Trap>| {
        from.iter()
            .filter(|(key, trap)| to.get(*key) != Some(*trap))
    };
    let set = changed(wanted, before).map(|(key, trap)| Step::Set(key, trap));
    let unset = changed(before, wanted).map(|(key, _)| Step::Unset(key));
    let renew = wanted.iter().filter_map(|(key, trap)| {
        let other = before.get(key).filter(|before| *before != trap);
        other.map(|_| Step::Renew(key, trap))
    });
    set.chain(unset).chain(renew).collect()
}

impl Daemon {
    /// Sets the routes of configured tunnels that are new, and removes those of what is no more.
    pub(super) fn update_traps(&mut self) {
        let mut wanted = BTreeMap::new();
        let mut present: HashMap<&str, BTreeSet<IpAddr>> = HashMap::new();
        for sa in self.endpoint.ike_sas() {
            let there = present.entry(sa.connection).or_default();
            there.insert(sa.path.remote.ip());
        }
        let nowhere = BTreeSet::new();
        for connection in self.endpoint.connections() {
            let present = present.get(&*connection.name).unwrap_or(&nowhere);
            for child in &connection.children {
                let section = self
                    .loaded
                    .child(&self.config, &connection.name, &child.name);
                let action = section.map_or(StartAction::None, |section| section.start_action);
                let interface = section.map_or(Ok(InterfaceId::MAIN), |s| self.interfaces.named(s));
                // One that can't be made was told of, and leads nothing.
                let Ok(interface) = interface else { continue };
                let wants = match action {
                    StartAction::None => false,
                    StartAction::Trap => true,
                    StartAction::Start => interface == InterfaceId::MAIN,
                };
                if wants
                    && let Some(mut trap) =
                        Trap::new(child, connection, action == StartAction::Trap, present)
                {
                    trap.interface = interface;
                    wanted.insert((connection.name.clone(), child.name.clone()), trap);
                }
            }
        }
        let blind = wanted.values().any(|trap| trap.blind);
        self.traps.look = blind.then(|| Instant::now() + LOOK);
        let before = std::mem::replace(&mut self.traps.set, wanted.clone());
        // Before the routes are: who comes by them may wait.
        let all = wanted.values().filter(|trap| trap.asks);
        self.plane.set_traps(
            all.flat_map(|trap| {
                let pairs = pairs(&trap.local, &trap.remote).to_vec().into_iter();
                pairs.map(|(local, remote)| dataplane::Trap {
                    interface: trap.interface,
                    local,
                    remote,
                })
            })
            .collect(),
        );
        let mut held = BTreeMap::new();
        for step in steps(&before, &wanted) {
            match step {
                Step::Set(_, trap) if trap.interface != InterfaceId::MAIN => {}
                Step::Set(key, trap) => {
                    held.insert(key.clone(), self.routes.hold(&trap.traffic()));
                }
                Step::Unset(key) => {
                    if let Some(held) = self.traps.held.remove(key) {
                        self.routes.release(held);
                    }
                }
                Step::Renew(key, trap) => {
                    if let Some(held) = held.get(key) {
                        self.routes.renew(held, trap.sources());
                    }
                }
            }
        }
        self.traps.held.append(&mut held);
    }

    /// A peer is there by now: if that is in a net that it lies behind, routes change before anything is
    /// said to it.
    pub(super) fn peer_is_at(&mut self, ike: IkeId, address: IpAddr) {
        let Some(sa) = self.endpoint.ike_sa(ike) else {
            return;
        };
        if self.traps.of(sa.connection).any(|trap| trap.minds(address)) {
            self.update_traps();
        }
    }

    /// An IKE SA is gone, and with it where its peer was.
    pub(super) fn peer_is_gone(&mut self, connection: &str) {
        self.traps_due |= self.traps.of(connection).any(|trap| trap.inside);
    }

    /// A packet that no SA takes: sets up the child that would.
    pub(super) fn acquire(
        &mut self,
        interface: InterfaceId,
        (source, destination): (IpAddr, IpAddr),
        trigger: Trigger,
    ) {
        let Some(key) = self.traps.asked_by(interface, trigger).cloned() else {
            return;
        };
        let now = Instant::now();
        let (connection, child) = key.clone();
        let lately = self.traps.asked.get(&key);
        if lately.is_some_and(|at| now.duration_since(*at) < PAUSE) {
            return;
        }
        // One that the peer has narrowed may not carry it.
        let carries = |sa: &ChildSa| trigger.is_within(&sa.ts_local, &sa.ts_remote);
        let mut narrowed = false;
        for sa in self.endpoint.ike_sas_of(&connection) {
            let mut of_child = sa.children.iter().filter(|c| *c.sa.child == *child);
            if sa.state == "CONNECTING"
                || of_child.clone().any(|c| sa.version == 1 || carries(c.sa))
            {
                return;
            }
            narrowed |= of_child.next().is_some();
        }
        self.traps.asked.insert(key, now);
        if narrowed {
            tracing::debug!(connection, child, %source, %destination, "traffic asks for more of a tunnel");
        } else {
            tracing::info!(connection, child, %source, %destination, "traffic asks for a tunnel");
        }
        if let Err(error) = self.initiate_for(&connection, Some(&child), Some(trigger)) {
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
            .filter(|(_, trap)| trap.asks)
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

    /// RFC 4301 §4.4.1: what we say to a peer is led past routes of its own net wherever in there it may be,
    /// or has come to; where it is elsewhere does not matter.
    #[test]
    fn a_peer_may_be_in_the_net_that_it_lies_behind() {
        let net = |text: &str, bits| TrafficSelector::prefix(text.parse().unwrap(), bits);
        let child = ChildConfig {
            local_ts: vec![SelectorConfig::Fixed(net("10.1.0.0", 16))],
            remote_ts: vec![SelectorConfig::Fixed(net("10.2.0.0", 16))],
            name: String::new(),
            esp_proposals: Vec::new(),
            transport: false,
            rekey_time: None,
            rand_time: None,
            resources: Default::default(),
            ikev1: Default::default(),
        };
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let of = |remote_addrs: &[(&str, u8)], present: &[&str]| {
            let patterns = remote_addrs.iter();
            let connection = Connection {
                remote_addrs: patterns
                    .map(|(base, bits)| AddressPattern::Prefix(address(base), *bits))
                    .collect(),
                local_addrs: vec![AddressPattern::Prefix(address("192.0.2.1"), 32)],
                ..Connection::default()
            };
            let present = present.iter().map(|text| address(text)).collect();
            Trap::new(&child, &connection, false, &present).unwrap()
        };
        let gateway = ("198.51.100.1", 32);
        let peers = |trap: &Trap| {
            trap.peers
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let far = of(&[gateway], &["198.51.100.1", "203.0.113.9"]);
        assert_eq!(peers(&far), ["198.51.100.1"]);
        assert!(!far.inside && far.minds(address("10.2.0.7")) && !far.minds(address("10.3.0.1")));
        let moved = of(&[gateway], &["10.2.0.7"]);
        assert_eq!(peers(&moved), ["198.51.100.1", "10.2.0.7"]);
        assert!(
            moved.inside && !moved.minds(address("10.2.0.9")) && moved.minds(address("10.3.0.1"))
        );
        for (range, common) in [
            (("10.2.3.0", 24), Some("10.2.3.0")),
            (("10.0.0.0", 8), Some("10.2.0.0")),
            (("10.2.0.0", 16), Some("10.2.0.0")),
            (("10.3.0.0", 16), None),
        ] {
            let trap = of(&[gateway, range], &[]);
            let expected = [Some("198.51.100.1"), common];
            assert!(
                peers(&trap).iter().eq(expected.into_iter().flatten()),
                "{range:?}"
            );
            assert_eq!(trap.minds(address("10.2.3.9")), common.is_none());
        }
    }

    /// B43: of traps for the same addresses a packet asks for its own protocol's and ports'.
    #[test]
    fn a_packet_asks_for_the_child_of_its_own_protocol() {
        let net = |text: &str, protocol, (start_port, end_port)| TrafficSelector {
            protocol,
            start_port,
            end_port,
            ..TrafficSelector::prefix(text.parse().unwrap(), 16)
        };
        let any = (0, u16::MAX);
        let trap = |protocol, ports| Trap {
            local: vec![net("10.1.0.0", protocol, any)],
            remote: vec![net("10.2.0.0", protocol, ports)],
            peers: vec!["192.0.2.2".parse().unwrap()],
            inside: false,
            transport: false,
            interface: InterfaceId::MAIN,
            asks: true,
            given: false,
            blind: false,
        };
        let all = [
            ("dns", trap(17, (53, 53))),
            ("tcp", trap(6, any)),
            ("udp", trap(17, any)),
        ];
        let named = all.map(|(name, trap)| (("gw".to_owned(), name.to_owned()), trap));
        let traps = Traps {
            set: named.into(),
            ..Traps::default()
        };
        let ends = ("10.1.0.7".parse().unwrap(), "10.2.0.7".parse().unwrap());
        for (protocol, ports, expected) in [
            (17, Some((40000, 53)), "dns"),
            (17, Some((40000, 443)), "udp"),
            (17, None, "udp"),
            (6, Some((40000, 443)), "tcp"),
            (132, None, "dns"),
        ] {
            let packet = Trigger::new(ends, protocol, ports);
            let asked = traps.asked_by(InterfaceId::MAIN, packet);
            assert_eq!(asked.map(|(_, child)| &**child), Some(expected));
        }
        let elsewhere = Trigger::new((ends.1, ends.0), 6, None);
        assert_eq!(traps.asked_by(InterfaceId::MAIN, elsewhere), None);
    }

    /// Of a trap that changes, and of one that comes by another name, nothing is unset before it is set
    /// again; what stays as it is is left alone.
    #[test]
    fn traffic_of_traps_is_led_while_they_change() {
        let prefix = |text: &str, bits| TrafficSelector::prefix(text.parse().unwrap(), bits);
        let trap = |local: &str| Trap {
            local: vec![prefix(local, 24)],
            remote: vec![prefix("10.2.0.0", 16)],
            peers: vec!["192.0.2.2".parse().unwrap()],
            inside: false,
            transport: false,
            interface: InterfaceId::MAIN,
            asks: false,
            given: false,
            blind: false,
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
        let [changes, new, old] =
            ["changes", "new", "old"].map(|name| ("gw".to_owned(), name.to_owned()));
        let expected = [
            Step::Set(&changes, &c),
            Step::Set(&new, &b),
            Step::Unset(&changes),
            Step::Unset(&old),
            Step::Renew(&changes, &c),
        ];
        assert_eq!(steps(&before, &wanted), expected);
        assert_eq!(steps(&wanted, &wanted), []);
    }
}
