// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Informational exchanges (RFC 2409 §5.7): notifications, deletions, and whether the peer lives
//! (RFC 3706). One that is not authenticated by a HASH changes nothing.

use std::sync::Arc;

use ikev2d_proto::event::{ChildId, Event, Path, reason};
use ikev2d_proto::proposal::EspSuite;

use crate::isakmp::{Isakmp, Last, State};
use crate::quick::Stage;
use crate::step::Ctx;
use crate::suite::protocol;
use crate::wire::notify::{self, Delete, Notify};
use crate::wire::{Chain, FLAG_ENCRYPTED, HEADER_LEN, Header, Payloads, exchange, payload, sa};

impl Isakmp {
    /// Takes in an informational message.
    pub(crate) fn handle_informational(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        header: &Header,
        message: &[u8],
    ) {
        if header.flags & FLAG_ENCRYPTED == 0 {
            return self.take_hint(ctx, header, message);
        }
        let id = header.message_id.get();
        let known = self.exchanges.get(&id).map(|exchange| &exchange.stage);
        // CONNECTED has the message id of its quick mode.
        let awaited = matches!(known, Some(Stage::Sent { .. }));
        if !self.is_proved() || id == 0 || self.seen.contains(&id) || known.is_some() && !awaited {
            return;
        }
        let Some(keys) = &self.keys else { return };
        let iv = keys.first_iv(ctx.crypto, id);
        let opened = iv.and_then(|iv| keys.open(ctx.crypto, &iv, message));
        let Ok((octets, _)) = opened else {
            ctx.out.malformed += 1;
            return;
        };
        let parts = Payloads::parse(header.next_payload, &octets, true);
        let Some(parts) = parts
            .ok()
            .filter(|p| self.is_authentic(ctx, id, &[], p, &octets))
        else {
            ctx.out.malformed += 1;
            tracing::info!(
                connection = self.connection.name,
                "informational message is not authentic: it is passed over"
            );
            return;
        };
        if awaited {
            return self.take_connected(ctx, path, id, &parts);
        }
        self.note_seen(ctx, id);
        self.heard(ctx, path);
        for part in &parts.all {
            match part.kind {
                payload::NOTIFY => match Notify::parse(part.body) {
                    Ok(notify) => self.notified(ctx, &notify),
                    Err(_) => ctx.out.malformed += 1,
                },
                payload::DELETE => match Delete::parse(part.body) {
                    Ok(delete) => self.deleted(ctx, &delete),
                    Err(_) => ctx.out.malformed += 1,
                },
                _ => {}
            }
            if self.state == State::Dead {
                return;
            }
        }
    }

    /// What anybody could have said is only told to people, when nothing better is known.
    fn take_hint(&mut self, ctx: &mut Ctx<'_>, header: &Header, message: &[u8]) {
        if self.state != State::Connecting || !self.initiator {
            tracing::debug!("informational message in the clear is passed over");
            return;
        }
        let body = message.get(HEADER_LEN..).unwrap_or_default();
        let Ok(parts) = Payloads::parse(header.next_payload, body, false) else {
            return;
        };
        let notifies = parts.of(payload::NOTIFY);
        let told = notifies.filter_map(|body| Notify::parse(body).ok()).next();
        if let Some(told) = told.filter(|told| told.kind < notify::FIRST_STATUS) {
            ctx.out.notified.received(notify::name(told.kind));
            let name = notify::told_name(told.kind);
            tracing::warn!(
                connection = self.connection.name,
                name,
                "the peer may have refused"
            );
            self.material.hint = Some(name);
        }
    }

    fn notified(&mut self, ctx: &mut Ctx<'_>, notify: &Notify<'_>) {
        match notify.kind {
            notify::R_U_THERE if self.is_own(notify.spi) => {
                self.tell_about(ctx, notify::R_U_THERE_ACK, notify.data);
            }
            notify::R_U_THERE_ACK if self.is_own(notify.spi) => {
                if notify.data == self.dpd_sequence.to_be_bytes() {
                    self.dpd = None;
                }
            }
            notify::INITIAL_CONTACT => ctx.out.initial_contact.push(self.id),
            kind if kind < notify::FIRST_STATUS => {
                ctx.out.notified.received(notify::name(kind));
                let name = notify::told_name(kind);
                tracing::warn!(
                    connection = self.connection.name,
                    name,
                    "the peer has refused"
                );
                self.refused(ctx, &name);
            }
            kind => tracing::debug!(kind, "notification"),
        }
    }

