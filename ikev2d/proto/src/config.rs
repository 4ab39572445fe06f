// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Policy: connections, their children, identities and secrets.

mod grown;
mod identity;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::credential::{Signer, Verifier};
use crate::eap::{ClientConfig, ServerConfig};
use crate::proposal::Proposal;
use crate::ts::TrafficSelector;
use crate::xauth::Xauth;

pub use grown::Grown;
pub use identity::{ID_KEY_ID, Identity};

/// Settings of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Retransmissions before a peer is given up.
    pub retransmit_tries: u32,
    /// Time before the first one.
    pub retransmit_timeout: Duration,
    /// What each further wait is multiplied by.
    pub retransmit_base: f64,
    /// Half-open IKE SAs from which cookies are asked for (RFC 7296 §2.6).
    pub cookie_threshold: usize,
    /// Half-open IKE SAs, at most.
    pub half_open_limit: usize,
    /// Half-open IKE SAs of one address, from which cookies are asked for; twice as many, at most.
    pub half_open_per_address: usize,
    /// How long a half-open IKE SA may live.
    pub half_open_timeout: Duration,
    /// Puzzles that are set (RFC 8019).
    pub puzzles: Puzzles,
    /// Puzzles that are solved.
    pub puzzle_solving: PuzzleSolving,
    /// Between NAT keepalives (RFC 3948 §4).
    pub nat_keepalive: Duration,
    /// UDP port of IKE.
    pub ike_port: u16,
    /// UDP port of ESP and IKE behind a NAT.
    pub nat_port: u16,
    /// Octets of the largest IP datagram that a message is sent in; longer ones go in fragments
    /// (RFC 7383). Smaller ones are tried when nobody answers. 1280 if not said.
    pub fragment_size: Option<usize>,
    /// Share of a wait before a retransmission by which it is shortened at random.
    pub retransmit_jitter: f64,
    /// Emit [`crate::event::Event::IkeKeys`].
    pub key_log: bool,
    /// What we are, for authenticated peers that ask (RFC 7296 §2.20); it may be empty.
    pub application_version: String,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            retransmit_tries: 5,
            retransmit_timeout: Duration::from_secs(4),
            retransmit_base: 1.8,
            cookie_threshold: 30,
            half_open_limit: 5000,
            half_open_per_address: 16,
            half_open_timeout: Duration::from_secs(30),
            puzzles: Puzzles::default(),
            puzzle_solving: PuzzleSolving::default(),
            nat_keepalive: Duration::from_secs(20),
            ike_port: 500,
            nat_port: 4500,
            fragment_size: None,
            retransmit_jitter: 0.1,
            key_log: false,
            application_version: String::new(),
        }
    }
}

/// Puzzles for peers that want to begin (RFC 8019 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Puzzles {
    /// Half-open IKE SAs from which they are set; none are by default.
    pub threshold: Option<usize>,
    /// Zero bits at that threshold; one more each time that there are twice as many half-open IKE SAs.
    pub difficulty: u8,
    /// Zero bits, at most.
    pub hardest: u8,
    /// One in so many messages that come with a cookie, but solve nothing, gets in (§7.1.4); 0 is none.
    pub legacy: u16,
}

impl Default for Puzzles {
    fn default() -> Self {
        Self {
            threshold: None,
            difficulty: 12,
            hardest: 20,
            legacy: 4,
        }
    }
}

/// Puzzles that peers set (RFC 8019 §7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuzzleSolving {
    /// Zero bits, at most; 0 solves none.
    pub difficulty: u8,
    /// How long it may take. Then we go on without a solution.
    pub time: Duration,
}

impl Default for PuzzleSolving {
    fn default() -> Self {
        Self {
            difficulty: 20,
            time: Duration::from_secs(20),
        }
    }
}

