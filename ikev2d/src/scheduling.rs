// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What threads ask of the scheduler, none of which takes a privilege: shorter slices, to give way, and to be
//! kept to a processor.
#![expect(unsafe_code, reason = "sched_setattr has no safe wrapper here")]

use std::io;
use std::time::Duration;

use nix::libc::{
    SCHED_BATCH, SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_attr, syscall,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

/// Why a thread is scheduled as it was.
#[derive(Debug, Error)]
enum SchedulingError {
    /// Older kernels look at it in deadlines only.
    #[error("the kernel gives threads no slices of their own (Linux does since 6.12)")]
    Unknown,
    /// It is real-time, or idle: who has made it so means it.
    #[error("scheduling policy {0} is none of those that share")]
    Policy(u32),
    /// Refused.
    #[error(transparent)]
    Host(#[from] io::Error),
}

/// Asks for how long the scheduler lets the calling thread run at a time, which a thread may since Linux
/// 6.12. Who asks for less than others goes before them when it is woken, as long as it has not had more
/// than its share, and has no larger share for it, unlike by a nice value or real-time priority. Without it
/// packets wait longer, and no harm is done.
pub(crate) fn ask_for_slice(slice: Duration) {
    if let Err(error) = try_slice(slice) {
        tracing::debug!(%error, "a worker has the slice that everybody has");
    }
}

/// Has the calling thread, and those that it starts, take the processor from nobody when they are woken:
/// for computations, whose end somebody waits for, but not as long as they take. Each switch in the midst
/// of others' work costs both.
pub(crate) fn give_way() {
    let asked = fair().and_then(|mut wanted| {
        wanted.sched_policy = SCHED_BATCH as u32;
        // What was told is everybody's slice: to ask for it would make it this thread's own.
        wanted.sched_runtime = 0;
        Ok(set(&wanted)?)
    });
    if let Err(error) = asked {
        tracing::debug!(%error, "a thread that computes gives no way");
    }
}

/// Keeps the calling thread to a processor.
///
/// # Errors
/// There is no such processor, or the process may not run there.
pub(crate) fn keep_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut only = CpuSet::new();
    only.set(cpu);
    Ok(sched_setaffinity(None, &only)?)
}

fn try_slice(slice: Duration) -> Result<(), SchedulingError> {
    let mut wanted = fair()?;
    wanted.sched_runtime = slice.as_nanos() as u64;
    set(&wanted)?;
    match attributes()?.sched_runtime {
        0 => Err(SchedulingError::Unknown),
        _ => Ok(()),
    }
}

/// What the calling thread has, if it shares the processor with others.
fn fair() -> Result<sched_attr, SchedulingError> {
    let attributes = attributes()?;
    let fair = [SCHED_OTHER, SCHED_BATCH].map(|policy| policy as u32);
    match fair.contains(&attributes.sched_policy) {
        true => Ok(attributes),
        false => Err(SchedulingError::Policy(attributes.sched_policy)),
    }
}

fn set(wanted: &sched_attr) -> io::Result<()> {
    // SAFETY: 0 is the calling thread, and the kernel reads as many octets of `wanted` as its `size` tells,
    // which `attributes` has set to that of the whole.
    match unsafe { syscall(SYS_sched_setattr, 0, &raw const *wanted, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
            let asked = try_slice(Duration::from_micros(300));
            (asked, attributes().unwrap())
        });
        let (asked, after) = asked.join().unwrap();
        match asked {
            Ok(()) => assert_eq!(after.sched_runtime, 300_000),
            Err(SchedulingError::Unknown) => assert_eq!(after.sched_runtime, 0),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(attributes().unwrap().sched_runtime, before.sched_runtime);
    }

    #[test]
    fn a_thread_is_kept_to_the_processor_that_it_asks_for() {
        let runs_on = || rustix::thread::sched_getaffinity(None).unwrap();
        let before = runs_on();
        let mine = (0..CpuSet::MAX_CPU)
            .rfind(|cpu| before.is_set(*cpu))
            .unwrap();
        let after = std::thread::spawn(move || {
            keep_to(mine).unwrap();
            // One that is not there changes nothing.
            assert!(keep_to(CpuSet::MAX_CPU - 1).is_err());
            assert!(keep_to(CpuSet::MAX_CPU).is_err());
            runs_on()
        });
        let after = after.join().unwrap();
        assert_eq!((after.count(), after.is_set(mine)), (1, true));
        assert_eq!(runs_on(), before);
    }

    #[test]
    fn a_thread_that_gives_way_and_those_it_starts_are_batches() {
        let policy = || attributes().unwrap().sched_policy;
        let (own, started) = std::thread::spawn(move || {
            give_way();
            (policy(), std::thread::spawn(policy).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!([own, started], [SCHED_BATCH as u32; 2]);
    }
}
