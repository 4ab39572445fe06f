// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The connections that are set up: one text, one number each.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ikev2d::config::Config;
use ikev2d_proto::config::{
    AddressPattern, Connection, Identity, LocalAuth, Secret, SelectorConfig,
};
use ikev2d_proto::ts::TrafficSelector;

use super::Arguments;

/// What all have in common.
pub(super) struct Policy {
    template: Arc<Connection>,
    pub(super) secrets: Vec<Secret>,
    local_id: String,
    base: u32,
    from: Option<ipnet::IpNet>,
    source: IpAddr,
    resume: bool,
}

/// For how long tickets are kept.
const TICKET_LIFE: Duration = Duration::from_secs(3600);

impl Policy {
    pub(super) fn new(arguments: &Arguments, source: IpAddr) -> Result<Self> {
        let config = match &arguments.config {
            Some(path) => Config::read(path)?,
            None => text(arguments).parse()?,
        };
        let template = config.policy().into_iter().next();
        Ok(Self {
            template: template.context("the configuration has no connection")?,
            secrets: config.psks(),
            local_id: arguments.local_id.clone(),
            base: arguments.local_ts.network().into(),
            from: arguments.from,
            source,
            resume: arguments.resume,
        })
    }

    /// The name of one.
    pub(super) fn name(number: u64) -> String {
        format!("load-{number}")
    }

    /// The number of a name.
    pub(super) fn number(name: &str) -> Option<u64> {
        name.strip_prefix("load-")?.parse().ok()
    }

    /// The child that each has.
    pub(super) fn child(&self) -> Option<&str> {
        let first = self.template.children.first();
        first.map(|child| child.name.as_str())
    }

    /// One of them.
    pub(super) fn connection(&self, number: u64, peer: IpAddr) -> Result<Connection> {
        let mut connection = (*self.template).clone();
        connection.name = Self::name(number);
        connection.resumption = self.resume.then_some(TICKET_LIFE);
        let from = self.source(number)?;
        connection.local_addrs = vec![host(from)];
        connection.remote_addrs = vec![host(peer)];
        if matches!(connection.local_auth, LocalAuth::SharedKey) {
            let id = self.local_id.replace("{}", &number.to_string());
            connection.local_id = Identity::parse(&id);
        }
        let inner = Ipv4Addr::from(self.base.wrapping_add(1).wrapping_add(number as u32));
        for child in &mut connection.children {
            child.local_ts = vec![SelectorConfig::Fixed(TrafficSelector::prefix(
                inner.into(),
                32,
            ))];
        }
        Ok(connection)
    }

    /// Where one comes from.
    pub(super) fn source(&self, number: u64) -> Result<IpAddr> {
        match self.from {
            None => Ok(self.source),
            Some(net) => nth(net, number),
        }
    }
}

/// An address of a net, without its first and last.
pub(super) fn nth(net: ipnet::IpNet, number: u64) -> Result<IpAddr> {
    match net {
        ipnet::IpNet::V4(v4) => {
            let hosts = 1u64 << (32 - u32::from(v4.prefix_len()));
            let usable = hosts.saturating_sub(2).max(1);
            let first = u32::from(v4.network());
            let at = first.wrapping_add((number % usable + 1) as u32);
            Ok(Ipv4Addr::from(at).into())
        }
        ipnet::IpNet::V6(v6) => {
            let first = u128::from(v6.network());
            let bits = 128 - u32::from(v6.prefix_len());
            let usable = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
            let at = first.wrapping_add(1 + u128::from(number) % usable.saturating_sub(2).max(1));
            Ok(std::net::Ipv6Addr::from(at).into())
        }
    }
}

fn host(address: IpAddr) -> AddressPattern {
    AddressPattern::Prefix(address, if address.is_ipv4() { 32 } else { 128 })
}

/// The arguments as a configuration.
fn text(arguments: &Arguments) -> String {
    let childless = if arguments.childless {
        "allow"
    } else {
        "never"
    };
    let child = match arguments.childless {
        true => String::new(),
        false => format!(
            "[connections.load.children.net]\nlocal_ts = [\"{}\"]\nremote_ts = [\"{}\"]\n\
             esp_proposals = [{:?}]\nrekey_time = 0\n",
            arguments.local_ts, arguments.remote_ts, arguments.esp
        ),
    };
    format!(
        "[connections.load]\nproposals = [{:?}]\nrekey_time = 0\nchildless = {childless:?}\n\
         local = {{ auth = \"psk\", id = \"load\" }}\n\
         remote = {{ auth = \"psk\", id = {:?} }}\n{child}\
         [secrets.ike-load]\nsecret = {:?}\n",
        arguments.proposal, arguments.remote_id, arguments.psk
    )
}

/// The address that this host sends from to a peer.
pub(super) fn source_towards(peer: std::net::SocketAddr) -> Result<IpAddr> {
    let any = if peer.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = std::net::UdpSocket::bind(any)?;
    let to = || -> std::io::Result<IpAddr> {
        socket.connect(peer)?;
        Ok(socket.local_addr()?.ip())
    };
    to().map_err(|error| anyhow!("no way to {peer}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_net_go_round() {
        let net: ipnet::IpNet = "10.64.0.0/30".parse().unwrap();
        let all: Vec<String> = (0..4).map(|n| nth(net, n).unwrap().to_string()).collect();
        assert_eq!(all, ["10.64.0.1", "10.64.0.2", "10.64.0.1", "10.64.0.2"]);
        let net: ipnet::IpNet = "fd00::/64".parse().unwrap();
        assert_eq!(nth(net, 4).unwrap().to_string(), "fd00::5");
    }
}
