// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The window of one message each way, and repetitions (RFC 7296 §2.1 to §2.3).

use std::time::{Duration, Instant};

use super::{Ctx, Handover, IkeSa, Request, Standing, State};
use crate::crypto::CryptoError;
use crate::event::{Event, Path, Transmit};
use crate::exchange::informational::ends_ike;
use crate::sk;
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, Header, Payload, VERSION, exchange, notify, payloads,
};

pub(super) struct Outstanding {
    pub(super) id: u32,
    pub(super) message: Vec<u8>,
    pub(super) request: Request,
    pub(super) tries: u32,
    pub(super) at: Instant,
    pub(super) wait: Duration,
}

impl IkeSa {
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
                Ok(parts) => {
                    if let Standing::Undecided { old } = self.standing
                        && !ends_ike(&parts)
                    {
                        // The peer uses this one: it knows of no collision, or has decided it.
                        let (new, delete) = (self.id, false);
                        ctx.out.handovers.push(Handover { old, new, delete });
                        ctx.out.again = true;
                        return;
                    }
                    // With a window of one, the next request is the sign that our last answer came.
                    let awaiting = self.awaiting_peer();
                    self.handle_request(ctx, header, &parts);
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

    fn handle_request(&mut self, ctx: &mut Ctx<'_>, header: &Header, parts: &[Payload<'_>]) {
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
