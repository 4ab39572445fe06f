// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A server's end of a connection, on which both sides may ask: the client's commands come in, and the
//! server asks for client memory that was not shared by descriptor (`DMA_READ`, `DMA_WRITE`).
//!
//! Whoever waits for a message reads the socket and hands on what is not for itself, so that a server may
//! ask from the thread that serves commands as well as from any other.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::Error;
use crate::message::*;
use crate::socket::{self, Deadline, Message};

/// How long a client may take for its memory. One that takes longer is cut off: what asks is a device's
/// data path.
const DMA_DEADLINE: Duration = Duration::from_millis(500);

/// The client's memory, as far as it is not shared by descriptor. Of no use any more when the client has
/// gone.
#[derive(Clone, Debug)]
pub struct ClientMemory {
    channel: Arc<Channel>,
}

#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    /// Readable when the server is to end.
    stop: Arc<OwnedFd>,
    /// Rung when a command was put aside for the thread that serves them.
    aside: OwnedFd,
    inbox: Mutex<Inbox>,
    next_id: AtomicU16,
    /// Held while a message is sent.
    sending: Mutex<()>,
    closed: AtomicBool,
    /// Most data of one request.
    max_data: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inbox {
    commands: VecDeque<Message>,
    /// Answers by id: nothing for those that are waited for.
    replies: HashMap<u16, Option<Message>>,
}

/// Commands that are put aside while a reply is waited for.
const MOST_ASIDE: usize = 64;

impl Channel {
    pub(crate) fn new(stream: UnixStream, stop: Arc<OwnedFd>) -> Result<Arc<Self>, Error> {
        stream.set_nonblocking(true)?;
        Ok(Arc::new(Self {
            stream,
            stop,
            aside: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            inbox: Mutex::default(),
            next_id: AtomicU16::new(0),
            sending: Mutex::default(),
            closed: AtomicBool::new(false),
            max_data: AtomicUsize::new(MAX_DATA),
        }))
    }

    pub(crate) fn memory(self: &Arc<Self>) -> ClientMemory {
        ClientMemory {
            channel: self.clone(),
        }
    }

    /// What the client has said of the most data in one message.
    pub(crate) fn set_max_data(&self, max: usize) {
        self.max_data
            .store(max.clamp(8, MAX_DATA), Ordering::Relaxed);
    }

