// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade sa`: the SA cache, read without a word to the daemon, which may hang or be dead; and SAs
//! with manual keys, given to it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use offload_api::cache::{
    CacheEvent, CacheEventKind, CacheReader, CacheRecord, SaState, WriterIdentity, WriterStatus,
    since_boot,
};
use offload_api::event::Engine;
use offload_api::sa::{Direction, Mode, Spi};
use serde_json::{Value as Json, json};

use crate::failure::{Failure, Outcome};
use crate::output::{OutputArguments, facts, table};
use crate::verb::sa_manual::{Add, Del};

/// A daemon that has not said for so long that it lives hangs or is stopped; it says so every 5 ms.
const SILENCE: Duration = Duration::from_secs(1);

/// Read the SA cache: every SA, the engine that carries it, its grant and counters, and the last events;
/// add and delete SAs with manual keys.
///
/// For the cache the daemon is not asked, so this also works while it hangs and after it has died; whether it runs is
/// shown. Keys are not in the cache.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  esplanade sa list --name gw/net\n  esplanade sa show c0de0001 -o json\n  esplanade sa events --last 20"
)]
pub(crate) struct Arguments {
    /// Where the daemon publishes its cache, or the memory itself (/proc/PID/fd/N).
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "ESPLANADE_CACHE",
        default_value = "/run/esplanade.cache"
    )]
    cache: PathBuf,
    #[command(flatten)]
    output: OutputArguments,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Add a pair of SAs with manual keys; it lasts as long as the daemon.
    Add(Box<Add>),
    /// Delete a pair of SAs that was added.
    Del(Del),
    /// List the SAs.
    List {
        /// Only those with this SPI (hexadecimal).
        #[arg(long, value_parser = spi)]
        spi: Option<Spi>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Show everything about the SAs with an SPI.
    Show {
        /// The SPI (hexadecimal).
        #[arg(value_parser = spi)]
        spi: Spi,
        #[command(flatten)]
        filter: Filter,
    },
    /// Show what the daemon did last, oldest first.
    Events {
        /// Only those about the SA with this SPI (hexadecimal).
        #[arg(long, value_parser = spi)]
        spi: Option<Spi>,
        /// Only so many.
        #[arg(long, value_name = "EVENTS")]
        last: Option<usize>,
    },
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those to this address.
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<IpAddr>,
    /// Only those of this connection, child, or connection/child.
    #[arg(long)]
    name: Option<String>,
}

impl Filter {
    fn takes(&self, record: &CacheRecord) -> bool {
        let name = record.entry.name.as_str();
        let named = |wanted: &str| name == wanted || name.split('/').any(|part| part == wanted);
        self.destination
            .is_none_or(|wanted| wanted == record.entry.destination)
            && self.name.as_deref().is_none_or(named)
    }
}

fn spi(text: &str) -> Result<Spi, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u32::from_str_radix(digits, 16)
        .ok()
        .and_then(Spi::new)
        .ok_or_else(|| format!("{text:?}: expected an SPI of up to 8 hexadecimal digits"))
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    match &arguments.what {
        What::Add(add) => return add.run(),
        What::Del(del) => return del.run(),
        What::List { .. } | What::Show { .. } | What::Events { .. } => {}
    }
    let cache = CacheReader::open_path(&arguments.cache).map_err(|error| {
        Failure::no_device(anyhow::Error::from(error).context("no SA cache can be read"))
    })?;
    let clock = Clock::now();
    let writer = Writer::of(&cache);
    let output = &arguments.output;
    match &arguments.what {
        What::Add(_) | What::Del(_) => Ok(ExitCode::SUCCESS),
        What::List { spi, filter } => {
            let (sas, unreadable) = wanted(&cache, *spi, filter);
            let sas_json: Vec<Json> = sas.iter().map(|sa| sa_json(sa, &clock)).collect();
            let json = json!({
                "writer": writer.json(&clock),
                "sas": sas_json,
                "unreadable": unreadable,
                "known": cache.len(),
                "capacity": cache.capacity(),
            });
            output.show(&json, || list(&cache, &writer, &sas, unreadable, &clock))
        }
        What::Show { spi, filter } => {
            let (sas, _) = wanted(&cache, Some(*spi), filter);
            if sas.is_empty() {
                return Err(
                    anyhow!("no SA with SPI {spi} in {}", arguments.cache.display()).into(),
                );
            }
            let sas: Vec<Json> = sas.iter().map(|sa| sa_json(sa, &clock)).collect();
            let json = json!({ "writer": writer.json(&clock), "sas": sas });
            output.show(&json, || {
                let shown = sas.iter().map(|sa| facts(rows(sa)));
                shown.collect::<Vec<_>>().join("\n\n")
            })
        }
        What::Events { spi, last } => {
            let mut events = cache.events();
            events.retain(|event| {
                spi.is_none_or(|wanted| event.sa.is_some_and(|(_, spi)| spi == wanted))
            });
            let from = events.len() - last.unwrap_or(events.len()).min(events.len());
            let events = events.split_off(from);
            let each: Vec<Json> = events.iter().map(|e| event_json(e, &clock)).collect();
            let json = json!({ "writer": writer.json(&clock), "events": each });
            output.show(&json, || {
                format!(
                    "{}\n{}",
                    writer.line(&cache, &clock),
                    event_table(&events, &clock)
                )
            })
        }
    }
}

