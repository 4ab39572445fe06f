// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who takes packets on, on the wire: learnt from the frames that the host sends by the exception
//! port. IKE goes to the same outer address as ESP, so the host has always shown the way before the
//! first ESP packet needs it, and shows it anew with every liveness check.

use std::collections::HashMap;
use std::net::IpAddr;

/// Addresses that are known, at most.
const MOST: usize = 4096;

/// MAC addresses by IP destination.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: HashMap<IpAddr, [u8; 6]>,
}

impl Neighbours {
    /// The host has sent a packet for `destination` to this MAC address.
    pub(super) fn learn(&mut self, destination: IpAddr, mac: [u8; 6]) {
        // Broadcast and multicast say nothing of the way to one host.
        if mac[0] & 1 != 0 {
            return;
        }
        if self.known.len() >= MOST && !self.known.contains_key(&destination) {
            self.known.clear();
        }
        self.known.insert(destination, mac);
    }

    pub(super) fn find(&self, destination: IpAddr) -> Option<[u8; 6]> {
        self.known.get(&destination).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_the_table_is_bounded() {
        let mut neighbours = Neighbours::default();
        let address = IpAddr::from([192, 0, 2, 1]);
        neighbours.learn(address, [0xff; 6]);
        assert_eq!(neighbours.find(address), None);
        neighbours.learn(address, [2, 0, 0, 0, 0, 1]);
        neighbours.learn(address, [2, 0, 0, 0, 0, 2]);
        assert_eq!(neighbours.find(address), Some([2, 0, 0, 0, 0, 2]));
        for n in 0..3 * MOST as u32 {
            neighbours.learn(IpAddr::from(n.to_be_bytes()), [2; 6]);
        }
        assert!(neighbours.known.len() <= MOST);
    }
}
