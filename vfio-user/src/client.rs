// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's end.

mod memory;
mod resume;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Error;
use crate::message::*;
use crate::socket::{self, Deadline, Message};

pub use memory::PrivateMemory;

/// How long a probe may wait for room to be sent in.
const PROBE_SENT: Duration = Duration::from_millis(10);

/// A connection to a device. Calls may come from several threads; they are served one by one.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    control: Mutex<Control>,
    deadline: Duration,
    gone: AtomicBool,
    max_fds: usize,
    max_data: usize,
}

struct Control {
    next_id: u16,
    /// A probe whose answer has not come yet.
    probe: Option<(u16, RegionAccess)>,
    /// Memory that the device asks for.
    memory: Option<Box<dyn PrivateMemory>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// A region as the device describes it.
#[derive(Debug)]
pub struct Region {
    /// Octets.
    pub size: u64,
    /// `REGION_…` flags.
    pub flags: u32,
    /// Areas that may be mapped.
    pub areas: Vec<SparseArea>,
    /// What to map, and where the region starts in it.
    pub memory: Option<(OwnedFd, u64)>,
}

impl Client {
    /// Connects to a device's socket and agrees on a version. `deadline` is for every call, and for being
    /// let in.
    ///
    /// # Errors
    /// Nobody listens, or the peer speaks something else.
    pub fn connect(path: &Path, deadline: Duration) -> Result<Self, Error> {
        Self::from_stream(socket::connect(path, deadline)?, deadline)
    }

    /// As [`connect`](Self::connect), over a connected socket.
    ///
    /// # Errors
    /// The peer speaks something else.
    pub fn from_stream(stream: UnixStream, deadline: Duration) -> Result<Self, Error> {
        stream.set_nonblocking(true)?;
        let mut client = Self::on(stream, deadline, 1);
        client.agree()?;
        Ok(client)
    }

    fn on(stream: UnixStream, deadline: Duration, next_id: u16) -> Self {
        Self {
            stream,
            control: Mutex::new(Control {
                next_id,
                memory: None,
                probe: None,
            }),
            deadline,
            gone: AtomicBool::new(false),
            max_fds: 1,
            max_data: MAX_DATA,
        }
    }

    /// Agrees on a version and on limits.
    fn agree(&mut self) -> Result<(), Error> {
        let version = VersionPayload {
            major: VERSION_MAJOR,
            minor: VERSION_MINOR,
        };
        let capabilities = capabilities_json();
        let reply = self.call(
            Command::Version,
            &[version.as_bytes(), capabilities.as_bytes()],
            &[],
        )?;
        let (version, rest) =
            VersionPayload::read_from_prefix(&reply.payload).map_err(|_| Error::Protocol {
                what: "version reply",
                found: reply.payload.len() as u64,
            })?;
        if version.major != VERSION_MAJOR {
            return Err(Error::Version {
                major: version.major,
                minor: version.minor,
            });
        }
        let text = String::from_utf8_lossy(rest);
        self.max_fds = capability(&text, "max_msg_fds")
            .unwrap_or(1)
            .clamp(1, MAX_FDS);
        self.max_data = capability(&text, "max_data_xfer_size")
            .unwrap_or(MAX_DATA)
            .clamp(8, MAX_DATA);
        Ok(())
    }

