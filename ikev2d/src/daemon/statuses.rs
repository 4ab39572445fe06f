// SPDX-License-Identifier: Apache-2.0 OR MIT
//! OCSP answers about our own certificates (RFC 4806), fetched on a thread beside the daemon.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ikev2d_proto::config::LocalAuth;
use ikev2d_proto::credential::Statuses;

use super::Daemon;

/// Between looks at whether one is due.
const LOOK: Duration = Duration::from_secs(10);

/// When they are looked after, and by whom now.
#[derive(Default)]
pub(super) struct Renewal {
    last: Option<Instant>,
    running: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Has those fetched that are due. Nobody waits for it, at the daemon's end neither.
    pub(super) fn renew_statuses(&mut self, now: Instant) {
        let renewal = &mut self.renewal;
        let early = renewal.last.is_some_and(|last| now < last + LOOK);
        if early || renewal.running.as_ref().is_some_and(|r| !r.is_finished()) {
            return;
        }
        renewal.last = Some(now);
        let connections = self.endpoint.connections().iter();
        let statuses = connections.filter_map(|connection| match &connection.local_auth {
            LocalAuth::PublicKey(signer) => signer.statuses().cloned(),
            LocalAuth::SharedKey | LocalAuth::Eap(_) => None,
        });
        let statuses: Vec<Arc<dyn Statuses>> = statuses.collect();
        if statuses.is_empty() {
            return;
        }
        let thread = std::thread::Builder::new().name("ocsp-ahead".to_owned());
        let started = thread.spawn(move || statuses.iter().for_each(|all| all.renew()));
        renewal.running = started
            .inspect_err(|error| tracing::warn!(%error, "a thread for OCSP answers"))
            .ok();
    }
}
