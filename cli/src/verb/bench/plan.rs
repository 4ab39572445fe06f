// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The grid: what the flags ask for, without what makes no sense.

use anyhow::anyhow;
use bench_harness::case::{Case, Level, Sizes, operation};
use bench_harness::packet::LEAST;
use bench_harness::peers::{Peer, Question};
use offload_api::sa::{Cipher, Direction, Integrity, Suite};

use super::tunnel::{self, Tunnel};
use super::{Algorithms, Arguments, OpType, Operation, PtestName, unknown};
use crate::failure::Failure;
use crate::verb::bench::backend::Backend;

/// Most points of a grid.
const MOST: usize = 4096;

/// What is to be measured.
pub(super) struct Plan {
    pub(super) backends: Vec<Backend>,
    pub(super) cases: Vec<Case>,
    pub(super) peers: Vec<(Peer, Question)>,
    pub(super) tunnels: Vec<Tunnel>,
    /// What is measured of each tunnel.
    pub(super) shape: tunnel::Shape,
    /// Why peers that were asked for are not among them.
    pub(super) absent: Vec<String>,
}

pub(super) fn make(arguments: &Arguments) -> Result<Plan, Failure> {
    let mut backends = arguments.backend.clone();
    backends.dedup();
    let suites = suites(&arguments.algorithms)?;
    let directions = directions(&arguments.algorithms);
    let mut levels: Vec<Level> = arguments.level.iter().map(|level| level.level()).collect();
    levels.dedup();
    let sizes = sizes(arguments)?;
    let mut cases = Vec::new();
    let tunnels = arguments.ptest.contains(&PtestName::Tunnel);
    let engines = arguments
        .ptest
        .iter()
        .filter(|ptest| **ptest != PtestName::Tunnel);
    for ptest in engines {
        for (engine, _) in backends.iter().enumerate() {
            for (&level, &suite) in levels
                .iter()
                .flat_map(|level| suites.iter().map(move |suite| (level, suite)))
            {
                for &direction in &directions {
                    for &cores in &arguments.cores.0 {
                        let queues = arguments
                            .queues
                            .as_ref()
                            .map_or(vec![cores], |q| q.0.clone());
                        for queues in queues {
                            for &sas in &arguments.sas.0 {
                                for &burst in &arguments.burst_sz.0 {
                                    cases.extend(sizes.iter().map(|sizes| Case {
                                        engine,
                                        ptest: ptest.ptest(),
                                        suite,
                                        direction,
                                        level,
                                        sizes: sizes.clone(),
                                        burst,
                                        queues,
                                        cores,
                                        sas,
                                    }));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    if cases.len() > MOST {
        return Err(Failure::usage(anyhow!(
            "{} cases: more than {MOST}; ask for fewer sizes, bursts, queues, cores or algorithms",
            cases.len()
        )));
    }
    if let Some(case) = cases.iter().find(|case| case.queues < case.cores) {
        return Err(Failure::usage(anyhow!(
            "{} cores have no use for {} queue pairs: each needs one of its own",
            case.cores,
            case.queues
        )));
    }
    let burst = arguments.burst_sz.0.iter().max().copied().unwrap_or(0);
    if burst > arguments.pool_sz as usize || burst > arguments.desc_nb as usize {
        return Err(Failure::usage(anyhow!(
            "a burst of {burst} packets needs as many frames (--pool-sz {}) and descriptors (--desc-nb {})",
            arguments.pool_sz,
            arguments.desc_nb
        )));
    }
    let (chosen, others) = named_peers(arguments)?;
    let (mut peers, mut absent) = (Vec::new(), Vec::new());
    if !cases.is_empty() {
        (peers, absent) = questions(chosen, arguments, &suites, &directions)?;
    } else {
        backends.clear();
    }
    let mut plan = Plan {
        backends,
        cases,
        peers,
        tunnels: Vec::new(),
        shape: tunnel::Shape {
            seconds: arguments.tunnel_seconds,
            sizes: Vec::new(),
        },
        absent: Vec::new(),
    };
    if tunnels {
        if arguments.imix.is_some() {
            return Err(Failure::usage(anyhow!(
                "--ptest tunnel sends packets of one size at a time: leave out --imix"
            )));
        }
        let fits = |size: &usize| (tunnel::LEAST..=tunnel::MOST).contains(size);
        let (fitting, others_sizes): (Vec<usize>, Vec<usize>) =
            arguments.buffer_sz.0.iter().copied().partition(fits);
        if fitting.is_empty() {
            return Err(Failure::usage(anyhow!(
                "a tunnel's packets have {} to {} octets: none of --buffer-sz does",
                tunnel::LEAST,
                tunnel::MOST
            )));
        }
        absent.extend(others_sizes.iter().map(|size| {
            let (least, most) = (tunnel::LEAST, tunnel::MOST);
            format!("tunnels with packets of {size} octets: they have {least} to {most}")
        }));
        plan.shape.sizes = fitting;
        for tunnel in Tunnel::OURS.into_iter().chain(others) {
            match tunnel.find() {
                Ok(_) => plan.tunnels.push(tunnel),
                Err(why) => absent.push(why),
            }
        }
    }
    plan.absent = absent;
    Ok(plan)
}

fn sizes(arguments: &Arguments) -> Result<Vec<Sizes>, Failure> {
    let sizes = &arguments.buffer_sz.0;
    if let Some(bad) = sizes.iter().find(|size| **size < LEAST || **size > 65_535) {
        return Err(Failure::usage(anyhow!(
            "--buffer-sz {bad}: a packet has {LEAST} octets (its IPv4 header) to 65535"
        )));
    }
    let Some(weights) = &arguments.imix else {
        return Ok(sizes.iter().map(|size| Sizes::One(*size)).collect());
    };
    let all: usize = weights.0.iter().sum();
    if weights.0.len() != sizes.len() || all == 0 || all > 4096 {
        return Err(Failure::usage(anyhow!(
            "--imix has {} weights for {} sizes of --buffer-sz: it needs one for each, 1 to 4096 in all",
            weights.0.len(),
            sizes.len()
        )));
    }
    let mix = sizes.iter().zip(&weights.0);
    Ok(vec![Sizes::Imix(
        mix.map(|(size, weight)| (*size, *weight as u32)).collect(),
    )])
}

fn directions(algorithms: &Algorithms) -> Vec<Direction> {
    let chosen = match algorithms.optype {
        // With suites by name both kinds' flags count.
        OpType::Aead if algorithms.suite.is_empty() => &algorithms.aead_op,
        OpType::Aead if algorithms.aead_op != [Operation::Encrypt] => &algorithms.aead_op,
        OpType::AuthOnly => &algorithms.auth_op,
        _ => &algorithms.cipher_op,
    };
    let mut directions: Vec<Direction> = chosen
        .iter()
        .map(|operation| match operation {
            Operation::Encrypt => Direction::Outbound,
            Operation::Decrypt => Direction::Inbound,
        })
        .collect();
    directions.dedup();
    directions
}

fn suites(algorithms: &Algorithms) -> Result<Vec<Suite>, Failure> {
    if !algorithms.suite.is_empty() {
        return named(&algorithms.suite);
    }
    let mut suites = Vec::new();
    match algorithms.optype {
        OpType::Aead => {
            for name in &algorithms.aead_algo {
                let keys: &[(usize, Cipher)] = match name.as_str() {
                    "aes-gcm" => &[(16, Cipher::Aes128Gcm), (32, Cipher::Aes256Gcm)],
                    "chacha20-poly1305" => &[(32, Cipher::ChaCha20Poly1305)],
                    _ => return Err(unknown("AEAD", name, &["aes-gcm", "chacha20-poly1305"])),
                };
                for cipher in by_key(name, keys, algorithms.aead_key_sz.as_ref())? {
                    suites.push(Suite::new(cipher, Integrity::None)?);
                }
            }
        }
        OpType::CipherThenAuth | OpType::AuthThenCipher => {
            for name in &algorithms.cipher_algo {
                let keys: &[(usize, Cipher)] = match name.as_str() {
                    "aes-cbc" => &[
                        (16, Cipher::Aes128Cbc),
                        (24, Cipher::Aes192Cbc),
                        (32, Cipher::Aes256Cbc),
                    ],
                    "null" => &[(0, Cipher::Null)],
                    _ => return Err(unknown("cipher", name, &["aes-cbc", "null"])),
                };
                for cipher in by_key(name, keys, algorithms.cipher_key_sz.as_ref())? {
                    for integrity in integrities(algorithms)? {
                        suites.push(Suite::new(cipher, integrity)?);
                    }
                }
            }
        }
        OpType::AuthOnly => {
            for integrity in integrities(algorithms)? {
                suites.push(Suite::new(Cipher::Null, integrity)?);
            }
        }
        OpType::CipherOnly => {
            return Err(Failure::refused(anyhow!(
                "ESP has no cipher without integrity (RFC 8221 §4): use --optype aead or cipher-then-auth"
            )));
        }
    }
    Ok(suites)
}

fn named(names: &[String]) -> Result<Vec<Suite>, Failure> {
    if names == ["all"] {
        return Ok(Suite::all().collect());
    }
    let known: Vec<&str> = Suite::all().map(Suite::name).collect();
    names
        .iter()
        .map(|name| {
            let mut all = Suite::all();
            all.find(|suite| suite.name() == name)
                .ok_or_else(|| unknown("suite", name, &known))
        })
        .collect()
}

/// The ciphers with the keys that are asked for, or with the shortest.
fn by_key(
    name: &str,
    keys: &[(usize, Cipher)],
    asked: Option<&super::lists::List>,
) -> Result<Vec<Cipher>, Failure> {
    let Some(asked) = asked else {
        return Ok(keys.iter().take(1).map(|(_, cipher)| *cipher).collect());
    };
    // An algorithm with one size of key has it, whatever sizes the others are asked for.
    if let [(_, only)] = keys {
        return Ok(vec![*only]);
    }
    let find = |octets: &usize| {
        let found = keys.iter().find(|(size, _)| size == octets);
        found.map(|(_, cipher)| *cipher).ok_or_else(|| {
            let known: Vec<_> = keys.iter().map(|(size, _)| size.to_string()).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            unknown(&format!("key size of {name}"), &octets.to_string(), &known)
        })
    };
    asked.0.iter().map(find).collect()
}

fn integrities(algorithms: &Algorithms) -> Result<Vec<Integrity>, Failure> {
    let known = ["sha2-256-hmac", "sha2-384-hmac", "sha2-512-hmac"];
    let each = algorithms.auth_algo.iter().map(|name| match name.as_str() {
        "sha2-256-hmac" => Ok(Integrity::HmacSha256),
        "sha2-384-hmac" => Ok(Integrity::HmacSha384),
        "sha2-512-hmac" => Ok(Integrity::HmacSha512),
        _ => Err(unknown("integrity algorithm", name, &known)),
    });
    each.collect()
}

/// Packets that a peer does for each size at least: DPDK's program starts for some tenths of a second.
const PEER_OPS: u64 = 500_000;

/// What is asked of whom, and why others are not asked.
type PeerPlan = (Vec<(Peer, Question)>, Vec<String>);

/// The engines and tunnels that --peers names.
fn named_peers(arguments: &Arguments) -> Result<(Vec<Peer>, Vec<Tunnel>), Failure> {
    let (mut engines, mut tunnels) = (Vec::new(), Vec::new());
    for name in &arguments.peers {
        if name == "all" {
            engines.extend(Peer::ALL);
            tunnels.extend(Tunnel::PEERS);
        } else if let Some(peer) = Peer::ALL.into_iter().find(|peer| peer.name() == name) {
            engines.push(peer);
        } else if let Some(peer) = Tunnel::PEERS.into_iter().find(|peer| peer.name() == name) {
            tunnels.push(peer);
        } else {
            let engines = Peer::ALL.iter().map(|peer| peer.name());
            let tunnels = Tunnel::PEERS.iter().map(|peer| peer.name());
            let known: Vec<&str> = engines.chain(tunnels).collect();
            return Err(unknown("peer", name, &known));
        }
    }
    Ok((engines, tunnels))
}

fn questions(
    chosen: Vec<Peer>,
    arguments: &Arguments,
    suites: &[Suite],
    directions: &[Direction],
) -> Result<PeerPlan, Failure> {
    if !chosen.is_empty() && arguments.imix.is_some() {
        return Err(Failure::usage(anyhow!(
            "--peers measure one size at a time: leave out --imix"
        )));
    }
    let processors = bench_harness::measure::processors();
    let first_two = || {
        let first = *processors.first()?;
        Some((first, processors.get(1).copied().unwrap_or(first)))
    };
    let (mut asked, mut absent) = (Vec::new(), Vec::new());
    for peer in chosen {
        if let Err(why) = peer.find() {
            absent.push(why);
            continue;
        }
        for &suite in suites {
            for &direction in directions {
                if !peer.does(suite, direction) {
                    absent.push(format!(
                        "{} does not do {suite} {}",
                        peer.name(),
                        operation(direction)
                    ));
                    continue;
                }
                // `openssl speed` has no bursts.
                let bursts = arguments.burst_sz.0.iter();
                let bursts = bursts.take(if peer == Peer::OpensslSpeed {
                    1
                } else {
                    usize::MAX
                });
                asked.extend(bursts.map(|burst| {
                    let question = Question {
                        suite,
                        direction,
                        sizes: arguments.buffer_sz.0.clone(),
                        burst: *burst,
                        total_ops: arguments.total_ops.unwrap_or(0).max(PEER_OPS),
                        processors: first_two().filter(|_| !arguments.no_pin),
                    };
                    (peer, question)
                }));
            }
        }
    }
    Ok((asked, absent))
}
