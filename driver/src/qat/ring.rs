// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A ring pair: requests out, responses in, and the operations between them in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use offload_api::error::DeviceError;
use offload_api::frame::{DeviceFrame, Frame};
use offload_api::queue::Status;
use offload_api::sa::SaHandle;
use qat_regs::message::{
    EMPTY, EMPTY_WORD, HEADER_VALID, Request, Response, ResponseStatus, service,
};
use zerocopy::FromBytes;

use super::extra::{EXTRA, Extra};
use super::function::{Function, Pair, RingMemory};
use crate::dma::Entries;
use crate::handshake::Slots;

/// A ring pair of one function, as one queue has it.
pub(super) struct RingPair {
    pub(super) function: Arc<Function>,
    pub(super) pair: Pair,
    requests: Entries<Request>,
    responses: Arc<Entries<Response>>,
    memory: RingMemory,
    /// Operations that it has at once.
    depth: u32,
    /// Requests written.
    tail: u32,
    /// Of those, told of.
    rung: u32,
    /// Responses consumed.
    head: u32,
    flights: VecDeque<Flight>,
    /// The number of the first flight.
    first: u64,
    /// Responses in a row that named nobody.
    strays: u32,
    /// Flights that are not ended.
    waiting: u32,
    pub(super) pulse: Arc<Pulse>,
}

/// An operation on its way.
pub(super) struct Flight {
    /// Whose extra memory is its own; of no meaning where the device was never asked.
    pub(super) number: u64,
    pub(super) sa: SaHandle,
    pub(super) cookie: u64,
    pub(super) sequence: u64,
    /// Where ESP starts in the packet.
    pub(super) esp: usize,
    /// Octets before it was framed.
    pub(super) inner_len: usize,
    /// It is sealed, not opened.
    pub(super) seals: bool,
    pub(super) frame: Held,
    /// How it ended.
    pub(super) ended: Option<Status>,
}

/// Who has a flight's frame.
pub(super) enum Held {
    /// The device.
    Device(DeviceFrame),
    /// This process: the device was never asked.
    Host(Frame),
}

/// What the watchdog looks at.
pub(super) struct Pulse {
    responses: Arc<Entries<Response>>,
    owed: AtomicU32,
    head: AtomicU32,
    /// The watchdog's own: the head that it saw, and ticks since.
    seen: AtomicU32,
    waited: AtomicU32,
}

impl Pulse {
    /// The number of responses consumed, if the function owes one and it is not there.
    pub(super) fn owes(&self) -> Option<u32> {
        let head = self.head.load(Ordering::Relaxed);
        let owed = self.owed.load(Ordering::Relaxed) != 0;
        (owed && !is_there(&self.responses, head)).then_some(head)
    }

    /// One tick of the watchdog: how many in a row nothing came of what is owed.
    pub(super) fn tick(&self) -> u32 {
        let waited = match self.owes() {
            Some(head) if self.seen.swap(head, Ordering::Relaxed) == head => {
                self.waited.load(Ordering::Relaxed) + 1
            }
            _ => 0,
        };
        self.waited.store(waited, Ordering::Relaxed);
        waited
    }

    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed) != 0
    }
}

fn is_there(responses: &Entries<Response>, position: u32) -> bool {
    responses.first_word(position) as u32 != EMPTY_WORD
}

fn empty() -> Response {
    let octets = [EMPTY; size_of::<Response>()];
    // Any octets are a response.
    Response::read_from_bytes(&octets).unwrap_or_else(|_| zerocopy::FromZeros::new_zeroed())
}

/// Where a ring pair starts to count: where no other one does, nor this one at another time, so that a
/// response to any of their operations names nobody here.
fn first_number() -> Result<u64, DeviceError> {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).map_err(|error| DeviceError::Host {
        what: "random numbers",
        error: error.to_string(),
    })?;
    // The other half of the numbers is there to count on in.
    Ok(u64::from_le_bytes(octets) >> 1)
}

