// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every IKE SA of a daemon.

mod cluster;
mod cookie;
mod gate;
mod info;
mod reauth;
mod receive;
mod seldom;
mod stream;
mod table;
mod unique;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

pub use gate::{Gate, Verdict};
pub use info::{ChildInfo, IkeSaInfo, Stats};
pub(crate) use receive::{addresses_match, may_come, permits};
pub use stream::StreamUse;
pub use table::network;
pub(crate) use unique::GRACE;

use crate::config::{Connection, EndpointConfig, Grown, Identity, Secret};
use crate::credential::JobResult;
use crate::crypto::Crypto;
use crate::event::{Answer, ChildId, Event, IkeId, InstallId, JobId, Numbers, Path, Transmit};
use crate::ike_sa::{Ctx, FORGET, Handover, IkeSa, Outputs, Phase, Standing, State, Task};
use crate::pool::Pools;
use crate::ts::Trigger;
use seldom::Seldom;
use table::Table;

/// IKE without I/O: see the crate's documentation.
pub struct Endpoint {
    config: EndpointConfig,
    crypto: Arc<dyn Crypto>,
    connections: Vec<Arc<Connection>>,
    secrets: Vec<Secret>,
    ppks: Vec<Secret>,
    pools: Pools,
    /// This host's, as far as they are told.
    addresses: Vec<IpAddr>,
    sas: Table,
    out: Outputs,
    /// IKE SAs that are gone, until the last event that may be about them is taken.
    gone: Vec<IkeSa>,
    gate: Arc<Gate>,
    stats: Stats,
    /// First messages that fit nothing.
    misfits: Seldom,
    #[cfg(feature = "deviation")]
    deviation: Option<crate::deviation::Deviation>,
}

/// Nothing could be begun.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitiateError {
    /// No connection has this name.
    #[error("no connection {name:?}")]
    UnknownConnection {
        /// The name.
        name: String,
    },
    /// The connection has no such child.
    #[error("connection {connection:?} has no child {child:?}")]
    UnknownChild {
        /// The connection.
        connection: String,
        /// The name.
        child: String,
    },
    /// The connection names no single peer address.
    #[error("connection {connection:?} has no single address in {what}")]
    NoAddress {
        /// The connection.
        connection: String,
        /// Which setting.
        what: &'static str,
    },
    /// The cryptography refused.
    #[error("IKE_SA_INIT could not be made")]
    Crypto,
}

/// No IKE or child SA has this number.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("no such SA")]
pub struct UnknownSa;

/// Gives an IKE SA's children and tasks to another.
fn hand_over(sas: &mut Table, ctx: &mut Ctx<'_>, handover: &Handover) {
    let Some(mut heir) = sas.remove(&handover.new) else {
        // The peer has deleted it again.
        if let Some(old) = sas.get_mut(&handover.old) {
            old.standing = Standing::Current;
            if old.state == State::Dead {
                old.state = State::Established;
                old.die(ctx, crate::event::reason::DELETED_BY_PEER);
            }
        }
        return;
    };
    if let Some(old) = sas.get_mut(&handover.old) {
        old.hand_over(ctx, &mut heir, handover.delete);
        old.pump(ctx);
    }
    heir.pump(ctx);
    reauth::follow(sas, ctx, handover);
    unique::follow(ctx, handover);
    sas.insert(heir);
}

impl Endpoint {
    /// An endpoint without connections.
    pub fn new(config: EndpointConfig, crypto: Arc<dyn Crypto>) -> Self {
        let gate = Gate::new(crypto.clone(), config.puzzles.legacy);
        let difficulty = config.puzzles.difficulty(0);
        gate.set_difficulty(difficulty);
        gate.close(config.cookie_threshold == 0 || difficulty != 0);
        Self {
            gate: Arc::new(gate),
            config,
            connections: Vec::new(),
            secrets: Vec::new(),
            ppks: Vec::new(),
            pools: Pools::default(),
            addresses: Vec::new(),
            sas: Table::default(),
            out: Outputs::default(),
            gone: Vec::new(),
            stats: Stats::default(),
            misfits: Seldom::default(),
            #[cfg(feature = "deviation")]
            deviation: None,
            crypto,
        }
    }

    /// What asks for cookies, for whoever receives: a message that does not pass need not come here.
    pub fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Takes its numbers from where another endpoint takes its own.
    pub fn share_numbers(&mut self, numbers: &Numbers) {
        self.out.numbers = numbers.clone();
    }

