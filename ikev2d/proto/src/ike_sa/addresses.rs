// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where else the ends of an IKE SA are (RFC 4555 §3.4, §3.6): the responder tells its further addresses,
//! and the original initiator tries them when it gets no answer where it is (§3.5).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Ctx, IkeSa, Request, Standing, State, Task, nothing, notifies};
use crate::config::AddressPattern;
use crate::crypto::CryptoError;
use crate::event::Path;
use crate::wire::{Chain, Payload, exchange, notify};

/// Further addresses that are told, and that are kept of a peer.
const MOST: usize = 8;
/// Pairs that are tried before the first one is tried again, at most.
const MOST_PAIRS: usize = 16;
/// Retransmissions that nobody answers before other pairs are tried.
const PATIENCE: u32 = 2;
/// The same on each of those.
const PATIENCE_ELSEWHERE: u32 = 1;

/// What an IKE SA knows of them.
#[derive(Default)]
pub(crate) struct Addresses {
    /// The peer's, beside where it is.
    peers: Vec<IpAddr>,
    /// Ours, when the peer was told of them last.
    told: Arc<[IpAddr]>,
    search: Option<Box<Search>>,
}

nothing!(Addresses);

/// A request gets no answer, and other pairs are tried for it.
struct Search {
    /// Where it began.
    home: Path,
    /// What was tried and waited there.
    tries: u32,
    wait: Duration,
    /// Our address and the peer's.
    left: VecDeque<(IpAddr, IpAddr)>,
}

impl Search {
    /// Whether a path is another than where it began. Ports are a NAT's.
    fn is_away(&self, path: Path) -> bool {
        let ends = |path: Path| (path.local.ip(), path.remote.ip());
        ends(path) != ends(self.home)
    }
}

/// A path between other addresses.
fn between(path: Path, (local, remote): (IpAddr, IpAddr)) -> Path {
    let mut path = path;
    path.local.set_ip(local);
    path.remote.set_ip(remote);
    path
}

impl IkeSa {
    /// This host's addresses that the connection names, be it by a prefix: of others it does not tell.
    fn own_addresses(&self, all: &[IpAddr]) -> Vec<IpAddr> {
        let named = |pattern: &AddressPattern, address| {
            !matches!(pattern, AddressPattern::Any) && is_host(address) && pattern.matches(address)
        };
        let patterns = &self.connection.local_addrs;
        let own = all.iter().copied();
        let own = own.filter(|address| patterns.iter().any(|pattern| named(pattern, *address)));
        own.take(MOST).collect()
    }

    /// What the peer may be told, where it is the one to choose among them.
    fn tellable(&self, ctx: &Ctx<'_>) -> Vec<IpAddr> {
        match self.mobike && !self.moves {
            true => self.own_addresses(ctx.addresses),
            false => Vec::new(),
        }
    }

    /// Settles what the peer is told.
    pub(crate) fn settle_addresses(&mut self, ctx: &mut Ctx<'_>) {
        let own = self.tellable(ctx);
        if *self.addresses.told == *own {
            return;
        }
        if *ctx.out.told != *own {
            ctx.out.told = own.into();
        }
        self.addresses.told = ctx.out.told.clone();
    }

    /// §3.6: who must tell of its addresses does so from another one if that in use is gone. Whether there
    /// is one to send from.
    fn leave_gone_address(&mut self, ctx: &Ctx<'_>) -> bool {
        let local = self.path.local.ip();
        if self.path.stream.is_some() || ctx.addresses.contains(&local) {
            return true;
        }
        let own = self.tellable(ctx);
        let next = own.iter().find(|own| own.is_ipv4() == local.is_ipv4());
        if let Some(next) = next {
            self.path.local.set_ip(*next);
        }
        next.is_some()
    }

    /// Tells it of those, beside the one that it sees.
    pub(crate) fn push_addresses(&self, chain: &mut Chain) {
        let told = self.addresses.told.iter();
        for address in told.filter(|told| **told != self.path.local.ip()) {
            match address {
                IpAddr::V4(v4) => chain.notify(notify::ADDITIONAL_IP4_ADDRESS, &v4.octets()),
                IpAddr::V6(v6) => chain.notify(notify::ADDITIONAL_IP6_ADDRESS, &v6.octets()),
            }
        }
    }

