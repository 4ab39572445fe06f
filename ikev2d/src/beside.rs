// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processes beside the daemon: this program again, told by an option what for, with a socket to the
//! daemon at standard input. One ends when the daemon is gone, and by no signal before it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stdin, setsid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Two ends of a way for messages.
pub(crate) fn way() -> io::Result<(OwnedFd, OwnedFd)> {
    let ends = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    );
    Ok(ends?)
}

/// Starts one for what `option` says, which has the configuration's path for its value; the way to it.
pub(crate) fn start(option: &str, config: &Path) -> io::Result<OwnedFd> {
    let (ours, theirs) = way()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(option).arg(config).stdin(Stdio::from(theirs));
    command.spawn()?;
    Ok(ours)
}

/// Whether the process at the other end of a way has ended: it says nothing by this one.
pub(crate) fn is_gone(way: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(way, PollFlags::IN)];
    !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

/// What a process beside the daemon is.
pub(crate) struct Beside {
    /// The way to the daemon.
    pub(crate) daemon: OwnedFd,
    _signals: Vec<Signal>,
    _runtime: Runtime,
}

impl Beside {
    /// Nobody traces this process, and what ends the daemon does not end it before: it is needed up to
    /// the daemon's end. The signals have handlers, which a program that it starts does not have as well.
    pub(crate) fn new() -> io::Result<Self> {
        nix::sys::prctl::set_dumpable(false)?;
        let daemon = io::stdin().as_fd().try_clone_to_owned()?;
        dup2_stdin(std::fs::File::open("/dev/null")?)?;
        setsid()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let entered = runtime.enter();
        let ends = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
        ];
        let signals = ends.into_iter().map(signal).collect::<io::Result<_>>()?;
        drop(entered);
        Ok(Self {
            daemon,
            _signals: signals,
            _runtime: runtime,
        })
    }
}

/// Sends a message, with descriptors.
pub(crate) fn send(way: &OwnedFd, parts: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| sendmsg(way, parts, &mut control, flags))?;
    Ok(())
}

/// Takes a message, as much of it as there is room for, and its descriptors; its octets, none if the
/// other end is gone.
pub(crate) fn receive(way: &OwnedFd, room: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(room)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received =
        rustix::io::retry_on_intr(|| recvmsg(way, &mut data, &mut control, flags))?.bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    Ok((received, fds))
}
