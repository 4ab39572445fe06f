// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one translator from IKE's child SAs to security associations of the engines.

mod leaving;
mod neighbours;
mod params;

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::event::{ChildId, ChildKeys, ChildSa, KeyedChild, Path};
use offload_api::cache::{SaLabel, SaName};
use offload_api::device::Accelerator;
use offload_api::error::{DeviceError, InstallError, SaError};
use offload_api::failover::{Failover, OffloadLevel, Placement};
use offload_api::sa::{Amend, Direction, Lifetimes, OuterHeaders, SaHandle, Suite};

use crate::config::{ChildSection, TfcPadding};
use crate::dataplane::{
    Encapsulation, InboundSa, InterfaceId, OutboundSa, Overhead, Selectors, Share, Way,
};
use crate::inline::outer;
use crate::plane::Plane;
use crate::streams::Streams;
use leaving::Leaving;
pub(crate) use leaving::drained;
use neighbours::{could_have_neighbours, is_neighbour};
use params::{lifetimes, params, within};
pub(crate) use params::{pairs, suite};

/// Installs and removes child SAs.
pub(crate) struct Installer {
    failover: Failover,
    plane: Plane,
    streams: Streams,
    /// By themselves, so that the map's free places take little room.
    children: HashMap<ChildId, Box<Installed>>,
    /// By the index of the failover's handle, of which there are as many as SAs: a map takes thrice the
    /// room.
    handles: Vec<Option<NonZeroU64>>,
    /// Inbound SPIs that others have.
    reserved: HashSet<u32>,
    /// Those on their way out.
    leaving: Vec<Leaving>,
    /// The last so many of them may have packets on their way, and nobody has waited for those yet.
    unsent: usize,
}

struct Installed {
    /// The core's own record of it, until one of us changes it.
    sa: Arc<ChildSa>,
    /// Until the outbound SA is installed, too: how.
    how: Option<Box<How>>,
    /// What it was configured by, which those that take over from it are too when it is configured no more.
    section: Option<Arc<ChildSection>>,
    padding: Padding,
    interface: InterfaceId,
    inbound: SaHandle,
    outbound: Option<SaHandle>,
}

/// What becomes of the TFC padding that a child is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// None is asked for, or it is AH.
    Off,
    /// It is sent.
    Sent(TfcPadding),
    /// The peer does not take it.
    Refused,
}

impl Padding {
    fn of(sa: &ChildSa, section: Option<&ChildSection>) -> Self {
        let wanted = section.map_or(TfcPadding::OFF, |section| section.tfc_padding);
        if wanted == TfcPadding::OFF || sa.suite.ah {
            return Self::Off;
        }
        if !sa.told().no_tfc_padding {
            return Self::Sent(wanted);
        }
        let (connection, child) = (&*sa.connection, &*sa.child);
        tracing::warn!(
            connection,
            child,
            "the peer takes no TFC padding: none is sent"
        );
        Self::Refused
    }

    /// Octets of an inner packet with it.
    fn octets(self) -> u16 {
        match self {
            Self::Sent(octets) => octets.0,
            Self::Off | Self::Refused => 0,
        }
    }
}

/// What the outbound SA is installed by.
struct How {
    level: OffloadLevel,
    lifetimes: Lifetimes,
    keys: ChildKeys,
    selectors: Selectors,
}

impl Installer {
    pub(crate) fn new(failover: Failover, plane: Plane, streams: Streams) -> Self {
        Self {
            failover,
            plane,
            streams,
            children: HashMap::new(),
            handles: Vec::new(),
            reserved: HashSet::new(),
            leaving: Vec::new(),
            unsent: 0,
        }
    }

    /// Keeps an inbound SPI for somebody else, or lets it go.
    pub(crate) fn reserve_spi(&mut self, spi: u32, taken: bool) {
        if taken {
            self.reserved.insert(spi);
        } else {
            self.reserved.remove(&spi);
        }
    }

    /// Whether a negotiated SA has an inbound SPI.
    pub(crate) fn has_spi(&self, spi: u32) -> bool {
        let mut children = self.children.values();
        children.any(|installed| installed.sa.spi_in == spi)
    }

