// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole messages with their descriptors over a unix stream socket, each with a deadline.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    recvmsg, sendmsg, socket_with,
};
use zerocopy::FromBytes;

use crate::Error;
use crate::message::{HEADER_LEN, Header, MAX_FDS, MAX_MESSAGE};

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    /// Closed when dropped, whatever becomes of the message.
    pub(crate) fds: Vec<OwnedFd>,
}

/// When to give up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Option<Instant>,
    millis: u64,
    command: &'static str,
}

impl Deadline {
    pub(crate) fn after(limit: Duration, command: &'static str) -> Self {
        let at = Instant::now().checked_add(limit);
        Self {
            at,
            millis: limit.as_millis() as u64,
            command,
        }
    }

    fn left(&self) -> Result<Option<Timespec>, Error> {
        let Some(at) = self.at else { return Ok(None) };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout {
                command: self.command,
                millis: self.millis,
            });
        }
        Ok(Timespec::try_from(left).ok())
    }
}

/// Connects to a listener. One whose queue is full, because its process stands still, is waited for no
/// longer than this.
pub(crate) fn connect(path: &Path, deadline: Duration) -> Result<UnixStream, Error> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // What limits a connect to a unix socket, too: unix(7) knows no in-progress. Nought would be for ever.
    let limit = deadline.max(Duration::from_micros(1));
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    let begun = Instant::now();
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(Errno::INTR) if begun.elapsed() < deadline => {}
            Err(Errno::AGAIN | Errno::INTR) => {
                return Err(Error::Timeout {
                    command: "a connection",
                    millis: deadline.as_millis() as u64,
                });
            }
            Err(errno) => return Err(Error::Io(errno.into())),
        }
    }
}

/// Waits until the socket is ready. `stop` becoming readable ends the wait with [`Error::Gone`].
pub(crate) fn wait(
    socket: BorrowedFd<'_>,
    flags: PollFlags,
    stop: Option<BorrowedFd<'_>>,
    deadline: Option<&Deadline>,
) -> Result<(), Error> {
    loop {
        let timeout = match deadline {
            Some(deadline) => deadline.left()?,
            None => None,
        };
        let own = PollFd::from_borrowed_fd(socket, flags);
        // Without a stop the socket stands in for it, watched for nothing.
        let (other, other_flags) =
            stop.map_or((socket, PollFlags::empty()), |s| (s, PollFlags::IN));
        let mut fds = [own, PollFd::from_borrowed_fd(other, other_flags)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) if stop.is_some() && !fds[1].revents().is_empty() => return Err(Error::Gone),
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until one of two is readable. `stop` becoming readable ends the wait with [`Error::Gone`].
pub(crate) fn wait_either(
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
    stop: BorrowedFd<'_>,
) -> Result<(), Error> {
    loop {
        let mut fds = [one, other, stop].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut fds, None) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) if !fds[2].revents().is_empty() => return Err(Error::Gone),
            Ok(_) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether there is something to read, or the end.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    const NOW: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&NOW)) == Ok(1)
}

/// The errno of an error reply; numbers beyond the kernel's range are none.
pub(crate) fn errno(number: u32) -> Errno {
    match i32::try_from(number) {
        Ok(number @ 1..4096) => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    }
}

/// Sends a message made of parts. `stop` becoming readable ends a wait with [`Error::Gone`].
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    parts: &[&[u8]],
    fds: &[BorrowedFd<'_>],
    stop: Option<BorrowedFd<'_>>,
    deadline: &Deadline,
) -> Result<(), Error> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    let mut rest = &bytes[..];
    let mut fds = fds;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::Argument {
                what: "too many descriptors for one message",
            });
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(socket, &[IoSlice::new(rest)], &mut control, flags) {
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                // They went with the first octet.
                fds = &[];
            }
            Err(Errno::AGAIN) => wait(socket, PollFlags::OUT, stop, Some(deadline))?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Receives a message. `stop` becoming readable ends a wait with [`Error::Gone`].
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    stop: Option<BorrowedFd<'_>>,
    deadline: &Deadline,
) -> Result<Message, Error> {
    let mut fds = Vec::new();
    let mut header = [0; HEADER_LEN];
    fill(socket, &mut header, &mut fds, stop, deadline)?;
    let header = Header::read_from_bytes(&header).map_err(|_| Error::Protocol {
        what: "header",
        found: 0,
    })?;
    let size = header.size as usize;
    if !(HEADER_LEN..=MAX_MESSAGE).contains(&size) {
        return Err(Error::Protocol {
            what: "message size",
            found: size as u64,
        });
    }
    let mut payload = vec![0; size - HEADER_LEN];
    fill(socket, &mut payload, &mut fds, stop, deadline)?;
    Ok(Message {
        header,
        payload,
        fds,
    })
}

fn fill(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    stop: Option<BorrowedFd<'_>>,
    deadline: &Deadline,
) -> Result<(), Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let rest = buffer.get_mut(filled..).unwrap_or_default();
        match recvmsg(socket, &mut [IoSliceMut::new(rest)], &mut control, flags) {
            Ok(message) if message.bytes == 0 => return Err(Error::Gone),
            Ok(message) => {
                filled += message.bytes;
                let cut_off = message.flags.contains(ReturnFlags::CTRUNC);
                for ancillary in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                        fds.extend(received);
                    }
                }
                // More than there is room for, or more than this process may have: a command must not be
                // taken for one that came without.
                if cut_off || fds.len() > MAX_FDS {
                    return Err(Error::Protocol {
                        what: "descriptors",
                        found: fds.len() as u64,
                    });
                }
            }
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, stop, Some(deadline))?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use rustix::net::{bind, listen};

    use super::*;

    #[test]
    fn a_listener_that_stands_still_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("card");
        let address = SocketAddrUnix::new(&path).unwrap();
        let socket = |flags| {
            let flags = SocketFlags::CLOEXEC | flags;
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
        };
        let listener = socket(SocketFlags::empty());
        bind(&listener, &address).unwrap();
        listen(&listener, 1).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = socket(SocketFlags::NONBLOCK);
            match rustix::net::connect(&client, &address) {
                Ok(()) => waiting.push(client),
                Err(errno) => break assert_eq!(errno, Errno::AGAIN),
            }
        }
        let (done, result) = mpsc::channel();
        let name = path.clone();
        std::thread::spawn(move || {
            let client = crate::client::Client::connect(&name, Duration::from_millis(20));
            let _ = done.send(client.map(drop));
        });
        let result = result.recv_timeout(Duration::from_secs(30));
        let result = result.expect("it waits for ever");
        assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
        // One that is let in is connected.
        waiting.clear();
        let stream = UnixListener::from(listener);
        stream.set_nonblocking(true).unwrap();
        while stream.accept().is_ok() {}
        connect(&path, Duration::from_secs(10)).unwrap();
    }
}
