// SPDX-License-Identifier: Apache-2.0 OR MIT
//! IKE SAs leave for another member of a cluster, and come from one (RFC 6311).

use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Endpoint, UnknownSa};
use crate::cluster::{Claim, SharedChild, SharedSa, TakeUpError};
use crate::event::{ChildId, ChildSa, Event, IkeId, Path};
use crate::ike_sa::{Child, Ctx, IkeSa, Phase, State};
use crate::keymat::IkeKeys;

impl Endpoint {
    /// An IKE SA as another member can take it up; nothing, if none can: its peer can't synchronise, it is
    /// by TCP, or it is not, or no longer, in use. The octets have its keys in the clear.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn share(&self, now: Instant, ike: IkeId) -> Result<Option<Zeroizing<Vec<u8>>>, UnknownSa> {
        let sa = self.sas.get(&ike).ok_or(UnknownSa)?;
        Ok(SharedSa::of(sa, now).map(|shared| shared.emit()))
    }

    /// Takes up what another member has [shared](Self::share) so long ago, and which that does not go on
    /// with: the peer is told before anything else, then makes new child SAs with us. [`Event::IkeUp`] says
    /// that it has answered.
    ///
    /// # Errors
    /// [`TakeUpError`].
    pub fn take_up(
        &mut self,
        now: Instant,
        claim: Claim,
        (state, ago): (&[u8], Duration),
    ) -> Result<IkeId, TakeUpError> {
        let shared = SharedSa::read(state, ago)?;
        let found = self.connections.iter().find(|connection| {
            connection.name == shared.connection
                && connection
                    .remote_id
                    .matches_by(&*self.crypto, &shared.remote_id)
        });
        let connection = found.cloned().ok_or(TakeUpError::UnknownConnection {
            name: shared.connection.clone(),
        })?;
        let own_spi = match shared.flags.initiator {
            true => shared.spis.0,
            false => shared.spis.1,
        };
        if self.sas.by_spi(own_spi).is_some() {
            return Err(TakeUpError::Present);
        }
        let key = (&shared.keys[..], shared.iv_base);
        let keys = IkeKeys::taken_up(&shared.suite, key, claim.0);
        let keys = keys.map_err(|_| TakeUpError::Malformed)?;
        self.with(now, |sas, ctx| {
            let path = Path::new(shared.path.0, shared.path.1);
            let flags = shared.flags;
            let mut sa = IkeSa::new(ctx, connection, flags.initiator, shared.spis, path);
            sa.keys = Some(keys);
            sa.take_up(ctx, &shared)?;
            let id = sa.id;
            sas.insert(sa);
            Ok(id)
        })
    }
}

impl IkeSa {
    /// It is as another member has left it, and the peer is told so.
    fn take_up(&mut self, ctx: &mut Ctx<'_>, shared: &SharedSa) -> Result<(), TakeUpError> {
        let (flags, now) = (shared.flags, ctx.now);
        self.remote_id = shared.remote_id.clone();
        self.assigned.peers = shared.peers.clone();
        let owner = self.remote_id.to_string();
        let free = self
            .assigned
            .take_up(ctx.pools, &self.connection.pools, &owner);
        if !free {
            self.give_back(ctx);
            return Err(TakeUpError::Addresses);
        }
        self.assigned.own = shared.own.clone();
        self.assigned.attributes = shared.attributes.clone();
        if !self.assigned.own.is_empty() {
            ctx.event(Event::Configured {
                ike: self.id,
                addresses: shared.own.clone(),
                attributes: shared.attributes.clone(),
            });
        }
        self.suite = Some(shared.suite);
        self.other_id = shared.other_id.clone().map(Box::new);
        self.moves = flags.moves;
        (self.nat_local, self.nat_remote, self.encap) =
            (flags.nat_local, flags.nat_remote, flags.encap);
        (self.fragmentation, self.ppk, self.mobike) =
            (flags.fragmentation, flags.ppk, flags.mobike);
        self.redirectable = flags.redirectable;
        (self.syncs_ids, self.syncs_counters) = (true, flags.syncs_counters);
        let at = |time: Option<Duration>| time.map(|time| now + time);
        let [rekey, expire, reauth, reauth_expire] = shared.times.map(at);
        (self.rekey_at, self.expire_at) = (rekey.map(Into::into), expire.map(Into::into));
        if reauth.is_some() || reauth_expire.is_some() || shared.rekeyings != 0 {
            self.reauth.rekeyings = shared.rekeyings;
            (self.reauth.at, self.reauth.expire_at) = (reauth, reauth_expire);
        }
        self.state = State::Established;
        self.established = Some(now.checked_sub(shared.age).unwrap_or(now).into());
        self.set_message_ids(shared.next_request, shared.expected_request);
        ctx.out.count_ike(self);
        for child in &shared.children {
            self.take_up_child(ctx, child);
        }
        self.log_keys(ctx);
        self.ask_to_synchronise(ctx);
        Ok(())
    }

    /// A child that nothing is sent or received through here: only a name for what the peer is to replace.
    fn take_up_child(&mut self, ctx: &mut Ctx<'_>, shared: &SharedChild) {
        let Some(spi) = ctx.out.numbers.spis.take_this(shared.spis.0) else {
            return;
        };
        let sa = Arc::new(ChildSa {
            id: ChildId(ctx.out.id()),
            connection: ctx.out.names.of(&self.connection.name),
            child: ctx.out.names.of(&shared.name),
            spi_in: shared.spis.0,
            spi_out: shared.spis.1,
            path: self.path,
            udp_encap: self.udp_encap(),
            transport: shared.transport,
            suite: shared.suite,
            ts_local: shared.ts_local.as_slice().into(),
            ts_remote: shared.ts_remote.as_slice().into(),
            replaces: None,
            resource: shared.resource,
            told: None,
        });
        self.adopt_child(
            ctx,
            Child {
                sa,
                installed: ctx.now.into(),
                rekey_at: None,
                phase: Phase::Installed,
                awaits_peer: false,
                taken_up: Some(0),
                expired: false,
                more_possible: false,
                part: shared.part,
                release_at: None,
                announced: false,
                forget_at: None,
                install: None,
                outbound: false,
                after: None,
                _spi: spi,
            },
        );
    }
}
