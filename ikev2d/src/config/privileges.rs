// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[daemon.privileges]`: what the daemon may still do once it runs.

use std::str::FromStr;

use rustix::thread::CapabilitySet;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// What is given up before the first socket is opened. A reload changes none of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivilegesSection {
    /// Whether all is given up that it does not need. Off, it keeps what it was started with.
    pub drop: bool,
    /// The user that it becomes; the one that it was started as by default.
    pub user: Option<String>,
    /// Capabilities that it keeps besides, such as `DAC_OVERRIDE`.
    pub keep: Vec<CapabilityName>,
    /// What comes of a system call that it is not known to need.
    pub seccomp: SeccompSetting,
}

/// What comes of a system call that is not on the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompSetting {
    /// The process ends, and names it.
    #[default]
    Kill,
    /// The kernel's audit has it, and it is done.
    Log,
    /// It is done: there is no list.
    Off,
}

impl Default for PrivilegesSection {
    fn default() -> Self {
        Self {
            drop: true,
            user: None,
            keep: Vec::new(),
            seccomp: SeccompSetting::default(),
        }
    }
}

impl PrivilegesSection {
    /// What the types do not say: the setting that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        if !self.drop && (self.user.is_some() || !self.keep.is_empty()) {
            let what = "nothing is given up: expected neither user nor keep beside it".to_owned();
            return Err(("daemon.privileges.drop".to_owned(), what));
        }
        Ok(())
    }
}

/// A capability by its name (capabilities(7)), with or without `CAP_` in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityName(pub(crate) CapabilitySet);

impl FromStr for CapabilityName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("CAP_").unwrap_or(text);
        CapabilitySet::from_name(name)
            .map(Self)
            .ok_or_else(|| format!("no capability {text:?}: expected one such as \"DAC_OVERRIDE\""))
    }
}

impl<'de> Deserialize<'de> for CapabilityName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    /// B67: capabilities that are kept, and the user.
    #[test]
    fn capabilities_go_by_their_names() {
        let read = |text: &str| {
            let text = format!("[daemon.privileges]\n{text}");
            let config = text.parse::<Config>().map_err(|error| error.to_string());
            config.map(|config| config.daemon.privileges)
        };
        let keep = read("keep = [\"CAP_IPC_LOCK\", \"SYS_NICE\"]")
            .unwrap()
            .keep;
        assert_eq!(
            keep,
            ["IPC_LOCK".parse().unwrap(), "SYS_NICE".parse().unwrap()]
        );
        let error = read("keep = [\"CAP_ANY\"]").unwrap_err();
        assert!(error.contains("no capability \"CAP_ANY\""), "{error}");
        let error = read("drop = false\nuser = \"ike\"").unwrap_err();
        assert!(error.contains("daemon.privileges.drop"), "{error}");
        assert!(read("").unwrap().drop);
    }
}
