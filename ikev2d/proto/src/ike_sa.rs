// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One IKE SA: its state, its window of one message each way (RFC 7296 §2.1 to §2.3), its timers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{ChildConfig, Connection, EndpointConfig, Identity, Secret};
use crate::crypto::{Crypto, CryptoError, KeyExchange};
use crate::event::{ChildId, ChildSa, Event, IkeId, InstallId, Path, Transmit};
use crate::keymat::IkeKeys;
use crate::proposal::IkeSuite;
use crate::sk;
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, Header, Payload, VERSION, exchange, notify, payload,
    payloads,
};

/// Octets of our nonces.
pub(crate) const NONCE_LEN: usize = 32;

/// What a step may use and leave behind.
pub(crate) struct Ctx<'a> {
    pub(crate) crypto: &'a dyn Crypto,
    pub(crate) config: &'a EndpointConfig,
    pub(crate) connections: &'a [Arc<Connection>],
    pub(crate) secrets: &'a [Secret],
    pub(crate) out: &'a mut Outputs,
    pub(crate) now: Instant,
}

/// What an endpoint has to give.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) last_id: u64,
    /// An IKE SA that replaces the endpoint's other ones with its peer.
    pub(crate) initial_contact: Option<IkeId>,
    /// A new IKE SA out of a rekeying.
    pub(crate) born: Vec<IkeSa>,
    pub(crate) retransmits: u64,
    pub(crate) auth_failures: u64,
}

impl Outputs {
    pub(crate) fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

impl Ctx<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.out.events.push_back(event);
    }

    pub(crate) fn random(&self, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.crypto.random(&mut octets);
        octets
    }

    pub(crate) fn random_u64(&self) -> u64 {
        let mut octets = [0; 8];
        self.crypto.random(&mut octets);
        // Zero is "no SPI" on the wire.
        u64::from_be_bytes(octets).max(1)
    }
}

/// Where an IKE SA stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// IKE_SA_INIT goes on (initiator), or IKE_AUTH is awaited (responder).
    Connecting,
    /// Authenticated.
    Established,
    /// Its deletion is under way.
    Deleting,
    /// To be forgotten.
    Dead,
}

pub(crate) struct IkeSa {
    pub(crate) id: IkeId,
    pub(crate) connection: Arc<Connection>,
    /// Whether we are the original initiator.
    pub(crate) initiator: bool,
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
    pub(crate) path: Path,
    pub(crate) state: State,
    pub(crate) suite: Option<IkeSuite>,
    pub(crate) keys: Option<IkeKeys>,
    pub(crate) init: InitMaterial,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    pub(crate) nat_local: bool,
    pub(crate) nat_remote: bool,
    pub(crate) encap: bool,
    next_request: u32,
    expected_request: u32,
    last_response: Option<Vec<u8>>,
    outstanding: Option<Outstanding>,
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) pending: Option<Pending>,
    pub(crate) children: Vec<Child>,
    pub(crate) created: Instant,
    pub(crate) established: Option<Instant>,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) expire_at: Option<Instant>,
    last_heard: Instant,
    last_sent: Instant,
    /// Whether it was rekeyed and only waits for its deletion.
    pub(crate) replaced: bool,
}

/// What IKE_SA_INIT leaves for IKE_AUTH.
#[derive(Default)]
pub(crate) struct InitMaterial {
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    /// The first message of each side, as sent (§2.15).
    pub(crate) message_i: Vec<u8>,
    pub(crate) message_r: Vec<u8>,
    pub(crate) exchange: Option<Box<dyn KeyExchange>>,
    pub(crate) group: Option<crate::algorithm::Group>,
    pub(crate) cookie: Vec<u8>,
    /// Restarts by COOKIE or INVALID_KE_PAYLOAD.
    pub(crate) restarts: u32,
    pub(crate) child_spi: u32,
}

struct Outstanding {
    id: u32,
    message: Vec<u8>,
    request: Request,
    tries: u32,
    at: Instant,
    wait: Duration,
}

/// What a request of ours asked for.
pub(crate) enum Request {
    Init,
    Auth,
    CreateChild(Box<ChildRequest>),
    RekeyIke(Box<RekeyRequest>),
    DeleteIke { reason: String },
    DeleteChild(ChildId),
    Liveness,
}

