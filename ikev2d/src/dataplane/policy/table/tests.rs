// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which SA a packet finds, while others come and go.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;

use offload_api::sa::SaHandle;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::super::{Encapsulation, InboundSa, OutboundSa, Overhead, Way};
use super::super::is_drained;
use super::*;

const ENDS: (SocketAddr, SocketAddr) = (
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4500),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 4500),
);
const SA: SaHandle = SaHandle {
    index: 1,
    generation: 1,
};

fn range(start: [u8; 4], end: [u8; 4]) -> TrafficSelector {
    TrafficSelector {
        start: start.into(),
        end: end.into(),
        protocol: 0,
        start_port: 0,
        end_port: u16::MAX,
    }
}

fn outbound(child: u64, to: TrafficSelector) -> Arc<OutboundEntry> {
    with_selectors(child, vec![(range([0; 4], [255; 4]), to)])
}

fn with_selectors(
    child: u64,
    selectors: Vec<(TrafficSelector, TrafficSelector)>,
) -> Arc<OutboundEntry> {
    shared(child, selectors, None)
}

fn shared(
    child: u64,
    selectors: Vec<(TrafficSelector, TrafficSelector)>,
    share: Option<Share>,
) -> Arc<OutboundEntry> {
    bound(child, selectors, share, InterfaceId::MAIN)
}

fn bound(
    child: u64,
    selectors: Vec<(TrafficSelector, TrafficSelector)>,
    share: Option<Share>,
    interface: InterfaceId,
) -> Arc<OutboundEntry> {
    let suite = offload_api::sa::Suite::new(
        offload_api::sa::Cipher::Aes128Gcm,
        offload_api::sa::Integrity::None,
    );
    Arc::new(OutboundEntry::new(&OutboundSa {
        spi: Spi::new(0x1000).unwrap(),
        sa: SA,
        selectors: selectors.into(),
        way: Way {
            path: ENDS,
            encapsulation: Encapsulation::Udp,
            overhead: Overhead::of(suite.unwrap(), true),
            stream: None,
        },
        tfc_padding: 0,
        child,
        share,
        interface,
    }))
}

fn chosen(policy: &Policy, destination: [u8; 4]) -> Option<u64> {
    chosen_by(policy, destination, 0)
}

fn chosen_by(policy: &Policy, destination: [u8; 4], worker: usize) -> Option<u64> {
    let facts = Facts {
        source: [10, 0, 0, 1].into(),
        destination: destination.into(),
        protocol: 17,
        ports: None,
        ..Facts::of(&[
            0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
        ])
        .unwrap()
    };
    policy
        .outbound(InterfaceId::MAIN, &facts, worker)
        .map(|entry| entry.child)
}

/// The newest that fits, however it is found: the same as looking at all of them.
#[test]
fn among_thousands_the_newest_that_fits_is_used() {
    let policy = Policy::default();
    let selectors = |child: u64| {
        let [.., a, b] = (child as u32 / 2).to_be_bytes();
        match child % 5 {
            0 => range([10, a, 0, 0], [10, a, 255, 255]),
            // No network.
            1 if child % 100 == 1 => range([10, a, b, 3], [10, a, b, 77]),
            2 => range([10, 0, 0, 0], [10, 255, 255, 255]),
            _ => range([10, a, b, 9], [10, a, b, 9]),
        }
    };
    let count = 2000;
    let all: Vec<_> = (0..count).map(|n| outbound(n, selectors(n))).collect();
    let mut there: Vec<bool> = vec![false; all.len()];
    let compare = |policy: &Policy, there: &[bool]| {
        for destination in [
            [10, 0, 5, 9],
            [10, 2, 77, 9],
            [10, 3, 0, 1],
            [10, 1, 3, 10],
            [11, 0, 0, 1],
        ] {
            let to = IpAddr::from(destination);
            let by_hand = (0..count).rev().find(|n| {
                let selector = selectors(*n);
                there[*n as usize] && (selector.start..=selector.end).contains(&to)
            });
            assert_eq!(chosen(policy, destination), by_hand, "{to}");
        }
    };
    for (n, entry) in all.iter().enumerate() {
        policy.add_outbound(entry);
        there[n] = true;
        if n % 97 == 0 || n < 20 {
            compare(&policy, &there);
        }
    }
    for n in (0..all.len()).filter(|n| n % 3 != 0) {
        let removed = policy.remove_outbound(n as u64).unwrap();
        assert!(Arc::ptr_eq(&removed, &all[n]));
        there[n] = false;
        if n % 97 == 0 || n > all.len() - 20 {
            compare(&policy, &there);
        }
    }
    for n in (0..all.len()).filter(|n| n % 3 == 0) {
        policy.remove_outbound(n as u64).unwrap();
    }
    assert_eq!(chosen(&policy, [10, 0, 5, 9]), None);
    assert!(policy.outbound.lengths.load().is_empty());
    // Nothing keeps one that was taken out.
    assert!(all.iter().all(is_drained));
}

