// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that are authentic, and yet not to be passed on: what a peer that is broken, or hostile, can seal.
//! `RTL_CARD=1` runs this on the RTL.
#![allow(clippy::unwrap_used)]

mod raw;

use fpga_regs::context::{FLAG_EXPLICIT as SA_EXPLICIT, FLAG_OUTBOUND};
use fpga_regs::descriptor::FLAG_EXPLICIT;
use offload_api::queue::Status;
use openssl::symm::{Cipher, encrypt_aead};

use raw::{BUFFERS, KEY, Raw, Rig, inner, sa, submission};

const IPV4: u8 = 4;
const UDP: u8 = 17;

/// An ESP packet of the SAs of `sa` (RFC 4303 §2, RFC 4106), sealed by somebody else.
fn sealed(number: u32, text: &[u8]) -> Vec<u8> {
    let mut packet = 0x1234_5678u32.to_be_bytes().to_vec();
    packet.extend(number.to_be_bytes());
    let iv = u64::from(number).to_be_bytes();
    let nonce = [&[0x0a; 4][..], &iv].concat();
    let mut tag = [0; 16];
    let cipher = Cipher::aes_256_gcm();
    let hidden = encrypt_aead(cipher, &KEY, Some(&nonce), &packet, text, &mut tag).unwrap();
    packet.extend(iv);
    packet.extend(hidden);
    packet.extend(tag);
    packet
}

/// A packet with its trailer: what padding is there, what is said of it, and what is inside.
fn with_trailer(packet: &[u8], padding: &[u8], pad_len: u8, next: u8) -> Vec<u8> {
    let mut text = packet.to_vec();
    text.extend(padding);
    text.extend([pad_len, next]);
    assert!(text.len().is_multiple_of(4), "RFC 4303, 2.4");
    text
}

#[test]
fn what_is_authentic_but_makes_no_sense_is_refused_however_often_it_comes() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let open = raw.add(&sa(0, 0));
    let whole = inner(40);
    let mut longer = inner(40);
    longer[3] += 1;
    let mut no_ip = inner(40);
    no_ip[0] = 0x35;
    let long: Vec<u8> = (1..=254).collect();
    let mut wrong_at_the_end = long.clone();
    *wrong_at_the_end.last_mut().unwrap() ^= 1;
    let mut wrong_at_the_start = long.clone();
    wrong_at_the_start[0] ^= 1;
    let cases = [
        (with_trailer(&whole, &[1, 2], 2, IPV4), Status::Ok),
        (with_trailer(&whole, &long, 254, IPV4), Status::Ok),
        (with_trailer(&whole, &[1, 3], 2, IPV4), Status::BadPad),
        (with_trailer(&whole, &[0, 0], 2, IPV4), Status::BadPad),
        (with_trailer(&whole, &[1, 2], 1, IPV4), Status::BadPad),
        (
            with_trailer(&whole, &wrong_at_the_end, 254, IPV4),
            Status::BadPad,
        ),
        (
            with_trailer(&whole, &wrong_at_the_start, 254, IPV4),
            Status::BadPad,
        ),
        // More padding than packet.
        (with_trailer(&whole, &[1, 2], 255, IPV4), Status::BadPad),
        (with_trailer(&[], &[1, 2], 3, IPV4), Status::BadPad),
        (with_trailer(&whole, &[1, 2], 2, UDP), Status::BadNextHeader),
        (with_trailer(&longer, &[1, 2], 2, IPV4), Status::BadIpHeader),
        (with_trailer(&no_ip, &[1, 2], 2, IPV4), Status::BadIpHeader),
        (
            with_trailer(&whole[..16], &[1, 2], 2, IPV4),
            Status::BadIpHeader,
        ),
    ];
    for (number, (text, status)) in (1..).zip(&cases) {
        let packet = sealed(number, text);
        raw.poke(BUFFERS + 64, &packet);
        let done = raw.run(&submission(open, BUFFERS, 64, packet.len()));
        assert_eq!(done.status, *status as u8, "case {number}");
        if *status == Status::Ok {
            let at = BUFFERS + u64::from(done.offset.get());
            assert_eq!(raw.octets(at, done.len.get() as usize), whole);
        } else {
            // Nothing of it was written.
            assert_eq!(raw.octets(BUFFERS + 64, packet.len()), packet);
        }
        raw.poke(BUFFERS + 64, &packet);
        let again = raw.run(&submission(open, BUFFERS, 64, packet.len()));
        let refused = match status {
            Status::Ok => Status::Replayed,
            refused => *refused,
        };
        assert_eq!(again.status, refused as u8, "case {number}");
    }
    rig.end();
}

#[test]
fn explicit_numbers_outside_the_space_are_refused() {
    let rig = Rig::new();
    let mut raw = Raw::enabled(&rig).with_queue();
    let seal = raw.add(&sa(FLAG_OUTBOUND | SA_EXPLICIT, 0));
    let packet = inner(40);
    for (number, status) in [
        (0, Status::SequenceExhausted),
        (1, Status::Ok),
        (u64::from(u32::MAX), Status::Ok),
        (u64::from(u32::MAX) + 1, Status::SequenceExhausted),
        (u64::MAX, Status::SequenceExhausted),
    ] {
        raw.poke(BUFFERS + 128, &packet);
        let mut explicit = submission(seal, BUFFERS, 128, packet.len());
        explicit.flags = FLAG_EXPLICIT;
        explicit.sequence = number.into();
        let done = raw.run(&explicit);
        assert_eq!(done.status, status as u8, "{number:#x}");
    }
    rig.end();
}
