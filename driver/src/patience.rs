// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long a card may take before it is given up. What the watchdogs and deadlines say is for a card of
//! silicon, or a simulated one on a machine that has time for it; where a simulated card gets its
//! processor late, everything has to be later.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Under a sanitizer, which `cargo xtask sanitize` tells, a card and its driver are so much slower.
const AT_FIRST: u32 = if cfg!(sanitized) { 20 } else { 1 };

static TIMES: AtomicU32 = AtomicU32::new(AT_FIRST);

/// Gives every card of this process at least so many times as long: for simulated cards on a machine that
/// is busy with something else.
pub fn stretch(times: u32) {
    TIMES.fetch_max(times, Ordering::Relaxed);
}

/// By how much everything is stretched; at least 1.
pub(crate) fn times() -> u32 {
    TIMES.load(Ordering::Relaxed)
}

/// A deadline as it is now.
pub(crate) fn stretched(deadline: Duration) -> Duration {
    deadline.saturating_mul(times())
}
