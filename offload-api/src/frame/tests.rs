// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames, their pool, and what becomes of them.

use super::*;

fn pool(slots: u32) -> FramePool {
    FramePool::new(FramePoolConfig {
        slots,
        ..FramePoolConfig::default()
    })
    .unwrap()
}

#[test]
fn a_frame_returns_to_its_pool_and_a_lost_one_is_quarantined() {
    let pool = pool(2);
    let first = pool.alloc().unwrap();
    let second = pool.alloc().unwrap();
    assert!(pool.alloc().is_none());
    drop(first);
    assert_eq!(pool.available(), 1);
    drop(second.into_device());
    assert_eq!((pool.available(), pool.quarantined()), (1, 1));
    let third = pool.alloc().unwrap().into_device();
    assert!(third.release().is_empty());
    assert_eq!(pool.available(), 1);
}

#[test]
fn packets_grow_at_both_ends_within_the_slot() {
    let pool = pool(1);
    let mut frame = pool.alloc().unwrap();
    assert!(frame.fill(b"packet"));
    frame.push_front(3).unwrap().copy_from_slice(b"esp");
    frame.push_back(3).unwrap().copy_from_slice(b"icv");
    assert_eq!(&frame[..], b"esppacketicv");
    assert!(frame.pull_front(3));
    frame.truncate(6);
    assert_eq!(&frame[..], b"packet");
    let whole = frame.grow(1, 2).unwrap();
    assert_eq!((whole.len(), &whole[1..7]), (9, &b"packet"[..]));
    assert!(frame.grow(HEADROOM, 0).is_none());
    assert!(frame.grow(0, 2048).is_none());
    assert!(frame.pull_front(1));
    frame.truncate(6);
    assert!(frame.push_front(HEADROOM + 1).is_none());
    assert!(frame.push_back(2048).is_none());
    assert!(!frame.fill(&[0; 2048]));
    assert!(!frame.pull_front(7));
}

/// A chain whose frames hold these octets.
fn chain(pool: &FramePool, parts: &[&[u8]]) -> Frame {
    let mut frames = parts.iter().map(|part| {
        let mut frame = pool.alloc().unwrap();
        assert!(frame.fill(part));
        frame
    });
    let mut head = frames.next().unwrap();
    frames.for_each(|frame| head.append(frame).unwrap());
    head
}

fn gathered(frame: &Frame) -> Vec<u8> {
    let mut octets = Vec::new();
    frame.gather(&mut octets);
    octets
}

#[test]
fn a_chain_is_one_packet_and_goes_home_as_one() {
    let pool = pool(8);
    let mut head = chain(&pool, &[b"one", b"", b"two", b"three"]);
    assert_eq!((head.segment_count(), head.packet_len()), (4, 11));
    assert_eq!(gathered(&head), b"onetwothree");
    assert!(head.holds(b"onetwothree"));
    assert!(!head.holds(b"onetwothre") && !head.holds(b"onetwothree!"));
    *head.octet_mut(3).unwrap() = b'T';
    assert!(head.octet_mut(11).is_none());
    head.push_front(2).unwrap().copy_from_slice(b"> ");
    head.push_back(2).unwrap().copy_from_slice(b" <");
    assert_eq!(gathered(&head), b"> oneTwothree <");
    head.truncate(7);
    assert_eq!(gathered(&head), b"> oneTw");
    let rest = head.detach().unwrap();
    assert_eq!(
        (&head[..], gathered(&rest)),
        (&b"> one"[..], b"Tw".to_vec())
    );
    head.append(rest).unwrap();
    assert_eq!(pool.available(), 4);
    head.clear();
    assert_eq!((pool.available(), head.packet_len()), (7, 0));
    drop(head);
    assert_eq!(pool.available(), 8);
}

#[test]
fn a_chain_of_two_pools_is_refused() {
    let (ours, theirs) = (pool(1), pool(1));
    let mut head = chain(&ours, &[b"one"]);
    assert!(head.append(chain(&theirs, &[b"two"])).is_err());
    assert_eq!((head.segment_count(), theirs.available()), (1, 1));
}

