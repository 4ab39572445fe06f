// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links, addresses, routes, kernel settings and address translation, by the system's own `ip` and `nft`.

use std::fs;

use crate::{Namespace, NamespaceError};

/// Joins two namespaces by a virtual Ethernet cable and brings both ends up.
///
/// Segmentation offload is off on both ends, so one frame on the wire is one packet: a capture sees what
/// a real cable would carry.
pub fn veth(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<(), NamespaceError> {
    let ((left, left_device), (right, right_device)) = (left, right);
    left.ip(&format!(
        "link add name {left_device} type veth peer name {right_device} netns {}",
        right.path()
    ))?;
    for (namespace, device) in [(left, left_device), (right, right_device)] {
        namespace.ip(&format!("link set dev {device} gso_max_segs 1"))?;
        namespace.ip(&format!("link set dev {device} up"))?;
    }
    Ok(())
}

impl Namespace {
    /// Runs `ip` inside; `arguments` are separated by spaces.
    pub fn ip(&self, arguments: &str) -> Result<String, NamespaceError> {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Adds an address (`10.0.0.1/24`, `fd00::1/64`) to a device, without duplicate address detection.
    pub fn address(&self, device: &str, address: &str) -> Result<(), NamespaceError> {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {address} dev {device}{nodad}"))
            .map(drop)
    }

    /// Adds a route, in the words of `ip route add`.
    pub fn route(&self, route: &str) -> Result<(), NamespaceError> {
        self.ip(&format!("route add {route}")).map(drop)
    }

    /// Sets a kernel parameter of this namespace, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), NamespaceError> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?
            .map_err(|source| NamespaceError::Start {
                name: self.name().to_owned(),
                command: format!("sysctl {key}={value}"),
                source,
            })
    }

    /// Loads an nftables script.
    pub fn nft(&self, script: &str) -> Result<(), NamespaceError> {
        self.run_with_input("nft", &["-f", "-"], script).map(drop)
    }

    /// Makes this namespace a router that rewrites the source of what leaves by `device`, with ports
    /// chosen at random (a NAPT, as RFC 3948 expects one in the path).
    pub fn masquerade(&self, device: &str) -> Result<(), NamespaceError> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.nft(&format!(
            "add table ip nat\n\
             add chain ip nat postrouting {{ type nat hook postrouting priority 100; }}\n\
             add rule ip nat postrouting oifname \"{device}\" masquerade random\n"
        ))
    }
}
