// SPDX-License-Identifier: Apache-2.0 OR MIT
//! R1: whatever comes in as an IKEv1 datagram: nothing panics, and no SA comes of it. Odd inputs meet an
//! endpoint that is in the middle of phase 1, in main and in aggressive mode, as initiator and as responder.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ikev1_proto::endpoint::Endpoint;
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::{
    AddressPattern, Connection, EndpointConfig, Identity, Ikev1, LocalAuth, RemoteAuth, Secret,
    SendCert, Version,
};
use ikev2d_proto::event::{Numbers, Path};
use ikev2d_proto::proposal::Proposal;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

static CRYPTO: LazyLock<Arc<OpensslCrypto>> =
    LazyLock::new(|| Arc::new(OpensslCrypto::new().expect("entropy")));

fn endpoint(aggressive: bool) -> Endpoint {
    let numbers = Numbers::default();
    let mut endpoint = Endpoint::new(EndpointConfig::default(), CRYPTO.clone(), &numbers);
    endpoint.set_connections(&[Arc::new(Connection {
        name: "gw".to_owned(),
        version: Version::V1,
        ikev1: Ikev1 {
            aggressive,
            aggressive_psk: true,
            ..Ikev1::default()
        },
        local_addrs: vec![AddressPattern::Any],
        remote_addrs: vec![AddressPattern::Prefix([192, 0, 2, 1].into(), 32)],
        remote_port: 500,
        local_id: Identity::Fqdn("a".to_owned()),
        remote_id: Identity::Any,
        local_auth: LocalAuth::SharedKey,
        remote_auth: RemoteAuth::SharedKey,
        send_cert: SendCert::IfAsked,
        proposals: vec![Proposal::parse_ike("aes128-sha256-ecp256").expect("a proposal")],
        encap: false,
        fragmentation: true,
        rand_time: None,
        reauth_time: None,
        reauth_frequency: 0,
        unique: Default::default(),
        childless: Default::default(),
        mobike: false,
        dpd_delay: None,
        rekey_time: None,
        over_time: Duration::ZERO,
        vips: vec![],
        pools: vec![],
        ppk_id: None,
        ppk_required: false,
        children: vec![],
        ..Connection::default()
    })]);
    endpoint.set_secrets(vec![Secret {
        ids: vec![],
        secret: Zeroizing::new(b"secret".to_vec()),
    }]);
    endpoint
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    ikev1_proto::parse_any(data);
    let now = Instant::now();
    let path = Path::new(([192, 0, 2, 2], 500).into(), ([192, 0, 2, 1], 500).into());
    let mut endpoint = endpoint(mode & 1 != 0);
    let mut cookie = None;
    if mode & 2 != 0
        && endpoint
            .initiate(now, "gw", None, Some(path.local.ip()))
            .is_ok()
    {
        let first = endpoint.poll_transmit().map(|transmit| transmit.payload);
        cookie = first.and_then(|first| first.first_chunk::<8>().copied());
    }
    // Several messages, each with its length in front; header fields that only chance would hit are set.
    let mut rest = data;
    for _ in 0..4 {
        let Some((len, tail)) = rest.split_first() else {
            break;
        };
        let (message, tail) = tail.split_at((usize::from(*len) * 4).min(tail.len()));
        rest = tail;
        let mut message = message.to_vec();
        if mode & 4 != 0 && message.len() >= 28 {
            let len = (message.len() as u32).to_be_bytes();
            message[24..28].copy_from_slice(&len);
            message[17] = 0x10;
            if let Some(cookie) = cookie {
                message[..8].copy_from_slice(&cookie);
            }
        }
        endpoint.handle_datagram(now, path, &message);
        while endpoint.poll_transmit().is_some() {}
        while endpoint.poll_event().is_some() {}
    }
    assert_eq!(endpoint.stats().established, 0);
    endpoint.handle_timeout(now + Duration::from_secs(60));
});
