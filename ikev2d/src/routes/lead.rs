// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Transport mode's traffic goes to the peer's own address, as our own ESP and IKE do. So its routes are
//! in a table of their own, that rules lead to by address, protocol and ports; what bears our
//! [mark](crate::net::MARK) jumps over them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ikev2d_proto::ts::TrafficSelector;
use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

use super::Routes;
use crate::net::MARK;

/// The table of routes; it is no number that others have, being above 255.
const TABLE: u32 = 4301;
/// Where the rules are: the jump, those that lead to the table, and where the jump ends. They come
/// before those of the main table, 32766.
const JUMP: u32 = 4300;
const LEAD: u32 = 4301;
const BEHIND: u32 = 4302;

/// Traffic that a rule leads to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lead {
    peer: IpAddr,
    protocol: u8,
    /// First and last, ours and the peer's.
    ports: [(u16, u16); 2],
}

impl Lead {
    /// Selectors of transport mode have one address each.
    fn new(local: &TrafficSelector, remote: &TrafficSelector) -> Self {
        Self {
            peer: remote.start,
            protocol: local.protocol.max(remote.protocol),
            ports: [local, remote].map(|ts| (ts.start_port, ts.end_port)),
        }
    }

    /// Every pair of selectors; those of two protocols have no traffic.
    fn all(
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

    fn rule(&self, handle: &Handle) -> RuleMessage {
        let request = handle.rule().add().table_id(TABLE).priority(LEAD);
        let request = request.action(RuleAction::ToTable);
        let mut message = match self.peer {
            IpAddr::V4(peer) => request
                .v4()
                .destination_prefix(peer, 32)
                .message_mut()
                .clone(),
            IpAddr::V6(peer) => request
                .v6()
                .destination_prefix(peer, 128)
                .message_mut()
                .clone(),
        };
        if self.protocol != 0 {
            let protocol = IpProtocol::from(i32::from(self.protocol));
            let attribute = RuleAttribute::IpProtocol(protocol);
            message.attributes.push(attribute);
        }
        // ICMP's types and codes are in the place of ports (RFC 7296 §3.13.1), and no rule knows them.
        let with_ports = matches!(self.protocol, 6 | 17 | 132 | 136);
        let kinds = [
            RuleAttribute::SourcePortRange as fn(_) -> _,
            RuleAttribute::DestinationPortRange,
        ];
        for ((start, end), kind) in self.ports.into_iter().zip(kinds) {
            if with_ports && (start, end) != (0, u16::MAX) && start <= end {
                // A rule has no port 0, which no packet has either.
                let (start, end) = (start.max(1), end.max(1));
                message.attributes.push(kind(RulePortRange { start, end }));
            }
        }
        message
    }
}

/// The jump, and where it ends.
fn jump(handle: &Handle, v4: bool) -> [RuleMessage; 2] {
    let family = |request: rtnetlink::RuleAddRequest| match v4 {
        true => request.v4().message_mut().clone(),
        false => request.v6().message_mut().clone(),
    };
    let behind = handle.rule().add().table_id(0).priority(BEHIND);
    let behind = family(behind.action(RuleAction::Nop));
    let over = handle.rule().add().table_id(0).priority(JUMP).fw_mark(MARK);
    let mut over = family(over.action(RuleAction::Goto));
    over.attributes.push(RuleAttribute::Goto(BEHIND));
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

/// Counts one more child SA of this traffic, and tells what is to be set for it: in this order nothing
/// of ours is ever led there. A jump that is there stays: while it is set anew our own packets would be
/// led as others' are.
fn begin(led: &mut HashMap<Lead, usize>, lead: Lead) -> &'static [Step] {
    let jumps = has_family(led, lead.peer.is_ipv4());
    let count = led.entry(lead).or_default();
    *count += 1;
    match (*count, jumps) {
        (1, false) => &[Step::Jump, Step::Route, Step::Rule],
        (1, true) => &[Step::Route, Step::Rule],
        _ => &[],
    }
}

/// Whether traffic of an IP version is led already.
fn has_family(led: &HashMap<Lead, usize>, v4: bool) -> bool {
    led.keys().any(|lead| lead.peer.is_ipv4() == v4)
}

async fn set(handle: &Handle, rule: &RuleMessage) -> Result<(), Error> {
    // A daemon that was killed has left its own.
    let _ = handle.rule().del(rule.clone()).execute().await;
    let mut request = handle.rule().add();
    *request.message_mut() = rule.clone();
    request.execute().await
}

impl Routes {
    /// Leads a child SA's traffic in transport mode to the interface.
    pub(crate) async fn lead(&mut self, local: &[TrafficSelector], remote: &[TrafficSelector]) {
        let source = self.own.within(local);
        for lead in Lead::all(local, remote) {
            let steps = begin(&mut self.led, lead);
            if steps.is_empty() {
                continue;
            }
            let done = async {
                for step in steps {
                    match step {
                        Step::Jump => {
                            for rule in jump(&self.handle, lead.peer.is_ipv4()) {
                                set(&self.handle, &rule).await?;
                            }
                        }
                        Step::Route => self.set_led_route(lead.peer, source).await?,
                        Step::Rule => set(&self.handle, &lead.rule(&self.handle)).await?,
                    }
                }
                Ok::<(), Error>(())
            };
            match done.await {
                Ok(()) => tracing::info!(?lead, ?source, "traffic to a peer itself is led"),
                Err(error) => tracing::error!(?lead, %error, "traffic could not be led"),
            }
        }
    }

