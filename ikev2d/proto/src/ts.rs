// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Traffic selectors and narrowing (RFC 7296 §2.9, §3.13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{Reader, WireError};

/// Selectors of one payload, at most.
pub(crate) const MOST: usize = 255;

const V4: u8 = 7;
const V6: u8 = 8;

/// Every port, and none that can be seen.
const ANY_PORT: (u16, u16) = (0, u16::MAX);

/// No port that can be seen, as in a fragment (RFC 4301 §4.4.1.1).
const OPAQUE: (u16, u16) = (u16::MAX, 0);

/// A range of addresses and ports, and a protocol (0: any).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// First port; for packets that show none alone (OPAQUE), 65535.
    pub start_port: u16,
    /// Last port; of OPAQUE, 0.
    pub end_port: u16,
}

/// What a packet that asks for a child SA names: its own traffic and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Its source.
    pub local: TrafficSelector,
    /// Its destination.
    pub remote: TrafficSelector,
}

impl Trigger {
    /// Whether a child SA of these selectors, our side's and the peer's, carries the packet.
    pub fn is_within(&self, local: &[TrafficSelector], remote: &[TrafficSelector]) -> bool {
        covers(local, &[self.local]) && covers(remote, &[self.remote])
    }

    /// Of a packet's addresses, its protocol, and its ports where they can be seen.
    pub fn new(
        (source, destination): (IpAddr, IpAddr),
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Self {
        let (from, to) = ports.unzip();
        let end = |address, port: Option<u16>| {
            let (start_port, end_port) = port.map_or(ANY_PORT, |port| (port, port));
            TrafficSelector {
                protocol,
                start_port,
                end_port,
                ..TrafficSelector::host(address)
            }
        };
        Self {
            local: end(source, from),
            remote: end(destination, to),
        }
    }
}

impl TrafficSelector {
    /// Everything to and from one prefix.
    pub fn prefix(address: IpAddr, bits: u8) -> Self {
        let (start, end) = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(bits.min(32)))
                    .unwrap_or(0);
                let base = u32::from(v4) & mask;
                (
                    Ipv4Addr::from(base).into(),
                    Ipv4Addr::from(base | !mask).into(),
                )
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(bits.min(128)))
                    .unwrap_or(0);
                let base = u128::from(v6) & mask;
                (
                    Ipv6Addr::from(base).into(),
                    Ipv6Addr::from(base | !mask).into(),
                )
            }
        };
        Self {
            start,
            end,
            protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
        }
    }

    /// One address, every protocol.
    pub fn host(address: IpAddr) -> Self {
        Self::prefix(address, 128)
    }

    fn ports(&self) -> (u16, u16) {
        (self.start_port, self.end_port)
    }

    /// Whether it is for packets alone that show no port (§3.13.1).
    pub fn is_opaque(&self) -> bool {
        self.ports() == OPAQUE
    }

    /// What both allow.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (a, b) if a == b => a,
            (0, other) | (other, 0) => other,
            _ => return None,
        };
        let (start_port, end_port) = match (self.ports(), other.ports()) {
            (ours, theirs) if ours == theirs => ours,
            // ANY includes OPAQUE (RFC 4301 §4.4.1.1), and no other range does.
            (ANY_PORT, ports) | (ports, ANY_PORT) => ports,
            (OPAQUE, _) | (_, OPAQUE) => return None,
            (ours, theirs) => (ours.0.max(theirs.0), ours.1.min(theirs.1)),
        };
        let both = Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
            protocol,
            start_port,
            end_port,
        };
        let ports = start_port <= end_port || both.is_opaque();
        (both.start <= both.end && ports).then_some(both)
    }

    /// Whether it allows all that the other one does.
    fn contains(&self, part: &Self) -> bool {
        self.intersect(part) == Some(*part)
    }

    /// What this allows and the other one doesn't.
    fn without(&self, part: &Self) -> Vec<Self> {
        let Some(both) = self.intersect(part) else {
            return vec![*self];
        };
        let mut rest = Vec::new();
        if self.start < both.start {
            let end = beside(both.start, false);
            rest.extend(end.map(|end| Self { end, ..*self }));
        }
        if both.end < self.end {
            let start = beside(both.end, true);
            rest.extend(start.map(|start| Self { start, ..*self }));
        }
        let (start, end) = (both.start, both.end);
        let within = Self {
            start,
            end,
            ..*self
        };
        if self.protocol != both.protocol {
            return rest;
        }
        if both.is_opaque() {
            // All that can be seen are two ranges: one would be all, whether they can be seen or not. Any
            // protocol's can't be said (§3.13.1).
            if !self.is_opaque() && self.protocol != 0 {
                rest.extend([(0, u16::MAX - 1), (u16::MAX, u16::MAX)].map(
                    |(start_port, end_port)| Self {
                        start_port,
                        end_port,
                        ..within
                    },
                ));
            }
        } else {
            if self.start_port < both.start_port {
                let end_port = both.start_port - 1;
                rest.push(Self { end_port, ..within });
            }
            if both.end_port < self.end_port {
                let start_port = both.end_port + 1;
                rest.push(Self {
                    start_port,
                    ..within
                });
            }
        }
        rest
    }
}

