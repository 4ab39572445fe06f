// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rounds: every case and every peer in turn.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use bench_harness::case::{Case, Level, Ptest, operation};
use bench_harness::machine::Machine;
use bench_harness::measure::{Options, Prepared, processors, slot_size};
use bench_harness::packet::LEAST;
use bench_harness::peers::{Peer, Question};
use bench_harness::report::{Cell, EngineInfo, FORMAT, Report, Samples};
use indicatif::{ProgressBar, ProgressStyle};
use offload_api::frame::{FramePool, FramePoolConfig};

use super::Arguments;
use super::backend::Engine;
use super::plan::Plan;
use super::tunnel::Measured;
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// A case on its way.
struct Running {
    prepared: Prepared,
    options: Options,
    samples: Samples,
}

/// A peer on its way: samples for each size.
struct RunningPeer<'plan> {
    peer: Peer,
    question: &'plan Question,
    samples: Vec<Samples>,
}

pub(super) fn measure(plan: &Plan, arguments: &Arguments) -> Result<Report, Failure> {
    // Looked at before we make it busy ourselves.
    let machine = Machine::look();
    // Before the engines: a thread that does not block the signal would be ended by it, and all with it.
    let interrupt = Interrupt::install()?;
    let queues = plan.cases.iter().map(|case| case.queues).max().unwrap_or(1);
    let engines = plan
        .backends
        .iter()
        .map(|backend| backend.open(queues, arguments))
        .collect::<Result<Vec<_>, _>>()?;
    let mut absent = plan.absent.clone();
    let mut running = prepare(plan, &engines, arguments, &mut absent)?;
    let mut peers: Vec<RunningPeer<'_>> = plan
        .peers
        .iter()
        .map(|(peer, question)| RunningPeer {
            peer: *peer,
            question,
            samples: question.sizes.iter().map(|_| Samples::default()).collect(),
        })
        .collect();
    let mut tunnels: Vec<Measured> = plan.tunnels.iter().copied().map(Measured::new).collect();
    if running.is_empty() && tunnels.is_empty() {
        return Err(Failure::refused(anyhow!(
            "no backend can do it:\n  {}",
            absent.join("\n  ")
        )));
    }
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let rounds = arguments.warm_up + arguments.repeats;
    let progress = progress(
        arguments,
        u64::from(rounds) * (running.len() + peers.len() + tunnels.len()) as u64,
    );
    let mut interrupted = false;
    'rounds: for round in 0..rounds {
        let counts = round >= arguments.warm_up;
        // Each round begins with another: what a peer's process leaves behind when it ends, which costs
        // those that come next, is not always the same cell's.
        let first = round as usize % running.len().max(1);
        let (before, from) = running.split_at_mut(first);
        for case in from.iter_mut().chain(before) {
            if interrupt.asked() {
                interrupted = true;
                break 'rounds;
            }
            progress.set_message(describe(case.prepared.case(), &engines));
            let found = case.prepared.round(&case.options).map_err(|error| {
                let what = describe(case.prepared.case(), &engines);
                Failure::from(anyhow!(error).context(what))
            })?;
            if counts {
                case.samples.add(case.prepared.case().ptest, found);
            }
            progress.inc(1);
        }
        for peer in &mut peers {
            if interrupt.asked() {
                interrupted = true;
                break 'rounds;
            }
            progress.set_message(peer.peer.name().to_owned());
            let answers = peer.peer.ask(peer.question).map_err(|error| {
                Failure::from(anyhow!(error).context(format!("peer {}", peer.peer.name())))
            })?;
            if counts {
                for (samples, (cycles, rate)) in peer.samples.iter_mut().zip(answers) {
                    samples.add_peer(cycles, rate);
                }
            }
            progress.inc(1);
        }
        for tunnel in &mut tunnels {
            if interrupt.asked() {
                interrupted = true;
                break 'rounds;
            }
            progress.set_message(tunnel.tunnel.name());
            if let Err(error) = tunnel.round(&plan.shape, counts) {
                // One that does not come up must not cost the others.
                anstream::eprintln!("esplanade: {error:#}");
                absent.push(format!("round {}: {error:#}", round + 1));
            }
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    if interrupted {
        anstream::eprintln!("esplanade: interrupted; this is what was measured so far");
    }
    let mut infos: Vec<EngineInfo> = engines.iter().map(Engine::info).collect();
    let mut cells = Vec::new();
    for Running {
        prepared, samples, ..
    } in running
    {
        let case = prepared.case();
        let name = name(case, &engines);
        if let Some(engine) = engines.get(case.engine)
            && !infos.iter().any(|info| info.name == name)
        {
            let info = engine.info();
            infos.push(EngineInfo {
                name: name.clone(),
                ..info
            });
        }
        if !samples.is_empty() {
            cells.push(Cell::of_case(case, &name, samples, arguments.seed));
        }
    }
    for RunningPeer {
        peer,
        question,
        samples,
    } in peers
    {
        if !infos.iter().any(|info| info.name == peer.name()) {
            infos.push(EngineInfo {
                name: peer.name().to_owned(),
                product: peer.find().unwrap_or_default(),
                firmware: String::new(),
            });
        }
        for (size, samples) in question.sizes.iter().zip(samples) {
            if !samples.is_empty() {
                let (name, operation) = (peer.name(), operation(question.direction));
                let (suite, burst, seed) = (question.suite, question.burst, arguments.seed);
                let cell = Cell::of_peer(name, suite, operation, *size, burst, samples, seed);
                cells.push(cell);
            }
        }
    }
    for tunnel in tunnels.iter().filter(|tunnel| !tunnel.is_empty()) {
        infos.push(tunnel.info());
        cells.extend(tunnel.cells(&plan.shape, arguments.seed));
    }
    Ok(Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.unwrap_or_default().as_secs(),
        machine,
        engines: infos,
        interrupted,
        cells,
        absent,
    })
}

