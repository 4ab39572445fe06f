// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A QAT function's rings and requests as a driver may write them that it should not trust.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use qat_regs::csr::{self, Layout};
use qat_regs::descriptor::{CIPHER_HEADER, CipherConfig, cipher, mode};
use qat_regs::message::{
    CommonFlags, HEADER_VALID, ListEntry, ListHead, Request, Response, ResponseStatus, command,
    service,
};
use qat_regs::{MISC_BAR, RING_BAR, mailbox, pfvf};
use sim::fault::FaultPlan;
use sim::qat::{Generation, HostMemory, Vf};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Where rings and data lie, and the host's memory ends.
const REQUESTS: u64 = 0x1000;
const RESPONSES: u64 = 0x2000;
const DESCRIPTOR: u64 = 0x2800;
const LIST: u64 = 0x2900;
const SOURCE: u64 = 0x3000;
const END: usize = 0x4000;
/// Octets of each ring.
const RING: u64 = 0x400;

/// Memory from address zero on, and accesses that are not to it.
struct Host {
    octets: RefCell<Vec<u8>>,
    strays: RefCell<Vec<u64>>,
}

impl Host {
    fn new() -> Self {
        Self {
            octets: RefCell::new(vec![0; END]),
            strays: RefCell::default(),
        }
    }

    fn access(&self, address: u64, len: usize, run: impl FnOnce(&mut [u8])) -> bool {
        let mut octets = self.octets.borrow_mut();
        let from = usize::try_from(address).unwrap();
        let end = from.checked_add(len);
        match end.and_then(|end| octets.get_mut(from..end)) {
            Some(octets) => run(octets),
            None => self.strays.borrow_mut().push(address),
        }
        end.is_some_and(|end| end <= END)
    }
}

impl HostMemory for Host {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.access(address, into.len(), |octets| into.copy_from_slice(octets))
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        self.access(address, from.len(), |octets| octets.copy_from_slice(from))
    }

    fn publish(&self, address: u64, value: u64) -> bool {
        self.write(address, &value.to_le_bytes())
    }
}

/// A function whose first pair is set up and served.
fn function() -> Vf {
    let mut vf = Vf::new(Generation::Virtual, FaultPlan::default());
    let layout = Layout::of(Generation::Virtual);
    for (ring, base) in [(0, REQUESTS), (4, RESPONSES)] {
        vf.write(RING_BAR, layout.base_low + ring, base as u32);
        vf.write(RING_BAR, layout.base_high + ring, 0);
        vf.write(RING_BAR, layout.config + ring, csr::request_config(RING));
    }
    vf.write(RING_BAR, csr::ARBITER, 1);
    vf
}

fn put(host: &Host, request: &Request) {
    assert!(host.write(REQUESTS, request.as_bytes()));
}

fn first_response(host: &Host) -> Response {
    let mut octets = [0; size_of::<Response>()];
    assert!(host.read(RESPONSES, &mut octets));
    Response::read_from_bytes(&octets).unwrap()
}

fn nothing() -> Request {
    Request {
        header_flags: HEADER_VALID,
        service: service::NULL,
        opaque: 7.into(),
        ..Request::new_zeroed()
    }
}

#[test]
fn a_ring_whose_head_or_tail_is_misplaced_is_not_served() {
    for (ring, register) in [
        (0, csr::HEAD),
        (0, csr::TAIL),
        (4, csr::HEAD),
        (4, csr::TAIL),
    ] {
        for value in [0xffff_ffe0, 0xffff_fff0, RING as u32, 0x10] {
            let (host, mut vf) = (Host::new(), function());
            put(&host, &nothing());

            vf.write(RING_BAR, csr::TAIL, size_of::<Request>() as u32);
            vf.write(RING_BAR, register + ring, value);
            let served = vf.serve(&host, 16);
            let what = format!("{register:#x} of ring {ring}: {value:#x}");
            assert_eq!(vf.counters().requests, 0, "{what}");
            assert!(!served.more, "{what}");
            assert!(host.strays.borrow().is_empty(), "{what}");
            assert!(
                host.octets.borrow()[RESPONSES as usize..]
                    .iter()
                    .all(|octet| *octet == 0)
            );
        }
    }
}

#[test]
fn a_ring_that_is_set_up_well_is_served() {
    let (host, mut vf) = (Host::new(), function());
    put(&host, &nothing());
    vf.write(RING_BAR, csr::TAIL, size_of::<Request>() as u32);
    vf.serve(&host, 16);
    let response = first_response(&host);
    assert_eq!((response.opaque.get(), response.status), (7, 0));
    assert!(host.strays.borrow().is_empty());
}

