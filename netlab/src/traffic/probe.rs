// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system's own tools: ping, and iperf3 where it is installed.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::TrafficError;
use crate::process::Guarded;
use crate::{Namespace, NamespaceError};

/// What ping said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PingReport {
    /// Echo requests sent.
    pub sent: u32,
    /// Answers.
    pub received: u32,
    /// Mean round trip in milliseconds, where there was an answer.
    pub mean_ms: Option<f64>,
}

/// Pings `to` from the address `from`, `count` times, ten a second, and waits a second for the last answer.
pub fn ping(
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
    count: u32,
) -> Result<PingReport, TrafficError> {
    let output = namespace
        .command("ping")
        .args(["-n", "-q", "-i", "0.1", "-W", "1", "-c", &count.to_string()])
        .args(["-I", &from.to_string(), &to.to_string()])
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| NamespaceError::Start {
            name: namespace.name().to_owned(),
            command: format!("ping -I {from} {to}"),
            source,
        })?;
    // Exit status 1 only says that answers are missing, which the figures say too.
    let text = String::from_utf8_lossy(&output.stdout);
    parse_ping(&text).ok_or_else(|| TrafficError::Output {
        program: "ping",
        expected: "a summary of packets transmitted and received",
        found: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    })
}

/// Pings until an answer comes, at most ten seconds: a tunnel's other end may still be about to take its SAs
/// into use when ours is up. Asserts nothing: what must pass from then on is for the caller to count.
pub fn await_answer(namespace: &Namespace, from: IpAddr, to: IpAddr) {
    let end = Instant::now() + Duration::from_secs(10);
    // An error is a route that is not there yet.
    while !ping(namespace, from, to, 1).is_ok_and(|report| report.received == 1)
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn parse_ping(text: &str) -> Option<PingReport> {
    let summary = text
        .lines()
        .find(|line| line.contains("packets transmitted"))?;
    let number = |suffix| -> Option<u32> {
        summary
            .split(',')
            .find_map(|part| part.trim().strip_suffix(suffix))?
            .trim()
            .parse()
            .ok()
    };
    let mean_ms = text
        .lines()
        .find_map(|line| line.strip_prefix("rtt "))
        .and_then(|line| line.split('/').nth(4))
        .and_then(|mean| mean.parse().ok());
    Some(PingReport {
        sent: number("packets transmitted")?,
        received: number("received")?,
        mean_ms,
    })
}

/// What iperf3 said of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Iperf3Report {
    /// Mbit/s that arrived.
    pub mbps: f64,
    /// Octets that arrived.
    pub octets: f64,
}

/// Runs iperf3 for `seconds` over one TCP stream; `None` where it is not installed.
pub fn iperf3(
    from: (&Namespace, IpAddr),
    to: (&Namespace, SocketAddr),
    seconds: u32,
) -> Result<Option<Iperf3Report>, TrafficError> {
    let found = Command::new("iperf3")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        return Ok(None);
    }
    let (address, port) = (to.1.ip().to_string(), to.1.port().to_string());
    let start = |source| NamespaceError::Start {
        name: to.0.name().to_owned(),
        command: "iperf3".to_owned(),
        source,
    };
    let mut server = to.0.command("iperf3");
    server
        .args(["-s", "-1", "-B", &address, "-p", &port])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = Guarded::spawn(server).map_err(start)?;
    let mut client = from.0.command("iperf3");
    client
        .args(["-J", "-c", &address, "-p", &port, "-B", &from.1.to_string()])
        .args(["-t", &seconds.to_string(), "--connect-timeout", "1000"]);
    // The server says nothing when it is ready; the client is asked again until it is.
    let mut last = String::new();
    for _ in 0..20 {
        let output = client.output().map_err(start)?;
        let json: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        let figure = |name: &str| {
            let sum = json.as_ref()?.pointer("/end/sum_received")?;
            sum.get(name)?.as_f64()
        };
        if let (Some(rate), Some(octets)) = (figure("bits_per_second"), figure("bytes")) {
            drop(server);
            let mbps = rate / 1e6;
            return Ok(Some(Iperf3Report { mbps, octets }));
        }
        last = String::from_utf8_lossy(&output.stdout).into_owned();
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(TrafficError::Output {
        program: "iperf3",
        expected: "end.sum_received.bits_per_second and bytes",
        found: last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_summaries_are_understood() {
        let text = "PING 10.2.0.1 (10.2.0.1) from 10.1.0.1 : 56(84) bytes of data.\n\n\
                    --- 10.2.0.1 ping statistics ---\n\
                    10 packets transmitted, 9 received, 10% packet loss, time 912ms\n\
                    rtt min/avg/max/mdev = 0.412/0.634/1.033/0.180 ms\n";
        let report = parse_ping(text).unwrap();
        assert_eq!(
            report,
            PingReport {
                sent: 10,
                received: 9,
                mean_ms: Some(0.634)
            }
        );
        let silence =
            "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2031ms\n";
        assert_eq!(
            parse_ping(silence),
            Some(PingReport {
                sent: 3,
                received: 0,
                mean_ms: None
            })
        );
        assert_eq!(parse_ping("ping: connect: Network is unreachable"), None);
    }
}
