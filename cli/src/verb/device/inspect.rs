// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade device inspect`.

use anyhow::Context;
use driver::ipa::inspect::{Inspection, PortReport, QueueReport, SaReport};
use driver::qat::QatReport;
use driver::{Card, DeviceAddress};
use serde_json::json;

use super::{carried_by_daemon, not_ipa, open_card, or_dash, parse_address};
use crate::daemon::{ANSWER, DaemonArguments};
use crate::failure::{Failure, Outcome};
use crate::output::{facts, table};
use crate::vici::Section;

/// Look into a card: identity, limits, features, registers by name, queues, SAs without keys, errors.
///
/// A card that the daemon uses is asked through the daemon; any other one is opened, which resets it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  esplanade device inspect vfio-user:/tmp/card.sock -o json | jq .counters"
)]
pub(super) struct Arguments {
    /// The card: pci:DDDD:BB:DD.F or vfio-user:PATH
    #[arg(value_parser = parse_address)]
    address: DeviceAddress,
    #[command(flatten)]
    daemon: DaemonArguments,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let daemon = &arguments.daemon;
    match look(daemon, &arguments.address)? {
        Looked::Ipa(inspection) => daemon.show(&json!(inspection), || show(&inspection)),
        Looked::Qat(report) => daemon.show(&json!(report), || show_qat(&report)),
    }
}

/// What a device tells of itself.
pub(super) enum Looked {
    /// An ipa card.
    Ipa(Box<Inspection>),
    /// QAT functions.
    Qat(QatReport),
}

/// Looks into whatever is there.
pub(super) fn look(daemon: &DaemonArguments, address: &DeviceAddress) -> Result<Looked, Failure> {
    if carried_by_daemon(daemon, address).is_some() {
        return look_through_daemon(daemon, address);
    }
    match open_card(address)? {
        Card::Ipa(card) => Ok(Looked::Ipa(Box::new(card.inspect()?))),
        Card::Qat(card) => Ok(Looked::Qat(card.inspect()?)),
    }
}

fn show_qat(report: &QatReport) -> String {
    let mut parts = vec![facts(qat_identity(report))];
    let pairs = report.functions.iter().flat_map(|function| {
        function.pairs.iter().map(|pair| {
            vec![
                function.number.to_string(),
                pair.bundle.to_string(),
                pair.ring.to_string(),
                if pair.served { "yes" } else { "no" }.to_owned(),
                format!("{:#x}", pair.request_head),
                format!("{:#x}", pair.request_tail),
                format!("{:#x}", pair.response_head),
                format!("{:#x}", pair.response_tail),
            ]
        })
    });
    let headers = [
        "FUNCTION",
        "BUNDLE",
        "RING",
        "SERVED",
        "REQUEST HEAD",
        "TAIL",
        "RESPONSE HEAD",
        "TAIL",
    ];
    parts.push(table(&headers, pairs.collect(), "no ring pairs"));
    let counters = report.counters.iter();
    let counters = counters.map(|(name, value)| vec![name.clone(), value.to_string()]);
    parts.push(table(&["COUNTER", "VALUE"], counters.collect(), ""));
    parts.join("\n\n")
}

/// Who a QAT is and what it can do.
pub(super) fn qat_identity(report: &QatReport) -> Vec<(String, String)> {
    let mut rows = vec![
        ("address".to_owned(), report.address.clone()),
        ("product".to_owned(), report.product.clone()),
        ("driver".to_owned(), report.driver.clone()),
        ("health".to_owned(), report.health.clone()),
        ("offload".to_owned(), "crypto".to_owned()),
        ("suites".to_owned(), report.suites.join(" ")),
    ];
    let limits = report.limits.iter();
    rows.extend(limits.map(|(name, value)| (format!("most {name}"), value.to_string())));
    for function in &report.functions {
        let interrupts = if function.interrupts {
            "interrupts"
        } else {
            "polled"
        };
        let health = function.lost.as_deref().unwrap_or("ok");
        rows.push((
            format!("function {}", function.number),
            format!(
                "{} ({}), {} ring pairs, {interrupts}, {health}",
                function.product,
                function.generation,
                function.pairs.len()
            ),
        ));
    }
    rows
}

/// What the daemon's ipa card tells.
pub(crate) fn through_daemon(
    daemon: &DaemonArguments,
    address: &DeviceAddress,
) -> Result<Inspection, Failure> {
    match look_through_daemon(daemon, address)? {
        Looked::Ipa(inspection) => Ok(*inspection),
        Looked::Qat(_) => Err(not_ipa(address)),
    }
}

fn look_through_daemon(
    daemon: &DaemonArguments,
    address: &DeviceAddress,
) -> Result<Looked, Failure> {
    let mut message = Section::default();
    message.put("name", address);
    let response = daemon.request("inspect-device", &message, ANSWER)?;
    let nonsense = "the daemon's answer makes no sense";
    if let Some(text) = response.text("qat") {
        return Ok(Looked::Qat(serde_json::from_str(text).context(nonsense)?));
    }
    let text = response.text("inspection").unwrap_or_default();
    Ok(Looked::Ipa(Box::new(
        serde_json::from_str(text).context(nonsense)?,
    )))
}

