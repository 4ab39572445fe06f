// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode, judged from outside: the demo's exit status, its report, and its captures by an
//! independent reader.

use netlab::analyse::Wire;

#[test]
fn no_esp_touches_a_host_when_cards_move_the_packets() {
    let directory = tempfile::tempdir().unwrap();
    let report = tests::demo(&["--inline"], directory.path());
    for zero in [
        "esp_packets_at_hosts",
        "duplicate_sequence_numbers",
        "repeated_key_iv",
        "plaintext_packets_on_wire",
    ] {
        assert_eq!(report[zero], 0, "{zero}");
    }
    assert_eq!(report["rekeyings"], 3);
    assert!(report["throughput_mbps"].as_f64().unwrap() > 1.0);

    let read = |name: &str| Wire::read(&directory.path().join(name)).unwrap();
    let esp = |wire: &Wire| -> usize { wire.flows.iter().map(|flow| flow.sightings.len()).sum() };
    let wire = read("wire.pcap");
    assert_eq!(report["esp_packets_on_wire"], esp(&wire));
    assert!(esp(&wire) > 100);
    // What the cards left to their gateways: IKE, and nothing else of the tunnel.
    for host in ["host-a.pcap", "host-b.pcap"] {
        let host = read(host);
        assert_eq!((esp(&host), host.plaintext), (0, 0));
        assert!(host.ike > 4);
    }
}
