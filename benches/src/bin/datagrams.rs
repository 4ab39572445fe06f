// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Datagrams for `benches/tunnel.sh`: as many as a host can send, or at a pace, in bursts of one system
//! call; the far end counts them and their one-way delay. Both ends must be on one machine, since they
//! share its clock.
//!
//!   datagrams receive LOCAL SECONDS
//!   datagrams send LOCAL REMOTE PAYLOAD RATE SECONDS     RATE 0: as fast as it goes
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// Datagrams of one call.
const BURST: usize = 32;
/// Time of sending in front of each payload.
const STAMP: usize = 8;
/// Longest sleep of a paced sender: what it is behind by then leaves in one burst.
const PACE: Duration = Duration::from_micros(100);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["receive", local, seconds] => receive(local.parse()?, seconds.parse()?),
        ["send", local, remote, payload, rate, seconds] => {
            let payload = payload.parse::<usize>()?.max(STAMP);
            let limits = (rate.parse()?, seconds.parse()?);
            send((local.parse()?, remote.parse()?), payload, limits)
        }
        _ => Err(
            "usage: datagrams receive LOCAL SECONDS | send LOCAL REMOTE PAYLOAD RATE SECONDS"
                .into(),
        ),
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn send(
    (local, remote): (SocketAddr, SocketAddr),
    payload: usize,
    (rate, seconds): (f64, f64),
) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind(local)?;
    socket.connect(remote)?;
    let (mut sent, mut refused) = (0u64, 0u64);
    let mut datagrams = vec![vec![0u8; payload]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let begun = now();
    loop {
        let time = now();
        let gone = (time - begun) as f64 / 1e9;
        if gone >= seconds {
            break;
        }
        let due = if rate == 0.0 {
            BURST
        } else {
            ((gone * rate) as u64)
                .saturating_sub(sent + refused)
                .min(BURST as u64) as usize
        };
        if due == 0 {
            std::thread::sleep(PACE.min(Duration::from_secs_f64(1.0 / rate)));
            continue;
        }
        for datagram in &mut datagrams[..due] {
            datagram[..STAMP].copy_from_slice(&time.to_be_bytes());
        }
        let parts: Vec<[IoSlice<'_>; 1]> = datagrams[..due]
            .iter()
            .map(|datagram| [IoSlice::new(datagram)])
            .collect();
        let none = vec![None; due];
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &parts,
            &none,
            [],
            MsgFlags::empty(),
        ) {
            Ok(taken) => sent += taken.count() as u64,
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED) => refused += due as u64,
            Err(error) => return Err(error.into()),
        }
    }
    println!(
        "{}",
        json!({ "sent": sent, "refused": refused, "seconds": (now() - begun) as f64 / 1e9 })
    );
    Ok(())
}

fn receive(local: SocketAddr, seconds: f64) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind(local)?;
    setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut delays = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3)?;
    let (mut received, mut octets, mut first, mut last) = (0u64, 0u64, None, 0);
    let mut buffers = vec![vec![0u8; 2048]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let end = now() + (seconds * 1e9) as u64;
    while now() < end {
        let stamps: Vec<(usize, u64)> = {
            let mut parts: Vec<[IoSliceMut<'_>; 1]> = buffers
                .iter_mut()
                .map(|buffer| [IoSliceMut::new(buffer)])
                .collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            match recvmmsg(
                socket.as_raw_fd(),
                &mut headers,
                parts.iter_mut(),
                flags,
                None,
            ) {
                Ok(messages) => messages
                    .filter_map(|message| {
                        let stamp = message.iovs().next()?.get(..STAMP)?.try_into().ok()?;
                        Some((message.bytes, u64::from_be_bytes(stamp)))
                    })
                    .collect(),
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let time = now();
        first.get_or_insert(time);
        last = time;
        for (len, stamp) in stamps {
            received += 1;
            octets += len as u64;
            delays.saturating_record(time.saturating_sub(stamp).max(1));
        }
    }
    let us = |quantile| delays.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{}",
        json!({
            "received": received,
            "octets": octets,
            "seconds": last.saturating_sub(first.unwrap_or(last)) as f64 / 1e9,
            "p50_us": us(0.5), "p90_us": us(0.9), "p99_us": us(0.99), "p999_us": us(0.999),
            "max_us": delays.max() as f64 / 1000.0,
        })
    );
    Ok(())
}
