// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A network namespace that nothing but a descriptor keeps alive.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};
use thiserror::Error;

use crate::enter;

/// Why a namespace could not be made, entered or configured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The kernel refused a new namespace, or entry into one.
    #[error("namespace {name}: {action}: {source}")]
    Refused {
        /// The namespace.
        name: String,
        /// What was asked for.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A command inside the namespace could not be started.
    #[error("namespace {name}: cannot run `{command}`: {source}")]
    Start {
        /// The namespace.
        name: String,
        /// The command line.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// A command inside the namespace failed.
    #[error("namespace {name}: `{command}` ended with {status}: {stderr}")]
    Command {
        /// The namespace.
        name: String,
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it said on standard error.
        stderr: String,
    },
    /// A thread inside the namespace panicked.
    #[error("namespace {name}: a thread inside it panicked")]
    Panicked {
        /// The namespace.
        name: String,
    },
}

/// A network namespace. It has no name in the file system and ends with its last process, socket and
/// descriptor, so nothing is left behind however the owner ends.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    handle: Arc<OwnedFd>,
}

impl Namespace {
    /// Makes an empty namespace with its loopback interface up. `name` is for messages only.
    pub fn new(name: &str) -> Result<Self, NamespaceError> {
        let refused = |action, source| NamespaceError::Refused {
            name: name.to_owned(),
            action,
            source,
        };
        let made: Result<OwnedFd, (&'static str, io::Error)> = thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)
                        .map_err(|e| ("unshare(CLONE_NEWNET)", e.into()))?;
                    let file = File::open("/proc/thread-self/ns/net")
                        .map_err(|e| ("open its handle", e))?;
                    Ok(OwnedFd::from(file))
                })
                .join()
                .unwrap_or_else(|_| Err(("start a thread", io::ErrorKind::Other.into())))
        });
        let handle = made.map_err(|(action, source)| refused(action, source))?;
        let namespace = Self {
            name: name.to_owned(),
            handle: Arc::new(handle),
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path to the namespace that other programs can open while this process lives.
    pub fn path(&self) -> String {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.handle.as_raw_fd()
        )
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        enter::join_network(&mut command, Arc::clone(&self.handle));
        command
    }

    /// Runs `inside` on a thread inside the namespace and waits for it. Sockets made there stay there.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.join_this_thread()?;
                    Ok(inside())
                })
                .join()
                .unwrap_or_else(|_| {
                    Err(NamespaceError::Panicked {
                        name: self.name.clone(),
                    })
                })
        })
    }

    /// Starts a named thread inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread_name: &str,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, NamespaceError>>, NamespaceError> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(thread_name.to_owned())
            .spawn(move || {
                namespace.join_this_thread()?;
                Ok(inside())
            })
            .map_err(|source| NamespaceError::Refused {
                name: self.name.clone(),
                action: "start a thread",
                source,
            })
    }

    /// Runs a program inside to its end and returns its standard output; anything but success is an error
    /// that carries the command line and what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, NamespaceError> {
        self.run_with_input(program, arguments, "")
    }

    /// As [`run`](Self::run), with `input` on standard input.
    pub fn run_with_input(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, NamespaceError> {
        use std::io::Write;
        use std::process::Stdio;

        let line = || [&[program], arguments].concat().join(" ");
        let start = |source| NamespaceError::Start {
            name: self.name.clone(),
            command: line(),
            source,
        };
        let mut child = self
            .command(program)
            .args(arguments)
            .stdin(if input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends without reading says why in its status.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(start)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(NamespaceError::Command {
            name: self.name.clone(),
            command: line(),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn join_this_thread(&self) -> Result<(), NamespaceError> {
        setns(self.handle.as_ref(), CloneFlags::CLONE_NEWNET).map_err(|e| NamespaceError::Refused {
            name: self.name.clone(),
            action: "setns",
            source: e.into(),
        })
    }
}
