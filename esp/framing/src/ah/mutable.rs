// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Headers in front of AH as both ends see them: what changes on the way is zero, or has the value
//! that it will have (RFC 4302 §3.3.3.1, appendix A).

use zerocopy::FromBytes;

use offload_api::queue::Status;
use offload_api::wire::ip::{Ipv4Header, Ipv6Header};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// The bit of an IPv6 option's type that says its data may change on the way (RFC 8200 §4.2).
const MAY_CHANGE: u8 = 0x20;

/// Which end looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The packet is still to go its way: source routes are foreseen.
    Sender,
    /// It has arrived.
    Receiver,
}

/// Copies `headers`, everything in front of AH, to `out` in the form that the ICV covers.
///
/// # Errors
/// [`Status::BadIpHeader`]: options or extension headers that are malformed, or whose form at the
/// receiver can't be foreseen. [`Status::Fragment`]: AH is for whole datagrams (§3.3.4).
pub fn immutable(headers: &[u8], side: Side, out: &mut Vec<u8>) -> Result<(), Status> {
    out.clear();
    out.extend_from_slice(headers);
    match headers.first().map(|octet| octet >> 4) {
        Some(4) => immutable_v4(out, side),
        Some(6) => immutable_v6(out, side),
        _ => Err(Status::BadIpHeader),
    }
}

fn immutable_v4(headers: &mut [u8], side: Side) -> Result<(), Status> {
    let (header, mut rest) =
        Ipv4Header::mut_from_prefix(headers).map_err(|_| Status::BadIpHeader)?;
    // A1: DSCP and ECN, flags and fragment offset, time to live, checksum.
    header.traffic_class = 0;
    header.fragment = 0.into();
    header.ttl = 0;
    header.checksum = 0.into();
    while let Some(&kind) = rest.first() {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(*rest.get(1).ok_or(Status::BadIpHeader)?),
        };
        if len < 2 && kind != 1 {
            return Err(Status::BadIpHeader);
        }
        let (option, behind) = rest.split_at_mut_checked(len).ok_or(Status::BadIpHeader)?;
        match kind {
            // No operation, security (three kinds), router alert, multi-destination.
            1 | 130 | 133 | 134 | 148 | 149 => {}
            _ => {
                if side == Side::Sender
                    && let Some(last) = end_of_source_route(option)
                {
                    header.destination = last;
                }
                option.fill(0);
            }
        }
        rest = behind;
    }
    Ok(())
}

/// Where a source route that is not used up ends (RFC 791 §3.1).
fn end_of_source_route(option: &[u8]) -> Option<[u8; 4]> {
    let [131 | 137, len, pointer, route @ ..] = option else {
        return None;
    };
    let last = route.last_chunk()?;
    (pointer <= len).then_some(*last)
}

fn immutable_v6(headers: &mut [u8], side: Side) -> Result<(), Status> {
    let (header, mut rest) =
        Ipv6Header::mut_from_prefix(headers).map_err(|_| Status::BadIpHeader)?;
    // A2.1: class, flow label, hop limit.
    header.version_class_flow = (6 << 28).into();
    header.hop_limit = 0;
    let mut next = header.next_header;
    while !rest.is_empty() {
        let (len, kind) = match (next, &*rest) {
            (FRAGMENT, _) => return Err(Status::Fragment),
            (HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS, [next_header, words, ..]) => {
                let len = (usize::from(*words) + 1) * 8;
                (len, std::mem::replace(&mut next, *next_header))
            }
            _ => return Err(Status::BadIpHeader),
        };
        let (extension, behind) = rest.split_at_mut_checked(len).ok_or(Status::BadIpHeader)?;
        match kind {
            ROUTING => foresee_route(extension, &mut header.destination, side)?,
            _ => clear_options(extension)?,
        }
        rest = behind;
    }
    Ok(())
}

/// A2.2: the data of options that may change is zero; their types and lengths stay.
fn clear_options(extension: &mut [u8]) -> Result<(), Status> {
    let mut rest = extension.get_mut(2..).ok_or(Status::BadIpHeader)?;
    while let Some(&kind) = rest.first() {
        let len = match kind {
            // Pad1.
            0 => 1,
            _ => usize::from(*rest.get(1).ok_or(Status::BadIpHeader)?) + 2,
        };
        let (option, behind) = rest.split_at_mut_checked(len).ok_or(Status::BadIpHeader)?;
        if kind & MAY_CHANGE != 0 {
            option.get_mut(2..).unwrap_or_default().fill(0);
        }
        rest = behind;
    }
    Ok(())
}

/// A2.1, A2.2: destination and routing header as they are at the end of the route (RFC 2460 §4.4; type 2,
/// RFC 6275 §6.4, moves alike).
fn foresee_route(
    extension: &mut [u8],
    destination: &mut [u8; 16],
    side: Side,
) -> Result<(), Status> {
    let [_, words, kind, left, _, _, _, _, addresses @ ..] = extension else {
        return Err(Status::BadIpHeader);
    };
    let segments = usize::from(*left);
    if segments == 0 {
        return Ok(());
    }
    // At the receiver none may be left; where other types lead, nobody here knows.
    let count = usize::from(*words) / 2;
    let known = matches!(kind, 0 | 2) && words.is_multiple_of(2) && segments <= count;
    if side == Side::Receiver || !known {
        return Err(Status::BadIpHeader);
    }
    let addresses = addresses.chunks_exact_mut(destination.len());
    for address in addresses.skip(count - segments) {
        address.swap_with_slice(destination);
    }
    *left = 0;
    Ok(())
}

