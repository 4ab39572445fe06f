// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A sink that writes pcapng.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use super::{PacketSink, Side};

/// Writes packets as pcapng, with an interface `plain` and an interface `cipher`, and SPI and number
/// as each packet's comment. A packet that starts at its ESP header is shown behind an IPv4 header
/// of its own making, from 0.0.0.0 to 0.0.0.0, since captures have no link type for bare ESP.
pub struct PcapngSink<W: Write> {
    writer: PcapNgWriter<W>,
    failed: bool,
    buffer: Vec<u8>,
}

impl<W: Write> PcapngSink<W> {
    /// Writes the file's head.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(writer: W) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(writer).map_err(io::Error::other)?;
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
}

impl<W: Write + Send> PacketSink for PcapngSink<W> {
    fn packet(&mut self, side: Side, at: Duration, spi: u32, sequence: u64, octets: &[u8]) {
        if self.failed {
            return;
        }
        self.buffer.clear();
        let is_ip = octets
            .first()
            .is_some_and(|octet| matches!(octet >> 4, 4 | 6));
        if side == Side::Cipher && octets.starts_with(&spi.to_be_bytes()) || !is_ip {
            let total = (octets.len() as u16).saturating_add(20).to_be_bytes();
            self.buffer.extend([0x45, 0, total[0], total[1]]);
            self.buffer.extend([0, 0, 0, 0, 64, 50, 0, 0]);
            self.buffer.extend([0; 8]);
        }
        self.buffer.extend_from_slice(octets);
        let block = EnhancedPacketBlock {
            interface_id: u32::from(side == Side::Cipher),
            timestamp: at,
            original_len: self.buffer.len() as u32,
            data: Cow::Borrowed(&self.buffer),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(format!(
                "SPI {spi:08x}, number {sequence}"
            )))],
        };
        if let Err(error) = self.writer.write_pcapng_block(block) {
            tracing::warn!(%error, "the capture ends here");
            self.failed = true;
        }
    }
}
