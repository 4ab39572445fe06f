// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections and secrets that clients load while the daemon runs. They come beside those of the
//! configuration, survive its re-reading, and can't replace its connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use ikev2d_proto::config::Secret;

use super::Daemon;
use crate::config::{ChildSection, Config, ConnectionSection, StartAction};
use crate::vici::message::Section;
use crate::vici::settings;

/// What clients have loaded.
#[derive(Default)]
pub(super) struct Loaded {
    connections: BTreeMap<String, ConnectionSection>,
    secrets: BTreeMap<String, Secret>,
}

impl Loaded {
    /// A child's settings, by file or by client.
    pub(super) fn child<'a>(
        &'a self,
        config: &'a Config,
        connection: &str,
        child: &str,
    ) -> Option<&'a ChildSection> {
        self.connection(config, connection)?.children.get(child)
    }

    /// A connection's settings, by file or by client.
    pub(super) fn connection<'a>(
        &'a self,
        config: &'a Config,
        name: &str,
    ) -> Option<&'a ConnectionSection> {
        let loaded = || self.connections.get(name);
        config.connections.get(name).or_else(loaded)
    }

    /// The answer to `get-conns` and its like: what was loaded, so that a client unloads only that.
    pub(super) fn names(&self, command: &str) -> Section {
        let mut response = Section::default();
        match command {
            "get-conns" => response.put_list("conns", self.connections.keys().cloned()),
            "get-shared" => response.put_list("keys", self.secrets.keys().cloned()),
            "get-keys" => response.put_list("keys", []),
            "get-authorities" => response.put_list("authorities", []),
            _ => {}
        }
        response
    }
}

impl Daemon {
    /// Gives the core the policy of the configuration and of clients.
    pub(super) fn apply_policy(&mut self) {
        let mut policy = self.config.policy();
        let mut secrets = self.config.psks();
        let loaded = self.loaded.connections.iter();
        policy.extend(loaded.map(|(name, section)| Arc::new(section.to_connection(name))));
        secrets.extend(self.loaded.secrets.values().cloned());
        self.endpoint.set_connections(policy);
        self.endpoint.set_secrets(secrets);
        self.traps_due = true;
    }

    pub(super) fn load_connection(&mut self, message: &Section) -> Result<(), String> {
        let (name, section) = settings::connection(message)?;
        if self.config.connections.contains_key(&name) {
            return Err(format!(
                "connection {name:?} is the configuration file's: change it there and reload"
            ));
        }
        let start: Vec<String> = section
            .children
            .iter()
            .filter(|(_, child)| child.start_action == StartAction::Start)
            .map(|(child, _)| child.clone())
            .collect();
        self.loaded.connections.insert(name.clone(), section);
        self.apply_policy();
        for child in start {
            let present = self.endpoint.ike_sas().any(|sa| {
                sa.connection == name && sa.children.iter().any(|info| info.sa.child == child)
            });
            if !present && let Err(error) = self.initiate(&name, Some(&child)) {
                tracing::warn!(name, child, %error, "could not be started");
            }
        }
        Ok(())
    }

    pub(super) fn unload_connection(&mut self, message: &Section) -> Result<(), String> {
        let name = message.text("name").unwrap_or_default();
        if self.loaded.connections.remove(name).is_none() {
            return Err(format!("no loaded connection {name:?}"));
        }
        self.apply_policy();
        Ok(())
    }

    pub(super) fn load_secret(&mut self, message: &Section) -> Result<(), String> {
        let (id, secret) = settings::secret(message)?;
        self.loaded.secrets.insert(id, secret);
        self.apply_policy();
        Ok(())
    }

    pub(super) fn unload_secret(&mut self, message: &Section) -> Result<(), String> {
        let id = message.text("id").unwrap_or_default();
        if self.loaded.secrets.remove(id).is_none() {
            return Err(format!("no loaded secret {id:?}"));
        }
        self.apply_policy();
        Ok(())
    }

    pub(super) fn clear_secrets(&mut self) {
        self.loaded.secrets.clear();
        self.apply_policy();
    }
}
