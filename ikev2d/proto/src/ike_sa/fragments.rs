// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fragmentation (RFC 7383): sizes to send in, and a bounded place to put fragments together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Ctx, IkeSa, nothing};
use crate::event::Path;
use crate::sk::{Fragment, Opened};
use crate::wire::{MAX_MESSAGE, stream};

/// Fragments of one message, at most.
const MOST_FRAGMENTS: u16 = 64;
/// How long the first fragment waits for the last.
const LIFE: Duration = Duration::from_secs(30);
/// Octets that wait for further fragments, of all IKE SAs with one address.
const MOST_OF_PEER: usize = 1 << 20;
/// What an octet of a fragment costs beside itself, roughly: the entry that holds it.
const ENTRY: usize = 64;

/// IP datagrams that are tried, largest first: what every IPv6 link and every IPv4 host must take
/// (RFC 7383 §2.5.1).
const LADDER_V4: [usize; 2] = [1280, 576];
const LADDER_V6: [usize; 1] = [1280];
/// UDP's header, and the non-ESP marker that may follow (RFC 3948 §2.2).
const UDP_AND_MARKER: usize = 12;

/// Octets of a message that every path takes.
pub(super) const SMALL: usize = 576 - 20 - UDP_AND_MARKER;

/// Octets of addresses' fragments.
pub(crate) type Held = BTreeMap<IpAddr, usize>;

/// A message in pieces.
#[derive(Default)]
pub(crate) struct Reassembly {
    id: Option<(bool, u32)>,
    total: u16,
    first: u8,
    flags: u8,
    parts: BTreeMap<u16, Vec<u8>>,
    octets: usize,
    /// Whose octets they are counted as.
    address: Option<IpAddr>,
    started: Option<Instant>,
}

nothing!(Reassembly);

impl Reassembly {
    /// Forgets what was collected.
    fn forget(&mut self, held: &mut Held) {
        let cost = self.cost();
        if let Some(address) = self.address.take()
            && let Some(count) = held.get_mut(&address)
        {
            *count = count.saturating_sub(cost);
            if *count == 0 {
                held.remove(&address);
            }
        }
        *self = Self::default();
    }

    fn cost(&self) -> usize {
        self.octets + self.parts.len() * ENTRY
    }

    pub(crate) fn expires(&self) -> Option<Instant> {
        self.started.map(|started| started + LIFE)
    }

    /// Takes a fragment in; the whole message once it is there.
    fn take(
        &mut self,
        held: &mut Held,
        now: Instant,
        address: IpAddr,
        message: (bool, u32),
        fragment: Fragment,
    ) -> Option<Opened> {
        if fragment.total > MOST_FRAGMENTS || fragment.body.is_empty() {
            return None;
        }
        if self.id != Some(message) || fragment.total > self.total {
            // Another message, or the same one in smaller pieces: what was there is in vain (§2.6).
            self.forget(held);
            self.id = Some(message);
            self.total = fragment.total;
            self.address = Some(address);
            self.started = Some(now);
        }
        if fragment.total < self.total || self.parts.contains_key(&fragment.number) {
            return None;
        }
        let cost = fragment.body.len() + ENTRY;
        let of_peer = held.entry(self.address.unwrap_or(address)).or_default();
        if *of_peer + cost > MOST_OF_PEER || self.octets + fragment.body.len() > MAX_MESSAGE {
            if *of_peer == 0 {
                held.remove(&address);
            }
            self.forget(held);
            return None;
        }
        *of_peer += cost;
        self.octets += fragment.body.len();
        if fragment.number == 1 {
            (self.first, self.flags) = (fragment.first, fragment.flags);
        }
        self.parts.insert(fragment.number, fragment.body);
        if self.parts.len() < usize::from(self.total) {
            return None;
        }
        let whole = Opened {
            first: self.first,
            flags: self.flags,
            body: self.parts.values().flatten().copied().collect(),
        };
        self.forget(held);
        Some(whole)
    }
}

/// Octets of a message that fit each IP datagram that is tried, largest first.
fn ladder(path: Path, largest: Option<usize>) -> impl Iterator<Item = usize> {
    let (sizes, ip) = if path.remote.is_ipv4() {
        (&LADDER_V4[..], 20)
    } else {
        (&LADDER_V6[..], 40)
    };
    let most = largest.unwrap_or(usize::MAX);
    let own = largest.into_iter();
    own.chain(sizes.iter().copied().filter(move |size| *size < most))
        .map(move |size| size.saturating_sub(ip + UDP_AND_MARKER))
}

impl IkeSa {
    /// Octets of the largest message that is sent in one piece.
    pub(crate) fn message_size(&self, ctx: &Ctx<'_>) -> usize {
        if self.path.stream.is_some() {
            // TCP divides as it likes (RFC 9329 §6.6).
            return stream::MOST_IKE;
        }
        if !self.fragmentation {
            return MAX_MESSAGE;
        }
        let mut sizes = ladder(self.path, ctx.config.fragment_size);
        let largest = sizes.next().unwrap_or(MAX_MESSAGE);
        // The rung that was reached, or the last one.
        sizes.take(self.rung.into()).last().unwrap_or(largest)
    }

