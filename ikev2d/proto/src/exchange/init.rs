// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE_SA_INIT (RFC 7296 §1.2), with NAT detection (§2.23).

use std::net::{IpAddr, SocketAddr};

use crate::algorithm::Group;
use crate::config::Childless;
use crate::crypto::{Crypto, CryptoError};
use crate::endpoint::addresses_match;
use crate::event::Event;
use crate::exchange::slow::Then;
use crate::exchange::{puzzle, redirect, signature};
use crate::ike_sa::{Ctx, IkeSa, NONCE_LEN, Request, Sent, State, find, notifies};
use crate::keymat::IkeKeys;
use crate::proposal::{self, IkeSuite, Proposal, methods};
use crate::wire::{
    Chain, HEADER_LEN, Header, Payload, Reader, WireError, notify, payload, payloads,
};

/// Restarts by COOKIE and INVALID_KE_PAYLOAD that a responder gets out of us.
pub(crate) const MOST_RESTARTS: u32 = 4;
/// Nonces must have half the PRF's key length and at most this (§2.10).
pub(crate) const NONCE_RANGE: std::ops::RangeInclusive<usize> = 16..=256;

/// A request as a responder reads it.
pub(crate) struct InitRequest<'m> {
    pub(crate) parts: Vec<Payload<'m>>,
    pub(crate) proposals: Vec<proposal::WireProposal>,
    pub(crate) group: u16,
    pub(crate) public: &'m [u8],
    pub(crate) nonce: &'m [u8],
}

impl<'m> InitRequest<'m> {
    pub(crate) fn parse(header: &Header, message: &'m [u8]) -> Result<Self, WireError> {
        let octets = message.get(HEADER_LEN..).ok_or(WireError::Length)?;
        let parts = payloads(header.next_payload, octets)?;
        let missing = |what| WireError::Malformed { what };
        let proposals = proposal::parse(find(&parts, payload::SA).ok_or(missing("SA"))?, true)?;
        let (group, public) = read_ke(find(&parts, payload::KE).ok_or(missing("KE"))?)?;
        let nonce = find(&parts, payload::NONCE).ok_or(missing("nonce"))?;
        if !NONCE_RANGE.contains(&nonce.len()) {
            return Err(missing("nonce"));
        }
        Ok(Self {
            parts,
            proposals,
            group,
            public,
            nonce,
        })
    }
}

/// Group and public value of a KE payload.
pub(crate) fn read_ke(body: &[u8]) -> Result<(u16, &[u8]), WireError> {
    let mut reader = Reader::new(body);
    let group = reader.u16()?;
    reader.u16()?;
    Ok((group, reader.rest()))
}

pub(crate) fn emit_ke(group: Group, public: &[u8]) -> Vec<u8> {
    let mut body = (group as u16).to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(public);
    body
}

/// SHA-1 over SPIs, address and port.
fn nat_hash(crypto: &dyn Crypto, spi_i: u64, spi_r: u64, end: SocketAddr) -> [u8; 20] {
    let (spi_i, spi_r, port) = (
        spi_i.to_be_bytes(),
        spi_r.to_be_bytes(),
        end.port().to_be_bytes(),
    );
    match end.ip() {
        IpAddr::V4(v4) => crypto.sha1(&[&spi_i, &spi_r, &v4.octets(), &port]),
        IpAddr::V6(v6) => crypto.sha1(&[&spi_i, &spi_r, &v6.octets(), &port]),
    }
}

/// Picks the first configured proposal that an offer fits, with additional key exchanges where both
/// have the exchange for them.
pub(crate) fn choose(
    ours: &[Proposal],
    offer: &[proposal::WireProposal],
    additional: bool,
) -> Option<(IkeSuite, u8)> {
    ours.iter().find_map(|mine| {
        offer.iter().find_map(|theirs| {
            let suite = mine.choose_ike(&theirs.proposal)?;
            let fits = additional || methods(&suite.additional).next().is_none();
            fits.then_some((suite, theirs.number))
        })
    })
}

/// Whether a side can mix in a postquantum preshared key (RFC 8784).
fn has_ppk(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|n| n.kind == notify::USE_PPK)
}

