// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two endpoints in memory, on a virtual clock, over a network that loses, doubles and reorders.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev1_proto::endpoint::Endpoint;
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::*;
use ikev2d_proto::credential::{Job, JobError};
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use zeroize::Zeroizing;

pub(crate) mod open;
mod permissive;

/// A side with what it has installed.
pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: &'static str,
    /// SPI, key: what comes in.
    pub(crate) inbound: BTreeMap<u32, (ChildId, Vec<u8>)>,
    pub(crate) outbound: BTreeMap<u32, (ChildId, Vec<u8>)>,
    pub(crate) offered: BTreeMap<ChildId, KeyedChild>,
    /// SPIs of `outbound`, in the order of their installation: the last is sent through.
    pub(crate) sending: Vec<u32>,
    pub(crate) events: Vec<Event>,
    pub(crate) refuse_installs: bool,
    pub(crate) refuse_outbound: bool,
    /// So many jobs for peers find no room.
    pub(crate) busy: u32,
    /// How long jobs take.
    pub(crate) slowness: Duration,
    /// Those that go on, with when they are done.
    pub(crate) jobs: Vec<(Instant, JobId, Box<Job>)>,
}

/// A datagram under way: when it arrives, at whom, from where.
pub(crate) type Flying = (Instant, usize, Path, Vec<u8>);

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) sides: [Side; 2],
    pub(crate) wire: VecDeque<Flying>,
    pub(crate) random: u64,
    pub(crate) loss: u64,
    /// Every message that was sent: by whom, what.
    pub(crate) recorded: Vec<(usize, Vec<u8>)>,
    /// A NAT in front of the first side: its address and ports there.
    pub(crate) nat: bool,
    /// The first side hears no messages of this exchange.
    pub(crate) deaf: Option<u8>,
}

pub(crate) const A: &str = "192.0.2.1";
pub(crate) const B: &str = "192.0.2.2";
/// What the first side's NAT has for it.
pub(crate) const OUTSIDE: &str = "198.51.100.7";
const MAPPED: u16 = 20_000;

pub(crate) fn net(text: &str) -> SelectorConfig {
    let (address, bits) = text.split_once('/').unwrap();
    let (address, bits) = (address.parse().unwrap(), bits.parse().unwrap());
    SelectorConfig::Fixed(TrafficSelector::prefix(address, bits))
}

pub(crate) fn child(a: bool, name: &str, esp: &str) -> ChildConfig {
    let (my_net, peer_net) = match a {
        true => ("10.1.0.0/16", "10.2.0.0/16"),
        false => ("10.2.0.0/16", "10.1.0.0/16"),
    };
    ChildConfig {
        name: name.to_owned(),
        local_ts: vec![net(my_net)],
        remote_ts: vec![net(peer_net)],
        esp_proposals: vec![Proposal::parse_esp(esp).unwrap()],
        transport: false,
        rekey_time: None,
        rand_time: None,
        resources: Default::default(),
        ikev1: Default::default(),
    }
}

/// Another child, for a network beside the first side's.
pub(crate) fn other_child(a: bool) -> ChildConfig {
    let mut other = child(a, "other", "aes256gcm16");
    let side = if a {
        &mut other.local_ts
    } else {
        &mut other.remote_ts
    };
    *side = vec![net("10.9.0.0/16")];
    other
}

pub(crate) fn connection(a: bool) -> Connection {
    let (me, peer) = if a { (A, B) } else { (B, A) };
    Connection {
        name: "gw".to_owned(),
        version: Version::V1,
        local_addrs: vec![AddressPattern::Prefix(me.parse().unwrap(), 32)],
        remote_addrs: vec![AddressPattern::Prefix(peer.parse().unwrap(), 32)],
        local_id: Identity::parse(if a { "a.test" } else { "b.test" }),
        remote_id: Identity::parse(if a { "b.test" } else { "a.test" }),
        proposals: vec![Proposal::parse_ike("aes256-sha256-ecp256").unwrap()],
        over_time: Duration::from_secs(60),
        children: vec![child(a, "net", "aes128-sha256")],
        ..Connection::default()
    }
}

pub(crate) fn secret(text: &str) -> Secret {
    Secret {
        ids: vec![],
        secret: Zeroizing::new(text.as_bytes().to_vec()),
    }
}

impl Pair {
    pub(crate) fn new(change: impl Fn(bool, &mut Connection, &mut EndpointConfig)) -> Self {
        Self::with_crypto(Arc::new(OpensslCrypto::new().unwrap()), change)
    }