/// How to talk to a peer.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Which versions of IKE it speaks. There is no falling back from one to the other.
    pub version: Version,
    /// What concerns IKEv1 alone.
    pub ikev1: Ikev1,
    /// Our addresses; empty is any.
    pub local_addrs: Vec<AddressPattern>,
    /// The peer's addresses; empty is any.
    pub remote_addrs: Vec<AddressPattern>,
    /// The peer's port.
    pub remote_port: u16,
    /// Who we are.
    pub local_id: Identity,
    /// Who the peer must be.
    pub remote_id: Identity,
    /// How we prove who we are.
    pub local_auth: LocalAuth,
    /// How the peer must.
    pub remote_auth: RemoteAuth,
    /// When our certificates are sent.
    pub send_cert: SendCert,
    /// IKE proposals, best first.
    pub proposals: Vec<Proposal>,
    /// Force UDP encapsulation, as behind a NAT.
    pub encap: bool,
    /// Offer and accept fragments (RFC 7383).
    pub fragmentation: bool,
    /// TCP in place of UDP (RFC 9329).
    pub tcp: Tcp,
    /// The peer's port of TCP.
    pub tcp_port: u16,
    /// Silence after which the peer is asked whether it lives.
    pub dpd_delay: Option<Duration>,
    /// Age at which the IKE SA is rekeyed.
    pub rekey_time: Option<Duration>,
    /// Up to how much earlier it is rekeyed or reauthenticated, at random; a tenth if not said.
    pub rand_time: Option<Duration>,
    /// Age at which the IKE SA is reauthenticated: replaced by a new one, with new children.
    pub reauth_time: Option<Duration>,
    /// Every how many rekeyings it is reauthenticated instead; 0 is never.
    pub reauth_frequency: u32,
    /// What becomes of other IKE SAs with the same peer.
    pub unique: Unique,
    /// Whether IKE SAs are set up without a child (RFC 6023).
    pub childless: Childless,
    /// Move to other addresses with the SAs (RFC 4555).
    pub mobike: bool,
    /// Go to another gateway when the peer says so (RFC 5685).
    pub follow_redirects: bool,
    /// Let a cluster's member that takes over synchronise Message IDs and counters (RFC 6311).
    pub message_id_sync: bool,
    /// Where peers are sent that can be.
    pub redirect: Option<Redirect>,
    /// Addresses that the peer is asked for; unspecified ones are any of their family.
    pub vips: Vec<IpAddr>,
    /// Pools that peers get addresses from.
    pub pools: Vec<String>,
    /// Which postquantum preshared key is mixed in (RFC 8784); to a responder, which may be.
    pub ppk_id: Option<Identity>,
    /// Whether it must be.
    pub ppk_required: bool,
    /// Further time after which it is deleted if it could not be.
    pub over_time: Duration,
    /// Child SAs.
    pub children: Vec<ChildConfig>,
    /// For how long an IKE SA may be resumed without a key exchange (RFC 5723); nothing is never.
    pub resumption: Option<Duration>,
}

impl Default for Connection {
    /// Anybody, by preshared keys, with today's proposals and no children.
    fn default() -> Self {
        Self {
            name: String::new(),
            version: Version::default(),
            ikev1: Ikev1::default(),
            local_addrs: Vec::new(),
            remote_addrs: Vec::new(),
            remote_port: 500,
            local_id: Identity::Any,
            remote_id: Identity::Any,
            local_auth: LocalAuth::default(),
            remote_auth: RemoteAuth::default(),
            send_cert: SendCert::default(),
            proposals: Proposal::ike_default(),
            encap: false,
            fragmentation: true,
            tcp: Tcp::Off,
            tcp_port: 4500,
            dpd_delay: None,
            rekey_time: None,
            rand_time: None,
            reauth_time: None,
            reauth_frequency: 0,
            unique: Unique::default(),
            childless: Childless::default(),
            mobike: false,
            follow_redirects: false,
            message_id_sync: true,
            redirect: None,
            vips: Vec::new(),
            pools: Vec::new(),
            ppk_id: None,
            ppk_required: false,
            over_time: Duration::ZERO,
            children: Vec::new(),
            resumption: None,
        }
    }
}

/// Whether IKE and ESP may go by TCP (RFC 9329); by whatever way a peer comes that may, we answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tcp {
    /// By UDP alone.
    #[default]
    Off,
    /// Where UDP gets no answer.
    Fallback,
    /// By TCP alone.
    Always,
}

/// Where peers are sent (RFC 5685).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The other gateway.
    pub gateway: IpAddr,
    /// Only when we know who they are: in IKE_AUTH, not in IKE_SA_INIT.
    pub authenticated: bool,
}

/// Which versions of IKE a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// IKEv1 alone.
    V1,
    /// IKEv2 alone.
    #[default]
    V2,
    /// Either, as the peer begins; we begin with IKEv2.
    Either,
}

impl Version {
    /// Whether IKEv1 is spoken.
    pub fn has_v1(self) -> bool {
        self != Self::V2
    }

    /// Whether IKEv2 is.
    pub fn has_v2(self) -> bool {
        self != Self::V1
    }
}

/// What a connection has for IKEv1 alone.
#[derive(Clone, Debug, Default)]
pub struct Ikev1 {
    /// Aggressive mode (RFC 2409 §5.4): identities go in the clear.
    pub aggressive: bool,
    /// Answer aggressive mode with a preshared key, which whoever asks can then guess at offline.
    pub aggressive_psk: bool,
    /// Our part of XAUTH, behind phase 1.
    pub xauth: Option<Xauth>,
    /// Addresses are given without being asked for (draft-dukes-ike-mode-cfg-02 §3.2: CFG_SET); otherwise
    /// whoever wants one asks.
    pub push: bool,
    /// Where we answer, the peer is not to use a child SA before we have said that it is there
    /// (RFC 2408 §3.1: the commit bit).
    pub commit: bool,
}

/// What a child has for IKEv1 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ikev1Child {
    /// Octets after which it stops: told to the peer in kilobytes.
    pub life_bytes: Option<u64>,
    /// Whether replayed packets are refused: told to the peer.
    pub replay: bool,
}

/// What becomes of other IKE SAs between the same two identities (RFC 7296 §2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unique {
    /// They stay, unless the peer says that it knows of no others.
    #[default]
    No,
    /// They stay, whatever the peer says.
    Never,
    /// The new one replaces them.
    Replace,
    /// The new one is refused.
    Keep,
}

