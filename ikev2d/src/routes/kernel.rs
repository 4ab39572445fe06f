// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests to the kernel's routing tables that are answered before the call returns: the kernel does
//! them while it is asked, so that nobody need wait on another thread for thousands of them.

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Sets what is not there yet, and replaces what is.
pub(super) const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
/// Sets what is not there yet, of several in front.
pub(super) const FRONT: u16 = NLM_F_CREATE;
/// Sets what is not there yet, and refuses what is.
pub(super) const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A socket of its own.
pub(super) struct Kernel {
    socket: Socket,
    number: u32,
}

impl Kernel {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // It answers while it is asked; should it not, nobody waits for ever.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, number: 0 })
    }

    /// Has something done.
    pub(super) fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = read(&answer)?;
            // What answers an earlier request, whose asker has gone on, is passed over.
            if answer.header.sequence_number == self.number
                && let NetlinkPayload::Error(error) = answer.payload
            {
                return match error.code {
                    None => Ok(()),
                    Some(_) => Err(error.to_io()),
                };
            }
        }
    }
    /// All that there is of a kind.
    pub(super) fn list(
        &mut self,
        kind: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(kind, NLM_F_DUMP)?;
        let mut all = Vec::new();
        loop {
            let (octets, _) = self.socket.recv_from_full()?;
            let mut rest = &octets[..];
            while !rest.is_empty() {
                let message = read(rest)?;
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
                // Messages begin at multiples of four octets.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.header.sequence_number != self.number {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => all.push(inner),
                    NetlinkPayload::Done(_) => return Ok(all),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.number;
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        self.socket.send(&octets, 0)?;
        Ok(())
    }
}

fn read(octets: &[u8]) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets);
    message.map_err(|error| io::Error::other(error.to_string()))
}
