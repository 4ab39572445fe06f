// SPDX-License-Identifier: Apache-2.0 OR MIT
//! First messages from addresses where nobody is.

use std::time::{Duration, Instant};

use anyhow::Context;
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::config::EndpointConfig;
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::endpoint::Endpoint;
use serde_json::json;

use super::policy::{Policy, nth, source_towards};
use super::sockets::Sockets;
use super::{Arguments, process};
use crate::failure::Outcome;
use crate::output::facts;

/// Octets of the header that hold the initiator's SPI.
const SPI: std::ops::Range<usize> = 0..8;

pub(super) fn run(arguments: &Arguments, seconds: f64) -> Outcome {
    let peer = super::peer(arguments);
    let crypto = OpensslCrypto::new()?;
    let net = arguments.from.context("--from")?;
    let policy = Policy::new(arguments, source_towards(peer)?)?;
    let sockets = Sockets::bind(peer.is_ipv4(), arguments.port, arguments.nat_port)?;
    let mut endpoint = Endpoint::new(EndpointConfig::default(), std::sync::Arc::new(crypto));
    let connection = policy.connection(0, arguments.peer)?;
    endpoint.set_connections(vec![connection.into()]);
    endpoint.initiate(Instant::now(), &Policy::name(0), None, None)?;
    let mut first = endpoint.poll_transmit().context("no first message")?;
    let before = arguments.watch.map(process::resident).transpose()?;
    let mut most = before;
    let (start, mut sent) = (Instant::now(), 0u64);
    let end = start + Duration::try_from_secs_f64(seconds)?;
    let mut random = [0; 8];
    while Instant::now() < end {
        for _ in 0..64 {
            crypto.random(&mut random);
            if let Some(spi) = first.payload.get_mut(SPI) {
                spi.copy_from_slice(&random);
            }
            first
                .path
                .local
                .set_ip(nth(net, u64::from_be_bytes(random) >> 16)?);
            sockets.send(&first);
            sent += 1;
        }
        if let Some(pid) = arguments.watch.filter(|_| sent % 4096 == 0) {
            most = most.max(Some(process::resident(pid)?));
        }
    }
    let growth = most
        .zip(before)
        .map(|(most, before)| most.saturating_sub(before));
    let per_second = sent as f64 / start.elapsed().as_secs_f64();
    let value = json!({ "sent": sent, "per_second": per_second, "responder_growth_bytes": growth });
    arguments.output.show(&value, || {
        let rows = value.as_object().into_iter().flatten();
        facts(rows.map(|(name, value)| (name.replace('_', " "), value.to_string())))
    })
}
