// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a daemon that was killed has left in the kernel: routes that refuse, and rules. They do their work
//! until the next daemon has set its own; what it does not want goes then.

use std::collections::HashSet;
use std::io;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::lead::Lead;
use super::{PROTOCOL, Place, Routes, refusal};

impl Routes {
    /// Removes what nobody holds by now.
    pub(crate) fn remove_leftovers(&mut self) {
        if let Err(error) = self.try_remove_leftovers() {
            tracing::warn!(%error, "an earlier daemon's routes can't be looked for");
        }
    }

    fn try_remove_leftovers(&mut self) -> io::Result<()> {
        let routes: Vec<RouteMessage> = self
            .kernel
            .list(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            })
            .collect();
        // Where packets go somewhere, another daemon on this host lives.
        let of_ours = |route: &RouteMessage, kind| {
            route.header.kind == kind && route.header.protocol == PROTOCOL
        };
        let in_use = |route: &&RouteMessage| of_ours(route, RouteType::Unicast);
        let in_use: HashSet<Place> = routes.iter().filter(in_use).filter_map(place).collect();
        for route in &routes {
            let ours = of_ours(route, RouteType::Unreachable);
            if let Some(place) = place(route).filter(|_| ours)
                && !in_use.contains(&place)
                && self.set.get(&place).is_none_or(|route| route.standing == 0)
            {
                tracing::info!(net = %place.net, "an earlier daemon's route is removed");
                self.kernel
                    .ask(RouteNetlinkMessage::DelRoute(refusal(place)), 0)?;
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RuleMessage::default();
            all.header.family = family;
            for message in self.kernel.list(RouteNetlinkMessage::GetRule(all))? {
                let RouteNetlinkMessage::NewRule(rule) = message else {
                    continue;
                };
                if let Some(lead) = Lead::of(&rule)
                    && !self.led.contains_key(&lead)
                    && !in_use.contains(&lead.place())
                {
                    tracing::info!(?lead, "an earlier daemon's rule is removed");
                    self.unset_rules(&lead);
                }
            }
        }
        Ok(())
    }
}

/// Where a route is.
fn place(route: &RouteMessage) -> Option<Place> {
    let attributes = route.attributes.iter();
    let table = attributes.clone().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let address = attributes.clone().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    });
    let everything = match route.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let length = route.header.destination_prefix_length;
    let address = address.or((length == 0).then_some(everything))?;
    Some(Place {
        table: table.unwrap_or(route.header.table.into()),
        net: IpNet::new(address, length).ok()?,
    })
}
