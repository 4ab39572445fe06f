// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whose a datagram is, and first messages.

use std::time::Instant;

use ikev2d_proto::config::Identity;
use ikev2d_proto::event::Path;

use super::{Endpoint, addresses_match};
use crate::fragments::is_fragment;
use crate::isakmp::Isakmp;
use crate::phase1::{Failure, unproved};
use crate::slow::Then;
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
        let (half_open, of_network) = self.sas.half_open(address);
        if half_open >= self.config.half_open_limit
            || of_network >= self.config.half_open_per_address
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
            match begin_response(ctx, path, header, (&parts, message)) {
                Ok(Some(mut sa)) => {
                    sa.phase1.received = Some(ctx.crypto.sha1(&[message]));
                    sas.insert(sa);
                }
                Ok(None) => {}
                Err(failure) => not_begun(ctx, path, cky_i, &failure),
            }
        });
    }
}

/// A first message begins nothing.
pub(crate) fn not_begun(ctx: &mut Ctx<'_>, path: Path, cky_i: u64, failure: &Failure) {
    match failure {
        Failure::Refused { notify, reason } => {
            tracing::info!(peer = %path.remote, reason, "phase 1 is refused");
            unproved(ctx, path, (cky_i, 0), *notify);
        }
        failure => {
            ctx.out.malformed += 1;
            tracing::info!(peer = %path.remote, %failure, "message 1 is passed over");
        }
    }
}

