// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The configuration: TOML whose keys are swanctl.conf's names.

mod diagnosis;
mod failover;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use driver::DeviceAddress;
use ikev2d_proto::config::{
    AddressPattern, ChildConfig, Connection, Identity, Secret, SelectorConfig,
};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use offload_api::failover::OffloadLevel;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use thiserror::Error;
use zeroize::Zeroizing;

pub use diagnosis::Place;
pub use failover::FailoverSection;

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
    /// Preshared keys by name (`ike-…`).
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretSection>,
}

/// The daemon itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonSection {
    /// Control socket.
    pub vici_socket: PathBuf,
    /// Accelerator: `software`, `vfio-user:PATH` or `pci:DDDD:BB:DD.F`.
    pub device: DeviceSetting,
    /// How far the accelerator is trusted.
    pub failover: FailoverSection,
    /// What moves packets.
    pub dataplane: DataplaneSetting,
    /// The TUN interface.
    pub tun: TunSection,
    /// Directory for Wireshark's key tables; off by default.
    pub key_log: Option<PathBuf>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
    /// UDP port of IKE.
    pub port: u16,
    /// UDP port of IKE and ESP behind a NAT.
    pub nat_port: u16,
    /// Also carry ESP without UDP (IP protocol 50).
    pub raw_esp: bool,
    /// Retransmissions before a peer is given up.
    pub retransmit_tries: u32,
    /// Seconds before the first one.
    pub retransmit_timeout: f64,
}

impl Default for DaemonSection {
    fn default() -> Self {
        Self {
            vici_socket: "/run/esplanade.vici".into(),
            device: DeviceSetting::Software,
            failover: FailoverSection::default(),
            dataplane: DataplaneSetting::Tun,
            tun: TunSection::default(),
            key_log: None,
            log_level: None,
            port: 500,
            nat_port: 4500,
            raw_esp: true,
            retransmit_tries: 5,
            retransmit_timeout: 4.0,
        }
    }
}

/// What moves packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataplaneSetting {
    /// Worker threads between a TUN interface and the ESP sockets.
    #[default]
    Tun,
    /// An accelerator in inline mode, from port to port. `tun.name` is the interface of its host
    /// port. Nothing falls back: each child's `hw_offload` must be `packet` or `auto`, and both mean
    /// `packet`.
    Inline,
}

/// The TUN interface.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunSection {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u16,
    /// Queues, each with a worker; 0 is one for each core, four at most.
    pub queues: usize,
}

impl Default for TunSection {
    fn default() -> Self {
        Self {
            name: "esp0".to_owned(),
            mtu: 1400,
            queues: 0,
        }
    }
}

/// Which accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSetting {
    /// None: rayon-parallel software.
    Software,
    /// A card.
    Card(DeviceAddress),
}

impl<'de> Deserialize<'de> for DeviceSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "software" {
            return Ok(Self::Software);
        }
        text.parse()
            .map(Self::Card)
            .map_err(|error| D::Error::custom(format!("{error} or software")))
    }
}

/// A peer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionSection {
    /// 2; others are refused.
    #[serde(default = "two")]
    pub version: u8,
    /// Our addresses.
    #[serde(default)]
    pub local_addrs: Vec<Text<AddressPattern>>,
    /// The peer's addresses.
    #[serde(default)]
    pub remote_addrs: Vec<Text<AddressPattern>>,
    /// The peer's port.
    #[serde(default = "ike_port")]
    pub remote_port: u16,
    /// IKE proposals.
    #[serde(default)]
    pub proposals: Vec<Text<IkeProposal>>,
    /// Force UDP encapsulation.
    #[serde(default)]
    pub encap: bool,
    /// Silence after which the peer is asked whether it lives; 0 is never.
    #[serde(default)]
    pub dpd_delay: Seconds,
    /// Age at which the IKE SA is rekeyed; 0 is never.
    #[serde(default = "four_hours")]
    pub rekey_time: Seconds,
    /// Further time after which it is deleted.
    pub over_time: Option<Seconds>,
    /// Tries to set it up; 0 is for ever.
    #[serde(default = "once")]
    pub keyingtries: u32,
    /// Reauthentication is not there yet: 0 only.
    #[serde(default)]
    pub reauth_time: Seconds,
    /// Without effect: times are spread by a tenth.
    pub rand_time: Option<Seconds>,
    /// Without effect: a peer's initial contact replaces its SAs.
    pub unique: Option<String>,
    /// Accepted if false: RFC 4555 is not there yet.
    #[serde(default)]
    pub mobike: bool,
    /// Our end.
    pub local: AuthSection,
    /// The peer's end.
    pub remote: AuthSection,
    /// Child SAs by name.
    #[serde(default)]
    pub children: BTreeMap<String, ChildSection>,
}

fn two() -> u8 {
    2
}

