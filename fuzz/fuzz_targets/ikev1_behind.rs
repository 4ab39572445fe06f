// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a peer of IKEv1 can do that has proved who it is: quick modes, informational exchanges, XAUTH and
//! mode config, made of payloads that fit and of such that don't, amid what an honest peer says, in any
//! order, with losses, repetitions and the passing of time. Every HASH is believed and nothing is encrypted,
//! so that whatever comes reaches the state machine.
//!
//! Nothing panics, no SA is installed for other selectors than the configured ones or under an SPI that is in
//! use, nothing comes out without end, and when all is over nothing is left in the engines.
#![no_main]

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ikev1_proto::endpoint::Endpoint;
use ikev1_proto::suite::{Encapsulation, Life, emit_phase2, phase2};
use ikev1_proto::wire::{Chain, Header, attribute, exchange, identity, notify, payload, sa};
use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::config::{
    AddressPattern, ChildConfig, Connection, EndpointConfig, Identity, Ikev1, Secret,
    SelectorConfig, Version,
};
use ikev2d_proto::crypto::{Crypto, CryptoError, KeyExchange};
use ikev2d_proto::event::{Answer, ChildId, Event, Numbers, Path};
use ikev2d_proto::pool::PoolConfig;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use ikev2d_proto::xauth::Xauth;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(1) };
}

/// Numbers that are the same for the same input.
fn random() -> u64 {
    RANDOM.with(|state| {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x
    })
}

/// So many octets that depend on these.
fn digest(len: usize, parts: &[&[u8]]) -> Vec<u8> {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for octet in parts.iter().copied().flatten() {
        state = (state ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend(state.to_be_bytes());
        state = state.wrapping_mul(0x0100_0000_01b3) ^ (state >> 29);
    }
    out.truncate(len);
    out
}

/// Cryptography that lets everything pass.
struct Open;

struct Exchange(Vec<u8>);

impl KeyExchange for Exchange {
    fn public(&self) -> &[u8] {
        &self.0
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        match peer.len() == self.0.len() {
            true => Ok(Zeroizing::new(vec![7; 32])),
            false => Err(CryptoError),
        }
    }
}

impl Crypto for Open {
    fn random(&self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let octets = random().to_be_bytes();
            chunk.copy_from_slice(&octets[..chunk.len()]);
        }
    }

    fn generate(&self, _: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
        let mut public = vec![0; 64];
        self.random(&mut public);
        Ok(Box::new(Exchange(public)))
    }

    fn prf(&self, _: Prf, key: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let all: Vec<&[u8]> = [&[key], parts].concat();
        Ok(Zeroizing::new(digest(32, &all)))
    }

    fn integrity(&self, _: Integrity, _: &[u8], _: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError)
    }

    fn aead_seal(
        &self,
        _: Encryption,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn aead_open(
        &self,
        _: Encryption,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn cbc(
        &self,
        encryption: Encryption,
        _: bool,
        _: &[u8],
        _: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        match data.len() % encryption.iv_len() {
            0 => Ok(()),
            _ => Err(CryptoError),
        }
    }

    fn hash(&self, _: Prf, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        Ok(digest(32, parts))
    }

    fn sha1(&self, parts: &[&[u8]]) -> [u8; 20] {
        digest(20, parts).try_into().unwrap_or_default()
    }

    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        a.len() == b.len()
    }
}

static CRYPTO: LazyLock<Arc<Open>> = LazyLock::new(|| Arc::new(Open));

