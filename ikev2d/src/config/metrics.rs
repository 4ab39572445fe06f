// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon.metrics]`: where Prometheus scrapes.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// Metrics by HTTP, in OpenMetrics' text format at `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`, which is its owner's and group's alone.
    pub listen: MetricsListen,
    /// Connections, and child SAs, that have series of their own; more are only counted. A child SA
    /// has about a dozen.
    #[serde(default = "series")]
    pub series: usize,
}

fn series() -> usize {
    256
}

/// Where it listens. Who may ask learns who the peers are: never from afar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// A loopback address.
    Loopback(SocketAddr),
    /// A socket's path.
    Unix(PathBuf),
}

impl<'de> Deserialize<'de> for MetricsListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            D::Error::custom(format!(
                "{text:?}: expected 127.0.0.1:PORT, [::1]:PORT or unix:PATH"
            ))
        })?;
        if address.ip().is_loopback() {
            Ok(Self::Loopback(address))
        } else {
            Err(D::Error::custom(format!(
                "metrics tell who the peers are, without a password: {address} is no loopback address; let \
                 a proxy with authentication pass them on"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B56: metrics are for loopback addresses and sockets alone.
    #[test]
    fn only_this_host_is_told() {
        let read = |listen: &str| toml::from_str::<MetricsSection>(&format!("listen = {listen:?}"));
        for good in ["127.0.0.1:9100", "[::1]:9100", "unix:/run/metrics"] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:9100", "192.0.2.1:9100", "[::]:9100"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("no loopback address"), "{error}");
        }
        for bad in ["unix:", "9100", "localhost"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("unix:PATH"), "{error}");
        }
    }
}
