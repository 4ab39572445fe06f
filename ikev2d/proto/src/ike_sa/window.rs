// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The window of one message each way, and repetitions (RFC 7296 §2.1 to §2.3).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::sent::{Sent, boxed};
use super::{Ctx, Handover, IkeSa, Request, Standing, State, Task};
use crate::config::Tcp;
use crate::crypto::CryptoError;
use crate::event::{Path, StreamId, Transmit};
use crate::exchange::informational::ends_ike;
use crate::exchange::slow::Then;
use crate::keymat::IkeKeys;
use crate::sk::{Front, Opened, Sealer, front};
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, Header, Payload, VERSION, exchange, notify, payload,
    payloads,
};

/// §2.2: numbers never wrap; long before that, here, the IKE SA is rekeyed.
pub(super) const TURN: u32 = 1 << 31;

pub(super) struct Outstanding {
    pub(super) id: u32,
    pub(super) sent: Sent,
    pub(super) request: Request,
    pub(super) tries: u32,
    pub(super) at: Instant,
    pub(super) wait: Duration,
    /// The stream that it has left on.
    pub(super) stream: Option<StreamId>,
}

impl IkeSa {
    pub(super) fn header(&self, exchange: u8, id: u32, response: bool) -> Header {
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
        let path = self.path;
        self.send_on(ctx, path, message);
    }

    pub(super) fn send_on(&mut self, ctx: &mut Ctx<'_>, path: Path, message: Vec<u8>) {
        if path.stream == self.path.stream && self.is_silent() {
            return self.dial_again(ctx);
        }
        self.last_sent = ctx.now.into();
        ctx.out.transmits.push_back(Transmit {
            path,
            payload: message,
            keepalive: false,
        });
    }

    /// The keys of a message: those of a request that was answered before stay after an
    /// IKE_INTERMEDIATE has changed them.
    fn keys_for(&self, header: &Header) -> Option<&IkeKeys> {
        let answered = header.message_id.get().wrapping_add(1) == self.expected_request;
        let of_peer = (header.flags & FLAG_INITIATOR == 0) == self.initiator;
        let repeated = answered && header.is_response() != of_peer;
        match &self.previous_keys {
            Some(previous) if repeated && header.exchange == exchange::IKE_INTERMEDIATE => {
                Some(previous)
            }
            _ => self.keys.as_ref(),
        }
    }

    /// Seals a message, in pieces if it is long.
    pub(super) fn seal(
        &self,
        ctx: &Ctx<'_>,
        header: Header,
        chain: &Chain,
    ) -> Result<Vec<Vec<u8>>, CryptoError> {
        let (suite, keys) = self
            .suite
            .as_ref()
            .zip(self.keys_for(&header))
            .ok_or(CryptoError)?;
        let sealer = Sealer {
            crypto: ctx.crypto,
            suite,
            keys,
            by_initiator: self.initiator,
        };
        #[cfg(feature = "deviation")]
        let (header, chain) = &crate::deviation::apply(ctx.deviation, header, chain);
        #[cfg(feature = "deviation")]
        let header = *header;
        let front = self.front_of(&header);
        sealer.seal_within(header, (front, chain), self.message_size(ctx))
    }

    /// Sends a request and remembers it until its response comes.
    pub(crate) fn request(
        &mut self,
        ctx: &mut Ctx<'_>,
        exchange_type: u8,
        chain: Chain,
        request: Request,
    ) -> Result<(), CryptoError> {
        let id = self.next_request;
        let header = self.header(exchange_type, id, false);
        if exchange_type == exchange::IKE_INTERMEDIATE {
            self.cover_own(ctx, &header, &chain)?;
        }
        let messages = self.seal(ctx, header, &chain)?;
        ctx.out.notified.told(&chain);
        self.post(ctx, id, Sent::new(messages, header, chain), request);
        Ok(())
    }

    /// The numbers of our next request and of the peer's.
    pub(crate) fn message_ids(&self) -> (u32, u32) {
        (self.next_request, self.expected_request)
    }

    /// Goes on with these.
    pub(crate) fn set_message_ids(&mut self, next: u32, expected: u32) {
        (self.next_request, self.expected_request) = (next, expected);
    }

    /// The number of our next request.
    pub(crate) fn next_request(&self) -> u32 {
        self.next_request
    }

