// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the person who waits sees: a moving line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Progress on standard error.
pub(super) struct Progress {
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            start: Instant::now(),
            bar,
        }
    }

    /// A new step has begun.
    pub(super) fn step(&self, what: &str) {
        let line = format!("{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.println(line);
                bar.set_message(what.to_owned());
            }
            None => anstream::eprintln!("{line}"),
        }
    }

    /// Something changed within the step; seen on a terminal only.
    pub(super) fn note(&self, what: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(what);
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
