// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The initiators: one endpoint with all of them, without a data plane.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::MOST_TICKETS;
use ikev2d_proto::config::EndpointConfig;
use ikev2d_proto::endpoint::Endpoint;
use ikev2d_proto::event::{Answer, ChildId, Event, IkeId};

use super::policy::{Policy, source_towards};
use super::sockets::Sockets;
use super::{Arguments, process};

/// Longest wait for datagrams.
const NAP: Duration = Duration::from_millis(20);
/// Longest set-up that is told apart, in microseconds.
const LONGEST: u64 = 600_000_000;
/// Rekeyings under way, at most.
const REKEYINGS: usize = 64;

/// What came of it.
pub(super) struct Report {
    pub(super) up: u64,
    pub(super) resumed: u64,
    pub(super) failed: u64,
    pub(super) rekeyed: u64,
    pub(super) children_rekeyed: u64,
    /// Kept ones that are not there at the end.
    pub(super) lost: u64,
    pub(super) retransmits: u64,
    pub(super) seconds: f64,
    /// Microseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) own_cpu: Duration,
    pub(super) peer_cpu: Option<Duration>,
    pub(super) rss: Option<(u64, u64)>,
}

pub(super) struct Load<'a> {
    arguments: &'a Arguments,
    policy: Policy,
    peer: SocketAddr,
    sockets: Sockets,
    endpoint: Endpoint,
    /// They are set up to be lost.
    preparing: bool,
    /// When each set-up that goes on was due.
    begun: HashMap<u64, Instant>,
    /// Those that are there.
    there: HashMap<IkeId, Option<ChildId>>,
    leaving: HashSet<IkeId>,
    to_rekey: VecDeque<IkeId>,
    rekeying: HashSet<IkeId>,
    children_rekeying: HashSet<ChildId>,
    report: Report,
}

impl<'a> Load<'a> {
    pub(super) fn new(arguments: &'a Arguments) -> Result<Self> {
        if arguments.resume && arguments.count > MOST_TICKETS as u64 {
            bail!("--resume: at most {MOST_TICKETS} tickets are kept; lower --count");
        }
        let peer = super::peer(arguments);
        let config = EndpointConfig {
            ike_port: arguments.port,
            nat_port: arguments.nat_port,
            retransmit_timeout: Duration::from_secs(1),
            ..EndpointConfig::default()
        };
        let policy = Policy::new(arguments, source_towards(peer)?)?;
        let mut endpoint = Endpoint::new(config, Arc::new(OpensslCrypto::new()?));
        endpoint.set_secrets(policy.secrets.clone());
        Ok(Self {
            sockets: Sockets::bind(peer.is_ipv4(), arguments.port, arguments.nat_port)?,
            arguments,
            policy,
            peer,
            endpoint,
            preparing: arguments.resume,
            begun: HashMap::new(),
            there: HashMap::new(),
            leaving: HashSet::new(),
            to_rekey: VecDeque::new(),
            rekeying: HashSet::new(),
            children_rekeying: HashSet::new(),
            report: Report {
                up: 0,
                resumed: 0,
                failed: 0,
                rekeyed: 0,
                children_rekeyed: 0,
                lost: 0,
                retransmits: 0,
                seconds: 0.0,
                latency: Histogram::new_with_bounds(1, LONGEST, 3)?,
                own_cpu: Duration::ZERO,
                peer_cpu: None,
                rss: None,
            },
        })
    }