/// B21: each worker has its own of those for the same traffic, and the first as long as it has none;
/// other SAs do not come in between, however many there are.
#[test]
fn each_worker_sends_through_its_own_sa() {
    for others in [0, 50] {
        let policy = Policy::default();
        for n in 0..others {
            policy.add_outbound(&outbound(
                1000 + n,
                range([11, 0, n as u8, 0], [11, 0, n as u8, 255]),
            ));
        }
        let to = || {
            vec![(
                range([0; 4], [255; 4]),
                range([10, 2, 0, 0], [10, 2, 255, 255]),
            )]
        };
        let share = |group, worker| Some(Share { group, worker });
        let by_workers = |policy: &Policy| -> Vec<_> {
            let workers = 0..4;
            workers
                .map(|worker| chosen_by(policy, [10, 2, 0, 1], worker).unwrap_or(0))
                .collect()
        };
        policy.add_outbound(&shared(1, to(), share(7, 0)));
        assert_eq!(by_workers(&policy), [1, 1, 1, 1]);
        policy.add_outbound(&shared(2, to(), share(7, 1)));
        policy.add_outbound(&shared(3, to(), share(7, 3)));
        // Of a peer with more workers than we have: nobody sends through it.
        policy.add_outbound(&shared(4, to(), share(7, 9)));
        assert_eq!(by_workers(&policy), [1, 2, 1, 3]);
        // Rekeyed, and its predecessor gone.
        policy.add_outbound(&shared(5, to(), share(7, 1)));
        assert_eq!(by_workers(&policy), [1, 5, 1, 3]);
        policy.remove_outbound(2).unwrap();
        assert_eq!(by_workers(&policy), [1, 5, 1, 3]);
        // One of another configuration for the same traffic is newer: it takes over as a whole.
        policy.add_outbound(&shared(6, to(), None));
        assert_eq!(by_workers(&policy), [6, 6, 6, 6]);
        policy.add_outbound(&shared(8, to(), share(8, 0)));
        policy.add_outbound(&shared(9, to(), share(8, 2)));
        assert_eq!(by_workers(&policy), [8, 8, 9, 8]);
        for gone in [6, 8, 9] {
            policy.remove_outbound(gone).unwrap();
        }
        // Without the first one, better another worker's than none.
        policy.remove_outbound(1).unwrap();
        assert_eq!(by_workers(&policy), [5, 5, 5, 5]);
    }
}

fn address(v6: bool, host: u16) -> IpAddr {
    match v6 {
        false => IpAddr::from((0x0a00_0000 + u32::from(host)).to_be_bytes()),
        true => IpAddr::from((0x2001_0db8 << 96 | u128::from(host)).to_be_bytes()),
    }
}

/// A family whose hosts are few, so that packets meet selectors and selectors one another.
fn host() -> impl Strategy<Value = (bool, u16)> {
    (any::<bool>(), 0_u16..1024)
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let shorter = prop_oneof![Just(0_u8), 1..12_u8, Just(16), Just(32)];
    let width = prop_oneof![Just(None), (1_u16..80).prop_map(Some)];
    let ports = prop_oneof![
        3 => Just((0, u16::MAX)),
        1 => (0_u16..4).prop_map(|port| (port, port)),
        1 => Just((1, 3)),
        // OPAQUE (RFC 4301 §4.4.1.2).
        1 => Just((u16::MAX, 0)),
    ];
    let protocol = prop_oneof![3 => Just(0_u8), 1 => Just(6), 1 => Just(17)];
    (host(), shorter, width, protocol, ports).prop_map(
        |((v6, host), shorter, width, protocol, (start_port, end_port))| {
            let bits = if v6 { 128 } else { 32 } - shorter;
            let (start, end) = match (width, network(address(v6, host), bits).unwrap()) {
                (Some(width), _) => (address(v6, host), address(v6, host + width)),
                (None, IpNet::V4(net)) => (net.network().into(), net.broadcast().into()),
                (None, IpNet::V6(net)) => (net.network().into(), net.broadcast().into()),
            };
            TrafficSelector {
                start,
                end,
                protocol,
                start_port,
                end_port,
            }
        },
    )
}

fn packet() -> impl Strategy<Value = Facts> {
    let ports = proptest::option::of((0_u16..5, 0_u16..5));
    let protocol = prop_oneof![Just(1_u8), Just(6), Just(17)];
    (host(), 0_u16..1024, protocol, ports).prop_map(|((v6, to), from, protocol, ports)| Facts {
        source: address(v6, from),
        destination: address(v6, to),
        protocol,
        ports,
        ..Facts::of(&[
            0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
        ])
        .unwrap()
    })
}

