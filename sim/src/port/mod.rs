// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a card's ports are attached to.

mod cable;
pub(crate) mod paced;
mod packet_socket;
mod pcap;
mod tap;
pub(crate) mod tun;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use thiserror::Error;

/// Octets of the largest Ethernet frame.
pub(crate) const MAX_FRAME: usize = 9018;

/// Carries Ethernet frames.
pub(crate) trait FramePort: Send {
    /// Takes a frame that is there: its octets in the buffer.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize>;

    /// Sends a frame; false where it was not taken.
    fn send(&mut self, frame: &[u8]) -> bool;

    /// Whether it takes more now; one that does not is asked again.
    fn is_ready(&self) -> bool {
        true
    }

    /// When it has something to do by itself.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Becomes readable with the next frame, where it can tell.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Its MAC address, where it has one.
    fn mac(&self) -> Option<[u8; 6]> {
        None
    }

    /// Octets of the largest IP packet.
    fn mtu(&self) -> u32;
}

/// Where a port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    /// An interface that is there, by a packet socket: `af-packet:IF`, or `af-packet:IF@NETNS` for one
    /// in another network namespace (a path, or a name under /run/netns).
    AfPacket {
        /// The interface.
        interface: String,
        /// Its namespace.
        namespace: Option<PathBuf>,
    },
    /// A TAP interface that the card makes: `tap:NAME`.
    Tap(String),
    /// A TUN interface that the card makes: `tun:NAME`; for the host port.
    Tun(String),
    /// Captures: `pcap:in=FILE,out=FILE`, either alone too. What is in the one comes in, what goes out
    /// is written to the other.
    Pcap {
        /// Comes in.
        read: Option<PathBuf>,
        /// Goes out.
        write: Option<PathBuf>,
    },
    /// A cable to another card: `cable:SOCKET`, the same path at both.
    Cable(PathBuf),
    /// Nothing: frames are dropped.
    None,
}

/// The text names no port.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "port {found:?}: expected af-packet:IF[@NETNS], tap:NAME, tun:NAME, pcap:in=FILE,out=FILE, cable:SOCKET or none"
)]
pub struct ParsePortError {
    found: String,
}

impl FromStr for PortSpec {
    type Err = ParsePortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParsePortError {
            found: text.to_owned(),
        };
        if text == "none" {
            return Ok(Self::None);
        }
        let (kind, rest) = text.split_once(':').ok_or_else(error)?;
        // IFNAMSIZ, with its NUL.
        let name = |name: &str| (1..16).contains(&name.len()).then(|| name.to_owned());
        match kind {
            "af-packet" => {
                let (interface, namespace) = match rest.split_once('@') {
                    Some((interface, namespace)) => (interface, Some(namespace)),
                    None => (rest, None),
                };
                let namespace = namespace.map(|namespace| {
                    if namespace.contains('/') {
                        PathBuf::from(namespace)
                    } else {
                        PathBuf::from("/run/netns").join(namespace)
                    }
                });
                let interface = name(interface).ok_or_else(error)?;
                Ok(Self::AfPacket {
                    interface,
                    namespace,
                })
            }
            "tap" => Ok(Self::Tap(name(rest).ok_or_else(error)?)),
            "tun" => Ok(Self::Tun(name(rest).ok_or_else(error)?)),
            "cable" if !rest.is_empty() => Ok(Self::Cable(rest.into())),
            "pcap" => {
                let (mut read, mut write) = (None, None);
                for part in rest.split(',') {
                    match part.split_once('=') {
                        Some(("in", file)) if !file.is_empty() => read = Some(file.into()),
                        Some(("out", file)) if !file.is_empty() => write = Some(file.into()),
                        _ => return Err(error()),
                    }
                }
                Ok(Self::Pcap { read, write })
            }
            _ => Err(error()),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfPacket {
                interface,
                namespace,
            } => {
                write!(f, "af-packet:{interface}")?;
                match namespace {
                    Some(namespace) => write!(f, "@{}", namespace.display()),
                    None => Ok(()),
                }
            }
            Self::Tap(name) => write!(f, "tap:{name}"),
            Self::Tun(name) => write!(f, "tun:{name}"),
            Self::Pcap { read, write } => {
                let part = |key: &str, file: &Option<PathBuf>| {
                    file.as_ref()
                        .map(|file| format!("{key}={}", file.display()))
                };
                let parts: Vec<_> = [part("in", read), part("out", write)]
                    .into_iter()
                    .flatten()
                    .collect();
                write!(f, "pcap:{}", parts.join(","))
            }
            Self::Cable(path) => write!(f, "cable:{}", path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

/// Opens a port for Ethernet frames.
pub(crate) fn open(spec: &PortSpec) -> io::Result<Box<dyn FramePort>> {
    Ok(match spec {
        PortSpec::AfPacket {
            interface,
            namespace,
        } => Box::new(packet_socket::PacketSocket::open(
            interface,
            namespace.as_deref(),
        )?),
        PortSpec::Tap(name) => Box::new(tap::Tap::open(name)?),
        PortSpec::Pcap { read, write } => {
            Box::new(pcap::Captures::open(read.as_deref(), write.as_deref())?)
        }
        PortSpec::Cable(path) => Box::new(cable::Cable::open(path)?),
        PortSpec::None => Box::new(Nothing),
        PortSpec::Tun(_) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a TUN interface carries no Ethernet: it is for the host port",
            ));
        }
    })
}

/// A port without a link.
struct Nothing;

impl FramePort for Nothing {
    fn receive(&mut self, _: &mut [u8]) -> Option<usize> {
        None
    }
    fn send(&mut self, _: &[u8]) -> bool {
        true
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn mtu(&self) -> u32 {
        1500
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed_and_bad_ones_told() {
        for good in [
            "af-packet:veth0",
            "af-packet:veth0@/proc/1/ns/net",
            "tap:x0",
            "tun:h0",
            "pcap:in=a.pcap,out=b.pcap",
            "pcap:out=b.pcap",
            "cable:/run/cable",
            "none",
        ] {
            assert_eq!(good.parse::<PortSpec>().unwrap().to_string(), good);
        }
        assert_eq!(
            "af-packet:e0@blue".parse::<PortSpec>().unwrap().to_string(),
            "af-packet:e0@/run/netns/blue"
        );
        for bad in [
            "",
            "veth0",
            "tap:",
            "tap:a-name-that-is-too-long",
            "pcap:x",
            "usb:1",
        ] {
            let error = bad.parse::<PortSpec>().unwrap_err().to_string();
            assert!(error.contains("af-packet"), "{error}");
        }
    }
}