fn once() -> u32 {
    1
}

fn ike_port() -> u16 {
    500
}

fn four_hours() -> Seconds {
    Seconds(Duration::from_secs(4 * 3600))
}

fn one_hour() -> Seconds {
    Seconds(Duration::from_secs(3600))
}

/// How an end authenticates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSection {
    /// `psk`.
    #[serde(default = "psk")]
    pub auth: String,
    /// Who it is.
    #[serde(default)]
    pub id: String,
}

fn psk() -> String {
    "psk".to_owned()
}

/// A child SA.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChildSection {
    /// Our side's traffic.
    #[serde(default = "dynamic")]
    pub local_ts: Vec<Text<SelectorConfig>>,
    /// The peer's side's traffic.
    #[serde(default = "dynamic")]
    pub remote_ts: Vec<Text<SelectorConfig>>,
    /// ESP proposals.
    #[serde(default)]
    pub esp_proposals: Vec<Text<EspProposal>>,
    /// `tunnel`; transport mode is not there yet.
    #[serde(default)]
    pub mode: Mode,
    /// `none`, `trap` or `start`.
    #[serde(default)]
    pub start_action: StartAction,
    /// What is done when the peer does not answer any more.
    #[serde(default)]
    pub dpd_action: DpdAction,
    /// What is done when the peer deletes it.
    #[serde(default)]
    pub close_action: CloseAction,
    /// Without effect: times are spread by a tenth.
    pub rand_time: Option<Seconds>,
    /// Without effect: for kernel interfaces.
    pub if_id_in: Option<toml::Value>,
    /// Without effect: for kernel interfaces.
    pub if_id_out: Option<toml::Value>,
    /// Age at which it is rekeyed; 0 is never.
    #[serde(default = "one_hour")]
    pub rekey_time: Seconds,
    /// Age at which it stops; by default a tenth more.
    pub life_time: Option<Seconds>,
    /// Octets after which it is rekeyed.
    #[serde(default)]
    pub rekey_bytes: u64,
    /// Octets after which it stops.
    #[serde(default)]
    pub life_bytes: u64,
    /// Packets after which it is rekeyed.
    #[serde(default)]
    pub rekey_packets: u64,
    /// Packets after which it stops.
    #[serde(default)]
    pub life_packets: u64,
    /// Anti-replay window in packets.
    #[serde(default = "replay_window")]
    pub replay_window: u32,
    /// `no`, `crypto`, `packet` or `auto`.
    #[serde(default)]
    pub hw_offload: HwOffload,
}

fn dynamic() -> Vec<Text<SelectorConfig>> {
    vec![Text(SelectorConfig::Dynamic)]
}

fn replay_window() -> u32 {
    1024
}

/// RFC 4301's modes, in strongSwan's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Whole packets.
    #[default]
    Tunnel,
}

/// When a child SA is set up.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StartAction {
    /// On command, or by the peer.
    #[default]
    None,
    /// With its first packet.
    Trap,
    /// At once.
    Start,
}

/// What is done about a child SA whose peer does not answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DpdAction {
    /// It is removed; with `start_action = "trap"` its next packet sets it up again.
    #[default]
    #[serde(alias = "none", alias = "trap")]
    Clear,
    /// It is set up again.
    #[serde(alias = "start")]
    Restart,
}

/// What is done about a child SA that its peer has deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CloseAction {
    /// Nothing; with `start_action = "trap"` its next packet sets it up again.
    #[default]
    #[serde(alias = "clear", alias = "trap")]
    None,
    /// It is set up again.
    #[serde(alias = "restart")]
    Start,
}

/// How far it may be offloaded.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum HwOffload {
    /// Software only.
    No,
    /// The device, or fail.
    Crypto,
    /// The device, or fail.
    Packet,
    /// The device, or software.
    #[default]
    Auto,
}

impl From<HwOffload> for OffloadLevel {
    fn from(level: HwOffload) -> Self {
        match level {
            HwOffload::No => Self::No,
            HwOffload::Crypto => Self::Crypto,
            HwOffload::Packet => Self::Packet,
            HwOffload::Auto => Self::Auto,
        }
    }
}

/// A preshared key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSection {
    /// Whose it is; nobody named is everybody's.
    #[serde(default)]
    pub ids: Vec<String>,
    /// The key: text, `0x…` or `0s…` is not decoded here.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for SecretSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretSection({:?})", self.ids)
    }
}

/// A time: `4h`, `30m`, `10s`, `2d`, or seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Seconds {
    fn nonzero(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        let text = match Either::deserialize(deserializer)? {
            Either::Number(seconds) => return Ok(Self(Duration::from_secs(seconds))),
            Either::Text(text) => text,
        };
        let error = || {
            D::Error::custom(format!(
                "time {text:?}: expected seconds, or a number with s, m, h or d"
            ))
        };
        let at = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let factor = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        Ok(Self(Duration::from_secs(
            number.checked_mul(factor).ok_or_else(error)?,
        )))
    }
}

