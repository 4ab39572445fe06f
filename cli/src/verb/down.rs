// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade down`: takes a child or an IKE SA down.

use std::time::Duration;

use super::up::Target;
use crate::daemon::{ANSWER, DaemonArguments, json};
use crate::failure::Outcome;

/// How long the daemon itself waits for the peer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Take a child SA down, or an IKE SA with all its children, and wait until it is gone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  esplanade down net\n  esplanade down --ike site")]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let message = arguments.target.message();
    let response = arguments
        .daemon
        .request("terminate", &message, PATIENCE + ANSWER)?;
    arguments.daemon.show(&json(&response), || {
        format!("{} is down", arguments.target.name())
    })
}
