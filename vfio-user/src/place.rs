// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Places of unix sockets in the file system: whoever died has left its own behind, and the next one
//! takes it away, but nothing else and nobody's who lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// How long to wait for others who take places in the same directory. Somebody may hold its lock for
/// reasons of their own.
const PATIENCE: Duration = Duration::from_secs(1);

/// Does this while nobody else does so in the directory of `path`: who finds a dead socket, and who has just
/// made one that does not listen yet, would else be in each other's way.
pub fn alone<T>(path: &Path, work: impl FnOnce() -> T) -> T {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Unlocked when it is closed.
    let locked = File::open(directory);
    if let Ok(directory) = &locked {
        let begun = Instant::now();
        while flock(directory, FlockOperation::NonBlockingLockExclusive).is_err()
            && begun.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    work()
}

/// Listens at a path by `bind`. A stream socket that nobody listens on any more is taken away.
///
/// # Errors
/// Somebody listens there, or something else is there, or `bind`'s.
pub fn listen<L>(path: &Path, bind: impl FnOnce() -> io::Result<L>) -> io::Result<L> {
    alone(path, || {
        if is_stale(path)? {
            remove(path)?;
        }
        bind()
    })
}

/// Removes the socket of somebody who has died.
///
/// # Errors
/// It is no socket, or can't be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        let text = "something other than a socket is there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    std::fs::remove_file(path)
}

/// Whether something is there that nobody listens on.
fn is_stale(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        // Again: it has no time for us now.
        Ok(()) | Err(Errno::AGAIN) => {
            let text = "somebody listens there";
            Err(io::Error::new(io::ErrorKind::AddrInUse, text))
        }
        // What is no socket refuses, too.
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("card");
        let bind = || listen(&path, || UnixListener::bind(&path));
        drop(bind().unwrap());
        assert!(path.exists(), "left behind");
        let alive = bind().unwrap();
        assert_eq!(bind().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(alive);

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");

        // The way to a file is no socket either.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(listen(&link, || UnixListener::bind(&link)).is_err());
        assert!(link.is_symlink() && path.exists());
    }

    #[test]
    fn of_many_who_find_a_dead_socket_one_gets_its_place() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..20 {
            let path = dir.path().join(number.to_string());
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(4);
            let bind = || {
                start.wait();
                listen(&path, || UnixListener::bind(&path))
            };
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
                let all: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
                let listening = all.iter().filter(|listener| listener.is_ok()).count();
                assert_eq!(listening, 1, "{all:?}");
            });
        }
    }
}
