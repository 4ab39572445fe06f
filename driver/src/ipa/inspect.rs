// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A card laid open for people: identity, limits, registers by name, queues, SAs without keys, errors.

use fpga_regs::admin::{CommandStatus, ErrorKind, ErrorRecord, Opcode};
use fpga_regs::context::{FLAG_ESN, FLAG_OUTBOUND, FLAG_TRANSPORT};
use fpga_regs::queue::{QueueDescription, QueueState};
use fpga_regs::registers::{
    CardFeatures, CardStatus, Control, FatalCause, MAGIC_VALUE, REGISTERS, Register, control,
    identity,
};
use offload_api::device::{Accelerator, Health};
use offload_api::error::{DeviceError, SaError};
use offload_api::inline::{Inline, Port, PortRole};
use offload_api::sa::Suite;
use serde::{Deserialize, Serialize};
use zerocopy::FromBytes;

use super::IpaCard;
use super::carried::{suite, walk};
use super::life::Life;
use crate::bar::Registers;

/// All that a card tells about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    /// Where it is.
    pub address: String,
    /// What it is.
    pub product: String,
    /// How it is reached.
    pub driver: String,
    /// Firmware or bitstream identity.
    pub firmware: String,
    /// How it is.
    pub health: String,
    /// Major and minor version of its ABI.
    pub abi: (u16, u16),
    /// This function's number, and how many the card has.
    pub function: (u32, u32),
    /// Limits by name.
    pub limits: Vec<(String, u64)>,
    /// What it can do.
    pub features: Vec<String>,
    /// Suites that it knows.
    pub suites: Vec<String>,
    /// Every register that can be read.
    pub registers: Vec<RegisterValue>,
    /// Counters since its reset.
    pub counters: Vec<(String, u64)>,
    /// Queue pairs.
    pub queues: Vec<QueueReport>,
    /// Ports of a card that moves packets by itself.
    pub ports: Vec<PortReport>,
    /// SAs, without their keys; no more than [`SAS_SHOWN`].
    pub sas: Vec<SaReport>,
    /// Its last errors, the newest first.
    pub errors: Vec<ErrorEntry>,
}

/// Most SAs of an [`Inspection`].
pub const SAS_SHOWN: usize = 64;

/// A register's value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterValue {
    /// `group.NAME`
    pub name: String,
    /// In the register BAR.
    pub offset: u64,
    /// What it reads as.
    pub value: u64,
    /// The value in words, where it has some.
    pub meaning: Option<String>,
}

/// A queue pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QueueReport {
    /// Which.
    pub number: u32,
    /// `absent`, `running` or `failed`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Entries of its rings.
    pub depth: u32,
    /// 0 lowest, 3 highest.
    pub priority: u8,
    /// Descriptors taken.
    pub submitted: u64,
    /// Completions written.
    pub completed: u64,
    /// Completions that told an error.
    pub errors: u64,
    /// Interrupts fired.
    pub interrupts: u64,
    /// Octets of packets read.
    pub bytes: u64,
}

/// A port of a card that moves packets by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortReport {
    /// `wire`, `host` or `exception`.
    pub role: String,
    /// It is up.
    pub link: bool,
    /// Octets of the largest IP packet.
    pub mtu: u32,
    /// Packets and octets received and sent.
    pub traffic: PortTraffic,
    /// Packets left to the exception port.
    pub exceptions: u64,
    /// What became of the others, by name.
    pub dropped: Vec<(String, u64)>,
}

/// What a port has carried.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PortTraffic {
    /// Packets received.
    pub received: u64,
    /// Their octets.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent: u64,
    /// Their octets.
    pub sent_bytes: u64,
}

/// An SA, without its keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SaReport {
    /// In the card's table.
    pub index: u32,
    /// SPI in hexadecimal.
    pub spi: String,
    /// `in` or `out`.
    pub direction: String,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// Cipher and integrity algorithm.
    pub suite: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// It takes nothing new.
    pub draining: bool,
    /// Packets.
    pub packets: u64,
    /// Octets of inner packets.
    pub bytes: u64,
    /// Last number used, or highest accepted.
    pub sequence: u64,
    /// Packets with a bad ICV.
    pub bad_icv: u64,
    /// Packets replayed or too old.
    pub replayed: u64,
}

