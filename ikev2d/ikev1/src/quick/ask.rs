// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Quick modes that we begin.

use ikev2d_proto::algorithm::Group;
use ikev2d_proto::config::ChildConfig;
use ikev2d_proto::event::{ChildId, Path};
use ikev2d_proto::proposal::Proposal;

use super::{Asked, COMMIT_WAIT, Exchange, HEAD_START, Ingredients, KEEP, Pair, Stage};
use crate::isakmp::{Child, Isakmp, Last, NONCE_LEN, Phase, State};
use crate::keys::Nonces;
use crate::slow::{Then, Undone};
use crate::step::Ctx;
use crate::suite::{choose2, emit_phase2};
use crate::wire::notify::{self, Notify};
use crate::wire::{Chain, Payloads, identity, payload, sa};

impl Isakmp {
    /// Whether a child is being asked for, or is to be; its rekeying is another matter.
    pub(crate) fn asks_for(&self, child: &str) -> bool {
        let exchange = |exchange: &Exchange| match &exchange.stage {
            Stage::Asked(asked) => asked.rekeys.is_none() && asked.name == child,
            _ => false,
        };
        let held = |then: &Then| matches!(then, Then::Ask(name, _, None) if name == child);
        self.wanted.iter().any(|wanted| wanted == child)
            || self.exchanges.values().any(exchange)
            || self.elsewhere.iter().any(held)
    }

    /// Asks for a child: a quick mode for each pair of its selectors.
    pub(crate) fn ask_child(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let Some(config) = self.child_config(name) else {
            return self.quick_failed(ctx, name, None, "the child is not configured any more");
        };
        let pairs = self.pairs(&config);
        if pairs.is_empty() {
            let reason = "its selectors are of different families";
            return self.quick_failed(ctx, name, None, reason);
        }
        for pair in pairs {
            self.ask(ctx, &config, pair, None);
        }
    }

    /// Asks for a child SA that takes over from another.
    pub(crate) fn rekey_child(&mut self, ctx: &mut Ctx<'_>, id: ChildId) {
        let Some(child) = self.child_mut(id) else {
            return;
        };
        if child.phase != Phase::Installed || child.install.is_some() {
            return;
        }
        let name = child.sa.child.clone();
        let selectors = (child.sa.ts_local.first(), child.sa.ts_remote.first());
        let (Some(local), Some(remote)) = selectors else {
            return;
        };
        let pair = Pair {
            local: *local,
            remote: *remote,
        };
        child.phase = Phase::Rekeying;
        child.rekey_at = None;
        match self.child_config(&name) {
            Some(config) => self.ask(ctx, &config, pair, Some(id)),
            None => tracing::info!(
                child = &*name,
                "is not configured any more: it is not rekeyed"
            ),
        }
    }

    fn ask(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: &ChildConfig,
        pair: Pair,
        rekeys: Option<ChildId>,
    ) {
        if let Err(reason) = self.send_first(ctx, config, pair, rekeys) {
            self.quick_failed(ctx, &config.name, rekeys, reason);
        }
    }

    /// Asks now that the key exchange is made, or could not be.
    pub(crate) fn ask_held(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        pair: Pair,
        rekeys: Option<ChildId>,
        unmade: bool,
    ) {
        let is = |child: &Child, old| child.sa.id == old && child.phase != Phase::Replaced;
        let gone = |old| !self.children.iter().any(|child| is(child, old));
        if rekeys.is_some_and(gone) && self.state == State::Established {
            return;
        }
        match self.child_config(name) {
            _ if unmade => self.quick_failed(ctx, name, rekeys, "a key exchange could not be made"),
            None => {
                let reason = "the child is not configured any more";
                self.quick_failed(ctx, name, rekeys, reason);
            }
            Some(config) => self.ask(ctx, &config, pair, rekeys),
        }
    }

