// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Traffic to the peer's own address, as transport mode has it, and a tunnel of everything: our own ESP
//! and IKE go there too. So its routes are in a table of their own, that rules lead to by addresses,
//! protocol and ports; what bears our [mark](crate::net::MARK) jumps over them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ikev2d_proto::ts::TrafficSelector;
use ipnet::IpNet;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};

use super::{Place, Routes, Traffic, is_v4, kernel, networks};
use crate::net::MARK;

/// The table of routes; it is no number that others have, being above 255.
const TABLE: u32 = 4301;
/// Where the rules are: the jump, those that lead to the table, and where the jump ends. They come
/// before those of the main table, 32766.
const JUMP: u32 = 4300;
const LEAD: u32 = 4301;
const BEHIND: u32 = 4302;

/// Whose packets are led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whence {
    Any,
    Net(IpNet),
    /// This host's own that have no source yet, and get the route's. IPv6 has no rule for these: all
    /// that this host itself sends.
    Unbound,
}

/// Traffic that a rule leads to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lead {
    from: Whence,
    to: IpNet,
    protocol: u8,
    /// First and last, ours and the peer's.
    ports: [(u16, u16); 2],
}

/// Every port.
const ALL: (u16, u16) = (0, u16::MAX);

impl Lead {
    /// Selectors of transport mode have one address each.
    fn new(local: &TrafficSelector, remote: &TrafficSelector) -> Self {
        let protocol = local.protocol.max(remote.protocol);
        // ICMP's types and codes are in the place of ports (RFC 7296 §3.13.1), and no rule knows them.
        let with_ports = matches!(protocol, 6 | 17 | 132 | 136);
        let ports = [local, remote].map(|ts| match (ts.start_port, ts.end_port) {
            // A rule has no port 0, which no packet has either.
            (start, end) if with_ports && (start, end) != ALL && start <= end => {
                (start.max(1), end.max(1))
            }
            _ => ALL,
        });
        Self {
            from: Whence::Any,
            to: IpNet::from(remote.start),
            protocol,
            ports,
        }
    }

    /// What a rule of the kernel's leads, if it leads to our table.
    pub(super) fn of(rule: &RuleMessage) -> Option<Self> {
        let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
        if !has(RuleAttribute::Table(TABLE)) || !has(RuleAttribute::Priority(LEAD)) {
            return None;
        }
        let everything: IpAddr = match rule.header.family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut lead = Self {
            from: Whence::Any,
            to: IpNet::new(everything, 0).ok()?,
            protocol: 0,
            ports: [ALL; 2],
        };
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Destination(to) => {
                    lead.to = IpNet::new(*to, rule.header.dst_len).ok()?
                }
                RuleAttribute::Source(from) if from.is_unspecified() => lead.from = Whence::Unbound,
                RuleAttribute::Source(from) => {
                    lead.from = Whence::Net(IpNet::new(*from, rule.header.src_len).ok()?);
                }
                RuleAttribute::Iifname(_) => lead.from = Whence::Unbound,
                RuleAttribute::IpProtocol(protocol) => {
                    lead.protocol = u8::try_from(i32::from(*protocol)).ok()?;
                }
                RuleAttribute::SourcePortRange(ports) => lead.ports[0] = (ports.start, ports.end),
                RuleAttribute::DestinationPortRange(ports) => {
                    lead.ports[1] = (ports.start, ports.end)
                }
                _ => {}
            }
        }
        Some(lead)
    }

    /// Every pair of selectors; those of two protocols have no traffic.
    pub(super) fn between_hosts(
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) -> impl Iterator<Item = Self> + Clone {
        let pairs = local
            .iter()
            .flat_map(|ours| remote.iter().map(move |theirs| (ours, theirs)));
        let fits = |(ours, theirs): &(&TrafficSelector, &TrafficSelector)| {
            let (ours, theirs) = (ours.protocol, theirs.protocol);
            ours == theirs || ours == 0 || theirs == 0
        };
        pairs
            .filter(fits)
            .map(|(ours, theirs)| Self::new(ours, theirs))
    }

    /// A tunnel's traffic to a net, whatever protocol: from our side's nets, and from this host where it
    /// has an address there (`ours`), or where it is not known yet what our side is. Of another IP version
    /// than our side's there is none.
    pub(super) fn towards(to: IpNet, local: &[TrafficSelector], ours: bool) -> Vec<Self> {
        let nets = local.iter().flat_map(networks);
        let nets = nets.filter(|net| is_v4(*net) == is_v4(to));
        let mut from: Vec<Whence> = nets
            .map(|net| match net.prefix_len() {
                0 => Whence::Any,
                _ => Whence::Net(net),
            })
            .collect();
        if ours || local.is_empty() {
            from.push(Whence::Unbound);
        }
        let lead = |from| Self {
            from,
            to,
            protocol: 0,
            ports: [ALL; 2],
        };
        from.into_iter().map(lead).collect()
    }

    fn v4(&self) -> bool {
        is_v4(self.to)
    }

    /// The route that it leads to.
    pub(super) fn place(&self) -> Place {
        Place {
            table: TABLE,
            net: self.to,
        }
    }

    fn rule(&self) -> RuleMessage {
        let mut message = rule(self.v4(), LEAD, RuleAction::ToTable);
        let (header, attributes) = (&mut message.header, &mut message.attributes);
        attributes.push(RuleAttribute::Table(TABLE));
        let source = match self.from {
            Whence::Any => None,
            Whence::Net(net) => Some(net),
            Whence::Unbound if is_v4(self.to) => {
                Some(IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
            }
            Whence::Unbound => {
                attributes.push(RuleAttribute::Iifname("lo".to_owned()));
                None
            }
        };
        if let Some(net) = source {
            header.src_len = net.prefix_len();
            attributes.push(RuleAttribute::Source(net.addr()));
        }
        if self.to.prefix_len() != 0 {
            header.dst_len = self.to.prefix_len();
            attributes.push(RuleAttribute::Destination(self.to.addr()));
        }
        if self.protocol != 0 {
            let protocol = IpProtocol::from(i32::from(self.protocol));
            attributes.push(RuleAttribute::IpProtocol(protocol));
        }
        let kinds = [
            RuleAttribute::SourcePortRange as fn(_) -> _,
            RuleAttribute::DestinationPortRange,
        ];
        for ((start, end), kind) in self.ports.into_iter().zip(kinds) {
            if (start, end) != ALL {
                attributes.push(kind(RulePortRange { start, end }));
            }
        }
        message
    }
}

