// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes of the peers' traffic to the TUN interface, with a source address out of our side's.
//!
//! What has its SA away is not let out another way (RFC 4301 §4.4.1): the routes of a configured tunnel
//! stand while it is configured, and behind each is one that refuses, for when the interface goes.

mod kernel;
mod lead;
mod leftover;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::ts::TrafficSelector;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::net::own_addresses;
use kernel::Kernel;
use lead::Lead;

/// The table that every packet's route is looked for in.
const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Metric of IPv6's routes: no one else's are found with it, so that none is replaced, and of a net they
/// come before an interface's own (256). IPv4's have none: of those of a net the last one set comes first.
const FIRST: u32 = 43;
/// Metric of the routes that refuse: any other of their net is better.
const REFUSING: u32 = 4301;
/// Whose the routes are.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(143);

/// The routes that are set.
pub(crate) struct Routes {
    handle: Handle,
    interface: u32,
    set: HashMap<Place, Route>,
    /// Rules that lead to the table of our own, and how many want each.
    led: HashMap<Lead, usize>,
    kernel: Kernel,
    own: OwnAddresses,
}

/// Where a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    table: u32,
    net: IpNet,
}

/// A route: how many want it, and how many of them want it to outlive the interface.
#[derive(Default)]
struct Route {
    users: u32,
    standing: u32,
    source: Option<IpAddr>,
    /// The kernel has it.
    there: bool,
}

/// Traffic that is to be routed.
pub(crate) struct Traffic<'a> {
    /// Our side's; empty while it is not known.
    pub(crate) local: &'a [TrafficSelector],
    /// The peer's side's.
    pub(crate) remote: &'a [TrafficSelector],
    /// The peer, or where it may be.
    pub(crate) peers: &'a [IpAddr],
    /// What the two hosts say to each other.
    pub(crate) transport: bool,
    /// Whether it is dropped, not let out, should the interface go.
    pub(crate) standing: bool,
}

/// What is set for some traffic, until it is [released](Routes::release).
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Held {
    /// By itself, so that the one net of most child SAs takes no memory apart.
    place: Option<Place>,
    /// Further ones, and rules.
    rest: Option<Box<Rest>>,
    standing: bool,
}

#[derive(Debug, Default)]
struct Rest {
    places: Box<[Place]>,
    leads: Box<[Lead]>,
}

