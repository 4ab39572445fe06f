// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one translator from IKE's child SAs to security associations of the engines.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::algorithm::{Encryption, Integrity};
use ikev2d_proto::event::{ChildId, ChildKeys, ChildSa, KeyedChild, Path};
use ikev2d_proto::proposal::EspSuite;
use ikev2d_proto::ts;
use offload_api::cache::{SaLabel, SaName};
use offload_api::device::Accelerator;
use offload_api::error::{DeviceError, InstallError, InvalidSa, SaError};
use offload_api::failover::{Failover, OffloadLevel, Placement};
use offload_api::sa::{
    self, Amend, Direction, KeyMaterial, Lifetimes, Limits, Mode, Numbering, OuterHeaders,
    SaHandle, SaParams, Spi, Suite, TrafficSelector,
};

use crate::config::{ChildSection, TfcPadding};
use crate::dataplane::{
    Encapsulation, InboundSa, InterfaceId, OutboundSa, Overhead, Selectors, Share, Way,
};
use crate::inline::outer;
use crate::plane::{Plane, Removed};
use crate::streams::Streams;

/// How long a removed SA still takes packets that are on their way.
const LINGER: Duration = Duration::from_secs(1);
/// How long packets inside the data plane may take to leave an SA that is to be retired.
const DRAIN: Duration = Duration::from_secs(5);
/// Between looks at that.
const DRAIN_TICK: Duration = Duration::from_millis(2);

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
}

/// A child that is retired: first nothing is sent through it any more, then it takes late packets for
/// a moment, then nothing is received through it.
struct Leaving {
    sending: Drain,
    outbound: Option<SaHandle>,
    inbound: SaHandle,
    spi: Option<Spi>,
    /// Until when it takes what is on its way.
    until: Option<Instant>,
    receiving: Option<Drain>,
}

/// An entry that was taken out of the policy and that packets may still use.
struct Drain {
    removed: Removed,
    since: Instant,
}

