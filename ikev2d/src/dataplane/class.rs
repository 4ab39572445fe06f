// SPDX-License-Identifier: Apache-2.0 OR MIT
//! DSCP and ECN of inner and outer headers (RFC 4301 §5.1.2.1, RFC 6040).

use std::sync::atomic::Ordering::Relaxed;

use offload_api::wire::ip::Facts;
use serde::Deserialize;

use super::worker::Worker;

/// The two bits of ECN; the rest of the class is DSCP (RFC 3168 §5).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// Between which headers DSCP is copied. ECN always is, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyDscp {
    /// From inner to outer ones.
    #[default]
    Out,
    /// From outer to inner ones.
    In,
    /// Both.
    #[serde(alias = "both")]
    Yes,
    /// Neither: outer ones are sent with zero.
    No,
}

impl CopyDscp {
    /// The outer header's class, of an inner packet's: ECN as in RFC 6040 §4.1, normal mode.
    #[inline]
    pub(super) fn outer(self, inner: u8) -> u8 {
        match self {
            Self::Out | Self::Yes => inner,
            Self::In | Self::No => inner & ECN,
        }
    }

    /// The inner packet's class, where it came with this one outside (RFC 6040 §4.2); nothing for one that
    /// must be dropped: its senders know nothing of ECN, so no mark can tell them of congestion.
    #[inline]
    pub(super) fn inner(self, inner: u8, outer: u8) -> Option<u8> {
        let ecn = match (inner & ECN, outer & ECN) {
            (NOT_ECT, CE) => return None,
            (ECT_0 | ECT_1, CE) => CE,
            (ECT_0, ECT_1) => ECT_1,
            (own, _) => own,
        };
        let dscp = match self {
            Self::In | Self::Yes => outer,
            Self::Out | Self::No => inner,
        };
        Some(dscp & !ECN | ecn)
    }
}

impl Worker {
    /// Brings into an opened packet what its outer header's class tells; false for one that is dropped.
    pub(super) fn take_class(&self, packet: &mut [u8], facts: &Facts, outer: u8) -> bool {
        let Some(class) = self.shared.copy_dscp.inner(facts.traffic_class, outer) else {
            self.shared.counters.ecn_dropped.fetch_add(1, Relaxed);
            return false;
        };
        if class != facts.traffic_class {
            set(packet, class);
        }
        true
    }
}

/// Gives an IP packet this class. IPv4's checksum follows (RFC 1624).
fn set(packet: &mut [u8], class: u8) {
    match packet {
        [version, own, ..] if *version >> 4 == 4 => {
            let before = std::mem::replace(own, class);
            if let Some([high, low]) = packet.get_mut(10..12) {
                let sum = u32::from(!u16::from_be_bytes([*high, *low]))
                    + u32::from(!u16::from(before))
                    + u32::from(class);
                let sum = (sum & 0xffff) + (sum >> 16);
                let sum = (sum & 0xffff) + (sum >> 16);
                [*high, *low] = (!(sum as u16)).to_be_bytes();
            }
        }
        [first, second, ..] => {
            *first = *first & 0xf0 | class >> 4;
            *second = *second & 0x0f | class << 4;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tun_rs::checksum;

    use super::*;

    /// RFC 6040 figure 4, row by row: Not-ECT, ECT(0), ECT(1), CE inside; the same outside.
    #[test]
    fn ecn_leaves_a_tunnel_by_the_table() {
        let all = [NOT_ECT, ECT_0, ECT_1, CE];
        let table = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE); 4],
        ];
        for (inner, row) in all.into_iter().zip(table) {
            for (outer, expected) in all.into_iter().zip(row) {
                let dscp = 46 << 2;
                for (setting, kept) in [
                    (CopyDscp::Out, dscp),
                    (CopyDscp::No, dscp),
                    (CopyDscp::In, 10 << 2),
                    (CopyDscp::Yes, 10 << 2),
                ] {
                    let got = setting.inner(dscp | inner, 10 << 2 | outer);
                    assert_eq!(got, expected.map(|ecn| kept | ecn), "{inner} {outer}");
                }
            }
        }
    }

    #[test]
    fn ecn_always_enters_a_tunnel_and_dscp_where_it_is_asked_for() {
        for ecn in 0..4 {
            let inner = 46 << 2 | ecn;
            assert_eq!(CopyDscp::Out.outer(inner), inner);
            assert_eq!(CopyDscp::Yes.outer(inner), inner);
            assert_eq!(CopyDscp::In.outer(inner), ecn);
            assert_eq!(CopyDscp::No.outer(inner), ecn);
        }
    }

    proptest! {
        #[test]
        fn a_class_is_all_that_changes(class: u8, before: u8, id: u16, v6: bool) {
            let mut packet = if v6 {
                let mut packet = [7; 40];
                (packet[0], packet[1]) = (0x60 | before >> 4, before << 4 | 9);
                packet[4..6].fill(0);
                packet.to_vec()
            } else {
                let mut packet = vec![0x45, before, 0, 20, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
                packet[4..6].copy_from_slice(&id.to_be_bytes());
                let sum = !checksum(&packet, 0);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                packet
            };
            let facts = Facts::of(&packet).unwrap();
            prop_assert_eq!(facts.traffic_class, before);
            let label = packet[1] & 0x0f;
            set(&mut packet, class);
            let after = Facts { traffic_class: class, ..facts };
            prop_assert_eq!(Facts::of(&packet).unwrap(), after);
            if v6 {
                prop_assert_eq!(packet[1] & 0x0f, label);
            } else {
                prop_assert_eq!(checksum(&packet, 0), 0xffff);
            }
        }
    }
}