impl Held {
    fn new(mut places: Vec<Place>, leads: Vec<Lead>, standing: bool) -> Self {
        let place = places.pop();
        let alone = places.is_empty() && leads.is_empty();
        let rest = (!alone).then(|| {
            Box::new(Rest {
                places: places.into(),
                leads: leads.into(),
            })
        });
        Self {
            place,
            rest,
            standing,
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> {
        let rest = self.rest.iter().flat_map(|rest| &*rest.places);
        rest.chain(&self.place).copied()
    }

    fn leads(&self) -> impl Iterator<Item = &Lead> {
        self.rest.iter().flat_map(|rest| &*rest.leads)
    }
}

/// How long this host's addresses are taken to stay as they were.
const FRESH: Duration = Duration::from_secs(1);

/// This host's addresses as they were last asked for: not for each of many child SAs anew.
#[derive(Default)]
struct OwnAddresses {
    known: Vec<IpAddr>,
    asked: Option<Instant>,
}

impl OwnAddresses {
    /// One of an IP version that lies in our side's traffic.
    fn within(&mut self, local: &[TrafficSelector], v4: bool) -> Option<IpAddr> {
        let fits = |address: &&IpAddr| {
            address.is_ipv4() == v4
                && local
                    .iter()
                    .any(|ts| ts.start.is_ipv4() == v4 && (ts.start..=ts.end).contains(*address))
        };
        let fresh = self.asked.is_some_and(|asked| asked.elapsed() < FRESH);
        if let Some(found) = self.known.iter().find(fits).filter(|_| fresh) {
            return Some(*found);
        }
        self.known = own_addresses();
        self.asked = Some(Instant::now());
        self.known.iter().find(fits).copied()
    }
}

impl Routes {
    /// Brings the interface up.
    pub(crate) async fn new(interface: u32) -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let routes = Self {
            handle,
            interface,
            set: HashMap::new(),
            led: HashMap::new(),
            kernel: Kernel::open()?,
            own: OwnAddresses::default(),
        };
        routes.set_up(interface, None).await?;
        Ok(routes)
    }

    /// Routes traffic. A net that the peer's own address lies in, or that is everything, is led by rules
    /// that our own packets jump over: ESP to it would loop, and the default route is not ours.
    pub(crate) fn hold(&mut self, traffic: &Traffic<'_>) -> Held {
        let (mut places, mut leads) = (Vec::new(), Vec::new());
        if traffic.transport {
            leads.extend(Lead::between_hosts(traffic.local, traffic.remote));
        } else {
            for net in traffic.remote.iter().flat_map(networks) {
                let loops = traffic.peers.iter().any(|peer| net.contains(peer));
                if loops || net.prefix_len() == 0 {
                    let ours = self.own.within(traffic.local, is_v4(net)).is_some();
                    leads.extend(Lead::towards(net, traffic.local, ours));
                } else {
                    places.push(Place { table: MAIN, net });
                }
            }
        }
        for place in &places {
            self.take(*place, traffic);
        }
        for lead in &leads {
            self.lead(*lead, traffic);
        }
        Held::new(places, leads, traffic.standing)
    }

    /// Undoes [`hold`](Self::hold).
    pub(crate) fn release(&mut self, held: Held) {
        for place in held.places() {
            self.leave(place, held.standing);
        }
        for lead in held.leads() {
            self.lead_no_more(*lead, held.standing);
        }
    }

    /// Removes all: at the end.
    pub(crate) fn clear(&mut self) {
        let leads: Vec<Lead> = self.led.drain().map(|(lead, _)| lead).collect();
        for lead in leads {
            self.unset_rules(&lead);
        }
        let all = std::mem::take(&mut self.set);
        for (place, route) in all {
            self.unset(place, &route);
        }
    }

    /// Sets those anew that [`hold`](Self::hold) has found: they have the source of another's traffic.
    pub(crate) fn renew(&mut self, held: &Held, local: &[TrafficSelector]) {
        for place in held.places().chain(held.leads().map(Lead::place)) {
            self.place(place, local);
        }
    }

    /// Counts one more that wants a route, and sets what is not there.
    fn take(&mut self, place: Place, traffic: &Traffic<'_>) {
        let route = self.set.entry(place).or_default();
        route.users += 1;
        route.standing += u32::from(traffic.standing);
        let refuses = traffic.standing && route.standing == 1;
        let first = route.users == 1;
        // It may have been set before its traffic had an address here.
        let late = !first && route.source.is_none();
        if refuses {
            let message = RouteNetlinkMessage::NewRoute(refusal(place));
            if let Err(error) = self.kernel.ask(message, kernel::REPLACE) {
                tracing::error!(net = %place.net, %error, "a route that refuses could not be set");
            }
        }
        if first || (late && self.own.within(traffic.local, is_v4(place.net)).is_some()) {
            self.place(place, traffic.local);
        }
    }

    fn leave(&mut self, place: Place, standing: bool) {
        let Some(route) = self.set.get_mut(&place) else {
            return;
        };
        route.users -= 1;
        route.standing -= u32::from(standing);
        let refused = standing && route.standing == 0;
        if route.users == 0 {
            if let Some(mut route) = self.set.remove(&place) {
                route.standing += u32::from(standing);
                self.unset(place, &route);
            }
        } else if refused {
            self.unset_refusal(place);
        }
    }

    /// Takes a route out of the kernel.
    fn unset(&mut self, place: Place, route: &Route) {
        let message = RouteNetlinkMessage::DelRoute(self.message(place, None));
        if let Err(error) = self.kernel.ask(message, 0) {
            tracing::debug!(net = %place.net, %error, "route is gone already");
        }
        if route.standing > 0 {
            self.unset_refusal(place);
        }
    }

    fn unset_refusal(&mut self, place: Place) {
        let message = RouteNetlinkMessage::DelRoute(refusal(place));
        if let Err(error) = self.kernel.ask(message, 0) {
            tracing::debug!(net = %place.net, %error, "a route that refuses is gone already");
        }
    }

    fn place(&mut self, place: Place, local: &[TrafficSelector]) {
        let v4 = is_v4(place.net);
        let mut source = self.own.within(local, v4);
        let mut set = self.set_route(place, source);
        if set.is_err() {
            // An address that has just gone can be no source.
            self.own.asked = None;
            source = self.own.within(local, v4);
            set = self.set_route(place, source);
        }
        // Nor can one that the host is not sure of yet (RFC 4862 §5.4).
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidInput;
        if set.as_ref().is_err_and(refused) && source.is_some() {
            source = None;
            set = self.set_route(place, None);
        }
        match set {
            Ok(()) => tracing::info!(net = %place.net, ?source, "route set"),
            Err(error) => tracing::error!(net = %place.net, %error, "route could not be set"),
        }
    }

    fn set_route(&mut self, place: Place, source: Option<IpAddr>) -> std::io::Result<()> {
        let message = RouteNetlinkMessage::NewRoute(self.message(place, source));
        let there = self.set.get(&place).is_some_and(|route| route.there);
        // This host's own to the same net stays, behind ours.
        let how = match is_v4(place.net) && !there {
            true => kernel::FRONT,
            false => kernel::REPLACE,
        };
        match self.kernel.ask(message, how) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            set => set?,
        }
        if let Some(route) = self.set.get_mut(&place) {
            (route.source, route.there) = (source, true);
        }
        Ok(())
    }