/// An error that the card noted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// Nanoseconds of the card's clock.
    pub time: u64,
    /// Of which queue pair; none for the admin queue.
    pub queue: Option<u32>,
    /// What went wrong.
    pub what: String,
}

impl IpaCard {
    /// Reads everything that the card tells about itself.
    ///
    /// # Errors
    /// The device is lost, or does not answer.
    pub fn inspect(&self) -> Result<Inspection, DeviceError> {
        let (life, info) = (self.life(), self.info());
        let registers = life.registers();
        let version = registers.read(identity::VERSION)?;
        let limit = |name: &str, offset| Ok((name.to_owned(), registers.read(offset)?.into()));
        let limits = [
            ("SAs", identity::MAX_SAS),
            ("queue pairs", identity::MAX_QUEUES),
            ("ring entries", identity::MAX_DEPTH),
            ("octets of a packet", identity::MAX_PACKET),
            ("pieces of a packet", identity::MAX_GATHER),
            ("replay window", identity::MAX_WINDOW),
            ("interrupt vectors", identity::VECTORS),
            ("ports", identity::PORTS),
            ("rules", identity::MAX_RULES),
        ];
        let limits: Result<Vec<_>, DeviceError> = limits
            .map(|(name, at)| limit(name, at))
            .into_iter()
            .collect();
        let features = CardFeatures::from_bits_retain(registers.read(identity::FEATURES)?);
        let counters: Result<Vec<_>, DeviceError> = REGISTERS
            .iter()
            .filter(|register| register.group == "statistics")
            .map(|register| Ok((register.name.to_lowercase(), read(&registers, register, 0)?)))
            .collect();
        let queues: Result<Vec<_>, _> = (0..u32::from(life.capabilities.max_queues))
            .map(|number| queue(&life, number))
            .collect();
        Ok(Inspection {
            address: info.name,
            product: info.product,
            driver: info.driver,
            firmware: info.firmware,
            health: match self.health() {
                Health::Ok => "ok".to_owned(),
                Health::Resetting => "resetting".to_owned(),
                Health::Lost { reason } => format!("lost: {reason}"),
            },
            abi: ((version >> 16) as u16, version as u16),
            function: (
                registers.read_any(identity::FUNCTION)?,
                registers.read_any(identity::FUNCTIONS)?,
            ),
            limits: limits?,
            features: names(features.iter_names()),
            suites: life
                .capabilities
                .suites
                .iter()
                .map(Suite::to_string)
                .collect(),
            registers: register_values(&registers)?,
            counters: counters?,
            queues: queues?.into_iter().flatten().collect(),
            ports: match registers.read(identity::PORTS)? {
                0 => Vec::new(),
                _ => ports(self)?,
            },
            sas: sas(&life)?,
            errors: errors(&life)?,
        })
    }

    /// Has the card run its own known answers; the number of the suite that failed, if one did.
    ///
    /// # Errors
    /// The device is lost, does not answer, or has no such test.
    pub fn self_test(&self) -> Result<Option<u64>, DeviceError> {
        let answer = self.life().command(Opcode::SelfTest, 0, 0, [0; 5], &[])?;
        match answer.status {
            CommandStatus::Ok => Ok(answer.value.checked_sub(1)),
            status => Err(DeviceError::Protocol {
                what: format!("SelfTest: {status:?}"),
            }),
        }
    }

    /// Reads the card's heartbeat: it counts up while the data path is alive.
    ///
    /// # Errors
    /// The device is lost.
    pub fn heartbeat(&self) -> Result<u32, DeviceError> {
        let life = self.life();
        life.check()?;
        life.registers().read_any(control::HEARTBEAT)
    }
}

