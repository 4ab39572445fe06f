// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP encapsulation (RFC 9329): an IKE SA on a stream. The original initiator opens it, and opens
//! another one when it ends; the SAs stay meanwhile, and the peer takes the new one in with the first
//! authenticated message on it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::timers::falls_back;
use super::{Ctx, IkeSa, State, Task, nothing};
use crate::config::Tcp;
use crate::event::{Event, Path, StreamId};

/// Between attempts to open a stream: one that ends at once costs no more.
const PAUSE: Duration = Duration::from_secs(1);
/// First messages that one initiation sends on streams that end.
const MOST_STREAMS: u32 = 3;

/// How the stream of an IKE SA stands.
#[derive(Default)]
pub(crate) struct Carriage {
    /// It is ours to open, and not there yet.
    opening: bool,
    /// It has ended.
    lost: bool,
    /// When we last began to open one.
    dialled: Option<Instant>,
    /// Streams that have ended before the peer said anything.
    ended: u32,
}

nothing!(Carriage);

impl IkeSa {
    /// Sends the first message, by the way that the connection wants or that was used before.
    pub(crate) fn begin_init(
        &mut self,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), crate::crypto::CryptoError> {
        if self.connection.tcp == Tcp::Always || self.path.stream.is_some() {
            self.dial(ctx);
            return Ok(());
        }
        self.start(ctx)
    }

    /// Whether a message can't leave now.
    pub(super) fn is_silent(&self) -> bool {
        self.path.stream.is_some() && (self.carriage.opening || self.carriage.lost)
    }

    /// Opens a stream; what is to be said on it waits.
    fn dial(&mut self, ctx: &mut Ctx<'_>) {
        let stream = ctx.out.numbers.next_stream();
        self.wait_for(stream, ctx.now);
        let (local, remote) = (self.path.local.ip(), self.path.remote);
        ctx.event(Event::Connect {
            stream,
            local,
            remote,
        });
    }

    fn wait_for(&mut self, stream: StreamId, now: Instant) {
        self.path.stream = Some(stream);
        self.path.local.set_port(0);
        self.path.remote.set_port(self.connection.tcp_port);
        self.carriage.opening = true;
        self.carriage.lost = false;
        self.carriage.dialled = Some(now);
    }

    /// Opens a stream in place of one that has ended, unless that was tried just now.
    pub(super) fn dial_again(&mut self, ctx: &mut Ctx<'_>) {
        let lately = |at: Instant| ctx.now < at + PAUSE;
        if self.moves && !self.carriage.opening && !self.carriage.dialled.is_some_and(lately) {
            self.dial(ctx);
        }
    }

    /// Whether the outstanding request is said already, and lost by nobody: TCP sends it again, not we.
    pub(super) fn is_said(&self, on: Option<StreamId>) -> bool {
        // Where the peer has yet to hear that we have moved, it may answer to where we were.
        let moving = self.tasks.contains(&Task::Move);
        on.is_some() && on == self.path.stream && !self.is_silent() && !moving
    }

    /// UDP gets no answer, and TCP may.
    pub(super) fn fall_back(&mut self, ctx: &mut Ctx<'_>) -> bool {
        if !falls_back(self, ctx.config) {
            return false;
        }
        tracing::info!(ike = self.id.0, peer = %self.path.remote, "no answer by UDP: TCP is tried");
        if self.keys.is_none() {
            // A late answer to what UDP carried is to fit nothing.
            self.take_init_request();
            self.init.cookie.clear();
            self.init.refusal = None;
            self.spi_i = ctx.random_u64();
        }
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.tries = 0;
            outstanding.at = ctx.now + outstanding.wait;
        }
        self.dial(ctx);
        true
    }

    /// Leaves TCP, or tries UDP again, where the network has changed (RFC 9329 §8.4).
    pub(super) fn choose_carrier(&mut self, ctx: &mut Ctx<'_>) {
        match self.connection.tcp {
            Tcp::Off => {}
            Tcp::Always => self.dial(ctx),
            Tcp::Fallback => {
                let Some(_) = self.path.stream.take() else {
                    return;
                };
                self.carriage.clear();
                self.path.local.set_port(ctx.config.nat_port);
                let port = match self.connection.remote_port {
                    port if port == ctx.config.ike_port => ctx.config.nat_port,
                    port => port,
                };
                self.path.remote.set_port(port);
            }
        }
    }

    /// Our stream is there.
    pub(crate) fn stream_opened(&mut self, ctx: &mut Ctx<'_>, stream: StreamId, local: SocketAddr) {
        if self.path.stream != Some(stream) || !self.carriage.opening {
            return;
        }
        self.carriage.opening = false;
        self.path.local = local;
        if self.keys.is_none() {
            if self.start(ctx).is_err() {
                self.die(ctx, "IKE_SA_INIT could not be made");
            }
            return;
        }
        self.tell_path(ctx);
        match self.outstanding.take() {
            Some(mut outstanding) => {
                for message in outstanding.sent.messages() {
                    self.send(ctx, message.to_vec());
                }
                outstanding.stream = self.path.stream;
                self.outstanding = Some(outstanding);
            }
            // The peer learns of the stream by what comes on it.
            None => self.tasks.push_front(Task::Liveness),
        }
    }

    /// A stream has ended, or could not be opened. Another IKE SA on it may have the next one already.
    pub(crate) fn stream_closed(
        &mut self,
        ctx: &mut Ctx<'_>,
        stream: StreamId,
        successor: Option<StreamId>,
        reason: &str,
    ) {
        if self.path.stream != Some(stream) || self.state == State::Dead {
            return;
        }
        let opened = !self.carriage.opening;
        (self.carriage.opening, self.carriage.lost) = (false, true);
        if !self.moves {
            // It is the peer's to come again (§6.7).
            return;
        }
        if self.keys.is_none() {
            self.take_init_request();
            self.carriage.ended += 1;
            if !opened || self.carriage.ended >= MOST_STREAMS {
                return self.die(ctx, &format!("no TCP connection to the peer: {reason}"));
            }
            return self.dial(ctx);
        }
        if let Some(successor) = successor {
            return self.wait_for(successor, ctx.now);
        }
        if self.outstanding.is_none() {
            // To have something to say, and to count tries by.
            self.tasks.push_front(Task::Liveness);
        } else if opened {
            self.dial_again(ctx);
        }
    }

    /// It goes on there.
    pub(super) fn take_path(&mut self, ctx: &mut Ctx<'_>, path: Path) {
        let other = path.stream != self.path.stream;
        self.path = path;
        if !other {
            return;
        }
        self.carriage.clear();
        // What we have asked on a stream before may be lost with it.
        if path.stream.is_some()
            && let Some(mut outstanding) = self.outstanding.take()
        {
            for message in outstanding.sent.messages() {
                self.send(ctx, message.to_vec());
            }
            outstanding.stream = path.stream;
            self.outstanding = Some(outstanding);
        }
    }
}
