// SPDX-License-Identifier: Apache-2.0 OR MIT
//! INFORMATIONAL (RFC 7296 §1.4): deletions and liveness.

use std::sync::Arc;

use crate::config::ChildConfig;
use crate::crypto::CryptoError;
use crate::event::{ChildId, Path, reason};
use crate::ike_sa::{
    Child, Ctx, Handover, IkeSa, OwnSpi, Phase, Request, Standing, State, Task, Unmade,
    error_notify,
};
use crate::wire::{Chain, Payload, Reader, exchange, notify, payload};

const IKE: u8 = 1;
const AH: u8 = 2;
const ESP: u8 = 3;

/// SPIs of nothing we know that are kept for as long as a request of ours is not answered.
const MOST_DELETED: usize = 16;

impl IkeSa {
    pub(crate) fn start_delete(
        &mut self,
        ctx: &mut Ctx<'_>,
        reason: String,
    ) -> Result<(), CryptoError> {
        self.state = State::Deleting;
        let mut chain = Chain::default();
        chain.push(payload::DELETE, &[IKE, 0, 0, 0]);
        self.request(
            ctx,
            exchange::INFORMATIONAL,
            chain,
            Request::DeleteIke { reason },
        )
    }

    pub(crate) fn start_delete_child(
        &mut self,
        ctx: &mut Ctx<'_>,
        child: ChildId,
    ) -> Result<(), CryptoError> {
        let Some(found) = self.children.iter_mut().find(|c| c.sa.id == child) else {
            return Ok(());
        };
        found.phase = Phase::Deleting;
        let mut chain = Chain::default();
        let protocol = found.sa.suite.protocol();
        chain.push(payload::DELETE, &emit_delete(protocol, &[found.sa.spi_in]));
        self.request(
            ctx,
            exchange::INFORMATIONAL,
            chain,
            Request::DeleteChild(child),
        )
    }

    /// The peer may have made a child of an answer that we can make none of, and would keep it, or even
    /// send through it: it is told that there is none (§1.4.1).
    pub(crate) fn disown_child(&mut self, config: &ChildConfig, spi: OwnSpi) {
        let ours = config.esp_proposals.iter();
        let mut protocols: Vec<u8> = ours
            .map(|ours| if ours.is_ah() { AH } else { ESP })
            .collect();
        protocols.sort_unstable();
        protocols.dedup();
        let unmade = Arc::new(Unmade { spi, protocols });
        self.tasks.push_front(Task::DeleteUnmade(unmade));
    }

    pub(crate) fn start_delete_unmade(
        &mut self,
        ctx: &mut Ctx<'_>,
        unmade: Arc<Unmade>,
    ) -> Result<(), CryptoError> {
        let mut chain = Chain::default();
        for protocol in &unmade.protocols {
            chain.push(
                payload::DELETE,
                &emit_delete(*protocol, &[unmade.spi.value()]),
            );
        }
        let request = Request::DeleteUnmade { _unmade: unmade };
        self.request(ctx, exchange::INFORMATIONAL, chain, request)
    }

    pub(crate) fn handle_informational(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let mut chain = Chain::default();
        if let Err(error) = self.answer_move(ctx, path, parts, &mut chain) {
            return self.respond_notify(ctx, exchange::INFORMATIONAL, id, error, &[]);
        }
        self.take_addresses(ctx, path, parts);
        self.answer_configuring(ctx, parts, &mut chain);
        self.advance_counters(ctx, parts);
        let mut own_spis: [(u8, Vec<u32>); 2] = [(ESP, Vec::new()), (AH, Vec::new())];
        let mut ends = false;
        for part in parts.iter().filter(|part| part.kind == payload::DELETE) {
            match read_delete(part.body) {
                Some((IKE, _)) => ends = true,
                Some((protocol, spis)) => {
                    for spi in spis {
                        self.delete_by_peer(ctx, protocol, spi, &mut own_spis);
                    }
                }
                _ => {}
            }
        }
        for (protocol, spis) in own_spis.iter().filter(|(_, spis)| !spis.is_empty()) {
            chain.push(payload::DELETE, &emit_delete(*protocol, spis));
        }
        self.respond(ctx, exchange::INFORMATIONAL, id, chain);
        self.redirect_established(ctx, parts);
        let refused =
            error_notify(parts).is_some_and(|notify| notify.kind == notify::AUTHENTICATION_FAILED);
        if refused {
            // §2.21.2: the initiator does not believe us, and has no such SA.
            self.die(ctx, reason::REFUSED_BY_PEER);
        } else if ends {
            if let Some(Request::RekeyIke(mine)) = self.asking()
                && let Some(theirs) = &mine.collision
                && self.standing == Standing::Current
            {
                // The peer has not noticed that both rekey: its new SA it is (§2.8.2).
                let (old, new, delete) = (self.id, theirs.new, false);
                ctx.out.handovers.push(Handover { old, new, delete });
                self.state = State::Dead;
                return;
            }
            let reason = match self.standing {
                Standing::Current => reason::DELETED_BY_PEER,
                _ => "rekeyed",
            };
            self.die(ctx, reason);
        }
    }

