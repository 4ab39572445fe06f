// SPDX-License-Identifier: Apache-2.0 OR MIT
//! WireGuards in user space.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bench_harness::peers::in_path;

use super::ground::{Ground, MTU, Running, await_listener};

pub(super) const SUITE: &str = "chacha20poly1305";
/// Where each leaves its socket, by what `wg` looks for.
const SOCKETS: &str = "/var/run/wireguard";
const PORT: u16 = 51820;

/// An implementation.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Program {
    pub(super) name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
}

pub(super) const WIREGUARD_GO: Program = Program {
    name: "wireguard-go",
    program: "wireguard-go",
    arguments: &["-f"],
};
pub(super) const BORINGTUN: Program = Program {
    name: "boringtun",
    program: "boringtun-cli",
    arguments: &["-f", "--disable-drop-privileges"],
};
pub(super) const GOTATUN: Program = Program {
    name: "gotatun",
    program: "gotatun",
    arguments: &["-f", "--disable-drop-privileges"],
};

impl Program {
    pub(super) fn find(&self) -> Result<String, String> {
        let found = in_path(self.program)
            .ok_or_else(|| format!("{}: no {} in the path", self.name, self.program))?;
        in_path("wg")
            .ok_or_else(|| format!("{}: no wg (apt-get install wireguard-tools)", self.name))?;
        Ok(found.display().to_string())
    }

    pub(super) fn start(&self, ground: &Ground) -> Result<Running> {
        let mut running = Running::default();
        let key = |end: &super::ground::End| -> Result<(String, String)> {
            let private = end.namespace.run("wg", &["genkey"])?;
            let public = end.namespace.run_with_input("wg", &["pubkey"], &private)?;
            Ok((private.trim().to_owned(), public.trim().to_owned()))
        };
        let [a, b] = &ground.ends;
        let (mine, theirs) = (key(a)?, key(b)?);
        let keys = [(&mine.0, &theirs.1), (&theirs.0, &mine.1)];
        for ((end, peer), (private, public)) in ground.pairs().into_iter().zip(keys) {
            // The sockets of all namespaces lie in one folder.
            let device = format!("wg{}{}", std::process::id(), end.name);
            let mut process = end.spawn(self.program, |command| {
                command
                    .args(self.arguments)
                    .arg(&device)
                    .envs([("LOG_LEVEL", "error"), ("WG_LOG_LEVEL", "error")]);
            })?;
            let socket = PathBuf::from(SOCKETS).join(format!("{device}.sock"));
            await_listener(&socket, &mut process).context(self.name)?;
            running.add(process);
            let text = format!(
                "[Interface]\nPrivateKey = {private}\nListenPort = {PORT}\n[Peer]\nPublicKey = {public}\n\
                 Endpoint = {}:{PORT}\nAllowedIPs = {}/32\n",
                peer.outer, peer.inner
            );
            let file = end.write("wg.conf", &text)?;
            let file = file.display().to_string();
            end.namespace.run("wg", &["setconf", &device, &file])?;
            end.namespace
                .ip(&format!("link set dev {device} mtu {MTU} up"))?;
            end.namespace
                .route(&format!("{} dev {device} src {}", peer.inner, end.inner))?;
        }
        Ok(running)
    }
}
