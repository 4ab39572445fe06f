// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Simulated cards beneath gateways, and what `esplanade` says of both.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use netlab::process::{Guarded, wait_for_listener};
use serde_json::Value;

use super::{Gateway, PATIENCE};

/// A simulated card at a socket, with these further arguments.
pub(crate) fn simulated(socket: &Path, more: &[&str]) -> Guarded {
    let mut command = Command::new(tests::program("esplanade"));
    command
        .args(["sim", "--socket"])
        .arg(socket)
        .args(more)
        .stdin(Stdio::null());
    let mut card = Guarded::spawn(command).unwrap();
    wait_for_listener(socket, PATIENCE, || {
        assert!(card.ended()?.is_none(), "the card ended");
        Ok(())
    })
    .unwrap();
    card
}

/// Runs `esplanade` for a gateway.
pub(crate) fn esplanade(gateway: &Gateway, arguments: &[&str]) -> Output {
    Command::new(tests::program("esplanade"))
        .args(arguments)
        .arg("--socket")
        .arg(&gateway.vici)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What it says, as JSON.
pub(crate) fn json(gateway: &Gateway, arguments: &[&str]) -> Value {
    let output = esplanade(gateway, &[arguments, &["-o", "json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{arguments:?}: {error}\n{}",
        gateway.tail()
    );
    serde_json::from_slice(&output.stdout).unwrap()
}
