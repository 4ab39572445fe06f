// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[pools.NAME]`: addresses for peers, with swanctl.conf's names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ikev2d_proto::pool::PoolConfig;
use ikev2d_proto::wire::configuration::Attribute;
use ipnet::IpNet;
use serde::Deserialize;

use super::text::{FromText, Text};

/// Addresses for peers, and what they are told along.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSection {
    /// A prefix, or a first and a last address with `-` between.
    pub addrs: Text<AddressRange>,
    /// DNS servers.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// NetBIOS name servers.
    #[serde(default)]
    pub nbns: Vec<Ipv4Addr>,
    /// DHCP servers.
    #[serde(default)]
    pub dhcp: Vec<IpAddr>,
    /// The netmask of the protected network.
    #[serde(default)]
    pub netmask: Vec<Ipv4Addr>,
    /// Protected networks.
    #[serde(default)]
    pub subnet: Vec<IpNet>,
}

/// Addresses from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// The first.
    pub start: IpAddr,
    /// The last.
    pub end: IpAddr,
}

impl FromText for AddressRange {
    /// Of a prefix with hosts neither the network's own address is taken nor its broadcast address.
    fn from_text(text: &str) -> Result<Self, String> {
        let error = || {
            format!("{text:?}: expected a prefix such as 10.3.0.0/24, or a range 10.3.0.1-10.3.0.9")
        };
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| error());
        if let Some((start, end)) = text.split_once('-') {
            let (start, end) = (address(start)?, address(end)?);
            let fits = start.is_ipv4() == end.is_ipv4() && start <= end;
            return if fits {
                Ok(Self { start, end })
            } else {
                Err(error())
            };
        }
        let Ok(net) = text.parse::<IpNet>() else {
            let one = address(text)?;
            return Ok(Self {
                start: one,
                end: one,
            });
        };
        let (start, end) = (net.network(), net.broadcast());
        Ok(match (start, end) {
            (IpAddr::V4(first), IpAddr::V4(last)) if net.prefix_len() < 31 => Self {
                start: Ipv4Addr::from(u32::from(first) + 1).into(),
                end: Ipv4Addr::from(u32::from(last) - 1).into(),
            },
            // RFC 4291 §2.6.1: the first one is every router's.
            (IpAddr::V6(first), end) if net.prefix_len() < 127 => Self {
                start: Ipv6Addr::from(u128::from(first) + 1).into(),
                end,
            },
            (start, end) => Self { start, end },
        })
    }
}

impl PoolSection {
    /// For the core.
    pub(crate) fn to_pool(&self) -> PoolConfig {
        let mut attributes = Vec::new();
        attributes.extend(self.dns.iter().map(|address| match address {
            IpAddr::V4(v4) => Attribute::Ip4Dns(Some(*v4)),
            IpAddr::V6(v6) => Attribute::Ip6Dns(Some(*v6)),
        }));
        attributes.extend(self.nbns.iter().map(|a| Attribute::Ip4Nbns(Some(*a))));
        attributes.extend(self.dhcp.iter().map(|address| match address {
            IpAddr::V4(v4) => Attribute::Ip4Dhcp(Some(*v4)),
            IpAddr::V6(v6) => Attribute::Ip6Dhcp(Some(*v6)),
        }));
        attributes.extend(self.netmask.iter().map(|a| Attribute::Ip4Netmask(Some(*a))));
        attributes.extend(self.subnet.iter().map(|net| match net {
            IpNet::V4(net) => Attribute::Ip4Subnet(Some((net.network(), net.netmask()))),
            IpNet::V6(net) => Attribute::Ip6Subnet(Some((net.network(), net.prefix_len()))),
        }));
        PoolConfig {
            start: self.addrs.0.start,
            end: self.addrs.0.end,
            attributes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_prefix_a_range_or_one() {
        for (text, start, end) in [
            ("10.3.0.0/24", "10.3.0.1", "10.3.0.254"),
            ("10.3.0.7/30", "10.3.0.5", "10.3.0.6"),
            ("10.3.0.8/31", "10.3.0.8", "10.3.0.9"),
            ("10.3.0.9", "10.3.0.9", "10.3.0.9"),
            ("10.3.0.10 - 10.3.0.20", "10.3.0.10", "10.3.0.20"),
            ("2001:db8::/120", "2001:db8::1", "2001:db8::ff"),
        ] {
            let range = AddressRange::from_text(text).unwrap();
            assert_eq!(range.start, start.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(range.end, end.parse::<IpAddr>().unwrap(), "{text}");
        }
        for text in [
            "",
            "10.3.0.0/33",
            "10.3.0.9-10.3.0.1",
            "10.3.0.1-2001:db8::1",
            "dhcp",
        ] {
            assert!(AddressRange::from_text(text).is_err(), "{text}");
        }
    }
}