    /// Nobody answers: perhaps it is too large for the path (RFC 7383 §2.5.2). Whether it gets smaller.
    pub(crate) fn step_down(&mut self, ctx: &Ctx<'_>) -> bool {
        let before = self.message_size(ctx);
        self.rung = self.rung.saturating_add(1);
        let smaller = self.message_size(ctx) < before;
        if !smaller {
            self.rung -= 1;
        }
        smaller
    }

    /// What another IKE SA with the same peer has found out.
    pub(crate) fn fragment_as(&mut self, other: &Self) {
        (self.fragmentation, self.rung) = (other.fragmentation, other.rung);
    }

    /// Takes a verified fragment in; the whole message once it is there.
    pub(crate) fn collect(
        &mut self,
        ctx: &mut Ctx<'_>,
        path: Path,
        message: (bool, u32),
        fragment: Fragment,
    ) -> Option<Opened> {
        let address = path.remote.ip();
        let held = &mut ctx.out.held;
        let reassembly = &mut *self.reassembly;
        let whole = reassembly.take(held, ctx.now, address, message, fragment);
        if self.reassembly.started.is_none() {
            self.reassembly.clear();
        }
        whole
    }

    /// Forgets what was collected of a message.
    pub(crate) fn forget_fragments(&mut self, held: &mut Held) {
        if let Some(reassembly) = self.reassembly.as_deref_mut() {
            reassembly.forget(held);
        }
        self.reassembly.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn fragment(number: u16, total: u16, octets: usize) -> Fragment {
        Fragment {
            number,
            total,
            first: 35,
            flags: 0,
            body: vec![number as u8; octets],
        }
    }

    /// I03, S87.
    #[test]
    fn fragments_come_together_in_any_order_and_only_once() {
        let (mut held, now) = (Held::new(), Instant::now());
        let mut place = Reassembly::default();
        let mut take = |number, octets| {
            let fragment = fragment(number, 3, octets);
            place.take(&mut held, now, PEER, (true, 7), fragment)
        };
        assert!(take(3, 2).is_none() && take(1, 2).is_none());
        // Again, with other octets: the first one counts.
        assert!(take(1, 5).is_none());
        let whole = take(2, 2).unwrap();
        assert_eq!((whole.first, whole.body), (35, vec![1, 1, 2, 2, 3, 3]));
        assert!(held.is_empty());
    }

    /// I03: totals that change, and absurd ones.
    #[test]
    fn a_larger_total_starts_anew_and_a_smaller_one_is_passed_over() {
        let (mut held, now) = (Held::new(), Instant::now());
        let mut place = Reassembly::default();
        let mut take = |number, total| {
            let fragment = fragment(number, total, 1);
            place.take(&mut held, now, PEER, (true, 7), fragment)
        };
        assert!(take(1, 2).is_none());
        assert!(take(2, 3).is_none());
        // Of the coarser division: too late.
        assert!(take(2, 2).is_none());
        assert!(take(1, 65_535).is_none() && take(1, MOST_FRAGMENTS + 1).is_none());
        assert!(take(1, 3).is_none());
        assert_eq!(take(3, 3).unwrap().body, [1, 2, 3]);
        for number in 1..MOST_FRAGMENTS {
            assert!(take(number, MOST_FRAGMENTS).is_none());
        }
        assert_eq!(take(MOST_FRAGMENTS, MOST_FRAGMENTS).unwrap().body.len(), 64);
    }

    /// I03: at most 64 KiB of one message, and 1 MiB of one peer.
    #[test]
    fn what_waits_is_bounded_and_counted_back() {
        let (mut held, now) = (Held::new(), Instant::now());
        let mut places: Vec<Reassembly> = (0..10_000).map(|_| Reassembly::default()).collect();
        for (id, place) in (0..).zip(&mut places) {
            for number in 1..4 {
                let fragment = fragment(number, 5, 16_000);
                assert!(
                    place
                        .take(&mut held, now, PEER, (true, id), fragment)
                        .is_none()
                );
            }
        }
        assert!(held.values().sum::<usize>() <= MOST_OF_PEER);
        assert!(places.iter().map(Reassembly::cost).sum::<usize>() <= MOST_OF_PEER);
        // Another peer is not refused for that.
        let other = IpAddr::from([192, 0, 2, 2]);
        let mut place = Reassembly::default();
        let mut take = |number| {
            let fragment = fragment(number, 2, 9);
            place.take(&mut held, now, other, (true, 1), fragment)
        };
        assert!(take(1).is_none() && take(2).is_some());
        for place in &mut places {
            place.forget(&mut held);
        }
        assert!(held.is_empty());
        let mut place = Reassembly::default();
        for number in 1..=64 {
            let fragment = fragment(number, 64, 1025);
            assert!(
                place
                    .take(&mut held, now, PEER, (true, 1), fragment)
                    .is_none()
            );
        }
    }

    /// S85: the sizes that are tried for either family.
    #[test]
    fn sizes_go_down_to_what_everybody_takes() {
        let path =
            |address: &str| Path::new("192.0.2.1:500".parse().unwrap(), address.parse().unwrap());
        let v4: Vec<usize> = ladder(path("192.0.2.2:500"), Some(1400)).collect();
        assert_eq!(v4, [1400 - 32, 1280 - 32, 576 - 32]);
        let v6: Vec<usize> = ladder(path("[2001:db8::1]:500"), None).collect();
        assert_eq!(v6, [1280 - 52]);
    }
}
