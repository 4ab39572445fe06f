// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is measured: one point of the grid.

use std::fmt;

use offload_api::sa::{Direction, Suite};
use serde::{Deserialize, Serialize};

/// A kind of measurement, by the names of `dpdk-test-crypto-perf` where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ptest {
    /// Packets in a second, and cycles a packet, with as many under way as the queue takes.
    Throughput,
    /// From handing a burst over until each of its packets is back.
    Latency,
    /// Every packet's result against OpenSSL's.
    Verify,
    /// Cycles of building, enqueueing and dequeueing, apart.
    PmdCyclecount,
    /// Whole tunnels between two hosts.
    Tunnel,
}

impl fmt::Display for Ptest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Verify => "verify",
            Self::PmdCyclecount => "pmd-cyclecount",
            Self::Tunnel => "tunnel",
        })
    }
}

/// How much of ESP is the engine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// All of it, in tunnel mode.
    #[default]
    Packet,
    /// The cryptography alone: packets come with header, IV and trailer.
    Crypto,
}

/// Sizes of packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All alike.
    One(usize),
    /// A mix: sizes and their weights.
    Imix(Vec<(usize, u32)>),
}

/// Most packets of a mix before it begins again.
const PERIOD: u32 = 4096;

impl Sizes {
    /// The largest.
    pub fn most(&self) -> usize {
        match self {
            Self::One(size) => *size,
            Self::Imix(mix) => mix.iter().map(|(size, _)| *size).max().unwrap_or(0),
        }
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        match self {
            Self::One(size) => *size as f64,
            Self::Imix(mix) => {
                let weighted = |(size, weight): &(usize, u32)| *size as f64 * f64::from(*weight);
                let all: f64 = mix.iter().map(|(_, weight)| f64::from(*weight)).sum();
                mix.iter().map(weighted).sum::<f64>() / all.max(1.0)
            }
        }
    }

    /// The sizes in the order that they are sent, over and over: each as often as its weight says, and
    /// spread as evenly as can be.
    pub fn sequence(&self) -> Vec<usize> {
        match self {
            Self::One(size) => vec![*size],
            Self::Imix(mix) => {
                let divisor = mix
                    .iter()
                    .fold(0, |divisor, (_, weight)| gcd(divisor, *weight));
                let total = mix.iter().map(|(_, weight)| weight / divisor.max(1)).sum();
                let total: u32 = u32::min(total, PERIOD);
                let whole: i64 = mix.iter().map(|(_, weight)| i64::from(*weight)).sum();
                let mut credit = vec![0i64; mix.len()];
                let mut turn = || {
                    for (credit, (_, weight)) in credit.iter_mut().zip(mix) {
                        *credit += i64::from(*weight);
                    }
                    let (at, most) = credit.iter_mut().enumerate().max_by_key(|(_, c)| **c)?;
                    *most -= whole;
                    mix.get(at).map(|(size, _)| *size)
                };
                (0..total).filter_map(|_| turn()).collect()
            }
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(size) => write!(f, "{size}"),
            Self::Imix(mix) => {
                let parts: Vec<_> = mix.iter().map(|(s, w)| format!("{s}*{w}")).collect();
                write!(f, "imix {}", parts.join("+"))
            }
        }
    }
}

/// A point of the grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Index of its engine.
    pub engine: usize,
    /// What is measured.
    pub ptest: Ptest,
    /// The algorithms.
    pub suite: Suite,
    /// Whether packets are sealed or opened.
    pub direction: Direction,
    /// How much of ESP is the engine's.
    pub level: Level,
    /// Octets of packets in the clear; with the cryptography alone, of what is enciphered.
    pub sizes: Sizes,
    /// Packets of a burst.
    pub burst: usize,
    /// Queue pairs, shared out to the cores.
    pub queues: usize,
    /// Threads that drive them.
    pub cores: usize,
    /// SAs of each queue pair, whose turn comes with each packet.
    pub sas: usize,
}

/// The word for a direction in reports: `encrypt` or `decrypt`.
pub fn operation(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "encrypt",
        Direction::Inbound => "decrypt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_has_each_size_as_often_as_its_weight_says() {
        let mix = Sizes::Imix(vec![(64, 14), (512, 8), (1420, 2)]);
        let sequence = mix.sequence();
        assert_eq!(sequence.len(), 12);
        let count = |size| sequence.iter().filter(|found| **found == size).count();
        assert_eq!([64, 512, 1420].map(count), [7, 4, 1]);
        // Spread: never three of the large half in a row.
        assert!(
            sequence.windows(3).all(|three| three.contains(&64)),
            "{sequence:?}"
        );
        assert_eq!(mix.most(), 1420);
        assert!((mix.mean() - (64.0 * 7.0 + 512.0 * 4.0 + 1420.0) / 12.0).abs() < 1e-9);
        assert_eq!(mix.to_string(), "imix 64*14+512*8+1420*2");
    }
}
