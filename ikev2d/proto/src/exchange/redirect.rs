// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Redirection (RFC 5685): a gateway names another one, in IKE_SA_INIT, in IKE_AUTH, or later.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::crypto::CryptoError;
use crate::event::Event;
use crate::ike_sa::{Ctx, IkeSa, Request, Standing, State, Task, notifies};
use crate::wire::{Chain, Payload, Reader, exchange, notify};

/// Redirections of a connection that are followed within [`PERIOD`] (§3: MAX_REDIRECTS).
const MOST: usize = 5;
/// §3: REDIRECT_LOOP_DETECT_PERIOD.
const PERIOD: Duration = Duration::from_secs(300);

const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// A gateway's address, as in REDIRECT and REDIRECTED_FROM (§7.2, §7.3).
pub(crate) fn emit(gateway: IpAddr, nonce: &[u8]) -> Vec<u8> {
    let mut out = match gateway {
        IpAddr::V4(v4) => [&[IPV4, 4][..], &v4.octets()].concat(),
        IpAddr::V6(v6) => [&[IPV6, 16][..], &v6.octets()].concat(),
    };
    out.extend(nonce);
    out
}

/// The gateway's address and the nonce behind it. A name would have to be looked up: it is nothing.
fn read(data: &[u8]) -> Option<(IpAddr, &[u8])> {
    let mut reader = Reader::new(data);
    let (kind, len) = (reader.u8().ok()?, reader.u8().ok()?);
    let octets = reader.take(len.into()).ok()?;
    let gateway = match kind {
        IPV4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        IPV6 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    Some((gateway, reader.rest()))
}

/// Where a gateway sends us, without a nonce.
pub(crate) fn target(parts: &[Payload<'_>]) -> Option<IpAddr> {
    let found = notifies(parts).find(|notify| notify.kind == notify::REDIRECT)?;
    let (gateway, nonce) = read(found.data)?;
    nonce.is_empty().then_some(gateway)
}

/// Whether a client can be sent elsewhere, and which gateway has sent it here.
pub(crate) fn ability(parts: &[Payload<'_>]) -> (bool, Option<IpAddr>) {
    let from = notifies(parts).find(|notify| notify.kind == notify::REDIRECTED_FROM);
    let supported = |notify: notify::Notify<'_>| notify.kind == notify::REDIRECT_SUPPORTED;
    let can = from.is_some() || notifies(parts).any(supported);
    let from = from.and_then(|notify| read(notify.data));
    (can, from.map(|(gateway, _)| gateway))
}

/// When connections were redirected lately.
#[derive(Default)]
pub(crate) struct Followed(HashMap<String, VecDeque<Instant>>);

impl Followed {
    /// Whether a connection may be redirected once more; counts it.
    fn may(&mut self, connection: &str, now: Instant) -> bool {
        let times = self.0.entry(connection.to_owned()).or_default();
        times.retain(|at| now < *at + PERIOD);
        let may = times.len() < MOST;
        if may {
            times.push_back(now);
        }
        may
    }
}

impl IkeSa {
    /// Says that we can be redirected, and by whom we were (§3).
    pub(crate) fn push_redirect_ability(&self, chain: &mut Chain) {
        if !self.connection.follow_redirects {
            return;
        }
        match self.init.redirected_from {
            Some(from) => chain.notify(notify::REDIRECTED_FROM, &emit(from, &[])),
            None => chain.notify(notify::REDIRECT_SUPPORTED, &[]),
        }
    }

    /// Whether we go to another gateway: as often as a loop would not, and where we can get from here.
    pub(crate) fn follows_to(&self, ctx: &mut Ctx<'_>, gateway: IpAddr) -> bool {
        let from = self.path.remote.ip();
        let connection = &self.connection.name;
        let usable = gateway.is_ipv4() == self.path.local.is_ipv4()
            && !gateway.is_unspecified()
            && !gateway.is_multicast()
            && gateway != from;
        let follows = usable && ctx.out.followed.may(connection, ctx.now);
        if follows {
            let ike = self.id;
            let to = gateway;
            ctx.event(Event::Redirected { ike, from, to });
        } else {
            tracing::warn!(connection, %from, to = %gateway, "a redirection is not followed");
        }
        follows
    }

    /// IKE_SA_INIT is answered by another gateway's address: begins anew there. Only who has seen our
    /// nonce can say so (§3).
    pub(crate) fn redirect_init(&mut self, ctx: &mut Ctx<'_>, data: &[u8]) {
        let Some((gateway, nonce)) = read(data) else {
            return;
        };
        if nonce != self.init.nonce_i {
            return;
        }
        if !self.follows_to(ctx, gateway) {
            return self.die(
                ctx,
                "the peer redirects us in a loop, or to where we can't go",
            );
        }
        self.take_init_request();
        let from = self.path.remote.ip();
        self.path.remote = (gateway, self.connection.remote_port).into();
        self.spi_i = ctx.random_u64();
        self.init.clear();
        self.init.redirected_from = Some(from);
        if self.begin_init(ctx).is_err() {
            self.die(ctx, "IKE_SA_INIT could not be made");
        }
    }

    /// An authenticated gateway sends us elsewhere (§5, §6).
    pub(crate) fn redirect_established(&mut self, ctx: &mut Ctx<'_>, parts: &[Payload<'_>]) {
        let current = self.state == State::Established && self.standing == Standing::Current;
        if !current || !self.moves || !self.connection.follow_redirects || self.reauth.under_way {
            return;
        }
        if let Some(gateway) = target(parts)
            && self.follows_to(ctx, gateway)
        {
            self.reauth.under_way = true;
            // What is not begun here is for the other gateway.
            let asked = |task: &Task| matches!(task, Task::Child { rekeys: None, .. });
            let (asked, rest) = self.tasks.drain(..).partition(asked);
            *self.tasks = rest;
            ctx.out.redirected.push((self.id, gateway, asked));
        }
    }

    /// Where the peer is to go instead of here, once it is authenticated.
    pub(crate) fn redirects_peer_to(&self) -> Option<IpAddr> {
        let redirect = self.connection.redirect.as_ref()?;
        let to = redirect.gateway;
        let elsewhere = self.init.redirected_from != Some(to) && self.path.local.ip() != to;
        (redirect.authenticated && self.redirectable && elsewhere).then_some(to)
    }

    /// Tells an established peer to go elsewhere (§5).
    pub(crate) fn start_redirect(
        &mut self,
        ctx: &mut Ctx<'_>,
        gateway: IpAddr,
    ) -> Result<(), CryptoError> {
        let mut chain = Chain::default();
        chain.notify(notify::REDIRECT, &emit(gateway, &[]));
        self.request(ctx, exchange::INFORMATIONAL, chain, Request::Liveness)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As §7.2 draws it.
    #[test]
    fn gateways_survive_the_wire_and_names_are_nothing() {
        for text in ["192.0.2.9", "2001:db8::9"] {
            let gateway: IpAddr = text.parse().unwrap();
            let data = emit(gateway, &[7; 32]);
            assert_eq!(read(&data), Some((gateway, &[7; 32][..])));
            for len in 0..data.len() - 32 {
                assert_eq!(read(&data[..len]), None);
            }
        }
        assert_eq!(emit([192, 0, 2, 9].into(), &[]), [1, 4, 192, 0, 2, 9]);
        assert_eq!(read(b"\x03\x04a.bc"), None);
        assert_eq!(read(&[1, 5, 192, 0, 2, 9, 9]), None);
    }

    /// §3: at most five in five minutes.
    #[test]
    fn a_loop_is_left() {
        let (mut followed, start) = (Followed::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let may: Vec<bool> = (0..7).map(|n| followed.may("gw", at(n * 10))).collect();
        assert_eq!(may, [true, true, true, true, true, false, false]);
        assert!(followed.may("other", at(60)));
        assert!(followed.may("gw", at(301)) && !followed.may("gw", at(302)));
    }
}
