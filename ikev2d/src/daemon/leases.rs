// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses of pools outlive the daemon: who has which is written down, so that a peer gets its own
//! again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use ikev2d_proto::pool::Pools;

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

/// Writes them down: whoever reads finds the old file or the new one, whole.
fn write(path: &Path, pools: &Pools) -> io::Result<()> {
    let written: Written = pools
        .iter()
        .map(|(name, pool)| {
            let leases = pool.leases();
            let leases = leases.map(|(address, lease)| (address, lease.owner.clone()));
            (name.to_owned(), leases.collect())
        })
        .collect();
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&written)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

impl Daemon {
    /// Writes leases down that have changed.
    pub(super) fn keep_leases(&mut self) {
        if !self.endpoint.pools_mut().take_changed() {
            return;
        }
        let path = self.config.daemon.lease_file();
        if let Err(error) = write(&path, self.endpoint.pools()) {
            tracing::error!(path = %path.display(), %error, "leases can't be written down");
        }
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

    use ikev2d_proto::pool::PoolConfig;

    use super::*;

    /// S60: leases come back as they were written; what is no such file changes nothing.
    #[test]
    fn leases_survive_a_restart() {
        let pools = || {
            let mut pools = Pools::default();
            let config = PoolConfig {
                start: "10.3.0.1".parse().unwrap(),
                end: "10.3.0.9".parse().unwrap(),
                attributes: vec![],
            };
            pools.set(BTreeMap::from([("home".to_owned(), config)]));
            pools
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("leases");
        let mut before = pools();
        read(&path, &mut before);
        assert_eq!(before.iter().next().unwrap().1.leases().count(), 0);
        before.remember("home", "10.3.0.4".parse().unwrap(), "a.test");
        write(&path, &before).unwrap();
        let mut after = pools();
        read(&path, &mut after);
        let (address, lease) = after.iter().next().unwrap().1.leases().next().unwrap();
        assert_eq!(
            (address, lease.owner.as_str(), lease.users),
            ("10.3.0.4".parse().unwrap(), "a.test", 0)
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&path, b"{\"home\": 7").unwrap();
        read(&path, &mut pools());
    }
}
