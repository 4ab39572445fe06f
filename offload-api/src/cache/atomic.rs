// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The atomics of the cache: the machine's, or loom's while a model runs.

#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
