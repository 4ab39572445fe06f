// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the core wants done: its events are seen to, and its messages sent.

use std::time::Instant;

use ikev2d_proto::event::{Answer, ChildId, Event};

use super::Daemon;

impl Daemon {
    /// Does what the core wants done, until it wants nothing more, and sends its messages.
    pub(crate) async fn settle(&mut self) {
        if std::mem::take(&mut self.interfaces_due) {
            self.update_interfaces().await;
            self.traps_due = true;
        }
        let starts_due = std::mem::take(&mut self.starts_due);
        if starts_due {
            self.refresh_policy();
        }
        if std::mem::take(&mut self.traps_due) {
            self.update_traps();
        }
        if starts_due {
            for connection in self.endpoint.connections().to_vec() {
                self.endpoint.add_children(&connection);
            }
            self.start_connections();
        }
        if std::mem::take(&mut self.manual_due) {
            self.update_manual().await;
        }
        self.route_manual();
        loop {
            // The answer that an SA is gone follows its last packet, and the one that makes an SA goes before its
            // first: these events come before the messages, and those that come of them after.
            let mut due = self.endpoint.events();
            while let Some(event) = self.endpoint.poll_event(&mut due) {
                self.event(event).await;
            }
            self.send_messages().await;
            if self.endpoint.events() == [0, 0] {
                break;
            }
        }
        self.endpoint.events_are_over();
        self.forget_gone();
    }

    async fn send_messages(&mut self) {
        let mut transmit = self.endpoint.poll_transmit();
        if transmit.is_some() {
            self.installer.last_packets_sent().await;
        }
        while let Some(message) = transmit {
            if let Some(stream) = message.path.stream {
                self.streams.send(stream, &message.payload);
            } else if let Err(error) = self.sockets.send(&message) {
                tracing::debug!(%error, to = %message.path.remote, "IKE message not sent");
            }
            transmit = self.endpoint.poll_transmit();
        }
    }

