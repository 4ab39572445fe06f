// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pools of addresses for peers (RFC 7296 §3.15), and who has which.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::configuration::Attribute;

/// Addresses of one family, with what is told along with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
    /// DNS servers, networks and the like.
    pub attributes: Vec<Attribute>,
}

/// An address that a peer has, or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose, as it is shown.
    pub owner: String,
    /// IKE SAs that use it.
    pub users: usize,
    /// When it was let go of, in the order of such events.
    turn: u64,
}

/// A pool's leases.
#[derive(Clone, Debug)]
pub struct Pool {
    config: PoolConfig,
    leases: BTreeMap<IpAddr, Lease>,
    /// The address that an owner had last.
    last: HashMap<String, IpAddr>,
    /// No address from here on was ever given out.
    fresh: Option<IpAddr>,
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4)
            .checked_add(1)
            .map(|n| Ipv4Addr::from(n).into()),
        IpAddr::V6(v6) => u128::from(v6)
            .checked_add(1)
            .map(|n| Ipv6Addr::from(n).into()),
    }
}

impl Pool {
    fn new(config: PoolConfig) -> Self {
        Self {
            fresh: Some(config.start),
            config,
            leases: BTreeMap::new(),
            last: HashMap::new(),
        }
    }

    /// What it is.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Its addresses that somebody has or had.
    pub fn leases(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        self.leases.iter().map(|(address, lease)| (*address, lease))
    }

    /// How many addresses it has.
    pub fn size(&self) -> u128 {
        match (self.config.start, self.config.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => {
                u128::from(u32::from(end).saturating_sub(start.into())) + 1
            }
            (IpAddr::V6(start), IpAddr::V6(end)) => u128::from(end)
                .saturating_sub(start.into())
                .saturating_add(1),
            _ => 0,
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.config.start.is_ipv4()
            && (self.config.start..=self.config.end).contains(&address)
    }

    /// An address for an owner: the one that it asks for, if that is its own or nobody's; else the one
    /// that it had last; else one that nobody had; else the one that was let go of longest ago.
    fn acquire(&mut self, owner: &str, wanted: Option<IpAddr>) -> Option<IpAddr> {
        let wanted = wanted.filter(|address| self.contains(*address));
        if let Some(address) = wanted {
            match self.leases.get_mut(&address) {
                // One that renews its IKE SA has it still.
                Some(lease) if lease.owner == owner => {
                    lease.users += 1;
                    return Some(address);
                }
                Some(lease) if lease.users != 0 => {}
                _ => return Some(self.give(owner, address)),
            }
        }
        let free = |address: &IpAddr| self.leases.get(address).is_some_and(|l| l.users == 0);
        if let Some(address) = self.last.get(owner).copied().filter(free) {
            return Some(self.give(owner, address));
        }
        while let Some(address) = self.fresh.filter(|address| self.contains(*address)) {
            self.fresh = next(address);
            if !self.leases.contains_key(&address) {
                return Some(self.give(owner, address));
            }
        }
        let idle = self.leases.iter().filter(|(_, lease)| lease.users == 0);
        let address = *idle.min_by_key(|(_, lease)| lease.turn)?.0;
        Some(self.give(owner, address))
    }

    /// Takes in who had an address.
    fn remember(&mut self, address: IpAddr, owner: String, turn: u64) {
        if self.contains(address) && !self.leases.contains_key(&address) {
            let users = 0;
            self.last.insert(owner.clone(), address);
            self.leases.insert(address, Lease { owner, users, turn });
        }
    }

    fn give(&mut self, owner: &str, address: IpAddr) -> IpAddr {
        let owner = owner.to_owned();
        let lease = Lease {
            owner: owner.clone(),
            users: 1,
            turn: 0,
        };
        if let Some(before) = self.leases.insert(address, lease)
            && before.owner != owner
        {
            self.last.retain(|_, last| *last != address);
        }
        self.last.insert(owner, address);
        address
    }
}

/// Every pool.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pools: BTreeMap<String, Pool>,
    /// What was written down of pools that are not there yet: clients load theirs later.
    awaited: BTreeMap<String, BTreeMap<IpAddr, String>>,
    turn: u64,
    changed: bool,
}

impl Pools {
    /// Sets what pools there are. Leases stay where the pool still has their addresses.
    pub fn set(&mut self, configs: BTreeMap<String, PoolConfig>) {
        let mut before = std::mem::take(&mut self.pools);
        for (name, config) in configs {
            let mut pool = Pool::new(config);
            if let Some(old) = before.remove(&name) {
                for (address, lease) in old.leases {
                    if pool.contains(address) {
                        pool.leases.insert(address, lease);
                    }
                }
                pool.last = old.last;
                pool.last
                    .retain(|_, address| pool.leases.contains_key(address));
            }
            for (address, owner) in self.awaited.remove(&name).unwrap_or_default() {
                self.turn += 1;
                pool.remember(address, owner, self.turn);
            }
            self.pools.insert(name, pool);
        }
    }

    /// Takes in who had which address when this was last written down.
    pub fn remember(&mut self, pool: &str, address: IpAddr, owner: &str) {
        self.turn += 1;
        let (turn, owner) = (self.turn, owner.to_owned());
        match self.pools.get_mut(pool) {
            Some(pool) => pool.remember(address, owner, turn),
            None => {
                let awaited = self.awaited.entry(pool.to_owned()).or_default();
                awaited.insert(address, owner);
            }
        }
    }

