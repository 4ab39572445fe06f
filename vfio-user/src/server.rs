// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device's end.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::Error;
use crate::channel::Channel;
use crate::client::{capabilities_json, capability};
use crate::message::*;
use crate::place;
use crate::socket::{self, Deadline, Message};

pub use crate::channel::ClientMemory;

/// How long a message that has begun may take to come, and a reply to go.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait after a client could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a device does for its client.
pub trait Backend {
    /// A client has come; everything is as after power-on. Its memory may be asked for, from any
    /// thread, until it has gone.
    fn connected(&mut self, memory: ClientMemory) {
        drop(memory);
    }

    /// The client has gone: its memory must not be touched any more.
    fn disconnected(&mut self);

    /// Regions by index: size, flags, mappable areas and their memory.
    fn region(&self, index: u32) -> ServerRegion<'_>;

    /// Vectors of an interrupt type.
    fn irq_count(&self, index: u32) -> u32;

    /// Reads a region; offset and length lie within it.
    ///
    /// # Errors
    /// The errno for the client.
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes a region; offset and length lie within it.
    ///
    /// # Errors
    /// The errno for the client.
    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Memory becomes reachable. Address and size do not overflow.
    ///
    /// # Errors
    /// The errno for the client.
    fn dma_map(&mut self, mapping: DmaMapping) -> Result<(), Errno>;

    /// Memory becomes unreachable; when this returns the device touches it no more.
    ///
    /// # Errors
    /// The errno for the client.
    fn dma_unmap(&mut self, address: u64, size: u64) -> Result<(), Errno>;

    /// All memory becomes unreachable.
    fn dma_unmap_all(&mut self);

    /// Wires a vector to an eventfd, or cuts it. The vector exists.
    fn set_irq(&mut self, index: u32, vector: u32, eventfd: Option<OwnedFd>);

    /// Fires a vector for a test by the client. The vector exists.
    fn trigger_irq(&mut self, index: u32, vector: u32);

    /// Resets the device.
    ///
    /// # Errors
    /// The errno for the client.
    fn reset(&mut self) -> Result<(), Errno>;
}

/// A region that a device offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerRegion<'backend> {
    /// Octets; 0 for none.
    pub size: u64,
    /// `REGION_READ` and `REGION_WRITE`.
    pub flags: u32,
    /// Areas that may be mapped.
    pub areas: &'backend [SparseArea],
    /// Their memory; the region starts at its offset 0.
    pub memory: Option<BorrowedFd<'backend>>,
}

/// Memory of the client.
#[derive(Debug)]
pub struct DmaMapping {
    /// IOVA.
    pub address: u64,
    /// Octets.
    pub size: u64,
    /// The device may read.
    pub readable: bool,
    /// The device may write.
    pub writable: bool,
    /// The memory and the offset in it; without one it is reached by [`ClientMemory`].
    pub memory: Option<(OwnedFd, u64)>,
}

/// Listens for clients, one at a time.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    stop: Arc<OwnedFd>,
}

/// Ends a server's [`serve`](Server::serve) from another thread.
#[derive(Clone, Debug)]
pub struct StopHandle {
    stop: Arc<OwnedFd>,
}

impl StopHandle {
    /// Ends it.
    pub fn stop(&self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }
}