pub(crate) struct ChildRequest {
    pub(crate) config: ChildConfig,
    pub(crate) spi_in: u32,
    pub(crate) nonce: Vec<u8>,
    pub(crate) exchange: Option<(crate::algorithm::Group, Box<dyn KeyExchange>)>,
    pub(crate) rekeys: Option<ChildId>,
}

pub(crate) struct RekeyRequest {
    pub(crate) spi: u64,
    pub(crate) nonce: Vec<u8>,
    pub(crate) group: crate::algorithm::Group,
    pub(crate) exchange: Box<dyn KeyExchange>,
}

/// What to do when the window is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Child {
        name: String,
        rekeys: Option<ChildId>,
        group: Option<crate::algorithm::Group>,
        not_before: Option<Instant>,
    },
    RekeyIke {
        group: Option<crate::algorithm::Group>,
        not_before: Option<Instant>,
    },
    DeleteIke {
        reason: String,
    },
    DeleteChild(ChildId),
    Liveness,
}

/// A response that waits for an installation.
pub(crate) struct Pending {
    pub(crate) install: InstallId,
    pub(crate) message_id: u32,
    pub(crate) exchange: u8,
    pub(crate) installed: Chain,
    pub(crate) failed: Chain,
    pub(crate) child: Child,
    pub(crate) rekeys: Option<ChildId>,
}

/// A child SA.
pub(crate) struct Child {
    pub(crate) sa: ChildSa,
    pub(crate) installed: Instant,
    pub(crate) rekey_at: Option<Instant>,
    /// A rekeying or deletion of ours is under way.
    pub(crate) busy: bool,
    /// The outbound SA waits until the old one is deleted, or for this long.
    pub(crate) outbound_at: Option<Instant>,
    /// The installation that is awaited.
    pub(crate) install: Option<InstallId>,
}

impl IkeSa {
    pub(crate) fn new(
        ctx: &mut Ctx<'_>,
        connection: Arc<Connection>,
        initiator: bool,
        (spi_i, spi_r): (u64, u64),
        path: Path,
    ) -> Self {
        Self {
            id: IkeId(ctx.out.id()),
            initiator,
            spi_i,
            spi_r,
            path,
            state: State::Connecting,
            suite: None,
            keys: None,
            init: InitMaterial::default(),
            local_id: connection.local_id.clone(),
            remote_id: Identity::Any,
            nat_local: false,
            nat_remote: false,
            encap: connection.encap,
            next_request: 0,
            expected_request: 0,
            last_response: None,
            outstanding: None,
            tasks: VecDeque::new(),
            pending: None,
            children: Vec::new(),
            created: ctx.now,
            established: None,
            rekey_at: None,
            expire_at: None,
            last_heard: ctx.now,
            last_sent: ctx.now,
            replaced: false,
            connection,
        }
    }

    /// The SPI that we are known by.
    pub(crate) fn own_spi(&self) -> u64 {
        if self.initiator {
            self.spi_i
        } else {
            self.spi_r
        }
    }

    fn header(&self, exchange: u8, id: u32, response: bool) -> Header {
        let initiator = if self.initiator { FLAG_INITIATOR } else { 0 };
        let response = if response { FLAG_RESPONSE } else { 0 };
        Header {
            spi_i: self.spi_i.into(),
            spi_r: self.spi_r.into(),
            next_payload: 0,
            version: VERSION,
            exchange,
            flags: initiator | response,
            message_id: id.into(),
            len: 0.into(),
        }
    }

    pub(crate) fn send(&mut self, ctx: &mut Ctx<'_>, message: Vec<u8>) {
        self.last_sent = ctx.now;
        let path = self.path;
        ctx.out.transmits.push_back(Transmit {
            path,
            payload: message,
            keepalive: false,
        });
    }

    /// Sends a request and remembers it until its response comes.
    pub(crate) fn request(
        &mut self,
        ctx: &mut Ctx<'_>,
        exchange_type: u8,
        chain: &Chain,
        request: Request,
    ) -> Result<(), CryptoError> {
        let id = self.next_request;
        let header = self.header(exchange_type, id, false);
        let message = match (&self.suite, &self.keys) {
            (Some(suite), Some(keys)) if exchange_type != exchange::IKE_SA_INIT => {
                sk::seal(ctx.crypto, suite, keys, self.initiator, header, chain)?
            }
            _ => return Err(CryptoError),
        };
        self.post(ctx, id, message, request);
        Ok(())
    }

