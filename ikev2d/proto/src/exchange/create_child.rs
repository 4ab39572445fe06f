// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CREATE_CHILD_SA (RFC 7296 §1.3): further children, rekeying of children and of the IKE SA.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::algorithm::Group;
use crate::config::{ChildConfig, SelectorConfig};
use crate::crypto::CryptoError;
use crate::event::{ChildId, ChildKeys, ChildSa, Event, InstallId};
use crate::exchange::init::{choose, emit_ke, read_ke};
use crate::ike_sa::{
    Child, ChildRequest, Ctx, IkeSa, NONCE_LEN, Pending, RekeyRequest, Request, State, Task,
    error_notify, find, jittered, notifies,
};
use crate::keymat::{IkeKeys, child_keys};
use crate::proposal::{self, EspSuite, Proposal};
use crate::ts;
use crate::wire::{Chain, Payload, exchange, notify, payload};

/// Wait before a request that met TEMPORARY_FAILURE is tried again, at least (§2.25).
const RETRY: Duration = Duration::from_millis(500);

/// What a child's keys come from.
pub(crate) struct ChildOffer {
    pub(crate) nonces: (Vec<u8>, Vec<u8>),
    /// Shared secret of a key exchange of its own (PFS).
    pub(crate) secret: Option<Zeroizing<Vec<u8>>>,
    pub(crate) chosen_group: Option<Group>,
    /// In IKE_AUTH.
    pub(crate) first: bool,
}

impl IkeSa {
    pub(crate) fn child_config(&self, name: &str) -> Option<ChildConfig> {
        self.connection
            .children
            .iter()
            .find(|child| child.name == name)
            .cloned()
    }

    /// SA and TS payloads of a child that we ask for.
    pub(crate) fn push_child_offer(
        &self,
        chain: &mut Chain,
        config: &ChildConfig,
        spi: u32,
        first: bool,
        exchange: Option<(&[u8], Group, &[u8])>,
    ) {
        if config.transport {
            chain.notify(notify::USE_TRANSPORT_MODE, &[]);
        }
        chain.notify(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[]);
        let proposals = config.esp_proposals.iter().cloned().map(|mut proposal| {
            if first {
                // IKE_AUTH has no key exchange of its own (§1.2).
                proposal.groups.clear();
            }
            proposal
        });
        let numbered: Vec<(u8, Proposal)> = (1..).zip(proposals).collect();
        chain.push(
            payload::SA,
            &proposal::emit(&numbered, false, &spi.to_be_bytes()),
        );
        if let Some((nonce, ..)) = exchange {
            chain.push(payload::NONCE, nonce);
        }
        if let Some((_, group, public)) = exchange.filter(|(_, _, public)| !public.is_empty()) {
            chain.push(payload::KE, &emit_ke(group, public));
        }
        let local = SelectorConfig::resolve(&config.local_ts, self.path.local.ip());
        let remote = SelectorConfig::resolve(&config.remote_ts, self.path.remote.ip());
        chain.push(payload::TSI, &ts::emit(&local));
        chain.push(payload::TSR, &ts::emit(&remote));
    }