impl Server {
    /// Listens on a socket. One that a dead server left is replaced.
    ///
    /// # Errors
    /// Another server listens there, something else is there, or the path can't be used.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        Self::from_listener(place::listen(path, || UnixListener::bind(path))?)
    }

    /// Serves a socket that listens already.
    ///
    /// # Errors
    /// The system gives no eventfd.
    pub fn from_listener(listener: UnixListener) -> Result<Self, Error> {
        listener.set_nonblocking(true)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            listener,
            stop: Arc::new(stop),
        })
    }

    /// For ending [`serve`](Self::serve).
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle {
            stop: self.stop.clone(),
        }
    }

    /// Serves clients one after another until stopped. A client that breaks the protocol is cut off;
    /// the next one is served.
    ///
    /// # Errors
    /// The listening socket can't be waited for.
    pub fn serve(&self, backend: &mut dyn Backend) -> Result<(), Error> {
        loop {
            match socket::wait(
                self.listener.as_fd(),
                PollFlags::IN,
                Some(self.stop.as_fd()),
                None,
            ) {
                Ok(()) => {}
                Err(Error::Gone) => return Ok(()),
                Err(error) => return Err(error),
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                // A client that gave up, or a process short of descriptors or memory: neither ends a
                // device that may serve the next one.
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    let pause = Deadline::after(ACCEPT_PAUSE, "a pause");
                    let stop = self.stop.as_fd();
                    match socket::wait(stop, PollFlags::IN, None, Some(&pause)) {
                        Ok(()) => return Ok(()),
                        Err(_) => continue,
                    }
                }
            };
            let channel = Channel::new(stream, self.stop.clone())?;
            backend.connected(channel.memory());
            let result = converse(&channel, backend);
            backend.disconnected();
            channel.close();
            match result {
                // Gone is the client, or the leave to go on.
                Err(Error::Gone) if socket::is_readable(self.stop.as_fd()) => return Ok(()),
                Err(Error::Gone) => tracing::debug!("client has gone"),
                Err(error) => tracing::warn!(%error, "client is cut off"),
                Ok(never) => match never {},
            }
        }
    }
}

/// Serves a client until it has gone or the server is to end, both [`Error::Gone`], or breaks the
/// protocol.
pub(crate) fn converse(channel: &Channel, backend: &mut dyn Backend) -> Result<Infallible, Error> {
    let mut greeted = false;
    loop {
        let message = channel.next_command(MESSAGE_DEADLINE)?;
        let header = message.header;
        let command = Command::from_code(header.command);
        if !greeted && command != Some(Command::Version) {
            return Err(Error::Protocol {
                what: "first command",
                found: header.command.into(),
            });
        }
        let fatal = !greeted;
        let reply = match command {
            Some(Command::Version) => version(&message.payload, channel),
            Some(command) => handle(command, message, backend),
            None => Err(Errno::NOSYS),
        };
        greeted = true;
        if fatal && let Err(errno) = reply {
            let _ = respond(channel, &header, Err(errno));
            return Err(Error::Protocol {
                what: "version",
                found: 0,
            });
        }
        if header.flags & FLAG_NO_REPLY == 0 {
            respond(channel, &header, reply)?;
        }
    }
}

