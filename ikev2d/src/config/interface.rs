// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[interfaces.NAME]`: a TUN interface of its own for the children that name it (route-based VPNs).

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;

use super::{ConnectionSection, DaemonSection, DataplaneSetting};

/// Octets of an interface's name at most (`IFNAMSIZ`, with its final zero).
const LONGEST_NAME: usize = 15;
/// What every IPv4 host must take (RFC 791 §3.2).
const LEAST_MTU: u16 = 68;

/// A further TUN interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InterfaceSection {
    /// Its MTU; that of `daemon.tun` if not said, and no more than that.
    pub mtu: Option<u16>,
    /// Addresses that it gets, with the lengths of their prefixes.
    pub addrs: Vec<IpNet>,
}

impl InterfaceSection {
    /// The setting that is wrong, and why.
    pub(super) fn check(&self, name: &str, daemon: &DaemonSection) -> Result<(), (String, String)> {
        let wrong = |key: &str, what: String| Err((format!("interfaces.{name}{key}"), what));
        if daemon.dataplane == DataplaneSetting::Inline {
            let what =
                "an inline card has one interface, its host port's: expected dataplane = \"tun\"";
            return wrong("", what.to_owned());
        }
        let odd = |c: char| c == '/' || c == '%' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(odd)
            || name.starts_with('.')
        {
            let what = format!(
                "no name for an interface: expected at most {LONGEST_NAME} octets without / % : and spaces"
            );
            return wrong("", what);
        }
        if name == daemon.tun.name {
            let what =
                "is the daemon's own interface (daemon.tun.name), whose routes the daemon sets";
            return wrong("", what.to_owned());
        }
        let most = daemon.tun.mtu;
        match self.mtu {
            Some(mtu) if !(LEAST_MTU..=most).contains(&mtu) => wrong(
                ".mtu",
                format!("{mtu}: expected {LEAST_MTU} to {most}, which is daemon.tun.mtu"),
            ),
            _ => Ok(()),
        }
    }
}

/// Whether the interfaces are there that a connection's children name: the setting, and why not.
pub(crate) fn check_named(
    connection: &ConnectionSection,
    interfaces: &BTreeMap<String, InterfaceSection>,
) -> Result<(), (String, String)> {
    for (name, child) in &connection.children {
        if let Some(interface) = &child.interface
            && !interfaces.contains_key(interface)
        {
            let what = format!("there is no [interfaces.{interface}]");
            return Err((format!("children.{name}.interface"), what));
        }
    }
    Ok(())
}
