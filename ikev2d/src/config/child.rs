// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[connections.NAME.children.NAME]`: a child SA.

use std::time::Duration;

use ikev2d_proto::config::{ChildConfig, Ikev1Child, SelectorConfig};
use ikev2d_proto::proposal::Proposal;
use offload_api::failover::OffloadLevel;
use serde::Deserialize;

use super::ConnectionSection;
use super::text::{AhProposal, EspProposal, Seconds, Text};

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
    /// `no`, `crypto`, `packet` or `auto`.
    #[serde(default)]
    pub hw_offload: HwOffload,
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

    pub(super) fn to_child(&self, name: &str) -> ChildConfig {
        ChildConfig {
            name: name.to_owned(),
            local_ts: self.local_ts.iter().map(|ts| ts.0).collect(),
            remote_ts: self.remote_ts.iter().map(|ts| ts.0).collect(),
            esp_proposals: self.proposals(),
            transport: self.mode == Mode::Transport,
            rekey_time: self.rekey_time.nonzero(),
            rand_time: self.rand_time.map(|time| time.0),
            ikev1: Ikev1Child {
                life_bytes: (self.life_bytes != 0).then_some(self.life_bytes),
                replay: self.replay_window != 0,
            },
        }
    }
}