/// What became of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    /// Its operation has ended.
    Home,
    /// Its operation has ended, and the response made no sense.
    Bogus,
    /// It names no operation that waits.
    Nobody,
}

impl RingPair {
    /// Sets a pair up for so many operations at once, in memory of the function's.
    pub(super) fn open(
        function: Arc<Function>,
        pair: Pair,
        depth: u32,
    ) -> Result<Self, DeviceError> {
        let memory = function.take_rings(depth)?;
        // A ring that is full looks empty: one of twice the operations never is.
        let entries = Function::entries(depth);
        let requests = function.arena.entries(memory.requests, entries);
        let responses = function.arena.entries(memory.responses, entries);
        let (Some(requests), Some(responses)) = (requests, responses) else {
            return Err(DeviceError::Host {
                what: "ring memory",
                error: "does not fit".to_owned(),
            });
        };
        let first = first_number()?;
        for position in 0..entries {
            responses.write(position, empty());
        }
        let started = function.start_pair(pair, requests.iova(), responses.iova(), entries);
        if let Err(error) = started {
            // What is set up in part is given back only where it is stopped for certain.
            if function.stop_pair(pair) {
                function.put_rings(depth, memory);
            }
            return Err(error);
        }
        let responses = Arc::new(responses);
        let pulse = Arc::new(Pulse {
            responses: responses.clone(),
            owed: AtomicU32::new(0),
            head: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            waited: AtomicU32::new(0),
        });
        function.watch_over(&pulse);
        Ok(Self {
            function,
            pair,
            requests,
            responses,
            memory,
            depth,
            tail: 0,
            rung: 0,
            head: 0,
            flights: VecDeque::with_capacity(depth as usize),
            first,
            strays: 0,
            waiting: 0,
            pulse,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether operations wait for the device.
    pub(super) fn waits(&self) -> bool {
        self.waiting != 0
    }

    /// Whether one of this SA waits for the device.
    pub(super) fn waits_for(&self, sa: SaHandle) -> bool {
        let mut flights = self.flights.iter();
        flights.any(|flight| flight.sa == sa && flight.ended.is_none())
    }

    /// The next flight's number and the memory of its own.
    pub(super) fn next(&self) -> (u64, Extra<'_>) {
        let number = self.first + self.flights.len() as u64;
        (number, self.extra(number))
    }

    fn extra(&self, number: u64) -> Extra<'_> {
        Extra {
            arena: &self.function.arena,
            slice: self.memory.extras,
            at: number % u64::from(self.depth) * EXTRA,
        }
    }

    /// The memory of the first flight's own.
    pub(super) fn first_extra(&self) -> Extra<'_> {
        // By its own number: those in front of it may have been given up.
        let first = self.flights.front();
        self.extra(first.map_or(self.first, |flight| flight.number))
    }

    /// Takes an operation in with its request, which carries the number of [`next`](Self::next).
    pub(super) fn submit(&mut self, flight: Flight, request: Request) {
        self.requests.write(self.tail, request);
        self.tail = self.tail.wrapping_add(1);
        self.waiting += 1;
        self.flights.push_back(flight);
    }

    /// Takes in an operation that has ended already, so that it keeps its place.
    pub(super) fn refuse(&mut self, flight: Flight) {
        self.flights.push_back(flight);
    }

    /// The doorbell, if there is anything new.
    pub(super) fn ring(&mut self) -> Result<(), DeviceError> {
        if self.rung == self.tail {
            return Ok(());
        }
        self.rung = self.tail;
        self.note();
        // Orders requests before the doorbell, and the pulse before the look at the watchdog.
        fence(Ordering::SeqCst);
        let offset = self.offset(self.tail, size_of::<Request>());
        self.function.ring(self.pair, offset)
    }

    fn offset(&self, position: u32, entry: usize) -> u32 {
        (position & (self.requests.depth() - 1)) * entry as u32
    }

    fn note(&self) {
        self.pulse.head.store(self.head, Ordering::Relaxed);
        self.pulse.owed.store(self.waiting, Ordering::Relaxed);
    }

    /// Takes responses in; how many made no sense.
    pub(super) fn reap(&mut self) -> u64 {
        let before = self.head;
        let mut bogus = 0;
        // A function that writes for ever is not listened to for ever.
        for _ in 0..self.responses.depth() {
            if !is_there(&self.responses, self.head) {
                break;
            }
            let response = self.responses.read(self.head);
            self.responses.write(self.head, empty());
            self.head = self.head.wrapping_add(1);
            let landing = self.accept(&response);
            bogus += u64::from(landing != Landing::Home);
            self.strays = match landing {
                Landing::Nobody => self.strays.saturating_add(1),
                Landing::Home | Landing::Bogus => 0,
            };
        }
        // The watchdog looks for silence, and this one is not silent.
        if self.strays > self.responses.depth() {
            self.function.lose("it answers what nobody has asked");
        }
        if self.head != before {
            self.note();
            let offset = self.offset(self.head, size_of::<Response>());
            self.function.consume(self.pair, offset);
        }
        bogus
    }

    /// Whether a response is there that was not taken in.
    pub(super) fn is_ready(&self) -> bool {
        is_there(&self.responses, self.head)
    }

    /// Lets the function interrupt for the next response; whether it will.
    pub(super) fn arm(&self) -> bool {
        self.function.arm(self.pair)
    }

    fn accept(&mut self, response: &Response) -> Landing {
        let at = response.opaque.get().checked_sub(self.first);
        let flight = at
            .and_then(|at| self.flights.get_mut(usize::try_from(at).ok()?))
            .filter(|flight| flight.ended.is_none());
        let Some(flight) = flight else {
            return Landing::Nobody;
        };
        self.waiting -= 1;
        let sane = response.kind == service::CRYPTO && response.header_flags & HEADER_VALID != 0;
        let status = match ResponseStatus::from_bits_retain(response.status) {
            _ if !sane => Status::Aborted,
            status if status.is_empty() => Status::Ok,
            ResponseStatus::CRYPTO_FAILED if !flight.seals => Status::BadIcv,
            ResponseStatus::INVALID_PARAMETER | ResponseStatus::UNSUPPORTED => {
                Status::BadDescriptor
            }
            _ => Status::Aborted,
        };
        flight.ended = Some(status);
        if status == Status::Aborted {
            Landing::Bogus
        } else {
            Landing::Home
        }
    }

    /// The first flight's end, if it has ended.
    pub(super) fn first_ended(&self) -> Option<Status> {
        self.flights.front()?.ended
    }

    /// The first flight's SA.
    pub(super) fn first_sa(&self) -> Option<SaHandle> {
        Some(self.flights.front()?.sa)
    }

    /// Takes the first flight out. Whoever needs memory of its own reads it before.
    pub(super) fn pop(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.first += 1;
        Some(flight)
    }

    /// Ends what waits, as aborted: the function is lost. Frames that it may still write are given up.
    pub(super) fn abort(&mut self, let_go: bool) -> u64 {
        let mut count = 0;
        for flight in &mut self.flights {
            if flight.ended.is_none() {
                flight.ended = Some(Status::Aborted);
                count += 1;
            }
        }
        if !let_go {
            self.flights.retain(|flight| {
                flight.ended != Some(Status::Aborted) || matches!(flight.frame, Held::Host(_))
            });
        }
        self.waiting = 0;
        self.note();
        count
    }

    /// Gives the pair back. Its operations are home, or given up with their function.
    pub(super) fn close(&mut self) {
        self.pulse.owed.store(0, Ordering::Relaxed);
        if self.function.stop_pair(self.pair) {
            self.function.put_rings(self.depth, self.memory);
        }
    }
}

#[cfg(test)]
mod tests;
