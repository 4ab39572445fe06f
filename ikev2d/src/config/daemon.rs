// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon]`: sockets, the accelerator, the data plane.

use std::path::PathBuf;
use std::time::Duration;

use driver::DeviceAddress;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::text::{FromText, Text};
use super::{
    CacheSection, FailoverSection, MetricsSection, PrivilegesSection, PuzzlesSection,
    SolvePuzzlesSection,
};
use crate::dataplane::{CopyDscp, MssClamp};

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

/// The TUN interface.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunSection {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u16,
    /// Queues, each with a worker; 0 is one for each of `cpus`, or for each core, four at most.
    pub queues: usize,
    /// Processors that the workers are kept to: the first worker to the first of them, and so on, and over
    /// again. Without any the scheduler moves them.
    #[serde(deserialize_with = "cpus")]
    pub cpus: Vec<usize>,
    /// What TCP is told of the tunnel's MTU, both ways: `auto`, octets of a segment, or `no`.
    #[serde(deserialize_with = "mss_clamp")]
    pub mss_clamp: MssClamp,
    /// Between which headers of tunnels DSCP is copied: `out`, `in`, `yes` (both) or `no`. ECN always is
    /// (RFC 6040).
    pub copy_dscp: CopyDscp,
    /// Microseconds for which a worker that has nothing to do asks for more before it sleeps, as long as
    /// packets come that fast.
    #[serde(deserialize_with = "busy_poll")]
    pub busy_poll: Duration,
    /// Microseconds that the scheduler lets a worker run at a time (Linux 6.12): one with fewer than others
    /// waits less when it is woken. 0 is what everybody has.
    #[serde(deserialize_with = "slice")]
    pub slice: Option<Duration>,
}

impl Default for TunSection {
    fn default() -> Self {
        Self {
            name: "esp0".to_owned(),
            mtu: 1400,
            queues: 0,
            cpus: Vec::new(),
            mss_clamp: MssClamp::Auto,
            copy_dscp: CopyDscp::Out,
            busy_poll: Duration::ZERO,
            slice: Some(Duration::from_micros(100)),
        }
    }
}

impl TunSection {
    /// Workers of the data plane.
    pub(crate) fn workers(&self) -> usize {
        const MOST: usize = 4;
        match (self.queues, self.cpus.len()) {
            (0, 0) => cores().min(MOST),
            (0, cpus) => cpus,
            (queues, _) => queues,
        }
    }
}

/// Cores of this host.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    const MOST: usize = rustix::thread::CpuSet::MAX_CPU;
    let cpus = Vec::<i64>::deserialize(deserializer)?;
    let known = |cpu| usize::try_from(cpu).ok().filter(|cpu| *cpu < MOST);
    cpus.into_iter()
        .map(|cpu| {
            known(cpu).ok_or_else(|| {
                let last = MOST - 1;
                D::Error::custom(format!("cpus has {cpu}, and processors are 0 to {last}"))
            })
        })
        .collect()
}

fn busy_poll<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    const MOST: u64 = 10_000;
    let micros = i64::deserialize(deserializer)?;
    match u64::try_from(micros) {
        Ok(micros @ 0..=MOST) => Ok(Duration::from_micros(micros)),
        _ => Err(D::Error::custom(format!(
            "busy_poll is 0 to {MOST} microseconds"
        ))),
    }
}

fn slice<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    /// What the kernel makes of less, and of more below (`kernel/sched/syscalls.c`).
    const LEAST: u64 = 100;
    const MOST: u64 = 100_000;
    let micros = i64::deserialize(deserializer)?;
    match u64::try_from(micros) {
        Ok(0) => Ok(None),
        Ok(micros @ LEAST..=MOST) => Ok(Some(Duration::from_micros(micros))),
        _ => Err(D::Error::custom(format!(
            "slice is {LEAST} to {MOST} microseconds, or 0 for what everybody has"
        ))),
    }
}

fn mss_clamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MssClamp, D::Error> {
    /// Octets of a segment that every host takes, options included (RFC 879, RFC 791).
    const LEAST: u16 = 64;
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Octets(u16),
        Word(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Octets(octets) if octets >= LEAST => Ok(MssClamp::Fixed(octets)),
        Written::Word(word) if word == "auto" => Ok(MssClamp::Auto),
        Written::Word(word) if word == "no" => Ok(MssClamp::Off),
        _ => Err(D::Error::custom(format!(
            "mss_clamp is \"auto\", \"no\" or {LEAST} to {} octets",
            u16::MAX
        ))),
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

#[cfg(test)]
mod tests {
    use super::*;

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