    /// The peer names its inbound SA; ours of the pair goes with it (§1.4.1).
    fn delete_by_peer(
        &mut self,
        ctx: &mut Ctx<'_>,
        protocol: u8,
        spi: u32,
        own_spis: &mut [(u8, Vec<u32>)],
    ) {
        let named =
            |child: &&Child| child.sa.spi_out == spi && child.sa.suite.protocol() == protocol;
        let Some(child) = self.children.iter().find(named) else {
            // It may be of an answer that got lost.
            if let Some(Request::CreateChild(mine)) = self.asking_mut()
                && mine.deleted.len() < MOST_DELETED
            {
                mine.deleted.push(spi);
            }
            return;
        };
        let (id, spi_in) = (child.sa.id, child.sa.spi_in);
        // When both delete it at once, each has named it in its own request (§1.4.1).
        if !matches!(self.asking(), Some(Request::DeleteChild(asked)) if *asked == id) {
            let of = own_spis.iter_mut().find(|(of, _)| *of == protocol);
            of.into_iter().for_each(|(_, spis)| spis.push(spi_in));
        }
        // That of a child that both rekey says that the peer's new one stays.
        if let Some(Request::CreateChild(mine)) = self.asking()
            && mine.rekeys == Some(id)
            && let Some(theirs) = &mine.collision
        {
            let new = theirs.new;
            self.take_over(ctx, id, new);
        }
        self.remake(id);
        self.drop_child(ctx, id, reason::DELETED_BY_PEER);
    }
}

impl IkeSa {
    /// The peer deletes a child of another member's (RFC 6311) before we have made ours of it: mostly since it
    /// knows one of the two's own in its place, which we have not heard of. A new one is asked for.
    fn remake(&mut self, id: ChildId) {
        let lives = |c: &&Child| matches!(c.phase, Phase::Installed | Phase::Rekeying);
        let child = self.child(id).filter(lives);
        let Some(child) = child.filter(|child| child.taken_up.is_some()) else {
            return;
        };
        let name = child.sa.child.to_string();
        if self.successor(id).is_some() {
            return;
        }
        if let Some(Request::CreateChild(mine)) = self.asking_mut()
            && mine.rekeys == Some(id)
        {
            // What comes of it stands for itself.
            mine.rekeys = None;
            return;
        }
        let part = self.task_for_part(id, None);
        self.tasks.push_back(part.unwrap_or(Task::Child {
            name,
            rekeys: None,
            group: None,
            not_before: None,
        }));
    }
}

/// Whether a request deletes the IKE SA.
pub(crate) fn ends_ike(parts: &[Payload<'_>]) -> bool {
    let mut deletes = parts.iter().filter(|part| part.kind == payload::DELETE);
    deletes.any(|part| matches!(read_delete(part.body), Some((IKE, _))))
}

fn emit_delete(protocol: u8, spis: &[u32]) -> Vec<u8> {
    let mut body = vec![protocol, 4];
    body.extend((spis.len() as u16).to_be_bytes());
    body.extend(spis.iter().flat_map(|spi| spi.to_be_bytes()));
    body
}

fn read_delete(body: &[u8]) -> Option<(u8, Vec<u32>)> {
    let mut reader = Reader::new(body);
    let (protocol, spi_len, count) = (reader.u8().ok()?, reader.u8().ok()?, reader.u16().ok()?);
    if !matches!(protocol, AH | ESP) {
        return Some((protocol, Vec::new()));
    }
    if spi_len != 4 || reader.rest().len() != usize::from(count) * 4 {
        return None;
    }
    let spis = reader
        .rest()
        .chunks_exact(4)
        .filter_map(|spi| spi.try_into().ok());
    Some((protocol, spis.map(u32::from_be_bytes).collect()))
}