/// What of a whole no part covers, as far as selectors can say it: of all protocols, all but one can't be.
pub(crate) fn without(
    whole: &[TrafficSelector],
    parts: &[TrafficSelector],
) -> Vec<TrafficSelector> {
    let mut rest = whole.to_vec();
    for part in parts {
        rest = rest.iter().flat_map(|ts| ts.without(part)).collect();
        rest.truncate(MOST);
    }
    rest
}

/// The address before another one, or after it.
fn beside(address: IpAddr, after: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let number = u32::from(v4);
            let other = if after {
                number.checked_add(1)
            } else {
                number.checked_sub(1)
            };
            other.map(|number| Ipv4Addr::from(number).into())
        }
        IpAddr::V6(v6) => {
            let number = u128::from(v6);
            let other = if after {
                number.checked_add(1)
            } else {
                number.checked_sub(1)
            };
            other.map(|number| Ipv6Addr::from(number).into())
        }
    }
}

/// What of an offer the policy allows (§2.9), in the offer's order, and none within another.
pub fn narrow(policy: &[TrafficSelector], offer: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut narrowed = Vec::new();
    for theirs in offer {
        for ours in policy {
            if let Some(both) = ours.intersect(theirs) {
                join(&mut narrowed, both);
            }
        }
    }
    // Kept as long as the child is.
    narrowed.shrink_to_fit();
    narrowed
}

/// Adds a selector, in the place of the first of those that lie within it.
fn join(selectors: &mut Vec<TrafficSelector>, new: TrafficSelector) {
    if selectors.iter().any(|present| present.contains(&new)) {
        return;
    }
    let Some(first) = selectors.iter().position(|present| new.contains(present)) else {
        return selectors.push(new);
    };
    let mut at = 0..;
    selectors.retain(|present| at.next() == Some(first) || !new.contains(present));
    if let Some(place) = selectors.get_mut(first) {
        *place = new;
    }
}

/// Selectors without those that lie within others of them.
pub(crate) fn merged(selectors: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut merged = Vec::with_capacity(selectors.len());
    for selector in selectors {
        join(&mut merged, *selector);
    }
    // Kept as long as the child is.
    merged.shrink_to_fit();
    merged
}

/// Whether each selector of a part lies within one of the whole.
pub(crate) fn covers(whole: &[TrafficSelector], part: &[TrafficSelector]) -> bool {
    let within = |ts: &TrafficSelector| whole.iter().any(|whole| whole.contains(ts));
    part.iter().all(within)
}

/// Whether a policy allows all of an offer's first selector (§2.9).
pub(crate) fn allows_first(policy: &[TrafficSelector], offer: &[TrafficSelector]) -> bool {
    offer.first().is_some_and(|first| {
        let fits = |ours: &&TrafficSelector| {
            [0, first.protocol].contains(&ours.protocol) && (first.is_opaque() || !ours.is_opaque())
        };
        let fitting: Vec<_> = policy.iter().filter(fits).copied().collect();
        without(std::slice::from_ref(first), &fitting).is_empty()
    })
}

