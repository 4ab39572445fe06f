// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon.tun]`: the TUN interface, and the workers between it and the ESP sockets.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::dataplane::{CopyDscp, MssClamp};

/// The TUN interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
    /// The settings in which two are not the same.
    pub(super) fn differing(&self, other: &Self) -> Vec<&'static str> {
        differing!(self, other; name mtu queues cpus mss_clamp copy_dscp busy_poll slice)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The section with a further setting.
    fn tun(setting: &str) -> Result<TunSection, toml::de::Error> {
        toml::from_str(&format!("name = \"x\"\n{setting}\n"))
    }

    /// B40: what `copy_dscp` may be.
    #[test]
    fn dscp_is_copied_outwards_unless_told_otherwise() {
        let read = |setting: &str| tun(setting).map(|tun| tun.copy_dscp);
        assert_eq!(read("").unwrap(), CopyDscp::Out);
        for (word, setting) in [
            ("out", CopyDscp::Out),
            ("in", CopyDscp::In),
            ("yes", CopyDscp::Yes),
            ("both", CopyDscp::Yes),
            ("no", CopyDscp::No),
        ] {
            let read = read(&format!("copy_dscp = \"{word}\"")).unwrap();
            assert_eq!(read, setting, "{word}");
        }
        assert!(read("copy_dscp = \"maybe\"").is_err());
    }

    #[test]
    fn workers_sleep_at_once_unless_told_to_poll() {
        let read = |setting: &str| tun(setting).map(|tun| tun.busy_poll.as_micros());
        assert_eq!(read("").unwrap(), 0);
        assert_eq!(read("busy_poll = 100").unwrap(), 100);
        for wrong in ["10001", "-1"] {
            let error = read(&format!("busy_poll = {wrong}")).unwrap_err();
            assert!(error.to_string().contains("busy_poll"), "{error}");
        }
    }

    #[test]
    fn workers_are_kept_to_the_processors_that_are_named() {
        let read = |setting: &str| tun(setting).map(|tun| (tun.workers(), tun.cpus));
        assert!(read("").unwrap().1.is_empty());
        assert_eq!(read("cpus = [2, 3, 5]").unwrap(), (3, vec![2, 3, 5]));
        assert_eq!(read("cpus = [1]\nqueues = 2").unwrap(), (2, vec![1]));
        for wrong in ["[1024]", "[-1]"] {
            let error = read(&format!("cpus = {wrong}")).unwrap_err();
            assert!(error.to_string().contains("cpus"), "{error}");
        }
        assert!(read("cpus = 3").is_err());
    }

    #[test]
    fn workers_have_short_slices_unless_told_otherwise() {
        let read = |setting: &str| tun(setting).map(|tun| tun.slice.map(|slice| slice.as_micros()));
        assert_eq!(read("").unwrap(), Some(100));
        assert_eq!(read("slice = 3000").unwrap(), Some(3000));
        assert_eq!(read("slice = 0").unwrap(), None);
        for wrong in ["99", "100001", "-1"] {
            let error = read(&format!("slice = {wrong}")).unwrap_err();
            assert!(error.to_string().contains("slice"), "{error}");
        }
    }
}