fn rule(v4: bool, priority: u32, action: RuleAction) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if v4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.action = action;
    message.attributes.push(RuleAttribute::Priority(priority));
    message
}

/// The jump, and where it ends.
fn jump(v4: bool) -> [RuleMessage; 2] {
    let behind = rule(v4, BEHIND, RuleAction::Nop);
    let mut over = rule(v4, JUMP, RuleAction::Goto);
    let attributes = [RuleAttribute::FwMark(MARK), RuleAttribute::Goto(BEHIND)];
    over.attributes.extend(attributes);
    [behind, over]
}

/// What leads traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The jump, and where it ends.
    Jump,
    Route,
    Rule,
}

/// Counts one more that wants this traffic led, and tells what is to be set for it: in this order nothing
/// of ours is ever led there. A jump that is there stays: while it is set anew our own packets would be
/// led as others' are. The route has counts of its own.
fn begin(led: &mut HashMap<Lead, usize>, lead: Lead) -> &'static [Step] {
    let jumps = has_family(led, lead.v4());
    let count = led.entry(lead).or_default();
    *count += 1;
    match (*count, jumps) {
        (1, false) => &[Step::Jump, Step::Route, Step::Rule],
        (1, true) => &[Step::Route, Step::Rule],
        _ => &[Step::Route],
    }
}

/// Whether traffic of an IP version is led already.
fn has_family(led: &HashMap<Lead, usize>, v4: bool) -> bool {
    led.keys().any(|lead| lead.v4() == v4)
}

impl Routes {
    /// Leads traffic to the interface.
    pub(super) fn lead(&mut self, lead: Lead, traffic: &Traffic<'_>) {
        let steps = begin(&mut self.led, lead);
        let mut set = Ok(());
        for step in steps {
            set = set.and(match step {
                Step::Jump => jump(lead.v4())
                    .into_iter()
                    .try_for_each(|rule| self.set_rule(rule)),
                Step::Route => {
                    self.take(lead.place(), traffic);
                    Ok(())
                }
                Step::Rule => self.set_rule(lead.rule()),
            });
        }
        match set {
            Ok(()) if steps.contains(&Step::Rule) => tracing::info!(?lead, "traffic is led"),
            Ok(()) => {}
            Err(error) => tracing::error!(?lead, %error, "traffic could not be led"),
        }
    }

    /// Undoes [`lead`](Self::lead).
    pub(super) fn lead_no_more(&mut self, lead: Lead, standing: bool) {
        if let Some(count) = self.led.get_mut(&lead) {
            *count -= 1;
            if *count == 0 {
                self.led.remove(&lead);
                self.unset_rules(&lead);
            }
        }
        self.leave(lead.place(), standing);
    }

