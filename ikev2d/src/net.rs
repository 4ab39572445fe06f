// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon's sockets: UDP 500 and 4500, IP protocol 50.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;

use ikev2d_proto::event::Transmit;
use offload_api::wire::natt::NON_ESP_MARKER;
use socket2::{Domain, Protocol, Socket, Type};

/// Sockets of IKE.
pub(crate) struct Sockets {
    pub(crate) ike: UdpSocket,
    pub(crate) nat: UdpSocket,
}

impl Sockets {
    /// Binds both ports on every IPv4 address.
    pub(crate) fn bind(ike_port: u16, nat_port: u16) -> io::Result<Self> {
        Ok(Self {
            ike: udp(ike_port)?,
            nat: udp(nat_port)?,
        })
    }

    /// Sends what the core has to say.
    pub(crate) fn send(&self, transmit: &Transmit) -> io::Result<()> {
        let nat = self.nat.local_addr()?.port();
        let on_nat = transmit.path.local.port() == nat;
        let socket = if on_nat { &self.nat } else { &self.ike };
        if on_nat && !transmit.keepalive {
            let marked = [&NON_ESP_MARKER[..], &transmit.payload].concat();
            socket.send_to(&marked, transmit.path.remote)?;
        } else {
            socket.send_to(&transmit.payload, transmit.path.remote)?;
        }
        Ok(())
    }
}

fn udp(port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    socket.bind(&address.into()).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot bind UDP port {port}: {error}"),
        )
    })?;
    Ok(socket.into())
}

/// A socket of IP protocol 50, where this process may have one.
pub(crate) fn raw_esp() -> io::Result<OwnedFd> {
    const ESP: i32 = 50;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(ESP)))?;
    Ok(socket.into())
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
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
