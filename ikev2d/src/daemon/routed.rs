// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Routes of the traffic that child SAs carry, as long as they do.

use std::net::IpAddr;

use ikev2d_proto::event::{ChildId, IkeId};

use super::Daemon;
use crate::dataplane::InterfaceId;
use crate::routes::Traffic;

impl Daemon {
    /// Routes the traffic of an IKE SA's children anew, for a peer that is there by now, or will be.
    pub(super) fn route_again(&mut self, ike: IkeId, peer: IpAddr) {
        let of_ike = self.endpoint.ike_sa(ike);
        let children = of_ike.iter().flat_map(|sa| &sa.children);
        let children = children.map(|child| child.sa.id);
        let routed: Vec<ChildId> = children
            .filter(|child| self.routed.contains_key(child))
            .collect();
        for child in routed {
            self.route(child, Some(peer));
        }
    }

    /// Routes a child SA's traffic.
    pub(super) fn route(&mut self, child: ChildId, peer: Option<IpAddr>) {
        let Some(sa) = self.installer.child(child) else {
            return;
        };
        // Where its own interface leads is the host's to say.
        if self.installer.interface(child) != InterfaceId::MAIN {
            return;
        }
        let mut peers = vec![sa.path.remote.ip()];
        peers.extend(peer);
        // Of its connection's routes none may take what another's is led past.
        peers.extend(self.traps.peers(&sa.connection));
        let held = self.routes.hold(&Traffic {
            local: &sa.ts_local,
            remote: &sa.ts_remote,
            peers: &peers,
            transport: sa.transport,
            standing: false,
        });
        if let Some(before) = self.routed.insert(child, held) {
            self.routes.release(before);
        }
    }
}