    /// Who has or had which address, pool by pool, also of those that are not there yet.
    pub fn owners(&self) -> BTreeMap<String, BTreeMap<IpAddr, String>> {
        let mut all = self.awaited.clone();
        all.extend(self.pools.iter().map(|(name, pool)| {
            let leases = pool.leases();
            let leases = leases.map(|(address, lease)| (address, lease.owner.clone()));
            (name.clone(), leases.collect())
        }));
        all
    }

    /// The pools.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Pool)> {
        self.pools.iter().map(|(name, pool)| (name.as_str(), pool))
    }

    /// Whether leases have changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// An address of a family out of the first of the named pools that has one.
    pub(crate) fn acquire(
        &mut self,
        names: &[String],
        owner: &str,
        v4: bool,
        wanted: Option<IpAddr>,
    ) -> Option<IpAddr> {
        for name in names {
            if let Some(pool) = self.pools.get_mut(name)
                && pool.config.start.is_ipv4() == v4
                && let Some(address) = pool.acquire(owner, wanted)
            {
                self.changed = true;
                return Some(address);
            }
        }
        None
    }

    /// What the named pools tell along with addresses.
    pub(crate) fn attributes(&self, names: &[String]) -> Vec<Attribute> {
        let pools = names.iter().filter_map(|name| self.pools.get(name));
        pools
            .flat_map(|pool| pool.config.attributes.clone())
            .collect()
    }

    /// An IKE SA lets go of an address; its owner gets it again if it comes back in time.
    pub(crate) fn release(&mut self, address: IpAddr) {
        self.turn += 1;
        for pool in self.pools.values_mut() {
            if let Some(lease) = pool.leases.get_mut(&address) {
                lease.users = lease.users.saturating_sub(1);
                lease.turn = self.turn;
                self.changed = true;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(start: &str, end: &str) -> Pools {
        let mut pools = Pools::default();
        let config = PoolConfig {
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
            attributes: vec![],
        };
        pools.set(BTreeMap::from([("p".to_owned(), config)]));
        pools
    }

    fn acquire(pools: &mut Pools, owner: &str, wanted: Option<&str>) -> Option<String> {
        let wanted = wanted.map(|text| text.parse().unwrap());
        let names = ["p".to_owned()];
        let given = pools.acquire(&names, owner, true, wanted);
        given.map(|address| address.to_string())
    }

    /// S60: nobody gets what another has, and an owner gets its own again.
    #[test]
    fn an_address_has_one_owner_who_gets_it_again() {
        let mut pools = pools("10.3.0.1", "10.3.0.2");
        let first = acquire(&mut pools, "a", None);
        assert_eq!(first.as_deref(), Some("10.3.0.1"));
        assert_eq!(
            acquire(&mut pools, "b", Some("10.3.0.1")).as_deref(),
            Some("10.3.0.2")
        );
        assert_eq!(acquire(&mut pools, "c", None), None);
        pools.release("10.3.0.1".parse().unwrap());
        assert_eq!(acquire(&mut pools, "a", None).as_deref(), Some("10.3.0.1"));
        // Its next IKE SA, while it has this one.
        assert_eq!(
            acquire(&mut pools, "a", Some("10.3.0.1")).as_deref(),
            Some("10.3.0.1")
        );
        pools.release("10.3.0.1".parse().unwrap());
        assert_eq!(acquire(&mut pools, "c", None), None);
        pools.release("10.3.0.1".parse().unwrap());
        // The pool is used up: what was let go of goes to another.
        assert_eq!(acquire(&mut pools, "c", None).as_deref(), Some("10.3.0.1"));
        assert_eq!(acquire(&mut pools, "a", None), None);
    }

    #[test]
    fn the_one_let_go_of_longest_ago_goes_first_and_old_leases_are_kept() {
        let mut pools = pools("10.3.0.1", "10.3.0.3");
        for owner in ["a", "b", "c"] {
            acquire(&mut pools, owner, None).unwrap();
        }
        for address in ["10.3.0.2", "10.3.0.1", "10.3.0.3"] {
            pools.release(address.parse().unwrap());
        }
        assert_eq!(acquire(&mut pools, "d", None).as_deref(), Some("10.3.0.2"));
        let kept: Vec<(IpAddr, String)> = pools
            .iter()
            .flat_map(|(_, pool)| pool.leases())
            .map(|(address, lease)| (address, lease.owner.clone()))
            .collect();
        let mut after = self::pools("10.3.0.1", "10.3.0.9");
        for (address, owner) in kept {
            after.remember("p", address, &owner);
        }
        for (owner, address) in [("c", "10.3.0.3"), ("a", "10.3.0.1"), ("e", "10.3.0.4")] {
            assert_eq!(acquire(&mut after, owner, None).as_deref(), Some(address));
        }
        // A pool that shrinks forgets what it does not have any more.
        let config = PoolConfig {
            end: "10.3.0.2".parse().unwrap(),
            ..after.iter().next().unwrap().1.config().clone()
        };
        after.set(BTreeMap::from([("p".to_owned(), config)]));
        assert_eq!(acquire(&mut after, "c", None).as_deref(), Some("10.3.0.2"));
    }

    #[test]
    fn sizes_are_counted_to_the_last_address() {
        assert_eq!(
            pools("10.3.0.0", "10.3.0.255")
                .iter()
                .next()
                .unwrap()
                .1
                .size(),
            256
        );
        let whole = pools("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(whole.iter().next().unwrap().1.size(), u128::MAX);
        let mut last = pools("255.255.255.255", "255.255.255.255");
        assert!(acquire(&mut last, "a", None).is_some());
        assert_eq!(acquire(&mut last, "b", None), None);
    }
}
