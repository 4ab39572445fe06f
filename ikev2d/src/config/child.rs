// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[connections.NAME.children.NAME]`: a child SA.

use std::time::Duration;

use ikev2d_proto::config::{ChildConfig, Ikev1Child, Resources, SelectorConfig};
use ikev2d_proto::proposal::Proposal;
use offload_api::failover::OffloadLevel;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::ConnectionSection;
use super::text::{AhProposal, EspProposal, Seconds, Text};
use super::tfc_padding::TfcPadding;

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
    /// AH proposals; with some, ESP is proposed only where `esp_proposals` has some too.
    #[serde(default)]
    pub ah_proposals: Vec<Text<AhProposal>>,
    /// `tunnel`, or `transport` between the two hosts themselves.
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
    /// Up to how much earlier it is rekeyed, at random; by default a tenth.
    pub rand_time: Option<Seconds>,
    /// Up to how many octets earlier, at random.
    #[serde(default)]
    pub rand_bytes: u64,
    /// Up to how many packets earlier, at random.
    #[serde(default)]
    pub rand_packets: u64,
    /// The interface of its own that it is bound to (`[interfaces.NAME]`); the host's routes to that lead
    /// its traffic, and the daemon sets none.
    pub interface: Option<String>,
    /// Without effect: for kernel interfaces.
    pub if_id_in: Option<toml::Value>,
    /// Without effect: for kernel interfaces.
    pub if_id_out: Option<toml::Value>,
    /// Age at which it is rekeyed; 0 is never.
    #[serde(default = "one_hour")]
    pub rekey_time: Seconds,
    /// Age at which it stops; by default a tenth more, and 0 is never.
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
    /// To so many octets inner packets are padded, or `mtu`; 0 is none.
    #[serde(default)]
    pub tfc_padding: TfcPadding,
    /// `no`, `crypto`, `packet` or `auto`.
    #[serde(default)]
    pub hw_offload: HwOffload,
    /// How many SAs carry its traffic, each a worker's own (RFC 9611): a number, `auto` for as many as
    /// there are workers, or `no`.
    #[serde(default, alias = "per_cpu_sas")]
    pub per_resource_sas: PerResource,
    /// How many of them are taken, whoever asks; by default 16, or as many as are set up.
    pub per_resource_limit: Option<PerResource>,
}

/// How many SAs carry a child's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PerResource {
    /// One, and no word of more.
    #[default]
    No,
    /// As many as there are workers.
    Auto,
    /// So many.
    Count(u16),
}

/// As many of a child's SAs as anybody gets.
const MOST_RESOURCES: u16 = 256;
/// As many as a peer gets that asks for more than we do.
const TAKEN: u16 = 16;

impl<'de> Deserialize<'de> for PerResource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Switch(bool),
            Number(i64),
            Word(String),
        }
        let number = |number: i64| u16::try_from(number).ok().filter(|n| *n <= MOST_RESOURCES);
        let (read, shown) = match Written::deserialize(deserializer)? {
            Written::Switch(true) => return Ok(Self::Auto),
            Written::Switch(false) => return Ok(Self::No),
            Written::Number(written) => (number(written), written.to_string()),
            Written::Word(word) => match word.as_str() {
                "auto" | "yes" => return Ok(Self::Auto),
                "no" => return Ok(Self::No),
                word => (word.parse().ok().and_then(number), format!("{word:?}")),
            },
        };
        match read {
            Some(0) | None => Err(D::Error::custom(format!(
                "{shown}: expected 1 to {MOST_RESOURCES}, auto or no"
            ))),
            Some(count) => Ok(Self::Count(count)),
        }
    }
}

impl PerResource {
    fn count(self, workers: u16) -> u16 {
        match self {
            Self::No => 1,
            Self::Auto => workers,
            Self::Count(count) => count,
        }
    }
}

