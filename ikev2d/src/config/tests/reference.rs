// SPDX-License-Identifier: Apache-2.0 OR MIT
//! docs/configuration.md has every setting, and each default that it tells is what is taken.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::de::DeserializeOwned;

use crate::config::manual::KeyTable;
use crate::config::*;

const REFERENCE: &str = include_str!("../../../../docs/configuration.md");

/// The settings under a heading, with their defaults where those are values.
fn rows(heading: &str) -> Vec<(&'static str, Option<&'static str>)> {
    let mut lines = REFERENCE.lines();
    assert!(
        lines.any(|line| line == format!("## {heading}")),
        "{heading}"
    );
    let lines = lines.take_while(|line| !line.starts_with("## "));
    let rows = lines.filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let default = cells.next()?.strip_prefix('`');
        Some((name, default.and_then(|value| value.strip_suffix('`'))))
    });
    rows.collect()
}

/// What a section's type says of a setting that it does not know: the names of all that it does.
fn known<T: DeserializeOwned>() -> BTreeSet<String> {
    let error = toml::from_str::<T>("no-such-setting = 1").err().unwrap();
    let text = error.to_string();
    let (_, names) = text.split_once("expected ").unwrap();
    names
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// `needed` is what the section can't do without; `aliases` are other names of settings.
fn holds<T: DeserializeOwned + Debug>(heading: &str, needed: &str, aliases: &[&str]) {
    let rows = rows(heading);
    let mut known = known::<T>();
    for alias in aliases {
        assert!(known.remove(*alias), "{heading}: {alias}");
    }
    let told = rows.iter().map(|(name, _)| (*name).to_owned());
    assert_eq!(told.collect::<BTreeSet<_>>(), known, "{heading}");
    let read = |text: &str| match toml::from_str::<T>(text) {
        Ok(section) => format!("{section:?}"),
        Err(error) => panic!("{heading}: {text}: {error}"),
    };
    let usual = read(needed);
    for (name, default) in rows {
        if let Some(value) = default {
            let written = read(&format!("{name} = {value}\n{needed}"));
            assert_eq!(written, usual, "{heading}: {name} = {value}");
        }
    }
}

#[test]
fn the_reference_has_every_setting_and_its_default() {
    holds::<DaemonSection>("`[daemon]`", "", &[]);
    holds::<TunSection>("`[daemon.tun]`", "", &[]);
    holds::<FailoverSection>("`[daemon.failover]`", "", &[]);
    holds::<CacheSection>("`[daemon.sa_cache]`", "", &[]);
    holds::<PrivilegesSection>("`[daemon.privileges]`", "", &[]);
    holds::<MetricsSection>("`[daemon.metrics]`", "listen = \"127.0.0.1:9478\"", &[]);
    holds::<PuzzlesSection>("`[daemon.puzzles]`", "threshold = 1", &[]);
    holds::<SolvePuzzlesSection>("`[daemon.solve_puzzles]`", "", &[]);
    holds::<ClusterSection>(
        "`[cluster]`",
        "directory = \"\"\nkey_file = \"\"\nmember = 1",
        &[],
    );
    let ends = "local = {}\nremote = {}";
    let aliases = ["local_xauth", "remote_xauth"];
    holds::<ConnectionSection>("`[connections.NAME]`", ends, &aliases);
    let heading = "`[connections.NAME.local]` and `[connections.NAME.remote]`";
    holds::<AuthSection>(heading, "", &[]);
    let heading = "`[connections.NAME.local-xauth]` and `[connections.NAME.remote-xauth]`";
    holds::<XauthSection>(heading, "auth = \"xauth\"", &["id"]);
    holds::<ChildSection>("`[connections.NAME.children.NAME]`", "", &["per_cpu_sas"]);
    holds::<SecretSection>("`[secrets.NAME]`", "", &[]);
    holds::<AuthoritySection>("`[authorities.NAME]`", "cacert = \"\"", &[]);
    holds::<PoolSection>("`[pools.NAME]`", "addrs = \"10.0.0.0/24\"", &[]);
    holds::<InterfaceSection>("`[interfaces.NAME]`", "", &[]);
    let pair = "local = \"192.0.2.1\"\nremote = \"192.0.2.2\"\nlocal_ts = []\nremote_ts = []\n\
                suite = \"aes256-sha256\"\nspi_in = \"100\"\nspi_out = \"101\"";
    holds::<ManualSection>("`[manual.NAME]`", pair, &[]);
    holds::<KeyTable>("`[manual.NAME.keys]`", "", &[]);
}
