// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Both versions of IKE as one: a datagram goes to the version that its header names, everything else to
//! the one that has the SA or the connection. Nothing falls back from one to the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev1_proto::endpoint::Endpoint as Endpoint1;
use ikev2d_proto::cluster::{Claim, TakeUpError};
use ikev2d_proto::config::{Connection, EndpointConfig, Secret};
use ikev2d_proto::credential::JobResult;
use ikev2d_proto::crypto::Crypto;
use ikev2d_proto::endpoint::{
    Endpoint as Endpoint2, Gate, IkeSaInfo, InitiateError, Stats, StreamUse, UnknownSa,
};
use ikev2d_proto::event::{
    Answer, ChildId, Event, IkeId, JobId, Numbers, Path, StreamId, Transmit,
};
use ikev2d_proto::notified::Notified;
use ikev2d_proto::pool::Pools;
use ikev2d_proto::ts::Trigger;
use zeroize::Zeroizing;

/// Octet of the header that has the version, in both versions.
const VERSION_AT: usize = 17;

/// The cores of both versions.
pub(crate) struct Ike {
    v1: Endpoint1,
    v2: Endpoint2,
    numbers: Numbers,
    connections: Vec<Arc<Connection>>,
}

impl Ike {
    /// Without connections.
    pub(crate) fn new(config: EndpointConfig, crypto: Arc<dyn Crypto>, numbers: Numbers) -> Self {
        let v1 = Endpoint1::new(config.clone(), crypto.clone(), &numbers);
        let mut v2 = Endpoint2::new(config, crypto);
        v2.share_numbers(&numbers);
        Self {
            v1,
            v2,
            numbers,
            connections: Vec::new(),
        }
    }