/// The SAs that were asked for, and how many slots could not be read.
fn wanted(cache: &CacheReader, spi: Option<Spi>, filter: &Filter) -> (Vec<CacheRecord>, u32) {
    let (mut sas, unreadable) = cache.records();
    sas.retain(|sa| spi.is_none_or(|spi| spi == sa.entry.spi) && filter.takes(sa));
    (sas, unreadable)
}

/// From the cache's clock to the calendar.
struct Clock {
    since_boot: u64,
    calendar: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self {
            since_boot: since_boot(),
            calendar: SystemTime::now(),
        }
    }

    fn ago(&self, time: u64) -> Duration {
        Duration::from_nanos(self.since_boot.saturating_sub(time))
    }

    fn calendar(&self, time: u64) -> String {
        let at = self.calendar.checked_sub(self.ago(time));
        at.map_or_else(|| "-".to_owned(), calendar)
    }
}

fn calendar(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// How the daemon is, as far as its cache tells.
struct Writer {
    state: &'static str,
    identity: Option<WriterIdentity>,
    heartbeat: Option<u64>,
}

impl Writer {
    fn of(cache: &CacheReader) -> Self {
        let writer = cache.writer();
        let (state, identity) = match writer {
            WriterStatus::None => ("none", None),
            WriterStatus::Dead(identity) => ("dead", Some(identity)),
            WriterStatus::Alive(identity, beat) if Clock::now().ago(beat) > SILENCE => {
                ("hangs", Some(identity))
            }
            WriterStatus::Alive(identity, _) => ("runs", Some(identity)),
        };
        Self {
            state,
            identity,
            heartbeat: identity.map(|_| cache.heartbeat()),
        }
    }

    fn json(&self, clock: &Clock) -> Json {
        json!({
            "state": self.state,
            "pid": self.identity.map(|writer| writer.pid),
            "epoch": self.identity.map(|writer| writer.epoch),
            "boot-id": self.identity.map(boot_id),
            "heartbeat": self.heartbeat.map(|beat| clock.calendar(beat)),
            "heartbeat-age-ms": self.heartbeat.map(|beat| clock.ago(beat).as_millis() as u64),
        })
    }

    fn line(&self, cache: &CacheReader, clock: &Clock) -> String {
        let fill = format!("{} of {} SAs", cache.len(), cache.capacity());
        let (Some(identity), Some(beat)) = (self.identity, self.heartbeat) else {
            return format!("no daemon has written it; {fill}");
        };
        format!(
            "daemon {} {}, last sign {} ago, epoch {}, boot {}; {fill}",
            identity.pid,
            match self.state {
                "dead" => "is dead",
                state => state,
            },
            short(clock.ago(beat)),
            identity.epoch,
            boot_id(identity),
        )
    }
}

/// As in /proc/sys/kernel/random/boot_id.
fn boot_id(writer: WriterIdentity) -> String {
    let digits = format!("{:032x}", writer.boot_id);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let parts = parts.map(|part| digits.get(part).unwrap_or_default().to_owned());
    parts.join("-")
}

/// To a millisecond when young, to a second when old.
fn short(time: Duration) -> String {
    let time = if time < Duration::from_secs(10) {
        Duration::from_millis(time.as_millis() as u64)
    } else {
        Duration::from_secs(time.as_secs())
    };
    humantime::format_duration(time).to_string()
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

fn engine(engine: Engine) -> &'static str {
    match engine {
        Engine::Device => "device",
        Engine::Software => "software",
    }
}

fn state(state: SaState) -> &'static str {
    match state {
        SaState::Mature => "mature",
        SaState::Dying => "dying",
        SaState::Dead => "dead",
    }
}

fn address(address: IpAddr) -> Option<String> {
    (!address.is_unspecified()).then(|| address.to_string())
}

fn sa_json(sa: &CacheRecord, clock: &Clock) -> Json {
    let entry = &sa.entry;
    let installed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.installed));
    json!({
        "spi": entry.spi.to_string(),
        "direction": direction(entry.direction),
        "name": entry.name.as_str(),
        "owner": entry.owner,
        "mode": match entry.mode { Mode::Tunnel => "tunnel", Mode::Transport => "transport", Mode::Crypto => "crypto" },
        "source": address(entry.source),
        "destination": address(entry.destination),
        "udp": entry.udp.map(|udp| json!({
            "source-port": udp.source_port,
            "destination-port": udp.destination_port,
        })),
        "suite": entry.suite.to_string(),
        "esn": entry.esn,
        "replay-window": entry.replay_window,
        "installed": installed.map(calendar),
        "engine": sa.engine.map(engine),
        "state": sa.state.map(state),
        "granted": (entry.direction == Direction::Outbound).then_some(sa.granted),
        "sequence": sa.usage.sequence,
        "packets": sa.usage.packets,
        "bytes": sa.usage.bytes,
        "bad-icv": sa.usage.bad_icv,
        "replayed": sa.usage.replayed,
        "errors": sa.usage.errors,
        "last-use": (sa.last_use != 0).then(|| clock.calendar(sa.last_use)),
        "slot": sa.slot.index,
        "generation": sa.slot.generation,
    })
}