    /// Breaks the rules from now on.
    #[cfg(feature = "deviation")]
    pub fn deviate(&mut self, deviation: crate::deviation::Deviation) {
        self.deviation = Some(deviation);
    }

    /// Replaces the policy; what is established stays.
    pub fn set_connections(&mut self, connections: Vec<Arc<Connection>>) {
        let resumes = connections.iter().any(|c| c.resumption.is_some());
        self.gate.resume(resumes);
        self.connections = connections;
    }

    /// IKE SAs of a connection take up the children that it has got since they were made, where it still
    /// lets the same peers in; those that they know stay as they are.
    pub fn add_children(&mut self, connection: &Arc<Connection>) {
        let of = self.sas.of_connection(&connection.name);
        let others = of.filter(|sa| !Arc::ptr_eq(&sa.connection, connection));
        let others: Vec<IkeId> = others.map(|sa| sa.id).collect();
        let mut grown = Grown::default();
        for sa in others {
            if let Some(sa) = self.sas.get_mut(&sa) {
                grown.grow(&mut sa.connection, connection);
            }
        }
    }

    /// Replaces the preshared keys.
    pub fn set_secrets(&mut self, secrets: Vec<Secret>) {
        self.secrets = secrets;
    }

    /// Replaces the postquantum preshared keys (RFC 8784); their owners are their ids.
    pub fn set_ppks(&mut self, ppks: Vec<Secret>) {
        self.ppks = ppks;
    }

    /// Pools of addresses for peers.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The same, to set what there are.
    pub fn pools_mut(&mut self) -> &mut Pools {
        &mut self.pools
    }

    /// The policy.
    pub fn connections(&self) -> &[Arc<Connection>] {
        &self.connections
    }