    fn send_first(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: &ChildConfig,
        pair: Pair,
        rekeys: Option<ChildId>,
    ) -> Result<(), &'static str> {
        let suites = self.suites(config);
        let none = match self.encap && config.esp_proposals.iter().any(Proposal::is_ah) {
            true => "a NAT is between, which AH does not pass",
            false => "no proposal of the child is IKEv1's",
        };
        let first = suites.first().ok_or(none)?;
        // The public value goes along: one group, then.
        let group: Option<Group> = first.group;
        let suites: Vec<_> = suites
            .into_iter()
            .filter(|suite| suite.group == group)
            .collect();
        let refused = "cryptographic operation failed";
        let exchange = match group.map(|group| self.own_exchange(ctx, group)).transpose() {
            Ok(exchange) => exchange,
            Err(Undone::Elsewhere(errand)) => {
                self.send_out(ctx, errand, Then::Ask(config.name.clone(), pair, rekeys));
                return Ok(());
            }
            Err(Undone::Failed) => return Err(refused),
        };
        let ports = "a range of ports can't be a proxy id";
        let ids = (identity::emit(&pair.local), identity::emit(&pair.remote));
        let (local, remote) = (ids.0.ok_or(ports)?, ids.1.ok_or(ports)?);
        let keys = self.keys.as_ref().ok_or(refused)?;
        let id = loop {
            let id = ctx.random_u32();
            if id != 0 && !self.exchanges.contains_key(&id) && !self.seen.contains(&id) {
                break id;
            }
        };
        let iv = keys.first_iv(ctx.crypto, id).map_err(|_| refused)?;
        let spi = ctx.new_spi();
        let nonce = ctx.random(NONCE_LEN);
        let life = super::life(config);
        let mut chain = Chain::default();
        let offer = emit_phase2(&suites, spi.value(), self.encapsulation(config, pair), life);
        chain.push(payload::SA, &offer);
        chain.push(payload::NONCE, &nonce);
        if let Some(exchange) = &exchange {
            chain.push(payload::KE, exchange.public());
        }
        chain.push(payload::ID, &local);
        chain.push(payload::ID, &remote);
        if self.encap && self.transport(config, pair) {
            self.push_originals(&mut chain, true);
        }
        // As the peer sees it, who can't know that it is not asked to rekey.
        let replaces = rekeys.or_else(|| self.rekeyed(&config.name, pair));
        let asked = Asked {
            name: config.name.clone(),
            pair,
            suites,
            spi,
            nonce,
            exchange,
            rekeys,
            replaces,
        };
        self.exchanges.insert(
            id,
            Exchange {
                stage: Stage::Asked(Box::new(asked)),
                commit: false,
                iv,
                last: Last::default(),
                forget_at: ctx.now + KEEP,
            },
        );
        if self.send_quick(ctx, id, &[], &chain, true) {
            Ok(())
        } else {
            self.exchanges.remove(&id);
            Err(refused)
        }
    }

    /// Message 2: the peer's choice.
    pub(super) fn handle_second(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &Payloads<'_>,
        (digest, iv): ([u8; 20], Vec<u8>),
    ) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        let Stage::Asked(asked) = std::mem::replace(&mut exchange.stage, Stage::Done) else {
            return;
        };
        exchange.iv = iv;
        exchange.last.received = Some(digest);
        exchange.last.at = None;
        // What answers a repetition from now on is message 3 alone: two ends that both repeat never end.
        exchange.last.sent = None;
        let (name, rekeys) = (asked.name.clone(), asked.rekeys);
        if let Err(reason) = self.take_choice(ctx, id, parts, *asked) {
            self.quick_failed(ctx, &name, rekeys, reason);
        }
    }

    fn take_choice(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &Payloads<'_>,
        asked: Asked,
    ) -> Result<(), &'static str> {
        let config = self.child_config(&asked.name);
        let config = config.ok_or("the child is not configured any more")?;
        let body = parts
            .one(payload::SA, "SA")
            .map_err(|_| "the answer has no SA")?;
        let offer = sa::parse(body).map_err(|_| "malformed SA")?;
        let single = matches!(&offer[..], [one] if one.transforms.len() == 1);
        let chosen = choose2(
            &asked.suites,
            &offer,
            self.encapsulation(&config, asked.pair),
        );
        let chosen = chosen.filter(|_| single);
        let chosen = chosen.ok_or("the peer has chosen what was not offered")?;
        let nonce_r = crate::phase1::nonce(parts).map_err(|_| "malformed nonce")?;
        let secret = match &asked.exchange {
            None => None,
            Some(exchange) => {
                let public = parts
                    .one(payload::KE, "KE")
                    .map_err(|_| "the answer has no KE")?;
                let secret = exchange.agree(public);
                Some(secret.map_err(|_| "the peer's public value is not one of the group's")?)
            }
        };
        // The ids are ours again, in our order: who answers may not change them (RFC 2409 §5.5).
        let mut ids = parts.of(payload::ID);
        if let (Some(i), Some(r)) = (ids.next(), ids.next()) {
            let pair = (identity::parse(i), identity::parse(r));
            if pair != (Ok(asked.pair.local), Ok(asked.pair.remote)) {
                return Err("the peer has answered with other proxy ids");
            }
        }
        let original = match self.encap && self.transport(&config, asked.pair) {
            true => Some(
                self.originals(parts, false)
                    .ok_or("the peer has not told the addresses of its packets (NAT-OA)")?,
            ),
            false => None,
        };
        let nonces = Nonces {
            initiator: &asked.nonce,
            responder: nonce_r,
        };
        let (life, replay) = super::terms(parts);
        let ingredients = Ingredients {
            suite: chosen.suite,
            spi_in: asked.spi,
            spi_out: chosen.spi,
            nonces,
            secret,
            life,
            replay,
            original,
            asked: true,
        };
        let made = self.make_child(ctx, &config, asked.pair, ingredients, asked.replaces);
        let (child, install) = made.ok_or("cryptographic operation failed")?;
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.stage = Stage::Completing {
                install,
                child,
                octets: [asked.nonce, nonce_r.to_vec()],
            };
        }
        Ok(())
    }

    /// Message 3: the peer may send from now on. So may we, unless the peer has told us to wait; what is
    /// there already is used a moment longer, since the peer may install the new SAs only now.
    pub(super) fn send_third(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        child: ChildId,
        nonces: &[Vec<u8>; 2],
    ) {
        // HASH(3) is over a zero octet, and the message id comes behind it.
        let header = self.header(crate::wire::exchange::QUICK, id);
        let octets = id.to_be_bytes();
        let has_old = self.child_mut(child).and_then(|child| child.sa.replaces);
        let has_old = has_old.and_then(|old| self.child_mut(old)).is_some();
        let (Some(keys), Some(exchange)) = (&self.keys, self.exchanges.get_mut(&id)) else {
            return;
        };
        let hash = keys.authenticate(ctx.crypto, &[&[0], &octets, &nonces[0], &nonces[1]]);
        let Ok(hash) = hash else { return };
        let mut chain = Chain::default();
        chain.push(payload::HASH, &hash);
        let octets = chain.octets().to_vec();
        let sealed = keys.seal(ctx.crypto, &mut exchange.iv, header, payload::HASH, octets);
        let Ok(message) = sealed else { return };
        exchange.last.sent = Some(message.clone());
        exchange.forget_at = ctx.now + KEEP;
        let wait = match (exchange.commit, has_old) {
            (true, _) => Some(COMMIT_WAIT),
            (false, true) => Some(HEAD_START),
            (false, false) => None,
        };
        match wait {
            Some(wait) => {
                let until = ctx.now + wait;
                exchange.stage = Stage::Sent { child, until };
                let again = ctx.now + ctx.config.retransmit_timeout;
                exchange.last.at = exchange.commit.then_some(again);
                exchange.last.tries = 0;
            }
            None => ctx.out.up.push(child),
        }
        self.last_sent = ctx.now;
        ctx.transmit(self.path, message);
    }

    /// The peer says that it has installed the child SA of one of our quick modes (RFC 2408 §3.1).
    pub(crate) fn take_connected(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        id: u32,
        parts: &Payloads<'_>,
    ) {
        let notifies = parts.of(payload::NOTIFY);
        let mut notifies = notifies.filter_map(|body| Notify::parse(body).ok());
        if notifies.any(|told| told.kind == notify::CONNECTED) {
            self.heard(ctx, path);
            self.use_child(ctx, id);
        }
    }

    /// What is to take over from a child SA that goes does so now: one that the peer lets go is one whose
    /// heir it has, whatever became of message 3.
    pub(crate) fn use_heirs(&mut self, ctx: &mut Ctx<'_>, old: ChildId, by_peer: bool) {
        let waiting = self.exchanges.iter().filter_map(|(id, e)| match &e.stage {
            Stage::Sent { child, .. } => Some((*id, *child)),
            Stage::Answered { child, .. } if by_peer => Some((*id, *child)),
            _ => None,
        });
        for (id, heir) in waiting.collect::<Vec<_>>() {
            let replaces = self.child_mut(heir).and_then(|heir| heir.sa.replaces);
            if replaces == Some(old)
                && let Some(exchange) = self.exchanges.get_mut(&id)
            {
                exchange.stage = Stage::Done;
                exchange.last.at = None;
                self.child_is_up(ctx, heir);
            }
        }
    }

    /// Nothing is waited for any more: the child of a quick mode of ours is used.
    pub(crate) fn use_child(&mut self, ctx: &mut Ctx<'_>, id: u32) {
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        if let Stage::Sent { child, .. } = exchange.stage {
            exchange.stage = Stage::Done;
            exchange.last.at = None;
            ctx.out.up.push(child);
        }
    }
}