fn one_hour() -> Seconds {
    Seconds(Duration::from_secs(3600))
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
    /// What two hosts say to each other, where no NAT is between and the peer wants it too; else a
    /// tunnel.
    Transport,
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

impl ChildSection {
    /// What transport mode can't go with.
    pub(super) fn check_mode(&self, connection: &ConnectionSection) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        if self.mode == Mode::Tunnel {
            return Ok(());
        }
        if connection.mobike {
            return wrong("mobike moves tunnels (RFC 4555 §1), and transport mode has none");
        }
        if self.interface.is_some() {
            return wrong(
                "an interface of its own is for tunnels: in transport mode the two hosts' own routes count",
            );
        }
        if !self.ah_proposals.is_empty() {
            return wrong("AH is carried in tunnel mode alone: transport mode needs ESP");
        }
        Ok(())
    }

    /// Age at which it stops.
    pub(crate) fn life_time(&self) -> Option<Duration> {
        let given = self.life_time.map(|time| time.0);
        let life = given.unwrap_or_else(|| self.rekey_time.0 + self.rekey_time.0 / 10);
        (!life.is_zero()).then_some(life)
    }

    /// What is proposed. Without a replay window there are no extended sequence numbers: the window
    /// tells their high half (RFC 4303 §3.4.3).
    fn proposals(&self) -> Vec<Proposal> {
        let mut proposals: Vec<Proposal> = self
            .esp_proposals
            .iter()
            .flat_map(|p| p.0.proposals.clone())
            .chain(self.ah_proposals.iter().map(|p| p.0.0.clone()))
            .collect();
        if proposals.is_empty() {
            proposals = Proposal::esp_default();
        }
        if self.replay_window == 0 {
            proposals.iter_mut().for_each(|p| p.esn.retain(|esn| !esn));
            proposals.retain(|p| !p.esn.is_empty());
        }
        proposals
    }

    /// Refuses a window that is none, and none where every proposal needs one.
    pub(super) fn check_window(&self) -> Result<(), String> {
        match self.replay_window {
            0 if self.proposals().is_empty() => Err(
                "0: extended sequence numbers need a window (RFC 4303 §3.4.3): propose noesn too, \
                 or have one"
                    .to_owned(),
            ),
            0 | 32..=4096 => Ok(()),
            window => Err(format!("{window}: expected 0 (off) or 32 to 4096")),
        }
    }

    /// What TFC padding can't go with.
    pub(super) fn check_tfc_padding(&self, connection: &ConnectionSection) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        if self.tfc_padding == TfcPadding::OFF {
            return Ok(());
        }
        if self.mode == Mode::Transport {
            return wrong(
                "in transport mode nothing tells where padding begins (RFC 4303 §2.7): expected 0, or \
                 mode = \"tunnel\"",
            );
        }
        if self.esp_proposals.is_empty() && !self.ah_proposals.is_empty() {
            return wrong("AH has no TFC padding, ESP has (RFC 4303 §2.7): expected 0");
        }
        if connection.version == 1 {
            return wrong(
                "an IKEv1 peer can't tell whether it takes TFC padding off: expected 0, or version = 2",
            );
        }
        Ok(())
    }

    /// How many SAs carry its traffic, where so many workers send.
    fn resources(&self, workers: u16) -> Resources {
        if self.per_resource_sas == PerResource::No || workers == 0 {
            return Resources::default();
        }
        let own = self.per_resource_sas.count(workers);
        let most = self.per_resource_limit.map(|limit| limit.count(workers));
        Resources {
            own,
            most: most.unwrap_or(TAKEN).max(own),
        }
    }

    /// What SAs of single workers can't go with.
    pub(super) fn check_resources(&self, connection: &ConnectionSection) -> Result<(), String> {
        if self.per_resource_sas != PerResource::No && connection.version == 1 {
            return Err("IKEv1 has one SA for a traffic: RFC 9611 is IKEv2's".to_owned());
        }
        Ok(())
    }

    /// The same of the data plane.
    pub(super) fn check_workers(&self, workers: u16) -> Result<(), String> {
        match self.per_resource_sas {
            PerResource::Count(2..) if workers == 0 => Err(
                "with dataplane = \"inline\" the card sends, not workers: expected no or auto"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    pub(super) fn to_child(&self, name: &str, workers: u16) -> ChildConfig {
        ChildConfig {
            name: name.to_owned(),
            local_ts: self.local_ts.iter().map(|ts| ts.0).collect(),
            remote_ts: self.remote_ts.iter().map(|ts| ts.0).collect(),
            esp_proposals: self.proposals(),
            transport: self.mode == Mode::Transport,
            rekey_time: self.rekey_time.nonzero(),
            rand_time: self.rand_time.map(|time| time.0),
            resources: self.resources(workers),
            ikev1: Ikev1Child {
                life_bytes: (self.life_bytes != 0).then_some(self.life_bytes),
                replay: self.replay_window != 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str, workers: u16) -> Result<(u16, u16), String> {
        let section: ChildSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.check_workers(workers)?;
        let resources = section.to_child("net", workers).resources;
        Ok((resources.own, resources.most))
    }

    /// B21: as many as there are workers, or as said; a peer with more gets more, up to the limit.
    #[test]
    fn sas_for_the_same_traffic_are_counted_by_workers() {
        for (text, workers, expected) in [
            ("", 4, (1, 1)),
            ("per_resource_sas = \"no\"", 4, (1, 1)),
            ("per_resource_sas = \"auto\"", 4, (4, 16)),
            ("per_cpu_sas = \"yes\"", 2, (2, 16)),
            ("per_cpu_sas = true", 2, (2, 16)),
            ("per_resource_sas = 32", 2, (32, 32)),
            ("per_resource_sas = \"3\"", 2, (3, 16)),
            ("per_resource_sas = 2\nper_resource_limit = 2", 4, (2, 2)),
            ("per_resource_sas = 4\nper_resource_limit = 2", 4, (4, 4)),
            // An inline card has no workers.
            ("per_resource_sas = \"auto\"", 0, (1, 1)),
        ] {
            assert_eq!(resources(text, workers), Ok(expected), "{text}");
        }
        for text in ["0", "257", "-1", "\"many\"", "1.5"] {
            let told = resources(&format!("per_resource_sas = {text}"), 4);
            assert!(told.is_err(), "{text}: {told:?}");
        }
        assert!(
            resources("per_resource_sas = 2", 0)
                .unwrap_err()
                .contains("inline")
        );
    }
}
