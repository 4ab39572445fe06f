// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A child SA's parameters: offered, chosen, made (RFC 7296 §1.2, §1.3, §2.9, §2.17).

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::algorithm::Group;
use crate::config::ChildConfig;
use crate::crypto::CryptoError;
use crate::event::{ChildId, ChildKeys, ChildSa, Event, InstallId, KeyedChild, Told};
use crate::exchange::init::emit_ke;
use crate::exchange::resource;
use crate::ike_sa::{
    AGAIN, After, Child, Collision, Ctx, IkeSa, OwnSpi, Phase, error_notify, find, jittered,
    notifies,
};
use crate::keymat::child_keys;
use crate::proposal::{self, EspSuite, Proposal};
use crate::ts;
use crate::wire::notify::Notify;
use crate::wire::{Chain, Payload, notify, payload};

/// What a child's keys come from.
#[derive(Default)]
pub(crate) struct ChildOffer {
    pub(crate) nonces: (Vec<u8>, Vec<u8>),
    /// Shared secret of a key exchange of its own (PFS).
    pub(crate) secret: Option<Zeroizing<Vec<u8>>>,
    /// Those of additional key exchanges in a row (RFC 9370).
    pub(crate) further: Zeroizing<Vec<u8>>,
    pub(crate) chosen_group: Option<Group>,
    /// In IKE_AUTH.
    pub(crate) first: bool,
    /// The peer's rekeying of the child that ours rekeys.
    pub(crate) collision: Option<Collision<ChildId>>,
    /// Which of our resources we ask for it for (RFC 9611).
    pub(crate) resource: Option<u16>,
    /// It is one more for the same traffic, which nobody has asked for.
    pub(crate) sibling: bool,
    /// It is for what the peer has narrowed another one by.
    pub(crate) part: bool,
    /// SPIs of nothing we know that the peer has deleted since it was asked for.
    pub(crate) deleted: Vec<u32>,
}

/// What was asked for.
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) rekeys: Option<ChildId>,
    /// Nobody waits for it.
    pub(crate) sibling: bool,
}

/// A child's parameters, once they are chosen.
pub(crate) struct Chosen {
    config: ChildConfig,
    pub(crate) suite: EspSuite,
    /// Inbound and outbound.
    spis: (OwnSpi, u32),
    ts_local: Vec<ts::TrafficSelector>,
    ts_remote: Vec<ts::TrafficSelector>,
    transport: bool,
    resource: Option<u16>,
    told: Told,
}

impl Chosen {
    /// The resource that it is for, if it is of a configuration.
    pub(crate) fn resource_of(&self, name: &str) -> Option<u16> {
        self.resource.filter(|_| self.config.name == name)
    }
}

/// Why an offered child is refused.
pub(crate) enum Refused {
    By(u16),
    /// The proposal that was chosen wants a key exchange in this group (RFC 7296 §1.3).
    WantsGroup(Group),
}

impl Refused {
    /// The notification that tells it.
    pub(crate) fn kind(&self) -> u16 {
        match self {
            Self::By(kind) => *kind,
            Self::WantsGroup(_) => notify::INVALID_KE_PAYLOAD,
        }
    }
}

