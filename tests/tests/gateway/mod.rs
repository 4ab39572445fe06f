// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Gateways for end-to-end tests: our daemon and strongSwan's, each in a namespace of its own.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod card;
pub(crate) mod rekey;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlab::Namespace;
use netlab::link::veth;
use netlab::process::{Guarded, wait_for_listener};
use netlab::traffic::{await_answer, ping, probe};

/// The secret that every gateway here has.
pub(crate) const SECRET: &str = "Interop-PSK-0123456789";
/// Carol's, to EAP.
pub(crate) const PASSWORD: &str = "open sesame";
/// The postquantum one that strongSwan has, by the name of `ppk.test` (RFC 8784).
pub(crate) const PPK: &str = "Interop-PPK-0123456789-0123456789";
const DAEMON: &str = "/usr/sbin/charon-systemd";
const ESP: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
/// How long anything may take that comes for sure: a busy machine may stand still for half of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds that comes for sure.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        // Before what is looked at: that may be what stands still.
        let late = Instant::now() > end;
        if holds() {
            return;
        }
        assert!(!late, "{what} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a process has slept for half a second: it has asked for a daemon's events then, which nothing
/// else tells.
pub(crate) fn wait_idle(process: u32) {
    let mut asleep = (String::new(), 0);
    wait("a process that waits", || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let lines = status.lines();
        let state = lines.filter(|line| line.starts_with("State") || line.contains("ctxt"));
        let state: String = state.collect();
        let same = state.starts_with("State:\tS") && state == asleep.0;
        asleep = (state, if same { asleep.1 + 1 } else { 0 });
        asleep.1 == 10
    });
}

/// Two hosts on a wire, each with a protected address behind it.
pub(crate) struct Wire {
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
}

impl Wire {
    pub(crate) fn new() -> Self {
        netlab::ensure_privileges().unwrap();
        let (a, b) = (Namespace::new("a").unwrap(), Namespace::new("b").unwrap());
        veth((&a, "wire"), (&b, "wire")).unwrap();
        for (namespace, number) in [(&a, 1), (&b, 2)] {
            let outer = format!("10.77.0.{number}/24");
            namespace.address("wire", &outer).unwrap();
            let inner = format!("10.{number}.0.1/32");
            namespace.address("lo", &inner).unwrap();
        }
        Self { a, b }
    }

    /// Nothing passes without a tunnel.
    pub(crate) fn assert_blocked(&self) {
        let (from, to) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 2, 0, 1]));
        assert!(probe(&self.a, from, to, 2).is_ok_and(|report| report.received == 0));
    }

    /// Pings pass between the protected addresses, both ways, once the tunnel is in use at both ends.
    pub(crate) fn assert_passes(&self, when: &str) {
        let (inner_a, inner_b) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 2, 0, 1]));
        await_answer(&self.a, inner_a, inner_b);
        self.assert_still_passes(when);
    }

    /// As [`assert_passes`](Self::assert_passes) where a tunnel has been in use: not one packet is lost.
    pub(crate) fn assert_still_passes(&self, when: &str) {
        for (namespace, from, to) in self.flows() {
            let report = ping(namespace, from, to, 5).unwrap();
            assert_eq!(report.received, 5, "{when}: {from} to {to}: {report:?}");
        }
    }

    /// From each protected address to the other.
    pub(crate) fn flows(&self) -> [rekey::Flow<'_>; 2] {
        let (a, b) = (IpAddr::from([10, 1, 0, 1]), IpAddr::from([10, 2, 0, 1]));
        [(&self.a, a, b), (&self.b, b, a)]
    }
}

/// A daemon with its control socket.
pub(crate) struct Gateway {
    process: Guarded,
    pub(crate) vici: PathBuf,
    pub(crate) log: PathBuf,
}

