// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections and secrets that clients load while the daemon runs. They come beside those of the
//! configuration, survive its re-reading, and can't replace its connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use ikev2d_crypto::credential::{certificates, key_id, private_key};
use ikev2d_proto::config::{Connection, Secret};

use super::Daemon;
use crate::config::{
    AuthoritySection, ChildSection, Config, ConnectionSection, Credentials, PoolSection,
    StartAction, check_interfaces,
};
use crate::vici::lists;
use crate::vici::message::Section;
use crate::vici::settings::{self, SharedKind};

/// What clients have loaded.
#[derive(Default)]
pub(super) struct Loaded {
    connections: BTreeMap<String, ConnectionSection>,
    secrets: BTreeMap<String, (Secret, SharedKind)>,
    pools: BTreeMap<String, PoolSection>,
    authorities: BTreeMap<String, AuthoritySection>,
    /// Private keys and authorities.
    credentials: Credentials,
    /// Ids of the private keys.
    keys: Vec<String>,
    /// What the connections are to the core.
    policy: BTreeMap<String, Arc<Connection>>,
    /// Keys or authorities have changed since.
    stale: bool,
}

impl Loaded {
    /// A child's settings, by file or by client.
    pub(super) fn child<'a>(
        &'a self,
        config: &'a Config,
        connection: &str,
        child: &str,
    ) -> Option<&'a Arc<ChildSection>> {
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

    /// Keys and authorities, by file and by client.
    fn credentials(&self, config: &Config) -> Credentials {
        let mut all = config.credentials.with(&self.credentials);
        for (name, section) in &self.authorities {
            // Its files may have gone since.
            if let Err((key, what)) = all.read_authority(name, section) {
                tracing::warn!("authority {name} is out of use: {key}: {what}");
            }
        }
        for (id, (secret, kind)) in &self.secrets {
            if *kind == SharedKind::Eap
                && let Err(what) = all.add_eap_secret(&secret.ids, &secret.secret)
            {
                tracing::warn!("secret {id} is out of use: {what}");
            }
        }
        all
    }

    /// Takes one in. The others stay as they are: clients load them one by one, thousands of them.
    fn add_connection(
        &mut self,
        config: &Config,
        name: String,
        section: ConnectionSection,
    ) -> Result<(), String> {
        check_interfaces(&section, &config.interfaces)
            .map_err(|(key, what)| format!("{name}.{key}: {what}"))?;
        let made = section.to_connection(&name, &self.credentials(config), config.daemon.workers());
        let made = made.map_err(|(key, what)| format!("{name}.{key}: {what}"))?;
        self.policy.insert(name.clone(), Arc::new(made));
        self.connections.insert(name, section);
        Ok(())
    }

    /// Makes the connections anew if they are not as they are to be. Whether they were not.
    fn refresh(&mut self, config: &Config) -> bool {
        let stale = std::mem::take(&mut self.stale);
        if stale {
            self.rebuild(config);
        }
        stale
    }

    /// Makes the connections anew with the keys and authorities that there are now. One that lacks
    /// what it needs is out of use until it is loaded again.
    fn rebuild(&mut self, config: &Config) {
        let credentials = self.credentials(config);
        self.policy.clear();
        for (name, section) in &self.connections {
            match section.to_connection(name, &credentials, config.daemon.workers()) {
                Ok(connection) => {
                    self.policy.insert(name.clone(), Arc::new(connection));
                }
                Err((key, what)) => {
                    tracing::warn!("connection {name} is out of use: {key}: {what}");
                }
            }
        }
    }

    /// The answer to `get-conns` and its like: what was loaded, so that a client unloads only that.
    pub(super) fn names(&self, command: &str) -> Section {
        let mut response = Section::default();
        match command {
            "get-conns" => response.put_list("conns", self.connections.keys().cloned()),
            "get-shared" => response.put_list("keys", self.secrets.keys().cloned()),
            "get-keys" => response.put_list("keys", self.keys.iter().cloned()),
            "get-authorities" => {
                response.put_list("authorities", self.authorities.keys().cloned());
            }
            _ => {}
        }
        response
    }
}

