// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration: TOML whose keys are swanctl.conf's names.

/// The names of the fields in which two of a struct are not the same; it does not compile unless all are named.
macro_rules! differing {
    ($one:expr, $other:expr; $($field:ident)*) => {{
        let Self { $($field),* } = $one;
        let fields = [$((stringify!($field), *$field != $other.$field)),*];
        let differing = fields.into_iter().filter_map(|(name, differs)| differs.then_some(name));
        differing.collect::<Vec<&'static str>>()
    }};
}

mod auth;
mod cache;
mod child;
mod cluster;
mod connection;
mod credentials;
mod daemon;
mod diagnosis;
mod failover;
mod ikev1;
mod interface;
mod legacy;
mod manual;
mod metrics;
mod pool;
mod privileges;
mod puzzles;
mod secret;
mod text;
mod tfc_padding;
mod tun;
mod xauth;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ikev2d_crypto::{PrivateKey, name};
use ikev2d_proto::config::{Connection, Secret};
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keeper::Keeper;

pub use auth::{AuthSection, AuthSetting, RevocationSetting};
pub use cache::CacheSection;
pub use child::{ChildSection, CloseAction, DpdAction, HwOffload, Mode, PerResource, StartAction};
pub use cluster::ClusterSection;
pub use connection::{ConnectionSection, RedirectWhen, SendCertSetting, TcpSetting};
pub(crate) use credentials::Authority;
pub use credentials::{AuthoritySection, Credentials};
pub use daemon::{DaemonSection, DataplaneSetting, DeviceSetting};
pub use diagnosis::Place;
pub use failover::FailoverSection;
pub use interface::InterfaceSection;
pub(crate) use interface::check_named as check_interfaces;
pub use manual::{HexKey, KeyTable, ManualSection};
pub(crate) use manual::{Keys, keys as manual_keys};
pub use metrics::{MetricsListen, MetricsSection};
pub use pool::{AddressRange, PoolSection};
pub use privileges::{CapabilityName, PrivilegesSection, SeccompSetting};
pub use puzzles::{PuzzlesSection, SolvePuzzlesSection};
pub use secret::SecretSection;
pub(crate) use secret::check_secret;
pub use text::{AhProposal, EspProposal, FromText, IkeProposal, Seconds, Text};
pub use tfc_padding::TfcPadding;
pub use tun::TunSection;
pub(crate) use tun::cores;
pub use xauth::XauthSection;

/// Everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The daemon itself.
    #[serde(default)]
    pub daemon: DaemonSection,
    /// Other members that go on when this one dies (RFC 6311).
    pub cluster: Option<ClusterSection>,
    /// Peers by name.
    #[serde(default)]
    pub connections: BTreeMap<String, ConnectionSection>,
    /// Preshared keys by name (`ike-…`), postquantum ones (`ppk-…`, RFC 8784), passwords of EAP and XAUTH (`eap-…`, `xauth-…`), and files with private keys (`private-…`).
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSection>,
    /// TUN interfaces of route-based VPNs.
    #[serde(default)]
    pub interfaces: BTreeMap<String, InterfaceSection>,
    /// Addresses for peers.
    #[serde(default)]
    pub pools: BTreeMap<String, PoolSection>,
    /// Authorities that certificates of peers may come from.
    #[serde(default)]
    pub authorities: BTreeMap<String, AuthoritySection>,
    /// SAs with manual keys, by name.
    #[serde(default)]
    pub manual: BTreeMap<String, ManualSection>,
    /// Their keys.
    #[serde(skip)]
    pub(crate) manual_keys: BTreeMap<String, Keys>,
    /// What the files hold that it names.
    #[serde(skip)]
    pub(crate) credentials: Credentials,
    /// What is less than good in it, each with its setting.
    #[serde(skip)]
    pub warnings: Vec<String>,
    #[serde(skip)]
    policy: Vec<Arc<Connection>>,
}

/// The configuration can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is malformed.
    #[error("{place}: {what}")]
    Parse {
        /// Where.
        place: Place,
        /// What was found and expected.
        what: String,
    },
    /// It makes no sense.
    #[error("{place}: {key}: {what}")]
    Invalid {
        /// Where.
        place: Place,
        /// Which setting.
        key: String,
        /// What is wrong.
        what: String,
    },
}

impl Config {
    /// Says in the log what is unwise in it.
    pub fn log_warnings(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Draft::read(path)?.load(None)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Draft::parse(Zeroizing::new(text.to_owned()), path)?.load(None)
    }

