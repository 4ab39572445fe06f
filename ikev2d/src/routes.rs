// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes of the peers' traffic to the TUN interface, with a source address out of our side's.

mod kernel;
mod lead;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::ts::TrafficSelector;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::net::own_addresses;
use kernel::Kernel;

/// The routes that are set, and how many child SAs want each.
pub(crate) struct Routes {
    handle: Handle,
    interface: u32,
    set: HashMap<IpNet, usize>,
    /// What is led to peers themselves, and how many child SAs want each.
    led: HashMap<lead::Lead, usize>,
    kernel: Kernel,
    own: OwnAddresses,
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
    /// One that lies in our side's traffic.
    fn within(&mut self, local: &[TrafficSelector]) -> Option<IpAddr> {
        let fits = |address: &&IpAddr| {
            local.iter().any(|ts| {
                ts.start.is_ipv4() == address.is_ipv4() && (ts.start..=ts.end).contains(*address)
            })
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
        handle
            .link()
            .set(LinkUnspec::new_with_index(interface).up().build())
            .execute()
            .await?;
        Ok(Self {
            handle,
            interface,
            set: HashMap::new(),
            led: HashMap::new(),
            kernel: Kernel::open()?,
            own: OwnAddresses::default(),
        })
    }

    /// Routes a child SA's traffic. The peer's own address is left alone: ESP to it would loop.
    pub(crate) fn add(
        &mut self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
        peer: IpAddr,
    ) {
        for net in remote.iter().flat_map(networks) {
            let count = self.set.entry(net).or_default();
            *count += 1;
            if *count > 1 {
                continue;
            }
            self.place(net, local, peer);
        }
    }

    /// Sets those anew that [`add`](Self::add) has found: they have the source of another's traffic.
    pub(crate) fn renew(
        &mut self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
        peer: IpAddr,
    ) {
        for net in remote.iter().flat_map(networks) {
            if net.contains(&peer) {
                let message = RouteNetlinkMessage::DelRoute(self.message(net, None));
                let _ = self.kernel.ask(message, 0);
            }
            self.place(net, local, peer);
        }
    }

    fn place(&mut self, net: IpNet, local: &[TrafficSelector], peer: IpAddr) {
        if net.contains(&peer) {
            tracing::warn!(%net, %peer, "the peer's own address lies in its traffic: no route is set");
            return;
        }
        let mut source = self.own.within(local);
        let mut set = self.set(net, source);
        if set.is_err() {
            // An address that has just gone can be no source.
            self.own.asked = None;
            source = self.own.within(local);
            set = self.set(net, source);
        }
        match set {
            Ok(()) => tracing::info!(%net, ?source, "route set"),
            Err(error) => tracing::error!(%net, %error, "route could not be set"),
        }
    }

    fn set(&mut self, net: IpNet, source: Option<IpAddr>) -> std::io::Result<()> {
        let message = self.message(net, source);
        self.kernel
            .ask(RouteNetlinkMessage::NewRoute(message), kernel::REPLACE)
    }

    fn message(&self, net: IpNet, source: Option<IpAddr>) -> RouteMessage {
        match net {
            IpNet::V4(net) => {
                let builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(self.interface);
                match source {
                    Some(IpAddr::V4(source)) => builder.pref_source(source).build(),
                    _ => builder.build(),
                }
            }
            IpNet::V6(net) => {
                let builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(self.interface);
                match source {
                    Some(IpAddr::V6(source)) => builder.pref_source(source).build(),
                    _ => builder.build(),
                }
            }
        }
    }

    /// Puts an address that a peer has given on the interface.
    pub(crate) async fn add_address(&self, address: IpAddr) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let request = self.handle.address().add(self.interface, address, bits);
        match request.replace().execute().await {
            Ok(()) => tracing::info!(%address, "address added"),
            Err(error) => tracing::error!(%address, %error, "address could not be added"),
        }
    }

    /// Takes it off again.
    pub(crate) async fn remove_address(&self, address: IpAddr) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(self.interface, address, bits);
        let message = request.message_mut().clone();
        match self.handle.address().del(message).execute().await {
            Ok(()) => tracing::info!(%address, "address removed"),
            Err(error) => tracing::debug!(%address, %error, "address is gone already"),
        }
    }

    /// Undoes [`add`](Self::add).
    pub(crate) fn remove(&mut self, remote: &[TrafficSelector]) {
        for net in remote.iter().flat_map(networks) {
            let Some(count) = self.set.get_mut(&net) else {
                continue;
            };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.set.remove(&net);
            let message = RouteNetlinkMessage::DelRoute(self.message(net, None));
            if let Err(error) = self.kernel.ask(message, 0) {
                tracing::debug!(%net, %error, "route is gone already");
            }
        }
    }
}

/// An address range as prefixes.
fn networks(ts: &TrafficSelector) -> Vec<IpNet> {
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
