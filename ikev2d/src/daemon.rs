// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The shell: one task owns the core; sockets, data plane, control socket and clock feed it.

mod adoption;
mod announce;
mod cluster;
mod control;
mod device;
pub(crate) mod engine;
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
mod statuses;
mod trap;
mod virtual_ips;

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::EndpointConfig;
use ikev2d_proto::endpoint::ChildInfo;
use ikev2d_proto::event::{Answer, ChildId, Event, Path};
use ikev2d_proto::ts::Trigger;
use offload_api::device::Accelerator;
use offload_api::event::Event as DeviceEvent;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};

use self::listen::Listening;
use crate::aside;
use crate::cluster::Shared;
use crate::config::{
    Config, DaemonSection, DataplaneSetting, Draft, PuzzlesSection, StartAction, cores,
};
use crate::dataplane::{Dataplane, DataplaneConfig, Upcall};
use crate::inline::InlinePlane;
use crate::install::Installer;
use crate::jobs::Pool;
use crate::keeper::Keeper;
use crate::kept::{self, Kept};
use crate::keylog::KeyLog;
use crate::launcher::Launcher;
use crate::manual::Manual;
use crate::metrics::{self, Counts};
use crate::net::{self, Sockets};
use crate::plane::Plane;
use crate::publication::{Place, Publication};
use crate::routes::{Held, Routes};
use crate::seccomp;
use crate::streams::Streams;
use crate::vici::lists::ChildFacts;
use crate::vici::server::{self, Broadcast, Request};
use control::Waiters;
use device::Devices;
use ike::Ike;

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
/// Frames of the pool.
const FRAMES: u32 = 8192;

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
    let section = &config.daemon;
    let crypto = || OpensslCrypto::new().context("the system gives no entropy");
    let member = match &config.cluster {
        Some(cluster) => Some(cluster::Member::new(
            Shared::activate(cluster).await?,
            crypto()?,
        )),
        None => None,
    };
    let sockets = Sockets::bind(section.port, section.nat_port)
        .context("IKE's sockets (CAP_NET_BIND_SERVICE is needed)")?;
    let place = Place::take(section.sa_cache.socket(&section.vici_socket))?;
    let inline = section.dataplane == DataplaneSetting::Inline;
    let launcher = Launcher::start(&config_path)?;
    let (devices, adopted) = Devices::open(
        &section.device,
        // Workers seal and open on their own cores: what is handed to a core that has a worker waits
        // for it. Only cores without one help.
        cores().saturating_sub(section.tun.workers()) + 1,
        section.failover.config(),
        section.sa_cache.capacity,
        kept,
        inline,
    )?;
    let publication = Publication::start(
        place,
        &section.sa_cache,
        devices.failover.cache(),
        launcher.clone(),
    )?;
    let control = aside::start("control").context("thread for control clients")?;
    let listener = {
        let _inside = control.enter();
        server::listen(&section.vici_socket).context("control socket")?
    };

    let (ike_in, mut ike) = mpsc::channel::<Upcall>(BACKLOG);
    let mut listening = Listening::default();
    let plane = match section.dataplane {
        DataplaneSetting::Tun => start_tun(section, &sockets, &devices, ike_in.clone())?,
        DataplaneSetting::Inline => {
            let plane = InlinePlane::new(devices.failover.clone()).context(
                "dataplane = \"inline\" needs an accelerator in inline mode, and the configured one is not \
                 (a simulated card is with --wire, --host and --exception)",
            )?;
            listening.add(&sockets.nat, true)?;
            Plane::Inline(Arc::new(plane), section.tun.name.as_str().into())
        }
    };
    listening.add(&sockets.ike, false)?;
    let key_log = match &section.key_log {
        Some(directory) => Some(KeyLog::open(directory).context("key log")?),
        None => None,
    };
    let endpoint_config = EndpointConfig {
        retransmit_tries: section.retransmit_tries,
        retransmit_timeout: Duration::try_from_secs_f64(section.retransmit_timeout)
            .context("daemon.retransmit_timeout")?,
        fragment_size: (section.fragment_size != 0).then_some(section.fragment_size),
        ike_port: section.port,
        nat_port: section.nat_port,
        key_log: key_log.is_some(),
        application_version: section.application_version.0.0.clone(),
        puzzles: section
            .puzzles
            .as_ref()
            .map(PuzzlesSection::to_policy)
            .unwrap_or_default(),
        puzzle_solving: section.solve_puzzles.to_policy(),
        ..EndpointConfig::default()
    };
    let endpoint = Ike::new(endpoint_config, Arc::new(crypto()?));
    let gate = endpoint.gate();
    listen::open_doors(&sockets.ike, (false, 1), &gate, &ike_in)?;
    listen::open_doors(
        &sockets.nat,
        (true, plane.sockets_of_port()),
        &gate,
        &ike_in,
    )?;
    let streams = Streams::start(endpoint.numbers(), gate, ike_in, plane.clone())
        .context("thread for TCP")?;
    if section.tcp_port != 0 {
        streams.listen(section.tcp_port).context("IKE in TCP")?;
    }
    let interface = plane.interface();
    let index = nix::net::if_::if_nametoindex(interface)
        .with_context(|| format!("interface {interface} for packets in the clear"))?;
    let routes = Routes::new(index)
        .await
        .context("netlink (CAP_NET_ADMIN is needed)")?;
    let (jobs, mut done) = Pool::start().context("threads for signatures")?;
    let (broadcast, _) = broadcast::channel(1024);
    let (requests_in, mut requests) = mpsc::channel::<Request>(64);
    control.spawn(server::serve(listener, requests_in, broadcast.clone()));

    let (scrapes_in, mut scrapes) = mpsc::channel(1);
    if let Some(section) = &section.metrics {
        let _inside = control.enter();
        metrics::start(&section.listen, scrapes_in)?;
    }

    let manual = Manual::new(
        devices.failover.clone(),
        plane.clone(),
        &section.state_directory,
        section.nat_port,
    );

    let mut daemon = Daemon {
        endpoint,
        jobs,
        installer: Installer::new(devices.failover.clone(), plane.clone(), streams.clone()),
        plane,
        devices,
        publication,
        routes,
        sockets,
        streams,
        streams_due: Instant::now(),
        renewal: statuses::Renewal::default(),
        key_log,
        waiters: Waiters::default(),
        broadcast,
        started: Instant::now(),
        listed: announce::Listed::default(),
        counts: Counts::default(),
        loaded: loaded::Loaded::default(),
        restarts: restart::Restarts::default(),
        adoption: adoption::Adoption::new(adopted, section.failover.orphan_grace.0),
        routed: HashMap::new(),
        traps: trap::Traps::default(),
        interfaces: interfaces::Interfaces::default(),
        interfaces_due: false,
        leases: leases::Keeper::default(),
        mobility: mobility::Mobility::default(),
        virtual_ips: virtual_ips::VirtualIps::new(launcher.clone()),
        traps_due: false,
        starts_due: false,
        manual,
        manual_due: true,
        manual_held: manual::ManualRoutes::default(),
        member,
        keeper,
        launcher,
        beside_looked: Instant::now(),
        config_path,
        config,
    };
    daemon.update_interfaces().await;
    daemon.apply_policy();
    let lease_file = daemon.config.daemon.lease_file();
    leases::read(&lease_file, daemon.endpoint.pools_mut());
    daemon
        .take_up_shared()
        .context("what a member of the cluster has left")?;
    daemon.start_connections();
    daemon.start_adopted();
    daemon.settle().await;
    daemon.routes.remove_leftovers();
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

