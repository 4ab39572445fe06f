// SPDX-License-Identifier: Apache-2.0 OR MIT
//! First messages of IKE come to sockets of their own, those with a cookie apart from the others: the
//! kernel tells them apart, so that a flood of them leaves everybody else's messages their room. While
//! cookies are asked for, they are answered here, in bursts.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use ikev2d_proto::endpoint::{Gate, Verdict};
use ikev2d_proto::wire::payload;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt,
    sockopt,
};
use offload_api::wire::natt::NON_ESP_MARKER;
use socket2::{Domain, Protocol, Socket, Type};

use super::sockets::{MOST_PACKETS, SENDING, SendFrom, address_of, deepen, tell_local};
use super::{IkeReceiver, Upcall};

/// Octets of the largest datagram: pages that none needs take no memory.
const LARGEST: usize = 1 << 16;

/// Among which of a port's sockets the kernel chooses.
#[derive(Clone, Copy)]
struct Places {
    /// For ESP, where the port has that: IKE is marked there (RFC 3948 §2.2).
    esp: Option<u32>,
    /// For messages of IKE SAs that are there, and what is no message.
    rest: u32,
    /// For first messages, and those among them that begin with a notification, as a cookie does.
    first: u32,
    cookie: u32,
}

/// A second socket on the same port, for IKE alone: the kernel tells it from ESP by the marker
/// (RFC 3948 §2.2), so that a flood of ESP leaves IKE its own room.
pub(super) fn apart_from_esp(socket: &UdpSocket) -> io::Result<UdpSocket> {
    let apart = beside(socket)?;
    let places = Places {
        esp: Some(0),
        rest: 1,
        first: 1,
        cookie: 1,
    };
    choose_by(&apart, places)?;
    Ok(apart)
}

/// Another socket on the same port. Sockets are numbered in the order of their binding.
fn beside(socket: &UdpSocket) -> io::Result<UdpSocket> {
    let address = socket.local_addr()?;
    // Only now: as it was bound without, no other daemon's could have been there before.
    setsockopt(socket, sockopt::ReusePort, &true)?;
    let domain = Domain::for_address(address);
    let beside = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        beside.set_only_v6(true)?;
    }
    beside.set_reuse_port(true)?;
    crate::net::mark(&beside);
    beside.bind(&address.into())?;
    Ok(beside.into())
}

/// Has the kernel choose among the sockets of a port. What is too short for a look at it goes to the
/// first of them.
fn choose_by(socket: &UdpSocket, places: Places) -> io::Result<()> {
    use nix::libc::{
        BPF_ABS, BPF_B, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter,
        sock_fprog,
    };
    /// Where the header has the responder's SPI, the first payload's type, and flags.
    const SPI_R: u32 = 8;
    const NEXT: u32 = 16;
    const FLAGS: u32 = 19;
    const RESPONSE: u32 = 0x20;
    let step = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |size, at| step(BPF_LD | size | BPF_ABS, 0, 0, at);
    let equal = |value, jt, jf| step(BPF_JMP | BPF_JEQ | BPF_K, jt, jf, value);
    let give = |place| step(BPF_RET | BPF_K, 0, 0, place);
    let mut program = Vec::new();
    let at = match places.esp {
        Some(_) => {
            program.push(load(BPF_W, 0));
            program.push(equal(u32::from_be_bytes(NON_ESP_MARKER), 0, 11));
            NON_ESP_MARKER.len() as u32
        }
        None => 0,
    };
    program.extend([
        load(BPF_W, at + SPI_R),
        equal(0, 0, 8),
        load(BPF_W, at + SPI_R + 4),
        equal(0, 0, 6),
        load(BPF_B, at + FLAGS),
        step(BPF_JMP | BPF_JSET | BPF_K, 4, 0, RESPONSE),
        load(BPF_B, at + NEXT),
        equal(u32::from(payload::NOTIFY), 1, 0),
        give(places.first),
        give(places.cookie),
        give(places.rest),
        give(places.esp.unwrap_or(places.rest)),
    ]);
    let program = sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?;
    Ok(())
}

