// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Giving the cache to readers in other processes, through a socket in the file system.
//!
//! Whoever may connect gets a descriptor that can't be mapped for writing, and nothing is asked of
//! them. The socket's mode says who may: the owner, or a group too.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::error::{ConnectError, OpenError};
use super::layout::VERSION;

/// Longer than a publisher that runs takes by far.
const PATIENCE: Duration = Duration::from_secs(2);

/// A socket at which readers get a cache.
#[derive(Debug)]
pub struct Publisher {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket's name.
    place: (u64, u64),
    cache: OwnedFd,
    group: Option<u32>,
}

impl Publisher {
    /// Takes the path, from whoever has it; `cache` is what readers get. Only the owner and root may
    /// connect, and members of `group` if there is one.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn bind(path: &Path, cache: OwnedFd, group: Option<u32>) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let _ = fs::remove_file(&temporary);
        let bound = || {
            let listener = UnixListener::bind(&temporary)?;
            listener.set_nonblocking(true)?;
            std::os::unix::fs::chown(&temporary, None, group)?;
            let mode = if group.is_some() { 0o660 } else { 0o600 };
            fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
            let place = place(&temporary)?;
            // Nobody ever finds a socket there with another mode, or none.
            fs::rename(&temporary, path)?;
            Ok((listener, place))
        };
        let (listener, place) = bound().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            named(error)
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            place,
            cache,
            group,
        })
    }

    /// Whether readers still come here by the path: nobody has taken or removed it.
    pub fn is_current(&self) -> bool {
        place(&self.path).is_ok_and(|place| place == self.place)
    }

    /// Serves everyone who waits; to be called when the socket is readable.
    pub fn serve(&self) {
        while let Ok((reader, _)) = self.listener.accept() {
            if self.may_read(&reader) {
                // One that has gone again needs nothing.
                let _ = send(&reader, self.cache.as_fd());
            }
        }
    }

    /// The socket's mode has let the peer in; this is for a descriptor that was passed on.
    fn may_read(&self, reader: &UnixStream) -> bool {
        let own = rustix::process::geteuid();
        self.group.is_some()
            || socket_peercred(reader).is_ok_and(|peer| peer.uid == own || peer.uid.is_root())
    }
}

impl AsFd for Publisher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.is_current() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn place(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn send(reader: &UnixStream, cache: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let fds = [cache];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(
        reader,
        &[IoSlice::new(&[VERSION as u8])],
        &mut control,
        flags,
    )
    .map(drop)
}

/// Gets a cache's descriptor from the publisher at a path.
pub(super) fn receive(path: &Path) -> Result<OwnedFd, ConnectError> {
    let named = |error: io::Error| ConnectError::Socket {
        path: path.to_owned(),
        error,
    };
    let publisher = UnixStream::connect(path).map_err(named)?;
    publisher.set_read_timeout(Some(PATIENCE)).map_err(named)?;
    let mut octet = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut octet)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::io::retry_on_intr(|| recvmsg(&publisher, &mut data, &mut control, flags))
        .map_err(|error| named(error.into()))?;
    let mut received = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.next().ok_or_else(|| ConnectError::Refused {
        path: path.to_owned(),
    })
}

/// Opens what is at a path: a publisher's socket, or the cache's memory itself under
/// `/proc/PID/fd`.
pub(super) fn open(path: &Path) -> Result<OwnedFd, ConnectError> {
    use std::os::unix::fs::FileTypeExt;
    let named = |error: io::Error| ConnectError::Socket {
        path: path.to_owned(),
        error,
    };
    if fs::metadata(path).map_err(named)?.file_type().is_socket() {
        receive(path)
    } else {
        let file = fs::File::open(path).map_err(named)?;
        Ok(file.into())
    }
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}
