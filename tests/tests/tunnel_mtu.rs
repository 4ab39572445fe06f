// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets that don't fit: who is told what, what TCP is told beforehand, and what passes in pieces.

mod gateway;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::{Gateway, PATIENCE, SECRET, Wire, ours};
use netlab::Namespace;
use netlab::link::veth;
use netlab::traffic::Bulk;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::TcpMaxSeg;

const IKE: &str = "aes256gcm16-prfsha384-x25519";
const ESP: &str = "aes256gcm16-esn";
const A: &str = "10.1.0.1";
const B: &str = "10.2.0.1";

/// What AES-GCM in UDP leaves of an IPv4 path's MTU: outer header, UDP, ESP, IV and ICV off, and the
/// trailer's two octets of what is aligned to four.
fn inner(outer: usize, udp: bool) -> usize {
    let udp = if udp { 8 } else { 0 };
    (outer - 20 - udp - 8 - 8 - 16) / 4 * 4 - 2
}

fn start(namespace: &Namespace, directory: &Path, tun: &str, connection: &str) -> Gateway {
    let secret = format!("[secrets.ike-1]\nsecret = \"{SECRET}\"\n");
    let configuration = format!("{connection}\n{secret}");
    Gateway::ikev2d_tun(namespace, directory, tun, &configuration)
}

/// Both gateways, and the tunnel between them; IPv6 inside too.
fn pair(wire: &Wire, directory: &Path, tun: &str, more: &str) -> (Gateway, Gateway) {
    let tun = format!("name = \"esp0\", queues = 1, {tun}");
    let configuration = |own: u8| {
        let mut text = ours(own, IKE, ESP, more, "");
        for number in [1, 2] {
            text = text.replace(
                &format!("\"10.{number}.0.0/24\""),
                &format!("\"10.{number}.0.0/24\", \"fd0{number}::/16\""),
            );
        }
        text
    };
    for (namespace, number) in [(&wire.a, 1), (&wire.b, 2)] {
        namespace
            .address("lo", &format!("fd0{number}::1/128"))
            .unwrap();
    }
    let a = start(&wire.a, &directory.join("a"), &tun, &configuration(1));
    let b = start(&wire.b, &directory.join("b"), &tun, &configuration(2));
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("before anything large");
    (a, b)
}

/// What ping says of one packet with this payload.
fn ping(
    namespace: &Namespace,
    from: &str,
    to: &str,
    whole: bool,
    payload: usize,
) -> (bool, String) {
    let payload = payload.to_string();
    let output = namespace
        .command("ping")
        .args([
            "-n",
            "-c",
            "1",
            "-W",
            "2",
            "-M",
            if whole { "do" } else { "dont" },
        ])
        .args(["-s", &payload, "-I", from, to])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn set_mtu(wire: &Wire, mtu: usize) {
    for namespace in [&wire.a, &wire.b] {
        namespace.ip(&format!("link set wire mtu {mtu}")).unwrap();
    }
}

#[test]
fn whoever_sends_what_must_stay_whole_is_told_what_the_sa_carries() {
    for udp in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        set_mtu(&wire, 1380);
        let encap = format!("encap = {udp}");
        let (a, _b) = pair(&wire, directory.path(), "mtu = 1400", &encap);
        let most = inner(1380, udp);
        for (from, to, headers) in [(A, B, 28), ("fd01::1", "fd02::1", 48)] {
            let (passed, said) = ping(&wire.a, from, to, true, most - headers + 1);
            assert!(!passed, "{to}: {said}");
            // The first is told by ICMP, the next by the host's own kernel, which has learned it.
            let told = ["(mtu = ", "mtu=", "mtu: "].map(|word| format!("{word}{most}"));
            assert!(
                told.iter().any(|told| said.contains(told)),
                "{to}, {most}: {said}"
            );
            let (_, said) = ping(&wire.a, from, to, true, most - headers + 1);
            assert!(said.contains("too long"), "{to}: {said}");
            let (passed, said) = ping(&wire.a, from, to, true, most - headers);
            assert!(passed, "{to}: {said}\n{}", a.tail());
        }
        // What may be fragmented passes, fragmented.
        let (passed, said) = ping(&wire.a, A, B, false, 1372);
        assert!(passed, "{said}");
        let stats = a.statistics();
        assert_eq!((stats["too-big"], stats["too-big-answered"]), (2, 2));
    }
}

