// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inline mode in the RTL: frames through its ports, and what the management writes for them.

use std::collections::HashMap;

use fpga_cosim::card::{Port, PortCounts, PortTraffic, Rule as CardRule};
use fpga_regs::port::{PortRole, RuleAction};
use fpga_regs::registers::FatalCause;
use offload_api::sa::{Direction, SaParams};

use super::engine::{Memory, settle};
use crate::card::Core;
use crate::inline::neighbours::Neighbours;
use crate::inline::rules::Rule;

/// What the ports of a card in RTL were told since reset.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// SPIs of inbound SAs, by index.
    spis: HashMap<u32, u32>,
    /// Ways on the wire, by index.
    ways: HashMap<u32, [u8; 6]>,
    /// The rules, by how often they were changed.
    rules: u64,
    /// What was counted already.
    seen: PortCounts,
}

/// Frames that come by ports, and where those go that leave.
pub(crate) trait Frames {
    /// Puts the next frame of a port into `frame`, which is empty; false if there is none.
    fn next(&mut self, port: PortRole, frame: &mut Vec<u8>) -> bool;

    /// A frame leaves by a port; by the exception port one that is ESP with an unknown SPI.
    fn leave(&mut self, port: PortRole, frame: &[u8], unknown: bool);
}

struct Traffic<'frames>(&'frames mut dyn Frames);

fn role(port: Port) -> PortRole {
    match port {
        Port::Wire => PortRole::Wire,
        Port::Host => PortRole::Host,
        Port::Exception => PortRole::Exception,
    }
}

impl PortTraffic for Traffic<'_> {
    fn next(&mut self, port: Port, frame: &mut Vec<u8>) -> bool {
        self.0.next(role(port), frame)
    }

    fn leave(&mut self, port: Port, frame: &[u8], unknown: bool) {
        self.0.leave(role(port), frame, unknown);
    }
}

fn rule(rule: &Rule) -> CardRule {
    CardRule {
        protect: rule.action == RuleAction::Protect,
        protocol: rule.protocol,
        sa: rule.sa,
        source: rule.source,
        destination: rule.destination,
        source_ports: rule.source_ports,
        destination_ports: rule.destination_ports,
    }
}

impl Core {
    /// Lets the SPI of an SA that was added lead to it.
    pub(super) fn rtl_add_spi(&mut self, index: u32, params: &SaParams) {
        if self.inline.is_none() || params.direction != Direction::Inbound {
            return;
        }
        let spi = params.spi.value();
        let mut full = false;
        self.with_rtl(|rtl, memory| {
            full = !rtl.set_spi(index, spi, true, memory)?;
            Ok(())
        });
        if full {
            tracing::warn!(spi, "no room for an SPI: its packets go to the host");
        } else if let Some(engine) = &mut self.rtl {
            engine.told.spis.insert(index, spi);
        }
    }

    /// No SPI leads to an SA any longer, nor is there a way for its packets.
    pub(super) fn rtl_remove_spi(&mut self, index: u32) {
        let Some(engine) = &mut self.rtl else {
            return;
        };
        let way = engine.told.ways.remove(&index);
        let spi = engine.told.spis.remove(&index);
        if way.is_none() && spi.is_none() {
            return;
        }
        self.with_rtl(|rtl, memory| {
            if way.is_some() {
                rtl.set_way(index, None, memory);
            }
            spi.map_or(Ok(()), |spi| {
                rtl.set_spi(index, spi, false, memory).map(drop)
            })
        });
    }

    /// Lets frames through, by the rules and neighbours of this moment.
    pub(crate) fn rtl_pass(
        &mut self,
        (mac, mtu): ([u8; 6], u32),
        neighbours: &Neighbours,
        frames: &mut dyn Frames,
    ) {
        self.tell_ways(neighbours);
        self.tell_rules();
        let now = self.time();
        let Core {
            rtl: Some(engine),
            dma,
            ..
        } = self
        else {
            return;
        };
        engine.card.set_time(now);
        engine
            .card
            .set_ports(mac, u16::try_from(mtu).unwrap_or(u16::MAX));
        let passed = engine.card.pass(&mut Traffic(frames), &mut Memory(dma));
        let counts = engine.card.port_counts();
        let seen = std::mem::replace(&mut engine.told.seen, counts);
        if passed.is_err() {
            self.fail(FatalCause::Configuration, u64::MAX);
        }
        if let Some(inline) = &mut self.inline {
            inline.count(&counts, &seen);
        }
        settle(self);
    }

    fn tell_rules(&mut self) {
        let Core {
            rtl: Some(engine),
            dma,
            inline: Some(inline),
            ..
        } = self
        else {
            return;
        };
        let changes = inline.rules.changes();
        if std::mem::replace(&mut engine.told.rules, changes) == changes {
            return;
        }
        for inbound in [false, true] {
            let rules = inline.rules.of_direction(inbound).map(rule);
            if engine.card.set_rules(inbound, rules, &mut Memory(dma)) {
                tracing::error!("more rules than the card takes");
            }
        }
    }

    /// An SA that was put in another one's place may have another way, and so may one that has moved.
    fn tell_ways(&mut self, neighbours: &Neighbours) {
        let mut from = 0;
        while let Some((index, _, sa)) = self.sas.next(from) {
            from = index + 1;
            if sa.transform.direction() != Direction::Outbound {
                continue;
            }
            let outer = sa.transform.outer();
            let way = outer.and_then(|outer| neighbours.find(outer.destination));
            let Some(engine) = &mut self.rtl else {
                return;
            };
            if engine.told.ways.get(&index).copied() != way {
                engine.card.set_way(index, way, &mut Memory(&self.dma));
                match way {
                    Some(mac) => engine.told.ways.insert(index, mac),
                    None => engine.told.ways.remove(&index),
                };
            }
        }
    }
}
