// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who takes packets on, on the wire: learnt from the frames that the host sends by the exception
//! port. IKE goes to the same outer address as ESP, so the host has always shown the way before the
//! first ESP packet needs it, and shows it anew with every liveness check.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Addresses that are known beside those of SAs, at most.
const MOST: usize = 4096;

/// MAC addresses by IP destination.
#[derive(Debug)]
pub(crate) struct Neighbours {
    known: HashMap<IpAddr, [u8; 6]>,
    /// When to forget.
    limit: usize,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            limit: MOST,
        }
    }
}

impl Neighbours {
    /// The host has sent a packet for `destination` to this MAC address. When there are too many, those
    /// alone are kept that SAs lead to, `peers`: a host that talks to the world must not stop them.
    pub(super) fn learn(
        &mut self,
        destination: IpAddr,
        mac: [u8; 6],
        peers: impl FnOnce() -> HashSet<IpAddr>,
    ) {
        // Broadcast and multicast say nothing of the way to one host.
        if mac[0] & 1 != 0 {
            return;
        }
        if self.known.len() >= self.limit && !self.known.contains_key(&destination) {
            let peers = peers();
            self.known.retain(|address, _| peers.contains(address));
            self.limit = self.known.len() + MOST;
        }
        self.known.insert(destination, mac);
    }

    pub(crate) fn find(&self, destination: IpAddr) -> Option<[u8; 6]> {
        self.known.get(&destination).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_the_table_is_bounded_without_losing_the_peers_of_sas() {
        let mut neighbours = Neighbours::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        let peers = || HashSet::from([address, IpAddr::from([192, 0, 2, 9])]);
        neighbours.learn(address, [0xff; 6], peers);
        assert_eq!(neighbours.find(address), None);
        neighbours.learn(address, [2, 0, 0, 0, 0, 1], peers);
        neighbours.learn(address, [2, 0, 0, 0, 0, 2], peers);
        for n in 0..3 * MOST as u32 {
            neighbours.learn(IpAddr::from(n.to_be_bytes()), [2; 6], peers);
            assert!(neighbours.known.len() <= MOST + 2);
        }
        assert_eq!(neighbours.find(address), Some([2, 0, 0, 0, 0, 2]));
    }
}
