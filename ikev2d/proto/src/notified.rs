// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How often each error was told, by us and to us: what a monitoring system asks for first.

use std::collections::BTreeMap;

use crate::ike_sa::notifies;
use crate::wire::{Chain, Payload, notify, payloads};

/// Errors by their notifications' names. A peer may make numbers up: all that have no name count as
/// one, so that there are never more than there are names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// Those that peers have told us.
    pub received: BTreeMap<&'static str, u64>,
    /// Those that we have told.
    pub sent: BTreeMap<&'static str, u64>,
}

impl Notified {
    /// Counts one that a peer has told us.
    pub fn received(&mut self, name: &'static str) {
        *self.received.entry(name).or_default() += 1;
    }

    /// Counts one that we have told.
    pub fn sent(&mut self, name: &'static str) {
        *self.sent.entry(name).or_default() += 1;
    }

    /// These and those of another endpoint.
    pub fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (of_both, of_other) in [
            (&mut both.received, &other.received),
            (&mut both.sent, &other.sent),
        ] {
            for (name, count) in of_other {
                *of_both.entry(name).or_default() += count;
            }
        }
        both
    }

    pub(crate) fn took(&mut self, parts: &[Payload<'_>]) {
        count(&mut self.received, parts);
    }

    pub(crate) fn told(&mut self, chain: &Chain) {
        if let Ok(parts) = payloads(chain.first(), chain.octets()) {
            count(&mut self.sent, &parts);
        }
    }
}

fn count(counts: &mut BTreeMap<&'static str, u64>, parts: &[Payload<'_>]) {
    let errors = notifies(parts).filter(|notify| notify.kind < notify::FIRST_STATUS);
    for notify in errors {
        *counts.entry(notify::name(notify.kind)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B56: errors by name, those without one together, and none but errors.
    #[test]
    fn made_up_numbers_count_as_one_and_no_status_counts() {
        let mut chain = Chain::default();
        for kind in [notify::TS_UNACCEPTABLE, 9000, 9001, notify::INITIAL_CONTACT] {
            chain.notify(kind, &[]);
        }
        let mut notified = Notified::default();
        notified.told(&chain);
        notified.told(&chain);
        let expected = [("TS_UNACCEPTABLE", 2), (notify::name(9000), 4)];
        assert_eq!(notified.sent, BTreeMap::from(expected));
        assert!(notified.received.is_empty());
    }

    #[test]
    fn those_of_two_endpoints_are_added_up() {
        let (mut one, mut other) = (Notified::default(), Notified::default());
        one.sent("NO-PROPOSAL-CHOSEN");
        other.sent("NO-PROPOSAL-CHOSEN");
        other.received("INVALID-SPI");
        let both = one.and(&other);
        assert_eq!(both, other.and(&one));
        assert_eq!(both.sent, BTreeMap::from([("NO-PROPOSAL-CHOSEN", 2)]));
        assert_eq!(both.received, BTreeMap::from([("INVALID-SPI", 1)]));
    }
}
