// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon tells its control clients unasked: `ike-updown`, `child-updown`, `ike-rekey`,
//! `child-rekey`, and the log.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{Duration, Instant};

use ikev2d_proto::endpoint::{ChildInfo, IkeSaInfo};
use ikev2d_proto::event::{ChildId, IkeId};

use super::Daemon;
use crate::vici::lists;
use crate::vici::message::Section;
use crate::vici::server::CONTROL_LOG;

/// Children as they were last seen: what is gone is announced too. What clients are shown is made when there
/// is one to show it to; ten thousand SAs are kept as small as they are.
#[derive(Default)]
pub(super) struct Listed {
    children: HashMap<ChildId, Child>,
    /// Children on their way out, from their retirement to the word that they are gone.
    going: HashMap<ChildId, Gone>,
    /// IKE SAs and children set up with algorithms of another time.
    legacy: u64,
}

impl Listed {
    /// IKE SAs and children set up with algorithms of another time, since the start.
    pub(super) fn legacy(&self) -> u64 {
        self.legacy
    }

    /// Whose a child is, as it was last seen.
    pub(super) fn ike_of(&self, child: ChildId) -> Option<IkeId> {
        self.children.get(&child).map(|child| child.ike)
    }

    /// Counts what is listed with algorithms of another time, and warns of it.
    fn count_legacy(&mut self, what: impl Display, weak: &[&str]) {
        if !weak.is_empty() {
            let algorithms = weak.join(" ");
            self.legacy += 1;
            tracing::warn!(
                algorithms,
                "{what} is set up with algorithms of another time"
            );
        }
    }
}

/// Its times in seconds since the daemon's start, which take half the room.
#[derive(Clone, Copy)]
struct Child {
    ike: IkeId,
    installed: u32,
    /// The largest number is never.
    rekey_at: u32,
}

/// A child as clients are shown it.
struct Shown {
    ike: IkeId,
    /// What it is listed as.
    name: String,
    section: Section,
}

struct Gone {
    /// Its configuration.
    child: String,
    shown: Option<Shown>,
}

impl Daemon {
    /// Whether anybody takes in what is said.
    fn is_heard(&self) -> bool {
        self.has_clients() || tracing::enabled!(tracing::Level::INFO)
    }

    fn has_clients(&self) -> bool {
        self.broadcast.receiver_count() > 0
    }

    /// Says something about an IKE SA, in the log and to clients.
    pub(super) fn say(&self, ike: IkeId, text: &str) {
        tracing::info!(ike = ike.0, "{text}");
        if !self.has_clients() {
            return;
        }
        let mut section = Section::default();
        section.put("group", "IKE");
        section.put("level", 1);
        section.put("thread", 0);
        if let Some(sa) = self.endpoint.ike_sa_lately(ike) {
            section.put("ikesa-name", sa.connection);
            section.put("ikesa-uniqueid", ike.0);
        }
        section.put("msg", text);
        // Nobody listens: fine.
        let _ = self.broadcast.send((CONTROL_LOG, section.clone()));
        let _ = self.broadcast.send(("log", section));
    }

    pub(super) fn announce_ike_up(&mut self, ike: IkeId) {
        let Some(sa) = self.endpoint.ike_sa_lately(ike) else {
            return;
        };
        let weak = sa.weak();
        let what = format_args!("IKE_SA {}[{}]", sa.connection, ike.0);
        self.listed.count_legacy(what, &weak);
        let listed = self.is_heard().then(|| self.list(ike)).flatten();
        let Some((name, section)) = listed else {
            return;
        };
        let text = |key| section.text(key).unwrap_or_default();
        let said = format!(
            "IKE_SA {name}[{}] established between {}[{}]...{}[{}]",
            ike.0,
            text("local-host"),
            text("local-id"),
            text("remote-host"),
            text("remote-id"),
        );
        self.say(ike, &said);
        let event = updown(true, &name, section);
        let _ = self.broadcast.send(("ike-updown", event));
    }

    pub(super) fn announce_ike_down(&mut self, ike: IkeId, connection: &str, reason: &str) {
        if self.is_heard() {
            self.say(
                ike,
                &format!("IKE_SA {connection}[{}] is gone: {reason}", ike.0),
            );
        }
        let was_up = |sa: &IkeSaInfo<'_>| sa.established.is_some();
        if self.has_clients()
            && self
                .endpoint
                .ike_sa_lately(ike)
                .is_some_and(|sa| was_up(&sa))
            && let Some((name, section)) = self.list(ike)
        {
            let event = updown(false, &name, section);
            let _ = self.broadcast.send(("ike-updown", event));
        }
    }

    pub(super) fn announce_ike_rekeyed(&mut self, old: IkeId, new: IkeId) {
        let listed = self.is_heard().then(|| self.list(new)).flatten();
        let children = self.endpoint.ike_sa(new);
        let children = children.into_iter().flat_map(|sa| sa.children);
        for child in children {
            if let Some(child) = self.listed.children.get_mut(&child.sa.id) {
                child.ike = new;
            }
        }
        let Some((name, section)) = listed else {
            return;
        };
        self.say(
            new,
            &format!("IKE_SA {name}[{}] rekeyed, now [{}]", old.0, new.0),
        );
        let mut both = Section::default();
        let before = self.list(old).map(|(_, section)| section);
        both.put_section("old", before.unwrap_or_default());
        both.put_section("new", section);
        let mut event = Section::default();
        event.put_section(&name, both);
        let _ = self.broadcast.send(("ike-rekey", event));
    }

