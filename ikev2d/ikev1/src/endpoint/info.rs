// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an endpoint tells of itself, in the same words as `ikev2d-proto`'s.

use ikev2d_proto::endpoint::{ChildInfo, IkeSaInfo, Stats};
use ikev2d_proto::event::IkeId;
use ikev2d_proto::notified::Notified;
use ikev2d_proto::proposal::IkeSuite;

use super::Endpoint;
use crate::isakmp::{Isakmp, Phase, State};
use crate::suite::integrity_of;

impl Endpoint {
    /// Every ISAKMP SA.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaInfo<'_>> {
        self.sas.values().map(info)
    }

    /// One of them, or one that has gone since [`poll_event`](Self::poll_event) last had nothing to tell.
    pub fn ike_sa_lately(&self, ike: IkeId) -> Option<IkeSaInfo<'_>> {
        let gone = self.out.gone.iter().find(|sa| sa.id == ike);
        self.sas.get(ike).or(gone).map(info)
    }

    /// Errors told and heard so far.
    pub fn notified(&self) -> &Notified {
        &self.out.notified
    }

    /// What was seen so far.
    pub fn stats(&self) -> Stats {
        let sas = self.sas.values();
        let connecting = sas.filter(|sa| sa.is_half_open());
        let sas = self.sas.values();
        Stats {
            half_open: connecting.count(),
            established: sas.filter(|sa| sa.established.is_some()).count(),
            children: self.sas.values().map(|sa| sa.children.len()).sum(),
            half_open_refused: self.stats.half_open_refused,
            cookies: 0,
            retransmits: self.out.retransmits,
            malformed: self.stats.malformed + self.out.malformed,
            unknown_spi: self.stats.unknown,
            fragment_octets: self.sas.values().map(|sa| sa.fragments.octets()).sum(),
            auth_failures: self.out.auth_failures,
            ..Stats::default()
        }
    }
}

fn info(sa: &Isakmp) -> IkeSaInfo<'_> {
    IkeSaInfo {
        id: sa.id,
        version: 1,
        connection: &sa.connection.name,
        state: match sa.state {
            State::Connecting | State::Transacting => "CONNECTING",
            State::Established => "ESTABLISHED",
            State::Replaced => "REKEYED",
            State::Dead => "DELETING",
        },
        initiator: sa.initiator,
        spi_i: sa.cky_i,
        spi_r: sa.cky_r,
        path: sa.path,
        local_id: &sa.local_id,
        remote_id: &sa.remote_id,
        suite: sa.keys.as_ref().map(|keys| IkeSuite {
            encryption: keys.suite.encryption,
            // IKEv1 authenticates messages by the PRF itself.
            integrity: Some(integrity_of(keys.suite.prf)),
            prf: keys.suite.prf,
            group: keys.suite.group,
            additional: Default::default(),
        }),
        weak_auth: sa.keys.as_ref().and_then(|keys| keys.suite.method.weak()),
        nat_local: sa.nat_local,
        nat_remote: sa.nat_remote,
        local_vips: &sa.assigned.own,
        attributes: &sa.assigned.attributes,
        remote_vips: &sa.assigned.peers,
        ppk: false,
        mobike: false,
        moves: false,
        searching: false,
        local_addrs: &sa.connection.local_addrs,
        established: sa.established,
        rekey_at: sa.rekey_at,
        expire_at: sa.expire_at,
        children: sa
            .children
            .iter()
            .map(|child| ChildInfo {
                sa: &child.sa,
                state: match (child.phase, child.install) {
                    (_, Some(_)) => "INSTALLING",
                    (Phase::Rekeying, None) => "REKEYING",
                    (Phase::Replaced, None) => "REKEYED",
                    (Phase::Installed, None) => "INSTALLED",
                },
                more_possible: false,
                installed: child.installed,
                rekey_at: child.rekey_at,
            })
            .collect(),
    }
}
