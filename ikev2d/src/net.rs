// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's sockets: UDP 500 and 4500, IP protocols 50 and 51.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use ikev2d_proto::event::Transmit;
use nix::sys::socket::{setsockopt, sockopt};
use offload_api::wire::ah;
use offload_api::wire::natt::NON_ESP_MARKER;
use socket2::{Domain, Protocol, Socket, Type};

use crate::dataplane::send_datagram;

/// What our own packets are marked with, so that the routes of transport mode, which lead to the peer
/// itself, are not for them.
pub(crate) const MARK: u32 = 0x4301;

/// Marks what a socket sends. Without CAP_NET_ADMIN it can't; nor can such a daemon set routes.
pub(crate) fn mark(socket: &impl AsFd) {
    if let Err(error) = setsockopt(&socket.as_fd(), sockopt::Mark, &MARK) {
        tracing::debug!(%error, "a socket without a mark");
    }
}

/// Sockets of IKE, for IPv4 and, where the host has it, IPv6.
pub(crate) struct Sockets {
    /// That of IPv4 first.
    pub(crate) ike: Vec<UdpSocket>,
    pub(crate) nat: Vec<UdpSocket>,
    nat_port: u16,
}

impl Sockets {
    /// Binds both ports on every address.
    pub(crate) fn bind(ike_port: u16, nat_port: u16) -> io::Result<Self> {
        Ok(Self {
            ike: both_families(ike_port)?,
            nat: both_families(nat_port)?,
            nat_port,
        })
    }

    /// Sends what the core has to say, from the address that it names.
    pub(crate) fn send(&self, transmit: &Transmit) -> io::Result<()> {
        let (local, remote) = (transmit.path.local, transmit.path.remote);
        let on_nat = local.port() == self.nat_port;
        let sockets = if on_nat { &self.nat } else { &self.ike };
        let socket = sockets.get(usize::from(remote.is_ipv6())).ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, "no socket of that family")
        })?;
        if on_nat && !transmit.keepalive {
            let marked = [&NON_ESP_MARKER[..], &transmit.payload].concat();
            send_datagram(socket, &marked, local.ip(), remote)
        } else {
            send_datagram(socket, &transmit.payload, local.ip(), remote)
        }
    }
}

fn both_families(port: u16) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = vec![udp(Ipv4Addr::UNSPECIFIED.into(), port)?];
    match udp(Ipv6Addr::UNSPECIFIED.into(), port) {
        Ok(socket) => sockets.push(socket),
        Err(error) => tracing::warn!(%error, "IKE over IPv4 only"),
    }
    Ok(sockets)
}

fn udp(any: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(any, port);
    let bind = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if any.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        mark(&socket);
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bind().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot bind UDP {address}: {error}"))
    })
}

/// Sockets of IP protocol 50, where this process may have them.
pub(crate) fn raw_esp() -> io::Result<Vec<OwnedFd>> {
    const ESP: i32 = 50;
    let open = |domain| {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(ESP)));
        socket.inspect(mark)
    };
    let mut sockets = vec![open(Domain::IPV4)?.into()];
    sockets.extend(open(Domain::IPV6).map(OwnedFd::from));
    Ok(sockets)
}

/// The addresses that this host has.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let addresses = all.filter_map(|interface| interface.address);
    let addresses = addresses.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    addresses.collect()
}

/// Sockets of IP protocol 51, where this process may have them: in IPv4 with whole packets both ways.
pub(crate) fn raw_ah() -> io::Result<Vec<OwnedFd>> {
    let open = |domain| {
        let protocol = Protocol::from(i32::from(ah::PROTOCOL));
        let socket = Socket::new(domain, Type::RAW, Some(protocol));
        socket.inspect(mark)
    };
    let v4 = open(Domain::IPV4)?;
    v4.set_header_included_v4(true)?;
    let mut sockets = vec![v4.into()];
    if let Ok(v6) = open(Domain::IPV6) {
        setsockopt(&v6, sockopt::Ipv6RecvPacketInfo, &true)?;
        sockets.push(v6.into());
    }
    Ok(sockets)
}

/// The address that this host sends from to a peer.
pub(crate) fn source_towards(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    }
    .parse()
    .ok()?;
    let socket = UdpSocket::bind(any).ok()?;
    mark(&socket);
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
