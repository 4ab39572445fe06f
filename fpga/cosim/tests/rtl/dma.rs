// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The DMA engines against a host with latency, that answers in any order, and fails at times.

use crate::numbers::Numbers;
use fpga_cosim::designs::DMA_READ;
use fpga_cosim::{Input, Model, Output};

/// What a host's memory has at an address.
fn octet_at(address: u64) -> u8 {
    (address ^ (address >> 8) ^ (address >> 20)).wrapping_mul(37) as u8
}

/// A read burst on its way back.
struct Burst {
    address: u64,
    len: u64,
    tag: u64,
    due: u64,
    next_line: u64,
    error: bool,
}

/// How the host and the sink behave.
#[derive(Clone, Copy)]
struct Host {
    /// Clocks from request to answer.
    latency: u64,
    /// Clocks by which answers vary, and so overtake each other.
    jitter: u64,
    /// Of 256: clocks in which a burst is not taken, a line not sent, a beat not accepted.
    reluctance: u64,
    /// The address whose burst fails.
    bad_address: Option<u64>,
}

struct Reader {
    model: Model,
    reset_n: Input,
    req: (Input, Output, Input, Input),
    out: (Output, Input, Output, Output, Output, Output),
    burst: (Output, Input, Output, Output, Output),
    line: (Input, Input, Input, Input, Input),
    most_in_flight: u64,
}

impl Reader {
    fn new() -> Self {
        let model = Model::new(&DMA_READ);
        let (input, output) = (|name| model.input(name), |name| model.output(name));
        let mut reader = Self {
            reset_n: input("rst_ni"),
            req: (
                input("req_valid_i"),
                output("req_ready_o"),
                input("req_addr_i"),
                input("req_len_i"),
            ),
            out: (
                output("m_valid_o"),
                input("m_ready_i"),
                output("m_data_o"),
                output("m_bytes_o"),
                output("m_last_o"),
                output("m_error_o"),
            ),
            burst: (
                output("burst_valid_o"),
                input("burst_ready_i"),
                output("burst_addr_o"),
                output("burst_len_o"),
                output("burst_tag_o"),
            ),
            line: (
                input("line_valid_i"),
                input("line_tag_i"),
                input("line_data_i"),
                input("line_last_i"),
                input("line_error_i"),
            ),
            model,
            most_in_flight: 0,
        };
        for _ in 0..3 {
            reader.model.settle();
            reader.model.rise();
        }
        reader.model.put(reader.reset_n, 1);
        reader
    }

    /// Reads transfers (address, length); gives the octets of each, or nothing for a failed one.
    fn run(&mut self, transfers: &[(u64, u64)], host: Host) -> Vec<Option<Vec<u8>>> {
        let mut numbers = Numbers(3);
        let mut asked = 0;
        let mut flying: Vec<Burst> = Vec::new();
        let mut done = Vec::new();
        let mut octets = Vec::new();
        let mut idle = 0;
        while done.len() < transfers.len() {
            let now = self.model.clocks();
            let model = &mut self.model;
            let willing = |numbers: &mut Numbers| numbers.below(256) >= host.reluctance;

            let transfer = transfers.get(asked);
            model.put(self.req.0, u64::from(transfer.is_some()));
            let (address, len) = transfer.copied().unwrap_or_default();
            model.put(self.req.2, address);
            model.put(self.req.3, len);

            let take_burst = willing(&mut numbers);
            model.put(self.burst.1, u64::from(take_burst));
            let accept = willing(&mut numbers);
            model.put(self.out.1, u64::from(accept));

            // Any burst that is due may give its next line.
            let due: Vec<usize> = (0..flying.len())
                .filter(|at| flying[*at].due <= now)
                .collect();
            let mut sent = None;
            if !due.is_empty() && willing(&mut numbers) {
                let at = match host.jitter {
                    0 => due[0],
                    _ => due[numbers.below(due.len() as u64) as usize],
                };
                sent = Some(at);
                let burst = &flying[at];
                let line = (burst.address & !63) + 64 * burst.next_line;
                // Octets around the burst are none of its business.
                let data: Vec<u8> = (line..line + 64)
                    .map(
                        |at| match (burst.address..burst.address + burst.len).contains(&at) {
                            true => octet_at(at),
                            false => 0xee,
                        },
                    )
                    .collect();
                let last = line + 64 >= burst.address + burst.len;
                model.put(self.line.1, burst.tag);
                model.set(self.line.2, &data);
                model.put(self.line.3, u64::from(last));
                model.put(self.line.4, u64::from(burst.error));
            }
            model.put(self.line.0, u64::from(sent.is_some()));

            model.settle();
            if transfer.is_some() && model.high(self.req.1) {
                asked += 1;
            }
            if let Some(at) = sent {
                let burst = &mut flying[at];
                burst.next_line += 1;
                if (burst.address & !63) + 64 * burst.next_line >= burst.address + burst.len {
                    flying.remove(at);
                }
            }
            if take_burst && model.high(self.burst.0) {
                let (address, len) = (model.value(self.burst.2), model.value(self.burst.3));
                assert!(len > 0 && len <= 512);
                assert_eq!(address >> 12, (address + len - 1) >> 12, "a page boundary");
                let tag = model.value(self.burst.4);
                assert!(flying.iter().all(|burst| burst.tag != tag), "a tag twice");
                flying.push(Burst {
                    address,
                    len,
                    tag,
                    due: now + host.latency + numbers.below(host.jitter + 1),
                    next_line: 0,
                    error: host
                        .bad_address
                        .is_some_and(|bad| (address..address + len).contains(&bad)),
                });
                let in_flight = flying.iter().map(|burst| burst.len).sum();
                self.most_in_flight = self.most_in_flight.max(in_flight);
            }
            if accept && model.high(self.out.0) {
                let bytes = model.value(self.out.3) as usize;
                let last = model.high(self.out.4);
                assert!(bytes == 64 || last, "a beat that is not full");
                let mut data = [0; 64];
                model.copy(self.out.2, &mut data);
                octets.extend_from_slice(&data[..bytes]);
                if last {
                    let octets = std::mem::take(&mut octets);
                    done.push((!model.high(self.out.5)).then_some(octets));
                }
                idle = 0;
            }
            model.rise();
            idle += 1;
            assert!(idle < 5000, "the engine hangs");
        }
        assert!(flying.is_empty());
        done
    }
}

