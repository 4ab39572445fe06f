// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tickets by value (RFC 5723 §6.1): what a gateway must know to go on with a peer, sealed for itself
//! alone, so that it keeps nothing for all the peers that may come back.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::algorithm::Encryption;
use crate::config::Identity;
use crate::crypto::Crypto;
use crate::event::IkeId;
use crate::proposal::{self, IkeSuite};
use crate::wire::Reader;

/// What tickets are sealed with.
const SEAL: Encryption = Encryption::AesGcm16(256);
/// Octets of its key with the salt.
const KEY_LEN: usize = 36;
const IV_LEN: usize = 8;
/// In a ticket: an authentication that does not end.
const NEVER: u64 = u64::MAX;
/// Octets of a key's number.
const NUMBER_LEN: usize = 4;
/// Tickets that are good no more although their time is not over. With more of them than this, all
/// tickets are good no more: that takes no memory.
const MOST_SPENT: usize = 100_000;
/// Tickets of gateways that an endpoint keeps, one for each connection, at most.
pub const MOST_HELD: usize = 4096;

/// For how long a key seals: as long as the ticket lives that it was made for, within these.
const SEALING: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How often what is over is looked for.
const TIDYING: Duration = Duration::from_secs(60);

/// What a session goes on with.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) connection: String,
    /// Who the holder of the ticket is.
    pub(crate) client: Identity,
    /// Who it says that it is: the body of IDi. EAP may have found somebody else.
    pub(crate) id_body: Vec<u8>,
    /// Who has given it.
    pub(crate) gateway: Identity,
    pub(crate) suite: IkeSuite,
    pub(crate) d: Zeroizing<Vec<u8>>,
    /// A postquantum preshared key is in it.
    pub(crate) ppk: bool,
    /// When the peers' authentication is over, if it ever is: no resumption renews it.
    pub(crate) authenticated_until: Option<Instant>,
    /// Rekeyings since they have authenticated each other: no resumption begins anew with them, either.
    pub(crate) rekeyings: u32,
}

/// A ticket that we hold.
pub(crate) struct Held {
    pub(crate) ticket: Vec<u8>,
    pub(crate) session: Session,
    until: Instant,
    ike: IkeId,
    /// Nobody has answered to it: the next attempt goes without, in case that only a full exchange is
    /// answered, and the one after tries it again.
    rests: bool,
}

/// A ticket that somebody presents.
pub(crate) struct Presented {
    pub(crate) number: u64,
    pub(crate) session: Session,
    until: Instant,
}

struct Key {
    key: Zeroizing<Vec<u8>>,
    /// Until when it seals.
    turn: Instant,
    /// When the last of its tickets is over.
    until: Instant,
    /// How many it has sealed, which is their IV.
    sealed: u64,
}

/// The tickets of an endpoint: those that it has given, and those that it holds.
#[derive(Default)]
pub(crate) struct Tickets {
    /// When the time began that is in tickets.
    since: Option<Instant>,
    /// By number; the last one seals.
    keys: BTreeMap<u32, Key>,
    /// How many there have been.
    made: u32,
    /// When to look for what is over.
    due: Option<Instant>,
    next: u64,
    /// Numbers of tickets that are good no more, and until when they would have been.
    spent: HashMap<u64, Instant>,
    /// The ticket that the peer of each IKE SA has.
    given: HashMap<IkeId, (u64, Instant)>,
    /// Rekeyings since a ticket was given, where they count, and until when it is good: what is in a
    /// ticket can't be changed any more.
    rekeyings: HashMap<u64, (u32, Instant)>,
    /// By connection.
    held: HashMap<String, Held>,
}

fn put(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend((octets.len() as u16).to_be_bytes());
    out.extend_from_slice(octets);
}

fn take<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = reader.u16().ok()?;
    reader.take(len.into()).ok()
}

fn number(octets: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(octets.try_into().ok()?))
}

