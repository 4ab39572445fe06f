// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One site of the demo: a namespace with a simulated card and an `ikev2d` that uses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use netlab::Namespace;
use netlab::process::{Guarded, wait_for_listener};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::vici::{Client, Section, Value};

/// How long a process may take until it listens.
const READY: Duration = Duration::from_secs(10);
/// How long the daemon may take to answer a question.
const ANSWER: Duration = Duration::from_secs(3);
/// The connection's and the child's name in the configuration.
const CONNECTION: &str = "gw";
const CHILD: &str = "net";

/// Where `ikev2d` is: beside this program.
pub(crate) fn daemon_program() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot tell where this program is")?;
    let daemon = this.with_file_name("ikev2d");
    if !daemon.is_file() {
        bail!(
            "{} is missing: build it with `cargo build --package ikev2d` in the same profile",
            daemon.display()
        );
    }
    Ok(daemon)
}

/// What a card's data path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Model {
    /// The functional model.
    Functional,
    /// The verilated RTL.
    Rtl,
}

/// How a site's packets are moved.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    /// By the daemon's workers, with the card at their side.
    Lookaside(Model),
    /// By the card, whose wire port lies in this other namespace.
    Inline(&'a Namespace),
}

/// Interfaces that a card in inline mode makes in its gateway: for packets in the clear, and for what
/// it leaves to the host.
pub(super) const HOST_PORT: &str = "clear";
pub(super) const EXCEPTION_PORT: &str = "except";

/// One end of the tunnel as the plan has it.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// `a` or `b`.
    pub(super) name: &'static str,
    /// Its address on the wire.
    pub(super) outer: IpAddr,
    /// Its address in the protected network.
    pub(super) inner: IpAddr,
    /// The protected network.
    pub(super) network: &'static str,
    /// Whether it starts the tunnel.
    pub(super) initiates: bool,
}

/// What both sites are started from.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    /// The pre-shared key.
    pub(super) secret: &'a Zeroizing<String>,
    /// `ikev2d`.
    pub(super) daemon: &'a Path,
    /// For sockets and configurations.
    pub(super) directory: &'a Path,
    /// For what stays.
    pub(super) out: &'a Path,
}

/// A running site.
pub(super) struct Gateway {
    pub(super) site: Site,
    pub(super) namespace: Namespace,
    // Before the card, so that it goes first.
    daemon: Guarded,
    card: Option<Guarded>,
    model: Model,
    directory: PathBuf,
    logs: PathBuf,
}

/// An SA pair as the daemon lists it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Child {
    /// Where it lives: `device` or `software`.
    pub(super) engine: String,
    /// Why it does not live in the device, where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// SPI of the SA that receives.
    pub(super) spi_in: String,
    /// SPI of the SA that sends.
    pub(super) spi_out: String,
    /// What IKE negotiated for ESP.
    pub(super) esp_suite: String,
    /// What IKE negotiated for itself.
    pub(super) ike_suite: String,
}

/// What the daemon says about its card.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct DeviceCounters {
    /// `healthy`, `lost`, …
    pub(super) health: String,
    /// Packets that the card sealed.
    pub(super) sealed: u64,
    /// Packets that the card opened.
    pub(super) opened: u64,
    /// Operations that the card answered with an error.
    pub(super) errors: u64,
    /// Completions that did not fit what was asked.
    pub(super) bogus_completions: u64,
    /// How often the card was lost.
    pub(super) lost_count: u64,
    /// From noticing the last loss to the first packet sealed in software.
    pub(super) last_fallback_us: Option<u64>,
}