    /// An error is about the quick mode that is under way, if it is one only: IKEv1's notifications
    /// don't say to which exchange they belong.
    fn refused(&mut self, ctx: &mut Ctx<'_>, name: &str) {
        let asked = self.exchanges.iter().filter_map(|(id, exchange)| {
            let asked = matches!(exchange.stage, Stage::Asked(_));
            asked.then_some(*id)
        });
        let asked: Vec<u32> = asked.collect();
        let [id] = asked[..] else { return };
        let Some(exchange) = self.exchanges.get_mut(&id) else {
            return;
        };
        exchange.last.at = None;
        if let Stage::Asked(asked) = std::mem::replace(&mut exchange.stage, Stage::Done) {
            let reason = format!("the peer refused {}: {name}", asked.pair);
            self.quick_failed(ctx, &asked.name, asked.rekeys, &reason);
        }
    }

    /// Whether an SPI is this SA's own: both cookies, or nothing where nothing else can be meant.
    fn is_own(&self, spi: &[u8]) -> bool {
        spi.is_empty() || spi == self.spi()
    }

    fn deleted(&mut self, ctx: &mut Ctx<'_>, delete: &Delete<'_>) {
        if delete.protocol == sa::PROTO_ISAKMP {
            if delete.spis.contains(&&self.spi()[..]) {
                self.die(ctx, reason::DELETED_BY_PEER);
            }
            return;
        }
        for spi in &delete.spis {
            let Ok(octets) = <[u8; 4]>::try_from(*spi) else {
                continue;
            };
            let spi = u32::from_be_bytes(octets);
            let found = self.children.iter().find(|child| {
                child.sa.spi_out == spi && protocol(&child.sa.suite) == delete.protocol
            });
            let Some(id) = found.map(|child| child.sa.id) else {
                continue;
            };
            // Whoever lets the old one go has the new one.
            self.use_heirs(ctx, id, true);
            if self.waits_for_heir(id, reason::DELETED_BY_PEER) {
                continue;
            }
            if let Some(mut child) = self.remove_child(id) {
                self.go_back(ctx, &mut child);
                // Ours is gone with it: the peer should know (RFC 2408 §3.15 asks for no answer).
                self.retired(ctx, child, reason::DELETED_BY_PEER);
            }
        }
    }

    /// Sends a notification about a child SA, or about nothing in particular.
    pub(crate) fn tell(&mut self, ctx: &mut Ctx<'_>, kind: u16, protocol: u8, spi: &[u8]) {
        let notify = Notify {
            protocol,
            spi,
            kind,
            data: &[],
        };
        ctx.count_told(kind);
        let mut chain = Chain::default();
        chain.push(payload::NOTIFY, &notify.emit());
        self.inform(ctx, &chain);
    }

    /// Sends a notification about this SA itself.
    fn tell_about(&mut self, ctx: &mut Ctx<'_>, kind: u16, data: &[u8]) {
        let spi = self.spi();
        let notify = Notify {
            protocol: sa::PROTO_ISAKMP,
            spi: &spi,
            kind,
            data,
        };
        let mut chain = Chain::default();
        chain.push(payload::NOTIFY, &notify.emit());
        self.inform(ctx, &chain);
    }

    /// Tells the peer that SAs with these SPIs of ours are gone.
    pub(crate) fn tell_deleted(&mut self, ctx: &mut Ctx<'_>, sas: &[(EspSuite, u32)]) {
        let mut chain = Chain::default();
        for kind in [sa::PROTO_AH, sa::PROTO_ESP] {
            let of = sas.iter().filter(|(suite, _)| protocol(suite) == kind);
            let octets: Vec<[u8; 4]> = of.map(|(_, spi)| spi.to_be_bytes()).collect();
            let delete = Delete {
                protocol: kind,
                spis: octets.iter().map(|spi| &spi[..]).collect(),
            };
            if !octets.is_empty() {
                chain.push(payload::DELETE, &delete.emit());
            }
        }
        self.inform(ctx, &chain);
    }