/// How the two ends are configured.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Setup {
    aggressive: bool,
    /// The peer, and not the target, begins.
    peer_begins: bool,
    /// The target's part of XAUTH.
    user: Part,
    /// The target's part of mode config.
    address: Part,
    push: bool,
    commit: bool,
    forward_secrecy: bool,
    ah: bool,
    encap: bool,
    /// Several selectors.
    several: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum Part {
    None,
    Gives,
    Takes,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// A message of the fuzzer's.
    Say {
        kind: Kind,
        id: Number,
        commit: bool,
        parts: Vec<Payload>,
    },
    /// A message as it is.
    Raw {
        exchange: u8,
        flags: u8,
        id: Number,
        first: u8,
        octets: Vec<u8>,
    },
    /// What is under way arrives, is lost, or arrives twice.
    Deliver(u8),
    Lose(u8),
    Double(u8),
    /// One of the two does something by itself.
    Do { target: bool, deed: Deed },
    Wait(u16),
    /// Installations at the target are refused from now on, or not.
    Refuse(bool),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Deed {
    Initiate,
    RekeyChild,
    RekeyIke,
    Liveness,
    TerminateChild,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Quick,
    Informational,
    Transaction,
}

/// A message id: one of those that were on the wire, or any.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Seen(u8),
    Other(u32),
}

