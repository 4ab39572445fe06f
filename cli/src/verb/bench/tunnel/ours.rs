// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two `ikev2d` with software ESP.

use anyhow::Result;
use zeroize::Zeroizing;

use super::ground::{End, Ground, MTU, Running, await_listener};
use crate::verb::demo::{daemon_program, random_secret};

pub(super) const SUITE: &str = "aes128gcm16-esn";

pub(super) fn find() -> Result<String, String> {
    let found = daemon_program().map_err(|error| format!("ikev2d: {error}"))?;
    Ok(found.display().to_string())
}

pub(super) fn start(ground: &Ground, udp: bool, busy_poll: u32) -> Result<Running> {
    let program = daemon_program()?;
    let secret = random_secret()?;
    let mut running = Running::default();
    // The responder first, so that the initiator's first message finds it.
    for (end, peer) in ground.pairs().into_iter().rev() {
        let config = end.write(
            "ikev2d.toml",
            &configuration(end, peer, &secret, (udp, busy_poll)),
        )?;
        let mut process = end.spawn(&program, |command| {
            command.arg("--config").arg(config);
        })?;
        await_listener(&end.directory.join("vici"), &mut process)?;
        running.add(process);
    }
    Ok(running)
}

fn configuration(
    end: &End,
    peer: &End,
    secret: &str,
    (udp, busy_poll): (bool, u32),
) -> Zeroizing<String> {
    let vici = end.directory.join("vici");
    let vici = toml::Value::String(vici.display().to_string());
    let start = if end.name == "a" { "start" } else { "none" };
    Zeroizing::new(format!(
        r#"[daemon]
vici_socket = {vici}
device = "software"
log_level = "warn"
tun = {{ name = "esp0", mtu = {MTU}, busy_poll = {busy_poll} }}

[connections.gw]
version = 2
local_addrs = ["{outer}"]
remote_addrs = ["{peer_outer}"]
proposals = ["aes128gcm16-prfsha256-x25519"]
encap = {udp}
keyingtries = 0
local = {{ auth = "psk", id = "{name}.test" }}
remote = {{ auth = "psk", id = "{peer_name}.test" }}

[connections.gw.children.net]
local_ts = ["{inner}/32"]
remote_ts = ["{peer_inner}/32"]
esp_proposals = ["{SUITE}"]
start_action = "{start}"

[secrets.ike-1]
secret = "{secret}"
"#,
        outer = end.outer,
        peer_outer = peer.outer,
        name = end.name,
        peer_name = peer.name,
        inner = end.inner,
        peer_inner = peer.inner,
    ))
}
