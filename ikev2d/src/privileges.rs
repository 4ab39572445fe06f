// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon gives up before it opens its first socket, and before it has a second thread:
//! capabilities that it won't need, the way to others, and root's identity where a user is named.
//! Whatever it opens later, it opens with what is left, as it did the first time.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use driver::DeviceAddress;
use nix::unistd::{Gid, Group, Uid, User, getgroups, initgroups, setgroups, setresgid, setresuid};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};
use thiserror::Error;

use crate::config::{DaemonSection, DeviceSetting, MetricsListen};

/// What a daemon does at any time: interfaces, addresses, routes and marks; ports 500 and 4500; IP
/// protocols 50 and 51.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW);

/// Privileges can't be given up, or too many would be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrivilegesError {
    /// The user is not there.
    #[error("daemon.privileges.user: there is no user {name:?}")]
    NoUser {
        /// Its name.
        name: String,
    },
    /// Only root becomes another user.
    #[error(
        "daemon.privileges.user: only root can become {name}: start it as root, or as {name} with its capabilities \
         (systemd: User= and AmbientCapabilities=)"
    )]
    NotRoot {
        /// The user's name.
        name: String,
    },
    /// The system refuses.
    #[error("privileges: {step}: {error}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A directory can't be made.
    #[error("{setting}: {}: {error}", path.display())]
    Make {
        /// Which setting names it.
        setting: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What the daemon is left with is not enough.
    #[error(
        "{setting}: {who} may not write in {}: name a directory of its own, or give it this one (chown), or leave it \
         CAP_DAC_OVERRIDE (daemon.privileges.keep)",
        path.display()
    )]
    Unwritable {
        /// Which setting names it.
        setting: &'static str,
        /// Who.
        who: String,
        /// The directory.
        path: PathBuf,
    },
    /// The configuration would not be read again.
    #[error(
        "{}: {error}: {who} reads it again at every reload: let its group (chgrp, and mode 640), or leave it \
         CAP_DAC_READ_SEARCH (daemon.privileges.keep)",
        path.display()
    )]
    Unreadable {
        /// Who.
        who: String,
        /// The configuration.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> PrivilegesError {
    move |error| PrivilegesError::System { step, error }
}

/// What a process is left with.
#[derive(Debug)]
pub struct Left {
    user: Uid,
    capabilities: CapabilitySet,
    /// What could not be given up, since it was never had.
    missing: Vec<&'static str>,
    /// What the administrator would not expect.
    warnings: Vec<String>,
}

impl Left {
    /// Says so.
    pub fn log(&self) {
        let names: Vec<_> = self
            .capabilities
            .iter_names()
            .map(|(name, _)| name)
            .collect();
        tracing::info!(
            user = self.user.as_raw(),
            capabilities = names.join(" "),
            "privileges are given up"
        );
        for what in &self.warnings {
            tracing::warn!("privileges: {what}");
        }
        for what in &self.missing {
            tracing::debug!("privileges: {what}");
        }
    }
}

/// Gives up what a daemon of this configuration does not need; nothing if it is set so. To be called
/// before there is another thread.
///
/// # Errors
/// [`PrivilegesError`]: with what is left it could not run, or not be reloaded.
pub fn give_up(daemon: &DaemonSection, config: &Path) -> Result<Option<Left>, PrivilegesError> {
    let section = &daemon.privileges;
    if !section.drop {
        return Ok(None);
    }
    let user = match &section.user {
        Some(name) => {
            let found = User::from_name(name).map_err(|e| failed("users")(e.into()))?;
            let user = found.ok_or_else(|| PrivilegesError::NoUser { name: name.clone() })?;
            (user.uid != Uid::effective()).then_some(user)
        }
        None => None,
    };
    let own = capabilities(None).map_err(|e| failed("capget")(e.into()))?;
    let mut kept = NEEDED;
    if matches!(&daemon.device, DeviceSetting::Card(address) if is_pci(address)) {
        // The pages that it reads and writes stay where they are.
        kept |= CapabilitySet::IPC_LOCK;
    }
    let mut warnings = Vec::new();
    for capability in &section.keep {
        kept |= capability.0;
        if !own.permitted.contains(capability.0) {
            let names: Vec<_> = capability.0.iter_names().map(|(name, _)| name).collect();
            let names = names.join(" ");
            warnings.push(format!(
                "daemon.privileges.keep: {names} was not had (systemd: CapabilityBoundingSet=)"
            ));
        }
    }
    let kept = kept & own.permitted;
    let mut missing = Vec::new();
    join_readers(daemon, own.effective, &mut missing);
    bound(kept, own.effective, &mut missing)?;
    if let Some(user) = &user {
        if !own
            .effective
            .contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
        {
            let name = user.name.clone();
            return Err(PrivilegesError::NotRoot { name });
        }
        make_directories(daemon, user)?;
        become_user(daemon, user)?;
    }
    keep_only(kept)?;
    set_no_new_privs(true).map_err(|e| failed("no_new_privs")(e.into()))?;
    check(daemon, config)?;
    let is_root = Uid::effective().is_root();
    if !is_root && accessat(CWD, config, Access::WRITE_OK, AtFlags::EACCESS).is_ok() {
        let (who, path) = (who(), config.display());
        warnings.push(format!(
            "{path}: {who} may write it, and so choose which keys are read and which program is called: make it \
             root's, and its group's to read (mode 640)"
        ));
    }
    Ok(Some(Left {
        warnings,
        user: Uid::effective(),
        capabilities: kept,
        missing,
    }))
}

