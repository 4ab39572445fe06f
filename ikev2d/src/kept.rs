// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What outlives this process: descriptors that the service manager holds (sd_notify(3), `FDSTORE=1`;
//! systemd, or `esplanade keep`) and hands to the next one (sd_listen_fds(3)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sd_notify::NotifyState;

/// The name of the SA cache's memory.
pub(crate) const CACHE: &str = "sa-cache";

/// Descriptors of an earlier process.
#[derive(Default)]
pub struct Kept {
    all: Vec<(String, OwnedFd)>,
}

impl Kept {
    /// What this process was started with. To be called once, before anything else is opened.
    pub fn inherit() -> Self {
        let all = sd_listen_fds::get().unwrap_or_else(|error| {
            tracing::warn!(%error, "nothing is taken over");
            Vec::new()
        });
        let named = |(name, fd): (Option<String>, sd_listen_fds::OwnedFd)| {
            let fd = fd.into_std();
            // A process that this one starts must not hold a card that is let go of here.
            if let Err(error) = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC) {
                tracing::warn!(%error, "a descriptor goes on to other processes");
            }
            (name.unwrap_or_default(), fd)
        };
        Self {
            all: all.into_iter().map(named).collect(),
        }
    }

    /// The last one of a name; others of it are closed.
    pub(crate) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let (wanted, rest) = std::mem::take(&mut self.all)
            .into_iter()
            .partition(|(found, _)| found == name);
        self.all = rest;
        let mut wanted: Vec<(String, OwnedFd)> = wanted;
        wanted.pop().map(|(_, fd)| fd)
    }

    /// All that are left.
    pub(crate) fn rest(self) -> Vec<(String, OwnedFd)> {
        self.all
    }
}

/// Has the service manager hold a descriptor in place of those that it holds under this name.
pub(crate) fn keep(name: &str, fd: BorrowedFd<'_>) {
    forget(name);
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    told(sd_notify::notify_with_fds(&state, &[fd.as_fd()]));
}

/// Has the service manager close what it holds under this name.
pub(crate) fn forget(name: &str) {
    let state = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
    told(sd_notify::notify(&state));
}

/// Tells the service manager that the service is ready.
pub(crate) fn ready() {
    told(sd_notify::notify(&[NotifyState::Ready]));
}

/// Tells the service manager that the service ends on purpose.
pub(crate) fn stopping() {
    told(sd_notify::notify(&[NotifyState::Stopping]));
}

fn told(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
