// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon tells its control clients unasked: `ike-updown`, `child-updown`, `ike-rekey`,
//! `child-rekey`, and the log.

use std::collections::HashMap;
use std::time::Instant;

use ikev2d_proto::event::{ChildId, IkeId};

use super::Daemon;
use crate::vici::lists;
use crate::vici::message::Section;
use crate::vici::server::CONTROL_LOG;

/// SAs as they were last listed: what is gone is announced too.
#[derive(Default)]
pub(super) struct Listed {
    ikes: HashMap<IkeId, (String, Section)>,
    children: HashMap<ChildId, Child>,
    /// IKE SAs and children set up with algorithms of another time.
    legacy: u64,
}

impl Listed {
    /// IKE SAs and children set up with algorithms of another time, since the start.
    pub(super) fn legacy(&self) -> u64 {
        self.legacy
    }

    /// Counts what is listed with algorithms of another time, and warns of it.
    fn count_legacy(&mut self, what: &str, section: &Section) {
        if let Some(algorithms) = section.text("legacy") {
            self.legacy += 1;
            tracing::warn!(
                algorithms,
                "{what} is set up with algorithms of another time"
            );
        }
    }
}

struct Child {
    ike: IkeId,
    /// What it is listed as.
    name: String,
    section: Section,
}

impl Daemon {
    /// Says something about an IKE SA, in the log and to clients.
    pub(super) fn say(&self, ike: IkeId, text: &str) {
        tracing::info!(ike = ike.0, "{text}");
        let mut section = Section::default();
        section.put("group", "IKE");
        section.put("level", 1);
        section.put("thread", 0);
        if let Some((name, _)) = self.listed.ikes.get(&ike) {
            section.put("ikesa-name", name);
            section.put("ikesa-uniqueid", ike.0);
        }
        section.put("msg", text);
        // Nobody listens: fine.
        let _ = self.broadcast.send((CONTROL_LOG, section.clone()));
        let _ = self.broadcast.send(("log", section));
    }

