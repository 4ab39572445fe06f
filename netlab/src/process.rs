// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Child processes that do not outlive their owner, and waiting for them to be ready.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::enter;

/// How long a child may take to end by itself when asked to.
const GRACE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(5);

/// A child process that is ended (asked first, then made to) when this value goes, or when the thread that
/// started it ends in any way.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
}

impl Guarded {
    /// Starts a command.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        enter::die_with_parent(&mut command);
        command.spawn().map(|child| Self { child })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once the child has ended.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills the child (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks the child to end (SIGTERM), waits `GRACE` for it, then kills it.
    pub fn stop(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.ask()?;
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(TICK);
        }
        self.kill()
    }

    fn ask(&self) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(id), Signal::SIGTERM)?)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Waits until somebody listens on a unix socket by connecting to it; `alive` is asked between tries and
/// stops the wait by an error.
pub fn wait_for_listener(
    path: &Path,
    limit: Duration,
    mut alive: impl FnMut() -> io::Result<()>,
) -> io::Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(e) if start.elapsed() > limit => {
                let message = format!("nobody listens on {} after {limit:?}: {e}", path.display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Err(_) => alive()?,
        }
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(id: u32) -> bool {
        kill(Pid::from_raw(id as i32), None).is_ok()
    }

    #[test]
    fn a_child_ends_with_its_guard() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let guarded = Guarded::spawn(command).unwrap();
        let id = guarded.id();
        assert!(alive(id));
        drop(guarded);
        assert!(!alive(id));
    }

    #[test]
    fn a_child_that_will_not_listen_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; while :; do sleep 0.1; done"]);
        let mut guarded = Guarded::spawn(command).unwrap();
        thread::sleep(Duration::from_millis(100));
        let status = guarded.stop().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn waiting_for_nobody_ends_with_the_path_in_the_error() {
        let error = wait_for_listener(
            Path::new("/nowhere/socket"),
            Duration::from_millis(20),
            || Ok(()),
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("/nowhere/socket"));
    }
}
