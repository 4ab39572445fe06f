// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Quick mode (RFC 2409 §5.5): three messages make a child SA. Several may be under way at once.

mod answer;
mod ask;
mod sending;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::config::{ChildConfig, SelectorConfig};
use ikev2d_proto::errand::{Errand, OwnExchange};
use ikev2d_proto::event::{ChildId, ChildSa, Event, InstallId, KeyedChild, Path, Told};
use ikev2d_proto::proposal::EspSuite;
use ikev2d_proto::spi::OwnSpi;
use ikev2d_proto::ts::TrafficSelector;
use zeroize::Zeroizing;

use crate::isakmp::{Child, Isakmp, Last, Phase, State};
use crate::keys::Nonces;
use crate::natt::Form;
use crate::slow::Then;
use crate::step::{Ctx, Unrekeyed};
use crate::suite::{Chosen2, Encapsulation, Life, phase2, protocol};
use crate::wire::notify::{self, Notify};
use crate::wire::{Chain, FLAG_COMMIT, HEADER_LEN, Header, Payloads, attribute, identity, payload};

/// Exchanges under way or just ended on one ISAKMP SA, at most.
const MOST: usize = 256;
/// How long the last message of an exchange is kept for a peer that has not heard it.
const KEEP: Duration = Duration::from_secs(120);
/// How long the old child SA takes packets after a new one has taken over.
pub(crate) const OVERLAP: Duration = Duration::from_secs(3);

/// When a rekeying that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the old child SA is still sent through when message 3 has gone out: the peer may be about to
/// install the new one.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long a peer is waited for that has set the commit bit. It is in the header, which nothing
/// authenticates: anybody on the way may have set it, so that nobody is waited for without end.
const COMMIT_WAIT: Duration = Duration::from_secs(15);

/// A quick mode.
pub(crate) struct Exchange {
    pub(crate) stage: Stage,
    /// The peer has set the commit bit.
    commit: bool,
    iv: Vec<u8>,
    pub(crate) last: Last,
    /// When it is forgotten.
    pub(crate) forget_at: Instant,
}

impl Exchange {
    /// What message 2 needs, if that takes long.
    fn agreement(&self, ctx: &Ctx<'_>, parts: &Payloads<'_>) -> Option<Errand> {
        let Stage::Asked(asked) = &self.stage else {
            return None;
        };
        let (own, peer) = (asked.exchange.as_ref()?, parts.one(payload::KE, "KE").ok()?);
        own.is_due(ctx.crypto, peer).then(|| Errand {
            agree: Some((own.clone(), peer.to_vec())),
            ..Errand::default()
        })
    }
}

/// Where a quick mode stands.
pub(crate) enum Stage {
    /// Message 1 is sent.
    Asked(Box<Asked>),
    /// Message 2 has come: our inbound SA is being installed, then message 3 goes out.
    Completing {
        install: InstallId,
        child: ChildId,
        octets: [Vec<u8>; 2],
    },
    /// Message 1 has come: our inbound SA is being installed, then message 2 goes out.
    Answering {
        install: InstallId,
        child: ChildId,
        chain: Chain,
        nonces: [Vec<u8>; 2],
    },
    /// Message 2 is sent.
    Answered {
        child: ChildId,
        nonces: [Vec<u8>; 2],
    },
    /// Message 3 is sent, and the child is used from `until` on, or when the peer says that it has heard
    /// of it.
    Sent { child: ChildId, until: Instant },
    /// It has ended.
    Done,
}

/// What message 1 has asked for.
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) pair: Pair,
    pub(crate) suites: Vec<EspSuite>,
    spi: OwnSpi,
    nonce: Vec<u8>,
    exchange: Option<Arc<OwnExchange>>,
    pub(crate) rekeys: Option<ChildId>,
    /// What it takes the place of, if only by chance.
    replaces: Option<ChildId>,
}

/// Proxy ids: our side's traffic and the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) local: TrafficSelector,
    pub(crate) remote: TrafficSelector,
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (local, remote) = (identity::show(&self.local), identity::show(&self.remote));
        write!(f, "{local} === {remote}")
    }
}

