// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every ISAKMP SA of a daemon.

mod info;
mod receive;
mod table;

pub(crate) use receive::not_begun;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_proto::config::{
    AddressPattern, Connection, EndpointConfig, Grown, Identity, Secret, Unique, find_secret,
};
use ikev2d_proto::credential::JobResult;
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::endpoint::{InitiateError, UnknownSa};
use ikev2d_proto::event::{Answer, ChildId, Event, IkeId, JobId, Numbers, Path, Transmit};
use ikev2d_proto::pool::Pools;

use crate::isakmp::{Isakmp, State};
use crate::slow::Then;
use crate::step::{Ctx, Outputs};
use crate::wire::parse_header;
use table::Table;

/// How long an SA that another one has taken over from is kept: what is under way on it ends.
const SUCCESSION: Duration = Duration::from_secs(10);
/// Octets that a message always goes in one datagram with.
const ALWAYS_WHOLE: usize = 128;

/// IKEv1 without I/O: see the crate's documentation. It is driven like `ikev2d-proto`'s endpoint.
pub struct Endpoint {
    config: EndpointConfig,
    crypto: Arc<dyn Crypto>,
    connections: Vec<Arc<Connection>>,
    secrets: Vec<Secret>,
    pools: Pools,
    sas: Table,
    out: Outputs,
    stats: receive::Counters,
}

impl Endpoint {
    /// An endpoint without connections. It shares its numbers with another one.
    pub fn new(config: EndpointConfig, crypto: Arc<dyn Crypto>, numbers: &Numbers) -> Self {
        let out = Outputs {
            numbers: numbers.clone(),
            ..Outputs::default()
        };
        Self {
            config,
            crypto,
            connections: Vec::new(),
            secrets: Vec::new(),
            pools: Pools::default(),
            sas: Table::default(),
            out,
            stats: receive::Counters::default(),
        }
    }

    /// Replaces the policy; what is established stays. Connections of IKEv2 alone are left out.
    pub fn set_connections(&mut self, connections: &[Arc<Connection>]) {
        let ours = connections.iter().filter(|c| c.version.has_v1());
        self.connections = ours.cloned().collect();
    }

    /// ISAKMP SAs of a connection take up the children that it has got since they were made, where it still
    /// lets the same peers in; those that they know stay as they are.
    pub fn add_children(&mut self, connection: &Arc<Connection>) {
        let mut grown = Grown::default();
        for id in self.sas.of_connection(&connection.name) {
            let of = |sa: &&mut Isakmp| sa.connection.name == connection.name;
            if let Some(sa) = self.sas.get_mut(id).filter(of) {
                grown.grow(&mut sa.connection, connection);
            }
        }
    }

    /// Whether a child of a connection is being asked for, or is to be.
    pub fn asks_for(&self, connection: &str, child: &str) -> bool {
        let ours = self.sas.of_connection(connection).into_iter();
        let mut ours = ours.filter_map(|id| self.sas.get(id));
        ours.any(|sa| sa.connection.name == connection && sa.asks_for(child))
    }

    /// Replaces the preshared keys.
    pub fn set_secrets(&mut self, secrets: Vec<Secret>) {
        self.secrets = secrets;
    }

    /// Pools of addresses for peers: those of both versions have the same ones, which are lent to the one
    /// that acts.
    pub fn pools_mut(&mut self) -> &mut Pools {
        &mut self.pools
    }

