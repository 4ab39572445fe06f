// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Proxy ids: traffic selectors as ID payloads of quick mode (RFC 2407 §4.6.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ikev2d_proto::ts::TrafficSelector;

use super::{Reader, WireError};

const IPV4_ADDR: u8 = 1;
const IPV4_SUBNET: u8 = 4;
const IPV6_ADDR: u8 = 5;
const IPV6_SUBNET: u8 = 6;
const IPV4_RANGE: u8 = 7;
const IPV6_RANGE: u8 = 8;

/// Emits a selector's ID payload. A range of ports can't be said: nothing, then.
pub fn emit(ts: &TrafficSelector) -> Option<Vec<u8>> {
    let port = match (ts.start_port, ts.end_port) {
        (0, u16::MAX) => 0,
        (start, end) if start == end => start,
        _ => return None,
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let v4 = ts.start.is_ipv4();
    let most = if v4 { 32 } else { 128 };
    let bits = (0..=most).find(|bits| {
        let whole = TrafficSelector::prefix(ts.start, *bits);
        (whole.start, whole.end) == (ts.start, ts.end)
    });
    let (kind, second) = match bits {
        Some(bits) if bits == most => (if v4 { IPV4_ADDR } else { IPV6_ADDR }, Vec::new()),
        Some(bits) => {
            let (kind, mask) = if v4 {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                (IPV4_SUBNET, mask.to_be_bytes().to_vec())
            } else {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                (IPV6_SUBNET, mask.to_be_bytes().to_vec())
            };
            (kind, mask)
        }
        None => (if v4 { IPV4_RANGE } else { IPV6_RANGE }, octets(ts.end)),
    };
    let mut out = vec![kind, ts.protocol];
    out.extend(port.to_be_bytes());
    out.extend(octets(ts.start));
    out.extend(second);
    Some(out)
}

/// Reads a selector out of an ID payload.
///
/// # Errors
/// [`WireError`]: another kind of identity, a mask with holes, or a range that ends before it starts.
pub fn parse(body: &[u8]) -> Result<TrafficSelector, WireError> {
    let what = "proxy id";
    let malformed = WireError::Malformed { what };
    let mut reader = Reader::new(body);
    let (kind, protocol, port) = (reader.u8()?, reader.u8()?, reader.u16()?);
    let data = reader.rest();
    let v4 = |octets: &[u8]| -> Result<Ipv4Addr, WireError> {
        let octets: [u8; 4] = octets.try_into().map_err(|_| malformed)?;
        Ok(octets.into())
    };
    let v6 = |octets: &[u8]| -> Result<Ipv6Addr, WireError> {
        let octets: [u8; 16] = octets.try_into().map_err(|_| malformed)?;
        Ok(octets.into())
    };
    let halves = |len: usize| data.split_at_checked(len).ok_or(malformed);
    let mut ts = match kind {
        IPV4_ADDR => TrafficSelector::host(v4(data)?.into()),
        IPV6_ADDR => TrafficSelector::host(v6(data)?.into()),
        IPV4_SUBNET => {
            let (address, mask) = halves(4)?;
            let mask = u32::from(v4(mask)?);
            let bits = mask.leading_ones();
            if mask.checked_shl(bits).unwrap_or(0) != 0 {
                return Err(malformed);
            }
            TrafficSelector::prefix(v4(address)?.into(), bits as u8)
        }
        IPV6_SUBNET => {
            let (address, mask) = halves(16)?;
            let mask = u128::from(v6(mask)?);
            let bits = mask.leading_ones();
            if mask.checked_shl(bits).unwrap_or(0) != 0 {
                return Err(malformed);
            }
            TrafficSelector::prefix(v6(address)?.into(), bits as u8)
        }
        IPV4_RANGE => {
            let (start, end) = halves(4)?;
            range(v4(start)?.into(), v4(end)?.into())
        }
        IPV6_RANGE => {
            let (start, end) = halves(16)?;
            range(v6(start)?.into(), v6(end)?.into())
        }
        _ => return Err(malformed),
    };
    if ts.start > ts.end {
        return Err(malformed);
    }
    ts.protocol = protocol;
    if port != 0 {
        (ts.start_port, ts.end_port) = (port, port);
    }
    Ok(ts)
}

fn range(start: IpAddr, end: IpAddr) -> TrafficSelector {
    let any = TrafficSelector::host(start);
    TrafficSelector { start, end, ..any }
}

/// A selector for people.
pub(crate) fn show(ts: &TrafficSelector) -> String {
    let net = match (0..=128u8).find(|bits| {
        let whole = TrafficSelector::prefix(ts.start, *bits);
        (whole.start, whole.end) == (ts.start, ts.end)
    }) {
        Some(bits) => format!(
            "{}/{}",
            ts.start,
            bits.min(if ts.start.is_ipv4() { 32 } else { 128 })
        ),
        None => format!("{}..{}", ts.start, ts.end),
    };
    match (ts.protocol, ts.start_port, ts.end_port) {
        (0, 0, u16::MAX) => net,
        (protocol, 0, u16::MAX) => format!("{net}[{protocol}]"),
        (protocol, port, _) => format!("{net}[{protocol}/{port}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_survive_the_wire() {
        for (text, bits) in [
            ("10.1.2.3", 32),
            ("10.1.0.0", 16),
            ("0.0.0.0", 0),
            ("fd00::", 8),
            ("fd00::1", 128),
            ("::", 0),
        ] {
            let ts = TrafficSelector::prefix(text.parse().unwrap(), bits);
            let body = emit(&ts).unwrap();
            assert_eq!(parse(&body), Ok(ts), "{text}");
            for len in 0..body.len() {
                assert!(parse(&body[..len]).is_err(), "{text}: {len}");
            }
        }
        let range = TrafficSelector {
            protocol: 17,
            start_port: 53,
            end_port: 53,
            end: "10.1.2.9".parse().unwrap(),
            ..TrafficSelector::host("10.1.2.3".parse().unwrap())
        };
        assert_eq!(parse(&emit(&range).unwrap()), Ok(range));
        let ports = TrafficSelector {
            start_port: 5,
            end_port: 6,
            ..range
        };
        assert_eq!(emit(&ports), None);
    }

    /// I05, I07: a mask with holes, a range that ends before it starts, lengths that don't fit, names.
    #[test]
    fn what_is_no_selector_is_refused() {
        for bad in [
            &[4, 0, 0, 0, 10, 0, 0, 0, 255, 0, 255, 0][..],
            &[7, 0, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1],
            &[1, 0, 0, 0, 10, 0, 0, 1, 1],
            &[2, 0, 0, 0, b'a'],
            &[0, 0, 0, 0],
            &[255, 0, 0, 0, 1, 1, 1, 1],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
