// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs with manual keys, by the configuration and by clients (`load-manual`, `unload-manual`).

use std::collections::HashMap;

use tokio::sync::oneshot;

use super::Daemon;
use super::control::respond;
use crate::config::ManualSection;
use crate::manual::CONNECTION;
use crate::routes::{Held, Routes, Traffic};
use crate::vici::message::Section;
use crate::vici::server::Reply;
use crate::vici::settings;

/// The routes of SAs with manual keys, by name.
#[derive(Default)]
pub(super) struct ManualRoutes {
    /// Of all that is configured, whether it could be installed or not.
    configured: HashMap<String, Held>,
    /// Of what clients have loaded.
    loaded: HashMap<String, Held>,
    /// What clients have loaded, and unloaded, and has its routes yet.
    due: Vec<String>,
    done: Vec<Held>,
}

fn hold(routes: &mut Routes, section: &ManualSection) -> Held {
    let (local, remote) = section.traffic();
    routes.hold(&Traffic {
        local: &local,
        remote: &remote,
        peers: &[section.remote],
        transport: false,
        standing: true,
    })
}

impl Daemon {
    /// Makes the SAs those of the configuration. One that can't be is told of, and its traffic is not let
    /// out in the clear: there are routes for all that is configured, and the new ones before the old ones
    /// go.
    pub(super) async fn update_manual(&mut self) {
        let wanted = &self.config.manual;
        let keys = &self.config.manual_keys;
        let gone: Vec<String> = self
            .manual
            .pairs()
            .filter(|(name, pair)| {
                let same = wanted.get(*name).zip(keys.get(*name));
                !pair.loaded
                    && !same.is_some_and(|(section, keys)| self.manual.is_as(name, section, keys))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut held = HashMap::new();
        for (name, section) in wanted {
            held.insert(name.clone(), hold(&mut self.routes, section));
        }
        for name in gone {
            if let Some(retiring) = self.manual.remove(&name) {
                let spi = retiring.section().spi_in.0;
                self.installer.reserve_spi(spi.value(), false);
                retiring.done().await;
                tracing::info!(name, "manual SAs removed");
            }
        }
        let before = std::mem::replace(&mut self.manual_held.configured, held);
        for (_, held) in before {
            self.routes.release(held);
        }
        for (name, held) in &self.manual_held.configured {
            if let Some(section) = wanted.get(name)
                && self.manual.pair(name).is_none()
            {
                self.routes.renew(held, &section.traffic().0);
            }
        }
        let new: Vec<_> = self
            .config
            .manual
            .iter()
            .filter(|(name, _)| self.manual.pair(name).is_none())
            .filter_map(|(name, section)| {
                let keys = self.config.manual_keys.get(name)?.clone();
                Some((name.clone(), section.clone(), keys))
            })
            .collect();
        for (name, section, keys) in new {
            match self.install_manual(&name, section, keys, false) {
                Ok(first) => tracing::info!(name, first, "manual SAs installed"),
                Err(error) => tracing::error!(
                    name,
                    "manual SAs are not installed, and their traffic is dropped: {error}"
                ),
            }
        }
    }

    fn install_manual(
        &mut self,
        name: &str,
        section: ManualSection,
        keys: crate::config::Keys,
        loaded: bool,
    ) -> Result<u64, String> {
        let spi = section.spi_in.0;
        if self.installer.has_spi(spi.value()) {
            return Err(format!("spi_in {spi} is a negotiated SA's"));
        }
        let first = self.manual.install(name, section, keys, loaded)?;
        self.installer.reserve_spi(spi.value(), true);
        self.succeed(CONNECTION, name);
        Ok(first)
    }

    /// `load-manual`: the first sequence number goes back.
    pub(super) fn load_manual(&mut self, message: &Section) -> Result<u64, String> {
        let (name, section, keys) = settings::manual(message)?;
        if self.config.manual.contains_key(&name) {
            return Err(format!(
                "manual SAs {name:?} are the configuration file's: change them there and reload"
            ));
        }
        let first = self.install_manual(&name, section, keys, true)?;
        self.manual_held.due.push(name);
        Ok(first)
    }

    /// Routes of what clients have loaded.
    pub(super) fn route_manual(&mut self) {
        for name in std::mem::take(&mut self.manual_held.due) {
            if let Some(pair) = self.manual.pair(&name) {
                let held = hold(&mut self.routes, &pair.section);
                self.manual_held.loaded.insert(name, held);
            }
        }
        for held in std::mem::take(&mut self.manual_held.done) {
            self.routes.release(held);
        }
    }

    /// `unload-manual`: answered when no packet is in the SAs any more.
    pub(super) fn unload_manual(&mut self, message: &Section, reply: oneshot::Sender<Reply>) {
        let name = message.text("name").unwrap_or_default();
        let refused = match self.manual.pair(name) {
            None => Some(format!("no manual SAs {name:?}")),
            Some(pair) if !pair.loaded => Some(format!(
                "manual SAs {name:?} are the configuration file's: change it and reload"
            )),
            Some(_) => None,
        };
        if let Some(error) = refused {
            let _ = reply.send(respond(Err(error)));
            return;
        }
        let Some(retiring) = self.manual.remove(name) else {
            return;
        };
        let spi = retiring.section().spi_in.0;
        self.installer.reserve_spi(spi.value(), false);
        let held = self.manual_held.loaded.remove(name);
        self.manual_held.done.extend(held);
        tokio::spawn(async move {
            retiring.done().await;
            let _ = reply.send(respond(Ok(())));
        });
    }
}
