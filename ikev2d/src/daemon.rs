// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The shell: one task owns the core; sockets, data plane, control socket and clock feed it.

mod adoption;
mod announce;
mod cluster;
mod control;
mod device;
mod device_events;
pub(crate) mod engine;
mod events;
mod ike;
mod interfaces;
mod leases;
mod listen;
mod loaded;
mod manual;
mod mobility;
mod redirect;
mod restart;
mod routed;
mod scrape;
mod start;
mod statuses;
mod trap;
mod virtual_ips;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ikev2d_proto::endpoint::ChildInfo;
use ikev2d_proto::event::{ChildId, Path};
use ikev2d_proto::ts::Trigger;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};

use self::control::Waiters;
use self::device::Devices;
use self::ike::Ike;
use self::listen::Listening;
use self::start::Sources;
use crate::config::{Config, Draft, StartAction};
use crate::dataplane::Upcall;
use crate::install::Installer;
use crate::jobs::Pool;
use crate::keeper::Keeper;
use crate::kept::{self, Kept};
use crate::keylog::KeyLog;
use crate::launcher::Launcher;
use crate::manual::Manual;
use crate::metrics::Counts;
use crate::net::{self, Sockets};
use crate::plane::Plane;
use crate::publication::Publication;
use crate::routes::{Held, Routes};
use crate::seccomp;
use crate::streams::Streams;
use crate::vici::lists::ChildFacts;
use crate::vici::server::Broadcast;

/// IKE messages that wait for the core, at most; more are dropped, and peers send again.
const BACKLOG: usize = 1024;
/// Between looks at the devices' events.
const TICK: Duration = Duration::from_millis(20);
/// Between looks at what TCP connections are used for.
const LOOK_AT_STREAMS: Duration = Duration::from_secs(1);
/// Between looks at whether the processes beside the daemon are there.
const LOOK_BESIDE: Duration = Duration::from_secs(1);
/// How long peers get to answer deletions at the end.
const FAREWELL: Duration = Duration::from_millis(500);

pub(crate) use virtual_ips::Along;

pub(crate) struct Daemon {
    pub(crate) config: Config,
    config_path: PathBuf,
    pub(crate) endpoint: Ike,
    pub(crate) installer: Installer,
    jobs: Pool,
    pub(crate) plane: Plane,
    pub(crate) devices: Devices,
    publication: Publication,
    routes: Routes,
    sockets: Sockets,
    pub(crate) streams: Streams,
    streams_due: Instant,
    renewal: statuses::Renewal,
    key_log: Option<KeyLog>,
    pub(crate) waiters: Waiters,
    broadcast: broadcast::Sender<Broadcast>,
    pub(crate) started: Instant,
    listed: announce::Listed,
    counts: Counts,
    loaded: loaded::Loaded,
    restarts: restart::Restarts,
    adoption: adoption::Adoption,
    /// Routes of child SAs.
    routed: HashMap<ChildId, Held>,
    traps: trap::Traps,
    interfaces: interfaces::Interfaces,
    interfaces_due: bool,
    leases: leases::Keeper,
    mobility: mobility::Mobility,
    virtual_ips: virtual_ips::VirtualIps,
    /// The policy has changed and the traps have not yet.
    traps_due: bool,
    /// The configuration is another one: what it wants to be there is to be looked for.
    starts_due: bool,
    pub(crate) manual: Manual,
    /// The configuration's manual SAs are to be looked at.
    manual_due: bool,
    manual_held: manual::ManualRoutes,
    /// It is a cluster's active member.
    member: Option<cluster::Member>,
    /// Private keys.
    keeper: Keeper,
    launcher: Launcher,
    beside_looked: Instant,
}

