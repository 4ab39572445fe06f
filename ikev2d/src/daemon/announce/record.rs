// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An IKE SA as it was last seen, kept small: to be shown when the core has it no more.

use std::net::IpAddr;
use std::time::Instant;

use ikev2d_proto::config::Identity;
use ikev2d_proto::endpoint::IkeSaInfo;
use ikev2d_proto::event::{IkeId, Path};
use ikev2d_proto::proposal::IkeSuite;
use ikev2d_proto::wire::configuration::Attribute;

use crate::vici::lists;
use crate::vici::message::Section;

/// What is shown of an IKE SA.
pub(super) struct IkeRecord {
    id: IkeId,
    version: u8,
    connection: Box<str>,
    state: &'static str,
    initiator: bool,
    spis: (u64, u64),
    path: Path,
    local_id: Identity,
    remote_id: Identity,
    suite: Option<IkeSuite>,
    weak_auth: Option<&'static str>,
    nat: (bool, bool),
    ppk: bool,
    /// Addresses that one side has given the other, where there are any.
    given: Option<Box<Given>>,
    established: Option<Instant>,
    rekey_at: Option<Instant>,
}

struct Given {
    local: Vec<IpAddr>,
    attributes: Vec<Attribute>,
    remote: Vec<IpAddr>,
}

impl IkeRecord {
    pub(super) fn of(sa: &IkeSaInfo<'_>) -> Self {
        let given = !sa.local_vips.is_empty() || !sa.remote_vips.is_empty();
        let given = given.then(|| {
            Box::new(Given {
                local: sa.local_vips.to_vec(),
                attributes: sa.attributes.to_vec(),
                remote: sa.remote_vips.to_vec(),
            })
        });
        Self {
            id: sa.id,
            version: sa.version,
            connection: sa.connection.into(),
            state: sa.state,
            initiator: sa.initiator,
            spis: (sa.spi_i, sa.spi_r),
            path: sa.path,
            local_id: sa.local_id.clone(),
            remote_id: sa.remote_id.clone(),
            suite: sa.suite,
            weak_auth: sa.weak_auth,
            nat: (sa.nat_local, sa.nat_remote),
            ppk: sa.ppk,
            given,
            established: sa.established,
            rekey_at: sa.rekey_at,
        }
    }

    pub(super) fn connection(&self) -> &str {
        &self.connection
    }

    /// Its algorithms of another time.
    pub(super) fn weak(&self) -> Vec<&'static str> {
        self.info().weak()
    }

    /// Its name, and what is listed under it.
    pub(super) fn list(&self, now: Instant) -> (String, Section) {
        (self.connection.to_string(), lists::ike(&self.info(), now))
    }

    fn info(&self) -> IkeSaInfo<'_> {
        let given = self.given.as_deref();
        IkeSaInfo {
            id: self.id,
            version: self.version,
            connection: &self.connection,
            state: self.state,
            initiator: self.initiator,
            spi_i: self.spis.0,
            spi_r: self.spis.1,
            path: self.path,
            local_id: &self.local_id,
            remote_id: &self.remote_id,
            suite: self.suite,
            weak_auth: self.weak_auth,
            nat_local: self.nat.0,
            nat_remote: self.nat.1,
            local_vips: given.map_or(&[], |given| &given.local),
            attributes: given.map_or(&[], |given| &given.attributes),
            remote_vips: given.map_or(&[], |given| &given.remote),
            ppk: self.ppk,
            mobike: false,
            moves: false,
            established: self.established,
            rekey_at: self.rekey_at,
            expire_at: None,
            local_addrs: &[],
            children: Vec::new(),
        }
    }
}