    /// Has the thread that serves commands cut the client off. Not here and now: a client that sees the
    /// hang-up may take its memory back, and the device has not let go of it yet.
    fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        self.ring();
    }

    /// Hangs up, when the device has let go of the client's memory.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// The client's next command. [`Error::Gone`] when the client has gone, or the server is to end.
    pub(crate) fn next_command(&self, deadline: Duration) -> Result<Message, Error> {
        loop {
            socket::wait_either(self.stream.as_fd(), self.aside.as_fd(), self.stop.as_fd())?;
            let command = self.take_command(deadline)?;
            // After it was taken: what a client says that was cut off before is not served.
            if self.closed.load(Ordering::Acquire) {
                return Err(Error::Protocol {
                    what: "answer to a request for memory",
                    found: 0,
                });
            }
            if let Some(command) = command {
                return Ok(command);
            }
        }
    }

    /// A command that another thread has read, or that is there to be read.
    fn take_command(&self, deadline: Duration) -> Result<Option<Message>, Error> {
        let mut inbox = self.lock();
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.aside, &mut count);
        if let Some(command) = inbox.commands.pop_front() {
            if !inbox.commands.is_empty() {
                self.ring();
            }
            return Ok(Some(command));
        }
        // Another thread may have read what was there.
        if self.closed.load(Ordering::Acquire) || !socket::is_readable(self.stream.as_fd()) {
            return Ok(None);
        }
        let deadline = Deadline::after(deadline, "a message");
        self.receive(&mut inbox, &deadline)?;
        Ok(inbox.commands.pop_front())
    }

    /// Sends a reply.
    pub(crate) fn send(
        &self,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: &Deadline,
    ) -> Result<(), Error> {
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = Some(self.stop.as_fd());
        socket::send(self.stream.as_fd(), parts, fds, stop, deadline)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.aside, &1u64.to_ne_bytes());
    }

    /// Reads one message and puts it where it belongs.
    fn receive(&self, inbox: &mut Inbox, deadline: &Deadline) -> Result<(), Error> {
        let stop = Some(self.stop.as_fd());
        let message = socket::receive(self.stream.as_fd(), stop, deadline)?;
        let Header { flags, id, .. } = message.header;
        match flags & TYPE_MASK {
            TYPE_COMMAND if inbox.commands.len() < MOST_ASIDE => {
                inbox.commands.push_back(message);
                Ok(())
            }
            TYPE_COMMAND => Err(Error::Protocol {
                what: "commands at once",
                found: MOST_ASIDE as u64,
            }),
            TYPE_REPLY => match inbox.replies.get_mut(&id) {
                Some(place @ None) => {
                    *place = Some(message);
                    Ok(())
                }
                // Nobody has asked, or it was answered already.
                _ => Err(Error::Protocol {
                    what: "reply",
                    found: id.into(),
                }),
            },
            _ => Err(Error::Protocol {
                what: "type",
                found: flags.into(),
            }),
        }
    }

    /// Asks the client and waits for its answer.
    fn request(&self, command: Command, parts: [&[u8]; 2]) -> Result<Message, Error> {
        let deadline = Deadline::after(DMA_DEADLINE, command.name());
        let result = self
            .post(command, parts, &deadline)
            .and_then(|id| self.await_reply(id, &deadline));
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => {
                // Out of step for good.
                self.abandon();
                return Err(error);
            }
        };
        let Header { flags, error, .. } = reply.header;
        if reply.header.command != command as u16 {
            self.abandon();
            return Err(Error::Protocol {
                what: "reply to another call",
                found: reply.header.command.into(),
            });
        }
        if flags & FLAG_ERROR != 0 {
            return Err(Error::Refused {
                command: command.name(),
                errno: socket::errno(error),
            });
        }
        Ok(reply)
    }

    fn post(&self, command: Command, parts: [&[u8]; 2], deadline: &Deadline) -> Result<u16, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Gone);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let header = Header {
            id,
            command: command as u16,
            size: (HEADER_LEN + len) as u32,
            flags: TYPE_COMMAND,
            error: 0,
        };
        self.lock().replies.insert(id, None);
        let [first, second] = parts;
        self.send(&[header.as_bytes(), first, second], &[], deadline)?;
        Ok(id)
    }

    fn await_reply(&self, id: u16, deadline: &Deadline) -> Result<Message, Error> {
        loop {
            let mut inbox = self.lock();
            if let Some(Some(_)) = inbox.replies.get(&id)
                && let Some(Some(reply)) = inbox.replies.remove(&id)
            {
                return Ok(reply);
            }
            let before = inbox.commands.len();
            let stop = Some(self.stop.as_fd());
            let result = socket::wait(self.stream.as_fd(), PollFlags::IN, stop, Some(deadline))
                .and_then(|()| self.receive(&mut inbox, deadline));
            if inbox.commands.len() != before {
                self.ring();
            }
            if result.is_err() {
                inbox.replies.remove(&id);
            }
            result?;
        }
    }
}

impl ClientMemory {
    /// Reads memory that the client has mapped without a descriptor.
    ///
    /// # Errors
    /// The client refuses, does not answer in time (and is cut off), or has gone.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Error> {
        let mut at = address;
        for chunk in data.chunks_mut(self.channel.max_data.load(Ordering::Relaxed)) {
            let count = chunk.len() as u64;
            let request = DmaAccess { address: at, count };
            let reply = self
                .channel
                .request(Command::DmaRead, [request.as_bytes(), &[]])?;
            let found = reply
                .payload
                .get(size_of::<DmaAccess>()..)
                .unwrap_or_default();
            if found.len() != chunk.len() {
                return Err(Error::Protocol {
                    what: "octets read",
                    found: found.len() as u64,
                });
            }
            chunk.copy_from_slice(found);
            at = at.wrapping_add(count);
        }
        Ok(())
    }

    /// Writes memory that the client has mapped without a descriptor; when this returns it is written.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Error> {
        let mut at = address;
        for chunk in data.chunks(self.channel.max_data.load(Ordering::Relaxed)) {
            let count = chunk.len() as u64;
            let request = DmaAccess { address: at, count };
            let reply = self
                .channel
                .request(Command::DmaWrite, [request.as_bytes(), chunk])?;
            // How much was written; its upper half may be missing.
            let told = reply.payload.get(8..12).unwrap_or_default();
            let told = u32::read_from_bytes(told).unwrap_or(0);
            if u64::from(told) != count {
                return Err(Error::Protocol {
                    what: "octets written",
                    found: told.into(),
                });
            }
            at = at.wrapping_add(count);
        }
        Ok(())
    }
}

impl From<&Error> for Errno {
    fn from(error: &Error) -> Self {
        match error {
            Error::Refused { errno, .. } => *errno,
            _ => Self::IO,
        }
    }
}