/// Where the octet lies that announces what is at `at`, behind the headers.
pub(super) fn protocol_field(packet: &[u8], at: usize) -> Result<usize, Status> {
    if packet.first().is_some_and(|octet| octet >> 4 == 4) {
        return Ok(9);
    }
    let (mut field, mut offset) = (6, Ipv6Header::LEN);
    while offset < at {
        let words = packet.get(offset + 1).ok_or(Status::BadIpHeader)?;
        field = offset;
        offset += (usize::from(*words) + 1) * 8;
    }
    if offset == at {
        Ok(field)
    } else {
        Err(Status::BadIpHeader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(headers: &[u8], side: Side) -> Result<Vec<u8>, Status> {
        let mut out = Vec::new();
        immutable(headers, side, &mut out).map(|()| out)
    }

    fn v4(options: &[u8], destination: [u8; 4]) -> Vec<u8> {
        let words = 5 + options.len() / 4;
        let mut header = vec![0x40 | words as u8, 0x2a, 0, 99, 0, 7, 0x40, 0, 61, 51, 1, 2];
        header.extend([10, 0, 0, 1]);
        header.extend(destination);
        header.extend(options);
        header
    }

    fn v6(destination: u8, next: u8, extensions: &[u8]) -> Vec<u8> {
        let mut header = vec![0x6a, 0xbc, 0xde, 0xf1, 0, 80, next, 61];
        header.extend([1; 16]);
        header.extend([destination; 16]);
        header.extend(extensions);
        header
    }

    /// A routing header whose addresses hold these octets.
    fn route(kind: u8, left: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = vec![51, 2 * addresses.len() as u8, kind, left, 0, 0, 0, 0];
        for address in addresses {
            header.extend([*address; 16]);
        }
        header
    }

    #[test]
    fn a_source_route_is_foreseen_by_the_sender() {
        // Loose source routing: pointer 4, and two hops; end of list.
        let route = |pointer, first: [u8; 4], second: [u8; 4]| {
            let mut option = vec![131, 11, pointer];
            option.extend(first);
            option.extend(second);
            option.push(0);
            option
        };
        let sent = v4(&route(4, [10, 0, 0, 8], [10, 0, 0, 9]), [10, 0, 0, 7]);
        let arrived = v4(&route(12, [10, 0, 0, 70], [10, 0, 0, 80]), [10, 0, 0, 9]);
        let at_sender = covered(&sent, Side::Sender).unwrap();
        assert_eq!(at_sender, covered(&arrived, Side::Receiver).unwrap());
        assert_eq!(at_sender[16..20], [10, 0, 0, 9]);
        assert_eq!(at_sender[20..], [0; 12]);
        // One that is used up moves nothing any more.
        let last = covered(&arrived, Side::Sender).unwrap();
        assert_eq!(last, covered(&arrived, Side::Receiver).unwrap());
    }

    #[test]
    fn malformed_options_are_refused() {
        for options in [
            [7, 1, 0, 0],
            [7, 0, 0, 0],
            [1, 1, 1, 7],
            [7, 5, 0, 0],
            [131, 2, 131, 3],
        ] {
            let packet = v4(&options, [10, 0, 0, 2]);
            assert_eq!(covered(&packet, Side::Sender), Err(Status::BadIpHeader));
        }
        // Behind the end of the list nothing is an option.
        let packet = v4(&[1, 0, 7, 0], [10, 0, 0, 2]);
        let kept = covered(&packet, Side::Receiver).unwrap();
        assert_eq!(kept[20..], [1, 0, 7, 0]);
    }

    #[test]
    fn a_routing_header_is_foreseen_by_the_sender_from_anywhere_on_its_way() {
        let arrived = v6(4, ROUTING, &route(0, 0, &[1, 2, 3]));
        let expected = covered(&arrived, Side::Receiver).unwrap();
        for (destination, left, addresses) in [
            (1, 3, [2, 3, 4]),
            (2, 2, [1, 3, 4]),
            (3, 1, [1, 2, 4]),
            (4, 0, [1, 2, 3]),
        ] {
            let sent = v6(destination, ROUTING, &route(0, left, &addresses));
            assert_eq!(
                covered(&sent, Side::Sender).unwrap(),
                expected,
                "{left} left"
            );
        }
        let home = v6(9, ROUTING, &route(2, 1, &[5]));
        let at_home = covered(&v6(5, ROUTING, &route(2, 0, &[9])), Side::Receiver);
        assert_eq!(covered(&home, Side::Sender), at_home);
    }

    #[test]
    fn a_route_that_nobody_can_foresee_is_refused() {
        for (kind, left, count, side) in [
            (0, 4, 3, Side::Sender),
            (3, 1, 3, Side::Sender),
            (4, 1, 3, Side::Sender),
            (0, 1, 3, Side::Receiver),
        ] {
            let packet = v6(1, ROUTING, &route(kind, left, &[7; 8][..count]));
            assert_eq!(
                covered(&packet, side),
                Err(Status::BadIpHeader),
                "{kind} {left}"
            );
        }
        let fragment = v6(1, FRAGMENT, &[51, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(covered(&fragment, Side::Receiver), Err(Status::Fragment));
    }

    #[test]
    fn an_option_that_may_change_keeps_type_and_length() {
        let packet = v6(1, HOP_BY_HOP, &[51, 0, 0x3e, 1, 9, 0x1e, 1, 9]);
        let kept = covered(&packet, Side::Receiver).unwrap();
        assert_eq!(kept[40..], [51, 0, 0x3e, 1, 0, 0x1e, 1, 9]);
        assert_eq!(kept[..8], [0x60, 0, 0, 0, 0, 80, HOP_BY_HOP, 0]);
    }
}
