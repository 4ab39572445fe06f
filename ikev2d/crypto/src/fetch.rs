// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What revocation fetches over HTTP, and how long anybody waits for a server.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long one server may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
/// How long one that has not answered is left alone.
const SILENCE: Duration = Duration::from_secs(10);
/// One that has not answered for so long is slow: nobody else asks it meanwhile.
const SLOW: Duration = Duration::from_secs(1);
/// Servers that are remembered.
const MOST_SERVERS: usize = 1024;
/// Addresses for one certificate that are tried.
pub(crate) const MOST_URIS: usize = 4;

/// Brings an answer over HTTP: whole, no larger than `limit` octets, within `patience`. It is called
/// where waiting is no harm.
pub trait Fetch: Send + Sync + fmt::Debug {
    /// Posts a body, and gives the answer's.
    ///
    /// # Errors
    /// Why there is none, for the log.
    fn post(
        &self,
        uri: &str,
        content_type: &str,
        body: &[u8],
        limit: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, String>;

    /// Gets what is there.
    ///
    /// # Errors
    /// Why there is nothing, for the log.
    fn get(&self, uri: &str, limit: usize, patience: Duration) -> Result<Vec<u8>, String>;
}

/// A network where there is nothing, and the word for it.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Nothing(pub(crate) &'static str);

#[cfg(test)]
impl Fetch for Nothing {
    fn post(&self, _: &str, _: &str, _: &[u8], _: usize, _: Duration) -> Result<Vec<u8>, String> {
        Err(self.0.to_owned())
    }

    fn get(&self, _: &str, _: usize, _: Duration) -> Result<Vec<u8>, String> {
        Err(self.0.to_owned())
    }
}

/// Nothing came of any of these addresses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fruitless<E>(pub Vec<(String, E)>);

impl<E: fmt::Display> fmt::Display for Fruitless<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (uri, error)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "; " };
            write!(f, "{comma}{uri}: {error}")?;
        }
        Ok(())
    }
}

/// A server is not asked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum NotAsked {
    #[error("only http:// is spoken")]
    Scheme,
    #[error("the time for this peer's certificates is over")]
    Late,
    #[error("it has not answered a moment ago")]
    Silent,
    #[error("it is slow to answer another peer's")]
    Slow,
}

/// How long a server may take that is asked now.
pub(crate) fn patience(uri: &str, deadline: Instant, now: Instant) -> Result<Duration, NotAsked> {
    if !uri.starts_with("http://") {
        return Err(NotAsked::Scheme);
    }
    let patience = deadline.saturating_duration_since(now).min(PATIENCE);
    if patience.is_zero() {
        return Err(NotAsked::Late);
    }
    Ok(patience)
}

/// Servers that are slow or silent.
#[derive(Default)]
pub(crate) struct Servers {
    /// Those that did not answer, and since when.
    silent: HashMap<String, Instant>,
    /// Those that are being asked, and since when.
    asked: HashMap<String, Instant>,
}

impl Servers {
    /// Whether a server may be asked. Of all whose peers need it, one waits for it at most, where it is
    /// slow or was silent before: they would be all the threads that there are.
    pub(crate) fn begin(&mut self, uri: &str, now: Instant) -> Result<(), NotAsked> {
        if let Some(since) = self.silent.get_mut(uri) {
            if now < *since + SILENCE {
                return Err(NotAsked::Silent);
            }
            *since = now;
        }
        self.asked.retain(|_, since| now < *since + PATIENCE);
        match self.asked.get(uri) {
            Some(since) if now >= *since + SLOW => return Err(NotAsked::Slow),
            Some(_) => {}
            None if self.asked.len() < MOST_SERVERS => {
                self.asked.insert(uri.to_owned(), now);
            }
            None => {}
        }
        Ok(())
    }

    /// One has answered, or it has not.
    pub(crate) fn end(&mut self, uri: &str, answered: bool, now: Instant) {
        self.asked.remove(uri);
        if answered {
            self.silent.remove(uri);
            return;
        }
        self.silent.retain(|_, since| now < *since + SILENCE);
        if self.silent.len() < MOST_SERVERS {
            self.silent.insert(uri.to_owned(), now);
        }
    }
}

/// What was fetched so far.
#[derive(Debug, Default)]
pub struct Fetched {
    good: AtomicU64,
    fruitless: AtomicU64,
}

impl Fetched {
    pub(crate) fn count(&self, good: bool) {
        let counter = if good { &self.good } else { &self.fruitless };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What could be used, and what was of no use.
    pub fn get(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.good), read(&self.fruitless))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B30: one waits for a server that was silent, or is slow; nobody behind it does.
    #[test]
    fn one_waits_for_a_silent_server() {
        let (mut servers, start) = (Servers::default(), Instant::now());
        servers.end("http://silent", false, start);
        assert_eq!(servers.begin("http://silent", start), Err(NotAsked::Silent));
        let later = start + SILENCE;
        assert_eq!(servers.begin("http://silent", later), Ok(()));
        assert!(servers.begin("http://silent", later).is_err());
        // Who answers soon is asked by as many as there are.
        assert_eq!(servers.begin("http://slow", start), Ok(()));
        assert_eq!(servers.begin("http://slow", start), Ok(()));
        let slow = servers.begin("http://slow", start + SLOW);
        assert_eq!(slow, Err(NotAsked::Slow));
        assert_eq!(servers.begin("http://other", start + SLOW), Ok(()));
        // A job that has panicked keeps nobody away for ever.
        assert_eq!(servers.begin("http://slow", start + PATIENCE), Ok(()));
    }

    /// All that peers' certificates wait for is over at their deadline, and only HTTP is spoken.
    #[test]
    fn nobody_is_asked_after_the_deadline() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(patience("http://a", now, now), Err(NotAsked::Late));
        assert_eq!(patience("http://a", now + second, now), Ok(second));
        assert_eq!(patience("http://a", now + second * 60, now), Ok(PATIENCE));
        for uri in ["ldap://a", "https://a", "file:///a"] {
            assert_eq!(patience(uri, now + second, now), Err(NotAsked::Scheme));
        }
    }
}