/// A socket of first messages.
pub(crate) struct Door {
    socket: UdpSocket,
    port: u16,
    marked: bool,
}

/// One with what it takes to answer them. Not to be moved between threads: headers point into
/// themselves.
pub(crate) struct Doorkeeper {
    door: Door,
    room: Vec<u8>,
    incoming: MultiHeaders<SockaddrStorage>,
    any: MultiHeaders<SockaddrStorage>,
    v4: MultiHeaders<SockaddrStorage>,
    v6: MultiHeaders<SockaddrStorage>,
    replies: Vec<Reply>,
}

/// What is sent back.
struct Reply {
    local: IpAddr,
    remote: SocketAddr,
    message: Vec<u8>,
}

impl Door {
    /// Two of them beside a socket, whose port has `sockets` by now; the last of these has IKE. On port
    /// 4500 it is `marked`.
    ///
    /// # Errors
    /// The system's: then first messages come where all others do.
    pub(crate) fn open(socket: &UdpSocket, marked: bool, sockets: u32) -> io::Result<[Self; 2]> {
        let rest = sockets.saturating_sub(1);
        let places = Places {
            esp: marked.then_some(0),
            rest,
            first: sockets,
            cookie: sockets + 1,
        };
        let (first, cookie) = (beside(socket)?, beside(socket)?);
        choose_by(&cookie, places)?;
        Ok([Self::new(first, marked)?, Self::new(cookie, marked)?])
    }

