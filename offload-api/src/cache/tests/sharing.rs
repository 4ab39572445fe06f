// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Published to readers who may, and to nobody else.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::processes::command;
use super::*;

const NOBODY: u32 = 65534;
const GROUP: u32 = 4711;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("esplanade-cache-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Serves readers while `work` goes on.
fn served<R>(publisher: &Publisher, work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let look = Timespec::try_from(std::time::Duration::from_millis(5)).unwrap();
            while !done.load(Ordering::Acquire) {
                let mut fds = [PollFd::new(publisher, PollFlags::IN)];
                let _ = poll(&mut fds, Some(&look));
                publisher.serve();
            }
        });
        let result = catch_unwind(AssertUnwindSafe(work));
        done.store(true, Ordering::Release);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o777
}

/// Whether the memory can be opened for writing by who has this descriptor.
fn writable(fd: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::OpenOptions::new().write(true).open(path).is_ok()
}

/// In a process of another user.
pub(super) fn stranger(path: &Path) {
    let error = CacheReader::open_path(path).unwrap_err();
    println!("\nrefused: {error}");
}

/// In a process of another user, who is of the group.
pub(super) fn member(path: &Path) {
    let fd = publish::receive(path).unwrap();
    assert!(!writable(&fd), "a reader gets no right to write");
    assert!(Cache::open(fd).unwrap().writer().is_err());
    let reader = CacheReader::open_path(path).unwrap();
    println!("\nsaw {}", reader.records().0.len());
}

#[test]
fn readers_get_what_is_published_and_a_path_has_one_publisher() {
    let directory = Directory::new("published");
    let path = directory.0.join("cache");
    assert!(CacheReader::open_path(&path).is_err());
    let (first, second) = (cache(4), cache(4));
    let writers = [first.writer().unwrap(), second.writer().unwrap()];
    for (writer, sas) in writers.iter().zip([1, 2]) {
        for n in 0..sas {
            writer
                .insert(&outbound(0x100 + n), Engine::Device, 0)
                .unwrap();
        }
    }
    let publish = |cache: &Cache| Publisher::bind(&path, cache.read_only_fd().unwrap(), None);
    let old = publish(&first).unwrap();
    assert_eq!(mode(&path), 0o600);
    let saw = || CacheReader::open_path(&path).unwrap().records().0.len();
    assert_eq!(served(&old, saw), 1);
    let new = publish(&second).unwrap();
    assert!(!old.is_current() && new.is_current());
    drop(old);
    assert_eq!(served(&new, saw), 2, "the old one took nothing with it");
    drop(new);
    assert!(!path.exists());
}

#[test]
fn s08_only_the_owner_and_a_named_group_get_it_and_none_of_them_may_write() {
    let directory = Directory::new("modes");
    let path = directory.0.join("cache");
    let cache = cache(4);
    let writer = cache.writer().unwrap();
    writer.insert(&outbound(0x100), Engine::Device, 0).unwrap();
    if !rustix::process::geteuid().is_root() {
        let publisher = Publisher::bind(&path, cache.read_only_fd().unwrap(), None).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(publisher);
        eprintln!("skipped: to be another user takes root");
        return;
    }
    let ask = |role: &str, group: u32| {
        // Nothing of the cache comes with the process.
        let mut command = command(&cache, &format!("{role} {}", path.display()));
        command.stdin(std::process::Stdio::null());
        let output = command.uid(NOBODY).gid(group).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{role}: {text}");
        text
    };
    for group in [None, Some(GROUP)] {
        let fd = cache.read_only_fd().unwrap();
        let publisher = Publisher::bind(&path, fd, group).unwrap();
        assert_eq!(mode(&path), if group.is_some() { 0o660 } else { 0o600 });
        served(&publisher, || {
            assert!(ask("stranger", NOBODY).contains("refused"));
            match group {
                None => assert!(ask("stranger", GROUP).contains("refused")),
                Some(group) => assert!(ask("member", group).contains("saw 1")),
            }
        });
    }
    // Even where somebody has opened the socket to all, the daemon's own word counts.
    let publisher = Publisher::bind(&path, cache.read_only_fd().unwrap(), None).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    served(&publisher, || {
        assert!(ask("stranger", NOBODY).contains("no SA cache was given"));
    });
}