fn names<F>(set: impl Iterator<Item = (&'static str, F)>) -> Vec<String> {
    set.map(|(name, _)| name.to_lowercase()).collect()
}

fn read(registers: &Registers<'_>, register: &Register, number: u64) -> Result<u64, DeviceError> {
    if register.wide {
        registers.read_wide(register.offset + 8 * number)
    } else {
        registers
            .read_any(register.offset + 4 * number)
            .map(u64::from)
    }
}

fn register_values(registers: &Registers<'_>) -> Result<Vec<RegisterValue>, DeviceError> {
    let mut values = Vec::new();
    for register in REGISTERS.iter().filter(|register| register.readable) {
        for number in 0..register.count {
            let value = read(registers, register, number)?;
            let name = format!("{}.{}", register.group, register.name);
            let one_of_many = register.count > 1;
            if one_of_many && value == 0 {
                continue;
            }
            values.push(RegisterValue {
                name: if one_of_many {
                    format!("{name}[{number}]")
                } else {
                    name
                },
                offset: register.offset + number * if register.wide { 8 } else { 4 },
                value,
                meaning: meaning(register, value),
            });
        }
    }
    Ok(values)
}

/// A register's value in words.
fn meaning(register: &Register, value: u64) -> Option<String> {
    let low = value as u32;
    let set = |names: Vec<String>| Some(names.join(" "));
    match register.offset {
        identity::MAGIC => Some(
            if low == MAGIC_VALUE {
                "IPA1"
            } else {
                "no ipa card"
            }
            .to_owned(),
        ),
        identity::VERSION => Some(format!("{}.{}", low >> 16, low & 0xffff)),
        identity::BUILD => {
            let octets = value.to_le_bytes();
            let text = String::from_utf8_lossy(&octets);
            Some(text.trim_end_matches('\0').escape_default().to_string())
        }
        identity::FEATURES => set(names(CardFeatures::from_bits_retain(low).iter_names())),
        control::CONTROL => set(names(Control::from_bits_retain(low).iter_names())),
        control::STATUS => set(names(CardStatus::from_bits_retain(low).iter_names())),
        control::ERROR_CAUSE => Some(fatal_cause(low)),
        identity::TIME => Some(format!(
            "{}.{:09} s",
            value / 1_000_000_000,
            value % 1_000_000_000
        )),
        _ => None,
    }
}

fn fatal_cause(code: u32) -> String {
    match FatalCause::from_code(code) {
        Some(FatalCause::None) => "none".to_owned(),
        Some(FatalCause::AdminDma) => "admin memory not reachable".to_owned(),
        Some(FatalCause::EventDma) => "event memory not reachable".to_owned(),
        Some(FatalCause::Configuration) => "nonsense in a register at enable".to_owned(),
        Some(FatalCause::BusMaster) => "bus mastering off".to_owned(),
        None => format!("unknown cause {code}"),
    }
}

/// A queue pair; nothing for one that is not there.
fn queue(life: &Life, number: u32) -> Result<Option<QueueReport>, DeviceError> {
    let room = [0; size_of::<QueueDescription>()];
    let answer = life.command(Opcode::QueueQuery, number, 0, [0; 5], &room)?;
    let Ok((found, _)) = QueueDescription::read_from_prefix(&answer.payload) else {
        return Ok(None);
    };
    let state = match QueueState::from_code(found.state) {
        Some(QueueState::Running) => "running",
        Some(QueueState::Failed) => "failed",
        _ => return Ok(None),
    };
    Ok((answer.status == CommandStatus::Ok).then(|| QueueReport {
        number,
        state: state.to_owned(),
        error: (found.error != 0).then(|| error_kind(found.error)),
        depth: found.depth.get(),
        priority: found.priority,
        submitted: found.submitted.get(),
        completed: found.completed.get(),
        errors: found.errors.get(),
        interrupts: found.interrupts.get(),
        bytes: found.bytes.get(),
    }))
}

fn ports(card: &IpaCard) -> Result<Vec<PortReport>, DeviceError> {
    let ports = card.ports().map_err(|error| match error {
        SaError::Device(error) => error,
        error => DeviceError::Protocol {
            what: error.to_string(),
        },
    })?;
    let report = |port: &Port| PortReport {
        role: match port.role {
            PortRole::Wire => "wire",
            PortRole::Host => "host",
            PortRole::Exception => "exception",
        }
        .to_owned(),
        link: port.link,
        mtu: port.mtu,
        traffic: PortTraffic {
            received: port.received,
            received_bytes: port.received_bytes,
            sent: port.sent,
            sent_bytes: port.sent_bytes,
        },
        exceptions: port.exceptions,
        dropped: [
            ("no rule", port.no_rule),
            ("unknown SPI", port.unknown_spi),
            ("refused by the SA", port.refused),
            ("too big", port.too_big),
            ("no neighbour", port.no_neighbour),
            ("not taken by the port", port.send_errors),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .to_vec(),
    };
    Ok(ports.iter().map(report).collect())
}

/// A card that tells nonsense is looked at all the same: what came before it is shown.
fn sas(life: &Life) -> Result<Vec<SaReport>, DeviceError> {
    let mut sas = Vec::new();
    walk(life, 0, |sa| {
        let is = |flag| sa.flags & flag != 0;
        sas.push(SaReport {
            index: sa.index.get(),
            spi: format!("{:08x}", sa.spi.get()),
            direction: if is(FLAG_OUTBOUND) { "out" } else { "in" }.to_owned(),
            mode: if is(FLAG_TRANSPORT) {
                "transport"
            } else {
                "tunnel"
            }
            .to_owned(),
            suite: suite(sa).map_or_else(|| "unknown".to_owned(), |suite| suite.to_string()),
            esn: is(FLAG_ESN),
            draining: sa.draining != 0,
            packets: sa.usage.packets.get(),
            bytes: sa.usage.bytes.get(),
            sequence: sa.usage.sequence.get(),
            bad_icv: sa.usage.bad_icv.get(),
            replayed: sa.usage.replayed.get(),
        });
        sas.len() < SAS_SHOWN
    })?;
    Ok(sas)
}

fn errors(life: &Life) -> Result<Vec<ErrorEntry>, DeviceError> {
    let room = [0; ErrorRecord::KEPT * size_of::<ErrorRecord>()];
    let answer = life.command(Opcode::ErrorLog, 0, 0, [0; 5], &room)?;
    if answer.status != CommandStatus::Ok {
        return Ok(Vec::new());
    }
    let records = answer.payload.chunks_exact(size_of::<ErrorRecord>());
    let records = records.filter_map(|octets| ErrorRecord::read_from_bytes(octets).ok());
    let told = usize::try_from(answer.value).unwrap_or(usize::MAX);
    Ok(records
        .take(told)
        .map(|record| error_entry(&record))
        .collect())
}

fn error_entry(record: &ErrorRecord) -> ErrorEntry {
    let (kind, detail) = (error_kind(record.kind), record.detail.get());
    let what = match ErrorKind::from_code(record.kind) {
        Some(ErrorKind::Dma) => format!("{kind}: {detail:#x}"),
        Some(ErrorKind::Command) => {
            let (opcode, status) = (detail as u8, (detail >> 8) as u8);
            let opcode = Opcode::from_code(opcode).map_or_else(
                || format!("opcode {opcode}"),
                |opcode| format!("{opcode:?}"),
            );
            let status = CommandStatus::from_code(status).map_or_else(
                || format!("status {status}"),
                |status| format!("{status:?}"),
            );
            format!("{kind}: {opcode}, {status}")
        }
        Some(ErrorKind::Fatal) => format!("{kind}: {}", fatal_cause(detail as u32)),
        _ => format!("{kind}: {detail}"),
    };
    let queue = record.queue.get();
    ErrorEntry {
        time: record.time.get(),
        queue: (queue != ErrorRecord::NO_QUEUE).then_some(queue),
        what,
    }
}

fn error_kind(code: u8) -> String {
    match ErrorKind::from_code(code) {
        Some(ErrorKind::Dma) => "memory not reachable".to_owned(),
        Some(ErrorKind::Doorbell) => "doorbell beyond the ring".to_owned(),
        Some(ErrorKind::Descriptor) => "descriptor without sense".to_owned(),
        Some(ErrorKind::Command) => "admin command refused".to_owned(),
        Some(ErrorKind::Fatal) => "fatal error".to_owned(),
        None => format!("error {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_words() {
        let record = |kind, detail: u64, queue: u32| ErrorRecord {
            time: 7.into(),
            detail: detail.into(),
            queue: queue.into(),
            kind,
            reserved: [0; 11],
        };
        let refused = error_entry(&record(4, 5 << 8 | 9, ErrorRecord::NO_QUEUE));
        assert_eq!(refused.what, "admin command refused: SaRetire, Stale");
        assert_eq!(refused.queue, None);
        let fault = error_entry(&record(1, 0xdead_0000, 3));
        assert_eq!(fault.what, "memory not reachable: 0xdead0000");
        assert_eq!(fault.queue, Some(3));
        assert_eq!(
            error_entry(&record(5, 4, 0)).what,
            "fatal error: bus mastering off"
        );
        assert_eq!(error_entry(&record(99, 1, 0)).what, "error 99: 1");
    }
}
