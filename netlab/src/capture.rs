// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Captures an interface into a pcap file, and says whether anything was missed.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use thiserror::Error;

use crate::packet::{Kind, classify};
use crate::ring::{Ring, SNAP};
use crate::{Namespace, NamespaceError};

/// How much of the wire a capture keeps.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Octets kept of an ordinary packet. 96 hold Ethernet, IPv6, UDP and ESP headers and the IV.
    pub snap: usize,
    /// ESP packets at the beginning that are kept whole, for a dissector that decrypts. IKE always is.
    pub whole: u64,
    /// Memory for packets between the kernel and the writer.
    pub ring: usize,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            snap: 96,
            whole: 1000,
            ring: 128 << 20,
        }
    }
}

/// What a capture did.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureSummary {
    /// Packets written.
    pub packets: u64,
    /// Packets that the kernel saw and could not hand over. Unless this is zero, the file proves nothing
    /// about what was absent.
    pub dropped: u64,
}

/// Why a capture could not start or finish.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The interface could not be opened for capture.
    #[error("capture on {interface}: {source}")]
    Open {
        /// The interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("capture file {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The capture's thread could not run in the namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// A running capture. Dropped without [`finish`](Self::finish), it stops on its own.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<CaptureSummary, CaptureError>, NamespaceError>>>,
}

impl Capture {
    /// Starts to capture both directions of `interface` in `namespace`. On return nothing is missed any more.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        path: &Path,
        config: CaptureConfig,
    ) -> Result<Self, CaptureError> {
        let ring = namespace
            .enter(|| open_ring(interface, config.ring))?
            .map_err(|source| CaptureError::Open {
                interface: interface.to_owned(),
                source,
            })?;
        let write = |source| CaptureError::Write {
            path: path.to_owned(),
            source,
        };
        let file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(write)?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, path) = (Arc::clone(&stop), path.to_owned());
            namespace.spawn("capture", move || {
                run(ring, file, &config, &stop)
                    .map_err(|source| CaptureError::Write { path, source })
            })?
        };
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops, writes what is still in the ring, and returns the counts.
    pub fn finish(mut self) -> Result<CaptureSummary, CaptureError> {
        self.join()
    }

    fn join(&mut self) -> Result<CaptureSummary, CaptureError> {
        self.stop.store(true, Ordering::Release);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result?,
            Some(Err(_)) => Err(CaptureError::Namespace(NamespaceError::Panicked {
                name: "capture".to_owned(),
            })),
            None => Ok(CaptureSummary::default()),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// Opens the largest ring up to `octets` that the machine has memory for.
fn open_ring(interface: &str, mut octets: usize) -> io::Result<Ring> {
    loop {
        match Ring::open(interface, octets) {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) && octets > 4 << 20 => octets /= 2,
            result => return result,
        }
    }
}

fn run(
    mut ring: Ring,
    file: impl Write,
    config: &CaptureConfig,
    stop: &AtomicBool,
) -> io::Result<CaptureSummary> {
    let header = PcapHeader {
        snaplen: 1 << 18,
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::NanoSecond,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(file, header).map_err(io::Error::other)?;
    let mut summary = CaptureSummary::default();
    let mut whole = config.whole;
    loop {
        // Read before the ring is: what arrived before the stop is then still written.
        let stopping = stop.load(Ordering::Acquire);
        while let Some(written) = ring.take(|taken| {
            let keep = match classify(taken.octets).kind {
                Kind::Esp { .. } if whole == 0 => config.snap,
                Kind::Esp { .. } => {
                    whole -= 1;
                    SNAP
                }
                Kind::Ike => SNAP,
                _ => config.snap,
            };
            let octets = taken.octets.get(..keep).unwrap_or(taken.octets);
            writer.write_packet(&PcapPacket::new(taken.time, taken.length, octets))
        }) {
            written.map_err(io::Error::other)?;
            summary.packets += 1;
        }
        if stopping {
            break;
        }
        let mut wait = [PollFd::new(ring.descriptor(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(Duration::from_millis(50)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut wait, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    summary.dropped = ring.dropped()?;
    writer.into_writer().flush()?;
    Ok(summary)
}
