// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes of the peers' traffic to the TUN interface, with a source address out of our side's.

mod lead;

use std::collections::HashMap;
use std::net::IpAddr;

use ikev2d_proto::ts::TrafficSelector;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

/// The routes that are set, and how many child SAs want each.
pub(crate) struct Routes {
    handle: Handle,
    interface: u32,
    set: HashMap<IpNet, usize>,
    /// What is led to peers themselves, and how many child SAs want each.
    led: HashMap<lead::Lead, usize>,
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
        })
    }

    /// Routes a child SA's traffic. The peer's own address is left alone: ESP to it would loop.
    pub(crate) async fn add(
        &mut self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
        peer: IpAddr,
    ) {
        let source = source_within(local);
        for net in remote.iter().flat_map(networks) {
            let count = self.set.entry(net).or_default();
            *count += 1;
            if *count > 1 {
                continue;
            }
            if net.contains(&peer) {
                tracing::warn!(%net, %peer, "the peer's own address lies in its traffic: no route is set");
                continue;
            }
            let message = match (net, source) {
                (IpNet::V4(net), source) => {
                    let mut builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                        .destination_prefix(net.addr(), net.prefix_len())
                        .output_interface(self.interface);
                    if let Some(IpAddr::V4(source)) = source {
                        builder = builder.pref_source(source);
                    }
                    builder.build()
                }
                (IpNet::V6(net), source) => {
                    let mut builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                        .destination_prefix(net.addr(), net.prefix_len())
                        .output_interface(self.interface);
                    if let Some(IpAddr::V6(source)) = source {
                        builder = builder.pref_source(source);
                    }
                    builder.build()
                }
            };
            if let Err(error) = self.handle.route().add(message).replace().execute().await {
                tracing::error!(%net, %error, "route could not be set");
            } else {
                tracing::info!(%net, ?source, "route set");
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
    pub(crate) async fn remove(&mut self, remote: &[TrafficSelector]) {
        for net in remote.iter().flat_map(networks) {
            let Some(count) = self.set.get_mut(&net) else {
                continue;
            };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.set.remove(&net);
            let message = match net {
                IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(self.interface)
                    .build(),
                IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                    .destination_prefix(net.addr(), net.prefix_len())
                    .output_interface(self.interface)
                    .build(),
            };
            if let Err(error) = self.handle.route().del(message).execute().await {
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

/// An address of this host that lies in our side's traffic.
fn source_within(local: &[TrafficSelector]) -> Option<IpAddr> {
    let within = |address: &IpAddr| {
        local.iter().any(|ts| {
            ts.start.is_ipv4() == address.is_ipv4() && (ts.start..=ts.end).contains(address)
        })
    };
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .find(within)
}