/// Whether IKE SAs are set up without a child (RFC 6023).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Childless {
    /// By the peer.
    #[default]
    Allow,
    /// By us too, where the peer can.
    Prefer,
    /// Never otherwise.
    Force,
    /// Not at all.
    Never,
}

/// How we prove who we are (RFC 7296 §2.15); the two ends may differ.
#[derive(Clone, Debug, Default)]
pub enum LocalAuth {
    /// By the preshared key that fits.
    #[default]
    SharedKey,
    /// By a private key.
    PublicKey(Arc<dyn Signer>),
    /// By EAP, as an initiator (§2.16); the responder proves itself otherwise, and first.
    Eap(ClientConfig),
}

/// How the peer must prove who it is.
#[derive(Clone, Debug, Default)]
pub enum RemoteAuth {
    /// By the preshared key that fits.
    #[default]
    SharedKey,
    /// By a key that this believes in.
    PublicKey(Arc<dyn Verifier>),
    /// By EAP, if it begins (§2.16).
    Eap(ServerConfig),
}

/// When our certificates are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendCert {
    /// When the peer asks for them.
    #[default]
    IfAsked,
    /// Always.
    Always,
    /// Never: the peer has them.
    Never,
}

/// A child SA's policy.
#[derive(Clone, Debug)]
pub struct ChildConfig {
    /// Its name.
    pub name: String,
    /// Our side's traffic.
    pub local_ts: Vec<SelectorConfig>,
    /// The peer's side's traffic.
    pub remote_ts: Vec<SelectorConfig>,
    /// ESP and AH proposals, best first.
    pub esp_proposals: Vec<Proposal>,
    /// Transport mode, if the peer agrees.
    pub transport: bool,
    /// Age at which it is rekeyed.
    pub rekey_time: Option<Duration>,
    /// Up to how much earlier, at random; a tenth if not said.
    pub rand_time: Option<Duration>,
    /// How many child SAs carry its traffic.
    pub resources: Resources,
    /// What concerns IKEv1 alone.
    pub ikev1: Ikev1Child,
}

/// Child SAs for the same traffic, each with a resource of its own, such as a core (RFC 9611).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// How many we set up.
    pub own: u16,
    /// How many we take, whoever asks for them; with one the peer is not told that there may be more.
    pub most: u16,
}

impl Default for Resources {
    fn default() -> Self {
        Self { own: 1, most: 1 }
    }
}

/// A configured traffic selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SelectorConfig {
    /// The IKE SA's own address on that side, or those that it was given.
    Dynamic,
    /// These.
    Fixed(TrafficSelector),
}

impl SelectorConfig {
    /// What all of them are, where one end's own address is known.
    pub fn resolve(all: &[Self], own: IpAddr) -> Vec<TrafficSelector> {
        Self::resolve_by(all, &[TrafficSelector::host(own)])
    }

    /// The same, where these are one end's.
    pub fn resolve_by(all: &[Self], own: &[TrafficSelector]) -> Vec<TrafficSelector> {
        let resolved = all.iter().flat_map(|selector| match selector {
            Self::Dynamic => own,
            Self::Fixed(ts) => std::slice::from_ref(ts),
        });
        resolved.copied().collect()
    }
}

/// Addresses that fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPattern {
    /// Any.
    Any,
    /// A prefix.
    Prefix(IpAddr, u8),
}

impl AddressPattern {
    /// Whether an address fits.
    pub fn matches(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(base, bits) => {
                let range = TrafficSelector::prefix(*base, *bits);
                base.is_ipv4() == address.is_ipv4() && (range.start..=range.end).contains(&address)
            }
        }
    }

    /// The one address it stands for, if it does.
    pub fn single(&self) -> Option<IpAddr> {
        match self {
            Self::Prefix(base, bits) if *bits == if base.is_ipv4() { 32 } else { 128 } => {
                Some(*base)
            }
            _ => None,
        }
    }
}

/// A preshared key and whose it is; nobody named is everybody's.
#[derive(Clone)]
pub struct Secret {
    /// Owners.
    pub ids: Vec<Identity>,
    /// The key.
    pub secret: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.ids)
    }
}

/// The secret that fits two identities best: both named, then one, then nobody.
pub fn find_secret<'a>(
    secrets: &'a [Secret],
    local: &Identity,
    remote: &Identity,
) -> Option<&'a Secret> {
    let score = |secret: &Secret| {
        let names = |id: &Identity| {
            secret
                .ids
                .iter()
                .any(|owner| owner != &Identity::Any && owner.matches(id))
        };
        match (secret.ids.is_empty(), names(local), names(remote)) {
            (_, true, true) => Some(3),
            (_, false, true) => Some(2),
            (_, true, false) => Some(1),
            (true, ..) => Some(0),
            _ => secret.ids.contains(&Identity::Any).then_some(0),
        }
    };
    secrets
        .iter()
        .filter_map(|secret| Some((score(secret)?, secret)))
        .max_by_key(|(s, _)| *s)
        .map(|(_, s)| s)
}
