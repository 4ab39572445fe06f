// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's start: all that it needs is opened here, before system calls for it are given up.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::EndpointConfig;
use ikev2d_proto::event::Numbers;
use ikev2d_proto::spi::Spis;
use offload_api::device::Accelerator;
use tokio::sync::{broadcast, mpsc};

use super::control::Waiters;
use super::device::Devices;
use super::ike::Ike;
use super::listen::{self, Listening};
use super::{
    BACKLOG, Daemon, adoption, announce, cluster, interfaces, leases, loaded, manual, mobility,
    restart, statuses, trap, virtual_ips,
};
use crate::aside;
use crate::cluster::Shared;
use crate::config::{Config, DaemonSection, DataplaneSetting, PuzzlesSection, cores};
use crate::dataplane::{Dataplane, DataplaneConfig, Upcall};
use crate::inline::InlinePlane;
use crate::install::Installer;
use crate::jobs::{Done, Pool};
use crate::keeper::Keeper;
use crate::kept::Kept;
use crate::keylog::KeyLog;
use crate::launcher::Launcher;
use crate::manual::Manual;
use crate::metrics::{self, Counts, Scrape};
use crate::net::{self, Sockets};
use crate::plane::Plane;
use crate::publication::{Place, Publication};
use crate::routes::Routes;
use crate::streams::Streams;
use crate::vici::server::{self, Request};

/// Frames of the pool.
const FRAMES: u32 = 8192;

/// What a daemon waits for, beside the clock and signals.
pub(super) struct Sources {
    pub(super) ike: mpsc::Receiver<Upcall>,
    pub(super) listening: Listening,
    pub(super) done: mpsc::UnboundedReceiver<Done>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) scrapes: mpsc::Receiver<Scrape>,
}

/// Opens everything, and has what the configuration wants at the start under way.
///
/// # Errors
/// Something it needs is not there: the error tells what and how to get it.
pub(super) async fn start(
    config: Config,
    config_path: PathBuf,
    kept: Kept,
    keeper: Keeper,
) -> anyhow::Result<(Daemon, Sources)> {
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
        (
            cores().saturating_sub(section.tun.workers()) + 1,
            section.tun.busy_poll,
        ),
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

    let (ike_in, ike) = mpsc::channel::<Upcall>(BACKLOG);
    let mut listening = Listening::default();
    let numbers = Numbers::default();
    let plane = match section.dataplane {
        DataplaneSetting::Tun => {
            let upcalls = ike_in.clone();
            start_tun(section, &sockets, &devices, upcalls, &numbers.spis)?
        }
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
    let endpoint = Ike::new(endpoint_config, Arc::new(crypto()?), numbers);
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
    let (jobs, done) = Pool::start().context("threads for signatures")?;
    let (broadcast, _) = broadcast::channel(1024);
    let (requests_in, requests) = mpsc::channel::<Request>(64);
    let (scrapes_in, scrapes) = mpsc::channel(1);
    let control = aside::start("control").context("thread for control clients")?;
    if let Some(section) = &section.metrics {
        let _inside = control.enter();
        metrics::start(&section.listen, scrapes_in)?;
    }
    // The last door: whoever finds the control socket finds the others open.
    let listener = {
        let _inside = control.enter();
        server::listen(&section.vici_socket).context("control socket")?
    };
    control.spawn(server::serve(listener, requests_in, broadcast.clone()));

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
    let sources = Sources {
        ike,
        listening,
        done,
        requests,
        scrapes,
    };
    Ok((daemon, sources))
}

/// Worker threads between a TUN interface and the sockets.
fn start_tun(
    section: &DaemonSection,
    sockets: &Sockets,
    devices: &Devices,
    upcalls: mpsc::Sender<Upcall>,
    spis: &Spis,
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
            udp: listen::copies(&sockets.nat)?,
            raw,
            ah,
            depth: 1024,
            mss_clamp: section.tun.mss_clamp,
            copy_dscp: section.tun.copy_dscp,
            busy_poll: section.tun.busy_poll,
            slice: section.tun.slice,
            cpus: section.tun.cpus.clone(),
            spis: spis.clone(),
        },
        &accelerator,
        // Full: IKE's peers send again, and the data plane tells the rest again.
        move |upcall| upcalls.try_send(upcall).is_ok(),
    )?;
    Ok(Plane::Tun(Arc::new(dataplane)))
}
