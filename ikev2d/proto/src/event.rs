// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an endpoint wants done, and what it tells.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use crate::credential::Job;
use crate::proposal::{EspSuite, IkeSuite};
use crate::spi::Spis;
use crate::ts::TrafficSelector;
use crate::wire::configuration::Attribute;

/// Reasons of [`Event::ChildDown`] and [`Event::IkeDown`] that a daemon may act upon.
pub mod reason {
    /// The peer has deleted it.
    pub const DELETED_BY_PEER: &str = "deleted by the peer";
    /// The initiator has not believed our AUTH.
    pub const REFUSED_BY_PEER: &str = "the peer does not believe us (AUTHENTICATION_FAILED)";
    /// Its hard lifetime is over.
    pub const EXPIRED: &str = "its lifetime is over";
    /// Every retransmission went unanswered.
    pub const NO_ANSWER: &str = "the peer does not answer";
}

/// Numbers of IKE SAs, child SAs, installations and jobs, and inbound SPIs; endpoints of both versions that
/// share them give none twice.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    last: Arc<AtomicU64>,
    /// Inbound SPIs of all children.
    pub spis: Spis,
}

impl Numbers {
    /// A number that nobody had before.
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of a new stream.
    pub fn next_stream(&self) -> StreamId {
        // After 2^32 of all kinds the first one's is long free again.
        let number = NonZeroU32::new(self.next() as u32);
        StreamId(number.unwrap_or(NonZeroU32::MIN))
    }
}

/// An IKE SA, for the life of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeId(pub u64);

/// A child SA, for the life of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u64);

/// An installation that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstallId(pub u64);

/// A job that waits for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(pub u64);

/// A TCP connection that carries IKE and ESP (RFC 9329).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub NonZeroU32);

/// Both ends' addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Ours.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// The connection, where it is TCP's and not UDP's.
    pub stream: Option<StreamId>,
}

impl Path {
    /// By UDP.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            local,
            remote,
            stream: None,
        }
    }

    /// As the peer has it.
    #[must_use]
    pub fn turned(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
            stream: self.stream,
        }
    }
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From where to where.
    pub path: Path,
    /// The message, without non-ESP marker.
    pub payload: Vec<u8>,
    /// A NAT keepalive: sent as it is, never with a marker.
    pub keepalive: bool,
}

/// Keys of one direction.
#[derive(Clone)]
pub struct ChildKeys {
    /// Encryption, with an AEAD's salt at the end.
    pub encryption: Zeroizing<Vec<u8>>,
    /// Integrity.
    pub integrity: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ChildKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChildKeys(..)")
    }
}

/// A pair of SAs. The core and whoever installs them share it until one of them changes it.
#[derive(Clone, Debug)]
pub struct ChildSa {
    /// Its number.
    pub id: ChildId,
    /// Its connection.
    pub connection: Arc<str>,
    /// Its child configuration.
    pub child: Arc<str>,
    /// SPI of what comes in.
    pub spi_in: u32,
    /// SPI of what goes out.
    pub spi_out: u32,
    /// Ends of the tunnel; the ports count with `udp_encap`.
    pub path: Path,
    /// ESP in UDP.
    pub udp_encap: bool,
    /// Transport mode.
    pub transport: bool,
    /// Algorithms.
    pub suite: EspSuite,
    /// Our side's traffic.
    pub ts_local: Box<[TrafficSelector]>,
    /// The peer's side's traffic.
    pub ts_remote: Box<[TrafficSelector]>,
    /// The child that it takes over from.
    pub replaces: Option<ChildId>,
    /// Which of our resources it is for, where several carry the same traffic (RFC 9611): 0 is the
    /// first one, which the others' packets take as long as they have none of their own.
    pub resource: Option<u16>,
    /// What the peer has told of it.
    pub told: Option<Box<Told>>,
}

impl ChildSa {
    /// What the peer has told of it.
    pub fn told(&self) -> Told {
        self.told.as_deref().copied().unwrap_or_default()
    }
}

/// A pair of SAs to install, with the keys, which the core keeps no longer.
#[derive(Clone, Debug)]
pub struct KeyedChild {
    /// The SAs.
    pub sa: Arc<ChildSa>,
    /// Keys of what comes in.
    pub keys_in: ChildKeys,
    /// Keys of what goes out.
    pub keys_out: ChildKeys,
}

impl Deref for KeyedChild {
    type Target = ChildSa;

    fn deref(&self) -> &ChildSa {
        &self.sa
    }
}

/// What a peer tells of a child SA beyond the choice of algorithms. An IKEv2 peer tells of padding alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Octets after which it lets the SA go.
    pub life_bytes: Option<u64>,
    /// Whether it refuses replayed packets.
    pub replay: Option<bool>,
    /// In transport mode behind a NAT: the addresses that its packets have when it seals them, its own and
    /// ours (RFC 3947 §5.2). Checksums of what is inside are over them.
    pub original: Option<(IpAddr, IpAddr)>,
    /// It takes no TFC padding (ESP_TFC_PADDING_NOT_SUPPORTED, RFC 7296 §1.3.1), or speaks IKEv1, which has
    /// no word for it.
    pub no_tfc_padding: bool,
}