/// What both ends of a quick mode have put in.
struct Ingredients<'a> {
    suite: EspSuite,
    spi_in: OwnSpi,
    spi_out: u32,
    nonces: Nonces<'a>,
    secret: Option<Zeroizing<Vec<u8>>>,
    /// As the peer has it.
    life: Life,
    /// Whether the peer refuses replayed packets.
    replay: Option<bool>,
    /// The addresses of the peer's packets, in transport mode behind a NAT.
    original: Option<(IpAddr, IpAddr)>,
    /// We have asked for it.
    asked: bool,
}

impl Isakmp {
    /// Every pair of a child's selectors: each becomes an SA of its own.
    pub(crate) fn pairs(&self, config: &ChildConfig) -> Vec<Pair> {
        let (own, peers) = (
            self.assigned.own_dynamic(self.path),
            self.assigned.peers_dynamic(self.path),
        );
        let local = SelectorConfig::resolve_by(&config.local_ts, &own);
        let remote = SelectorConfig::resolve_by(&config.remote_ts, &peers);
        let pairs = local.iter().flat_map(|local| {
            remote.iter().map(|remote| Pair {
                local: *local,
                remote: *remote,
            })
        });
        // One family on both sides.
        pairs
            .filter(|pair| pair.local.start.is_ipv4() == pair.remote.start.is_ipv4())
            .collect()
    }

    pub(crate) fn child_config(&self, name: &str) -> Option<ChildConfig> {
        let mut children = self.connection.children.iter();
        children.find(|child| child.name == name).cloned()
    }

    /// What a child's proposals allow on this SA.
    fn suites(&self, config: &ChildConfig) -> Vec<EspSuite> {
        let mut suites = phase2(&config.esp_proposals);
        // AH covers the addresses that a NAT changes (RFC 3715 §2.1).
        suites.retain(|suite| !(suite.ah && self.encap));
        suites
    }

    /// Transport mode is for what the two hosts say to each other. Behind a NAT UDP carries it (RFC 3948 §2.1).
    fn transport(&self, config: &ChildConfig, pair: Pair) -> bool {
        let is = |ts: &TrafficSelector, end: IpAddr| (ts.start, ts.end) == (end, end);
        let hosts =
            is(&pair.local, self.path.local.ip()) && is(&pair.remote, self.path.remote.ip());
        config.transport && hosts
    }

    fn encapsulation(&self, config: &ChildConfig, pair: Pair) -> Encapsulation {
        Encapsulation {
            transport: self.transport(config, pair),
            udp: self.encap,
            draft: self.peer.natt == Some(Form::Draft),
        }
    }

