// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How the two ends are configured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ikev1_proto::endpoint::Endpoint;
use ikev2d_proto::config::{
    AddressPattern, ChildConfig, Connection, EndpointConfig, Identity, Ikev1, Secret,
    SelectorConfig, Version,
};
use ikev2d_proto::event::Numbers;
use ikev2d_proto::pool::PoolConfig;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use ikev2d_proto::xauth::Xauth;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use zeroize::Zeroizing;

use crate::toy::CRYPTO;

/// How the two ends are configured.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) aggressive: bool,
    /// The peer, and not the target, begins.
    pub(crate) peer_begins: bool,
    /// The target's part of XAUTH.
    pub(crate) user: Part,
    /// The target's part of mode config.
    pub(crate) address: Part,
    pub(crate) push: bool,
    pub(crate) commit: bool,
    pub(crate) forward_secrecy: bool,
    pub(crate) ah: bool,
    pub(crate) encap: bool,
    /// Several selectors.
    pub(crate) several: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    None,
    Gives,
    Takes,
}

const NETS: [[&str; 2]; 2] = [["10.1.0.0", "10.2.0.0"], ["10.3.0.0", "10.4.0.0"]];

pub(crate) fn nets(setup: Setup, side: usize) -> Vec<TrafficSelector> {
    let count = if setup.several { 2 } else { 1 };
    let addresses = NETS.iter().take(count).map(|nets| nets[side]);
    addresses
        .filter_map(|net| Some(TrafficSelector::prefix(net.parse().ok()?, 24)))
        .collect()
}

pub(crate) fn child(setup: Setup, target: bool) -> ChildConfig {
    let fixed = |side| nets(setup, side).into_iter().map(SelectorConfig::Fixed);
    let (own, peer) = if target { (1, 0) } else { (0, 1) };
    let mut proposals = Vec::new();
    if setup.ah {
        proposals.extend(Proposal::parse_ah("sha256").ok());
    }
    let esp = match setup.forward_secrecy {
        true => "aes128-sha256-ecp256",
        false => "aes128-sha256",
    };
    proposals.extend(Proposal::parse_esp(esp).ok());
    ChildConfig {
        name: "net".to_owned(),
        local_ts: fixed(own).collect(),
        remote_ts: fixed(peer).collect(),
        esp_proposals: proposals,
        transport: false,
        rekey_time: Some(Duration::from_secs(600)),
        rand_time: None,
        resources: Default::default(),
        ikev1: Default::default(),
    }
}

pub(crate) fn endpoint(setup: Setup, target: bool) -> Endpoint {
    let config = EndpointConfig {
        retransmit_tries: 2,
        ..EndpointConfig::default()
    };
    let mut endpoint = Endpoint::new(config, CRYPTO.clone(), &Numbers::default());
    let user = || (b"carol".to_vec(), Zeroizing::new("sesame".to_owned()));
    let turned = |part| match (part, target) {
        (part, true) => part,
        (Part::Gives, false) => Part::Takes,
        (Part::Takes, false) => Part::Gives,
        (Part::None, false) => Part::None,
    };
    let address = turned(setup.address);
    let (own, peer) = if target { (2, 1) } else { (1, 2) };
    endpoint.set_connections(&[Arc::new(Connection {
        name: "gw".to_owned(),
        version: Version::V1,
        ikev1: Ikev1 {
            aggressive: setup.aggressive,
            aggressive_psk: true,
            xauth: match turned(setup.user) {
                Part::None => None,
                Part::Gives => Some(Xauth::Client(user())),
                Part::Takes => Some(Xauth::Server(vec![user()])),
            },
            push: setup.push,
            commit: setup.commit,
        },
        local_addrs: vec![AddressPattern::Prefix([192, 0, 2, own].into(), 32)],
        remote_addrs: vec![AddressPattern::Prefix([192, 0, 2, peer].into(), 32)],
        remote_port: 500,
        local_id: Identity::Fqdn(format!("{own}")),
        remote_id: Identity::Fqdn(format!("{peer}")),
        proposals: Proposal::parse_ike("aes128-sha256-ecp256")
            .into_iter()
            .collect(),
        encap: setup.encap,
        fragmentation: true,
        vips: match address {
            Part::Takes => vec!["0.0.0.0".parse().unwrap_or([0; 4].into())],
            _ => vec![],
        },
        pools: match address {
            Part::Gives => vec!["p".to_owned()],
            _ => vec![],
        },
        rekey_time: Some(Duration::from_secs(3600)),
        over_time: Duration::from_secs(60),
        dpd_delay: Some(Duration::from_secs(100)),
        children: vec![child(setup, target)],
        ..Connection::default()
    })]);
    endpoint.set_secrets(vec![Secret {
        ids: vec![],
        secret: Zeroizing::new(b"secret".to_vec()),
    }]);
    endpoint.pools_mut().set(BTreeMap::from([(
        "p".to_owned(),
        PoolConfig {
            start: [10, 9, 0, 1].into(),
            end: [10, 9, 0, 3].into(),
            attributes: vec![],
        },
    )]));
    endpoint
}
