// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon as a member of a cluster: it writes down what another member needs to go on, and goes on with
//! what another one has left (RFC 6311).

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::endpoint::IkeSaInfo;
use ikev2d_proto::event::{Event, IkeId};

use super::Daemon;
use crate::cluster::Shared;

/// IKE SAs that are written down by one look, so that the core goes on in between.
const AT_ONCE: usize = 64;

/// A member that is active.
pub(super) struct Member {
    shared: Shared,
    crypto: OpensslCrypto,
    /// What is written down, by the SPI that we are known by.
    written: HashMap<IkeId, u64>,
    /// What has changed since.
    changed: HashSet<IkeId>,
}

fn own_spi(sa: &IkeSaInfo<'_>) -> u64 {
    match sa.initiator {
        true => sa.spi_i,
        false => sa.spi_r,
    }
}

impl Member {
    pub(super) fn new(shared: Shared, crypto: OpensslCrypto) -> Self {
        Self {
            shared,
            crypto,
            written: HashMap::new(),
            changed: HashSet::new(),
        }
    }
}

impl Daemon {
    /// Goes on with what another member has left.
    pub(super) fn take_up_shared(&mut self) -> anyhow::Result<()> {
        let Some(member) = &mut self.member else {
            return Ok(());
        };
        let left = member.shared.left(&member.crypto)?;
        if left.is_empty() {
            return Ok(());
        }
        let claim = member.shared.claim()?;
        let now = Instant::now();
        let mut taken = 0;
        for left in &left {
            let (spi, what) = (format!("{:016x}", left.spi), (&left.state[..], left.ago));
            match self.endpoint.take_up(now, claim, what) {
                Ok(ike) => {
                    taken += 1;
                    member.written.insert(ike, left.spi);
                }
                Err(error) => tracing::warn!(spi, %error, "an IKE SA can't be taken up"),
            }
        }
        tracing::info!(
            taken,
            of = left.len(),
            "IKE SAs of another member are taken up"
        );
        Ok(())
    }

    /// What an event changes of what another member needs.
    pub(super) fn note_for_members(&mut self, event: &Event) {
        let Some(member) = &mut self.member else {
            return;
        };
        let of_child = |child| self.endpoint.ike_sa_of(child).map(|sa| sa.id);
        match event {
            Event::IkeUp { ike }
            | Event::IkeDown { ike, .. }
            | Event::ChildUp { ike, .. }
            | Event::Configured { ike, .. }
            | Event::PathChanged { ike, .. } => {
                member.changed.insert(*ike);
            }
            Event::IkeRekeyed { old, new } => member.changed.extend([*old, *new]),
            Event::ChildRekeyed { new, .. } => member.changed.extend(of_child(*new)),
            Event::ChildDown { child, .. } => member.changed.extend(self.listed.ike_of(*child)),
            _ => {}
        }
    }

    /// Writes down what has changed.
    pub(super) fn tell_members(&mut self, now: Instant) {
        let Some(member) = &mut self.member else {
            return;
        };
        let some: Vec<IkeId> = member.changed.iter().copied().take(AT_ONCE).collect();
        for ike in some {
            member.changed.remove(&ike);
            let state = self.endpoint.share(now, ike);
            let spi = self.endpoint.ike_sa(ike).map(|sa| own_spi(&sa));
            let done = match (state, spi) {
                (Some(state), Some(spi)) => {
                    member.written.insert(ike, spi);
                    member.shared.write(&member.crypto, spi, &state)
                }
                _ => match member.written.remove(&ike) {
                    Some(spi) => member.shared.remove(spi).map_err(anyhow::Error::from),
                    None => Ok(()),
                },
            };
            if let Err(error) = done {
                tracing::error!(ike = ike.0, %error, "other members can't be told of an IKE SA");
            }
        }
    }

    /// At the end: what is there stays for another member, or for this one when it is there again. Whether
    /// there is one to leave it to.
    pub(super) fn leave_to_members(&mut self) -> bool {
        let left = |daemon: &Self| daemon.member.as_ref().map_or(0, |m| m.changed.len());
        while left(self) != 0 {
            self.tell_members(Instant::now());
        }
        self.member.is_some()
    }
}