    /// Sends a request that is ready.
    pub(crate) fn post(&mut self, ctx: &mut Ctx<'_>, id: u32, sent: Sent, request: Request) {
        self.next_request = id.saturating_add(1);
        if id == TURN {
            self.tasks.push_front(Task::RekeyIke {
                group: None,
                not_before: None,
            });
        }
        let wait = ctx.config.retransmit_timeout;
        for message in sent.messages() {
            self.send(ctx, message.to_vec());
        }
        self.outstanding = Some(Box::new(Outstanding {
            stream: self.path.stream.filter(|_| !self.is_silent()),
            id,
            sent,
            request,
            tries: 0,
            at: ctx.now + ctx.shortened(wait, ctx.config.retransmit_jitter),
            wait,
        }));
    }

    /// Sends the request again that nobody answers, in smaller pieces where that may help.
    pub(super) fn retransmit(&mut self, ctx: &mut Ctx<'_>) {
        let Some(mut outstanding) = self.outstanding.take() else {
            return;
        };
        outstanding.tries += 1;
        outstanding.wait = outstanding.wait.mul_f64(ctx.config.retransmit_base);
        outstanding.at = ctx.now + ctx.shortened(outstanding.wait, ctx.config.retransmit_jitter);
        if !self.is_said(outstanding.stream) {
            self.divide_further(ctx, &mut outstanding.sent);
            ctx.out.retransmits += 1;
            for message in outstanding.sent.messages() {
                self.send(ctx, message.to_vec());
            }
            outstanding.stream = self.path.stream.filter(|_| !self.is_silent());
        }
        self.outstanding = Some(outstanding);
    }

    fn divide_further(&mut self, ctx: &Ctx<'_>, sent: &mut Sent) {
        if let Sent::Divided(sent) = sent
            && self.step_down(ctx)
            && let Ok(messages) = self.seal(ctx, sent.plain.0, &sent.plain.1)
        {
            sent.messages = boxed(messages);
        }
    }

    /// The header of our first message.
    pub(crate) fn init_header(&self, response: bool) -> Header {
        self.header(exchange::IKE_SA_INIT, 0, response)
    }

    /// The same where a session is resumed.
    pub(crate) fn resume_header(&self, response: bool) -> Header {
        self.header(exchange::IKE_SESSION_RESUME, 0, response)
    }

    /// Sends the response to the request that is expected to where that came from (§2.11), and keeps it for
    /// repetitions.
    pub(crate) fn respond(&mut self, ctx: &mut Ctx<'_>, exchange_type: u8, id: u32, chain: Chain) {
        let header = self.header(exchange_type, id, true);
        let covered = match exchange_type {
            exchange::IKE_INTERMEDIATE => self.cover_own(ctx, &header, &chain),
            _ => Ok(()),
        };
        match covered.and_then(|()| self.seal(ctx, header, &chain)) {
            Ok(messages) => {
                ctx.out.notified.told(&chain);
                self.respond_with(ctx, id, Sent::new(messages, header, chain));
            }
            Err(_) => tracing::error!(ike = self.id.0, "response could not be sealed"),
        }
    }

    pub(crate) fn respond_with(&mut self, ctx: &mut Ctx<'_>, id: u32, sent: Sent) {
        self.expected_request = id.wrapping_add(1);
        let path = self.asked_from.take().map_or(self.path, |path| *path);
        for message in sent.messages() {
            self.send_on(ctx, path, message.to_vec());
        }
        self.last_response = sent;
    }

    /// Answers a request that was answered before, to where it came from.
    fn respond_again(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        let mut sent = std::mem::take(&mut self.last_response);
        self.divide_further(ctx, &mut sent);
        for message in sent.messages() {
            self.send_on(ctx, path, message.to_vec());
        }
        self.last_response = sent;
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
        self.respond(ctx, exchange_type, id, chain);
    }

    /// Whether it is half open and another first message than this has begun it.
    pub(crate) fn was_begun_otherwise(&self, first: &[u8]) -> bool {
        self.state == State::Connecting
            && self.expected_request <= 1
            && self.init.message_i != first
    }

    /// Takes in a message that names this SA.
    pub(crate) fn handle(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) {
        if matches!(
            header.exchange,
            exchange::IKE_SA_INIT | exchange::IKE_SESSION_RESUME
        ) {
            if header.is_response() && header.exchange == exchange::IKE_SESSION_RESUME {
                self.handle_resume_response(ctx, header, message);
            } else if header.is_response() {
                self.handle_init_response(ctx, header, message);
            } else if self.expected_request == 1 && self.init.message_i == message {
                self.respond_again(ctx, path);
            }
            return;
        }
        let by_initiator = header.flags & FLAG_INITIATOR != 0;
        if by_initiator == self.initiator {
            return;
        }
        if let Some(opened) = self.open(ctx, path, header, message) {
            self.handle_opened(ctx, path, header, opened);
        }
    }

