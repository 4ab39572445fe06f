// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An independent codec at our wire: scapy builds an initiator's messages and reads what we say, field by field,
//! with keys of its own making (`tests/scapy/ikev1.py`); where it is installed.
#![allow(clippy::unwrap_used)]

mod peers;
#[path = "../../../tests/scapy/talk.rs"]
mod talk;

use std::net::SocketAddr;
use std::time::Duration;

use ikev2d_proto::event::Path;
use peers::Pair;
use talk::talk;

/// Gives the responder what comes; its answer.
fn answer(pair: &mut Pair, datagram: &[u8]) -> Option<Vec<u8>> {
    let [initiator, responder] = [0, 1].map(|side| {
        let address = pair.sides[side].address.parse().unwrap();
        SocketAddr::new(address, 500)
    });
    let path = Path::new(responder, initiator);
    let before = pair.recorded.len();
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.handle_datagram(pair.now, path, datagram);
    pair.flush();
    pair.recorded
        .get(before)
        .map(|(_, message)| message.clone())
}

/// S5, S8, S37 to S40, S49, S59b: main mode, quick mode and a deletion; first what our initiator says.
#[test]
fn scapy_speaks_ikev1_with_us() {
    let mut ours = Pair::plain();
    let endpoint = &mut ours.sides[0].endpoint;
    endpoint
        .initiate(ours.now, "gw", Some("net"), None)
        .unwrap();
    ours.flush();
    let mut pair = Pair::plain();
    let there = talk(
        "ikev1.py",
        &ours.recorded[0].1,
        &mut pair,
        answer,
        |pair, told| {
            let side = &pair.sides[1];
            for (installed, (spi, keys)) in [
                (&side.inbound, &told.inbound),
                (&side.outbound, &told.outbound),
            ] {
                assert_eq!(hex::encode(&installed[spi].1), *keys);
            }
        },
    );
    if there {
        pair.run(Duration::from_secs(1));
        let side = &pair.sides[1];
        assert!(side.inbound.is_empty() && side.outbound.is_empty());
    }
}
