// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker of the data plane that one source keeps busy without end.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use esp::engine::{SoftwareConfig, SoftwareEngine};
use ikev2d::dataplane::{
    CopyDscp, Dataplane, DataplaneConfig, DataplaneStats, InboundSa, InterfaceId, MssClamp,
};
use ikev2d_proto::event::StreamId;
use netlab::Namespace;
use offload_api::device::Accelerator;
use offload_api::sa::{Direction, KeyMaterial, SaParams, Spi, Suite};
use offload_api::wrap::{Captured, PacketSink, Seen};

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

/// A packet of the SA, which is not authentic.
fn bring(plane: &Dataplane) {
    let mut packet = [7; 64];
    packet[..4].copy_from_slice(&SPI.to_be_bytes());
    plane.take_streamed(STREAM, &packet);
}

fn wait(plane: &Dataplane, what: &str, until: impl Fn(&DataplaneStats) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !until(&plane.stats()) {
        assert!(Instant::now() < end, "{what}: {:?}", plane.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// B19: what TCP brings in memory hides neither what the kernel has for the TUN nor what is at a socket.
#[test]
fn tcp_without_end_hides_neither_the_tun_nor_sockets() {
    netlab::ensure_privileges().unwrap();
    let host = Namespace::new("a").unwrap();
    host.address("lo", "10.77.0.1/32").unwrap();
    let software = SoftwareEngine::new(SoftwareConfig {
        threads: 1,
        ..SoftwareConfig::default()
    });
    let endless = Endless::default();
    let sink = Box::new(endless.clone());
    let accelerator = Captured::new(Arc::new(software.unwrap()), sink);
    let accelerator: Arc<dyn Accelerator> = Arc::new(accelerator);
    let suite = Suite::from_name("aes128gcm16").unwrap();
    let spi = Spi::new(SPI).unwrap();
    let keys = KeyMaterial::from_keymat(suite, &[1; 20], &[]).unwrap();
    let sa = SaParams::tunnel(spi, Direction::Inbound, suite, keys);
    let sa = accelerator.install(&sa).unwrap();
    let own: SocketAddr = "10.77.0.1:4500".parse().unwrap();
    let started = host.enter(|| {
        let config = DataplaneConfig {
            tun_name: "esp0".to_owned(),
            mtu: 1400,
            queues: 1,
            frames: 1024,
            udp: vec![UdpSocket::bind(own).unwrap()],
            raw: Vec::new(),
            ah: Vec::new(),
            depth: 256,
            mss_clamp: MssClamp::Auto,
            copy_dscp: CopyDscp::Out,
            busy_poll: Duration::ZERO,
            slice: None,
            cpus: Vec::new(),
        };
        Dataplane::start(config, &accelerator, |_| true)
    });
    let plane = Arc::new(started.unwrap().unwrap());
    host.ip("link set esp0 up").unwrap();
    host.route("10.2.0.0/24 dev esp0").unwrap();
    plane.add_inbound(&InboundSa {
        spi,
        sa,
        selectors: [].into(),
        remote: own,
        transport: None,
        original: None,
        child: 1,
        interface: InterfaceId::MAIN,
    });
    *endless.0.lock().unwrap() = Some(plane.clone());
    bring(&plane);
    wait(&plane, "no packet after packet", |now| now.bad_icv > 1000);

    let sender = host.enter(|| UdpSocket::bind("10.77.0.1:0")).unwrap();
    let sender = sender.unwrap();
    let before = plane.stats();
    // A NAT keepalive (RFC 3948 §4), and what no SA is for.
    sender.send_to(&[0xff], own).unwrap();
    wait(&plane, "a socket", |now| now.ignored > before.ignored);
    sender.send_to(b"ping", "10.2.0.1:7").unwrap();
    wait(&plane, "the TUN", |now| now.no_policy > before.no_policy);
    assert!(plane.stats().bad_icv > before.bad_icv);

    // Its worker, which is waited for when it is dropped, must not be the one to drop it.
    endless.0.lock().unwrap().take();
}
