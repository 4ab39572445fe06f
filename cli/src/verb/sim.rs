// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade sim`: a simulated card in this process, for whoever connects.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use sim::fault::{FaultPlan, FaultRate};
use sim::inline::InlineConfig;
use sim::port::PortSpec;
use sim::{CardConfig, SimulatedCard};

use crate::failure::Outcome;

/// Run a simulated card that drivers reach over a unix socket (vfio-user).
///
/// Needs no root, no kernel module and no hardware. It serves one driver after another until SIGINT or
/// SIGTERM.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  esplanade sim --socket /tmp/card.sock --fault drop-completion=1/1000 --seed 7"
)]
pub(crate) struct Arguments {
    /// Unix socket to listen on.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Functions of the card, 1 to 16: the first listens at PATH, the others at PATH.1, PATH.2, …,
    /// each with an equal share of SAs and queue pairs.
    #[arg(long, default_value_t = 1)]
    functions: u16,
    /// SAs that the card holds.
    #[arg(long, default_value_t = 4096)]
    max_sas: u32,
    /// Queue pairs.
    #[arg(long, default_value_t = 8)]
    queues: u16,
    /// Misbehave, on average once in N chances; may be given several times.
    #[arg(long = "fault", value_name = "NAME=1/N")]
    faults: Vec<FaultRate>,
    /// Inline mode: the port for protected packets, an Ethernet. af-packet:IF[@NETNS], tap:NAME,
    /// pcap:in=FILE,out=FILE, cable:SOCKET (to another card) or none.
    #[arg(long, value_name = "PORT", requires_all = ["host", "exception"])]
    wire: Option<PortSpec>,
    /// Inline mode: the port for packets in the clear. tun:NAME, which the card makes, or
    /// pcap:in=FILE,out=FILE.
    #[arg(long, value_name = "PORT", requires = "wire")]
    host: Option<PortSpec>,
    /// Inline mode: the port for what the card leaves to the host, IKE above all. tap:NAME, which the
    /// card makes; give it the outer address.
    #[arg(long, value_name = "PORT", requires = "wire")]
    exception: Option<PortSpec>,
    /// Seed of the faults: the same seed, the same faults.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    let mut config = CardConfig::new(&arguments.socket);
    if let (Some(wire), Some(host), Some(exception)) =
        (arguments.wire, arguments.host, arguments.exception)
    {
        tracing::info!(%wire, %host, %exception, "inline mode");
        config.inline = Some(InlineConfig {
            wire,
            host,
            exception,
        });
    }
    config.functions = arguments.functions;
    config.max_sas = arguments.max_sas;
    config.queues = arguments.queues;
    for fault in &arguments.faults {
        tracing::warn!(fault = %fault.fault, one_in = fault.one_in, seed = arguments.seed, "this card misbehaves");
    }
    config.faults = FaultPlan::new(arguments.faults, arguments.seed);

    // Blocked before the card starts its threads, so that the signals come to the waiting thread alone.
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGINT);
    ending.add(Signal::SIGTERM);
    ending.thread_block().context("cannot block signals")?;
    let card = SimulatedCard::bind(&config)?;
    let stop = card.stop_handle();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if ending.wait().is_ok() {
                stop.stop();
            }
        })?;
    tracing::info!(socket = %arguments.socket.display(), "a card listens");
    card.run()?;
    // A socket without a listener only misleads.
    for function in 0..config.functions {
        let _ = std::fs::remove_file(config.function_socket(function));
    }
    Ok(ExitCode::SUCCESS)
}