    async fn event(&mut self, event: Event) {
        let now = Instant::now();
        self.counts.count(&event);
        self.note_for_members(&event);
        match event {
            Event::InstallInbound { install, child } => {
                if let Some(log) = &mut self.key_log {
                    log.child(&child);
                }
                let section = self
                    .loaded
                    .child(&self.config, &child.connection, &child.child);
                let names = (&*child.connection, &*child.child);
                let bound = self
                    .interfaces
                    .bind(names, section.map(|section| &**section));
                // One that is configured no more goes on as it was.
                let section = section.cloned();
                let section = section.or_else(|| self.installer.section_before(&child.sa));
                let installed = bound.and_then(|interface| {
                    let installed = self.installer.inbound(*child, section, interface);
                    installed.map_err(|error| error.to_string())
                });
                let answer = match installed {
                    Ok(()) => Answer::Installed(install),
                    Err(reason) => {
                        tracing::error!(error = reason, "child SA can't be installed");
                        Answer::Failed { install, reason }
                    }
                };
                self.endpoint.handle_answer(now, &answer);
            }
            Event::Job { job, work } => self.jobs.submit(job, work),
            Event::Connect {
                stream,
                local,
                remote,
            } => self.streams.connect(stream, local, remote),
            Event::InstallOutbound { install, child } => {
                if let Err(error) = self.installer.outbound(child) {
                    tracing::error!(%error, "child SA can't be installed");
                    let reason = error.to_string();
                    let answer = Answer::Failed { install, reason };
                    return self.endpoint.handle_answer(now, &answer);
                }
                self.endpoint
                    .handle_answer(now, &Answer::Installed(install));
                self.route(child, None);
            }
            Event::AdvanceOutbound { child, by } => {
                if let Err(error) = self.installer.advance(child, by) {
                    tracing::info!(child = child.0, %error, "a child SA is rekeyed in place of a jump");
                    let _ = self.endpoint.rekey_child(now, child);
                }
            }
            Event::RetireChild { child } => {
                let traffic = self.plane.traffic(child.0);
                self.note_leaving(child);
                if let Some(sa) = self.installer.retire(child) {
                    self.count_carried(&sa, traffic);
                    // One that never got to send has no route, and must not take another's.
                    if let Some(held) = self.routed.remove(&child) {
                        self.routes.release(held);
                    }
                }
            }
            Event::IkeKeys(keys) => {
                if let Some(log) = &mut self.key_log {
                    log.ike(&keys);
                }
            }
            Event::Ikev1Keys(keys) => {
                if let Some(log) = &mut self.key_log {
                    log.ikev1(&keys);
                }
            }
            Event::PathChanged {
                ike,
                path,
                udp_encap,
            } => {
                tracing::info!(ike = ike.0, from = %path.local, to = %path.remote, "path changed");
                self.peer_is_at(ike, path.remote.ip());
                // The IKE SA that made a child may have been rekeyed since.
                let of_ike = self.endpoint.ike_sa(ike);
                let children = of_ike.into_iter().flat_map(|sa| sa.children);
                let children: Vec<ChildId> = children.map(|child| child.sa.id).collect();
                for child in children {
                    self.installer.move_child(child, path, Some(udp_encap));
                }
                // The peer may have come into a net that it lies behind.
                self.route_again(ike, path.remote.ip());
            }
            Event::Configured {
                addresses,
                attributes,
                ..
            } => self.configured(&addresses, &attributes).await,
            Event::Unconfigured {
                addresses,
                attributes,
            } => self.unconfigured(&addresses, &attributes).await,
            Event::IkeUp { ike } => {
                self.announce_ike_up(ike);
                let peer = self.endpoint.ike_sa(ike).map(|sa| sa.path.remote.ip());
                if let Some(peer) = peer {
                    self.peer_is_at(ike, peer);
                }
                self.waiters.ike_up(ike, &self.endpoint);
            }
            Event::IkeRekeyed { old, new } => {
                self.announce_ike_rekeyed(old, new);
            }
            Event::Redirected { ike, from, to } => {
                self.say(ike, &format!("redirected by {from} to {to}"));
                self.peer_is_at(ike, to);
                self.route_again(ike, to);
            }
            Event::IkeDown {
                ike,
                connection,
                reason,
            } => {
                self.announce_ike_down(ike, &connection, &reason);
                self.peer_is_gone(&connection);
                self.waiters.ike_down(ike, &connection, &reason);
            }
            Event::ChildUp { ike, child } => {
                tracing::debug!(ike = ike.0, child = child.0, "child SA");
                let waited = self.adoption.waiting();
                self.announce_child_up(child);
                if self.adoption.waiting() < waited {
                    // The peer keeps to our old SAs until it hears that the new ones are there.
                    let _ = self.endpoint.check_liveness(now, ike);
                }
                let sa = self.endpoint.ike_sa_of(child);
                let children = sa.iter().flat_map(|sa| &sa.children);
                if let Some(sa) = children.map(|c| c.sa).find(|sa| sa.id == child) {
                    self.waiters.child_up(&sa.connection, &sa.child);
                }
            }
            Event::ChildRekeyed { old, new } => {
                self.announce_child_rekeyed(old, new);
            }
            Event::RekeyFailed { ike, child, reason } => {
                tracing::warn!(child = child.0, reason, "child SA could not be rekeyed");
                let text = format!("CHILD_SA {{{}}} could not be rekeyed: {reason}", child.0);
                self.say(ike, &text);
            }
            Event::ChildDown { child, reason } => {
                self.announce_child_down(child, &reason);
                self.waiters.child_down(child);
            }
            Event::InitiateFailed {
                connection,
                child,
                reason,
            } => {
                tracing::warn!(connection, ?child, reason, "initiation failed");
                self.waiters.failed(&connection, child.as_deref(), &reason);
                self.try_failed(&connection, child.as_deref());
            }
            Event::Doubted {
                ike,
                connection,
                reason,
            } => {
                let text = format!("{connection}: {reason}; asked again, since anybody may say so");
                self.say(ike, &text);
                self.waiters.doubt(&connection, &reason);
            }
            event => tracing::debug!(?event, "event"),
        }
    }
}
