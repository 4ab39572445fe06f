// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An interface by a packet socket (packet(7)): a veth, or a real network card.
#![expect(unsafe_code, reason = "socket addresses and options of packet sockets")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::FramePort;

/// Octets that the kernel keeps of frames that wait.
const BUFFER: libc::c_int = 8 << 20;

/// A packet socket of one interface.
pub(super) struct PacketSocket {
    socket: OwnedFd,
    mac: [u8; 6],
    mtu: u32,
}

impl PacketSocket {
    pub(super) fn open(interface: &str, namespace: Option<&Path>) -> io::Result<Self> {
        let Some(namespace) = namespace else {
            return Self::open_here(interface);
        };
        let namespace = File::open(namespace)?;
        // A thread of its own: the others stay where they are.
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
                Self::open_here(interface)
            });
            opened
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("opening a packet socket")))
        })
    }

    fn open_here(interface: &str) -> io::Result<Self> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Of no protocol, so that nothing comes in before it is bound.
        // SAFETY: plain system call; the result is checked before use.
        let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let name = CString::new(interface)?;
        // SAFETY: the name is a string that ends with NUL.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        set(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            &1i32,
        )?;
        // More than the limit is for root only.
        if set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER).is_err() {
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &BUFFER)?;
        }
        // SAFETY: all zero is a valid value of this structure of integers.
        let mut membership: libc::packet_mreq = unsafe { std::mem::zeroed() };
        membership.mr_ifindex = index as i32;
        membership.mr_type = libc::PACKET_MR_PROMISC as u16;
        set(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            &membership,
        )?;
        // SAFETY: as above.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index as i32;
        // SAFETY: the address and its size belong together; it is only read.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        })?;
        let fact = |what: &str| {
            std::fs::read_to_string(format!("/sys/class/net/{interface}/{what}"))
                .map(|text| text.trim().to_owned())
        };
        // /sys shows the namespace that it was mounted in: good enough for a guess, no more.
        let mtu = fact("mtu").ok().and_then(|mtu| mtu.parse().ok());
        Ok(Self {
            socket,
            mac: [0; 6],
            mtu: mtu.unwrap_or(1500),
        })
    }
}

impl FramePort for PacketSocket {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        rustix::net::recv(&self.socket, buffer, rustix::net::RecvFlags::DONTWAIT)
            .ok()
            .map(|(count, _)| count)
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        rustix::net::send(&self.socket, frame, rustix::net::SendFlags::DONTWAIT).is_ok()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac).filter(|mac| *mac != [0; 6])
    }

    fn mtu(&self) -> u32 {
        self.mtu
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: pointer and size describe one value, which is only read.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    })
    .map(drop)
}