    fn with<R>(&mut self, now: Instant, step: impl FnOnce(&mut Table, &mut Ctx<'_>) -> R) -> R {
        let mut ctx = Ctx {
            crypto: &*self.crypto,
            shared_crypto: &self.crypto,
            config: &self.config,
            connections: &self.connections,
            secrets: &self.secrets,
            pools: &mut self.pools,
            out: &mut self.out,
            now,
        };
        let sas = &mut self.sas;
        ctx.out.kept = sas.kept();
        let result = step(sas, &mut ctx);
        for id in std::mem::take(&mut ctx.out.proved) {
            let waiting = sas.get_mut(id);
            if let Some(sa) = waiting.filter(|sa| sa.state == State::Transacting) {
                sa.handle_early(&mut ctx);
            }
        }
        loop {
            let established = std::mem::take(&mut ctx.out.established);
            if established.is_empty() {
                break;
            }
            for id in established {
                sas.settle(ctx.config, ctx.crypto);
                take_over(sas, &mut ctx, id);
            }
        }
        sas.settle(ctx.config, ctx.crypto);
        for id in std::mem::take(&mut ctx.out.initial_contact) {
            initial_contact(sas, &mut ctx, id);
        }
        sas.settle(ctx.config, ctx.crypto);
        for child in std::mem::take(&mut ctx.out.up) {
            bring_home(sas, &ctx, child);
            sas.settle(ctx.config, ctx.crypto);
            if let Some(sa) = parent(sas, child) {
                sa.child_is_up(&mut ctx, child);
            }
        }
        for child in std::mem::take(&mut ctx.out.abandoned) {
            if let Some(sa) = parent(sas, child) {
                sa.delete_child(&mut ctx, child, "the peer has not ended the quick mode");
            }
        }
        for id in std::mem::take(&mut ctx.out.renew) {
            renew(sas, &mut ctx, id);
        }
        sas.settle(ctx.config, ctx.crypto);
        divide(sas, &mut ctx);
        sas.settle(ctx.config, ctx.crypto);
        for id in sas.take_dead() {
            bury(sas, &mut ctx, id);
        }
        sas.settle(ctx.config, ctx.crypto);
        for failed in std::mem::take(&mut ctx.out.unrekeyed) {
            if let Some(sa) = parent(sas, failed.old) {
                sa.quick_failed(&mut ctx, &failed.name, Some(failed.old), &failed.reason);
            }
        }
        sas.settle(ctx.config, ctx.crypto);
        result
    }

    fn on<R>(
        &mut self,
        now: Instant,
        ike: IkeId,
        step: impl FnOnce(&mut Isakmp, &mut Ctx<'_>) -> R,
    ) -> Result<R, UnknownSa> {
        self.with(now, |sas, ctx| {
            let sa = sas.get_mut(ike).ok_or(UnknownSa)?;
            Ok(step(sa, ctx))
        })
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.with(now, |sas, ctx| {
            for id in sas.due(now) {
                if let Some(sa) = sas.get_mut(id) {
                    sa.handle_timeout(ctx);
                }
            }
        });
    }

    /// Takes in what was done about an event.
    pub fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        let (install, failure) = match answer {
            Answer::Installed(install) => (*install, None),
            Answer::Failed { install, reason } => (*install, Some(&reason[..])),
        };
        self.with(now, |sas, ctx| {
            let found = sas.of_install(install);
            if let Some(sa) = found.and_then(|id| sas.get_mut(id)) {
                sa.answered(ctx, install, failure);
            }
        });
    }

    /// Takes in what came of a job.
    pub fn handle_job(&mut self, now: Instant, job: JobId, result: &JobResult) {
        self.with(now, |sas, ctx| {
            let found = sas.of_job(job);
            if let Some(sa) = found.and_then(|id| sas.get_mut(id)) {
                sa.handle_job(ctx, job, result);
            }
        });
    }

    /// Sets a connection up, or a further child on its established SA. `local` is the address to send
    /// from where the connection does not say.
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
        let found = self.connections.iter().find(|c| c.name == connection);
        let connection = found
            .cloned()
            .ok_or_else(|| InitiateError::UnknownConnection {
                name: connection.to_owned(),
            })?;
        if let Some(name) = child
            && !connection.children.iter().any(|c| c.name == name)
        {
            let (connection, child) = (connection.name.clone(), name.to_owned());
            return Err(InitiateError::UnknownChild { connection, child });
        }
        let ours = self.sas.of_connection(&connection.name).into_iter();
        let mut ours = ours.filter_map(|id| self.sas.get(id));
        let present = ours.find(|sa| {
            sa.connection.name == connection.name
                && (sa.state == State::Established
                    || matches!(sa.state, State::Connecting | State::Transacting)
                        && sa.initiator
                        && sa.replaces.is_none())
        });
        if let Some(id) = present.map(|sa| sa.id) {
            let _ = self.on(now, id, |sa, ctx| match child {
                Some(child) if sa.state == State::Established => sa.ask_child(ctx, child),
                child => sa.wanted.extend(child.map(str::to_owned)),
            });
            return Ok(id);
        }
        let no_address = |what| InitiateError::NoAddress {
            connection: connection.name.clone(),
            what,
        };
        let single = |patterns: &[AddressPattern]| patterns.iter().find_map(AddressPattern::single);
        let remote = single(&connection.remote_addrs).ok_or_else(|| no_address("remote_addrs"))?;
        let local = single(&connection.local_addrs)
            .or(local)
            .ok_or_else(|| no_address("local_addrs"))?;
        let path = Path::new(
            SocketAddr::new(local, self.config.ike_port),
            SocketAddr::new(remote, connection.remote_port),
        );
        self.with(now, |sas, ctx| {
            let cookie = ctx.cookie();
            let is_up = |id| sas.get(id).is_some_and(Isakmp::is_up);
            let initial_contact = !sas.of_peer(remote).into_iter().any(is_up);
            let mut sa = Isakmp::new(ctx, connection, true, (cookie, 0), path);
            sa.initial_contact = initial_contact;
            sa.wanted.extend(child.map(str::to_owned));
            sa.begin(ctx).map_err(|error| {
                tracing::error!(%error, "IKEv1 could not be begun");
                InitiateError::Crypto
            })?;
            let id = sa.id;
            sas.insert(sa);
            Ok(id)
        })
    }