    /// The same where the first side has this cryptography.
    pub(crate) fn with_crypto(
        firsts: Arc<dyn Crypto>,
        change: impl Fn(bool, &mut Connection, &mut EndpointConfig),
    ) -> Self {
        Self::with_both([firsts, Arc::new(OpensslCrypto::new().unwrap())], change)
    }

    fn with_both(
        crypto: [Arc<dyn Crypto>; 2],
        change: impl Fn(bool, &mut Connection, &mut EndpointConfig),
    ) -> Self {
        let side = |a: bool| {
            let (mut config, mut connection) = (EndpointConfig::default(), connection(a));
            change(a, &mut connection, &mut config);
            let crypto = crypto[usize::from(!a)].clone();
            let mut endpoint = Endpoint::new(config, crypto, &Numbers::default());
            endpoint.set_connections(&[Arc::new(connection)]);
            endpoint.set_secrets(vec![secret("correct horse")]);
            Side {
                endpoint,
                address: if a { A } else { B },
                inbound: BTreeMap::new(),
                outbound: BTreeMap::new(),
                offered: BTreeMap::new(),
                sending: Vec::new(),
                events: Vec::new(),
                refuse_installs: false,
                refuse_outbound: false,
                busy: 0,
                slowness: Duration::ZERO,
                jobs: Vec::new(),
            }
        };
        Self {
            now: Instant::now(),
            sides: [side(true), side(false)],
            wire: VecDeque::new(),
            random: 88172645463325252,
            loss: 0,
            recorded: Vec::new(),
            nat: false,
            deaf: None,
        }
    }

    pub(crate) fn plain() -> Self {
        Self::new(|_, _, _| {})
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 100 < percent
    }

    fn translated(&self, from: usize, path: Path) -> Path {
        let mut seen = path.turned();
        if self.nat && from == 0 {
            let port = MAPPED + seen.remote.port();
            seen.remote = SocketAddr::new(OUTSIDE.parse().unwrap(), port);
        } else if self.nat && path.remote.port() >= MAPPED {
            let port = path.remote.port() - MAPPED;
            seen.local = SocketAddr::new(A.parse().unwrap(), port);
        }
        seen
    }

    /// Takes out what both have to say.
    pub(crate) fn flush(&mut self) {
        for at in 0..2 {
            while let Some(event) = self.sides[at].endpoint.poll_event() {
                self.act(at, &event);
                self.sides[at].events.push(event);
            }
            while let Some(transmit) = self.sides[at].endpoint.poll_transmit() {
                if transmit.keepalive {
                    continue;
                }
                self.recorded.push((at, transmit.payload.clone()));
                let lost = self.loss != 0 && self.chance(self.loss)
                    || at == 1 && self.deaf == transmit.payload.get(18).copied();
                let doubled = self.loss != 0 && self.chance(self.loss);
                let copies = if lost { 0 } else { 1 + usize::from(doubled) };
                for _ in 0..copies {
                    let path = self.translated(at, transmit.path);
                    self.chance(1);
                    let spread = if self.loss != 0 { self.random % 50 } else { 0 };
                    let arrives = self.now + Duration::from_millis(10 + spread);
                    let message = transmit.payload.clone();
                    self.wire.push_back((arrives, 1 - at, path, message));
                }
            }
        }
    }

    fn act(&mut self, at: usize, event: &Event) {
        let side = &mut self.sides[at];
        match event {
            Event::InstallInbound { install, child } => {
                let answer = if side.refuse_installs {
                    Answer::Failed {
                        install: *install,
                        reason: "test".to_owned(),
                    }
                } else {
                    let mut key = child.keys_in.encryption.to_vec();
                    key.extend(child.keys_in.integrity.iter());
                    assert!(side.inbound.insert(child.spi_in, (child.id, key)).is_none());
                    side.offered.insert(child.id, (**child).clone());
                    Answer::Installed(*install)
                };
                side.endpoint.handle_answer(self.now, &answer);
            }
            Event::InstallOutbound { install, .. } if side.refuse_outbound => {
                let answer = Answer::Failed {
                    install: *install,
                    reason: "test".to_owned(),
                };
                side.endpoint.handle_answer(self.now, &answer);
            }
            Event::InstallOutbound { install, child } => {
                if let Some(sa) = side.offered.get(child) {
                    let mut key = sa.keys_out.encryption.to_vec();
                    key.extend(sa.keys_out.integrity.iter());
                    side.outbound.insert(sa.spi_out, (*child, key));
                    side.sending.push(sa.spi_out);
                }
                let answer = Answer::Installed(*install);
                side.endpoint.handle_answer(self.now, &answer);
            }
            Event::RetireChild { child } => {
                side.inbound.retain(|_, (id, _)| id != child);
                side.outbound.retain(|_, (id, _)| id != child);
                let outbound = &side.outbound;
                side.sending.retain(|spi| outbound.contains_key(spi));
            }
            Event::Job { job, work } if side.slowness != Duration::ZERO => {
                let done = self.now + side.slowness;
                side.jobs.push((done, *job, work.clone()));
            }
            Event::Job { job, work } => {
                let busy = side.busy != 0 && work.is_for_peer();
                side.busy -= u32::from(busy);
                let result = if busy {
                    Err(JobError::Busy)
                } else {
                    work.run()
                };
                side.endpoint.handle_job(self.now, *job, &result);
            }
            _ => {}
        }
    }