/// Whether a side has IKE_INTERMEDIATE (RFC 9242).
pub(crate) fn has_intermediate(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|n| n.kind == notify::INTERMEDIATE_EXCHANGE_SUPPORTED)
}

impl IkeSa {
    /// Sends the first message, or sends it again with a cookie or another group.
    pub(crate) fn start_init(&mut self, ctx: &mut Ctx<'_>) -> Result<(), CryptoError> {
        self.forget_init_response();
        let group = match self.init.group {
            Some(group) => group,
            None => {
                let first = self
                    .connection
                    .proposals
                    .first()
                    .and_then(|p| p.groups.first());
                *first.ok_or(CryptoError)?
            }
        };
        if self.init.group != Some(group) || self.init.exchange.is_none() {
            self.init.group = Some(group);
            self.init.exchange = self.own_exchange(ctx, group, Then::Init)?;
            if self.init.exchange.is_none() {
                return Ok(());
            }
        }
        if self.init.nonce_i.is_empty() {
            self.init.nonce_i = ctx.random(NONCE_LEN);
        }
        let mut chain = Chain::default();
        self.stop_solving();
        if !self.init.cookie.is_empty() {
            chain.notify(notify::COOKIE, &self.init.cookie);
        }
        if !self.init.solution.is_empty() {
            chain.push(payload::PUZZLE_SOLUTION, &self.init.solution);
        }
        let numbered: Vec<(u8, Proposal)> = (1..).zip(self.connection.proposals.clone()).collect();
        chain.push(payload::SA, &proposal::emit(&numbered, true, &[]));
        let public = self
            .init
            .exchange
            .as_ref()
            .map_or(&[][..], |exchange| exchange.public());
        chain.push(payload::KE, &emit_ke(group, public));
        chain.push(payload::NONCE, &self.init.nonce_i);
        self.push_nat_detection(ctx, &mut chain);
        if self.connection.fragmentation {
            chain.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
        }
        if self.connection.ppk_id.is_some() {
            chain.notify(notify::USE_PPK, &[]);
        }
        let additional = |p: &Proposal| p.additional.iter().any(|any| !any.is_empty());
        if self.connection.proposals.iter().any(additional) {
            chain.notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED, &[]);
        }
        self.push_redirect_ability(&mut chain);
        signature::push_hash_algorithms(&mut chain);
        let message = chain.into_message(self.init_header(false));
        self.init.message_i = message.clone();
        self.rewind();
        self.post(ctx, 0, Sent::clear(message), Request::Init);
        Ok(())
    }

    pub(crate) fn push_nat_detection(&self, ctx: &Ctx<'_>, chain: &mut Chain) {
        let source = if self.encap {
            // A hash that fits nothing: the peer takes us for one behind a NAT.
            let octets = ctx.random(20);
            <[u8; 20]>::try_from(octets).unwrap_or([0; 20])
        } else {
            nat_hash(ctx.crypto, self.spi_i, self.spi_r, self.path.local)
        };
        chain.notify(notify::NAT_DETECTION_SOURCE_IP, &source);
        let destination = nat_hash(ctx.crypto, self.spi_i, self.spi_r, self.path.remote);
        chain.notify(notify::NAT_DETECTION_DESTINATION_IP, &destination);
    }

    /// Whether both sides take fragments (RFC 7383 §2.3).
    pub(crate) fn detect_fragmentation(&mut self, parts: &[Payload<'_>]) {
        let offered = |n: notify::Notify<'_>| n.kind == notify::IKEV2_FRAGMENTATION_SUPPORTED;
        self.fragmentation = self.connection.fragmentation && notifies(parts).any(offered);
    }

    /// Compares the peer's hashes with what we see.
    pub(crate) fn detect_nat(&mut self, ctx: &Ctx<'_>, parts: &[Payload<'_>], spi_r: u64) {
        let hash = |end| nat_hash(ctx.crypto, self.spi_i, spi_r, end);
        let (seen_remote, seen_local) = (hash(self.path.remote), hash(self.path.local));
        let mut sources = 0;
        let mut source_fits = false;
        let (mut nat_local, mut any) = (false, false);
        for notify in notifies(parts) {
            match notify.kind {
                notify::NAT_DETECTION_SOURCE_IP => {
                    sources += 1;
                    source_fits |= notify.data == seen_remote;
                }
                notify::NAT_DETECTION_DESTINATION_IP => {
                    any = true;
                    nat_local = notify.data != seen_local;
                }
                _ => {}
            }
        }
        self.nat_remote = sources != 0 && !source_fits;
        self.nat_local = any && nat_local;
    }

    /// Whether ESP goes in UDP.
    pub(crate) fn udp_encap(&self) -> bool {
        self.path.stream.is_none() && (self.nat_local || self.nat_remote || self.encap)
    }

    /// Whether ESP goes in UDP or TCP, and not right behind the IP header.
    pub(crate) fn encapsulates(&self) -> bool {
        self.path.stream.is_some() || self.udp_encap()
    }

    pub(crate) fn handle_init_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        message: &[u8],
    ) {
        let fits = self.initiator
            && self.state == State::Connecting
            && header.message_id.get() == 0
            && self.keys.is_none()
            && self.init.resumes.is_none()
            && !self.prepares_init()
            && header.spi_i.get() == self.spi_i;
        if !fits {
            return;
        }
        let octets = message.get(HEADER_LEN..).unwrap_or_default();
        let Ok(parts) = payloads(header.next_payload, octets) else {
            return;
        };
        ctx.out.notified.took(&parts);
        // Nothing here is authenticated: an error is believed only where ignoring it would not help.
        for notify in notifies(&parts) {
            let restarts = self.init.restarts < MOST_RESTARTS;
            match notify.kind {
                notify::COOKIE if restarts && (1..=64).contains(&notify.data.len()) => {
                    let cookie = notify.data.to_vec();
                    return self.take_cookie(ctx, cookie, puzzle::of(&parts));
                }
                notify::INVALID_KE_PAYLOAD if restarts => {
                    let wanted = <[u8; 2]>::try_from(notify.data)
                        .ok()
                        .map(u16::from_be_bytes);
                    let wanted = wanted.and_then(Group::from_wire);
                    let offered = |group: &Group| {
                        self.connection
                            .proposals
                            .iter()
                            .any(|p| p.groups.contains(group))
                    };
                    // Only what we offered ourselves: no downgrade by a forger.
                    if let Some(group) = wanted.filter(offered)
                        && self.init.group != Some(group)
                    {
                        self.init.group = Some(group);
                        self.init.exchange = None;
                        return self.restart(ctx);
                    }
                }
                notify::REDIRECT if self.connection.follow_redirects && header.spi_r.get() == 0 => {
                    return self.redirect_init(ctx, notify.data);
                }
                kind if kind < notify::FIRST_STATUS => {
                    // §2.21.1: anybody may have said so; who is asked goes on answering.
                    let reason = format!("the peer refused: {}", notify::name(kind));
                    if self.init.refusal.is_none() {
                        let (ike, connection) = (self.id, self.connection.name.clone());
                        self.init.refusal = Some(reason.clone());
                        ctx.event(Event::Doubted {
                            ike,
                            connection,
                            reason,
                        });
                    }
                    return;
                }
                _ => {}
            }
        }
        if header.spi_r.get() == 0 {
            return;
        }
        let Ok(answer) = InitRequest::parse(header, message) else {
            return;
        };
        let additional = has_intermediate(&answer.parts);
        let Some((suite, _)) = choose(&self.connection.proposals, &answer.proposals, additional)
        else {
            return;
        };
        let single = answer.proposals.len() == 1;
        if !single || answer.group != suite.group as u16 || self.init.group != Some(suite.group) {
            return;
        }
        let Some(exchange) = self.init.exchange.clone() else {
            return;
        };
        if let Some(errand) = self.init_response_errand(ctx, &exchange, answer.public) {
            return self.send_out(ctx, errand, Then::InitResponse(message.to_vec()));
        }
        self.detect_nat(ctx, &answer.parts, header.spi_r.get());
        self.detect_fragmentation(&answer.parts);
        let Ok(secret) = exchange.agree(answer.public) else {
            return;
        };
        self.spi_r = header.spi_r.get();
        self.init.nonce_r = answer.nonce.to_vec();
        self.init.message_r = message.to_vec();
        let nonces = (&self.init.nonce_i[..], &self.init.nonce_r[..]);
        let spis = (self.spi_i, self.spi_r);
        let Ok(keys) = IkeKeys::derive(ctx.crypto, &suite, (&secret, &[]), nonces, spis, None)
        else {
            return self.die(ctx, "key derivation failed");
        };
        self.suite = Some(suite);
        self.keys = Some(keys);
        self.take_init_request();
        self.stop_solving();
        self.log_keys(ctx);
        let childless = |n: notify::Notify<'_>| n.kind == notify::CHILDLESS_IKEV2_SUPPORTED;
        self.childless = notifies(&answer.parts).any(childless);
        self.float(ctx);
        self.init.peer.note(&answer.parts);
        self.init.both_use_ppk = self.connection.ppk_id.is_some() && has_ppk(&answer.parts);
        self.solve_for_auth(ctx, puzzle::of(&answer.parts));
    }

    /// Goes on at the port of NAT traversal, where that is called for.
    pub(crate) fn float(&mut self, ctx: &Ctx<'_>) {
        // With MOBIKE a NAT may come in between later (RFC 4555 §3.3).
        if self.path.stream.is_none() && (self.udp_encap() || self.connection.mobike) {
            self.path.local.set_port(ctx.config.nat_port);
            if self.path.remote.port() == ctx.config.ike_port {
                self.path.remote.set_port(ctx.config.nat_port);
            }
        }
    }

    pub(crate) fn restart(&mut self, ctx: &mut Ctx<'_>) {
        self.init.restarts += 1;
        self.take_init_request();
        if self.start(ctx).is_err() {
            self.die(ctx, "IKE_SA_INIT could not be made");
        }
    }

    /// Answers the first message.
    pub(crate) fn answer_init(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: &InitRequest<'_>,
        (suite, number): (IkeSuite, u8),
        message: &[u8],
    ) -> Result<(), CryptoError> {
        let (public, secret) = self.answer_exchange(ctx, suite.group, request.public)?;
        self.init.nonce_i = request.nonce.to_vec();
        self.init.nonce_r = ctx.random(NONCE_LEN);
        // The first message's hash is over a responder SPI of zero.
        self.detect_nat(ctx, &request.parts, 0);
        let mut chain = Chain::default();
        chain.push(
            payload::SA,
            &proposal::emit(&[(number, suite.to_proposal())], true, &[]),
        );
        chain.push(payload::KE, &emit_ke(suite.group, &public));
        chain.push(payload::NONCE, &self.init.nonce_r);
        if let Some(puzzle) = self.init.auth_puzzle {
            chain.notify(notify::PUZZLE, &puzzle.emit());
        }
        self.push_nat_detection(ctx, &mut chain);
        self.detect_fragmentation(&request.parts);
        if self.fragmentation {
            chain.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
        }
        if self.connection.childless != Childless::Never {
            chain.notify(notify::CHILDLESS_IKEV2_SUPPORTED, &[]);
        }
        if has_intermediate(&request.parts) {
            chain.notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED, &[]);
        }
        let (local, remote) = (self.path.local.ip(), self.path.remote.ip());
        let mut between = ctx.connections.iter();
        let wanted = between.any(|c| c.ppk_id.is_some() && addresses_match(c, local, remote));
        if wanted && has_ppk(&request.parts) {
            self.init.both_use_ppk = true;
            chain.notify(notify::USE_PPK, &[]);
        }
        (self.redirectable, self.init.redirected_from) = redirect::ability(&request.parts);
        self.init.peer.note(&request.parts);
        if self.init.peer.speaks_rfc_7427() {
            signature::push_hash_algorithms(&mut chain);
        }
        signature::push_certificate_request(&mut chain, ctx.verifiers_between(self.path));
        let response = chain.into_message(self.init_header(true));
        self.init.message_i = message.to_vec();
        self.init.message_r = response.clone();
        let nonces = (&self.init.nonce_i[..], &self.init.nonce_r[..]);
        let spis = (self.spi_i, self.spi_r);
        self.keys = Some(IkeKeys::derive(
            ctx.crypto,
            &suite,
            (&secret, &[]),
            nonces,
            spis,
            None,
        )?);
        self.suite = Some(suite);
        self.log_keys(ctx);
        self.respond_with(ctx, 0, Sent::clear(response));
        Ok(())
    }
}
