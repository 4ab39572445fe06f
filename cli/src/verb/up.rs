// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade up`: brings a child or an IKE SA up.

use std::time::Duration;

use crate::daemon::{ANSWER, DaemonArguments, json};
use crate::failure::Outcome;
use crate::vici::Section;

/// Bring a child SA up, or an IKE SA alone, and wait for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  esplanade up net\n  esplanade up --ike site")]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Seconds to wait for it.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// What to bring up or down.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Target {
    /// The child, as configured.
    #[arg(value_name = "CHILD")]
    child: Option<String>,
    /// The connection: alone for its IKE SA, beside CHILD to say which one's child is meant.
    #[arg(long, value_name = "NAME")]
    ike: Option<String>,
}

impl Target {
    pub(crate) fn message(&self) -> Section {
        let mut message = Section::default();
        for (key, name) in [("child", &self.child), ("ike", &self.ike)] {
            if let Some(name) = name {
                message.put(key, name);
            }
        }
        message
    }

    pub(crate) fn name(&self) -> &str {
        let name = self.child.as_deref().or(self.ike.as_deref());
        name.unwrap_or_default()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let limit = Duration::from_secs(arguments.timeout);
    let mut message = arguments.target.message();
    message.put("timeout", limit.as_millis());
    let response = arguments
        .daemon
        .request("initiate", &message, limit + ANSWER)?;
    arguments.daemon.show(&json(&response), || {
        format!("{} is up", arguments.target.name())
    })
}
