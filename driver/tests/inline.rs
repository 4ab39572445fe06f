// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode by the driver, with captures and cables at the card's ports. The packets are those of
//! an independent implementation (scapy).
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::ipa::IpaCard;
use offload_api::device::Accelerator;
use offload_api::error::SaError;
use offload_api::inline::{Inline, PortRole, Rule};
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Numbering, OuterHeaders, SaHandle, SaParams, Spi, Suite,
    TrafficSelector, UdpEncapsulation,
};
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use sim::capture::CaptureConfig;
use sim::inline::InlineConfig;
use sim::port::PortSpec;
use sim::{CardConfig, RunningCard};

struct Rig {
    card: Arc<IpaCard>,
    simulated: RunningCard,
}

impl Rig {
    fn new(socket: PathBuf, wire: &str, host: &str) -> Self {
        Self::with(socket, wire, host, |_| {})
    }

    fn with(socket: PathBuf, wire: &str, host: &str, adjust: impl FnOnce(&mut CardConfig)) -> Self {
        let mut config = CardConfig::new(socket);
        config.inline = Some(InlineConfig {
            wire: wire.parse().unwrap(),
            host: host.parse().unwrap(),
            exception: PortSpec::None,
        });
        // The same on the RTL.
        #[cfg(feature = "rtl")]
        if on_rtl() {
            config.rtl = Some(sim::BusTiming::default());
        }
        adjust(&mut config);
        let simulated = RunningCard::start(&config).unwrap();
        let address = format!("vfio-user:{}", config.socket.display());
        let card = driver::open(&address.parse().unwrap()).unwrap();
        Self { card, simulated }
    }

    fn inline(&self) -> &dyn Inline {
        self.card.inline().unwrap()
    }

