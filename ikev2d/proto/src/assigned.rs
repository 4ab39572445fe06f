// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What one end configures the other with (RFC 7296 §2.19, §3.15; in IKEv1 by mode config): addresses above
//! all.

use std::net::IpAddr;

use crate::config::Connection;
use crate::event::{Event, IkeId, Path};
use crate::pool::Pools;
use crate::ts::TrafficSelector;
use crate::wire::configuration::Attribute;

/// Addresses that a peer may ask for at once.
const MOST_ADDRESSES: usize = 8;
/// Octets of an IPv6 address's prefix in what we assign.
const HOST_PREFIX: u8 = 128;

/// What an IKE SA has been configured with.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    /// Our addresses, from the peer.
    pub own: Vec<IpAddr>,
    /// What came with them.
    pub attributes: Vec<Attribute>,
    /// The peer's addresses, from us.
    pub peers: Vec<IpAddr>,
    /// What to ask for: the addresses of the IKE SA that this one replaces.
    pub wanted: Vec<IpAddr>,
}

/// An attribute that asks for an address, or gives one.
fn address_attribute(address: IpAddr) -> Attribute {
    match address {
        IpAddr::V4(v4) => Attribute::Ip4Address((!v4.is_unspecified()).then_some(v4)),
        IpAddr::V6(v6) => {
            Attribute::Ip6Address((!v6.is_unspecified()).then_some((v6, HOST_PREFIX)))
        }
    }
}

/// The address that an attribute gives.
fn address_of(attribute: &Attribute) -> Option<IpAddr> {
    match attribute {
        Attribute::Ip4Address(Some(v4)) => Some((*v4).into()),
        Attribute::Ip6Address(Some((v6, _))) => Some((*v6).into()),
        _ => None,
    }
}

impl Assigned {
    /// What asks for a connection's addresses, and for what goes with them.
    pub fn request(&self, connection: &Connection) -> Vec<Attribute> {
        let vips = &connection.vips;
        let mut wanted = self.wanted.clone();
        let mut attributes: Vec<Attribute> = vips
            .iter()
            .map(|vip| {
                let same = |had: &IpAddr| had.is_ipv4() == vip.is_ipv4();
                let had = wanted.iter().position(same).map(|at| wanted.remove(at));
                address_attribute(had.filter(|_| vip.is_unspecified()).unwrap_or(*vip))
            })
            .collect();
        if vips.iter().any(IpAddr::is_ipv4) {
            attributes.extend([
                Attribute::Ip4Dns(None),
                Attribute::Ip4Nbns(None),
                Attribute::Ip4Dhcp(None),
                Attribute::Ip4Subnet(None),
            ]);
        }
        if vips.iter().any(IpAddr::is_ipv6) {
            attributes.extend([
                Attribute::Ip6Dns(None),
                Attribute::Ip6Dhcp(None),
                Attribute::Ip6Subnet(None),
            ]);
        }
        attributes
    }

    /// Takes in what the peer gives.
    ///
    /// # Errors
    /// It does not give what was asked for.
    pub fn take(
        &mut self,
        connection: &Connection,
        ike: IkeId,
        attributes: Vec<Attribute>,
    ) -> Result<Event, &'static str> {
        let vips = &connection.vips;
        let given: Vec<IpAddr> = attributes
            .iter()
            .filter_map(address_of)
            .filter(|address| {
                !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
            })
            .take(MOST_ADDRESSES)
            .collect();
        let count = |all: &[IpAddr], v4| all.iter().filter(|a| a.is_ipv4() == v4).count();
        for v4 in [true, false] {
            let (asked, got) = (count(vips, v4), count(&given, v4));
            if asked != 0 && got == 0 {
                return Err("the peer has given us no address");
            }
            if asked == 0 && got != 0 {
                return Err("the peer has given us an address of a family that we asked none of");
            }
        }
        let addresses = |attribute: &Attribute| address_of(attribute).is_some();
        *self = Self {
            own: given.clone(),
            attributes: attributes.into_iter().filter(|a| !addresses(a)).collect(),
            ..Self::default()
        };
        let attributes = self.attributes.clone();
        Ok(Event::Configured {
            ike,
            addresses: given,
            attributes,
        })
    }

    /// Gives a peer the addresses that it asks for, out of the connection's pools; nothing if there are
    /// none for it.
    pub fn give(
        &mut self,
        pools: &mut Pools,
        connection: &Connection,
        owner: &str,
        asked: &[Attribute],
    ) -> Option<Vec<Attribute>> {
        let names = &connection.pools;
        let wants = |attribute: &&Attribute| {
            matches!(
                attribute,
                Attribute::Ip4Address(_) | Attribute::Ip6Address(_)
            )
        };
        let mut given = Vec::new();
        for attribute in asked.iter().filter(wants).take(MOST_ADDRESSES) {
            let v4 = matches!(attribute, Attribute::Ip4Address(_));
            let wanted = address_of(attribute);
            given.extend(pools.acquire(names, owner, v4, wanted));
        }
        let asked_any = asked.iter().any(|attribute| wants(&attribute));
        if asked_any && given.is_empty() {
            return None;
        }
        let mut reply: Vec<Attribute> = given.iter().copied().map(address_attribute).collect();
        reply.extend(pools.attributes(names));
        // One that asks again gets another's worth, and no more than that.
        for before in std::mem::replace(&mut self.peers, given) {
            pools.release(before);
        }
        Some(reply)
    }

    /// Takes a peer's addresses out of the pools again that another member of a cluster has given it.
    /// Whether they were free.
    pub(crate) fn take_up(&mut self, pools: &mut Pools, names: &[String], owner: &str) -> bool {
        let wanted = std::mem::take(&mut self.peers);
        for address in wanted {
            match pools.acquire(names, owner, address.is_ipv4(), Some(address)) {
                Some(got) if got == address => self.peers.push(got),
                other => {
                    self.peers.extend(other);
                    return false;
                }
            }
        }
        true
    }

    /// What stands for our side where a selector is dynamic, as far as a peer has given us addresses.
    pub fn own_dynamic(&self, path: Path) -> Vec<TrafficSelector> {
        dynamic(&self.own, path.local.ip())
    }

    /// What stands for the peer's.
    pub fn peers_dynamic(&self, path: Path) -> Vec<TrafficSelector> {
        dynamic(&self.peers, path.remote.ip())
    }

    /// Whether neither side has given the other an address.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.peers.is_empty()
    }

    /// Lets go of everything, at the IKE SA's end.
    pub fn give_back(&mut self, pools: &mut Pools) -> Option<Event> {
        let assigned = std::mem::take(self);
        for address in assigned.peers {
            pools.release(address);
        }
        let (addresses, attributes) = (assigned.own, assigned.attributes);
        (!addresses.is_empty()).then_some(Event::Unconfigured {
            addresses,
            attributes,
        })
    }
}

fn dynamic(assigned: &[IpAddr], own: IpAddr) -> Vec<TrafficSelector> {
    if assigned.is_empty() {
        return vec![TrafficSelector::host(own)];
    }
    assigned.iter().map(|a| TrafficSelector::host(*a)).collect()
}