impl Gateway {
    /// Starts the card, then the daemon, and waits until both listen.
    pub(super) fn start(
        site: Site,
        namespace: Namespace,
        peer: &Site,
        ground: Ground<'_>,
        mode: Mode<'_>,
    ) -> Result<Self> {
        let Ground {
            secret,
            daemon,
            directory,
            out,
        } = ground;
        let name = site.name;
        let logs = out.join("logs");
        fs::create_dir_all(&logs)?;
        let directory = directory.join(name);
        fs::create_dir(&directory)?;
        let mut card = start_card(name, &namespace, &directory, &logs, mode)?;
        if let Mode::Inline(_) = mode {
            namespace.sysctl(&format!("net.ipv6.conf.{EXCEPTION_PORT}.disable_ipv6"), "1")?;
            namespace.ip(&format!("link set dev {EXCEPTION_PORT} up"))?;
            namespace.address(EXCEPTION_PORT, &format!("{}/24", site.outer))?;
        }
        let keys = out.join(format!("keys-{name}"));
        let config = directory.join("ikev2d.toml");
        write_private(
            &config,
            &configuration(&site, peer, secret, &directory, &keys, mode),
        )?;

        let log = logs.join(format!("ikev2d-{name}.log"));
        let mut command = namespace.command(daemon);
        command.arg("--config").arg(&config);
        to_log(&mut command, &log)?;
        let mut daemon =
            Guarded::spawn(command).with_context(|| format!("cannot start ikev2d of {name}"))?;
        wait_for_listener(&directory.join("vici"), READY, || {
            still_runs(&mut daemon, "ikev2d", &log)?;
            still_runs(
                &mut card,
                "the card",
                &logs.join(format!("card-{name}.log")),
            )
        })
        .with_context(|| format!("ikev2d of {name} is not ready"))?;
        Ok(Self {
            site,
            namespace,
            card: Some(card),
            model: match mode {
                Mode::Lookaside(model) => model,
                Mode::Inline(_) => Model::Functional,
            },
            daemon,
            directory,
            logs,
        })
    }

