// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The streams that carry IKE SAs (RFC 9329).

use std::net::SocketAddr;
use std::time::Instant;

use super::Endpoint;
use crate::event::{IkeId, StreamId};

/// What a stream is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUse {
    /// Nothing.
    Nothing,
    /// An IKE SA that is not authenticated yet.
    HalfOpen,
    /// An authenticated one.
    Established,
}

impl Endpoint {
    /// A stream that [`Connect`](crate::event::Event::Connect) asked for is there, with this end of ours.
    pub fn stream_opened(&mut self, now: Instant, stream: StreamId, local: SocketAddr) {
        for id in self.carried_by(stream) {
            let _ = self.on(now, id, |sa, ctx| sa.stream_opened(ctx, stream, local));
        }
    }

    /// A stream has ended, or could not be opened.
    pub fn stream_closed(&mut self, now: Instant, stream: StreamId, reason: &str) {
        let mut successor = None;
        for id in self.carried_by(stream) {
            let _ = self.on(now, id, |sa, ctx| {
                sa.stream_closed(ctx, stream, successor, reason);
            });
            // A rekeyed IKE SA shares it with the new one.
            let now_on = self.sas.get(&id).and_then(|sa| sa.path.stream);
            successor = successor.or(now_on.filter(|on| *on != stream));
        }
    }

    /// What a stream is used for.
    pub fn stream_use(&self, stream: StreamId) -> StreamUse {
        let mut used = StreamUse::Nothing;
        for sa in self.sas.of_stream(stream) {
            if sa.established.is_some() {
                return StreamUse::Established;
            }
            used = StreamUse::HalfOpen;
        }
        used
    }

    fn carried_by(&self, stream: StreamId) -> Vec<IkeId> {
        self.sas.of_stream(stream).map(|sa| sa.id).collect()
    }
}
