// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade bench`.

mod backend;
mod comparison;
mod lists;
mod plan;
mod run;
mod show;
mod tunnel;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bench_harness::case::{Level, Ptest};
use bench_harness::report::Report;
use driver::DeviceAddress;

use self::backend::Backend;
use self::lists::List;
use crate::failure::{Failure, Outcome};
use crate::output::print;
use crate::verb::device::parse_address;

/// Measure engines: throughput, latency, cycles, and whether every packet is right.
///
/// Each packet is whole ESP in tunnel mode through the offload API's queue pair; sizes are those of the
/// packet in the clear. Every round runs every case in turn, so that a disturbance hits all alike; the
/// first rounds warm up. Flags with the names of dpdk-test-crypto-perf mean what they mean there.
///
/// `--ptest tunnel` measures whole tunnels instead: two daemons in network namespaces, one TCP stream
/// (iperf3), UDP packets as fast as they go, the highest rate of which at most 0.5 % is lost, and what the
/// tunnel adds to the delay at half of that.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  esplanade bench
  esplanade bench --ptest latency --backend software,sim --buffer-sz 64,1420 --burst-sz 1,32
  esplanade bench --ptest verify --suite all --aead-op encrypt,decrypt
  esplanade bench --peers --aead-key-sz 16,32 --html bench.html --save bench.json
  esplanade bench --imix 7,4,1 --buffer-sz 64,594,1420 --cores 1,2 --queues 2
  esplanade bench --ptest tunnel --peers --repeats 5
  esplanade bench --backend card --device pci:0000:01:00.0 --ptest pmd-cyclecount
  esplanade bench --compare before.json after.json --threshold 0.05

Exit status: 0 done; 1 a packet was wrong, or --compare found a regression; 2 wrong usage; 3 no such
device; 4 no backend can do what was asked; 130 interrupted, with what was measured so far.")]
pub(crate) struct Arguments {
    /// Engines, separated by commas. Simulated ones are started for the purpose, in this process; `rtl`
    /// where it was built in. `card` is the device that --device names.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "software")]
    backend: Vec<Backend>,
    /// A device: pci:DDDD:BB:DD.F or vfio-user:PATH.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    device: Option<DeviceAddress>,
    /// What to measure, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "throughput")]
    ptest: Vec<PtestName>,
    /// How much of ESP is the engine's, separated by commas: `crypto` is the AEAD or cipher and hash alone,
    /// through the same queue pair, and is told as a backend of its own. Sizes are those of what is
    /// enciphered then.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "packet")]
    level: Vec<LevelName>,
    #[command(flatten)]
    algorithms: Algorithms,
    /// Octets of packets in the clear: a list, or MIN:INC:MAX.
    #[arg(long, value_name = "LIST", value_parser = lists::positive, default_value = "64,256,512,1024,1420")]
    buffer_sz: List,
    /// Mix the sizes of --buffer-sz by these weights, one for each.
    #[arg(long, value_name = "WEIGHTS", value_parser = lists::parse)]
    imix: Option<List>,
    /// Packets of a burst: a list, or MIN:INC:MAX.
    #[arg(long, value_name = "LIST", value_parser = lists::positive, default_value = "32")]
    burst_sz: List,
    /// Packets of a round; without it what takes some hundredths of a second on the backend.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    total_ops: Option<u64>,
    /// Frames of a queue pair.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pool_sz: u32,
    /// Operations that a queue pair holds, a power of two.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    desc_nb: u32,
    /// Queue pairs, shared out to the cores; without it one for each core.
    #[arg(long, value_name = "LIST", value_parser = lists::positive)]
    queues: Option<List>,
    /// Threads, each kept to a processor.
    #[arg(long, value_name = "LIST", value_parser = lists::positive, default_value = "1")]
    cores: List,
    /// SAs of a queue pair, which packets have in turn.
    #[arg(long, value_name = "LIST", value_parser = lists::positive, default_value = "1")]
    sas: List,
    /// Let the scheduler choose processors.
    #[arg(long)]
    no_pin: bool,
    /// Milliseconds between handing over and collecting, not counted.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pmd_cyclecount_delay_ms: u64,
    /// Rounds that count.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeats: u32,
    /// Rounds before them that do not.
    #[arg(long, value_name = "N", default_value_t = 1)]
    warm_up: u32,
    /// Seed of the confidence intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run others' engines in the same rounds: dpdk-aesni-gcm, dpdk-null, openssl-speed, ipsec-mb;
    /// others' tunnels: strongswan, wireguard-go, boringtun, gotatun, and wire, which is none; or all that
    /// are installed.
    #[arg(long, value_name = "NAMES", num_args = 0..=1, require_equals = true, value_delimiter = ',', default_missing_value = "all")]
    peers: Vec<String>,
    /// Seconds of each TCP stream through a tunnel; each size of UDP packets takes half of it.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=3600))]
    tunnel_seconds: u32,
    /// Spoil every Nth result before `verify` checks it, to see that it is found.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    corrupt: Option<u64>,
    /// No progress, and no header.
    #[arg(long)]
    silent: bool,
    /// Print JSON instead of tables.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values instead of tables.
    #[arg(long, visible_alias = "csv-friendly")]
    csv: bool,
    /// Write the JSON to a file as well, for --compare.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Write a report with plots as well: one file, nothing else needed.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure nothing; lay two saved runs beside each other. Exit status 1 when one of the second's
    /// figures is worse by more than --threshold, and not by chance.
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    compare: Option<Vec<PathBuf>>,
    /// Ratio beyond 1 from which a figure counts as worse, or better.
    #[arg(long, default_value_t = 0.05, requires = "compare")]
    threshold: f64,
}

