// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A cable between two cards: a unix socket that keeps frames apart. Whoever comes first listens, the
//! other one connects; a card that goes and comes back is plugged in again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};

use super::FramePort;

pub(super) struct Cable {
    path: PathBuf,
    listener: Option<OwnedFd>,
    peer: Option<OwnedFd>,
}

fn fresh() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

impl Cable {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut this = Self {
            path: path.to_owned(),
            listener: None,
            peer: None,
        };
        this.plug_in()?;
        Ok(this)
    }

    fn plug_in(&mut self) -> io::Result<()> {
        let address = SocketAddrUnix::new(&self.path)?;
        let socket = fresh()?;
        match connect(&socket, &address) {
            Ok(()) => self.peer = Some(socket),
            Err(error @ (Errno::NOENT | Errno::CONNREFUSED)) => {
                if error == Errno::CONNREFUSED {
                    // Left by a card that ended.
                    std::fs::remove_file(&self.path)?;
                }
                let listener = fresh()?;
                bind(&listener, &address)?;
                listen(&listener, 1)?;
                self.listener = Some(listener);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The other end, if it is there.
    fn peer(&mut self) -> Option<&OwnedFd> {
        if self.peer.is_none() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match &self.listener {
                Some(listener) => self.peer = accept_with(listener, flags).ok(),
                None => {
                    let _ = self.plug_in();
                }
            }
        }
        self.peer.as_ref()
    }
}

impl FramePort for Cable {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match recv(self.peer()?, buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.peer = None;
                None
            }
            Ok((count, _)) => Some(count),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(_) => {
                self.peer = None;
                None
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.peer()
            .is_some_and(|peer| send(peer, frame, flags).is_ok())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.peer
            .as_ref()
            .or(self.listener.as_ref())
            .map(AsFd::as_fd)
    }

    fn mtu(&self) -> u32 {
        1500
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if self.listener.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_stay_whole_and_a_lost_end_is_plugged_in_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cable");
        let mut a = Cable::open(&path).unwrap();
        let mut buffer = [0; 64];
        assert!(!a.send(b"nobody there"));
        let mut b = Cable::open(&path).unwrap();
        assert!(b.send(b"one") && b.send(b"three"));
        assert_eq!(a.receive(&mut buffer), Some(3));
        assert_eq!(a.receive(&mut buffer), Some(5));
        assert_eq!(&buffer[..5], b"three");
        assert_eq!(a.receive(&mut buffer), None);
        assert!(a.send(b"back"));
        assert_eq!(b.receive(&mut buffer), Some(4));
        drop(b);
        assert_eq!(a.receive(&mut buffer), None);
        let mut b = Cable::open(&path).unwrap();
        assert!(b.send(b"again"));
        assert_eq!(a.receive(&mut buffer), Some(5));
    }
}
