// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon.sa_cache]`: the SA cache, and who may read it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Seconds;

/// The SA cache. Memory is taken as SAs come, about 300 octets for each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSection {
    /// SAs that fit, an inbound and an outbound one for each child; 1 to 16777216.
    pub capacity: u32,
    /// Where readers get it; beside the control socket by default, with the ending `cache`.
    pub socket: Option<PathBuf>,
    /// A group that may read it; only root and the daemon's own user otherwise.
    pub group: Option<String>,
    /// How long it can still be read after the daemon has died, unless a new one starts.
    pub keep: Seconds,
}

impl Default for CacheSection {
    fn default() -> Self {
        Self {
            capacity: 1 << 20,
            socket: None,
            group: None,
            keep: Seconds(Duration::from_secs(3600)),
        }
    }
}

impl CacheSection {
    /// Where readers get it, given the control socket.
    pub(crate) fn socket(&self, vici_socket: &Path) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| vici_socket.with_extension("cache"))
    }
}