/// Runs until told to end.
///
/// # Errors
/// Something it needs is not there: the error tells what and how to get it.
pub async fn run(
    config: Config,
    config_path: PathBuf,
    kept: Kept,
    keeper: Keeper,
) -> anyhow::Result<()> {
    // From here on it asks for a reload, where it would end what is not ready yet.
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut daemon, sources) = start::start(config, config_path, kept, keeper).await?;
    let Sources {
        mut ike,
        mut listening,
        mut done,
        mut requests,
        mut scrapes,
    } = sources;
    let (interface, inline) = (daemon.plane.interface(), daemon.plane.is_inline());
    let setting = daemon.config.daemon.privileges.seccomp;
    if let Err(error) = seccomp::apply(setting, seccomp::Process::Daemon) {
        tracing::warn!(%error, "system calls stay as they are");
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(interface, inline, "ikev2d is ready");
    kept::ready();

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turned = Instant::now();
    loop {
        let due = daemon.endpoint.poll_timeout();
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(upcall) = ike.recv() => daemon.upcall(upcall),
            () = listening.ready() => {}
            Some((job, result)) = done.recv() => {
                daemon.endpoint.handle_job(Instant::now(), job, &result);
            }
            Some(request) = requests.recv() => daemon.control(request),
            Some(scrape) = scrapes.recv() => daemon.scrape(scrape),
            () = timer => daemon.endpoint.handle_timeout(Instant::now()),
            _ = tick.tick() => daemon.tick(),
            _ = hangup.recv() => { let _ = daemon.reload(); }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        // What else has come is taken in before the next look at the clock.
        for _ in 0..BACKLOG {
            if let Ok((job, result)) = done.try_recv() {
                daemon.endpoint.handle_job(Instant::now(), job, &result);
                continue;
            }
            // One of each, so that neither first messages nor the others wait for all of the other kind.
            let upcall = ike.try_recv();
            let none = upcall.is_err();
            upcall.into_iter().for_each(|upcall| daemon.upcall(upcall));
            if !listening.take(|path, message| daemon.message(path, message)) && none {
                break;
            }
        }
        daemon.settle().await;
        if turned.elapsed() >= TICK {
            // Sockets and timers are looked at when nothing is ready here, or a while after.
            tokio::task::yield_now().await;
            turned = Instant::now();
        }
        if let Some(what) = daemon.gone_beside() {
            anyhow::bail!(
                "the process that {what} is gone, and another one could not do what it is for: the privileges are \
                 given up"
            );
        }
    }
    kept::stopping();
    daemon.farewell(&mut ike, &mut listening).await;
    daemon.manual.save();
    daemon.save_leases().await;
    daemon.undo_configuration().await;
    daemon.routes.clear();
    daemon.devices.forget();
    let socket = &daemon.config.daemon.vici_socket;
    let _ = std::fs::remove_file(socket);
    Ok(())
}

impl Daemon {
    /// Whether a child of the configuration is set up at every start.
    fn starts(&self, connection: &str, child: &str) -> bool {
        let section = self.config.connections.get(connection);
        let section = section.and_then(|section| section.children.get(child));
        section.is_some_and(|section| section.start_action == StartAction::Start)
    }

    /// Sets up the children of the configuration that are to be there, and are not.
    fn start_connections(&mut self) {
        let start: Vec<(String, String)> = self
            .config
            .connections
            .iter()
            .flat_map(|(name, connection)| {
                let children = connection.children.iter();
                children
                    .filter(|(_, child)| child.start_action == StartAction::Start)
                    .map(move |(child, _)| (name.clone(), child.clone()))
            })
            .collect();
        for (connection, child) in start {
            self.start_missing(&connection, &child);
        }
    }

    pub(crate) fn initiate(
        &mut self,
        connection: &str,
        child: Option<&str>,
    ) -> Result<(), ikev2d_proto::endpoint::InitiateError> {
        self.initiate_for(connection, child, None)
    }

    /// The same, because of a packet.
    fn initiate_for(
        &mut self,
        connection: &str,
        child: Option<&str>,
        trigger: Option<Trigger>,
    ) -> Result<(), ikev2d_proto::endpoint::InitiateError> {
        let peer = self
            .endpoint
            .connections()
            .iter()
            .find(|c| c.name == connection)
            .and_then(|c| {
                let address = c.remote_addrs.iter().find_map(|pattern| pattern.single())?;
                Some(SocketAddr::new(address, c.remote_port))
            });
        let local = peer.and_then(net::source_towards);
        self.endpoint
            .initiate_for(Instant::now(), connection, child, local, trigger)
            .map(drop)
    }

    pub(crate) fn reload(&mut self) -> Result<(), crate::config::ConfigError> {
        let draft = Draft::read(&self.config_path).and_then(|mut draft| {
            // What is wrong behind this may be so by what is kept.
            for setting in draft.keep(&self.config)? {
                tracing::warn!("{setting} has changed: restart ikev2d for it to take effect");
            }
            draft.load(Some(&self.keeper))
        });
        match draft {
            Ok(config) => {
                self.keeper.forget_others();
                tracing::info!("configuration is read again; established SAs stay");
                config.log_warnings();
                self.config = config;
                self.interfaces_due = true;
                self.manual_due = true;
                self.starts_due = true;
                self.credentials_changed();
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the new configuration is not used");
                Err(error)
            }
        }
    }