    pub(super) fn announce_ike_up(&mut self, ike: IkeId) {
        let Some((name, section)) = self.list_ike(ike) else {
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
        let event = updown(true, &name, section.clone());
        self.listed
            .count_legacy(&format!("IKE_SA {name}[{}]", ike.0), &section);
        self.listed.ikes.insert(ike, (name, section));
        self.say(ike, &said);
        let _ = self.broadcast.send(("ike-updown", event));
    }

    pub(super) fn announce_ike_down(&mut self, ike: IkeId, connection: &str, reason: &str) {
        self.say(
            ike,
            &format!("IKE_SA {connection}[{}] is gone: {reason}", ike.0),
        );
        if let Some((name, section)) = self.listed.ikes.remove(&ike) {
            let _ = self
                .broadcast
                .send(("ike-updown", updown(false, &name, section)));
        }
    }

    pub(super) fn announce_ike_rekeyed(&mut self, old: IkeId, new: IkeId) {
        let before = self.listed.ikes.remove(&old);
        let Some((name, section)) = self.list_ike(new) else {
            return;
        };
        self.listed
            .ikes
            .insert(new, (name.clone(), section.clone()));
        for child in self.listed.children.values_mut() {
            if child.ike == old {
                child.ike = new;
            }
        }
        self.say(
            new,
            &format!("IKE_SA {name}[{}] rekeyed, now [{}]", old.0, new.0),
        );
        let mut both = Section::default();
        both.put_section(
            "old",
            before.map(|(_, section)| section).unwrap_or_default(),
        );
        both.put_section("new", section);
        let mut event = Section::default();
        event.put_section(&name, both);
        let _ = self.broadcast.send(("ike-rekey", event));
    }

    pub(super) fn announce_child_up(&mut self, child: ChildId) {
        let Some(listed) = self.list_child(child) else {
            return;
        };
        let text = |key| listed.section.text(key).unwrap_or_default();
        let said = format!(
            "CHILD_SA {}{{{}}} established with SPIs {}_i {}_o and TS {} === {}",
            text("name"),
            child.0,
            text("spi-in"),
            text("spi-out"),
            listed.section.texts("local-ts").join(" "),
            listed.section.texts("remote-ts").join(" "),
        );
        self.say(listed.ike, &said);
        self.announce_child(true, &listed);
        let name = text("name").to_owned();
        let ike = self.listed.ikes.get(&listed.ike);
        if let Some(connection) = ike.map(|(connection, _)| connection.clone()) {
            self.child_there(&connection, &name);
        }
        let what = format!("CHILD_SA {name}{{{}}}", child.0);
        self.listed.count_legacy(&what, &listed.section);
        self.listed.children.insert(child, listed);
    }

    pub(super) fn announce_child_rekeyed(&mut self, old: ChildId, new: ChildId) {
        let before = self.listed.children.remove(&old);
        let Some(listed) = self.list_child(new) else {
            return;
        };
        let name = listed.section.text("name").unwrap_or_default();
        self.say(
            listed.ike,
            &format!("CHILD_SA {name}{{{}}} rekeyed, now {{{}}}", old.0, new.0),
        );
        let mut both = Section::default();
        both.put_section("old", before.map(|child| child.section).unwrap_or_default());
        both.put_section("new", listed.section.clone());
        let mut children = Section::default();
        children.put_section(name, both);
        if let Some((connection, section)) = self.listed.ikes.get(&listed.ike) {
            let mut section = section.clone();
            section.put_section("child-sas", children);
            let mut event = Section::default();
            event.put_section(connection, section);
            let _ = self.broadcast.send(("child-rekey", event));
        }
        self.listed.children.insert(new, listed);
    }

    /// Notes what a child SA has carried, before nobody knows any more.
    pub(super) fn note_traffic(
        &mut self,
        child: ChildId,
        (inbound, outbound): ((u64, u64), (u64, u64)),
    ) {
        let Some(listed) = self.listed.children.get_mut(&child) else {
            return;
        };
        for (way, (packets, bytes)) in [("in", inbound), ("out", outbound)] {
            listed.section.replace(&format!("packets-{way}"), packets);
            listed.section.replace(&format!("bytes-{way}"), bytes);
        }
    }

    /// A child SA that was replaced has been announced already.
    pub(super) fn announce_child_down(&mut self, child: ChildId, reason: &str) {
        tracing::debug!(child = child.0, reason, "child SA is gone");
        if let Some(listed) = self.listed.children.remove(&child) {
            let name = listed.section.text("name").unwrap_or_default();
            let said = format!("CHILD_SA {name}{{{}}} is gone: {reason}", child.0);
            self.say(listed.ike, &said);
            self.announce_child(false, &listed);
            let name = name.to_owned();
            let ike = self.listed.ikes.get(&listed.ike);
            if let Some(connection) = ike.map(|(connection, _)| connection.clone()) {
                self.child_lost(&connection, &name, reason);
            }
        }
    }

    fn announce_child(&self, up: bool, child: &Child) {
        let Some((connection, section)) = self.listed.ikes.get(&child.ike) else {
            return;
        };
        let mut children = Section::default();
        children.put_section(&child.name, child.section.clone());
        let mut section = section.clone();
        section.put_section("child-sas", children);
        let _ = self
            .broadcast
            .send(("child-updown", updown(up, connection, section)));
    }

    fn list_ike(&self, ike: IkeId) -> Option<(String, Section)> {
        let now = Instant::now();
        let sa = self.endpoint.ike_sa(ike)?;
        Some((sa.connection.to_owned(), lists::ike(&sa, now)))
    }

    fn list_child(&self, child: ChildId) -> Option<Child> {
        let now = Instant::now();
        let sa = self.endpoint.ike_sa_of(child)?;
        let info = sa.children.iter().find(|info| info.sa.id == child)?;
        let facts = self.child_facts(info);
        Some(Child {
            ike: sa.id,
            name: lists::child_name(info),
            section: lists::child_sa(info, now, &facts),
        })
    }
}

fn updown(up: bool, connection: &str, section: Section) -> Section {
    let mut event = Section::default();
    event.put("up", if up { "yes" } else { "no" });
    event.put_section(connection, section);
    event
}
