// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two strongSwans with ESP in user space, by its plugin kernel-libipsec.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use zeroize::Zeroizing;

use super::ground::{End, Ground, Running, await_listener};
use crate::verb::demo::random_secret;

pub(super) const SUITE: &str = "aes128gcm16";

const DAEMON: &str = "/usr/sbin/charon-systemd";
const PLUGIN: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
/// Seconds that one call of swanctl may take.
const PATIENCE: &str = "20";

pub(super) fn find() -> Result<String, String> {
    for file in [DAEMON, PLUGIN] {
        if !Path::new(file).exists() {
            return Err(format!(
                "strongswan: no {file} (apt-get install charon-systemd strongswan-swanctl \
                 libcharon-extra-plugins)"
            ));
        }
    }
    // The daemon itself takes no --version: it would start.
    let output = Command::new("swanctl").arg("--help").output();
    let output = output.map_err(|error| format!("strongswan: swanctl: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .next()
        .unwrap_or("strongSwan")
        .trim_end_matches(" swanctl");
    Ok(format!("{version}, kernel-libipsec"))
}

pub(super) fn start(ground: &Ground) -> Result<Running> {
    let secret = random_secret()?;
    let mut running = Running::default();
    for (end, peer) in ground.pairs().into_iter().rev() {
        let daemon = end.write("strongswan.conf", &daemon_configuration(end))?;
        end.write("swanctl/swanctl.conf", &connection(end, peer, &secret))?;
        let mut process = end.spawn(DAEMON, |command| {
            command.env("STRONGSWAN_CONF", daemon);
        })?;
        await_listener(&end.directory.join("vici"), &mut process)?;
        running.add(process);
        swanctl(end, &["--load-all"])?;
    }
    let [a, _] = &ground.ends;
    swanctl(a, &["--initiate", "--child", "net"])?;
    Ok(running)
}

fn swanctl(end: &End, arguments: &[&str]) -> Result<()> {
    let uri = format!("unix://{}", end.directory.join("vici").display());
    let directory = format!("SWANCTL_DIR={}", end.directory.join("swanctl").display());
    let mut line = vec![directory.as_str(), "timeout", PATIENCE, "swanctl"];
    line.extend(arguments);
    line.extend(["--uri", uri.as_str()]);
    end.namespace.run("env", &line)?;
    Ok(())
}

fn daemon_configuration(end: &End) -> String {
    let vici = end.directory.join("vici");
    // kernel-libipsec takes a thread for each of its devices and queues: eight are too few to answer.
    format!(
        "charon {{
 load = random nonce aes sha1 sha2 hmac kdf gmp curve25519 openssl gcm drbg pem pkcs1 pubkey kernel-libipsec kernel-netlink socket-default vici updown
 threads = 24
 plugins {{
  vici {{
   socket = unix://{}
  }}
  kernel-libipsec {{
   load = yes
   allow_peer_ts = yes
  }}
  kernel-netlink {{
   fwmark = !0x42
  }}
  socket-default {{
   fwmark = 0x42
  }}
 }}
 syslog {{
  daemon {{
   default = -1
  }}
 }}
}}
charon-systemd {{
 journal {{
  default = -1
 }}
}}
",
        vici.display()
    )
}

fn connection(end: &End, peer: &End, secret: &str) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "connections {{
 gw {{
  version = 2
  local_addrs = {}
  remote_addrs = {}
  proposals = aes128gcm16-prfsha256-x25519
  local {{
   auth = psk
   id = {}.test
  }}
  remote {{
   auth = psk
   id = {}.test
  }}
  children {{
   net {{
    local_ts = {}/32
    remote_ts = {}/32
    esp_proposals = {SUITE}
   }}
  }}
 }}
}}
secrets {{
 ike-1 {{
  secret = \"{secret}\"
 }}
}}
",
        end.outer, peer.outer, end.name, peer.name, end.inner, peer.inner,
    ))
}