impl Drain {
    /// Whether no packet uses it any more, or it has been waited for long enough.
    fn is_over(&self, now: Instant) -> bool {
        if self.removed.is_drained() {
            return true;
        }
        let stuck = now.saturating_duration_since(self.since) > DRAIN;
        if stuck {
            tracing::warn!("packets of a removed SA are stuck; it is retired under them");
        }
        stuck
    }
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
        let mut leaving = Leaving {
            sending: Drain {
                removed: self.plane.remove_outbound(child.0),
                since: now,
            },
            outbound: installed.outbound,
            inbound: installed.inbound,
            spi: Spi::new(installed.sa.spi_in),
            until: None,
            receiving: None,
        };
        if self.goes_on_leaving(&mut leaving, now) {
            self.leaving.push(leaving);
        }
        Some(installed.sa)
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
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain_mut(|leaving| self.goes_on_leaving(leaving, now));
        self.leaving = leaving;
    }

    /// Goes on with one; whether there is more to do.
    fn goes_on_leaving(&self, leaving: &mut Leaving, now: Instant) -> bool {
        let Some(until) = leaving.until else {
            if leaving.sending.is_over(now) {
                if let Some(outbound) = leaving.outbound {
                    let _ = self.failover.retire(outbound);
                }
                leaving.sending.removed = Removed::Nothing;
                leaving.until = Some(now + LINGER);
            }
            return true;
        };
        if now < until {
            return true;
        }
        let (plane, spi) = (&self.plane, leaving.spi);
        let receiving = leaving.receiving.get_or_insert_with(|| Drain {
            removed: spi.map_or(Removed::Nothing, |spi| plane.remove_inbound(spi)),
            since: now,
        });
        if !receiving.is_over(now) {
            return true;
        }
        let _ = self.failover.retire(leaving.inbound);
        false
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

/// Waits until no packet uses an entry that was taken out of the policy.
pub(crate) async fn drained(removed: Removed) {
    let start = tokio::time::Instant::now();
    while !removed.is_drained() {
        if start.elapsed() > DRAIN {
            tracing::warn!("packets of a removed SA are stuck; it is retired under them");
            return;
        }
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

/// Whether an SA's peer has said that it is behind a NAT, where transport mode may be ambiguous.
fn could_have_neighbours(sa: &ChildSa) -> bool {
    sa.transport && sa.told().original.is_some()
}

/// Whether another peer behind the same NAT has transport mode for traffic that a new one's might be.
fn is_neighbour(sa: &ChildSa, new: &ChildSa) -> bool {
    let meets = |a: &[ts::TrafficSelector], b: &[ts::TrafficSelector]| {
        a.iter().any(|a| b.iter().any(|b| a.intersect(b).is_some()))
    };
    let (one, other) = (sa.path.remote, new.path.remote);
    sa.transport
        && could_have_neighbours(new)
        && one.ip() == other.ip()
        && one.port() != other.port()
        && meets(&sa.ts_local, &new.ts_local)
        && meets(&sa.ts_remote, &new.ts_remote)
}

fn lifetimes(section: &ChildSection) -> Lifetimes {
    let limit = |value: u64| (value != 0).then_some(value);
    // So that not all SAs of a gateway are rekeyed at once; the hasher's keys are random enough for that.
    let earlier = |value: u64, spread: u64| {
        let random = RandomState::new().build_hasher().finish();
        let by = random % spread.saturating_add(1).max(1);
        limit(value).map(|value| value.saturating_sub(by).max(1))
    };
    // Time is the core's: it rekeys by its own clock.
    Lifetimes {
        soft: Limits {
            bytes: earlier(section.rekey_bytes, section.rand_bytes),
            packets: earlier(section.rekey_packets, section.rand_packets),
            time: None,
        },
        hard: Limits {
            bytes: limit(section.life_bytes),
            packets: limit(section.life_packets),
            time: section.life_time(),
        },
    }
}

/// A peer that lets an SA go after so many octets has it rekeyed before.
fn within(mut lifetimes: Lifetimes, peers: Option<u64>) -> Lifetimes {
    let Some(bytes) = peers else {
        return lifetimes;
    };
    let least = |own: Option<u64>, bytes: u64| Some(own.map_or(bytes, |own| own.min(bytes)));
    lifetimes.soft.bytes = least(lifetimes.soft.bytes, (bytes - bytes / 10).max(1));
    lifetimes.hard.bytes = least(lifetimes.hard.bytes, bytes.max(1));
    lifetimes
}

/// IKE's algorithms as the engines name them.
pub(crate) fn suite(suite: &EspSuite) -> Result<Suite, InvalidSa> {
    let integrity = match suite.integrity {
        None => sa::Integrity::None,
        Some(Integrity::HmacSha256) => sa::Integrity::HmacSha256,
        Some(Integrity::HmacSha384) => sa::Integrity::HmacSha384,
        Some(Integrity::HmacSha512) => sa::Integrity::HmacSha512,
        Some(Integrity::HmacMd5) => sa::Integrity::HmacMd5,
        Some(Integrity::HmacSha1) => sa::Integrity::HmacSha1,
        Some(Integrity::AesXcbc) => sa::Integrity::AesXcbc,
        Some(Integrity::AesCmac) => sa::Integrity::AesCmac,
        Some(Integrity::Aes128Gmac) => sa::Integrity::Aes128Gmac,
        Some(Integrity::Aes192Gmac) => sa::Integrity::Aes192Gmac,
        Some(Integrity::Aes256Gmac) => sa::Integrity::Aes256Gmac,
    };
    if suite.ah {
        return Suite::ah(integrity);
    }
    let cipher = match suite.encryption {
        Encryption::Des => sa::Cipher::DesCbc,
        Encryption::TripleDes => sa::Cipher::TripleDesCbc,
        Encryption::Null => sa::Cipher::Null,
        Encryption::AesCbc(128) => sa::Cipher::Aes128Cbc,
        Encryption::AesCbc(192) => sa::Cipher::Aes192Cbc,
        Encryption::AesCbc(_) => sa::Cipher::Aes256Cbc,
        Encryption::AesGcm16(128) => sa::Cipher::Aes128Gcm,
        Encryption::AesGcm16(192) => sa::Cipher::Aes192Gcm,
        Encryption::AesGcm16(_) => sa::Cipher::Aes256Gcm,
        Encryption::AesGcm12(128) => sa::Cipher::Aes128Gcm12,
        Encryption::AesGcm12(192) => sa::Cipher::Aes192Gcm12,
        Encryption::AesGcm12(_) => sa::Cipher::Aes256Gcm12,
        Encryption::AesGcm8(128) => sa::Cipher::Aes128Gcm8,
        Encryption::AesGcm8(192) => sa::Cipher::Aes192Gcm8,
        Encryption::AesGcm8(_) => sa::Cipher::Aes256Gcm8,
        Encryption::NullAesGmac(128) => sa::Cipher::Aes128Gmac,
        Encryption::NullAesGmac(192) => sa::Cipher::Aes192Gmac,
        Encryption::NullAesGmac(_) => sa::Cipher::Aes256Gmac,
        Encryption::AesCcm16(128) => sa::Cipher::Aes128Ccm16,
        Encryption::AesCcm16(192) => sa::Cipher::Aes192Ccm16,
        Encryption::AesCcm16(_) => sa::Cipher::Aes256Ccm16,
        Encryption::AesCcm12(128) => sa::Cipher::Aes128Ccm12,
        Encryption::AesCcm12(192) => sa::Cipher::Aes192Ccm12,
        Encryption::AesCcm12(_) => sa::Cipher::Aes256Ccm12,
        Encryption::AesCcm8(128) => sa::Cipher::Aes128Ccm8,
        Encryption::AesCcm8(192) => sa::Cipher::Aes192Ccm8,
        Encryption::AesCcm8(_) => sa::Cipher::Aes256Ccm8,
        Encryption::ChaCha20Poly1305 => sa::Cipher::ChaCha20Poly1305,
    };
    Suite::new(cipher, integrity)
}

fn params(
    child: &ChildSa,
    (direction, keys): (Direction, &ChildKeys),
    lifetimes: Lifetimes,
    replay_window: u32,
) -> Result<SaParams, InvalidSa> {
    let spi = match direction {
        Direction::Inbound => child.spi_in,
        Direction::Outbound => child.spi_out,
    };
    let suite = suite(&child.suite)?;
    Ok(SaParams {
        spi: Spi::new(spi).ok_or(InvalidSa::ReservedSpi { spi })?,
        direction,
        mode: match child.transport {
            true => Mode::Transport,
            false => Mode::Tunnel,
        },
        suite,
        keys: KeyMaterial::from_keymat(suite, &keys.encryption, &keys.integrity)?,
        esn: child.suite.esn,
        replay_window,
        replay_state: None,
        numbering: Numbering::Granted(None),
        // The socket adds the rest.
        outer: None,
        lifetimes,
        tfc_padding: false,
        selectors: Vec::new(),
    })
}

/// Each of our side's selectors with each of the peer's.
pub(crate) fn pairs(from: &[ts::TrafficSelector], to: &[ts::TrafficSelector]) -> Selectors {
    let selector = |ts: &ts::TrafficSelector| TrafficSelector {
        start: ts.start,
        end: ts.end,
        protocol: ts.protocol,
        start_port: ts.start_port,
        end_port: ts.end_port,
    };
    from.iter()
        .flat_map(|from| to.iter().map(move |to| (selector(from), selector(to))))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    /// RFC 3948 §5.2: the second of two hosts behind a NAT gets no transport mode for the same traffic; a new
    /// child SA of the first one does, and so does other traffic.
    #[test]
    fn hosts_behind_a_nat_that_could_not_be_told_apart_are_neighbours() {
        let child = |port: u16, service: u16| {
            let selector = |host: &str| ts::TrafficSelector {
                protocol: 6,
                start_port: service,
                end_port: service,
                ..ts::TrafficSelector::host(host.parse().unwrap())
            };
            ChildSa {
                id: ChildId(1),
                connection: "gw".into(),
                child: "net".into(),
                spi_in: 0x1000,
                spi_out: 0x1001,
                path: Path::new(
                    "192.0.2.1:4500".parse().unwrap(),
                    std::net::SocketAddr::new("198.51.100.7".parse().unwrap(), port),
                ),
                udp_encap: true,
                transport: true,
                suite: EspSuite {
                    ah: false,
                    encryption: Encryption::AesGcm16(128),
                    integrity: None,
                    group: None,
                    esn: false,
                    additional: Default::default(),
                },
                ts_local: Box::new([selector("192.0.2.1")]),
                ts_remote: Box::new([selector("198.51.100.7")]),
                replaces: None,
                resource: None,
                told: Some(Box::new(ikev2d_proto::event::Told {
                    original: Some(("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap())),
                    ..Default::default()
                })),
            }
        };
        let first = child(20_000, 22);
        assert!(is_neighbour(&first, &child(20_001, 22)));
        assert!(!is_neighbour(&first, &child(20_000, 22)));
        assert!(!is_neighbour(&first, &child(20_001, 80)));
        let tunnel = ChildSa {
            transport: false,
            ..child(20_001, 22)
        };
        assert!(!is_neighbour(&first, &tunnel) && !is_neighbour(&tunnel, &first));
        // Nobody looks for neighbours of a tunnel, nor of a peer that is behind no NAT.
        let mut direct = first.clone();
        direct.told = None;
        assert!(could_have_neighbours(&first));
        assert!(!could_have_neighbours(&tunnel) && !could_have_neighbours(&direct));
    }

    /// S20, B53: what an IKEv1 peer has said of kilobytes holds where it is less than ours.
    #[test]
    fn a_peers_lifetime_in_octets_holds_beside_ours() {
        let of = |soft, hard| {
            let mut lifetimes = Lifetimes::default();
            (lifetimes.soft.bytes, lifetimes.hard.bytes) = (soft, hard);
            lifetimes
        };
        for (own, peers, expected) in [
            (of(None, None), None, of(None, None)),
            (of(None, None), Some(1000), of(Some(900), Some(1000))),
            (
                of(Some(500), Some(600)),
                Some(1000),
                of(Some(500), Some(600)),
            ),
            (of(Some(5000), None), Some(1000), of(Some(900), Some(1000))),
        ] {
            assert_eq!(within(own, peers), expected);
        }
    }

    /// A peer that refuses to rekey a child does not keep it for ever.
    #[test]
    fn a_child_stops_a_tenth_after_its_rekeying_unless_it_says_otherwise() {
        for (settings, seconds) in [
            ("", Some(3960)),
            ("rekey_time = \"100s\"", Some(110)),
            ("rekey_time = 0", None),
            ("life_time = \"2h\"", Some(7200)),
            ("life_time = 0", None),
        ] {
            let text = format!(
                "[connections.gw]\nlocal = {{ auth = \"psk\" }}\nremote = {{ auth = \"psk\" }}\n\
                 [connections.gw.children.net]\n{settings}\n"
            );
            let config: Config = text.parse().unwrap();
            let section = &config.connections["gw"].children["net"];
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(lifetimes(section).hard.time, expected, "{settings}");
        }
    }
}
