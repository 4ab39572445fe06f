// SPDX-License-Identifier: Apache-2.0 OR MIT
//! INFORMATIONAL (RFC 7296 §1.4): deletions and liveness.

use crate::crypto::CryptoError;
use crate::event::{ChildId, Event, reason};
use crate::ike_sa::{Ctx, IkeSa, Request, State};
use crate::wire::{Chain, Payload, Reader, exchange, payload};

const IKE: u8 = 1;
const ESP: u8 = 3;

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
            &chain,
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
        found.busy = true;
        let mut chain = Chain::default();
        chain.push(payload::DELETE, &emit_delete(&[found.sa.spi_in]));
        self.request(
            ctx,
            exchange::INFORMATIONAL,
            &chain,
            Request::DeleteChild(child),
        )
    }

    pub(crate) fn handle_informational(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: u32,
        parts: &[Payload<'_>],
    ) {
        let mut chain = Chain::default();
        let mut own_spis = Vec::new();
        let mut ends = false;
        if self.succeeds {
            // The peer has our answer, and the new child SA with it.
            for child in &mut self.children {
                if child.outbound_at.take().is_some() {
                    let child = child.sa.id;
                    ctx.event(Event::InstallOutbound { child });
                }
            }
        }
        for part in parts.iter().filter(|part| part.kind == payload::DELETE) {
            match read_delete(part.body) {
                Some((IKE, _)) => ends = true,
                Some((ESP, spis)) => {
                    for spi in spis {
                        self.delete_by_peer(ctx, spi, &mut own_spis);
                    }
                }
                _ => {}
            }
        }
        if !own_spis.is_empty() {
            chain.push(payload::DELETE, &emit_delete(&own_spis));
        }
        self.respond(ctx, exchange::INFORMATIONAL, id, &chain);
        if ends {
            let reason = if self.replaced {
                "rekeyed"
            } else {
                reason::DELETED_BY_PEER
            };
            self.die(ctx, reason);
        }
    }

    /// The peer names its inbound SA; ours of the pair goes with it (§1.4.1).
    fn delete_by_peer(&mut self, ctx: &mut Ctx<'_>, spi: u32, own_spis: &mut Vec<u32>) {
        let Some(child) = self.children.iter().find(|child| child.sa.spi_out == spi) else {
            return;
        };
        let (id, spi_in, name) = (child.sa.id, child.sa.spi_in, child.sa.child.clone());
        // When both delete it at once, each has named it in its own request (§1.4.1).
        if !matches!(self.asking(), Some(Request::DeleteChild(asked)) if *asked == id) {
            own_spis.push(spi_in);
        }
        // Its successor sends from now on.
        for other in &mut self.children {
            if other.sa.child == name && other.outbound_at.take().is_some() {
                let child = other.sa.id;
                ctx.event(Event::InstallOutbound { child });
            }
        }
        self.drop_child(ctx, id, reason::DELETED_BY_PEER);
    }
}

fn emit_delete(spis: &[u32]) -> Vec<u8> {
    let mut body = vec![ESP, 4];
    body.extend((spis.len() as u16).to_be_bytes());
    body.extend(spis.iter().flat_map(|spi| spi.to_be_bytes()));
    body
}

fn read_delete(body: &[u8]) -> Option<(u8, Vec<u32>)> {
    let mut reader = Reader::new(body);
    let (protocol, spi_len, count) = (reader.u8().ok()?, reader.u8().ok()?, reader.u16().ok()?);
    if protocol != ESP {
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