    pub(super) fn run(mut self) -> Result<Report> {
        if self.preparing {
            self.set_up(Instant::now())?;
            self.lose();
        }
        let watched =
            |what: fn(u32) -> Result<Duration>, pid: Option<u32>| pid.map(what).transpose();
        let own = std::process::id();
        let (cpu, peer_cpu) = (
            process::cpu(own)?,
            watched(process::cpu, self.arguments.watch)?,
        );
        let rss = self.arguments.watch.map(process::resident).transpose()?;
        let start = Instant::now();
        self.set_up(start)?;
        self.report.seconds = start.elapsed().as_secs_f64();
        self.report.own_cpu = process::cpu(own)?.saturating_sub(cpu);
        let after = watched(process::cpu, self.arguments.watch)?;
        self.report.peer_cpu = after
            .zip(peer_cpu)
            .map(|(after, before)| after.saturating_sub(before));
        if self.arguments.keep {
            // Retransmissions and memory that is given back.
            self.go_on(Instant::now() + Duration::from_secs(2), |_| false)?;
            let after = self.arguments.watch.map(process::resident).transpose()?;
            self.report.rss = rss.zip(after);
            if self.arguments.rekey {
                self.rekey_all()?;
            }
            let hold = Duration::try_from_secs_f64(self.arguments.hold)?;
            self.go_on(Instant::now() + hold, |_| false)?;
            self.leave()?;
        }
        let stats = self.endpoint.stats();
        (self.report.retransmits, self.report.resumed) = (stats.retransmits, stats.resumptions);
        Ok(self.report)
    }

    /// Forgets what is there, as if its peer were out of reach.
    fn lose(&mut self) {
        self.preparing = false;
        for (ike, _) in std::mem::take(&mut self.there) {
            let _ = self.endpoint.lose_ike(Instant::now(), ike);
        }
        self.settle();
        (self.report.up, self.report.failed) = (0, 0);
        self.report.latency.reset();
    }

    fn set_up(&mut self, start: Instant) -> Result<()> {
        let mut next = 0;
        loop {
            let now = Instant::now();
            while next < self.arguments.count {
                let due = match self.arguments.rate {
                    Some(rate) => start + Duration::try_from_secs_f64(next as f64 / rate)?,
                    None if self.begun.len() + self.leaving.len() < self.arguments.initiators => {
                        now
                    }
                    None => break,
                };
                if due > now {
                    break;
                }
                self.begin(next, due)?;
                next += 1;
            }
            if next == self.arguments.count && self.begun.is_empty() && self.leaving.is_empty() {
                return Ok(());
            }
            let wait = self
                .arguments
                .rate
                .map_or(NAP, |_| Duration::from_millis(1));
            self.step(now + wait)?;
        }
    }

    fn begin(&mut self, number: u64, due: Instant) -> Result<()> {
        let connection = self.policy.connection(number, self.peer.ip())?;
        // The SAs keep theirs.
        self.endpoint.set_connections(vec![Arc::new(connection)]);
        let child = self.policy.child().map(str::to_owned);
        self.begun.insert(number, due);
        let name = Policy::name(number);
        self.endpoint
            .initiate(Instant::now(), &name, child.as_deref(), None)?;
        self.settle();
        Ok(())
    }

    /// Sends, waits for datagrams until then at most, takes them in.
    fn step(&mut self, until: Instant) -> Result<()> {
        self.settle();
        let due = self
            .endpoint
            .poll_timeout()
            .map_or(until, |at| at.min(until));
        let wait = due.saturating_duration_since(Instant::now());
        let endpoint = &mut self.endpoint;
        let mut came = Vec::new();
        self.sockets
            .receive(wait, |path, message| came.push((path, message.to_vec())))?;
        for (path, message) in came {
            endpoint.handle_datagram(Instant::now(), path, &message);
        }
        self.endpoint.handle_timeout(Instant::now());
        self.settle();
        Ok(())
    }