    /// Installs the inbound SA; when this returns packets of it are taken.
    pub(crate) fn inbound(
        &mut self,
        KeyedChild {
            sa,
            keys_in,
            keys_out,
        }: KeyedChild,
        settings: Option<Arc<ChildSection>>,
        interface: InterfaceId,
    ) -> Result<(), InstallError> {
        let section = settings.as_deref();
        if sa.transport && self.plane.is_inline() {
            let what = "transport mode";
            let error =
                "an inline card's host port is not where this host's own packets pass".to_owned();
            return Err(DeviceError::Host { what, error }.into());
        }
        if sa.path.stream.is_some() && self.plane.is_inline() {
            let what = "ESP in TCP";
            let error = "an inline card has no TCP: it takes the data plane in software".to_owned();
            return Err(DeviceError::Host { what, error }.into());
        }
        // Asked once, and not of each of the very many that there may be.
        let could = could_have_neighbours(&sa);
        let mut others = self.children.values();
        if could && others.any(|installed| is_neighbour(&installed.sa, &sa)) {
            let what = "transport mode";
            let error = "another host behind the same NAT has it already, and packets to the two could not be \
                         told apart (RFC 3948 §5.2): use tunnels".to_owned();
            return Err(DeviceError::Host { what, error }.into());
        }
        let padding = Padding::of(&sa, section);
        if padding.octets() != 0 && self.plane.is_inline() {
            let what = "TFC padding";
            let error =
                "an inline card seals packets as they are: it takes tfc_padding = 0, or the data \
                         plane in software"
                    .to_owned();
            return Err(DeviceError::Host { what, error }.into());
        }
        if self.reserved.contains(&sa.spi_in) {
            let error = format!("SPI {:08x} is that of an SA with manual keys", sa.spi_in);
            let what = "choosing an SPI";
            return Err(DeviceError::Host { what, error }.into());
        }
        let level = section.map_or(OffloadLevel::Auto, |s| s.hw_offload.into());
        let level = match level {
            // Packets pass nobody who could fall back.
            OffloadLevel::Auto if self.plane.is_inline() => OffloadLevel::Packet,
            level => level,
        };
        let lifetimes = section.map_or_else(Lifetimes::default, lifetimes);
        let lifetimes = within(lifetimes, sa.told().life_bytes);
        let window = section.map_or(1024, |s| s.replay_window);
        let ends = (Direction::Inbound, &keys_in);
        let mut params = params(&sa, ends, lifetimes, window)?;
        let path = outer(sa.path.remote, sa.path.local, sa.udp_encap);
        params.outer = self.outer_of(&sa, path);
        let handle = self.failover.install_at(level, &params, label(&sa, path))?;
        let selectors = pairs(&sa.ts_local, &sa.ts_remote);
        let added = self.plane.add_inbound(&InboundSa {
            spi: params.spi,
            sa: handle,
            selectors: selectors.clone(),
            remote: sa.path.remote,
            transport: sa.transport.then(|| sa.path.local.ip()),
            original: sa.told().original,
            child: sa.id.0,
            interface,
        });
        self.led(handle, added)?;
        let installed = Installed {
            how: Some(Box::new(How {
                level,
                lifetimes,
                keys: keys_out,
                selectors,
            })),
            section: settings,
            padding,
            interface,
            inbound: handle,
            outbound: None,
            sa,
        };
        self.belongs(handle, installed.sa.id);
        self.children.insert(installed.sa.id, Box::new(installed));
        Ok(())
    }

    /// Installs the outbound SA and sends through it from now on.
    pub(crate) fn outbound(&mut self, child: ChildId) -> Result<(), InstallError> {
        let Some(installed) = self.children.get_mut(&child) else {
            return Ok(());
        };
        let Some(how) = installed.how.as_deref() else {
            return Ok(());
        };
        let sa = &installed.sa;
        let ends = (Direction::Outbound, &how.keys);
        let mut params = params(sa, ends, how.lifetimes, 0)?;
        let path = outer(sa.path.local, sa.path.remote, sa.udp_encap);
        params.outer = (self.plane.is_inline() || sa.suite.ah).then_some(path);
        params.tfc_padding = installed.padding.octets() != 0;
        let handle = self
            .failover
            .install_at(how.level, &params, label(sa, path))?;
        let added = self.plane.add_outbound(&OutboundSa {
            spi: params.spi,
            sa: handle,
            selectors: how.selectors.clone(),
            way: way(&self.streams, sa, params.suite),
            tfc_padding: installed.padding.octets(),
            child: child.0,
            share: share(sa),
            interface: installed.interface,
        });
        if let Err(error) = added {
            let _ = self.failover.retire(handle);
            return Err(not_led(&error));
        }
        (installed.outbound, installed.how) = (Some(handle), None);
        self.belongs(handle, child);
        Ok(())
    }