    /// A counter of a port, when it has come as far.
    fn await_count(
        &self,
        role: PortRole,
        least: u64,
        counter: fn(&offload_api::inline::Port) -> u64,
    ) {
        let start = Instant::now();
        loop {
            let ports = self.inline().ports().unwrap();
            let port = ports.iter().find(|port| port.role == role).unwrap();
            if counter(port) >= least {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{ports:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end(self) {
        self.simulated.stop().unwrap();
    }
}

/// Whether the cards are to be in RTL.
fn on_rtl() -> bool {
    cfg!(feature = "rtl") && std::env::var_os("RTL_CARD").is_some()
}

fn selector(start: IpAddr, end: IpAddr) -> TrafficSelector {
    TrafficSelector {
        start,
        end,
        protocol: 0,
        start_port: 0,
        end_port: u16::MAX,
    }
}

fn everything(packet: &[u8]) -> TrafficSelector {
    match packet[0] >> 4 {
        4 => selector([0; 4].into(), [255; 4].into()),
        _ => selector([0; 16].into(), [255; 16].into()),
    }
}

fn rule(sa: SaHandle, inbound: bool, all: TrafficSelector) -> Rule {
    Rule {
        sa,
        inbound,
        priority: 0,
        source: all,
        destination: all,
    }
}

fn octets(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn frame(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 6 {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    };
    [&[2; 12][..], &kind, packet].concat()
}

fn write_frames(path: &Path, frames: &[Vec<u8>]) {
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
}

fn read_frames(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.to_vec());
    }
    frames
}

fn vectors() -> Vec<Value> {
    let text = include_str!("../../offload-api/src/conformance/vectors/scapy.json");
    let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
    vectors
        .into_iter()
        .filter(|vector| vector["mode"] != "transport" && vector["esn"] == false)
        .filter(|vector| !on_rtl() || is_rtl_suite(vector["suite"].as_str().unwrap()))
        .collect()
}

/// AES-GCM with a whole ICV is all that the RTL has.
fn is_rtl_suite(name: &str) -> bool {
    let suite = Suite::from_name(name).unwrap();
    [Suite::AES_128_GCM, Suite::AES_256_GCM].contains(&suite)
}

fn params(vector: &Value, direction: Direction) -> SaParams {
    let suite = Suite::from_name(vector["suite"].as_str().unwrap()).unwrap();
    let (key, integrity) = (octets(&vector["key"]), octets(&vector["integrity_key"]));
    let outer = |source: &str, destination: &str, udp| OuterHeaders {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        udp,
    };
    SaParams {
        esn: false,
        replay_window: if direction == Direction::Inbound {
            64
        } else {
            0
        },
        numbering: Numbering::Granted(match direction {
            Direction::Outbound => Some(Grant {
                first: 1,
                last: 1000,
            }),
            Direction::Inbound => None,
        }),
        outer: Some(match vector["mode"].as_str().unwrap() {
            "tunnel6" => outer("2001:db8::1", "2001:db8::2", None),
            "tunnel4" => outer("192.0.2.1", "192.0.2.2", None),
            _ => outer(
                "192.0.2.1",
                "192.0.2.2",
                Some(UdpEncapsulation {
                    source_port: 4500,
                    destination_port: 4500,
                }),
            ),
        }),
        ..SaParams::tunnel(
            Spi::new(vector["spi"].as_u64().unwrap() as u32).unwrap(),
            direction,
            suite,
            KeyMaterial::from_keymat(suite, &key, &integrity).unwrap(),
        )
    }
}

#[test]
fn packets_of_another_implementation_come_out_at_the_host_port() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let native = vectors().into_iter().filter(|v| v["mode"] != "tunnel4udp");
    for (number, vector) in native.step_by(3).enumerate() {
        let (sealed, plain) = (octets(&vector["sealed"]), octets(&vector["plain"]));
        let mut forged = sealed.clone();
        *forged.last_mut().unwrap() ^= 1;
        write_frames(
            &file("in.pcap"),
            &[
                frame(&forged),
                frame(&sealed),
                frame(&sealed),
                frame(&plain),
            ],
        );
        let rig = Rig::new(
            file(&format!("card-{number}")),
            &format!("pcap:in={}", file("in.pcap").display()),
            &format!("pcap:out={}", file("host.pcap").display()),
        );
        let sa = rig
            .card
            .install(&params(&vector, Direction::Inbound))
            .unwrap();
        let led = rig.inline().add_rule(&rule(sa, true, everything(&plain)));
        led.unwrap();
        rig.await_count(PortRole::Wire, 4, |port| port.received);
        rig.await_count(PortRole::Wire, 2, |port| port.refused);
        rig.await_count(PortRole::Wire, 1, |port| port.exceptions);
        rig.await_count(PortRole::Host, 1, |port| port.sent);
        rig.end();
        let frames = read_frames(&file("host.pcap"));
        assert_eq!(
            frames.len(),
            1,
            "the forged and the repeated one are not delivered"
        );
        assert_eq!(frames[0][14..], plain, "{}", vector["suite"]);
    }
}

#[test]
fn two_cards_by_a_cable_carry_what_their_rules_say() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let vector = &vectors()[0];
    let plain = octets(&vector["plain"]);
    let mut frames: Vec<_> = std::iter::repeat_n(frame(&plain), 50).collect();
    // One in the midst that no buffer holds.
    let mut large = frame(&plain);
    large.resize(8000, 0);
    frames.insert(20, large);
    write_frames(&file("a-in.pcap"), &frames);
    let cable = format!("cable:{}", file("cable").display());
    let receiver = Rig::new(
        file("card-b"),
        &cable,
        &format!("pcap:out={}", file("b-out.pcap").display()),
    );
    let open = receiver
        .card
        .install(&params(vector, Direction::Inbound))
        .unwrap();
    let all = everything(&plain);
    let led = receiver.inline().add_rule(&rule(open, true, all)).unwrap();

    let sender = Rig::new(
        file("card-a"),
        &cable,
        &format!("pcap:in={}", file("a-in.pcap").display()),
    );
    let seal = sender
        .card
        .install(&params(vector, Direction::Outbound))
        .unwrap();
    // A rule must fit its SA's direction, and its SA must be there.
    let wrong = sender.inline().add_rule(&rule(seal, true, all));
    assert!(
        matches!(wrong, Err(SaError::NotApplicable { .. })),
        "{wrong:?}"
    );
    sender.inline().add_rule(&rule(seal, false, all)).unwrap();
    // Nobody has shown the way on this wire: each is counted, none leaves.
    sender.await_count(PortRole::Wire, 50, |port| port.no_neighbour);
    sender.await_count(PortRole::Host, 1, |port| port.too_big);
    assert_eq!(sender.card.usage(seal).unwrap().packets, 50);
    // Octets of inner packets, as of a queue pair.
    let octets = 50 * plain.len() as u64;
    assert_eq!(sender.card.counters().sealed_bytes, octets);

    // A rule goes when it is removed, and with its SA.
    receiver.inline().remove_rule(led).unwrap();
    receiver.inline().remove_rule(led).unwrap();
    receiver.card.retire(open).unwrap();
    let stale = receiver.inline().add_rule(&rule(open, true, all));
    assert_eq!(stale, Err(SaError::Stale));
    sender.end();
    receiver.end();
}

#[test]
fn a_capture_in_inline_mode_has_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let vector = &vectors()[0];
    let (sealed, plain) = (octets(&vector["sealed"]), octets(&vector["plain"]));
    write_frames(&file("in.pcap"), &[frame(&sealed)]);
    let rig = Rig::with(
        file("card"),
        &format!("pcap:in={}", file("in.pcap").display()),
        &format!("pcap:out={}", file("host.pcap").display()),
        |config| config.capture = Some(CaptureConfig::new(file("card.pcapng"))),
    );
    let sa = rig.card.install(&params(vector, Direction::Inbound));
    let led = rule(sa.unwrap(), true, everything(&plain));
    rig.inline().add_rule(&led).unwrap();
    rig.await_count(PortRole::Host, 1, |port| port.sent);
    rig.end();
    let mut reader = PcapNgReader::new(File::open(file("card.pcapng")).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(shown) = block.unwrap() {
            packets.push((shown.interface_id, shown.data.to_vec()));
        }
    }
    assert_eq!(packets, [(1, sealed), (0, plain)]);
}

