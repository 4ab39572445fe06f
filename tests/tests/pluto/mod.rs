// SPDX-License-Identifier: Apache-2.0 OR MIT
//! libreswan's daemon in a namespace of its own, out of a tree that `cargo ci` unpacks. The kernel need not have ESP:
//! `libreswan/xfrm.c` answers in its place, so SAs are negotiated and no packet passes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use netlab::Namespace;
use netlab::process::{Guarded, wait_for_listener};

use crate::gateway::{SECRET, inside, run};

const PROGRAMS: &str = "/usr/libexec/ipsec";

pub(crate) struct Pluto {
    namespace: Namespace,
    root: PathBuf,
    directory: PathBuf,
    _process: Guarded,
}

impl Pluto {
    /// Starts it on 10.77.0.2, with a connection `gw` to 10.77.0.1; nothing where its tree is not there.
    pub(crate) fn new(namespace: &Namespace, directory: &Path, connection: &str) -> Option<Self> {
        let root = tests::peer("libreswan");
        if !root.join(&PROGRAMS[1..]).join("pluto").exists() {
            let wanted = std::env::var_os("CI").is_some();
            assert!(!wanted, "libreswan is missing");
            eprintln!("skipped: libreswan is missing (cargo xtask peers)");
            return None;
        }
        for folder in ["run", "nss", "ipsec.d"] {
            fs::create_dir_all(directory.join(folder)).unwrap();
        }
        let at = |name: &str| directory.join(name).display().to_string();
        let text = format!(
            "config setup\n\tikev1-policy=accept\n\tuniqueids=no\n\tnssdir={nss}\nconn gw\n\tauto=ignore\n\
             \tleft=10.77.0.2\n\tright=10.77.0.1\n\tleftid=@b.test\n\trightid=@a.test\n\tauthby=secret\n\
             \tleftsubnet=10.2.0.0/24\n\trightsubnet=10.1.0.0/24\n\tencapsulation=yes\n\
             \tleftupdown=%disabled\n{connection}",
            nss = at("nss"),
        );
        fs::write(directory.join("ipsec.conf"), text).unwrap();
        let secret = format!("@a.test @b.test : PSK \"{SECRET}\"\n");
        fs::write(directory.join("ipsec.secrets"), secret).unwrap();
        compile(&directory.join("xfrm.so"));
        let command = |program: &str| {
            let mut command = inside(namespace, &root, directory);
            command.arg(program);
            command
        };
        let mut certutil = command("/usr/bin/certutil");
        certutil.args([
            "-N",
            "--empty-password",
            "-d",
            &format!("sql:{}", at("nss")),
        ]);
        run(certutil).unwrap();
        let mut pluto = command(&format!("{PROGRAMS}/pluto"));
        pluto
            .args(["--nofork", "--stderrlog", "--no-dnssec"])
            .args(["--config", &at("ipsec.conf")])
            .args(["--secretsfile", &at("ipsec.secrets")])
            .args(["--nssdir", &at("nss"), "--rundir", &at("run")])
            .args(["--ipsecdir", &at("ipsec.d")])
            .env("LD_PRELOAD", at("xfrm.so"))
            .env("ESPLANADE_SAS", at("sas"))
            .stdin(Stdio::null());
        let log = File::create(directory.join("log")).unwrap();
        pluto.stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = Guarded::spawn(pluto).unwrap();
        wait_for_listener(
            &directory.join("run/pluto.ctl"),
            Duration::from_secs(30),
            || {
                let text = || fs::read_to_string(directory.join("log")).unwrap_or_default();
                assert!(process.ended()?.is_none(), "ended: {}", text());
                Ok(())
            },
        )
        .unwrap();
        let pluto = Self {
            namespace: namespace.clone(),
            root: root.clone(),
            directory: directory.to_owned(),
            _process: process,
        };
        pluto.whack(&["--listen"]);
        let mut load = pluto.command("addconn");
        load.args(["--config", &at("ipsec.conf"), "--ctlsocket"])
            .args([&at("run/pluto.ctl"), "gw"]);
        run(load).unwrap_or_else(|text| panic!("libreswan's connection: {text}"));
        Some(pluto)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = inside(&self.namespace, &self.root, &self.directory);
        command.arg(format!("{PROGRAMS}/{program}"));
        command
    }

    /// Runs pluto's own control program; what it printed.
    pub(crate) fn whack(&self, arguments: &[&str]) -> String {
        let mut command = self.command("whack");
        command.arg("--rundir").arg(self.directory.join("run"));
        command.args(arguments);
        let text = run(command);
        text.unwrap_or_else(|text| panic!("whack {arguments:?}: {text}\n{}", self.tail()))
    }

    /// The keys of each SA that it would have given the kernel, by SPI: in hexadecimal, encryption's first.
    pub(crate) fn keys(&self) -> BTreeMap<u32, String> {
        let text = fs::read_to_string(self.directory.join("sas")).unwrap_or_default();
        let pairs = text.lines().map(|line| line.split_once(' ').unwrap());
        pairs
            .map(|(spi, keys)| (u32::from_str_radix(spi, 16).unwrap(), keys.to_owned()))
            .collect()
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

fn compile(to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("libreswan/xfrm.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(to);
    cc.arg(source).arg("-ldl");
    run(cc).unwrap();
}
