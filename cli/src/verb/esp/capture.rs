// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Captures: pcap or pcapng in, pcap of IP packets out.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use offload_api::wire::ip::Facts;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, TsResolution};

use super::worker::Worker;

/// Kind of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Pcap,
    PcapNg,
}

impl Kind {
    /// By a file's first four octets.
    pub(super) fn of(magic: &[u8]) -> Option<Self> {
        match magic {
            [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0xc3, 0xd4]
            | [0x4d, 0x3c, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d] => Some(Self::Pcap),
            [0x0a, 0x0d, 0x0d, 0x0a] => Some(Self::PcapNg),
            _ => None,
        }
    }
}

/// A captured packet with its link layer.
struct Captured<'packet> {
    link: DataLink,
    time: Duration,
    original_len: u32,
    octets: &'packet [u8],
}

/// Takes each packet that has an SA; whether all of them went well.
pub(super) fn run(
    worker: &mut Worker,
    kind: Kind,
    input: impl Read,
    output: impl Write,
) -> Result<bool> {
    let header = PcapHeader {
        datalink: DataLink::RAW,
        ts_resolution: TsResolution::NanoSecond,
        snaplen: 1 << 18,
        ..PcapHeader::default()
    };
    worker.check_capture()?;
    let mut writer = PcapWriter::with_header(output, header)?;
    let (mut total, mut passed_over, mut refused) = (0u64, 0u64, 0u64);
    let mut take = |captured: Captured<'_>| -> Result<()> {
        total += 1;
        let selected =
            ip_packet(&captured).and_then(|packet| Ok((packet, worker.select_captured(packet)?)));
        let (packet, sa) = match selected {
            Ok(selected) => selected,
            // IKE, ARP and strangers' packets are no failures.
            Err(reason) => {
                passed_over += 1;
                tracing::info!(packet = total, reason, "passed over");
                return Ok(());
            }
        };
        match worker.process(sa, packet, None)? {
            Ok(done) => {
                let len = done.packet.len().try_into().unwrap_or(u32::MAX);
                writer.write_packet(&PcapPacket::new(captured.time, len, &done.packet))?;
            }
            Err(error) => {
                refused += 1;
                anstream::eprintln!("esplanade: packet {total}: {error}");
            }
        }
        Ok(())
    };
    match kind {
        Kind::Pcap => read_pcap(input, &mut take)?,
        Kind::PcapNg => read_pcapng(input, &mut take)?,
    }
    writer.into_writer().flush()?;
    anstream::eprintln!(
        "esplanade: {total} packets: {} done, {refused} refused, {passed_over} passed over (--log-level info tells why)",
        total - refused - passed_over
    );
    Ok(refused == 0)
}

fn read_pcap(input: impl Read, take: &mut impl FnMut(Captured<'_>) -> Result<()>) -> Result<()> {
    let mut reader = PcapReader::new(input)?;
    let link = reader.header().datalink;
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        take(Captured {
            link,
            time: packet.timestamp,
            original_len: packet.orig_len,
            octets: &packet.data,
        })?;
    }
    Ok(())
}

fn read_pcapng(input: impl Read, take: &mut impl FnMut(Captured<'_>) -> Result<()>) -> Result<()> {
    let mut reader = PcapNgReader::new(input)?;
    while let Some(block) = reader.next_block() {
        let packet = match block? {
            Block::EnhancedPacket(packet) => packet.into_owned(),
            Block::SimplePacket(_) | Block::Packet(_) => {
                bail!("the capture has simple or obsolete packet blocks, which are not read")
            }
            _ => continue,
        };
        let Some(interface) = reader.interfaces().get(packet.interface_id as usize) else {
            bail!(
                "a packet of interface {}, which is not described",
                packet.interface_id
            );
        };
        let resolution = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        take(Captured {
            link: interface.linktype,
            time: time(packet.timestamp, resolution.unwrap_or(6)),
            original_len: packet.original_len,
            octets: &packet.data,
        })?;
    }
    Ok(())
}

/// The reader takes every count for nanoseconds; the interface's unit is 10^-n or 2^-n seconds.
fn time(counted: Duration, resolution: u8) -> Duration {
    let exponent = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    let units = base.checked_pow(exponent).unwrap_or(u128::MAX);
    let nanos = counted.as_nanos().saturating_mul(1_000_000_000) / units;
    Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
}

/// The IP packet in a captured frame, without the link layer and its padding.
fn ip_packet<'packet>(captured: &Captured<'packet>) -> Result<&'packet [u8], String> {
    let octets = captured.octets;
    if octets.len() < captured.original_len as usize {
        return Err(format!(
            "captured {} octets of {}",
            octets.len(),
            captured.original_len
        ));
    }
    let packet = match captured.link {
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Some(octets),
        DataLink::ETHERNET => match octets.get(12..14) {
            Some([0x08, 0x00] | [0x86, 0xdd]) => octets.get(14..),
            Some([0x81, 0x00]) => match octets.get(16..18) {
                Some([0x08, 0x00] | [0x86, 0xdd]) => octets.get(18..),
                _ => None,
            },
            _ => None,
        },
        link => return Err(format!("link layer {link:?} is not read")),
    };
    let packet = packet.ok_or("not an IP packet")?;
    let facts = Facts::of(packet).map_err(|error| error.to_string())?;
    Ok(packet.get(..facts.total_len).unwrap_or(packet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_interfaces_resolution() {
        let counted = Duration::from_nanos(1_500_000);
        assert_eq!(time(counted, 6), Duration::from_millis(1500));
        assert_eq!(time(counted, 9), counted);
        assert_eq!(
            time(Duration::from_nanos(3), 0x81),
            Duration::from_millis(1500)
        );
    }

    #[test]
    fn frames_lose_link_layer_and_padding() {
        let mut frame = vec![0; 12];
        frame.extend([
            0x08, 0x00, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.resize(60, 0);
        let captured = |octets, link| Captured {
            link,
            time: Duration::ZERO,
            original_len: 60,
            octets,
        };
        let packet = ip_packet(&captured(&frame, DataLink::ETHERNET)).unwrap();
        assert_eq!(packet, &frame[14..34]);
        assert!(ip_packet(&captured(&frame[..50], DataLink::ETHERNET)).is_err());
        assert!(ip_packet(&captured(&frame, DataLink::RAW)).is_err());
        assert!(ip_packet(&captured(&frame, DataLink::LINUX_SLL)).is_err());
    }
}