impl Tickets {
    /// Seals a ticket that is good for so long, for the peer of an IKE SA.
    pub(crate) fn give(
        &mut self,
        crypto: &dyn Crypto,
        now: Instant,
        (ike, life): (IkeId, Duration),
        session: &Session,
    ) -> Option<Vec<u8>> {
        let since = *self.since.get_or_insert(now);
        let until = now + life;
        self.turn_keys(crypto, now, life);
        self.next += 1;
        let given = self.next;
        let mut plain = Zeroizing::new(Vec::new());
        plain.extend(given.to_be_bytes());
        let millis = |end: Instant| {
            let millis = end.saturating_duration_since(since).as_millis();
            u64::try_from(millis).ok()
        };
        plain.extend(millis(until)?.to_be_bytes());
        let authenticated = match session.authenticated_until {
            Some(end) => millis(end)?,
            None => NEVER,
        };
        plain.extend(authenticated.to_be_bytes());
        plain.push(u8::from(session.ppk));
        plain.extend(session.rekeyings.to_be_bytes());
        put(&mut plain, session.connection.as_bytes());
        let client = session.client.emit();
        put(&mut plain, &client);
        // Mostly it is the same, and the ticket the shorter.
        let id_body = Some(&session.id_body[..]).filter(|id_body| *id_body != client);
        put(&mut plain, id_body.unwrap_or_default());
        put(&mut plain, &session.gateway.emit());
        let suite = proposal::emit(&[(1, session.suite.to_proposal())], true, &[]);
        put(&mut plain, &suite);
        put(&mut plain, &session.d);
        let (number, key) = self.keys.iter_mut().next_back()?;
        key.until = key.until.max(until);
        let head = number.to_be_bytes();
        let iv = key.sealed.to_be_bytes();
        key.sealed += 1;
        crypto
            .aead_seal(SEAL, &key.key, &iv, &head, &mut plain)
            .ok()?;
        // The one before is not to be used any more: its holder has this one.
        self.revoke(now, ike);
        self.given.insert(ike, (given, until));
        Some([&head[..], &iv, &plain[..]].concat())
    }

    /// A key seals for a while, and opens until the last of its tickets is over.
    fn turn_keys(&mut self, crypto: &dyn Crypto, now: Instant, life: Duration) {
        let last = self.keys.values().next_back();
        if last.is_some_and(|key| now < key.turn) {
            return;
        }
        self.tidy(now);
        let mut key = Zeroizing::new(vec![0; KEY_LEN]);
        crypto.random(&mut key);
        let fresh = Key {
            key,
            turn: now + life.clamp(SEALING.0, SEALING.1),
            until: now,
            sealed: 0,
        };
        self.made = self.made.wrapping_add(1);
        self.keys.insert(self.made, fresh);
        self.arm(now);
    }

    /// Opens a ticket, if it is one of ours and good still.
    pub(crate) fn open(
        &self,
        crypto: &dyn Crypto,
        now: Instant,
        ticket: &[u8],
    ) -> Option<Presented> {
        let (head, rest) = ticket.split_at_checked(NUMBER_LEN)?;
        let (iv, sealed) = rest.split_at_checked(IV_LEN)?;
        let key_number = u32::from_be_bytes(head.try_into().ok()?);
        let key = self.keys.get(&key_number)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        crypto
            .aead_open(SEAL, &key.key, iv, head, &mut plain)
            .ok()?;
        let mut reader = Reader::new(&plain);
        let given = number(reader.take(8).ok()?)?;
        let since = self.since?;
        let end = |millis| since.checked_add(Duration::from_millis(millis));
        let until = end(number(reader.take(8).ok()?)?)?;
        let authenticated_until = match number(reader.take(8).ok()?)? {
            NEVER => None,
            millis => Some(end(millis)?),
        };
        let ppk = reader.u8().ok()? != 0;
        let rekeyings = u32::from_be_bytes(reader.take(4).ok()?.try_into().ok()?);
        let since_given = self.rekeyings.get(&given);
        let rekeyings = since_given.map_or(rekeyings, |(all, _)| *all);
        let connection = std::str::from_utf8(take(&mut reader)?).ok()?.to_owned();
        let client_body = take(&mut reader)?;
        let client = Identity::read(client_body).ok()?;
        let id_body = Some(take(&mut reader)?).filter(|id_body| !id_body.is_empty());
        let gateway = Identity::read(take(&mut reader)?).ok()?;
        let suite = proposal::parse(take(&mut reader)?, true).ok()?;
        let suite = &suite.first()?.proposal;
        let session = Session {
            connection,
            client,
            id_body: id_body.unwrap_or(client_body).to_vec(),
            gateway,
            suite: suite.choose_ike(suite)?,
            d: Zeroizing::new(take(&mut reader)?.to_vec()),
            ppk,
            authenticated_until,
            rekeyings,
        };
        let good = now < until && !self.spent.contains_key(&given);
        good.then_some(Presented {
            number: given,
            session,
            until,
        })
    }

