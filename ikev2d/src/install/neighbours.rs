// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Hosts behind one NAT whose packets in transport mode could not be told apart (RFC 3948 §5.2).

use ikev2d_proto::event::ChildSa;
use ikev2d_proto::ts;

/// Whether an SA's peer has said that it is behind a NAT, where transport mode may be ambiguous.
pub(super) fn could_have_neighbours(sa: &ChildSa) -> bool {
    sa.transport && sa.told().original.is_some()
}

/// Whether another peer behind the same NAT has transport mode for traffic that a new one's might be.
pub(super) fn is_neighbour(sa: &ChildSa, new: &ChildSa) -> bool {
    let meets = |a: &[ts::TrafficSelector], b: &[ts::TrafficSelector]| {
        a.iter().any(|a| b.iter().any(|b| a.intersect(b).is_some()))
    };
    let (one, other) = (sa.path.remote, new.path.remote);
    sa.transport
        && could_have_neighbours(new)
        && one.ip() == other.ip()
        && one.port() != other.port()
        && meets(&sa.ts_local, &new.ts_local)
        && meets(&sa.ts_remote, &new.ts_remote)
}

#[cfg(test)]
mod tests {
    use ikev2d_proto::algorithm::Encryption;
    use ikev2d_proto::event::{ChildId, Path};
    use ikev2d_proto::proposal::EspSuite;

    use super::*;

    /// RFC 3948 §5.2: the second of two hosts behind a NAT gets no transport mode for the same traffic; a new
    /// child SA of the first one does, and so does other traffic.
    #[test]
    fn hosts_behind_a_nat_that_could_not_be_told_apart_are_neighbours() {
        let child = |port: u16, service: u16| {
            let selector = |host: &str| ts::TrafficSelector {
                protocol: 6,
                start_port: service,
                end_port: service,
                ..ts::TrafficSelector::host(host.parse().unwrap())
            };
            ChildSa {
                id: ChildId(1),
                connection: "gw".into(),
                child: "net".into(),
                spi_in: 0x1000,
                spi_out: 0x1001,
                path: Path::new(
                    "192.0.2.1:4500".parse().unwrap(),
                    std::net::SocketAddr::new("198.51.100.7".parse().unwrap(), port),
                ),
                udp_encap: true,
                transport: true,
                suite: EspSuite {
                    ah: false,
                    encryption: Encryption::AesGcm16(128),
                    integrity: None,
                    group: None,
                    esn: false,
                    additional: Default::default(),
                },
                ts_local: Box::new([selector("192.0.2.1")]),
                ts_remote: Box::new([selector("198.51.100.7")]),
                replaces: None,
                resource: None,
                told: Some(Box::new(ikev2d_proto::event::Told {
                    original: Some(("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap())),
                    ..Default::default()
                })),
            }
        };
        let first = child(20_000, 22);
        assert!(is_neighbour(&first, &child(20_001, 22)));
        assert!(!is_neighbour(&first, &child(20_000, 22)));
        assert!(!is_neighbour(&first, &child(20_001, 80)));
        let tunnel = ChildSa {
            transport: false,
            ..child(20_001, 22)
        };
        assert!(!is_neighbour(&first, &tunnel) && !is_neighbour(&tunnel, &first));
        // Nobody looks for neighbours of a tunnel, nor of a peer that is behind no NAT.
        let mut direct = first.clone();
        direct.told = None;
        assert!(could_have_neighbours(&first));
        assert!(!could_have_neighbours(&tunnel) && !could_have_neighbours(&direct));
    }
}