    /// Sends a request that is ready.
    pub(crate) fn post(&mut self, ctx: &mut Ctx<'_>, id: u32, message: Vec<u8>, request: Request) {
        self.next_request = id + 1;
        let wait = ctx.config.retransmit_timeout;
        self.outstanding = Some(Outstanding {
            id,
            message: message.clone(),
            request,
            tries: 0,
            at: ctx.now + wait,
            wait,
        });
        self.send(ctx, message);
    }

    /// The header of our first message.
    pub(crate) fn init_header(&self, response: bool) -> Header {
        self.header(exchange::IKE_SA_INIT, 0, response)
    }

    /// Sends the response to the request that is expected, and keeps it for repetitions.
    pub(crate) fn respond(&mut self, ctx: &mut Ctx<'_>, exchange_type: u8, id: u32, chain: &Chain) {
        let header = self.header(exchange_type, id, true);
        let (Some(suite), Some(keys)) = (&self.suite, &self.keys) else {
            return;
        };
        match sk::seal(ctx.crypto, suite, keys, self.initiator, header, chain) {
            Ok(message) => self.respond_with(ctx, id, message),
            Err(_) => tracing::error!(ike = self.id.0, "response could not be sealed"),
        }
    }

    pub(crate) fn respond_with(&mut self, ctx: &mut Ctx<'_>, id: u32, message: Vec<u8>) {
        self.expected_request = id.wrapping_add(1);
        self.last_response = Some(message.clone());
        self.send(ctx, message);
    }

    pub(crate) fn respond_notify(
        &mut self,
        ctx: &mut Ctx<'_>,
        exchange_type: u8,
        id: u32,
        kind: u16,
        data: &[u8],
    ) {
        let mut chain = Chain::default();
        chain.notify(kind, data);
        self.respond(ctx, exchange_type, id, &chain);
    }

    /// Takes in a message that names this SA.
    pub(crate) fn handle(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) {
        if header.exchange == exchange::IKE_SA_INIT {
            if header.is_response() {
                self.handle_init_response(ctx, header, message);
            } else if let Some(response) = &self.last_response
                && self.expected_request == 1
                && self.init.message_i == message
            {
                let response = response.clone();
                self.send(ctx, response);
            }
            return;
        }
        let (Some(suite), Some(keys)) = (&self.suite, &self.keys) else {
            return;
        };
        let by_initiator = header.flags & FLAG_INITIATOR != 0;
        if by_initiator == self.initiator {
            return;
        }
        let Ok((first, inner)) = sk::open(ctx.crypto, suite, keys, by_initiator, message) else {
            tracing::debug!(ike = self.id.0, "message fails its integrity check");
            return;
        };
        self.last_heard = ctx.now;
        self.follow(ctx, path);
        let id = header.message_id.get();
        let parsed = payloads(first, &inner);
        if header.is_response() {
            if self
                .outstanding
                .as_ref()
                .is_none_or(|outstanding| outstanding.id != id)
            {
                return;
            }
            let Some(outstanding) = self.outstanding.take() else {
                return;
            };
            match parsed {
                Ok(parts) => self.handle_response(ctx, outstanding.request, &parts),
                Err(error) => self.die(ctx, &format!("malformed response: {error}")),
            }
        } else if id.wrapping_add(1) == self.expected_request {
            if let Some(response) = &self.last_response {
                let response = response.clone();
                self.send(ctx, response);
            }
        } else if id == self.expected_request && self.pending.is_none() {
            match parsed {
                Ok(parts) => self.handle_request(ctx, header, message, &parts),
                Err(crate::wire::WireError::Critical { kind }) => {
                    let notify = notify::UNSUPPORTED_CRITICAL_PAYLOAD;
                    self.respond_notify(ctx, header.exchange, id, notify, &[kind]);
                }
                Err(_) => {
                    self.respond_notify(ctx, header.exchange, id, notify::INVALID_SYNTAX, &[]);
                    if self.state != State::Established {
                        self.die(ctx, "malformed request");
                    }
                }
            }
        }
        self.pump(ctx);
    }

    /// A peer behind a NAT may come from elsewhere: answer there (§2.23).
    fn follow(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        if path == self.path {
            return;
        }
        let port_only = path.remote.ip() == self.path.remote.ip();
        if self.nat_remote || port_only {
            self.path = path;
            if self.state == State::Established {
                let ike = self.id;
                ctx.event(Event::PathChanged { ike, path });
            }
        }
    }