    /// An error if the daemon, or a card that should run, has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        let name = self.site.name;
        still_runs(
            &mut self.daemon,
            "ikev2d",
            &self.logs.join(format!("ikev2d-{name}.log")),
        )?;
        if let Some(card) = &mut self.card {
            still_runs(
                card,
                "the card",
                &self.logs.join(format!("card-{name}.log")),
            )?;
        }
        Ok(())
    }

    /// Kills the card with SIGKILL.
    pub(super) fn kill_card(&mut self) -> Result<()> {
        let mut card = self.card.take().ok_or_else(|| anyhow!("no card to kill"))?;
        card.kill().context("cannot kill the card")?;
        Ok(())
    }

    /// Puts a new card where the killed one was.
    pub(super) fn replace_card(&mut self) -> Result<()> {
        let (name, namespace) = (self.site.name, &self.namespace);
        let card = start_card(
            name,
            namespace,
            &self.directory,
            &self.logs,
            Mode::Lookaside(self.model),
        )?;
        self.card = Some(card);
        Ok(())
    }

    /// The child SAs that are installed.
    pub(super) fn children(&self) -> Result<Vec<Child>> {
        let sas = self
            .ask()?
            .stream("list-sas", "list-sa", &Section::default())?;
        let mut children = Vec::new();
        for (_, ike) in sas.iter().flat_map(Section::sections) {
            let installed = ike
                .section("child-sas")
                .into_iter()
                .flat_map(Section::sections);
            for (_, child) in
                installed.filter(|(_, child)| child.text("state") == Some("INSTALLED"))
            {
                let text = |key| child.text(key).unwrap_or_default().to_owned();
                children.push(Child {
                    engine: text("engine"),
                    reason: child.text("engine-reason").map(str::to_owned),
                    spi_in: text("spi-in"),
                    spi_out: text("spi-out"),
                    esp_suite: suite(
                        child,
                        &["encr-alg", "integ-alg", "dh-group"],
                        child.text("esn") == Some("1"),
                    ),
                    ike_suite: suite(
                        ike,
                        &["encr-alg", "integ-alg", "prf-alg", "dh-group"],
                        false,
                    ),
                });
            }
        }
        Ok(children)
    }

    /// The card's counters, as the daemon's driver read them.
    pub(super) fn device(&self) -> Result<DeviceCounters> {
        let answer = self.ask()?.request("devices", &Section::default())?;
        let (_, device) = answer
            .sections()
            .next()
            .ok_or_else(|| anyhow!("ikev2d of {} lists no device", self.site.name))?;
        let number = |key| device.number(key).unwrap_or(0);
        Ok(DeviceCounters {
            health: device.text("health").unwrap_or("unknown").to_owned(),
            sealed: number("sealed"),
            opened: number("opened"),
            errors: number("errors"),
            bogus_completions: number("bogus-completions"),
            lost_count: number("lost-count"),
            last_fallback_us: device.number("last-fallback-us").filter(|us| *us > 0),
        })
    }

    /// Asks the daemon to start the tunnel and waits for it.
    pub(super) fn initiate(&self, limit: Duration) -> Result<()> {
        let text = |text: &str| Value::Text(text.to_owned());
        let message = Section(vec![
            ("child".to_owned(), text(CHILD)),
            ("ike".to_owned(), text(CONNECTION)),
            ("timeout".to_owned(), text(&limit.as_millis().to_string())),
        ]);
        Client::connect(&self.directory.join("vici"), limit + ANSWER)?
            .request("initiate", &message)?;
        Ok(())
    }

    /// Has the daemon rekey the tunnel.
    pub(super) fn rekey(&self) -> Result<()> {
        let message = Section(vec![("child".to_owned(), Value::Text(CHILD.to_owned()))]);
        self.ask()?.request("rekey", &message)?;
        Ok(())
    }

    /// What the data plane counts, by name.
    pub(super) fn dataplane(&self) -> Result<Vec<(String, u64)>> {
        let answer = self.ask()?.request("stats", &Section::default())?;
        let counts = answer.section("dataplane");
        let entries = counts.into_iter().flat_map(|counts| &counts.0);
        Ok(entries
            .filter_map(|(key, value)| match value {
                Value::Text(text) => Some((key.clone(), text.parse().ok()?)),
                _ => None,
            })
            .collect())
    }

    /// Ends the daemon, which deletes its SAs, then the card.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.daemon.stop().context("cannot stop ikev2d")?;
        if let Some(card) = &mut self.card {
            card.stop().context("cannot stop the card")?;
        }
        Ok(())
    }

    fn ask(&self) -> Result<Client> {
        Client::connect(&self.directory.join("vici"), ANSWER)
            .with_context(|| format!("ikev2d of {} does not answer", self.site.name))
    }
}

fn start_card(
    name: &str,
    namespace: &Namespace,
    directory: &Path,
    logs: &Path,
    mode: Mode<'_>,
) -> Result<Guarded> {
    let socket = directory.join("card");
    let log = logs.join(format!("card-{name}.log"));
    let program = std::env::current_exe()?;
    let mut command = match mode {
        Mode::Lookaside(_) => Command::new(program),
        // Where its interfaces shall be.
        Mode::Inline(_) => namespace.command(program),
    };
    command
        .args(["--log-level", "info", "sim", "--socket"])
        .arg(&socket);
    if let Mode::Lookaside(Model::Rtl) = mode {
        command.args(["--model", "rtl"]);
    }
    if let Mode::Inline(wire) = mode {
        command
            .arg(format!("--wire=af-packet:wire@{}", wire.path()))
            .arg(format!("--host=tun:{HOST_PORT}"))
            .arg(format!("--exception=tap:{EXCEPTION_PORT}"));
    }
    to_log(&mut command, &log)?;
    let mut card =
        Guarded::spawn(command).with_context(|| format!("cannot start the card of {name}"))?;
    wait_for_listener(&socket, READY, || still_runs(&mut card, "the card", &log))
        .with_context(|| format!("the card of {name} is not ready"))?;
    Ok(card)
}

fn to_log(command: &mut Command, log: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .env("NO_COLOR", "1");
    Ok(())
}

