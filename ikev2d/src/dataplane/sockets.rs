// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bursts over sockets: UDP with segmentation offload both ways (`UDP_SEGMENT`, `UDP_GRO`), and IP
//! protocol 50, several packets a call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use arrayvec::ArrayVec;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg,
    recvmsg, sendmmsg, sendmsg, setsockopt, sockopt,
};
use offload_api::frame::Frame;
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

/// Most segments that one send may carry (`UDP_MAX_SEGMENTS` of older kernels).
pub(super) const MOST_SEGMENTS: usize = 64;
/// Most packets of one system call.
pub(super) const MOST_PACKETS: usize = 64;
/// Most octets of one send, below 64 KiB with headers.
pub(super) const MOST_OCTETS: usize = 65_000;
const BUFFER: usize = 1 << 16;
pub(super) const SENDING: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// Asks for what the receiver needs: the local address of each datagram, and coalesced ones.
pub(super) fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    tell_local(socket)?;
    tell_class(socket)?;
    // Kernels without it deliver one datagram at a time.
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
    deepen(socket);
    Ok(())
}

/// Asks for the local address of each datagram.
pub(super) fn tell_local(socket: &UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

/// Asks for DSCP and ECN of each packet.
pub(super) fn tell_class(socket: &impl AsFd) -> io::Result<()> {
    match socket_domain(socket)? {
        AddressFamily::INET => setsockopt(socket, sockopt::IpRecvTos, &true)?,
        _ => setsockopt(socket, sockopt::Ipv6RecvTClass, &true)?,
    }
    Ok(())
}

/// DSCP and ECN, where the kernel told.
fn class_of(control: &ControlMessageOwned) -> Option<u8> {
    match control {
        ControlMessageOwned::Ipv4Tos(class) => Some(*class),
        ControlMessageOwned::Ipv6TClass(class) => u8::try_from(*class).ok(),
        _ => None,
    }
}

/// Room for bursts: beyond the system's limit where this process may.
pub(super) fn deepen(socket: &impl AsFd) {
    const ROOM: usize = 4 << 20;
    if setsockopt(socket, sockopt::RcvBufForce, &ROOM).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &ROOM);
    }
    if setsockopt(socket, sockopt::SndBufForce, &ROOM).is_err() {
        let _ = setsockopt(socket, sockopt::SndBuf, &ROOM);
    }
}

/// A buffer for coalesced datagrams.
pub(super) struct Receiver {
    buffer: Vec<u8>,
    control: Vec<u8>,
}

/// What came with one receive.
pub(super) struct Received<'buffer> {
    /// Datagrams, one after another, each of `segment` octets save the last.
    pub(super) octets: &'buffer [u8],
    pub(super) segment: usize,
    pub(super) remote: SocketAddr,
    /// Local address, where the kernel told.
    pub(super) local: Option<IpAddr>,
    /// DSCP and ECN of all of them, where the kernel told.
    pub(super) class: Option<u8>,
}

impl Default for Receiver {
    /// Without room: to be put in a receiver's place for a moment.
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            control: Vec::new(),
        }
    }
}

impl Receiver {
    pub(super) fn new() -> Self {
        let control = cmsg_space!(nix::libc::in_pktinfo, i32, nix::libc::in6_pktinfo, i32);
        Self {
            buffer: vec![0; BUFFER],
            control,
        }
    }

    /// Datagrams that are there, if any.
    pub(super) fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<Option<Received<'_>>> {
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let message = loop {
            match recvmsg::<SockaddrStorage>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.control),
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(message) => break message,
                Err(nix::Error::EAGAIN) => return Ok(None),
                // An ICMP error of an earlier send, told once: datagrams may lie behind it.
                Err(nix::Error::EINTR | nix::Error::ECONNREFUSED | nix::Error::EHOSTUNREACH) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let (len, mut segment, mut local) = (message.bytes, message.bytes, None);
        let mut class = None;
        for control in message.cmsgs()? {
            class = class.or(class_of(&control));
            match control {
                ControlMessageOwned::UdpGroSegments(size) => {
                    segment = usize::try_from(size).unwrap_or(len).max(1);
                }
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                    local = Some(IpAddr::V4(address));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    local = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
                }
                _ => {}
            }
        }
        let remote = message.address.as_ref().and_then(address_of);
        let remote = remote.ok_or_else(|| io::Error::other("datagram without a sender"))?;
        let octets = self.buffer.get(..len).unwrap_or_default();
        Ok(Some(Received {
            octets,
            segment: segment.max(1),
            remote,
            local,
            class,
        }))
    }
}

pub(super) fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    storage
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
}