/// A value that is written as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// Reads a value from text, with a reason if it can't.
pub trait FromText: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// Why it can't be.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(&text).map(Self).map_err(D::Error::custom)
    }
}

/// An IKE proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeProposal(pub Vec<Proposal>);

/// An ESP proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EspProposal(pub Vec<Proposal>);

impl FromText for IkeProposal {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self(Proposal::ike_default())),
            text => Proposal::parse_ike(text)
                .map(|p| Self(vec![p]))
                .map_err(|e| e.to_string()),
        }
    }
}

impl FromText for EspProposal {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self(Proposal::esp_default())),
            text => Proposal::parse_esp(text)
                .map(|p| Self(vec![p]))
                .map_err(|e| e.to_string()),
        }
    }
}

impl FromText for AddressPattern {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "%any" {
            return Ok(Self::Any);
        }
        let error = || format!("address {text:?}: expected an IP address, a prefix or %any");
        match text.split_once('/') {
            Some((address, bits)) => {
                let address: IpAddr = address.parse().map_err(|_| error())?;
                let bits: u8 = bits.parse().map_err(|_| error())?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                if bits > most {
                    Err(error())
                } else {
                    Ok(Self::Prefix(address, bits))
                }
            }
            None => {
                let address: IpAddr = text.parse().map_err(|_| error())?;
                Ok(Self::Prefix(
                    address,
                    if address.is_ipv4() { 32 } else { 128 },
                ))
            }
        }
    }
}

impl FromText for SelectorConfig {
    /// `dynamic`, a prefix, optionally followed by `[protocol/port]`.
    fn from_text(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "traffic selector {text:?}: expected dynamic or a prefix, with [protocol/port] behind it at will"
            )
        };
        let (net, rest) = match text.split_once('[') {
            Some((net, rest)) => (net, Some(rest.strip_suffix(']').ok_or_else(error)?)),
            None => (text, None),
        };
        if net == "dynamic" && rest.is_none() {
            return Ok(Self::Dynamic);
        }
        let AddressPattern::Prefix(address, bits) =
            AddressPattern::from_text(net).map_err(|_| error())?
        else {
            return Err(error());
        };
        let mut ts = TrafficSelector::prefix(address, bits);
        if let Some(rest) = rest {
            let (protocol, port) = rest.split_once('/').unwrap_or((rest, ""));
            ts.protocol = match protocol {
                "" | "any" => 0,
                "tcp" => 6,
                "udp" => 17,
                "icmp" => 1,
                "sctp" => 132,
                number => number.parse().map_err(|_| error())?,
            };
            if !port.is_empty() && port != "any" {
                let (first, last) = port.split_once('-').unwrap_or((port, port));
                ts.start_port = first.parse().map_err(|_| error())?;
                ts.end_port = last.parse().map_err(|_| error())?;
                if ts.start_port > ts.end_port {
                    return Err(error());
                }
            }
        }
        Ok(Self::Fixed(ts))
    }
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

/// Fewest characters of a preshared key.
const PSK_LEAST: usize = 8;
/// Fewest that raise no warning.
const PSK_RECOMMENDED: usize = 12;

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
        let config: Self = toml::from_str(text).map_err(|error| {
            let (place, what) = diagnosis::of_parser(path, text, &error);
            ConfigError::Parse { place, what }
        })?;
        config.check().map_err(|(key, what)| ConfigError::Invalid {
            place: Place::of_key(path, text, &key),
            key,
            what,
        })?;
        Ok(config)
    }

    /// What the types do not say: the setting that is wrong, and why.
    fn check(&self) -> Result<(), (String, String)> {
        for (name, connection) in &self.connections {
            connection
                .check()
                .map_err(|(key, what)| (format!("connections.{name}.{key}"), what))?;
        }
        for (name, secret) in &self.secrets {
            let key = format!("secrets.{name}.secret");
            check_secret(&key, secret.secret.chars().count()).map_err(|what| (key, what))?;
        }
        Ok(())
    }

    /// The policy for the core.
    pub fn policy(&self) -> Vec<Arc<Connection>> {
        self.connections
            .iter()
            .map(|(name, c)| Arc::new(c.to_connection(name)))
            .collect()
    }

    /// The preshared keys for the core.
    pub fn psks(&self) -> Vec<Secret> {
        self.secrets
            .values()
            .map(|section| Secret {
                ids: section.ids.iter().map(|id| Identity::parse(id)).collect(),
                secret: Zeroizing::new(section.secret.as_bytes().to_vec()),
            })
            .collect()
    }
}

