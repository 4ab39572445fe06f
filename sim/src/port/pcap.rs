// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Captures as a port: frames of one file come in, frames that go out are written to another.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::SystemTime;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};

use super::FramePort;
use crate::capture::create;

pub(super) struct Captures {
    read: Option<PcapReader<BufReader<File>>>,
    write: Option<PcapWriter<BufWriter<File>>>,
}

impl Captures {
    pub(super) fn open(read: Option<&Path>, write: Option<&Path>) -> io::Result<Self> {
        let about = |path: &Path| {
            let path = path.display().to_string();
            move |error: &dyn std::fmt::Display| io::Error::other(format!("{path}: {error}"))
        };
        let read = match read {
            None => None,
            Some(path) => {
                let file = File::open(path).map_err(|error| about(path)(&error))?;
                let reader =
                    PcapReader::new(BufReader::new(file)).map_err(|error| about(path)(&error))?;
                if reader.header().datalink != DataLink::ETHERNET {
                    return Err(about(path)(&"its link type is not Ethernet"));
                }
                Some(reader)
            }
        };
        let write = match write {
            None => None,
            Some(path) => {
                let file = create(path).map_err(|error| about(path)(&error))?;
                let header = PcapHeader {
                    datalink: DataLink::ETHERNET,
                    ..PcapHeader::default()
                };
                let writer = PcapWriter::with_header(BufWriter::new(file), header);
                Some(writer.map_err(|error| about(path)(&error))?)
            }
        };
        Ok(Self { read, write })
    }
}

impl FramePort for Captures {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let packet = match self.read.as_mut()?.next_packet()? {
            Ok(packet) => packet,
            Err(error) => {
                tracing::warn!(%error, "the capture ends here");
                self.read = None;
                return None;
            }
        };
        let into = buffer.get_mut(..packet.data.len())?;
        into.copy_from_slice(&packet.data);
        Some(into.len())
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        let Some(writer) = &mut self.write else {
            return true;
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let packet = PcapPacket::new(now, frame.len() as u32, frame);
        writer.write_packet(&packet).is_ok()
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_goes_out_is_its_owners_alone_in_an_old_file_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.pcap");
        std::fs::write(&path, "older").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        drop(Captures::open(None, Some(&path)).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
