// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What ESP did on a captured wire: numbers and IVs that were used twice, numbers that never came, and
//! packets that were not protected.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::PcapReader;
use serde::Serialize;
use thiserror::Error;

use crate::packet::{Classified, Kind, classify};

/// Why a capture could not be analysed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnalyseError {
    /// The file could not be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not a pcap, or is damaged.
    #[error("{}: packet {packet}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The packet, counted from one.
        packet: u64,
        /// What is wrong with it.
        message: String,
    },
}

/// One ESP packet of a flow, as the wire showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When, since the epoch.
    pub time: Duration,
    /// The 32 bits of the sequence number that travel.
    pub sequence: u32,
    /// The eight octets after the ESP header.
    pub iv: u64,
}

/// The ESP packets of one SA in the order in which they came.
#[derive(Clone, Debug)]
pub struct EspFlow {
    /// Who sent.
    pub source: IpAddr,
    /// Who receives; with the SPI this names the SA (RFC 4301 §4.1).
    pub destination: IpAddr,
    /// Security parameters index.
    pub spi: u32,
    /// All of them, in order of arrival.
    pub sightings: Vec<Sighting>,
    /// Octets on the wire.
    pub octets: u64,
}

/// What [`EspFlow::summary`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowSummary {
    /// Who sent.
    pub source: IpAddr,
    /// Who receives.
    pub destination: IpAddr,
    /// Security parameters index, as it is usually written.
    pub spi: String,
    /// Packets.
    pub packets: u64,
    /// Octets on the wire.
    pub octets: u64,
    /// Packets whose sequence number an earlier one of the SA had.
    pub duplicate_sequence_numbers: u64,
    /// Packets whose IV an earlier one of the SA (hence under the same key) had.
    pub repeated_ivs: u64,
    /// Packets that came with a lower number than one before them.
    pub reordered: u64,
    /// Numbers between the first and the last that never came.
    pub missing: u64,
    /// The widest run of such numbers.
    pub widest_gap: u64,
    /// Lowest sequence number.
    pub first: u32,
    /// Highest sequence number.
    pub last: u32,
}

impl EspFlow {
    /// Counts duplicates, repeats and gaps, exactly.
    pub fn summary(&self) -> FlowSummary {
        let mut sequences: Vec<u32> = self.sightings.iter().map(|s| s.sequence).collect();
        let mut ivs: Vec<u64> = self.sightings.iter().map(|s| s.iv).collect();
        let reordered = sequences
            .windows(2)
            .filter(|pair| pair[1] < pair[0])
            .count();
        sequences.sort_unstable();
        ivs.sort_unstable();
        let gaps = || {
            sequences
                .windows(2)
                .map(|pair| u64::from(pair[1] - pair[0]).saturating_sub(1))
        };
        FlowSummary {
            source: self.source,
            destination: self.destination,
            spi: format!("{:08x}", self.spi),
            packets: self.sightings.len() as u64,
            octets: self.octets,
            duplicate_sequence_numbers: repeats(&sequences),
            repeated_ivs: repeats(&ivs),
            reordered: reordered as u64,
            missing: gaps().sum(),
            widest_gap: gaps().max().unwrap_or(0),
            first: sequences.first().copied().unwrap_or(0),
            last: sequences.last().copied().unwrap_or(0),
        }
    }
}

/// A packet that should not have been on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offender {
    /// Its number in the file, from one.
    pub packet: u64,
    /// IP source.
    pub source: IpAddr,
    /// IP destination.
    pub destination: IpAddr,
    /// What is known of it.
    pub what: String,
}

/// Everything the capture shows.
#[derive(Clone, Debug, Default)]
pub struct Wire {
    /// Packets in all.
    pub packets: u64,
    /// IKE messages.
    pub ike: u64,
    /// NAT keepalives.
    pub keepalives: u64,
    /// ICMP errors about ESP or IKE that nobody took.
    pub refusals: u64,
    /// Address resolution and neighbour discovery.
    pub neighbour: u64,
    /// IP packets that are neither ESP nor IKE.
    pub plaintext: u64,
    /// Frames that could not be told: later fragments, foreign protocols, damage.
    pub unknown: u64,
    /// The first few of the two above.
    pub offenders: Vec<Offender>,
    /// ESP by SA.
    pub flows: Vec<EspFlow>,
}

