// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reauthentication (RFC 7296 §2.8.3): a new IKE SA with new children is made before the old one goes.

use std::time::{Duration, Instant};

use super::{Ctx, IkeSa, Standing, State, Task};
use crate::event::IkeId;
use crate::moment::Moment;

/// Before a reauthentication that came to nothing is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// How an IKE SA stands with authentication.
#[derive(Default)]
pub(crate) struct Reauth {
    /// Rekeyings since the peers have authenticated each other.
    pub(crate) rekeyings: u32,
    pub(crate) at: Option<Instant>,
    /// When the peers' authentication is good for nothing any more, whatever is rekeyed.
    pub(crate) expire_at: Option<Instant>,
    /// The IKE SA that this one is to replace.
    pub(crate) of: Option<IkeId>,
    /// One that is to replace this one is being made.
    pub(crate) under_way: bool,
}

/// Whether the next rekeying is a reauthentication, after so many that were not.
pub(crate) fn is_due(frequency: u32, rekeyings: u32) -> bool {
    frequency != 0 && rekeyings.saturating_add(1) >= frequency
}

impl IkeSa {
    /// Renews the keys, or, where that is due, the authentication with them.
    pub(crate) fn renew(&mut self, ctx: &mut Ctx<'_>) {
        if is_due(self.connection.reauth_frequency, self.reauth.rekeyings) {
            self.reauthenticate(ctx);
        } else {
            self.tasks.push_back(Task::RekeyIke {
                group: None,
                not_before: None,
            });
        }
    }

    /// Asks for another IKE SA in place of this one.
    pub(crate) fn reauthenticate(&mut self, ctx: &mut Ctx<'_>) {
        let current = self.state == State::Established && self.standing == Standing::Current;
        if current && !std::mem::replace(&mut self.reauth.under_way, true) {
            self.reauth.at = None;
            self.rekey_at = None;
            ctx.out.reauths.push(self.id);
        }
    }

    /// The new one came to nothing: this one stays for another try, as long as its lifetime lasts.
    pub(crate) fn reauth_failed(&mut self, ctx: &Ctx<'_>) {
        self.reauth.under_way = false;
        self.reauth.at = Some(ctx.now + RETRY);
    }

    /// When all that was asked for is there, the old one may go.
    pub(crate) fn finish_reauth(&mut self, ctx: &mut Ctx<'_>) {
        let busy = self.outstanding.is_some()
            || self
                .tasks
                .iter()
                .any(|task| matches!(task, Task::Child { .. } | Task::Part(_)))
            || self.children.iter().any(|child| child.install.is_some());
        if self.state == State::Established
            && !busy
            && let Some(reauth) = self.reauth.as_deref_mut()
            && let Some(old) = reauth.of.take()
        {
            ctx.out.reauthenticated.push(old);
        }
    }

    /// What rekeyings do not renew.
    pub(crate) fn inherit_auth(&mut self, ctx: &mut Ctx<'_>, old: &mut Self) {
        self.reauth = std::mem::take(&mut old.reauth);
        self.expire_at = self
            .expire_at
            .into_iter()
            .chain(self.reauth.expire_at.map(Moment::from))
            .min();
        let frequency = self.connection.reauth_frequency;
        if frequency != 0 {
            self.reauth.rekeyings = self.reauth.rekeyings.saturating_add(1);
            if self.reauth.rekeyings >= frequency {
                // The peer has rekeyed when it was due.
                self.reauthenticate(ctx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    /// S82, S83.
    #[test]
    fn every_nth_renewal_is_a_reauthentication() {
        for frequency in 1..=100 {
            let mut rekeyings = 0;
            for renewal in 1..=1000 {
                let due = super::is_due(frequency, rekeyings);
                assert_eq!(due, renewal % frequency == 0, "{frequency}: {renewal}");
                rekeyings = if due { 0 } else { rekeyings + 1 };
            }
        }
        assert!((0..1000).all(|rekeyings| !super::is_due(0, rekeyings)));
    }
}
