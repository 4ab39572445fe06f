// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade sim`: a simulated card in this process, for whoever connects.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use sim::capture::CaptureConfig;
use sim::fault::{Fault, FaultPlan, FaultRule};
use sim::inline::InlineConfig;
use sim::pace::{Pace, Rate};
use sim::port::PortSpec;
use sim::qat::{Generation, QatConfig, SimulatedQat};
use sim::{BusTiming, CardConfig, CardStop, RunningCard, SimError, SimulatedCard};

use crate::failure::{Failure, Outcome};
use crate::output::{OutputArguments, table};

/// Run a simulated card that drivers reach over a unix socket (vfio-user).
///
/// Needs no root, no kernel module and no hardware. It serves one driver after another until SIGINT or
/// SIGTERM.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  esplanade sim --socket /tmp/card.sock --fault drop-completion=1/1000 --seed 7
  esplanade sim --socket /tmp/card.sock --rate 100G --latency 2us"
)]
pub(crate) struct Arguments {
    /// Unix socket to listen on.
    #[arg(long, value_name = "PATH", required_unless_present = "list_faults")]
    socket: Option<PathBuf>,
    /// What to be. A QAT function does ciphers and hashes only, and takes nothing but a socket, functions
    /// and faults.
    #[arg(long, value_enum, default_value_t = Model::Ipa)]
    model: Model,
    /// Functions of the card, 1 to 16: the first listens at PATH, the others at PATH.1, PATH.2, …,
    /// each with an equal share of SAs and queue pairs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    functions: u16,
    /// SAs that the card holds [default: 4096].
    #[arg(long)]
    max_sas: Option<u32>,
    /// Queue pairs [default: 8].
    #[arg(long)]
    queues: Option<u16>,
    /// Poll for work and never sleep: answers soonest, and keeps a processor busy.
    #[arg(long)]
    poll: bool,
    /// Leave packets as they are, to measure the way to the card and back. Drivers refuse such a card
    /// for traffic.
    #[arg(long)]
    null_crypto: bool,
    /// Misbehave: once in N chances on average, L times in a row every M chances (NAME=LxM), exactly
    /// at some (NAME=@A,B,…), or by the rules of a TOML file; may be given several times.
    #[arg(long = "fault", value_name = "NAME=1/N|PLAN.toml")]
    faults: Vec<String>,
    /// Show what can go wrong, and end.
    #[arg(long)]
    list_faults: bool,
    /// Inline mode: the port for protected packets, an Ethernet. `af-packet:IF[@NETNS]`, `tap:NAME`,
    /// `pcap:in=FILE,out=FILE`, `cable:SOCKET` (to another card) or `none`.
    #[arg(long, value_name = "PORT", requires_all = ["host", "exception"])]
    wire: Option<PortSpec>,
    /// Inline mode: the port for packets in the clear. `tun:NAME`, which the card makes, or
    /// `pcap:in=FILE,out=FILE`.
    #[arg(long, value_name = "PORT", requires = "wire")]
    host: Option<PortSpec>,
    /// Inline mode: the port for what the card leaves to the host, IKE above all. `tap:NAME`, which the
    /// card makes; give it the outer address.
    #[arg(long, value_name = "PORT", requires = "wire")]
    exception: Option<PortSpec>,
    /// Be no faster than a card of this rate: bits in a second with k, M, G or T. It counts packets in
    /// the clear, which the queues share by priority; in inline mode frames of the wire port, each way.
    #[arg(long, value_name = "BIT/S")]
    rate: Option<Rate>,
    /// Show each result so much later, at most 100 ms: with a unit, ns, us or ms.
    #[arg(long, value_name = "TIME", value_parser = latency)]
    latency: Option<Duration>,
    /// Capture packets in the clear and protected to a pcapng file that only its owner may read; of
    /// further functions to FILE.1, FILE.2, ….
    #[arg(long, value_name = "FILE.pcapng")]
    capture: Option<PathBuf>,
    /// Mebibytes of a capture at most; packets beyond are counted in it.
    #[arg(long, value_name = "MIB", default_value_t = 1024, requires = "capture")]
    capture_limit: u32,
    /// Seed of the faults: the same seed, the same faults. A plan file may have its own.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    output: OutputArguments,
}