    /// Takes in a message of quick mode.
    pub(crate) fn handle_quick(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) {
        let id = header.message_id.get();
        let digest = ctx.crypto.sha1(&[message]);
        let Some(keys) = &self.keys else { return };
        if self.held_quick().any(|held| held == id) {
            return;
        }
        let known = self.exchanges.get(&id);
        if known.is_some_and(|exchange| exchange.last.received == Some(digest)) {
            // The peer has not heard our answer.
            if let Some(sent) = known.and_then(|exchange| exchange.last.sent.clone()) {
                ctx.out.retransmits += 1;
                ctx.transmit(self.path, sent);
            }
            if let Some(exchange) = self.exchanges.get_mut(&id)
                && let Stage::Sent { until, .. } = &mut exchange.stage
            {
                // Message 3 was lost: the peer hears of the child only now.
                *until = (*until).max(ctx.now + HEAD_START);
            }
            return;
        }
        let begun = self.exchanges.len() + self.held_quick().count();
        if known.is_none() && (id == 0 || self.seen.contains(&id) || begun >= MOST) {
            return;
        }
        let iv = match known {
            Some(exchange) => Ok(exchange.iv.clone()),
            None => keys.first_iv(ctx.crypto, id),
        };
        let opened = iv.and_then(|iv| keys.open(ctx.crypto, &iv, message));
        let Ok((octets, iv)) = opened else {
            ctx.out.malformed += 1;
            return;
        };
        let parts = match Payloads::parse(header.next_payload, &octets, true) {
            Ok(parts) => parts,
            Err(error) => {
                ctx.out.malformed += 1;
                tracing::info!(connection = self.connection.name, %error, "quick mode is passed over");
                return;
            }
        };
        let before: Vec<u8> = match known.map(|exchange| &exchange.stage) {
            None => Vec::new(),
            Some(Stage::Asked(asked)) => asked.nonce.clone(),
            Some(Stage::Answered { nonces, .. }) => {
                return self.handle_third(ctx, path, id, &parts, nonces.concat(), (digest, iv));
            }
            Some(_) => return,
        };
        if !self.is_authentic(ctx, id, &before, &parts, &octets) {
            ctx.out.malformed += 1;
            tracing::info!(
                connection = self.connection.name,
                "HASH of a quick mode does not fit: it is passed over"
            );
            return;
        }
        self.heard(ctx, path);
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.commit = header.flags & FLAG_COMMIT != 0;
            match exchange.agreement(ctx, &parts) {
                Some(errand) => self.send_out(ctx, errand, Then::Quick(id, message.to_vec())),
                None => self.handle_second(ctx, id, &parts, (digest, iv)),
            }
        } else {
            self.handle_first(ctx, id, (&parts, message), (digest, iv));
        }
    }

    /// Whether HASH(1) or HASH(2), or an informational exchange's, is the peer's: over the message id,
    /// what comes `before`, and all payloads behind it, to the last octet.
    pub(crate) fn is_authentic(
        &self,
        ctx: &Ctx<'_>,
        id: u32,
        before: &[u8],
        parts: &Payloads<'_>,
        octets: &[u8],
    ) -> bool {
        let Some(keys) = &self.keys else { return false };
        let Some(hash) = parts.all.first().filter(|part| part.kind == payload::HASH) else {
            return false;
        };
        // Behind the HASH and its header; the padding is not covered.
        let Some(covered) = octets.get(hash.body.len() + 4..parts.len) else {
            return false;
        };
        let id = id.to_be_bytes();
        let expected = keys.authenticate(ctx.crypto, &[&id, before, covered]);
        expected.is_ok_and(|expected| ctx.crypto.equal(&expected, hash.body))
    }

    /// A child SA out of what both have put in, and its installation.
    fn make_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        config: &ChildConfig,
        pair: Pair,
        from: Ingredients<'_>,
        rekeys: Option<ChildId>,
    ) -> Option<(ChildId, InstallId)> {
        let keys = self.keys.as_ref()?;
        let derive = |spi| {
            let secret = from.secret.as_ref().map(|secret| &secret[..]);
            let prf = keys.suite.prf;
            let skeyid = &keys.skeyid;
            skeyid.child(ctx.crypto, prf, &from.suite, spi, from.nonces, secret)
        };
        let spi_in = from.spi_in.value();
        let (keys_in, keys_out) = (derive(spi_in).ok()?, derive(from.spi_out).ok()?);
        let id = ChildId(ctx.id());
        let install = InstallId(ctx.id());
        let told = Told {
            life_bytes: from
                .life
                .kilobytes
                .map(|kilobytes| kilobytes.saturating_mul(1024)),
            replay: from.replay,
            original: from.original,
            no_tfc_padding: true,
        };
        let sa = Arc::new(ChildSa {
            id,
            connection: self.connection.name.as_str().into(),
            child: config.name.as_str().into(),
            spi_in,
            spi_out: from.spi_out,
            path: self.path,
            udp_encap: self.encap,
            transport: self.transport(config, pair),
            suite: from.suite,
            ts_local: Box::new([pair.local]),
            ts_remote: Box::new([pair.remote]),
            replaces: rekeys,
            resource: None,
            told: Some(Box::new(told)),
        });
        let terms = Told {
            no_tfc_padding: false,
            ..told
        };
        if terms != Told::default() {
            let Told {
                life_bytes,
                replay,
                original,
                ..
            } = told;
            let (connection, child) = (&*sa.connection, &*sa.child);
            tracing::info!(
                connection,
                child,
                ?life_bytes,
                ?replay,
                ?original,
                "the peer's terms"
            );
        }
        let rekey_at = config
            .rekey_time
            .map(|time| ctx.now + ctx.jittered(time, config.rand_time));
        // The peer lets it go then: it is replaced before.
        let theirs = from.life.time.map(|life| ctx.now + life.mul_f64(0.9));
        self.children.push(Child {
            sa: sa.clone(),
            _spi: from.spi_in,
            phase: Phase::Installed,
            install: Some(install),
            outbound: None,
            leaves: None,
            asked: from.asked,
            installed: ctx.now,
            rekey_at: [rekey_at, theirs].into_iter().flatten().min(),
            expire_at: config.rekey_time.map(|time| ctx.now + time + time / 10),
            until: None,
            lost_to: None,
            announced: false,
        });
        let child = Box::new(KeyedChild {
            sa,
            keys_in,
            keys_out,
        });
        ctx.event(Event::InstallInbound { install, child });
        Some((id, install))
    }

    /// What was done about the installation of an SA.
    pub(crate) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        install: InstallId,
        failure: Option<&str>,
    ) {
        let mut children = self.children.iter();
        if let Some(child) = children.find(|c| c.outbound == Some(install)) {
            return self.answered_outbound(ctx, child.sa.id, failure);
        }
        let Some(child) = self
            .children
            .iter_mut()
            .find(|c| c.install == Some(install))
        else {
            return;
        };
        child.install = None;
        let child = child.sa.id;
        let found = self
            .exchanges
            .iter()
            .find(|(_, exchange)| match &exchange.stage {
                Stage::Completing { install: i, .. } | Stage::Answering { install: i, .. } => {
                    *i == install
                }
                _ => false,
            });
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        if let Some(reason) = failure {
            return self.not_installed(ctx, id, child, reason);
        }
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut exchange.stage, Stage::Done) {
            Stage::Completing { child, octets, .. } => self.send_third(ctx, id, child, &octets),
            Stage::Answering {
                child,
                chain,
                nonces,
                ..
            } => self.send_second(ctx, id, child, &chain, nonces),
            _ => {}
        }
    }

    fn not_installed(&mut self, ctx: &mut Ctx<'_>, id: u32, child: ChildId, reason: &str) {
        let asked = matches!(
            self.exchanges.get(&id).map(|e| &e.stage),
            Some(Stage::Completing { .. })
        );
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.stage = Stage::Done;
        }
        let Some(child) = self.remove_child(child) else {
            return;
        };
        if asked {
            // The peer has its SA already.
            self.tell_deleted(ctx, &[(child.sa.suite, child.sa.spi_in)]);
            self.quick_failed(ctx, &child.sa.child, child.sa.replaces, reason);
        } else {
            let refused = crate::wire::notify::NO_PROPOSAL_CHOSEN;
            let spi = child.sa.spi_out.to_be_bytes();
            self.tell(ctx, refused, protocol(&child.sa.suite), &spi);
        }
        self.retired(ctx, child, reason);
    }

    /// A quick mode of ours has come to nothing.
    pub(crate) fn quick_failed(
        &mut self,
        ctx: &mut Ctx<'_>,
        name: &str,
        rekeys: Option<ChildId>,
        reason: &str,
    ) {
        let (ike, now) = (self.id, ctx.now);
        let is_elsewhere = |old: &ChildId| {
            self.state != State::Established && self.children.iter().all(|c| c.sa.id != *old)
        };
        if let Some(old) = rekeys.filter(is_elsewhere) {
            let (name, reason) = (name.to_owned(), reason.to_owned());
            return ctx.out.unrekeyed.push(Unrekeyed { old, name, reason });
        }
        let old = rekeys.and_then(|old| self.child_mut(old));
        if let Some(old) = old.filter(|old| old.phase == Phase::Rekeying) {
            old.phase = Phase::Installed;
            old.rekey_at = Some(now + AGAIN);
            let (child, reason) = (old.sa.id, reason.to_owned());
            return ctx.event(Event::RekeyFailed { ike, child, reason });
        }
        ctx.event(Event::InitiateFailed {
            connection: self.connection.name.clone(),
            child: Some(name.to_owned()),
            reason: reason.to_owned(),
        });
    }

    /// The SA ends, and another one has taken over from it: its quick modes end here.
    pub(crate) fn end_quick(&mut self, ctx: &mut Ctx<'_>, why: &str) {
        for exchange in std::mem::take(&mut self.exchanges).into_values() {
            match exchange.stage {
                Stage::Asked(asked) => self.quick_failed(ctx, &asked.name, asked.rekeys, why),
                Stage::Completing { child, .. } => {
                    if let Some(child) = self.remove_child(child) {
                        self.quick_failed(ctx, &child.sa.child, child.sa.replaces, why);
                        self.retired(ctx, child, why);
                    }
                }
                Stage::Sent { child, .. } => ctx.out.up.push(child),
                _ => {}
            }
        }
    }

    /// Sends a message of a quick mode; its HASH is over `before` as well.
    fn send_quick(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        before: &[&[u8]],
        chain: &Chain,
        again: bool,
    ) -> bool {
        let mut header = self.header(crate::wire::exchange::QUICK, id);
        let (Some(keys), Some(exchange)) = (&self.keys, self.exchanges.get_mut(&id)) else {
            return false;
        };
        if self.connection.ikev1.commit && matches!(exchange.stage, Stage::Done) {
            // Message 2.
            header.flags |= FLAG_COMMIT;
        }
        let sealed = keys.seal_hashed(ctx.crypto, &mut exchange.iv, header, before, chain);
        let Ok(message) = sealed else { return false };
        debug_assert!(message.len() > HEADER_LEN);
        exchange.last.sent = Some(message.clone());
        exchange.last.tries = 0;
        exchange.last.at = again.then(|| ctx.now + ctx.config.retransmit_timeout);
        exchange.forget_at = ctx.now + KEEP;
        self.last_sent = ctx.now;
        ctx.transmit(self.path, message);
        true
    }
}

