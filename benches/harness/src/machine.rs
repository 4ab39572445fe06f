// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine that was measured on, and how busy it was.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::cycles;

/// Runnable threads a processor, beyond our own, from which figures are of little worth.
const BUSY: f64 = 0.25;

/// A machine and the versions of what was measured on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Its features that decide which engine is chosen.
    pub features: Vec<String>,
    /// Processors that may be used.
    pub processors: usize,
    /// Whether they belong to a virtual machine.
    pub virtual_machine: bool,
    /// Cycles of the time-stamp counter in a second.
    pub tsc_hz: f64,
    /// The kernel's release.
    pub kernel: String,
    /// The frequency governor, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// The OpenSSL that is built in.
    pub openssl: String,
    /// Load averages when it began: of one, five and fifteen minutes.
    pub load: [f64; 3],
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
}

impl Machine {
    /// This one, now.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or("", |(_, value)| value.trim())
        };
        let flags: Vec<&str> = field("flags").split_whitespace().collect();
        let interesting = [
            "aes",
            "pclmulqdq",
            "avx2",
            "vaes",
            "vpclmulqdq",
            "avx512f",
            "sha_ni",
        ];
        let kept = interesting.into_iter().filter(|name| flags.contains(name));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let read = |path: &str| {
            fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let load = load();
        let mut warnings = Vec::new();
        if load[0] > processors as f64 * BUSY {
            warnings.push(format!(
                "the machine is busy: load average {:.2} on {processors} processors; medians and intervals \
                 help against that only so far",
                load[0]
            ));
        }
        if governor
            .as_ref()
            .is_some_and(|governor| governor != "performance")
        {
            warnings.push("the frequency governor is not `performance`".to_owned());
        }
        if !flags.contains(&"constant_tsc") {
            warnings.push("the time-stamp counter does not go at one rate".to_owned());
        }
        if cfg!(debug_assertions) {
            warnings.push("this is a debug build: its figures say nothing".to_owned());
        }
        Self {
            cpu: field("model name").to_owned(),
            features: kept.map(str::to_owned).collect(),
            processors,
            virtual_machine: flags.contains(&"hypervisor"),
            tsc_hz: cycles::per_second(),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            governor,
            openssl: openssl::version::version().to_owned(),
            load,
            warnings,
        }
    }

    /// What must be alike for two runs' figures to be compared, where it is not.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let pairs = [
            ("processor", &self.cpu, &other.cpu),
            ("kernel", &self.kernel, &other.kernel),
            ("OpenSSL", &self.openssl, &other.openssl),
        ];
        let differ = pairs
            .into_iter()
            .filter(|(_, before, after)| before != after);
        differ
            .map(|(what, before, after)| format!("{what}: {before} before, {after} after"))
            .collect()
    }
}

fn load() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut numbers = text
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0.0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0.0))
}
