// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Postquantum preshared keys (RFC 8784): mixed into the keys between IKE_SA_INIT and IKE_AUTH.

use crate::config::{Identity, Secret};
use crate::ike_sa::{Ctx, IkeSa, notifies};
use crate::wire::{Payload, notify};

/// PPK_ID_FIXED (RFC 8784 §5.1).
const FIXED: u8 = 2;

/// The body of a PPK_IDENTITY.
pub(crate) fn emit_identity(id: &Identity) -> Vec<u8> {
    let mut body = vec![FIXED];
    // Behind type and reserved octets of an ID payload.
    body.extend(id.emit().get(4..).unwrap_or_default());
    body
}

/// Whether a message has one of the notifications.
pub(crate) fn has_identity(parts: &[Payload<'_>]) -> bool {
    notifies(parts).any(|notify| notify.kind == notify::PPK_IDENTITY)
}

/// The key with this id.
fn find_ppk<'a>(ppks: &'a [Secret], id: &[u8]) -> Option<&'a Secret> {
    let named = |owner: &Identity| emit_identity(owner).get(1..) == Some(id);
    ppks.iter().find(|ppk| ppk.ids.iter().any(named))
}

impl IkeSa {
    /// Mixes ours in, as the initiator, where the peer can too. Whether it is.
    pub(crate) fn mix_own_ppk(&mut self, ctx: &Ctx<'_>) -> Result<bool, String> {
        let Some(id) = self.connection.ppk_id.clone() else {
            return Ok(false);
        };
        let required = self.connection.ppk_required;
        if !self.init.both_use_ppk {
            return match required {
                true => Err("the peer has no PPKs (RFC 8784), and ppk_required is set".to_owned()),
                false => Ok(false),
            };
        }
        match self.mix_in(ctx, emit_identity(&id).get(1..).unwrap_or_default())? {
            false if required => Err(format!("no PPK {id}, and ppk_required is set")),
            mixed => Ok(mixed),
        }
    }

    /// Mixes in the one that an initiator names. Whether it is; if not, its AUTH without one is to be
    /// taken, which is given then.
    pub(crate) fn mix_peers_ppk<'m>(
        &mut self,
        ctx: &Ctx<'_>,
        parts: &'m [Payload<'m>],
    ) -> Result<Option<&'m [u8]>, String> {
        // The same message once more: its last answer could not be made (`JobError::Busy`).
        self.unmix();
        let required = self.connection.ppk_required;
        let find = |kind| notifies(parts).find(|notify| notify.kind == kind);
        let named = find(notify::PPK_IDENTITY).filter(|_| self.init.both_use_ppk);
        let Some(named) = named else {
            return match required {
                true => Err("it names no PPK (RFC 8784), and ppk_required is set".to_owned()),
                false => Ok(None),
            };
        };
        let id = match named.data.split_first() {
            Some((&FIXED, id)) => id,
            _ => &[],
        };
        let allowed =
            self.connection.ppk_id.as_ref().is_some_and(|own| {
                *own == Identity::Any || emit_identity(own).get(1..) == Some(id)
            });
        if allowed && self.mix_in(ctx, id)? {
            return Ok(None);
        }
        match find(notify::NO_PPK_AUTH) {
            Some(without) if !required => Ok(Some(without.data)),
            _ => Err("we don't have the PPK that it names (RFC 8784)".to_owned()),
        }
    }

    fn mix_in(&mut self, ctx: &Ctx<'_>, id: &[u8]) -> Result<bool, String> {
        let suite = self.suite.as_ref();
        let Some(((ppk, suite), keys)) = find_ppk(ctx.ppks, id).zip(suite).zip(self.keys.as_mut())
        else {
            return Ok(false);
        };
        let mixed = keys.mix_ppk(ctx.crypto, suite.prf, &ppk.secret);
        self.init.without_ppk = Some(mixed.map_err(|error| error.to_string())?);
        self.ppk = true;
        Ok(true)
    }

    /// Takes in whether the responder has mixed it in too; if not, and if that may be, neither do we.
    pub(crate) fn settle_ppk(&mut self, parts: &[Payload<'_>]) -> Result<(), &'static str> {
        match (self.ppk, has_identity(parts)) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => Err("it speaks of a PPK that we have not named"),
            (true, false) if self.connection.ppk_required => {
                Err("it does not have our PPK (RFC 8784), and ppk_required is set")
            }
            (true, false) => {
                self.unmix();
                Ok(())
            }
        }
    }

    /// Takes out what [`mix_in`](Self::mix_in) has mixed in.
    fn unmix(&mut self) {
        let plain = self.init.without_ppk.take();
        if let Some((keys, plain)) = self.keys.as_mut().zip(plain) {
            keys.replace_mixable(plain);
        }
        self.ppk = false;
    }
}
