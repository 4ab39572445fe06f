// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The anti-replay window (RFC 4303 §3.4.3): each packet once, none from left of the window.

use super::Report;
use super::rig::{Rig, packet};
use crate::capability::Features;
use crate::queue::Status::{self, Ok, Replayed, TooOld};
use crate::replay::ReplaySnapshot;
use crate::sa::{Amend, Direction, Numbering, SaHandle};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    for size in [32, 64, 100, 1024, 4096] {
        let supported = size <= rig.engine.capabilities().replay_window_max;
        if supported {
            window(rig, size, report);
        } else {
            let mut sa = rig.params(Direction::Inbound);
            sa.replay_window = size;
            assert_eq!(rig.install(&sa), None);
            report.unsupported += 1;
        }
    }
    off(rig, report);
    handed_over(rig, report);
    extended(rig, report);
}

fn ends(rig: &Rig, window: u32, esn: bool, seen: Option<ReplaySnapshot>) -> (SaHandle, SaHandle) {
    let mut outbound = rig.params(Direction::Outbound);
    outbound.numbering = Numbering::Granted(None);
    outbound.esn = esn;
    let mut inbound = rig.params(Direction::Inbound);
    inbound.replay_window = window;
    inbound.replay_state = seen;
    inbound.esn = esn;
    let install = |sa| rig.install(sa).unwrap();
    (install(&outbound), install(&inbound))
}

/// Opens in this order, each on its own or all in one burst, and checks how each ended.
fn expect(
    rig: &mut Rig,
    open: SaHandle,
    wire: &[(u64, Vec<u8>)],
    order: &[(u64, Status)],
    one_burst: bool,
    report: &mut Report,
) {
    let find = |number| {
        let found = wire.iter().find(|(n, _)| *n == number);
        found.expect("sealed before").1.clone()
    };
    let packets: Vec<_> = order.iter().map(|(number, _)| find(*number)).collect();
    let outcomes = if one_burst {
        rig.each(open, &packets)
    } else {
        packets.iter().map(|packet| rig.one(open, packet)).collect()
    };
    let mut refused = 0;
    for (outcome, (number, status)) in outcomes.iter().zip(order) {
        assert_eq!(outcome.status, *status, "packet {number} of {order:?}");
        if status.is_ok() {
            assert_eq!(outcome.sequence, *number);
        } else {
            refused += 1;
        }
    }
    report.refusals += refused;
}

fn seal(rig: &mut Rig, sa: SaHandle, numbers: &[u64]) -> Vec<(u64, Vec<u8>)> {
    numbers
        .iter()
        .map(|number| (*number, rig.seal_as(sa, *number, &packet(false, 17, 40))))
        .collect()
}

fn window(rig: &mut Rig, size: u32, report: &mut Report) {
    // Sizes are rounded up to a multiple of 32.
    let size = u64::from(size.next_multiple_of(32));
    let (top, far) = (2 * size, 10 * size);
    let left = top - size;
    let numbers = [1, left, left + 1, left + 2, top - 1, top, top + 1, far];
    let order = [
        (1, Ok),
        (1, Replayed),
        (top, Ok),
        (top, Replayed),
        (left, TooOld),
        (1, TooOld),
        (left + 1, Ok),
        (left + 1, Replayed),
        (top - 1, Ok),
        (top + 1, Ok),
        (left + 1, TooOld),
        (left + 2, Ok),
        (top, Replayed),
        (far, Ok),
        (top + 1, TooOld),
        (far, Replayed),
    ];
    for one_burst in [false, true] {
        let (out, open) = ends(rig, size as u32, false, None);
        let wire = seal(rig, out, &numbers);
        expect(rig, open, &wire, &order, one_burst, report);
        let usage = rig.engine.retire(open).unwrap();
        assert_eq!((usage.packets, usage.replayed), (7, 9));
        assert_eq!(usage.sequence, far);
        rig.engine.retire(out).unwrap();
    }
}

/// Without a window nothing counts as replayed.
fn off(rig: &mut Rig, report: &mut Report) {
    let (out, open) = ends(rig, 0, false, None);
    let wire = seal(rig, out, &[1, 5000]);
    let order = [(5000, Ok), (5000, Ok), (1, Ok)];
    expect(rig, open, &wire, &order, false, report);
    rig.engine.retire(open).unwrap();
    rig.engine.retire(out).unwrap();
}

/// What another engine has seen is seen, by installation and by amendment.
fn handed_over(rig: &mut Rig, report: &mut Report) {
    let seen = ReplaySnapshot {
        top: 100,
        seen: vec![0b101],
    };
    let numbers = [98, 99, 100, 101, 197, 198, 199, 200];
    let (out, open) = ends(rig, 32, false, Some(seen));
    let wire = seal(rig, out, &numbers);
    let order = [(100, Replayed), (99, Ok), (98, Replayed), (101, Ok)];
    expect(rig, open, &wire, &order, false, report);
    let seen = ReplaySnapshot {
        top: 199,
        seen: vec![0b101],
    };
    rig.engine.amend(open, &Amend::Replay(seen)).unwrap();
    let order = [
        (101, TooOld),
        (197, Replayed),
        (198, Ok),
        (199, Replayed),
        (200, Ok),
    ];
    expect(rig, open, &wire, &order, false, report);
    rig.engine.retire(open).unwrap();
    rig.engine.retire(out).unwrap();
}

/// The high half that is not sent is found on both sides of a multiple of 2^32 (RFC 4303
/// appendix A2.2).
fn extended(rig: &mut Rig, report: &mut Report) {
    if !rig.has(Features::ESN) {
        return;
    }
    let edge = 5u64 << 32;
    let seen = ReplaySnapshot {
        top: edge - 10,
        seen: vec![0],
    };
    let numbers = [edge - 5, edge - 1, edge, edge + 3, edge + 62];
    for one_burst in [false, true] {
        let (out, open) = ends(rig, 64, true, Some(seen.clone()));
        let wire = seal(rig, out, &numbers);
        let order = [
            (edge - 1, Ok),
            (edge + 3, Ok),
            (edge - 5, Ok),
            (edge - 1, Replayed),
            (edge, Ok),
            (edge, Replayed),
            (edge + 62, Ok),
            (edge + 3, Replayed),
            (edge - 1, Replayed),
        ];
        expect(rig, open, &wire, &order, one_burst, report);
        rig.engine.retire(open).unwrap();
        rig.engine.retire(out).unwrap();
    }
}
