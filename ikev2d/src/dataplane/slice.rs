// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long the scheduler lets a thread run at a time, for which a thread may ask since Linux 6.12. Who asks
//! for less than others goes before them when it is woken, as long as it has not had more than its share,
//! and has no larger share for it: so it takes no privilege, unlike a nice value or real-time priority.
#![expect(unsafe_code, reason = "sched_setattr has no safe wrapper here")]

use std::io;
use std::time::Duration;

use nix::libc::{
    SCHED_BATCH, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall,
};
use thiserror::Error;

/// Why a thread has the slice that it had.
#[derive(Debug, Error)]
enum SliceError {
    /// Older kernels look at it in deadlines only.
    #[error("the kernel gives threads no slices of their own (Linux does since 6.12)")]
    Unknown,
    /// It is real-time, or idle: who has made it so means it.
    #[error("scheduling policy {0} has no slices that could be asked for")]
    Policy(u32),
    /// Refused.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// Asks for a slice for the calling thread, if there is to be one. Without it packets wait longer, and no
/// harm is done.
pub(super) fn take(slice: Option<Duration>) {
    if let Some(Err(error)) = slice.map(ask_for) {
        tracing::debug!(%error, "a worker has the slice that everybody has");
    }
}

fn ask_for(slice: Duration) -> Result<(), SliceError> {
    let mut wanted = attributes()?;
    let fair = [SCHED_OTHER, SCHED_BATCH].map(|policy| policy as u32);
    if !fair.contains(&wanted.sched_policy) {
        return Err(SliceError::Policy(wanted.sched_policy));
    }
    wanted.sched_runtime = slice.as_nanos() as u64;
    // SAFETY: 0 is the calling thread, and the kernel reads as many octets of `wanted` as its `size` tells,
    // which `attributes` has set to that of the whole.
    if unsafe { syscall(SYS_sched_setattr, 0, &raw const wanted, 0) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    match attributes()?.sched_runtime {
        0 => Err(SliceError::Unknown),
        _ => Ok(()),
    }
}

/// What the calling thread has.
fn attributes() -> io::Result<sched_attr> {
    let size = size_of::<sched_attr>() as u32;
    let mut attributes = sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: 0 is the calling thread, and the kernel writes at most `size` octets, of which `attributes`
    // has as many, all of them integers.
    match unsafe { syscall(SYS_sched_getattr, 0, &raw mut attributes, size, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_slice_that_it_asks_for_where_the_kernel_has_one() {
        let before = attributes().unwrap();
        let asked = std::thread::spawn(|| {
            let asked = ask_for(Duration::from_micros(300));
            (asked, attributes().unwrap())
        });
        let (asked, after) = asked.join().unwrap();
        match asked {
            Ok(()) => assert_eq!(after.sched_runtime, 300_000),
            Err(SliceError::Unknown) => assert_eq!(after.sched_runtime, 0),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(attributes().unwrap().sched_runtime, before.sched_runtime);
    }
}