/// A device that can be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Model {
    /// The ipa IPsec accelerator.
    Ipa,
    /// The same card, its data path the verilated RTL: true to the clock, and slow. Only where
    /// `esplanade` was built with feature `rtl`.
    Rtl,
    /// A virtual function of an Intel QAT 4xxx.
    QatGen4,
    /// A virtual function of an Intel QAT C62x.
    QatGen2,
    /// An Intel virtual QAT.
    Vqat,
}

impl Model {
    /// Which QAT it is, if it is one.
    fn generation(self) -> Option<Generation> {
        match self {
            Self::Ipa | Self::Rtl => None,
            Self::QatGen4 => Some(Generation::Gen4),
            Self::QatGen2 => Some(Generation::Gen2),
            Self::Vqat => Some(Generation::Virtual),
        }
    }

    /// What is particular to it.
    fn adjust(self, config: &mut CardConfig) {
        if self == Self::Rtl {
            config.rtl = Some(BusTiming::default());
        }
    }

    /// Starts one on threads of this process.
    pub(crate) fn start(self, mut config: CardConfig) -> Result<RunningCard, SimError> {
        self.adjust(&mut config);
        match self.generation() {
            Some(generation) => RunningCard::start_qat(&qat(&config, generation, &config.socket)),
            None => RunningCard::start(&config),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Outcome {
    if arguments.model.generation().is_some()
        && let Some(name) = beyond_qat(&arguments)
    {
        let text = format!("--{name}: a QAT takes a socket, functions and faults only");
        return Err(Failure::usage(anyhow::anyhow!(text)));
    }
    let Some(socket) = arguments.socket.filter(|_| !arguments.list_faults) else {
        return list_faults(&arguments.output);
    };
    let (rules, planned_seed) = rules(&arguments.faults)?;
    let mut config = CardConfig::new(&socket);
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
    config.pace = Pace {
        rate: arguments.rate,
        latency: arguments.latency.unwrap_or_default(),
    };
    config.capture = arguments.capture.map(|path| CaptureConfig {
        path,
        limit: u64::from(arguments.capture_limit) << 20,
    });
    config.functions = arguments.functions;
    config.max_sas = arguments.max_sas.unwrap_or(config.max_sas);
    config.queues = arguments.queues.unwrap_or(config.queues);
    config.polls = arguments.poll;
    config.null_crypto = arguments.null_crypto;
    let seed = arguments.seed.or(planned_seed).unwrap_or(0);
    for rule in &rules {
        tracing::warn!(%rule, seed, "this card misbehaves");
    }
    config.faults = FaultPlan::new(rules, seed);

    // Blocked before the card starts its threads, so that the signals come to the waiting thread alone.
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGINT);
    ending.add(Signal::SIGTERM);
    ending.thread_block().context("cannot block signals")?;
    arguments.model.adjust(&mut config);
    if let Some(generation) = arguments.model.generation() {
        return serve_qat(&config, generation, ending);
    }
    let card = SimulatedCard::bind(&config).map_err(failed)?;
    let stop = card.stop_handle();
    on_signal(ending, move || stop.stop())?;
    tracing::info!(socket = %socket.display(), "a card listens");
    card.run()?;
    // A socket without a listener only misleads.
    for function in 0..config.functions {
        let _ = std::fs::remove_file(config.function_socket(function));
    }
    Ok(ExitCode::SUCCESS)
}

fn qat(config: &CardConfig, generation: Generation, socket: &Path) -> QatConfig {
    QatConfig {
        generation,
        faults: config.faults.clone(),
        ..QatConfig::new(socket)
    }
}

/// Serves QAT functions until a signal comes, or one of them fails.
fn serve_qat(config: &CardConfig, generation: Generation, ending: SigSet) -> Outcome {
    let sockets: Vec<_> = (0..config.functions)
        .map(|function| config.function_socket(function))
        .collect();
    let functions = sockets
        .iter()
        .map(|socket| SimulatedQat::bind(&qat(config, generation, socket)));
    let functions = functions.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let stops: Vec<_> = functions.iter().map(SimulatedQat::stop_handle).collect();
    let stop = move || stops.iter().for_each(CardStop::stop);
    on_signal(ending, stop.clone())?;
    tracing::info!(?generation, functions = sockets.len(), "a QAT listens");
    let runs = functions.into_iter().map(|function| || function.run());
    serve_together(runs.collect(), &stop)?;
    for socket in sockets {
        let _ = std::fs::remove_file(socket);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs all at once, each on a thread. The first that ends, however it does, ends the others by `stop`.
fn serve_together<R>(runs: Vec<R>, stop: &(impl Fn() + Sync)) -> anyhow::Result<()>
where
    R: FnOnce() -> Result<(), SimError> + Send,
{
    /// Also where a thread panics.
    struct StopOthers<'stop, S: Fn()>(&'stop S);
    impl<S: Fn()> Drop for StopOthers<'_, S> {
        fn drop(&mut self) {
            self.0();
        }
    }

    std::thread::scope(|scope| {
        let run = |run: R| {
            let thread = std::thread::Builder::new().name("qat-bus".to_owned());
            thread.spawn_scoped(scope, move || {
                let _others = StopOthers(stop);
                run()
            })
        };
        let threads = runs.into_iter().map(run).collect::<Result<Vec<_>, _>>();
        let threads = threads.inspect_err(|_| stop())?;
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("a function's thread has panicked"),
            }
        }
        Ok(())
    })
}

