// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A ring pair whose device answers what it likes: responses are written into the ring by hand.

use offload_api::frame::{FramePool, FramePoolConfig};
use proptest::prelude::*;
use zerocopy::{FromZeros, IntoBytes};

use super::super::tests::Fake;
use super::*;

const DEPTH: u32 = 64;

/// A ring pair of a function that takes no request by itself.
struct Bench {
    ring: RingPair,
    pool: FramePool,
    /// Where the next response goes.
    next: u32,
}

impl Bench {
    fn new() -> Self {
        Self::of(&Arc::new(Fake::new().function()), 0)
    }

    fn of(function: &Arc<Function>, pair: usize) -> Self {
        let pair = function.pairs[pair];
        let config = FramePoolConfig {
            slots: 2 * DEPTH,
            ..FramePoolConfig::default()
        };
        Self {
            ring: RingPair::open(function.clone(), pair, DEPTH).unwrap(),
            pool: FramePool::new(config).unwrap(),
            next: 0,
        }
    }

    /// Gives the device an operation, and returns its number.
    fn submit(&mut self, seals: bool) -> u64 {
        let (number, _) = self.ring.next();
        let flight = Flight {
            number,
            sa: SaHandle {
                index: 0,
                generation: 1,
            },
            cookie: number,
            sequence: 0,
            esp: 0,
            inner_len: 0,
            seals,
            frame: Held::Device(self.pool.alloc().unwrap().into_device()),
            ended: None,
        };
        let request = Request {
            opaque: number.into(),
            ..Request::new_zeroed()
        };
        self.ring.submit(flight, request);
        number
    }

    fn answer(&mut self, response: Response) {
        self.ring.responses.write(self.next, response);
        self.next = self.next.wrapping_add(1);
    }

    /// Takes out what has ended, from the first on.
    fn land(&mut self) -> Vec<(u64, Status)> {
        let mut landed = Vec::new();
        while let Some(status) = self.ring.first_ended() {
            let flight = self.ring.pop().unwrap();
            if let Held::Device(frame) = flight.frame {
                drop(frame.reclaim());
            }
            landed.push((flight.number, status));
        }
        landed
    }

    fn has_all_frames(&self) -> bool {
        self.pool.available() == 2 * DEPTH as usize && self.pool.quarantined() == 0
    }
}

fn good(number: u64) -> Response {
    Response {
        service: 1,
        kind: service::CRYPTO,
        header_flags: HEADER_VALID,
        opaque: number.into(),
        ..Response::new_zeroed()
    }
}

#[test]
fn an_empty_response_reads_as_empty() {
    assert_eq!(empty().as_bytes()[..4], EMPTY_WORD.to_le_bytes());
}

#[test]
fn d01_a_cookie_of_no_operation_is_counted_and_ends_none() {
    let mut bench = Bench::new();
    let numbers = [bench.submit(true), bench.submit(true)];
    let [first, last] = numbers;
    let mut forged = vec![
        0,
        u64::MAX,
        first.wrapping_sub(1),
        last + 1,
        last + (1 << 32),
    ];
    forged.extend((2..64).map(|bit| first ^ 1 << bit));
    for number in &forged {
        bench.answer(good(*number));
    }
    assert_eq!(bench.ring.reap(), forged.len() as u64);
    assert_eq!((bench.land(), bench.ring.waiting), (Vec::new(), 2));
    numbers
        .iter()
        .for_each(|number| bench.answer(good(*number)));
    assert_eq!(bench.ring.reap(), 0);
    assert_eq!(bench.land(), numbers.map(|number| (number, Status::Ok)));
    assert!(bench.has_all_frames());
}

