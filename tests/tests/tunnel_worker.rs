// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker of the data plane by itself: one that a source keeps busy without end, and packets that come before their
//! SA.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esp::engine::{SoftwareConfig, SoftwareEngine};
use ikev2d::dataplane::{
    CopyDscp, Dataplane, DataplaneConfig, DataplaneStats, InboundSa, InterfaceId, MssClamp,
};
use ikev2d_crypto::OpensslCrypto;
use ikev2d_proto::event::StreamId;
use ikev2d_proto::spi::{OwnSpi, Spis};
use netlab::Namespace;
use offload_api::device::Accelerator;
use offload_api::sa::{Direction, KeyMaterial, SaParams, Spi, Suite};
use offload_api::wrap::{Captured, PacketSink, Seen};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};

const SPI: u32 = 0x1001;
const STREAM: StreamId = StreamId(NonZeroU32::MIN);

/// Brings another packet by TCP whenever the worker has given one to its engine.
#[derive(Clone, Default)]
struct Endless(Arc<Mutex<Option<Arc<Dataplane>>>>);

impl PacketSink for Endless {
    fn packet(&mut self, _: &Seen<'_>) {
        if let Some(plane) = &*self.0.lock().unwrap() {
            bring(plane);
        }
    }
}

/// Looks at nothing.
struct Nothing;

