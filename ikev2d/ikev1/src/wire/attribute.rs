// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Data attributes in both forms (RFC 2408 §3.3).

use super::{Reader, WireError};

/// Attributes of one transform or payload, at most.
const MOST: usize = 64;
/// The value is in the attribute's own four octets.
const SHORT: u16 = 0x8000;

/// An attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'octets> {
    /// Its type.
    pub kind: u16,
    /// Its value: two octets in the short form.
    pub value: &'octets [u8],
}

impl Attribute<'_> {
    /// Its value as a number, in whichever form it came; nothing if it is longer than eight octets.
    pub fn number(&self) -> Option<u64> {
        if self.value.is_empty() || self.value.len() > 8 {
            return None;
        }
        let octets = self.value.iter();
        Some(octets.fold(0, |number, octet| number << 8 | u64::from(*octet)))
    }
}

/// Splits attributes.
///
/// # Errors
/// Lengths that don't fit, or too many.
pub fn parse(octets: &[u8]) -> Result<Vec<Attribute<'_>>, WireError> {
    let mut reader = Reader::new(octets);
    let mut all = Vec::new();
    while !reader.is_empty() {
        if all.len() == MOST {
            return Err(WireError::TooMany);
        }
        let kind = reader.u16()?;
        let len = if kind & SHORT != 0 {
            2
        } else {
            usize::from(reader.u16()?)
        };
        let value = reader.take(len)?;
        all.push(Attribute {
            kind: kind & !SHORT,
            value,
        });
    }
    Ok(all)
}

/// Adds a number, in the short form where it fits.
pub fn push(out: &mut Vec<u8>, kind: u16, number: u32) {
    match u16::try_from(number) {
        Ok(number) => {
            out.extend((kind | SHORT).to_be_bytes());
            out.extend(number.to_be_bytes());
        }
        Err(_) => push_octets(out, kind, &number.to_be_bytes()),
    }
}

/// Adds octets, in the long form.
pub fn push_octets(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let mut out = Vec::new();
        push(&mut out, 12, 28800);
        push(&mut out, 12, 86400);
        push_octets(&mut out, 1, b"user");
        let all = parse(&out).unwrap();
        assert_eq!(all[0].number(), Some(28800));
        assert_eq!(all[1].number(), Some(86400));
        assert_eq!((all[2].kind, all[2].value), (1, &b"user"[..]));
        for len in 1..out.len() {
            // Only where an attribute ends may the octets end.
            assert_eq!(parse(&out[..len]).is_ok(), [4, 12].contains(&len), "{len}");
        }
    }
}
