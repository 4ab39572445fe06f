// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SA cache for readers in other processes, whether the daemon runs, hangs or has died.
//!
//! A process of its own gives it out: it holds a descriptor for reading, knows nothing else, and
//! stays for a while when the daemon dies without a word. The next daemon's takes its place.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Group, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use offload_api::cache::{CacheReader, CacheWriter, Publisher, WriterStatus};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::CapabilitySet;

use crate::config::CacheSection;
use crate::launcher::{Launcher, PublishOrder};

/// How long a publisher may take to begin.
const READY: Duration = Duration::from_secs(5);
/// Between a publisher's looks at whether readers still come to it, and between the daemon's at it.
const LOOK: Duration = Duration::from_secs(1);
/// What a publisher says when readers can come, and the daemon when it ends in good order.
const WORD: u8 = b'.';

/// The right to publish at a path; one daemon has it.
pub(crate) struct Place {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Place {
    /// Takes the path, unless a daemon that runs has it.
    pub(crate) fn take(path: PathBuf) -> anyhow::Result<Self> {
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("{}", lock.display()))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            let writer = match CacheReader::open_path(&path).map(|cache| cache.writer()) {
                Ok(WriterStatus::Alive(writer, _)) => format!("process {}", writer.pid),
                _ => "another daemon".to_owned(),
            };
            bail!(
                "{writer} publishes its SA cache at {}: end it, or set daemon.sa_cache.socket",
                path.display()
            );
        };
        Ok(Self { path, _lock: lock })
    }
}

/// The publishing process, as the daemon sees it.
pub(crate) struct Publication {
    place: Place,
    group: Option<u32>,
    keep: Duration,
    launcher: Launcher,
    words: UnixStream,
    looked: Instant,
}

impl Publication {
    /// Publishes a cache.
    pub(crate) fn start(
        place: Place,
        section: &CacheSection,
        cache: &CacheWriter,
        launcher: Launcher,
    ) -> anyhow::Result<Self> {
        let group = match &section.group {
            Some(name) => Some(
                Group::from_name(name)?
                    .with_context(|| format!("daemon.sa_cache.group: no group {name:?}"))?
                    .gid
                    .as_raw(),
            ),
            None => None,
        };
        let keep = section.keep.0;
        let words = spawn(&launcher, &place.path, group, keep, cache)?;
        tracing::info!(path = %place.path.display(), "the SA cache can be read");
        Ok(Self {
            place,
            group,
            keep,
            launcher,
            words,
            looked: Instant::now(),
        })
    }

    /// Starts the process again if it is gone. To be called now and then.
    pub(crate) fn look_after(&mut self, cache: &CacheWriter) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        // It says nothing any more, until it is gone.
        let mut fds = [PollFd::new(&self.words, PollFlags::IN)];
        if let Ok(0) = poll(&mut fds, Some(&Timespec::default())) {
            return;
        }
        match spawn(
            &self.launcher,
            &self.place.path,
            self.group,
            self.keep,
            cache,
        ) {
            Ok(words) => {
                self.words = words;
                tracing::warn!("the SA cache's publisher was gone: another one runs");
            }
            Err(error) => tracing::warn!("the SA cache can't be read: {error:#}"),
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let _ = self.words.write_all(&[WORD]);
        // Until it is gone.
        let _ = self.words.set_read_timeout(Some(LOOK));
        let _ = self.words.read(&mut [0]);
    }
}

fn spawn(
    launcher: &Launcher,
    path: &Path,
    group: Option<u32>,
    keep: Duration,
    cache: &CacheWriter,
) -> anyhow::Result<UnixStream> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let order = PublishOrder {
        path: path.to_owned(),
        group,
        keep: keep
            .as_millis()
            .div_ceil(1000)
            .try_into()
            .unwrap_or(u64::MAX),
    };
    let started = launcher.publish(order, theirs, cache.read_only_fd()?);
    started.context("the SA cache's publisher")?;
    ours.set_read_timeout(Some(READY))?;
    let mut word = [0];
    // Its standard error is ours.
    ours.read_exact(&mut word)
        .with_context(|| format!("nothing is published at {}", path.display()))?;
    Ok(ours)
}

/// The program that publishes.
pub(crate) fn command(order: &PublishOrder, words: OwnedFd, cache: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--publish-sa-cache")
        .arg(&order.path)
        .args(["--publish-keep", &order.keep.to_string()])
        .env_clear()
        .stdin(Stdio::from(words))
        .stdout(Stdio::from(cache));
    if let Some(group) = order.group {
        command.args(["--publish-group", &group.to_string()]);
    }
    command
}

/// How the daemon starts the process that publishes.
#[derive(Debug, Args)]
pub struct PublishArguments {
    /// Publish the SA cache in standard output at a path, for the daemon at standard input.
    #[arg(long, hide = true, value_name = "PATH")]
    publish_sa_cache: Option<PathBuf>,
    /// Members of this group may read it.
    #[arg(long, hide = true, requires = "publish_sa_cache")]
    publish_group: Option<u32>,
    /// Seconds to stay when the daemon has died.
    #[arg(long, hide = true, default_value_t = 0)]
    publish_keep: u64,
}

impl PublishArguments {
    /// Publishes, if that is what this process is for.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self) -> io::Result<bool> {
        let Some(path) = &self.publish_sa_cache else {
            return Ok(false);
        };
        // Nor may the daemon, which has the same user, look into what has more system calls than it.
        nix::sys::prctl::set_dumpable(false)?;
        let mut daemon = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let cache = io::stdout().as_fd().try_clone_to_owned()?;
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        crate::privileges::give_up_all_but(CapabilitySet::empty())?;
        // What ends the daemon's terminal does not end this.
        setsid()?;
        let publisher = Publisher::bind(path, cache, self.publish_group)?;
        daemon.write_all(&[WORD])?;
        dup2_stderr(&null)?;
        publish(
            &publisher,
            &mut daemon,
            Duration::from_secs(self.publish_keep),
        )?;
        Ok(true)
    }
}

/// Until the daemon says that it ends, another publisher has the path, or the daemon has been dead
/// for long.
fn publish(publisher: &Publisher, daemon: &mut UnixStream, keep: Duration) -> io::Result<()> {
    let look = Timespec::try_from(LOOK).map_err(io::Error::other)?;
    let mut died: Option<Instant> = None;
    while publisher.is_current() && died.is_none_or(|died| died.elapsed() < keep) {
        let mut fds = vec![PollFd::new(publisher, PollFlags::IN)];
        if died.is_none() {
            fds.push(PollFd::new(daemon, PollFlags::IN));
        }
        match poll(&mut fds, Some(&look)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let heard = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        publisher.serve();
        if heard {
            match daemon.read(&mut [0]) {
                Ok(1) => return Ok(()),
                _ => died = Some(Instant::now()),
            }
        }
    }
    Ok(())
}
