// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Dummy packets (RFC 4303 §2.6), and inner packets whose length lies, at a gateway: what becomes of them once
//! they are authentic.

mod gateway;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;

use esp::packet::{PacketBuffer, SlicePacket};
use esp::transform::Transform;
use gateway::{Gateway, Wire};
use offload_api::sa::{Direction, KeyMaterial, Mode, SaParams, Spi, Suite};
use offload_api::wire::esp::NEXT_HEADER_DUMMY;
use offload_api::wire::ip::{PROTOCOL_IPV4, PROTOCOL_UDP};

const SUITE: &str = "aes256-sha256";
const SPI: u32 = 0x1001;
/// Of what comes in, to encipher and to authenticate; nothing goes out.
const KEYS: [[u8; 32]; 2] = [
    *b"0f2d8a416be9735cd18e04f7a3b95c62",
    *b"7e91c05ba64f38d2fa1360e78b2c94d5",
];
/// Another key each.
const UNUSED: [[u8; 32]; 2] = [
    *b"b83af1469d27ce50184be9f73a60d2c5",
    *b"45d0e9a7f26b381c9ef0573d8ab41c62",
];

/// An IPv4 packet of this protocol and payload, between the protected addresses.
fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend([10, 2, 0, 1, 10, 1, 0, 1]);
    let sum = offload_api::wire::ip::checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A datagram to a port without a checksum.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let words = [7007, port, len, 0].map(u16::to_be_bytes);
    packet(PROTOCOL_UDP, &[words.as_flattened(), payload].concat())
}

/// The peer, which seals whatever it likes: in transport mode a packet's protocol becomes the next header,
/// and any octets its payload.
struct Peer {
    transform: Transform,
    socket: UdpSocket,
    number: u64,
}

impl Peer {
    fn new(wire: &Wire) -> Self {
        let suite = Suite::from_name(SUITE).unwrap();
        let keys = KeyMaterial::from_keymat(suite, &KEYS[0], &KEYS[1]).unwrap();
        let spi = Spi::new(SPI).unwrap();
        let sa = SaParams {
            mode: Mode::Transport,
            esn: false,
            ..SaParams::tunnel(spi, Direction::Outbound, suite, keys)
        };
        let bind = || UdpSocket::bind("10.77.0.2:4500").unwrap();
        Self {
            transform: Transform::new(&sa).unwrap(),
            socket: wire.b.enter(bind).unwrap(),
            number: 0,
        }
    }

    /// An ESP packet.
    fn seal(&mut self, next_header: u8, payload: &[u8]) -> Vec<u8> {
        self.number += 1;
        let plain = packet(next_header, payload);
        let mut buffer = vec![0; 64 + plain.len() + 64];
        buffer[64..64 + plain.len()].copy_from_slice(&plain);
        let mut sealed = SlicePacket::new(&mut buffer, 64, plain.len()).unwrap();
        let mut context = self.transform.take_context().unwrap();
        // What each begins with is no secret here.
        let iv = [self.number as u8; 16];
        let number = self.number;
        let sealing = self
            .transform
            .seal(&mut context, number, Some(&iv), &mut sealed);
        sealing.unwrap();
        sealed.packet()[20..].to_vec()
    }

    fn send(&self, esp: &[u8]) {
        let to: SocketAddr = "10.77.0.1:4500".parse().unwrap();
        self.socket.send_to(esp, to).unwrap();
    }
}

/// B37: dummies are counted and go no further, and only those that are authentic and no replays are dummies;
/// padding stays out of what is delivered.
#[test]
fn dummies_are_counted_and_discarded_once_they_are_authentic() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let keys = directory.path().join("keys");
    let [encryption, integrity] = KEYS.map(hex::encode);
    let [other, further] = UNUSED.map(hex::encode);
    let table = format!(
        "encryption_in = \"{encryption}\"\nintegrity_in = \"{integrity}\"\n\
         encryption_out = \"{other}\"\nintegrity_out = \"{further}\"\n"
    );
    fs::write(&keys, table).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let state = directory.path().join("state");
    let configuration = format!(
        "state_directory = {state:?}\n[manual.site]\nlocal = \"10.77.0.1\"\nremote = \"10.77.0.2\"\n\
         local_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/24\"]\nencap = true\n\
         suite = \"{SUITE}\"\nspi_in = \"{SPI:x}\"\nspi_out = \"1002\"\nkeys_file = {keys:?}\nesn = false\n"
    );
    let a = Gateway::ikev2d_with(&wire.a, &directory.path().join("a"), &configuration);
    // When it answers, its SAs are there.
    a.swanctl(&["--list-sas"]);
    let mut peer = Peer::new(&wire);
    let at = "10.1.0.1:7";
    let receiver = wire.a.enter(|| UdpSocket::bind(at).unwrap()).unwrap();
    let patience = std::time::Duration::from_secs(10);
    receiver.set_read_timeout(Some(patience)).unwrap();
    let mut room = [0; 2000];

    let mut expected = BTreeMap::from([
        ("dummies", 0),
        ("replayed", 0),
        ("bad-icv", 0),
        ("refused", 0),
    ]);
    let mut delivered = 0;
    for len in [0, 1, 40, 1200] {
        let mut dummy = peer.seal(NEXT_HEADER_DUMMY, &vec![0xa5; len]);
        peer.send(&dummy);
        peer.send(&dummy);
        let mut forged = peer.seal(NEXT_HEADER_DUMMY, &vec![0xa5; len]);
        *forged.last_mut().unwrap() ^= 1;
        peer.send(&forged);
        // An inner packet that ends before its own length, and one with as much behind it.
        let inner = datagram(7, &vec![0x5a; len]);
        dummy = peer.seal(PROTOCOL_IPV4, &inner[..inner.len() - 1]);
        peer.send(&dummy);
        let padded = peer.seal(PROTOCOL_IPV4, &[&inner[..], &[0xa5; 100]].concat());
        peer.send(&padded);
        let received = receiver.recv(&mut room);
        let told = || format!("{:?}\n{}", a.statistics(), a.tail());
        let received = received.unwrap_or_else(|error| panic!("{error}: {}", told()));
        assert_eq!(room[..received], vec![0x5a; len]);
        delivered += 1;
        expected.values_mut().for_each(|count| *count += 1);
        let counted = |counts: &BTreeMap<String, u64>| {
            expected.iter().all(|(name, count)| counts[*name] == *count)
        };
        a.wait_statistics("each of them once", counted);
    }
    assert_eq!(a.statistics()["tun-sent"], delivered);
}