    /// What the types do not say: the setting that is wrong, and why.
    fn check(&mut self) -> Result<(), (String, String)> {
        let inline = self.daemon.dataplane == DataplaneSetting::Inline;
        let no_tcp = "an inline card has no TCP: expected dataplane = \"tun\"";
        if inline && self.daemon.tcp_port != 0 {
            return Err(("daemon.tcp_port".to_owned(), no_tcp.to_owned()));
        }
        for (name, interface) in &self.interfaces {
            interface.check(name, &self.daemon)?;
        }
        self.daemon.privileges.check()?;
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
        }
        for (name, connection) in &self.connections {
            check_interfaces(connection, &self.interfaces)
                .map_err(|(key, what)| (format!("connections.{name}.{key}"), what))?;
            if inline && connection.tcp != TcpSetting::Off {
                return Err((format!("connections.{name}.tcp"), no_tcp.to_owned()));
            }
            connection
                .check()
                .map_err(|(key, what)| (format!("connections.{name}.{key}"), what))?;
            let told = connection.warnings().into_iter();
            let told = told.map(|warning| format!("connections.{name}.{warning}"));
            self.warnings.extend(told);
        }
        for (name, manual) in &self.manual {
            manual
                .check()
                .map_err(|(key, what)| (format!("manual.{name}.{key}"), what))?;
        }
        for (name, secret) in &self.secrets {
            let key = format!("secrets.{name}.secret");
            match (&secret.file, &secret.secret) {
                (None, Some(_)) if is_eap(name) => {}
                (None, Some(secret)) => match check_secret(secret.as_bytes()) {
                    Ok(warnings) => {
                        let told = warnings.into_iter().map(|what| format!("{key}: {what}"));
                        self.warnings.extend(told);
                    }
                    Err(what) => return Err((key, what)),
                },
                _ if is_ppk(name) || is_eap(name) => {
                    let what = "this secret is text, not a file".to_owned();
                    return Err((format!("secrets.{name}.file"), what));
                }
                (None, None) => return Err((key, "neither secret nor file is given".to_owned())),
                (Some(_), _) => {}
            }
            if is_ppk(name) && secret.ids.is_empty() {
                let what = "a PPK is found by its ids: at least one".to_owned();
                return Err((format!("secrets.{name}.ids"), what));
            }
        }
        Ok(())
    }

    /// Reads the files that it names; those of private keys are the keeper's to read, if there is one.
    fn load(&mut self, path: &Path, keeper: Option<&Keeper>) -> Result<(), (String, String)> {
        let mut credentials = Credentials::beside(path);
        let with_files = self
            .secrets
            .iter()
            .find(|(_, secret)| secret.file.is_some());
        let mut kept = match (keeper, with_files) {
            (Some(keeper), Some((name, _))) => {
                let loaded = keeper.load();
                loaded.map_err(|what| (format!("secrets.{name}.file"), what))?
            }
            _ => BTreeMap::new(),
        };
        for (name, secret) in &self.secrets {
            if let Some(file) = &secret.file {
                let passphrase = secret.secret.as_ref().map(|secret| secret.as_str());
                let wrong = |what| (format!("secrets.{name}.file"), what);
                if keeper.is_some() {
                    let changed = || Err("the configuration has changed meanwhile".to_owned());
                    let key = kept.remove(name).unwrap_or_else(changed).map_err(wrong)?;
                    credentials.add_kept(key, file, passphrase);
                } else {
                    let key = credentials.read_key(file, passphrase, &[]).map_err(wrong)?;
                    credentials.add_key(key);
                }
            } else if is_eap(name) {
                let password = secret.secret.as_ref().map_or("", |secret| secret.as_str());
                let ids: Vec<_> = secret.ids.iter().map(|id| name::identity(id)).collect();
                let read = credentials.add_eap_secret(&ids, password.as_bytes());
                read.map_err(|what| (format!("secrets.{name}.ids"), what))?;
            }
        }
        for (name, authority) in &self.authorities {
            let read = credentials.read_authority(name, authority);
            read.map_err(|(key, what)| (format!("authorities.{name}.{key}"), what))?;
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        for (name, section) in &self.manual {
            if section.keys.is_some()
                && let Ok(file) = std::fs::File::open(path)
            {
                let public = manual::refuse_public(path, &file);
                public.map_err(|what| (format!("manual.{name}.keys"), what))?;
            }
            let keys = section.read_keys(directory);
            let keys = keys.map_err(|what| (format!("manual.{name}.keys_file"), what))?;
            self.manual_keys.insert(name.clone(), keys);
        }
        let mut policy = Vec::new();
        for (name, section) in &self.connections {
            let connection = section.to_connection(name, &credentials, self.daemon.workers());
            let connection =
                connection.map_err(|(key, what)| (format!("connections.{name}.{key}"), what))?;
            policy.push(Arc::new(connection));
        }
        self.credentials = credentials;
        self.policy = policy;
        Ok(())
    }

    /// The policy for the core.
    pub fn policy(&self) -> Vec<Arc<Connection>> {
        self.policy.clone()
    }

    /// The preshared keys for the core.
    pub fn psks(&self) -> Vec<Secret> {
        self.shared_keys(|name| !is_ppk(name) && !is_eap(name))
    }

    /// The postquantum preshared keys for the core (RFC 8784).
    pub fn ppks(&self) -> Vec<Secret> {
        self.shared_keys(is_ppk)
    }

    fn shared_keys(&self, wanted: impl Fn(&str) -> bool) -> Vec<Secret> {
        self.secrets
            .iter()
            .filter(|(name, section)| section.file.is_none() && wanted(name))
            .filter_map(|(_, section)| {
                let secret = section.secret.as_ref()?;
                Some(Secret {
                    ids: section.ids.iter().map(|id| name::identity(id)).collect(),
                    secret: Zeroizing::new(secret.as_bytes().to_vec()),
                })
            })
            .collect()
    }
}

