// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What anybody on the way can say, and what is logged of it.

use std::sync::{Arc, Mutex};

use ikev2d_proto::wire::{Chain, FLAG_RESPONSE, Header, VERSION};
use tracing_subscriber::filter::LevelFilter;

/// A response to IKE_SA_INIT with one notification.
pub(crate) fn forged(request: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut chain = Chain::default();
    chain.notify(kind, data);
    let header = Header::parse(request).unwrap();
    chain.into_message(Header {
        version: VERSION,
        flags: FLAG_RESPONSE,
        ..header
    })
}

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What this logs, down to that level.
pub(crate) fn logged(level: LevelFilter, what: impl FnOnce()) -> Vec<u8> {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level)
        .with_writer({
            let lines = lines.clone();
            move || lines.clone()
        })
        .finish();
    tracing::subscriber::with_default(subscriber, what);
    let text = lines.0.lock().unwrap();
    text.clone()
}