    /// Tells the peer that the child SA of its quick mode is there (RFC 2408 §3.1), now and whenever it
    /// repeats message 3.
    pub(crate) fn tell_connected(&mut self, ctx: &mut Ctx<'_>, id: u32, child: ChildId) {
        let Some(child) = self.child_mut(child) else {
            return;
        };
        let (protocol, spi) = (protocol(&child.sa.suite), child.sa.spi_in.to_be_bytes());
        let notify = Notify {
            protocol,
            spi: &spi,
            kind: notify::CONNECTED,
            data: &[],
        };
        let mut chain = Chain::default();
        chain.push(payload::NOTIFY, &notify.emit());
        let sent = self.inform_by(ctx, id, &chain);
        if let Some(exchange) = self.exchanges.get_mut(&id) {
            exchange.last.sent = sent;
        }
    }

    /// Tells the peer that this SA is gone, and lets it go. Nobody answers to that in IKEv1.
    pub(crate) fn delete(&mut self, ctx: &mut Ctx<'_>, why: &str) {
        if self.is_proved() {
            let children = self.children.iter();
            let spis: Vec<_> = children.map(|c| (c.sa.suite, c.sa.spi_in)).collect();
            if !spis.is_empty() && self.state == State::Established {
                self.tell_deleted(ctx, &spis);
            }
            let spi = self.spi();
            let delete = Delete {
                protocol: sa::PROTO_ISAKMP,
                spis: vec![&spi],
            };
            let mut chain = Chain::default();
            chain.push(payload::DELETE, &delete.emit());
            self.inform(ctx, &chain);
        }
        self.die(ctx, why);
    }

    /// Deletes a child SA.
    pub(crate) fn delete_child(&mut self, ctx: &mut Ctx<'_>, id: ChildId, why: &'static str) {
        let Some(child) = self.child_mut(id) else {
            return;
        };
        let told = (child.sa.suite, child.sa.spi_in);
        self.tell_deleted(ctx, &[told]);
        if !self.waits_for_heir(id, why)
            && let Some(child) = self.remove_child(id)
        {
            self.retired(ctx, child, why);
        }
    }

    fn inform(&mut self, ctx: &mut Ctx<'_>, chain: &Chain) {
        let id = ctx.random_u32().max(1);
        let _ = self.inform_by(ctx, id, chain);
    }

    /// The same with a message id that is given; what was sent.
    fn inform_by(&mut self, ctx: &mut Ctx<'_>, id: u32, chain: &Chain) -> Option<Vec<u8>> {
        let header = self.header(exchange::INFORMATIONAL, id);
        let keys = self.keys.as_ref()?;
        let mut iv = keys.first_iv(ctx.crypto, id).ok()?;
        let sealed = keys.seal_hashed(ctx.crypto, &mut iv, header, &[], chain);
        let message = sealed.ok()?;
        self.last_sent = ctx.now;
        ctx.transmit(self.path, message.clone());
        Some(message)
    }

    /// Asks whether the peer lives (RFC 3706 §5.3), for the first time or again.
    pub(crate) fn ask_liveness(&mut self, ctx: &mut Ctx<'_>) {
        if !self.peer.dpd || self.state != State::Established {
            return;
        }
        if self.dpd.is_none() {
            self.dpd_sequence = match self.dpd_sequence {
                0 => ctx.random_u32() >> 1,
                sequence => sequence.wrapping_add(1),
            };
        }
        let wait = ctx.config.retransmit_timeout;
        let tries = self.dpd.as_ref().map_or(0, |dpd| dpd.tries + 1);
        let wait = wait.mul_f64(ctx.config.retransmit_base.powi(tries as i32));
        self.dpd = Some(Last {
            at: Some(ctx.now + wait),
            tries,
            ..Last::default()
        });
        let sequence = self.dpd_sequence.to_be_bytes();
        self.tell_about(ctx, notify::R_U_THERE, &sequence);
    }

    /// What a replaced SA still had goes to the one that took over.
    pub(crate) fn hand_over(&mut self, ctx: &mut Ctx<'_>, heir: &mut Self) {
        for mut child in self.children.drain(..) {
            Arc::make_mut(&mut child.sa).path = heir.path;
            heir.children.push(child);
        }
        if self.path != heir.path && !heir.children.is_empty() {
            ctx.event(Event::PathChanged {
                ike: heir.id,
                path: heir.path,
                udp_encap: heir.encap,
            });
        }
    }
}
