// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Other people's engines, where they are installed: DPDK's crypto drivers under its own
//! `dpdk-test-crypto-perf`, `openssl speed`, and intel-ipsec-mb called directly. Each gives cycles a
//! packet on one core, the measuring of each as its own makers do it.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use offload_api::sa::{Cipher, Direction, Suite};
use thiserror::Error;

use crate::cycles;
use crate::ipsec_mb::{Gcm, Parts};

/// A peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// DPDK's driver over intel-ipsec-mb's GCM.
    DpdkAesniGcm,
    /// DPDK's driver that does nothing: what its queues cost.
    DpdkNull,
    /// `openssl speed -evp … -aead`.
    OpensslSpeed,
    /// intel-ipsec-mb's functions.
    IpsecMb,
}

/// What a peer is asked for: one run of it gives a figure for each size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Algorithms.
    pub suite: Suite,
    /// Direction.
    pub direction: Direction,
    /// Octets of text.
    pub sizes: Vec<usize>,
    /// Packets of a burst.
    pub burst: usize,
    /// Packets for each size.
    pub total_ops: u64,
    /// Where it runs, where threads are kept to a processor: it, and another.
    pub processors: Option<(usize, usize)>,
}

/// Cycles a packet, and packets in a second.
pub type Answer = (f64, f64);

/// Why a peer gave no figure.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// It does not start.
    #[error("{program}: {error}")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// It failed.
    #[error("{program} ended with {status}: {last}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// Its last line.
        last: String,
    },
    /// What it printed has no figure for a size.
    #[error("{program} told nothing of {size} octets")]
    Silent {
        /// The program.
        program: String,
        /// The size.
        size: usize,
    },
}

const DPDK: &str = "dpdk-test-crypto-perf";
const OPENSSL: &str = "openssl";

impl Peer {
    /// Every peer.
    pub const ALL: [Self; 4] = [
        Self::DpdkAesniGcm,
        Self::DpdkNull,
        Self::OpensslSpeed,
        Self::IpsecMb,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::DpdkAesniGcm => "dpdk-aesni-gcm",
            Self::DpdkNull => "dpdk-null",
            Self::OpensslSpeed => "openssl-speed",
            Self::IpsecMb => "ipsec-mb",
        }
    }

    /// Its version, or why it can't run here.
    ///
    /// # Errors
    /// What is missing.
    pub fn find(self) -> Result<String, String> {
        match self {
            Self::DpdkAesniGcm | Self::DpdkNull => {
                let program = in_path(DPDK).ok_or_else(|| {
                    format!(
                        "{}: no {DPDK} (apt-get install dpdk-dev librte-meta-crypto)",
                        self.name()
                    )
                })?;
                Ok(program.display().to_string())
            }
            Self::OpensslSpeed => {
                in_path(OPENSSL).ok_or_else(|| format!("{}: no openssl", self.name()))?;
                let output = Command::new(OPENSSL).arg("version").output();
                let text = output.map(|output| output.stdout).unwrap_or_default();
                Ok(String::from_utf8_lossy(&text).trim().to_owned())
            }
            Self::IpsecMb => match Gcm::load(128) {
                Some(_) => Ok("libIPSec_MB.so.1".to_owned()),
                None => Err(format!(
                    "{}: no libIPSec_MB.so.1 (apt-get install libipsec-mb1), or a processor without VAES",
                    self.name()
                )),
            },
        }
    }

    /// Whether it does this at all.
    pub fn does(self, suite: Suite, direction: Direction) -> bool {
        let gcm = matches!(suite.cipher(), Cipher::Aes128Gcm | Cipher::Aes256Gcm);
        match self {
            Self::DpdkAesniGcm | Self::IpsecMb => gcm,
            Self::DpdkNull => true,
            // Opening with `-decrypt` is not what AEADs are measured by there.
            Self::OpensslSpeed => direction == Direction::Outbound && evp(suite).is_some(),
        }
    }

    /// Runs it once: an answer for each size, in order.
    ///
    /// # Errors
    /// It fails, or tells something else than expected.
    pub fn ask(self, question: &Question) -> Result<Vec<Answer>, PeerError> {
        match self {
            Self::DpdkAesniGcm => dpdk(question, "crypto_aesni_gcm"),
            Self::DpdkNull => dpdk(question, "crypto_null"),
            Self::OpensslSpeed => openssl_speed(question),
            Self::IpsecMb => Ok(ipsec_mb(question)),
        }
    }
}

/// A program's place.
/// Where a program is.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| fs::metadata(place).is_ok_and(|found| found.is_file()))
}

fn run(program: &str, command: &mut Command) -> Result<String, PeerError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| PeerError::Start {
            program: program.to_owned(),
            error,
        })?;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    if !output.status.success() {
        let errors = text(&output.stderr);
        let last = errors.lines().rev().find(|line| !line.trim().is_empty());
        return Err(PeerError::Failed {
            program: program.to_owned(),
            status: output.status.to_string(),
            last: last.unwrap_or("it said nothing").trim().to_owned(),
        });
    }
    // `openssl speed` tells its figures on either.
    Ok(text(&output.stdout) + &text(&output.stderr))
}