/// Refuses a preshared key that is too short, and warns of one that is nearly so.
pub(crate) fn check_secret(key: &str, len: usize) -> Result<(), String> {
    if len < PSK_LEAST {
        return Err(format!(
            "{len} characters: a preshared key has at least {PSK_LEAST}"
        ));
    }
    if len < PSK_RECOMMENDED {
        tracing::warn!(
            key,
            len,
            "preshared key is short: {PSK_RECOMMENDED} or more characters are recommended"
        );
    }
    Ok(())
}

impl ConnectionSection {
    /// What the types do not say: the setting that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let invalid = |key: String, what: String| Err((key, what));
        if self.version != 2 {
            let what = "only IKEv2 (version = 2) is supported";
            return invalid("version".to_owned(), what.to_owned());
        }
        if self.mobike {
            return invalid("mobike".to_owned(), "MOBIKE is not supported".to_owned());
        }
        if !self.reauth_time.0.is_zero() {
            let what = "reauthentication is not supported: 0 only, rekey_time renews the keys";
            return invalid("reauth_time".to_owned(), what.to_owned());
        }
        for (setting, given) in [
            ("rand_time", self.rand_time.is_some()),
            ("unique", self.unique.is_some()),
        ] {
            if given {
                tracing::warn!(setting, "has no effect");
            }
        }
        for (side, auth) in [("local", &self.local), ("remote", &self.remote)] {
            if auth.auth != "psk" {
                let what = format!("{:?}: expected \"psk\"", auth.auth);
                return invalid(format!("{side}.auth"), what);
            }
        }
        for (name, child) in &self.children {
            for (setting, given) in [
                ("rand_time", child.rand_time.is_some()),
                ("if_id_in", child.if_id_in.is_some()),
                ("if_id_out", child.if_id_out.is_some()),
            ] {
                if given {
                    tracing::warn!(child = name, setting, "has no effect");
                }
            }
            let window = child.replay_window;
            if window != 0 && !(32..=4096).contains(&window) {
                let what = format!("{window}: expected 0 (off) or 32 to 4096");
                return invalid(format!("children.{name}.replay_window"), what);
            }
        }
        Ok(())
    }

    /// For the core.
    pub(crate) fn to_connection(&self, name: &str) -> Connection {
        let proposals: Vec<Proposal> = self.proposals.iter().flat_map(|p| p.0.0.clone()).collect();
        let rekey = self.rekey_time.nonzero();
        Connection {
            name: name.to_owned(),
            local_addrs: self.local_addrs.iter().map(|a| a.0).collect(),
            remote_addrs: self.remote_addrs.iter().map(|a| a.0).collect(),
            remote_port: self.remote_port,
            local_id: self.local_id(),
            remote_id: Identity::parse(&self.remote.id),
            proposals: if proposals.is_empty() {
                Proposal::ike_default()
            } else {
                proposals
            },
            encap: self.encap,
            dpd_delay: self.dpd_delay.nonzero(),
            rekey_time: rekey,
            over_time: self
                .over_time
                .map_or(rekey.unwrap_or_default() / 10, |over| over.0),
            children: self
                .children
                .iter()
                .map(|(name, child)| child.to_child(name))
                .collect(),
        }
    }

    /// As in strongSwan: without an id we are our address.
    fn local_id(&self) -> Identity {
        match Identity::parse(&self.local.id) {
            Identity::Any => {
                let own = self.local_addrs.iter().find_map(|a| a.0.single());
                own.map_or(Identity::Any, Identity::Address)
            }
            id => id,
        }
    }
}

impl ChildSection {
    fn to_child(&self, name: &str) -> ChildConfig {
        let proposals: Vec<Proposal> = self
            .esp_proposals
            .iter()
            .flat_map(|p| p.0.0.clone())
            .collect();
        ChildConfig {
            name: name.to_owned(),
            local_ts: self.local_ts.iter().map(|ts| ts.0).collect(),
            remote_ts: self.remote_ts.iter().map(|ts| ts.0).collect(),
            esp_proposals: if proposals.is_empty() {
                Proposal::esp_default()
            } else {
                proposals
            },
            transport: false,
            rekey_time: self.rekey_time.nonzero(),
        }
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, Path::new("configuration"))
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, expected) in [
            ("encap = true", "encapp = true", "encapp"),
            ("version = 2", "version = 1", "connections.gw.version"),
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
            ("[secrets", "[secrets", ""),
            (
                "start_action = \"start\"",
                "replay_window = 7",
                "replay_window",
            ),
            ("encap = true", "reauth_time = \"1h\"", "reauth_time"),
            ("encap = true", "keyingtries = 0\nunique = \"no\"", ""),
            (
                "start_action = \"start\"",
                "dpd_action = \"restart\"\nclose_action = \"start\"\nrand_time = 0",
                "",
            ),
            ("start_action", "close_action", ""),
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
