// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Quick modes that the peer begins.

use std::net::IpAddr;

use ikev2d_proto::config::ChildConfig;
use ikev2d_proto::errand::Errand;
use ikev2d_proto::event::{ChildId, Path};
use ikev2d_proto::ts::TrafficSelector;

use super::{Exchange, Ingredients, KEEP, Pair, Stage};
use crate::isakmp::{Isakmp, Last, NONCE_LEN, Phase};
use crate::keys::Nonces;
use crate::slow::{Then, Undone};
use crate::step::Ctx;
use crate::suite::{choose2, offers_transport};
use crate::wire::{Chain, Payloads, identity, notify, payload, sa};

/// First messages of one SA whose key exchanges go on at once, at most: others have the same threads. One more is
/// as if it had been lost.
const MOST_HELD: usize = 8;

/// Why a quick mode is refused: what the peer is told, and our log.
type Refusal = (u16, String);

/// A quick mode is not answered.
enum Unanswered {
    Refused(Refusal),
    /// Not yet: its key exchange is to be done elsewhere.
    Elsewhere(Errand),
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Isakmp {
    /// Message 1.
    pub(super) fn handle_first(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        (parts, message): (&Payloads<'_>, &[u8]),
        (digest, iv): ([u8; 20], Vec<u8>),
    ) {
        let stage = match self.answer(ctx, parts) {
            Ok(stage) => stage,
            Err(Unanswered::Elsewhere(errand)) => {
                let own = |id: &u32| self.exchanges.contains_key(id);
                if self.held_quick().filter(|id| !own(id)).count() >= MOST_HELD {
                    return;
                }
                return self.send_out(ctx, errand, Then::Quick(id, message.to_vec()));
            }
            Err(Unanswered::Refused((kind, reason))) => {
                tracing::warn!(
                    connection = self.connection.name,
                    reason,
                    "quick mode is refused"
                );
                self.tell(ctx, kind, sa::PROTO_ESP, &[]);
                Stage::Done
            }
        };
        self.note_seen(ctx, id);
        self.exchanges.insert(
            id,
            Exchange {
                stage,
                commit: false,
                iv,
                last: Last {
                    received: Some(digest),
                    ..Last::default()
                },
                forget_at: ctx.now + KEEP,
            },
        );
    }

    /// The proxy ids of a message, mirrored: the peer's first one is our remote one.
    fn proxy_ids(&self, parts: &Payloads<'_>, transport: bool) -> Result<Pair, Refusal> {
        let mut ids = parts.of(payload::ID);
        let selector = |body: Option<&[u8]>, own| match body {
            // RFC 2409 §5.5: without ids it is about the two ends themselves.
            None => Ok(TrafficSelector::host(own)),
            Some(body) => identity::parse(body).map_err(|error| {
                let reason = format!("proxy ids: {error}");
                (notify::INVALID_ID_INFORMATION, reason)
            }),
        };
        let (first, second) = (ids.next(), ids.next());
        if ids.next().is_some() || first.is_some() != second.is_some() {
            let reason = "proxy ids: there must be two or none".to_owned();
            return Err((notify::INVALID_ID_INFORMATION, reason));
        }
        let mut pair = Pair {
            remote: selector(first, self.path.remote.ip())?,
            local: selector(second, self.path.local.ip())?,
        };
        // Behind a NAT a host names itself, and us, by addresses that are others here: what it tells of them
        // is exactly what it means (RFC 3947 §5.2, of transport mode alone: a tunnel's are within).
        let told = self.originals(parts, true);
        if let Some((its, ours)) = told.filter(|_| self.encap && transport) {
            pair.remote = readdressed(pair.remote, its, self.path.remote.ip());
            pair.local = readdressed(pair.local, ours, self.path.local.ip());
        }
        Ok(pair)
    }

    /// The child whose selectors are exactly these (S51, S93).
    fn child_for(&self, wanted: Pair) -> Result<ChildConfig, Refusal> {
        let children = &self.connection.children;
        let fits = |config: &&ChildConfig| self.pairs(config).contains(&wanted);
        children.iter().find(fits).cloned().ok_or_else(|| {
            let ours = children.iter().flat_map(|config| self.pairs(config));
            let ours: Vec<String> = ours.map(|pair| pair.to_string()).collect();
            let reason = format!(
                "proxy ids do not match: the peer asks for {wanted}, configured are {}",
                ours.join(", ")
            );
            (notify::INVALID_ID_INFORMATION, reason)
        })
    }

    fn answer(&mut self, ctx: &mut Ctx<'_>, parts: &Payloads<'_>) -> Result<Stage, Unanswered> {
        let malformed = |what: &str| (notify::PAYLOAD_MALFORMED, format!("malformed {what}"));
        let body = parts.one(payload::SA, "SA").map_err(|_| malformed("SA"))?;
        let offer = sa::parse(body).map_err(|_| malformed("SA"))?;
        let wanted = self.proxy_ids(parts, offers_transport(&offer))?;
        let config = self.child_for(wanted)?;
        let nonce_i = crate::phase1::nonce(parts).map_err(|_| malformed("nonce"))?;
        let public = parts
            .optional(payload::KE, "KE")
            .map_err(|_| malformed("KE"))?;
        let original = match self.encap && self.transport(&config, wanted) {
            true => Some(self.originals(parts, true).ok_or_else(|| {
                let reason = "the peer has not told the addresses of its packets (NAT-OA)";
                (notify::INVALID_ID_INFORMATION, reason.to_owned())
            })?),
            false => None,
        };
        let ours = self.suites(&config);
        let chosen = choose2(&ours, &offer, self.encapsulation(&config, wanted));
        let Some(chosen) = chosen else {
            let reason = format!("no proposal of child {:?} fits", config.name);
            return Err((notify::NO_PROPOSAL_CHOSEN, reason).into());
        };
        let (public, secret) = match (chosen.suite.group, public) {
            (None, None) => (None, None),
            (Some(group), Some(public)) => {
                let answer = self.answer_exchange(ctx, group, public);
                let (public, secret) = answer.map_err(|undone| match undone {
                    Undone::Elsewhere(errand) => Unanswered::Elsewhere(errand),
                    Undone::Failed => malformed("KE").into(),
                })?;
                (Some(public), Some(secret))
            }
            _ => return Err(malformed("KE").into()),
        };
        let mut answer = Chain::default();
        let spi_in = ctx.new_spi();
        answer.push(payload::SA, &chosen.emit(spi_in.value()));
        let nonce_r = ctx.random(NONCE_LEN);
        answer.push(payload::NONCE, &nonce_r);
        if let Some(public) = &public {
            answer.push(payload::KE, public);
        }
        for body in parts.of(payload::ID) {
            answer.push(payload::ID, body);
        }
        if original.is_some() {
            self.push_originals(&mut answer, false);
        }
        super::push_terms(&mut answer, &config, &chosen, spi_in.value());
        let nonces = Nonces {
            initiator: nonce_i,
            responder: &nonce_r,
        };
        let ingredients = Ingredients {
            suite: chosen.suite,
            spi_in,
            spi_out: chosen.spi,
            nonces,
            secret,
            life: chosen.life,
            replay: None,
            original,
            asked: false,
        };
        let rekeys = self.rekeyed(&config.name, wanted);
        let made = self.make_child(ctx, &config, wanted, ingredients, rekeys);
        let (child, install) = made.ok_or_else(|| malformed("keys"))?;
        Ok(Stage::Answering {
            install,
            child,
            chain: answer,
            nonces: [nonce_i.to_vec(), nonce_r],
        })
    }

    /// The child SA that a new one of the same selectors takes over from.
    pub(super) fn rekeyed(&self, name: &str, pair: Pair) -> Option<ChildId> {
        let children = self.children.iter().rev();
        let mut same = children.filter(|child| {
            *child.sa.child == *name
                && child.phase != Phase::Replaced
                && child.announced
                && *child.sa.ts_local == [pair.local]
                && *child.sa.ts_remote == [pair.remote]
        });
        same.next().map(|child| child.sa.id)
    }

    /// Message 2.
    pub(super) fn send_second(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        child: ChildId,
        chain: &Chain,
        nonces: [Vec<u8>; 2],
    ) {
        if self.send_quick(ctx, id, &[&nonces[0]], chain, true)
            && let Some(exchange) = self.exchanges.get_mut(&id)
        {
            exchange.stage = Stage::Answered { child, nonces };
        }
    }

    /// Message 3: the peer has its inbound SA.
    pub(super) fn handle_third(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        id: u32,
        parts: &Payloads<'_>,
        nonces: Vec<u8>,
        (digest, iv): ([u8; 20], Vec<u8>),
    ) {
        let Some(keys) = &self.keys else { return };
        let octets = id.to_be_bytes();
        let expected = keys.authenticate(ctx.crypto, &[&[0], &octets, &nonces]);
        let hash = parts.all.first().filter(|part| part.kind == payload::HASH);
        let good = match (expected, hash) {
            (Ok(expected), Some(hash)) => ctx.crypto.equal(&expected, hash.body),
            _ => false,
        };
        let Some(exchange) = self.exchanges.get_mut(&id).filter(|_| good) else {
            ctx.out.malformed += 1;
            return;
        };
        exchange.iv = iv;
        exchange.last.received = Some(digest);
        exchange.last.sent = None;
        exchange.last.at = None;
        exchange.forget_at = ctx.now + KEEP;
        if let Stage::Answered { child, .. } = std::mem::replace(&mut exchange.stage, Stage::Done) {
            self.heard(ctx, path);
            ctx.out.up.push(child);
            if self.connection.ikev1.commit {
                self.tell_connected(ctx, id, child);
            }
        }
    }
}

/// A selector of one host under another address.
fn readdressed(selector: TrafficSelector, from: IpAddr, to: IpAddr) -> TrafficSelector {
    match (selector.start, selector.end) == (from, from) {
        true => TrafficSelector {
            start: to,
            end: to,
            ..selector
        },
        false => selector,
    }
}