    /// This host may have others by now.
    pub(crate) fn look_at_addresses(&mut self, ctx: &mut Ctx<'_>) {
        if self.state == State::Established
            && *self.addresses.told != *self.tellable(ctx)
            && !self.tasks.contains(&Task::Addresses)
        {
            self.tasks.push_back(Task::Addresses);
            let at = self.path.local.ip();
            // What is outstanding comes first.
            if self.outstanding.is_some()
                && self.leave_gone_address(ctx)
                && self.path.local.ip() != at
            {
                self.retransmit(ctx);
            }
        }
    }

    /// Tells the peer of them all: what was told before is replaced (§3.6).
    pub(crate) fn start_addresses(&mut self, ctx: &mut Ctx<'_>) -> Result<(), CryptoError> {
        self.settle_addresses(ctx);
        if !self.leave_gone_address(ctx) {
            return Ok(());
        }
        let mut chain = Chain::default();
        self.push_addresses(&mut chain);
        if chain.octets().is_empty() {
            chain.notify(notify::NO_ADDITIONAL_ADDRESSES, &[]);
        }
        self.request(ctx, exchange::INFORMATIONAL, chain, Request::Addresses)
    }

    /// Takes in what the peer says of its own, if it says anything, as far as the policy allows them: where
    /// that comes from is one of them (§3.6). If it does not name the one in use, that is left.
    pub(crate) fn take_addresses(&mut self, ctx: &mut Ctx<'_>, from: Path, parts: &[Payload<'_>]) {
        if !self.mobike || !self.moves {
            return;
        }
        let allowed = &self.connection.remote_addrs;
        let fits =
            |address: &IpAddr| is_host(*address) && crate::endpoint::permits(allowed, *address);
        let mut peers: Vec<IpAddr> = [from.remote.ip()].into_iter().filter(fits).collect();
        let mut told = false;
        for notify in notifies(parts) {
            let address = match notify.kind {
                notify::ADDITIONAL_IP4_ADDRESS => {
                    <[u8; 4]>::try_from(notify.data).ok().map(IpAddr::from)
                }
                notify::ADDITIONAL_IP6_ADDRESS => {
                    <[u8; 16]>::try_from(notify.data).ok().map(IpAddr::from)
                }
                notify::NO_ADDITIONAL_ADDRESSES => None,
                _ => continue,
            };
            told = true;
            if let Some(address) = address.filter(fits)
                && peers.len() < MOST
                && !peers.contains(&address)
            {
                peers.push(address);
            }
        }
        if !told {
            return;
        }
        let at = self.path.remote.ip();
        let left = from.remote.ip() != at && !peers.contains(&at);
        if peers != self.addresses.peers {
            self.addresses.peers = peers;
        }
        if left && self.can_go() {
            let elsewhere = |pair: &(IpAddr, IpAddr)| pair.1 != at;
            if let Some(pair) = self.other_pairs(ctx).into_iter().find(elsewhere) {
                self.end_search();
                self.go(ctx, between(self.path, pair));
            }
        }
    }

    /// Whether it is ours to choose a path.
    fn can_go(&self) -> bool {
        self.mobike
            && self.moves
            && self.state == State::Established
            && self.standing == Standing::Current
            && self.path.stream.is_none()
    }

    /// Goes on by another path: what is outstanding is sent there, then the peer is told.
    fn go(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        let (local, remote) = (path.local, path.remote);
        tracing::info!(ike = self.id.0, %local, %remote, "another path to the peer is tried");
        self.path = path;
        // The peer may have heard of any path before.
        self.tasks.retain(|task| *task != Task::Move);
        self.tasks.push_front(Task::Move);
        self.retransmit(ctx);
    }

    /// Pairs of addresses beside the one in use: the peer's further ones from where we are, then from
    /// elsewhere.
    fn other_pairs(&self, ctx: &Ctx<'_>) -> VecDeque<(IpAddr, IpAddr)> {
        let (local, remote) = (self.path.local.ip(), self.path.remote.ip());
        let own = self.own_addresses(ctx.addresses);
        let own = own.iter().copied().filter(|own| *own != local);
        let peers = self.addresses.peers.iter().copied();
        let peers: Vec<IpAddr> = peers
            .filter(|peer| *peer != remote)
            .chain([remote])
            .collect();
        let pairs = std::iter::once(local).chain(own).flat_map(|local| {
            let peers = peers
                .iter()
                .filter(move |peer| peer.is_ipv4() == local.is_ipv4());
            peers.map(move |peer| (local, *peer))
        });
        let pairs = pairs.filter(|pair| *pair != (local, remote));
        pairs.take(MOST_PAIRS).collect()
    }

    /// The outstanding request gets no answer here, and may elsewhere: whether it is sent there.
    pub(super) fn search(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let can = self.can_go();
        let Some(outstanding) = self.outstanding.as_deref().filter(|_| can) else {
            return false;
        };
        let (tries, wait) = (outstanding.tries, outstanding.wait);
        let most = ctx.config.retransmit_tries;
        let mut search = match self
            .addresses
            .as_deref_mut()
            .and_then(|all| all.search.take())
        {
            Some(search) => {
                let over = search.left.is_empty() && !search.is_away(self.path);
                if over || tries < PATIENCE_ELSEWHERE {
                    self.addresses.search = Some(search);
                    return false;
                }
                search
            }
            // Nor more often than the request is sent, should others move it meanwhile.
            None if !(PATIENCE.min(most)..=most).contains(&tries) => return false,
            None => Box::new(Search {
                home: self.path,
                tries,
                wait,
                left: self.other_pairs(ctx),
            }),
        };
        let next = search.left.pop_front();
        let home = search.home;
        if next.is_none() && !search.is_away(self.path) {
            return false;
        }
        let left = self.path.remote.ip();
        if !self.addresses.peers.contains(&left) && self.addresses.peers.len() <= MOST {
            self.addresses.peers.push(left);
        }
        self.go(ctx, next.map_or(home, |pair| between(home, pair)));
        if let Some(outstanding) = &mut self.outstanding {
            (outstanding.tries, outstanding.wait) = match next {
                Some(_) => (0, ctx.config.retransmit_timeout),
                None => (search.tries, search.wait),
            };
            outstanding.at =
                ctx.now + ctx.shortened(outstanding.wait, ctx.config.retransmit_jitter);
        }
        self.addresses.search = Some(search);
        true
    }

    /// Whether another pair is tried than where the search began.
    pub(crate) fn is_searching(&self) -> bool {
        let search = self.addresses.search.as_deref();
        search.is_some_and(|search| search.is_away(self.path))
    }

    /// Whether another of the peer's addresses is tried.
    pub(super) fn looks_elsewhere(&self) -> bool {
        let search = self.addresses.search.as_deref();
        search.is_some_and(|search| search.home.remote.ip() != self.path.remote.ip())
    }

    /// The peer is heard while other pairs are tried: if that is where the search began, there it goes on.
    /// ESP is there still, and stays until the peer has been told of another path.
    pub(super) fn heard_in_search(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        let search = self.addresses.search.as_deref();
        if search.is_some_and(|search| !search.is_away(path)) {
            let home = self.end_search();
            self.path = path;
            if home.is_some_and(|home| home != path) {
                self.tell_path(ctx);
            }
            if self.outstanding.is_some() && !self.holds_response() {
                self.retransmit(ctx);
            }
        } else if between(path, (self.path.local.ip(), self.path.remote.ip())) == path {
            self.path = path;
        }
    }

    /// There is an answer, or another path is given: where it began, if that is elsewhere. What is
    /// outstanding has waited there no less for that.
    pub(crate) fn end_search(&mut self) -> Option<Path> {
        let search = self.addresses.as_deref_mut()?.search.take()?;
        let home = search.is_away(self.path).then_some(search.home)?;
        if let Some(outstanding) = &mut self.outstanding {
            (outstanding.tries, outstanding.wait) = (search.tries, search.wait);
        }
        Some(home)
    }
}

/// Whether an address can be one host's that is elsewhere.
fn is_host(address: IpAddr) -> bool {
    let none = match address {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(none || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}
