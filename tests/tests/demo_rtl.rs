// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo on the RTL: IKE, both streams, the loss of a card and its return, with every ESP packet of a
//! card sealed and opened by the verilated data path. Needs `esplanade` built with feature `rtl`
//! (`cargo xtask rtl tests`).

use netlab::analyse::Wire;

#[test]
fn the_demo_holds_what_it_promises_on_the_rtl() {
    let directory = tempfile::tempdir().unwrap();
    let report = tests::demo(&["--rtl"], directory.path());
    assert_eq!(report["cards"], "rtl");
    let cards = &report["esp_packets_by_card"];
    for card in ["a", "b"] {
        for count in ["sealed", "opened"] {
            assert_ne!(cards[card][count], 0, "{card} {count}");
        }
        assert_eq!(cards[card]["bogus_completions"], 0, "{card}");
    }
    let wire = Wire::read(&directory.path().join("wire.pcap")).unwrap();
    let esp: usize = wire.flows.iter().map(|flow| flow.sightings.len()).sum();
    assert_eq!(report["esp_packets_on_wire"], esp);
    assert_eq!(wire.duplicate_sequence_numbers(), 0);
}