    fn with<R>(&mut self, now: Instant, step: impl FnOnce(&mut Table, &mut Ctx<'_>) -> R) -> R {
        let mut ctx = Ctx {
            crypto: &*self.crypto,
            shared_crypto: &self.crypto,
            config: &self.config,
            connections: &self.connections,
            secrets: &self.secrets,
            ppks: &self.ppks,
            pools: &mut self.pools,
            addresses: &self.addresses,
            out: &mut self.out,
            now,
            #[cfg(feature = "deviation")]
            deviation: self.deviation.as_ref(),
        };
        let before = ctx.out.events.len();
        let result = step(&mut self.sas, &mut ctx);
        for born in std::mem::take(&mut ctx.out.born) {
            self.sas.insert(born);
        }
        for id in std::mem::take(&mut ctx.out.redundant) {
            if let Some(sa) = self.sas.get_mut(&id) {
                sa.standing = Standing::Redundant;
                sa.forget_at = Some((now + FORGET).into());
            }
        }
        for handover in std::mem::take(&mut ctx.out.handovers) {
            hand_over(&mut self.sas, &mut ctx, &handover);
        }
        self.sas.tidy(ctx.crypto, ctx.config);
        unique::enforce(&mut self.sas, &mut ctx);
        reauth::go_on(&mut self.sas, &mut ctx);
        reauth::release(&mut self.sas, &mut ctx, before);
        for mut dead in self.sas.bury(ctx.crypto, ctx.config) {
            dead.bury(&mut ctx);
            self.gone.push(dead);
        }
        for child in std::mem::take(&mut ctx.out.retired) {
            self.sas.forget_child(child);
        }
        let half_open = self.sas.half_open_total();
        let difficulty = self.config.puzzles.difficulty(half_open);
        self.gate.set_difficulty(difficulty);
        self.gate
            .close(half_open >= self.config.cookie_threshold || difficulty != 0);
        result
    }

    fn on(
        &mut self,
        now: Instant,
        ike: IkeId,
        step: impl FnOnce(&mut IkeSa, &mut Ctx<'_>),
    ) -> Result<(), UnknownSa> {
        self.with(now, |sas, ctx| {
            let sa = sas.get_mut(&ike).ok_or(UnknownSa)?;
            step(sa, ctx);
            sa.pump(ctx);
            Ok(())
        })
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.out.tickets.handle_timeout(now);
        for ike in self.sas.due(now) {
            let _ = self.with(now, |sas, ctx| {
                let sa = sas.get_mut(&ike)?;
                sa.handle_timeout(ctx);
                Some(())
            });
        }
    }

    /// Takes in what was done about an event.
    pub fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        let (install, failure): (InstallId, Option<&str>) = match answer {
            Answer::Installed(install) => (*install, None),
            Answer::Failed { install, reason } => (*install, Some(reason)),
        };
        self.with(now, |sas, ctx| {
            let ike = sas.of_install(install);
            if let Some(sa) = ike.and_then(|ike| sas.get_mut(&ike)) {
                sa.answered(ctx, install, failure);
            }
        });
    }

    /// Takes in what came of a job.
    pub fn handle_job(&mut self, now: Instant, job: JobId, result: &JobResult) {
        self.with(now, |sas, ctx| {
            let ike = sas.of_job(job);
            let found = ike.and_then(|ike| sas.get_mut(&ike));
            if let Some(sa) = found.filter(|sa| sa.awaits(job)) {
                sa.handle_job(ctx, job, result);
                sa.pump(ctx);
            }
        });
    }

    /// Sets a connection up, or a further child on its established IKE SA, if that knows it. `local` is the
    /// address to send from where the connection does not say.
    ///
    /// # Errors
    /// [`InitiateError`].
    pub fn initiate(
        &mut self,
        now: Instant,
        connection: &str,
        child: Option<&str>,
        local: Option<IpAddr>,
    ) -> Result<IkeId, InitiateError> {
        self.initiate_for(now, connection, child, local, None)
    }

    /// The same, because of a packet: of a child that is there and does not carry it, for the rest. One that
    /// is asked for already is not asked for again.
    ///
    /// # Errors
    /// [`InitiateError`].
    pub fn initiate_for(
        &mut self,
        now: Instant,
        connection: &str,
        child: Option<&str>,
        local: Option<IpAddr>,
        trigger: Option<Trigger>,
    ) -> Result<IkeId, InitiateError> {
        let unknown = || InitiateError::UnknownConnection {
            name: connection.to_owned(),
        };
        let found = self
            .connections
            .iter()
            .find(|c| c.name == connection)
            .cloned();
        let connection = found.ok_or_else(unknown)?;
        if let Some(name) = child
            && !connection.children.iter().any(|c| c.name == name)
        {
            let (connection, child) = (connection.name.clone(), name.to_owned());
            return Err(InitiateError::UnknownChild { connection, child });
        }
        let task = child.map(|name| Task::Child {
            name: name.to_owned(),
            rekeys: None,
            group: None,
            not_before: None,
        });
        let present = self.sas.of_connection(&connection.name).find(|sa| {
            sa.standing == Standing::Current
                && matches!(sa.state, State::Established | State::Connecting)
                && (sa.state == State::Established || sa.initiator)
                && child.is_none_or(|name| sa.knows_child(name))
        });
        if let Some(id) = present.map(|sa| sa.id) {
            let _ = self.on(now, id, |sa, _| match child.zip(trigger) {
                Some((name, _)) if sa.asks_for(name) => {}
                Some((name, trigger)) if sa.has_child_of(name) => {
                    sa.ask_for_packet(now, name, trigger);
                }
                of_packet => {
                    if let Some((name, trigger)) = of_packet {
                        sa.triggered(name, trigger);
                    }
                    sa.tasks.extend(task);
                }
            });
            return Ok(id);
        }
        let no_address = |what| InitiateError::NoAddress {
            connection: connection.name.clone(),
            what,
        };
        let single = |patterns: &[crate::config::AddressPattern]| {
            patterns
                .iter()
                .find_map(crate::config::AddressPattern::single)
        };
        let remote = single(&connection.remote_addrs).ok_or_else(|| no_address("remote_addrs"))?;
        let local = single(&connection.local_addrs)
            .or(local)
            .ok_or_else(|| no_address("local_addrs"))?;
        let path = Path::new(
            SocketAddr::new(local, self.config.ike_port),
            SocketAddr::new(remote, connection.remote_port),
        );
        self.with(now, |sas, ctx| {
            let spi_i = ctx.random_u64();
            let known = |sa: &IkeSa| sa.keys.is_some() && sa.may_be_of(ctx.crypto, &connection);
            let (local_id, remote_id) = (&connection.local_id, &connection.remote_id);
            let initial_contact = if [local_id, remote_id].contains(&&Identity::Any) {
                !sas.values().any(known)
            } else {
                let between = sas.between(ctx.crypto, local_id, remote_id);
                !between.chain(sas.connecting()).any(known)
            };
            let mut sa = IkeSa::new(ctx, connection, true, (spi_i, 0), path);
            sa.initial_contact = initial_contact;
            if let Some((name, trigger)) = child.zip(trigger) {
                sa.triggered(name, trigger);
            }
            sa.tasks.extend(task);
            sa.present_ticket(ctx);
            sa.begin_init(ctx).map_err(|_| InitiateError::Crypto)?;
            let id = sa.id;
            sas.insert(sa);
            Ok(id)
        })
    }

    /// Deletes an IKE SA with its children.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn terminate_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| {
            if sa.state == State::Connecting {
                sa.die(ctx, "terminated");
            } else {
                sa.tasks.clear();
                sa.tasks.push_back(Task::DeleteIke {
                    reason: "terminated".to_owned(),
                });
            }
        })
    }

    /// Takes an IKE SA for lost, as if its peer had not answered for long: nobody is told, and it may be
    /// resumed.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn lose_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| {
            sa.die(ctx, crate::event::reason::NO_ANSWER)
        })
    }

    fn ike_of(&self, child: ChildId) -> Result<IkeId, UnknownSa> {
        self.sas.of_child(child).ok_or(UnknownSa)
    }

    /// Deletes a child SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn terminate_child(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let ike = self.ike_of(child)?;
        self.on(now, ike, |sa, _| {
            // What has taken over from it is meant too.
            let replaced = sa.child(child).is_some_and(|c| c.phase == Phase::Replaced);
            if let Some(successor) = sa.successor(child).filter(|_| replaced) {
                sa.delete_child(successor);
            }
            sa.delete_child(child);
        })
    }

    /// Rekeys an IKE SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn rekey_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| sa.renew(ctx))
    }

    /// Replaces an IKE SA by a new one, with new children, before it is deleted.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn reauthenticate(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| sa.reauthenticate(ctx))
    }

    /// Tells a peer to go to another gateway (RFC 5685). Whether it can.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn redirect(
        &mut self,
        now: Instant,
        ike: IkeId,
        gateway: IpAddr,
    ) -> Result<bool, UnknownSa> {
        let mut can = false;
        self.on(now, ike, |sa, _| {
            can = sa.redirectable && sa.state == State::Established;
            if can {
                sa.tasks.push_back(Task::Redirect(gateway));
            }
        })?;
        Ok(can)
    }

    /// Goes on from another address of ours, and tells the peer (RFC 4555). Whether both can.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn move_to(&mut self, now: Instant, ike: IkeId, local: IpAddr) -> Result<bool, UnknownSa> {
        let mut can = false;
        self.on(now, ike, |sa, ctx| can = sa.move_to(ctx, local))?;
        Ok(can)
    }

    /// Takes in which addresses this host has: with MOBIKE, peers that may choose among them are told of
    /// those that their connection names (RFC 4555 §3.4, §3.6), and other ones are tried where a peer does
    /// not answer.
    pub fn set_addresses(&mut self, now: Instant, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        // No host has none: whoever looked could not tell.
        if addresses.is_empty() || addresses == self.addresses {
            return;
        }
        self.addresses = addresses;
        let mobile: Vec<IkeId> = self
            .sas
            .values()
            .filter(|sa| sa.mobike)
            .map(|sa| sa.id)
            .collect();
        for ike in mobile {
            let _ = self.on(now, ike, |sa, ctx| sa.look_at_addresses(ctx));
        }
    }

    /// Takes in that authentic ESP of a child comes from elsewhere. Whether it is followed there: its
    /// peer must be behind a NAT, and not one that says so when it moves (RFC 7296 §2.23, RFC 4555).
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn peer_moved(
        &mut self,
        now: Instant,
        child: ChildId,
        remote: SocketAddr,
    ) -> Result<bool, UnknownSa> {
        let ike = self.ike_of(child)?;
        let mut follows = false;
        self.on(now, ike, |sa, ctx| follows = sa.esp_came_from(ctx, remote))?;
        Ok(follows)
    }

    /// Ends a child SA whose hard lifetime is over: nothing passes it any more. A rekeying that is
    /// under way goes on.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn child_expired(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let ike = self.ike_of(child)?;
        self.on(now, ike, |sa, ctx| sa.child_expired(ctx, child))
    }

    /// Rekeys a child SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn rekey_child(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let ike = self.ike_of(child)?;
        self.on(now, ike, |sa, _| sa.rekey_child(child))
    }

    /// Asks a peer whether it lives.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn check_liveness(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, _| sa.tasks.push_back(Task::Liveness))
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.out.events.len()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.out.events.pop_front();
        if event.is_none() {
            self.gone = Vec::new();
        }
        event
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tickets = self.out.tickets.due();
        self.sas.next_due().into_iter().chain(tickets).min()
    }
}
