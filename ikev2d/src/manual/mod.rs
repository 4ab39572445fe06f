// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs with manual keys: installed as negotiated ones are, never rekeyed, and with their numbers on disk.

mod ledger;
mod listing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use offload_api::cache::{CacheEntry, SaLabel};
use offload_api::device::Accelerator;
use offload_api::failover::{Failover, OffloadLevel};
use offload_api::replay::ReplaySnapshot;
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Lifetimes, Limits, Mode, Numbering, Protocol, SaHandle, SaParams,
};

use crate::config::{Keys, ManualSection};
use crate::dataplane::{Encapsulation, InboundSa, InterfaceId, OutboundSa, Overhead, Way};
use crate::inline::outer;
use crate::install::{drained, name as cache_name, pairs};
use crate::plane::Plane;
use ledger::{KeyId, Ledger, Reservation};

/// What the SA cache has in the place of a connection.
pub(crate) const CONNECTION: &str = "manual";
/// Children's numbers of the data plane that IKE never counts to.
const FIRST_CHILD: u64 = 1 << 63;
/// How often it is written down what came in: what a crash can have let in twice.
const NOTE: Duration = Duration::from_secs(1);

/// Whether an SA's numbers are recorded on disk too.
pub(crate) fn has_ledger(entry: &CacheEntry) -> bool {
    entry.owner >= FIRST_CHILD
}

/// The SAs with manual keys.
pub(crate) struct Manual {
    failover: Failover,
    plane: Plane,
    directory: PathBuf,
    nat_port: u16,
    /// Taken with the first SA.
    ledger: Option<Arc<Ledger>>,
    pairs: BTreeMap<String, Pair>,
    next_child: u64,
    noted: Instant,
}

/// A pair of SAs.
pub(crate) struct Pair {
    pub(crate) section: ManualSection,
    /// By a client, not by the configuration.
    pub(crate) loaded: bool,
    keys: (KeyId, KeyId),
    child: u64,
    inbound: SaHandle,
    outbound: SaHandle,
    seen: Arc<Reservation>,
    since: Instant,
    /// While it drains the directory stays ours.
    _ledger: Arc<Ledger>,
}

impl Manual {
    pub(crate) fn new(failover: Failover, plane: Plane, directory: &Path, nat_port: u16) -> Self {
        Self {
            failover,
            plane,
            directory: directory.to_owned(),
            nat_port,
            ledger: None,
            pairs: BTreeMap::new(),
            next_child: FIRST_CHILD,
            noted: Instant::now(),
        }
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&String, &Pair)> {
        self.pairs.iter()
    }

