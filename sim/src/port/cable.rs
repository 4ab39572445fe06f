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

use vfio_user::place;

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

/// The other end, if it listens.
fn reach(address: &SocketAddrUnix) -> io::Result<Option<OwnedFd>> {
    let socket = fresh()?;
    match connect(&socket, address) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn listen_at(path: &Path, address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    // Left by a card that ended.
    match place::remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = fresh()?;
    bind(&listener, address)?;
    listen(&listener, 1)?;
    Ok(listener)
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
        if let Some(peer) = reach(&address)? {
            self.peer = Some(peer);
            return Ok(());
        }
        let path = self.path.clone();
        place::alone(&path, || {
            // The other card may have come meanwhile.
            match reach(&address)? {
                Some(peer) => self.peer = Some(peer),
                None => self.listener = Some(listen_at(&path, &address)?),
            }
            Ok(())
        })
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
    use std::sync::Barrier;

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
    #[test]
    fn of_two_that_find_a_dead_end_one_listens_and_the_other_reaches_it() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..20 {
            let path = dir.path().join(number.to_string());
            // A card that was killed.
            let dead = fresh().unwrap();
            bind(&dead, &SocketAddrUnix::new(&path).unwrap()).unwrap();
            drop(dead);
            let start = Barrier::new(2);
            let open = || {
                start.wait();
                Cable::open(&path).unwrap()
            };
            let (mut a, mut b) = std::thread::scope(|scope| {
                let other = scope.spawn(open);
                (open(), other.join().unwrap())
            });
            assert!(a.listener.is_some() != b.listener.is_some());
            // Whoever listens takes the other in with its first look.
            let mut buffer = [0; 8];
            assert_eq!(
                (a.receive(&mut buffer), b.receive(&mut buffer)),
                (None, None)
            );
            assert!(a.send(b"one"));
            assert_eq!(b.receive(&mut buffer), Some(3));
        }
    }

    #[test]
    fn a_file_is_not_taken_away_for_a_cable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(Cable::open(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