    /// Undoes [`lead`](Self::lead).
    pub(crate) async fn lead_no_more(
        &mut self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) {
        for lead in Lead::all(local, remote) {
            let Some(count) = self.led.get_mut(&lead) else {
                continue;
            };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.led.remove(&lead);
            let mut gone = vec![lead.rule(&self.handle)];
            let v4 = lead.peer.is_ipv4();
            if !has_family(&self.led, v4) {
                gone.extend(jump(&self.handle, v4));
            }
            for rule in gone {
                if let Err(error) = self.handle.rule().del(rule).execute().await {
                    tracing::debug!(?lead, %error, "a rule is gone already");
                }
            }
            if !self.led.keys().any(|other| other.peer == lead.peer) {
                self.remove_led_route(lead.peer).await;
            }
        }
    }

    async fn set_led_route(&self, peer: IpAddr, source: Option<IpAddr>) -> Result<(), Error> {
        let message = match peer {
            IpAddr::V4(peer) => {
                let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(peer, 32)
                    .output_interface(self.interface)
                    .table_id(TABLE);
                if let Some(IpAddr::V4(source)) = source {
                    builder = builder.pref_source(source);
                }
                builder.build()
            }
            IpAddr::V6(peer) => {
                let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(peer, 128)
                    .output_interface(self.interface)
                    .table_id(TABLE);
                if let Some(IpAddr::V6(source)) = source {
                    builder = builder.pref_source(source);
                }
                builder.build()
            }
        };
        self.handle.route().add(message).replace().execute().await
    }

    async fn remove_led_route(&self, peer: IpAddr) {
        let message = match peer {
            IpAddr::V4(peer) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(peer, 32)
                .output_interface(self.interface)
                .table_id(TABLE)
                .build(),
            IpAddr::V6(peer) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(peer, 128)
                .output_interface(self.interface)
                .table_id(TABLE)
                .build(),
        };
        if let Err(error) = self.handle.route().del(message).execute().await {
            tracing::debug!(%peer, %error, "route is gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The jump comes before what it jumps over, and is never set anew beneath traffic.
    #[test]
    fn the_jump_is_there_before_and_for_good() {
        use Step::{Jump, Route, Rule};
        let lead = |peer: &str, protocol| Lead {
            peer: peer.parse().unwrap(),
            protocol,
            ports: [(0, u16::MAX); 2],
        };
        let mut led = HashMap::new();
        let (first, second) = (lead("192.0.2.1", 6), lead("192.0.2.2", 6));
        assert_eq!(begin(&mut led, first), [Jump, Route, Rule]);
        assert_eq!(begin(&mut led, second), [Route, Rule]);
        assert_eq!(begin(&mut led, first), []);
        assert_eq!(begin(&mut led, lead("192.0.2.1", 17)), [Route, Rule]);
        let other = lead("2001:db8::1", 6);
        assert_eq!(begin(&mut led, other), [Jump, Route, Rule]);
        assert_eq!(led.remove(&first), Some(2));
    }
}
