// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which packets without a policy are worth asking for an SA: a flood of them must not drown IKE.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::interfaces::InterfaceId;

/// How long a pair of addresses is not asked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// Pairs that are asked for within a pause, at most.
const PAIRS: usize = 32;

/// Remembers what was asked for lately.
#[derive(Debug, Default)]
pub(super) struct AcquireGate {
    asked: Vec<(InterfaceId, IpAddr, IpAddr, Instant)>,
}

impl AcquireGate {
    /// Whether to ask now.
    pub(super) fn passes(
        &mut self,
        from: InterfaceId,
        source: IpAddr,
        destination: IpAddr,
        now: Instant,
    ) -> bool {
        let fresh = |at: Instant| now.saturating_duration_since(at) < PAUSE;
        self.asked.retain(|(.., at)| fresh(*at));
        let known = self
            .asked
            .iter()
            .any(|(interface, s, d, _)| (*interface, *s, *d) == (from, source, destination));
        if known || self.asked.len() == PAIRS {
            return false;
        }
        self.asked.push((from, source, destination, now));
        true
    }

    /// It was not heard: ask again with the next packet.
    pub(super) fn forget_last(&mut self) {
        self.asked.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_asked_for_once_a_pause() {
        let (mut gate, now) = (AcquireGate::default(), Instant::now());
        let [a, b] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        assert!(gate.passes(InterfaceId::MAIN, a, b, now));
        assert!(!gate.passes(InterfaceId::MAIN, a, b, now + PAUSE / 2));
        assert!(gate.passes(InterfaceId::MAIN, b, a, now + PAUSE / 2));
        assert!(gate.passes(InterfaceId::MAIN, a, b, now + PAUSE));
    }

    #[test]
    fn a_scan_of_addresses_asks_no_more_than_so_often() {
        let (mut gate, now) = (AcquireGate::default(), Instant::now());
        let source = IpAddr::from([10, 0, 0, 1]);
        let to = |n: u32| IpAddr::from(n.to_be_bytes());
        let asked = (0..10_000).filter(|n| gate.passes(InterfaceId::MAIN, source, to(*n), now));
        assert_eq!(asked.count(), PAIRS);
    }

    #[test]
    fn what_was_not_heard_is_asked_again() {
        let (mut gate, now) = (AcquireGate::default(), Instant::now());
        let [a, b] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        assert!(gate.passes(InterfaceId::MAIN, a, b, now));
        gate.forget_last();
        assert!(gate.passes(InterfaceId::MAIN, a, b, now));
    }
}
