// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Looks whether this host has come to another address, and takes IKE SAs along (RFC 4555).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::config::AddressPattern;
use ikev2d_proto::event::IkeId;

use super::Daemon;
use crate::net;

/// Between looks.
const EVERY: Duration = Duration::from_secs(1);

/// When to look next.
#[derive(Default)]
pub(super) struct Mobility {
    due: Option<Instant>,
}

impl Daemon {
    /// Moves the IKE SAs whose packets would leave from elsewhere by now.
    pub(super) fn look_for_moves(&mut self, now: Instant) {
        if self.mobility.due.is_some_and(|due| now < due) {
            return;
        }
        self.mobility.due = Some(now + EVERY);
        if self.endpoint.connections().iter().any(|c| c.mobike) {
            self.endpoint.set_addresses(now, net::own_addresses());
        }
        let moved: Vec<(IkeId, IpAddr)> = self
            .endpoint
            .ike_sas()
            .filter(|sa| sa.moves && sa.state == "ESTABLISHED")
            .filter_map(|sa| {
                let (now_at, own) = (sa.path.local.ip(), sa.local_addrs);
                let source = net::source_towards(sa.path.remote)?;
                let source = choose(now_at, source, own, net::own_addresses)?;
                (source != now_at).then_some((sa.id, source))
            })
            .collect();
        for (ike, source) in moved {
            tracing::info!(ike = ike.0, from = %source, "moves along with this host's address");
            let _ = self.endpoint.move_to(now, ike, source);
        }
    }
}

/// Where to send from: as the routes say, but never from an address that the configuration does not
/// allow. Nothing if there is none.
fn choose(
    now_at: IpAddr,
    routed: IpAddr,
    allowed: &[AddressPattern],
    here: impl FnOnce() -> Vec<IpAddr>,
) -> Option<IpAddr> {
    let permits =
        |address: IpAddr| allowed.is_empty() || allowed.iter().any(|a| a.matches(address));
    if permits(routed) {
        return Some(routed);
    }
    let here = here();
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
        assert_eq!(choose(a, b, &[], || vec![a, b]), Some(b));
        // Another route is no reason to leave the configured address.
        assert_eq!(choose(a, b, &only(a), || vec![a, b]), Some(a));
        // One that is gone has no successor but a configured one.
        assert_eq!(choose(a, b, &only(a), || vec![b]), None);
        let two = [only(a), only(c)].concat();
        assert_eq!(choose(a, b, &two, || vec![b, c]), Some(c));
        assert_eq!(choose(a, c, &two, || vec![a, c]), Some(c));
    }
}