fn dpdk(question: &Question, device: &str) -> Result<Vec<Answer>, PeerError> {
    let sizes: Vec<String> = question.sizes.iter().map(ToString::to_string).collect();
    let (main, worker) = match question.processors {
        Some((worker, main)) => (main, worker),
        None => (0, 1),
    };
    let mut command = Command::new(DPDK);
    // Two logical cores at least, also where there is one processor only.
    command.arg(format!("--lcores=0@{main},1@{worker}"));
    command.args([
        "--no-huge",
        "-m",
        "512",
        "--no-pci",
        "--no-telemetry",
        "--vdev",
        device,
    ]);
    // A place of its own, so that two runs do not meet.
    command.arg(format!("--file-prefix=esplanade-{}", std::process::id()));
    command.args(["--", "--ptest", "throughput", "--devtype", device]);
    if device == "crypto_null" {
        command.args([
            "--optype",
            "cipher-only",
            "--cipher-algo",
            "null",
            "--cipher-op",
            "encrypt",
        ]);
        command.args(["--cipher-key-sz", "0", "--cipher-iv-sz", "0"]);
    } else {
        let direction = crate::case::operation(question.direction);
        command.args([
            "--optype",
            "aead",
            "--aead-algo",
            "aes-gcm",
            "--aead-op",
            direction,
        ]);
        command.args([
            "--aead-key-sz",
            &question.suite.cipher_key_len().to_string(),
        ]);
        // SPI and the whole number are 12 octets; DPDK's room for them is 16.
        command.args([
            "--aead-iv-sz",
            "12",
            "--aead-aad-sz",
            "16",
            "--digest-sz",
            "16",
        ]);
    }
    command.args(["--buffer-sz", &sizes.join(",")]);
    command.args(["--burst-sz", &question.burst.to_string()]);
    command.args(["--total-ops", &question.total_ops.to_string()]);
    command.args(["--pool-sz", "8192", "--silent", "--csv-friendly"]);
    let output = run(DPDK, &mut command)?;
    let answer = |size: &usize| {
        let rows = output
            .lines()
            .map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
        // Core, size, burst, enqueued, dequeued, twice failed, million a second, Gbit/s, cycles.
        let mut found = rows.filter_map(|row| match row[..] {
            [_, octets, _, sent, back, _, _, rate, _, cycles]
                if octets.parse() == Ok(*size) && sent == back =>
            {
                Some((cycles.parse().ok()?, rate.parse::<f64>().ok()? * 1e6))
            }
            _ => None,
        });
        found.next().ok_or_else(|| PeerError::Silent {
            program: DPDK.to_owned(),
            size: *size,
        })
    };
    question.sizes.iter().map(answer).collect()
}

fn evp(suite: Suite) -> Option<&'static str> {
    match suite.cipher() {
        Cipher::Aes128Gcm => Some("aes-128-gcm"),
        Cipher::Aes256Gcm => Some("aes-256-gcm"),
        Cipher::ChaCha20Poly1305 => Some("chacha20-poly1305"),
        _ => None,
    }
}

/// One second for each size, which is the least that it measures.
fn openssl_speed(question: &Question) -> Result<Vec<Answer>, PeerError> {
    let mut answers = Vec::new();
    for size in &question.sizes {
        let mut command = match question.processors {
            Some((processor, _)) if in_path("taskset").is_some() => {
                let mut command = Command::new("taskset");
                command.args(["-c", &processor.to_string(), OPENSSL]);
                command
            }
            _ => Command::new(OPENSSL),
        };
        command.args([
            "speed",
            "-mr",
            "-elapsed",
            "-seconds",
            "1",
            "-bytes",
            &size.to_string(),
        ]);
        command.args(["-aead", "-evp", evp(question.suite).unwrap_or_default()]);
        let output = run(OPENSSL, &mut command)?;
        // +F:25:AES-128-GCM:octets in a second
        let figure = output.lines().filter(|line| line.starts_with("+F:"));
        let mut figure = figure.filter_map(|line| line.rsplit(':').next()?.parse::<f64>().ok());
        let octets = figure.next().filter(|octets| *octets > 0.0);
        let octets = octets.ok_or_else(|| PeerError::Silent {
            program: OPENSSL.to_owned(),
            size: *size,
        })?;
        let rate = octets / *size as f64;
        answers.push((cycles::per_second() / rate, rate));
    }
    Ok(answers)
}

/// In this process and on one thread: bursts in place, one key, as the façade's benchmark does.
fn ipsec_mb(question: &Question) -> Vec<Answer> {
    let bits = question.suite.cipher_key_len() as u32 * 8;
    let Some(gcm) = Gcm::load(bits) else {
        return Vec::new();
    };
    let measure = |size: &usize| {
        let key = gcm.key(&[0x42; 32]);
        let parts = (0..question.burst).map(|n| Parts {
            body: vec![n as u8; *size],
            nonce: [n as u8; 12],
            aad: [n as u8; 12],
            tag: [0; 16],
        });
        let mut parts: Vec<Parts> = parts.collect();
        let (mut cycles, mut packets) = (0, 0);
        while packets < question.total_ops {
            let begin = cycles::now();
            for part in black_box(&mut parts) {
                match question.direction {
                    Direction::Outbound => gcm.seal(&key, part),
                    // The time does not depend on the verdict.
                    Direction::Inbound => {
                        black_box(gcm.open(&key, part));
                    }
                }
            }
            cycles += cycles::now() - begin;
            packets += parts.len() as u64;
        }
        let each = cycles as f64 / packets.max(1) as f64;
        (each, cycles::per_second() / each)
    };
    let sizes = question.sizes.clone();
    let processor = question.processors.map(|(processor, _)| processor);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(processor) = processor {
                crate::measure::pin(processor);
            }
            sizes.iter().map(measure).collect()
        });
        thread.join().unwrap_or_default()
    })
}