fn copies(sockets: &[UdpSocket]) -> std::io::Result<Vec<UdpSocket>> {
    sockets.iter().map(UdpSocket::try_clone).collect()
}

/// Worker threads between a TUN interface and the sockets.
fn start_tun(
    section: &DaemonSection,
    sockets: &Sockets,
    devices: &Devices,
    upcalls: mpsc::Sender<Upcall>,
) -> anyhow::Result<Plane> {
    let queues = section.tun.workers();
    let raw = if section.raw_esp {
        net::raw_esp().unwrap_or_else(|error| {
            tracing::warn!(%error, "no IP protocol 50: only ESP in UDP");
            Vec::new()
        })
    } else {
        Vec::new()
    };
    let ah = net::raw_ah().unwrap_or_else(|error| {
        tracing::warn!(%error, "no IP protocol 51: no AH");
        Vec::new()
    });
    let accelerator: Arc<dyn Accelerator> = Arc::new(devices.failover.clone());
    let dataplane = Dataplane::start(
        DataplaneConfig {
            tun_name: section.tun.name.clone(),
            mtu: section.tun.mtu,
            queues,
            frames: FRAMES,
            udp: copies(&sockets.nat)?,
            raw,
            ah,
            depth: 1024,
            mss_clamp: section.tun.mss_clamp,
            copy_dscp: section.tun.copy_dscp,
            busy_poll: section.tun.busy_poll,
            slice: section.tun.slice,
            cpus: section.tun.cpus.clone(),
        },
        &accelerator,
        // Full: IKE's peers send again, and the data plane tells the rest again.
        move |upcall| upcalls.try_send(upcall).is_ok(),
    )?;
    Ok(Plane::Tun(Arc::new(dataplane)))
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
            let kept = draft.keep_daemon(&self.config.daemon);
            Ok((draft.load(Some(&self.keeper))?, kept))
        });
        match draft {
            Ok((config, kept)) => {
                self.keeper.forget_others();
                tracing::info!("configuration is read again; established SAs stay");
                for setting in kept {
                    tracing::warn!(
                        "daemon.{setting} has changed: restart ikev2d for it to take effect"
                    );
                }
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
        let mut events = Vec::new();
        self.devices.failover.poll_events(&mut events);
        let now = Instant::now();
        for event in events {
            self.announce_engine(&event);
            match event {
                DeviceEvent::SoftExpired { sa, limit } => {
                    if let Some(child) = self.installer.child_of(sa) {
                        tracing::info!(child = child.0, ?limit, "lifetime is reached");
                        let _ = self.endpoint.rekey_child(now, child);
                    }
                }
                DeviceEvent::HardExpired { sa, limit } => {
                    if let Some(child) = self.installer.child_of(sa) {
                        tracing::warn!(child = child.0, ?limit, "hard lifetime is over");
                        let _ = self.endpoint.child_expired(now, child);
                    }
                }
                DeviceEvent::SequenceEnding { sa } => {
                    if let Some(name) = self.manual.name_of(sa) {
                        tracing::warn!(
                            name,
                            "a manual key's sequence numbers end soon: it needs a new one"
                        );
                    }
                    if let Some(child) = self.installer.child_of(sa) {
                        let _ = self.endpoint.rekey_child(now, child);
                    }
                }
                DeviceEvent::DeviceLost { reason } => {
                    tracing::warn!(reason, "accelerator lost: ESP goes on in software");
                }
                DeviceEvent::DeviceQuarantined { reason } => {
                    tracing::error!(
                        reason,
                        "accelerator quarantined: `esplanade devices --release` takes it back"
                    );
                }
                DeviceEvent::DeviceReturned => {
                    tracing::info!("accelerator is back");
                    self.plane.device_returned();
                }
                DeviceEvent::Moved { sa, engine } => {
                    let child = self.installer.child_of(sa).map(|child| child.0);
                    tracing::info!(?child, ?engine, "SA moved");
                }
                DeviceEvent::BadIcvBurst { sa, count } => {
                    let child = self.installer.child_of(sa).map(|child| child.0);
                    tracing::warn!(?child, count, "packets with a bad ICV were dropped");
                }
                DeviceEvent::ReplayBurst { sa, count } => {
                    let child = self.installer.child_of(sa).map(|child| child.0);
                    tracing::warn!(?child, count, "replayed packets were dropped");
                }
                event @ (DeviceEvent::QueueFailed { .. } | DeviceEvent::Zeroised) => {
                    tracing::error!(?event, "accelerator");
                }
                event => tracing::debug!(?event, "device"),
            }
        }
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

    /// Does what the core wants done, until it wants nothing more.
    pub(crate) async fn settle(&mut self) {
        if std::mem::take(&mut self.interfaces_due) {
            self.update_interfaces().await;
            self.traps_due = true;
        }
        let starts_due = std::mem::take(&mut self.starts_due);
        if starts_due {
            self.refresh_policy();
        }
        if std::mem::take(&mut self.traps_due) {
            self.update_traps();
        }
        if starts_due {
            for connection in self.endpoint.connections().to_vec() {
                self.endpoint.add_children(&connection);
            }
            self.start_connections();
        }
        if std::mem::take(&mut self.manual_due) {
            self.update_manual().await;
        }
        self.route_manual();
        loop {
            while let Some(transmit) = self.endpoint.poll_transmit() {
                if let Some(stream) = transmit.path.stream {
                    self.streams.send(stream, &transmit.payload);
                } else if let Err(error) = self.sockets.send(&transmit) {
                    tracing::debug!(%error, to = %transmit.path.remote, "IKE message not sent");
                }
            }
            let Some(event) = self.endpoint.poll_event() else {
                break;
            };
            self.event(event).await;
        }
        self.forget_gone();
    }

    async fn event(&mut self, event: Event) {
        let now = Instant::now();
        self.counts.count(&event);
        self.note_for_members(&event);
        match event {
            Event::InstallInbound { install, child } => {
                if let Some(log) = &mut self.key_log {
                    log.child(&child);
                }
                let section = self
                    .loaded
                    .child(&self.config, &child.connection, &child.child);
                let names = (&*child.connection, &*child.child);
                let bound = self
                    .interfaces
                    .bind(names, section.map(|section| &**section));
                // One that is configured no more goes on as it was.
                let section = section.cloned();
                let section = section.or_else(|| self.installer.section_before(&child.sa));
                let installed = bound.and_then(|interface| {
                    let installed = self.installer.inbound(*child, section, interface);
                    installed.map_err(|error| error.to_string())
                });
                let answer = match installed {
                    Ok(()) => Answer::Installed(install),
                    Err(reason) => {
                        tracing::error!(error = reason, "child SA can't be installed");
                        Answer::Failed { install, reason }
                    }
                };
                self.endpoint.handle_answer(now, &answer);
            }
            Event::Job { job, work } => self.jobs.submit(job, work),
            Event::Connect {
                stream,
                local,
                remote,
            } => self.streams.connect(stream, local, remote),
            Event::InstallOutbound { install, child } => {
                if let Err(error) = self.installer.outbound(child) {
                    tracing::error!(%error, "child SA can't be installed");
                    let reason = error.to_string();
                    let answer = Answer::Failed { install, reason };
                    return self.endpoint.handle_answer(now, &answer);
                }
                self.endpoint
                    .handle_answer(now, &Answer::Installed(install));
                self.route(child, None);
            }
            Event::AdvanceOutbound { child, by } => {
                if let Err(error) = self.installer.advance(child, by) {
                    tracing::info!(child = child.0, %error, "a child SA is rekeyed in place of a jump");
                    let _ = self.endpoint.rekey_child(now, child);
                }
            }
            Event::RetireChild { child } => {
                let traffic = self.plane.traffic(child.0);
                self.note_leaving(child);
                if let Some(sa) = self.installer.retire(child) {
                    self.count_carried(&sa, traffic);
                    // One that never got to send has no route, and must not take another's.
                    if let Some(held) = self.routed.remove(&child) {
                        self.routes.release(held);
                    }
                }
            }
            Event::IkeKeys(keys) => {
                if let Some(log) = &mut self.key_log {
                    log.ike(&keys);
                }
            }
            Event::Ikev1Keys(keys) => {
                if let Some(log) = &mut self.key_log {
                    log.ikev1(&keys);
                }
            }
            Event::PathChanged {
                ike,
                path,
                udp_encap,
            } => {
                tracing::info!(ike = ike.0, from = %path.local, to = %path.remote, "path changed");
                self.peer_is_at(ike, path.remote.ip());
                // The IKE SA that made a child may have been rekeyed since.
                let of_ike = self.endpoint.ike_sa(ike);
                let children = of_ike.into_iter().flat_map(|sa| sa.children);
                let children: Vec<ChildId> = children.map(|child| child.sa.id).collect();
                for child in children {
                    self.installer.move_child(child, path, Some(udp_encap));
                }
                // The peer may have come into a net that it lies behind.
                self.route_again(ike, path.remote.ip());
            }
            Event::Configured {
                addresses,
                attributes,
                ..
            } => self.configured(&addresses, &attributes).await,
            Event::Unconfigured {
                addresses,
                attributes,
            } => self.unconfigured(&addresses, &attributes).await,
            Event::IkeUp { ike } => {
                self.announce_ike_up(ike);
                let peer = self.endpoint.ike_sa(ike).map(|sa| sa.path.remote.ip());
                if let Some(peer) = peer {
                    self.peer_is_at(ike, peer);
                }
                self.waiters.ike_up(ike, &self.endpoint);
            }
            Event::IkeRekeyed { old, new } => {
                self.announce_ike_rekeyed(old, new);
            }
            Event::Redirected { ike, from, to } => {
                self.say(ike, &format!("redirected by {from} to {to}"));
                self.peer_is_at(ike, to);
                self.route_again(ike, to);
            }
            Event::IkeDown {
                ike,
                connection,
                reason,
            } => {
                self.announce_ike_down(ike, &connection, &reason);
                self.peer_is_gone(&connection);
                self.waiters.ike_down(ike, &connection, &reason);
            }
            Event::ChildUp { ike, child } => {
                tracing::debug!(ike = ike.0, child = child.0, "child SA");
                let waited = self.adoption.waiting();
                self.announce_child_up(child);
                if self.adoption.waiting() < waited {
                    // The peer keeps to our old SAs until it hears that the new ones are there.
                    let _ = self.endpoint.check_liveness(now, ike);
                }
                let sa = self.endpoint.ike_sa_of(child);
                let children = sa.iter().flat_map(|sa| &sa.children);
                if let Some(sa) = children.map(|c| c.sa).find(|sa| sa.id == child) {
                    self.waiters.child_up(&sa.connection, &sa.child);
                }
            }
            Event::ChildRekeyed { old, new } => {
                self.announce_child_rekeyed(old, new);
            }
            Event::RekeyFailed { ike, child, reason } => {
                tracing::warn!(child = child.0, reason, "child SA could not be rekeyed");
                let text = format!("CHILD_SA {{{}}} could not be rekeyed: {reason}", child.0);
                self.say(ike, &text);
            }
            Event::ChildDown { child, reason } => {
                self.announce_child_down(child, &reason);
                self.waiters.child_down(child);
            }
            Event::InitiateFailed {
                connection,
                child,
                reason,
            } => {
                tracing::warn!(connection, ?child, reason, "initiation failed");
                self.waiters.failed(&connection, child.as_deref(), &reason);
                self.try_failed(&connection, child.as_deref());
            }
            Event::Doubted {
                ike,
                connection,
                reason,
            } => {
                let text = format!("{connection}: {reason}; asked again, since anybody may say so");
                self.say(ike, &text);
                self.waiters.doubt(&connection, &reason);
            }
            event => tracing::debug!(?event, "event"),
        }
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
