// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade keep`: where there is no systemd, somebody who holds a service's descriptors while it is
//! dead, and starts it again. It speaks systemd's protocols: sd_notify(3) with `FDSTORE=1` one way,
//! sd_listen_fds(3) the other.

mod store;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::{Failure, Outcome};
use store::Store;

/// The first descriptor that a service inherits: SD_LISTEN_FDS_START.
const FIRST: i32 = 3;
/// Before a service that has failed is started again: longer each time that it fails soon.
const BACK_OFF: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_secs(10);
/// At most, for one that had started and said so: what it serves waits for it.
const AFTER_READY: Duration = Duration::from_millis(500);
/// How long it runs to count as well.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// Wrong usage or configuration: starting it again would not help.
const HOPELESS: i32 = 2;
/// What the service is told, too.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Run a service, start it again when it dies, and keep what it would lose by dying.
///
/// For hosts without systemd, whose FileDescriptorStoreMax= and Restart= do the same. ikev2d hands over its
/// SA cache and its card, so that the one that is started after a crash goes on with the card's security
/// associations; a card in inline mode never stops. Signals go on to the service; when it ends in good
/// order, or was told to, so does this, with its exit status.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  esplanade keep -- ikev2d --config gw.toml")]
pub(crate) struct Arguments {
    /// Become the command in place of this, with what was inherited: how each service is started.
    #[arg(long, hide = true)]
    launch: bool,
    /// The service, and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<std::ffi::OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if arguments.launch {
        return launch(&arguments.command);
    }
    let mut signals = SigSet::empty();
    FORWARDED.iter().for_each(|signal| signals.add(*signal));
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("signals")?;
    let store = Store::open().context("the socket for notifications")?;
    let mut keeper = Keeper {
        command: &arguments.command,
        store,
        signals,
        told: false,
    };
    Ok(ExitCode::from(keeper.keep()?))
}

/// sd_listen_fds(3) wants the service's own process id, which is known only in its process.
fn launch(command: &[std::ffi::OsString]) -> Outcome {
    SigSet::empty().thread_set_mask().context("signals")?;
    // A service without a keeper would stand in the way of the next one.
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("the keeper's end")?;
    let Some((program, arguments)) = command.split_first() else {
        return Ok(ExitCode::from(HOPELESS as u8));
    };
    let error = Command::new(program)
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .exec();
    // No wait makes a program of what is none.
    let hopeless = matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
    );
    let error = anyhow::Error::from(error).context(format!("{}", program.display()));
    Err(if hopeless {
        Failure::usage(error)
    } else {
        error.into()
    })
}

struct Keeper<'a> {
    command: &'a [std::ffi::OsString],
    store: Store,
    signals: SignalFd,
    /// To end.
    told: bool,
}

impl Keeper<'_> {
    /// The exit status of the last one.
    fn keep(&mut self) -> anyhow::Result<u8> {
        let mut back_off = BACK_OFF.start;
        loop {
            let started = Instant::now();
            let mut service = self.start()?;
            let status = self.attend(&mut service)?;
            self.store.take_in();
            if self.told || status.success() || status.code() == Some(HOPELESS) {
                let signal = || status.signal().map(|signal| 128 + signal);
                return Ok(status.code().or_else(signal).unwrap_or(1) as u8);
            }
            if started.elapsed() >= WELL_AFTER {
                back_off = BACK_OFF.start;
            }
            if self.store.was_ready() {
                back_off = back_off.min(AFTER_READY);
            }
            tracing::warn!(%status, ?back_off, kept = self.store.len(), "the service has died: it is started again");
            if self.rest(back_off)? {
                return Ok(1);
            }
            back_off = (back_off * 2).min(BACK_OFF.end);
        }
    }

    fn start(&mut self) -> anyhow::Result<Child> {
        self.store.begin();
        let mut command = Command::new("/proc/self/exe");
        command.args(["keep", "--launch", "--"]).args(self.command);
        command.env("NOTIFY_SOCKET", self.store.path());
        command.env("LISTEN_FDS", self.store.len().to_string());
        command.env("LISTEN_FDNAMES", self.store.names());
        let copies = self.store.copies().context("descriptors")?;
        let mappings = copies.into_iter().zip(FIRST..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        command.fd_mappings(mappings.collect())?;
        command.spawn().context("the service")
    }

    /// Until it ends.
    fn attend(&mut self, service: &mut Child) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = service.try_wait()? {
                return Ok(status);
            }
            self.wait(None)?;
            self.store.take_in();
            self.take_signals(Some(service));
        }
    }

    /// Waits before the next start; whether it was told to end meanwhile.
    fn rest(&mut self, time: Duration) -> anyhow::Result<bool> {
        let end = Instant::now() + time;
        while !self.told {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.wait(Some(left))?;
            self.store.take_in();
            self.take_signals(None);
        }
        Ok(true)
    }

    fn wait(&self, time: Option<Duration>) -> anyhow::Result<()> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.store.socket(), PollFlags::IN),
        ];
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands signals on.
    fn take_signals(&mut self, service: Option<&Child>) {
        while let Ok(Some(told)) = self.signals.read_signal() {
            let Ok(signal) = Signal::try_from(told.ssi_signo as i32) else {
                continue;
            };
            self.told |= matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT);
            if let Some(service) = service
                && FORWARDED.contains(&signal)
            {
                // It may have ended in between.
                let _ = kill(Pid::from_raw(service.id() as i32), signal);
            }
        }
    }
}
