// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses that peers give us (RFC 7296 §3.15) are put on the interface, and what comes with them is
//! handed to a program of the administrator's; both are undone at the end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use ikev2d_proto::wire::configuration::Attribute;

use super::Daemon;

/// The addresses, and how many IKE SAs have each: two while one is replaced by another.
#[derive(Default)]
pub(super) struct VirtualIps {
    all: BTreeMap<IpAddr, usize>,
    hook: Option<Hook>,
}

/// Calls the program, one call after another, on a thread of its own.
struct Hook {
    calls: Sender<Call>,
    thread: JoinHandle<()>,
}

struct Call {
    program: PathBuf,
    verb: &'static str,
    environment: Vec<(&'static str, String)>,
}

impl Call {
    fn run(self) {
        let mut command = Command::new(&self.program);
        command.arg(self.verb).envs(self.environment);
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                tracing::warn!(program = %self.program.display(), %status, "resolve_hook")
            }
            Err(error) => tracing::warn!(program = %self.program.display(), %error, "resolve_hook"),
        }
    }
}

/// DNS servers among what a peer has told.
pub(crate) fn dns_servers(attributes: &[Attribute]) -> Vec<IpAddr> {
    let servers = attributes.iter().filter_map(|attribute| match attribute {
        Attribute::Ip4Dns(Some(v4)) => Some(IpAddr::from(*v4)),
        Attribute::Ip6Dns(Some(v6)) => Some(IpAddr::from(*v6)),
        _ => None,
    });
    servers.collect()
}

fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(" ")
}

impl Daemon {
    /// Puts addresses on the interface.
    pub(super) async fn configured(&mut self, addresses: &[IpAddr], attributes: &[Attribute]) {
        for address in addresses {
            let count = self.virtual_ips.all.entry(*address).or_default();
            *count += 1;
            if *count == 1 {
                self.routes.add_address(None, (*address).into()).await;
            }
        }
        self.call_hook("up", addresses, attributes);
    }

    /// Takes them off again.
    pub(super) async fn unconfigured(&mut self, addresses: &[IpAddr], attributes: &[Attribute]) {
        for address in addresses {
            let Some(count) = self.virtual_ips.all.get_mut(address) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                self.virtual_ips.all.remove(address);
                self.routes.remove_address(None, (*address).into()).await;
            }
        }
        self.call_hook("down", addresses, attributes);
    }

    fn call_hook(&mut self, verb: &'static str, addresses: &[IpAddr], attributes: &[Attribute]) {
        let Some(program) = self.config.daemon.resolve_hook.clone() else {
            return;
        };
        let hook = self.virtual_ips.hook.get_or_insert_with(|| {
            let (calls, due) = channel::<Call>();
            let thread = std::thread::spawn(move || due.into_iter().for_each(Call::run));
            Hook { calls, thread }
        });
        let call = Call {
            program,
            verb,
            environment: vec![
                ("INTERFACE", self.plane.interface().to_owned()),
                ("ADDRESSES", joined(addresses)),
                ("DNS_SERVERS", joined(&dns_servers(attributes))),
            ],
        };
        let _ = hook.calls.send(call);
    }

    /// At the end: what is still there is undone, and the last call waited for.
    pub(super) async fn undo_configuration(&mut self) {
        let left: Vec<(Vec<IpAddr>, Vec<Attribute>)> = self
            .endpoint
            .ike_sas()
            .filter(|sa| !sa.local_vips.is_empty())
            .map(|sa| (sa.local_vips.to_vec(), sa.attributes.to_vec()))
            .collect();
        for (addresses, attributes) in left {
            self.unconfigured(&addresses, &attributes).await;
        }
        if let Some(Hook { calls, thread }) = self.virtual_ips.hook.take() {
            drop(calls);
            let _ = thread.join();
        }
    }
}