impl IkeSa {
    /// Whether its connection had such a child when it was made, or was given it since.
    pub(crate) fn knows_child(&self, name: &str) -> bool {
        let mut children = self.connection.children.iter();
        children.any(|child| child.name == name)
    }

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
        (spi, resource): (u32, Option<u16>),
        first: bool,
        exchange: Option<(&[u8], Group, &[u8])>,
    ) {
        let (own, peers) = self.resolved(config);
        if config.transport && self.is_between_hosts(&own, &peers) {
            use_transport(chain);
        }
        resource::push_info(chain, resource);
        // AH authenticates what a NAT changes; where nothing else is configured the peer says so, too.
        let nat = self.encapsulates() && config.esp_proposals.iter().any(|ours| !ours.is_ah());
        let offered = config
            .esp_proposals
            .iter()
            .filter(|ours| !(nat && ours.is_ah()));
        let proposals = offered.cloned().map(|mut proposal| {
            if first {
                // IKE_AUTH has no key exchange of its own (§1.2).
                proposal.groups.clear();
                proposal.additional = Default::default();
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
        let (local, remote) = self.resolved(config);
        chain.push(payload::TSI, &ts::emit(&local));
        chain.push(payload::TSR, &ts::emit(&remote));
    }

    pub(crate) fn child_failed(&mut self, ctx: &mut Ctx<'_>, asked: &Asked, reason: String) {
        match asked.rekeys {
            Some(old) => {
                let rekey_at = Some((ctx.now + AGAIN).into());
                if let Some(child) = self.child_mut(old) {
                    child.phase = Phase::Installed;
                    child.rekey_at = rekey_at;
                    if child.expired {
                        return self.end_expired(ctx, old);
                    }
                    let (ike, child) = (self.id, old);
                    ctx.event(Event::RekeyFailed { ike, child, reason });
                }
            }
            None if asked.sibling => {
                self.forget_trigger(&asked.name);
                let (ike, child) = (self.id.0, &asked.name);
                tracing::info!(ike, child, reason, "no further child SA for this traffic");
            }
            None => {
                self.forget_trigger(&asked.name);
                let (connection, child) = (self.connection.name.clone(), Some(asked.name.clone()));
                ctx.event(Event::InitiateFailed {
                    connection,
                    child,
                    reason,
                });
            }
        }
    }

    /// Our request came to nothing; the peer's own rekeying of the same child stands, if there is one.
    pub(crate) fn child_not_made(
        &mut self,
        ctx: &mut Ctx<'_>,
        asked: &Asked,
        theirs: Option<ChildId>,
        reason: String,
    ) {
        match asked
            .rekeys
            .zip(theirs.filter(|theirs| self.has_child(*theirs)))
        {
            Some((old, new)) => self.take_over(ctx, old, new),
            None => self.child_failed(ctx, asked, reason),
        }
    }

    /// Takes the responder's choice: as initiator of the exchange.
    pub(crate) fn complete_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        config: ChildConfig,
        spi_in: OwnSpi,
        offer: ChildOffer,
        rekeys: Option<ChildId>,
    ) {
        let theirs = offer.collision.as_ref().map(|theirs| theirs.new);
        let asked = Asked {
            name: config.name.clone(),
            rekeys,
            sibling: offer.sibling,
        };
        if let Some(error) = error_notify(parts) {
            let reason = format!("the peer refused: {}", notify::name(error.kind));
            return self.child_not_made(ctx, &asked, theirs, reason);
        }
        let (part, wanted) = (offer.part, self.resolved(&config));
        let (nonce_i, nonce_r) = offer.nonces.clone();
        // Of two rekeyings at once, the one with the lowest nonce goes (§2.8.1).
        let won = offer
            .collision
            .as_ref()
            .is_none_or(|theirs| theirs.is_won((&nonce_i, &nonce_r)));
        // The peer deletes what both rekey once its own one stands, and may since have replaced that.
        let settled = rekeys.is_some_and(|old| self.child(old).is_none());
        let (winner, loser) = match theirs {
            Some(theirs) if won => (None, Some(theirs)),
            Some(theirs) if settled || self.has_child(theirs) => (Some(theirs), None),
            _ => (None, None),
        };
        let (offered, mut spi_in) = (config.clone(), Some(spi_in));
        match self.read_choice(ctx, parts, config, &mut spi_in, offer, rekeys) {
            Ok((mut child, keyed)) => {
                let install = InstallId(ctx.out.id());
                if rekeys.is_none() {
                    self.forget_trigger(&asked.name);
                }
                child.install = Some(install);
                child.announced = rekeys.is_none();
                child.part |= part;
                let more = child.more_possible && rekeys.is_none();
                child.after = Some(Box::new(After {
                    rekeys,
                    winner,
                    loser,
                    sibling: asked.sibling,
                }));
                self.adopt_child(ctx, child);
                if more {
                    self.ask_for_rest(&asked.name, wanted);
                }
                ctx.event(Event::InstallInbound {
                    install,
                    child: Box::new(keyed),
                });
            }
            Err(reason) => {
                let made = find(parts, payload::SA).is_some();
                if let Some(spi) = spi_in.filter(|_| made) {
                    self.disown_child(&offered, spi);
                }
                self.child_not_made(ctx, &asked, theirs, reason.to_owned());
            }
        }
    }

    fn read_choice(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        config: ChildConfig,
        spi_in: &mut Option<OwnSpi>,
        offer: ChildOffer,
        rekeys: Option<ChildId>,
    ) -> Result<(Child, KeyedChild), &'static str> {
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
        if suite.ah && self.encapsulates() {
            return Err("AH does not pass a NAT (or encap = true, or TCP): use ESP");
        }
        if suite.group != offer.chosen_group {
            return Err("the peer's key exchange does not fit its choice");
        }
        let spi_out = esp_spi(&chosen.spi).ok_or("malformed SPI")?;
        if offer.deleted.contains(&spi_out) {
            return Err("the peer has deleted it again");
        }
        let selectors = |kind| {
            find(parts, kind)
                .and_then(|body| ts::parse(body).ok())
                .ok_or("malformed selectors")
        };
        let (ts_local, ts_remote) = (selectors(payload::TSI)?, selectors(payload::TSR)?);
        let (mine, theirs) = self.resolved(&config);
        let none = ts_local.is_empty() || ts_remote.is_empty();
        if none || !ts::covers(&mine, &ts_local) || !ts::covers(&theirs, &ts_remote) {
            return Err("the peer widened the traffic selectors");
        }
        // Those of a packet may be said beside what they lie within.
        let (ts_local, ts_remote) = (ts::merged(&ts_local), ts::merged(&ts_remote));
        let transport = notifies(parts).any(|notify| notify.kind == notify::USE_TRANSPORT_MODE);
        if transport && !(config.transport && self.is_between_hosts(&ts_local, &ts_remote)) {
            return Err("the peer wants transport mode");
        }
        let keys = self
            .derive(ctx, &suite, &offer)
            .map_err(|_| "key derivation failed")?;
        let more = notifies(parts).any(|n| n.kind == notify::ADDITIONAL_TS_POSSIBLE);
        if more {
            let (ike, child) = (self.id.0, &config.name);
            tracing::info!(ike, child, "the peer allows the rest in further child SAs");
        }
        // Who does not answer in kind knows of no further ones.
        let first = rekeys.is_none() && offer.resource == Some(0);
        let resource = offer
            .resource
            .filter(|_| !first || resource::has_info(parts));
        let chosen = Chosen {
            config,
            suite,
            spis: (spi_in.take().ok_or("its SPI is taken")?, spi_out),
            ts_local,
            ts_remote,
            transport,
            resource,
            told: told(parts),
        };
        let (mut child, sa) = self.make_child(ctx, chosen, keys, rekeys);
        child.more_possible = more;
        Ok((child, sa))
    }

    /// Whether transport mode can carry this traffic: that of the two ends themselves, with no NAT
    /// between, which would make the inner addresses other ones (RFC 7296 §2.23.1).
    fn is_between_hosts(
        &self,
        local: &[ts::TrafficSelector],
        remote: &[ts::TrafficSelector],
    ) -> bool {
        let only = |selectors: &[ts::TrafficSelector], host| {
            selectors
                .iter()
                .all(|ts| (ts.start, ts.end) == (host, host))
        };
        !self.encapsulates()
            && only(local, self.path.local.ip())
            && only(remote, self.path.remote.ip())
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
        let secrets = (secret, &offer.further[..]);
        child_keys(ctx.crypto, ike.prf, keys.d(), suite, secrets, nonces)
    }

    fn make_child(
        &self,
        ctx: &mut Ctx<'_>,
        chosen: Chosen,
        (keys_out, keys_in): (ChildKeys, ChildKeys),
        replaces: Option<ChildId>,
    ) -> (Child, KeyedChild) {
        let Chosen {
            config,
            suite,
            spis: (spi_in, spi_out),
            ts_local,
            ts_remote,
            transport,
            resource,
            told,
        } = chosen;
        let sa = Arc::new(ChildSa {
            id: ChildId(ctx.out.id()),
            connection: ctx.out.names.of(&self.connection.name),
            child: ctx.out.names.of(&config.name),
            spi_in: spi_in.value(),
            spi_out,
            path: self.path,
            udp_encap: self.udp_encap(),
            transport,
            suite,
            ts_local: ts_local.into(),
            ts_remote: ts_remote.into(),
            replaces,
            resource,
            told: (told != Told::default()).then(|| Box::new(told)),
        });
        let rekey_at = config.rekey_time;
        let rekey_at =
            rekey_at.map(|time| (ctx.now + jittered(ctx, time, config.rand_time)).into());
        let child = Child {
            sa: sa.clone(),
            installed: ctx.now.into(),
            rekey_at,
            phase: Phase::Installed,
            awaits_peer: false,
            taken_up: None,
            release_at: None,
            announced: false,
            forget_at: None,
            install: None,
            outbound: false,
            expired: false,
            more_possible: false,
            part: replaces.is_some_and(|old| self.is_part(old)),
            _spi: spi_in,
            after: None,
        };
        let keyed = KeyedChild {
            sa,
            keys_in,
            keys_out,
        };
        (child, keyed)
    }

    /// What is in use of a child's traffic, ours and the peer's: its rekeying may not have less (RFC
    /// 7296 §2.9.2). What stood for the address of an end that has moved is not.
    pub(crate) fn in_use(
        &self,
        sa: &ChildSa,
    ) -> (Vec<ts::TrafficSelector>, Vec<ts::TrafficSelector>) {
        let all = &self.connection.children;
        let Some(config) = all.iter().find(|config| *config.name == *sa.child) else {
            return Default::default();
        };
        let (mine, peers) = self.resolved(config);
        (
            ts::narrow(&mine, &sa.ts_local),
            ts::narrow(&peers, &sa.ts_remote),
        )
    }

    /// Whether another child's policy allows a part of an offer that this one's does not.
    fn covers_more(
        &self,
        chosen: &ChildConfig,
        (ours, theirs): (&[ts::TrafficSelector], &[ts::TrafficSelector]),
        (local, remote): (&[ts::TrafficSelector], &[ts::TrafficSelector]),
    ) -> bool {
        self.connection.children.iter().any(|config| {
            let (mine, peers) = self.resolved(config);
            let (mine, peers) = (ts::narrow(&mine, ours), ts::narrow(&peers, theirs));
            let covered = ts::covers(local, &mine) && ts::covers(remote, &peers);
            config.name != chosen.name && !mine.is_empty() && !peers.is_empty() && !covered
        })
    }

    /// Chooses among an offered child's parameters: as responder. Adds the answer to `chain`.
    pub(crate) fn answer_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
        (group, rekeys): (Option<Group>, Option<ChildId>),
        first: bool,
        chain: &mut Chain,
    ) -> Result<Chosen, Refused> {
        let syntax = || Refused::By(notify::INVALID_SYNTAX);
        let selectors = |kind| {
            find(parts, kind)
                .and_then(|body| ts::parse(body).ok())
                .ok_or_else(syntax)
        };
        let (theirs, ours) = (selectors(payload::TSI)?, selectors(payload::TSR)?);
        let sa = find(parts, payload::SA).ok_or_else(syntax)?;
        let proposals = proposal::parse(sa, false).map_err(|_| syntax())?;
        let wants_transport =
            notifies(parts).any(|notify| notify.kind == notify::USE_TRANSPORT_MODE);
        let mut refusal = notify::TS_UNACCEPTABLE;
        let old = rekeys.and_then(|old| self.child(old)).map(|old| &*old.sa);
        let in_use = old.map(|old| self.in_use(old)).unwrap_or_default();
        // The peer's first choices count most: whose policy allows them wholly comes first (§2.9).
        let allows_first = |config: &ChildConfig| {
            let (mine, peers) = self.resolved(config);
            ts::allows_first(&mine, &ours) && ts::allows_first(&peers, &theirs)
        };
        let mut configs: Vec<&ChildConfig> = self.connection.children.iter().collect();
        configs.sort_by_cached_key(|config| {
            let other = old.is_some_and(|old| *old.child != *config.name);
            (other, !allows_first(config))
        });
        for config in configs {
            let (mine, peers) = self.resolved(config);
            let (mut ts_local, mut ts_remote) =
                (ts::narrow(&mine, &ours), ts::narrow(&peers, &theirs));
            if ts_local.is_empty() || ts_remote.is_empty() {
                continue;
            }
            // What the peer leaves out altogether may have moved: its own child may still do.
            let other = old.is_some_and(|old| *old.child != *config.name);
            let lost = |used: &[ts::TrafficSelector], offer: &[_], new: &[_]| {
                let wanted =
                    |ts: &&_| other || !ts::narrow(std::slice::from_ref(*ts), offer).is_empty();
                let mut wanted = used.iter().filter(wanted);
                wanted.any(|ts| !ts::covers(new, std::slice::from_ref(ts)))
            };
            if lost(&in_use.0, &ours, &ts_local) || lost(&in_use.1, &theirs, &ts_remote) {
                continue;
            }
            // More than a payload can name, or what another child of ours covers (§2.9).
            let more = ts_local.len().max(ts_remote.len()) > ts::MOST
                || self.covers_more(config, (&ours, &theirs), (&ts_local, &ts_remote));
            ts_local.truncate(ts::MOST);
            ts_remote.truncate(ts::MOST);
            refusal = notify::NO_PROPOSAL_CHOSEN;
            let of = (&config.name[..], &ts_local[..], &ts_remote[..]);
            let resource = match old {
                Some(old) => old.resource,
                None => self.answer_resource(parts, config, of)?,
            };
            let sibling = resource.and(self.first_of(of)).map(|first| first.sa.suite);
            let chosen = config.esp_proposals.iter().find_map(|mine| {
                proposals.iter().find_map(|theirs| {
                    let suite = mine.choose_esp(&theirs.proposal, first)?;
                    if suite.ah && self.encapsulates() {
                        return None;
                    }
                    // They differ in nothing but their keys (RFC 9611 §4).
                    if rekeys.is_none() && sibling.is_some_and(|other| !suite.is_like(&other)) {
                        return None;
                    }
                    Some((suite, theirs.number, esp_spi(&theirs.spi)?))
                })
            });
            let Some((suite, number, spi_out)) = chosen else {
                continue;
            };
            // Where none is chosen, what the peer has sent for one is left alone (RFC 7296 §1.3).
            if let Some(wanted) = suite.group.filter(|wanted| Some(*wanted) != group) {
                return Err(Refused::WantsGroup(wanted));
            }
            let config = config.clone();
            let between_hosts = self.is_between_hosts(&ts_local, &ts_remote);
            let transport = wants_transport && config.transport && between_hosts;
            let spi_in = ctx.new_spi();
            if transport {
                use_transport(chain);
            }
            if more {
                chain.notify(notify::ADDITIONAL_TS_POSSIBLE, &[]);
            }
            resource::push_info(chain, resource);
            let answer = [(number, suite.to_proposal())];
            chain.push(
                payload::SA,
                &proposal::emit(&answer, false, &spi_in.value().to_be_bytes()),
            );
            chain.push(payload::TSI, &ts::emit(&ts_remote));
            chain.push(payload::TSR, &ts::emit(&ts_local));
            return Ok(Chosen {
                config,
                suite,
                spis: (spi_in, spi_out),
                ts_local,
                ts_remote,
                transport,
                resource,
                told: told(parts),
            });
        }
        Err(Refused::By(refusal))
    }

    /// Makes the child that was chosen: as responder.
    pub(crate) fn make_answered(
        &self,
        ctx: &mut Ctx<'_>,
        chosen: Chosen,
        offer: &ChildOffer,
        rekeys: Option<ChildId>,
    ) -> Result<(Child, KeyedChild), u16> {
        let (from_peer, to_peer) = self
            .derive(ctx, &chosen.suite, offer)
            .map_err(|_| notify::NO_PROPOSAL_CHOSEN)?;
        Ok(self.make_child(ctx, chosen, (to_peer, from_peer), rekeys))
    }
}

/// Tunnels have TFC padding taken off; in transport mode nothing tells where it begins (RFC 4303 §2.7).
fn use_transport(chain: &mut Chain) {
    chain.notify(notify::USE_TRANSPORT_MODE, &[]);
    chain.notify(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[]);
}

/// What the peer tells of the child beyond the choice of algorithms.
fn told(parts: &[Payload<'_>]) -> Told {
    let refused = |notify: Notify<'_>| notify.kind == notify::ESP_TFC_PADDING_NOT_SUPPORTED;
    Told {
        no_tfc_padding: notifies(parts).any(refused),
        ..Told::default()
    }
}

fn esp_spi(octets: &[u8]) -> Option<u32> {
    let spi = u32::from_be_bytes(octets.try_into().ok()?);
    (spi > 255).then_some(spi)
}
