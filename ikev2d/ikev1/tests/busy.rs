// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A peer whose signature has to wait for others'.
#![allow(clippy::unwrap_used)]

mod peers;

use std::sync::Arc;
use std::time::Duration;

use ikev2d_proto::config::*;
use ikev2d_proto::credential::{Certificate, Claim, Hash, Refusal, Scheme, Signer, Verifier};
use ikev2d_proto::crypto::CryptoError;

use peers::Pair;

/// "Signs" by saying the same again, which is all that matters here.
#[derive(Debug)]
struct Echo;

impl Signer for Echo {
    fn certificates(&self) -> &[Certificate] {
        &[]
    }

    fn schemes(&self) -> &[Scheme] {
        &[Scheme::EcdsaFixed(Hash::Sha256)]
    }

    fn sign(&self, _: Scheme, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Ok(octets.to_vec())
    }
}

impl Verifier for Echo {
    fn authorities(&self) -> Vec<[u8; 20]> {
        Vec::new()
    }

    fn verify(&self, claim: &Claim) -> Result<(), Refusal> {
        match claim.signature == claim.octets {
            true => Ok(()),
            false => Err(Refusal("it signs something else".to_owned())),
        }
    }
}

/// Signatures for peers are bounded, and who finds no room asks again; nobody is refused for it.
#[test]
fn a_peer_that_finds_us_busy_asks_again_and_is_not_refused() {
    for aggressive in [false, true] {
        let mut pair = Pair::new(|_, connection, _| {
            connection.ikev1.aggressive = aggressive;
            connection.local_auth = LocalAuth::PublicKey(Arc::new(Echo));
            connection.remote_auth = RemoteAuth::PublicKey(Arc::new(Echo));
        });
        for side in &mut pair.sides {
            side.busy = 2;
        }
        pair.initiate(0, Some("net"));
        pair.run(Duration::from_secs(60));
        pair.agree(1);
        // Our own initiations bound themselves.
        let left = pair.sides.each_ref().map(|side| side.busy);
        assert_eq!(left, [2, 0], "aggressive: {aggressive}");
    }
}
