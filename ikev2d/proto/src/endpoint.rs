// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every IKE SA of a daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use crate::config::{Connection, EndpointConfig, Identity, Secret};
use crate::crypto::Crypto;
use crate::event::{Answer, ChildId, ChildSa, Event, IkeId, InstallId, Path, Transmit};
use crate::exchange::init::{InitRequest, choose};
use crate::ike_sa::{Ctx, IkeSa, Outputs, State, Task, notifies};
use crate::proposal::IkeSuite;
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, Header, VERSION, WireError, exchange, notify,
};

/// Octets of the secret that cookies are made with.
const COOKIE_SECRET: usize = 32;

/// IKE without I/O: see the crate's documentation.
pub struct Endpoint {
    config: EndpointConfig,
    crypto: Arc<dyn Crypto>,
    connections: Vec<Arc<Connection>>,
    secrets: Vec<Secret>,
    sas: BTreeMap<IkeId, IkeSa>,
    out: Outputs,
    /// The present cookie secret and the one before it.
    cookie_secrets: [Vec<u8>; 2],
    cookies_made: u32,
    stats: Stats,
}

/// What an endpoint has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// IKE SAs being set up by peers.
    pub half_open: usize,
    /// IKE SAs established.
    pub established: usize,
    /// Child SAs.
    pub children: usize,
    /// Cookies asked for.
    pub cookies: u64,
    /// Requests sent again.
    pub retransmits: u64,
    /// Datagrams that were no IKE message.
    pub malformed: u64,
    /// Messages for an SA that is not there.
    pub unknown_spi: u64,
    /// Peers that failed to authenticate.
    pub auth_failures: u64,
}

/// An IKE SA for people.
#[derive(Debug)]
pub struct IkeSaInfo<'a> {
    /// Its number.
    pub id: IkeId,
    /// Its connection.
    pub connection: &'a str,
    /// `CONNECTING`, `ESTABLISHED` or `DELETING`, as strongSwan has it.
    pub state: &'static str,
    /// Whether we began it.
    pub initiator: bool,
    /// Initiator's SPI.
    pub spi_i: u64,
    /// Responder's SPI.
    pub spi_r: u64,
    /// Ends.
    pub path: Path,
    /// Who we are.
    pub local_id: &'a Identity,
    /// Who the peer is.
    pub remote_id: &'a Identity,
    /// Algorithms.
    pub suite: Option<IkeSuite>,
    /// Whether we are behind a NAT.
    pub nat_local: bool,
    /// Whether the peer is.
    pub nat_remote: bool,
    /// When it was established.
    pub established: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When it will be deleted.
    pub expire_at: Option<Instant>,
    /// Its children.
    pub children: Vec<ChildInfo<'a>>,
}

/// A child SA for people.
#[derive(Debug)]
pub struct ChildInfo<'a> {
    /// Its parameters, without keys.
    pub sa: &'a ChildSa,
    /// `INSTALLED`, `REKEYING` or `INSTALLING`.
    pub state: &'static str,
    /// When it was installed.
    pub installed: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
}

/// Nothing could be begun.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitiateError {
    /// No connection has this name.
    #[error("no connection {name:?}")]
    UnknownConnection {
        /// The name.
        name: String,
    },
    /// The connection has no such child.
    #[error("connection {connection:?} has no child {child:?}")]
    UnknownChild {
        /// The connection.
        connection: String,
        /// The name.
        child: String,
    },
    /// The connection names no single peer address.
    #[error("connection {connection:?} has no single address in {what}")]
    NoAddress {
        /// The connection.
        connection: String,
        /// Which setting.
        what: &'static str,
    },
    /// The cryptography refused.
    #[error("IKE_SA_INIT could not be made")]
    Crypto,
}

/// No IKE or child SA has this number.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("no such SA")]
pub struct UnknownSa;

impl Endpoint {
    /// An endpoint without connections.
    pub fn new(config: EndpointConfig, crypto: Arc<dyn Crypto>) -> Self {
        let secret = || {
            let mut secret = vec![0; COOKIE_SECRET];
            crypto.random(&mut secret);
            secret
        };
        Self {
            cookie_secrets: [secret(), secret()],
            cookies_made: 0,
            config,
            connections: Vec::new(),
            secrets: Vec::new(),
            sas: BTreeMap::new(),
            out: Outputs::default(),
            stats: Stats::default(),
            crypto,
        }
    }

    /// Replaces the policy; what is established stays.
    pub fn set_connections(&mut self, connections: Vec<Arc<Connection>>) {
        self.connections = connections;
    }

    /// Replaces the preshared keys.
    pub fn set_secrets(&mut self, secrets: Vec<Secret>) {
        self.secrets = secrets;
    }

    /// The policy.
    pub fn connections(&self) -> &[Arc<Connection>] {
        &self.connections
    }

