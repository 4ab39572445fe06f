// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands of the control protocol.

use std::time::{Duration, Instant};

use driver::Card;
use ikev2d_proto::event::{ChildId, IkeId};
use tokio::sync::oneshot;

use super::Daemon;
use super::ike::Ike;
use crate::vici::lists::{self, ChildSettings};
use crate::vici::message::Section;
use crate::vici::server::{Reply, Request};

/// How long `initiate` and `terminate` wait, unless the client says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients that wait for something to come up or go.
#[derive(Default)]
pub(crate) struct Waiters {
    waiting: Vec<Waiter>,
}

struct Waiter {
    what: Awaited,
    until: Instant,
    /// What somebody has said against it.
    doubt: Option<String>,
    reply: Option<oneshot::Sender<Reply>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Awaited {
    Up {
        connection: String,
        child: Option<String>,
    },
    IkesGone(Vec<IkeId>),
    ChildrenGone(Vec<ChildId>),
}

impl Waiters {
    fn add(&mut self, what: Awaited, patience: Duration, reply: oneshot::Sender<Reply>) {
        let until = Instant::now() + patience;
        self.waiting.push(Waiter {
            what,
            until,
            doubt: None,
            reply: Some(reply),
        });
    }

    fn resolve(&mut self, mut outcome: impl FnMut(&mut Awaited) -> Option<Result<(), String>>) {
        for waiter in &mut self.waiting {
            if let Some(outcome) = outcome(&mut waiter.what)
                && let Some(reply) = waiter.reply.take()
            {
                let _ = reply.send(respond(outcome));
            }
        }
        self.waiting.retain(|waiter| waiter.reply.is_some());
    }

    pub(super) fn expire(&mut self, now: Instant) {
        for waiter in self.waiting.iter_mut().filter(|waiter| waiter.until <= now) {
            if let Some(reply) = waiter.reply.take() {
                let late = "it takes longer than the time-out";
                let reason = match &waiter.doubt {
                    Some(doubt) => format!("{late}: {doubt}"),
                    None => late.to_owned(),
                };
                let _ = reply.send(respond(Err(reason)));
            }
        }
        self.waiting.retain(|waiter| waiter.reply.is_some());
    }

    pub(super) fn ike_up(&mut self, ike: IkeId, endpoint: &Ike) {
        let name = endpoint.ike_sa(ike).map(|sa| sa.connection.to_owned());
        self.resolve(|what| match what {
            Awaited::Up {
                connection,
                child: None,
            } if Some(&*connection) == name.as_ref() => Some(Ok(())),
            _ => None,
        });
    }

    pub(super) fn child_up(&mut self, of: &str, name: &str) {
        self.resolve(|what| match what {
            Awaited::Up {
                connection,
                child: Some(child),
            } if connection == of && child == name => Some(Ok(())),
            _ => None,
        });
    }

    pub(super) fn failed(&mut self, failed: &str, failed_child: Option<&str>, reason: &str) {
        self.resolve(|what| match what {
            Awaited::Up { connection, child }
                if connection == failed
                    && (failed_child.is_none() || child.as_deref() == failed_child) =>
            {
                Some(Err(reason.to_owned()))
            }
            _ => None,
        });
    }

    /// Somebody says that a connection can't be set up.
    pub(super) fn doubt(&mut self, doubted: &str, reason: &str) {
        for waiter in &mut self.waiting {
            if matches!(&waiter.what, Awaited::Up { connection, .. } if connection == doubted) {
                waiter.doubt = Some(reason.to_owned());
            }
        }
    }

    pub(super) fn ike_down(&mut self, ike: IkeId, name: &str, reason: &str) {
        self.resolve(|what| match what {
            Awaited::IkesGone(ikes) => {
                ikes.retain(|other| *other != ike);
                ikes.is_empty().then_some(Ok(()))
            }
            Awaited::Up { connection, .. } if connection == name => Some(Err(reason.to_owned())),
            _ => None,
        });
    }