/// A configuration that is read, and the files that it names are not yet: who reads them may be another
/// user.
#[derive(Debug)]
pub struct Draft {
    config: Config,
    text: Zeroizing<String>,
    path: PathBuf,
}

impl Draft {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(Zeroizing::new(text), path)
    }

    fn parse(text: Zeroizing<String>, path: &Path) -> Result<Self, ConfigError> {
        let config = toml::from_str(&text).map_err(|error| {
            let (place, what) = diagnosis::of_parser(path, &text, &error);
            ConfigError::Parse { place, what }
        })?;
        let path = path.to_owned();
        Ok(Self { config, text, path })
    }

    /// The part about the daemon itself.
    pub fn daemon(&self) -> &DaemonSection {
        &self.config.daemon
    }

    /// Keeps what is read at a daemon's start alone as one runs with it: the settings of the file that are
    /// other. The program for addresses is looked for each time, and so is none of them.
    ///
    /// # Errors
    /// [`ConfigError`]: a daemon could not be started with the file.
    pub(crate) fn keep(&mut self, running: &Config) -> Result<Vec<String>, ConfigError> {
        self.check()?;
        self.config.warnings.clear();
        let differing = running.daemon.differing(&self.config.daemon).into_iter();
        let mut named: Vec<_> = differing.map(|name| format!("daemon.{name}")).collect();
        if running.cluster != self.config.cluster {
            named.push("cluster".to_owned());
        }
        self.config.daemon = DaemonSection {
            resolve_hook: self.config.daemon.resolve_hook.take(),
            ..running.daemon.clone()
        };
        self.config.cluster = running.cluster.clone();
        Ok(named)
    }

    fn check(&mut self) -> Result<(), ConfigError> {
        let checked = self.config.check();
        checked.map_err(|wrong| self.invalid(wrong))
    }

    fn invalid(&self, (key, what): (String, String)) -> ConfigError {
        ConfigError::Invalid {
            place: Place::of_key(&self.path, &self.text, &key),
            key,
            what,
        }
    }

    /// Who else may own private keys: the user that the daemon becomes.
    pub(crate) fn owners(&self) -> Vec<u32> {
        let user = self.config.daemon.privileges.user.as_ref();
        let user = user.and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
        user.map(|user| user.uid.as_raw()).into_iter().collect()
    }

    /// The private keys that it names, by the names of their secrets.
    pub(crate) fn private_keys(&self, owners: &[u32]) -> Vec<(String, Result<PrivateKey, String>)> {
        let credentials = Credentials::beside(&self.path);
        let secrets = self.config.secrets.iter();
        let read = secrets.filter_map(|(name, secret)| {
            let passphrase = secret.secret.as_ref().map(|secret| secret.as_str());
            let key = credentials.read_key(secret.file.as_ref()?, passphrase, owners);
            Some((name.clone(), key))
        });
        read.collect()
    }

    /// Reads the files, and makes sure that it all makes sense. With a keeper private keys are only there.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(mut self, keeper: Option<&Keeper>) -> Result<Config, ConfigError> {
        self.check()?;
        let loaded = self.config.load(&self.path, keeper);
        loaded.map_err(|wrong| self.invalid(wrong))?;
        Ok(self.config)
    }
}

/// Whether a secret's name is that of a postquantum preshared key, as in swanctl.conf.
fn is_ppk(name: &str) -> bool {
    name.starts_with("ppk")
}

/// Whether it is that of a password of EAP or XAUTH.
fn is_eap(name: &str) -> bool {
    name.starts_with("eap") || name.starts_with("xauth")
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, Path::new("configuration"))
    }
}

#[cfg(test)]
mod tests;