    /// Whether the device was seen to be gone.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The socket: it becomes readable (hung up) when the device goes.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Hangs up; every later call fails.
    pub fn close(&self) {
        self.gone.store(true, Ordering::Release);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Counts of regions and interrupt types.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn device_info(&self) -> Result<DeviceInfoPayload, Error> {
        let request = DeviceInfoPayload {
            argsz: 16,
            flags: 0,
            regions: 0,
            irqs: 0,
        };
        self.call_for(Command::DeviceInfo, &request)
    }

    /// A region with its mappable areas.
    ///
    /// # Errors
    /// [`Error`].
    pub fn region_info(&self, index: u32) -> Result<Region, Error> {
        const ROOM: u32 = 4096 - HEADER_LEN as u32;
        let request = RegionInfoPayload {
            argsz: ROOM,
            flags: 0,
            index,
            capability_offset: 0,
            size: 0,
            offset: 0,
        };
        let reply = self.call(Command::RegionInfo, &[request.as_bytes()], &[])?;
        let (info, _) =
            RegionInfoPayload::read_from_prefix(&reply.payload).map_err(|_| Error::Protocol {
                what: "region info",
                found: reply.payload.len() as u64,
            })?;
        let mut areas = Vec::new();
        if info.flags & REGION_CAPABILITIES != 0 {
            read_areas(&reply.payload, info.capability_offset, &mut areas)?;
        }
        if info.flags & REGION_MMAP != 0 && areas.is_empty() && info.size != 0 {
            areas.push(SparseArea {
                offset: 0,
                size: info.size,
            });
        }
        let memory = reply.fds.into_iter().next().map(|fd| (fd, info.offset));
        Ok(Region {
            size: info.size,
            flags: info.flags,
            areas,
            memory,
        })
    }

    /// Vectors of an interrupt type.
    ///
    /// # Errors
    /// [`Error`].
    pub fn irq_info(&self, index: u32) -> Result<IrqInfoPayload, Error> {
        let request = IrqInfoPayload {
            argsz: 16,
            flags: 0,
            index,
            count: 0,
        };
        self.call_for(Command::IrqInfo, &request)
    }

    /// Reads a region.
    ///
    /// # Errors
    /// [`Error`]; `data` is then in no state to be used.
    pub fn region_read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Error> {
        let mut offset = offset;
        for chunk in data.chunks_mut(self.max_data) {
            let count = chunk.len() as u32;
            let request = RegionAccess {
                offset,
                region,
                count,
            };
            let reply = self.call(Command::RegionRead, &[request.as_bytes()], &[])?;
            let found = reply
                .payload
                .get(size_of::<RegionAccess>()..)
                .unwrap_or_default();
            if found.len() != chunk.len() {
                return Err(Error::Protocol {
                    what: "octets read",
                    found: found.len() as u64,
                });
            }
            chunk.copy_from_slice(found);
            offset = offset.wrapping_add(u64::from(count));
        }
        Ok(())
    }

    /// Reads a few octets of a region, for a watchdog: it waits for an answer for about as long as it is
    /// told, not at all for other threads' calls, and gives false then. The connection is still good: an
    /// answer that comes later is that of the next probe.
    ///
    /// # Errors
    /// [`Error`].
    pub fn region_probe(
        &self,
        region: u32,
        offset: u64,
        data: &mut [u8],
        within: Duration,
    ) -> Result<bool, Error> {
        let Ok(mut control) = self.control.try_lock() else {
            return Ok(false);
        };
        let request = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        let deadline = Deadline::after(self.deadline, Command::RegionRead.name());
        let (id, asked) = match control.probe {
            Some(probe) => probe,
            None => {
                let parts = [request.as_bytes()];
                let soon = Deadline::after(PROBE_SENT, Command::RegionRead.name());
                let id = self.post(&mut control, Command::RegionRead, 0, &parts, &[], &soon);
                let id = self.judge(id)?;
                control.probe = Some((id, request));
                (id, request)
            }
        };
        let time = Timespec {
            tv_sec: within.as_secs() as i64,
            tv_nsec: within.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        if poll(&mut fds, Some(&time)).is_ok_and(|ready| ready == 0) {
            return Ok(false);
        }
        control.probe = None;
        let reply = self.await_reply(&mut control, Command::RegionRead, id, &deadline);
        let reply = self.judge(reply)?;
        let found = reply.payload.get(size_of::<RegionAccess>()..);
        match found.filter(|found| found.len() == data.len() && asked == request) {
            Some(found) => data.copy_from_slice(found),
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Writes a region and waits until it is done.
    ///
    /// # Errors
    /// [`Error`].
    pub fn region_write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut offset = offset;
        for chunk in data.chunks(self.max_data) {
            let count = chunk.len() as u32;
            let request = RegionAccess {
                offset,
                region,
                count,
            };
            self.call(Command::RegionWrite, &[request.as_bytes(), chunk], &[])?;
            offset = offset.wrapping_add(u64::from(count));
        }
        Ok(())
    }

    /// Writes a region without waiting, as a posted PCIe write does.
    ///
    /// # Errors
    /// [`Error`].
    pub fn region_write_posted(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Error> {
        let request = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Deadline::after(self.deadline, Command::RegionWrite.name());
        let parts: [&[u8]; 2] = [request.as_bytes(), data];
        let posted = self.post(
            &mut control,
            Command::RegionWrite,
            FLAG_NO_REPLY,
            &parts,
            &[],
            &deadline,
        );
        // Half a message leaves the stream out of step.
        self.judge(posted.map(drop))
    }

    /// Makes memory reachable for the device at `iova`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn dma_map(
        &self,
        iova: u64,
        size: u64,
        memory: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), Error> {
        let request = DmaMapPayload {
            argsz: size_of::<DmaMapPayload>() as u32,
            flags: DMA_READ | DMA_WRITE,
            offset,
            address: iova,
            size,
        };
        self.call(Command::DmaMap, &[request.as_bytes()], &[memory])
            .map(drop)
    }

    /// Gives the device memory that it has to ask for. It is asked for while a call waits for its reply,
    /// and in [`serve`](Self::serve).
    pub fn set_private_memory(&self, memory: Box<dyn PrivateMemory>) {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.memory = Some(memory);
    }

    /// Maps a range of the [private memory](Self::set_private_memory), without a descriptor.
    ///
    /// # Errors
    /// [`Error`].
    pub fn dma_map_private(&self, iova: u64, size: u64) -> Result<(), Error> {
        let request = DmaMapPayload {
            argsz: size_of::<DmaMapPayload>() as u32,
            flags: DMA_READ | DMA_WRITE,
            offset: 0,
            address: iova,
            size,
        };
        self.call(Command::DmaMap, &[request.as_bytes()], &[])
            .map(drop)
    }

    /// Waits so long for the device to ask for private memory and answers it; whether it has asked.
    ///
    /// # Errors
    /// [`Error`].
    pub fn serve(&self, limit: Duration) -> Result<bool, Error> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_gone() {
            return Err(Error::Gone);
        }
        let wait = Deadline::after(limit, "a request");
        match socket::wait(self.stream.as_fd(), PollFlags::IN, None, Some(&wait)) {
            Ok(()) => {}
            Err(Error::Timeout { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let deadline = Deadline::after(self.deadline, "a request");
        let result = socket::receive(self.stream.as_fd(), None, &deadline).and_then(|message| {
            if message.header.flags & TYPE_MASK != TYPE_COMMAND {
                return Err(Error::Protocol {
                    what: "reply without a call",
                    found: message.header.id.into(),
                });
            }
            self.answer(&mut control, &message, &deadline)
        });
        if result.is_err() {
            self.gone.store(true, Ordering::Release);
        }
        result.map(|()| true)
    }

    /// Makes memory unreachable again; when this returns the device touches it no more.
    ///
    /// # Errors
    /// [`Error`].
    pub fn dma_unmap(&self, iova: u64, size: u64) -> Result<(), Error> {
        let request = DmaUnmapPayload {
            argsz: size_of::<DmaUnmapPayload>() as u32,
            flags: 0,
            address: iova,
            size,
        };
        self.call(Command::DmaUnmap, &[request.as_bytes()], &[])
            .map(drop)
    }

    /// Makes all memory unreachable, whoever mapped it.
    ///
    /// # Errors
    /// [`Error`].
    pub fn dma_unmap_all(&self) -> Result<(), Error> {
        let request = DmaUnmapPayload {
            argsz: size_of::<DmaUnmapPayload>() as u32,
            flags: UNMAP_ALL,
            address: 0,
            size: 0,
        };
        self.call(Command::DmaUnmap, &[request.as_bytes()], &[])
            .map(drop)
    }

    /// Wires interrupt vectors from `start` on to eventfds.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_irqs(
        &self,
        index: u32,
        start: u32,
        eventfds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let mut start = start;
        for chunk in eventfds.chunks(self.max_fds) {
            let request = SetIrqsPayload {
                argsz: size_of::<SetIrqsPayload>() as u32,
                flags: IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER,
                index,
                start,
                count: chunk.len() as u32,
            };
            self.call(Command::SetIrqs, &[request.as_bytes()], chunk)?;
            start = start.saturating_add(chunk.len() as u32);
        }
        Ok(())
    }

    /// Cuts all vectors of an interrupt type.
    ///
    /// # Errors
    /// [`Error`].
    pub fn clear_irqs(&self, index: u32) -> Result<(), Error> {
        let request = SetIrqsPayload {
            argsz: size_of::<SetIrqsPayload>() as u32,
            flags: IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER,
            index,
            start: 0,
            count: 0,
        };
        self.call(Command::SetIrqs, &[request.as_bytes()], &[])
            .map(drop)
    }

    /// Resets the device.
    ///
    /// # Errors
    /// [`Error`].
    pub fn reset(&self) -> Result<(), Error> {
        self.call(Command::DeviceReset, &[], &[]).map(drop)
    }

    fn call_for<T>(&self, command: Command, request: &T) -> Result<T, Error>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        let reply = self.call(command, &[request.as_bytes()], &[])?;
        let found = reply.payload.len() as u64;
        let what = "reply size";
        T::read_from_prefix(&reply.payload)
            .map(|(reply, _)| reply)
            .map_err(|_| Error::Protocol { what, found })
    }

    fn call(
        &self,
        command: Command,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Message, Error> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Deadline::after(self.deadline, command.name());
        let result = self
            .post(&mut control, command, 0, parts, fds, &deadline)
            .and_then(|id| self.await_reply(&mut control, command, id, &deadline));
        self.judge(result)
    }

    /// Notes what an error means for the connection.
    fn judge<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Gone | Error::Timeout { .. } | Error::Protocol { .. } | Error::Io(_)) =
            &result
        {
            // Without its reply the stream is out of step for good.
            self.gone.store(true, Ordering::Release);
        }
        result
    }

    fn post(
        &self,
        control: &mut Control,
        command: Command,
        flags: u32,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: &Deadline,
    ) -> Result<u16, Error> {
        if self.is_gone() {
            return Err(Error::Gone);
        }
        let id = control.next_id;
        control.next_id = id.wrapping_add(1);
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let header = Header {
            id,
            command: command as u16,
            size: (HEADER_LEN + len) as u32,
            flags: TYPE_COMMAND | flags,
            error: 0,
        };
        let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 1);
        all.push(header.as_bytes());
        all.extend_from_slice(parts);
        socket::send(self.stream.as_fd(), &all, fds, None, deadline)?;
        Ok(id)
    }

