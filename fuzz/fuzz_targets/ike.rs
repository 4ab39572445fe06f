// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Datagrams at an IKE responder, and every payload parser behind them.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::{
    AddressPattern, Childless, Connection, EndpointConfig, Identity, LocalAuth, RemoteAuth, Secret,
    SendCert, Unique,
};
use ikev2d_proto::endpoint::Endpoint;
use ikev2d_proto::event::Path;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::wire;
use libfuzzer_sys::fuzz_target;

static CRYPTO: LazyLock<Arc<OpensslCrypto>> =
    LazyLock::new(|| Arc::new(OpensslCrypto::new().expect("entropy")));

fuzz_target!(|data: &[u8]| {
    // Payload chains, as they come out of SK.
    if let Some((first, octets)) = data.split_first() {
        if let Ok(parts) = wire::payloads(*first, octets) {
            for part in parts {
                let _ = wire::notify::Notify::parse(part.body);
                ikev2d_proto::parse_any(part.body);
            }
        }
    }
    let mut endpoint = Endpoint::new(EndpointConfig::default(), CRYPTO.clone());
    endpoint.set_connections(vec![Arc::new(Connection {
        version: Default::default(),
        ikev1: Default::default(),
        name: "gw".to_owned(),
        local_addrs: vec![AddressPattern::Any],
        remote_addrs: vec![AddressPattern::Any],
        remote_port: 500,
        local_id: Identity::Fqdn("a".to_owned()),
        remote_id: Identity::Any,
        local_auth: LocalAuth::SharedKey,
        remote_auth: RemoteAuth::SharedKey,
        send_cert: SendCert::IfAsked,
        proposals: Proposal::ike_default(),
        encap: false,
        fragmentation: true,
        rand_time: None,
        reauth_time: None,
        reauth_frequency: 0,
        unique: Unique::No,
        childless: Childless::Allow,
        mobike: true,
        dpd_delay: None,
        rekey_time: None,
        over_time: Duration::ZERO,
        vips: Vec::new(),
        pools: Vec::new(),
        ppk_id: None,
        ppk_required: false,
        children: Vec::new(),
        ..Connection::default()
    })]);
    endpoint.set_secrets(vec![Secret { ids: vec![], secret: zeroize::Zeroizing::new(b"secret".to_vec()) }]);
    let path = Path::new("192.0.2.1:500".parse().unwrap(), "192.0.2.2:500".parse().unwrap());
    let now = Instant::now();
    endpoint.handle_datagram(now, path, data);
    // With a header that fits, so that the parsers behind it are reached.
    let mut message = data.to_vec();
    if message.len() >= wire::HEADER_LEN {
        message[8..16].fill(0);
        message[17..20].copy_from_slice(&[0x20, 34, 0x08]);
        message[20..24].fill(0);
        let len = (message.len() as u32).to_be_bytes();
        message[24..28].copy_from_slice(&len);
        endpoint.handle_datagram(now, path, &message);
    }
    assert_eq!(endpoint.stats().children, 0);
    assert_eq!(endpoint.stats().established, 0);
    while let Some(transmit) = endpoint.poll_transmit() {
        assert!(transmit.payload.len() <= 1024);
    }
});
