// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds a packet's SA, installs it when it is first needed, and has the packet sealed or opened.

use anyhow::{Result, bail};
use offload_api::queue::Explicit;
use offload_api::sa::{Direction, Mode, OuterHeaders, SaHandle, Spi, Suite, UdpEncapsulation};
use offload_api::wire::ip::Facts;
use offload_api::wire::natt::UdpHeader;
use offload_api::wire::{esp, natt};

use super::sa_file::Sa;
use crate::engine::Engine;

const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;

/// SAs with the engine that they are installed in.
pub(super) struct Worker {
    engine: Engine,
    sas: Vec<(Sa, Option<SaHandle>)>,
    pub(super) direction: Direction,
}

/// A packet that was sealed or opened.
pub(super) struct Processed {
    pub(super) packet: Vec<u8>,
    pub(super) sequence: u64,
}

impl Worker {
    pub(super) fn new(engine: Engine, sas: Vec<Sa>, direction: Direction) -> Self {
        let sas = sas.into_iter().map(|sa| (sa, None)).collect();
        Self {
            engine,
            sas,
            direction,
        }
    }

    /// The SA for a packet: the named one, the one of its SPI when it is opened, or the only one.
    ///
    /// # Errors
    /// None fits, in words.
    pub(super) fn select(&self, spi: Option<Spi>, packet: &[u8]) -> Result<usize, String> {
        if let Some(spi) = spi {
            let found = self.sas.iter().position(|(sa, _)| sa.spi == spi);
            return found.ok_or_else(|| format!("no SA has SPI {spi}"));
        }
        if self.sas.len() == 1 {
            return Ok(0);
        }
        if self.direction == Direction::Outbound {
            return Err("several SAs: name one by \"spi\"".to_owned());
        }
        self.by_spi(packet)
    }

    /// The SA for a captured packet; strangers' packets have none, even where there is only one SA.
    ///
    /// # Errors
    /// None fits, in words.
    pub(super) fn select_captured(&self, packet: &[u8]) -> Result<usize, String> {
        match self.direction {
            Direction::Outbound => self.select(None, packet),
            Direction::Inbound => self.by_spi(packet),
        }
    }

    fn by_spi(&self, packet: &[u8]) -> Result<usize, String> {
        let outer = Facts::of(packet).ok();
        let fits = |sa: &Sa| {
            let (spi, destination) = match (sa.is_ip_on_the_wire(), outer) {
                (true, Some(facts)) => (spi_behind(packet, &facts), Some(facts.destination)),
                (true, None) => (None, None),
                (false, _) => (spi_at(packet), None),
            };
            let addressed = match (sa.mode, sa.outer, destination) {
                (Mode::Tunnel, Some(headers), Some(found)) => headers.destination == found,
                _ => true,
            };
            spi == Some(sa.spi) && addressed
        };
        let found = self.sas.iter().position(|(sa, _)| fits(sa));
        found.ok_or_else(|| "no SA has the packet's SPI".to_owned())
    }

    pub(super) fn suite(&self, sa: usize) -> Option<Suite> {
        self.sas.get(sa).map(|(sa, _)| sa.suite)
    }

    /// Why a capture can't be worked on, if it can't.
    pub(super) fn check_capture(&self) -> Result<()> {
        if self.direction == Direction::Outbound && self.sas.len() > 1 {
            bail!("several SAs: a capture is sealed by one");
        }
        match self.sas.iter().find(|(sa, _)| !sa.is_ip_on_the_wire()) {
            Some((sa, _)) => bail!("SA {}: a capture needs source and destination", sa.spi),
            None => Ok(()),
        }
    }

    /// Seals or opens; the inner error is the packet's, the outer one the engine's.
    pub(super) fn process(
        &mut self,
        sa: usize,
        packet: &[u8],
        explicit: Option<Explicit>,
    ) -> Result<Result<Processed, String>> {
        let Some((sa, installed)) = self.sas.get_mut(sa) else {
            return Ok(Err("no such SA".to_owned()));
        };
        let handle = match *installed {
            Some(handle) => handle,
            None => {
                if sa.learns_outer && self.direction == Direction::Inbound {
                    learn_outer(sa, packet);
                }
                let params = sa.params(self.direction, explicit.is_some());
                match self.engine.install(&params) {
                    Ok(handle) => *installed.insert(handle),
                    Err(error) => return Ok(Err(format!("SA {}: {error}", sa.spi))),
                }
            }
        };
        let outcome = self.engine.process(handle, packet, explicit)?;
        Ok(if outcome.status.is_ok() {
            Ok(Processed {
                packet: outcome.packet,
                sequence: outcome.sequence,
            })
        } else {
            Err(outcome.status.name().to_owned())
        })
    }
}

/// An esp_sa table does not tell UDP encapsulation, and may leave addresses open; the packet tells.
fn learn_outer(sa: &mut Sa, packet: &[u8]) {
    let Ok(facts) = Facts::of(packet) else { return };
    let header = packet.get(facts.header_len..).and_then(UdpHeader::parse);
    let udp = header.filter(|_| facts.protocol == PROTOCOL_UDP);
    if udp.is_none() && sa.mode == Mode::Transport {
        return;
    }
    let outer = sa.outer.get_or_insert(OuterHeaders {
        source: facts.source,
        destination: facts.destination,
        udp: None,
    });
    outer.udp = udp.map(|header| UdpEncapsulation {
        source_port: header.source_port.get(),
        destination_port: header.destination_port.get(),
    });
}

fn spi_behind(packet: &[u8], facts: &Facts) -> Option<Spi> {
    let upper = packet.get(facts.header_len..)?;
    match facts.protocol {
        PROTOCOL_ESP => spi_at(upper),
        PROTOCOL_UDP => {
            let datagram = upper.get(UdpHeader::LEN..)?;
            match natt::classify(datagram) {
                natt::Kind::Esp => spi_at(datagram),
                _ => None,
            }
        }
        _ => None,
    }
}

fn spi_at(packet: &[u8]) -> Option<Spi> {
    Spi::new(esp::Header::parse(packet)?.spi.get())
}
