// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who writes the cache, told apart from a later process with the same number.

use std::fs;
use std::io;

use rustix::time::{ClockId, clock_gettime};

use super::layout::digest;
use super::seqlock::{Word, read, write};

/// A process, by number, start time and boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterIdentity {
    /// Process number.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start_time: u64,
    /// The kernel's boot id.
    pub boot_id: u128,
    /// How often the writer has changed.
    pub epoch: u64,
}

const WORDS: usize = 6;

impl WriterIdentity {
    /// This process.
    pub(super) fn own(epoch: u64) -> io::Result<Self> {
        let pid = std::process::id();
        Ok(Self {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id()?,
            epoch,
        })
    }

    /// Whether the process still runs.
    pub fn is_alive(&self) -> bool {
        boot_id().is_ok_and(|boot_id| boot_id == self.boot_id)
            && start_time(self.pid).is_ok_and(|start_time| start_time == self.start_time)
    }

    pub(super) fn store<W: Word>(&self, record: &[W]) {
        let mut data = [
            u64::from(self.pid),
            self.start_time,
            (self.boot_id >> 64) as u64,
            self.boot_id as u64,
            self.epoch,
            0,
        ];
        data[WORDS - 1] = digest(&data[..WORDS - 1]);
        write(record, &data);
    }

    pub(super) fn load<W: Word>(record: &[W]) -> Option<Self> {
        let mut data = [0; WORDS];
        read(record, &mut data).ok()?;
        let [pid, start_time, boot_high, boot_low, epoch, checksum] = data;
        let sound = checksum == digest(&data[..WORDS - 1]);
        Some(Self {
            pid: u32::try_from(pid).ok().filter(|_| sound)?,
            start_time,
            boot_id: u128::from(boot_high) << 64 | u128::from(boot_low),
            epoch,
        })
    }
}

/// Field 22 of `/proc/PID/stat`; the name in field 2 may hold anything, so count from its end. A
/// zombie has ended.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace())
        .ok_or(io::ErrorKind::InvalidData)?;
    if matches!(fields.next(), Some("Z" | "X")) {
        return Err(io::ErrorKind::NotFound.into());
    }
    fields
        .nth(18)
        .and_then(|field| field.parse().ok())
        .ok_or(io::ErrorKind::InvalidData.into())
}

fn boot_id() -> io::Result<u128> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The clock of all times in the cache: nanoseconds since boot, sleep of the machine included.
pub fn since_boot() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}