/// The SA that a first message begins; none where no connection speaks IKEv1 with that address, which
/// then hears nothing at all.
fn begin_response(
    ctx: &mut Ctx<'_>,
    path: Path,
    header: &Header,
    (parts, message): (&Payloads<'_>, &[u8]),
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
    let begun = if aggressive {
        sa.aggressive_2(ctx, parts, &choice)
    } else {
        sa.main_2(ctx, parts, &choice)
    };
    match begun {
        Ok(()) => {}
        Err(Failure::Elsewhere(errand)) => {
            sa.send_out(ctx, errand, Then::First(message.to_vec()));
            if !sa.holds_phase1() {
                return Ok(None);
            }
        }
        Err(failure) => return Err(failure),
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
            return match self.collect(ctx, message) {
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
            exchange::QUICK => self.keep_early(ctx, path, message),
            exchange::TRANSACTION if header.flags & FLAG_ENCRYPTED == 0 => ctx.out.malformed += 1,
            exchange::TRANSACTION if self.is_proved() => {
                self.handle_transaction(ctx, path, &header, message);
            }
            exchange::TRANSACTION => self.keep_early(ctx, path, message),
            exchange::INFORMATIONAL => {
                self.handle_informational(ctx, path, &header, message);
            }
            _ => ctx.out.malformed += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use ikev2d_crypto::OpensslCrypto;
    use ikev2d_proto::config::{AddressPattern, Connection, EndpointConfig, Secret};
    use ikev2d_proto::event::Numbers;
    use ikev2d_proto::proposal::Proposal;
    use zeroize::Zeroizing;

    use super::*;

    fn endpoint(remote: AddressPattern) -> Endpoint {
        let crypto = Arc::new(OpensslCrypto::new().unwrap());
        let mut endpoint = Endpoint::new(EndpointConfig::default(), crypto, &Numbers::default());
        let connection = Connection {
            name: "gw".to_owned(),
            remote_addrs: vec![remote],
            proposals: vec![Proposal::parse_ike("aes256-sha256-ecp256").unwrap()],
            ..Connection::default()
        };
        endpoint.connections = vec![Arc::new(connection)];
        endpoint.secrets = vec![Secret {
            ids: vec![],
            secret: Zeroizing::new(b"correct horse".to_vec()),
        }];
        endpoint
    }

    /// Message 1 of anybody, whose cookie is its front.
    fn message_1(now: Instant) -> Vec<u8> {
        let mut endpoint = endpoint(AddressPattern::Prefix([192, 0, 2, 2].into(), 32));
        let local = "192.0.2.1".parse().unwrap();
        endpoint.initiate(now, "gw", None, Some(local)).unwrap();
        endpoint.poll_transmit().unwrap().payload
    }

    /// Begins an SA from an address; its cookies, where there is an answer.
    fn begin(
        responder: &mut Endpoint,
        now: Instant,
        (from, cookie): (SocketAddr, u64),
        message: &mut [u8],
    ) -> Option<(Path, [u8; 16])> {
        message[..8].copy_from_slice(&cookie.to_be_bytes());
        let local = if from.is_ipv4() {
            "192.0.2.2:500"
        } else {
            "[2001:db8::2]:500"
        };
        let path = Path::new(local.parse().unwrap(), from);
        responder.handle_datagram(now, path, message);
        let answer = responder.poll_transmit()?;
        Some((path, answer.payload[..16].try_into().unwrap()))
    }

    /// A message of an SA with so many octets that are all alike.
    fn filled(cookies: [u8; 16], next: u8, flags: u8, octet: u8, len: usize) -> Vec<u8> {
        let mut message = cookies.to_vec();
        message.extend([next, 0x10, exchange::QUICK, flags, 0, 0, 0, octet]);
        message.extend((len as u32).to_be_bytes());
        message.resize(len, octet);
        message
    }

    /// Whoever can read message 2 has us keep little, however many SAs and networks it has.
    #[test]
    fn what_nobody_has_vouched_for_is_kept_in_bounded_memory() {
        const MOST: usize = 64 << 20;
        let now = Instant::now();
        let mut message = message_1(now);
        let mut responder = endpoint(AddressPattern::Any);
        let mut refused = false;
        for cookie in 1..1200u64 {
            let host = [10, 0, (cookie >> 12) as u8, (cookie >> 4) as u8];
            let from = SocketAddr::from((host, 500));
            let begun = begin(&mut responder, now, (from, cookie), &mut message);
            let (path, cookies) = begun.unwrap();
            let before = responder.sas.kept();
            for octet in 0..16 {
                // Longer than any quick mode is: not kept at all.
                let long = filled(cookies, payload::HASH, FLAG_ENCRYPTED, octet, 60_000);
                responder.handle_datagram(now, path, &long);
            }
            assert_eq!(responder.sas.kept(), before);
            for octet in 0..16 {
                let early = filled(cookies, payload::HASH, FLAG_ENCRYPTED, octet, 4096);
                responder.handle_datagram(now, path, &early);
            }
            for number in 1..=32 {
                let mut fragment = filled(cookies, payload::FRAGMENT, 0, 0, 28 + 8 + 1024);
                fragment[28..36].copy_from_slice(&[0, 0, 4, 8, 0, 1, number, 0]);
                responder.handle_datagram(now, path, &fragment);
            }
            let own = responder.sas.kept() - before;
            assert!(own <= 64 << 10, "{own} octets of one");
            refused |= own < 64 << 10;
            assert!(responder.sas.kept() <= MOST, "{}", responder.sas.kept());
        }
        assert!(refused && responder.sas.kept() > MOST / 2);
        // When they are given up, nothing is counted any more.
        for _ in 0..10 {
            if let Some(at) = responder.poll_timeout() {
                responder.handle_timeout(at);
            }
        }
        assert_eq!((responder.sas.kept(), responder.stats().half_open), (0, 0));
    }

    /// Who has one host's IPv6 network has all of its addresses.
    #[test]
    fn an_ipv6_network_is_one_peer_to_the_half_open_limit() {
        let now = Instant::now();
        let mut message = message_1(now);
        let mut responder = endpoint(AddressPattern::Any);
        let most = EndpointConfig::default().half_open_per_address;
        for host in 1..100u16 {
            let from = format!("[2001:db8:1::{host:x}]:500").parse().unwrap();
            let begun = begin(&mut responder, now, (from, host.into()), &mut message);
            assert_eq!(begun.is_some(), usize::from(host) <= most, "{host}");
        }
        assert_eq!(responder.stats().half_open, most);
        // Another network is another peer.
        let from = "[2001:db8:2::1]:500".parse().unwrap();
        assert!(begin(&mut responder, now, (from, 1), &mut message).is_some());
    }
}