impl Wire {
    /// Reads a capture to its end.
    pub fn read(path: &Path) -> Result<Self, AnalyseError> {
        let file = File::open(path).map_err(|source| AnalyseError::Open {
            path: path.to_owned(),
            source,
        })?;
        let damaged = |packet, error: pcap_file::PcapError| AnalyseError::Damaged {
            path: path.to_owned(),
            packet,
            message: error.to_string(),
        };
        let mut reader =
            PcapReader::new(BufReader::with_capacity(1 << 20, file)).map_err(|e| damaged(0, e))?;
        let mut wire = Self::default();
        let mut flows = BTreeMap::new();
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|e| damaged(wire.packets + 1, e))?;
            wire.add(&mut flows, packet.timestamp, packet.orig_len, &packet.data);
        }
        wire.flows = flows.into_values().collect();
        Ok(wire)
    }

    /// The flows that `source` sent.
    pub fn sent_by(&self, source: IpAddr) -> impl Iterator<Item = &EspFlow> {
        self.flows.iter().filter(move |flow| flow.source == source)
    }

    /// Sequence numbers used twice, over all SAs.
    pub fn duplicate_sequence_numbers(&self) -> u64 {
        self.flows
            .iter()
            .map(|f| f.summary().duplicate_sequence_numbers)
            .sum()
    }

    /// (key, IV) pairs used twice, over all SAs.
    pub fn repeated_key_iv(&self) -> u64 {
        self.flows.iter().map(|f| f.summary().repeated_ivs).sum()
    }

    /// The longest silence in what `source` sent as ESP, among packets between `from` and `until`
    /// (both since the epoch), and when it began. `None` without two packets there.
    pub fn longest_silence(
        &self,
        source: IpAddr,
        from: Duration,
        until: Duration,
    ) -> Option<(Duration, Duration)> {
        let mut times: Vec<Duration> = self
            .sent_by(source)
            .flat_map(|flow| flow.sightings.iter().map(|s| s.time))
            .filter(|time| (from..=until).contains(time))
            .collect();
        times.sort_unstable();
        times
            .windows(2)
            .map(|pair| (pair[1] - pair[0], pair[0]))
            .max_by_key(|(silence, _)| *silence)
    }

    fn add(
        &mut self,
        flows: &mut BTreeMap<(IpAddr, IpAddr, u32), EspFlow>,
        time: Duration,
        length: u32,
        octets: &[u8],
    ) {
        self.packets += 1;
        let Classified {
            source,
            destination,
            kind,
        } = classify(octets);
        let what = match kind {
            Kind::Esp { spi, sequence, iv } => {
                let flow = flows
                    .entry((source, destination, spi))
                    .or_insert_with(|| EspFlow {
                        source,
                        destination,
                        spi,
                        sightings: Vec::new(),
                        octets: 0,
                    });
                flow.sightings.push(Sighting { time, sequence, iv });
                flow.octets += u64::from(length);
                return;
            }
            Kind::Ike => {
                self.ike += 1;
                return;
            }
            Kind::Keepalive => {
                self.keepalives += 1;
                return;
            }
            Kind::Refusal => {
                self.refusals += 1;
                return;
            }
            Kind::Neighbour => {
                self.neighbour += 1;
                return;
            }
            Kind::Plain { protocol } => {
                self.plaintext += 1;
                format!("IP protocol {protocol}, {length} octets")
            }
            Kind::Fragment => {
                self.unknown += 1;
                format!("a later fragment, {length} octets")
            }
            Kind::Unknown => {
                self.unknown += 1;
                format!("not IP, or cut short: {length} octets")
            }
        };
        if self.offenders.len() < 20 {
            self.offenders.push(Offender {
                packet: self.packets,
                source,
                destination,
                what,
            });
        }
    }
}