    /// Deletes an ISAKMP SA with its children.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn terminate_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.with(now, |sas, ctx| {
            let mut sa = sas.remove(ike).ok_or(UnknownSa)?;
            // Those that it has replaced go with it.
            for id in sas.of_ends(&sa, ctx.crypto) {
                let replaced = sas.get_mut(id).filter(|old| old.state == State::Replaced);
                if let Some(old) = replaced.filter(|old| old.same_ends(ctx.crypto, &sa)) {
                    old.delete(ctx, "terminated");
                }
            }
            sa.delete(ctx, "terminated");
            sas.insert(sa);
            Ok(())
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
        self.on(now, ike, |sa, ctx| sa.terminate_child(ctx, child))
    }

    /// Replaces an ISAKMP SA by a new one, to which its children go over. IKEv1 has no other rekeying:
    /// both ends authenticate anew.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn rekey_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| ctx.out.renew.push(sa.id))
    }

    /// Rekeys a child SA.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn rekey_child(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let ike = self.ike_of(child)?;
        self.on(now, ike, |sa, ctx| sa.rekey_child(ctx, child))
    }

    /// Asks a peer whether it lives.
    ///
    /// # Errors
    /// [`UnknownSa`].
    pub fn check_liveness(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        self.on(now, ike, |sa, ctx| {
            if sa.dpd.is_none() {
                sa.ask_liveness(ctx);
            }
        })
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
            self.out.gone = Vec::new();
        }
        event
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sas.next_due()
    }
}

/// Sends long messages in fragments to those who can put them together.
fn divide(sas: &mut Table, ctx: &mut Ctx<'_>) {
    let is_short = |transmit: &Transmit| transmit.payload.len() <= ALWAYS_WHOLE;
    if ctx.out.transmits.iter().all(is_short) {
        return;
    }
    for transmit in std::mem::take(&mut ctx.out.transmits) {
        let header = parse_header(&transmit.payload).ok();
        let header = header.filter(|_| !is_short(&transmit));
        let id = header.and_then(|h| sas.by_cookies(h.spi_i.get(), h.spi_r.get()));
        match id.and_then(|id| sas.get_mut(id)) {
            Some(sa) => {
                let size = ctx.config.fragment_size;
                ctx.out.transmits.extend(sa.divide(size, transmit));
            }
            None => ctx.out.transmits.push_back(transmit),
        }
    }
}

/// A new SA takes the children of those before it between the same ends; then what waited for it goes on.
fn take_over(sas: &mut Table, ctx: &mut Ctx<'_>, id: IkeId) {
    let Some(mut sa) = sas.remove(id) else {
        return;
    };
    let mut old = None;
    let connected = !ctx.out.initial_contact.contains(&id) || sa.connection.unique == Unique::Never;
    let others = sas.of_ends(&sa, ctx.crypto);
    for other in others.into_iter().filter(|_| connected) {
        let Some(other) = sas.get_mut(other) else {
            continue;
        };
        let same = other.state == State::Established && other.same_ends(ctx.crypto, &sa);
        if same && other.path.remote.ip() != sa.path.remote.ip() {
            // The peer is elsewhere as well: no renewal, since that would come from where it was.
            match sa.connection.unique {
                Unique::Replace => other.delete(ctx, "the peer has come anew from elsewhere"),
                Unique::Keep if !sa.initiator => {
                    let connection = &sa.connection.name;
                    tracing::warn!(connection, "the peer has an SA already, which is kept");
                    sa.delete(ctx, "the peer has another SA, which is kept");
                    sas.insert(sa);
                    return;
                }
                _ => {}
            }
        } else if same {
            other.state = State::Replaced;
            other.rekey_at = None;
            other.delete_at = Some(ctx.now + SUCCESSION);
            other.hand_over(ctx, &mut sa);
            // What is yet to be asked for is asked for here.
            let asks = |then: &Then| matches!(then, Then::Ask(..));
            other.elsewhere.hand_over(&mut sa.elsewhere, asks);
            old = Some(other.id);
        }
    }
    match old {
        Some(old) => ctx.event(Event::IkeRekeyed { old, new: id }),
        None => ctx.event(Event::IkeUp { ike: id }),
    }
    for name in std::mem::take(&mut sa.wanted) {
        sa.ask_child(ctx, &name);
    }
    sa.handle_early(ctx);
    sas.insert(sa);
}