    fn handle_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        _message: &[u8],
        parts: &[Payload<'_>],
    ) {
        let id = header.message_id.get();
        match (header.exchange, self.state) {
            (exchange::IKE_AUTH, State::Connecting) if !self.initiator => {
                self.handle_auth_request(ctx, id, parts);
            }
            // Nothing else before authentication.
            (_, State::Connecting | State::Dead) => {}
            (exchange::CREATE_CHILD_SA, State::Established) => {
                self.handle_create_child(ctx, id, parts);
            }
            (exchange::INFORMATIONAL, _) => self.handle_informational(ctx, id, parts),
            (exchange::CREATE_CHILD_SA, State::Deleting) => {
                self.respond_notify(ctx, header.exchange, id, notify::TEMPORARY_FAILURE, &[]);
            }
            _ => self.respond_notify(ctx, header.exchange, id, notify::INVALID_SYNTAX, &[]),
        }
    }

    fn handle_response(&mut self, ctx: &mut Ctx<'_>, request: Request, parts: &[Payload<'_>]) {
        match request {
            Request::Init => {}
            Request::Auth => self.handle_auth_response(ctx, parts),
            Request::CreateChild(request) => self.handle_child_response(ctx, *request, parts),
            Request::RekeyIke(request) => self.handle_rekey_response(ctx, *request, parts),
            Request::DeleteIke { reason } => self.die(ctx, &reason),
            Request::DeleteChild(child) => self.drop_child(ctx, child, "deleted"),
            Request::Liveness => {}
        }
    }

    pub(crate) fn busy(&self) -> bool {
        self.outstanding.is_some()
    }

    /// What the outstanding request asks for.
    pub(crate) fn asking(&self) -> Option<&Request> {
        self.outstanding
            .as_ref()
            .map(|outstanding| &outstanding.request)
    }

    /// The response that IKE_SA_INIT got: its request is done.
    pub(crate) fn take_init_request(&mut self) -> bool {
        let init = matches!(self.asking(), Some(Request::Init));
        if init {
            self.outstanding = None;
        }
        init
    }

    /// IKE_SA_INIT starts anew with message id 0.
    pub(crate) fn rewind(&mut self) {
        self.next_request = 0;
    }

    /// Starts the next task when the window is free.
    pub(crate) fn pump(&mut self, ctx: &mut Ctx<'_>) {
        while self.outstanding.is_none()
            && matches!(self.state, State::Established | State::Deleting)
        {
            let now = ctx.now;
            let ready = |task: &Task| match task {
                Task::Child { not_before, .. } | Task::RekeyIke { not_before, .. } => {
                    not_before.is_none_or(|at| at <= now)
                }
                _ => true,
            };
            let Some(at) = self.tasks.iter().position(ready) else {
                return;
            };
            let Some(task) = self.tasks.remove(at) else {
                return;
            };
            let started = match task {
                Task::Child {
                    name,
                    rekeys,
                    group,
                    ..
                } => self.start_child(ctx, &name, rekeys, group),
                Task::RekeyIke { group, .. } => self.start_rekey(ctx, group),
                Task::DeleteIke { reason } => self.start_delete(ctx, reason),
                Task::DeleteChild(child) => self.start_delete_child(ctx, child),
                Task::Liveness => {
                    let chain = Chain::default();
                    self.request(ctx, exchange::INFORMATIONAL, &chain, Request::Liveness)
                }
            };
            if started.is_err() {
                tracing::error!(ike = self.id.0, "a request could not be made");
            }
        }
    }

    /// It is authenticated from now on.
    pub(crate) fn establish(&mut self, ctx: &mut Ctx<'_>) {
        self.state = State::Established;
        self.established = Some(ctx.now);
        self.init.exchange = None;
        self.arm_rekey(ctx);
        let ike = self.id;
        ctx.event(Event::IkeUp { ike });
    }

    pub(crate) fn arm_rekey(&mut self, ctx: &Ctx<'_>) {
        let Some(time) = self.connection.rekey_time else {
            return;
        };
        self.rekey_at = Some(ctx.now + jittered(ctx, time));
        self.expire_at = Some(ctx.now + time + self.connection.over_time);
    }

    pub(crate) fn log_keys(&self, ctx: &mut Ctx<'_>) {
        if let (true, Some(keys), Some(suite)) = (ctx.config.key_log, &self.keys, self.suite) {
            ctx.event(Event::IkeKeys(Box::new(crate::event::IkeKeyLog {
                spi_i: self.spi_i,
                spi_r: self.spi_r,
                suite,
                sk_ei: keys.ei.clone(),
                sk_er: keys.er.clone(),
                sk_ai: keys.ai.clone(),
                sk_ar: keys.ar.clone(),
            })));
        }
    }

    /// It is gone, with its children.
    pub(crate) fn die(&mut self, ctx: &mut Ctx<'_>, reason: &str) {
        if self.state == State::Dead {
            return;
        }
        let connecting = self.state == State::Connecting;
        self.state = State::Dead;
        if let Some(pending) = self.pending.take() {
            self.children.push(pending.child);
        }
        for child in std::mem::take(&mut self.children) {
            ctx.event(Event::RetireChild { child: child.sa.id });
            ctx.event(Event::ChildDown {
                child: child.sa.id,
                reason: reason.to_owned(),
            });
        }
        let connection = self.connection.name.clone();
        if connecting && self.initiator {
            let child = self.tasks.iter().find_map(|task| match task {
                Task::Child { name, .. } => Some(name.clone()),
                _ => None,
            });
            let reason = reason.to_owned();
            ctx.event(Event::InitiateFailed {
                connection: connection.clone(),
                child,
                reason,
            });
        }
        if !self.replaced {
            let (ike, reason) = (self.id, reason.to_owned());
            ctx.event(Event::IkeDown {
                ike,
                connection,
                reason,
            });
        }
    }

    pub(crate) fn drop_child(&mut self, ctx: &mut Ctx<'_>, child: ChildId, reason: &str) {
        if let Some(at) = self.children.iter().position(|c| c.sa.id == child) {
            self.children.swap_remove(at);
            ctx.event(Event::RetireChild { child });
            ctx.event(Event::ChildDown {
                child,
                reason: reason.to_owned(),
            });
        }
    }

    /// Takes in what was done about an installation.
    pub(crate) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        install: InstallId,
        failure: Option<&str>,
    ) {
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.install == install)
        {
            let Some(pending) = self.pending.take() else {
                return;
            };
            let Pending {
                message_id,
                exchange: kind,
                installed,
                failed,
                mut child,
                rekeys,
                ..
            } = pending;
            if let Some(reason) = failure {
                tracing::warn!(reason, "child SA could not be installed");
                self.respond(ctx, kind, message_id, &failed);
                ctx.event(Event::RetireChild { child: child.sa.id });
            } else {
                self.respond(ctx, kind, message_id, &installed);
                child.install = None;
                let (ike, id) = (self.id, child.sa.id);
                match rekeys {
                    // The peer sends through the old SA until it has the new one.
                    Some(old) => {
                        child.outbound_at = Some(ctx.now + Duration::from_secs(2));
                        ctx.event(Event::ChildRekeyed { old, new: id });
                    }
                    None => {
                        ctx.event(Event::InstallOutbound { child: id });
                        ctx.event(Event::ChildUp { ike, child: id });
                    }
                }
                self.children.push(child);
            }
        } else if let Some(child) = self
            .children
            .iter_mut()
            .find(|c| c.install == Some(install))
        {
            child.install = None;
            if let Some(reason) = failure {
                tracing::warn!(reason, "child SA could not be installed");
                let id = child.sa.id;
                self.tasks.push_back(Task::DeleteChild(id));
            }
        }
        self.pump(ctx);
    }

    /// When something is to be done next.
    pub(crate) fn timeout(&self, config: &EndpointConfig) -> Option<Instant> {
        let half_open = (self.state == State::Connecting && !self.initiator)
            .then(|| self.created + config.half_open_timeout);
        let established = self.state == State::Established;
        let dpd = self
            .connection
            .dpd_delay
            .filter(|_| established && self.outstanding.is_none());
        let keepalive =
            (established && self.nat_local).then(|| self.last_sent + config.nat_keepalive);
        let tasks = self.tasks.iter().filter_map(|task| match task {
            Task::Child { not_before, .. } | Task::RekeyIke { not_before, .. } => *not_before,
            _ => None,
        });
        let tasks = if self.outstanding.is_none() {
            tasks.min()
        } else {
            None
        };
        let children = self.children.iter().flat_map(|child| {
            [
                child.rekey_at.filter(|_| !child.busy && established),
                child.outbound_at,
            ]
        });
        [
            self.outstanding.as_ref().map(|outstanding| outstanding.at),
            half_open,
            dpd.map(|delay| self.last_heard + delay),
            keepalive,
            tasks,
            self.rekey_at.filter(|_| established),
            self.expire_at.filter(|_| established),
        ]
        .into_iter()
        .chain(children)
        .flatten()
        .min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let now = ctx.now;
        if self.state == State::Connecting
            && !self.initiator
            && now >= self.created + ctx.config.half_open_timeout
        {
            return self.die(ctx, "the peer did not authenticate in time");
        }
        if self.expire_at.is_some_and(|at| now >= at) && self.state == State::Established {
            self.expire_at = None;
            self.tasks.push_front(Task::DeleteIke {
                reason: "lifetime is over".to_owned(),
            });
        }
        if let Some(outstanding) = &mut self.outstanding
            && now >= outstanding.at
        {
            if outstanding.tries >= ctx.config.retransmit_tries {
                return self.die(ctx, crate::event::reason::NO_ANSWER);
            }
            outstanding.tries += 1;
            outstanding.wait = outstanding.wait.mul_f64(ctx.config.retransmit_base);
            outstanding.at = now + outstanding.wait;
            let message = outstanding.message.clone();
            ctx.out.retransmits += 1;
            self.send(ctx, message);
        }
        if self.state == State::Established {
            if self.rekey_at.is_some_and(|at| now >= at) {
                self.rekey_at = None;
                self.tasks.push_back(Task::RekeyIke {
                    group: None,
                    not_before: None,
                });
            }
            for at in 0..self.children.len() {
                let Some(child) = self.children.get_mut(at) else {
                    break;
                };
                if child.outbound_at.is_some_and(|at| now >= at) {
                    child.outbound_at = None;
                    let child = child.sa.id;
                    ctx.event(Event::InstallOutbound { child });
                } else if child.rekey_at.is_some_and(|at| now >= at) && !child.busy {
                    child.rekey_at = None;
                    let id = child.sa.id;
                    self.rekey_child(id);
                }
            }
            let idle = self.outstanding.is_none() && self.tasks.is_empty();
            if let Some(delay) = self.connection.dpd_delay
                && idle
                && now >= self.last_heard + delay
            {
                self.tasks.push_back(Task::Liveness);
            }
            if self.nat_local && now >= self.last_sent + ctx.config.nat_keepalive {
                self.last_sent = now;
                let path = self.path;
                let payload = vec![0xff];
                ctx.out.transmits.push_back(Transmit {
                    path,
                    payload,
                    keepalive: true,
                });
            }
        }
        self.pump(ctx);
    }

    /// Asks for a child's rekeying.
    pub(crate) fn rekey_child(&mut self, id: ChildId) {
        if let Some(child) = self.children.iter_mut().find(|c| c.sa.id == id && !c.busy) {
            child.busy = true;
            let name = child.sa.child.clone();
            let task = Task::Child {
                name,
                rekeys: Some(id),
                group: None,
                not_before: None,
            };
            self.tasks.push_back(task);
        }
    }

    /// A new inbound SPI that no child of this SA has.
    pub(crate) fn new_spi(&self, ctx: &Ctx<'_>) -> u32 {
        loop {
            let mut octets = [0; 4];
            ctx.crypto.random(&mut octets);
            // 0 to 255 are reserved (RFC 4303 §2.1).
            let spi = u32::from_be_bytes(octets) | 0x100;
            if self.children.iter().all(|child| child.sa.spi_in != spi) {
                return spi;
            }
        }
    }
}

/// A time shortened by up to a tenth, so that both ends do not rekey at once (§2.8).
pub(crate) fn jittered(ctx: &Ctx<'_>, time: Duration) -> Duration {
    let part = (ctx.random_u64() % 1000) as f64 / 10_000.0;
    time.mul_f64(1.0 - part)
}

/// The first payload of a type.
pub(crate) fn find<'m>(parts: &[Payload<'m>], kind: u8) -> Option<&'m [u8]> {
    parts
        .iter()
        .find(|part| part.kind == kind)
        .map(|part| part.body)
}

/// Every well-formed notification.
pub(crate) fn notifies<'m>(parts: &'m [Payload<'m>]) -> impl Iterator<Item = notify::Notify<'m>> {
    parts
        .iter()
        .filter(|part| part.kind == payload::NOTIFY)
        .filter_map(|part| notify::Notify::parse(part.body).ok())
}

/// The first error notification.
pub(crate) fn error_notify<'m>(parts: &'m [Payload<'m>]) -> Option<notify::Notify<'m>> {
    notifies(parts).find(|notify| notify.kind < notify::FIRST_STATUS)
}