    pub(super) fn announce_child_up(&mut self, child: ChildId) {
        let Some(sa) = self.endpoint.ike_sa_of(child) else {
            return;
        };
        let Some(info) = sa.children.iter().find(|info| info.sa.id == child) else {
            return;
        };
        let (ike, name, connection) = (sa.id, info.sa.child.clone(), sa.connection.to_owned());
        let established = sa.established.is_some();
        let (record, weak) = (self.remember(ike, info), info.sa.suite.weak());
        if self.is_heard() {
            let shown = self.show(ike, info);
            let text = |key| shown.section.text(key).unwrap_or_default();
            let said = format!(
                "CHILD_SA {}{{{}}} established with SPIs {}_i {}_o and TS {} === {}",
                text("name"),
                child.0,
                text("spi-in"),
                text("spi-out"),
                shown.section.texts("local-ts").join(" "),
                shown.section.texts("remote-ts").join(" "),
            );
            self.say(ike, &said);
            self.announce_child(true, &shown);
        }
        let what = format_args!("CHILD_SA {name}{{{}}}", child.0);
        self.listed.count_legacy(what, &weak);
        self.listed.children.insert(child, record);
        if established {
            self.child_there(&connection, &name);
        }
    }

    pub(super) fn announce_child_rekeyed(&mut self, old: ChildId, new: ChildId) {
        let before = self.leaving(old);
        self.listed.children.remove(&old);
        let Some(sa) = self.endpoint.ike_sa_of(new) else {
            return;
        };
        let Some(info) = sa.children.iter().find(|info| info.sa.id == new) else {
            return;
        };
        let record = self.remember(sa.id, info);
        if self.is_heard() {
            let shown = self.show(sa.id, info);
            let name = &info.sa.child;
            self.say(
                shown.ike,
                &format!("CHILD_SA {name}{{{}}} rekeyed, now {{{}}}", old.0, new.0),
            );
            let mut both = Section::default();
            let before = before.and_then(|gone| gone.shown);
            both.put_section("old", before.map(|old| old.section).unwrap_or_default());
            both.put_section("new", shown.section);
            let mut children = Section::default();
            children.put_section(name, both);
            if let Some((connection, mut section)) = self.list(record.ike) {
                section.put_section("child-sas", children);
                let mut event = Section::default();
                event.put_section(&connection, section);
                let _ = self.broadcast.send(("child-rekey", event));
            }
        }
        self.listed.children.insert(new, record);
    }

    /// Notes what a child SA was and has carried, before nobody knows any more.
    pub(super) fn note_leaving(&mut self, child: ChildId) {
        if let Some(gone) = self.leaving(child) {
            self.listed.going.insert(child, gone);
        }
    }

    /// Every word about those is said.
    pub(super) fn forget_gone(&mut self) {
        self.listed.going.clear();
    }

    /// A child as it is in the data plane, whether the core still has it or not.
    fn leaving(&self, child: ChildId) -> Option<Gone> {
        let record = self.listed.children.get(&child)?;
        let sa = self.installer.child(child)?;
        let info = ChildInfo {
            sa,
            state: "INSTALLED",
            more_possible: false,
            installed: self.started + Duration::from_secs(record.installed.into()),
            rekey_at: (record.rekey_at != u32::MAX)
                .then(|| self.started + Duration::from_secs(record.rekey_at.into())),
        };
        let shown = self.has_clients().then(|| self.show(record.ike, &info));
        Some(Gone {
            child: sa.child.to_string(),
            shown,
        })
    }

    /// A child SA that was replaced has been announced already.
    pub(super) fn announce_child_down(&mut self, child: ChildId, reason: &str) {
        tracing::debug!(child = child.0, reason, "child SA is gone");
        let noted = self.listed.going.remove(&child);
        let gone = noted.or_else(|| self.leaving(child));
        let Some(record) = self.listed.children.remove(&child) else {
            return;
        };
        self.counts.child_down(reason);
        let Some(gone) = gone else {
            return;
        };
        let name = gone.child;
        if self.is_heard() {
            let said = format!("CHILD_SA {name}{{{}}} is gone: {reason}", child.0);
            self.say(record.ike, &said);
        }
        if let Some(shown) = gone.shown {
            self.announce_child(false, &shown);
        }
        let ike = self.endpoint.ike_sa_lately(record.ike);
        if let Some(connection) = ike.map(|ike| ike.connection.to_owned()) {
            self.child_lost(&connection, &name, reason);
        }
    }

    fn announce_child(&self, up: bool, child: &Shown) {
        let Some((connection, mut section)) = self.list(child.ike) else {
            return;
        };
        let mut children = Section::default();
        children.put_section(&child.name, child.section.clone());
        section.put_section("child-sas", children);
        let _ = self
            .broadcast
            .send(("child-updown", updown(up, &connection, section)));
    }

    /// An IKE SA's name, and what is listed under it, without its children.
    fn list(&self, ike: IkeId) -> Option<(String, Section)> {
        let sa = self.endpoint.ike_sa_lately(ike)?;
        let name = sa.connection.to_owned();
        Some((name, lists::ike(&sa, Instant::now())))
    }

    fn remember(&self, ike: IkeId, info: &ChildInfo<'_>) -> Child {
        let since = |at: Instant| {
            let since = at.saturating_duration_since(self.started);
            u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
        };
        Child {
            ike,
            installed: since(info.installed),
            rekey_at: info.rekey_at.map_or(u32::MAX, since),
        }
    }

    fn show(&self, ike: IkeId, info: &ChildInfo<'_>) -> Shown {
        let facts = self.child_facts(info);
        Shown {
            ike,
            name: lists::child_name(info),
            section: lists::child_sa(info, Instant::now(), &facts),
        }
    }
}

fn updown(up: bool, connection: &str, section: Section) -> Section {
    let mut event = Section::default();
    event.put("up", if up { "yes" } else { "no" });
    event.put_section(connection, section);
    event
}