    pub(crate) fn start_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        rekeys: Option<ChildId>,
        group: Option<Group>,
    ) -> Result<(), CryptoError> {
        let Some(config) = self.child_config(name) else {
            let (connection, child) = (self.connection.name.clone(), Some(name.to_owned()));
            let reason = "no such child in the configuration".to_owned();
            ctx.event(Event::InitiateFailed {
                connection,
                child,
                reason,
            });
            return Ok(());
        };
        let old_spi = match rekeys {
            Some(id) => match self.children.iter().find(|child| child.sa.id == id) {
                Some(child) => Some(child.sa.spi_in),
                None => return Ok(()),
            },
            None => None,
        };
        let wanted = config
            .esp_proposals
            .iter()
            .find_map(|p| p.groups.first())
            .copied();
        let group = group.or(wanted);
        let exchange = match group {
            Some(group) => Some((group, ctx.crypto.generate(group)?)),
            None => None,
        };
        let nonce = ctx.random(NONCE_LEN);
        let spi = self.new_spi(ctx);
        let mut chain = Chain::default();
        if let Some(old) = old_spi {
            const ESP: u8 = 3;
            let body = notify::emit(ESP, &old.to_be_bytes(), notify::REKEY_SA, &[]);
            chain.push(payload::NOTIFY, &body);
        }
        let (group, public) = exchange
            .as_ref()
            .map_or((Group::X25519, &[][..]), |(group, exchange)| {
                (*group, exchange.public())
            });
        self.push_child_offer(
            &mut chain,
            &config,
            spi,
            false,
            Some((&nonce, group, public)),
        );
        let request = ChildRequest {
            config,
            spi_in: spi,
            nonce,
            exchange,
            rekeys,
        };
        let request = Request::CreateChild(Box::new(request));
        self.request(ctx, exchange::CREATE_CHILD_SA, &chain, request)
    }

    pub(crate) fn handle_child_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: ChildRequest,
        parts: &[Payload<'_>],
    ) {
        let ChildRequest {
            config,
            spi_in,
            nonce,
            exchange,
            rekeys,
        } = request;
        let retry = |this: &mut Self, group, not_before| {
            let name = config.name.clone();
            this.tasks.push_back(Task::Child {
                name,
                rekeys,
                group,
                not_before,
            });
        };
        if let Some(error) = error_notify(parts) {
            match error.kind {
                notify::TEMPORARY_FAILURE => {
                    let wait = RETRY + Duration::from_millis(ctx.random_u64() % 1000);
                    let at = ctx.now + wait;
                    return retry(self, None, Some(at));
                }
                notify::INVALID_KE_PAYLOAD => {
                    let wanted = <[u8; 2]>::try_from(error.data).ok().map(u16::from_be_bytes);
                    let wanted = wanted.and_then(Group::from_wire).filter(|group| {
                        config
                            .esp_proposals
                            .iter()
                            .any(|p| p.groups.contains(group))
                    });
                    if let Some(group) = wanted
                        && exchange.as_ref().is_none_or(|(tried, _)| *tried != group)
                    {
                        return retry(self, Some(group), None);
                    }
                }
                notify::CHILD_SA_NOT_FOUND => {
                    // The peer has lost it: so have we (§2.25).
                    if let Some(old) = rekeys {
                        self.drop_child(ctx, old, "the peer does not know it");
                    }
                    return;
                }
                _ => {}
            }
            let reason = format!("the peer refused: {}", notify::name(error.kind));
            return self.child_failed(ctx, &config.name, rekeys, reason);
        }
        let Some(nonce_r) = find(parts, payload::NONCE).map(<[u8]>::to_vec) else {
            let reason = "the response has no nonce".to_owned();
            return self.child_failed(ctx, &config.name, rekeys, reason);
        };
        let mut offer = ChildOffer {
            nonces: (nonce, nonce_r),
            secret: None,
            chosen_group: None,
            first: false,
        };
        if let (Some(body), Some((group, exchange))) = (find(parts, payload::KE), &exchange) {
            let agreed = read_ke(body)
                .ok()
                .filter(|(theirs, _)| *theirs == *group as u16)
                .and_then(|(_, public)| exchange.agree(public).ok());
            let Some(secret) = agreed else {
                let reason = "the peer's key exchange value is invalid".to_owned();
                return self.child_failed(ctx, &config.name, rekeys, reason);
            };
            offer.secret = Some(secret);
            offer.chosen_group = Some(*group);
        }
        self.complete_child(ctx, parts, config, spi_in, offer, rekeys);
    }

    fn child_failed(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        rekeys: Option<ChildId>,
        reason: String,
    ) {
        match rekeys {
            Some(old) => {
                tracing::warn!(child = name, reason, "child SA could not be rekeyed");
                if let Some(child) = self.children.iter_mut().find(|c| c.sa.id == old) {
                    child.busy = false;
                    child.rekey_at = Some(ctx.now + Duration::from_secs(10));
                }
            }
            None => {
                let (connection, child) = (self.connection.name.clone(), Some(name.to_owned()));
                ctx.event(Event::InitiateFailed {
                    connection,
                    child,
                    reason,
                });
            }
        }
    }

    /// Takes the responder's choice: as initiator of the exchange.
    pub(crate) fn complete_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        config: ChildConfig,
        spi_in: u32,
        offer: ChildOffer,
        rekeys: Option<ChildId>,
    ) {
        if let Some(error) = error_notify(parts) {
            let reason = format!("the peer refused: {}", notify::name(error.kind));
            return self.child_failed(ctx, &config.name, rekeys, reason);
        }
        let name = config.name.clone();
        match self.read_choice(ctx, parts, config, spi_in, offer, rekeys) {
            Ok((mut child, sa)) => {
                let install = InstallId(ctx.out.id());
                let (ike, id) = (self.id, child.sa.id);
                child.install = Some(install);
                ctx.event(Event::InstallInbound {
                    install,
                    child: Box::new(sa),
                });
                ctx.event(Event::InstallOutbound { child: id });
                self.children.push(child);
                match rekeys {
                    Some(old) => {
                        ctx.event(Event::ChildRekeyed { old, new: id });
                        self.tasks.push_front(Task::DeleteChild(old));
                    }
                    None => ctx.event(Event::ChildUp { ike, child: id }),
                }
            }
            Err(reason) => self.child_failed(ctx, &name, rekeys, reason.to_owned()),
        }
    }

    fn read_choice(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        config: ChildConfig,
        spi_in: u32,
        offer: ChildOffer,
        rekeys: Option<ChildId>,
    ) -> Result<(Child, ChildSa), &'static str> {
        let sa = find(parts, payload::SA).ok_or("the response has no SA")?;
        let chosen = proposal::parse(sa, false).map_err(|_| "malformed SA")?;
        let [chosen] = &chosen[..] else {
            return Err("the peer chose no single proposal");
        };
        let suite = config
            .esp_proposals
            .iter()
            .find_map(|ours| ours.choose_esp(&chosen.proposal, offer.first))
            .ok_or("the peer chose what we did not offer")?;
        if suite.group != offer.chosen_group {
            return Err("the peer's key exchange does not fit its choice");
        }
        let spi_out = esp_spi(&chosen.spi).ok_or("malformed SPI")?;
        let selectors = |kind| {
            find(parts, kind)
                .and_then(|body| ts::parse(body).ok())
                .ok_or("malformed selectors")
        };
        let (ts_local, ts_remote) = (selectors(payload::TSI)?, selectors(payload::TSR)?);
        let mine = SelectorConfig::resolve(&config.local_ts, self.path.local.ip());
        let theirs = SelectorConfig::resolve(&config.remote_ts, self.path.remote.ip());
        let within = |narrowed: &[ts::TrafficSelector], policy: &[ts::TrafficSelector]| {
            !narrowed.is_empty()
                && narrowed
                    .iter()
                    .all(|ts| policy.iter().any(|p| p.intersect(ts) == Some(*ts)))
        };
        if !within(&ts_local, &mine) || !within(&ts_remote, &theirs) {
            return Err("the peer widened the traffic selectors");
        }
        let transport = notifies(parts).any(|notify| notify.kind == notify::USE_TRANSPORT_MODE);
        if transport && !config.transport {
            return Err("the peer wants transport mode");
        }
        let keys = self
            .derive(ctx, &suite, &offer)
            .map_err(|_| "key derivation failed")?;
        Ok(self.make_child(
            ctx,
            config,
            suite,
            (spi_in, spi_out),
            keys,
            (ts_local, ts_remote),
            transport,
            rekeys,
        ))
    }

    /// Keys from initiator to responder of this exchange, and back.
    fn derive(
        &self,
        ctx: &Ctx<'_>,
        suite: &EspSuite,
        offer: &ChildOffer,
    ) -> Result<(ChildKeys, ChildKeys), CryptoError> {
        let (ike, keys) = self
            .suite
            .as_ref()
            .zip(self.keys.as_ref())
            .ok_or(CryptoError)?;
        let secret = offer.secret.as_ref().map(|secret| &secret[..]);
        let nonces = (&offer.nonces.0[..], &offer.nonces.1[..]);
        child_keys(ctx.crypto, ike.prf, &keys.d, suite, secret, nonces)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a child SA")]
    fn make_child(
        &self,
        ctx: &mut Ctx<'_>,
        config: ChildConfig,
        suite: EspSuite,
        (spi_in, spi_out): (u32, u32),
        (keys_out, keys_in): (ChildKeys, ChildKeys),
        (ts_local, ts_remote): (Vec<ts::TrafficSelector>, Vec<ts::TrafficSelector>),
        transport: bool,
        replaces: Option<ChildId>,
    ) -> (Child, ChildSa) {
        let sa = ChildSa {
            id: ChildId(ctx.out.id()),
            ike: self.id,
            connection: self.connection.name.clone(),
            child: config.name.clone(),
            spi_in,
            spi_out,
            path: self.path,
            udp_encap: self.udp_encap(),
            transport,
            suite,
            keys_in,
            keys_out,
            ts_local,
            ts_remote,
            replaces,
        };
        let gone = || ChildKeys {
            encryption: Zeroizing::default(),
            integrity: Zeroizing::default(),
        };
        let record = ChildSa {
            keys_in: gone(),
            keys_out: gone(),
            ..sa.clone()
        };
        let rekey_at = config.rekey_time.map(|time| ctx.now + jittered(ctx, time));
        let child = Child {
            sa: record,
            installed: ctx.now,
            rekey_at,
            busy: false,
            outbound_at: None,
            install: None,
        };
        (child, sa)
    }

    /// Chooses among an offered child's parameters: as responder. Adds the answer to `chain`.
    pub(crate) fn answer_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        offer: ChildOffer,
        chain: &mut Chain,
    ) -> Result<(Child, ChildSa), u16> {
        let syntax = notify::INVALID_SYNTAX;
        let selectors = |kind| {
            find(parts, kind)
                .and_then(|body| ts::parse(body).ok())
                .ok_or(syntax)
        };
        let (theirs, ours) = (selectors(payload::TSI)?, selectors(payload::TSR)?);
        let sa = find(parts, payload::SA).ok_or(syntax)?;
        let proposals = proposal::parse(sa, false).map_err(|_| syntax)?;
        let wants_transport =
            notifies(parts).any(|notify| notify.kind == notify::USE_TRANSPORT_MODE);
        let mut refusal = notify::TS_UNACCEPTABLE;
        for config in &self.connection.children {
            let mine = SelectorConfig::resolve(&config.local_ts, self.path.local.ip());
            let peers = SelectorConfig::resolve(&config.remote_ts, self.path.remote.ip());
            let (ts_local, ts_remote) = (ts::narrow(&mine, &ours), ts::narrow(&peers, &theirs));
            if ts_local.is_empty() || ts_remote.is_empty() {
                continue;
            }
            refusal = notify::NO_PROPOSAL_CHOSEN;
            let chosen = config.esp_proposals.iter().find_map(|mine| {
                proposals.iter().find_map(|theirs| {
                    let suite = mine.choose_esp(&theirs.proposal, offer.first)?;
                    Some((suite, theirs.number, esp_spi(&theirs.spi)?))
                })
            });
            let Some((suite, number, spi_out)) = chosen else {
                continue;
            };
            if suite.group != offer.chosen_group {
                return Err(notify::INVALID_KE_PAYLOAD);
            }
            let config = config.clone();
            let transport = wants_transport && config.transport;
            let spi_in = self.new_spi(ctx);
            if transport {
                chain.notify(notify::USE_TRANSPORT_MODE, &[]);
            }
            chain.notify(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[]);
            let answer = [(number, suite.to_proposal())];
            chain.push(
                payload::SA,
                &proposal::emit(&answer, false, &spi_in.to_be_bytes()),
            );
            chain.push(payload::TSI, &ts::emit(&ts_remote));
            chain.push(payload::TSR, &ts::emit(&ts_local));
            let (from_peer, to_peer) = self
                .derive(ctx, &suite, &offer)
                .map_err(|_| notify::NO_PROPOSAL_CHOSEN)?;
            let keys = (to_peer, from_peer);
            let spis = (spi_in, spi_out);
            return Ok(self.make_child(
                ctx,
                config,
                suite,
                spis,
                keys,
                (ts_local, ts_remote),
                transport,
                None,
            ));
        }
        Err(refusal)
    }

    pub(crate) fn handle_create_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let kind = exchange::CREATE_CHILD_SA;
        let refuse = |this: &mut Self, ctx: &mut Ctx<'_>, notify: u16, data: &[u8]| {
            this.respond_notify(ctx, kind, id, notify, data);
        };
        if self.replaced {
            return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
        }
        let Some(nonce_i) = find(parts, payload::NONCE).filter(|n| (16..=256).contains(&n.len()))
        else {
            return refuse(self, ctx, notify::INVALID_SYNTAX, &[]);
        };
        if find(parts, payload::TSI).is_none() {
            return self.handle_rekey_ike(ctx, id, nonce_i, parts);
        }
        if matches!(self.asking(), Some(Request::RekeyIke(_))) {
            // §2.25.1
            return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
        }
        let rekeys = match notifies(parts).find(|notify| notify.kind == notify::REKEY_SA) {
            Some(notify) => {
                let spi = <[u8; 4]>::try_from(notify.spi).ok().map(u32::from_be_bytes);
                // The peer names its inbound SA, our outbound one.
                match self
                    .children
                    .iter()
                    .find(|child| Some(child.sa.spi_out) == spi)
                {
                    // Both rekey at once: both try again, each at its own time.
                    Some(child) if child.busy => {
                        return refuse(self, ctx, notify::TEMPORARY_FAILURE, &[]);
                    }
                    Some(child) => Some(child.sa.id),
                    None => {
                        let body = notify::emit(3, notify.spi, notify::CHILD_SA_NOT_FOUND, &[]);
                        let mut chain = Chain::default();
                        chain.push(payload::NOTIFY, &body);
                        return self.respond(ctx, kind, id, &chain);
                    }
                }
            }
            None => None,
        };
        let mut offer = ChildOffer {
            nonces: (nonce_i.to_vec(), ctx.random(NONCE_LEN)),
            secret: None,
            chosen_group: None,
            first: false,
        };
        let mut answer_ke = None;
        if let Some(body) = find(parts, payload::KE) {
            let read = read_ke(body)
                .ok()
                .and_then(|(g, public)| Some((Group::from_wire(g)?, public)));
            let agreed = read.and_then(|(group, public)| {
                let exchange = ctx.crypto.generate(group).ok()?;
                let secret = exchange.agree(public).ok()?;
                Some((group, secret, exchange))
            });
            if let Some((group, secret, exchange)) = agreed {
                offer.secret = Some(secret);
                offer.chosen_group = Some(group);
                answer_ke = Some(emit_ke(group, exchange.public()));
            }
        }
        let mut installed = Chain::default();
        let nonce_r = offer.nonces.1.clone();
        match self.answer_child(ctx, parts, offer, &mut installed) {
            Ok((child, sa)) => {
                installed.push(payload::NONCE, &nonce_r);
                if let Some(body) = answer_ke {
                    installed.push(payload::KE, &body);
                }
                let mut failed = Chain::default();
                failed.notify(notify::NO_PROPOSAL_CHOSEN, &[]);
                let install = InstallId(ctx.out.id());
                let sa = Box::new(ChildSa {
                    replaces: rekeys,
                    ..sa
                });
                ctx.event(Event::InstallInbound { install, child: sa });
                self.pending = Some(Pending {
                    install,
                    message_id: id,
                    exchange: kind,
                    installed,
                    failed,
                    child,
                    rekeys,
                });
            }
            Err(notify::INVALID_KE_PAYLOAD) => {
                let wanted = self
                    .connection
                    .children
                    .iter()
                    .flat_map(|c| &c.esp_proposals);
                let wanted = wanted.flat_map(|p| p.groups.first()).next();
                match wanted {
                    Some(group) => {
                        let data = (*group as u16).to_be_bytes();
                        refuse(self, ctx, notify::INVALID_KE_PAYLOAD, &data);
                    }
                    None => refuse(self, ctx, notify::NO_PROPOSAL_CHOSEN, &[]),
                }
            }
            Err(notify) => refuse(self, ctx, notify, &[]),
        }
    }

    /// Starts rekeying this IKE SA (§2.18).
    pub(crate) fn start_rekey(
        &mut self,
        ctx: &mut Ctx<'_>,
        group: Option<Group>,
    ) -> Result<(), CryptoError> {
        let first = self.suite.map(|suite| suite.group);
        let group = group.or(first).ok_or(CryptoError)?;
        let exchange = ctx.crypto.generate(group)?;
        let spi = ctx.random_u64();
        let nonce = ctx.random(NONCE_LEN);
        let mut chain = Chain::default();
        let numbered: Vec<(u8, Proposal)> = (1..).zip(self.connection.proposals.clone()).collect();
        chain.push(
            payload::SA,
            &proposal::emit(&numbered, true, &spi.to_be_bytes()),
        );
        chain.push(payload::NONCE, &nonce);
        chain.push(payload::KE, &emit_ke(group, exchange.public()));
        let request = RekeyRequest {
            spi,
            nonce,
            group,
            exchange,
        };
        self.request(
            ctx,
            exchange::CREATE_CHILD_SA,
            &chain,
            Request::RekeyIke(Box::new(request)),
        )
    }

    pub(crate) fn handle_rekey_response(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: RekeyRequest,
        parts: &[Payload<'_>],
    ) {
        if let Some(error) = error_notify(parts) {
            let wanted = <[u8; 2]>::try_from(error.data).ok().map(u16::from_be_bytes);
            let wanted = wanted.and_then(Group::from_wire).filter(|group| {
                *group != request.group
                    && self
                        .connection
                        .proposals
                        .iter()
                        .any(|p| p.groups.contains(group))
            });
            let wait = RETRY + Duration::from_millis(ctx.random_u64() % 1000);
            let (group, wait) = match (error.kind, wanted) {
                (notify::INVALID_KE_PAYLOAD, Some(group)) => (Some(group), Duration::ZERO),
                (notify::TEMPORARY_FAILURE, _) => (None, wait),
                _ => {
                    tracing::warn!(
                        error = notify::name(error.kind),
                        "IKE SA could not be rekeyed"
                    );
                    (None, Duration::from_secs(10))
                }
            };
            let not_before = Some(ctx.now + wait);
            return self.tasks.push_back(Task::RekeyIke { group, not_before });
        }
        let born = self.read_rekey(ctx, &request, parts);
        let Some(born) = born else {
            tracing::warn!("malformed answer to the rekeying of an IKE SA");
            return;
        };
        self.hand_over(ctx, born);
        self.tasks.push_front(Task::DeleteIke {
            reason: "rekeyed".to_owned(),
        });
    }

    fn read_rekey(
        &mut self,
        ctx: &mut Ctx<'_>,
        request: &RekeyRequest,
        parts: &[Payload<'_>],
    ) -> Option<Self> {
        let chosen = proposal::parse(find(parts, payload::SA)?, true).ok()?;
        let [theirs] = &chosen[..] else { return None };
        let (suite, _) = choose(&self.connection.proposals, &chosen)?;
        let spi_r = ike_spi(&theirs.spi)?;
        let (group, public) = read_ke(find(parts, payload::KE)?).ok()?;
        if group != request.group as u16 || suite.group != request.group {
            return None;
        }
        let secret = request.exchange.agree(public).ok()?;
        let nonce_r = find(parts, payload::NONCE)?;
        let (old, keys) = self.suite.as_ref().zip(self.keys.as_ref())?;
        let nonces = (&request.nonce[..], nonce_r);
        let spis = (request.spi, spi_r);
        let keys = IkeKeys::derive(
            ctx.crypto,
            &suite,
            &secret,
            nonces,
            spis,
            Some((old.prf, &keys.d)),
        )
        .ok()?;
        let mut born = Self::new(ctx, self.connection.clone(), true, spis, self.path);
        born.suite = Some(suite);
        born.keys = Some(keys);
        Some(born)
    }

    fn handle_rekey_ike(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        nonce_i: &[u8],
        parts: &[Payload<'_>],
    ) {
        let kind = exchange::CREATE_CHILD_SA;
        // §2.25.2: not while a child or the IKE SA is being made, rekeyed or closed by us.
        let asking = self
            .asking()
            .is_some_and(|request| !matches!(request, Request::Liveness));
        if asking
            || self
                .tasks
                .iter()
                .any(|task| matches!(task, Task::DeleteChild(_)))
        {
            return self.respond_notify(ctx, kind, id, notify::TEMPORARY_FAILURE, &[]);
        }
        let offers = find(parts, payload::SA).and_then(|body| proposal::parse(body, true).ok());
        let ke = find(parts, payload::KE).and_then(|body| read_ke(body).ok());
        let (Some(offers), Some((group, public))) = (offers, ke) else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        let Some((suite, number)) = choose(&self.connection.proposals, &offers) else {
            return self.respond_notify(ctx, kind, id, notify::NO_PROPOSAL_CHOSEN, &[]);
        };
        let spi_i = offers
            .iter()
            .find(|o| o.number == number)
            .and_then(|o| ike_spi(&o.spi));
        let Some(spi_i) = spi_i else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        if group != suite.group as u16 {
            let wanted = (suite.group as u16).to_be_bytes();
            return self.respond_notify(ctx, kind, id, notify::INVALID_KE_PAYLOAD, &wanted);
        }
        let spi_r = ctx.random_u64();
        let nonce_r = ctx.random(NONCE_LEN);
        let derived = || -> Result<_, CryptoError> {
            let exchange = ctx.crypto.generate(suite.group)?;
            let secret = exchange.agree(public)?;
            let (old, keys) = self
                .suite
                .as_ref()
                .zip(self.keys.as_ref())
                .ok_or(CryptoError)?;
            let nonces = (nonce_i, &nonce_r[..]);
            let rekeyed = Some((old.prf, &keys.d[..]));
            let keys =
                IkeKeys::derive(ctx.crypto, &suite, &secret, nonces, (spi_i, spi_r), rekeyed)?;
            Ok((keys, emit_ke(suite.group, exchange.public())))
        };
        let Ok((keys, ke)) = derived() else {
            return self.respond_notify(ctx, kind, id, notify::INVALID_SYNTAX, &[]);
        };
        let mut chain = Chain::default();
        let answer = [(number, suite.to_proposal())];
        chain.push(
            payload::SA,
            &proposal::emit(&answer, true, &spi_r.to_be_bytes()),
        );
        chain.push(payload::NONCE, &nonce_r);
        chain.push(payload::KE, &ke);
        self.respond(ctx, kind, id, &chain);
        let mut born = Self::new(
            ctx,
            self.connection.clone(),
            false,
            (spi_i, spi_r),
            self.path,
        );
        born.suite = Some(suite);
        born.keys = Some(keys);
        self.hand_over(ctx, born);
    }

    /// The new IKE SA takes the children and what was to be done.
    fn hand_over(&mut self, ctx: &mut Ctx<'_>, mut born: Self) {
        born.state = State::Established;
        born.established = Some(ctx.now);
        born.local_id = self.local_id.clone();
        born.remote_id = self.remote_id.clone();
        (born.nat_local, born.nat_remote, born.encap) =
            (self.nat_local, self.nat_remote, self.encap);
        born.children = std::mem::take(&mut self.children);
        for child in &mut born.children {
            child.sa.ike = born.id;
        }
        born.tasks = self
            .tasks
            .drain(..)
            .filter(|task| !matches!(task, Task::RekeyIke { .. } | Task::Liveness))
            .collect();
        born.arm_rekey(ctx);
        born.log_keys(ctx);
        self.replaced = true;
        self.rekey_at = None;
        self.expire_at = None;
        let (old, new) = (self.id, born.id);
        ctx.event(Event::IkeRekeyed { old, new });
        born.pump(ctx);
        ctx.out.born.push(born);
    }
}

fn esp_spi(octets: &[u8]) -> Option<u32> {
    let spi = u32::from_be_bytes(octets.try_into().ok()?);
    (spi > 255).then_some(spi)
}

fn ike_spi(octets: &[u8]) -> Option<u64> {
    let spi = u64::from_be_bytes(octets.try_into().ok()?);
    (spi != 0).then_some(spi)
}
