// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No message is sealed with an IV that its key has had (RFC 5282 §3.1). The cryptography that these
//! tests use fails of itself when one is.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::config::{Identity, Secret};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire::{Header, payload};
use zeroize::Zeroizing;

use peers::seeded::SeededCrypto;
use peers::{Pair, net};

/// So few random numbers that random IVs would come again after some three hundred messages: they don't
/// over thousands, in fragments, sent again and divided further, with IKE_INTERMEDIATE, a PPK, rekeyings
/// and resumptions.
#[test]
fn no_iv_comes_again_with_its_key() {
    for ike in [
        "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
        "aes128ccm16-prfsha256-x25519-ke1_mlkem768",
        "chacha20poly1305-prfsha256-x25519-ke1_mlkem768",
    ] {
        let crypto = Arc::new(SeededCrypto::with_few_ivs(3));
        let mut pair = Pair::with(crypto.clone(), |a, connection, config| {
            connection.proposals = vec![Proposal::parse_ike(ike).unwrap()];
            let nets = |second: u8| {
                (0..100)
                    .map(|i| net(&format!("10.{second}.{i}.0/24")))
                    .collect()
            };
            connection.children[0].local_ts = nets(if a { 1 } else { 2 });
            connection.children[0].remote_ts = nets(if a { 2 } else { 1 });
            connection.resumption = Some(Duration::from_secs(36000));
            connection.dpd_delay = Some(Duration::from_secs(30));
            connection.ppk_id = Some(Identity::parse("ppk.test"));
            config.fragment_size = Some(1500);
            config.retransmit_tries = 6;
            config.retransmit_timeout = Duration::from_secs(1);
            config.retransmit_base = 1.2;
        });
        for side in &mut pair.sides {
            side.endpoint.set_ppks(vec![Secret {
                ids: vec![Identity::parse("ppk.test")],
                secret: Zeroizing::new(b"a postquantum preshared key".to_vec()),
            }]);
        }
        // The first tries are too long for the path.
        pair.mtu = 700;
        pair.initiate();
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        for round in 0..3 {
            pair.loss = 10;
            for _ in 0..250 {
                for side in 0..2 {
                    let (now, ike) = (pair.now, pair.ike(side));
                    let _ = pair.sides[side].endpoint.check_liveness(now, ike);
                }
                pair.run(Duration::from_secs(4));
            }
            pair.loss = 0;
            pair.run(Duration::from_secs(20));
            let (now, child) = (pair.now, pair.current_child(round % 2).unwrap());
            let endpoint = &mut pair.sides[round % 2].endpoint;
            endpoint.rekey_child(now, child).unwrap();
            pair.run(Duration::from_secs(20));
            let (now, ike) = (pair.now, pair.ike(0));
            pair.sides[0].endpoint.rekey_ike(now, ike).unwrap();
            pair.run(Duration::from_secs(20));
            pair.loss = 100;
            pair.run(Duration::from_secs(120));
            pair.loss = 0;
            pair.initiate();
            pair.run(Duration::from_secs(60));
            pair.agree(1);
        }
        let pieces = pair.recorded.iter();
        let pieces = pieces.filter(|m| Header::parse(m).unwrap().next_payload == payload::SKF);
        assert!(pieces.count() > 20, "{ike}");
        assert!(crypto.sealed() > 3000, "{ike}: {}", crypto.sealed());
        assert!(pair.sides[0].endpoint.stats().resumptions >= 1, "{ike}");
    }
}