    /// The peer of a child or we have moved: packets go there from now on, and the SA cache says so.
    /// A NAT may have come in between, or gone: `udp` says it where that is known.
    pub(crate) fn move_child(&mut self, child: ChildId, path: Path, udp: Option<bool>) {
        let Some(installed) = self.children.get_mut(&child) else {
            return;
        };
        let (local, remote) = (path.local, path.remote);
        let udp = udp.unwrap_or(installed.sa.udp_encap);
        if udp && installed.sa.suite.ah {
            tracing::warn!(
                child = child.0,
                "a NAT has come in between, and AH does not pass it"
            );
        }
        let udp = udp && !installed.sa.suite.ah;
        let sa = Arc::make_mut(&mut installed.sa);
        (sa.udp_encap, sa.path) = (udp, path);
        if let Ok(suite) = suite(&installed.sa.suite) {
            let way = way(&self.streams, &installed.sa, suite);
            self.plane.update_path(child.0, &way);
        }
        if self.plane.is_inline() {
            // The SA itself has its outer headers and was told.
            return;
        }
        let inbound = (installed.inbound, outer(remote, local, udp));
        let outbound = installed.outbound.map(|sa| (sa, outer(local, remote, udp)));
        let ah = installed.sa.suite.ah;
        for (sa, path) in outbound.into_iter().chain([inbound]) {
            let _ = match ah {
                true => self.failover.amend(sa, &Amend::Outer(path)),
                false => self.failover.note_path(sa, &path),
            };
        }
    }

    /// Leaves out so many numbers of what is sent through a child (RFC 6311 §6.4).
    pub(crate) fn advance(&self, child: ChildId, by: u64) -> Result<(), SaError> {
        let outbound = self.children.get(&child).and_then(|child| child.outbound);
        match outbound.zip(NonZeroU64::new(by)) {
            Some((outbound, by)) => self.failover.skip(outbound, by),
            // Nothing was sent through it yet.
            None => Ok(()),
        }
    }

    /// Who writes the outer headers: the engine in inline mode, and of AH, whose ICV covers them; else
    /// a socket.
    fn outer_of(&self, sa: &ChildSa, path: OuterHeaders) -> Option<OuterHeaders> {
        (self.plane.is_inline() || sa.suite.ah).then_some(path)
    }

    /// Takes an SA back that the data plane could not be led through.
    fn led(&self, handle: SaHandle, added: Result<(), SaError>) -> Result<(), InstallError> {
        added.map_err(|error| {
            let _ = self.failover.retire(handle);
            not_led(&error)
        })
    }

    /// Stops sending at once and receiving a moment later; what it was.
    pub(crate) fn retire(&mut self, child: ChildId) -> Option<Arc<ChildSa>> {
        let installed = self.children.remove(&child)?;
        for handle in [Some(installed.inbound), installed.outbound] {
            let place = handle.and_then(|handle| self.handles.get_mut(handle.index as usize));
            place.and_then(Option::take);
        }
        let now = Instant::now();
        let handles = (installed.inbound, installed.outbound);
        let mut leaving = Leaving::new(&self.plane, &installed.sa, handles, now);
        if leaving.goes_on(&self.plane, &self.failover, now) {
            self.leaving.push(leaving);
            self.unsent += 1;
        }
        Some(installed.sa)
    }

    /// Waits until the last packets of what was retired are on the wire, or a moment.
    pub(crate) async fn last_packets_sent(&mut self) {
        let before = self.leaving.len().saturating_sub(self.unsent);
        self.unsent = 0;
        leaving::sent(self.leaving.get(before..).unwrap_or_default()).await;
    }

    /// A child's SAs in the engines, in and out.
    pub(crate) fn handles(&self, child: ChildId) -> (Option<SaHandle>, Option<SaHandle>) {
        let installed = self.children.get(&child);
        (
            installed.map(|installed| installed.inbound),
            installed.and_then(|installed| installed.outbound),
        )
    }

    /// Where a child's packets in the clear come from and go to.
    pub(crate) fn interface(&self, child: ChildId) -> InterfaceId {
        let installed = self.children.get(&child);
        installed.map_or(InterfaceId::MAIN, |installed| installed.interface)
    }

    /// Goes on with those that are retired.
    pub(crate) fn tick(&mut self, now: Instant) {
        let (plane, failover) = (&self.plane, &self.failover);
        self.leaving
            .retain_mut(|leaving| leaving.goes_on(plane, failover, now));
    }