impl Gateway {
    /// Starts `ikev2d` with connections, and with the secret.
    pub(crate) fn ikev2d(namespace: &Namespace, directory: &Path, connections: &str) -> Self {
        let secret = format!("[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
        let configuration = format!("retransmit_timeout = 1.0\n{connections}\n{secret}");
        Self::ikev2d_with(namespace, directory, &configuration)
    }

    /// Starts `ikev2d` with its own part of the configuration in front of `configuration`.
    pub(crate) fn ikev2d_with(
        namespace: &Namespace,
        directory: &Path,
        configuration: &str,
    ) -> Self {
        Self::ikev2d_on(namespace, directory, "software", configuration)
    }

    /// As [`ikev2d_with`](Self::ikev2d_with), on a device.
    pub(crate) fn ikev2d_on(
        namespace: &Namespace,
        directory: &Path,
        device: &str,
        configuration: &str,
    ) -> Self {
        let tun = "name = \"esp0\", mtu = 1400, queues = 1";
        Self::ikev2d_of(namespace, directory, (device, tun), configuration)
    }

    /// As [`ikev2d_with`](Self::ikev2d_with), with a TUN interface of these settings.
    pub(crate) fn ikev2d_tun(
        namespace: &Namespace,
        directory: &Path,
        tun: &str,
        configuration: &str,
    ) -> Self {
        Self::ikev2d_of(namespace, directory, ("software", tun), configuration)
    }

    /// As [`ikev2d_with`](Self::ikev2d_with), on a device and with a TUN interface of these settings.
    pub(crate) fn ikev2d_of(
        namespace: &Namespace,
        directory: &Path,
        (device, tun): (&str, &str),
        configuration: &str,
    ) -> Self {
        fs::create_dir_all(directory).unwrap();
        let (vici, log) = (directory.join("vici"), directory.join("log"));
        let file = directory.join("ikev2d.toml");
        let text = format!(
            "[daemon]\nvici_socket = {vici:?}\ndevice = {device:?}\nlog_level = \"debug\"\nkey_log = {keys:?}\n\
             tun = {{ {tun} }}\n\
             {configuration}\n",
            keys = directory.join("keys"),
        );
        fs::write(&file, text).unwrap();
        let mut command = namespace.command(tests::program("ikev2d"));
        command.arg("--config").arg(&file);
        Self::spawn(command, vici, log)
    }

    /// What `ikev2d`'s data plane has counted.
    pub(crate) fn statistics(&self) -> BTreeMap<String, u64> {
        let mut command = Command::new(tests::program("esplanade"));
        command
            .args(["stats", "-o", "json", "--socket"])
            .arg(&self.vici);
        let text = run(command).unwrap();
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let number =
            |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let counters = all["dataplane"].as_object().unwrap();
        let counters = counters
            .iter()
            .map(|(name, value)| (name.clone(), number(value).unwrap()));
        counters.collect()
    }

    /// Waits until `ikev2d`'s data plane has counted what it should.
    pub(crate) fn wait_statistics(
        &self,
        what: &str,
        fits: impl Fn(&BTreeMap<String, u64>) -> bool,
    ) {
        let end = Instant::now() + PATIENCE;
        loop {
            let late = Instant::now() > end;
            let counts = self.statistics();
            if fits(&counts) {
                return;
            }
            assert!(!late, "{what} does not come: {counts:?}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until its TUN interface takes packets (the kernel drops the very first ones): one that no trap
    /// is for, which neither asks for an SA nor waits for one.
    pub(crate) fn wait_tun(&self, namespace: &Namespace) {
        let (from, to) = (IpAddr::from([10, 77, 0, 1]), IpAddr::from([10, 2, 0, 1]));
        let end = Instant::now() + PATIENCE;
        // An error is an address that is not there yet.
        while probe(namespace, from, to, 1).is_err() || self.statistics()["tun-received"] == 0 {
            assert!(Instant::now() < end, "{}", self.tail());
        }
        assert_eq!(self.statistics()["acquires"], 0);
    }

    /// Starts strongSwan (see [`other_root`]), whose ESP runs in user space too, with connections as in swanctl.conf;
    /// nothing where it is not installed.
    pub(crate) fn strongswan(
        namespace: &Namespace,
        directory: &Path,
        connections: &str,
    ) -> Option<Self> {
        Self::strongswan_with(namespace, directory, connections, "", &[])
    }

    /// As [`strongswan`](Self::strongswan), with settings of charon's own, and files such as
    /// `x509ca/root.pem` beside swanctl.conf.
    pub(crate) fn strongswan_with(
        namespace: &Namespace,
        directory: &Path,
        connections: &str,
        charon: &str,
        files: &[(&str, Vec<u8>)],
    ) -> Option<Self> {
        let Some(root) = other_root() else {
            if !Path::new(DAEMON).exists() || !Path::new(ESP).exists() {
                let wanted = std::env::var_os("CI").is_some();
                assert!(!wanted, "strongSwan is not installed");
                eprintln!("skipped: charon-systemd with kernel-libipsec is not installed");
                return None;
            }
            let command = namespace.command(DAEMON);
            return Some(Self::charon(command, directory, connections, charon, files));
        };
        let mut command = inside(namespace, &root, directory);
        command.arg(DAEMON);
        Some(Self::charon(command, directory, connections, charon, files))
    }

    /// As [`strongswan`](Self::strongswan), where it is one with ML-KEM: that of another system. Nothing elsewhere.
    pub(crate) fn newer_strongswan(
        namespace: &Namespace,
        directory: &Path,
        connections: &str,
    ) -> Option<Self> {
        if other_root().is_none() {
            eprintln!("skipped: ESPLANADE_STRONGSWAN_ROOT names no system with a strongSwan");
            return None;
        }
        Self::strongswan(namespace, directory, connections)
    }

    fn charon(
        mut command: Command,
        directory: &Path,
        connections: &str,
        charon: &str,
        files: &[(&str, Vec<u8>)],
    ) -> Self {
        let swanctl_directory = directory.join("swanctl");
        fs::create_dir_all(&swanctl_directory).unwrap();
        let (vici, log) = (directory.join("vici"), directory.join("log"));
        let settings = directory.join("strongswan.conf");
        // The mark keeps ESP out of the tunnel's own routes; fewer threads than 16 block for ever.
        let text = format!(
            "charon {{\n\
             load = random nonce aes md5 sha1 sha2 hmac cmac xcbc kdf gmp curve25519 openssl gcm ccm chapoly drbg \
             pem pkcs1 pkcs8 x509 pubkey constraints mgf1 eap-identity eap-mschapv2 eap-tls \
             xauth-generic \
             kernel-libipsec kernel-netlink socket-default vici updown\n{charon}\n\
             threads = 24\nretransmit_tries = 3\nretransmit_timeout = 1.0\n\
             plugins {{\n vici {{ socket = unix://{vici} }}\n\
             kernel-libipsec {{ load = yes\n allow_peer_ts = yes }}\n\
             kernel-netlink {{ fwmark = !0x42 }}\n socket-default {{ fwmark = 0x42 }} }}\n\
             filelog {{ log {{ path = {file}\n flush_line = yes\n default = 1\n esp = 2\n ike = 2\n cfg = 2 }} }}\n\
             syslog {{ daemon {{ default = -1 }} }} }}\n\
             charon-systemd {{ journal {{ default = -1 }} }}\n",
            vici = vici.display(),
            file = directory.join("charon.log").display(),
        );
        fs::write(&settings, text).unwrap();
        let text = format!(
            "connections {{\n{connections}\n}}\nsecrets {{ ike-1 {{\n secret = \"{SECRET}\"\n }}\n\
             ppk-1 {{\n id = ppk.test\n secret = \"{PPK}\"\n }}\n\
             eap-1 {{\n id = carol\n secret = \"{PASSWORD}\"\n }} }}\n"
        );
        fs::write(swanctl_directory.join("swanctl.conf"), text).unwrap();
        for (name, octets) in files {
            let path = swanctl_directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, octets).unwrap();
        }
        command.env("STRONGSWAN_CONF", &settings);
        let gateway = Self::spawn(command, vici, log);
        let mut load = gateway.swanctl_command(&["--load-all"]);
        load.env("SWANCTL_DIR", &swanctl_directory);
        run(load).unwrap_or_else(|text| panic!("strongSwan's configuration: {text}"));
        gateway
    }

    /// Starts a daemon, and waits until its control socket is there.
    pub(crate) fn spawn(mut command: Command, vici: PathBuf, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .env("NO_COLOR", "1");
        let mut process = Guarded::spawn(command).unwrap();
        wait_for_listener(&vici, PATIENCE, || {
            let text = || fs::read_to_string(&log).unwrap_or_default();
            assert!(process.ended()?.is_none(), "ended: {}", text());
            Ok(())
        })
        .unwrap();
        Self { process, vici, log }
    }

    fn swanctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["60", "swanctl"])
            .args(arguments)
            .arg("--uri")
            .arg(format!("unix://{}", self.vici.display()));
        command
    }

    /// Runs strongSwan's own control program; what it printed, as an error if it failed.
    pub(crate) fn try_swanctl(&self, arguments: &[&str]) -> Result<String, String> {
        run(self.swanctl_command(arguments))
    }

    /// As [`try_swanctl`](Self::try_swanctl), and it must succeed.
    pub(crate) fn swanctl(&self, arguments: &[&str]) -> String {
        self.try_swanctl(arguments)
            .unwrap_or_else(|text| panic!("swanctl {arguments:?}: {text}\n{}", self.tail()))
    }

    /// Waits until `--list-sas` looks as it should.
    pub(crate) fn wait_sas(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let late = Instant::now() > end;
            let text = self.swanctl(&["--list-sas"]);
            if fits(&text) {
                return text;
            }
            assert!(!late, "{what} does not come: {text}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Packets that strongSwan has dropped since it had just deleted their SA: it takes packets and IKE messages by
    /// different threads, so that an SA's last ones may be looked at after the message behind them.
    pub(crate) fn dropped_behind_deletions(&self) -> usize {
        let log = fs::read_to_string(self.log.with_file_name("charon.log")).unwrap_or_default();
        let dropped = |line: &&str| line.ends_with("does not belong to an installed SA");
        log.lines().filter(dropped).count()
    }

    /// All that strongSwan has logged.
    pub(crate) fn charon_log(&self) -> String {
        fs::read_to_string(self.log.with_file_name("charon.log")).unwrap()
    }

    /// The end of the log.
    pub(crate) fn tail(&self) -> String {
        let text = [&self.log, &self.log.with_file_name("charon.log")]
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .concat();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Kills it: no farewell.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// Tells it to end; whether it did so in good order.
    pub(crate) fn stop(&mut self) -> bool {
        self.process.stop().unwrap().success()
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// The folder of a system whose strongSwan is to be taken instead of the installed one: such as one with ML-KEM
/// (`cargo xtask peers` unpacks Debian testing's).
fn other_root() -> Option<PathBuf> {
    std::env::var_os("ESPLANADE_STRONGSWAN_ROOT").map(PathBuf::from)
}

/// A command, its words to come, in another system's tree below `root`, which sees `directory` by the same path.
/// What is mounted for it, nobody else sees, and it ends with the process.
pub(crate) fn inside(namespace: &Namespace, root: &Path, directory: &Path) -> Command {
    const ENTER: &str = "root=$1 ours=$2; shift 2; mount --rbind /dev \"$root/dev\"; \
         mount --rbind /proc \"$root/proc\"; \
         for own in run tmp; do mount -t tmpfs none \"$root/$own\"; done; \
         mkdir -p \"$root/$ours\"; mount --bind \"$ours\" \"$root/$ours\"; exec chroot \"$root\" \"$@\"";
    fs::create_dir_all(directory).unwrap();
    let mut command = namespace.command("unshare");
    command.args(["--mount", "sh", "-ec", ENTER, "sh"]);
    command.arg(root).arg(directory);
    command
}

/// Runs a command to its end: what it printed, as an error if it failed.
pub(crate) fn run(mut command: Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

/// A connection of `ikev2d` from 10.77.0.OWN to the other host.
pub(crate) fn ours(own: u8, ike: &str, esp: &str, more: &str, child: &str) -> String {
    let peer = 3 - own;
    let name = |number| if number == 1 { "a.test" } else { "b.test" };
    format!(
        "[connections.gw]\nversion = 2\nlocal_addrs = [\"10.77.0.{own}\"]\n\
         remote_addrs = [\"10.77.0.{peer}\"]\nproposals = [\"{ike}\"]\n{more}\n\
         local = {{ auth = \"psk\", id = \"{me}\" }}\nremote = {{ auth = \"psk\", id = \"{them}\" }}\n\
         [connections.gw.children.net]\nlocal_ts = [\"10.{own}.0.0/24\"]\n\
         remote_ts = [\"10.{peer}.0.0/24\"]\nesp_proposals = [\"{esp}\"]\n{child}\n",
        me = name(own),
        them = name(peer),
    )
}

/// A router between two networks that hides the first from the second.
pub(crate) fn router(
    name: &str,
    inside: (&Namespace, &str),
    outside: (&Namespace, &str),
) -> Namespace {
    let router = Namespace::new(name).unwrap();
    veth((inside.0, "wire"), (&router, "in")).unwrap();
    router.address("in", &format!("{}.1/24", inside.1)).unwrap();
    inside
        .0
        .address("wire", &format!("{}.2/24", inside.1))
        .unwrap();
    inside
        .0
        .route(&format!("default via {}.1", inside.1))
        .unwrap();
    veth((&router, "out"), (outside.0, name)).unwrap();
    router
        .address("out", &format!("{}.1/24", outside.1))
        .unwrap();
    outside
        .0
        .address(name, &format!("{}.2/24", outside.1))
        .unwrap();
    router.masquerade("out").unwrap();
    router
}

/// The same for strongSwan.
pub(crate) fn theirs(own: u8, ike: &str, esp: &str) -> String {
    let peer = 3 - own;
    let name = |number| if number == 1 { "a.test" } else { "b.test" };
    format!(
        "gw {{\n version = 2\n local_addrs = 10.77.0.{own}\n remote_addrs = 10.77.0.{peer}\n\
         proposals = {ike}\n local {{\n auth = psk\n id = {me}\n }}\n\
         remote {{\n auth = psk\n id = {them}\n }}\n\
         children {{ net {{\n local_ts = 10.{own}.0.0/24\n remote_ts = 10.{peer}.0.0/24\n\
         esp_proposals = {esp}\n start_action = none\n }} }} }}",
        me = name(own),
        them = name(peer),
    )
}