/// An SPI: one that is installed, the SA's own, or any.
#[derive(Arbitrary, Clone, Debug)]
enum Spi {
    In(u8),
    Out(u8),
    Cookies,
    Other(u32),
    Octets(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Payload {
    /// A HASH that is believed.
    Hash,
    /// What the target would choose.
    Offer { transport: bool, spi: Option<u32> },
    Sa {
        protocol: u8,
        spi: Spi,
        transforms: Vec<(u8, Vec<(u16, u16)>)>,
    },
    Nonce(u8),
    Ke(bool),
    /// Proxy ids of the target's, of either side.
    Proxy { local: bool, which: u8 },
    Id {
        kind: u8,
        protocol: u8,
        port: u16,
        data: Vec<u8>,
    },
    Notify {
        protocol: u8,
        spi: Spi,
        known: u8,
        kind: u16,
        data: Vec<u8>,
    },
    Delete { protocol: u8, spis: Vec<Spi> },
    Attributes {
        kind: u8,
        identifier: u16,
        all: Vec<(u16, Vec<u8>)>,
    },
    Raw { kind: u8, body: Vec<u8> },
}

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    steps: Vec<Step>,
}

const NETS: [[&str; 2]; 2] = [["10.1.0.0", "10.2.0.0"], ["10.3.0.0", "10.4.0.0"]];

fn nets(setup: Setup, side: usize) -> Vec<TrafficSelector> {
    let count = if setup.several { 2 } else { 1 };
    let addresses = NETS.iter().take(count).map(|nets| nets[side]);
    addresses
        .filter_map(|net| Some(TrafficSelector::prefix(net.parse().ok()?, 24)))
        .collect()
}

fn child(setup: Setup, target: bool) -> ChildConfig {
    let fixed = |side| nets(setup, side).into_iter().map(SelectorConfig::Fixed);
    let (own, peer) = if target { (1, 0) } else { (0, 1) };
    let mut proposals = Vec::new();
    if setup.ah {
        proposals.extend(Proposal::parse_ah("sha256").ok());
    }
    let esp = match setup.forward_secrecy {
        true => "aes128-sha256-ecp256",
        false => "aes128-sha256",
    };
    proposals.extend(Proposal::parse_esp(esp).ok());
    ChildConfig {
        name: "net".to_owned(),
        local_ts: fixed(own).collect(),
        remote_ts: fixed(peer).collect(),
        esp_proposals: proposals,
        transport: false,
        rekey_time: Some(Duration::from_secs(600)),
        rand_time: None,
        resources: Default::default(),
        ikev1: Default::default(),
    }
}

fn endpoint(setup: Setup, target: bool) -> Endpoint {
    let config = EndpointConfig {
        retransmit_tries: 2,
        ..EndpointConfig::default()
    };
    let mut endpoint = Endpoint::new(config, CRYPTO.clone(), &Numbers::default());
    let user = || (b"carol".to_vec(), Zeroizing::new("sesame".to_owned()));
    let turned = |part| match (part, target) {
        (part, true) => part,
        (Part::Gives, false) => Part::Takes,
        (Part::Takes, false) => Part::Gives,
        (Part::None, false) => Part::None,
    };
    let address = turned(setup.address);
    let (own, peer) = if target { (2, 1) } else { (1, 2) };
    endpoint.set_connections(&[Arc::new(Connection {
        name: "gw".to_owned(),
        version: Version::V1,
        ikev1: Ikev1 {
            aggressive: setup.aggressive,
            aggressive_psk: true,
            xauth: match turned(setup.user) {
                Part::None => None,
                Part::Gives => Some(Xauth::Client(user())),
                Part::Takes => Some(Xauth::Server(vec![user()])),
            },
            push: setup.push,
            commit: setup.commit,
        },
        local_addrs: vec![AddressPattern::Prefix([192, 0, 2, own].into(), 32)],
        remote_addrs: vec![AddressPattern::Prefix([192, 0, 2, peer].into(), 32)],
        remote_port: 500,
        local_id: Identity::Fqdn(format!("{own}")),
        remote_id: Identity::Fqdn(format!("{peer}")),
        proposals: Proposal::parse_ike("aes128-sha256-ecp256")
            .into_iter()
            .collect(),
        encap: setup.encap,
        fragmentation: true,
        vips: match address {
            Part::Takes => vec!["0.0.0.0".parse().unwrap_or([0; 4].into())],
            _ => vec![],
        },
        pools: match address {
            Part::Gives => vec!["p".to_owned()],
            _ => vec![],
        },
        rekey_time: Some(Duration::from_secs(3600)),
        over_time: Duration::from_secs(60),
        dpd_delay: Some(Duration::from_secs(100)),
        children: vec![child(setup, target)],
        ..Connection::default()
    })]);
    endpoint.set_secrets(vec![Secret {
        ids: vec![],
        secret: Zeroizing::new(b"secret".to_vec()),
    }]);
    endpoint.pools_mut().set(BTreeMap::from([(
        "p".to_owned(),
        PoolConfig {
            start: [10, 9, 0, 1].into(),
            end: [10, 9, 0, 3].into(),
            attributes: vec![],
        },
    )]));
    endpoint
}

/// Which end.
const PEER: usize = 0;
const TARGET: usize = 1;

struct Lab {
    setup: Setup,
    now: Instant,
    sides: [Endpoint; 2],
    /// What is under way: to whom, from where, what.
    wire: VecDeque<(usize, Path, Vec<u8>)>,
    /// Message ids that were on the wire.
    ids: Vec<u32>,
    cookies: (u64, u64),
    /// SPIs in and out of what the target's engine has.
    installed: BTreeMap<ChildId, (u32, u32)>,
    refuse: bool,
}

impl Lab {
    fn flush(&mut self) {
        for at in [PEER, TARGET] {
            for _ in 0..1000 {
                let Some(event) = self.sides[at].poll_event() else {
                    break;
                };
                self.act(at, event);
            }
            let mut said = 0;
            while let Some(transmit) = self.sides[at].poll_transmit() {
                said += 1;
                assert!(said < 300, "no end of messages");
                assert!(transmit.payload.len() < 8192);
                let message = transmit.payload;
                if let Some(id) = message.get(20..24) {
                    let id = id.iter().fold(0, |id, octet| id << 8 | u32::from(*octet));
                    if id != 0 && !self.ids.contains(&id) && self.ids.len() < 256 {
                        self.ids.push(id);
                    }
                }
                let path = transmit.path.turned();
                if self.wire.len() < 64 {
                    self.wire.push_back((1 - at, path, message));
                }
            }
        }
    }

