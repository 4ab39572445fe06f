// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration: TOML whose keys are swanctl.conf's names.

mod auth;
mod cache;
mod child;
mod connection;
mod credentials;
mod daemon;
mod diagnosis;
mod failover;
mod ikev1;
mod pool;
mod secret;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ikev2d_crypto::name;
use ikev2d_proto::config::{Connection, Secret};
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

pub use auth::{AuthSection, AuthSetting, RevocationSetting};
pub use cache::CacheSection;
pub use child::{ChildSection, CloseAction, DpdAction, HwOffload, Mode, StartAction};
pub use connection::{ConnectionSection, SendCertSetting};
pub use credentials::{AuthoritySection, Credentials};
pub(crate) use daemon::cores;
pub use daemon::{DaemonSection, DataplaneSetting, DeviceSetting, TunSection};
pub use diagnosis::Place;
pub use failover::FailoverSection;
pub use pool::{AddressRange, PoolSection};
pub use secret::SecretSection;
pub(crate) use secret::check_secret;
pub use text::{AhProposal, EspProposal, FromText, IkeProposal, Seconds, Text};

/// Everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The daemon itself.
    #[serde(default)]
    pub daemon: DaemonSection,
    /// Peers by name.
    #[serde(default)]
    pub connections: BTreeMap<String, ConnectionSection>,
    /// Preshared keys by name (`ike-…`), postquantum ones (`ppk-…`, RFC 8784), and files with private keys (`private-…`).
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSection>,
    /// Addresses for peers.
    #[serde(default)]
    pub pools: BTreeMap<String, PoolSection>,
    /// Authorities that certificates of peers may come from.
    #[serde(default)]
    pub authorities: BTreeMap<String, AuthoritySection>,
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
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            Zeroizing::new(
                std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
                    path: path.to_owned(),
                    error,
                })?,
            );
        Self::parse(&text, path)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let (place, what) = diagnosis::of_parser(path, text, &error);
            ConfigError::Parse { place, what }
        })?;
        let checked = config.check().and_then(|()| config.load(path));
        checked.map_err(|(key, what)| ConfigError::Invalid {
            place: Place::of_key(path, text, &key),
            key,
            what,
        })?;
        Ok(config)
    }

    /// What the types do not say: the setting that is wrong, and why.
    fn check(&mut self) -> Result<(), (String, String)> {
        for (name, connection) in &self.connections {
            connection
                .check()
                .map_err(|(key, what)| (format!("connections.{name}.{key}"), what))?;
        }
        for (name, secret) in &self.secrets {
            let key = format!("secrets.{name}.secret");
            match (&secret.file, &secret.secret) {
                (None, Some(secret)) => match check_secret(secret.as_bytes()) {
                    Ok(warnings) => {
                        let told = warnings.into_iter().map(|what| format!("{key}: {what}"));
                        self.warnings.extend(told);
                    }
                    Err(what) => return Err((key, what)),
                },
                _ if is_ppk(name) => {
                    let what = "a PPK is text, not a file".to_owned();
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

    /// Reads the files that it names.
    fn load(&mut self, path: &Path) -> Result<(), (String, String)> {
        let mut credentials = Credentials::beside(path);
        for (name, secret) in &self.secrets {
            if let Some(file) = &secret.file {
                let passphrase = secret.secret.as_ref().map(|secret| secret.as_str());
                let read = credentials.read_key(file, passphrase);
                read.map_err(|what| (format!("secrets.{name}.file"), what))?;
            }
        }
        for (name, authority) in &self.authorities {
            let read = credentials.read_authority(authority);
            read.map_err(|(key, what)| (format!("authorities.{name}.{key}"), what))?;
        }
        let mut policy = Vec::new();
        for (name, section) in &self.connections {
            let connection = section.to_connection(name, &credentials);
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
        self.shared_keys(|name| !is_ppk(name))
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

/// Whether a secret's name is that of a postquantum preshared key, as in swanctl.conf.
fn is_ppk(name: &str) -> bool {
    name.starts_with("ppk")
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, Path::new("configuration"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ikev2d_proto::config::{Identity, Version};

    use super::*;

    const GOOD: &str = r#"
        [daemon]
        vici_socket = "/tmp/a.vici"
        device = "vfio-user:/tmp/card.sock"
        tun = { name = "esp0", mtu = 1400, queues = 1 }
        [connections.gw]
        version = 2
        local_addrs = ["10.77.0.1"]
        remote_addrs = ["10.77.0.2"]
        proposals = ["aes256gcm16-prfsha384-x25519"]
        encap = true
        local = { auth = "psk", id = "a.demo" }
        remote = { auth = "psk", id = "b.demo" }
        rekey_time = "4h"
        [connections.gw.children.net]
        local_ts = ["10.1.0.0/24", "192.0.2.0/24[udp/53]"]
        remote_ts = ["10.2.0.0/24"]
        esp_proposals = ["aes256gcm16-esn"]
        start_action = "start"
        hw_offload = "auto"
        [secrets.ike-1]
        secret = "0123456789abcdef"
    "#;

    #[test]
    fn a_good_configuration_is_read() {
        let config: Config = GOOD.parse().unwrap();
        let policy = config.policy();
        assert_eq!(policy[0].rekey_time, Some(Duration::from_secs(4 * 3600)));
        assert_eq!(policy[0].children[0].local_ts.len(), 2);
        assert_eq!(policy[0].local_id, Identity::Fqdn("a.demo".to_owned()));
        assert_eq!(config.psks().len(), 1);
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    /// An IKE SA that is only authenticated anew has time for that too.
    #[test]
    fn over_time_is_a_tenth_of_the_longer_lifetime() {
        for (times, expected) in [
            ("rekey_time = \"0s\"\nreauth_time = \"10h\"", 3600),
            ("rekey_time = \"4h\"\nreauth_time = \"10h\"", 3600),
            ("rekey_time = \"4h\"\nreauth_time = \"1h\"", 1440),
        ] {
            let config: Config = GOOD.replace("rekey_time = \"4h\"", times).parse().unwrap();
            let over = config.policy()[0].over_time;
            assert_eq!(over, Duration::from_secs(expected), "{times}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, expected) in [
            ("encap = true", "encapp = true", "encapp"),
            ("version = 2", "version = 3", "connections.gw.version"),
            ("x25519", "x25518", "x25518"),
            ("10.77.0.1", "10.77.0.300", "10.77.0.300"),
            ("\"4h\"", "\"4 parsecs\"", "parsecs"),
            ("0123456789abcdef", "short", "at least 8"),
            ("vfio-user:/tmp/card.sock", "usb:3", "vfio-user:PATH"),
            ("\"auto\"", "\"maybe\"", "maybe"),
            ("udp/53", "udp/x", "192.0.2.0/24[udp/x]"),
            (
                "auth = \"psk\", id = \"a.demo\"",
                "auth = \"rsa\"",
                "local.auth",
            ),
            ("id = \"b.demo\"", "revocation = \"ifuri\"", "ifuri"),
            ("id = \"b.demo\"", "revocation = \"relaxed\"", ""),
            ("[secrets", "[secrets", ""),
            (
                "start_action = \"start\"",
                "replay_window = 7",
                "replay_window",
            ),
            ("encap = true", "reauth_time = \"1h\"", ""),
            ("encap = true", "reauth_frequency = 100", ""),
            ("encap = true", "reauth_frequency = 101", "reauth_frequency"),
            ("encap = true", "unique = \"perhaps\"", "perhaps"),
            ("encap = true", "childless = \"force\"\nmobike = true", ""),
            ("encap = true", "keyingtries = 0\nunique = \"no\"", ""),
            (
                "start_action = \"start\"",
                "dpd_action = \"restart\"\nclose_action = \"start\"\nrand_time = 0",
                "",
            ),
            ("start_action", "close_action", ""),
            (
                "esp_proposals = [\"aes256gcm16-esn\"]",
                "ah_proposals = [\"sha256-esn\", \"aes128gmac\"]",
                "",
            ),
            (
                "esp_proposals = [\"aes256gcm16-esn\"]",
                "ah_proposals = [\"aes128-sha256\"]",
                "AH does not encrypt",
            ),
            ("start_action = \"start\"", "replay_window = 0", ""),
            ("start_action = \"start\"", "replay_window = 4096", ""),
            (
                "start_action = \"start\"",
                "replay_window = 4097",
                "expected 0 (off) or 32 to 4096",
            ),
            (
                "start_action = \"start\"",
                "close_action = \"later\"",
                "later",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            match GOOD.replace(from, to).parse::<Config>() {
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(expected), "{from} -> {to}: {error}");
                }
                Ok(_) => assert!(expected.is_empty(), "{from} -> {to} is accepted"),
            }
        }
    }

    /// S113 to S118: suites by name, for ECDSA alone; PRIME for IKEv2 alone.
    #[test]
    fn suites_are_named_and_kept_to() {
        let with = |suite: &str, version: u8, auth: &str| {
            let config = GOOD
                .replace("aes256gcm16-prfsha384-x25519", suite)
                .replace("aes256gcm16-esn", suite)
                .replace("version = 2", &format!("version = {version}"))
                .replace("\"psk\"", &format!("{auth:?}"));
            config.parse::<Config>().unwrap_err().to_string()
        };
        for suite in [
            "Suite-B-GCM-128",
            "Suite-B-GCM-256",
            "PRIME-128",
            "PRIME-256",
        ] {
            let auth = if suite.ends_with("128") {
                "ecdsa-256-sha256"
            } else {
                "ecdsa-384-sha384"
            };
            for other in ["psk", "rsa", "ed25519", "ecdsa-521-sha512"] {
                let error = with(suite, 2, other);
                assert!(error.contains(auth), "{suite}, {other}: {error}");
            }
            // With the right kind only a certificate is missing.
            let error = with(suite, 2, auth);
            assert!(error.contains("certs"), "{suite}: {error}");
            let told = with(suite, 1, auth).contains("IKEv2 alone");
            assert_eq!(told, suite.starts_with("PRIME"), "{suite}");
        }
    }

    /// S10, S42, S45: one version or the other; aggressive mode is IKEv1's, and has one group.
    #[test]
    fn what_is_of_one_version_is_refused_in_the_other() {
        let psk = "local = { auth = \"psk\", id = \"a.demo\" }";
        let v1 = GOOD
            .replace("version = 2", "version = 1")
            .replace("aes256gcm16-prfsha384-x25519", "aes256-sha256-modp2048");
        let config: Config = v1.parse().unwrap();
        assert_eq!(config.policy()[0].version, Version::V1);
        let either: Config = GOOD.replace("version = 2", "version = 0").parse().unwrap();
        assert_eq!(either.policy()[0].version, Version::Either);
        for (base, from, to, expected) in [
            (GOOD, "encap = true", "aggressive = true", "no modes"),
            (&v1, "encap = true", "aggressive = true", ""),
            (
                &v1,
                "encap = true",
                "aggressive = true\naggressive_psk = true",
                "",
            ),
            (
                &v1,
                "modp2048\"]",
                "modp2048\", \"aes128-sha256-modp2048\"]\naggressive = true",
                "",
            ),
            (
                &v1,
                "modp2048\"]",
                "modp2048\", \"aes256-sha256-ecp256\"]\naggressive = true",
                "same one",
            ),
            (
                &v1,
                "aes256-sha256-modp2048",
                "aes256gcm16-prfsha384-ecp256",
                "AEADs",
            ),
            (
                &v1,
                psk,
                "local = { auth = \"rsa\", id = \"a.demo\" }",
                "same way",
            ),
            (&v1, "aes256-sha256-modp2048", "PRIME-128", "IKEv2 alone"),
        ] {
            assert!(base.contains(from), "{from}");
            match base.replace(from, to).parse::<Config>() {
                Err(error) => {
                    let error = error.to_string();
                    let told = !expected.is_empty() && error.contains(expected);
                    assert!(told, "{from} -> {to}: {error}");
                }
                Ok(_) => assert!(expected.is_empty(), "{from} -> {to} is accepted"),
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [
            "\0",
            "[",
            "connections = 3",
            "[daemon]\ndaemon=1",
            "= =",
            "[connections.x]",
        ] {
            assert!(garbage.parse::<Config>().is_err(), "{garbage:?}");
        }
    }
}