/// Keys of an IKE SA, for a key log.
#[derive(Clone)]
pub struct IkeKeyLog {
    /// Initiator's SPI.
    pub spi_i: u64,
    /// Responder's SPI.
    pub spi_r: u64,
    /// Algorithms.
    pub suite: IkeSuite,
    /// SK_ei.
    pub sk_ei: Zeroizing<Vec<u8>>,
    /// SK_er.
    pub sk_er: Zeroizing<Vec<u8>>,
    /// SK_ai.
    pub sk_ai: Zeroizing<Vec<u8>>,
    /// SK_ar.
    pub sk_ar: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for IkeKeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IkeKeyLog(..)")
    }
}

/// Key of an ISAKMP SA of IKEv1, for a key log.
#[derive(Clone)]
pub struct Ikev1KeyLog {
    /// The initiator's cookie.
    pub cky_i: u64,
    /// The cipher's key.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Ikev1KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ikev1KeyLog(..)")
    }
}

/// What an endpoint wants done or tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Install the inbound SA, then answer; a response may wait for it.
    InstallInbound {
        /// To be answered.
        install: InstallId,
        /// Both SAs' parameters.
        child: Box<KeyedChild>,
    },
    /// Install the outbound SA and send through it, then answer: what it takes over from goes only then.
    InstallOutbound {
        /// To be answered.
        install: InstallId,
        /// The child whose parameters came with `InstallInbound`.
        child: ChildId,
    },
    /// Leave out so many numbers of what is sent through a child, or rekey it if they don't last (RFC
    /// 6311): none is used twice, and the peer takes none that is lower any more.
    AdvanceOutbound {
        /// The child.
        child: ChildId,
        /// How many.
        by: u64,
    },
    /// Remove both SAs: outbound at once, inbound when packets in flight have come.
    RetireChild {
        /// The child.
        child: ChildId,
    },
    /// Do this elsewhere, then give the result to
    /// [`handle_job`](crate::endpoint::Endpoint::handle_job).
    Job {
        /// To be answered.
        job: JobId,
        /// What to do.
        work: Box<Job>,
    },
    /// Open a TCP connection to the peer (RFC 9329), then tell
    /// [`stream_opened`](crate::endpoint::Endpoint::stream_opened) or
    /// [`stream_closed`](crate::endpoint::Endpoint::stream_closed).
    Connect {
        /// Its number.
        stream: StreamId,
        /// From where.
        local: IpAddr,
        /// Where to.
        remote: SocketAddr,
    },
    /// An IKE SA is established.
    IkeUp {
        /// Which.
        ike: IkeId,
    },
    /// An IKE SA has taken over from another, with its children.
    IkeRekeyed {
        /// The old one.
        old: IkeId,
        /// The new one.
        new: IkeId,
    },
    /// The peer sends us to another gateway (RFC 5685), and we go.
    Redirected {
        /// The IKE SA.
        ike: IkeId,
        /// Where the peer is.
        from: IpAddr,
        /// Where we go.
        to: IpAddr,
    },
    /// An IKE SA is gone.
    IkeDown {
        /// Which.
        ike: IkeId,
        /// Its connection.
        connection: String,
        /// Why.
        reason: String,
    },
    /// A child SA is established.
    ChildUp {
        /// Its IKE SA.
        ike: IkeId,
        /// Which.
        child: ChildId,
    },
    /// A child SA has taken over from another.
    ChildRekeyed {
        /// The old one.
        old: ChildId,
        /// The new one.
        new: ChildId,
    },
    /// A child SA could not be rekeyed: it goes on, and it is tried again.
    RekeyFailed {
        /// Its IKE SA.
        ike: IkeId,
        /// Which.
        child: ChildId,
        /// Why.
        reason: String,
    },
    /// A child SA is gone.
    ChildDown {
        /// Which.
        child: ChildId,
        /// Why.
        reason: String,
    },
    /// An initiation has come to nothing.
    InitiateFailed {
        /// The connection.
        connection: String,
        /// The child, if one was asked for.
        child: Option<String>,
        /// Why.
        reason: String,
    },
    /// Somebody, who may be the peer, refuses what an initiation asks for; it goes on, since nothing
    /// is authenticated yet (RFC 7296 §2.21.1).
    Doubted {
        /// The IKE SA.
        ike: IkeId,
        /// The connection.
        connection: String,
        /// What was said.
        reason: String,
    },
    /// Keys of an IKE SA, when the key log is on.
    IkeKeys(Box<IkeKeyLog>),
    /// The same of IKEv1.
    Ikev1Keys(Box<Ikev1KeyLog>),
    /// The peer has given us addresses (RFC 7296 §3.15): they are ours until `Unconfigured`.
    Configured {
        /// The IKE SA.
        ike: IkeId,
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// DNS servers and the like.
        attributes: Vec<Attribute>,
    },
    /// They are ours no more.
    Unconfigured {
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// What came with them.
        attributes: Vec<Attribute>,
    },
    /// An IKE SA and its children have other addresses or ports from now on.
    PathChanged {
        /// The IKE SA.
        ike: IkeId,
        /// Where it is now.
        path: Path,
        /// ESP in UDP from now on.
        udp_encap: bool,
    },
}

/// What was done about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The SA is installed.
    Installed(InstallId),
    /// It is not.
    Failed {
        /// Which.
        install: InstallId,
        /// Why.
        reason: String,
    },
}
