// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments of messages as Cisco and Microsoft have them, and bounds on what never becomes one.
#![allow(clippy::unwrap_used)]

mod peers;

use std::time::Duration;

use ikev1_proto::wire::payload;
use ikev2d_proto::config::*;
use ikev2d_proto::proposal::Proposal;

use peers::Pair;

/// Octets of an IP datagram in these tests, and of the message in it.
const SIZE: usize = 200;
const ROOM: usize = SIZE - 20 - 8 - 4;

fn small(connection: &mut Connection, config: &mut EndpointConfig) {
    config.fragment_size = Some(SIZE);
    // Public values of 256 octets, in both phases.
    connection.proposals = vec![Proposal::parse_ike("aes256-sha256-modp2048").unwrap()];
    connection.children[0].esp_proposals =
        vec![Proposal::parse_esp("aes128-sha256-modp2048").unwrap()];
}

fn is_fragment(message: &[u8]) -> bool {
    message[16] == payload::FRAGMENT
}

/// B46: once both have said that they can, no message is longer than IP takes whole.
#[test]
fn long_messages_go_in_fragments() {
    for aggressive in [false, true] {
        let mut pair = Pair::new(|_, connection, config| {
            small(connection, config);
            connection.ikev1.aggressive = aggressive;
            connection.ikev1.aggressive_psk = true;
        });
        pair.up();
        // The first message goes to somebody who has not said yet what it can.
        let after = pair.recorded.iter().skip(1).map(|(_, m)| m);
        assert!(after.clone().all(|m| m.len() <= ROOM));
        assert!(after.filter(|m| is_fragment(m)).count() >= 4);
        let child = pair.child(1);
        let endpoint = &mut pair.sides[1].endpoint;
        endpoint.rekey_child(pair.now, child).unwrap();
        pair.run(Duration::from_secs(10));
        pair.agree(1);
    }
}

/// Whoever has not said so gets none.
#[test]
fn whoever_cannot_gets_whole_messages() {
    for unable in [true, false] {
        let mut pair = Pair::new(|a, connection, config| {
            small(connection, config);
            connection.fragmentation = a != unable;
        });
        pair.up();
        assert!(pair.recorded.iter().all(|(_, m)| !is_fragment(m)));
    }
}

/// B46, A11: lost, doubled and reordered ones delay, and break nothing.
#[test]
fn loss_doubling_and_reordering_of_fragments_only_delay() {
    for seed in 1..15u64 {
        let mut pair = Pair::new(|_, connection, config| {
            small(connection, config);
            config.retransmit_tries = 30;
            config.retransmit_timeout = Duration::from_secs(1);
            config.retransmit_base = 1.1;
            config.half_open_timeout = Duration::from_secs(600);
        });
        pair.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        pair.loss = 15;
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(120));
        pair.loss = 0;
        pair.run(Duration::from_secs(120));
        pair.agree(1);
    }
}

/// I03, CVE-2016-1287, CVE-2016-10396, CVE-2022-34721: fragments that lie or never end take bounded memory,
/// are forgotten, and stop nobody.
#[test]
fn forged_fragments_are_bounded_and_stop_nobody() {
    let mut pair = Pair::new(|_, connection, config| small(connection, config));
    pair.up();
    let ike = pair.sides[1].endpoint.ike_sas().next().unwrap();
    let (spi_i, spi_r, path) = (ike.spi_i, ike.spi_r, ike.path);
    let fragment = |id: u16, number: u8, flags: u8, len: u16, data: &[u8]| {
        let mut message = [spi_i.to_be_bytes(), spi_r.to_be_bytes()].concat();
        message.extend([payload::FRAGMENT, 0x10, 32, 0, 0, 0, 0, 9]);
        message.extend(((28 + 8 + data.len()) as u32).to_be_bytes());
        message.extend([0, 0]);
        message.extend(len.to_be_bytes());
        message.extend(id.to_be_bytes());
        message.extend([number, flags]);
        message.extend(data);
        message
    };
    let data = [0x5a; 1400];
    for id in 0..2000u16 {
        for number in [0, 1, 2, 63, 64, 65, 255] {
            for (flags, len) in [(0, 1408), (1, 1408), (0, 0), (0, 7), (0, 8), (0, 65_535)] {
                let message = fragment(id, number, flags, len, &data);
                let endpoint = &mut pair.sides[1].endpoint;
                endpoint.handle_datagram(pair.now, path, &message);
                assert!(endpoint.poll_transmit().is_none());
                assert!(endpoint.stats().fragment_octets <= 32 << 10);
            }
        }
    }
    // A message in fragments in a fragment, and one of another SA, are none.
    let inner = fragment(1, 1, 1, 1408, &data);
    for number in [1, 2] {
        let part = &inner[(number - 1) * 700..number * 700];
        let message = fragment(3000, number as u8, (number == 2).into(), 708, part);
        pair.sides[1]
            .endpoint
            .handle_datagram(pair.now, path, &message);
    }
    // The peer's own come through between them.
    let left_over = fragment(4000, 1, 0, 1408, &data);
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.handle_datagram(pair.now, path, &left_over);
    assert!(endpoint.stats().fragment_octets > 0);
    let child = pair.child(0);
    pair.sides[0].endpoint.rekey_child(pair.now, child).unwrap();
    pair.run(Duration::from_secs(10));
    pair.agree(1);
    let endpoint = &mut pair.sides[1].endpoint;
    endpoint.handle_datagram(pair.now, path, &left_over);
    pair.run(Duration::from_secs(40));
    assert_eq!(pair.sides[1].endpoint.stats().fragment_octets, 0);
}
