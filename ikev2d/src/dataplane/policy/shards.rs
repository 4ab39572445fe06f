// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A map that data path workers read without a lock while it is changed: many small sorted tables, each
//! immutable and replaced as a whole, so that a change copies one of them and not the other thousands.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Tables, a power of two: with 10,000 entries each has some twenty.
const SHARDS: usize = 512;

/// Values by key. One key may have several; the latest comes first.
pub(super) struct Shards<K, V> {
    shards: Box<[Shard<K, V>]>,
    hasher: RandomState,
}

type Shard<K, V> = ArcSwap<Vec<(K, Arc<V>)>>;

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        // One empty table for all, until they differ.
        let empty = Arc::new(Vec::new());
        let shards = (0..SHARDS).map(|_| ArcSwap::new(empty.clone()));
        Self {
            shards: shards.collect(),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Copy + Ord + Hash, V> Shards<K, V> {
    fn shard(&self, key: &K) -> Option<&Shard<K, V>> {
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards.get(at)
    }

    /// The latest of a key's values that fits.
    pub(super) fn find(&self, key: &K, fits: impl Fn(&V) -> bool) -> Option<Arc<V>> {
        let shard = self.shard(key)?.load();
        let from = shard.partition_point(|(other, _)| other < key);
        let of_key = shard.get(from..)?.iter();
        let of_key = of_key.take_while(|(other, _)| other == key);
        let mut values = of_key.map(|(_, value)| value);
        values.find(|value| fits(value)).cloned()
    }

    /// Looks at all of them.
    pub(super) fn each(&self, mut look: impl FnMut(&K, &V)) {
        for shard in &self.shards {
            for (key, value) in shard.load().iter() {
                look(key, value);
            }
        }
    }

    pub(super) fn insert(&self, key: K, value: &Arc<V>) {
        let Some(shard) = self.shard(&key) else {
            return;
        };
        shard.rcu(|entries| {
            let at = entries.partition_point(|(other, _)| *other < key);
            let mut next = Vec::with_capacity(entries.len() + 1);
            let (before, after) = entries.split_at(at);
            next.extend_from_slice(before);
            next.push((key, value.clone()));
            next.extend_from_slice(after);
            next
        });
    }

    /// Takes a value out; whether it was there.
    pub(super) fn remove(&self, key: &K, value: &Arc<V>) -> bool {
        let is = |(other, at): &(K, Arc<V>)| other == key && Arc::ptr_eq(at, value);
        let Some(shard) = self.shard(key) else {
            return false;
        };
        let before = shard.rcu(|entries| {
            let others = entries.iter().filter(|entry| !is(entry));
            others.cloned().collect::<Vec<_>>()
        });
        before.iter().any(is)
    }
}
