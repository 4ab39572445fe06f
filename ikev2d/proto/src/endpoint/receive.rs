// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a datagram is; first messages, and the cookies that floods of them are met with.

use std::net::IpAddr;
use std::time::Instant;

use super::{Endpoint, cookie};
use crate::config::{AddressPattern, Connection};
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
        self.out.notified.told(&chain);
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
            self.cookies.rotate(&*self.crypto, now);
            let seen = cookie::Seen::new(&request, path.remote.ip(), header.spi_i.get());
            let valid =
                given.is_some_and(|given| self.cookies.are_good(&*self.crypto, &seen, given.data));
            if !valid || of_address >= self.config.half_open_per_address * 2 {
                self.stats.cookies += 1;
                let mut chain = Chain::default();
                chain.notify(notify::COOKIE, &self.cookies.make(&*self.crypto, &seen));
                return self.reply_statelessly(path, header, chain);
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
            // Anybody may send them, as many as they like.
            if let Some(unsaid) = self.misfits.due(now) {
                tracing::info!(%remote, known = any, unsaid, "no connection or proposal fits");
            }
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
}

/// Whether a connection may be used between two addresses.
pub(crate) fn addresses_match(connection: &Connection, local: IpAddr, remote: IpAddr) -> bool {
    permits(&connection.local_addrs, local) && permits(&connection.remote_addrs, remote)
}

/// Whether an address is among these; none are all.
pub(crate) fn permits(patterns: &[AddressPattern], address: IpAddr) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(address))
}
