// SPDX-License-Identifier: Apache-2.0 OR MIT
//! ASN.1's dates as the system's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Time, Asn1TimeRef};

/// A date; nothing for one before the epoch, or that is none.
pub(crate) fn unix(time: &Asn1TimeRef) -> Option<SystemTime> {
    let epoch = Asn1Time::from_unix(0).ok()?;
    let since = epoch.diff(time).ok()?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds.try_into().ok()?))
}