    fn new(socket: UdpSocket, marked: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        tell_local(&socket)?;
        deepen(&socket);
        Ok(Self {
            port: socket.local_addr()?.port(),
            socket,
            marked,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Doorkeeper {
    pub(crate) fn new(door: Door) -> Self {
        use nix::libc::{in_pktinfo, in6_pktinfo};
        let headers = |space| MultiHeaders::preallocate(MOST_PACKETS, Some(space));
        Self {
            door,
            room: vec![0; MOST_PACKETS * LARGEST],
            incoming: headers(cmsg_space!(in_pktinfo, in6_pktinfo)),
            any: MultiHeaders::preallocate(MOST_PACKETS, None),
            v4: headers(cmsg_space!(in_pktinfo)),
            v6: headers(cmsg_space!(in6_pktinfo)),
            replies: Vec::new(),
        }
    }

    /// Waits a moment for messages, and takes those that are there: what is to be answered is, and what
    /// passes the gate goes on.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn attend(&mut self, gate: &Gate, mut pass: impl FnMut(Upcall)) -> io::Result<()> {
        IkeReceiver::wait(&self.door.socket)?;
        while self.take_burst(gate, &mut pass)? == MOST_PACKETS {}
        Ok(())
    }

    fn take_burst(&mut self, gate: &Gate, pass: &mut impl FnMut(Upcall)) -> io::Result<usize> {
        let now = Instant::now();
        let mut rooms = self.room.chunks_mut(LARGEST);
        let mut parts: [[IoSliceMut<'_>; 1]; MOST_PACKETS] =
            std::array::from_fn(|_| [IoSliceMut::new(rooms.next().unwrap_or_default())]);
        let (socket, flags) = (self.door.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let messages = match recvmmsg(socket, &mut self.incoming, parts.iter_mut(), flags, None) {
            Ok(messages) => messages,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(0),
            // An ICMP error of an earlier answer.
            Err(nix::Error::ECONNREFUSED | nix::Error::EHOSTUNREACH) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let (mut received, mut answered) = (0, 0);
        for message in messages {
            received += 1;
            let Some(remote) = message.address.as_ref().and_then(address_of) else {
                continue;
            };
            let local = message.cmsgs().ok().and_then(|mut controls| {
                controls.find_map(|control| match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::V4(Ipv4Addr::from(
                        info.ipi_addr.s_addr.to_ne_bytes(),
                    ))),
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()))
                    }
                    _ => None,
                })
            });
            let local = local.unwrap_or(match remote {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            });
            let octets = message.iovs().next().unwrap_or_default();
            let octets = match self.door.marked {
                true => octets.strip_prefix(&NON_ESP_MARKER),
                false => Some(octets),
            };
            let Some(octets) = octets else { continue };
            if self.replies.len() == answered {
                self.replies.push(Reply {
                    local,
                    remote,
                    message: Vec::new(),
                });
            }
            let Some(reply) = self.replies.get_mut(answered) else {
                continue;
            };
            match gate.meet(now, remote.ip(), octets, &mut reply.message) {
                Verdict::Passes => pass(Upcall::Ike {
                    local: SocketAddr::new(local, self.door.port),
                    remote,
                    stream: None,
                    datagram: octets.to_vec(),
                }),
                Verdict::Answered => {
                    (reply.local, reply.remote) = (local, remote);
                    answered += 1;
                }
                Verdict::Dropped => {}
            }
        }
        self.answer(answered);
        Ok(received)
    }

    /// Sends the first so many replies. One that does not leave is like one that was lost.
    fn answer(&mut self, count: usize) {
        let marker: &[u8] = if self.door.marked {
            &NON_ESP_MARKER
        } else {
            &[]
        };
        let mut rest = self.replies.get(..count).unwrap_or_default();
        while let Some(Reply { local, .. }) = rest.first() {
            // Those from one address leave in one call.
            let same = rest.iter().take_while(|reply| reply.local == *local);
            let (these, others) = rest.split_at(same.count());
            let from = SendFrom::new(*local);
            let control = from.control();
            let mut left = these;
            while !left.is_empty() {
                let headers = match from {
                    SendFrom::Any => &mut self.any,
                    SendFrom::V4(_) => &mut self.v4,
                    SendFrom::V6(_) => &mut self.v6,
                };
                let parts: Vec<[IoSlice<'_>; 2]> = left
                    .iter()
                    .map(|reply| [IoSlice::new(marker), IoSlice::new(&reply.message)])
                    .collect();
                let to: Vec<Option<SockaddrStorage>> = left
                    .iter()
                    .map(|reply| Some(SockaddrStorage::from(reply.remote)))
                    .collect();
                let socket = self.door.socket.as_raw_fd();
                let sent = match sendmmsg(socket, headers, &parts, to, control.as_slice(), SENDING)
                {
                    Ok(sent) => sent.count().max(1),
                    Err(nix::Error::EAGAIN) => return,
                    // The first one's misfortune.
                    Err(_) => 1,
                };
                left = left.get(sent..).unwrap_or_default();
            }
            rest = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ikev2d_crypto::OpensslCrypto;
    use ikev2d_proto::config::EndpointConfig;
    use ikev2d_proto::endpoint::Endpoint;
    use ikev2d_proto::wire::exchange;

    use super::*;
    use crate::config::Config;

    /// Longest wait for a datagram of the loopback interface.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn header(exchange: u8, spi_r: u64, next: u8, flags: u8) -> Vec<u8> {
        let mut octets = vec![7; 8];
        octets.extend(spi_r.to_be_bytes());
        octets.extend([next, 0x20, exchange, flags, 0, 0, 0, 0, 0, 0, 0, 28]);
        octets
    }

    /// What comes to a socket next.
    fn next(socket: &UdpSocket) -> Vec<u8> {
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut octets = [0; 2048];
        let len = socket.recv(&mut octets).unwrap();
        octets[..len].to_vec()
    }

    /// S13: a flood of first messages takes neither an IKE SA's room nor that of who has a cookie.
    #[test]
    fn the_kernel_tells_first_messages_from_all_others() {
        let begin = [exchange::IKE_SA_INIT, exchange::IKE_SESSION_RESUME];
        let first = [
            header(begin[0], 0, payload::SA, 0x08),
            header(begin[1], 0, payload::NONCE, 0x08),
        ];
        let cookie = begin.map(|exchange| header(exchange, 0, payload::NOTIFY, 0x08));
        let others = [
            header(exchange::IKE_AUTH, 9, payload::SK, 0x08),
            header(exchange::IKE_SA_INIT, 1 << 40, payload::SA, 0x20),
            // What a responder says that keeps nothing of us.
            header(exchange::IKE_SA_INIT, 0, payload::NOTIFY, 0x20),
            vec![1; 5],
        ];
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (plain, esp) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let apart = apart_from_esp(&esp).unwrap();
        for (marked, base, rest) in [(false, &plain, &plain), (true, &esp, &apart)] {
            let doors = Door::open(base, marked, 1 + u32::from(marked)).unwrap();
            let send = |message: &[u8]| {
                let marker: &[u8] = if marked { &NON_ESP_MARKER } else { &[] };
                let datagram = [marker, message].concat();
                let to = base.local_addr().unwrap();
                client.send_to(&datagram, to).unwrap();
                datagram
            };
            for (messages, door) in [(&first, &doors[0]), (&cookie, &doors[1])] {
                for message in messages {
                    let sent = send(message);
                    assert_eq!(next(&door.socket), sent);
                }
            }
            for message in &others {
                let sent = send(message);
                // A mark alone could be ESP's as well.
                let short = marked && message.len() < 20;
                assert_eq!(next(if short { base } else { rest }), sent);
            }
            if marked {
                let packet = vec![0x11; 40];
                let to = base.local_addr().unwrap();
                client.send_to(&packet, to).unwrap();
                assert_eq!(next(base), packet);
            }
        }
    }

    fn endpoint(end: &str, config: EndpointConfig) -> Endpoint {
        let text = format!(
            "[connections.gw]\nlocal = {{ auth = \"psk\", id = \"{end}\" }}\n\
             local_addrs = [\"127.0.0.1\"]\nremote_addrs = [\"127.0.0.1\"]\n\
             remote = {{ auth = \"psk\" }}\n[secrets.ike-gw]\nsecret = \"Gate-Test-0123456789\"\n"
        );
        let text: Config = text.parse().unwrap();
        let mut endpoint = Endpoint::new(config, Arc::new(OpensslCrypto::new().unwrap()));
        endpoint.set_connections(text.policy());
        endpoint.set_secrets(text.psks());
        endpoint
    }

    /// S13: who has no cookie is asked for one at the door, from the address that it came to, and passes
    /// with it.
    #[test]
    fn a_cookie_is_asked_for_at_the_door_and_opens_it() {
        let responder = endpoint(
            "b",
            EndpointConfig {
                cookie_threshold: 0,
                ..EndpointConfig::default()
            },
        );
        let gate = responder.gate();
        let now = Instant::now();
        for marked in [false, true] {
            let mut initiator = endpoint("a", EndpointConfig::default());
            initiator.initiate(now, "gw", None, None).unwrap();
            let first = initiator.poll_transmit().unwrap();
            let base = UdpSocket::bind("0.0.0.0:0").unwrap();
            let port = base.local_addr().unwrap().port();
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(to).unwrap();
            let marker: &[u8] = if marked { &NON_ESP_MARKER } else { &[] };
            let [mut plain, mut cookie] =
                Door::open(&base, marked, 1).unwrap().map(Doorkeeper::new);
            let passed = |door: &mut Doorkeeper, message: &[u8]| {
                client.send(&[marker, message].concat()).unwrap();
                let mut passed = Vec::new();
                let end = Instant::now() + PATIENCE;
                while passed.is_empty() && door.replies.is_empty() && Instant::now() < end {
                    door.attend(&gate, |upcall| passed.push(upcall)).unwrap();
                }
                passed
            };
            assert!(passed(&mut plain, &first.payload).is_empty());
            let answer = next(&client);
            let answer = answer.strip_prefix(marker).unwrap();
            initiator.handle_datagram(now, first.path, answer);
            let second = initiator.poll_transmit().unwrap();
            let came = passed(&mut cookie, &second.payload);
            let [
                Upcall::Ike {
                    local,
                    remote,
                    datagram,
                    ..
                },
            ] = &came[..]
            else {
                panic!("{}", came.len());
            };
            assert_eq!((*local, *remote), (to, client.local_addr().unwrap()));
            assert_eq!(*datagram, second.payload);
        }
    }
}
