// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A BAR that is a file: its registers as another process has them mapped, too.
#![expect(unsafe_code, reason = "atomic words of a shared mapping")]

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicU32;

use memmap2::{MmapOptions, MmapRaw};

/// The mapping.
pub(crate) struct Bar(MmapRaw);

impl Bar {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        Self(MmapOptions::new().map_raw(&file).unwrap())
    }

    pub(crate) fn word(&self, offset: u64) -> &AtomicU32 {
        let at = usize::try_from(offset).unwrap();
        assert!(
            at.is_multiple_of(4) && at + 4 <= self.0.len(),
            "{offset:#x}"
        );
        // SAFETY: in bounds and aligned (checked; the mapping starts at a page), alive as long as `self`,
        // of a file of the test's own that nobody cuts, and only ever accessed atomically here.
        unsafe { AtomicU32::from_ptr(self.0.as_mut_ptr().add(at).cast()) }
    }
}