    fn go_on(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> Result<()> {
        while Instant::now() < end && !done(self) {
            self.step((Instant::now() + NAP).min(end))?;
        }
        Ok(())
    }

    /// Does what the endpoint wants done.
    fn settle(&mut self) {
        loop {
            while let Some(transmit) = self.endpoint.poll_transmit() {
                self.sockets.send(&transmit);
            }
            let Some(event) = self.endpoint.poll_event() else {
                return;
            };
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::InstallInbound { install, .. } | Event::InstallOutbound { install, .. } => {
                self.endpoint
                    .handle_answer(now, &Answer::Installed(install));
            }
            Event::Job { job, work } => self.endpoint.handle_job(now, job, &work.run()),
            Event::IkeUp { ike } if self.policy.child().is_none() => self.up(now, ike, None),
            Event::ChildUp { ike, child } => self.up(now, ike, Some(child)),
            Event::InitiateFailed {
                connection, reason, ..
            } => {
                tracing::info!(connection, reason, "failed");
                if Policy::number(&connection).is_some_and(|n| self.begun.remove(&n).is_some()) {
                    self.report.failed += 1;
                }
            }
            Event::IkeRekeyed { old, new } => {
                if let Some(child) = self.there.remove(&old) {
                    self.there.insert(new, child);
                }
                if self.rekeying.remove(&old) {
                    self.report.rekeyed += 1;
                    if let Some(Some(child)) = self.there.get(&new).copied()
                        && self.endpoint.rekey_child(now, child).is_ok()
                    {
                        self.children_rekeying.insert(child);
                    }
                }
            }
            Event::ChildRekeyed { old, new } => {
                if self.children_rekeying.remove(&old) {
                    self.report.children_rekeyed += 1;
                }
                let ike = self.endpoint.ike_sa_of(new).map(|sa| sa.id);
                if let Some(child) = ike.and_then(|ike| self.there.get_mut(&ike)) {
                    *child = Some(new);
                }
            }
            Event::IkeDown { ike, reason, .. } => {
                let wanted = self.leaving.remove(&ike);
                // Else the run would wait for their rekeyings until its time is over.
                self.rekeying.remove(&ike);
                let there = self.there.remove(&ike);
                if let Some(Some(child)) = there {
                    self.children_rekeying.remove(&child);
                }
                if there.is_some() && !wanted {
                    tracing::info!(ike = ike.0, reason, "lost");
                    self.report.lost += 1;
                }
            }
            _ => {}
        }
    }

    fn up(&mut self, now: Instant, ike: IkeId, child: Option<ChildId>) {
        let number = self.endpoint.ike_sa(ike);
        let number = number.and_then(|sa| Policy::number(sa.connection));
        let Some(due) = number.and_then(|number| self.begun.remove(&number)) else {
            return;
        };
        self.report.up += 1;
        let micros = now.saturating_duration_since(due).as_micros();
        self.report
            .latency
            .saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        self.there.insert(ike, child);
        if !self.arguments.keep && !self.preparing {
            self.leaving.insert(ike);
            let _ = self.endpoint.terminate_ike(now, ike);
        }
    }

    /// Every IKE SA, then its child; then each peer is asked whether it lives.
    fn rekey_all(&mut self) -> Result<()> {
        self.to_rekey = self.there.keys().copied().collect();
        let end = Instant::now() + Duration::from_secs(600);
        while Instant::now() < end {
            let now = Instant::now();
            while self.rekeying.len() + self.children_rekeying.len() < REKEYINGS
                && let Some(ike) = self.to_rekey.pop_front()
            {
                if self.endpoint.rekey_ike(now, ike).is_ok() {
                    self.rekeying.insert(ike);
                }
            }
            let idle = self.rekeying.is_empty() && self.children_rekeying.is_empty();
            if self.to_rekey.is_empty() && idle {
                break;
            }
            self.step(now + NAP)?;
        }
        let all: Vec<IkeId> = self.there.keys().copied().collect();
        for some in all.chunks(REKEYINGS) {
            for ike in some {
                let _ = self.endpoint.check_liveness(Instant::now(), *ike);
            }
            self.step(Instant::now() + NAP)?;
        }
        self.go_on(Instant::now() + Duration::from_secs(5), |_| false)
    }

    fn leave(&mut self) -> Result<()> {
        let all: Vec<IkeId> = self.there.keys().copied().collect();
        for some in all.chunks(REKEYINGS) {
            for ike in some {
                self.leaving.insert(*ike);
                let _ = self.endpoint.terminate_ike(Instant::now(), *ike);
            }
            let end = Instant::now() + Duration::from_secs(10);
            self.go_on(end, |this| this.leaving.is_empty())?;
        }
        Ok(())
    }
}