    pub(super) fn child_down(&mut self, child: ChildId) {
        self.resolve(|what| match what {
            Awaited::ChildrenGone(children) => {
                children.retain(|other| *other != child);
                children.is_empty().then_some(Ok(()))
            }
            _ => None,
        });
    }
}

pub(super) fn respond(outcome: Result<(), String>) -> Reply {
    let mut response = Section::default();
    match outcome {
        Ok(()) => response.put("success", "yes"),
        Err(reason) => {
            response.put("success", "no");
            response.put("errmsg", reason);
        }
    }
    Reply::Response {
        events: Vec::new(),
        response,
    }
}

fn plain(response: Section) -> Reply {
    Reply::Response {
        events: Vec::new(),
        response,
    }
}

fn streamed(events: Vec<(&'static str, Section)>) -> Reply {
    Reply::Response {
        events,
        response: Section::default(),
    }
}

impl Daemon {
    /// Runs a command; the answer may come later.
    pub(crate) fn control(&mut self, request: Request) {
        let Request {
            command,
            mut message,
            reply,
        } = request;
        // What loads credentials comes in a row.
        if !matches!(
            command.as_str(),
            "load-key" | "load-cert" | "load-shared" | "load-authority"
        ) {
            self.refresh_policy();
        }
        let answer = match command.as_str() {
            "version" => plain(version()),
            "stats" => plain(self.statistics()),
            "devices" => plain(self.devices.section()),
            "release-device" => respond(self.devices.release()),
            "list-sas" => streamed(self.list_sas(&message)),
            "list-conns" => {
                let conns = self.endpoint.connections().iter();
                let listed = conns.map(|c| {
                    let settings = |child: &str| {
                        let section = self.loaded.child(&self.config, &c.name, child);
                        section.map_or_else(ChildSettings::default, |s| (&**s).into())
                    };
                    ("list-conn", lists::connection(c, settings))
                });
                streamed(listed.collect())
            }
            "list-policies" => streamed(self.list_traps(&message)),
            "list-certs" => streamed(lists::certificates(
                self.endpoint.connections(),
                &self.authorities(),
            )),
            "list-authorities" => streamed(self.list_authorities(&message)),
            "load-authority" => respond(self.load_authority(&message)),
            "unload-authority" => respond(self.unload_authority(&message)),
            "get-pools" => plain(self.list_pools(&message)),
            "load-pool" => respond(self.load_pool(&message)),
            "unload-pool" => respond(self.unload_pool(&message)),
            "get-conns" | "get-shared" | "get-keys" | "get-authorities" => {
                plain(self.loaded.names(&command))
            }
            "get-algorithms" => plain(lists::algorithms()),
            "get-counters" => plain(self.counters()),
            "reload-settings" => respond(self.reload().map_err(|error| error.to_string())),
            "flush-certs" => {
                self.config.credentials.flush();
                respond(Ok(()))
            }
            "load-conn" => respond(self.load_connection(&message)),
            "unload-conn" => respond(self.unload_connection(&message)),
            "load-shared" => respond(self.load_secret(&message)),
            "unload-shared" => respond(self.unload_secret(&message)),
            "clear-creds" => {
                self.clear_secrets();
                respond(Ok(()))
            }
            "inspect-device" => return self.control_card(&message, reply, inspect),
            "reset-device" => {
                // The failover sees to the rest, as after any loss.
                return self.control_card(&message, reply, |card| {
                    card.give_up("a reset was asked for");
                    Ok(Section::default())
                });
            }
            "load-manual" => match self.load_manual(&message) {
                Ok(first) => {
                    let mut response = Section::default();
                    response.put("success", "yes");
                    response.put("first-sequence", first);
                    plain(response)
                }
                Err(error) => respond(Err(error)),
            },
            "unload-manual" => return self.unload_manual(&message, reply),
            "initiate" => return self.control_initiate(&message, reply),
            "terminate" => return self.control_terminate(&message, reply),
            "rekey" => respond(self.control_rekey(&message)),
            "redirect" => self.control_redirect(&message),
            "load-cert" => respond(self.load_certificate(&message)),
            "load-key" => match self.load_key(&message) {
                Ok(id) => {
                    let mut response = Section::default();
                    response.put("success", "yes");
                    response.put("id", id);
                    plain(response)
                }
                Err(error) => respond(Err(error)),
            },
            "unload-key" | "load-token" | "install" | "uninstall" | "reset-counters" => {
                respond(Err(format!("{command} is not supported by ikev2d")))
            }
            _ => Reply::Unknown,
        };
        message.wipe();
        let _ = reply.send(answer);
    }

    /// Has a card do something that may take its time.
    fn control_card(
        &self,
        message: &Section,
        reply: oneshot::Sender<Reply>,
        run: fn(&Card) -> Result<Section, String>,
    ) {
        let card = match self.devices.card(message.text("name")) {
            Ok(card) => card,
            Err(error) => {
                let _ = reply.send(respond(Err(error)));
                return;
            }
        };
        tokio::task::spawn_blocking(move || {
            let answer = match run(&card) {
                Ok(mut response) => {
                    response.put("success", "yes");
                    Reply::Response {
                        events: Vec::new(),
                        response,
                    }
                }
                Err(error) => respond(Err(error)),
            };
            let _ = reply.send(answer);
        });
    }

    fn list_sas(&self, message: &Section) -> Vec<(&'static str, Section)> {
        let now = Instant::now();
        let wanted_ike = message.text("ike");
        let wanted_id = message.number("ike-id");
        let manual = match wanted_id {
            None => self.manual.list(wanted_ike, now),
            Some(_) => Vec::new(),
        };
        let mut sas: Vec<_> = self
            .endpoint
            .ike_sas()
            .filter(|sa| wanted_ike.is_none_or(|name| sa.connection == name))
            .filter(|sa| wanted_id.is_none_or(|id| sa.id.0 == id))
            .collect();
        sas.sort_unstable_by_key(|sa| sa.id.0);
        sas.into_iter()
            .map(|sa| {
                let section = lists::ike_sa(&sa, now, |child| self.child_facts(child));
                ("list-sa", section)
            })
            .chain(manual)
            .collect()
    }

    fn control_initiate(&mut self, message: &Section, reply: oneshot::Sender<Reply>) {
        let child = message.text("child").map(str::to_owned);
        let connection = match (message.text("ike"), &child) {
            (Some(ike), _) => Some(ike.to_owned()),
            (None, Some(child)) => self
                .endpoint
                .connections()
                .iter()
                .find(|c| c.children.iter().any(|config| &config.name == child))
                .map(|c| c.name.clone()),
            (None, None) => None,
        };
        let Some(connection) = connection else {
            let reason = match child {
                Some(child) => format!("no connection has a child {child:?}"),
                None => "neither a child nor a connection is named".to_owned(),
            };
            let _ = reply.send(respond(Err(reason)));
            return;
        };
        match self.initiate(&connection, child.as_deref()) {
            Ok(()) => {
                // Nobody will tell of one that is up already.
                let is_up = |endpoint: &Ike| {
                    let mut sas = endpoint.ike_sas_of(&connection);
                    sas.any(|sa| sa.state == "ESTABLISHED")
                };
                let present = child.is_none() && is_up(&self.endpoint);
                let Some(patience) = patience(message).filter(|_| !present) else {
                    let _ = reply.send(respond(Ok(())));
                    return;
                };
                self.waiters
                    .add(Awaited::Up { connection, child }, patience, reply);
            }
            Err(error) => {
                let _ = reply.send(respond(Err(error.to_string())));
            }
        }
    }

    /// The IKE SAs and children that a command names.
    fn selected(&self, message: &Section) -> (Vec<IkeId>, Vec<ChildId>) {
        let (ike, ike_id) = (message.text("ike"), message.number("ike-id"));
        let (child, child_id) = (message.text("child"), message.number("child-id"));
        let by_child = child.is_some() || child_id.is_some();
        let (mut ikes, mut children) = (Vec::new(), Vec::new());
        for sa in self.endpoint.ike_sas() {
            let fits = ike.is_none_or(|name| sa.connection == name)
                && ike_id.is_none_or(|id| sa.id.0 == id);
            if !fits {
                continue;
            }
            if by_child {
                let of = sa.children.iter().map(|c| c.sa).filter(|sa| {
                    child.is_none_or(|name| *sa.child == *name)
                        && child_id.is_none_or(|id| sa.id.0 == id)
                });
                children.extend(of.map(|sa| sa.id));
            } else if (ike.is_some() || ike_id.is_some()) && sa.state != "REKEYED" {
                // What is replaced goes with its successor, and nobody is told of it.
                ikes.push(sa.id);
            }
        }
        (ikes, children)
    }

    fn control_terminate(&mut self, message: &Section, reply: oneshot::Sender<Reply>) {
        let now = Instant::now();
        let (ikes, children) = self.selected(message);
        let awaited = if !children.is_empty() {
            for child in &children {
                let _ = self.endpoint.terminate_child(now, *child);
            }
            Awaited::ChildrenGone(children)
        } else if !ikes.is_empty() {
            for ike in &ikes {
                let _ = self.endpoint.terminate_ike(now, *ike);
            }
            Awaited::IkesGone(ikes)
        } else {
            let _ = reply.send(respond(
                Err("no matching SAs to terminate found".to_owned()),
            ));
            return;
        };
        match patience(message) {
            Some(patience) => self.waiters.add(awaited, patience, reply),
            None => {
                let _ = reply.send(respond(Ok(())));
            }
        }
    }

    fn control_rekey(&mut self, message: &Section) -> Result<(), String> {
        let now = Instant::now();
        let reauth = message.text("reauth") == Some("yes");
        let (ikes, children) = self.selected(message);
        if ikes.is_empty() && children.is_empty() {
            return Err("no matching SAs to rekey found".to_owned());
        }
        for child in children {
            let _ = self.endpoint.rekey_child(now, child);
        }
        for ike in ikes {
            let _ = match reauth {
                true => self.endpoint.reauthenticate(now, ike),
                false => self.endpoint.rekey_ike(now, ike),
            };
        }
        Ok(())
    }

    fn statistics(&self) -> Section {
        let stats = self.endpoint.stats();
        let mut section = Section::default();
        let mut uptime = Section::default();
        uptime.put(
            "running",
            format_args!("{} seconds", self.started.elapsed().as_secs()),
        );
        uptime.put("since", start_time(self.started));
        section.put_section("uptime", uptime);
        let mut workers = Section::default();
        workers.put("total", 1);
        workers.put("idle", 0);
        let mut active = Section::default();
        for level in ["critical", "high", "medium", "low"] {
            active.put(level, 0);
        }
        workers.put_section("active", active);
        section.put_section("workers", workers);
        let mut queues = Section::default();
        for level in ["critical", "high", "medium", "low"] {
            queues.put(level, 0);
        }
        section.put_section("queues", queues);
        section.put(
            "scheduled",
            usize::from(self.endpoint.poll_timeout().is_some()),
        );
        let mut ikesas = Section::default();
        ikesas.put("total", stats.established + stats.half_open);
        ikesas.put("half-open", stats.half_open);
        section.put_section("ikesas", ikesas);
        section.put_list("plugins", ["esplanade".to_owned()]);
        let mut dataplane = Section::default();
        for (key, value) in self.plane_statistics() {
            dataplane.put(&key, value);
        }
        section.put_section("dataplane", dataplane);
        section
    }

    fn counters(&self) -> Section {
        let stats = self.endpoint.stats();
        let mut counters = Section::default();
        counters.put("retransmits", stats.retransmits);
        counters.put("cookies", stats.cookies);
        counters.put("invalid", stats.malformed);
        counters.put("invalid-ike-spi", stats.unknown_spi);
        counters.put("auth-failures", stats.auth_failures);
        counters.put("resumptions", stats.resumptions);
        counters.put("refused-tickets", stats.refused_tickets);
        counters.put("jobs", self.counts.jobs);
        counters.put("legacy-sas", self.listed.legacy());
        let mut all = Section::default();
        all.put_section("", counters);
        let mut section = Section::default();
        section.put_section("counters", all);
        section.put("success", "yes");
        section
    }
}

/// All that a card tells about itself, as one JSON text.
/// Each kind of card has a word of its own for its report.
fn inspect(card: &Card) -> Result<Section, String> {
    let (word, text) = match card {
        Card::Ipa(card) => {
            let report = card.inspect().map_err(|error| error.to_string())?;
            ("inspection", serde_json::to_string(&report))
        }
        Card::Qat(card) => {
            let report = card.inspect().map_err(|error| error.to_string())?;
            ("qat", serde_json::to_string(&report))
        }
    };
    let mut section = Section::default();
    section.put(word, text.map_err(|error| error.to_string())?);
    Ok(section)
}

/// How long a client wants to wait, in its `timeout`; nothing if not at all (-1).
fn patience(message: &Section) -> Option<Duration> {
    match message.text("timeout").and_then(|t| t.parse::<i64>().ok()) {
        Some(millis) if millis > 0 => Some(Duration::from_millis(millis.unsigned_abs())),
        Some(millis) if millis < 0 => None,
        _ => Some(PATIENCE),
    }
}

fn version() -> Section {
    let mut section = Section::default();
    section.put("daemon", "ikev2d");
    section.put("version", env!("CARGO_PKG_VERSION"));
    if let Ok(system) = nix::sys::utsname::uname() {
        section.put("sysname", system.sysname().to_string_lossy());
        section.put("release", system.release().to_string_lossy());
        section.put("machine", system.machine().to_string_lossy());
    }
    section
}

/// When it started, as seconds since the epoch.
fn start_time(started: Instant) -> String {
    let since = std::time::SystemTime::now().checked_sub(started.elapsed());
    let seconds = since.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    format!("@{}", seconds.unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Children of two connections may have one name: whoever waits for one hears nothing of the other.
    #[test]
    fn who_waits_for_a_child_waits_for_that_of_its_connection() {
        let mut waiters = Waiters::default();
        let mut wait = |connection: &str| {
            let (reply, answer) = oneshot::channel();
            let what = Awaited::Up {
                connection: connection.to_owned(),
                child: Some("net".to_owned()),
            };
            waiters.add(what, PATIENCE, reply);
            answer
        };
        let (mut a, mut b) = (wait("a"), wait("b"));
        waiters.child_up("a", "net");
        assert!(a.try_recv().is_ok());
        assert!(b.try_recv().is_err());
        waiters.child_up("b", "net");
        assert!(b.try_recv().is_ok());
    }
}