/// Receives IKE on a port that carries nothing else.
pub struct IkeReceiver {
    receiver: Receiver,
}

impl IkeReceiver {
    /// Prepares a socket, and room for what comes.
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: &UdpSocket) -> io::Result<Self> {
        prepare(socket)?;
        Ok(Self {
            receiver: Receiver::new(),
        })
    }

    /// Waits up to a second for something to come.
    pub(crate) fn wait(socket: &UdpSocket) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&second))?;
        Ok(())
    }

    /// Takes messages that are there, each with its local address and sender: the kernel may have put
    /// several of one sender together. Whether there were any.
    ///
    /// # Errors
    /// The system's.
    pub fn take(
        &mut self,
        socket: &impl AsRawFd,
        mut take: impl FnMut(IpAddr, SocketAddr, &[u8]),
    ) -> io::Result<bool> {
        let Some(received) = self.receiver.receive(socket)? else {
            return Ok(false);
        };
        let unspecified = match received.remote {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let local = received.local.unwrap_or(unspecified);
        for datagram in received.octets.chunks(received.segment) {
            take(local, received.remote, datagram);
        }
        Ok(true)
    }
}

/// The address to send from, for the kernel.
pub(super) enum SendFrom {
    Any,
    V4(nix::libc::in_pktinfo),
    V6(nix::libc::in6_pktinfo),
}

impl SendFrom {
    pub(super) fn new(local: IpAddr) -> Self {
        match local {
            local if local.is_unspecified() => Self::Any,
            IpAddr::V4(v4) => Self::V4(nix::libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: nix::libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.octets()),
                },
                ipi_addr: nix::libc::in_addr { s_addr: 0 },
            }),
            IpAddr::V6(v6) => Self::V6(nix::libc::in6_pktinfo {
                ipi6_addr: nix::libc::in6_addr {
                    s6_addr: v6.octets(),
                },
                ipi6_ifindex: 0,
            }),
        }
    }

    pub(super) fn control(&self) -> Option<ControlMessage<'_>> {
        match self {
            Self::Any => None,
            Self::V4(info) => Some(ControlMessage::Ipv4PacketInfo(info)),
            Self::V6(info) => Some(ControlMessage::Ipv6PacketInfo(info)),
        }
    }
}

/// Sends one datagram from one address to another.
///
/// # Errors
/// The system's.
pub fn send_datagram(
    socket: &UdpSocket,
    datagram: &[u8],
    local: IpAddr,
    remote: SocketAddr,
) -> io::Result<()> {
    let to = SockaddrStorage::from(remote);
    let from = SendFrom::new(local);
    let (parts, controls) = ([IoSlice::new(datagram)], from.control());
    sendmsg(
        socket.as_raw_fd(),
        &parts,
        controls.as_slice(),
        SENDING,
        Some(&to),
    )?;
    Ok(())
}

/// The class to send with, for the kernel.
enum Class {
    Default,
    V4(u8),
    V6(i32),
}

impl Class {
    fn new(heading: &Heading) -> Self {
        match (heading.class, heading.remote.is_ipv4()) {
            (0, _) => Self::Default,
            (class, true) => Self::V4(class),
            (class, false) => Self::V6(class.into()),
        }
    }

    fn control(&self) -> Option<ControlMessage<'_>> {
        match self {
            Self::Default => None,
            Self::V4(class) => Some(ControlMessage::Ipv4Tos(class)),
            Self::V6(class) => Some(ControlMessage::Ipv6TClass(class)),
        }
    }
}

/// Between whom packets go, and in which class.
#[derive(Clone, Copy)]
pub(super) struct Heading {
    pub(super) local: IpAddr,
    pub(super) remote: SocketAddr,
    /// DSCP and ECN.
    pub(super) class: u8,
}

/// Headers and addresses of several packets of one system call, made once. Not to be moved between
/// threads: they point into themselves.
pub(super) struct Burst {
    each: Headers,
    /// As above, with a segment size.
    cut: Headers,
    incoming: MultiHeaders<SockaddrStorage>,
}

/// Headers with room for just what a heading takes: by family and whether the address to send from is
/// told, and whether the class is.
struct Headers([MultiHeaders<SockaddrStorage>; 8]);

