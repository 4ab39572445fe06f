// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's ports and rules, by admin commands.

use std::net::IpAddr;

use fpga_regs::admin::{CommandStatus, Opcode};
use fpga_regs::port::{self, PortDescription, RuleAction};
use offload_api::error::{DeviceError, SaError};
use offload_api::inline::{Inline, Port, PortRole, Rule, RuleHandle};
use offload_api::sa::TrafficSelector;
use zerocopy::{FromBytes, IntoBytes};

use super::IpaCard;

impl Inline for IpaCard {
    fn add_rule(&self, rule: &Rule) -> Result<RuleHandle, SaError> {
        let life = self.life();
        let generation = life.card_generation(rule.sa).ok_or(SaError::Stale)?;
        let payload = encode(rule, generation)?;
        let answer = life.command(Opcode::RuleAdd, 0, 0, [0; 5], payload.as_bytes())?;
        match answer.status {
            CommandStatus::Ok => Ok(RuleHandle {
                index: answer.index,
                generation: answer.generation,
            }),
            CommandStatus::Stale => Err(SaError::Stale),
            CommandStatus::TableFull => Err(SaError::NotApplicable {
                what: "the card has no room for another rule",
            }),
            CommandStatus::NotApplicable => Err(SaError::NotApplicable {
                what: "the rule does not fit the SA's direction, or the SA has no outer headers",
            }),
            status => Err(refused("rule", status)),
        }
    }

    fn remove_rule(&self, rule: RuleHandle) -> Result<(), SaError> {
        let RuleHandle { index, generation } = rule;
        let answer = self
            .life()
            .command(Opcode::RuleDelete, index, generation, [0; 5], &[])?;
        match answer.status {
            CommandStatus::Ok | CommandStatus::Stale => Ok(()),
            status => Err(refused("rule", status)),
        }
    }

    fn ports(&self) -> Result<Vec<Port>, SaError> {
        let life = self.life();
        let roles = [
            (port::PortRole::Wire, PortRole::Wire),
            (port::PortRole::Host, PortRole::Host),
            (port::PortRole::Exception, PortRole::Exception),
        ];
        roles
            .into_iter()
            .map(|(theirs, ours)| {
                let room = [0; size_of::<PortDescription>()];
                let answer = life.command(Opcode::PortQuery, theirs as u32, 0, [0; 5], &room)?;
                if answer.status != CommandStatus::Ok {
                    return Err(refused("port", answer.status));
                }
                let told = PortDescription::read_from_prefix(&answer.payload);
                let (told, _) = told.map_err(|_| DeviceError::Protocol {
                    what: "port payload".to_owned(),
                })?;
                Ok(Port {
                    role: ours,
                    link: told.link != 0,
                    mtu: told.mtu.get(),
                    received: told.received.get(),
                    received_bytes: told.received_bytes.get(),
                    sent: told.sent.get(),
                    sent_bytes: told.sent_bytes.get(),
                    no_rule: told.no_rule.get(),
                    unknown_spi: told.unknown_spi.get(),
                    refused: told.refused.get(),
                    too_big: told.too_big.get(),
                    no_neighbour: told.no_neighbour.get(),
                    send_errors: told.send_errors.get(),
                    exceptions: told.exceptions.get(),
                })
            })
            .collect()
    }
}

fn refused(what: &str, status: CommandStatus) -> SaError {
    DeviceError::Protocol {
        what: format!("{what} refused: {status:?}"),
    }
    .into()
}

fn encode(rule: &Rule, generation: u32) -> Result<port::Rule, SaError> {
    let mixed = SaError::NotApplicable {
        what: "a rule's selectors are of two IP versions, or of two protocols",
    };
    let versions = [rule.source.start, rule.source.end]
        .into_iter()
        .chain([rule.destination.start, rule.destination.end])
        .map(|address| address.is_ipv4());
    let v4 = rule.source.start.is_ipv4();
    let protocol = match (rule.source.protocol, rule.destination.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (a, b) if a == b => a,
        _ => return Err(mixed),
    };
    if versions.into_iter().any(|version| version != v4) {
        return Err(mixed);
    }
    if rule.source.is_opaque() || rule.destination.is_opaque() {
        let what = "a rule is for packets that show no port";
        return Err(SaError::NotApplicable { what });
    }
    let ports = |selector: &TrafficSelector| (selector.start_port.into(), selector.end_port.into());
    let (source_port_start, source_port_end) = ports(&rule.source);
    let (destination_port_start, destination_port_end) = ports(&rule.destination);
    Ok(port::Rule {
        priority: rule.priority.into(),
        inbound: rule.inbound.into(),
        action: RuleAction::Protect as u8,
        version: if v4 { 4 } else { 6 },
        protocol,
        sa_index: rule.sa.index.into(),
        sa_generation: generation.into(),
        source_start: octets(rule.source.start),
        source_end: octets(rule.source.end),
        destination_start: octets(rule.destination.start),
        destination_end: octets(rule.destination.end),
        source_port_start,
        source_port_end,
        destination_port_start,
        destination_port_end,
        reserved: 0.into(),
    })
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}