/// What is done to packets.
#[derive(Debug, clap::Args)]
struct Algorithms {
    /// Kind of algorithms. ESP encrypts first and authenticates the result: `cipher-then-auth` and
    /// `auth-then-cipher` are the two directions of one thing.
    #[arg(long, value_enum, default_value_t = OpType::Aead)]
    optype: OpType,
    /// aes-gcm, chacha20-poly1305; separated by commas.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "aes-gcm"
    )]
    aead_algo: Vec<String>,
    /// Octets: 16, 32; separated by commas. Without it the least that the algorithm has.
    #[arg(long, value_name = "LIST", value_parser = lists::positive)]
    aead_key_sz: Option<List>,
    /// encrypt, decrypt; separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "encrypt")]
    aead_op: Vec<Operation>,
    /// aes-cbc, null; separated by commas.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "aes-cbc"
    )]
    cipher_algo: Vec<String>,
    /// Octets: 16, 24, 32; separated by commas. Without it the least that the algorithm has.
    #[arg(long, value_name = "LIST", value_parser = lists::positive)]
    cipher_key_sz: Option<List>,
    /// encrypt, decrypt; separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "encrypt")]
    cipher_op: Vec<Operation>,
    /// sha2-256-hmac, sha2-384-hmac, sha2-512-hmac; separated by commas.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "sha2-256-hmac"
    )]
    auth_algo: Vec<String>,
    /// generate, verify; separated by commas. For `auth-only`.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "generate")]
    auth_op: Vec<Operation>,
    /// Suites by their names here, such as aes128gcm16 or aes256-sha384, or all; in place of the flags
    /// above, save those for the direction.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    suite: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OpType {
    Aead,
    CipherThenAuth,
    AuthThenCipher,
    AuthOnly,
    CipherOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Operation {
    #[value(alias = "generate")]
    Encrypt,
    #[value(alias = "verify")]
    Decrypt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LevelName {
    Packet,
    Crypto,
}

impl LevelName {
    fn level(self) -> Level {
        match self {
            Self::Packet => Level::Packet,
            Self::Crypto => Level::Crypto,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum PtestName {
    Throughput,
    Latency,
    Verify,
    PmdCyclecount,
    Tunnel,
}

impl PtestName {
    fn ptest(self) -> Ptest {
        match self {
            Self::Tunnel => Ptest::Tunnel,
            Self::Throughput => Ptest::Throughput,
            Self::Latency => Ptest::Latency,
            Self::Verify => Ptest::Verify,
            Self::PmdCyclecount => Ptest::PmdCyclecount,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if let Some([before, after]) = arguments.compare.as_deref() {
        return comparison::run(before, after, arguments);
    }
    let plan = plan::make(arguments)?;
    if !plan.tunnels.is_empty() {
        // Needs a process of one thread.
        netlab::ensure_privileges()?;
    }
    // What can't be written is said before hours of measurement, not after them.
    for path in [&arguments.save, &arguments.html].into_iter().flatten() {
        writable(path)?;
    }
    let report = run::measure(&plan, arguments)?;
    if arguments.json {
        print(&serde_json::to_string_pretty(&report)?)?;
    } else if arguments.csv {
        print(&show::csv(&report))?;
    } else {
        print(&show::tables(&report, !arguments.silent))?;
    }
    if let Some(path) = &arguments.save {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &arguments.html {
        let page = bench_harness::html::page(&report).context("cannot draw the plots")?;
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(verdict(&report))
}

/// Refuses a file that can't be written; what an earlier run left in it stays until there is more.
fn writable(path: &Path) -> Result<(), Failure> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    let told = opened.with_context(|| format!("cannot write {}", path.display()));
    told.map(drop).map_err(Failure::usage)
}

/// As a shell tells of SIGINT.
const INTERRUPTED: u8 = 130;

/// Wrong packets are a failure, whatever else was measured.
fn verdict(report: &Report) -> ExitCode {
    let mut verdicts = report.cells.iter().filter_map(|cell| cell.verify.as_ref());
    if !verdicts.all(|verdict| verdict.passed()) {
        ExitCode::FAILURE
    } else if report.interrupted {
        ExitCode::from(INTERRUPTED)
    } else {
        ExitCode::SUCCESS
    }
}

/// A wrong word, with those that are known.
fn unknown(what: &str, found: &str, known: &[&str]) -> Failure {
    Failure::usage(anyhow::anyhow!(
        "unknown {what} {found:?}; known are {}",
        known.join(", ")
    ))
}