/// How long a child SA is said to live: a little longer than until it is rekeyed.
fn life(config: &ChildConfig) -> Life {
    const DEFAULT: Duration = Duration::from_secs(28_800);
    let time = config.rekey_time.map_or(DEFAULT, |time| time + time / 10);
    Life {
        time: Some(time),
        kilobytes: config.ikev1.life_bytes.map(|bytes| (bytes / 1024).max(1)),
    }
}

/// What a responder tells beside its choice (RFC 2407 §4.6.3): its own lifetime where it is shorter, and
/// whether it refuses replayed packets.
fn push_terms(chain: &mut Chain, config: &ChildConfig, chosen: &Chosen2<'_>, spi: u32) {
    let spi = spi.to_be_bytes();
    let mut told = |kind, data: &[u8]| {
        let notify = Notify {
            protocol: protocol(&chosen.suite),
            spi: &spi,
            kind,
            data,
        };
        chain.push(payload::NOTIFY, &notify.emit());
    };
    let shorter = life(config).shorter_than(chosen.life).emit();
    if !shorter.is_empty() {
        told(notify::RESPONDER_LIFETIME, &shorter);
    }
    let replay = u32::from(config.ikev1.replay);
    told(notify::REPLAY_STATUS, &replay.to_be_bytes());
}

/// The same as the initiator hears it.
fn terms(parts: &Payloads<'_>) -> (Life, Option<bool>) {
    let notifies = parts.of(payload::NOTIFY);
    let notifies: Vec<_> = notifies.filter_map(|b| Notify::parse(b).ok()).collect();
    let told = |kind| {
        let mut of_kind = notifies.iter().filter(|notify| notify.kind == kind);
        of_kind.next().map(|notify| notify.data)
    };
    let attributes = told(notify::RESPONDER_LIFETIME).and_then(|data| attribute::parse(data).ok());
    let replay = told(notify::REPLAY_STATUS).and_then(|data| match data {
        [0, 0, 0, status @ (0 | 1)] => Some(*status == 1),
        _ => None,
    });
    (Life::read(&attributes.unwrap_or_default()), replay)
}
