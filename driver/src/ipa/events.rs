// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's events as the contract's.

use fpga_regs::admin::ErrorKind;
use fpga_regs::descriptor::{self, EventKind};
use offload_api::event::{Event, Limit};
use offload_api::sa::SaHandle;

/// What an event says; nothing where it makes no sense, or speaks of an SA (`sa`: its live handle)
/// that is no more.
pub(super) fn decode(event: &descriptor::Event, sa: Option<SaHandle>) -> Option<Event> {
    let value = event.value.get();
    let soft = |limit| sa.map(|sa| Event::SoftExpired { sa, limit });
    let hard = |limit| sa.map(|sa| Event::HardExpired { sa, limit });
    match EventKind::from_code(event.kind)? {
        EventKind::SoftBytes => soft(Limit::Bytes),
        EventKind::SoftPackets => soft(Limit::Packets),
        EventKind::SoftTime => soft(Limit::Time),
        EventKind::HardBytes => hard(Limit::Bytes),
        EventKind::HardPackets => hard(Limit::Packets),
        EventKind::HardTime => hard(Limit::Time),
        EventKind::GrantLow => sa.map(|sa| Event::GrantLow {
            sa,
            remaining: value,
        }),
        EventKind::SequenceEnding => sa.map(|sa| Event::SequenceEnding { sa }),
        EventKind::SequenceEnd => sa.map(|sa| Event::SequenceEnd { sa }),
        EventKind::BadIcvBurst => sa.map(|sa| Event::BadIcvBurst { sa, count: value }),
        EventKind::ReplayBurst => sa.map(|sa| Event::ReplayBurst { sa, count: value }),
        EventKind::TableFull => Some(Event::TableFull),
        EventKind::QueueError => Some(Event::QueueFailed {
            queue: event.sa_index.get(),
            what: match ErrorKind::from_code(value as u8) {
                Some(ErrorKind::Doorbell) => "a doorbell beyond the ring",
                Some(ErrorKind::Dma) => "its rings are not reachable",
                _ => "an error of its own",
            },
        }),
        EventKind::Zeroised => Some(Event::Zeroised),
    }
}
