// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What strangers can have us log: once a second, with how often it was not.

use std::time::{Duration, Instant};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// A line of the log that anybody can bring about.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether it is to be said now; if so, how often it was left unsaid before.
    pub(super) fn due(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now < said + PAUSE) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood fills no log, and is in it nevertheless.
    #[test]
    fn a_flood_is_one_line_a_second() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        let said: Vec<u64> = (0..2500)
            .filter_map(|n| seldom.due(start + Duration::from_millis(n)))
            .collect();
        assert_eq!(said, [0, 999, 999]);
    }
}
