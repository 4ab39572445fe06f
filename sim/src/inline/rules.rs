// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which SA a packet goes through, or may have come through.

use fpga_regs::admin::CommandStatus;
use fpga_regs::port::{self, RuleAction};
use offload_api::wire::ip::Facts;
use std::net::IpAddr;

/// Rules that a card holds.
pub(crate) const MAX_RULES: usize = 4096;

/// Rules by index, each with its generation.
pub(crate) struct RuleTable {
    capacity: usize,
    /// How often they were changed.
    changes: u64,
    slots: Vec<(u32, Option<Rule>)>,
    free: Vec<u32>,
    /// Indexes, in the order in which they are tried.
    order: Vec<u32>,
}

/// A rule, read.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    priority: u32,
    inbound: bool,
    pub(crate) action: RuleAction,
    /// Index and generation.
    pub(crate) sa: (u32, u32),
    pub(crate) protocol: u8,
    pub(crate) source: (IpAddr, IpAddr),
    pub(crate) destination: (IpAddr, IpAddr),
    pub(crate) source_ports: (u16, u16),
    pub(crate) destination_ports: (u16, u16),
}

impl Rule {
    /// Reads a rule of the ABI.
    pub(crate) fn decode(rule: &port::Rule) -> Result<Self, CommandStatus> {
        let bad = CommandStatus::BadField;
        let address = |octets: [u8; 16]| match rule.version {
            4 => {
                let [a, b, c, d, ..] = octets;
                Ok(IpAddr::from([a, b, c, d]))
            }
            6 => Ok(IpAddr::from(octets)),
            _ => Err(bad),
        };
        let ports = |start: u16, end: u16| (start <= end).then_some((start, end)).ok_or(bad);
        let rule = Self {
            priority: rule.priority.get(),
            inbound: match rule.inbound {
                0 => false,
                1 => true,
                _ => return Err(bad),
            },
            action: RuleAction::from_code(rule.action).ok_or(bad)?,
            sa: (rule.sa_index.get(), rule.sa_generation.get()),
            protocol: rule.protocol,
            source: (address(rule.source_start)?, address(rule.source_end)?),
            destination: (
                address(rule.destination_start)?,
                address(rule.destination_end)?,
            ),
            source_ports: ports(rule.source_port_start.get(), rule.source_port_end.get())?,
            destination_ports: ports(
                rule.destination_port_start.get(),
                rule.destination_port_end.get(),
            )?,
        };
        let ordered = rule.source.0 <= rule.source.1 && rule.destination.0 <= rule.destination.1;
        ordered.then_some(rule).ok_or(bad)
    }

    pub(crate) fn is_inbound(&self) -> bool {
        self.inbound
    }

    fn fits(&self, facts: &Facts) -> bool {
        let within = |(start, end): (IpAddr, IpAddr), address: IpAddr| {
            start.is_ipv4() == address.is_ipv4() && start <= address && address <= end
        };
        let port_within = |(start, end): (u16, u16), port: Option<u16>| {
            (start, end) == (0, u16::MAX) || port.is_some_and(|port| (start..=end).contains(&port))
        };
        let (source, destination) = facts.ports.unzip();
        (self.protocol == 0 || self.protocol == facts.protocol)
            && within(self.source, facts.source)
            && within(self.destination, facts.destination)
            && port_within(self.source_ports, source)
            && port_within(self.destination_ports, destination)
    }
}

impl Default for RuleTable {
    fn default() -> Self {
        Self::new(MAX_RULES)
    }
}

