// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a datagram is; first messages, and the cookies that floods of them are met with.

use std::net::IpAddr;
use std::time::Instant;

use super::Endpoint;
use super::cookie::Seen;
use super::gate::{Shown, Worth, is_first, resumes_first};
use crate::config::{AddressPattern, Connection, Identity, Tcp};
use crate::event::{IkeId, Path, Transmit};
use crate::exchange::init::{InitRequest, NONCE_RANGE, choose, has_intermediate};
use crate::exchange::redirect;
use crate::ike_sa::{IkeSa, find, notifies};
use crate::proposal::{IkeSuite, methods};
use crate::puzzle::Puzzle;
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, HEADER_LEN, Header, Payload, VERSION, WireError, notify,
    payload, payloads,
};

impl Endpoint {
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
        let spi_i = header.spi_i.get();
        if is_first(&header) || resumes_first(&header) {
            let present = self.sas.by_first(spi_i, path.remote);
            match present.map(|sa| (sa.id, sa.was_begun_otherwise(datagram))) {
                Some((id, false)) => {
                    let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, &header, datagram));
                }
                Some((id, true)) => self.begin_anew(now, (path, id), &header, datagram),
                None if resumes_first(&header) => {
                    self.begin_resumption(now, path, &header, datagram)
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
        let ours = |sa: &&IkeSa| (header.flags & FLAG_INITIATOR == 0) == sa.initiator;
        let found = self.sas.by_spi(own).filter(ours);
        match found.map(|sa| sa.id) {
            Some(id) => {
                let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, &header, datagram));
                if let Some(opened) = self.out.again.take() {
                    let _ = self.on(now, id, |sa, ctx| {
                        sa.handle_opened(ctx, path, &header, opened);
                    });
                }
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

    /// A first message can't be read. Where that is since it has a critical payload that we do not know,
    /// its sender is told of it (§2.5).
    fn refuse_unread(&mut self, path: Path, header: &Header, error: &WireError) {
        self.stats.malformed += 1;
        if let WireError::Critical { kind } = error {
            let mut chain = Chain::default();
            chain.notify(notify::UNSUPPORTED_CRITICAL_PAYLOAD, &[*kind]);
            self.reply_statelessly(path, header, chain);
        }
    }

    fn reply_statelessly(&mut self, path: Path, header: &Header, chain: Chain) {
        let reply = Header {
            version: VERSION,
            flags: FLAG_RESPONSE,
            ..*header
        };
        self.out.notified.told(&chain);
        let payload = chain.into_message(reply);
        self.out.transmits.push_back(Transmit {
            path,
            payload,
            keepalive: false,
        });
    }

    /// What a first message has for the gate.
    fn shown<'m>(header: &Header, parts: &[Payload<'m>]) -> Shown<'m> {
        let cookie = parts.iter().filter(|part| part.kind == payload::NOTIFY);
        let mut cookie = cookie.filter_map(|part| notify::Notify::parse(part.body).ok());
        Shown {
            cookie: cookie.find_map(|n| (n.kind == notify::COOKIE).then_some(n.data)),
            solution: find(parts, payload::PUZZLE_SOLUTION),
            offer: find(parts, payload::SA).filter(|_| !resumes_first(header)),
        }
    }

    /// A peer that never got our answer was asked for a cookie when it sent again: what it began with
    /// another first message, it has given up.
    fn begin_anew(
        &mut self,
        now: Instant,
        (path, old): (Path, IkeId),
        header: &Header,
        message: &[u8],
    ) {
        let octets = message.get(HEADER_LEN..).unwrap_or_default();
        let parts = match payloads(header.next_payload, octets) {
            Ok(parts) => parts,
            Err(error) => return self.refuse_unread(path, header, &error),
        };
        let nonce = find(&parts, payload::NONCE).unwrap_or_default();
        let seen = Seen::new(nonce, path.remote.ip(), header.spi_i.get());
        let shown = Self::shown(header, &parts);
        if self.gate.judge(now, &seen, &shown) == Worth::Enough {
            let _ = self.on(now, old, |sa, ctx| sa.die(ctx, "the peer begins anew"));
            match resumes_first(header) {
                true => self.begin_resumption(now, path, header, message),
                false => self.begin_response(now, path, header, message),
            }
        }
    }

    /// Whether one more may begin: not too many at once, and with a cookie where many do.
    fn admits(
        &mut self,
        now: Instant,
        path: Path,
        header: &Header,
        (nonce, parts): (&[u8], &[Payload<'_>]),
    ) -> bool {
        let (of_address, half_open) = self.sas.half_open(path.remote.ip());
        if half_open >= self.config.half_open_limit {
            // Even who can be reached: memory is bounded.
            self.stats.half_open_refused += 1;
            return false;
        }
        let many = half_open >= self.config.cookie_threshold
            || self.gate.sets_puzzles()
            || of_address >= self.config.half_open_per_address;
        if !many {
            return true;
        }
        let seen = Seen::new(nonce, path.remote.ip(), header.spi_i.get());
        let shown = Self::shown(header, parts);
        match self.gate.judge(now, &seen, &shown) {
            Worth::Enough if of_address < self.config.half_open_per_address * 2 => {
                self.stats.puzzles_solved += u64::from(shown.solution.is_some());
                return true;
            }
            Worth::Unsolved => return false,
            Worth::Enough | Worth::Nothing => {}
        }
        let mut payload = Vec::new();
        self.gate.ask(now, header, (&seen, &shown), &mut payload);
        self.out.transmits.push_back(Transmit {
            path,
            payload,
            keepalive: false,
        });
        false
    }

    /// A peer comes back with a ticket (RFC 5723 §4.3.2).
    fn begin_resumption(&mut self, now: Instant, path: Path, header: &Header, message: &[u8]) {
        let octets = message.get(HEADER_LEN..).unwrap_or_default();
        let parts = match payloads(header.next_payload, octets) {
            Ok(parts) => parts,
            Err(error) => return self.refuse_unread(path, header, &error),
        };
        let parts = &parts[..];
        let nonce = find(parts, payload::NONCE).filter(|n| NONCE_RANGE.contains(&n.len()));
        let ticket = notifies(parts).find(|notify| notify.kind == notify::TICKET_OPAQUE);
        let Some((nonce, ticket)) = nonce.zip(ticket.map(|ticket| ticket.data)) else {
            self.stats.malformed += 1;
            return;
        };
        if !self.admits(now, path, header, (nonce, parts)) {
            return;
        }
        let found = self
            .out
            .tickets
            .open(&*self.crypto, now, ticket)
            .and_then(|ticket| {
                // As in IKE_AUTH: what the peer says chooses, and what it has proved counts.
                let id = Identity::read(&ticket.session.id_body).ok()?;
                let connection = self.connections.iter().find(|c| {
                    c.name == ticket.session.connection
                        && c.resumption.is_some()
                        && may_come(c, path)
                        && c.remote_id.matches_by(&*self.crypto, &id)
                })?;
                let fixed = ticket.session.suite.to_proposal();
                let mut ours = connection.proposals.iter();
                let fits = ours.any(|ours| ours.choose_ike(&fixed).is_some());
                fits.then(|| (connection.clone(), ticket))
            });
        let Some((connection, ticket)) = found else {
            self.stats.refused_tickets += 1;
            let mut chain = Chain::default();
            chain.notify(notify::TICKET_NACK, &[]);
            return self.reply_statelessly(path, header, chain);
        };
        let spi_i = header.spi_i.get();
        self.with(now, |sas, ctx| {
            let spi_r = ctx.random_u64();
            let mut sa = IkeSa::new(ctx, connection, false, (spi_i, spi_r), path);
            if sa
                .answer_resume(ctx, (parts, nonce), ticket, message)
                .is_ok()
            {
                sas.insert(sa);
            }
        });
    }

    /// A puzzle for IKE_AUTH (RFC 8019 §7.2.1): for who has solved one already, and as easy as they begin,
    /// since to decrypt a message costs little. One of IKE_INTERMEDIATE is decrypted before any solution.
    fn puzzle_for_auth(&self, request: &InitRequest<'_>, suite: &IkeSuite) -> Option<Puzzle> {
        let solved = find(&request.parts, payload::PUZZLE_SOLUTION).is_some();
        let alone = methods(&suite.additional).next().is_none();
        let puzzles = &self.config.puzzles;
        let difficulty = puzzles.difficulty.min(puzzles.hardest);
        let sets = self.gate.sets_puzzles() && solved && alone;
        Puzzle::for_offer(difficulty, &request.proposals).filter(|_| sets)
    }

    fn begin_response(&mut self, now: Instant, path: Path, header: &Header, message: &[u8]) {
        let request = match InitRequest::parse(header, message) {
            Ok(request) => request,
            Err(error) => return self.refuse_unread(path, header, &error),
        };
        if !self.admits(now, path, header, (request.nonce, &request.parts)) {
            return;
        }
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let candidates = self.connections.iter().filter(|c| may_come(c, path));
        let additional = has_intermediate(&request.parts);
        let mut chosen = None;
        let mut any = false;
        for connection in candidates {
            any = true;
            if let Some(choice) = choose(&connection.proposals, &request.proposals, additional) {
                chosen = Some((connection.clone(), choice));
                break;
            }
        }
        let Some((connection, choice)) = chosen else {
            // Anybody may send them, as many as they like.
            if let Some(unsaid) = self.misfits.due(now) {
                tracing::info!(%remote, known = any, unsaid, "no connection or proposal fits");
            }
            let mut chain = Chain::default();
            chain.notify(notify::NO_PROPOSAL_CHOSEN, &[]);
            return self.reply_statelessly(path, header, chain);
        };
        let (can, from) = redirect::ability(&request.parts);
        if let Some(to) = connection.redirect.filter(|to| !to.authenticated)
            && can
            && from != Some(to.gateway)
            && local != to.gateway
        {
            let mut chain = Chain::default();
            chain.notify(notify::REDIRECT, &redirect::emit(to.gateway, request.nonce));
            return self.reply_statelessly(path, header, chain);
        }
        if request.group != choice.0.group as u16 {
            let mut chain = Chain::default();
            chain.notify(
                notify::INVALID_KE_PAYLOAD,
                &(choice.0.group as u16).to_be_bytes(),
            );
            return self.reply_statelessly(path, header, chain);
        }
        let spi_i = header.spi_i.get();
        let puzzle = self.puzzle_for_auth(&request, &choice.0);
        self.with(now, |sas, ctx| {
            let spi_r = ctx.random_u64();
            let mut sa = IkeSa::new(ctx, connection, false, (spi_i, spi_r), path);
            if puzzle.is_some() {
                sa.init.auth_puzzle = puzzle;
            }
            if sa.begin_answer(ctx, &request, choice, message).is_ok() {
                sas.insert(sa);
            }
        });
    }
}

/// Whether a peer may come to a connection this way: from there, and by TCP where it does.
pub(crate) fn may_come(connection: &Connection, path: Path) -> bool {
    (path.stream.is_none() || connection.tcp != Tcp::Off)
        && addresses_match(connection, path.local.ip(), path.remote.ip())
}

/// Whether a connection may be used between two addresses.
pub(crate) fn addresses_match(connection: &Connection, local: IpAddr, remote: IpAddr) -> bool {
    permits(&connection.local_addrs, local) && permits(&connection.remote_addrs, remote)
}

/// Whether an address is among these; none are all.
pub(crate) fn permits(patterns: &[AddressPattern], address: IpAddr) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(address))
}