    /// Runs until nothing is on the wire, or for so long; bounded, so that a livelock fails.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..20_000 {
            self.flush();
            let wire = self.wire.iter().map(|(at, ..)| *at).min();
            let timers = self.sides.iter().filter_map(|s| s.endpoint.poll_timeout());
            let jobs = self.sides.iter().flat_map(|side| &side.jobs);
            let jobs = jobs.map(|(done, ..)| *done).min();
            let next = wire.into_iter().chain(timers.min()).chain(jobs).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if self.finish_job() {
                continue;
            }
            if let Some(at) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
                self.deliver(at);
            } else {
                for side in &mut self.sides {
                    side.endpoint.handle_timeout(self.now);
                }
            }
        }
        let states = self.sides.each_ref().map(|side| {
            side.endpoint
                .poll_timeout()
                .map(|at| at.saturating_duration_since(self.now))
        });
        panic!("no end in sight: {states:?}");
    }

    fn finish_job(&mut self) -> bool {
        for side in &mut self.sides {
            let due = side.jobs.iter().position(|(done, ..)| *done <= self.now);
            if let Some(at) = due {
                let (_, job, work) = side.jobs.remove(at);
                side.endpoint.handle_job(self.now, job, &work.run());
                return true;
            }
        }
        false
    }

    /// Brings one of the messages under way to its receiver.
    pub(crate) fn deliver(&mut self, at: usize) {
        let (_, side, path, message) = self.wire.remove(at).unwrap();
        let endpoint = &mut self.sides[side].endpoint;
        endpoint.handle_datagram(self.now, path, &message);
    }

    pub(crate) fn initiate(&mut self, side: usize, child: Option<&str>) {
        let endpoint = &mut self.sides[side].endpoint;
        endpoint.initiate(self.now, "gw", child, None).unwrap();
    }

    pub(crate) fn up(&mut self) {
        self.initiate(0, Some("net"));
        self.run(Duration::from_secs(30));
        self.agree(1);
    }

    /// Both sides have the same SAs with the same keys, so many pairs; who sends is heard.
    pub(crate) fn agree(&self, children: usize) {
        let [a, b] = &self.sides;
        for (from, to) in [(a, b), (b, a)] {
            assert_eq!(from.outbound.len(), children, "{}", from.address);
            assert_eq!(to.inbound.len(), children, "{}", to.address);
            for (spi, (_, key)) in &from.outbound {
                assert_eq!(&to.inbound[spi].1, key, "keys differ");
            }
        }
    }

    pub(crate) fn count(&self, side: usize, test: impl Fn(&Event) -> bool) -> usize {
        let events = self.sides[side].events.iter();
        events.filter(|event| test(event)).count()
    }

    pub(crate) fn failure(&self, side: usize) -> Option<String> {
        self.sides[side]
            .events
            .iter()
            .find_map(|event| match event {
                Event::InitiateFailed { reason, .. } => Some(reason.clone()),
                _ => None,
            })
    }

    pub(crate) fn ike(&self, side: usize) -> IkeId {
        let mut sas = self.sides[side].endpoint.ike_sas();
        sas.find(|sa| sa.state == "ESTABLISHED").unwrap().id
    }

    pub(crate) fn child(&self, side: usize) -> ChildId {
        let sas = self.sides[side].endpoint.ike_sas();
        let mut children = sas.flat_map(|sa| sa.children);
        children
            .find(|child| child.state == "INSTALLED")
            .unwrap()
            .sa
            .id
    }

    /// How many ISAKMP SAs a side has.
    pub(crate) fn sas(&self, side: usize) -> usize {
        self.sides[side].endpoint.ike_sas().count()
    }
}