    fn message(&self, place: Place, source: Option<IpAddr>) -> RouteMessage {
        let (interface, table) = (self.interface, place.table);
        match place.net {
            IpNet::V4(net) => {
                let builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(interface)
                    .protocol(PROTOCOL)
                    .table_id(table);
                match source {
                    Some(IpAddr::V4(source)) => builder.pref_source(source).build(),
                    _ => builder.build(),
                }
            }
            IpNet::V6(net) => {
                let builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(interface)
                    .protocol(PROTOCOL)
                    .priority(FIRST)
                    .table_id(table);
                match source {
                    Some(IpAddr::V6(source)) => builder.pref_source(source).build(),
                    _ => builder.build(),
                }
            }
        }
    }

    /// Brings a further interface up, with such an MTU.
    pub(crate) async fn bring_up(&self, interface: u32, mtu: Option<u16>) {
        if let Err(error) = self.set_up(interface, mtu).await {
            tracing::error!(interface, %error, "an interface could not be brought up");
        }
    }

    async fn set_up(&self, interface: u32, mtu: Option<u16>) -> Result<(), rtnetlink::Error> {
        let mut link = LinkUnspec::new_with_index(interface).up();
        if let Some(mtu) = mtu {
            link = link.mtu(mtu.into());
        }
        self.handle.link().set(link.build()).execute().await
    }

    /// Gives an interface an address: a further one, or the daemon's own.
    pub(crate) async fn add_address(&mut self, interface: Option<u32>, network: IpNet) {
        let interface = interface.unwrap_or(self.interface);
        let (address, bits) = (network.addr(), network.prefix_len());
        let mut request = self.handle.address().add(interface, address, bits);
        // Nobody else can have it, and until the kernel has made sure it is no source for a route (RFC 4862 §5.4).
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.replace().execute().await {
            Ok(()) => tracing::info!(%network, interface, "address added"),
            Err(error) => tracing::error!(%network, %error, "address could not be added"),
        }
        self.own.asked = None;
    }

    /// Takes it off again.
    pub(crate) async fn remove_address(&mut self, interface: Option<u32>, network: IpNet) {
        let interface = interface.unwrap_or(self.interface);
        let (address, bits) = (network.addr(), network.prefix_len());
        let mut request = self.handle.address().add(interface, address, bits);
        let message = request.message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Ok(()) => tracing::info!(%network, interface, "address removed"),
            Err(error) => tracing::debug!(%network, %error, "address is gone already"),
        }
        self.own.asked = None;
        // The kernel has taken IPv4's routes with that source along.
        let with_it = |(_, route): &(&Place, &mut Route)| route.source == Some(address);
        let gone = self.set.iter_mut().filter(with_it).map(|(place, route)| {
            route.there = false;
            *place
        });
        for place in gone.collect::<Vec<Place>>() {
            if let Err(error) = self.set_route(place, None) {
                tracing::error!(net = %place.net, %error, "route could not be set again");
            }
        }
    }
}

/// What refuses a net's packets where the interface does not take them.
fn refusal(place: Place) -> RouteMessage {
    match place.net {
        IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .table_id(place.table)
            .kind(RouteType::Unreachable)
            .protocol(PROTOCOL)
            .priority(REFUSING)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .table_id(place.table)
            .kind(RouteType::Unreachable)
            .protocol(PROTOCOL)
            .priority(REFUSING)
            .build(),
    }
}

fn is_v4(net: IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// An address range as prefixes.
pub(crate) fn networks(ts: &TrafficSelector) -> Vec<IpNet> {
    match (ts.start, ts.end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect()
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => {
            Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect()
        }
        _ => Vec::new(),
    }
}
