// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The descriptors that a service has handed over, and the socket by which it does (sd_notify(3)).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// Descriptors that are kept at most.
const MOST: usize = 64;
/// Octets of a notification, and descriptors in one.
const MESSAGE: usize = 4096;
const AT_ONCE: usize = 16;

/// Descriptors by name; several may have one.
pub(super) struct Store {
    kept: Vec<(String, OwnedFd)>,
    /// The service has said that it has started.
    ready: bool,
    socket: UnixDatagram,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Store {
    /// An empty one, with a socket that nobody else may reach.
    pub(super) fn open() -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("esplanade-keep-")
            .tempdir()?;
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            kept: Vec::new(),
            ready: false,
            socket,
            path,
            _directory: directory,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether the last service has started, by its own word.
    pub(super) fn was_ready(&self) -> bool {
        self.ready
    }

    /// For `LISTEN_FDNAMES`.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.kept.iter().map(|(name, _)| name.as_str()).collect();
        names.join(":")
    }

    /// Copies for a service, in the order of the names.
    pub(super) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        self.kept.iter().map(|(_, fd)| fd.try_clone()).collect()
    }

    /// For another service: lets go of connections whose other end has, as systemd does.
    pub(super) fn begin(&mut self) {
        self.ready = false;
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.kept.retain(|(name, fd)| {
            let mut fds = [PollFd::new(fd, PollFlags::empty())];
            let hung_up = poll(&mut fds, Some(&now)).is_ok_and(|_| {
                let seen = fds[0].revents();
                seen.intersects(PollFlags::HUP | PollFlags::ERR)
            });
            if hung_up {
                tracing::info!(name, "hung up");
            }
            !hung_up
        });
    }

    /// Takes in all notifications that have come.
    pub(super) fn take_in(&mut self) {
        let mut text = [0; MESSAGE];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut text)],
                &mut control,
                flags,
            );
            let (len, whole) = match received {
                Ok(message) => {
                    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
                    (message.bytes, !message.flags.intersects(cut))
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            let mut fds = Vec::new();
            for ancillary in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                    fds.extend(received);
                }
            }
            let text = String::from_utf8_lossy(text.get(..len).unwrap_or_default());
            if whole {
                self.apply(&text, fds);
            } else {
                tracing::warn!("a notification is too long");
            }
        }
    }

    /// What one notification asks for.
    fn apply(&mut self, text: &str, fds: Vec<OwnedFd>) {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(found, _)| *found == key)
                .map(|(_, value)| value)
        };
        self.ready |= value("READY") == Some("1");
        // `stored` is systemd's name for those without one; ':' stands between names.
        let name = value("FDNAME").unwrap_or("stored");
        let good = !name.is_empty()
            && name.len() <= 255
            && name
                .chars()
                .all(|c| c.is_ascii() && !c.is_ascii_control() && c != ':');
        if !good {
            tracing::warn!(name, "no name for a descriptor");
            return;
        }
        if value("FDSTOREREMOVE") == Some("1") {
            self.kept.retain(|(kept, _)| kept != name);
        } else if value("FDSTORE") == Some("1") {
            if self.kept.len() + fds.len() > MOST {
                tracing::warn!(name, most = MOST, "too many descriptors: not kept");
                return;
            }
            self.kept
                .extend(fds.into_iter().map(|fd| (name.to_owned(), fd)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        (reader.into(), writer.into())
    }

    #[test]
    fn descriptors_are_kept_by_name_and_removed_by_name() {
        let mut store = Store::open().unwrap();
        let (a, b) = pipe();
        store.apply("FDSTORE=1\nFDNAME=cache", vec![a]);
        store.apply("FDNAME=card\nFDSTORE=1\n", vec![b]);
        assert_eq!((store.names(), store.len()), ("cache:card".to_owned(), 2));
        store.apply("FDSTOREREMOVE=1\nFDNAME=cache", vec![]);
        assert_eq!(store.names(), "card");
        assert!(!store.was_ready());
        store.apply("READY=1", vec![]);
        assert_eq!((store.len(), store.was_ready()), (1, true));
        store.begin();
        assert!(!store.was_ready());
    }

    #[test]
    fn names_that_would_change_others_are_refused_and_the_store_is_limited() {
        let mut store = Store::open().unwrap();
        for name in ["a:b", "", "a\u{7f}", &"x".repeat(256)] {
            store.apply(&format!("FDSTORE=1\nFDNAME={name}"), vec![pipe().0]);
        }
        assert_eq!(store.len(), 0);
        for _ in 0..MOST + 3 {
            store.apply("FDSTORE=1", vec![pipe().0]);
        }
        assert_eq!(store.len(), MOST);
    }

    #[test]
    fn a_connection_that_hung_up_is_let_go_of() {
        let mut store = Store::open().unwrap();
        let (reader, writer) = pipe();
        store.apply("FDSTORE=1\nFDNAME=card", vec![reader]);
        store.begin();
        assert_eq!(store.len(), 1);
        drop(writer);
        store.begin();
        assert_eq!(store.len(), 0);
    }
}
