// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks whether this host has come to another address, and takes IKE SAs along (RFC 4555).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::config::AddressPattern;
use ikev2d_proto::endpoint::IkeSaInfo;
use ikev2d_proto::event::IkeId;

use super::Daemon;
use crate::net;

/// Between looks.
const EVERY: Duration = Duration::from_secs(1);

/// When to look next.
#[derive(Default)]
pub(super) struct Mobility {
    due: Option<Instant>,
    /// The peers of IKE SAs at the last look, and what the routes had packets to them leave from.
    routed: HashMap<IkeId, (IpAddr, IpAddr)>,
}

impl Daemon {
    /// Moves the IKE SAs whose packets would leave from elsewhere by now.
    pub(super) fn look_for_moves(&mut self, now: Instant) {
        if self.mobility.due.is_some_and(|due| now < due) {
            return;
        }
        self.mobility.due = Some(now + EVERY);
        let movable = |sa: &IkeSaInfo<'_>| sa.moves && sa.state == "ESTABLISHED";
        if !self.endpoint.connections().iter().any(|c| c.mobike)
            && !self.endpoint.ike_sas().any(|sa| movable(&sa))
        {
            return;
        }
        let here = net::own_addresses();
        self.endpoint.set_addresses(now, here.clone());
        let last = std::mem::take(&mut self.mobility.routed);
        let routed = &mut self.mobility.routed;
        let sas = self.endpoint.ike_sas().filter(movable);
        let moved = sas.filter_map(|sa| {
            let last = last.get(&sa.id).copied();
            routed.extend(last.map(|last| (sa.id, last)));
            let (now_at, remote) = (sa.path.local.ip(), sa.path.remote);
            // Unless it can't be told.
            let is_here = here.is_empty() || here.contains(&now_at);
            // It tries those of this host's addresses itself that are configured; without, the routes tell.
            let mut own = sa.local_addrs.iter();
            let named = own.any(|pattern| !matches!(pattern, AddressPattern::Any));
            if sa.searching && is_here && named {
                return None;
            }
            let source = net::source_towards(remote)?;
            routed.insert(sa.id, (remote.ip(), source));
            let same = last.is_none_or(|last| match last.0 == remote.ip() {
                true => last.1 == source,
                false => named,
            });
            let source = choose(now_at, source, is_here && same, sa.local_addrs, &here)?;
            (source != now_at).then_some((sa.id, source))
        });
        let moved: Vec<(IkeId, IpAddr)> = moved.collect();
        for (ike, source) in moved {
            tracing::info!(ike = ike.0, from = %source, "moves along with this host's address");
            let _ = self.endpoint.move_to(now, ike, source);
        }
    }
}

/// Where to send from: as the routes say if they say something else than before, or if the address in use
/// is gone, but never from an address that the configuration does not allow. Nothing if there is none.
fn choose(
    now_at: IpAddr,
    routed: IpAddr,
    stays: bool,
    allowed: &[AddressPattern],
    here: &[IpAddr],
) -> Option<IpAddr> {
    let permits =
        |address: IpAddr| allowed.is_empty() || allowed.iter().any(|a| a.matches(address));
    if stays && permits(now_at) {
        return Some(now_at);
    }
    if permits(routed) {
        return Some(routed);
    }
    let of_family = |address: &&IpAddr| address.is_ipv4() == routed.is_ipv4() && permits(**address);
    let mut candidates = here.iter().filter(of_family);
    if here.contains(&now_at) && permits(now_at) {
        return Some(now_at);
    }
    candidates.next().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_left_for_one_that_is_not_configured() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (a, b, c) = (ip("192.0.2.1"), ip("198.51.100.1"), ip("203.0.113.1"));
        let only = |address: IpAddr| vec![AddressPattern::Prefix(address, 32)];
        // As the routes say where all is allowed.
        assert_eq!(choose(a, b, false, &[], &[a, b]), Some(b));
        // Another route is no reason to leave the configured address.
        assert_eq!(choose(a, b, false, &only(a), &[a, b]), Some(a));
        // One that is gone has no successor but a configured one.
        assert_eq!(choose(a, b, false, &only(a), &[b]), None);
        let two = [only(a), only(c)].concat();
        assert_eq!(choose(a, b, false, &two, &[b, c]), Some(c));
        assert_eq!(choose(a, c, false, &two, &[a, c]), Some(c));
        // Where the peer was found is left for no route that was there before.
        assert_eq!(choose(a, c, true, &two, &[a, c]), Some(a));
        assert_eq!(choose(a, c, true, &[], &[a, c]), Some(a));
        assert_eq!(choose(a, c, true, &only(c), &[a, c]), Some(c));
    }
}
