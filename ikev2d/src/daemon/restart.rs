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

/// A connection and its child.
type Key = (String, String);

/// What is to be tried again.
#[derive(Default)]
pub(super) struct Restarts {
    waiting: HashMap<Key, Restart>,
}

impl Restarts {
    /// A try of one came to nothing; after so many it is given up, and 0 is for ever. Others' tries are
    /// under way.
    fn failed(&mut self, key: Key, most: u32, now: Instant) {
        let restart = self.waiting.entry(key.clone()).or_insert(Restart {
            at: None,
            wait: WAIT.start,
            tries: 0,
        });
        restart.tries = restart.tries.saturating_add(1);
        if most != 0 && restart.tries >= most {
            self.waiting.remove(&key);
            return;
        }
        restart.at = Some(now + restart.wait);
        restart.wait = (restart.wait * 2).min(WAIT.end);
    }

    /// Those whose next try is due, which is under way then.
    fn take_due(&mut self, now: Instant) -> Vec<Key> {
        let all = self.waiting.iter_mut();
        let due = all.filter(|(_, restart)| restart.at.is_some_and(|at| at <= now));
        let due = due.map(|(key, restart)| {
            restart.at = None;
            key.clone()
        });
        due.collect()
    }
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
            children.any(|c| *c.sa.child == *child && c.state == "INSTALLED")
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
            self.restarts.failed(key, most, Instant::now());
        }
    }

    /// Tries what is due.
    pub(super) fn restart_due(&mut self, now: Instant) {
        for (connection, child) in self.restarts.take_due(now) {
            tracing::info!(connection, child, "is set up again");
            self.start(&connection, &child);
        }
    }

    /// Sets a child up unless it is there, or about to be; one that is to be tried again later is tried now,
    /// with all its tries before it.
    pub(super) fn start_missing(&mut self, connection: &str, child: &str) {
        if self.is_there(connection, child) || self.endpoint.asks_for(connection, child) {
            return;
        }
        let key = (connection.to_owned(), child.to_owned());
        self.restarts.waiting.remove(&key);
        self.start(connection, child);
    }

    /// Whether a child has an SA, which is not on its way out.
    fn is_there(&self, connection: &str, child: &str) -> bool {
        let stays = |state| state != "DELETING";
        let mut sas = self.endpoint.ike_sas_of(connection);
        sas.any(|sa| {
            let mut children = sa.children.iter();
            stays(sa.state) && children.any(|c| *c.sa.child == *child && stays(c.state))
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// B43: of a connection's children each has its own tries; what becomes of one while another's is
    /// under way does not take that away.
    #[test]
    fn each_child_is_tried_again_by_itself() {
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        let key = |child: &str| ("gw".to_owned(), child.to_owned());
        let children = [key("a"), key("b")];
        for child in &children {
            restarts.failed(child.clone(), 3, start);
        }
        let wait = |restarts: &Restarts| {
            let all = children.iter().map(|key| restarts.waiting.get(key)?.at);
            all.map(|at| at.map(|at| at - start)).collect::<Vec<_>>()
        };
        assert_eq!(wait(&restarts), [Some(WAIT.start); 2]);
        let at = start + WAIT.start;
        let mut due = restarts.take_due(at);
        due.sort();
        assert_eq!(due, children);
        restarts.failed(key("a"), 3, at);
        assert_eq!(wait(&restarts), [Some(WAIT.start * 3), None]);
        restarts.failed(key("b"), 3, at);
        assert_eq!(wait(&restarts), [Some(WAIT.start * 3); 2]);
        for child in &children {
            restarts.failed(child.clone(), 3, at);
        }
        assert!(restarts.waiting.is_empty());
    }
}