/// Elements of a sorted slice that equal the one before them.
fn repeats<T: PartialEq>(sorted: &[T]) -> u64 {
    sorted.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::{esp_packet, ipv4_frame, udp};
    use pcap_file::pcap::{PcapPacket, PcapWriter};

    const A: [u8; 4] = [10, 77, 0, 1];
    const B: [u8; 4] = [10, 77, 0, 2];

    fn esp(spi: u32, sequence: u32, iv: u64) -> Vec<u8> {
        ipv4_frame(A, B, 17, &udp(4500, 4500, &esp_packet(spi, sequence, iv)))
    }

    /// Writes the frames one millisecond apart, cut to 64 octets, and reads them back.
    fn analysed(frames: &[Vec<u8>]) -> Wire {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = PcapWriter::new(file.reopen().unwrap()).unwrap();
        for (index, frame) in frames.iter().enumerate() {
            let kept = &frame[..frame.len().min(64)];
            let time = Duration::from_millis(1000 + index as u64);
            writer
                .write_packet(&PcapPacket::new(time, frame.len() as u32, kept))
                .unwrap();
        }
        drop(writer);
        Wire::read(file.path()).unwrap()
    }

    #[test]
    fn a_clean_flow_has_nothing_twice() {
        let wire = analysed(&[esp(7, 1, 1), esp(7, 2, 2), esp(7, 3, 3)]);
        assert_eq!(
            (wire.duplicate_sequence_numbers(), wire.repeated_key_iv()),
            (0, 0)
        );
        let summary = wire.flows[0].summary();
        assert_eq!(
            (
                summary.packets,
                summary.missing,
                summary.first,
                summary.last
            ),
            (3, 0, 1, 3)
        );
    }

    #[test]
    fn a_sequence_number_used_twice_is_found_however_far_apart() {
        let mut frames: Vec<_> = (1..=500).map(|n| esp(7, n, n.into())).collect();
        frames.push(esp(7, 3, 9000));
        let wire = analysed(&frames);
        assert_eq!(
            (wire.duplicate_sequence_numbers(), wire.repeated_key_iv()),
            (1, 0)
        );
    }

    #[test]
    fn an_iv_used_twice_under_one_key_is_found() {
        let wire = analysed(&[esp(7, 1, 5), esp(7, 2, 6), esp(7, 3, 5), esp(7, 4, 5)]);
        assert_eq!(
            (wire.duplicate_sequence_numbers(), wire.repeated_key_iv()),
            (0, 2)
        );
    }

    #[test]
    fn two_sas_may_use_the_same_numbers() {
        let wire = analysed(&[esp(7, 1, 1), esp(8, 1, 1)]);
        assert_eq!(
            (wire.duplicate_sequence_numbers(), wire.repeated_key_iv()),
            (0, 0)
        );
        assert_eq!(wire.flows.len(), 2);
    }

    #[test]
    fn gaps_and_reordering_are_counted() {
        let wire = analysed(&[esp(7, 1, 1), esp(7, 10, 10), esp(7, 9, 9), esp(7, 20, 20)]);
        let summary = wire.flows[0].summary();
        assert_eq!(
            (summary.missing, summary.widest_gap, summary.reordered),
            (16, 9, 1)
        );
    }

    #[test]
    fn plaintext_is_found_and_named() {
        let wire = analysed(&[
            esp(7, 1, 1),
            ipv4_frame([10, 1, 0, 1], [10, 2, 0, 1], 6, &[0; 40]),
            ipv4_frame(A, B, 17, &udp(500, 500, &[9; 40])),
            ipv4_frame(A, B, 17, &udp(4500, 4500, &[0xff])),
        ]);
        assert_eq!((wire.plaintext, wire.ike, wire.keepalives), (1, 1, 1));
        assert_eq!(wire.offenders[0].packet, 2);
    }

    #[test]
    fn silence_is_measured_between_packets_of_one_sender() {
        let mut frames = vec![esp(7, 1, 1), esp(7, 2, 2)];
        frames.extend((0..9).map(|n| ipv4_frame(B, A, 50, &esp_packet(8, n, n.into()))));
        frames.push(esp(7, 3, 3));
        let wire = analysed(&frames);
        let (silence, since) = wire
            .longest_silence(IpAddr::from(A), Duration::ZERO, Duration::from_secs(9))
            .unwrap();
        assert_eq!(silence, Duration::from_millis(10));
        assert_eq!(since, Duration::from_millis(1001));
    }

    #[test]
    fn damage_is_an_error_not_a_clean_report() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not a capture, however hard one looks at it").unwrap();
        let result = Wire::read(file.path());
        assert!(matches!(result, Err(AnalyseError::Damaged { .. })));
    }
}