fn still_runs(process: &mut Guarded, what: &str, log: &Path) -> io::Result<()> {
    let Some(status) = process.ended()? else {
        return Ok(());
    };
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines
        .get(lines.len().saturating_sub(12)..)
        .unwrap_or_default();
    Err(io::Error::other(format!(
        "{what} ended with {status}; the end of {}:\n  {}",
        log.display(),
        tail.join("\n  ")
    )))
}

fn suite(section: &Section, keys: &[&str], esn: bool) -> String {
    let mut parts = Vec::new();
    for key in keys {
        let Some(name) = section.text(key).filter(|name| !name.is_empty()) else {
            continue;
        };
        parts.push(name.to_owned());
        if let (true, Some(size)) = (*key == "encr-alg", section.text("encr-keysize")) {
            parts.push(size.to_owned());
        }
    }
    if esn {
        parts.push("ESN".to_owned());
    }
    parts.join("-")
}

fn configuration(
    site: &Site,
    peer: &Site,
    secret: &str,
    directory: &Path,
    keys: &Path,
    mode: Mode<'_>,
) -> Zeroizing<String> {
    let (interface, plane, block) = match mode {
        Mode::Lookaside(_) => ("esp0", "tun", 1 << 16),
        // Numbers for a while, so that the card goes on without the daemon.
        Mode::Inline(_) => (HOST_PORT, "inline", 1 << 20),
    };
    // A path may hold what TOML would take for syntax.
    let quoted = |path: &Path| toml::Value::String(path.display().to_string());
    let vici = quoted(&directory.join("vici"));
    let device = toml::Value::String(format!("vfio-user:{}", directory.join("card").display()));
    let keys = quoted(keys);
    let start = if site.initiates { "start" } else { "none" };
    Zeroizing::new(format!(
        r#"[daemon]
vici_socket = {vici}
device = {device}
dataplane = "{plane}"
failover = {{ block = {block} }}
tun = {{ name = "{interface}", mtu = 1400, queues = 1 }}
key_log = {keys}
log_level = "info"

[connections.{CONNECTION}]
version = 2
local_addrs = ["{outer}"]
remote_addrs = ["{peer_outer}"]
proposals = ["aes256gcm16-prfsha384-x25519"]
encap = true
local = {{ auth = "psk", id = "{name}.demo" }}
remote = {{ auth = "psk", id = "{peer_name}.demo" }}

[connections.{CONNECTION}.children.{CHILD}]
local_ts = ["{network}"]
remote_ts = ["{peer_network}"]
esp_proposals = ["aes256gcm16-esn"]
start_action = "{start}"
hw_offload = "auto"

[secrets.ike-1]
secret = "{secret}"
"#,
        outer = site.outer,
        peer_outer = peer.outer,
        name = site.name,
        peer_name = peer.name,
        network = site.network,
        peer_network = peer.network,
    ))
}

/// Writes a new file that nobody else reads.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file: File = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_reads_like_a_proposal() {
        let text = |text: &str| Value::Text(text.to_owned());
        let section = Section(vec![
            ("encr-alg".to_owned(), text("AES_GCM_16")),
            ("encr-keysize".to_owned(), text("256")),
            ("integ-alg".to_owned(), text("")),
        ]);
        assert_eq!(
            suite(&section, &["encr-alg", "integ-alg", "dh-group"], true),
            "AES_GCM_16-256-ESN"
        );
    }

    #[test]
    fn the_configuration_is_toml_whatever_the_paths() {
        let site = |name| Site {
            name,
            outer: [10, 77, 0, 1].into(),
            inner: [10, 1, 0, 1].into(),
            network: "10.1.0.0/24",
            initiates: name == "a",
        };
        let text = configuration(
            &site("a"),
            &site("b"),
            "s3cret",
            Path::new("/tmp/a \"b\\c"),
            Path::new("/k"),
            Mode::Lookaside(Model::Functional),
        );
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(
            table["daemon"]["vici_socket"].as_str(),
            Some("/tmp/a \"b\\c/vici")
        );
        assert_eq!(
            table["connections"]["gw"]["children"]["net"]["start_action"].as_str(),
            Some("start")
        );
    }
}