    /// Takes out of the kernel what led traffic that is counted no more.
    pub(super) fn unset_rules(&mut self, lead: &Lead) {
        let mut gone = vec![lead.rule()];
        if !has_family(&self.led, lead.v4()) {
            // The jump before where it ends.
            gone.extend(jump(lead.v4()).into_iter().rev());
        }
        for rule in gone {
            if let Err(error) = self.kernel.ask(RouteNetlinkMessage::DelRule(rule), 0) {
                tracing::debug!(?lead, %error, "a rule is gone already");
            }
        }
    }

    /// One that a daemon before us has left stays: without it traffic would leave in the clear.
    fn set_rule(&mut self, rule: RuleMessage) -> io::Result<()> {
        match self
            .kernel
            .ask(RouteNetlinkMessage::NewRule(rule), kernel::NEW)
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            set => set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(peer: &str, protocol: u8) -> Lead {
        Lead {
            from: Whence::Any,
            to: IpNet::from(peer.parse::<IpAddr>().unwrap()),
            protocol,
            ports: [ALL; 2],
        }
    }

    /// The jump comes before what it jumps over, and is never set anew beneath traffic.
    #[test]
    fn the_jump_is_there_before_and_for_good() {
        use Step::{Jump, Route, Rule};
        let mut led = HashMap::new();
        let (first, second) = (lead("192.0.2.1", 6), lead("192.0.2.2", 6));
        assert_eq!(begin(&mut led, first), [Jump, Route, Rule]);
        assert_eq!(begin(&mut led, second), [Route, Rule]);
        assert_eq!(begin(&mut led, first), [Route]);
        assert_eq!(begin(&mut led, lead("192.0.2.1", 17)), [Route, Rule]);
        let other = lead("2001:db8::1", 6);
        assert_eq!(begin(&mut led, other), [Jump, Route, Rule]);
        assert_eq!(led.remove(&first), Some(2));
    }

    /// What is looked for among an earlier daemon's rules is what is set.
    #[test]
    fn a_rule_tells_what_it_leads() {
        let ts = |text: &str, bits, protocol, start_port, end_port| TrafficSelector {
            protocol,
            start_port,
            end_port,
            ..TrafficSelector::prefix(text.parse().unwrap(), bits)
        };
        let ours = ts("192.0.2.1", 32, 6, 0, u16::MAX);
        let theirs = [
            ts("192.0.2.2", 32, 6, 0, 5001),
            ts("192.0.2.2", 32, 1, 8, 8),
            ts("192.0.2.2", 32, 0, u16::MAX, 0),
        ];
        let mut leads: Vec<Lead> = Vec::new();
        for theirs in &theirs {
            leads.push(Lead::new(&ours, theirs));
        }
        for to in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "2001:db8::/32"] {
            let local = [
                ts("10.1.0.0", 16, 0, 0, u16::MAX),
                ts("fd01::", 16, 0, 0, u16::MAX),
            ];
            leads.extend(Lead::towards(to.parse().unwrap(), &local, true));
        }
        assert_eq!(leads.len(), 11);
        for lead in leads {
            assert_eq!(Lead::of(&lead.rule()), Some(lead));
        }
        assert_eq!(Lead::of(&jump(true)[0]), None);
    }

    /// RFC 4301 §4.4.1: what comes from our side is led, of one IP version at a time; this host's own only
    /// where it is of our side, or may come to be.
    #[test]
    fn a_tunnel_of_everything_leads_our_sides_traffic() {
        let all: IpNet = "0.0.0.0/0".parse().unwrap();
        let ours = |bits| TrafficSelector::prefix("10.1.0.0".parse().unwrap(), bits);
        let from = |local: &[TrafficSelector], here| -> Vec<Whence> {
            let leads = Lead::towards(all, local, here).into_iter();
            leads.map(|lead| lead.from).collect()
        };
        let net = Whence::Net("10.1.0.0/16".parse().unwrap());
        assert_eq!(from(&[ours(16)], false), [net]);
        assert_eq!(from(&[ours(16)], true), [net, Whence::Unbound]);
        assert_eq!(from(&[], false), [Whence::Unbound]);
        let v6 = TrafficSelector::prefix("2001:db8::".parse().unwrap(), 32);
        assert_eq!(from(&[v6], false), []);
        let any = TrafficSelector::prefix("0.0.0.0".parse().unwrap(), 0);
        assert_eq!(from(&[any], false), [Whence::Any]);
    }
}
