// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A second record of sequence numbers, for keys that outlive the SA cache.

/// Who records an SA's numbers where they outlive this host's memory, as manual keys do.
pub trait NumberLedger: Send + Sync {
    /// Records, so that a crash at no instruction undoes it, that numbers up to `last` may be used.
    /// Called before an engine is granted them; may reserve more than it is asked for.
    ///
    /// # Errors
    /// They can't be recorded: the engine does not get them.
    fn record(&self, last: u64) -> Result<(), String>;
}
