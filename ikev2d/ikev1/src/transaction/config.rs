// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mode config: addresses are asked for (pull) or given unasked (push), at either end.

use ikev2d_proto::wire::configuration::{Attribute as Given, Kind, about_us};

use super::What;
use crate::isakmp::Isakmp;
use crate::step::Ctx;
use crate::wire::attribute::push_octets;
use crate::wire::transaction::{Attributes, push_given, xauth};

fn body(all: &[Given]) -> Vec<u8> {
    let mut rest = Vec::new();
    all.iter().for_each(|given| push_given(&mut rest, given));
    rest
}

impl Isakmp {
    /// Asks for addresses.
    pub(super) fn pull(&mut self, ctx: &mut Ctx<'_>) {
        let rest = body(&self.assigned.request(&self.connection));
        self.begin_transaction(ctx, What::Pull, Kind::Request, &rest);
    }

    /// Gives the peer addresses: one of each family that there is a pool of.
    pub(super) fn push(&mut self, ctx: &mut Ctx<'_>) {
        let owner = self.owner();
        let families = [Given::Ip4Address(None), Given::Ip6Address(None)];
        let given = self
            .assigned
            .give(ctx.pools, &self.connection, &owner, &families);
        match given {
            Some(given) => self.begin_transaction(ctx, What::Push, Kind::Set, &body(&given)),
            None => self.transaction_failed(ctx, "no pool has an address for the peer"),
        }
    }

    /// The answer to our request.
    pub(super) fn take_addresses(
        &mut self,
        ctx: &mut Ctx<'_>,
        told: &Attributes<'_>,
    ) -> Result<(), String> {
        let taken = self
            .assigned
            .take(&self.connection, self.id, told.given())?;
        ctx.event(taken);
        self.transactions.is_configured = true;
        Ok(())
    }

    /// The peer's request: what it gets, and what it is told of us.
    pub(super) fn reply_config(&mut self, ctx: &mut Ctx<'_>, asked: &Attributes<'_>) -> Vec<u8> {
        let asked = asked.given();
        let mut told = self.give_addresses(ctx, &asked);
        let mut about = about_us(&asked, &ctx.config.application_version);
        for given in &mut about {
            if let Given::Supported(known) = given {
                known.extend(xauth::ALL);
            }
        }
        told.extend(about);
        body(&told)
    }

    fn give_addresses(&mut self, ctx: &mut Ctx<'_>, asked: &[Given]) -> Vec<Given> {
        if self.connection.pools.is_empty() || !self.transactions.is_user_proved {
            return Vec::new();
        }
        let owner = self.owner();
        let given = self
            .assigned
            .give(ctx.pools, &self.connection, &owner, asked);
        if given.is_none() {
            tracing::warn!(
                connection = self.connection.name,
                owner,
                "no pool has an address for the peer"
            );
        }
        given.unwrap_or_default()
    }

    /// The peer gives us addresses unasked. What is taken is told without its value (§3.2).
    pub(super) fn accept_addresses(
        &mut self,
        ctx: &mut Ctx<'_>,
        told: &Attributes<'_>,
    ) -> (Vec<u8>, Result<(), String>) {
        let waits = self.connection.ikev1.push
            && !self.connection.vips.is_empty()
            && self.transactions.is_user_proved
            && !self.transactions.is_configured;
        if !waits {
            return (Vec::new(), Ok(()));
        }
        let taken = self.take_addresses(ctx, told);
        let mut rest = Vec::new();
        if taken.is_ok() {
            for attribute in &told.all {
                push_octets(&mut rest, attribute.kind, &[]);
            }
        }
        (rest, taken)
    }
}