#[test]
fn a_completion_places_the_packet_anywhere_in_a_chain() {
    let pool = pool(4);
    let parts: [&[u8]; 3] = [b"abc", b"defg", b"hij"];
    let whole = HEADROOM + 3 + 4 + (2048 - HEADROOM);
    let pieces: Vec<_> = chain(&pool, &parts).pieces().map(|(_, len)| len).collect();
    assert_eq!(pieces, [HEADROOM as u32 + 3, 4, 2048 - HEADROOM as u32]);
    for (from, to) in [(0, 10), (2, 3), (3, 7), (4, 9), (7, 10), (5, 5), (0, 3)] {
        let device = chain(&pool, &parts).into_device();
        let frame = device.complete((HEADROOM + from) as u32, (to - from) as u32);
        assert_eq!(gathered(&frame.unwrap()), b"abcdefghij"[from..to]);
    }
    let device = chain(&pool, &parts).into_device();
    let device = device.complete(0, whole as u32 + 1).unwrap_err();
    let device = device.complete(u32::MAX, u32::MAX).unwrap_err();
    let frame = device.complete(0, whole as u32).unwrap();
    assert_eq!(frame.packet_len(), whole);
    drop(frame);
    assert_eq!(pool.available(), 4);
    let device = chain(&pool, &parts).into_device();
    assert_eq!(device.release().packet_len(), 0);
    assert_eq!(pool.available(), 4);
    drop(chain(&pool, &parts).into_device());
    assert_eq!((pool.available(), pool.quarantined()), (1, 3));
}

#[test]
fn headers_are_pulled_up_into_the_first_frame() {
    let pool = pool(8);
    let long = [b'x'; 200];
    let mut head = chain(&pool, &[b"o", b"", b"ne", &long, b"end"]);
    let whole = gathered(&head);
    assert!(head.pull_up(150));
    assert_eq!((head.len(), head.segment_count()), (150, 5));
    assert_eq!(gathered(&head), whole);
    let mut part = [0; 6];
    assert!(head.copy_out(200, &mut part));
    assert_eq!(part, whole[200..]);
    assert!(head.copy_out(0, &mut part) && !head.copy_out(201, &mut part));
    assert!(head.pull_up(usize::MAX));
    assert_eq!(&head[..], whole);
    // The last frame is the last one still: a packet grows there.
    head.push_back(3).unwrap().copy_from_slice(b"icv");
    assert_eq!(head.len(), 206);
    assert!(gathered(&head).ends_with(b"endicv"));
    head.zero();
    assert_eq!(gathered(&head), [0; 209]);
    // A slot that is full takes no more.
    let full = [1; 2048 - HEADROOM];
    let mut head = chain(&pool, &[&full, b"more"]);
    assert!(head.pull_up(full.len()) && !head.pull_up(full.len() + 1));
}

#[test]
fn a_buffer_is_put_back_over_a_chain() {
    let pool = pool(3);
    let mut head = chain(&pool, &[b"abc", b"defg", b"hij"]);
    let mut buffer = vec![0; head.headroom()];
    head.gather(&mut buffer);
    buffer.resize(buffer.len() + head.tailroom(), 0);
    let from = HEADROOM - 2;
    buffer[from..from + 14].copy_from_slice(b"ABCDEFGHIJKLMN");
    assert!(head.put_back(&buffer, from, 14));
    let parts: Vec<_> = head.segments().collect();
    assert_eq!(parts, [&b"ABCDE"[..], b"FGHI", b"JKLMN"]);
    assert!(!head.put_back(&buffer, buffer.len(), 1));
    assert!(!head.put_back(&buffer[..4], 0, 5));
}

#[test]
fn a_packet_larger_than_a_slot_is_held_by_several() {
    let pool = pool(40);
    for len in [0, 1, 1856, 1857, 9000, 65_000] {
        let packet: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let frame = pool.hold(&packet).unwrap();
        assert!(frame.holds(&packet));
        assert!(frame.headroom() >= HEADROOM && frame.tailroom() >= TAILROOM);
        assert_eq!(frame.is_chained(), len > 1856, "{len}");
    }
    assert!(pool.hold(&vec![0; 90_000]).is_none());
    assert_eq!(pool.available(), 40);
}

#[test]
fn a_completion_outside_the_slot_is_refused() {
    let pool = pool(1);
    let device = pool.alloc().unwrap().into_device();
    let device = device.complete(2000, 49).unwrap_err();
    let device = device.complete(u32::MAX, 1).unwrap_err();
    let frame = device.complete(2000, 48).unwrap();
    assert_eq!(frame.len(), 48);
}
