// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A turn that takes its time is made by a job: the conversation goes there and comes back with it.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Client, ClientTurn, EapError, Server, ServerTurn};
use crate::credential::{Job, Work};

/// Our end of a conversation.
pub(crate) trait Converse: Send + 'static {
    /// What it does with a packet.
    type Turn: Send;

    fn handle(&mut self, packet: &[u8]) -> Result<Self::Turn, EapError>;

    /// Whether that is nothing for the thread that drives the endpoint.
    fn is_slow(&self) -> bool;
}

impl Converse for Client {
    type Turn = ClientTurn;

    fn handle(&mut self, packet: &[u8]) -> Result<ClientTurn, EapError> {
        Self::handle(self, packet)
    }

    fn is_slow(&self) -> bool {
        self.config.methods.is_slow()
    }
}

impl Converse for Server {
    type Turn = ServerTurn;

    fn handle(&mut self, packet: &[u8]) -> Result<ServerTurn, EapError> {
        Self::handle(self, packet)
    }

    fn is_slow(&self) -> bool {
        self.config.methods.is_slow()
    }
}

/// What comes back: the conversation, and the turn if it was made.
pub(crate) type Back<C> = (C, Option<Result<<C as Converse>::Turn, EapError>>);

/// A conversation that is elsewhere.
pub(crate) struct Elsewhere<C: Converse>(Arc<Mutex<Option<Back<C>>>>);

impl<C: Converse> Elsewhere<C> {
    /// Sends it with a packet.
    pub(crate) fn send(talk: C, packet: &[u8]) -> (Self, Job) {
        let place = Arc::new(Mutex::new(Some((talk, None))));
        let (there, packet) = (place.clone(), packet.to_vec());
        let work: Work = Arc::new(move || {
            let mut place = there.lock().unwrap_or_else(PoisonError::into_inner);
            // If it panics nobody goes on with what is left of it.
            if let Some((mut talk, None)) = place.take() {
                let turn = talk.handle(&packet);
                *place = Some((talk, Some(turn)));
            }
        });
        (Self(place), Job::of(work))
    }

    /// Takes it back.
    pub(crate) fn back(&self) -> Option<Back<C>> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.take()
    }
}