    fn act(&mut self, at: usize, event: Event) {
        match event {
            Event::InstallInbound { install, child } => {
                let answer = if at == TARGET && self.refuse {
                    let reason = "refused".to_owned();
                    Answer::Failed { install, reason }
                } else {
                    if at == TARGET {
                        let own = nets(self.setup, 1).contains(&child.ts_local[0]);
                        let peer = nets(self.setup, 0).contains(&child.ts_remote[0]);
                        assert!(own && peer && !child.transport, "{child:?}");
                        assert!(!child.keys_in.integrity.is_empty());
                        let spis = (child.spi_in, child.spi_out);
                        let mut others = self.installed.values();
                        assert!(others.all(|(spi, _)| *spi != spis.0));
                        assert!(self.installed.insert(child.id, spis).is_none());
                    }
                    Answer::Installed(install)
                };
                self.sides[at].handle_answer(self.now, &answer);
            }
            Event::InstallOutbound { install, child } => {
                let known = at != TARGET || self.installed.contains_key(&child);
                assert!(known, "what is not there is sent through");
                let answer = match at == TARGET && self.refuse {
                    true => Answer::Failed {
                        install,
                        reason: "refused".to_owned(),
                    },
                    false => Answer::Installed(install),
                };
                self.sides[at].handle_answer(self.now, &answer);
            }
            Event::RetireChild { child } if at == TARGET => {
                self.installed.remove(&child);
            }
            Event::Job { job, work } => {
                let result = work.run();
                self.sides[at].handle_job(self.now, job, &result);
            }
            _ => {}
        }
    }

    fn deliver(&mut self, at: usize) {
        if let Some((to, path, message)) = self.wire.remove(at) {
            self.sides[to].handle_datagram(self.now, path, &message);
            self.flush();
        }
    }