/// A JSON object as names and values.
fn rows(object: &Json) -> Vec<(String, String)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .map(|(name, value)| {
            let value = match value {
                Json::Null => "-".to_owned(),
                Json::String(text) => text.clone(),
                value => value.to_string(),
            };
            (name.clone(), value)
        })
        .collect()
}

fn list(
    cache: &CacheReader,
    writer: &Writer,
    sas: &[CacheRecord],
    unreadable: u32,
    clock: &Clock,
) -> String {
    const HEADERS: &[&str] = &[
        "SPI",
        "DIRECTION",
        "NAME",
        "SOURCE",
        "DESTINATION",
        "SUITE",
        "ENGINE",
        "STATE",
        "PACKETS",
        "BYTES",
        "GRANTED",
        "LAST USE",
    ];
    let none = || "-".to_owned();
    let rows = sas.iter().map(|sa| {
        let entry = &sa.entry;
        vec![
            entry.spi.to_string(),
            direction(entry.direction).to_owned(),
            entry.name.to_string(),
            address(entry.source).unwrap_or_else(none),
            address(entry.destination).unwrap_or_else(none),
            entry.suite.to_string(),
            sa.engine.map_or_else(none, |e| engine(e).to_owned()),
            sa.state.map_or_else(none, |s| state(s).to_owned()),
            sa.usage.packets.to_string(),
            sa.usage.bytes.to_string(),
            match entry.direction {
                Direction::Outbound => sa.granted.to_string(),
                Direction::Inbound => none(),
            },
            match sa.last_use {
                0 => "never".to_owned(),
                time => format!("{} ago", short(clock.ago(time))),
            },
        ]
    });
    let mut text = format!(
        "{}\n{}",
        writer.line(cache, clock),
        table(HEADERS, rows.collect(), "no such SAs")
    );
    if unreadable != 0 {
        text += &format!("\n{unreadable} more can't be read: half-written or damaged");
    }
    text
}

fn kind(event: CacheEventKind) -> &'static str {
    match event {
        CacheEventKind::Claimed => "daemon-started",
        CacheEventKind::Inserted => "installed",
        CacheEventKind::Removed => "removed",
        CacheEventKind::Granted => "granted",
        CacheEventKind::Moved => "moved",
        CacheEventKind::DeviceLost => "device-lost",
        CacheEventKind::DeviceReturned => "device-returned",
        CacheEventKind::PathChanged => "path-changed",
        _ => "unknown",
    }
}

/// What an event's value says.
fn detail(event: &CacheEvent) -> String {
    match (event.kind, event.placement()) {
        (_, Some((to, age))) => format!("{}, {}", engine(to), state(age)),
        (CacheEventKind::Claimed, _) => format!("epoch {}", event.value),
        (CacheEventKind::Granted, _) => format!("up to {}", event.value),
        (CacheEventKind::Inserted, _) if event.value != 0 => {
            format!("used up to {}", event.value)
        }
        _ => String::new(),
    }
}

fn event_json(event: &CacheEvent, clock: &Clock) -> Json {
    json!({
        "number": event.number,
        "time": clock.calendar(event.time),
        "event": kind(event.kind),
        "spi": event.sa.map(|(_, spi)| spi.to_string()),
        "slot": event.sa.map(|(slot, _)| slot),
        "value": event.value,
        "detail": detail(event),
    })
}

fn event_table(events: &[CacheEvent], clock: &Clock) -> String {
    let rows = events.iter().map(|event| {
        let (slot, spi) = event.sa.map_or_else(Default::default, |(slot, spi)| {
            (slot.to_string(), spi.to_string())
        });
        vec![
            event.number.to_string(),
            clock.calendar(event.time),
            kind(event.kind).to_owned(),
            spi,
            slot,
            detail(event),
        ]
    });
    let headers = ["NUMBER", "TIME", "EVENT", "SPI", "SLOT", "DETAIL"];
    table(&headers, rows.collect(), "no events")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spi_is_hexadecimal_and_never_zero() {
        assert_eq!(spi("c0de0001"), spi("0xC0DE0001"));
        for text in ["", "0", "xyz", "1c0de0001"] {
            assert!(spi(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_boot_id_reads_as_the_kernel_writes_it() {
        let writer = WriterIdentity {
            pid: 1,
            start_time: 2,
            boot_id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
            epoch: 3,
        };
        assert_eq!(boot_id(writer), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
