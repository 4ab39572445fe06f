// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bus and the host's memory, as the card meets them: reads answered some clocks later, in any
//! order; writes acknowledged some clocks later; ready or not.

use std::collections::VecDeque;

use super::{Completed, Message, Ports};
use crate::Model;

/// The host's memory.
pub trait HostMemory {
    /// Copies octets in; false where it can't be reached.
    fn read(&mut self, iova: u64, into: &mut [u8]) -> bool;

    /// Copies octets out, likewise.
    fn write(&mut self, iova: u64, octets: &[u8]) -> bool;

    /// Writes an entry of a completion ring: the last eight octets at once, and not before the others.
    fn post(&mut self, iova: u64, entry: &[u8; 32]) -> bool;
}

/// How the bus behaves.
#[derive(Clone, Copy, Debug)]
pub struct HostTiming {
    /// Clocks from a request to its answer.
    pub latency: u32,
    /// Further clocks at random, which mix the answers' order.
    pub jitter: u32,
    /// Of 256 clocks, how many the host is not ready, or has no answer to give.
    pub hesitation: u8,
    /// Of 65,536 reads, how many are never answered.
    pub silence: u16,
    /// A read that is not answered within two to three times 2 to this power clocks fails; 8 at least.
    pub patience: u8,
    /// What randomness starts from.
    pub seed: u64,
}

impl Default for HostTiming {
    /// A bus that answers soon, so that a simulated card does.
    fn default() -> Self {
        Self {
            latency: 4,
            jitter: 0,
            hesitation: 0,
            silence: 0,
            // 12 ms at 250 MHz.
            patience: 20,
            seed: 1,
        }
    }
}

const LINE: usize = 64;
const BURST: usize = 512;

#[derive(Debug)]
struct Read {
    due: u64,
    tag: u16,
    addr: u64,
    len: usize,
}

/// A burst that is being answered.
#[derive(Debug)]
struct Answer {
    tag: u16,
    /// Octets from the start of the first line on.
    octets: [u8; BURST + LINE],
    line: usize,
    lines: usize,
    failed: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    timing: HostTiming,
    random: u64,
    now: u64,
    reads: Vec<Read>,
    answer: Option<Answer>,
    /// When acknowledged, and whether it failed.
    writes: VecDeque<(u64, bool)>,
    /// A burst that is being written has failed.
    write_failed: bool,
    posts: VecDeque<(u64, bool, Option<Completed>)>,
    /// What was acknowledged and not yet told of.
    told: VecDeque<Completed>,
    read_ready: bool,
    write_ready: bool,
    post_ready: bool,
    message_ready: bool,
}

impl Host {
    pub(super) fn new(timing: HostTiming) -> Self {
        Self {
            timing,
            random: timing.seed | 1,
            now: 0,
            reads: Vec::new(),
            answer: None,
            writes: VecDeque::new(),
            write_failed: false,
            posts: VecDeque::new(),
            told: VecDeque::new(),
            read_ready: false,
            write_ready: false,
            post_ready: false,
            message_ready: false,
        }
    }

    pub(super) fn set_timing(&mut self, timing: HostTiming) {
        self.timing = timing;
        self.random = timing.seed | 1;
    }

    /// The card is reset: what it asked for is still answered, and nobody is told of completions.
    pub(super) fn abandon(&mut self) {
        self.told.clear();
        self.posts.iter_mut().for_each(|(.., told)| *told = None);
    }

    fn chance(&mut self) -> u64 {
        // Xorshift: what is random here need only be mixed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(super) fn hesitates(&mut self) -> bool {
        let often = u64::from(self.timing.hesitation);
        often != 0 && self.chance() >> 32 & 0xff < often
    }

    fn due(&mut self) -> u64 {
        let jitter = match self.timing.jitter {
            0 => 0,
            most => (self.chance() >> 32) % u64::from(most),
        };
        self.now + u64::from(self.timing.latency) + jitter
    }

    /// Sets the card's inputs for the coming edge.
    pub(super) fn offer(&mut self, model: &mut Model, ports: &Ports, memory: &mut dyn HostMemory) {
        self.now += 1;
        let ready = [(); 4].map(|()| !self.hesitates());
        let places = [
            &mut self.read_ready,
            &mut self.write_ready,
            &mut self.post_ready,
            &mut self.message_ready,
        ];
        let inputs = [
            ports.read_ready,
            ports.write_ready,
            ports.post_ready,
            ports.msi_ready,
        ];
        for ((place, port), value) in places.into_iter().zip(inputs).zip(ready) {
            if *place != value {
                *place = value;
                model.put(port, value.into());
            }
        }
        self.offer_line(model, ports, memory);
        let now = self.now;
        let write = self.writes.front().copied().filter(|(due, _)| *due <= now);
        model.put(ports.write_ack, write.is_some().into());
        if let Some((_, failed)) = write {
            model.put(ports.write_error, failed.into());
            self.writes.pop_front();
        }
        let due = self.posts.front().is_some_and(|(due, ..)| *due <= now);
        let post = if due { self.posts.pop_front() } else { None };
        model.put(ports.post_ack, post.is_some().into());
        if let Some((_, failed, told)) = post {
            model.put(ports.post_error, failed.into());
            self.told.extend(told);
        }
    }

