// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The AEAD alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arrayvec::ArrayVec;
use esp_aead::{Aad, Algorithm, Packet, seal_burst};

use crate::rig::{FRAME, Times};

/// Bodies that the AEAD alone seals at once.
const TOGETHER: usize = 32;

/// Seals [`TOGETHER`] bodies at most by the AEAD alone.
#[inline]
fn seal_bare<'body>(
    keys: &[esp_aead::Key],
    bodies: impl Iterator<Item = &'body mut [u8]>,
    tags: &mut [[u8; 16]],
    n: usize,
) {
    let mut packets: ArrayVec<_, TOGETHER> = bodies
        .zip(tags)
        .zip(keys.iter().cycle())
        .map(|((body, tag), key)| Packet::new(key, &[n as u8; 12], Aad::from([7; 8]), body, tag))
        .collect();
    seal_burst(&mut packets);
}

/// The AEAD alone, on bodies of the length that ESP makes of a packet.
pub(crate) fn bare(
    keys: &[esp_aead::Key],
    bodies: &mut [Vec<u8>],
    times: &mut Times,
    bursts: usize,
) -> f64 {
    let mut tags = vec![[0; 16]; bodies.len()];
    for n in 0..bursts {
        let start = Instant::now();
        let together = bodies.chunks_mut(TOGETHER).zip(tags.chunks_mut(TOGETHER));
        for (bodies, tags) in together {
            seal_bare(keys, bodies.iter_mut().map(Vec::as_mut_slice), tags, n);
        }
        times.0.push(start.elapsed());
    }
    times.take(bodies.len())
}

/// Keys of so many SAs, and a burst's bodies of the length that ESP makes of a packet.
pub(crate) fn material(
    size: usize,
    sas: usize,
    burst: usize,
) -> (Vec<esp_aead::Key>, Vec<Vec<u8>>) {
    let key = |sa: usize| {
        let key: Vec<u8> = (0..16).map(|n| (n + sa) as u8).collect();
        esp_aead::Key::new(Algorithm::Aes128Gcm, esp_aead::Direction::Seal, &key).unwrap()
    };
    let bodies = vec![vec![0; (size + 2).next_multiple_of(4)]; burst];
    ((0..sas).map(key).collect(), bodies)
}

/// Half of a burst's bodies, each in room of a frame's size.
struct Half {
    room: Vec<u8>,
    tags: Vec<[u8; 16]>,
}

/// The AEAD alone, or a mere look at them, on a burst's bodies that lie where packets do: what there is to gain where one
/// core has written what the other works on.
pub(crate) struct Written {
    keys: Vec<esp_aead::Key>,
    source: Vec<u8>,
    /// As many as take more memory than a [`Pair`](crate::rig::Pair): its frames, and what they are filled with.
    sets: Vec<[Mutex<Half>; 2]>,
    /// Bursts between writing and sealing.
    ahead: usize,
    times: Times,
    bursts: usize,
    burst: usize,
}

impl Written {
    /// Sealed so many bursts of a [`Pair`](crate::rig::Pair) behind their writing.
    pub(crate) fn new((size, burst): (usize, usize), ahead: usize, bursts: usize) -> Self {
        // Which fills frames twice for one that is here, and copies what was sealed.
        let ahead = 4 * ahead;
        let half = || {
            let room = vec![0; burst / 2 * FRAME];
            let tags = vec![[0; 16]; burst / 2];
            Mutex::new(Half { room, tags })
        };
        let (keys, mut bodies) = material(size, 1, 1);
        Self {
            keys,
            source: bodies.remove(0),
            sets: (0..ahead + 4).map(|_| [half(), half()]).collect(),
            ahead,
            times: Times::with_room(bursts),
            bursts,
            burst: burst / 2 * 2,
        }
    }

    /// How much faster it goes where another core does half of it.
    pub(crate) fn gain(&mut self) -> f64 {
        self.round(false, true) / self.round(true, true)
    }

    /// Nanoseconds a packet where both cores do nothing to their half but read and write each cache line of it: less than
    /// that is for nobody.
    pub(crate) fn looked_at(&mut self) -> f64 {
        self.round(true, false)
    }

    /// Nanoseconds a packet, sealed (or looked at) by this core, or half of them by another that is awake.
    fn round(&mut self, both: bool, sealed: bool) -> f64 {
        let (turn, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (keys, sets, len) = (&self.keys, &self.sets, self.source.len());
        let seal = |n: usize, which: usize| {
            let half = &mut *sets[n % sets.len()][which].lock().unwrap();
            if !sealed {
                let lines = half.room.chunks_mut(FRAME);
                for line in lines.flat_map(|frame| frame[..len].chunks_mut(64)) {
                    line[0] = line[0].wrapping_add(1);
                }
                return;
            }
            let together = half.room.chunks_mut(TOGETHER * FRAME);
            for (room, tags) in together.zip(half.tags.chunks_mut(TOGETHER)) {
                let bodies = room.chunks_mut(FRAME).map(|frame| &mut frame[..len]);
                seal_bare(keys, bodies, tags, n);
            }
        };
        let wait = |flag: &AtomicUsize, n| {
            while flag.load(Ordering::Acquire) < n {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|scope| {
            if both {
                scope.spawn(|| {
                    for n in 1..=self.bursts {
                        wait(&turn, n);
                        seal(n, 1);
                        done.store(n, Ordering::Release);
                    }
                });
            }
            for n in 1..=self.bursts {
                for half in &sets[(n + self.ahead) % sets.len()] {
                    for room in half.lock().unwrap().room.chunks_mut(FRAME) {
                        room[..len].copy_from_slice(&self.source);
                    }
                }
                let start = Instant::now();
                turn.store(n, Ordering::Release);
                seal(n, 0);
                match both {
                    true => wait(&done, n),
                    false => seal(n, 1),
                }
                self.times.0.push(start.elapsed());
            }
        });
        self.times.take(self.burst)
    }
}