#[test]
fn d01_a_cookie_that_comes_twice_ends_its_operation_once() {
    let mut bench = Bench::new();
    let numbers = [bench.submit(true), bench.submit(true)];
    let [first, last] = numbers;
    // Once while the operation keeps its place, and once when that is gone.
    for number in [last, last, first] {
        bench.answer(good(number));
    }
    assert_eq!(bench.ring.reap(), 1);
    assert_eq!(bench.land(), numbers.map(|number| (number, Status::Ok)));
    numbers
        .iter()
        .for_each(|number| bench.answer(good(*number)));
    assert_eq!(bench.ring.reap(), 2);
    assert_eq!((bench.land(), bench.ring.waiting), (Vec::new(), 0));
    assert!(bench.has_all_frames());
}

#[test]
fn d01_a_cookie_of_another_ring_pair_or_of_an_earlier_time_ends_none() {
    let function = Arc::new(Fake::new().function());
    let mut earlier = Bench::of(&function, 0);
    let stale = earlier.submit(true);
    earlier.answer(good(stale));
    assert_eq!(earlier.ring.reap(), 0);
    earlier.land();
    earlier.ring.close();
    let (mut one, mut other) = (Bench::of(&function, 0), Bench::of(&function, 1));
    let (number, theirs) = (one.submit(true), other.submit(true));
    for number in [theirs, stale] {
        one.answer(good(number));
    }
    assert_eq!(one.ring.reap(), 2);
    assert_eq!((one.land(), one.ring.waiting), (Vec::new(), 1));
    one.answer(good(number));
    assert_eq!(one.ring.reap(), 0);
    assert_eq!(one.land(), [(number, Status::Ok)]);
}

#[test]
fn d01_each_status_is_told_or_counted() {
    let mut bench = Bench::new();
    for (seals, status) in [true, false]
        .into_iter()
        .flat_map(|seals| (0..=u8::MAX).map(move |status| (seals, status)))
    {
        let number = bench.submit(seals);
        bench.answer(Response {
            status,
            ..good(number)
        });
        let told = match status {
            0 => Status::Ok,
            // What is sealed has no integrity check value that could be wrong.
            0x80 if !seals => Status::BadIcv,
            0x02 | 0x04 => Status::BadDescriptor,
            _ => Status::Aborted,
        };
        let bogus = u64::from(told == Status::Aborted);
        assert_eq!(bench.ring.reap(), bogus, "{status:#04x}, seals {seals}");
        assert_eq!(bench.land(), [(number, told)], "{status:#04x}");
        assert!(bench.has_all_frames());
    }
}

#[test]
fn d01_a_header_of_another_service_or_of_none_aborts_its_operation_and_is_counted() {
    let spoil: [fn(&mut Response); 4] = [
        |response| response.header_flags = 0,
        |response| response.header_flags = !HEADER_VALID,
        |response| response.kind = service::NULL,
        |response| response.kind = u8::MAX,
    ];
    for spoil in spoil {
        let mut bench = Bench::new();
        let number = bench.submit(true);
        let mut response = good(number);
        spoil(&mut response);
        bench.answer(response);
        assert_eq!(bench.ring.reap(), 1, "{response:?}");
        assert_eq!(bench.land(), [(number, Status::Aborted)]);
        assert!(bench.has_all_frames());
    }
}

#[test]
fn d05_a_full_ring_keeps_each_request_past_the_end_of_its_positions() {
    let mut bench = Bench::new();
    let start = u32::MAX - DEPTH / 2;
    (bench.ring.tail, bench.ring.rung, bench.ring.head) = (start, start, start);
    bench.next = start;
    for _ in 0..4 {
        let numbers: Vec<_> = (0..DEPTH).map(|_| bench.submit(true)).collect();
        let ring = &bench.ring;
        assert_ne!(
            ring.offset(ring.tail, 1),
            ring.offset(ring.head, 1),
            "a ring that is full looks empty"
        );
        for (number, position) in numbers
            .iter()
            .rev()
            .zip((1..).map(|n| ring.tail.wrapping_sub(n)))
        {
            assert_eq!(ring.requests.read(position).opaque.get(), *number);
        }
        // Answered from the last on, they come home from the first on.
        numbers
            .iter()
            .rev()
            .for_each(|number| bench.answer(good(*number)));
        assert_eq!(bench.ring.reap(), 0);
        let landed: Vec<_> = bench.land().into_iter().map(|(number, _)| number).collect();
        assert_eq!(landed, numbers);
    }
    assert!(bench.has_all_frames());
}

