// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `ikev2d`: negotiates tunnels and keeps them, in the accelerator or without it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ikev2d::config::{Config, Draft};
use ikev2d::keeper::{KeepArguments, Keeper};
use ikev2d::kept::Kept;
use ikev2d::launcher::LaunchArguments;
use ikev2d::privileges;
use ikev2d::publication::PublishArguments;
use tracing_subscriber::EnvFilter;

/// IKE daemon that programs IPsec accelerators and falls back to software ESP.
///
/// It is controlled by strongSwan's `swanctl --uri unix://SOCKET` or by `esplanade`. SIGHUP reads the
/// configuration again, SIGTERM ends it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(
        long,
        short,
        default_value = "/etc/esplanade/ikev2d.toml",
        env = "IKEV2D_CONFIG"
    )]
    config: PathBuf,
    /// Only check the configuration.
    #[arg(long)]
    check: bool,
    /// error, warn, info, debug or trace; the configuration's `daemon.log_level` otherwise.
    #[arg(long)]
    log_level: Option<String>,
    /// Write the manual page to standard output.
    #[arg(long)]
    man: bool,
    #[command(flatten)]
    publish: PublishArguments,
    #[command(flatten)]
    launch: LaunchArguments,
    #[command(flatten)]
    keep: KeepArguments,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let others = [
        arguments.publish.run(),
        arguments.launch.run(),
        arguments.keep.run(),
    ];
    for done in others {
        match done {
            Ok(false) => {}
            Ok(true) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ikev2d: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if arguments.man {
        return match write_manual() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("ikev2d: standard output: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let filter = |level: &str| EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let wrong = |error: &dyn std::error::Error| {
        eprintln!("ikev2d: {error}");
        ExitCode::from(2)
    };
    let draft = match Draft::read(&arguments.config) {
        Ok(draft) => draft,
        Err(error) => return wrong(&error),
    };
    if arguments.check {
        return match draft.load(None) {
            Ok(config) => report(&config, &arguments.config),
            Err(error) => wrong(&error),
        };
    }
    // Before anything is started that could have it as well.
    let kept = Kept::inherit();
    let keeper = match Keeper::start(&arguments.config) {
        Ok(keeper) => keeper,
        Err(error) => {
            eprintln!("ikev2d: the process that keeps private keys: {error}");
            return ExitCode::FAILURE;
        }
    };
    let left = match privileges::give_up(draft.daemon(), &arguments.config) {
        Ok(left) => left,
        Err(error) => return wrong(&error),
    };
    let config = match draft.load(Some(&keeper)) {
        Ok(config) => config,
        Err(error) => return wrong(&error),
    };
    let level = arguments
        .log_level
        .as_deref()
        .or(config.daemon.log_level.as_deref());
    tracing_subscriber::fmt()
        .with_env_filter(filter(level.unwrap_or("info")))
        .with_writer(std::io::stderr)
        .init();
    config.log_warnings();
    if let Some(left) = left {
        left.log();
    }
    harden();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(ikev2d::daemon::run(config, arguments.config, kept, keeper))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ikev2d: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The manual page, from the same definitions as `--help`.
fn write_manual() -> std::io::Result<()> {
    let page = clap_mangen::Man::new(Arguments::command()).section("8");
    match page.render(&mut std::io::stdout().lock()) {
        // Who reads it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// What `--check` says of a configuration that can be used.
fn report(config: &Config, path: &Path) -> ExitCode {
    for warning in &config.warnings {
        eprintln!("{}: warning: {warning}", path.display());
    }
    println!(
        "{}: ok ({} connections)",
        path.display(),
        config.connections.len()
    );
    ExitCode::SUCCESS
}

/// No core dumps: they would hold keys.
fn harden() {
    use nix::sys::resource::{Resource, setrlimit};
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "this process can be traced");
    }
}
