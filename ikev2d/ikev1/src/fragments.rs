// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragments of messages as Cisco's and Microsoft's IKEv1 have them (MS-IKEE §2.2.4): pieces of a whole
//! message, each behind a header of its own in the clear. Nothing authenticates a piece; the message that
//! they make is as good or bad as one that came whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ikev2d_proto::event::Transmit;
use zerocopy::IntoBytes;

use crate::isakmp::Isakmp;
use crate::step::Ctx;
use crate::wire::{FLAG_ENCRYPTED, HEADER_LEN, Header, Payloads, Reader, parse_header, payload};

/// Fragments of one message, at most.
const MOST: usize = 64;
/// Octets of one message, at most.
const MOST_OCTETS: usize = 32 << 10;
/// How long an incomplete message is kept.
const LIFE: Duration = Duration::from_secs(30);
/// Octets of a fragment's own: generic header, id, number, flags.
const FRONT: usize = 8;
/// The last one.
const LAST: u8 = 1;
/// Octets of an IP datagram, if the settings don't say.
const DEFAULT_SIZE: usize = 1280;
/// So that there is something in each of them, whatever the settings say.
const LEAST_PIECE: usize = 64;

/// A message that is not whole yet. There is one at a time: a peer sends one after another.
#[derive(Default)]
pub(crate) struct Fragments {
    id: u16,
    parts: BTreeMap<u8, Vec<u8>>,
    /// Number of the last one.
    count: Option<u8>,
    octets: usize,
    begun: Option<Instant>,
}

impl Fragments {
    /// When what there is is given up.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.begun.map(|begun| begun + LIFE)
    }

    /// Octets that it holds.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes a fragment in; the message, when it is whole. `None` in an error: it is none.
    fn take(&mut self, now: Instant, fragment: &Fragment<'_>) -> Result<Option<Vec<u8>>, ()> {
        if self.begun.is_none()
            || self.id != fragment.id
            || self.until().is_some_and(|at| now >= at)
        {
            *self = Self {
                id: fragment.id,
                begun: Some(now),
                ..Self::default()
            };
        }
        let number = fragment.number;
        let highest = self.parts.last_key_value().map_or(0, |(number, _)| *number);
        let count = match (self.count, fragment.last) {
            (Some(count), true) if count != number => return Err(()),
            (count, false) => count,
            (_, true) => Some(number),
        };
        if count.is_some_and(|count| count < number.max(highest)) {
            return Err(());
        }
        if self.parts.contains_key(&number) {
            // A repetition.
            return Ok(None);
        }
        if self.octets + fragment.data.len() > MOST_OCTETS {
            self.clear();
            return Err(());
        }
        self.count = count;
        self.octets += fragment.data.len();
        self.parts.insert(number, fragment.data.to_vec());
        if count.is_none_or(|count| self.parts.len() < usize::from(count)) {
            return Ok(None);
        }
        let parts = std::mem::take(&mut self.parts);
        self.clear();
        Ok(Some(parts.into_values().flatten().collect()))
    }
}

/// One of them.
struct Fragment<'m> {
    id: u16,
    number: u8,
    last: bool,
    data: &'m [u8],
}

impl<'m> Fragment<'m> {
    fn parse(message: &'m [u8]) -> Option<Self> {
        let body = message.get(HEADER_LEN..)?;
        let parts = Payloads::parse(payload::FRAGMENT, body, false).ok()?;
        let [only] = &parts.all[..] else { return None };
        let mut reader = Reader::new(only.body);
        let (id, number, flags) = (reader.u16().ok()?, reader.u8().ok()?, reader.u8().ok()?);
        let data = reader.rest();
        let fits = (1..=MOST).contains(&usize::from(number)) && !data.is_empty();
        fits.then_some(Self {
            id,
            number,
            last: flags & LAST != 0,
            data,
        })
    }
}

/// Whether a message is a fragment of one.
pub(crate) fn is_fragment(header: &Header) -> bool {
    header.next_payload == payload::FRAGMENT && header.flags & FLAG_ENCRYPTED == 0
}

impl Isakmp {
    /// Takes a fragment in: the message that it completes.
    pub(crate) fn collect(&mut self, ctx: &Ctx<'_>, message: &[u8]) -> Result<Option<Vec<u8>>, ()> {
        if !self.connection.fragmentation || !self.has_room(ctx, message.len()) {
            return Err(());
        }
        let fragment = Fragment::parse(message).ok_or(())?;
        let whole = self.fragments.take(ctx.now, &fragment)?;
        let Some(whole) = whole else {
            return Ok(None);
        };
        // What is in it must be a message of this SA, and none in pieces again.
        let header = parse_header(&whole).map_err(|_| ())?;
        let outer = parse_header(message).map_err(|_| ())?;
        let same = |header: &Header| (header.spi_i.get(), header.spi_r.get());
        if is_fragment(&header) || same(&header) != same(&outer) {
            return Err(());
        }
        Ok(Some(whole))
    }

