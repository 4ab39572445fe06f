// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Threads that measure: they run when they want to, or they would measure their own waiting.

#![expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper here")]

use std::io;

/// Gives the calling thread the least real-time priority, which is above all that is not real-time.
///
/// # Errors
/// The system does not allow it.
pub(crate) fn be_urgent() -> io::Result<()> {
    let wanted = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the kernel reads a whole `sched_param` of this frame.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &wanted) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
