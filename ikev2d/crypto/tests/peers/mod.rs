// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two endpoints in memory, on a virtual clock, over a network that loses and duplicates.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod change;
pub(crate) mod explore;
pub(crate) mod seeded;
pub(crate) mod strangers;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::config::*;
use ikev2d_proto::credential::{Job, JobError};
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::endpoint::Endpoint;
use ikev2d_proto::event::*;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use zeroize::Zeroizing;

/// The NAT's address, and what its ports are above ours.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const MAPPED: u16 = 20_000;

/// A side with what it has installed.
pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: &'static str,
    /// SPI, key: what comes in.
    pub(crate) inbound: BTreeMap<u32, (ChildId, Vec<u8>)>,
    pub(crate) outbound: BTreeMap<u32, (ChildId, Vec<u8>)>,
    pub(crate) offered: BTreeMap<ChildId, KeyedChild>,
    pub(crate) events: Vec<Event>,
    /// SPIs of `outbound`, in the order of their installation: the last is sent through.
    pub(crate) sending: Vec<u32>,
    pub(crate) refuse_installs: bool,
    /// What goes out can't be installed.
    pub(crate) refuse_outbound: bool,
    /// Nobody says what has become of it.
    pub(crate) late_outbound: bool,
    /// Jobs for which there is no room.
    pub(crate) busy: u32,
    /// How long jobs take.
    pub(crate) slowness: Duration,
    /// Those that go on, with when they are done.
    pub(crate) jobs: Vec<(Instant, JobId, Box<Job>)>,
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) sides: [Side; 2],
    pub(crate) wire: VecDeque<(Instant, usize, Path, Vec<u8>)>,
    pub(crate) random: u64,
    pub(crate) loss: u64,
    /// Octets of the largest IP datagram that arrives.
    pub(crate) mtu: usize,
    /// Every message that was sent.
    pub(crate) recorded: Vec<Vec<u8>>,
    /// SAs are deleted: what is sent meanwhile may be in vain.
    pub(crate) lenient: bool,
    /// Messages of this exchange don't arrive.
    pub(crate) blocked: Option<u8>,
    /// A NAT in front of the first side: its address and ports there.
    pub(crate) nat: bool,
    /// Nothing passes by UDP.
    pub(crate) no_udp: bool,
    /// Nothing passes to or from these.
    pub(crate) dead: Vec<IpAddr>,
    /// TCP connections can't be made.
    pub(crate) no_tcp: bool,
    /// Those that are there (RFC 9329).
    pub(crate) streams: Vec<StreamId>,
    /// What was sent by them.
    pub(crate) streamed: usize,
}

pub(crate) fn net(text: &str) -> SelectorConfig {
    let (address, bits) = text.split_once('/').unwrap();
    SelectorConfig::Fixed(TrafficSelector::prefix(
        address.parse().unwrap(),
        bits.parse().unwrap(),
    ))
}

pub(crate) fn connection(a: bool) -> Connection {
    let (me, peer) = if a {
        ("192.0.2.1", "192.0.2.2")
    } else {
        ("192.0.2.2", "192.0.2.1")
    };
    let (my_net, peer_net) = if a {
        ("10.1.0.0/16", "10.2.0.0/16")
    } else {
        ("10.2.0.0/16", "10.1.0.0/16")
    };
    let child = |name: &str, esp: &str| ChildConfig {
        name: name.to_owned(),
        local_ts: vec![net(my_net)],
        remote_ts: vec![net(peer_net)],
        esp_proposals: vec![Proposal::parse_esp(esp).unwrap()],
        transport: false,
        rekey_time: None,
        rand_time: None,
        resources: Default::default(),
        ikev1: Default::default(),
    };
    Connection {
        name: "gw".to_owned(),
        local_addrs: vec![AddressPattern::Prefix(me.parse().unwrap(), 32)],
        remote_addrs: vec![AddressPattern::Prefix(peer.parse().unwrap(), 32)],
        local_id: Identity::parse(if a { "a.test" } else { "b.test" }),
        remote_id: Identity::parse(if a { "b.test" } else { "a.test" }),
        proposals: vec![Proposal::parse_ike("aes256gcm16-prfsha384-x25519").unwrap()],
        over_time: Duration::from_secs(60),
        children: vec![
            child("net", "aes128gcm16-esn-noesn-x25519"),
            child("pfs", "aes128gcm16-ecp256"),
        ],
        ..Connection::default()
    }
}