impl Daemon {
    /// The policy is to be made with the keys and authorities that there are now: before it is needed,
    /// and once for all of them that come in a row.
    pub(super) fn credentials_changed(&mut self) {
        self.loaded.stale = true;
    }

    /// Gives the core the policy as it is to be, if it is not.
    pub(super) fn refresh_policy(&mut self) {
        if self.loaded.refresh(&self.config) {
            self.apply_policy();
        }
    }

    /// Gives the core the policy of the configuration and of clients.
    pub(super) fn apply_policy(&mut self) {
        let mut policy = self.config.policy();
        policy.extend(self.loaded.policy.values().cloned());
        self.endpoint.set_connections(policy);
        let loaded = |wanted| {
            let all = self.loaded.secrets.values();
            all.filter(move |(_, kind)| *kind == wanted)
                .map(|(secret, _)| secret.clone())
        };
        let (mut secrets, mut ppks) = (self.config.psks(), self.config.ppks());
        secrets.extend(loaded(SharedKind::Psk));
        ppks.extend(loaded(SharedKind::Ppk));
        self.endpoint.set_secrets(secrets);
        self.endpoint.set_ppks(ppks);
        let pools = self.loaded.pools.iter().chain(&self.config.pools);
        let pools = pools.map(|(name, section)| (name.clone(), section.to_pool()));
        self.endpoint.pools_mut().set(pools.collect());
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
        for warning in section.warnings() {
            tracing::warn!("{name}.{warning}");
        }
        self.loaded
            .add_connection(&self.config, name.clone(), section)?;
        self.apply_policy();
        if let Some(connection) = self.loaded.policy.get(&name) {
            self.endpoint.add_children(connection);
        }
        for child in start {
            self.start_missing(&name, &child);
        }
        Ok(())
    }

    pub(super) fn unload_connection(&mut self, message: &Section) -> Result<(), String> {
        let name = message.text("name").unwrap_or_default();
        if self.loaded.connections.remove(name).is_none() {
            return Err(format!("no loaded connection {name:?}"));
        }
        self.loaded.policy.remove(name);
        self.apply_policy();
        Ok(())
    }

    pub(super) fn load_pool(&mut self, message: &Section) -> Result<(), String> {
        let (name, pool) = settings::pool(message)?;
        if self.config.pools.contains_key(&name) {
            return Err(format!(
                "pool {name:?} is the configuration file's: change it there and reload"
            ));
        }
        self.loaded.pools.insert(name, pool);
        self.apply_policy();
        Ok(())
    }

    pub(super) fn unload_pool(&mut self, message: &Section) -> Result<(), String> {
        let name = message.text("name").unwrap_or_default();
        if self.loaded.pools.remove(name).is_none() {
            return Err(format!("no loaded pool {name:?}"));
        }
        self.apply_policy();
        Ok(())
    }

    pub(super) fn load_secret(&mut self, message: &Section) -> Result<(), String> {
        let (id, secret, kind) = settings::secret(message)?;
        if kind == SharedKind::Eap {
            Credentials::default().add_eap_secret(&secret.ids, &secret.secret)?;
        }
        let before = self.loaded.secrets.insert(id, (secret, kind));
        let before = before.map(|(_, kind)| kind);
        self.secret_changed([Some(kind), before]);
        Ok(())
    }

    pub(super) fn unload_secret(&mut self, message: &Section) -> Result<(), String> {
        let id = message.text("id").unwrap_or_default();
        let Some((_, kind)) = self.loaded.secrets.remove(id) else {
            return Err(format!("no loaded secret {id:?}"));
        };
        self.secret_changed([Some(kind), None]);
        Ok(())
    }

    /// Connections have passwords of EAP in them; other secrets are looked up.
    fn secret_changed(&mut self, kinds: [Option<SharedKind>; 2]) {
        match kinds.contains(&Some(SharedKind::Eap)) {
            true => self.credentials_changed(),
            false => self.apply_policy(),
        }
    }

