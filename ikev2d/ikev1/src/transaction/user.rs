// SPDX-License-Identifier: Apache-2.0 OR MIT
//! XAUTH: name and password of a user, at either end.

use ikev2d_proto::wire::configuration::Kind;
use ikev2d_proto::xauth::Xauth;
use zeroize::Zeroizing;

use super::{Response, What};
use crate::isakmp::{Isakmp, State};
use crate::step::Ctx;
use crate::wire::attribute::{push, push_octets};
use crate::wire::transaction::{Attributes, xauth};

/// How often a peer may ask for our user: whoever asks again has not believed us.
const MOST_ASKS: u32 = 1;

/// Whether attributes are XAUTH's.
pub(super) fn is_about_users(attributes: &Attributes<'_>) -> bool {
    let mut all = attributes.all.iter();
    all.any(|attribute| (xauth::TYPE..=xauth::STATUS).contains(&attribute.kind))
}

/// What a peer says, as text without signs that would make another line or another screen of it.
fn plain(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The same for a log, no longer than people read.
fn line(octets: &[u8]) -> String {
    const MOST: usize = 200;
    plain(octets).chars().take(MOST).collect()
}

impl Isakmp {
    /// Asks the peer for its user.
    pub(super) fn ask_user(&mut self, ctx: &mut Ctx<'_>) {
        let mut rest = Vec::new();
        push(&mut rest, xauth::TYPE, xauth::GENERIC);
        push_octets(&mut rest, xauth::USER_NAME, &[]);
        push_octets(&mut rest, xauth::USER_PASSWORD, &[]);
        self.begin_transaction(ctx, What::User, Kind::Request, &rest);
    }

    /// The peer's user says who it is: it is told whether it is believed.
    pub(super) fn judge_user(&mut self, ctx: &mut Ctx<'_>, told: &Attributes<'_>) {
        let value = |kind| told.one(kind).map(|attribute| attribute.value);
        let (name, password) = (value(xauth::USER_NAME), value(xauth::USER_PASSWORD));
        let connection = self.connection.clone();
        let admitted = match (&connection.ikev1.xauth, name, password) {
            (Some(xauth), Some(name), Some(password)) => xauth.admits(ctx.crypto, name, password),
            _ => false,
        };
        let name = name.unwrap_or_default();
        let user = line(name);
        if admitted {
            tracing::info!(
                connection = connection.name,
                user,
                "XAUTH: the user is believed"
            );
        } else {
            ctx.out.auth_failures += 1;
            tracing::warn!(
                connection = connection.name,
                user,
                "XAUTH: the user is refused"
            );
        }
        let mut rest = Vec::new();
        let status = if admitted { xauth::OK } else { xauth::FAIL };
        push(&mut rest, xauth::STATUS, status);
        let user = admitted.then(|| plain(name));
        self.begin_transaction(ctx, What::Verdict { user }, Kind::Set, &rest);
    }

    /// The peer asks for our user.
    pub(super) fn tell_user(&mut self, asked: &Attributes<'_>) -> Response {
        let refused = |reason: &str| {
            let mut rest = Vec::new();
            push(&mut rest, xauth::STATUS, xauth::FAIL);
            (Kind::Reply, rest.into(), Err(reason.to_owned()))
        };
        let connection = self.connection.clone();
        let waits = self.state == State::Transacting && !self.transactions.is_user_proved;
        let Some(Xauth::Client((name, password))) =
            connection.ikev1.xauth.as_ref().filter(|_| waits)
        else {
            // Whoever asks at another time gets nothing, and nothing comes of it.
            let mut rest = Vec::new();
            push(&mut rest, xauth::STATUS, xauth::FAIL);
            return (Kind::Reply, rest.into(), Ok(()));
        };
        if let Some(message) = asked.one(xauth::MESSAGE) {
            let message = line(message.value);
            tracing::info!(connection = connection.name, %message, "XAUTH");
        }
        self.transactions.asks += 1;
        if self.transactions.asks > MOST_ASKS {
            return refused("the peer does not believe our user");
        }
        let kind = asked.one(xauth::TYPE).and_then(|kind| kind.number());
        if kind.is_some_and(|kind| kind != u64::from(xauth::GENERIC)) {
            return refused("the peer wants another kind of XAUTH than name and password");
        }
        // Grown, it would leave a copy behind.
        let room = name.len() + password.len() + 64;
        let mut rest = Zeroizing::new(Vec::with_capacity(room));
        for attribute in &asked.all {
            match attribute.kind {
                xauth::TYPE => push(&mut rest, xauth::TYPE, xauth::GENERIC),
                xauth::USER_NAME => push_octets(&mut rest, xauth::USER_NAME, name),
                xauth::USER_PASSWORD => {
                    push_octets(&mut rest, xauth::USER_PASSWORD, password.as_bytes());
                }
                _ => {}
            }
        }
        (Kind::Reply, rest, Ok(()))
    }

    /// The peer tells whether it believes our user.
    pub(super) fn hear_verdict(&mut self, told: &Attributes<'_>) -> Response {
        let status = told.one(xauth::STATUS).and_then(|status| status.number());
        let mut rest = Vec::new();
        let ok = status == Some(xauth::OK.into());
        push(
            &mut rest,
            xauth::STATUS,
            if ok { xauth::OK } else { xauth::FAIL },
        );
        let is_client = matches!(self.connection.ikev1.xauth, Some(Xauth::Client(_)));
        let waits = is_client
            && self.state == State::Transacting
            && !self.transactions.is_user_proved
            && self.transactions.asks != 0;
        let then = match (waits, ok) {
            (false, _) => Ok(()),
            (true, true) => {
                self.transactions.is_user_proved = true;
                Ok(())
            }
            (true, false) => Err("the peer does not believe our user".to_owned()),
        };
        (Kind::Ack, rest.into(), then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I08: a peer's words are one line of the log, of bounded length, and no orders to a terminal.
    #[test]
    fn what_a_peer_says_is_one_plain_line() {
        let said = b"Hello\x1b[2J\r\n2026-01-01 INFO \xc2\x9b1m carol\xff is believed\0\n";
        let shown = "Hello[2J2026-01-01 INFO 1m carol\u{fffd} is believed";
        assert_eq!(plain(said), shown);
        assert_eq!(line(said), shown);
        assert_eq!(line(&[b'A'; 60_000]).len(), 200);
    }
}
