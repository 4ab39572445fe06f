// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ctrl-C: what is going on ends early, and takes everything down on its way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody asked to stop.
#[derive(Clone)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes SIGINT and SIGTERM away from every thread started after this call, and watches for them.
    pub(crate) fn install() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let asked = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&asked);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                if signals.wait().is_ok() {
                    tell.store(true, Ordering::Release);
                }
            })?;
        Ok(Self { asked })
    }

    /// Whether somebody has asked.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// An error once somebody has asked.
    pub(crate) fn check(&self) -> Result<()> {
        if self.asked() {
            bail!("interrupted");
        }
        Ok(())
    }
}
