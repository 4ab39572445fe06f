// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Counters of several lives of a device.

use offload_api::device::Counters;

/// What two lives have done. What a device counts is its own word: it may say anything.
pub(crate) fn add(a: Counters, b: Counters) -> Counters {
    let add = u64::saturating_add;
    Counters {
        sealed: add(a.sealed, b.sealed),
        sealed_bytes: add(a.sealed_bytes, b.sealed_bytes),
        opened: add(a.opened, b.opened),
        opened_bytes: add(a.opened_bytes, b.opened_bytes),
        errors: add(a.errors, b.errors),
        aborted: add(a.aborted, b.aborted),
        bogus_completions: add(a.bogus_completions, b.bogus_completions),
        sas: add(a.sas, b.sas),
    }
}
