// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP encapsulation (RFC 9329) between two `ikev2d`: nftables drops all UDP and ESP between them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use netlab::Namespace;
use netlab::traffic::Bulk;

mod gateway;

use gateway::{Gateway, Wire, ours, rekey};

const IKE: &str = "aes128gcm16-prfsha256-x25519";
const ESP: &str = "aes128gcm16";
const PATIENCE: Duration = Duration::from_secs(60);
/// Lets neither UDP nor ESP through.
const NO_UDP: &str = "table inet wall {\n\
     chain in { type filter hook input priority 0; iifname \"wire\" meta l4proto { udp, esp } drop; }\n\
     chain cut { type filter hook input priority 1; }\n}\n";

fn gateways(wire: &Wire, directory: &std::path::Path) -> (Gateway, Gateway) {
    wire.b.nft(NO_UDP).unwrap();
    let tcp = "tcp = \"fallback\"\ndpd_delay = \"30s\"";
    let secret = format!("[secrets.ike-1]\nsecret = \"{}\"\n", gateway::SECRET);
    let responder = format!("tcp_port = 4500\n{}{secret}", ours(2, IKE, ESP, tcp, ""));
    let b = Gateway::ikev2d_with(&wire.b, &directory.join("b"), &responder);
    let initiator = format!(
        "retransmit_timeout = 0.3\n{}{secret}",
        ours(1, IKE, ESP, tcp, "")
    );
    let a = Gateway::ikev2d_with(&wire.a, &directory.join("a"), &initiator);
    (a, b)
}

fn wait(what: &str, gateway: &Gateway, mut until: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < end, "{what}: {}", gateway.tail());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// B19: where UDP gets no answer the tunnel goes by TCP, is rekeyed there, and outlives its connection
/// amid traffic with the same SAs.
#[test]
fn a_tunnel_goes_by_tcp_and_outlives_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (a, b) = gateways(&wire, directory.path());
    wire.assert_blocked();
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("by TCP");
    for gateway in [&a, &b] {
        let sas = gateway.swanctl(&["--list-sas", "--raw"]);
        assert!(
            sas.contains("tcp=yes") && !sas.contains("encap=yes"),
            "{sas}"
        );
    }
    rekey::child(&a, &b, "net");
    wire.assert_still_passes("child rekeyed");
    rekey::ike(&b, &a, "gw");
    wire.assert_still_passes("IKE SA rekeyed");

    // The SPI of what comes in, once there is one child SA.
    let spi = || {
        let mut spi = String::new();
        wait("one child SA", &a, || {
            let sas = a.swanctl(&["--list-sas", "--raw"]);
            let mut spis = sas.split("spi-in=").skip(1);
            spi = spis
                .next()
                .and_then(|rest| rest.get(..8))
                .unwrap_or_default()
                .to_owned();
            !spi.is_empty() && spis.next().is_none()
        });
        spi
    };
    let (before, opened) = (spi(), a.statistics()["tcp-opened"]);
    let inner = |number: u8| IpAddr::from([10, number, 0, 1]);
    let to = SocketAddr::new(inner(2), 0);
    let bulk = Bulk::start((&wire.a, inner(1)), (&wire.b, to), 1, Instant::now()).unwrap();
    wait("traffic", &a, || bulk.received() > 1 << 20);
    // Whatever is sent on the connection ends it, and no other is made meanwhile.
    let cut = "add rule inet wall cut iifname \"wire\" tcp dport 4500 reject with tcp reset\n";
    wire.b.nft(cut).unwrap();
    wait("the end of the connection", &a, || {
        a.statistics()["tcp-closed"] > 0
    });
    wire.b.nft("flush chain inet wall cut\n").unwrap();
    wait("another connection", &a, || {
        a.statistics()["tcp-opened"] > opened
    });
    let cut_at = bulk.received();
    wait("traffic again", &a, || bulk.received() > cut_at + (1 << 20));
    let report = bulk.finish().unwrap();
    assert!(report.intact(), "{} {}", report.sent, report.received);
    assert_eq!(spi(), before, "the SAs are the same");
    wire.assert_passes("by another connection");
    b.wait_statistics("the end of what nobody uses", |counts| {
        counts["tcp-closed"] > 0 && counts["tcp-accepted"] > counts["tcp-closed"]
    });
}

