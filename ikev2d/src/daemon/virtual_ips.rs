// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that peers give us (RFC 7296 §3.15) are put on the interface, and what comes with them is
//! handed to a program of the administrator's; both are undone at the end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use ikev2d_proto::wire::configuration::Attribute;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::launcher::{HookCall, Launcher, Verb};

/// The addresses, and how many IKE SAs have each: two while one is replaced by another.
pub(super) struct VirtualIps {
    all: BTreeMap<IpAddr, usize>,
    launcher: Launcher,
    hook: Option<Hook>,
}

impl VirtualIps {
    pub(super) fn new(launcher: Launcher) -> Self {
        Self {
            all: BTreeMap::new(),
            launcher,
            hook: None,
        }
    }
}

/// Calls the program, one call after another, on a thread of its own.
struct Hook {
    calls: Sender<HookCall>,
    thread: JoinHandle<()>,
}

fn call(launcher: &Launcher, call: HookCall) {
    if let Err(error) = launcher.hook(call) {
        tracing::warn!(%error, "resolve_hook");
    }
}

/// What a peer has told along with addresses.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Along {
    pub(crate) dns_servers: Vec<IpAddr>,
    pub(crate) nbns_servers: Vec<IpAddr>,
    pub(crate) dhcp_servers: Vec<IpAddr>,
    pub(crate) netmasks: Vec<IpAddr>,
    /// Networks that it protects; those whose mask is none are passed over.
    pub(crate) subnets: Vec<IpNet>,
}

impl Along {
    pub(crate) fn new(attributes: &[Attribute]) -> Self {
        let mut all = Self::default();
        for attribute in attributes {
            match *attribute {
                Attribute::Ip4Dns(Some(v4)) => all.dns_servers.push(v4.into()),
                Attribute::Ip6Dns(Some(v6)) => all.dns_servers.push(v6.into()),
                Attribute::Ip4Nbns(Some(v4)) => all.nbns_servers.push(v4.into()),
                Attribute::Ip4Dhcp(Some(v4)) => all.dhcp_servers.push(v4.into()),
                Attribute::Ip6Dhcp(Some(v6)) => all.dhcp_servers.push(v6.into()),
                Attribute::Ip4Netmask(Some(mask)) => all.netmasks.push(mask.into()),
                Attribute::Ip4Subnet(Some((address, mask))) => {
                    let net = IpNet::with_netmask(address.into(), mask.into());
                    all.subnets.extend(net.ok());
                }
                Attribute::Ip6Subnet(Some((address, bits))) => {
                    all.subnets.extend(IpNet::new(address.into(), bits).ok());
                }
                _ => {}
            }
        }
        all
    }

    /// By the names that pools give them in the configuration.
    pub(crate) fn named(&self) -> [(&'static str, Vec<String>); 5] {
        [
            ("dns", texts(&self.dns_servers)),
            ("nbns", texts(&self.nbns_servers)),
            ("dhcp", texts(&self.dhcp_servers)),
            ("netmask", texts(&self.netmasks)),
            ("subnet", texts(&self.subnets)),
        ]
    }
}

fn texts(all: &[impl ToString]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

impl Daemon {
    /// Puts addresses on the interface.
    pub(super) async fn configured(&mut self, addresses: &[IpAddr], attributes: &[Attribute]) {
        for address in addresses {
            let count = self.virtual_ips.all.entry(*address).or_default();
            *count += 1;
            if *count == 1 {
                self.routes.add_address(None, (*address).into()).await;
            }
        }
        self.call_hook(Verb::Up, addresses, attributes);
    }

    /// Takes them off again.
    pub(super) async fn unconfigured(&mut self, addresses: &[IpAddr], attributes: &[Attribute]) {
        for address in addresses {
            let Some(count) = self.virtual_ips.all.get_mut(address) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.virtual_ips.all.remove(address);
                self.routes.remove_address(None, (*address).into()).await;
            }
        }
        self.call_hook(Verb::Down, addresses, attributes);
    }

    fn call_hook(&mut self, verb: Verb, addresses: &[IpAddr], attributes: &[Attribute]) {
        if self.config.daemon.resolve_hook.is_none() {
            return;
        }
        let launcher = &self.virtual_ips.launcher;
        let hook = self.virtual_ips.hook.get_or_insert_with(|| {
            let (calls, due) = channel::<HookCall>();
            let launcher = launcher.clone();
            let each = move || due.into_iter().for_each(|due| call(&launcher, due));
            let thread = std::thread::spawn(each);
            Hook { calls, thread }
        });
        let call = HookCall {
            verb,
            interface: self.plane.interface().to_owned(),
            addresses: addresses.to_vec(),
            along: Along::new(attributes),
        };
        let _ = hook.calls.send(call);
    }

    /// At the end: what is still there is undone, and the last call waited for.
    pub(super) async fn undo_configuration(&mut self) {
        let left: Vec<(Vec<IpAddr>, Vec<Attribute>)> = self
            .endpoint
            .ike_sas()
            .filter(|sa| !sa.local_vips.is_empty())
            .map(|sa| (sa.local_vips.to_vec(), sa.attributes.to_vec()))
            .collect();
        for (addresses, attributes) in left {
            self.unconfigured(&addresses, &attributes).await;
        }
        if let Some(Hook { calls, thread }) = self.virtual_ips.hook.take() {
            drop(calls);
            let _ = thread.join();
        }
    }
}