    /// Takes in what was inside of a message, or of its fragments.
    pub(crate) fn handle_opened(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        opened: Opened,
    ) {
        self.take_in(ctx, path, header, (opened, false));
    }

    /// The same, for one that may have been here already, and whose key exchange is done.
    pub(crate) fn take_in(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        (opened, prepared): (Opened, bool),
    ) {
        let id = header.message_id.get();
        let parsed = payloads(opened.first, &opened.body);
        if let Some(said) = parsed
            .as_ref()
            .ok()
            .and_then(|parts| self.says_sync(header, parts))
        {
            return self.handle_sync(ctx, path, header.is_response(), &said);
        }
        if self.is_asking() {
            // RFC 6311 §8.1: what does not fit what we have asked for is not heard.
            return;
        }
        if header.is_response() {
            if self
                .outstanding
                .as_ref()
                .is_none_or(|outstanding| outstanding.id != id)
                || self.holds_response()
            {
                return;
            }
            let errand = parsed.as_ref().ok().filter(|_| !prepared);
            if let Some(errand) = errand.and_then(|parts| self.response_errand(ctx, parts)) {
                self.last_heard = ctx.now.into();
                drop(parsed);
                self.send_out(ctx, errand, Then::Response(*header, opened));
                self.follow(ctx, path);
                return self.pump(ctx);
            }
            let Some(outstanding) = self.outstanding.take() else {
                return;
            };
            self.last_heard = ctx.now.into();
            self.follow(ctx, path);
            self.end_search();
            match parsed {
                Ok(parts) => {
                    ctx.out.notified.took(&parts);
                    self.handle_response(ctx, outstanding.request, (header, &opened), &parts);
                }
                Err(error) => self.die(ctx, &format!("malformed response: {error}")),
            }
        } else if id.wrapping_add(1) == self.expected_request {
            self.respond_again(ctx, path);
        } else if id == self.expected_request
            && self.pending.is_none()
            && self.waiting.is_none()
            && !self.holds_request()
        {
            self.last_heard = ctx.now.into();
            self.follow(ctx, path);
            if !prepared {
                self.asked_from = (path != self.path).then(|| Box::new(path));
            }
            match parsed {
                Ok(parts) => {
                    if let Standing::Undecided { old } = self.standing
                        && !ends_ike(&parts)
                    {
                        // The peer uses this one: it knows of no collision, or has decided it.
                        let (new, delete) = (self.id, false);
                        ctx.out.handovers.push(Handover { old, new, delete });
                        drop(parts);
                        ctx.out.again = Some(opened);
                        return;
                    }
                    let errand = (!prepared).then(|| self.request_errand(ctx, header, &parts));
                    if let Some(errand) = errand.flatten() {
                        drop(parts);
                        self.send_out(ctx, errand, Then::Request(*header, opened));
                        return self.pump(ctx);
                    }
                    // With a window of one, the next request is the sign that our last answer came.
                    let awaiting = self.awaiting_peer();
                    self.sync_is_over();
                    ctx.out.notified.took(&parts);
                    self.handle_request(ctx, path, (header, &opened), &parts);
                    self.release(ctx, |child| awaiting.contains(&child.sa.id));
                }
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

    /// Opens a message, or a fragment: then what it completes.
    fn open(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) -> Option<Opened> {
        let Front { solution, kind, .. } = front(message).ok()?;
        if !self.lets_in(ctx, solution) {
            tracing::debug!(ike = self.id.0, "a message does not solve the puzzle");
            return None;
        }
        let (suite, keys) = self.suite.as_ref().zip(self.keys_for(header))?;
        let sealer = Sealer {
            crypto: ctx.crypto,
            suite,
            keys,
            by_initiator: !self.initiator,
        };
        let fragmented = kind == payload::SKF;
        if !fragmented {
            let opened = sealer.open(message);
            if opened.is_err() {
                tracing::debug!(ike = self.id.0, "message fails its integrity check");
            }
            return opened.ok();
        }
        if !self.fragmentation {
            return None;
        }
        let (id, response) = (header.message_id.get(), header.is_response());
        let awaited = if response {
            self.outstanding.as_ref().is_some_and(|o| o.id == id)
        } else {
            id == self.expected_request && self.pending.is_none() && !self.holds_request()
        };
        let repeated = !response && id.wrapping_add(1) == self.expected_request;
        if !awaited && !repeated {
            return None;
        }
        let fragment = sealer.open_fragment(message).ok()?;
        if repeated {
            // One answer for all of a request's fragments (RFC 7383 §2.6.1).
            if fragment.number == 1 {
                self.respond_again(ctx, path);
            }
            return None;
        }
        self.collect(ctx, path, (response, id), fragment)
    }

    /// A peer behind a NAT may come from elsewhere: answer there (§2.23). Only what is new moves it,
    /// since anybody can send a recorded message again.
    pub(super) fn follow(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        if path == self.path {
            return;
        }
        // Only the original initiator opens streams, and only with MOBIKE it leaves them (RFC 9329 §8.4).
        if path.stream != self.path.stream && (self.moves || path.stream.is_none()) {
            return;
        }
        // Who has said that it may not come by TCP does not come so later on, either.
        if path.stream.is_some() && self.connection.tcp == Tcp::Off {
            return;
        }
        if self.is_searching() {
            return self.heard_in_search(ctx, path);
        }
        let port_only = path.remote.ip() == self.path.remote.ip();
        if port_only || self.may_wander() {
            // Where we are ourselves is then ours to say, whatever the peer knows yet.
            let local = self.path.local.ip();
            self.take_path(ctx, path);
            if self.mobike && self.moves {
                self.path.local.set_ip(local);
            }
            if self.state == State::Established {
                self.tell_path(ctx);
            }
        }
    }

    /// Whether the peer may come from another address without a word: from behind a NAT that has
    /// forgotten it, unless it says so when it moves (RFC 4555). Who is behind a NAT itself has no
    /// peer to follow that it went to see (§2.23).
    fn may_wander(&self) -> bool {
        self.nat_remote && !self.mobike && (!self.nat_local || !self.moves)
    }

    /// ESP of a child has come from elsewhere, and is authentic.
    pub(crate) fn esp_came_from(&mut self, ctx: &mut Ctx<'_>, remote: SocketAddr) -> bool {
        let port_only = remote.ip() == self.path.remote.ip();
        let follows = self.state == State::Established
            && self.udp_encap()
            && self.nat_remote
            && !self.is_searching()
            && (port_only || self.may_wander());
        if follows && remote != self.path.remote {
            self.path.remote = remote;
            self.tell_path(ctx);
        }
        follows
    }

    fn handle_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        (header, opened): (&Header, &Opened),
        parts: &[Payload<'_>],
    ) {
        let id = header.message_id.get();
        match (header.exchange, self.state) {
            (exchange::IKE_INTERMEDIATE, State::Connecting) if !self.initiator => {
                self.handle_intermediate_request(ctx, (header, opened), parts);
            }
            (exchange::IKE_AUTH, State::Connecting) if !self.initiator => {
                self.handle_auth_request(ctx, id, parts);
            }
            // Nothing else before authentication.
            (_, State::Connecting | State::Dead) => {}
            (exchange::CREATE_CHILD_SA, State::Established) => {
                self.handle_create_child(ctx, id, parts);
            }
            (exchange::IKE_FOLLOWUP_KE, State::Established) => self.handle_followup(ctx, id, parts),
            (exchange::INFORMATIONAL, _) => self.handle_informational(ctx, path, id, parts),
            (exchange::CREATE_CHILD_SA | exchange::IKE_FOLLOWUP_KE, State::Deleting) => {
                self.respond_notify(ctx, header.exchange, id, notify::TEMPORARY_FAILURE, &[]);
            }
            _ => self.respond_notify(ctx, header.exchange, id, notify::INVALID_SYNTAX, &[]),
        }
    }

    pub(super) fn handle_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: Request,
        message: (&Header, &Opened),
        parts: &[Payload<'_>],
    ) {
        match request {
            Request::Init => {}
            Request::Intermediate(exchange) => {
                self.handle_intermediate_response(ctx, exchange, message, parts);
            }
            Request::Auth => self.handle_auth_response(ctx, parts),
            Request::CreateChild(request) => self.handle_child_response(ctx, request, parts),
            Request::RekeyIke(request) => self.handle_rekey_response(ctx, *request, parts),
            Request::DeleteIke { reason } => self.die(ctx, &reason),
            Request::DeleteChild(child) => self.drop_child(ctx, child, "deleted"),
            Request::DeleteUnmade { .. } | Request::Liveness | Request::Addresses => {}
            Request::Move => self.handle_move_response(ctx, parts),
        }
    }

    /// What the outstanding request asks for.
    pub(crate) fn asking(&self) -> Option<&Request> {
        self.outstanding
            .as_ref()
            .map(|outstanding| &outstanding.request)
    }

    pub(crate) fn asking_mut(&mut self) -> Option<&mut Request> {
        self.outstanding
            .as_mut()
            .map(|outstanding| &mut outstanding.request)
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
}
