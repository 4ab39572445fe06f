// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Child SAs that are to come back: `dpd_action`, `close_action`, and further tries of what could not
//! be set up (`keyingtries`), each later than the one before.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ikev2d_proto::endpoint::InitiateError;
use ikev2d_proto::event::reason;

use super::Daemon;
use crate::config::{ChildSection, CloseAction, DpdAction, StartAction};

/// Before a try, growing.
const WAIT: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(60);

/// What is to be tried again, by connection and child.
#[derive(Default)]
pub(super) struct Restarts {
    waiting: HashMap<(String, String), Restart>,
}

struct Restart {
    /// When; nothing while a try is under way.
    at: Option<Instant>,
    wait: Duration,
    tries: u32,
}

/// Whether a child that went for this reason is set up again.
fn comes_back(section: &ChildSection, why: &str) -> bool {
    match why {
        reason::NO_ANSWER => section.dpd_action == DpdAction::Restart,
        reason::EXPIRED => section.start_action == StartAction::Start,
        reason::DELETED_BY_PEER => section.close_action == CloseAction::Start,
        _ => false,
    }
}

impl Daemon {
    /// A child SA that was in use is gone.
    pub(super) fn child_lost(&mut self, connection: &str, child: &str, why: &str) {
        // The peer may have reauthenticated: another one is there already.
        let there = self.endpoint.ike_sas_of(connection).any(|sa| {
            let mut children = sa.children.iter();
            children.any(|c| c.sa.child == child && c.state == "INSTALLED")
        });
        if there {
            return;
        }
        let section = self.loaded.child(&self.config, connection, child);
        if section.is_some_and(|section| comes_back(section, why)) {
            let restart = Restart {
                at: Some(Instant::now() + WAIT.start),
                wait: WAIT.start,
                tries: 0,
            };
            let key = (connection.to_owned(), child.to_owned());
            self.restarts.waiting.insert(key, restart);
        }
    }

    /// A child SA is there: nothing is left to try.
    pub(super) fn child_there(&mut self, connection: &str, child: &str) {
        let key = (connection.to_owned(), child.to_owned());
        self.restarts.waiting.remove(&key);
        self.traps.answered(&key);
        self.succeed(connection, child);
    }

    /// A try came to nothing; `child` is not known if its IKE SA came to nothing.
    pub(super) fn try_failed(&mut self, connection: &str, child: Option<&str>) {
        let Some(section) = self.loaded.connection(&self.config, connection) else {
            return;
        };
        let most = section.keyingtries;
        let wanted = section.children.iter().filter(|(name, section)| {
            let key = (connection.to_owned(), (*name).clone());
            child.is_none_or(|child| child == *name)
                && (section.start_action == StartAction::Start
                    || self.restarts.waiting.contains_key(&key))
        });
        let wanted: Vec<String> = wanted.map(|(name, _)| name.clone()).collect();
        for child in wanted {
            let key = (connection.to_owned(), child);
            let restart = self.restarts.waiting.entry(key).or_insert(Restart {
                at: None,
                wait: WAIT.start,
                tries: 0,
            });
            restart.tries = restart.tries.saturating_add(1);
            // 0 is for ever.
            restart.at = (most == 0 || restart.tries < most).then(|| Instant::now() + restart.wait);
            restart.wait = (restart.wait * 2).min(WAIT.end);
        }
        self.restarts
            .waiting
            .retain(|(name, _), restart| name != connection || restart.at.is_some());
    }

    /// Tries what is due.
    pub(super) fn restart_due(&mut self, now: Instant) {
        let due: Vec<(String, String)> = self
            .restarts
            .waiting
            .iter_mut()
            .filter(|(_, restart)| restart.at.is_some_and(|at| at <= now))
            .map(|(key, restart)| {
                restart.at = None;
                key.clone()
            })
            .collect();
        for (connection, child) in due {
            tracing::info!(connection, child, "is set up again");
            self.start(&connection, &child);
        }
    }

    /// Sets a child up that is to be there. Where this host has no way to the peer yet, or none any more,
    /// that is a try that came to nothing.
    pub(super) fn start(&mut self, connection: &str, child: &str) {
        let Err(error) = self.initiate(connection, Some(child)) else {
            return;
        };
        tracing::warn!(connection, child, %error, "could not be started");
        match error {
            InitiateError::NoAddress { .. } => self.try_failed(connection, Some(child)),
            _ => {
                let key = (connection.to_owned(), child.to_owned());
                self.restarts.waiting.remove(&key);
            }
        }
    }
}