    /// What asks first messages of IKEv2 for cookies.
    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.v2.gate()
    }

    /// Where numbers come from.
    pub(crate) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// A TCP connection that was asked for is there.
    pub(crate) fn stream_opened(&mut self, now: Instant, stream: StreamId, local: SocketAddr) {
        self.v2.stream_opened(now, stream, local);
    }

    /// A TCP connection has ended, or could not be made.
    pub(crate) fn stream_closed(&mut self, now: Instant, stream: StreamId, reason: &str) {
        self.v2.stream_closed(now, stream, reason);
    }

    /// What a TCP connection is used for.
    pub(crate) fn stream_use(&self, stream: StreamId) -> StreamUse {
        self.v2.stream_use(stream)
    }

    /// Replaces the policy; what is established stays.
    pub(crate) fn set_connections(&mut self, connections: Vec<Arc<Connection>>) {
        self.v1.set_connections(&connections);
        let of_v2 = connections.iter().filter(|c| c.version.has_v2());
        self.v2.set_connections(of_v2.cloned().collect());
        self.connections = connections;
    }

    /// IKE SAs of a connection take up the children that it has got since they were made.
    pub(crate) fn add_children(&mut self, connection: &Arc<Connection>) {
        self.v1.add_children(connection);
        self.v2.add_children(connection);
    }

    /// Whether a child of a connection is being asked for, or is to be.
    pub(crate) fn asks_for(&self, connection: &str, child: &str) -> bool {
        self.v1.asks_for(connection, child) || self.v2.asks_for(connection, child)
    }

    /// Replaces the preshared keys.
    pub(crate) fn set_secrets(&mut self, secrets: Vec<Secret>) {
        self.v1.set_secrets(secrets.clone());
        self.v2.set_secrets(secrets);
    }

    /// Replaces the postquantum preshared keys (RFC 8784), which IKEv1 has not.
    pub(crate) fn set_ppks(&mut self, ppks: Vec<Secret>) {
        self.v2.set_ppks(ppks);
    }

    /// IKEv1, with the pools that both versions have.
    fn v1<R>(&mut self, act: impl FnOnce(&mut Endpoint1) -> R) -> R {
        std::mem::swap(self.v1.pools_mut(), self.v2.pools_mut());
        let result = act(&mut self.v1);
        std::mem::swap(self.v1.pools_mut(), self.v2.pools_mut());
        result
    }

    /// Pools of addresses for peers.
    pub(crate) fn pools(&self) -> &Pools {
        self.v2.pools()
    }

    /// The same, to set what there are.
    pub(crate) fn pools_mut(&mut self) -> &mut Pools {
        self.v2.pools_mut()
    }

    /// The policy.
    pub(crate) fn connections(&self) -> &[Arc<Connection>] {
        &self.connections
    }

    /// Takes in a datagram (without the non-ESP marker of port 4500).
    pub(crate) fn handle_datagram(&mut self, now: Instant, path: Path, datagram: &[u8]) {
        match datagram.get(VERSION_AT).map(|version| version >> 4) {
            // RFC 9329 is IKEv2's.
            Some(1) if path.stream.is_some() => {}
            Some(1) => self.v1(|v1| v1.handle_datagram(now, path, datagram)),
            _ => self.v2.handle_datagram(now, path, datagram),
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.v1(|v1| v1.handle_timeout(now));
        self.v2.handle_timeout(now);
    }

    /// Takes in what was done about an event.
    pub(crate) fn handle_answer(&mut self, now: Instant, answer: &Answer) {
        self.v1(|v1| v1.handle_answer(now, answer));
        self.v2.handle_answer(now, answer);
    }

    /// Takes in what came of a job.
    pub(crate) fn handle_job(&mut self, now: Instant, job: JobId, result: &JobResult) {
        self.v1(|v1| v1.handle_job(now, job, result));
        self.v2.handle_job(now, job, result);
    }

    /// Sets a connection up, or a further child; a packet's own selectors come first where it asks for that
    /// in IKEv2. A connection of either version begins with IKEv2.
    pub(crate) fn initiate_for(
        &mut self,
        now: Instant,
        connection: &str,
        child: Option<&str>,
        local: Option<IpAddr>,
        trigger: Option<Trigger>,
    ) -> Result<IkeId, InitiateError> {
        let found = self.connections.iter().find(|c| c.name == connection);
        match found {
            Some(found) if !found.version.has_v2() => {
                self.v1(|v1| v1.initiate(now, connection, child, local))
            }
            // An SA that the peer has begun in IKEv1 takes a further child.
            Some(found)
                if found.version.has_v1()
                    && self.v2.ike_sas_of(connection).next().is_none()
                    && self.v1.ike_sas().any(|sa| sa.connection == connection) =>
            {
                self.v1(|v1| v1.initiate(now, connection, child, local))
            }
            _ => self.v2.initiate_for(now, connection, child, local, trigger),
        }
    }

    /// Deletes an IKE SA with its children.
    pub(crate) fn terminate_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        let first = self.v1(|v1| v1.terminate_ike(now, ike));
        first.or_else(|_| self.v2.terminate_ike(now, ike))
    }

    /// Deletes a child SA.
    pub(crate) fn terminate_child(
        &mut self,
        now: Instant,
        child: ChildId,
    ) -> Result<(), UnknownSa> {
        let first = self.v1(|v1| v1.terminate_child(now, child));
        first.or_else(|_| self.v2.terminate_child(now, child))
    }

    /// Rekeys an IKE SA; in IKEv1 that is to authenticate anew.
    pub(crate) fn rekey_ike(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        let first = self.v1(|v1| v1.rekey_ike(now, ike));
        first.or_else(|_| self.v2.rekey_ike(now, ike))
    }

    /// Replaces an IKE SA by one that is authenticated anew.
    pub(crate) fn reauthenticate(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        let first = self.v1(|v1| v1.rekey_ike(now, ike));
        first.or_else(|_| self.v2.reauthenticate(now, ike))
    }

    /// Takes in which addresses this host has. IKEv1 has no word for them.
    pub(crate) fn set_addresses(&mut self, now: Instant, addresses: Vec<IpAddr>) {
        self.v2.set_addresses(now, addresses);
    }

    /// An IKE SA as another member of a cluster can take it up (RFC 6311), if one can.
    pub(crate) fn share(&self, now: Instant, ike: IkeId) -> Option<Zeroizing<Vec<u8>>> {
        self.v2.share(now, ike).ok().flatten()
    }

    /// Takes up what another member has left.
    pub(crate) fn take_up(
        &mut self,
        now: Instant,
        claim: Claim,
        left: (&[u8], Duration),
    ) -> Result<IkeId, TakeUpError> {
        self.v2.take_up(now, claim, left)
    }

    /// Goes on from another address of ours: whether the IKE SA can, which those of IKEv1 can't.
    pub(crate) fn move_to(
        &mut self,
        now: Instant,
        ike: IkeId,
        local: IpAddr,
    ) -> Result<bool, UnknownSa> {
        self.v2.move_to(now, ike, local)
    }

    /// Tells a peer to go to another gateway (RFC 5685): whether it can, which those of IKEv1 can't.
    pub(crate) fn redirect(
        &mut self,
        now: Instant,
        ike: IkeId,
        gateway: IpAddr,
    ) -> Result<bool, UnknownSa> {
        self.v2.redirect(now, ike, gateway)
    }

    /// Rekeys a child SA.
    pub(crate) fn rekey_child(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let first = self.v1(|v1| v1.rekey_child(now, child));
        first.or_else(|_| self.v2.rekey_child(now, child))
    }

    /// Asks a peer whether it lives.
    pub(crate) fn check_liveness(&mut self, now: Instant, ike: IkeId) -> Result<(), UnknownSa> {
        let first = self.v1(|v1| v1.check_liveness(now, ike));
        first.or_else(|_| self.v2.check_liveness(now, ike))
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.v1.poll_transmit().or_else(|| self.v2.poll_transmit())
    }

    /// How many events there are, of each version.
    pub(crate) fn events(&self) -> [usize; 2] {
        [self.v1.events(), self.v2.events()]
    }

    /// The next of so many.
    pub(crate) fn poll_event(&mut self, due: &mut [usize; 2]) -> Option<Event> {
        let [one, two] = due;
        if *one > 0 {
            *one -= 1;
            self.v1.poll_event()
        } else if *two > 0 {
            *two -= 1;
            self.v2.poll_event()
        } else {
            None
        }
    }

    /// All have been taken: what they were about is forgotten.
    pub(crate) fn events_are_over(&mut self) {
        let rest = self.v1.poll_event().or_else(|| self.v2.poll_event());
        debug_assert!(rest.is_none(), "{rest:?}");
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let both = [self.v1.poll_timeout(), self.v2.poll_timeout()];
        both.into_iter().flatten().min()
    }

    /// Every IKE SA.
    pub(crate) fn ike_sas(&self) -> impl Iterator<Item = IkeSaInfo<'_>> {
        self.v1.ike_sas().chain(self.v2.ike_sas())
    }

    /// One of them.
    pub(crate) fn ike_sa(&self, ike: IkeId) -> Option<IkeSaInfo<'_>> {
        let second = self.v2.ike_sa(ike);
        second.or_else(|| self.v1.ike_sas().find(|sa| sa.id == ike))
    }

    /// The same, or one that is gone and whose events are not all taken yet.
    pub(crate) fn ike_sa_lately(&self, ike: IkeId) -> Option<IkeSaInfo<'_>> {
        let second = self.v2.ike_sa_lately(ike);
        second.or_else(|| self.v1.ike_sa_lately(ike))
    }

    /// The IKE SA of a child.
    pub(crate) fn ike_sa_of(&self, child: ChildId) -> Option<IkeSaInfo<'_>> {
        let has = |sa: &IkeSaInfo<'_>| sa.children.iter().any(|info| info.sa.id == child);
        let second = self.v2.ike_sa_of(child);
        second.or_else(|| self.v1.ike_sas().find(has))
    }

    /// A connection's IKE SAs.
    pub(crate) fn ike_sas_of<'a>(
        &'a self,
        connection: &'a str,
    ) -> impl Iterator<Item = IkeSaInfo<'a>> {
        let first = self.v1.ike_sas();
        let first = first.filter(move |sa| sa.connection == connection);
        first.chain(self.v2.ike_sas_of(connection))
    }

    /// Takes in that authentic ESP of a child comes from elsewhere: whether it is followed there.
    pub(crate) fn peer_moved(
        &mut self,
        now: Instant,
        child: ChildId,
        remote: SocketAddr,
    ) -> Result<bool, UnknownSa> {
        self.v2.peer_moved(now, child, remote)
    }

    /// Ends a child SA whose hard lifetime is over.
    pub(crate) fn child_expired(&mut self, now: Instant, child: ChildId) -> Result<(), UnknownSa> {
        let second = self.v2.child_expired(now, child);
        second.or_else(|_| self.v1(|v1| v1.terminate_child(now, child)))
    }

    /// What was seen so far.
    pub(crate) fn stats(&self) -> Stats {
        let (one, two) = (self.v1.stats(), self.v2.stats());
        Stats {
            half_open: one.half_open + two.half_open,
            established: one.established + two.established,
            children: one.children + two.children,
            half_open_refused: one.half_open_refused + two.half_open_refused,
            cookies: one.cookies + two.cookies,
            puzzles: one.puzzles + two.puzzles,
            puzzles_solved: one.puzzles_solved + two.puzzles_solved,
            puzzles_unsolved: one.puzzles_unsolved + two.puzzles_unsolved,
            retransmits: one.retransmits + two.retransmits,
            malformed: one.malformed + two.malformed,
            unknown_spi: one.unknown_spi + two.unknown_spi,
            fragment_octets: one.fragment_octets + two.fragment_octets,
            auth_failures: one.auth_failures + two.auth_failures,
            reauthentications: one.reauthentications + two.reauthentications,
            resumptions: one.resumptions + two.resumptions,
            refused_tickets: one.refused_tickets + two.refused_tickets,
        }
    }

    /// Errors told and heard so far, in both versions: each has its own names.
    pub(crate) fn notified(&self) -> Notified {
        self.v2.notified().and(self.v1.notified())
    }
}
