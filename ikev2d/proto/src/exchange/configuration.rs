// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a responder configures an initiator with (RFC 7296 §2.19, §3.15): addresses above all.

use std::net::IpAddr;

use crate::ike_sa::{Ctx, IkeSa, find};
use crate::ts::TrafficSelector;
use crate::wire::configuration::{self, Attribute, Kind};
use crate::wire::{Chain, Payload, notify, payload};

/// The configuration of a message, if it has one of this kind that can be read.
fn read(parts: &[Payload<'_>], kind: Kind) -> Option<Vec<Attribute>> {
    let (found, attributes) = configuration::parse(find(parts, payload::CP)?).ok()?;
    (found == kind).then_some(attributes)
}

impl IkeSa {
    /// Asks for the addresses of the policy, and for what goes with them.
    pub(crate) fn push_configuration_request(&self, chain: &mut Chain) {
        if self.connection.vips.is_empty() {
            return;
        }
        let attributes = self.assigned.request(&self.connection);
        chain.push(
            payload::CP,
            &configuration::emit(Kind::Request, &attributes),
        );
    }

    /// Takes in what the responder gives; an error if it does not give what was asked for.
    pub(crate) fn take_configuration(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
    ) -> Result<(), &'static str> {
        if self.connection.vips.is_empty() {
            return Ok(());
        }
        let attributes = read(parts, Kind::Reply).unwrap_or_default();
        let configured = self.assigned.take(&self.connection, self.id, attributes)?;
        ctx.event(configured);
        Ok(())
    }

    /// Gives an initiator the addresses that it asks for, out of the connection's pools, and tells it of us:
    /// the payload's body.
    pub(crate) fn answer_configuration(
        &mut self,
        ctx: &mut Ctx<'_>,
        parts: &[Payload<'_>],
    ) -> Result<Option<Vec<u8>>, u16> {
        let Some(asked) = read(parts, Kind::Request) else {
            return Ok(None);
        };
        let told = configuration::about_us(&asked, &ctx.config.application_version);
        if self.connection.pools.is_empty() {
            let reply = (!told.is_empty()).then(|| configuration::emit(Kind::Reply, &told));
            return Ok(reply);
        }
        let owner = self.remote_id.to_string();
        let mut reply = self
            .assigned
            .give(ctx.pools, &self.connection, &owner, &asked)
            .ok_or(notify::INTERNAL_ADDRESS_FAILURE)?;
        reply.extend(told);
        Ok(Some(configuration::emit(Kind::Reply, &reply)))
    }

    /// Answers a configuration in an INFORMATIONAL: what we are, our version too, and that nothing can be set.
    pub(crate) fn answer_configuring(
        &self,
        ctx: &Ctx<'_>,
        parts: &[Payload<'_>],
        chain: &mut Chain,
    ) {
        let Some(body) = find(parts, payload::CP) else {
            return;
        };
        match configuration::parse(body) {
            Ok((Kind::Request, asked)) => {
                let reply = configuration::about_us(&asked, &ctx.config.application_version);
                chain.push(payload::CP, &configuration::emit(Kind::Reply, &reply));
            }
            Ok((Kind::Set, _)) => {
                chain.push(payload::CP, &configuration::emit(Kind::Ack, &[]));
            }
            Ok((Kind::Reply | Kind::Ack, _)) | Err(_) => {}
        }
    }

    /// What stands for our side where a selector is dynamic.
    pub(crate) fn own_dynamic(&self) -> Vec<TrafficSelector> {
        if self.assigned.own.is_empty() && self.initiator && !self.connection.vips.is_empty() {
            // Whatever it will be (§2.19).
            let any = |vip: &IpAddr| TrafficSelector::prefix(*vip, 0);
            return self.connection.vips.iter().map(any).collect();
        }
        self.assigned.own_dynamic(self.path)
    }

    /// What stands for the peer's.
    pub(crate) fn peers_dynamic(&self) -> Vec<TrafficSelector> {
        self.assigned.peers_dynamic(self.path)
    }

    /// It is gone, and with it what it was configured with, which is still to be told of.
    pub(crate) fn give_back(&mut self, ctx: &mut Ctx<'_>) {
        if self.assigned.is_empty() {
            return;
        }
        let assigned = self.assigned.clone();
        if let Some(unconfigured) = self.assigned.give_back(ctx.pools) {
            ctx.event(unconfigured);
        }
        *self.assigned = assigned;
    }
}