    /// What the process beside the daemon did that has ended; looked at now and then.
    fn gone_beside(&mut self) -> Option<&'static str> {
        if self.beside_looked.elapsed() < LOOK_BESIDE {
            return None;
        }
        self.beside_looked = Instant::now();
        if self.keeper.is_gone() {
            return Some("keeps private keys");
        }
        self.launcher.is_gone().then_some("starts programs")
    }

    /// A message of IKE.
    fn message(&mut self, path: Path, message: &[u8]) {
        self.refresh_policy();
        self.endpoint.handle_datagram(Instant::now(), path, message);
    }

    fn upcall(&mut self, upcall: Upcall) {
        self.refresh_policy();
        let now = Instant::now();
        match upcall {
            Upcall::Ike {
                local,
                remote,
                stream,
                datagram,
            } => {
                let path = Path {
                    local,
                    remote,
                    stream,
                };
                self.message(path, &datagram);
            }
            Upcall::StreamOpened { stream, local } => {
                self.endpoint.stream_opened(now, stream, local);
            }
            Upcall::StreamClosed { stream, reason } => {
                self.endpoint.stream_closed(now, stream, &reason);
            }
            Upcall::PeerMoved { child, remote } => {
                let moved = self.endpoint.peer_moved(now, ChildId(child), remote);
                if moved == Ok(true) {
                    tracing::info!(child, %remote, "peer sends from elsewhere");
                } else if let Some(sa) = self.endpoint.ike_sa_of(ChildId(child))
                    && sa.version == 1
                    && sa.nat_remote
                {
                    // IKEv1 has no word for it.
                    let path = Path::new(sa.path.local, remote);
                    let child = ChildId(child);
                    self.installer.move_child(child, path, None);
                } else {
                    tracing::debug!(child, %remote, "a peer that is behind no NAT is not followed");
                }
            }
            Upcall::Acquire {
                interface,
                source,
                destination,
                protocol,
                ports,
            } => {
                let trigger = Trigger::new((source, destination), protocol, ports);
                self.acquire(interface, (source, destination), trigger);
            }
        }
    }

    fn tick(&mut self) {
        self.refresh_policy();
        let now = Instant::now();
        self.device_events(now);
        self.look_for_moves(now);
        if now >= self.streams_due {
            self.streams_due = now + LOOK_AT_STREAMS;
            let endpoint = &self.endpoint;
            self.streams
                .look_after(now, |stream| endpoint.stream_use(stream));
        }
        self.publication.look_after(self.devices.failover.cache());
        self.installer.tick(now);
        self.manual.tick(now);
        self.tell_members(now);
        self.keep_leases(now);
        self.renew_statuses(now);
        self.waiters.expire(now);
        self.restart_due(now);
        self.traps_due |= self.traps.due(now);
        self.retire_orphans(now);
        self.devices.keep();
    }

    /// What the data plane and the TCP connections have counted, by name.
    pub(crate) fn plane_statistics(&self) -> Vec<(String, u64)> {
        let mut all = self.plane.statistics();
        all.extend(self.streams.statistics());
        all
    }

    /// Traffic and placement of a child SA.
    pub(crate) fn child_facts(&self, child: &ChildInfo<'_>) -> ChildFacts {
        let (inbound, outbound) = self.plane.traffic(child.sa.id.0);
        ChildFacts {
            placement: self.installer.placement(child.sa.id),
            interface: {
                let id = self.installer.interface(child.sa.id);
                self.interfaces.name(id).map(str::to_owned)
            },
            life_time: self.installer.life_time(child.sa.id),
            padding: self.installer.padding(child.sa.id),
            inbound,
            outbound,
        }
    }

    /// Tells the peers that it ends.
    async fn farewell(&mut self, ike: &mut mpsc::Receiver<Upcall>, listening: &mut Listening) {
        if self.leave_to_members() {
            return;
        }
        let now = Instant::now();
        let sas: Vec<_> = self.endpoint.ike_sas().map(|sa| sa.id).collect();
        for sa in sas {
            let _ = self.endpoint.terminate_ike(now, sa);
        }
        self.settle().await;
        let end = tokio::time::Instant::now() + FAREWELL;
        while self.endpoint.ike_sas().next().is_some() {
            tokio::select! {
                Some(upcall) = ike.recv() => self.upcall(upcall),
                () = listening.ready() => {
                    listening.take(|path, message| self.message(path, message));
                }
                () = tokio::time::sleep_until(end) => break,
            }
            self.settle().await;
        }
    }
}