#[test]
fn d05_a_function_that_runs_over_its_response_ring_is_given_up_and_costs_no_frame() {
    let mut bench = Bench::new();
    let numbers: Vec<_> = (0..DEPTH).map(|_| bench.submit(true)).collect();
    let entries = bench.ring.responses.depth();
    let all = u64::from(entries);
    let mut rounds = 0;
    while !bench.ring.function.is_lost() {
        // Every entry, without a look at what was taken in.
        for position in 0..entries {
            bench.ring.responses.write(position, good(numbers[0]));
        }
        let bogus = bench.ring.reap();
        // It is listened to no longer than its ring is.
        assert!(bogus == all || bogus + 1 == all);
        rounds += 1;
        assert!(rounds < 4, "it may go on for ever");
    }
    assert_eq!(bench.land(), [(numbers[0], Status::Ok)]);
    assert_eq!(bench.ring.abort(true), u64::from(DEPTH) - 1);
    assert_eq!(bench.land().len(), numbers.len() - 1);
    assert!(bench.has_all_frames());
}

#[test]
fn d05_garbage_in_the_marker_of_an_empty_entry_is_waited_for_or_counted() {
    let mut bench = Bench::new();
    let numbers = [bench.submit(true), bench.submit(true)];
    let [first, last] = numbers;
    // A response that says of itself that it is not there; and one behind it.
    let mut octets = [0; size_of::<Response>()];
    octets.copy_from_slice(good(first).as_bytes());
    octets[..4].fill(EMPTY);
    bench.answer(Response::read_from_bytes(&octets).unwrap());
    bench.answer(good(last));
    bench.ring.ring().unwrap();
    assert_eq!((bench.ring.reap(), bench.ring.is_ready()), (0, false));
    // The watchdog counts; nobody else waits for ever.
    let waited = [(); 3].map(|()| bench.ring.pulse.tick());
    assert_eq!(waited, [1, 2, 3]);
    // One of which but the marker was written.
    let mut octets = [EMPTY; size_of::<Response>()];
    octets[3] = HEADER_VALID;
    let half = Response::read_from_bytes(&octets).unwrap();
    bench.ring.responses.write(0, half);
    assert_eq!(bench.ring.reap(), 1);
    assert_eq!(bench.land(), []);
    assert!(
        !is_there(&bench.ring.responses, 0),
        "the entry is free again"
    );
    bench.answer(good(first));
    assert_eq!(bench.ring.reap(), 0);
    assert_eq!(bench.land(), numbers.map(|number| (number, Status::Ok)));
    assert!(bench.has_all_frames());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Submit,
    /// Any octets.
    Garbage([u8; 32]),
    /// A sane response, of an operation so far from the first.
    Answer(u64),
    Reap,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Submit),
        any::<[u8; 32]>().prop_map(Step::Garbage),
        (0..4u64).prop_map(Step::Answer),
        Just(Step::Reap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_function_writes_each_operation_ends_once_and_every_frame_is_there_again(
        steps in prop::collection::vec(step(), 0..256),
    ) {
        let mut bench = Bench::new();
        let (mut submitted, mut landed) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Submit if bench.ring.len() < DEPTH as usize => {
                    submitted.push(bench.submit(true));
                }
                Step::Submit => {}
                Step::Garbage(octets) => {
                    bench.answer(Response::read_from_bytes(&octets).unwrap());
                }
                Step::Answer(at) => {
                    let number = bench.ring.first.wrapping_add(at);
                    bench.answer(good(number));
                }
                Step::Reap => {
                    bench.ring.reap();
                    landed.extend(bench.land());
                }
            }
        }
        bench.ring.abort(true);
        landed.extend(bench.land());
        let landed: Vec<_> = landed.into_iter().map(|(number, _)| number).collect();
        prop_assert_eq!(landed, submitted);
        prop_assert!(bench.has_all_frames());
    }
}
