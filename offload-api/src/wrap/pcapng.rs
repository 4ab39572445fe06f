// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets to a file of pcapng.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::{DataLink, Endianness};

use super::{PacketSink, Seen, Side};
use crate::sa::Direction;

/// Writes packets as pcapng, with an interface `plain` and an interface `cipher`, the SA's direction as
/// each packet's, and its SA, SPI and number as comment. A packet that starts at its ESP header is
/// shown behind an IPv4 header of its own making, from 0.0.0.0 to 0.0.0.0, since captures have no
/// link type for bare ESP.
pub struct PcapngSink<W: Write> {
    writer: PcapNgWriter<W>,
    failed: bool,
    buffer: Vec<u8>,
}

impl<W: Write> PcapngSink<W> {
    /// Octets that a packet takes in the file beyond its own, at most.
    pub const PACKET_OVERHEAD: u64 = 256;

    /// Writes the file's head.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(writer: W) -> io::Result<Self> {
        let writer = PcapNgWriter::with_endianness(writer, Endianness::Little);
        let mut writer = writer.map_err(io::Error::other)?;
        for name in ["plain", "cipher"] {
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::RAW,
                snaplen: 0,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                    // Nanoseconds.
                    InterfaceDescriptionOption::IfTsResol(9),
                ],
            };
            writer.write_pcapng_block(block).map_err(io::Error::other)?;
        }
        Ok(Self {
            writer,
            failed: false,
            buffer: Vec::new(),
        })
    }

    /// Writes a packet, and that so many of its side were lost before it; the octets that it took.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, seen: &Seen<'_>, dropped: u64) -> io::Result<u64> {
        let octets = seen.octets;
        self.buffer.clear();
        let is_ip = octets
            .first()
            .is_some_and(|octet| matches!(octet >> 4, 4 | 6));
        if seen.side == Side::Cipher && octets.starts_with(&seen.spi.to_be_bytes()) || !is_ip {
            let total = (octets.len() as u16).saturating_add(20).to_be_bytes();
            self.buffer.extend([0x45, 0, total[0], total[1]]);
            self.buffer.extend([0, 0, 0, 0, 64, 50, 0, 0]);
            self.buffer.extend([0; 8]);
        }
        self.buffer.extend_from_slice(octets);
        let mut comment = String::new();
        if let Some(sa) = seen.sa {
            let _ = write!(comment, "SA {sa}, ");
        }
        let _ = write!(comment, "SPI {:08x}", seen.spi);
        if seen.sequence != 0 {
            let _ = write!(comment, ", number {}", seen.sequence);
        }
        // The two lowest bits of epb_flags (pcapng §4.3.1).
        let direction = match seen.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let mut options = vec![
            EnhancedPacketOption::Comment(Cow::Owned(comment)),
            EnhancedPacketOption::Flags(direction),
        ];
        if dropped != 0 {
            options.push(EnhancedPacketOption::DropCount(dropped));
        }
        let block = EnhancedPacketBlock {
            interface_id: interface(seen.side),
            timestamp: seen.at,
            original_len: self.buffer.len() as u32,
            data: Cow::Borrowed(&self.buffer),
            options,
        };
        let written = self.writer.write_pcapng_block(block);
        written
            .map(|octets| octets as u64)
            .map_err(io::Error::other)
    }

    /// Writes how many packets of a side were seen since the start, and how many of them were lost.
    ///
    /// # Errors
    /// The writer's.
    pub fn statistics(
        &mut self,
        side: Side,
        at: Duration,
        seen: u64,
        dropped: u64,
    ) -> io::Result<()> {
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let block = InterfaceStatisticsBlock {
            interface_id: interface(side),
            // Its upper half comes first, which the library leaves to its user.
            timestamp: at.rotate_left(32),
            options: vec![
                InterfaceStatisticsOption::IsbIfRecv(seen),
                InterfaceStatisticsOption::IsbIfDrop(dropped),
            ],
        };
        let written = self.writer.write_pcapng_block(block);
        written.map(drop).map_err(io::Error::other)
    }

    /// Where it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }
}

fn interface(side: Side) -> u32 {
    u32::from(side == Side::Cipher)
}

impl<W: Write + Send> PacketSink for PcapngSink<W> {
    fn packet(&mut self, seen: &Seen<'_>) {
        if self.failed {
            return;
        }
        if let Err(error) = self.write(seen, 0) {
            tracing::warn!(%error, "the capture ends here");
            self.failed = true;
        }
    }
}