/// One selector in two lets every source pass: else few packets would meet any.
fn pair() -> impl Strategy<Value = (TrafficSelector, TrafficSelector)> {
    (selector(), selector(), any::<bool>()).prop_map(|(mut from, to, anybody)| {
        if anybody {
            let v6 = to.start.is_ipv6();
            from.start = if v6 { [0; 16].into() } else { [0; 4].into() };
            from.end = if v6 {
                [255; 16].into()
            } else {
                [255; 4].into()
            };
        }
        (from, to)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// RFC 4301 §4.4.1's ordered database, newest first: whatever is indexed, the SA is the one that
    /// looking at all of them in that order gives, by addresses of both families, protocol and ports.
    #[test]
    fn the_index_gives_what_looking_at_all_gives(
        selectors in vec((vec(pair(), 0..4), any::<Index>(), 0_u8..4), 1..70),
        packets in vec(packet(), 40),
    ) {
        let policy = Policy::default();
        let mut linear: Vec<Arc<OutboundEntry>> = Vec::new();
        let compare = |linear: &[Arc<OutboundEntry>]| {
            for facts in &packets {
                let by_hand = linear.iter().rev().find(|entry| entry.takes(facts));
                let found = policy.outbound(InterfaceId::MAIN, facts, 0);
                prop_assert_eq!(
                    found.map(|entry| entry.child),
                    by_hand.map(|entry| entry.child),
                    "{:?}",
                    facts
                );
            }
            Ok(())
        };
        for (child, (selectors, gone, step)) in (0..).zip(selectors) {
            let entry = with_selectors(child, selectors);
            policy.add_outbound(&entry);
            linear.push(entry);
            if step == 0 {
                let gone = linear.remove(gone.index(linear.len()));
                let removed = policy.remove_outbound(gone.child);
                prop_assert!(removed.is_some_and(|removed| Arc::ptr_eq(&removed, &gone)));
            }
            if step < 2 {
                compare(&linear)?;
            }
        }
        compare(&linear)?;
    }
}

/// The one that leaves is in the index and the one that comes in the list, or the other way round: a
/// packet meanwhile goes through one of them.
#[test]
fn a_packet_finds_an_sa_while_it_is_replaced() {
    let policy = Policy::default();
    let to = range([10, 0, 0, 9], [10, 0, 0, 9]);
    // No network, and so in the list.
    let wide = range([10, 0, 0, 3], [10, 0, 0, 77]);
    (0..8).for_each(|child| policy.add_outbound(&outbound(child, range([11; 4], [11; 4]))));
    policy.add_outbound(&outbound(100, to));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut missed = 0;
            while !done.load(Ordering::Relaxed) {
                missed += u64::from(chosen(&policy, [10, 0, 0, 9]).is_none());
            }
            missed
        });
        for child in 101..20_000 {
            let to = if child % 2 == 0 { to } else { wide };
            policy.add_outbound(&outbound(child, to));
            policy.remove_outbound(child - 1);
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(reader.join().unwrap(), 0);
    });
}

/// B42: of the same selectors, the interface decides.
#[test]
fn packets_go_through_sas_of_their_interface_alone() {
    let [blue, red, grey] = [1, 2, 3].map(InterfaceId::numbered);
    let all = || {
        let all = range([0; 4], [255; 4]);
        vec![(all, all)]
    };
    let policy = Policy::default();
    let facts = Facts::of(&[
        0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1,
    ])
    .unwrap();
    let chosen = |from| policy.outbound(from, &facts, 0).map(|entry| entry.child);
    policy.add_outbound(&bound(1, all(), None, blue));
    policy.add_outbound(&bound(2, all(), None, red));
    assert_eq!(policy.come(), 2);
    let seen = [blue, red, grey, InterfaceId::MAIN].map(chosen);
    assert_eq!(seen, [Some(1), Some(2), None, None]);
    policy.add_outbound(&bound(3, all(), None, blue));
    policy.add_outbound(&outbound(4, range([0; 4], [255; 4])));
    let seen = [blue, red, grey, InterfaceId::MAIN].map(chosen);
    assert_eq!(seen, [Some(3), Some(2), None, Some(4)]);
    policy.remove_outbound(3);
    assert_eq!(chosen(blue), Some(1));
    policy.set_traps(vec![Trap {
        interface: grey,
        local: all()[0].0,
        remote: all()[0].1,
    }]);
    assert!(policy.traps(grey, &facts) && !policy.traps(blue, &facts));
    policy.forget_interface(red);
    assert_eq!(chosen(red), None);
    assert!(policy.remove_outbound(2).is_some());
}

#[test]
fn a_removed_entry_is_drained_when_nobody_holds_it() {
    let entry = Arc::new(InboundEntry::new(&InboundSa {
        spi: Spi::new(0x1000).unwrap(),
        sa: SA,
        selectors: Arc::default(),
        remote: ENDS.1,
        transport: None,
        original: None,
        child: 9,
        interface: InterfaceId::MAIN,
    }));
    let policy = Policy::default();
    policy.add_inbound(&entry);
    let flight = policy.inbound(0x1000);
    drop(policy.remove_inbound(entry.spi));
    assert!(policy.inbound(0x1000).is_none());
    assert!(policy.inbound_of(9).is_none());
    assert!(!is_drained(&entry));
    drop(flight);
    assert!(is_drained(&entry));
}
