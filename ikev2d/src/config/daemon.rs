// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon]`: sockets, the accelerator, the data plane.

use std::path::PathBuf;

use driver::DeviceAddress;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::text::{FromText, Text};
use super::{
    CacheSection, FailoverSection, MetricsSection, PrivilegesSection, PuzzlesSection,
    SolvePuzzlesSection, TunSection,
};

/// The daemon itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonSection {
    /// Control socket.
    pub vici_socket: PathBuf,
    /// Accelerator: `software`, `vfio-user:PATH` or `pci:DDDD:BB:DD.F`.
    pub device: DeviceSetting,
    /// How far the accelerator is trusted.
    pub failover: FailoverSection,
    /// The SA cache, and who may read it.
    pub sa_cache: CacheSection,
    /// What it may do once it runs.
    pub privileges: PrivilegesSection,
    /// Where it keeps what outlives it: the sequence numbers of manual keys.
    pub state_directory: PathBuf,
    /// What moves packets.
    pub dataplane: DataplaneSetting,
    /// The TUN interface.
    pub tun: TunSection,
    /// Directory for Wireshark's key tables; off by default.
    pub key_log: Option<PathBuf>,
    /// Where Prometheus finds what there is to count; off by default.
    pub metrics: Option<MetricsSection>,
    /// Where the leases of pools are kept; by default beside the control socket.
    pub lease_file: Option<PathBuf>,
    /// A program that is called with `up` or `down` when a peer gives us addresses: the environment has
    /// `INTERFACE` and `ADDRESSES`, and of what came along `DNS_SERVERS`, `NBNS_SERVERS`, `DHCP_SERVERS`,
    /// `NETMASKS` and `SUBNETS`.
    pub resolve_hook: Option<PathBuf>,
    /// What peers are told that ask what this is, once they are authenticated (RFC 7296 §2.20); empty says
    /// nothing.
    pub application_version: Text<ApplicationVersion>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<String>,
    /// UDP port of IKE.
    pub port: u16,
    /// UDP port of IKE and ESP behind a NAT.
    pub nat_port: u16,
    /// TCP port of IKE and ESP (RFC 9329), usually 4500: peers may come by it. 0 is none.
    pub tcp_port: u16,
    /// Also carry ESP without UDP (IP protocol 50).
    pub raw_esp: bool,
    /// Retransmissions before a peer is given up.
    pub retransmit_tries: u32,
    /// Seconds before the first one.
    pub retransmit_timeout: f64,
    /// Puzzles for peers that want to begin, under load (RFC 8019); none by default.
    pub puzzles: Option<PuzzlesSection>,
    /// Puzzles of peers.
    pub solve_puzzles: SolvePuzzlesSection,
    /// Octets of the largest IP datagram that IKE sends; longer messages go in fragments, and in
    /// smaller ones where nobody answers. 0 is 1280.
    pub fragment_size: usize,
}

impl Default for DaemonSection {
    fn default() -> Self {
        Self {
            vici_socket: "/run/esplanade.vici".into(),
            device: DeviceSetting::Software,
            failover: FailoverSection::default(),
            sa_cache: CacheSection::default(),
            privileges: PrivilegesSection::default(),
            state_directory: "/var/lib/esplanade".into(),
            dataplane: DataplaneSetting::Tun,
            tun: TunSection::default(),
            key_log: None,
            metrics: None,
            lease_file: None,
            resolve_hook: None,
            application_version: Text(ApplicationVersion("Esplanade".to_owned())),
            log_level: None,
            port: 500,
            nat_port: 4500,
            tcp_port: 0,
            raw_esp: true,
            // The first soon, since a message that was lost in a flood is no reason to wait; the last
            // after some minutes, as RFC 7296 §2.4 wants it.
            retransmit_tries: 9,
            retransmit_timeout: 0.5,
            puzzles: None,
            solve_puzzles: SolvePuzzlesSection::default(),
            fragment_size: 0,
        }
    }
}

impl DaemonSection {
    /// Workers that send, each through SAs of its own where a child has several; an inline card has none.
    pub(crate) fn workers(&self) -> u16 {
        match self.dataplane {
            DataplaneSetting::Tun => u16::try_from(self.tun.workers()).unwrap_or(u16::MAX),
            DataplaneSetting::Inline => 0,
        }
    }

    /// The settings that are read once and in which two are not the same.
    pub(crate) fn differing(&self, other: &Self) -> Vec<String> {
        let own = differing!(self, other; vici_socket device failover sa_cache privileges state_directory
            dataplane tun key_log metrics lease_file resolve_hook application_version log_level port
            nat_port tcp_port raw_esp retransmit_tries retransmit_timeout puzzles solve_puzzles
            fragment_size);
        let read_once = own.into_iter().filter(|name| *name != "resolve_hook");
        let named = read_once.flat_map(|name| match name {
            "tun" => {
                let settings = self.tun.differing(&other.tun).into_iter();
                settings.map(|setting| format!("tun.{setting}")).collect()
            }
            name => vec![name.to_owned()],
        });
        named.collect()
    }

    /// Where the leases of pools are kept.
    pub(crate) fn lease_file(&self) -> PathBuf {
        let beside = || self.vici_socket.with_extension("leases");
        self.lease_file.clone().unwrap_or_else(beside)
    }
}

/// An APPLICATION_VERSION: printable ASCII (RFC 7296 §3.15.1), 255 characters at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationVersion(pub String);

impl FromText for ApplicationVersion {
    fn from_text(text: &str) -> Result<Self, String> {
        let printable = text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
        match printable && text.len() <= 255 {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "{text:?}: expected printable ASCII, 255 characters at most"
            )),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// B55: what a reload leaves as it was.
    #[test]
    fn settings_that_are_other_are_named() {
        let read = |text: &str| toml::from_str::<DaemonSection>(text).unwrap();
        let usual = read("");
        let written = read("port = 500\n[tun]\nmtu = 1400\n");
        assert_eq!(usual.differing(&written), [""; 0], "as they are by default");
        let other = read(
            "resolve_hook = \"/a\"\nport = 501\n[tun]\nqueues = 3\ncpus = [0]\n[privileges]\ndrop = false\n",
        );
        let named = ["privileges", "tun.queues", "tun.cpus", "port"];
        assert_eq!(usual.differing(&other), named);
    }

    /// S66: printable ASCII (RFC 7296 §3.15.1), or nothing.
    #[test]
    fn what_peers_are_told_that_we_are_is_printable() {
        let read = |text: &str| {
            let section = toml::from_str::<DaemonSection>(text);
            section.map(|section| section.application_version.0.0)
        };
        assert_eq!(read("").unwrap(), "Esplanade");
        assert_eq!(read("application_version = \"\"").unwrap(), "");
        assert_eq!(read("application_version = \"gw 7.1\"").unwrap(), "gw 7.1");
        let long = "x".repeat(256);
        for wrong in ["gw\\n", "\\u0000", "Gateway ü", &long] {
            let error = read(&format!("application_version = \"{wrong}\"")).unwrap_err();
            assert!(error.to_string().contains("printable"), "{error}");
        }
    }
}
