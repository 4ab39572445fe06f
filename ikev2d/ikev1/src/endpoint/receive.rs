// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a datagram is, and first messages.

use std::time::Instant;

use ikev2d_proto::config::Identity;
use ikev2d_proto::event::Path;

use super::{Endpoint, addresses_match};
use crate::fragments::is_fragment;
use crate::isakmp::Isakmp;
use crate::phase1::{Failure, unproved};
use crate::step::Ctx;
use crate::suite::{End, Method, choose1, phase1};
use crate::wire::{
    FLAG_ENCRYPTED, HEADER_LEN, Header, Payloads, exchange, notify, parse_header, payload, sa,
};

/// What an endpoint has seen and refused.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) malformed: u64,
    pub(super) unknown: u64,
    pub(super) half_open_refused: u64,
}

impl Endpoint {
    /// Takes in a datagram (without the non-ESP marker of port 4500).
    pub fn handle_datagram(&mut self, now: Instant, path: Path, datagram: &[u8]) {
        let Ok(header) = parse_header(datagram) else {
            self.stats.malformed += 1;
            return;
        };
        let (cky_i, cky_r) = (header.spi_i.get(), header.spi_r.get());
        if cky_i == 0 {
            self.stats.malformed += 1;
            return;
        }
        if cky_r == 0 {
            return match header.exchange {
                exchange::MAIN | exchange::AGGRESSIVE => self.first(now, path, &header, datagram),
                _ => self.known(now, path, &header, datagram),
            };
        }
        self.known(now, path, &header, datagram);
    }

    /// A message of an SA that is there.
    fn known(&mut self, now: Instant, path: Path, header: &Header, datagram: &[u8]) {
        let (cky_i, cky_r) = (header.spi_i.get(), header.spi_r.get());
        match self.sas.by_cookies(cky_i, cky_r) {
            Some(id) => {
                let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, datagram));
            }
            None => self.stats.unknown += 1,
        }
    }

    /// Message 1, or a repetition of it.
    fn first(&mut self, now: Instant, path: Path, header: &Header, message: &[u8]) {
        if header.flags & FLAG_ENCRYPTED != 0 || header.message_id.get() != 0 {
            self.stats.malformed += 1;
            return;
        }
        let cky_i = header.spi_i.get();
        let address = path.remote.ip();
        if let Some(id) = self.sas.by_first(cky_i, address) {
            let _ = self.on(now, id, |sa, ctx| sa.handle(ctx, path, message));
            return;
        }
        let (half_open, of_address) = self.sas.half_open(address);
        if half_open >= self.config.half_open_limit
            || of_address >= self.config.half_open_per_address
        {
            self.stats.half_open_refused += 1;
            return;
        }
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let Ok(parts) = Payloads::parse(header.next_payload, body, false) else {
            self.stats.malformed += 1;
            return;
        };
        self.with(now, |sas, ctx| {
            match begin_response(ctx, path, header, &parts) {
                Ok(Some(mut sa)) => {
                    sa.phase1.received = Some(ctx.crypto.sha1(&[message]));
                    sas.insert(sa);
                }
                Ok(None) => {}
                Err(Failure::Refused { notify, reason }) => {
                    tracing::info!(peer = %path.remote, reason, "phase 1 is refused");
                    unproved(ctx, path, (cky_i, 0), notify);
                }
                Err(failure) => {
                    ctx.out.malformed += 1;
                    tracing::info!(peer = %path.remote, %failure, "message 1 is passed over");
                }
            }
        });
    }
}

/// The SA that a first message begins; none where no connection speaks IKEv1 with that address, which
/// then hears nothing at all.
fn begin_response(
    ctx: &mut Ctx<'_>,
    path: Path,
    header: &Header,
    parts: &Payloads<'_>,
) -> Result<Option<Isakmp>, Failure> {
    let aggressive = header.exchange == exchange::AGGRESSIVE;
    let offer = sa::parse(parts.one(payload::SA, "SA")?)?;
    let (local, remote) = (path.local.ip(), path.remote.ip());
    let connections = ctx.connections.iter();
    let candidates: Vec<_> = connections
        .filter(|c| addresses_match(c, local, remote))
        .collect();
    if candidates.is_empty() {
        return Ok(None);
    }
    let identity = match parts.optional(payload::ID, "ID")? {
        Some(body) if aggressive => Some(Identity::read(body)?),
        _ => None,
    };
    let mut weak = false;
    let mut chosen = None;
    for connection in candidates {
        if connection.ikev1.aggressive != aggressive {
            continue;
        }
        let known = identity.as_ref();
        // Whom we don't know gets no hash to guess at.
        if known.is_some_and(|id| !connection.remote_id.matches_by(ctx.crypto, id)) {
            continue;
        }
        let ours = phase1(connection, End::Responder);
        let Some(choice) = choose1(&ours, &offer) else {
            continue;
        };
        if aggressive
            && choice.suite.method == Method::SharedKey
            && !connection.ikev1.aggressive_psk
        {
            weak = true;
            continue;
        }
        chosen = Some((connection.clone(), choice));
        break;
    }
    let Some((connection, choice)) = chosen else {
        let reason = if weak {
            "aggressive mode with a preshared key is not answered: its hash can be guessed at offline \
             (ikev1.aggressive_psk allows it)"
        } else {
            "no connection or proposal fits"
        };
        return Err(Failure::refused(notify::NO_PROPOSAL_CHOSEN, reason));
    };
    let cookies = (header.spi_i.get(), ctx.cookie());
    let mut sa = Isakmp::new(ctx, connection, false, cookies, path);
    if aggressive {
        sa.aggressive_2(ctx, parts, &choice)?;
    } else {
        sa.main_2(ctx, parts, &choice)?;
    }
    Ok(Some(sa))
}

impl Isakmp {
    /// Takes in a message for this SA.
    pub(crate) fn handle(&mut self, ctx: &mut Ctx<'_>, path: Path, message: &[u8]) {
        let Ok(header) = parse_header(message) else {
            return;
        };
        if is_fragment(&header) {
            return match self.collect(ctx.now, message) {
                Ok(Some(whole)) => self.handle(ctx, path, &whole),
                Ok(None) => {}
                Err(()) => ctx.out.malformed += 1,
            };
        }
        match header.exchange {
            exchange::MAIN | exchange::AGGRESSIVE => {
                self.handle_phase1(ctx, path, &header, message);
            }
            exchange::QUICK if header.flags & FLAG_ENCRYPTED == 0 => ctx.out.malformed += 1,
            exchange::QUICK if self.is_up() => self.handle_quick(ctx, path, &header, message),
            exchange::QUICK => self.keep_early(path, message),
            exchange::TRANSACTION if header.flags & FLAG_ENCRYPTED == 0 => ctx.out.malformed += 1,
            exchange::TRANSACTION if self.is_proved() => {
                self.handle_transaction(ctx, path, &header, message);
            }
            exchange::TRANSACTION => self.keep_early(path, message),
            exchange::INFORMATIONAL => {
                self.handle_informational(ctx, path, &header, message);
            }
            _ => ctx.out.malformed += 1,
        }
    }
}