/// Calls `stop` when a signal comes.
fn on_signal(ending: SigSet, stop: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("signals".to_owned());
    let wait = move || {
        if ending.wait().is_ok() {
            stop();
        }
    };
    thread.spawn(wait).map(drop)
}

/// An option that was given and is an ipa card's only.
fn beyond_qat(arguments: &Arguments) -> Option<&'static str> {
    let given = [
        ("wire", arguments.wire.is_some()),
        ("rate", arguments.rate.is_some()),
        ("latency", arguments.latency.is_some()),
        ("capture", arguments.capture.is_some()),
        ("poll", arguments.poll),
        ("null-crypto", arguments.null_crypto),
        ("max-sas", arguments.max_sas.is_some()),
        ("queues", arguments.queues.is_some()),
    ];
    let given = given.into_iter().find(|(_, given)| *given);
    given.map(|(name, _)| name)
}

/// What was asked of a card that can't be is wrong usage.
fn failed(error: SimError) -> Failure {
    match error {
        SimError::Config { .. } | SimError::Rtl(_) => Failure::usage(error),
        error => error.into(),
    }
}

fn latency(text: &str) -> Result<Duration, String> {
    let error = |why: &dyn std::fmt::Display| {
        format!(
            "latency {text:?}: {why}; expected a number with ns, us or ms, at most 100ms, such as 2us"
        )
    };
    let latency = humantime::parse_duration(text).map_err(|why| error(&why))?;
    (latency <= Pace::MAX_LATENCY)
        .then_some(latency)
        .ok_or_else(|| error(&"it is too long"))
}

/// Rules of the command line and of plan files, and a plan's seed.
fn rules(texts: &[String]) -> Result<(Vec<FaultRule>, Option<u64>), Failure> {
    let (mut rules, mut seed) = (Vec::new(), None);
    for text in texts {
        if text.ends_with(".toml") && !text.contains('=') {
            let (more, its_seed) = FaultPlan::read(Path::new(text)).map_err(Failure::usage)?;
            rules.extend(more);
            seed = seed.or(its_seed);
        } else {
            let rule: Result<FaultRule, _> = text.parse();
            rules.push(rule.map_err(Failure::usage)?);
        }
    }
    Ok((rules, seed))
}

fn list_faults(output: &OutputArguments) -> Outcome {
    let json = Fault::ALL
        .iter()
        .map(|(_, name, what)| serde_json::json!({ "name": name, "what": what.trim() }))
        .collect();
    output.show(&json, || {
        let rows = Fault::ALL
            .iter()
            .map(|(_, name, what)| vec![(*name).to_owned(), what.trim().to_owned()]);
        table(&["FAULT", "WHAT"], rows.collect(), "none")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn one_that_ends_ends_the_others_and_is_told() {
        let (stop, stopped) = mpsc::channel::<()>();
        let (stop, stopped) = (Mutex::new(Some(stop)), Mutex::new(stopped));
        let runs: Vec<Box<dyn FnOnce() -> Result<(), SimError> + Send>> = vec![
            Box::new(|| {
                // Until nobody could stop it any more.
                let _ = stopped.lock().unwrap().recv();
                Ok(())
            }),
            Box::new(|| Err(std::io::Error::other("its socket has failed").into())),
        ];
        let error = serve_together(runs, &|| drop(stop.lock().unwrap().take()));
        assert_eq!(error.unwrap_err().to_string(), "its socket has failed");
    }
}