/// Emits a TS payload's body.
pub(crate) fn emit(selectors: &[TrafficSelector]) -> Vec<u8> {
    let selectors = selectors.get(..MOST).unwrap_or(selectors);
    let mut out = vec![selectors.len() as u8, 0, 0, 0];
    for ts in selectors {
        let (kind, len): (u8, u16) = if ts.start.is_ipv4() {
            (V4, 16)
        } else {
            (V6, 40)
        };
        out.extend([kind, ts.protocol]);
        out.extend(len.to_be_bytes());
        out.extend(ts.start_port.to_be_bytes());
        out.extend(ts.end_port.to_be_bytes());
        for address in [ts.start, ts.end] {
            match address {
                IpAddr::V4(v4) => out.extend(v4.octets()),
                IpAddr::V6(v6) => out.extend(v6.octets()),
            }
        }
    }
    out
}

/// Parses a TS payload's body; selectors of unknown types are left out.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<TrafficSelector>, WireError> {
    let mut reader = Reader::new(body);
    let count = reader.u8()?;
    reader.take(3)?;
    let mut selectors = Vec::new();
    for _ in 0..count {
        let (kind, protocol) = (reader.u8()?, reader.u8()?);
        let len = usize::from(reader.u16()?)
            .checked_sub(4)
            .ok_or(WireError::Length)?;
        let mut inner = Reader::new(reader.take(len)?);
        let (start_port, end_port) = (inner.u16()?, inner.u16()?);
        let addresses = match (kind, inner.rest()) {
            (V4, &[a, b, c, d, e, f, g, h]) => {
                (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]))
            }
            (V6, octets) if octets.len() == 32 => {
                let (start, end) = octets.split_first_chunk::<16>().ok_or(WireError::Length)?;
                let end: [u8; 16] = end.try_into().map_err(|_| WireError::Length)?;
                (IpAddr::from(*start), IpAddr::from(end))
            }
            (V4 | V6, _) => return Err(WireError::Length),
            _ => continue,
        };
        let (start, end) = addresses;
        let selector = TrafficSelector {
            start,
            end,
            protocol,
            start_port,
            end_port,
        };
        if start > end || start_port > end_port && !selector.is_opaque() {
            return Err(WireError::Malformed {
                what: "traffic selector",
            });
        }
        selectors.push(selector);
    }
    if reader.is_empty() {
        Ok(selectors)
    } else {
        Err(WireError::Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> TrafficSelector {
        let (address, bits) = text.split_once('/').unwrap();
        TrafficSelector::prefix(address.parse().unwrap(), bits.parse().unwrap())
    }

    #[test]
    fn selectors_survive_the_wire_and_are_narrowed() {
        let all = [
            net("10.0.0.0/8"),
            net("fd00::/8"),
            TrafficSelector {
                protocol: 17,
                start_port: 53,
                end_port: 53,
                ..net("192.0.2.0/24")
            },
        ];
        assert_eq!(parse(&emit(&all)).unwrap(), all);
        assert_eq!(narrow(&[net("10.1.0.0/16")], &all), [net("10.1.0.0/16")]);
        assert_eq!(
            narrow(&[net("0.0.0.0/0")], &[net("10.1.0.0/16")]),
            [net("10.1.0.0/16")]
        );
        assert!(narrow(&[net("10.1.0.0/16")], &[net("10.2.0.0/16")]).is_empty());
    }

    /// RFC 7296 §2.9: the offer's first choices stay first, in whatever they come to lie.
    #[test]
    fn what_is_narrowed_keeps_the_offer_s_order() {
        let offer = [
            net("10.2.1.5/32"),
            net("10.3.0.0/24"),
            net("10.2.1.6/32"),
            net("10.2.1.0/24"),
            net("10.3.0.0/16"),
        ];
        let policy = [net("10.3.0.0/16"), net("10.2.0.0/16"), net("10.2.1.0/24")];
        let expected = [net("10.2.1.0/24"), net("10.3.0.0/16")];
        assert_eq!(narrow(&policy, &offer), expected);

        let udp = TrafficSelector {
            protocol: 17,
            ..net("10.2.0.0/16")
        };
        let halves = [net("10.2.0.0/17"), net("10.2.128.0/17")];
        let allowed = |policy: &[_], offer: &[_]| allows_first(policy, offer);
        assert!(allowed(&[net("10.2.0.0/16")], &offer));
        assert!(allowed(&halves, &[net("10.2.0.0/16")]));
        assert!(allowed(&halves, &[udp]));
        assert!(!allowed(&halves, &[net("10.0.0.0/8")]));
        assert!(!allowed(&[udp], &offer));
        assert!(!allowed(&[net("10.3.0.0/16")], &offer));
        assert!(!allowed(&halves, &[]));
    }

    #[test]
    fn what_no_part_covers_is_left() {
        let range = |start: &str, end: &str| {
            let (start, end) = (start.parse().unwrap(), end.parse().unwrap());
            TrafficSelector {
                start,
                end,
                ..net("0.0.0.0/0")
            }
        };
        let whole = [net("10.2.0.0/16")];
        assert_eq!(without(&whole, &whole), []);
        assert_eq!(without(&whole, &[net("0.0.0.0/0")]), []);
        assert_eq!(
            without(&whole, &[net("10.3.0.0/16"), net("fd00::/8")]),
            whole
        );
        assert_eq!(
            without(&whole, &[net("10.2.0.0/24")]),
            [range("10.2.1.0", "10.2.255.255")]
        );
        assert_eq!(
            without(&whole, &[net("10.2.8.0/24"), net("10.2.2.0/24")]),
            [
                range("10.2.0.0", "10.2.1.255"),
                range("10.2.3.0", "10.2.7.255"),
                range("10.2.9.0", "10.2.255.255"),
            ]
        );
        // Neither end of all addresses has one beyond.
        let ends = [net("0.0.0.0/1"), net("255.255.255.255/32")];
        let rest = without(&[net("0.0.0.0/0")], &ends);
        assert_eq!(rest, [range("128.0.0.0", "255.255.255.254")]);
        let v6 = without(&[net("::/0")], &[net("::/1")]);
        assert_eq!(v6, [net("8000::/1")]);
        // A protocol's ports are left, the other protocols of all are not.
        let udp = TrafficSelector {
            protocol: 17,
            ..net("192.0.2.1/32")
        };
        let ports = |start_port, end_port| TrafficSelector {
            start_port,
            end_port,
            ..udp
        };
        let left = without(&[udp], &[ports(53, 53), ports(65535, 65535)]);
        assert_eq!(left, [ports(0, 52), ports(54, 65534)]);
        assert_eq!(without(&[net("192.0.2.1/32")], &[udp]), []);
    }

    /// RFC 7296 §3.13.1, RFC 4301 §4.4.1.1.
    #[test]
    fn opaque_ports_are_a_selector_of_their_own() {
        let ports = |start_port, end_port| TrafficSelector {
            protocol: 17,
            start_port,
            end_port,
            ..net("192.0.2.0/24")
        };
        let (any, opaque, dns) = (ports(0, 65535), ports(65535, 0), ports(53, 53));
        assert_eq!(parse(&emit(&[opaque, dns])).unwrap(), [opaque, dns]);
        assert_eq!(narrow(&[any], &[opaque]), [opaque]);
        assert_eq!(narrow(&[opaque], &[any, dns]), [opaque]);
        assert_eq!(narrow(&[any], &[opaque, dns]), [opaque, dns]);
        assert_eq!(narrow(&[dns, ports(0, 65534)], &[opaque]), []);
        assert_eq!(narrow(&[opaque], &[dns, ports(65535, 65535)]), []);
        assert!(covers(&[any], &[opaque]) && !covers(&[dns], &[opaque]));
        assert!(!covers(&[opaque], &[any]) && !covers(&[opaque], &[dns]));
        assert!(allows_first(&[opaque], &[opaque]) && !allows_first(&[opaque], &[any]));
        assert_eq!(without(&[dns, opaque], &[opaque]), [dns]);
        assert_eq!(without(&[dns], &[opaque]), [dns]);
        // What can be seen of any port is all but OPAQUE.
        let seen = [ports(0, 65534), ports(65535, 65535)];
        assert_eq!(without(&[any], &[opaque]), seen);
        assert_eq!(narrow(&seen, &[opaque]), []);
        assert_eq!(without(&[any], &[opaque, dns]).len(), 3);
        for (start, end) in [(65535, 1), (65534, 0), (2, 1)] {
            assert!(parse(&emit(&[ports(start, end)])).is_err());
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let body = emit(&[net("10.0.0.0/8"), net("fd00::/8")]);
        for len in 0..body.len() {
            assert!(parse(&body[..len]).is_err(), "{len}");
        }
    }
}