fn in_memory(transfer: &(u64, u64)) -> Vec<u8> {
    (transfer.0..transfer.0 + transfer.1)
        .map(octet_at)
        .collect()
}

fn random_transfers(count: usize, longest: u64) -> Vec<(u64, u64)> {
    let mut numbers = Numbers(5);
    (0..count)
        .map(|_| (numbers.below(1 << 40), 1 + numbers.below(longest)))
        .collect()
}

/// Any address, any length; answers overtake each other, and everybody hesitates.
#[test]
fn reads_are_delivered_whole_and_in_order() {
    for (longest, jitter, reluctance) in
        [(100, 0, 0), (9000, 300, 0), (300, 200, 100), (9000, 40, 60)]
    {
        let transfers = random_transfers(400, longest);
        let host = Host {
            latency: 50,
            jitter,
            reluctance,
            bad_address: None,
        };
        let done = Reader::new().run(&transfers, host);
        for (octets, transfer) in done.iter().zip(&transfers) {
            assert_eq!(octets.as_ref(), Some(&in_memory(transfer)), "{transfer:x?}");
        }
    }
}

#[test]
fn a_failed_burst_fails_its_transfer_and_no_other() {
    let mut transfers = random_transfers(60, 4000);
    for bad in [3, 31] {
        transfers[bad] = (0x7_0000_0ff0, 2000);
    }
    let host = Host {
        latency: 100,
        jitter: 100,
        reluctance: 20,
        bad_address: Some(0x7_0000_0ff0 + 700),
    };
    let done = Reader::new().run(&transfers, host);
    for (at, (octets, transfer)) in done.iter().zip(&transfers).enumerate() {
        match at {
            3 | 31 => assert_eq!(octets, &None),
            _ => assert_eq!(octets.as_ref(), Some(&in_memory(transfer))),
        }
    }
}

/// A microsecond of latency at 250 MHz does not matter: enough is in flight.
#[test]
fn reads_reach_60_octets_a_clock_at_250_clocks_of_latency() {
    let host = Host {
        latency: 250,
        jitter: 0,
        reluctance: 0,
        bad_address: None,
    };
    let transfers: Vec<_> = (0..200).map(|n| (0x10_0000 + n * 8192, 8192)).collect();
    let mut reader = Reader::new();
    let begun = reader.model.clocks();
    reader.run(&transfers, host);
    let clocks = reader.model.clocks() - begun;
    let rate = (200 * 8192) as f64 / (clocks - host.latency) as f64;
    println!(
        "{rate:.1} octets a clock; {} octets in flight at most",
        reader.most_in_flight
    );
    assert!(rate >= 60.0);
}
