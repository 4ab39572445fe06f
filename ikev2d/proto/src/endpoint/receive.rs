// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a datagram is; first messages, and the cookies that floods of them are met with.

use std::net::IpAddr;
use std::time::Instant;

use super::{COOKIE_SECRET, Endpoint};
use crate::config::Connection;
use crate::event::{Path, Transmit};
use crate::exchange::init::{InitRequest, choose, has_intermediate};
use crate::ike_sa::{IkeSa, notifies};
use crate::wire::{
    Chain, FLAG_INITIATOR, FLAG_RESPONSE, Header, VERSION, WireError, exchange, notify,
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
        let first = header.exchange == exchange::IKE_SA_INIT
            && header.flags & (FLAG_INITIATOR | FLAG_RESPONSE) == FLAG_INITIATOR
            && header.spi_r.get() == 0
            && header.message_id.get() == 0;
        let spi_i = header.spi_i.get();
        if first && spi_i != 0 {
            match self.sas.by_first(spi_i, path.remote).map(|sa| sa.id) {
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
        let (of_address, half_open) = self.sas.half_open(path.remote.ip());
        if half_open >= self.config.half_open_limit {
            // Even who can be reached: memory is bounded.
            self.stats.half_open_refused += 1;
            return;
        }
        if half_open >= self.config.cookie_threshold
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
                sas.insert(sa);
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
}

/// Whether a connection may be used between two addresses.
pub(crate) fn addresses_match(connection: &Connection, local: IpAddr, remote: IpAddr) -> bool {
    let fits = |patterns: &[crate::config::AddressPattern], address: IpAddr| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(address))
    };
    fits(&connection.local_addrs, local) && fits(&connection.remote_addrs, remote)
}