/// Who a card is and what it can do.
pub(super) fn identity(card: &Inspection) -> Vec<(String, String)> {
    let (major, minor) = card.abi;
    let (function, functions) = card.function;
    let mut rows = vec![
        ("address".to_owned(), card.address.clone()),
        ("product".to_owned(), card.product.clone()),
        ("driver".to_owned(), card.driver.clone()),
        ("firmware".to_owned(), card.firmware.clone()),
        ("health".to_owned(), card.health.clone()),
        ("ABI".to_owned(), format!("{major}.{minor}")),
        ("function".to_owned(), format!("{function} of {functions}")),
        ("features".to_owned(), card.features.join(" ")),
        ("suites".to_owned(), card.suites.join(" ")),
    ];
    let limits = card.limits.iter();
    rows.extend(limits.map(|(name, value)| (format!("most {name}"), value.to_string())));
    rows
}

fn show(card: &Inspection) -> String {
    let mut parts = vec![facts(identity(card))];
    let registers = card.registers.iter().map(|register| {
        vec![
            format!("{:#06x}", register.offset),
            register.name.clone(),
            format!("{:#x}", register.value),
            or_dash(register.meaning.as_ref()),
        ]
    });
    let headers = ["OFFSET", "REGISTER", "VALUE", "MEANING"];
    parts.push(table(&headers, registers.collect(), ""));
    let counters = card.counters.iter();
    let counters = counters.map(|(name, value)| vec![name.clone(), value.to_string()]);
    parts.push(table(&["COUNTER", "VALUE"], counters.collect(), ""));
    parts.push(table(
        &QUEUE_HEADERS,
        card.queues.iter().map(queue).collect(),
        "no queue pairs are open",
    ));
    if !card.ports.is_empty() {
        parts.push(table(
            &PORT_HEADERS,
            card.ports.iter().map(port).collect(),
            "",
        ));
    }
    parts.push(table(
        &SA_HEADERS,
        card.sas.iter().map(sa).collect(),
        "no SAs are installed",
    ));
    let errors = card.errors.iter().map(|error| {
        let queue = error
            .queue
            .map_or("admin".to_owned(), |queue| queue.to_string());
        let seconds = error.time as f64 / 1e9;
        vec![format!("{seconds:.6}"), queue, error.what.clone()]
    });
    let headers = ["AT, S", "QUEUE", "ERROR"];
    parts.push(table(&headers, errors.collect(), "no errors are noted"));
    parts.join("\n\n")
}

const QUEUE_HEADERS: [&str; 9] = [
    "QUEUE",
    "STATE",
    "DEPTH",
    "PRIORITY",
    "SUBMITTED",
    "COMPLETED",
    "ERRORS",
    "INTERRUPTS",
    "BYTES",
];

fn queue(queue: &QueueReport) -> Vec<String> {
    let state = match &queue.error {
        Some(error) => format!("{}: {error}", queue.state),
        None => queue.state.clone(),
    };
    vec![
        queue.number.to_string(),
        state,
        queue.depth.to_string(),
        queue.priority.to_string(),
        queue.submitted.to_string(),
        queue.completed.to_string(),
        queue.errors.to_string(),
        queue.interrupts.to_string(),
        queue.bytes.to_string(),
    ]
}

const PORT_HEADERS: [&str; 9] = [
    "PORT",
    "LINK",
    "MTU",
    "RECEIVED",
    "BYTES",
    "SENT",
    "BYTES",
    "EXCEPTIONS",
    "DROPPED",
];

fn port(port: &PortReport) -> Vec<String> {
    let dropped = port.dropped.iter().filter(|(_, count)| *count != 0);
    let dropped: Vec<_> = dropped
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    vec![
        port.role.clone(),
        if port.link { "up" } else { "down" }.to_owned(),
        port.mtu.to_string(),
        port.traffic.received.to_string(),
        port.traffic.received_bytes.to_string(),
        port.traffic.sent.to_string(),
        port.traffic.sent_bytes.to_string(),
        port.exceptions.to_string(),
        dropped.join(", "),
    ]
}

const SA_HEADERS: [&str; 10] = [
    "SA", "SPI", "WAY", "MODE", "SUITE", "PACKETS", "BYTES", "SEQUENCE", "BAD ICV", "REPLAYED",
];

fn sa(sa: &SaReport) -> Vec<String> {
    let mut mode = sa.mode.clone();
    if sa.draining {
        mode.push_str(", draining");
    }
    vec![
        sa.index.to_string(),
        sa.spi.clone(),
        sa.direction.clone(),
        mode,
        sa.suite.clone(),
        sa.packets.to_string(),
        sa.bytes.to_string(),
        sa.sequence.to_string(),
        sa.bad_icv.to_string(),
        sa.replayed.to_string(),
    ]
}
