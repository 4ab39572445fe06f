// SPDX-License-Identifier: Apache-2.0 OR MIT
//! R1: what a peer of IKEv1 can do that has proved who it is: quick modes, informational exchanges, XAUTH and
//! mode config, made of payloads that fit and of such that don't, amid what an honest peer says, in any
//! order, with losses, repetitions and the passing of time. Every HASH is believed and nothing is encrypted,
//! so that whatever comes reaches the state machine.
//!
//! Nothing panics, no SA is installed for other selectors than the configured ones or under an SPI that is in
//! use, nothing comes out without end, and when all is over nothing is left in the engines.
#![no_main]

#[path = "ikev1_behind/ends.rs"]
mod ends;
#[path = "ikev1_behind/messages.rs"]
mod messages;
#[path = "../../ikev2d/ikev1/tests/peers/permissive.rs"]
mod permissive;
#[path = "ikev1_behind/toy.rs"]
mod toy;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ikev1_proto::endpoint::Endpoint;
use ikev1_proto::wire::{Chain, Header, exchange, payload};
use ikev2d_proto::event::{Answer, ChildId, Event, Path};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

use ends::{Setup, endpoint, nets};
use messages::{Number, Payload};

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
    Do {
        target: bool,
        deed: Deed,
    },
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

#[derive(Arbitrary, Debug)]
struct Input {
    setup: Setup,
    steps: Vec<Step>,
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
                        let _ = child.map(|child| side.terminate_child(now, child));
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
    toy::reset();
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
