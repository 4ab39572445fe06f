// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A packet socket whose queue is a ring of memory shared with the kernel (packet_mmap, TPACKET_V2).
//!
//! A plain packet socket is charged the whole memory of each packet against a limit that only real root
//! may raise. A ring is paid for once, holds hundreds of thousands of packet heads, and works in a user
//! namespace; so a capture that loses nothing is possible for everybody.

#![expect(
    unsafe_code,
    reason = "the packet ring is memory shared with the kernel, set up by system calls nix lacks"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Room for one packet: the kernel's header and up to [`SNAP`] octets.
const FRAME: usize = 2048;
/// Frames of a block; a block is one allocation of the kernel.
const FRAMES_PER_BLOCK: usize = 32;
/// Octets of a packet that fit a frame beside the header.
pub(crate) const SNAP: usize = FRAME - 128;

/// The ring of one interface, for one reading thread.
pub(crate) struct Ring {
    socket: OwnedFd,
    memory: NonNull<u8>,
    frames: usize,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for Ring {}

/// One packet as the kernel took it.
pub(crate) struct Taken<'a> {
    /// Since the epoch.
    pub(crate) time: Duration,
    /// Octets on the wire.
    pub(crate) length: u32,
    /// What was kept of it.
    pub(crate) octets: &'a [u8],
}

impl Ring {
    /// Opens a ring of `octets` on an interface of the namespace that the calling thread is in.
    pub(crate) fn open(interface: &str, octets: usize) -> io::Result<Self> {
        let block = FRAME * FRAMES_PER_BLOCK;
        let blocks = (octets / block).max(1);
        // SAFETY: plain system call; the result is checked before use.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(raw)?;
        // SAFETY: a fresh descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let version: libc::c_int = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        set_option(&socket, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: u32::try_from(blocks).map_err(|_| io::ErrorKind::InvalidInput)?,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: u32::try_from(blocks * FRAMES_PER_BLOCK)
                .map_err(|_| io::ErrorKind::InvalidInput)?,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: maps the ring that the socket was just given, of exactly this size; the result is checked.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                block * blocks,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(io::Error::last_os_error)?;
        let ring = Self {
            socket,
            memory,
            frames: blocks * FRAMES_PER_BLOCK,
            next: 0,
        };
        ring.bind(interface)?;
        Ok(ring)
    }

    /// The descriptor to wait on.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hands the next packet, if there is one, to `take`, and then its frame back to the kernel.
    pub(crate) fn take<T>(&mut self, take: impl FnOnce(Taken<'_>) -> T) -> Option<T> {
        // SAFETY: `next` is below `frames`, so the frame lies inside the mapping, which lives as long as self.
        let frame = unsafe { self.memory.add(self.next * FRAME) };
        // SAFETY: a frame starts, aligned, with the status word, which kernel and reader both access atomically.
        let status = unsafe { AtomicU32::from_ptr(frame.cast::<u32>().as_ptr()) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the status says that the frame is ours; the kernel does not write it until we hand it back.
        let header = unsafe { frame.cast::<libc::tpacket2_hdr>().read() };
        let from = usize::from(header.tp_mac).min(FRAME);
        let length = (header.tp_snaplen as usize).min(FRAME - from);
        // SAFETY: `from + length` is at most the frame's size, and the frame is ours until handed back below,
        // after the borrow has ended.
        let octets = unsafe { std::slice::from_raw_parts(frame.add(from).as_ptr(), length) };
        let taken = take(Taken {
            time: Duration::new(header.tp_sec.into(), header.tp_nsec),
            length: header.tp_len,
            octets,
        });
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.frames;
        Some(taken)
    }

    /// Packets that the kernel could not keep since the last call.
    pub(crate) fn dropped(&self) -> io::Result<u64> {
        // SAFETY: all-zero is a valid value of this struct of integers.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointers are to locals of the stated size.
        check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(statistics.tp_drops.into())
    }

    fn bind(&self, interface: &str) -> io::Result<()> {
        let name = CString::new(interface)?;
        // SAFETY: `name` is a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all-zero is a valid value of this struct of integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the pointer is to a local of the stated size.
        check(unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `open` mapped; no slice of it outlives `take`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.frames * FRAME) };
    }
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a borrowed value of the stated size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