impl PacketSink for Nothing {
    fn packet(&mut self, _: &Seen<'_>) {}
}

/// One that is not authentic.
fn packet(spi: u32) -> [u8; 64] {
    let mut packet = [7; 64];
    packet[..4].copy_from_slice(&spi.to_be_bytes());
    packet
}

/// TCP brings a packet of the SA.
fn bring(plane: &Dataplane) {
    plane.take_streamed(STREAM, &packet(SPI));
}

fn wait(plane: &Dataplane, what: &str, until: impl Fn(&DataplaneStats) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !until(&plane.stats()) {
        assert!(Instant::now() < end, "{what}: {:?}", plane.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One that a peer is told.
fn promise(spis: &Spis) -> OwnSpi {
    spis.take(&OpensslCrypto::new().unwrap())
}

/// A host with a data plane of one worker, which leads packets for 10.2.0.0/24 to the tunnel.
struct Host {
    namespace: Namespace,
    accelerator: Arc<dyn Accelerator>,
    plane: Arc<Dataplane>,
}

/// Where packets are sent to.
fn own() -> SocketAddr {
    "10.77.0.1:4500".parse().unwrap()
}

fn raw(namespace: &Namespace) -> OwnedFd {
    let (family, kind) = (AddressFamily::INET, SocketType::RAW);
    let socket = || socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::ESP));
    namespace.enter(socket).unwrap().unwrap()
}

impl Host {
    /// With SPIs that peers know, and with each operation shown to this.
    fn new(spis: &Spis, sink: Box<dyn PacketSink>) -> Self {
        netlab::ensure_privileges().unwrap();
        let namespace = Namespace::new("a").unwrap();
        namespace.address("lo", "10.77.0.1/32").unwrap();
        let software = SoftwareEngine::new(SoftwareConfig {
            threads: 1,
            ..SoftwareConfig::default()
        });
        let accelerator = Captured::new(Arc::new(software.unwrap()), sink);
        let accelerator: Arc<dyn Accelerator> = Arc::new(accelerator);
        let raw = raw(&namespace);
        let started = namespace.enter(|| {
            let config = DataplaneConfig {
                tun_name: "esp0".to_owned(),
                mtu: 1400,
                queues: 1,
                frames: 1024,
                udp: vec![UdpSocket::bind(own()).unwrap()],
                raw: vec![raw],
                ah: Vec::new(),
                depth: 256,
                mss_clamp: MssClamp::Auto,
                copy_dscp: CopyDscp::Out,
                busy_poll: Duration::ZERO,
                slice: None,
                cpus: Vec::new(),
                spis: spis.clone(),
            };
            Dataplane::start(config, &accelerator, |_| true)
        });
        namespace.ip("link set esp0 up").unwrap();
        namespace.route("10.2.0.0/24 dev esp0").unwrap();
        Self {
            namespace,
            accelerator,
            plane: Arc::new(started.unwrap().unwrap()),
        }
    }

    /// Receives by an SPI from now on.
    fn add_inbound(&self, spi: u32) {
        let suite = Suite::from_name("aes128gcm16").unwrap();
        let spi = Spi::new(spi).unwrap();
        let keys = KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap();
        let sa = SaParams::tunnel(spi, Direction::Inbound, suite, keys);
        self.plane.add_inbound(&InboundSa {
            spi,
            sa: self.accelerator.install(&sa).unwrap(),
            selectors: [].into(),
            remote: own(),
            transport: None,
            original: None,
            child: 1,
            interface: InterfaceId::MAIN,
        });
    }

    fn udp(&self) -> UdpSocket {
        let socket = || UdpSocket::bind("10.77.0.1:0");
        self.namespace.enter(socket).unwrap().unwrap()
    }
}

/// B19: what TCP brings in memory hides neither what the kernel has for the TUN nor what is at a socket.
#[test]
fn tcp_without_end_hides_neither_the_tun_nor_sockets() {
    let endless = Endless::default();
    let host = Host::new(&Spis::default(), Box::new(endless.clone()));
    let plane = &host.plane;
    host.add_inbound(SPI);
    *endless.0.lock().unwrap() = Some(plane.clone());
    bring(plane);
    wait(plane, "no packet after packet", |now| now.bad_icv > 1000);

    let sender = host.udp();
    let before = plane.stats();
    // A NAT keepalive (RFC 3948 §4), and what no SA is for.
    sender.send_to(&[0xff], own()).unwrap();
    wait(plane, "a socket", |now| now.ignored > before.ignored);
    sender.send_to(b"ping", "10.2.0.1:7").unwrap();
    wait(plane, "the TUN", |now| now.no_policy > before.no_policy);
    assert!(plane.stats().bad_icv > before.bad_icv);

    // Its worker, which is waited for when it is dropped, must not be the one to drop it.
    endless.0.lock().unwrap().take();
}

/// S78: by whatever they come, packets of an SA that the peer may already send by are opened once it is there;
/// nobody's do not wait.
#[test]
fn packets_wait_for_the_sa_that_is_promised() {
    let spis = Spis::default();
    let spi = promise(&spis);
    // One that is another's.
    assert!(spis.reserve(SPI));
    let host = Host::new(&spis, Box::new(Nothing));
    let plane = &host.plane;
    plane.take_streamed(STREAM, &packet(spi.value()));
    wait(plane, "what TCP has brought", |now| now.esp_received == 1);
    host.udp().send_to(&packet(spi.value()), own()).unwrap();
    wait(plane, "UDP", |now| now.esp_received == 2);
    let raw = raw(&host.namespace);
    let to = "10.77.0.1:0".parse::<SocketAddr>().unwrap();
    for spi in [spi.value(), SPI] {
        sendto(&raw, &packet(spi), SendFlags::empty(), &to).unwrap();
    }
    // The last, when the worker has the others.
    wait(plane, "nobody's", |now| now.unknown_spi == 1);
    assert_eq!((plane.stats().early, plane.stats().bad_icv), (0, 0));
    host.add_inbound(spi.value());
    // They are not authentic, which their SA has found.
    wait(plane, "those before it", |now| now.bad_icv == 3);
    assert_eq!((plane.stats().early, plane.stats().unknown_spi), (3, 1));
}

/// S78: neither without bound, nor for ever.
#[test]
fn few_wait_for_an_sa_and_not_long() {
    const SENT: u64 = 400;
    let spis = Spis::default();
    let promised = promise(&spis);
    let spi = promised.value();
    let host = Host::new(&spis, Box::new(Nothing));
    let (plane, sender) = (&host.plane, host.udp());
    let begin = Instant::now();
    for _ in 0..SENT {
        sender.send_to(&packet(spi), own()).unwrap();
    }
    wait(plane, "all", |now| now.esp_received == SENT);
    wait(plane, "those too many", |now| now.unknown_spi == SENT - 256);
    wait(plane, "the others", |now| now.unknown_spi == SENT);
    assert!(begin.elapsed() >= Duration::from_secs(5));
    // Nor are others' taken for them.
    host.add_inbound(spi);
    sender.send_to(&packet(spi), own()).unwrap();
    wait(plane, "one in time", |now| now.bad_icv == 1);
    assert_eq!(plane.stats().early, 0);
}
