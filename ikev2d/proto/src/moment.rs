// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Points in time for what there are ten thousands of.

use std::num::NonZeroU64;
use std::ops::Add;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A point in time, in half of an [`Instant`]'s room, or a third where there may be none: nanoseconds from
/// a time that is the same for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(NonZeroU64);

/// The number of the time that all others are reckoned from: what was before has room, too.
const EPOCH_NUMBER: u64 = 1 << 63;
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl From<Instant> for Moment {
    fn from(at: Instant) -> Self {
        let number = match at.checked_duration_since(*EPOCH) {
            Some(after) => EPOCH_NUMBER.saturating_add(nanos(after)),
            None => EPOCH_NUMBER.saturating_sub(nanos(EPOCH.saturating_duration_since(at))),
        };
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }
}

impl From<Moment> for Instant {
    fn from(Moment(number): Moment) -> Self {
        let number = number.get();
        let at = match number.checked_sub(EPOCH_NUMBER) {
            Some(after) => EPOCH.checked_add(Duration::from_nanos(after)),
            None => EPOCH.checked_sub(Duration::from_nanos(EPOCH_NUMBER - number)),
        };
        at.unwrap_or(*EPOCH)
    }
}

impl Add<Duration> for Moment {
    type Output = Instant;

    fn add(self, time: Duration) -> Instant {
        Instant::from(self) + time
    }
}

/// Whether a moment has come.
impl PartialEq<Moment> for Instant {
    fn eq(&self, other: &Moment) -> bool {
        *self == Instant::from(*other)
    }
}

impl PartialOrd<Moment> for Instant {
    fn partial_cmp(&self, other: &Moment) -> Option<std::cmp::Ordering> {
        self.partial_cmp(&Instant::from(*other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_its_instant_in_less_room() {
        let (now, day) = (Instant::now(), Duration::from_secs(86_400));
        for at in [
            now,
            now + day,
            now + 4000 * day,
            now - Duration::from_nanos(1),
        ] {
            let moment = Moment::from(at);
            assert_eq!(Instant::from(moment), at);
            assert!(at >= moment && at - Duration::from_nanos(1) < moment);
            assert!(moment < Moment::from(at + Duration::from_nanos(1)));
        }
        assert_eq!(size_of::<Option<Moment>>(), size_of::<u64>());
    }
}
