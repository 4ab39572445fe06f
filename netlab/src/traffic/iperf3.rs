// SPDX-License-Identifier: Apache-2.0 OR MIT
//! iperf3, where it is installed.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::TrafficError;
use crate::process::Guarded;
use crate::{Namespace, NamespaceError};

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