impl RuleTable {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            changes: 0,
            slots: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes a rule in: index and generation, if there is room.
    pub(crate) fn add(&mut self, rule: Rule) -> Option<(u32, u32)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.capacity => {
                self.slots.push((1, None));
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let priority = rule.priority;
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        let generation = *generation;
        *slot = Some(rule);
        // Before the others of its priority.
        let at = self.order.partition_point(|other| {
            let other = self.slots.get(*other as usize);
            other
                .is_some_and(|(_, rule)| rule.as_ref().is_some_and(|rule| rule.priority > priority))
        });
        self.order.insert(at, index);
        self.changes += 1;
        Some((index, generation))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether there was such a rule.
    pub(crate) fn remove(&mut self, index: u32, generation: u32) -> bool {
        let Some((current, slot)) = self.slots.get_mut(index as usize) else {
            return false;
        };
        if *current != generation || slot.take().is_none() {
            return false;
        }
        *current = current.wrapping_add(1).max(1);
        self.free.push(index);
        self.order.retain(|other| *other != index);
        self.changes += 1;
        true
    }

    /// The rules of an SA that goes.
    pub(crate) fn remove_sa(&mut self, sa: (u32, u32)) {
        let of_sa = |rule: &Option<Rule>| rule.as_ref().is_some_and(|rule| rule.sa == sa);
        let gone: Vec<(u32, u32)> = self
            .slots
            .iter()
            .zip(0..)
            .filter(|((_, rule), _)| of_sa(rule))
            .map(|((generation, _), index)| (index, *generation))
            .collect();
        for (index, generation) in gone {
            self.remove(index, generation);
        }
    }

    pub(crate) fn clear(&mut self) {
        while let Some(index) = self.order.last().copied() {
            let generation = self.slots.get(index as usize).map_or(0, |slot| slot.0);
            if !self.remove(index, generation) {
                self.order.pop();
            }
        }
    }

    /// The rule for a packet from the host port.
    pub(crate) fn outbound(&self, facts: &Facts) -> Option<&Rule> {
        self.in_order()
            .find(|rule| !rule.inbound && rule.fits(facts))
    }

    /// Whether an SA may bring a packet (RFC 4301 §5.2).
    pub(crate) fn permits(&self, sa: (u32, u32), facts: &Facts) -> bool {
        self.in_order()
            .find(|rule| rule.inbound && rule.sa == sa && rule.fits(facts))
            .is_some_and(|rule| rule.action == RuleAction::Protect)
    }

    /// How often rules have come or gone.
    #[cfg(feature = "rtl")]
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// A direction's rules, in the order in which they are tried.
    #[cfg(feature = "rtl")]
    pub(crate) fn of_direction(&self, inbound: bool) -> impl Iterator<Item = &Rule> {
        self.in_order().filter(move |rule| rule.inbound == inbound)
    }

    fn in_order(&self) -> impl Iterator<Item = &Rule> {
        self.order
            .iter()
            .filter_map(|index| self.slots.get(*index as usize)?.1.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn rule(priority: u32, inbound: bool, sa: u32, port: Option<u16>) -> Rule {
        let mut rule = port::Rule::new_zeroed();
        rule.priority = priority.into();
        rule.inbound = inbound.into();
        rule.version = 4;
        rule.sa_index = sa.into();
        rule.sa_generation = 1.into();
        rule.source_start[..4].copy_from_slice(&[10, 1, 0, 0]);
        rule.source_end[..4].copy_from_slice(&[10, 1, 0, 255]);
        rule.destination_start[..4].copy_from_slice(&[10, 2, 0, 0]);
        rule.destination_end[..4].copy_from_slice(&[10, 2, 0, 255]);
        rule.source_port_end = u16::MAX.into();
        rule.destination_port_start = port.unwrap_or(0).into();
        rule.destination_port_end = port.unwrap_or(u16::MAX).into();
        Rule::decode(&rule).unwrap()
    }

    fn udp(source: [u8; 4], destination: [u8; 4], port: u16) -> Facts {
        let mut packet = [0; 28];
        packet[..12].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&destination);
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet[24..26].copy_from_slice(&8u16.to_be_bytes());
        Facts::of(&packet).unwrap()
    }

    #[test]
    fn the_highest_priority_counts_then_the_newest() {
        let mut rules = RuleTable::default();
        let packet = udp([10, 1, 0, 5], [10, 2, 0, 5], 53);
        let sa = |rules: &RuleTable| rules.outbound(&packet).map(|rule| rule.sa.0);
        assert_eq!(sa(&rules), None);
        rules.add(rule(1, false, 1, None)).unwrap();
        rules.add(rule(1, false, 2, None)).unwrap();
        assert_eq!(sa(&rules), Some(2));
        let urgent = rules.add(rule(5, false, 3, Some(53))).unwrap();
        rules.add(rule(2, false, 4, None)).unwrap();
        assert_eq!(sa(&rules), Some(3));
        assert!(rules.remove(urgent.0, urgent.1));
        assert!(!rules.remove(urgent.0, urgent.1), "a stale handle");
        assert_eq!(sa(&rules), Some(4));
        rules.remove_sa((4, 1));
        assert_eq!(sa(&rules), Some(2));
        rules.clear();
        assert_eq!(sa(&rules), None);
    }

    #[test]
    fn what_does_not_fit_goes_through_no_sa() {
        let mut rules = RuleTable::default();
        rules.add(rule(1, false, 1, Some(53))).unwrap();
        rules.add(rule(1, true, 7, None)).unwrap();
        assert!(
            rules
                .outbound(&udp([10, 1, 0, 5], [10, 2, 0, 5], 54))
                .is_none()
        );
        assert!(
            rules
                .outbound(&udp([10, 1, 1, 5], [10, 2, 0, 5], 53))
                .is_none()
        );
        assert!(
            rules
                .outbound(&udp([10, 1, 0, 5], [10, 2, 0, 5], 53))
                .is_some()
        );
        // An inbound rule is its own SA's only.
        let packet = udp([10, 1, 0, 5], [10, 2, 0, 5], 99);
        assert!(rules.permits((7, 1), &packet));
        assert!(!rules.permits((7, 2), &packet) && !rules.permits((1, 1), &packet));
    }

    #[test]
    fn a_full_table_refuses() {
        let mut rules = RuleTable::default();
        for _ in 0..MAX_RULES {
            rules.add(rule(1, false, 1, None)).unwrap();
        }
        assert_eq!(rules.add(rule(1, false, 1, None)), None);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let good = port::Rule {
            version: 4,
            source_port_end: u16::MAX.into(),
            destination_port_end: u16::MAX.into(),
            ..port::Rule::new_zeroed()
        };
        assert!(Rule::decode(&good).is_ok());
        let mut reversed = good;
        reversed.source_start[0] = 1;
        for bad in [
            port::Rule { version: 5, ..good },
            port::Rule { action: 9, ..good },
            port::Rule { inbound: 2, ..good },
            port::Rule {
                source_port_end: 0.into(),
                source_port_start: 1.into(),
                ..good
            },
            reversed,
        ] {
            assert_eq!(Rule::decode(&bad).unwrap_err(), CommandStatus::BadField);
        }
    }
}
