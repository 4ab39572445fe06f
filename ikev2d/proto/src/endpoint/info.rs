// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an endpoint tells of itself.

use std::net::IpAddr;
use std::time::Instant;

use super::Endpoint;
use crate::config::{AddressPattern, Identity};
use crate::event::{ChildId, ChildSa, IkeId, Path};
use crate::ike_sa::{IkeSa, Phase, Standing, State};
use crate::notified::Notified;
use crate::proposal::IkeSuite;
use crate::wire::configuration::Attribute;

/// What an endpoint has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// IKE SAs being set up by peers.
    pub half_open: usize,
    /// IKE SAs established.
    pub established: usize,
    /// Child SAs.
    pub children: usize,
    /// First messages dropped since too many peers are being waited for.
    pub half_open_refused: u64,
    /// Cookies asked for.
    pub cookies: u64,
    /// Puzzles set (RFC 8019).
    pub puzzles: u64,
    /// First messages that have solved one.
    pub puzzles_solved: u64,
    /// First messages dropped since they solve none.
    pub puzzles_unsolved: u64,
    /// Requests sent again.
    pub retransmits: u64,
    /// Datagrams that were no IKE message.
    pub malformed: u64,
    /// Messages for an SA that is not there.
    pub unknown_spi: u64,
    /// Octets of fragments that wait for the rest of their messages.
    pub fragment_octets: usize,
    /// Peers that failed to authenticate.
    pub auth_failures: u64,
    /// IKE SAs of ours that were replaced by ones that are authenticated anew.
    pub reauthentications: u64,
    /// IKE SAs that were resumed by a ticket, on either side (RFC 5723).
    pub resumptions: u64,
    /// Tickets that peers have shown and that were refused (TICKET_NACK).
    pub refused_tickets: u64,
}

/// An IKE SA for people.
#[derive(Debug)]
pub struct IkeSaInfo<'a> {
    /// Its number.
    pub id: IkeId,
    /// Version of IKE.
    pub version: u8,
    /// Its connection.
    pub connection: &'a str,
    /// `CONNECTING`, `ESTABLISHED` or `DELETING`, as strongSwan has it.
    pub state: &'static str,
    /// Whether we began it.
    pub initiator: bool,
    /// Initiator's SPI.
    pub spi_i: u64,
    /// Responder's SPI.
    pub spi_r: u64,
    /// Ends.
    pub path: Path,
    /// Who we are.
    pub local_id: &'a Identity,
    /// Who the peer is.
    pub remote_id: &'a Identity,
    /// Algorithms.
    pub suite: Option<IkeSuite>,
    /// How it was authenticated, if that is of another time: IKEv1's `dsa`.
    pub weak_auth: Option<&'static str>,
    /// Whether we are behind a NAT.
    pub nat_local: bool,
    /// Whether the peer is.
    pub nat_remote: bool,
    /// Our addresses, from the peer (RFC 7296 §3.15).
    pub local_vips: &'a [IpAddr],
    /// What came with them.
    pub attributes: &'a [Attribute],
    /// The peer's addresses, from us.
    pub remote_vips: &'a [IpAddr],
    /// Whether a postquantum preshared key is in its keys (RFC 8784).
    pub ppk: bool,
    /// Whether both sides can move it to other addresses (RFC 4555).
    pub mobike: bool,
    /// Whether that is our part.
    pub moves: bool,
    /// Whether its peer does not answer, and is looked for elsewhere for now (RFC 4555 §3.5).
    pub searching: bool,
    /// When it was established.
    pub established: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When it will be deleted.
    pub expire_at: Option<Instant>,
    /// Our addresses, as configured.
    pub local_addrs: &'a [AddressPattern],
    /// Its children.
    pub children: Vec<ChildInfo<'a>>,
}

impl IkeSaInfo<'_> {
    /// The words of what is less than sound in it.
    pub fn weak(&self) -> Vec<&'static str> {
        let mut words = self.suite.map(IkeSuite::weak).unwrap_or_default();
        words.extend(self.weak_auth);
        words
    }
}

/// A child SA for people.
#[derive(Debug)]
pub struct ChildInfo<'a> {
    /// Its parameters, without keys.
    pub sa: &'a ChildSa,
    /// `INSTALLED`, `REKEYING` or `INSTALLING`.
    pub state: &'static str,
    /// The peer would allow more of its configuration's traffic, in further child SAs
    /// (ADDITIONAL_TS_POSSIBLE).
    pub more_possible: bool,
    /// When it was installed.
    pub installed: Instant,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
}

