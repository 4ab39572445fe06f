// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bursts over sockets: UDP with segmentation offload both ways (`UDP_SEGMENT`, `UDP_GRO`), and IP
//! protocol 50.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// Most segments that one send may carry (`UDP_MAX_SEGMENTS` of older kernels).
pub(super) const MOST_SEGMENTS: usize = 64;
/// Most octets of one send, below 64 KiB with headers.
pub(super) const MOST_OCTETS: usize = 65_000;
const BUFFER: usize = 1 << 16;

/// Asks for what the receiver needs: the local address of each datagram, and coalesced ones.
pub(super) fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if socket.local_addr()?.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    // Kernels without it deliver one datagram at a time.
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
    let _ = setsockopt(socket, sockopt::RcvBuf, &(4 << 20));
    let _ = setsockopt(socket, sockopt::SndBuf, &(4 << 20));
    Ok(())
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
}

impl Receiver {
    pub(super) fn new() -> Self {
        let control = cmsg_space!(nix::libc::in_pktinfo, i32, nix::libc::in6_pktinfo);
        Self {
            buffer: vec![0; BUFFER],
            control,
        }
    }

    /// Datagrams that are there, if any.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<Option<Received<'_>>> {
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut self.control),
            flags,
        ) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            // An ICMP error of an earlier send.
            Err(nix::Error::ECONNREFUSED | nix::Error::EHOSTUNREACH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (len, mut segment, mut local) = (message.bytes, message.bytes, None);
        for control in message.cmsgs()? {
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
        }))
    }
}

fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    storage
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::new(IpAddr::V6(v6.ip()), v6.port()))
}

/// Receives IKE on a port that carries nothing else.
pub(crate) struct IkeReceiver {
    receiver: Receiver,
}

impl IkeReceiver {
    pub(crate) fn new(socket: &UdpSocket) -> io::Result<Self> {
        prepare(socket)?;
        Ok(Self {
            receiver: Receiver::new(),
        })
    }

    /// Waits up to a second for a message: local address, sender, octets.
    pub(crate) fn receive(
        &mut self,
        socket: &UdpSocket,
    ) -> io::Result<(IpAddr, SocketAddr, Vec<u8>)> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&second))?;
        let received = self
            .receiver
            .receive(socket)?
            .ok_or(io::ErrorKind::WouldBlock)?;
        let unspecified = match received.remote {
            SocketAddr::V4(_) => [0; 4].into(),
            SocketAddr::V6(_) => [0; 16].into(),
        };
        let local = received.local.unwrap_or(unspecified);
        let first = received
            .octets
            .get(..received.segment.min(received.octets.len()));
        Ok((local, received.remote, first.unwrap_or_default().to_vec()))
    }
}

/// The address to send from, for the kernel.
enum SendFrom {
    Any,
    V4(nix::libc::in_pktinfo),
    V6(nix::libc::in6_pktinfo),
}

impl SendFrom {
    fn new(local: IpAddr) -> Self {
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

    fn control(&self) -> Option<ControlMessage<'_>> {
        match self {
            Self::Any => None,
            Self::V4(info) => Some(ControlMessage::Ipv4PacketInfo(info)),
            Self::V6(info) => Some(ControlMessage::Ipv6PacketInfo(info)),
        }
    }
}

/// Sends datagrams of one size (the last may be shorter) from one address to another.
pub(super) fn send(
    socket: &UdpSocket,
    datagrams: &[IoSlice<'_>],
    segment: usize,
    local: IpAddr,
    remote: SocketAddr,
) -> io::Result<()> {
    let to = SockaddrStorage::from(remote);
    let from = SendFrom::new(local);
    let size = u16::try_from(segment).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut controls = Vec::with_capacity(2);
    controls.extend(from.control());
    if datagrams.len() > 1 {
        controls.push(ControlMessage::UdpGsoSegments(&size));
    }
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg(socket.as_raw_fd(), datagrams, &controls, flags, Some(&to))?;
    Ok(())
}

/// Sends one datagram from one address to another.
pub(crate) fn send_datagram(
    socket: &UdpSocket,
    datagram: &[u8],
    local: IpAddr,
    remote: SocketAddr,
) -> io::Result<()> {
    send(
        socket,
        &[IoSlice::new(datagram)],
        datagram.len(),
        local,
        remote,
    )
}

/// Sends one ESP packet as IP protocol 50 from one address to another.
pub(super) fn send_raw(
    socket: &OwnedFd,
    packet: &[u8],
    local: IpAddr,
    remote: IpAddr,
) -> io::Result<()> {
    let to = SockaddrStorage::from(SocketAddr::new(remote, 0));
    let from = SendFrom::new(local);
    let (parts, controls) = ([IoSlice::new(packet)], from.control());
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let socket = socket.as_raw_fd();
    sendmsg(socket, &parts, controls.as_slice(), flags, Some(&to))?;
    Ok(())
}

/// Receives one packet of IP protocol 50: its length in `buffer`, unless it does not fit there, and
/// its sender.
pub(super) fn receive_raw(
    socket: &OwnedFd,
    buffer: &mut [u8],
) -> io::Result<Option<(Option<usize>, IpAddr)>> {
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, None, flags) {
        Ok(message) => {
            let sender = message.address.as_ref().and_then(address_of);
            let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
            let len = whole.then_some(message.bytes);
            Ok(sender.map(|sender| (len, sender.ip())))
        }
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
