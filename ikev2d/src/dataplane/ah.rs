// SPDX-License-Identifier: Apache-2.0 OR MIT
//! AH over sockets of IP protocol 51. Its ICV covers the outer header, so packets go out with theirs
//! and come in with the sender's: in IPv4 the kernel leaves both as they are (`IP_HDRINCL`); in IPv6 it
//! takes the header off and puts the same one on, save for fields that may change on the way.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use offload_api::frame::Frame;
use offload_api::wire::ah::{Header, PROTOCOL};
use offload_api::wire::ip::{Facts, Ipv6Header};
use zerocopy::IntoBytes;

use super::early::Arrival;
use super::ready::Source;
use super::sockets::address_of;
use super::worker::{READS, SHARE, Worker};

/// What an IPv6 header says of hops; AH does not cover it.
const HOP_LIMIT: u8 = 64;

/// A packet that came in: its octets in the buffer, sender, and where it was sent to (IPv6).
type Received = (Option<usize>, IpAddr, Option<Ipv6Addr>);

fn receive(
    socket: &OwnedFd,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<Option<Received>> {
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_raw_fd();
    let message = match recvmsg::<SockaddrStorage>(socket, &mut parts, Some(control), flags) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let local = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
    let sender = message.address.as_ref().and_then(address_of);
    Ok(sender.map(|sender| (whole.then_some(message.bytes), sender.ip(), local)))
}

/// Makes what an IPv6 socket gave the packet that was sent; false where that can't be.
pub(super) fn restore_header(
    frame: &mut Frame,
    protocol: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> bool {
    let Ok(len) = u16::try_from(frame.len()) else {
        return false;
    };
    let header = Ipv6Header {
        version_class_flow: (6 << 28).into(),
        payload_len: len.into(),
        next_header: protocol,
        hop_limit: HOP_LIMIT,
        source: source.octets(),
        destination: destination.octets(),
    };
    match frame.push_front(Ipv6Header::LEN) {
        Some(room) => {
            room.copy_from_slice(header.as_bytes());
            true
        }
        None => false,
    }
}

impl Worker {
    /// Reads IP protocol 51, straight into frames; without any, packets wait in the kernel.
    pub(super) fn read_ah(&mut self) -> bool {
        let mut worked = false;
        for at in 0..self.ah.len() {
            let most = self.ops.len() + SHARE;
            for _ in 0..READS {
                if self.ops.len() >= most || !self.ready.has(Source::Ah(at)) {
                    break;
                }
                let Some(mut frame) = self.pool.alloc() else {
                    self.starved = true;
                    break;
                };
                let room = frame.tailroom();
                let (Some(room), Some(socket)) = (frame.push_back(room), self.ah.get(at)) else {
                    break;
                };
                let Ok(Some(received)) = receive(socket, room, &mut self.ah_control) else {
                    self.ready.clear(Source::Ah(at));
                    break;
                };
                worked = true;
                self.open_ah(frame, received);
            }
        }
        worked
    }

    fn open_ah(&mut self, mut frame: Frame, (len, sender, local): Received) {
        let counters = &self.shared.counters;
        counters.esp_received.fetch_add(1, Relaxed);
        let Some(len) = len else {
            counters.refused.fetch_add(1, Relaxed);
            return;
        };
        frame.truncate(len);
        if let (IpAddr::V6(source), Some(destination)) = (sender, local)
            && !restore_header(&mut frame, PROTOCOL, source, destination)
        {
            counters.refused.fetch_add(1, Relaxed);
            return;
        }
        let Ok(facts) = Facts::of(&frame) else {
            counters.malformed.fetch_add(1, Relaxed);
            return;
        };
        let header = frame.get(facts.header_len..).and_then(Header::parse);
        let spi = header.map(|header| header.spi.get());
        // IPv6's is made above, without its class.
        let class = sender.is_ipv4().then_some(facts.traffic_class);
        self.open_frame(frame, spi, Arrival::Ah(sender, class));
    }
}

/// Room for what the kernel says beside a packet.
pub(super) fn control() -> Vec<u8> {
    cmsg_space!(nix::libc::in6_pktinfo)
}
