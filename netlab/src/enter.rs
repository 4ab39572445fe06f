// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one place where a child process is prepared between fork and exec.

#![expect(unsafe_code, reason = "Command::pre_exec is unsafe to call")]

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

/// Makes `command` join the network namespace `handle` before it executes.
pub(crate) fn join_network(command: &mut Command, handle: Arc<OwnedFd>) {
    // SAFETY: the closure makes one system call on a descriptor that the closure keeps open; it does not
    // allocate, lock, or touch memory that another thread may have been changing at the time of the fork.
    unsafe {
        command.pre_exec(move || Ok(setns(handle.as_ref(), CloneFlags::CLONE_NEWNET)?));
    }
}

/// Makes the child receive SIGTERM when the thread that starts it ends, however it ends, and lets it hear
/// the signals that this thread has blocked.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: as above: two system calls, prctl(PR_SET_PDEATHSIG) and sigprocmask, on values of the closure.
    unsafe {
        command.pre_exec(|| {
            prctl::set_pdeathsig(Some(Signal::SIGTERM))?;
            Ok(SigSet::all().thread_unblock()?)
        });
    }
}
