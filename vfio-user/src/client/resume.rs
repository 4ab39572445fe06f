// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Taking over a connection whose client has died.
//!
//! What the dead client has not read is still in the socket, and may begin inside of a message. The
//! server answers in order, so a request of our own marks the place from which on everything is ours:
//! whatever comes before its answer is thrown away.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::Client;
use crate::Error;
use crate::message::*;
use crate::socket::{self, Deadline};

/// Octets of the answer that marks the place.
const MARK: usize = HEADER_LEN + size_of::<DeviceInfoPayload>();
/// Most that a dead client can have left unread: a socket's buffer, many times over.
const MOST_UNREAD: usize = 64 << 20;

impl Client {
    /// Takes over a connection that another process has used and left behind by dying, at whatever
    /// place. Nothing about the device changes by it.
    ///
    /// # Errors
    /// The stream can't be brought back into step: the dead client had sent half a message, or the
    /// device has hung up. The device is to be connected to anew then.
    pub fn resume(stream: UnixStream, deadline: Duration) -> Result<Self, Error> {
        stream.set_nonblocking(true)?;
        // An id that the dead client is not likely to have been at.
        let id = (std::process::id() as u16) ^ 0xa55a;
        let mut client = Self::on(stream, deadline, id.wrapping_add(1));
        let limit = Deadline::after(deadline, "taking over a connection");
        let taken = client
            .find_place(id, &limit)
            // From here on the stream is in step, or this fails: an answer that only looked like ours.
            .and_then(|()| client.agree());
        match taken {
            // Some devices agree once for each connection.
            Ok(()) | Err(Error::Refused { .. }) => Ok(client),
            Err(error) => {
                // Others may hold the socket too, and the device serves nobody else until it is shut.
                client.close();
                Err(error)
            }
        }
    }

    fn find_place(&self, id: u16, limit: &Deadline) -> Result<(), Error> {
        let mut tail = Vec::new();
        // Room for our request, should the dead client have let answers pile up.
        self.skip(&mut tail, 0)?;
        self.ask(id, limit)?;
        while !is_mark(&tail, id) {
            socket::wait(self.stream.as_fd(), PollFlags::IN, None, Some(limit))?;
            self.skip(&mut tail, MARK)?;
        }
        Ok(())
    }

    fn ask(&self, id: u16, limit: &Deadline) -> Result<(), Error> {
        let request = DeviceInfoPayload {
            argsz: size_of::<DeviceInfoPayload>() as u32,
            flags: 0,
            regions: 0,
            irqs: 0,
        };
        let header = Header {
            id,
            command: Command::DeviceInfo as u16,
            size: MARK as u32,
            flags: TYPE_COMMAND,
            error: 0,
        };
        let parts = [header.as_bytes(), request.as_bytes()];
        socket::send(self.stream.as_fd(), &parts, &[], None, limit)
    }

    /// Reads what is there, and keeps its last octets. Descriptors among it are closed by the kernel,
    /// since there is no room for them.
    fn skip(&self, tail: &mut Vec<u8>, keep: usize) -> Result<(), Error> {
        let mut octets = [0; 4096];
        let mut skipped = 0;
        loop {
            match rustix::io::read(&self.stream, &mut octets) {
                Ok(0) => return Err(Error::Gone),
                Ok(count) => {
                    tail.extend_from_slice(octets.get(..count).unwrap_or_default());
                    tail.drain(..tail.len().saturating_sub(keep));
                    skipped += count;
                    if skipped > MOST_UNREAD {
                        return Err(Error::Protocol {
                            what: "unread octets",
                            found: skipped as u64,
                        });
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Whether the last octets are the answer to our request.
fn is_mark(tail: &[u8], id: u16) -> bool {
    let Ok((header, _)) = Header::read_from_prefix(tail) else {
        return false;
    };
    tail.len() == MARK
        && header.id == id
        && header.command == Command::DeviceInfo as u16
        && header.size as usize == MARK
        && header.flags & TYPE_MASK == TYPE_REPLY
}
