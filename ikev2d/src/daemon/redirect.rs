// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `redirect`: established peers are told to go to another gateway (RFC 5685 §5).

use std::net::IpAddr;
use std::time::Instant;

use ikev2d_crypto::name;
use ikev2d_proto::endpoint::IkeSaInfo;
use ikev2d_proto::event::IkeId;

use super::Daemon;
use super::control::respond;
use crate::vici::message::Section;
use crate::vici::server::Reply;

impl Daemon {
    /// Tells those that a message names, as `swanctl --redirect` does.
    pub(super) fn control_redirect(&mut self, message: &Section) -> Reply {
        let gateway = message.text("gateway").unwrap_or_default();
        let Ok(gateway) = gateway.parse::<IpAddr>() else {
            return respond(Err(format!("gateway {gateway:?}: expected an IP address")));
        };
        let named = ["ike", "ike-id", "peer-ip", "peer-id"];
        if !named.iter().any(|key| message.text(key).is_some()) {
            return respond(Err(format!("none of {} is given", named.join(", "))));
        }
        let wanted = self.endpoint.ike_sas().filter(|sa| is_meant(message, sa));
        let wanted: Vec<IkeId> = wanted.map(|sa| sa.id).collect();
        let now = Instant::now();
        let told = |ike: &&IkeId| self.endpoint.redirect(now, **ike, gateway) == Ok(true);
        let matches = wanted.iter().filter(told).count();
        if matches == 0 {
            let found = wanted.len();
            let why = format!("{found} IKE SAs match, and none has a peer that can be redirected");
            return respond(Err(why));
        }
        let mut response = Section::default();
        response.put("success", "yes");
        response.put("matches", matches);
        Reply::Response {
            events: Vec::new(),
            response,
        }
    }
}

/// Whether an IKE SA fits all that is said.
fn is_meant(message: &Section, sa: &IkeSaInfo<'_>) -> bool {
    let is = |key, fits: &dyn Fn(&str) -> bool| message.text(key).is_none_or(fits);
    is("ike", &|name| sa.connection == name)
        && is("ike-id", &|id| id.parse() == Ok(sa.id.0))
        && is("peer-ip", &|ip| ip.parse() == Ok(sa.path.remote.ip()))
        && is("peer-id", &|id| name::identity(id).matches(sa.remote_id))
}
