// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo, judged from outside: its exit status, its report, and its files by an independent reader.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use netlab::analyse::Wire;
use serde_json::Value;

#[test]
fn the_demo_holds_what_it_promises() {
    let directory = tempfile::tempdir().unwrap();
    let report = tests::demo(&[], directory.path());
    for zero in [
        "duplicate_sequence_numbers",
        "repeated_key_iv",
        "plaintext_packets_on_wire",
        "capture_drops",
    ] {
        assert_eq!(report[zero], 0, "{zero}");
    }
    for phase in ["device", "software", "returned"] {
        assert!(
            report["throughput_mbps"][phase].as_f64().unwrap() > 1.0,
            "{phase}"
        );
    }
    assert!(report["fallback_ms"].as_f64().unwrap() < 1000.0);
    assert!(report["packets_lost"].is_u64());
    let saved: Value =
        serde_json::from_str(&fs::read_to_string(directory.path().join("report.json")).unwrap())
            .unwrap();
    assert_eq!(saved, report);

    let wire = Wire::read(&directory.path().join("wire.pcap")).unwrap();
    let esp: usize = wire.flows.iter().map(|flow| flow.sightings.len()).sum();
    assert_eq!(report["esp_packets_on_wire"], esp);
    let plot = fs::read_to_string(directory.path().join("throughput.svg")).unwrap();
    assert!(plot.contains("card a killed") && plot.contains("SAs in the card again"));
    for site in ["a", "b"] {
        let keys = directory
            .path()
            .join(format!("keys-{site}/ikev2_decryption_table"));
        let mode = fs::metadata(&keys).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "keys are for their owner only");
    }
}
