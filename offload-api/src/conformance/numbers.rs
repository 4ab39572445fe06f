// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sequence law: an engine uses the numbers of its grant, each once, and no others.

use super::Report;
use super::rig::{Rig, packets};
use crate::capability::Features;
use crate::error::{InstallError, InvalidSa, SaError};
use crate::event::Event;
use crate::queue::{Explicit, Status};
use crate::sa::{Amend, Direction, Grant, Numbering, SaHandle};

pub(super) fn run(rig: &mut Rig, report: &mut Report) {
    without_a_grant(rig, report);
    within_the_grant(rig, report);
    revoked(rig, report);
    to_the_end(rig, false, report);
    to_the_end(rig, true, report);
    outside_of_the_space(rig, report);
    explicit(rig, report);
}

fn granted(rig: &Rig, numbering: Numbering, esn: bool) -> Option<SaHandle> {
    let mut sa = rig.params(Direction::Outbound);
    sa.numbering = numbering;
    sa.esn = esn;
    rig.install(&sa)
}

/// Seals so many packets in one burst and checks which numbers they got; the others are refused.
fn expect(rig: &mut Rig, sa: SaHandle, count: usize, numbers: &[u64], report: &mut Report) {
    let outcomes = rig.each(sa, &packets(count));
    for (n, outcome) in outcomes.iter().enumerate() {
        match numbers.get(n) {
            Some(number) => {
                assert_eq!((outcome.status, outcome.sequence), (Status::Ok, *number));
                let low = (*number as u32).to_be_bytes();
                assert!(outcome.octets.windows(4).any(|octets| octets == low));
            }
            None => {
                assert_eq!(outcome.status, Status::SequenceExhausted);
                report.refusals += 1;
            }
        }
    }
}

fn grant(rig: &Rig, sa: SaHandle, first: u64, last: u64) -> Result<(), SaError> {
    rig.engine.amend(sa, &Amend::Grant(Grant { first, last }))
}

fn without_a_grant(rig: &mut Rig, report: &mut Report) {
    let sa = granted(rig, Numbering::Granted(None), false).unwrap();
    expect(rig, sa, 3, &[], report);
    grant(rig, sa, 7, 8).unwrap();
    expect(rig, sa, 3, &[7, 8], report);
    rig.engine.retire(sa).unwrap();
}

fn within_the_grant(rig: &mut Rig, report: &mut Report) {
    let numbering = Numbering::Granted(Some(Grant { first: 1, last: 8 }));
    let sa = granted(rig, numbering, false).unwrap();
    expect(rig, sa, 3, &[1, 2, 3], report);
    expect(rig, sa, 10, &[4, 5, 6, 7, 8], report);
    rig.await_event(
        "that the grant runs low",
        |event| matches!(event, Event::GrantLow { sa: low, .. } if *low == sa),
    );
    let behind = SaError::GrantBehind {
        expected: 9,
        found: 8,
    };
    assert_eq!(grant(rig, sa, 8, 20), Err(behind));
    expect(rig, sa, 1, &[], report);
    // One that continues, one that continues while numbers are left, one that leaves a gap.
    grant(rig, sa, 9, 11).unwrap();
    expect(rig, sa, 1, &[9], report);
    grant(rig, sa, 12, 13).unwrap();
    expect(rig, sa, 3, &[10, 11, 12], report);
    grant(rig, sa, 100, 101).unwrap();
    expect(rig, sa, 3, &[100, 101], report);
    assert_eq!(rig.engine.usage(sa).unwrap().sequence, 101);
    rig.engine.retire(sa).unwrap();
}

fn revoked(rig: &mut Rig, report: &mut Report) {
    let numbering = Numbering::Granted(Some(Grant {
        first: 1,
        last: 100,
    }));
    let sa = granted(rig, numbering, false).unwrap();
    expect(rig, sa, 3, &[1, 2, 3], report);
    rig.engine.amend(sa, &Amend::Revoke).unwrap();
    expect(rig, sa, 2, &[], report);
    let behind = SaError::GrantBehind {
        expected: 101,
        found: 4,
    };
    assert_eq!(grant(rig, sa, 4, 100), Err(behind));
    expect(rig, sa, 2, &[], report);
    grant(rig, sa, 101, 200).unwrap();
    expect(rig, sa, 2, &[101, 102], report);
    rig.engine.retire(sa).unwrap();
}

/// The last number of the space is used; the one after it is refused, never 0 or 1 again.
fn to_the_end(rig: &mut Rig, esn: bool, report: &mut Report) {
    let end = if esn { u64::MAX } else { u64::from(u32::MAX) };
    let last_two = Grant {
        first: end - 1,
        last: end,
    };
    let Some(sa) = granted(rig, Numbering::Granted(Some(last_two)), esn) else {
        report.unsupported += 1;
        return;
    };
    expect(rig, sa, 4, &[end - 1, end], report);
    expect(rig, sa, 2, &[], report);
    rig.await_event(
        "that the sequence space ends",
        |event| matches!(event, Event::SequenceEnding { sa: ending } if *ending == sa),
    );
    assert!(grant(rig, sa, 1, 2).is_err(), "numbers never start anew");
    if !esn {
        assert!(matches!(
            grant(rig, sa, end + 1, end + 9),
            Err(SaError::Invalid(InvalidSa::Grant { .. }))
        ));
    }
    expect(rig, sa, 1, &[], report);
    rig.engine.retire(sa).unwrap();
}

fn outside_of_the_space(rig: &Rig, report: &mut Report) {
    for (first, last) in [(0, 5), (6, 5), (1, 1 << 32)] {
        let mut sa = rig.params(Direction::Outbound);
        sa.numbering = Numbering::Granted(Some(Grant { first, last }));
        assert!(matches!(
            rig.engine.install(&sa),
            Err(InstallError::Invalid(InvalidSa::Grant { .. }))
        ));
        report.refusals += 1;
    }
}

/// An operation brings its own number exactly where the SA wants it.
fn explicit(rig: &mut Rig, report: &mut Report) {
    let number = Explicit {
        sequence: 9,
        iv: [7; 16],
    };
    let (outbound, inbound) = rig.pair();
    let wire = rig.seal(outbound, &packets(1)).remove(0);
    for sa in [outbound, inbound] {
        let mut op = rig.op(sa, &wire);
        op.set_explicit(Some(number));
        let outcome = rig.burst(vec![op]).pop().unwrap();
        assert_eq!(outcome.status, Status::WrongNumbering);
        report.refusals += 1;
    }
    for sa in [outbound, inbound] {
        rig.engine.retire(sa).unwrap();
    }
    if !rig.has(Features::EXPLICIT_NUMBERING) {
        return;
    }
    let sa = granted(rig, Numbering::Explicit, false).unwrap();
    assert_eq!(rig.status(sa, &packets(1)[0]), Status::WrongNumbering);
    report.refusals += 1;
    assert!(grant(rig, sa, 1, 5).is_err());
    rig.engine.retire(sa).unwrap();
}