    pub(super) fn load_authority(&mut self, message: &Section) -> Result<(), String> {
        let (name, section) = settings::authority(message)?;
        if self.config.authorities.contains_key(&name) {
            return Err(format!(
                "authority {name:?} is the configuration file's: change it there and reload"
            ));
        }
        let mut checked = self.config.credentials.clone();
        let read = checked.read_authority(&name, &section);
        read.map_err(|(key, what)| format!("{name}.{key}: {what}"))?;
        self.loaded.authorities.insert(name, section);
        self.credentials_changed();
        Ok(())
    }

    pub(super) fn unload_authority(&mut self, message: &Section) -> Result<(), String> {
        let name = message.text("name").unwrap_or_default();
        if self.loaded.authorities.remove(name).is_none() {
            return Err(format!("no loaded authority {name:?}"));
        }
        self.credentials_changed();
        Ok(())
    }

    /// Authorities by file and by client.
    pub(super) fn authorities(&self) -> Vec<ikev2d_crypto::X509> {
        let all = self.loaded.credentials(&self.config);
        all.authorities().to_vec()
    }

    /// `list-authority` events: those with a name, and where one hears whether their certificates are
    /// revoked.
    pub(super) fn list_authorities(&self, message: &Section) -> Vec<(&'static str, Section)> {
        let all = self.loaded.credentials(&self.config);
        let wanted = message.text("name");
        let named = all
            .named()
            .filter(|(name, _)| wanted.is_none_or(|w| w == *name));
        named
            .map(|(name, authority)| ("list-authority", lists::authority(name, authority)))
            .collect()
    }

    /// `load-key`: a private key in PEM or DER; its id is the hash of its public key.
    pub(super) fn load_key(&mut self, message: &Section) -> Result<String, String> {
        let data = message.octets("data").ok_or("no data")?;
        let key = private_key(data, None).map_err(|error| error.to_string())?;
        let id = key_id(&key).map_err(|error| error.to_string())?;
        self.loaded.credentials.add_key(key);
        if !self.loaded.keys.contains(&id) {
            self.loaded.keys.push(id.clone());
        }
        self.credentials_changed();
        Ok(id)
    }

    /// `load-cert`: an authority's. Those of ends come with their connections.
    pub(super) fn load_certificate(&mut self, message: &Section) -> Result<(), String> {
        let data = message.octets("data").ok_or("no data")?;
        let kind = message.text("type").unwrap_or("X509");
        if !kind.eq_ignore_ascii_case("x509") {
            return Err(format!(
                "certificate of type {kind:?}: only X509 is supported"
            ));
        }
        for certificate in certificates(data).map_err(|error| error.to_string())? {
            if message
                .text("flag")
                .is_some_and(|flag| flag.eq_ignore_ascii_case("ca"))
            {
                self.loaded.credentials.add_authority(certificate);
            }
        }
        self.credentials_changed();
        Ok(())
    }

    pub(super) fn clear_secrets(&mut self) {
        self.loaded.secrets.clear();
        self.loaded.keys.clear();
        self.loaded.credentials = Credentials::default();
        self.credentials_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B54, B55: one more connection leaves those that are there alone.
    #[test]
    fn a_further_connection_makes_no_other_anew() {
        let config: Config = "".parse().unwrap();
        let text = "local = { auth = \"psk\" }\nremote = { auth = \"psk\" }";
        let section = || toml::from_str::<ConnectionSection>(text).unwrap();
        let mut loaded = Loaded::default();
        let added = loaded.add_connection(&config, "first".to_owned(), section());
        added.unwrap();
        let first = loaded.policy["first"].clone();
        let added = loaded.add_connection(&config, "second".to_owned(), section());
        added.unwrap();
        assert!(Arc::ptr_eq(&first, &loaded.policy["first"]));
        assert_eq!((loaded.policy.len(), loaded.connections.len()), (2, 2));
        // Credentials that come in a row make them anew once.
        for _ in 0..100 {
            loaded.stale = true;
        }
        assert!(Arc::ptr_eq(&first, &loaded.policy["first"]));
        assert!(loaded.refresh(&config) && !loaded.refresh(&config));
        assert!(!Arc::ptr_eq(&first, &loaded.policy["first"]));
        assert_eq!(loaded.policy.len(), 2);
    }
}