thread_local! {
    /// Pairs that a test has made so far without a seed of its own.
    static MADE: Cell<u64> = const { Cell::new(0) };
}

impl Pair {
    /// The first of a test, and the second, are the same each time, so that a failure comes again.
    pub(crate) fn new(change: impl Fn(bool, &mut Connection, &mut EndpointConfig)) -> Self {
        Self::seeded(MADE.replace(MADE.get() + 1), change)
    }

    /// Two endpoints whose nonces and SPIs follow from a seed.
    pub(crate) fn seeded(
        seed: u64,
        change: impl Fn(bool, &mut Connection, &mut EndpointConfig),
    ) -> Self {
        Self::with(Arc::new(seeded::SeededCrypto::new(seed)), change)
    }

    /// Two endpoints whose PRF tells what it is given.
    pub(crate) fn watched(
        seen: seeded::Seen,
        change: impl Fn(bool, &mut Connection, &mut EndpointConfig),
    ) -> Self {
        Self::with(Arc::new(seeded::SeededCrypto::watched(seen)), change)
    }

    pub(crate) fn with(
        crypto: Arc<dyn Crypto>,
        change: impl Fn(bool, &mut Connection, &mut EndpointConfig),
    ) -> Self {
        let side = |a: bool| {
            let (mut config, mut connection) = (EndpointConfig::default(), connection(a));
            change(a, &mut connection, &mut config);
            let mut endpoint = Endpoint::new(config, crypto.clone());
            endpoint.set_connections(vec![Arc::new(connection)]);
            endpoint.set_secrets(vec![Secret {
                ids: vec![],
                secret: Zeroizing::new(b"correct horse".to_vec()),
            }]);
            Side {
                endpoint,
                address: if a { "192.0.2.1" } else { "192.0.2.2" },
                inbound: BTreeMap::new(),
                outbound: BTreeMap::new(),
                offered: BTreeMap::new(),
                events: Vec::new(),
                sending: Vec::new(),
                refuse_installs: false,
                refuse_outbound: false,
                late_outbound: false,
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
            mtu: usize::MAX,
            recorded: Vec::new(),
            lenient: false,
            blocked: None,
            nat: false,
            no_udp: false,
            dead: Vec::new(),
            no_tcp: false,
            streams: Vec::new(),
            streamed: 0,
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

    /// A path as it is to whom it leads to.
    fn translated(&self, from: usize, path: Path) -> Path {
        let mut seen = path.turned();
        if self.nat && from == 0 {
            let port = MAPPED + seen.remote.port();
            seen.remote = SocketAddr::new(OUTSIDE, port);
        } else if self.nat && path.remote.ip() == OUTSIDE {
            let inside = self.sides[0].address.parse().unwrap();
            seen.local = SocketAddr::new(inside, path.remote.port() - MAPPED);
        }
        seen
    }

    /// Takes out what both have to say.
    pub(crate) fn flush(&mut self) {
        for at in 0..2 {
            while let Some(event) = self.sides[at].endpoint.poll_event() {
                let side = &mut self.sides[at];
                match &event {
                    Event::InstallInbound { install, child } => {
                        let answer = if side.refuse_installs {
                            Answer::Failed {
                                install: *install,
                                reason: "test".to_owned(),
                            }
                        } else {
                            let key = child.keys_in.encryption.to_vec();
                            assert!(side.inbound.insert(child.spi_in, (child.id, key)).is_none());
                            side.offered.insert(child.id, (**child).clone());
                            Answer::Installed(*install)
                        };
                        side.endpoint.handle_answer(self.now, &answer);
                    }
                    Event::InstallOutbound { .. } if side.late_outbound => {}
                    Event::InstallOutbound { install, child } => {
                        let answer = if side.refuse_outbound {
                            Answer::Failed {
                                install: *install,
                                reason: "test".to_owned(),
                            }
                        } else {
                            if let Some(sa) = side.offered.get(child) {
                                let key = sa.keys_out.encryption.to_vec();
                                side.outbound.insert(sa.spi_out, (*child, key));
                                side.sending.push(sa.spi_out);
                            }
                            Answer::Installed(*install)
                        };
                        side.endpoint.handle_answer(self.now, &answer);
                    }
                    Event::RetireChild { child } => {
                        side.inbound.retain(|_, (id, _)| id != child);
                        side.outbound.retain(|_, (id, _)| id != child);
                        let outbound = &side.outbound;
                        side.sending.retain(|spi| outbound.contains_key(spi));
                    }
                    Event::Connect {
                        stream,
                        local,
                        remote,
                    } => {
                        assert_eq!(remote.port(), 4500);
                        if self.no_tcp {
                            let why = "refused";
                            side.endpoint.stream_closed(self.now, *stream, why);
                        } else {
                            self.streams.push(*stream);
                            let local = (*local, 40000 + self.streams.len() as u16).into();
                            side.endpoint.stream_opened(self.now, *stream, local);
                        }
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
                side.events.push(event);
            }
            while let Some(transmit) = self.sides[at].endpoint.poll_transmit() {
                self.recorded.push(transmit.payload.clone());
                let too_long = transmit.payload.len() + 32 > self.mtu;
                let lost = self.loss != 0 && self.chance(self.loss);
                // TCP loses nothing as long as it is there.
                let stream = transmit.path.stream;
                let carried = stream.is_some_and(|stream| self.streams.contains(&stream));
                self.streamed += usize::from(carried);
                // Behind the SPIs, the type of the first payload and the version.
                let blocked =
                    self.blocked.is_some() && transmit.payload.get(18).copied() == self.blocked;
                let ends = [transmit.path.local.ip(), transmit.path.remote.ip()];
                let dead = ends.iter().any(|end| self.dead.contains(end));
                let stopped = match stream {
                    Some(_) => !carried,
                    None => self.no_udp || too_long || lost || blocked || dead,
                };
                let copies = if stopped {
                    0
                } else if carried {
                    1
                } else if self.loss != 0 && self.chance(self.loss) {
                    2
                } else {
                    1
                };
                for _ in 0..copies {
                    let path = self.translated(at, transmit.path);
                    let latency = Duration::from_millis(
                        10 + if self.loss != 0 { self.random % 30 } else { 0 },
                    );
                    self.wire.push_back((
                        self.now + latency,
                        1 - at,
                        path,
                        transmit.payload.clone(),
                    ));
                }
            }
        }
    }

    /// Runs until nothing is on the wire, or for so long; bounded, so that a livelock fails.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..2000 {
            self.flush();
            let wire = self.wire.iter().map(|(at, ..)| *at).min();
            let timers = self
                .sides
                .iter()
                .filter_map(|side| side.endpoint.poll_timeout())
                .min();
            let jobs = self.sides.iter().flat_map(|side| &side.jobs);
            let jobs = jobs.map(|(done, ..)| *done).min();
            let Some(next) = wire
                .into_iter()
                .chain(timers)
                .chain(jobs)
                .min()
                .filter(|next| *next <= end)
            else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if self.finish_job() {
                continue;
            }
            if let Some(at) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
                let (_, side, path, octets) = self.wire.remove(at).unwrap();
                self.sides[side]
                    .endpoint
                    .handle_datagram(self.now, path, &octets);
            } else {
                for side in &mut self.sides {
                    side.endpoint.handle_timeout(self.now);
                }
            }
        }
        panic!("no end in sight");
    }

    /// Does a job that is to be done by now.
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

    /// A TCP connection ends, for both.
    pub(crate) fn cut(&mut self) {
        let Some(stream) = self.streams.pop() else {
            return;
        };
        self.wire
            .retain(|(_, _, path, _)| path.stream != Some(stream));
        for side in &mut self.sides {
            side.endpoint.stream_closed(self.now, stream, "cut");
        }
    }

    /// The first side asks for its child.
    pub(crate) fn initiate(&mut self) {
        self.sides[0]
            .endpoint
            .initiate(self.now, "gw", Some("net"), None)
            .unwrap();
    }

    pub(crate) fn up(&mut self) {
        self.initiate();
        self.run(Duration::from_secs(30));
        self.agree(1);
    }

    /// Brings one message of those under way to its receiver.
    pub(crate) fn deliver(&mut self, at: usize) {
        let (_, side, path, octets) = self.wire.remove(at).unwrap();
        self.now += Duration::from_millis(1);
        self.sides[side]
            .endpoint
            .handle_datagram(self.now, path, &octets);
    }

    /// Goes on to the next timer before `end`, if there is one.
    pub(crate) fn advance(&mut self, end: Instant) -> bool {
        let timers = self.sides.iter().filter_map(|s| s.endpoint.poll_timeout());
        let Some(next) = timers.min().filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        for side in &mut self.sides {
            side.endpoint.handle_timeout(self.now);
        }
        true
    }

    /// Whatever a side sends through, the other can open.
    pub(crate) fn assert_no_black_hole(&self, told: &str) {
        if self.lenient {
            return;
        }
        let [a, b] = &self.sides;
        for (from, to) in [(a, b), (b, a)] {
            let spi = from
                .sending
                .last()
                .unwrap_or_else(|| panic!("{} has nothing to send through: {told}", from.address));
            assert!(
                to.inbound.contains_key(spi),
                "{} sends into the void: {told}",
                from.address
            );
        }
    }

    /// Both sides have the same SAs with the same keys, so many pairs.
    pub(crate) fn agree(&self, children: usize) {
        let [a, b] = &self.sides;
        for (from, to) in [(a, b), (b, a)] {
            assert_eq!(from.outbound.len(), children);
            assert_eq!(to.inbound.len(), children);
            for (spi, (_, key)) in &from.outbound {
                assert_eq!(&to.inbound[spi].1, key, "keys differ");
            }
        }
    }

    /// Runs on until both sides have the same SAs, so many pairs: at any moment a rekeying may be under
    /// way, and none takes as long as this, unless something is lost.
    pub(crate) fn settle(&mut self, children: usize) {
        let settled = |pair: &Self| {
            let sides = pair.sides.iter();
            let mut counts = sides.flat_map(|side| [side.inbound.len(), side.outbound.len()]);
            counts.all(|count| count == children)
        };
        let end = self.now + Duration::from_secs(5);
        while !settled(self) && self.now < end {
            self.run(Duration::from_millis(50));
        }
        self.agree(children);
    }

    pub(crate) fn count(&self, side: usize, test: impl Fn(&Event) -> bool) -> usize {
        self.sides[side]
            .events
            .iter()
            .filter(|event| test(event))
            .count()
    }

    /// The IKE SA that is in use.
    pub(crate) fn current_ike(&self, side: usize) -> Option<IkeId> {
        let mut sas = self.sides[side].endpoint.ike_sas();
        sas.find(|sa| sa.state == "ESTABLISHED").map(|sa| sa.id)
    }

    /// The child SA that is sent through.
    pub(crate) fn current_child(&self, side: usize) -> Option<ChildId> {
        let side = &self.sides[side];
        side.sending.last().map(|spi| side.outbound[spi].0)
    }

    /// Whether the child that a side offered second was still there at the end.
    pub(crate) fn deletes_of_first_child(&self, side: usize) -> Option<bool> {
        let second = self.sides[side].offered.keys().nth(1)?;
        Some(self.current_child(side) == Some(*second))
    }

    pub(crate) fn ike(&self, side: usize) -> IkeId {
        self.sides[side].endpoint.ike_sas().next().unwrap().id
    }

    pub(crate) fn child(&self, side: usize) -> ChildId {
        let sa = self.sides[side].endpoint.ike_sas().next().unwrap();
        sa.children.first().unwrap().sa.id
    }
}