    fn offer_line(&mut self, model: &mut Model, ports: &Ports, memory: &mut dyn HostMemory) {
        if self.answer.is_none()
            && let Some(place) = self.reads.iter().position(|read| read.due <= self.now)
        {
            let read = self.reads.remove(place);
            self.answer = Some(answer(&read, memory));
        }
        let hesitates = self.answer.is_some() && self.hesitates();
        let Some(answer) = self.answer.as_mut().filter(|_| !hesitates) else {
            model.put(ports.line_valid, 0);
            return;
        };
        let last = answer.line + 1 == answer.lines;
        let start = answer.line * LINE;
        model.put(ports.line_valid, 1);
        model.put(ports.line_tag, answer.tag.into());
        model.set(ports.line_data, &answer.octets[start..start + LINE]);
        model.put(ports.line_last, last.into());
        model.put(ports.line_error, answer.failed.into());
        answer.line += 1;
        if last {
            self.answer = None;
        }
    }

    /// Sees what the card asks for, as the edge will.
    pub(super) fn take(
        &mut self,
        model: &Model,
        ports: &Ports,
        memory: &mut dyn HostMemory,
        completed: &mut VecDeque<Completed>,
    ) {
        if self.read_ready && model.high(ports.read_valid) {
            let due = self.due();
            let silence = u64::from(self.timing.silence);
            if silence == 0 || self.chance() >> 32 & 0xffff >= silence {
                self.reads.push(Read {
                    due,
                    tag: model.value(ports.read_tag) as u16,
                    addr: model.value(ports.read_addr),
                    len: model.value(ports.read_len) as usize,
                });
            }
        }
        if self.write_ready && model.high(ports.write_valid) {
            self.take_line(model, ports, memory);
        }
        if model.high(ports.completed_valid)
            && let Some(told) = self.told.pop_front()
        {
            let queue = model.value(ports.completed_queue) as u16;
            completed.push_back(Completed { queue, ..told });
        }
        if self.post_ready && model.high(ports.post_valid) {
            let mut entry = [0; 32];
            model.copy(ports.post_data, &mut entry);
            let failed = !memory.post(model.value(ports.post_addr), &entry);
            let told = Completed {
                queue: 0,
                status: entry[30],
                sa: (
                    model.value(ports.post_sa) as u32,
                    model.value(ports.post_generation) as u32,
                ),
            };
            // In order, as they are acknowledged.
            let last = self.posts.back().map_or(0, |(due, ..)| *due);
            let due = self.due().max(last);
            self.posts.push_back((due, failed, Some(told)));
        }
    }

    /// The interrupt that the card sends, if it does.
    pub(super) fn take_message(&self, model: &Model, ports: &Ports) -> Option<Message> {
        let sent = self.message_ready && model.high(ports.msi_valid);
        sent.then(|| Message {
            vector: model.value(ports.msi_vector) as u16,
            address: model.value(ports.msi_addr),
            data: model.value(ports.msi_data) as u32,
        })
    }

    fn take_line(&mut self, model: &Model, ports: &Ports, memory: &mut dyn HostMemory) {
        let addr = model.value(ports.write_addr);
        let strobe = model.value(ports.write_strobe);
        let mut line = [0; LINE];
        model.copy(ports.write_data, &mut line);
        // No octet at all where a reset has cut a burst off.
        if strobe != 0 {
            self.write_octets(addr, strobe, &line, memory);
        }
        if model.high(ports.write_last) {
            let last = self.writes.back().map_or(0, |(due, _)| *due);
            let due = self.due().max(last);
            let failed = std::mem::take(&mut self.write_failed);
            self.writes.push_back((due, failed));
        }
    }

    fn write_octets(
        &mut self,
        addr: u64,
        strobe: u64,
        line: &[u8; LINE],
        memory: &mut dyn HostMemory,
    ) {
        // A transfer's octets follow each other.
        let first = strobe.trailing_zeros() as usize;
        let count = (!(strobe >> first.min(63))).trailing_zeros() as usize;
        assert_eq!(
            strobe >> first.min(63) >> (count - 1),
            1,
            "strobes with a gap"
        );
        if !memory.write(addr + first as u64, &line[first..first + count]) {
            self.write_failed = true;
        }
    }
}

fn answer(read: &Read, memory: &mut dyn HostMemory) -> Answer {
    let shift = (read.addr % LINE as u64) as usize;
    let mut octets = [0; BURST + LINE];
    let failed = !memory.read(read.addr, &mut octets[shift..shift + read.len]);
    Answer {
        tag: read.tag,
        octets,
        line: 0,
        lines: (shift + read.len).div_ceil(LINE),
        failed,
    }
}
