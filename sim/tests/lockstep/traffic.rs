// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is fed to both models: SAs, packets and descriptors at random, most of them in order.

use fpga_regs::context::{FLAG_ESN, FLAG_OUTBOUND, FLAG_OUTER, Outer, SaContext};
use fpga_regs::descriptor::{FLAG_EXPLICIT as NUMBERED, FLAG_GATHER, GatherEntry, Submission};
use offload_api::sa::{Cipher, Suite};
use zerocopy::{FromZeros, IntoBytes};

use super::raw::*;

/// Octets of each buffer.
pub(crate) const BUFFER: usize = 2560;
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn once_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn octets(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// What the test knows of an SA.
#[derive(Clone, Copy)]
pub(crate) struct Sa {
    pub(crate) place: (u32, u32),
    pub(crate) outbound: bool,
    pub(crate) transport: bool,
    pub(crate) numbered: bool,
    pub(crate) outer: Option<Outer>,
    /// Number of the pair with the same key.
    pub(crate) pair: usize,
}

/// Octets of an SA's key.
pub(crate) fn key_len(context: &SaContext) -> usize {
    match Cipher::from_code(context.cipher) {
        Some(Cipher::Aes128Gcm) => 16,
        _ => 32,
    }
}

/// Outer headers, with UDP or without; two SAs in three have some.
pub(crate) fn outer(random: &mut Random) -> Option<Outer> {
    let version = [0, 4, 6][random.below(3)];
    let mut outer = Outer::new_zeroed();
    outer.version = version;
    let used = if version == 4 { 4 } else { 16 };
    for address in [&mut outer.source, &mut outer.destination] {
        address[..used].copy_from_slice(&random.octets(used));
    }
    if random.once_in(2) {
        outer.source_port = (random.next() as u16).into();
        outer.destination_port = 4500.into();
    }
    (version != 0).then_some(outer)
}

/// Gives a packet the addresses that an SA in transport mode wants, if it can have them.
fn readdress(packet: &mut [u8], outer: &Outer) {
    let (at, len) = match (packet.first().map(|octet| octet >> 4), outer.version) {
        (Some(4), 4) => (12, 4),
        (Some(6), 6) => (8, 16),
        _ => return,
    };
    packet[at..at + len].copy_from_slice(&outer.source[..len]);
    packet[at + len..at + 2 * len].copy_from_slice(&outer.destination[..len]);
}

/// What somebody on the way may add to a header: IPv4's options, an IPv6 extension header.
fn lengthen(packet: &mut Vec<u8>) {
    let longer = |packet: &mut Vec<u8>, at: usize, by: u16, field: usize| {
        let told = u16::from_be_bytes([packet[field], packet[field + 1]]).wrapping_add(by);
        packet[field..field + 2].copy_from_slice(&told.to_be_bytes());
        packet.splice(at..at, std::iter::repeat_n(1, by.into()));
    };
    match packet.first() {
        Some(0x45) if packet.len() >= 20 => {
            longer(packet, 20, 4, 2);
            packet[0] = 0x46;
        }
        Some(first) if first >> 4 == 6 && packet.len() >= 40 => {
            longer(packet, 40, 8, 4);
            (packet[40], packet[41]) = (packet[6], 0);
            packet[6] = 60;
        }
        _ => {}
    }
}

pub(crate) fn context(
    random: &mut Random,
    pair: usize,
    flags: u8,
    outer: Option<&Outer>,
) -> SaContext {
    let mut sa = sa(flags, 1 << 20);
    if let Some(outer) = outer {
        sa.flags |= FLAG_OUTER;
        sa.outer.copy_from_slice(outer.as_bytes());
    }
    sa.spi = (0x1000_0000 + pair as u32).to_le_bytes();
    let suite = [Suite::AES_128_GCM, Suite::AES_256_GCM][pair % 2];
    sa.cipher = suite.cipher() as u8;
    sa.cipher_key = [pair as u8 + 1; 32];
    if suite.cipher() == Cipher::Aes128Gcm {
        sa.cipher_key[16..].fill(0);
    }
    sa.salt = [pair as u8; 4];
    if flags & FLAG_OUTBOUND == 0 {
        // Extended numbers have a window.
        let least = usize::from(flags & FLAG_ESN != 0);
        let window = [0u32, 32, 64, 96, 1024][least + random.below(5 - least)];
        sa.replay_window = window.to_le_bytes();
    }
    sa
}

/// An IP packet of some length; IPv6 with extension headers, sometimes.
fn packet(random: &mut Random) -> Vec<u8> {
    let len = match random.below(4) {
        0 => random.below(64),
        1 => 1380 + random.below(60),
        _ => random.below(1500),
    };
    let mut packet = random.octets(len.max(8));
    if random.once_in(3) {
        let mut header = vec![0; 40];
        let mut protocol = 17;
        let mut chain = Vec::new();
        // With all that is put between it ends where the RTL still looks.
        while random.once_in(2) && chain.len() < 40 {
            let kind = [0, 43, 60, 44][random.below(4)];
            let words = if kind == 44 { 0 } else { random.below(2) as u8 };
            let mut extension = vec![0; 8 + 8 * usize::from(words)];
            extension[0] = protocol;
            extension[1] = words;
            chain.splice(0..0, extension);
            protocol = kind;
        }
        let total = (chain.len() + packet.len()) as u16;
        header[0] = 0x60 | random.below(16) as u8;
        header[4..6].copy_from_slice(&total.to_be_bytes());
        header[6] = protocol;
        header[7] = 64;
        header[8..].copy_from_slice(&random.octets(32));
        header.extend(chain);
        header.extend(packet);
        header
    } else {
        let options = random.below(3) * 4;
        let mut header = vec![0; 20 + options];
        header[0] = 0x45 + (options / 4) as u8;
        header[1] = random.next() as u8;
        header[6] = if random.once_in(8) { 0x20 } else { 0x40 };
        header[8] = 64;
        header[9] = 17;
        header[12..20].copy_from_slice(&random.octets(8));
        let total = (header.len() + packet.len()) as u16;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header.append(&mut packet);
        header
    }
}

/// Where the lists of a batch lie: one for each buffer.
pub(crate) const LISTS: u64 = BUFFERS + 0x4_0000;

/// A buffer's list.
pub(crate) struct List {
    pub(crate) at: u64,
    pub(crate) octets: Vec<u8>,
    /// Place and octets of each piece.
    pub(crate) pieces: Vec<(u64, usize)>,
}

/// Cuts a buffer into pieces, which lie in it in some other order, with holes between. Some lists make no
/// sense.
fn cut(random: &mut Random, slot: usize, submission: &mut Submission, buffer: &mut [u8]) -> List {
    let mut room = submission.buffer_len.get() as usize;
    let most = if random.once_in(4) { 16 } else { 4 };
    let count = 1 + random.below(most);
    let holes = random.below(3) * 8;
    let spare = holes * count;
    if random.once_in(3) || room + spare > buffer.len() {
        room = buffer.len().saturating_sub(spare);
        submission.buffer_len = (room as u32).into();
    }
    let packet = submission.offset.get() as usize;
    let end = packet.saturating_add(submission.len.get() as usize);
    // Ends of pieces: many of them within the packet, and where ESP's own parts are.
    let mut ends: Vec<usize> = (1..count)
        .map(|_| match random.below(4) {
            0 => packet.saturating_sub(random.below(80)),
            1 => end.saturating_sub(20) + random.below(60),
            _ => random.below(room.max(1)),
        })
        .map(|at| at.clamp(1, room.max(1)))
        .collect();
    ends.push(room);
    ends.sort_unstable();
    ends.dedup();
    let mut pieces = Vec::new();
    let mut from = 0;
    for to in ends {
        pieces.push((from, to - from));
        from = to;
    }
    // Laid out in an order of their own.
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    for n in (1..order.len()).rev() {
        order.swap(n, random.below(n + 1));
    }
    let whole = buffer.to_vec();
    let mut places = vec![0; pieces.len()];
    let mut at = random.below(holes + 1);
    for n in order {
        let (from, len) = pieces[n];
        buffer[at..at + len].copy_from_slice(&whole[from..from + len]);
        places[n] = at;
        at += len + random.below(holes.max(1));
    }
    let start = submission.buffer.get();
    let mut entries: Vec<GatherEntry> = pieces
        .iter()
        .zip(&places)
        .map(|((_, len), place)| GatherEntry {
            iova: start.wrapping_add(*place as u64).into(),
            len: (*len as u32).into(),
            reserved: 0.into(),
        })
        .collect();
    submission.flags |= FLAG_GATHER;
    submission.entries = (entries.len() as u16).into();
    let list = LISTS + (slot * 512 + 16 * random.below(16)) as u64;
    submission.buffer = (IOVA + list).into();
    let any = random.below(entries.len());
    match random.below(60) {
        0 => submission.entries = ([0, 17, 0xffff][random.below(3)]).into(),
        1 => submission.buffer = (IOVA + list + 8).into(),
        2 => entries[any].reserved = 1.into(),
        3 => entries[any].len = 0.into(),
        4 => entries[any] = entries[0],
        5 => entries[any].iova = (u64::MAX - random.next() % 64).into(),
        6 => submission.buffer_len = (room as u32 + 1).into(),
        // What is read, or only written.
        7 => entries[any].iova = 0x7_0000_0000u64.into(),
        8 => submission.buffer = 0x7_0000_0000u64.into(),
        9 => submission.buffer = (u64::MAX - 15).into(),
        10 => entries[any].len = (entries[any].len.get() | 1 << 31).into(),
        11 if any != 0 => {
            // One octet of the piece in front.
            let before = entries[any - 1];
            entries[any].iova = (before.iova.get() + u64::from(before.len.get()) - 1).into();
        }
        _ => {}
    }
    List {
        at: list,
        octets: entries.as_bytes().to_vec(),
        pieces: std::iter::zip(&places, &pieces)
            .map(|(place, (_, len))| (start - IOVA + *place as u64, *len))
            .collect(),
    }
}

/// One operation: its descriptor, what its buffer holds, its list, and whose packet it seals.
pub(crate) fn operation(
    random: &mut Random,
    slot: usize,
    sas: &[Sa],
    pool: &[(usize, Vec<u8>)],
) -> (Submission, Vec<u8>, Option<List>, Option<usize>) {
    let mut buffer = random.octets(BUFFER);
    let at = BUFFERS + (slot * BUFFER) as u64;
    let (mut sa, octets) = match pool.len() {
        0 => (None, None),
        len if random.once_in(2) => {
            let (pair, sealed) = &pool[random.below(len)];
            let wanted = sas.iter().find(|sa| sa.pair == *pair && !sa.outbound);
            (wanted, Some(sealed.clone()))
        }
        _ => (None, None),
    };
    if sa.is_none() || random.once_in(40) {
        sa = Some(&sas[random.below(sas.len())]);
    }
    let sa = *sa.unwrap();
    let mut octets = octets.unwrap_or_else(|| {
        let mut packet = packet(random);
        if let Some(outer) = sa.outer.filter(|_| sa.transport) {
            readdress(&mut packet, &outer);
        }
        packet
    });
    if !sa.outbound && random.once_in(8) {
        lengthen(&mut octets);
    }
    if random.once_in(8) && !octets.is_empty() {
        let place = match random.once_in(3) {
            true => random.below(octets.len().min(40)),
            false => random.below(octets.len()),
        };
        octets[place] ^= 1 << random.below(8);
    }
    if random.once_in(30) {
        octets.truncate(random.below(octets.len() + 1));
    }
    let offset = match random.below(12) {
        0 => random.below(20),
        1..4 => 64,
        _ => 16 + random.below(80),
    };
    let mut room = BUFFER;
    if random.once_in(20) {
        room = (offset + octets.len() + random.below(40)).min(BUFFER);
    }
    let end = offset + octets.len();
    if end <= BUFFER {
        buffer[offset..end].copy_from_slice(&octets);
    }
    let mut submission = submission(sa.place, at, offset as u32, octets.len());
    submission.buffer_len = (room as u32).into();
    submission.slot = (random.next() as u32).into();
    submission.slot_generation = (random.next() as u32).into();
    if sa.numbered != random.once_in(50) {
        submission.flags |= NUMBERED;
        submission.sequence = (1 + random.next() % 1000).into();
        submission.iv.copy_from_slice(&random.octets(16));
    }
    let list = random
        .once_in(4)
        .then(|| cut(random, slot, &mut submission, &mut buffer));
    match random.below(150) {
        0 => submission.opcode = random.next() as u8,
        1 => submission.flags |= 4,
        2 => submission.entries = 1.into(),
        3 => submission.sa_index = (random.next() as u32).into(),
        4 => submission.sa_index = 1023.into(),
        5 => submission.sa_generation = (random.next() as u32).into(),
        6 => submission.buffer = (0x7_0000_0000u64 + random.next() % 4096).into(),
        7 => submission.buffer = (u64::MAX - 100).into(),
        8 => submission.offset = (u32::MAX - 3).into(),
        9 => submission.len = (BUFFER as u32 + 1).into(),
        10 => submission.buffer_len = (1 << 18).into(),
        11 => submission.len = 0.into(),
        12 => {
            // Reads begin in reach and end beyond.
            submission.buffer = (IOVA + SIZE - 700).into();
        }
        13 => {
            submission.buffer_len = 100_000.into();
            submission.len = 70_000.into();
        }
        14 => submission.flags |= FLAG_GATHER,
        _ => {}
    }
    (submission, buffer, list, sa.outbound.then_some(sa.pair))
}