/// What a request comes to that enciphers a block into this place.
fn enciphered_to(destination: u64, list: Option<u64>) -> ResponseStatus {
    let (host, mut vf) = (Host::new(), function());
    let config = CipherConfig {
        algorithm: cipher::AES_128,
        mode: mode::CTR,
        decrypts: false,
        converts_key: false,
        tag_len: 0,
    };
    assert!(host.write(DESCRIPTOR, &config.word().to_le_bytes()));
    for (at, address) in [(LIST, Some(SOURCE)), (LIST + 0x80, list)] {
        let head = ListHead {
            entries: 1.into(),
            ..ListHead::new_zeroed()
        };
        let entry = ListEntry {
            len: 16.into(),
            reserved: 0.into(),
            address: address.unwrap_or(SOURCE).into(),
        };
        assert!(host.write(at, head.as_bytes()));
        assert!(host.write(at + size_of::<ListHead>() as u64, entry.as_bytes()));
    }
    let (source, flags) = match list {
        Some(_) => (LIST, CommonFlags::LISTS),
        None => (SOURCE, CommonFlags::empty()),
    };
    put(
        &host,
        &Request {
            command: command::CIPHER,
            service: service::CRYPTO,
            common_flags: flags.bits(),
            descriptor: DESCRIPTOR.into(),
            descriptor_units: (CIPHER_HEADER + 16) as u8 / 8,
            source: source.into(),
            destination: destination.into(),
            source_len: 16.into(),
            destination_len: 16.into(),
            cipher_len: 16.into(),
            ..nothing()
        },
    );
    vf.write(RING_BAR, csr::TAIL, size_of::<Request>() as u32);
    vf.serve(&host, 16);
    assert_eq!(vf.counters().requests, 1);
    ResponseStatus::from_bits_retain(first_response(&host).status)
}

#[test]
fn a_destination_beyond_the_address_space_is_an_invalid_parameter() {
    let good = ResponseStatus::empty();
    assert_eq!(enciphered_to(SOURCE + 0x100, None), good);
    assert_eq!(enciphered_to(LIST + 0x80, Some(SOURCE + 0x100)), good);
    let invalid = ResponseStatus::INVALID_PARAMETER;
    for address in [u64::MAX, u64::MAX - 14, u64::MAX - 15] {
        assert_eq!(enciphered_to(address, None), invalid, "{address:#x}");
        assert_eq!(
            enciphered_to(LIST + 0x80, Some(address)),
            invalid,
            "{address:#x}"
        );
    }
}

/// A C62x function with a response that waits in the second pair's ring, and what it has been asked to
/// tell of.
fn function_that_would_interrupt(source: u32) -> (Host, Vf) {
    let (host, mut vf) = (Host::new(), Vf::new(Generation::Gen2, FaultPlan::default()));
    let layout = Layout::of(Generation::Gen2);
    let pair = 3;
    let response = layout.response_ring(pair);
    for (ring, base) in [(pair, REQUESTS), (response, RESPONSES)] {
        let ring = u64::from(ring) * 4;
        let base = (base >> layout.base_shift) as u32;
        vf.write(RING_BAR, layout.base_low + ring, base);
        vf.write(RING_BAR, layout.config + ring, csr::request_config(RING));
    }
    vf.write(RING_BAR, csr::ARBITER, 1 << pair);
    vf.write(RING_BAR, csr::INTERRUPT_SOURCE_UPPER, source);
    vf.write(RING_BAR, csr::INTERRUPT_TIMER, csr::TIMER_ON);
    vf.write(RING_BAR, csr::INTERRUPT_FLAG_AND_ENABLE, 1 << response);
    put(&host, &nothing());
    let tail = csr::TAIL + u64::from(pair) * 4;
    vf.write(RING_BAR, tail, size_of::<Request>() as u32);
    (host, vf)
}

#[test]
fn the_one_interrupt_of_a_c62x_waits_until_it_is_unmasked() {
    let (host, mut vf) = function_that_would_interrupt(csr::SOURCE_GEN2);
    assert_eq!(vf.serve(&host, 16).interrupts, []);
    assert_eq!(first_response(&host).opaque.get(), 7);
    let sources = vf.read(MISC_BAR, mailbox::SOURCES);
    assert_eq!(sources, mailbox::SOURCE_BUNDLE);
    assert!(vf.write(MISC_BAR, mailbox::MASK, mailbox::SOURCE_MESSAGE));
    assert_eq!(vf.serve(&host, 16).interrupts, [(0, 1)]);
    // Once, until it is armed anew.
    assert_eq!(vf.serve(&host, 16).interrupts, []);
    vf.write(RING_BAR, csr::INTERRUPT_FLAG_AND_ENABLE, 1 << 11);
    assert_eq!(vf.serve(&host, 16).interrupts, [(0, 1)]);
}

#[test]
fn a_ring_of_a_c62x_whose_source_is_not_chosen_interrupts_nobody() {
    // Rings 8, 9 and 10 are chosen, and not the eleventh.
    let (host, mut vf) = function_that_would_interrupt(0x0444);
    vf.write(MISC_BAR, mailbox::MASK, 0);
    assert_eq!(vf.serve(&host, 16).interrupts, []);
    assert_eq!(first_response(&host).opaque.get(), 7);
}

#[test]
fn the_physical_function_s_answer_interrupts_where_that_is_not_masked() {
    let host = Host::new();
    for masked in [true, false] {
        let mut vf = Vf::new(Generation::Gen2, FaultPlan::default());
        if !masked {
            vf.write(MISC_BAR, mailbox::MASK, 0);
        }
        let question = mailbox::say(pfvf::kind::VERSION_REQUEST, pfvf::VERSION);
        assert_eq!(vf.write(MISC_BAR, mailbox::MAILBOX, question), !masked);
        assert!(mailbox::heard(vf.read(MISC_BAR, mailbox::MAILBOX)).is_some());
        let expected: &[_] = if masked { &[] } else { &[(0, 1)] };
        assert_eq!(vf.serve(&host, 16).interrupts, expected);
    }
}