    fn with<R>(
        &mut self,
        now: Instant,
        step: impl FnOnce(&mut BTreeMap<IkeId, IkeSa>, &mut Ctx<'_>) -> R,
    ) -> R {
        let mut ctx = Ctx {
            crypto: &*self.crypto,
            config: &self.config,
            connections: &self.connections,
            secrets: &self.secrets,
            out: &mut self.out,
            now,
        };
        let result = step(&mut self.sas, &mut ctx);
        for born in std::mem::take(&mut ctx.out.born) {
            self.sas.insert(born.id, born);
        }
        if let Some(winner) = ctx.out.initial_contact.take() {
            let peer = self
                .sas
                .get(&winner)
                .map(|sa| (sa.remote_id.clone(), sa.local_id.clone()));
            let others = self
                .sas
                .values_mut()
                .filter(|sa| sa.id != winner && sa.established.is_some());
            for sa in others.filter(|sa| peer == Some((sa.remote_id.clone(), sa.local_id.clone())))
            {
                sa.die(&mut ctx, "the peer made initial contact");
            }
        }
        self.sas.retain(|_, sa| sa.state != State::Dead);
        result
    }

    fn on(
        &mut self,
        now: Instant,
        ike: IkeId,
        step: impl FnOnce(&mut IkeSa, &mut Ctx<'_>),
    ) -> Result<(), UnknownSa> {
        self.with(now, |sas, ctx| {
            let sa = sas.get_mut(&ike).ok_or(UnknownSa)?;
            step(sa, ctx);
            sa.pump(ctx);
            Ok(())
        })
    }

    /// Takes in a datagram (without the non-ESP marker of port 4500).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, datagram: &[u8]) {
        let header = match Header::parse(datagram) {
            Ok(header) => header,
            Err(error) => {
                self.stats.malformed += 1;
                if let WireError::Version { .. } = error {
                    self.refuse_version(path, datagram);
                }
                return;
            }
        };
        let first = header.exchange == exchange::IKE_SA_INIT
            && header.flags & (FLAG_INITIATOR | FLAG_RESPONSE) == FLAG_INITIATOR
            && header.spi_r.get() == 0
            && header.message_id.get() == 0;
        let spi_i = header.spi_i.get();
        if first && spi_i != 0 {
            let known = self
                .sas
                .values()
                .find(|sa| !sa.initiator && sa.spi_i == spi_i && sa.path.remote == path.remote);
            match known.map(|sa| sa.id) {
                Some(id) => {
                    let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, &header, datagram));
                }
                None => self.begin_response(now, path, &header, datagram),
            }
            return;
        }
        let own = if header.flags & FLAG_INITIATOR != 0 {
            header.spi_r.get()
        } else {
            spi_i
        };
        let found = self
            .sas
            .values()
            .find(|sa| sa.own_spi() == own && (header.flags & FLAG_INITIATOR == 0) == sa.initiator);
        match found.map(|sa| sa.id) {
            Some(id) => {
                let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, &header, datagram));
            }
            None => self.stats.unknown_spi += 1,
        }
    }

    /// §2.5: a later version is told which one we speak.
    fn refuse_version(&mut self, path: Path, datagram: &[u8]) {
        const INVALID_MAJOR_VERSION: u16 = 5;
        use zerocopy::FromBytes;
        let Ok((header, _)) = Header::read_from_prefix(datagram) else {
            return;
        };
        if header.version >> 4 < 3 || header.is_response() {
            return;
        }
        let mut chain = Chain::default();
        chain.notify(INVALID_MAJOR_VERSION, &[]);
        self.reply_statelessly(path, &header, chain);
    }

    fn reply_statelessly(&mut self, path: Path, header: &Header, chain: Chain) {
        let reply = Header {
            version: VERSION,
            flags: FLAG_RESPONSE,
            ..*header
        };
        let payload = chain.into_message(reply);
        self.out.transmits.push_back(Transmit {
            path,
            payload,
            keepalive: false,
        });
    }

    fn begin_response(&mut self, now: Instant, path: Path, header: &Header, message: &[u8]) {
        let Ok(request) = InitRequest::parse(header, message) else {
            self.stats.malformed += 1;
            return;
        };
        let half_open = self
            .sas
            .values()
            .filter(|sa| !sa.initiator && sa.state == State::Connecting);
        let of_address = half_open
            .clone()
            .filter(|sa| sa.path.remote.ip() == path.remote.ip())
            .count();
        if half_open.count() >= self.config.cookie_threshold
            || of_address >= self.config.half_open_per_address
        {
            let given = notifies(&request.parts).find(|notify| notify.kind == notify::COOKIE);
            let valid = given.is_some_and(|given| {
                self.cookie_secrets.iter().any(|secret| {
                    let expected = self.cookie(secret, &request, path, header.spi_i.get());
                    self.crypto.equal(&expected, given.data)
                })
            });
            if !valid || of_address >= self.config.half_open_per_address * 2 {
                return self.ask_cookie(path, header, &request);
            }
        }
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let candidates = self
            .connections
            .iter()
            .filter(|c| addresses_match(c, local, remote));
        let mut chosen = None;
        let mut any = false;
        for connection in candidates {
            any = true;
            if let Some(choice) = choose(&connection.proposals, &request.proposals) {
                chosen = Some((connection.clone(), choice));
                break;
            }
        }
        let Some((connection, choice)) = chosen else {
            tracing::info!(%remote, known = any, "no connection or proposal fits");
            let mut chain = Chain::default();
            chain.notify(notify::NO_PROPOSAL_CHOSEN, &[]);
            return self.reply_statelessly(path, header, chain);
        };
        if request.group != choice.0.group as u16 {
            let mut chain = Chain::default();
            chain.notify(
                notify::INVALID_KE_PAYLOAD,
                &(choice.0.group as u16).to_be_bytes(),
            );
            return self.reply_statelessly(path, header, chain);
        }
        let spi_i = header.spi_i.get();
        self.with(now, |sas, ctx| {
            let spi_r = ctx.random_u64();
            let mut sa = IkeSa::new(ctx, connection, false, (spi_i, spi_r), path);
            if sa.answer_init(ctx, &request, choice, message).is_ok() {
                sas.insert(sa.id, sa);
            }
        });
    }

    /// §2.6: a hash over what the initiator repeats, so that no state is kept.
    fn cookie(&self, secret: &[u8], request: &InitRequest<'_>, path: Path, spi_i: u64) -> Vec<u8> {
        let address = match path.remote.ip() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let prf = crate::algorithm::Prf::HmacSha256;
        let parts: [&[u8]; 3] = [request.nonce, &address, &spi_i.to_be_bytes()];
        self.crypto
            .prf(prf, secret, &parts)
            .map(|cookie| cookie.to_vec())
            .unwrap_or_default()
    }

    fn ask_cookie(&mut self, path: Path, header: &Header, request: &InitRequest<'_>) {
        const ROTATE_AFTER: u32 = 10_000;
        self.stats.cookies += 1;
        self.cookies_made += 1;
        if self.cookies_made >= ROTATE_AFTER {
            self.cookies_made = 0;
            let mut fresh = vec![0; COOKIE_SECRET];
            self.crypto.random(&mut fresh);
            self.cookie_secrets.swap(0, 1);
            self.cookie_secrets[0] = fresh;
        }
        let cookie = self.cookie(&self.cookie_secrets[0], request, path, header.spi_i.get());
        if cookie.is_empty() {
            return;
        }
        let mut chain = Chain::default();
        chain.notify(notify::COOKIE, &cookie);
        self.reply_statelessly(path, header, chain);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let config = self.config.clone();
        self.with(now, |sas, ctx| {
            for sa in sas.values_mut() {
                if sa.timeout(&config).is_some_and(|at| at <= now) {
                    sa.handle_timeout(ctx);
                }
            }
        });
    }

    /// Takes in what was done about an event.
    pub fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        let (install, failure): (InstallId, Option<&str>) = match answer {
            Answer::Installed(install) => (*install, None),
            Answer::Failed { install, reason } => (*install, Some(reason)),
        };
        self.with(now, |sas, ctx| {
            for sa in sas.values_mut() {
                sa.answered(ctx, install, failure);
            }
        });
    }

    /// Sets a connection up, or a further child on its established IKE SA. `local` is the address to
    /// send from where the connection does not say.
    ///
    /// # Errors
    /// [`InitiateError`].
    pub fn initiate(
        &mut self,
        now: Instant,
        connection: &str,
        child: Option<&str>,
        local: Option<IpAddr>,
    ) -> Result<IkeId, InitiateError> {
        let unknown = || InitiateError::UnknownConnection {
            name: connection.to_owned(),
        };
        let found = self
            .connections
            .iter()
            .find(|c| c.name == connection)
            .cloned();
        let connection = found.ok_or_else(unknown)?;
        if let Some(name) = child
            && !connection.children.iter().any(|c| c.name == name)
        {
            let (connection, child) = (connection.name.clone(), name.to_owned());
            return Err(InitiateError::UnknownChild { connection, child });
        }
        let task = child.map(|name| Task::Child {
            name: name.to_owned(),
            rekeys: None,
            group: None,
            not_before: None,
        });
        let present = self.sas.values().find(|sa| {
            sa.connection.name == connection.name
                && !sa.replaced
                && matches!(sa.state, State::Established | State::Connecting)
                && (sa.state == State::Established || sa.initiator)
        });
        if let Some(id) = present.map(|sa| sa.id) {
            let _ = self.on(now, id, |sa, _| sa.tasks.extend(task));
            return Ok(id);
        }
        let no_address = |what| InitiateError::NoAddress {
            connection: connection.name.clone(),
            what,
        };
        let single = |patterns: &[crate::config::AddressPattern]| {
            patterns
                .iter()
                .find_map(crate::config::AddressPattern::single)
        };
        let remote = single(&connection.remote_addrs).ok_or_else(|| no_address("remote_addrs"))?;
        let local = single(&connection.local_addrs)
            .or(local)
            .ok_or_else(|| no_address("local_addrs"))?;
        let path = Path {
            local: SocketAddr::new(local, self.config.ike_port),
            remote: SocketAddr::new(remote, connection.remote_port),
        };
        self.with(now, |sas, ctx| {
            let spi_i = ctx.random_u64();
            let mut sa = IkeSa::new(ctx, connection, true, (spi_i, 0), path);
            sa.tasks.extend(task);
            sa.start_init(ctx).map_err(|_| InitiateError::Crypto)?;
            let id = sa.id;
            sas.insert(id, sa);
            Ok(id)
        })
    }

    /// Deletes an IKE SA with its children.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn terminate_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| {
            if sa.state == State::Connecting {
                sa.die(ctx, "terminated");
            } else {
                sa.tasks.clear();
                sa.tasks.push_back(Task::DeleteIke {
                    reason: "terminated".to_owned(),
                });
            }
        })
    }

    fn ike_of(&self, child: ChildId) -> Result<IkeId, UnknownSa> {
        let has = |sa: &&IkeSa| sa.children.iter().any(|c| c.sa.id == child);
        self.sas.values().find(has).map(|sa| sa.id).ok_or(UnknownSa)
    }

    /// Deletes a child SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn terminate_child(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let ike = self.ike_of(child)?;
        self.on(now, ike, |sa, _| {
            sa.tasks.push_back(Task::DeleteChild(child))
        })
    }

    /// Rekeys an IKE SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn rekey_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, _| {
            sa.tasks.push_back(Task::RekeyIke {
                group: None,
                not_before: None,
            });
        })
    }

    /// Rekeys a child SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn rekey_child(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let ike = self.ike_of(child)?;
        self.on(now, ike, |sa, _| sa.rekey_child(child))
    }

    /// Asks a peer whether it lives.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn check_liveness(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, _| sa.tasks.push_back(Task::Liveness))
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sas
            .values()
            .filter_map(|sa| sa.timeout(&self.config))
            .min()
    }

    /// Every IKE SA.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaInfo<'_>> {
        self.sas.values().map(|sa| IkeSaInfo {
            id: sa.id,
            connection: &sa.connection.name,
            state: match sa.state {
                State::Connecting => "CONNECTING",
                State::Established if sa.busy() && sa.replaced => "REKEYED",
                State::Established => "ESTABLISHED",
                State::Deleting | State::Dead => "DELETING",
            },
            initiator: sa.initiator,
            spi_i: sa.spi_i,
            spi_r: sa.spi_r,
            path: sa.path,
            local_id: &sa.local_id,
            remote_id: &sa.remote_id,
            suite: sa.suite,
            nat_local: sa.nat_local,
            nat_remote: sa.nat_remote,
            established: sa.established,
            rekey_at: sa.rekey_at,
            expire_at: sa.expire_at,
            children: sa
                .children
                .iter()
                .map(|child| ChildInfo {
                    sa: &child.sa,
                    state: match (child.busy, child.install) {
                        (_, Some(_)) => "INSTALLING",
                        (true, None) => "REKEYING",
                        (false, None) => "INSTALLED",
                    },
                    installed: child.installed,
                    rekey_at: child.rekey_at,
                })
                .collect(),
        })
    }

    /// What was seen so far.
    pub fn stats(&self) -> Stats {
        let connecting = |sa: &&IkeSa| sa.state == State::Connecting && !sa.initiator;
        Stats {
            half_open: self.sas.values().filter(connecting).count(),
            established: self
                .sas
                .values()
                .filter(|sa| sa.established.is_some())
                .count(),
            children: self.sas.values().map(|sa| sa.children.len()).sum(),
            retransmits: self.out.retransmits,
            auth_failures: self.out.auth_failures,
            ..self.stats
        }
    }
}

/// Whether a connection may be used between two addresses.
pub(crate) fn addresses_match(connection: &Connection, local: IpAddr, remote: IpAddr) -> bool {
    let fits = |patterns: &[crate::config::AddressPattern], address: IpAddr| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(address))
    };
    fits(&connection.local_addrs, local) && fits(&connection.remote_addrs, remote)
}