/// Gives up everything but this, of what it has, in a process that needs no more.
///
/// # Errors
/// The system's.
pub(crate) fn give_up_all_but(kept: CapabilitySet) -> io::Result<()> {
    let own = capabilities(None)?;
    let kept = kept & own.permitted;
    bound(kept, own.effective, &mut Vec::new()).map_err(io::Error::other)?;
    keep_only(kept).map_err(io::Error::other)?;
    Ok(set_no_new_privs(true)?)
}

fn is_pci(address: &DeviceAddress) -> bool {
    match address {
        DeviceAddress::User(_) => false,
        DeviceAddress::Pci(_) => true,
        DeviceAddress::Several(all) => all.iter().any(is_pci),
    }
}

/// The group of those who may read the SA cache; what is wrong with its name is told elsewhere.
fn readers(daemon: &DaemonSection) -> Option<Gid> {
    let name = daemon.sa_cache.group.as_ref()?;
    let group = Group::from_name(name).ok().flatten();
    group.map(|group| group.gid)
}

/// Who is a member of a group may give it a file of his own: that needs no capability.
fn join_readers(daemon: &DaemonSection, effective: CapabilitySet, missing: &mut Vec<&'static str>) {
    let Some(group) = readers(daemon) else { return };
    let mut groups = getgroups().unwrap_or_default();
    if group == Gid::effective() || groups.contains(&group) {
        return;
    }
    groups.push(group);
    if !effective.contains(CapabilitySet::SETGID) || setgroups(&groups).is_err() {
        missing.push("not a member of daemon.sa_cache.group, and can't become one");
    }
}

/// No program that is started gets more than this.
fn bound(
    kept: CapabilitySet,
    effective: CapabilitySet,
    missing: &mut Vec<&'static str>,
) -> Result<(), PrivilegesError> {
    if !effective.contains(CapabilitySet::SETPCAP) {
        missing.push("the bounding set stays: no CAP_SETPCAP");
        return Ok(());
    }
    // The kernel refuses to speak of the first one that it does not have.
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !kept.contains(one) => remove_capability_from_bounding_set(one)
                .map_err(|e| failed("the bounding set")(e.into()))?,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Ok(())
}

/// Directories of the daemon's own that are missing are made for the user: only root can.
fn make_directories(daemon: &DaemonSection, user: &User) -> Result<(), PrivilegesError> {
    let mut wanted = written(daemon);
    wanted.push(("daemon.state_directory", daemon.state_directory.clone()));
    for (setting, path) in wanted {
        if path.exists() {
            continue;
        }
        let of_files = ["daemon.state_directory", "daemon.key_log"].contains(&setting);
        let mode = if of_files { 0o700 } else { 0o755 };
        let above = path.parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).mode(0o755).create(above);
        let made = made
            .and_then(|()| DirBuilder::new().mode(mode).create(&path))
            .and_then(|()| chown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())));
        made.map_err(|error| PrivilegesError::Make {
            setting,
            path,
            error,
        })?;
    }
    Ok(())
}

fn become_user(daemon: &DaemonSection, user: &User) -> Result<(), PrivilegesError> {
    let failed = |step| move |error: nix::Error| failed(step)(error.into());
    nix::sys::prctl::set_keepcaps(true).map_err(failed("keeping capabilities"))?;
    let name = std::ffi::CString::new(user.name.as_str());
    let name = name.map_err(|_| PrivilegesError::NoUser {
        name: user.name.clone(),
    })?;
    initgroups(&name, user.gid).map_err(failed("the user's groups"))?;
    if let Some(group) = readers(daemon) {
        let mut groups = getgroups().map_err(failed("the user's groups"))?;
        groups.push(group);
        setgroups(&groups).map_err(failed("daemon.sa_cache.group"))?;
    }
    setresgid(user.gid, user.gid, user.gid).map_err(failed("the user's group"))?;
    setresuid(user.uid, user.uid, user.uid).map_err(failed("becoming the user"))
}

fn keep_only(kept: CapabilitySet) -> Result<(), PrivilegesError> {
    clear_ambient_capability_set().map_err(|e| failed("the ambient set")(e.into()))?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(|e| failed("capset")(e.into()))
}

/// Directories that the daemon makes sockets and files in, with the settings that say so.
fn written(daemon: &DaemonSection) -> Vec<(&'static str, PathBuf)> {
    let cache = daemon.sa_cache.socket(&daemon.vici_socket);
    let mut all = vec![
        ("daemon.vici_socket", directory(&daemon.vici_socket)),
        ("daemon.sa_cache.socket", directory(&cache)),
        ("daemon.lease_file", directory(&daemon.lease_file())),
    ];
    if let Some(directory) = &daemon.key_log {
        all.push(("daemon.key_log", directory.clone()));
    }
    if let Some(metrics) = &daemon.metrics
        && let MetricsListen::Unix(path) = &metrics.listen
    {
        all.push(("daemon.metrics.listen", directory(path)));
    }
    all
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether what is left is enough for what comes later: better told now.
fn check(daemon: &DaemonSection, config: &Path) -> Result<(), PrivilegesError> {
    let who = who();
    File::open(config).map_err(|error| PrivilegesError::Unreadable {
        who: who.clone(),
        path: config.to_owned(),
        error,
    })?;
    let mut wanted = written(daemon);
    if daemon.state_directory.exists() {
        wanted.push(("daemon.state_directory", daemon.state_directory.clone()));
    }
    for (setting, path) in wanted {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        // What else may be wrong with it is told by who opens it.
        if accessat(CWD, &path, access, AtFlags::EACCESS) == Err(rustix::io::Errno::ACCESS) {
            return Err(PrivilegesError::Unwritable { setting, who, path });
        }
    }
    Ok(())
}

/// The user that this process is, for messages.
fn who() -> String {
    let user = Uid::effective();
    match User::from_uid(user) {
        Ok(Some(named)) => format!("user {}", named.name),
        _ => format!("user {user}"),
    }
}