/// Installs the SAs of every case that its engine can do; why the others are left out goes to `absent`.
fn prepare(
    plan: &Plan,
    engines: &[Engine],
    arguments: &Arguments,
    absent: &mut Vec<String>,
) -> Result<Vec<Running>, Failure> {
    let mut pools: HashMap<(usize, u32), FramePool> = HashMap::new();
    let mut first = vec![0u32; engines.len()];
    let mut running = Vec::new();
    let most_queues = plan.cases.iter().map(|case| case.queues).max().unwrap_or(1);
    for case in &plan.cases {
        let (Some(engine), Some(first)) = (engines.get(case.engine), first.get_mut(case.engine))
        else {
            continue;
        };
        if let Some(why) = refusal(case, engine, arguments) {
            absent.push(format!("{}: {why}", describe(case, engines)));
            continue;
        }
        let accelerator = &engine.accelerator;
        let slot_size = slot_size(case.sizes.most());
        let pool = match pools.get(&(case.engine, slot_size)) {
            Some(pool) => pool.clone(),
            None => {
                let pool = FramePool::new(FramePoolConfig {
                    slots: arguments.pool_sz.saturating_mul(most_queues as u32),
                    slot_size,
                    ..FramePoolConfig::default()
                })?;
                accelerator.register_pool(&pool)?;
                pools.insert((case.engine, slot_size), pool.clone());
                pool
            }
        };
        let prepared = Prepared::new(case, accelerator.clone(), pool, *first)
            .map_err(|error| anyhow!(error).context(describe(case, engines)))?;
        *first = first.saturating_add((case.queues * case.sas) as u32);
        running.push(Running {
            prepared,
            options: options(case, engine, arguments),
            samples: Samples::default(),
        });
    }
    Ok(running)
}

fn options(case: &Case, engine: &Engine, arguments: &Arguments) -> Options {
    let all = if arguments.no_pin {
        Vec::new()
    } else {
        processors()
    };
    Options {
        total_ops: arguments
            .total_ops
            .unwrap_or_else(|| engine.backend.total_ops(case.ptest)),
        pool: arguments.pool_sz as usize,
        depth: arguments.desc_nb,
        processors: all,
        delay: Duration::from_millis(arguments.pmd_cyclecount_delay_ms),
        corrupt: arguments.corrupt,
    }
}

/// Why an engine can't run a case.
fn refusal(case: &Case, engine: &Engine, arguments: &Arguments) -> Option<String> {
    let capabilities = engine.accelerator.capabilities();
    let sa = bench_harness::packet::sa_at(case.level, case.direction, case.suite, 0);
    if let Err(unsupported) = capabilities.check(&sa) {
        return Some(unsupported.to_string());
    }
    if case.level == Level::Crypto {
        let unit = case.suite.alignment();
        let fits = |size: &usize| size.is_multiple_of(unit) && *size > LEAST;
        if !case.sizes.sequence().iter().all(fits) {
            return Some(format!(
                "what is enciphered has a multiple of {unit} octets, more than {LEAST}"
            ));
        }
        if case.sas != 1 || case.ptest == Ptest::Verify {
            return Some(
                "with --level crypto there is one SA a queue pair, and no --ptest verify"
                    .to_owned(),
            );
        }
    }
    if case.queues > usize::from(capabilities.max_queues) {
        return Some(format!("it has {} queue pairs", capabilities.max_queues));
    }
    let sas = case.queues * case.sas;
    if sas > capabilities.max_sas as usize {
        return Some(format!("it holds {} SAs", capabilities.max_sas));
    }
    let largest = case.sizes.most() + offload_api::frame::HEADROOM;
    if largest > capabilities.max_packet as usize {
        return Some(format!(
            "its largest packet has {} octets, sealed",
            capabilities.max_packet
        ));
    }
    let depth = arguments.desc_nb.min(capabilities.max_depth) as usize;
    (case.burst > depth).then(|| format!("a queue pair of it holds {depth} operations"))
}

/// The engine's name in the report.
fn name(case: &Case, engines: &[Engine]) -> String {
    let engine = engines.get(case.engine);
    let name = engine.map_or("", |engine| engine.backend.name());
    match case.level {
        Level::Packet => name.to_owned(),
        Level::Crypto => format!("{name}-crypto"),
    }
}

fn describe(case: &Case, engines: &[Engine]) -> String {
    let name = name(case, engines);
    let operation = operation(case.direction);
    let (ptest, suite, sizes, burst) = (case.ptest, case.suite, &case.sizes, case.burst);
    format!("{name} {ptest} {suite} {operation} {sizes} B, burst {burst}")
}

fn progress(arguments: &Arguments, steps: u64) -> ProgressBar {
    if arguments.silent || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps);
    let template = "{elapsed:>4} {wide_bar} {pos}/{len} {eta:>4}  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