    fn await_reply(
        &self,
        control: &mut Control,
        command: Command,
        id: u16,
        deadline: &Deadline,
    ) -> Result<Message, Error> {
        loop {
            let message = socket::receive(self.stream.as_fd(), None, deadline)?;
            let Header { flags, error, .. } = message.header;
            if flags & TYPE_MASK == TYPE_COMMAND {
                self.answer(control, &message, deadline)?;
                continue;
            }
            if let Some((probe, _)) = control.probe
                && message.header.id == probe
                && probe != id
            {
                control.probe = None;
                continue;
            }
            if message.header.id != id || message.header.command != command as u16 {
                return Err(Error::Protocol {
                    what: "reply to another call",
                    found: message.header.id.into(),
                });
            }
            if flags & FLAG_ERROR != 0 {
                return Err(Error::Refused {
                    command: command.name(),
                    errno: socket::errno(error),
                });
            }
            return Ok(message);
        }
    }

    /// Answers the device's own command.
    fn answer(
        &self,
        control: &mut Control,
        message: &Message,
        deadline: &Deadline,
    ) -> Result<(), Error> {
        let request = message.header;
        let result = match (&mut control.memory, Command::from_code(request.command)) {
            (Some(memory), Some(Command::DmaRead)) => memory::read(&mut **memory, &message.payload),
            (Some(memory), Some(Command::DmaWrite)) => {
                memory::write(&mut **memory, &message.payload)
            }
            _ => Err(Errno::NOSYS),
        };
        if request.flags & FLAG_NO_REPLY != 0 {
            return Ok(());
        }
        let (payload, flags, error) = match result {
            Ok(payload) => (payload, TYPE_REPLY, 0),
            Err(errno) => (
                Vec::new(),
                TYPE_REPLY | FLAG_ERROR,
                errno.raw_os_error().unsigned_abs(),
            ),
        };
        let reply = Header {
            size: (HEADER_LEN + payload.len()) as u32,
            flags,
            error,
            ..request
        };
        socket::send(
            self.stream.as_fd(),
            &[reply.as_bytes(), &payload],
            &[],
            None,
            deadline,
        )
    }
}

fn read_areas(payload: &[u8], offset: u32, areas: &mut Vec<SparseArea>) -> Result<(), Error> {
    const MOST: usize = 64;
    let bad = |found: u64| Error::Protocol {
        what: "region capability",
        found,
    };
    let mut offset = offset as usize;
    // Offsets must grow, so that a loop ends.
    let mut last = 0;
    while offset > last {
        last = offset;
        let octets = payload.get(offset..).ok_or_else(|| bad(offset as u64))?;
        let (header, rest) =
            CapabilityHeader::read_from_prefix(octets).map_err(|_| bad(offset as u64))?;
        if header.id == CAPABILITY_SPARSE_MMAP {
            let (sparse, mut rest) =
                SparseMmap::read_from_prefix(rest).map_err(|_| bad(offset as u64))?;
            for _ in 0..(sparse.areas as usize).min(MOST) {
                let (area, behind) =
                    SparseArea::read_from_prefix(rest).map_err(|_| bad(sparse.areas.into()))?;
                areas.push(area);
                rest = behind;
            }
        }
        offset = header.next as usize;
    }
    Ok(())
}

pub(crate) fn capabilities_json() -> String {
    format!(
        "{{\"capabilities\":{{\"max_msg_fds\":{MAX_FDS},\"max_data_xfer_size\":{MAX_DATA},\
         \"pgsize\":{PAGE}}}}}\0"
    )
}

/// A number of the capabilities' JSON text.
pub(crate) fn capability(text: &str, name: &str) -> Option<usize> {
    let value: serde_json::Value = serde_json::from_str(text.trim_end_matches('\0')).ok()?;
    usize::try_from(value.get("capabilities")?.get(name)?.as_u64()?).ok()
}
