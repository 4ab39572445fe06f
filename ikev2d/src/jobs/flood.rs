// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A core and its threads, while strangers ask for many slow key exchanges.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::algorithm::Group;
use ikev2d_proto::config::{AddressPattern, ChildConfig, Connection, EndpointConfig, Secret};
use ikev2d_proto::config::{Identity, SelectorConfig};
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::endpoint::Endpoint;
use ikev2d_proto::event::{Answer, Event, Path};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::ts::TrafficSelector;
use zeroize::Zeroizing;

use super::{Done, Pool};

const STRANGERS: u16 = 60;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// One end, whose peer is any address.
fn end(own: &str, peer: &str, proposals: &[&str]) -> Endpoint {
    let config = EndpointConfig {
        cookie_threshold: 1000,
        ..EndpointConfig::default()
    };
    let mut endpoint = Endpoint::new(config, Arc::new(OpensslCrypto::new().unwrap()));
    let everything = TrafficSelector::prefix("10.0.0.0".parse().unwrap(), 8);
    let proposals = proposals.iter().map(|text| Proposal::parse_ike(text));
    let remote = match peer.parse() {
        Ok(address) => AddressPattern::Prefix(address, 32),
        Err(_) => AddressPattern::Prefix("0.0.0.0".parse().unwrap(), 0),
    };
    let child = ChildConfig {
        name: "net".to_owned(),
        local_ts: vec![SelectorConfig::Fixed(everything)],
        remote_ts: vec![SelectorConfig::Fixed(everything)],
        esp_proposals: vec![Proposal::parse_esp("aes128gcm16").unwrap()],
        transport: false,
        rekey_time: None,
        rand_time: None,
        resources: Default::default(),
        ikev1: Default::default(),
    };
    endpoint.set_connections(vec![Arc::new(Connection {
        name: "gw".to_owned(),
        local_addrs: vec![AddressPattern::Prefix(own.parse().unwrap(), 32)],
        remote_addrs: vec![remote],
        local_id: Identity::parse(own),
        proposals: proposals.map(Result::unwrap).collect(),
        children: vec![child],
        ..Connection::default()
    })]);
    endpoint.set_secrets(vec![Secret {
        ids: vec![],
        secret: Zeroizing::new(b"correct horse".to_vec()),
    }]);
    endpoint
}

/// The responder as the daemon drives it: jobs go to the threads.
struct Responder {
    endpoint: Endpoint,
    pool: Pool,
    results: tokio::sync::mpsc::UnboundedReceiver<Done>,
    done: usize,
}

impl Responder {
    fn take_in(&mut self) {
        let now = Instant::now();
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::InstallInbound { install, .. } | Event::InstallOutbound { install, .. } => {
                    let answer = Answer::Installed(install);
                    self.endpoint.handle_answer(now, &answer);
                }
                Event::Job { job, work } => self.pool.submit(job, work),
                _ => {}
            }
        }
    }

    /// Does what the threads have done.
    fn collect(&mut self) {
        while let Ok((job, result)) = self.results.try_recv() {
            self.endpoint.handle_job(Instant::now(), job, &result);
            self.done += 1;
        }
        self.take_in();
    }
}

/// Both talk until neither has a word left.
fn talk(peer: &mut Endpoint, responder: &mut Responder, mut heard: impl FnMut()) {
    loop {
        let now = Instant::now();
        while let Some(event) = peer.poll_event() {
            if let Event::InstallInbound { install, .. } | Event::InstallOutbound { install, .. } =
                event
            {
                peer.handle_answer(now, &Answer::Installed(install));
            }
        }
        responder.take_in();
        let theirs = peer.poll_transmit();
        if let Some(sent) = &theirs {
            let path = sent.path.turned();
            responder.endpoint.handle_datagram(now, path, &sent.payload);
        }
        let ours = responder.endpoint.poll_transmit();
        if let Some(sent) = &ours
            && sent.path.remote.ip() == PEER
        {
            heard();
            peer.handle_datagram(now, sent.path.turned(), &sent.payload);
        }
        if theirs.is_none() && ours.is_none() {
            return;
        }
    }
}

/// A11: while the threads are at strangers' key exchanges, the core has taken all of them in, has answered an
/// established peer and let another one in: in the time of a few of those key exchanges.
#[test]
fn the_core_is_free_while_strangers_key_exchanges_go_on() {
    let fast = "aes256gcm16-prfsha384-x25519";
    let slow = "aes256gcm16-prfsha384-modp4096";
    let (pool, results) = Pool::start().unwrap();
    let mut responder = Responder {
        endpoint: end("192.0.2.2", "any", &[fast, slow]),
        pool,
        results,
        done: 0,
    };
    let mut peer = end("192.0.2.1", "192.0.2.2", &[fast]);
    let ike = peer
        .initiate(Instant::now(), "gw", Some("net"), None)
        .unwrap();
    talk(&mut peer, &mut responder, || {});
    assert_eq!(responder.endpoint.stats().established, 1);

    let mut stranger = end("192.0.2.3", "192.0.2.2", &[slow]);
    stranger
        .initiate(Instant::now(), "gw", Some("net"), None)
        .unwrap();
    while let Some(event) = stranger.poll_event() {
        if let Event::Job { job, work } = event {
            stranger.handle_job(Instant::now(), job, &work.run());
        }
    }
    let first = stranger.poll_transmit().unwrap().payload;

    let crypto = OpensslCrypto::new().unwrap();
    let own = crypto.generate(Group::Modp4096).unwrap();
    let began = Instant::now();
    for _ in 0..4 {
        crypto.answer(Group::Modp4096, own.public()).unwrap();
    }
    let one = began.elapsed() / 4;

    let began = Instant::now();
    for number in 0..STRANGERS {
        let mut message = first.clone();
        message[..2].copy_from_slice(&number.to_be_bytes());
        let remote = SocketAddr::from(([10, 9, 8, number as u8], 500));
        let path = Path::new("192.0.2.2:500".parse().unwrap(), remote);
        responder
            .endpoint
            .handle_datagram(Instant::now(), path, &message);
        responder.take_in();
    }
    let mut heard = 0;
    peer.check_liveness(Instant::now(), ike).unwrap();
    talk(&mut peer, &mut responder, || heard += 1);
    assert_eq!(heard, 1);
    let mut other = end("192.0.2.1", "192.0.2.2", &[fast]);
    other
        .initiate(Instant::now(), "gw", Some("net"), None)
        .unwrap();
    talk(&mut other, &mut responder, || heard += 1);
    assert_eq!(responder.endpoint.stats().established, 2);
    assert_eq!(heard, 3);
    let took = began.elapsed();
    eprintln!(
        "{STRANGERS} first messages, liveness and another peer: {took:?}; one key exchange: {one:?}"
    );
    assert!(
        took < one * u32::from(STRANGERS) / 3,
        "{took:?} where one takes {one:?}"
    );

    let end = Instant::now() + Duration::from_secs(60);
    while responder.done < usize::from(STRANGERS) && Instant::now() < end {
        responder.collect();
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut answers = 0;
    while responder.endpoint.poll_transmit().is_some() {
        answers += 1;
    }
    assert_eq!(answers, STRANGERS);
}