/// The SA that has a child by now: not the one that made it, if another has taken over meanwhile.
fn parent(sas: &mut Table, child: ChildId) -> Option<&mut Isakmp> {
    let id = sas.of_child(child)?;
    sas.get_mut(id)
}

/// The SA that has taken over from one.
fn heir(sas: &Table, ctx: &Ctx<'_>, sa: &Isakmp) -> Option<IkeId> {
    let others = sas.of_ends(sa, ctx.crypto).into_iter();
    let mut heirs = others
        .filter_map(|id| sas.get(id))
        .filter(|heir| heir.state == State::Established && heir.same_ends(ctx.crypto, sa));
    heirs.next().map(|heir| heir.id)
}

/// A child SA whose quick mode has ended on an SA that another one has taken over from goes there first: what
/// it is to take over from is there already.
fn bring_home(sas: &mut Table, ctx: &Ctx<'_>, child: ChildId) {
    let Some(id) = sas.of_child(child) else {
        return;
    };
    let Some(sa) = sas.get(id).filter(|sa| sa.state != State::Established) else {
        return;
    };
    let Some(heir) = heir(sas, ctx, sa) else {
        return;
    };
    let child = sas.get_mut(id).and_then(|sa| sa.remove_child(child));
    if let (Some(child), Some(heir)) = (child, sas.get_mut(heir)) {
        heir.adopt(child);
    }
}

/// Forgets an SA. What one that was replaced still had, out of a quick mode that ended late, goes to its
/// heir.
fn bury(sas: &mut Table, ctx: &mut Ctx<'_>, id: IkeId) {
    let Some(mut sa) = sas.remove(id) else {
        return;
    };
    if sa.children.is_empty() {
        return ctx.out.gone.push(sa);
    }
    let heir = heir(sas, ctx, &sa);
    match heir.and_then(|heir| sas.get_mut(heir)) {
        Some(heir) => sa.hand_over(ctx, heir),
        None => {
            for child in std::mem::take(&mut sa.children) {
                sa.retired(ctx, child, "its ISAKMP SA is gone");
            }
        }
    }
    ctx.out.gone.push(sa);
}

/// The peer has lost its state: what it had with us before is gone.
fn initial_contact(sas: &mut Table, ctx: &mut Ctx<'_>, id: IkeId) {
    let Some(sa) = sas.remove(id) else { return };
    if sa.connection.unique != Unique::Never {
        for other in sas.of_ends(&sa, ctx.crypto) {
            let other = sas.get_mut(other).filter(|other| other.is_up());
            if let Some(other) = other.filter(|other| other.same_ends(ctx.crypto, &sa)) {
                other.die(ctx, "the peer made initial contact");
            }
        }
    }
    sas.insert(sa);
}

/// Begins an SA that is to take over from another.
fn renew(sas: &mut Table, ctx: &mut Ctx<'_>, id: IkeId) {
    let begun = sas.is_being_replaced(id);
    let Some(old) = sas
        .get_mut(id)
        .filter(|old| old.state == State::Established && !begun)
    else {
        return;
    };
    old.rekey_at = None;
    if !old.initiator && (old.user().is_some() || !old.assigned.peers.is_empty()) {
        // Only the peer can begin what its user proves itself in and what it asks for an address in.
        let connection = &old.connection.name;
        tracing::debug!(connection, "the peer is to replace the ISAKMP SA");
        return;
    }
    let (connection, mut path) = (old.connection.clone(), old.path);
    let wanted = old.assigned.own.clone();
    if !old.encap {
        path.local.set_port(ctx.config.ike_port);
    }
    let cookie = ctx.cookie();
    let mut new = Isakmp::new(ctx, connection, true, (cookie, 0), path);
    new.replaces = Some(id);
    new.assigned.wanted = wanted;
    match new.begin(ctx) {
        Ok(()) => sas.insert(new),
        Err(error) => tracing::error!(%error, "ISAKMP SA could not be replaced"),
    }
}

/// The preshared key that a connection would take for a peer's address.
pub(crate) fn secret_of(ctx: &Ctx<'_>, connection: &Connection, peer: IpAddr) -> Option<Secret> {
    let address = Identity::Address(peer);
    let remote = match &connection.remote_id {
        Identity::Any => &address,
        id => id,
    };
    find_secret(ctx.secrets, &connection.local_id, remote).cloned()
}

/// Whether a connection may be used between two addresses.
pub(crate) fn addresses_match(connection: &Connection, local: IpAddr, remote: IpAddr) -> bool {
    let fits = |patterns: &[AddressPattern], address: IpAddr| {
        patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(address))
    };
    fits(&connection.local_addrs, local) && fits(&connection.remote_addrs, remote)
}
