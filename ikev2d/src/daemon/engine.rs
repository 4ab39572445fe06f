// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the daemon tells its control clients about its engines: the event `engine`, which strongSwan
//! does not have.

use offload_api::event::{Engine, Event, Limit};
use offload_api::sa::SaHandle;

use super::Daemon;
use crate::vici::message::Section;

/// The event's name.
pub(crate) const ENGINE: &str = "engine";

impl Daemon {
    /// Hands an engine's event on to whoever has asked for them.
    pub(super) fn announce_engine(&self, event: &Event) {
        let Some((name, sa)) = name(event) else {
            return;
        };
        let mut section = Section::default();
        section.put("event", name);
        if let Some(sa) = sa {
            self.put_child(&mut section, sa);
        }
        match event {
            Event::SoftExpired { limit, .. } | Event::HardExpired { limit, .. } => {
                let limit = match limit {
                    Limit::Bytes => "bytes",
                    Limit::Packets => "packets",
                    Limit::Time => "time",
                };
                section.put("limit", limit);
            }
            Event::BadIcvBurst { count, .. } | Event::ReplayBurst { count, .. } => {
                section.put("count", count);
            }
            Event::QueueFailed { queue, what } => {
                section.put("queue", queue);
                section.put("reason", what);
            }
            Event::DeviceLost { reason } | Event::DeviceQuarantined { reason } => {
                section.put("reason", reason);
            }
            Event::Moved { engine, .. } => {
                let engine = match engine {
                    Engine::Device => "device",
                    Engine::Software => "software",
                };
                section.put("engine", engine);
            }
            _ => {}
        }
        // Nobody listens: fine.
        let _ = self.broadcast.send((ENGINE, section));
    }

    /// The child SA that a handle is one way of.
    fn put_child(&self, section: &mut Section, sa: SaHandle) {
        let Some(child) = self.installer.child_of(sa) else {
            return;
        };
        section.put("child-id", child.0);
        let way = if self.installer.is_inbound(sa) {
            "in"
        } else {
            "out"
        };
        section.put("way", way);
        if let Some(installed) = self.installer.child(child) {
            section.put("connection", &installed.connection);
            section.put("child", &installed.child);
        }
    }
}

/// What happened, and to which SA; nothing for events that are the failover's own business.
fn name(event: &Event) -> Option<(&'static str, Option<SaHandle>)> {
    Some(match event {
        Event::SoftExpired { sa, .. } => ("soft-lifetime", Some(*sa)),
        Event::HardExpired { sa, .. } => ("hard-lifetime", Some(*sa)),
        Event::SequenceEnding { sa } => ("sequence-ending", Some(*sa)),
        Event::SequenceEnd { sa } => ("sequence-end", Some(*sa)),
        Event::BadIcvBurst { sa, .. } => ("bad-icv", Some(*sa)),
        Event::ReplayBurst { sa, .. } => ("replay", Some(*sa)),
        Event::TableFull => ("table-full", None),
        Event::QueueFailed { .. } => ("queue-failed", None),
        Event::Zeroised => ("zeroised", None),
        Event::DeviceLost { .. } => ("device-lost", None),
        Event::DeviceQuarantined { .. } => ("device-quarantined", None),
        Event::DeviceReturned => ("device-returned", None),
        Event::Moved { sa, .. } => ("moved", Some(*sa)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_an_sa_name_it_and_grants_are_nobodys_business() {
        let sa = SaHandle {
            index: 3,
            generation: 1,
        };
        let limit = Limit::Bytes;
        let expired = name(&Event::SoftExpired { sa, limit });
        assert_eq!(expired, Some(("soft-lifetime", Some(sa))));
        assert_eq!(name(&Event::GrantLow { sa, remaining: 9 }), None);
        assert_eq!(
            name(&Event::DeviceReturned),
            Some(("device-returned", None))
        );
    }
}
