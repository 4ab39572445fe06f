// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs with manual keys, by the configuration and by clients (`load-manual`, `unload-manual`).

use tokio::sync::oneshot;

use super::Daemon;
use super::control::respond;
use crate::manual::CONNECTION;
use crate::vici::message::Section;
use crate::vici::server::Reply;
use crate::vici::settings;

impl Daemon {
    /// Makes the SAs those of the configuration. One that can't be is told of, and its traffic is not let
    /// out in the clear.
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
        for name in gone {
            if let Some(retiring) = self.manual.remove(&name) {
                let spi = retiring.section().spi_in.0;
                self.installer.reserve_spi(spi.value(), false);
                let (_, remote) = retiring.section().traffic();
                self.routes.remove(&remote);
                retiring.done().await;
                tracing::info!(name, "manual SAs removed");
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
            let (local, remote) = section.traffic();
            // Also of one that is refused: without a policy its packets are dropped.
            let refused = self.refused_manual.remove(&name);
            if !refused {
                self.routes.add(&local, &remote, section.remote);
            }
            match self.install_manual(&name, section, keys, false) {
                Ok(first) => tracing::info!(name, first, "manual SAs installed"),
                Err(error) => {
                    self.refused_manual.insert(name.clone());
                    tracing::error!(
                        name,
                        "manual SAs are not installed, and their traffic is dropped: {error}"
                    );
                }
            }
        }
    }

    fn install_manual(
        &mut self,
        name: &str,
        section: crate::config::ManualSection,
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
        self.manual_routes.push(name);
        Ok(first)
    }

    /// Routes of what clients have loaded.
    pub(super) async fn route_manual(&mut self) {
        for name in std::mem::take(&mut self.manual_routes) {
            if let Some(pair) = self.manual.pair(&name) {
                let (local, remote) = pair.section.traffic();
                let peer = pair.section.remote;
                self.routes.add(&local, &remote, peer);
            }
        }
        for section in std::mem::take(&mut self.manual_unroutes) {
            let (_, remote) = section.traffic();
            self.routes.remove(&remote);
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
        let section = retiring.section().clone();
        self.installer.reserve_spi(section.spi_in.0.value(), false);
        self.manual_unroutes.push(section);
        tokio::spawn(async move {
            retiring.done().await;
            let _ = reply.send(respond(Ok(())));
        });
    }
}