    pub(crate) fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs.get(name)
    }

    /// Whether a pair is there just as it is asked for.
    pub(crate) fn is_as(&self, name: &str, section: &ManualSection, keys: &Keys) -> bool {
        self.pairs.get(name).is_some_and(|pair| {
            pair.section == *section && pair.keys == (KeyId::of(&keys.0), KeyId::of(&keys.1))
        })
    }

    fn ledger(&mut self) -> Result<Arc<Ledger>, String> {
        if let Some(ledger) = &self.ledger {
            return Ok(ledger.clone());
        }
        let ledger = Ledger::open(&self.directory.join("manual"));
        let ledger = Arc::new(ledger.map_err(|error| error.to_string())?);
        self.ledger = Some(ledger.clone());
        Ok(ledger)
    }

    /// What speaks against a pair beside those that are there.
    fn collision(&self, section: &ManualSection, keys: &(KeyId, KeyId)) -> Result<(), String> {
        for (other, pair) in &self.pairs {
            let theirs = &pair.section;
            if section.spi_in == theirs.spi_in {
                return Err(format!("spi_in {} is {other}'s already", section.spi_in.0));
            }
            let to = |section: &ManualSection| {
                (
                    section.spi_out.0,
                    section.remote,
                    section.suite.0.protocol(),
                )
            };
            if to(section) == to(theirs) {
                return Err(format!(
                    "spi_out {} to {} is {other}'s already",
                    section.spi_out.0, section.remote
                ));
            }
            let ours = [&keys.0, &keys.1];
            if ours.contains(&&pair.keys.0) || ours.contains(&&pair.keys.1) {
                return Err(format!(
                    "{other} has one of these keys: each SA needs a key of its own"
                ));
            }
        }
        Ok(())
    }

    /// Installs a pair; the first number that it sends with.
    pub(crate) fn install(
        &mut self,
        name: &str,
        section: ManualSection,
        keys: Keys,
        loaded: bool,
    ) -> Result<u64, String> {
        if self.pairs.contains_key(name) {
            return Err(format!("there are manual SAs named {name:?} already"));
        }
        let ids = (KeyId::of(&keys.0), KeyId::of(&keys.1));
        self.collision(&section, &ids)?;
        let ledger = self.ledger()?;
        let told = |error: ledger::LedgerError| error.to_string();
        let (first, reservation) = ledger.outbound(&ids.1, section.start_at).map_err(told)?;
        let (seen, inbound_record) = ledger.inbound(&ids.0).map_err(told)?;
        let end = if section.esn {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        if first >= end {
            return Err("all sequence numbers of this key are used: it needs a new one".to_owned());
        }
        let child = self.next_child;
        self.next_child += 1;

        let port = if section.encap { self.nat_port } else { 0 };
        let local = SocketAddr::new(section.local, port);
        let remote = SocketAddr::new(section.remote, port);
        let level = match section.hw_offload.into() {
            OffloadLevel::Auto if self.plane.is_inline() => OffloadLevel::Packet,
            level => level,
        };
        let path_in = outer(remote, local, section.encap);
        let path_out = outer(local, remote, section.encap);
        let label = |path| SaLabel {
            owner: child,
            name: cache_name(CONNECTION, name),
            path: Some(path),
        };
        let (ts_local, ts_remote) = section.traffic();
        let selectors = pairs(&ts_local, &ts_remote);

        let mut params = self.params(&section, Direction::Inbound, keys.0);
        params.outer = params.outer.map(|_| path_in);
        // What is at or below what was seen is not taken again.
        params.replay_state = (seen != 0).then(|| ReplaySnapshot {
            top: seen,
            seen: Vec::new(),
        });
        let inbound = self
            .failover
            .install_at(level, &params, label(path_in))
            .map_err(|error| error.to_string())?;
        let added = self.plane.add_inbound(&InboundSa {
            spi: params.spi,
            sa: inbound,
            selectors: selectors.clone(),
            remote,
            transport: None,
            original: None,
            child,
            interface: InterfaceId::MAIN,
        });
        let installed = added.map_err(|error| error.to_string()).and_then(|()| {
            let mut params = self.params(&section, Direction::Outbound, keys.1);
            params.outer = params.outer.map(|_| path_out);
            params.numbering = Numbering::Granted(Some(Grant { first, last: first }));
            let outbound = self
                .failover
                .install_recorded(level, &params, label(path_out), Some(reservation))
                .map_err(|error| error.to_string())?;
            let added = self.plane.add_outbound(&OutboundSa {
                interface: InterfaceId::MAIN,
                spi: params.spi,
                sa: outbound,
                selectors,
                way: Way {
                    path: (local, remote),
                    overhead: Overhead::of(params.suite, section.encap),
                    encapsulation: match section.suite.0.protocol() {
                        Protocol::Ah => Encapsulation::Ah,
                        Protocol::Esp if section.encap => Encapsulation::Udp,
                        Protocol::Esp => Encapsulation::Native,
                    },
                    stream: None,
                },
                tfc_padding: 0,
                child,
                share: None,
            });
            if let Err(error) = added {
                let _ = self.failover.retire(outbound);
                return Err(error.to_string());
            }
            Ok(outbound)
        });
        let outbound = match installed {
            Ok(outbound) => outbound,
            Err(error) => {
                self.plane.remove_inbound(section.spi_in.0);
                let _ = self.failover.retire(inbound);
                return Err(error);
            }
        };
        let pair = Pair {
            section,
            loaded,
            keys: ids,
            child,
            inbound,
            outbound,
            seen: Arc::new(inbound_record),
            since: Instant::now(),
            _ledger: ledger,
        };
        self.pairs.insert(name.to_owned(), pair);
        Ok(first)
    }

    fn params(&self, section: &ManualSection, direction: Direction, keys: KeyMaterial) -> SaParams {
        let suite = section.suite.0;
        let (inbound, spi) = match direction {
            Direction::Inbound => (true, section.spi_in.0),
            Direction::Outbound => (false, section.spi_out.0),
        };
        let limit = |value: u64| (value != 0).then_some(value);
        // Whoever writes outer headers is told which; else a socket does.
        let whole = self.plane.is_inline() || suite.protocol() == Protocol::Ah;
        let placeholder = outer(
            SocketAddr::new(section.local, 0),
            SocketAddr::new(section.remote, 0),
            false,
        );
        SaParams {
            mode: Mode::Tunnel,
            esn: section.esn,
            replay_window: if inbound { section.replay_window } else { 0 },
            outer: whole.then_some(placeholder),
            lifetimes: Lifetimes {
                soft: Limits::default(),
                hard: Limits {
                    bytes: limit(section.life_bytes),
                    packets: limit(section.life_packets),
                    time: Some(section.life_time.0).filter(|time| !time.is_zero()),
                },
            },
            ..SaParams::tunnel(spi, direction, suite, keys)
        }
    }

    /// Takes a pair out; [`Retiring::done`] has the rest of it.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Retiring> {
        let pair = self.pairs.remove(name)?;
        Some(Retiring {
            failover: self.failover.clone(),
            plane: self.plane.clone(),
            pair,
        })
    }

    /// The pair that an engine's handle belongs to.
    pub(crate) fn name_of(&self, sa: SaHandle) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(_, pair)| pair.inbound == sa || pair.outbound == sa)
            .map(|(name, _)| name.as_str())
    }

    /// Writes down what has come in, now and then: off this thread, as disks are slow.
    pub(crate) fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.noted) < NOTE || self.pairs.is_empty() {
            return;
        }
        self.noted = now;
        let seen: Vec<_> = self.seen().collect();
        tokio::task::spawn_blocking(move || write_down(seen));
    }

    /// Writes down what has come in: at the end.
    pub(crate) fn save(&self) {
        write_down(self.seen().collect());
    }

    fn seen(&self) -> impl Iterator<Item = (Arc<Reservation>, u64)> {
        self.pairs.values().filter_map(|pair| {
            let usage = self.failover.usage(pair.inbound).ok()?;
            Some((pair.seen.clone(), usage.sequence))
        })
    }
}

fn write_down(seen: Vec<(Arc<Reservation>, u64)>) {
    for (record, number) in seen {
        if let Err(error) = record.saw(number) {
            tracing::warn!(%error, "a manual key's record can't be written");
        }
    }
}

/// A pair that packets may still be in.
pub(crate) struct Retiring {
    failover: Failover,
    plane: Plane,
    pair: Pair,
}

impl Retiring {
    /// Its settings.
    pub(crate) fn section(&self) -> &ManualSection {
        &self.pair.section
    }

    /// Sends no more at once, and waits until no packet is in it.
    pub(crate) async fn done(self) {
        let Self {
            failover,
            plane,
            pair,
        } = self;
        drained(plane.remove_outbound(pair.child)).await;
        let _ = failover.retire(pair.outbound);
        drained(plane.remove_inbound(pair.section.spi_in.0)).await;
        if let Ok(usage) = failover.retire(pair.inbound) {
            let seen = vec![(pair.seen.clone(), usage.sequence)];
            let _ = tokio::task::spawn_blocking(move || write_down(seen)).await;
        }
    }
}