/// Opens a connection to the responder, and sends it this.
fn stranger(from: &Namespace, octets: &[u8]) -> TcpStream {
    let to = SocketAddr::from(([10, 77, 0, 2], 4500));
    let mut stream = from.enter(|| TcpStream::connect(to)).unwrap().unwrap();
    // One that is closed already can't be written to.
    let _ = stream.write_all(octets);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the responder closes a connection, and says nothing.
fn is_closed(stream: &mut TcpStream) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match stream.read(&mut [0; 100]) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), TimedOut | WouldBlock),
    }
}

/// B19, A01, I01: what is no IKE, lengths that lie, who says nothing or too little, and crowds cost a
/// bounded number of connections for a bounded time, and no tunnel.
#[test]
fn strangers_on_tcp_are_shown_out() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let (a, b) = gateways(&wire, directory.path());
    let closed = |what: &str, octets: &[u8]| {
        let mut stream = stranger(&wire.a, octets);
        assert!(is_closed(&mut stream), "{what}\n{}", b.tail());
    };
    closed("no prefix", b"GET / HTTP/1.1\r\n\r\n");
    closed("a length of nothing", b"IKETCP\0\0");
    closed("a length without a message", b"IKETCP\0\x02");
    let misbehaved = b.statistics()["tcp-misbehaved"];
    assert!(misbehaved >= 3, "{misbehaved}");
    // ESP of no SA, and IKE of none, are nothing.
    const MANY: usize = 20_000;
    let esp = [&b"\0\x40"[..], &[0x5a; 62]].concat().repeat(MANY);
    let mut ike = [&b"\0\x40\0\0\0\0"[..], &[0x5a; 58]].concat();
    // Another version would be told of ours.
    ike[6 + 17] = 0x20;
    let mut harmless = stranger(&wire.a, &[&b"IKETCP"[..], &esp, &ike].concat());
    // However fast it comes, it takes no room from others' packets.
    b.wait_statistics("ESP of no SA", |counts| {
        counts["unknown-spi"] >= MANY as u64
    });
    // Who says very much and is nobody would be before all those who come by UDP.
    let mut loud = stranger(&wire.a, &[&b"IKETCP"[..], &ike.repeat(1000)].concat());
    assert!(is_closed(&mut loud), "{}", b.tail());
    let after = b.statistics()["tcp-misbehaved"];
    assert!(after > misbehaved, "{after}");
    // A crowd from one address: some are shown out at once, the others soon.
    let mut crowd: Vec<TcpStream> = (0..40).map(|_| stranger(&wire.a, b"IKETCP")).collect();
    b.wait_statistics("a crowd", |counts| counts["tcp-crowded"] >= 24);
    for stream in &mut crowd {
        assert!(is_closed(stream));
    }
    assert!(is_closed(&mut harmless));
    b.wait_statistics("the end of all", |counts| {
        counts["tcp-closed"] == counts["tcp-accepted"]
    });
    a.swanctl(&["--initiate", "--child", "net"]);
    wire.assert_passes("after all that");
}

/// B19: the control socket is there once all others are: none is where TCP's port is taken, which ends the
/// daemon and is told.
#[test]
fn no_control_socket_comes_before_the_ports_are_open() {
    let directory = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let any = SocketAddr::from(([0, 0, 0, 0], 4500));
    let taken = wire.b.enter(|| TcpListener::bind(any)).unwrap().unwrap();
    let vici = directory.path().join("vici");
    let file = directory.path().join("ikev2d.toml");
    fs::write(
        &file,
        format!("[daemon]\nvici_socket = {vici:?}\ntcp_port = 4500\n"),
    )
    .unwrap();
    let mut daemon = wire.b.command(tests::program("ikev2d"));
    let output = daemon.arg("--config").arg(&file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("IKE in TCP") && text.contains("in use"),
        "{text}"
    );
    assert!(!vici.exists(), "{text}");
    drop(taken);
}
