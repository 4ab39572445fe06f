// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Padding, pad length and next header (RFC 4303 §2.4 to §2.6).

use offload_api::queue::Status;

use crate::packet::PacketBuffer;

/// Pad length and next header.
pub(crate) const TRAILER: usize = 2;

/// The first six octets of padding.
const PADDING: u64 = 0x06_05_04_03_02_01;

/// Padding 1, 2, 3, …, pad length and next header (RFC 4303 §2.4 to §2.6); behind them is room for the
/// ICV.
#[inline]
pub(crate) fn write_trailer(tail: &mut [u8], pad_len: usize, next_header: u8) {
    // Alignment is 16 at most, so it fits its octet.
    let trailer = u64::from(next_header) << 8 | pad_len as u64;
    if pad_len <= 6
        && let Some(tail) = tail.first_chunk_mut::<8>()
    {
        // In one store; what is too much lies where the ICV goes.
        let padding = PADDING & ((1 << (8 * pad_len)) - 1);
        *tail = (trailer << (8 * pad_len) | padding).to_le_bytes();
        return;
    }
    let Some((padding, tail)) = tail.split_at_mut_checked(pad_len) else {
        return;
    };
    for (octet, value) in padding.iter_mut().zip(1u8..) {
        *octet = value;
    }
    if let [pad_field, next_field, ..] = tail {
        *pad_field = pad_len as u8;
        *next_field = next_header;
    }
}

/// Padding and trailer at their longest.
const TAIL_MOST: usize = u8::MAX as usize + TRAILER;

/// The octets of padding and trailer at the end of a payload, and the next header.
#[inline]
pub(crate) fn strip_padding(plain: &[u8]) -> Result<(usize, u8), Status> {
    if let Some(last) = plain.last_chunk::<8>()
        && last[6] <= 6
    {
        // In one load; shifted so that the padding comes last.
        let pad_len = u32::from(last[6]);
        let padding = u64::from_le_bytes(*last) >> (48 - 8 * pad_len);
        let fits = (padding ^ PADDING) & ((1 << (8 * pad_len)) - 1) == 0;
        let stripped = (pad_len as usize + TRAILER, last[7]);
        return fits.then_some(stripped).ok_or(Status::BadPad);
    }
    let [rest @ .., pad_len, next_header] = plain else {
        return Err(Status::BadLength);
    };
    let payload_len = rest.len().checked_sub(usize::from(*pad_len));
    let padding = payload_len.and_then(|at| rest.get(at..));
    // RFC 4303 §2.4: the default content is inspected.
    let mut pairs = padding.ok_or(Status::BadPad)?.iter().zip(1u8..);
    if pairs.any(|(octet, expected)| *octet != expected) {
        return Err(Status::BadPad);
    }
    Ok((usize::from(*pad_len) + TRAILER, *next_header))
}

/// As [`strip_padding`], of a packet in several pieces whose payload is `plain_len` octets at `from`.
#[cold]
pub(crate) fn strip_pieces(
    packet: &mut impl PacketBuffer,
    from: usize,
    plain_len: usize,
) -> Result<(usize, u8), Status> {
    let mut room = [0; TAIL_MOST];
    let room = room.get_mut(..plain_len.min(TAIL_MOST));
    let room = room.ok_or(Status::BadLength)?;
    let tail = packet.part(from + plain_len - room.len(), room);
    strip_padding(tail.ok_or(Status::BadLength)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_is_what_rfc_4303_has_and_is_taken_off_again() {
        for pad_len in 0..16 {
            let mut tail = [0xff; 40];
            write_trailer(&mut tail, pad_len, 4);
            let mut expected: Vec<u8> = (1..=pad_len as u8).collect();
            expected.extend([pad_len as u8, 4]);
            assert_eq!(&tail[..expected.len()], &expected[..]);
            assert_eq!(strip_padding(&expected), Ok((pad_len + TRAILER, 4)));
            if let Some(last) = pad_len.checked_sub(1) {
                expected[last] ^= 1;
                assert_eq!(strip_padding(&expected), Err(Status::BadPad));
            }
        }
        assert_eq!(strip_padding(&[3, 4]), Err(Status::BadPad));
        assert_eq!(strip_padding(&[4]), Err(Status::BadLength));
    }
}
