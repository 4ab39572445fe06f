// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a responder configures an initiator with (RFC 7296 §2.19, §3.15): addresses above all.

use std::net::IpAddr;

use crate::event::Event;
use crate::ike_sa::{Ctx, IkeSa, find};
use crate::ts::TrafficSelector;
use crate::wire::configuration::{self, Attribute, KNOWN, Kind};
use crate::wire::{Chain, Payload, notify, payload};

/// Addresses that a peer may ask for at once.
const MOST_ADDRESSES: usize = 8;
/// Octets of an IPv6 address's prefix in what we assign.
const HOST_PREFIX: u8 = 128;

/// What an IKE SA has been configured with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assigned {
    /// Our addresses, from the peer.
    pub(crate) own: Vec<IpAddr>,
    /// What came with them.
    pub(crate) attributes: Vec<Attribute>,
    /// The peer's addresses, from us.
    pub(crate) peers: Vec<IpAddr>,
    /// What to ask for: the addresses of the IKE SA that this one replaces.
    pub(crate) wanted: Vec<IpAddr>,
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

/// The configuration of a message, if it has one of this kind that can be read.
fn read(parts: &[Payload<'_>], kind: Kind) -> Option<Vec<Attribute>> {
    let (found, attributes) = configuration::parse(find(parts, payload::CP)?).ok()?;
    (found == kind).then_some(attributes)
}

impl IkeSa {
    /// Asks for the addresses of the policy, and for what goes with them.
    pub(crate) fn push_configuration_request(&self, chain: &mut Chain) {
        let vips = &self.connection.vips;
        if vips.is_empty() {
            return;
        }
        let mut wanted = self.assigned.wanted.clone();
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
                Attribute::Ip4Subnet(None),
            ]);
        }
        if vips.iter().any(IpAddr::is_ipv6) {
            attributes.extend([Attribute::Ip6Dns(None), Attribute::Ip6Subnet(None)]);
        }
        chain.push(
            payload::CP,
            &configuration::emit(Kind::Request, &attributes),
        );
    }

    /// Takes in what the responder gives; an error if it does not give what was asked for.
    pub(crate) fn take_configuration(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
    ) -> Result<(), &'static str> {
        let vips = &self.connection.vips;
        if vips.is_empty() {
            return Ok(());
        }
        let attributes = read(parts, Kind::Reply).unwrap_or_default();
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
        self.assigned = Assigned {
            own: given.clone(),
            attributes: attributes.into_iter().filter(|a| !addresses(a)).collect(),
            ..Assigned::default()
        };
        let (ike, attributes) = (self.id, self.assigned.attributes.clone());
        ctx.event(Event::Configured {
            ike,
            addresses: given,
            attributes,
        });
        Ok(())
    }

    /// Gives an initiator the addresses that it asks for, out of the connection's pools: the payload's
    /// body.
    pub(crate) fn answer_configuration(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
    ) -> Result<Option<Vec<u8>>, u16> {
        let pools = &self.connection.pools;
        let Some(asked) = read(parts, Kind::Request).filter(|_| !pools.is_empty()) else {
            return Ok(None);
        };
        let owner = self.remote_id.to_string();
        let mut given = Vec::new();
        let wants = |attribute: &&Attribute| {
            matches!(
                attribute,
                Attribute::Ip4Address(_) | Attribute::Ip6Address(_)
            )
        };
        for attribute in asked.iter().filter(wants).take(MOST_ADDRESSES) {
            let v4 = matches!(attribute, Attribute::Ip4Address(_));
            let wanted = address_of(attribute);
            given.extend(ctx.pools.acquire(pools, &owner, v4, wanted));
        }
        let asked_any = asked.iter().any(|attribute| wants(&attribute));
        if asked_any && given.is_empty() {
            return Err(notify::INTERNAL_ADDRESS_FAILURE);
        }
        let mut reply: Vec<Attribute> = given.iter().copied().map(address_attribute).collect();
        reply.extend(ctx.pools.attributes(pools));
        self.assigned.peers = given;
        Ok(Some(configuration::emit(Kind::Reply, &reply)))
    }

    /// Answers a configuration in an INFORMATIONAL: what we know of, and that nothing can be set.
    pub(crate) fn answer_configuring(&self, parts: &[Payload<'_>], chain: &mut Chain) {
        let Some(body) = find(parts, payload::CP) else {
            return;
        };
        match configuration::parse(body) {
            Ok((Kind::Request, asked)) => {
                let supported = |a: &Attribute| matches!(a, Attribute::Supported(_));
                let told = asked.iter().any(supported);
                let reply = told.then(|| Attribute::Supported(KNOWN.to_vec()));
                let reply: Vec<Attribute> = reply.into_iter().collect();
                chain.push(payload::CP, &configuration::emit(Kind::Reply, &reply));
            }
            Ok((Kind::Set, _)) => {
                chain.push(payload::CP, &configuration::emit(Kind::Ack, &[]));
            }
            Ok((Kind::Reply | Kind::Ack, _)) | Err(_) => {}
        }
    }

    /// What stands for our side where a selector is dynamic.
    pub(crate) fn own_dynamic(&self) -> Vec<TrafficSelector> {
        if !self.assigned.own.is_empty() {
            return self
                .assigned
                .own
                .iter()
                .map(|a| TrafficSelector::host(*a))
                .collect();
        }
        if self.initiator && !self.connection.vips.is_empty() {
            // Whatever it will be (§2.19).
            let any = |vip: &IpAddr| TrafficSelector::prefix(*vip, 0);
            return self.connection.vips.iter().map(any).collect();
        }
        vec![TrafficSelector::host(self.path.local.ip())]
    }

    /// What stands for the peer's.
    pub(crate) fn peers_dynamic(&self) -> Vec<TrafficSelector> {
        let assigned = &self.assigned.peers;
        if assigned.is_empty() {
            return vec![TrafficSelector::host(self.path.remote.ip())];
        }
        assigned.iter().map(|a| TrafficSelector::host(*a)).collect()
    }

    /// It is gone, and with it what it was configured with.
    pub(crate) fn give_back(&mut self, ctx: &mut Ctx<'_>) {
        let assigned = std::mem::take(&mut self.assigned);
        for address in assigned.peers {
            ctx.pools.release(address);
        }
        if !assigned.own.is_empty() {
            let (addresses, attributes) = (assigned.own, assigned.attributes);
            ctx.event(Event::Unconfigured {
                addresses,
                attributes,
            });
        }
    }
}
