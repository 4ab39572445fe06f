// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What goes into the software engine's queue pair comes home in order, however it is taken.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

use esp::engine::{SoftwareConfig, SoftwareEngine};
use offload_api::device::Accelerator;
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaHandle, SaParams, Spi, Suite};

const DEPTH: u32 = 8;

struct Rig {
    queue: Box<dyn QueuePair>,
    sa: SaHandle,
    pool: FramePool,
    next: u64,
}

impl Rig {
    fn new() -> Self {
        let engine = SoftwareEngine::new(SoftwareConfig::default()).unwrap();
        let suite = Suite::AES_128_GCM;
        let keys = KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap();
        let (first, last) = (1, 1000);
        let params = SaParams {
            numbering: Numbering::Granted(Some(Grant { first, last })),
            ..SaParams::tunnel(Spi::new(0x1000).unwrap(), Direction::Outbound, suite, keys)
        };
        Self {
            queue: engine.open_queue(&QueueConfig { depth: DEPTH }).unwrap(),
            sa: engine.install(&params).unwrap(),
            pool: FramePool::new(FramePoolConfig::default()).unwrap(),
            next: 0,
        }
    }

    fn enqueue(&mut self, count: u64) {
        let mut packet = [0; 40];
        packet[..20].copy_from_slice(&[
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
        ]);
        let mut ops: Vec<_> = (self.next..self.next + count)
            .map(|cookie| {
                let mut frame = self.pool.alloc().unwrap();
                assert!(frame.fill(&packet));
                Op::new(self.sa, frame, cookie)
            })
            .collect();
        self.next += count;
        assert_eq!(self.queue.enqueue(&mut ops).unwrap(), count as usize);
        assert!(ops.is_empty());
    }

    /// Takes so many home at most, into a vector with this much room.
    fn dequeue(&mut self, limit: usize, room: usize) -> Vec<Done> {
        let mut done = Vec::with_capacity(room);
        let before = self.queue.in_flight();
        let came = self.queue.dequeue(&mut done, limit).unwrap();
        assert_eq!((came, before - came), (done.len(), self.queue.in_flight()));
        done
    }
}

/// Sealed under the number behind the cookie's.
fn sealed(done: &[Done], cookies: std::ops::Range<u64>) {
    assert!(done.iter().map(|done| done.cookie).eq(cookies));
    for done in done {
        assert_eq!((done.status, done.sequence), (Status::Ok, done.cookie + 1));
    }
}

#[test]
fn what_is_taken_in_parts_comes_in_order_before_what_no_kick_has_seen() {
    for room in [0, DEPTH as usize] {
        let mut rig = Rig::new();
        rig.enqueue(4);
        rig.queue.kick().unwrap();
        rig.enqueue(4);
        sealed(&rig.dequeue(2, room), 0..2);
        sealed(&rig.dequeue(8, room), 2..4);
        sealed(&rig.dequeue(8, room), 4..4);
        rig.queue.kick().unwrap();
        sealed(&rig.dequeue(3, room), 4..7);
        rig.enqueue(3);
        rig.queue.kick().unwrap();
        sealed(&rig.dequeue(8, room), 7..11);
        // Two kicks, and all at once.
        rig.enqueue(3);
        rig.queue.kick().unwrap();
        rig.enqueue(3);
        rig.queue.kick().unwrap();
        sealed(&rig.dequeue(8, room), 11..17);
    }
}

#[test]
fn what_is_behind_others_that_were_taken_before_is_appended() {
    let mut rig = Rig::new();
    let mut done = Vec::with_capacity(DEPTH as usize);
    for _ in 0..2 {
        rig.enqueue(3);
        rig.queue.kick().unwrap();
        rig.queue.dequeue(&mut done, 8).unwrap();
    }
    sealed(&done, 0..6);
}

#[test]
fn a_closed_queue_gives_back_what_is_left_and_aborts_what_no_kick_has_seen() {
    let mut rig = Rig::new();
    rig.enqueue(4);
    rig.queue.kick().unwrap();
    sealed(&rig.dequeue(1, 0), 0..1);
    rig.enqueue(2);
    rig.queue.kick().unwrap();
    rig.enqueue(2);
    let home = rig.queue.close();
    sealed(&home[..5], 1..6);
    for (done, cookie) in home[5..].iter().zip(6..) {
        assert_eq!((done.status, done.cookie), (Status::Aborted, cookie));
        assert!(done.frame.is_empty() && done.sequence == 0);
    }
    assert_eq!(home.len(), 7);
}