/// The narrow link lies beyond the first router: only ICMP tells of it.
#[test]
fn a_narrow_link_on_the_way_is_learned_and_told_and_costs_no_connection() {
    for (udp, clamp) in [(true, "\"no\""), (false, "\"no\""), (true, "\"auto\"")] {
        netlab::ensure_privileges().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [a, r, b] = ["a", "r", "b"].map(|name| Namespace::new(name).unwrap());
        veth((&a, "wire"), (&r, "left")).unwrap();
        veth((&r, "right"), (&b, "wire")).unwrap();
        r.sysctl("net.ipv4.ip_forward", "1").unwrap();
        for (namespace, device, address) in [
            (&a, "wire", "10.77.0.1/24"),
            (&r, "left", "10.77.0.254/24"),
            (&r, "right", "10.78.0.254/24"),
            (&b, "wire", "10.78.0.2/24"),
            (&a, "lo", "10.1.0.1/32"),
            (&b, "lo", "10.2.0.1/32"),
        ] {
            namespace.address(device, address).unwrap();
        }
        a.route("10.78.0.0/24 via 10.77.0.254").unwrap();
        b.route("10.77.0.0/24 via 10.78.0.254").unwrap();
        r.ip("link set right mtu 1300").unwrap();
        b.ip("link set wire mtu 1300").unwrap();
        let wire = Wire { a, b };
        let tun = format!("name = \"esp0\", mtu = 1400, queues = 1, mss_clamp = {clamp}");
        let gateway = |own| {
            let text = ours(own, IKE, ESP, &format!("encap = {udp}"), "");
            let text = text.replace("10.77.0.2", "10.78.0.2");
            let (namespace, name) = if own == 1 {
                (&wire.a, "a")
            } else {
                (&wire.b, "b")
            };
            start(namespace, &directory.path().join(name), &tun, &text)
        };
        let (first, _second) = (gateway(1), gateway(2));
        first.swanctl(&["--initiate", "--child", "net"]);
        wire.assert_passes("over the router");
        let bulk = Bulk::start(
            (&wire.a, A.parse().unwrap()),
            (&wire.b, SocketAddr::new(B.parse().unwrap(), 5001)),
            7,
            Instant::now(),
        )
        .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let report = bulk.finish().unwrap();
        assert!(
            report.intact() && report.received > 1 << 20,
            "{udp} {clamp}: {report:?}"
        );
        let most = inner(1300, udp);
        // With clamped segments nothing was too large before: the first one is lost on the way.
        let end = Instant::now() + PATIENCE;
        loop {
            let (passed, said) = ping(&wire.a, A, B, true, most - 28 + 1);
            if !passed && said.contains(&most.to_string()) {
                break;
            }
            assert!(Instant::now() < end, "{udp} {clamp}, {most}: {said}");
        }
        let (passed, said) = ping(&wire.a, A, B, true, most - 28);
        assert!(passed, "{said}");
    }
}

#[test]
fn both_ends_of_a_connection_are_told_the_segment_size_that_fits() {
    for (clamp, fits) in [("\"auto\"", true), ("1000", true), ("\"no\"", false)] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        // Only one side knows how narrow it is.
        wire.a.ip("link set wire mtu 1300").unwrap();
        let tun = format!("mtu = 1400, mss_clamp = {clamp}");
        let (a, b) = pair(&wire, directory.path(), &tun, "encap = true");
        let most = match clamp {
            "1000" => 1000,
            _ => inner(1300, true) - 40,
        };
        for (from, to) in [(A, B), ("fd01::1", "fd02::1")] {
            let most = if to.contains(':') && clamp != "1000" {
                most - 20
            } else {
                most
            };
            let to = SocketAddr::new(to.parse().unwrap(), 6000);
            let listener = wire.b.enter(|| TcpListener::bind(to)).unwrap().unwrap();
            let from: IpAddr = from.parse().unwrap();
            let client = wire.a.enter(|| TcpStream::connect(to)).unwrap().unwrap();
            assert_eq!(client.local_addr().unwrap().ip(), from);
            let (server, _) = listener.accept().unwrap();
            // The kernel takes its time stamps off.
            for (end, name) in [(&client, "client"), (&server, "server")] {
                let size = getsockopt(end, TcpMaxSeg).unwrap() as usize;
                assert_eq!(
                    size <= most,
                    fits,
                    "{clamp}, {name} to {to}: {size}, {most}"
                );
                assert!(
                    !fits || size + 12 >= most,
                    "{clamp}, {name}: {size}, {most}"
                );
            }
        }
        let clamped = a.statistics()["mss-clamped"] + b.statistics()["mss-clamped"];
        assert_eq!(clamped > 0, fits, "{clamp}");
    }
}

#[test]
fn fragments_pass_inside_the_tunnel() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (a, _b) = pair(&wire, directory.path(), "mtu = 1400", "encap = true");
    for (from, to) in [(A, B), ("fd01::1", "fd02::1")] {
        for payload in [1353, 1373, 5000, 20_000] {
            let (passed, said) = ping(&wire.a, from, to, false, payload);
            assert!(passed, "{to}, {payload}: {said}\n{}", a.tail());
        }
    }
}

#[test]
fn jumbo_packets_pass_whole() {
    for encap in ["encap = true", "encap = false"] {
        let directory = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        set_mtu(&wire, 9000);
        let (a, _b) = pair(&wire, directory.path(), "mtu = 8900", encap);
        for (from, to, headers) in [(A, B, 28), ("fd01::1", "fd02::1", 48)] {
            for payload in [8900 - headers, 2000, 4096] {
                let (passed, said) = ping(&wire.a, from, to, true, payload);
                assert!(passed, "{encap}, {to}, {payload}: {said}\n{}", a.tail());
            }
        }
        let bulk = Bulk::start(
            (&wire.a, A.parse().unwrap()),
            (&wire.b, SocketAddr::new(B.parse().unwrap(), 5001)),
            3,
            Instant::now(),
        )
        .unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let report = bulk.finish().unwrap();
        assert!(report.intact() && report.received > 1 << 20, "{report:?}");
    }
}