    /// A ticket was used: it is good no more. Whether it was good until now.
    pub(crate) fn spend(&mut self, now: Instant, ticket: &Presented) -> bool {
        self.spend_number(now, ticket.number, ticket.until)
    }

    fn spend_number(&mut self, now: Instant, number: u64, until: Instant) -> bool {
        if self.spent.len() >= MOST_SPENT {
            self.tidy(now);
        }
        if self.spent.len() >= MOST_SPENT {
            self.keys.clear();
            self.spent.clear();
            self.rekeyings.clear();
        }
        self.arm(now);
        self.rekeyings.remove(&number);
        self.spent.insert(number, until).is_none()
    }

    /// The ticket of an IKE SA's peer is good no more.
    pub(crate) fn revoke(&mut self, now: Instant, ike: IkeId) {
        if let Some((number, until)) = self.given.remove(&ike) {
            self.spend_number(now, number, until);
        }
    }

    /// An IKE SA goes, and the ticket stays good.
    pub(crate) fn leave(&mut self, ike: IkeId) {
        self.given.remove(&ike);
    }

    /// When to look for what is over.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is something that will be over.
    fn arm(&mut self, now: Instant) {
        self.due.get_or_insert(now + TIDYING);
    }

    /// Forgets what is over, if it is time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due.take_if(|due| *due <= now).is_some() {
            self.tidy(now);
            let counts = self.rekeyings.is_empty() && self.spent.is_empty();
            if !(counts && self.keys.is_empty() && self.held.is_empty()) {
                self.arm(now);
            }
        }
    }

    /// Forgets what is over.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.keys.retain(|_, key| now < key.until.max(key.turn));
        self.spent.retain(|_, until| now < *until);
        self.rekeyings.retain(|_, (_, until)| now < *until);
        self.held.retain(|_, held| now < held.until);
    }

    /// Another IKE SA has taken over from one, after so many rekeyings if they count.
    pub(crate) fn hand_over(&mut self, old: IkeId, new: IkeId, rekeyings: u32) {
        if let Some(given) = self.given.remove(&old) {
            self.given.insert(new, given);
            if rekeyings != 0 {
                self.rekeyings.insert(given.0, (rekeyings, given.1));
            }
        }
        for held in self.held.values_mut().filter(|held| held.ike == old) {
            held.ike = new;
            held.session.rekeyings = rekeyings;
        }
    }

    /// Keeps a ticket that is good for so long, for the next IKE SA of a connection.
    pub(crate) fn hold(
        &mut self,
        now: Instant,
        (ike, life): (IkeId, Duration),
        ticket: &[u8],
        session: Session,
    ) {
        let until = now + life;
        self.tidy(now);
        if self.held.len() < MOST_HELD || self.held.contains_key(&session.connection) {
            let held = Held {
                ticket: ticket.to_vec(),
                until,
                ike,
                session,
                rests: false,
            };
            self.held.insert(held.session.connection.clone(), held);
            self.arm(now);
        }
    }

    /// The ticket for a connection, once; not in the attempt after one that nobody has answered.
    pub(crate) fn take(&mut self, now: Instant, connection: &str) -> Option<Held> {
        let held = self.held.get_mut(connection)?;
        if std::mem::take(&mut held.rests) && now < held.until {
            return None;
        }
        let held = self.held.remove(connection);
        held.filter(|held| now < held.until)
    }

    /// One that nobody has answered to is good still, unless there is a newer one by now.
    pub(crate) fn put_back(&mut self, now: Instant, held: Held) {
        if now < held.until && self.held.len() < MOST_HELD {
            let name = held.session.connection.clone();
            let held = Held {
                rests: true,
                ..held
            };
            self.held.entry(name).or_insert(held);
            self.arm(now);
        }
    }

    /// Forgets the ticket for a connection that was set up without it.
    pub(crate) fn outdate(&mut self, connection: &str) {
        self.held.remove(connection);
    }

    /// Forgets the ticket that an IKE SA has given us: one that is deleted is not resumed (§4.3.4).
    pub(crate) fn drop_of(&mut self, ike: IkeId) {
        self.held.retain(|_, held| held.ike != ike);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::{Group, Integrity, Prf};
    use crate::crypto::{CryptoError, KeyExchange};

    /// Seals so that a test can see it: the key's sum in front, as the tag behind.
    struct Plain(std::sync::atomic::AtomicU8);

    impl Plain {
        fn tag(key: &[u8], iv: &[u8], aad: &[u8], data: &[u8]) -> Vec<u8> {
            let all = [key, iv, aad, data].concat();
            let sum = |start: u8| {
                all.iter().fold(start, |sum, octet| {
                    sum.wrapping_mul(31).wrapping_add(*octet)
                })
            };
            (0..16).map(sum).collect()
        }
    }

    impl Crypto for Plain {
        fn random(&self, out: &mut [u8]) {
            out.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
        fn generate(&self, _: Group) -> Result<Box<dyn KeyExchange>, CryptoError> {
            Err(CryptoError)
        }
        fn prf(&self, _: Prf, _: &[u8], _: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
            Err(CryptoError)
        }
        fn integrity(&self, _: Integrity, _: &[u8], _: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
            Err(CryptoError)
        }
        fn aead_seal(
            &self,
            _: Encryption,
            key: &[u8],
            iv: &[u8],
            aad: &[u8],
            data: &mut Vec<u8>,
        ) -> Result<(), CryptoError> {
            let tag = Self::tag(key, iv, aad, data);
            data.extend(tag);
            Ok(())
        }
        fn aead_open(
            &self,
            _: Encryption,
            key: &[u8],
            iv: &[u8],
            aad: &[u8],
            data: &mut Vec<u8>,
        ) -> Result<(), CryptoError> {
            let at = data.len().checked_sub(16).ok_or(CryptoError)?;
            let tag = data.split_off(at);
            (tag == Self::tag(key, iv, aad, data))
                .then_some(())
                .ok_or(CryptoError)
        }
        fn cbc(
            &self,
            _: Encryption,
            _: bool,
            _: &[u8],
            _: &[u8],
            _: &mut Vec<u8>,
        ) -> Result<(), CryptoError> {
            Err(CryptoError)
        }
        fn hash(&self, _: Prf, _: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
            Err(CryptoError)
        }
        fn sha1(&self, _: &[&[u8]]) -> [u8; 20] {
            [0; 20]
        }
    }

    const LIFE: Duration = Duration::from_secs(100);

    fn session() -> Session {
        let proposal =
            crate::proposal::Proposal::parse_ike("aes256gcm16-prfsha384-x25519-ke1_mlkem768");
        let proposal = proposal.unwrap();
        Session {
            connection: "gw".to_owned(),
            client: Identity::parse("carol@example.org"),
            id_body: Identity::parse("carol@example.org").emit(),
            gateway: Identity::parse("192.0.2.1"),
            suite: proposal.choose_ike(&proposal).unwrap(),
            d: Zeroizing::new(vec![7; 48]),
            ppk: true,
            authenticated_until: None,
            rekeyings: 3,
        }
    }

    /// B15: a ticket brings back all that it was made of, once, until its time is over.
    #[test]
    fn a_ticket_is_good_once_and_for_its_time() {
        let (crypto, start) = (Plain(Default::default()), Instant::now());
        let mut tickets = Tickets::default();
        let ticket = tickets.give(&crypto, start, (IkeId(1), LIFE), &session());
        let ticket = ticket.unwrap();
        let opened = tickets.open(&crypto, start, &ticket).unwrap();
        let (got, put) = (&opened.session, session());
        assert_eq!((&got.connection, &got.suite), (&put.connection, &put.suite));
        assert_eq!((&got.client, &got.gateway), (&put.client, &put.gateway));
        assert_eq!(got.id_body, put.id_body);
        assert_eq!((&got.d, got.ppk), (&put.d, put.ppk));
        assert_eq!(got.rekeyings, put.rekeyings);
        assert_eq!(got.authenticated_until, None);
        let ends = Session {
            authenticated_until: Some(start + LIFE * 2),
            id_body: Identity::parse("laptop.example.org").emit(),
            ..session()
        };
        let ending = tickets.give(&crypto, start, (IkeId(2), LIFE), &ends);
        let ending = tickets.open(&crypto, start, &ending.unwrap()).unwrap();
        assert_eq!(ending.session.authenticated_until, ends.authenticated_until);
        assert_eq!(ending.session.id_body, ends.id_body);
        let end = start + LIFE;
        let nearly = end - Duration::from_millis(2);
        assert!(tickets.open(&crypto, nearly, &ticket).is_some());
        assert!(tickets.open(&crypto, end, &ticket).is_none());
        assert!(tickets.spend(start, &opened) && !tickets.spend(start, &opened));
        assert!(tickets.open(&crypto, start, &ticket).is_none());
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(tickets.open(&crypto, start, &changed).is_none(), "{at}");
            assert!(tickets.open(&crypto, start, &ticket[..at]).is_none());
        }
    }

    /// Each ticket opens for all of its life, although keys change; old keys are forgotten.
    #[test]
    fn keys_change_and_tickets_stay_good() {
        let (crypto, start) = (Plain(Default::default()), Instant::now());
        let mut tickets = Tickets::default();
        let mut given = Vec::new();
        for step in 0..50 {
            let now = start + LIFE / 10 * step;
            let ticket = tickets.give(&crypto, now, (IkeId(step.into()), LIFE), &session());
            given.push((now, ticket.unwrap()));
            for (at, ticket) in &given {
                let good = tickets.open(&crypto, now, ticket).is_some();
                assert_eq!(good, now < *at + LIFE, "{step}");
            }
        }
        assert_eq!(tickets.made, 5);
        assert!(tickets.keys.len() <= 2);
    }

    /// Lives are each connection's own: no ticket is good for less since another's key was to turn.
    #[test]
    fn long_tickets_outlive_the_keys_of_short_ones() {
        let (crypto, start) = (Plain(Default::default()), Instant::now());
        let mut tickets = Tickets::default();
        let mut long = Vec::new();
        for step in 0..100 {
            let now = start + LIFE / 2 * step;
            tickets.handle_timeout(now);
            let mut give = |life| {
                let ticket = tickets.give(&crypto, now, (IkeId(step.into()), life), &session());
                ticket.unwrap()
            };
            give(LIFE);
            let ticket = give(LIFE * 20);
            tickets.leave(IkeId(step.into()));
            long.push((now, ticket));
            for (at, ticket) in &long {
                let good = tickets.open(&crypto, now, ticket).is_some();
                assert_eq!(good, now < *at + LIFE * 20, "{step}");
            }
            assert!(tickets.keys.len() <= 22, "{}", tickets.keys.len());
        }
    }

    /// What is over goes, although nothing is given or asked for any more.
    #[test]
    fn keys_and_tickets_that_are_over_are_forgotten() {
        let (crypto, start) = (Plain(Default::default()), Instant::now());
        let mut tickets = Tickets::default();
        let ticket = tickets.give(&crypto, start, (IkeId(1), LIFE), &session());
        tickets.hold(start, (IkeId(2), LIFE), &ticket.unwrap(), session());
        tickets.revoke(start, IkeId(1));
        let mut now = start;
        while let Some(due) = tickets.due() {
            assert!(now < due && due <= start + LIFE + TIDYING);
            now = due;
            assert_eq!(tickets.held.len(), 1);
            tickets.handle_timeout(now);
        }
        assert!(now >= start + LIFE);
        assert!(tickets.keys.is_empty() && tickets.spent.is_empty() && tickets.held.is_empty());
    }

    /// An IKE SA that is deleted takes its ticket along; of more than can be noted, all go.
    #[test]
    fn deleted_sessions_are_not_resumed_however_many() {
        let (crypto, now) = (Plain(Default::default()), Instant::now());
        let mut tickets = Tickets::default();
        let give = |tickets: &mut Tickets, ike: u64| {
            let ticket = tickets.give(&crypto, now, (IkeId(ike), LIFE), &session());
            ticket.unwrap()
        };
        let (kept, gone) = (give(&mut tickets, 1), give(&mut tickets, 2));
        tickets.hand_over(IkeId(2), IkeId(3), 1);
        tickets.revoke(now, IkeId(3));
        let opens = |tickets: &Tickets, ticket: &[u8]| {
            tickets
                .open(&Plain(Default::default()), now, ticket)
                .is_some()
        };
        assert!(opens(&tickets, &kept) && !opens(&tickets, &gone));
        for number in 0..=MOST_SPENT as u64 {
            tickets.spend_number(now, 1_000_000 + number, now + LIFE);
        }
        assert!(tickets.spent.len() <= MOST_SPENT && tickets.rekeyings.is_empty());
        assert!(!opens(&tickets, &kept) && !opens(&tickets, &gone));
        let fresh = give(&mut tickets, 4);
        assert!(opens(&tickets, &fresh));
    }
}
