// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interfaces of route-based VPNs: made as the configuration has them, and which child is bound to which.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::Daemon;
use crate::config::{ChildSection, InterfaceSection};
use crate::dataplane::InterfaceId;

/// Those that were made.
#[derive(Default)]
pub(super) struct Interfaces {
    made: BTreeMap<String, Made>,
    /// What each connection's child was bound to last: its SAs are rekeyed although it is configured no more.
    bound: HashMap<(String, String), InterfaceId>,
}

struct Made {
    id: InterfaceId,
    /// The kernel's number.
    index: u32,
    mtu: u16,
    addrs: Vec<IpNet>,
}

impl Interfaces {
    /// The one that a child's settings name.
    pub(super) fn named(&self, section: &ChildSection) -> Result<InterfaceId, String> {
        let Some(name) = &section.interface else {
            return Ok(InterfaceId::MAIN);
        };
        let made = self.made.get(name).map(|made| made.id);
        made.ok_or_else(|| format!("interface {name} is not there"))
    }

    /// The one for new SAs of a child.
    pub(super) fn bind(
        &mut self,
        (connection, child): (&str, &str),
        section: Option<&ChildSection>,
    ) -> Result<InterfaceId, String> {
        let key = || (connection.to_owned(), child.to_owned());
        let Some(section) = section else {
            let bound = self.bound.get(&key()).copied();
            return Ok(bound.unwrap_or_default());
        };
        let id = self.named(section)?;
        if id != InterfaceId::MAIN {
            self.bound.insert(key(), id);
        } else if !self.bound.is_empty() {
            self.bound.remove(&key());
        }
        Ok(id)
    }

    /// The name of one.
    pub(super) fn name(&self, id: InterfaceId) -> Option<&str> {
        let mut made = self.made.iter();
        made.find(|(_, made)| made.id == id)
            .map(|(name, _)| name.as_str())
    }
}

impl Daemon {
    /// Makes the interfaces those of the configuration. Routes and addresses of others' on one that stays
    /// are left alone.
    pub(super) async fn update_interfaces(&mut self) {
        let wanted = &self.config.interfaces;
        let gone = |name: &String| !wanted.contains_key(name);
        let gone: Vec<String> = self
            .interfaces
            .made
            .keys()
            .filter(|n| gone(n))
            .cloned()
            .collect();
        for name in gone {
            if let Some(made) = self.interfaces.made.remove(&name) {
                // One by one: routes of the daemon's may have such a source.
                for address in &made.addrs {
                    self.routes.remove_address(Some(made.index), *address).await;
                }
                self.plane.remove_interface(made.id);
                tracing::info!(name, "interface removed");
            }
        }
        let usual = self.config.daemon.tun.mtu;
        for (name, section) in wanted {
            let InterfaceSection { mtu, addrs } = section;
            let mtu = mtu.unwrap_or(usual);
            if let Some(made) = self.interfaces.made.get_mut(name) {
                if made.mtu != mtu {
                    self.routes.bring_up(made.index, Some(mtu)).await;
                    made.mtu = mtu;
                }
                for address in made.addrs.iter().filter(|a| !addrs.contains(a)) {
                    self.routes.remove_address(Some(made.index), *address).await;
                }
                for address in addrs.iter().filter(|a| !made.addrs.contains(a)) {
                    self.routes.add_address(Some(made.index), *address).await;
                }
                made.addrs.clone_from(addrs);
                continue;
            }
            let Some(added) = self.plane.add_interface(name, mtu) else {
                continue;
            };
            let id = match added {
                Ok(id) => id,
                Err(error) => {
                    tracing::error!(%error, "children that are bound to it can't be set up");
                    continue;
                }
            };
            let index = match nix::net::if_::if_nametoindex(name.as_str()) {
                Ok(index) => index,
                Err(error) => {
                    tracing::error!(name, %error, "the interface that was made is not there");
                    self.plane.remove_interface(id);
                    continue;
                }
            };
            self.routes.bring_up(index, None).await;
            for address in addrs {
                self.routes.add_address(Some(index), *address).await;
            }
            let addrs = addrs.clone();
            let made = Made {
                id,
                index,
                mtu,
                addrs,
            };
            self.interfaces.made.insert(name.clone(), made);
            tracing::info!(name, mtu, "interface made");
        }
    }
}