/// Payload of a reply, and a descriptor to go along.
#[derive(Default)]
struct Reply {
    payload: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl From<Vec<u8>> for Reply {
    fn from(payload: Vec<u8>) -> Self {
        Self { payload, fd: None }
    }
}

fn respond(channel: &Channel, request: &Header, reply: Result<Reply, Errno>) -> Result<(), Error> {
    let (reply, flags, error) = match reply {
        Ok(reply) => (reply, TYPE_REPLY, 0),
        Err(errno) => (
            Reply::default(),
            TYPE_REPLY | FLAG_ERROR,
            errno.raw_os_error().unsigned_abs(),
        ),
    };
    let size = (HEADER_LEN + reply.payload.len()) as u32;
    let header = Header {
        size,
        flags,
        error,
        ..*request
    };
    let fd: Vec<BorrowedFd<'_>> = reply.fd.iter().map(AsFd::as_fd).collect();
    let deadline = Deadline::after(MESSAGE_DEADLINE, "a reply");
    channel.send(&[header.as_bytes(), &reply.payload], &fd, &deadline)
}

fn handle(command: Command, message: Message, backend: &mut dyn Backend) -> Result<Reply, Errno> {
    let payload = &message.payload[..];
    match command {
        Command::DmaMap => dma_map(message, backend),
        Command::DmaUnmap => dma_unmap(payload, backend),
        Command::DeviceInfo => {
            let info = DeviceInfoPayload {
                argsz: size_of::<DeviceInfoPayload>() as u32,
                flags: DEVICE_PCI | DEVICE_RESET,
                regions: PCI_REGIONS,
                irqs: PCI_IRQS,
            };
            Ok(info.as_bytes().to_vec().into())
        }
        Command::RegionInfo => region_info(payload, backend),
        Command::IrqInfo => {
            let request: IrqInfoPayload = parse(payload)?;
            if request.index >= PCI_IRQS {
                return Err(Errno::INVAL);
            }
            let count = backend.irq_count(request.index);
            let flags = if count == 0 { 0 } else { IRQ_EVENTFD };
            let argsz = size_of::<IrqInfoPayload>() as u32;
            Ok(IrqInfoPayload {
                argsz,
                flags,
                count,
                ..request
            }
            .as_bytes()
            .to_vec()
            .into())
        }
        Command::SetIrqs => set_irqs(message, backend),
        Command::RegionRead => {
            let request: RegionAccess = parse(payload)?;
            check_access(&request, backend, REGION_READ)?;
            let mut reply = request.as_bytes().to_vec();
            reply.resize(size_of::<RegionAccess>() + request.count as usize, 0);
            let data = reply
                .get_mut(size_of::<RegionAccess>()..)
                .unwrap_or_default();
            backend.region_read(request.region, request.offset, data)?;
            Ok(reply.into())
        }
        Command::RegionWrite => {
            let request: RegionAccess = parse(payload)?;
            check_access(&request, backend, REGION_WRITE)?;
            let data = payload.get(size_of::<RegionAccess>()..).unwrap_or_default();
            if data.len() != request.count as usize {
                return Err(Errno::INVAL);
            }
            backend.region_write(request.region, request.offset, data)?;
            Ok(request.as_bytes().to_vec().into())
        }
        Command::DeviceReset => backend.reset().map(|()| Reply::default()),
        // The version is agreed on before.
        Command::Version | Command::RegionIoFds | Command::DmaRead | Command::DmaWrite => {
            Err(Errno::NOSYS)
        }
    }
}

fn parse<T: FromBytes>(payload: &[u8]) -> Result<T, Errno> {
    T::read_from_prefix(payload)
        .map(|(value, _)| value)
        .map_err(|_| Errno::INVAL)
}

fn version(payload: &[u8], channel: &Channel) -> Result<Reply, Errno> {
    let request: VersionPayload = parse(payload)?;
    if request.major != VERSION_MAJOR {
        return Err(Errno::NOTSUP);
    }
    let text = payload
        .get(size_of::<VersionPayload>()..)
        .unwrap_or_default();
    if let Some(max) = capability(&String::from_utf8_lossy(text), "max_data_xfer_size") {
        channel.set_max_data(max);
    }
    let minor = request.minor.min(VERSION_MINOR);
    let mut reply = VersionPayload {
        major: VERSION_MAJOR,
        minor,
    }
    .as_bytes()
    .to_vec();
    reply.extend_from_slice(capabilities_json().as_bytes());
    Ok(reply.into())
}

fn dma_map(message: Message, backend: &mut dyn Backend) -> Result<Reply, Errno> {
    let request: DmaMapPayload = parse(&message.payload)?;
    let ends = request
        .address
        .checked_add(request.size)
        .zip(request.offset.checked_add(request.size));
    let aligned = [request.address, request.size, request.offset]
        .iter()
        .all(|value| value.is_multiple_of(PAGE));
    let access = request.flags & !(DMA_READ | DMA_WRITE) == 0 && request.flags != 0;
    if request.size == 0 || ends.is_none() || !aligned || !access || message.fds.len() > 1 {
        return Err(Errno::INVAL);
    }
    backend.dma_map(DmaMapping {
        address: request.address,
        size: request.size,
        readable: request.flags & DMA_READ != 0,
        writable: request.flags & DMA_WRITE != 0,
        memory: message
            .fds
            .into_iter()
            .next()
            .map(|fd| (fd, request.offset)),
    })?;
    Ok(Reply::default())
}

fn dma_unmap(payload: &[u8], backend: &mut dyn Backend) -> Result<Reply, Errno> {
    let request: DmaUnmapPayload = parse(payload)?;
    if request.flags & UNMAP_ALL != 0 {
        backend.dma_unmap_all();
    } else {
        request
            .address
            .checked_add(request.size)
            .ok_or(Errno::INVAL)?;
        backend.dma_unmap(request.address, request.size)?;
    }
    Ok(request.as_bytes().to_vec().into())
}

fn region_info(payload: &[u8], backend: &dyn Backend) -> Result<Reply, Errno> {
    let request: RegionInfoPayload = parse(payload)?;
    if request.index >= PCI_REGIONS {
        return Err(Errno::INVAL);
    }
    let region = backend.region(request.index);
    let base = size_of::<RegionInfoPayload>();
    let mut capability = Vec::new();
    if !region.areas.is_empty() {
        let header = CapabilityHeader {
            id: CAPABILITY_SPARSE_MMAP,
            version: 1,
            next: 0,
        };
        capability.extend_from_slice(header.as_bytes());
        let sparse = SparseMmap {
            areas: region.areas.len() as u32,
            reserved: 0,
        };
        capability.extend_from_slice(sparse.as_bytes());
        for area in region.areas {
            capability.extend_from_slice(area.as_bytes());
        }
    }
    let full = base + capability.len();
    // A client with too little room is told how much it takes; QEMU wants no capability flag then.
    let fits = request.argsz as usize >= full;
    let mut flags = region.flags;
    if region.memory.is_some() {
        flags |= REGION_MMAP;
    }
    if fits && !capability.is_empty() {
        flags |= REGION_CAPABILITIES;
    }
    let info = RegionInfoPayload {
        argsz: full as u32,
        flags,
        index: request.index,
        capability_offset: if fits && !capability.is_empty() {
            base as u32
        } else {
            0
        },
        size: region.size,
        offset: 0,
    };
    let mut reply = info.as_bytes().to_vec();
    if fits {
        reply.extend_from_slice(&capability);
    }
    let fd = match region.memory {
        Some(memory) => Some(memory.try_clone_to_owned().map_err(|_| Errno::MFILE)?),
        None => None,
    };
    Ok(Reply { payload: reply, fd })
}

fn check_access(request: &RegionAccess, backend: &dyn Backend, flag: u32) -> Result<(), Errno> {
    if request.region >= PCI_REGIONS || request.count as usize > MAX_DATA {
        return Err(Errno::INVAL);
    }
    let region = backend.region(request.region);
    let end = request
        .offset
        .checked_add(request.count.into())
        .ok_or(Errno::INVAL)?;
    if end > region.size || region.flags & flag == 0 {
        return Err(Errno::INVAL);
    }
    Ok(())
}

fn set_irqs(message: Message, backend: &mut dyn Backend) -> Result<Reply, Errno> {
    let request: SetIrqsPayload = parse(&message.payload)?;
    let SetIrqsPayload {
        flags,
        index,
        start,
        count,
        ..
    } = request;
    if index >= PCI_IRQS {
        return Err(Errno::INVAL);
    }
    let vectors = backend.irq_count(index);
    let end = start
        .checked_add(count)
        .filter(|end| *end <= vectors)
        .ok_or(Errno::INVAL)?;
    if flags & IRQ_SET_ACTION_TRIGGER == 0 {
        // MSI-X vectors are masked in their table, not here.
        return Ok(Reply::default());
    }
    if flags & IRQ_SET_DATA_EVENTFD != 0 {
        // No descriptor cuts the vector.
        let mut fds = message.fds.into_iter();
        for vector in start..end {
            backend.set_irq(index, vector, fds.next());
        }
    } else if flags & IRQ_SET_DATA_NONE != 0 {
        if count == 0 {
            for vector in 0..vectors {
                backend.set_irq(index, vector, None);
            }
        } else {
            for vector in start..end {
                backend.trigger_irq(index, vector);
            }
        }
    } else if flags & IRQ_SET_DATA_BOOL != 0 {
        let wanted = message
            .payload
            .get(size_of::<SetIrqsPayload>()..)
            .unwrap_or_default();
        for (vector, wanted) in (start..end).zip(wanted) {
            if *wanted != 0 {
                backend.trigger_irq(index, vector);
            }
        }
    } else {
        return Err(Errno::INVAL);
    }
    Ok(Reply::default())
}
