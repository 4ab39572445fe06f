// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses of pools outlive the daemon: who has which is written down, so that a peer gets its own
//! again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ikev2d_proto::pool::Pools;
use tokio::task::JoinHandle;

use super::Daemon;
use crate::vici::message::Section;

/// Owners of addresses by pool.
type Written = BTreeMap<String, BTreeMap<IpAddr, String>>;

/// Takes in what was written down.
pub(super) fn read(path: &Path, pools: &mut Pools) {
    let written: Written = match fs::read(path) {
        Ok(octets) => match serde_json::from_slice(&octets) {
            Ok(written) => written,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "leases can't be read: all are new");
                return;
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "leases can't be read: all are new");
            return;
        }
    };
    for (pool, leases) in written {
        for (address, owner) in leases {
            pools.remember(&pool, address, &owner);
        }
    }
}

/// What is to be written down, if it has changed since this was last asked.
fn changed(pools: &mut Pools) -> Option<Written> {
    pools.take_changed().then(|| pools.owners())
}

/// Writes it down: whoever reads finds the old file or the new one, whole.
fn write(path: &Path, written: &Written) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // Peers' identities are nobody else's to read. One that is left from a crash may have another mode.
    let _ = fs::remove_file(&fresh);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&serde_json::to_vec(written)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

fn write_or_tell(path: &Path, written: &Written) {
    if let Err(error) = write(path, written) {
        tracing::error!(path = %path.display(), %error, "leases can't be written down");
    }
}

/// Between two writings: what a crash can forget.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes leases down that have changed, on threads of their own: disks take their time.
#[derive(Default)]
pub(super) struct Keeper {
    begun: Option<Instant>,
    writing: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Begins to, where that is due and there is something.
    fn tick(&mut self, now: Instant, path: &Path, changed: impl FnOnce() -> Option<Written>) {
        let mut writing = self.writing.iter();
        let busy = writing.any(|task| !task.is_finished());
        if busy || self.begun.is_some_and(|begun| now < begun + PAUSE) {
            return;
        }
        let Some(written) = changed() else {
            return;
        };
        self.begun = Some(now);
        let path = path.to_owned();
        let task = tokio::task::spawn_blocking(move || write_or_tell(&path, &written));
        self.writing = Some(task);
    }

    /// The last of them: when it returns they are there.
    async fn finish(&mut self, path: &Path, changed: impl FnOnce() -> Option<Written>) {
        if let Some(task) = self.writing.take() {
            let _ = task.await;
        }
        if let Some(written) = changed() {
            write_or_tell(path, &written);
        }
    }
}

impl Daemon {
    /// Writes leases down that have changed, soon.
    pub(super) fn keep_leases(&mut self, now: Instant) {
        let (path, pools) = (self.config.daemon.lease_file(), self.endpoint.pools_mut());
        self.leases.tick(now, &path, || changed(pools));
    }

    /// Writes leases down that have changed, at the end.
    pub(super) async fn save_leases(&mut self) {
        let (path, pools) = (self.config.daemon.lease_file(), self.endpoint.pools_mut());
        self.leases.finish(&path, || changed(pools)).await;
    }

    /// `get-pools`: sizes, and with `leases` who has what.
    pub(super) fn list_pools(&self, message: &Section) -> Section {
        let wanted = message.text("name");
        let with_leases = message.text("leases") == Some("yes");
        let mut response = Section::default();
        for (name, pool) in self.endpoint.pools().iter() {
            if wanted.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let mut section = Section::default();
            section.put("base", pool.config().start);
            section.put("size", pool.size());
            let online = pool.leases().filter(|(_, lease)| lease.users != 0).count();
            section.put("online", online);
            section.put("offline", pool.leases().count() - online);
            if with_leases {
                let mut leases = Section::default();
                for (number, (address, lease)) in pool.leases().enumerate() {
                    let mut entry = Section::default();
                    entry.put("address", address);
                    entry.put("identity", &lease.owner);
                    entry.put(
                        "status",
                        if lease.users == 0 {
                            "offline"
                        } else {
                            "online"
                        },
                    );
                    leases.put_section(&number.to_string(), entry);
                }
                section.put_section("leases", leases);
            }
            response.put_section(name, section);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use ikev2d_proto::pool::PoolConfig;

    use super::*;

    fn pools() -> Pools {
        let mut pools = Pools::default();
        let config = PoolConfig {
            start: "10.3.0.1".parse().unwrap(),
            end: "10.3.0.9".parse().unwrap(),
            attributes: vec![],
        };
        pools.set(BTreeMap::from([("home".to_owned(), config)]));
        pools
    }

    /// S60: the core waits for no disk: leases are written down once a second at most, and at the end.
    #[tokio::test]
    async fn leases_are_written_down_beside_the_core() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let owners = || {
            let written: Written = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            written["home"].len()
        };
        let lent = |count: u8| {
            let leases = (0..count).map(|n| (IpAddr::from([10, 3, 0, n]), format!("{n}.test")));
            Some(Written::from([("home".to_owned(), leases.collect())]))
        };
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.tick(start, &path, || lent(1));
        keeper.writing.take().unwrap().await.unwrap();
        assert_eq!(owners(), 1);
        keeper.tick(start + PAUSE / 2, &path, || panic!("too soon"));
        keeper.tick(start + PAUSE, &path, || lent(2));
        keeper.writing.take().unwrap().await.unwrap();
        assert_eq!(owners(), 2);
        keeper.tick(start + PAUSE * 2, &path, || None);
        assert!(keeper.writing.is_none());
        keeper.tick(start + PAUSE * 2, &path, || lent(3));
        keeper.finish(&path, || lent(4)).await;
        assert_eq!(owners(), 4);
    }

    /// S60: leases come back as they were written; what is no such file changes nothing.
    #[test]
    fn leases_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let mut before = pools();
        read(&path, &mut before);
        assert_eq!(before.iter().next().unwrap().1.leases().count(), 0);
        before.remember("home", "10.3.0.4".parse().unwrap(), "a.test");
        write(&path, &before.owners()).unwrap();
        let mut after = pools();
        read(&path, &mut after);
        let (address, lease) = after.iter().next().unwrap().1.leases().next().unwrap();
        assert_eq!(
            (address, lease.owner.as_str(), lease.users),
            ("10.3.0.4".parse().unwrap(), "a.test", 0)
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // A pool that a client loads later; what is written down before that, has its leases as well.
        let mut late = Pools::default();
        read(&path, &mut late);
        write(&path, &late.owners()).unwrap();
        let mut later = Pools::default();
        read(&path, &mut later);
        let home = pools().iter().next().unwrap().1.config().clone();
        later.set(BTreeMap::from([("home".to_owned(), home)]));
        assert_eq!(later.owners(), before.owners());
        // Nor may others read it, whatever the umask is, or a crash has left.
        fs::write(path.with_extension("new"), b"half").unwrap();
        write(&path, &before.owners()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, b"{\"home\": 7").unwrap();
        read(&path, &mut pools());
    }
}