impl Endpoint {
    /// Every IKE SA.
    pub fn ike_sas(&self) -> impl Iterator<Item = IkeSaInfo<'_>> {
        self.sas.values().map(info)
    }

    /// One of them.
    pub fn ike_sa(&self, ike: IkeId) -> Option<IkeSaInfo<'_>> {
        self.sas.get(&ike).map(info)
    }

    /// The same, or one that has gone since [`poll_event`](Self::poll_event) last had nothing to tell.
    pub fn ike_sa_lately(&self, ike: IkeId) -> Option<IkeSaInfo<'_>> {
        let gone = || self.gone.iter().find(|sa| sa.id == ike).map(info);
        self.ike_sa(ike).or_else(gone)
    }

    /// The IKE SA of a child.
    pub fn ike_sa_of(&self, child: ChildId) -> Option<IkeSaInfo<'_>> {
        self.ike_sa(self.ike_of(child).ok()?)
    }

    /// A connection's IKE SAs.
    pub fn ike_sas_of<'a>(&'a self, connection: &'a str) -> impl Iterator<Item = IkeSaInfo<'a>> {
        self.sas.of_connection(connection).map(info)
    }

    /// Whether a child of a connection is being asked for, or is to be.
    pub fn asks_for(&self, connection: &str, child: &str) -> bool {
        let mut sas = self.sas.of_connection(connection);
        sas.any(|sa| sa.asks_for(child))
    }

    /// What was seen so far.
    pub fn stats(&self) -> Stats {
        let connecting = |sa: &&IkeSa| sa.state == State::Connecting && !sa.initiator;
        Stats {
            half_open: self.sas.values().filter(connecting).count(),
            established: self
                .sas
                .values()
                .filter(|sa| sa.established.is_some())
                .count(),
            children: self.sas.values().map(|sa| sa.children.len()).sum(),
            cookies: self.gate.asked(),
            puzzles: self.gate.puzzles().0,
            puzzles_unsolved: self.gate.puzzles().1 + self.out.puzzles_unsolved,
            malformed: self.stats.malformed + self.gate.malformed(),
            refused_tickets: self.stats.refused_tickets + self.gate.refused_tickets(),
            fragment_octets: self.out.held.values().sum(),
            retransmits: self.out.retransmits,
            auth_failures: self.out.auth_failures,
            reauthentications: self.out.reauthentications,
            resumptions: self.out.resumptions,
            ..self.stats
        }
    }

    /// Errors told and heard so far.
    pub fn notified(&self) -> &Notified {
        &self.out.notified
    }
}

fn info(sa: &IkeSa) -> IkeSaInfo<'_> {
    IkeSaInfo {
        id: sa.id,
        version: 2,
        connection: &sa.connection.name,
        state: match sa.state {
            State::Connecting => "CONNECTING",
            State::Established if sa.standing != Standing::Current => "REKEYED",
            State::Established => "ESTABLISHED",
            State::Deleting | State::Dead => "DELETING",
        },
        initiator: sa.initiator,
        spi_i: sa.spi_i,
        spi_r: sa.spi_r,
        path: sa.path,
        local_id: sa.local_id(),
        remote_id: &sa.remote_id,
        suite: sa.suite,
        weak_auth: None,
        nat_local: sa.nat_local,
        nat_remote: sa.nat_remote,
        local_vips: &sa.assigned.own,
        attributes: &sa.assigned.attributes,
        remote_vips: &sa.assigned.peers,
        ppk: sa.ppk,
        mobike: sa.mobike,
        moves: sa.mobike && sa.moves,
        searching: sa.is_searching(),
        established: sa.established.map(Instant::from),
        rekey_at: sa.rekey_at.map(Instant::from),
        expire_at: sa.expire_at.map(Instant::from),
        local_addrs: &sa.connection.local_addrs,
        children: sa
            .children
            .iter()
            .map(|child| ChildInfo {
                sa: &child.sa,
                state: match (child.phase, child.install) {
                    (_, Some(_)) => "INSTALLING",
                    (Phase::Rekeying, None) => "REKEYING",
                    (Phase::Replaced, None) => "REKEYED",
                    (Phase::Deleting, None) => "DELETING",
                    (Phase::Installed, None) => "INSTALLED",
                },
                more_possible: child.more_possible,
                installed: child.installed.into(),
                rekey_at: child.rekey_at.map(Instant::from),
            })
            .collect(),
    }
}