    /// Until nothing is under way.
    fn settle(&mut self, mut most: usize) {
        while most > 0 && !self.wire.is_empty() {
            self.deliver(0);
            most -= 1;
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..2000 {
            let timers = self.sides.iter().filter_map(Endpoint::poll_timeout);
            let Some(next) = timers.min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            for side in &mut self.sides {
                side.handle_timeout(self.now);
            }
            self.flush();
            // The honest ones go on hearing each other.
            self.settle(32);
        }
        panic!("no end of timers");
    }

    /// A message to the target.
    fn say(&mut self, exchange: u8, flags: u8, id: Number, first: u8, mut octets: Vec<u8>) {
        if flags & 1 != 0 {
            octets.resize(octets.len().next_multiple_of(16), 0);
        }
        let id = match id {
            Number::Other(id) => id,
            Number::Seen(at) if self.ids.is_empty() => at.into(),
            Number::Seen(at) => self.ids[usize::from(at) % self.ids.len()],
        };
        let header = Header {
            spi_i: self.cookies.0.into(),
            spi_r: self.cookies.1.into(),
            next_payload: first,
            version: 0x10,
            exchange,
            flags,
            message_id: id.into(),
            len: (28 + octets.len() as u32).into(),
        };
        let mut message = zerocopy::IntoBytes::as_bytes(&header).to_vec();
        message.extend(octets);
        let mut sas = self.sides[TARGET].ike_sas();
        let path = sas.next().map_or_else(
            || Path::new(([192, 0, 2, 2], 500).into(), ([192, 0, 2, 1], 500).into()),
            |sa| sa.path,
        );
        drop(sas);
        self.sides[TARGET].handle_datagram(self.now, path, &message);
        self.flush();
    }

    fn spi(&self, spi: &Spi) -> Vec<u8> {
        let nth = |at: &u8| {
            let count = self.installed.len().max(1);
            self.installed.values().nth(usize::from(*at) % count)
        };
        match spi {
            Spi::In(at) => nth(at).map_or(vec![], |spis| spis.0.to_be_bytes().to_vec()),
            Spi::Out(at) => nth(at).map_or(vec![], |spis| spis.1.to_be_bytes().to_vec()),
            Spi::Cookies => [self.cookies.0.to_be_bytes(), self.cookies.1.to_be_bytes()].concat(),
            Spi::Other(spi) => spi.to_be_bytes().to_vec(),
            Spi::Octets(octets) => octets.iter().copied().take(32).collect(),
        }
    }

    fn push(&self, chain: &mut Chain, part: &Payload) {
        match part {
            Payload::Hash => chain.push(payload::HASH, &[0; 32]),
            Payload::Offer { transport, spi } => {
                let suites = phase2(&child(self.setup, true).esp_proposals);
                let encapsulation = Encapsulation {
                    transport: *transport,
                    udp: self.setup.encap,
                    draft: false,
                };
                let life = Life::of_time(Duration::from_secs(3600));
                let spi = spi.unwrap_or(0x1000 + random() as u32 % 0x1000);
                chain.push(
                    payload::SA,
                    &emit_phase2(&suites, spi, encapsulation, life),
                );
            }
            Payload::Sa {
                protocol,
                spi,
                transforms,
            } => {
                let transforms: Vec<_> = (1..)
                    .zip(transforms.iter().take(8))
                    .map(|(number, (id, attributes))| {
                        let mut out = Vec::new();
                        for (kind, value) in attributes.iter().take(12) {
                            attribute::push(&mut out, *kind, u32::from(*value));
                        }
                        (number, *id, out)
                    })
                    .collect();
                let body = sa::emit(1, *protocol, &self.spi(spi), &transforms);
                chain.push(payload::SA, &body);
            }
            Payload::Nonce(len) => chain.push(payload::NONCE, &vec![9; usize::from(*len)]),
            Payload::Ke(good) => chain.push(payload::KE, &vec![4; if *good { 64 } else { 63 }]),
            Payload::Proxy { local, which } => {
                let nets = nets(self.setup, usize::from(*local));
                let net = nets.get(usize::from(*which) % nets.len().max(1));
                if let Some(body) = net.and_then(identity::emit) {
                    chain.push(payload::ID, &body);
                }
            }
            Payload::Id {
                kind,
                protocol,
                port,
                data,
            } => {
                let mut body = vec![*kind, *protocol];
                body.extend(port.to_be_bytes());
                body.extend(data.iter().take(64));
                chain.push(payload::ID, &body);
            }
            Payload::Notify {
                protocol,
                spi,
                known,
                kind,
                data,
            } => {
                let known = match known {
                    0 => Some(notify::CONNECTED),
                    1 => Some(notify::RESPONDER_LIFETIME),
                    2 => Some(notify::REPLAY_STATUS),
                    3 => Some(notify::INITIAL_CONTACT),
                    4 => Some(notify::R_U_THERE),
                    5 => Some(notify::R_U_THERE_ACK),
                    6 => Some(notify::NO_PROPOSAL_CHOSEN),
                    7 => Some(notify::INVALID_ID_INFORMATION),
                    _ => None,
                };
                let spi = self.spi(spi);
                let told = notify::Notify {
                    protocol: *protocol,
                    spi: &spi,
                    kind: known.unwrap_or(*kind),
                    data: data.get(..64).unwrap_or(data),
                };
                chain.push(payload::NOTIFY, &told.emit());
            }
            Payload::Delete { protocol, spis } => {
                let spis: Vec<Vec<u8>> = spis.iter().take(16).map(|spi| self.spi(spi)).collect();
                let delete = notify::Delete {
                    protocol: *protocol,
                    spis: spis.iter().map(|spi| &spi[..]).collect(),
                };
                chain.push(payload::DELETE, &delete.emit());
            }
            Payload::Attributes {
                kind,
                identifier,
                all,
            } => {
                let mut body = vec![*kind, 0];
                body.extend(identifier.to_be_bytes());
                for (number, value) in all.iter().take(16) {
                    let value = value.get(..32).unwrap_or(value);
                    attribute::push_octets(&mut body, *number, value);
                }
                chain.push(payload::ATTRIBUTES, &body);
            }
            Payload::Raw { kind, body } => {
                chain.push(*kind, body.get(..128).unwrap_or(body));
            }
        }
    }

    fn take(&mut self, step: &Step) {
        let of_wire = |at: &u8, lab: &Self| usize::from(*at) % lab.wire.len().max(1);
        match step {
            Step::Say {
                kind,
                id,
                commit,
                parts,
            } => {
                let exchange = match kind {
                    Kind::Quick => exchange::QUICK,
                    Kind::Informational => exchange::INFORMATIONAL,
                    Kind::Transaction => exchange::TRANSACTION,
                };
                let mut chain = Chain::default();
                chain.push(payload::HASH, &[0; 32]);
                for part in parts.iter().take(12) {
                    self.push(&mut chain, part);
                }
                let flags = 1 | if *commit { 2 } else { 0 };
                let octets = chain.octets().to_vec();
                self.say(exchange, flags, *id, chain.first(), octets);
            }
            Step::Raw {
                exchange,
                flags,
                id,
                first,
                octets,
            } => {
                let octets = octets.iter().copied().take(512).collect();
                self.say(*exchange, *flags, *id, *first, octets);
            }
            Step::Deliver(at) => self.deliver(of_wire(at, self)),
            Step::Lose(at) => drop(self.wire.remove(of_wire(at, self))),
            Step::Double(at) => {
                let doubled = self.wire.get(of_wire(at, self)).cloned();
                self.wire.extend(doubled);
            }
            Step::Do { target, deed } => {
                let (now, side) = (self.now, &mut self.sides[usize::from(*target)]);
                let sas = side.ike_sas();
                let found: Vec<_> = sas
                    .map(|sa| (sa.id, sa.children.first().map(|child| child.sa.id)))
                    .collect();
                let ike = found.first().map(|(ike, _)| *ike);
                let child = found.iter().find_map(|(_, child)| *child);
                match deed {
                    Deed::Initiate => drop(side.initiate(now, "gw", Some("net"), None)),
                    Deed::RekeyChild => drop(child.map(|child| side.rekey_child(now, child))),
                    Deed::RekeyIke => drop(ike.map(|ike| side.rekey_ike(now, ike))),
                    Deed::Liveness => drop(ike.map(|ike| side.check_liveness(now, ike))),
                    Deed::TerminateChild => {
                        drop(child.map(|child| side.terminate_child(now, child)));
                    }
                }
                self.flush();
            }
            Step::Wait(seconds) => self.wait(Duration::from_secs(u64::from(*seconds) % 5000)),
            Step::Refuse(refuse) => self.refuse = *refuse,
        }
    }
}

fuzz_target!(|input: Input| {
    RANDOM.with(|state| state.set(0x9e37_79b9_7f4a_7c15));
    let setup = input.setup;
    let mut lab = Lab {
        setup,
        now: Instant::now(),
        sides: [endpoint(setup, false), endpoint(setup, true)],
        wire: VecDeque::new(),
        ids: Vec::new(),
        cookies: (0, 0),
        installed: BTreeMap::new(),
        refuse: false,
    };
    let begins = if setup.peer_begins { PEER } else { TARGET };
    let _ = lab.sides[begins].initiate(lab.now, "gw", Some("net"), None);
    lab.flush();
    lab.settle(100);
    let Some(sa) = lab.sides[TARGET].ike_sas().next() else {
        return;
    };
    lab.cookies = (sa.spi_i, sa.spi_r);
    for step in input.steps.iter().take(40) {
        lab.take(step);
    }
    // The end of all of it.
    lab.refuse = false;
    for _ in 0..3 {
        let sas = lab.sides[TARGET].ike_sas();
        for ike in sas.map(|sa| sa.id).collect::<Vec<_>>() {
            let _ = lab.sides[TARGET].terminate_ike(lab.now, ike);
        }
        lab.wire.clear();
        lab.flush();
        lab.wire.clear();
    }
    assert_eq!(lab.sides[TARGET].ike_sas().count(), 0);
    assert!(lab.installed.is_empty(), "left: {:?}", lab.installed);
});