    /// What a message is sent as: itself, or fragments of it where the peer can and IP would have to
    /// divide it.
    pub(crate) fn divide(&mut self, size: Option<usize>, transmit: Transmit) -> Vec<Transmit> {
        let outer = outer_len(transmit.path.remote);
        let room = size.unwrap_or(DEFAULT_SIZE).saturating_sub(outer);
        let message = &transmit.payload;
        let able = self.peer.fragmentation && self.connection.fragmentation;
        if !able || message.len() <= room {
            return vec![transmit];
        }
        let piece = room.saturating_sub(HEADER_LEN + FRONT).max(LEAST_PIECE);
        let count = message.len().div_ceil(piece);
        let (Ok(mut header), true) = (parse_header(message), count <= MOST) else {
            return vec![transmit];
        };
        header.next_payload = payload::FRAGMENT;
        header.flags = 0;
        self.fragment_id = self.fragment_id.wrapping_add(1).max(1);
        let (id, path) = (self.fragment_id.to_be_bytes(), transmit.path);
        let pieces = (1u8..).zip(message.chunks(piece));
        let fragments = pieces.map(|(number, data)| {
            let len = FRONT + data.len();
            header.len = ((HEADER_LEN + len) as u32).into();
            let last = usize::from(number) == count;
            let mut payload = header.as_bytes().to_vec();
            payload.extend([0, 0]);
            payload.extend((len as u16).to_be_bytes());
            payload.extend(id);
            payload.extend([number, if last { LAST } else { 0 }]);
            payload.extend(data);
            Transmit {
                path,
                payload,
                keepalive: false,
            }
        });
        fragments.collect()
    }
}

/// Octets around a message in its IP datagram, with the non-ESP marker of port 4500.
fn outer_len(remote: SocketAddr) -> usize {
    let ip = if remote.is_ipv4() { 20 } else { 40 };
    ip + 8 + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(id: u16, number: u8, last: bool, data: &[u8]) -> Fragment<'_> {
        Fragment {
            id,
            number,
            last,
            data,
        }
    }

    /// B46: in any order, each once.
    #[test]
    fn a_message_is_put_together_in_any_order() {
        let now = Instant::now();
        for order in [[1u8, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let mut fragments = Fragments::default();
            let mut whole = None;
            for number in order {
                for _ in 0..2 {
                    if whole.is_none() {
                        let data = [number; 10];
                        let part = fragment(7, number, number == 3, &data);
                        whole = fragments.take(now, &part).unwrap();
                    }
                }
            }
            let expected = [[1; 10], [2; 10], [3; 10]].concat();
            assert_eq!(whole, Some(expected));
            assert_eq!((fragments.octets(), fragments.until()), (0, None));
        }
    }

    /// I03: what contradicts itself is refused, and what never ends is bounded and given up.
    #[test]
    fn what_never_ends_is_bounded() {
        let now = Instant::now();
        let mut fragments = Fragments::default();
        for (number, last, good) in [
            (2, false, true),
            (1, true, false),
            (4, true, true),
            (3, true, false),
            (5, false, false),
        ] {
            let taken = fragments.take(now, &fragment(1, number, last, &[0; 8]));
            assert_eq!(taken.is_ok(), good, "{number} {last}");
        }
        // Another message takes its place.
        assert!(fragments.take(now, &fragment(2, 9, false, &[0; 8])).is_ok());
        assert_eq!(fragments.octets(), 8);
        // So does the same one after a while.
        let later = now + LIFE;
        assert!(
            fragments
                .take(later, &fragment(2, 8, false, &[0; 8]))
                .is_ok()
        );
        assert_eq!(fragments.octets(), 8);
        let most = vec![0; 1500];
        for number in 1..=MOST as u8 {
            let _ = fragments.take(now, &fragment(3, number, false, &most));
            assert!(fragments.octets() <= MOST_OCTETS);
        }
    }

    /// R23: at the limit and beyond it.
    #[test]
    fn numbers_have_limits() {
        let of = |number: u8, data: &[u8]| {
            let mut message = vec![0; HEADER_LEN];
            message.extend([0, 0]);
            message.extend(((FRONT + data.len()) as u16).to_be_bytes());
            message.extend([0, 1, number, 0]);
            message.extend(data);
            message
        };
        for (number, data, good) in [
            (0u8, &[1u8][..], false),
            (1, &[1], true),
            (64, &[1], true),
            (65, &[1], false),
            (1, &[], false),
        ] {
            assert_eq!(
                Fragment::parse(&of(number, data)).is_some(),
                good,
                "{number}"
            );
        }
        let good = of(1, &[1, 2, 3]);
        for len in 0..good.len() {
            assert!(Fragment::parse(&good[..len]).is_none(), "{len}");
        }
    }
}
