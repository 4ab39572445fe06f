// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets of AES-CBC with an HMAC, several at a time: a chain can't be hurried, but others run beside it.

use arrayvec::ArrayVec;
use esp_aead::cbc::{Hash, Packet, open_burst, seal_burst};

use esp_framing::table::Entry;
use offload_api::queue::{Op, Status};

use super::burst::{BURST, Chunk, end};
use super::{State, Work};
use crate::sa_transform::SaTransform;
use crate::transform::Transform;

type List<'data> = ArrayVec<Packet<'data>, BURST>;
type Places<'data> = ArrayVec<&'data mut Option<Result<(), Status>>, BURST>;

/// The transform of a packet that can go beside others.
#[inline]
fn eligible<'table>(
    op: &Op,
    state: &State,
    entry: Option<&'table Entry<SaTransform>>,
) -> Option<&'table Transform> {
    let located = match state.work {
        _ if op.frame.is_chained() => return None,
        Work::Seal => None,
        Work::Open(at) => Some(state.located(at)),
        _ => return None,
    };
    let transform = entry?.transform.cbc()?;
    let fits = transform.fits_cbc(op.frame.len(), located);
    fits.then_some(transform)
}

/// Directions and hashes.
const KINDS: usize = 2 * Hash::ALL.len();

/// Packets whose chains can run beside each other: those of one hash and direction.
fn kind(state: &State, hash: Hash) -> usize {
    hash as usize * 2 + usize::from(matches!(state.work, Work::Seal))
}

/// Seals and opens the packets that can go beside each other, where there are enough of them. Others
/// are left as they are.
pub(super) fn run(chunk: &mut Chunk<'_>) {
    let mut counts = [0; KINDS];
    for (op, state, entry) in chunk.each() {
        let hash = eligible(op, state, entry).and_then(Transform::cbc_hash);
        if let Some(count) = hash.and_then(|hash| counts.get_mut(kind(state, hash))) {
            *count += 1;
        }
    }
    let mut wanted = [false; KINDS];
    let least = Hash::ALL.iter().flat_map(|hash| [hash.worthwhile(); 2]);
    for ((wanted, count), least) in wanted.iter_mut().zip(counts).zip(least) {
        *wanted = count >= least;
    }
    if !wanted.contains(&true) {
        return;
    }
    let mut results = [None; BURST];
    cipher(chunk, &wanted, &mut results);
    for ((op, state, entry), result) in chunk.each().zip(results) {
        let (Some(result), Some(entry)) = (result, entry) else {
            continue;
        };
        let result = match (state.work, entry.transform.cbc()) {
            (Work::Open(at), Some(transform)) => {
                transform.finish_aead(state.located(at), result, &mut op.frame)
            }
            _ => result.map(|()| 0),
        };
        end(op, state, result, entry);
    }
}

/// Frames packets, and runs the cipher over those of the kinds that are wanted.
fn cipher(
    chunk: &mut Chunk<'_>,
    wanted: &[bool; KINDS],
    results: &mut [Option<Result<(), Status>>; BURST],
) {
    let (mut sealed, mut seal_places) = (List::new(), Places::new());
    let (mut opened, mut open_places) = (List::new(), Places::new());
    // Neither list is longer than the burst.
    for ((op, state, entry), result) in chunk.each().zip(results) {
        let wanted = |transform: &&Transform| {
            let hash = transform.cbc_hash();
            hash.is_some_and(|hash| wanted.get(kind(state, hash)) == Some(&true))
        };
        let Some(transform) = eligible(op, state, entry).filter(wanted) else {
            continue;
        };
        let iv = op.iv();
        let frame = &mut op.frame;
        let (packet, list, places) = match state.work {
            Work::Seal => {
                let packet = transform.frame_cbc(state.sequence, iv.as_ref(), frame);
                (packet, &mut sealed, &mut seal_places)
            }
            Work::Open(at) => {
                let packet = transform.packet_cbc(state.located(at), state.sequence, frame);
                (packet, &mut opened, &mut open_places)
            }
            _ => continue,
        };
        match packet {
            Ok(packet) => {
                list.push(packet);
                places.push(result);
            }
            Err(status) => *result = Some(Err(status)),
        }
    }
    seal_burst(&mut sealed);
    open_burst(&mut opened);
    let tell = |packets: &List<'_>, places: Places<'_>, bad| {
        for (packet, place) in packets.iter().zip(places) {
            *place = Some(packet.is_authentic().then_some(()).ok_or(bad));
        }
    };
    tell(&sealed, seal_places, Status::NoSpace);
    tell(&opened, open_places, Status::BadIcv);
}
