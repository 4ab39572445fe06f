// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a datagram is; first messages, and the cookies that floods of them are met with.

use std::net::IpAddr;
use std::time::Instant;

use super::Endpoint;
use super::cookie::Seen;
use super::gate::is_first;
use crate::config::{AddressPattern, Connection, Tcp};
use crate::event::{IkeId, Path, Transmit};
use crate::exchange::init::{InitRequest, choose, has_intermediate};
use crate::exchange::redirect;
use crate::ike_sa::{IkeSa, notifies};
use crate::wire::{Chain, FLAG_INITIATOR, FLAG_RESPONSE, Header, VERSION, WireError, notify};

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
        if is_first(&header) {
            let present = self.sas.by_first(spi_i, path.remote);
            match present.map(|sa| (sa.id, sa.was_begun_otherwise(datagram))) {
                Some((id, false)) => {
                    let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, &header, datagram));
                }
                Some((id, true)) => self.begin_anew(now, (path, id), &header, datagram),
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
                if std::mem::take(&mut self.out.again) {
                    let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, &header, datagram));
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

    fn has_cookie(&self, now: Instant, request: &InitRequest<'_>, seen: &Seen<'_>) -> bool {
        let given = notifies(&request.parts).find(|notify| notify.kind == notify::COOKIE);
        given.is_some_and(|given| self.gate.knows(now, seen, given.data))
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
        let Ok(request) = InitRequest::parse(header, message) else {
            self.stats.malformed += 1;
            return;
        };
        let seen = Seen::new(request.nonce, path.remote.ip(), header.spi_i.get());
        if self.has_cookie(now, &request, &seen) {
            let _ = self.on(now, old, |sa, ctx| sa.die(ctx, "the peer begins anew"));
            self.begin_response(now, path, header, message);
        }
    }

    fn begin_response(&mut self, now: Instant, path: Path, header: &Header, message: &[u8]) {
        let Ok(request) = InitRequest::parse(header, message) else {
            self.stats.malformed += 1;
            return;
        };
        let (of_address, half_open) = self.sas.half_open(path.remote.ip());
        if half_open >= self.config.half_open_limit {
            // Even who can be reached: memory is bounded.
            self.stats.half_open_refused += 1;
            return;
        }
        if half_open >= self.config.cookie_threshold
            || of_address >= self.config.half_open_per_address
        {
            let seen = Seen::new(request.nonce, path.remote.ip(), header.spi_i.get());
            if !self.has_cookie(now, &request, &seen)
                || of_address >= self.config.half_open_per_address * 2
            {
                let mut payload = Vec::new();
                self.gate.ask(now, header, &seen, &mut payload);
                self.out.transmits.push_back(Transmit {
                    path,
                    payload,
                    keepalive: false,
                });
                return;
            }
        }
        let (local, remote) = (path.local.ip(), path.remote.ip());
        let may_come = |c: &Connection| path.stream.is_none() || c.tcp != Tcp::Off;
        let candidates = self
            .connections
            .iter()
            .filter(|c| may_come(c) && addresses_match(c, local, remote));
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
        self.with(now, |sas, ctx| {
            let spi_r = ctx.random_u64();
            let mut sa = IkeSa::new(ctx, connection, false, (spi_i, spi_r), path);
            if sa.answer_init(ctx, &request, choice, message).is_ok() {
                sas.insert(sa);
            }
        });
    }
}

/// Whether a connection may be used between two addresses.
pub(crate) fn addresses_match(connection: &Connection, local: IpAddr, remote: IpAddr) -> bool {
    permits(&connection.local_addrs, local) && permits(&connection.remote_addrs, remote)
}

/// Whether an address is among these; none are all.
pub(crate) fn permits(patterns: &[AddressPattern], address: IpAddr) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(address))
}