#[test]
fn a_wire_at_a_pace_brings_frames_no_faster_than_its_line() {
    const FRAMES: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let vector = &vectors()[0];
    let mut sealed = frame(&octets(&vector["sealed"]));
    sealed.resize(1000, 0);
    let frames = vec![sealed; FRAMES as usize];
    write_frames(&dir.path().join("in.pcap"), &frames);
    let rig = Rig::with(
        dir.path().join("card"),
        &format!("pcap:in={}", dir.path().join("in.pcap").display()),
        "none",
        |config| config.pace.rate = Some("2M".parse().unwrap()),
    );
    let sa = params(vector, Direction::Inbound);
    let sa = rig.card.install(&sa).unwrap();
    let plain = octets(&vector["plain"]);
    let start = Instant::now();
    let all = everything(&plain);
    rig.inline().add_rule(&rule(sa, true, all)).unwrap();
    rig.await_count(PortRole::Wire, FRAMES, |port| port.received);
    // With FCS, preamble and gap.
    let exact = Duration::from_micros(FRAMES * (1000 + 24) * 8 / 2);
    let took = start.elapsed();
    println!("{took:?}, exactly {exact:?}");
    assert!(took >= exact, "{took:?}");
    rig.end();
}

#[test]
fn a_card_without_ports_is_not_in_inline_mode() {
    let dir = tempfile::tempdir().unwrap();
    let config = CardConfig::new(dir.path().join("card"));
    let _simulated = RunningCard::start(&config).unwrap();
    let address = format!("vfio-user:{}", config.socket.display());
    let card = driver::open(&address.parse().unwrap()).unwrap();
    assert!(card.inline().is_none());
}
