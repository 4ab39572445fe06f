// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Root over one's own networks, for callers that are not root.

use std::fs;
use std::io;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use thiserror::Error;

/// Why the process cannot make network namespaces.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// User namespaces are switched off for this user.
    #[error(
        "not root, and the kernel refuses user namespaces ({source}). Run as root (sudo), or allow them: \
         `sysctl kernel.unprivileged_userns_clone=1` (Debian), `sysctl user.max_user_namespaces=10000`, or \
         `sysctl kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu)"
    )]
    UserNamespaces {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process already has threads, so it cannot change its user namespace.
    #[error("not root, and {threads} threads already run: ask for privileges first thing in main")]
    Threads {
        /// How many were found; one is expected.
        threads: usize,
    },
    /// The mapping of the user to root was refused.
    #[error("cannot map the user to root: {path}: {source}")]
    Map {
        /// The file that was written to.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes sure that this process may create network namespaces. Root that already may keeps what it has;
/// anybody else becomes root of a new user, mount and network namespace. Call it before any thread starts.
pub fn ensure_privileges() -> Result<(), PrivilegeError> {
    if may_create_networks() {
        return Ok(());
    }
    let (user, group) = (geteuid(), getegid());
    let threads = fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count());
    if threads != 1 {
        return Err(PrivilegeError::Threads { threads });
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|e| PrivilegeError::UserNamespaces { source: e.into() })?;
    let write = |path, text: String| {
        fs::write(path, text).map_err(|source| PrivilegeError::Map { path, source })
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {user} 1"))?;
    write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn may_create_networks() -> bool {
    geteuid().is_root()
        && thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok())
            .join()
            .unwrap_or(false)
}
