// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The data plane between two namespaces, in this process: what it allocates once it is warm.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use benches::counting::{Counting, allocations};
use esp::engine::{SoftwareConfig, SoftwareEngine};
use ikev2d::dataplane::{
    CopyDscp, Dataplane, DataplaneConfig, Encapsulation, InboundSa, InterfaceId, MssClamp,
    OutboundSa, Overhead, Way,
};
use ikev2d_proto::spi::Spis;
use netlab::Namespace;
use netlab::link::veth;
use offload_api::cache::CacheWriter;
use offload_api::device::Accelerator;
use offload_api::failover::{Failover, FailoverConfig};
use offload_api::sa::{Direction, KeyMaterial, SaParams, Spi, Suite, TrafficSelector};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Both SAs' SPIs, by who sends through them.
const SPIS: [u32; 2] = [0x1001, 0x1002];

fn selector(net: u8) -> TrafficSelector {
    TrafficSelector {
        start: [10, net, 0, 0].into(),
        end: [10, net, 0, 255].into(),
        protocol: 0,
        start_port: 0,
        end_port: u16::MAX,
    }
}

fn outer(number: u8) -> SocketAddr {
    SocketAddr::new([10, 77, 0, number].into(), 4500)
}

/// A gateway without IKE, which pads packets to so many octets.
fn gateway(
    namespace: &Namespace,
    own: u8,
    encapsulation: Encapsulation,
    tfc_padding: u16,
) -> Dataplane {
    let peer = 3 - own;
    let software = SoftwareEngine::new(SoftwareConfig {
        threads: 1,
        ..SoftwareConfig::default()
    });
    let cache = Arc::new(CacheWriter::create("allocations", 64).unwrap());
    let failover = Failover::new(
        None,
        Arc::new(software.unwrap()),
        cache,
        FailoverConfig::default(),
    );
    let suite = Suite::from_name("aes128gcm16").unwrap();
    let install = |sender: u8, direction| {
        let spi = Spi::new(SPIS[usize::from(sender) - 1]).unwrap();
        let keys = KeyMaterial::from_keymat(suite, &[sender; 20], &[]).unwrap();
        let sa = SaParams {
            tfc_padding: tfc_padding != 0,
            ..SaParams::tunnel(spi, direction, suite, keys)
        };
        failover.install(&sa).unwrap()
    };
    let (outbound, inbound) = (
        install(own, Direction::Outbound),
        install(peer, Direction::Inbound),
    );
    let accelerator: Arc<dyn Accelerator> = Arc::new(failover);
    let started = namespace.enter(|| {
        let raw = socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::ESP),
        );
        let config = DataplaneConfig {
            tun_name: "esp0".to_owned(),
            mtu: 1400,
            queues: 1,
            frames: 4096,
            udp: vec![UdpSocket::bind(outer(own)).unwrap()],
            raw: vec![raw.unwrap()],
            ah: Vec::new(),
            depth: 1024,
            mss_clamp: MssClamp::Auto,
            copy_dscp: CopyDscp::Out,
            busy_poll: Duration::ZERO,
            slice: None,
            cpus: Vec::new(),
            spis: Spis::default(),
        };
        Dataplane::start(config, &accelerator, |_| true)
    });
    let plane = started.unwrap().unwrap();
    namespace.ip("link set esp0 up").unwrap();
    namespace
        .route(&format!("10.{peer}.0.0/24 dev esp0 src 10.{own}.0.1"))
        .unwrap();
    plane.add_inbound(&InboundSa {
        spi: Spi::new(SPIS[usize::from(peer) - 1]).unwrap(),
        sa: inbound,
        selectors: [(selector(own), selector(peer))].into(),
        remote: outer(peer),
        transport: None,
        original: None,
        child: 1,
        interface: InterfaceId::MAIN,
    });
    plane.add_outbound(&OutboundSa {
        interface: InterfaceId::MAIN,
        share: None,
        spi: Spi::new(SPIS[usize::from(own) - 1]).unwrap(),
        sa: outbound,
        selectors: [(selector(own), selector(peer))].into(),
        way: Way {
            path: (outer(own), outer(peer)),
            encapsulation,
            overhead: Overhead::of(suite, encapsulation == Encapsulation::Udp),
            stream: None,
        },
        tfc_padding,
        child: 1,
    });
    plane
}

#[test]
fn a_warm_tunnel_allocates_nothing() {
    netlab::ensure_privileges().unwrap();
    for (encapsulation, tfc_padding) in [
        (Encapsulation::Udp, 0),
        (Encapsulation::Native, 0),
        (Encapsulation::Native, u16::MAX),
    ] {
        let [a, b] = ["a", "b"].map(|name| Namespace::new(name).unwrap());
        veth((&a, "wire"), (&b, "wire")).unwrap();
        for (namespace, own) in [(&a, 1), (&b, 2)] {
            let address = format!("10.77.0.{own}/24");
            namespace.address("wire", &address).unwrap();
            namespace
                .address("lo", &format!("10.{own}.0.1/32"))
                .unwrap();
        }
        let gateway = |namespace, own| gateway(namespace, own, encapsulation, tfc_padding);
        let (first, second) = (gateway(&a, 1), gateway(&b, 2));
        // A connection whose data are thrown away, and datagrams.
        let to: SocketAddr = "10.2.0.1:6000".parse().unwrap();
        let listener = b.enter(|| TcpListener::bind(to)).unwrap().unwrap();
        let mut stream = a.enter(|| TcpStream::connect(to)).unwrap().unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let reader = std::thread::spawn(move || {
            let mut room = vec![0; 1 << 16];
            let mut all = 0;
            while let Ok(read @ 1..) = far.read(&mut room) {
                all += read;
            }
            all
        });
        let socket = b.enter(|| UdpSocket::bind(to)).unwrap().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let sender = a.enter(|| UdpSocket::bind("10.1.0.1:0")).unwrap().unwrap();
        let (chunk, mut room) = (vec![7; 1 << 16], [0; 2000]);
        let mut round = |chunks: usize, datagrams: usize| {
            for _ in 0..chunks {
                stream.write_all(&chunk).unwrap();
            }
            for at in 0..datagrams {
                let octets = &chunk[..16 + at % 1300];
                sender.send_to(octets, to).unwrap();
                assert_eq!(socket.recv(&mut room).unwrap(), octets.len());
            }
        };
        // Here an SA's first packet makes the table of its AES-GCM key: its one allocation, of some 5.5 KiB,
        // that thousands of SAs which carry nothing go without.
        round(200, 1400);
        let packets = || first.stats().esp_sent + second.stats().esp_sent;
        let (before, sent) = (allocations(), packets());
        round(300, 3000);
        let (after, packets) = (allocations(), packets() - sent);
        drop(stream);
        assert_eq!(reader.join().unwrap(), 500 << 16);
        assert!(packets > 10_000, "{packets}");
        let label = format!("{encapsulation:?}, padded to {tfc_padding}");
        assert_eq!(after - before, 0, "{label}: in {packets} packets");
        println!("{label}: {packets} packets, nothing allocated");
    }
}