impl Headers {
    /// For so many packets, with so much room for what all of them tell.
    fn new(packets: usize, common: usize) -> Self {
        use nix::libc::{in_pktinfo, in6_pktinfo};
        let (v4, v6) = (cmsg_space!(in_pktinfo), cmsg_space!(in6_pktinfo));
        let (class_v4, class_v6) = (cmsg_space!(u8), cmsg_space!(i32));
        let (v4, v6) = (v4.capacity(), v6.capacity());
        let (class_v4, class_v6) = (class_v4.capacity(), class_v6.capacity());
        let rooms = [
            0,
            class_v4,
            v4,
            v4 + class_v4,
            0,
            class_v6,
            v6,
            v6 + class_v6,
        ];
        Self(rooms.map(|room| {
            let control = Some(room + common).filter(|room| *room != 0);
            MultiHeaders::preallocate(packets, control.map(Vec::with_capacity))
        }))
    }

    fn fit(&mut self, heading: &Heading) -> &mut MultiHeaders<SockaddrStorage> {
        let [a, b, c, d, e, f, g, h] = &mut self.0;
        let told = !heading.local.is_unspecified();
        match (heading.remote.is_ipv4(), told, heading.class != 0) {
            (true, false, false) => a,
            (true, false, true) => b,
            (true, true, false) => c,
            (true, true, true) => d,
            (false, false, false) => e,
            (false, false, true) => f,
            (false, true, false) => g,
            (false, true, true) => h,
        }
    }
}

/// What the kernel is told beside packets.
type Controls<'a> = ArrayVec<ControlMessage<'a>, 3>;

impl Burst {
    pub(super) fn new() -> Self {
        let class = cmsg_space!(i32);
        Self {
            each: Headers::new(MOST_PACKETS, 0),
            cut: Headers::new(1, cmsg_space!(u16).capacity()),
            incoming: MultiHeaders::preallocate(MOST_PACKETS, Some(class)),
        }
    }

    /// Sends packets in one system call; how many were taken.
    pub(super) fn send_each(
        &mut self,
        socket: BorrowedFd<'_>,
        packets: &[[IoSlice<'_>; 1]],
        heading: Heading,
    ) -> io::Result<usize> {
        let headers = self.each.fit(&heading);
        let to = [Some(SockaddrStorage::from(heading.remote)); MOST_PACKETS];
        let (from, class) = (SendFrom::new(heading.local), Class::new(&heading));
        let controls: Controls<'_> = from.control().into_iter().chain(class.control()).collect();
        let socket = socket.as_raw_fd();
        let sent = sendmmsg(socket, headers, packets, to, controls, SENDING)?;
        Ok(sent.count())
    }

    /// Sends packets of one size, the last one shorter perhaps, as one that is cut on its way.
    pub(super) fn send_cut(
        &mut self,
        socket: BorrowedFd<'_>,
        packets: &[IoSlice<'_>],
        size: u16,
        heading: Heading,
    ) -> io::Result<usize> {
        let headers = self.cut.fit(&heading);
        let to = [Some(SockaddrStorage::from(heading.remote))];
        let (from, class) = (SendFrom::new(heading.local), Class::new(&heading));
        let cut = ControlMessage::UdpGsoSegments(&size);
        let from = from.control().into_iter();
        let controls: Controls<'_> = from.chain([cut]).chain(class.control()).collect();
        let socket = socket.as_raw_fd();
        let packets = &[packets];
        let sent = sendmmsg(socket, headers, packets, to, controls, SENDING)?;
        Ok(sent.count())
    }

    /// Receives packets of IP protocol 50 into `frames`, as many as are there; for each its length,
    /// unless it did not fit, its sender, and its class.
    pub(super) fn receive_raw(
        &mut self,
        socket: &OwnedFd,
        frames: &mut [Frame],
        mut each: impl FnMut(usize, Option<usize>, IpAddr, Option<u8>),
    ) -> io::Result<usize> {
        let mut rooms = frames.iter_mut();
        let mut parts: [[IoSliceMut<'_>; 1]; MOST_PACKETS] = std::array::from_fn(|_| {
            [IoSliceMut::new(
                rooms.next().map_or(&mut [], |f| &mut f[..]),
            )]
        });
        let count = parts.iter().take_while(|part| !part[0].is_empty()).count();
        let flags = MsgFlags::MSG_DONTWAIT;
        let parts = parts.iter_mut().take(count);
        let messages = match recvmmsg(socket.as_raw_fd(), &mut self.incoming, parts, flags, None) {
            Ok(messages) => messages,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut received = 0;
        for message in messages {
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            let sender = message.address.as_ref().and_then(address_of);
            let sender = sender.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |sender| sender.ip());
            let class = message
                .cmsgs()
                .ok()
                .and_then(|mut controls| controls.find_map(|control| class_of(&control)));
            each(received, whole.then_some(message.bytes), sender, class);
            received += 1;
        }
        Ok(received)
    }
}