    /// Where a child's SAs live: outbound if there is one, else inbound.
    pub(crate) fn placement(&self, child: ChildId) -> Option<Placement> {
        let installed = self.children.get(&child)?;
        let handle = installed.outbound.unwrap_or(installed.inbound);
        self.failover.placement(handle).ok()
    }

    /// The child that an engine's handle belongs to.
    pub(crate) fn child_of(&self, handle: SaHandle) -> Option<ChildId> {
        let known = self.handles.get(handle.index as usize).copied().flatten();
        let child = ChildId(known?.get());
        // Its place may have been another's before.
        let installed = self.children.get(&child)?;
        let is_its = installed.inbound == handle || installed.outbound == Some(handle);
        is_its.then_some(child)
    }

    /// A handle is a child's from now on.
    fn belongs(&mut self, handle: SaHandle, child: ChildId) {
        let index = handle.index as usize;
        if index >= self.handles.len() {
            self.handles.resize(index + 1, None);
        }
        if let Some(place) = self.handles.get_mut(index) {
            *place = NonZeroU64::new(child.0);
        }
    }

    /// Whether a handle is a child SA's inbound one.
    pub(crate) fn is_inbound(&self, handle: SaHandle) -> bool {
        let child = self.child_of(handle);
        let child = child.and_then(|child| self.children.get(&child));
        child.is_some_and(|child| child.inbound == handle)
    }

    /// What becomes of a child's TFC padding.
    pub(crate) fn padding(&self, child: ChildId) -> Padding {
        let installed = self.children.get(&child);
        installed.map_or(Padding::Off, |installed| installed.padding)
    }

    /// Age at which a child stops.
    pub(crate) fn life_time(&self, child: ChildId) -> Option<Duration> {
        self.children.get(&child)?.section.as_ref()?.life_time()
    }

    /// What the SAs were installed by that a new one takes over from.
    pub(crate) fn section_before(&self, new: &ChildSa) -> Option<Arc<ChildSection>> {
        let replaced = new.replaces.and_then(|old| self.children.get(&old));
        // One that is authenticated anew names none.
        let same = |sa: &ChildSa| sa.connection == new.connection && sa.child == new.child;
        let alike = || self.children.values().find(|installed| same(&installed.sa));
        replaced.or_else(alike)?.section.clone()
    }

    /// A child as it is installed.
    pub(crate) fn child(&self, child: ChildId) -> Option<&ChildSa> {
        self.children.get(&child).map(|installed| &*installed.sa)
    }
}

/// What the SA cache calls a child's SAs: a later process knows by it what to set up again.
pub(crate) fn name(connection: &str, child: &str) -> SaName {
    SaName::new(&format!("{connection}/{child}"))
}

/// How a child's packets get to its peer.
fn way(streams: &Streams, sa: &ChildSa, suite: Suite) -> Way {
    let stream = sa.path.stream;
    Way {
        path: (sa.path.local, sa.path.remote),
        encapsulation: match sa.suite.ah {
            true => Encapsulation::Ah,
            false if sa.transport && sa.udp_encap => Encapsulation::UdpTransport,
            false if sa.transport => Encapsulation::Transport,
            false if stream.is_some() => Encapsulation::Tcp,
            false if sa.udp_encap => Encapsulation::Udp,
            false => Encapsulation::Native,
        },
        overhead: match sa.transport {
            true => Overhead::of_transport(suite, sa.udp_encap),
            false => Overhead::of(suite, sa.udp_encap),
        },
        stream: stream.and_then(|stream| streams.get(stream)),
    }
}

/// What the SA cache says of an SA besides its parameters.
fn label(sa: &ChildSa, path: OuterHeaders) -> SaLabel {
    SaLabel {
        owner: sa.id.0,
        name: name(&sa.connection, &sa.child),
        path: Some(path),
    }
}

/// Which of several SAs for the same traffic it is.
fn share(sa: &ChildSa) -> Option<Share> {
    let mut hasher = DefaultHasher::new();
    (&sa.connection, &sa.child, &sa.ts_local, &sa.ts_remote).hash(&mut hasher);
    let group = hasher.finish();
    sa.resource.map(|worker| Share { group, worker })
}

fn not_led(error: &SaError) -> InstallError {
    DeviceError::Host {
        what: "leading packets through the accelerator",
        error: error.to_string(),
    }
    .into()
}
