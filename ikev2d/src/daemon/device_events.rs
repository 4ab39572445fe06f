// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an accelerator tells: lifetimes that are over, its loss and return, packets that it dropped.

use std::time::Instant;

use offload_api::device::Accelerator;
use offload_api::event::Event as DeviceEvent;

use super::Daemon;

impl Daemon {
    /// Sees to what has been told since it looked last.
    pub(super) fn device_events(&mut self, now: Instant) {
        let mut events = Vec::new();
        self.devices.failover.poll_events(&mut events);
        for event in events {
            self.device_event(now, event);
        }
    }

    fn device_event(&mut self, now: Instant, event: DeviceEvent) {
        self.announce_engine(&event);
        match event {
            DeviceEvent::SoftExpired { sa, limit } => {
                if let Some(child) = self.installer.child_of(sa) {
                    tracing::info!(child = child.0, ?limit, "lifetime is reached");
                    let _ = self.endpoint.rekey_child(now, child);
                }
            }
            DeviceEvent::HardExpired { sa, limit } => {
                if let Some(child) = self.installer.child_of(sa) {
                    tracing::warn!(child = child.0, ?limit, "hard lifetime is over");
                    let _ = self.endpoint.child_expired(now, child);
                }
            }
            DeviceEvent::SequenceEnding { sa } => {
                if let Some(name) = self.manual.name_of(sa) {
                    tracing::warn!(
                        name,
                        "a manual key's sequence numbers end soon: it needs a new one"
                    );
                }
                if let Some(child) = self.installer.child_of(sa) {
                    let _ = self.endpoint.rekey_child(now, child);
                }
            }
            DeviceEvent::DeviceLost { reason } => {
                tracing::warn!(reason, "accelerator lost: ESP goes on in software");
            }
            DeviceEvent::DeviceQuarantined { reason } => {
                tracing::error!(
                    reason,
                    "accelerator quarantined: `esplanade devices --release` takes it back"
                );
            }
            DeviceEvent::DeviceReturned => {
                tracing::info!("accelerator is back");
                self.plane.device_returned();
            }
            DeviceEvent::Moved { sa, engine } => {
                let child = self.installer.child_of(sa).map(|child| child.0);
                tracing::info!(?child, ?engine, "SA moved");
            }
            DeviceEvent::BadIcvBurst { sa, count } => {
                let child = self.installer.child_of(sa).map(|child| child.0);
                tracing::warn!(?child, count, "packets with a bad ICV were dropped");
            }
            DeviceEvent::ReplayBurst { sa, count } => {
                let child = self.installer.child_of(sa).map(|child| child.0);
                tracing::warn!(?child, count, "replayed packets were dropped");
            }
            event @ (DeviceEvent::QueueFailed { .. } | DeviceEvent::Zeroised) => {
                tracing::error!(?event, "accelerator");
            }
            event => tracing::debug!(?event, "device"),
        }
    }
}
