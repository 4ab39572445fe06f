// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A snapshot as OpenMetrics' text.

use std::fmt;
use std::time::UNIX_EPOCH;

use offload_api::device::{Accelerator, Counters, Health};
use offload_api::event::Engine;
use offload_api::sa::SaUsage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Snapshot;

/// Octets of a reason in a label.
const REASON: usize = 120;

/// What the data plane counts that are packets lost; the rest of its counters are not.
const DROPS: [&str; 15] = [
    "no-policy",
    "no-rule",
    "no-neighbour",
    "selector-mismatch",
    "malformed",
    "dummies",
    "unknown-spi",
    "overload",
    "aborted",
    "bad-icv",
    "replayed",
    "refused",
    "send-errors",
    "too-big",
    "ecn-dropped",
];

type Labels<'l> = Vec<(&'static str, &'l str)>;
/// A metric's name and help, and how it is got out of what was copied.
type Value<T> = ((&'static str, &'static str), fn(&T) -> u64);

/// Writes all of it.
pub(super) fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("esplanade");
    registry.register_collector(Box::new(Collected(snapshot)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Collected(Snapshot);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected(..)")
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let Self(snapshot) = self;
        daemon(&mut out, snapshot)?;
        ike(&mut out, snapshot)?;
        policy(&mut out, snapshot)?;
        sas(&mut out, snapshot)?;
        plane(&mut out, snapshot)?;
        engines(&mut out, snapshot)
    }
}

/// Writes families.
struct Out<'e>(DescriptorEncoder<'e>);

impl Out<'_> {
    fn family<'l>(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<&Unit>,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in samples {
            let mut sample = family.encode_family(&labels)?;
            match kind {
                MetricType::Counter => sample.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                _ => sample.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?,
            }
        }
        Ok(())
    }

    fn counter<'l>(
        &mut self,
        about: (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.family(about, None, MetricType::Counter, samples)
    }

    fn octets<'l>(
        &mut self,
        about: (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.family(about, Some(&Unit::Bytes), MetricType::Counter, samples)
    }

    fn gauge<'l>(
        &mut self,
        about: (&str, &str),
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.family(about, None, MetricType::Gauge, samples)
    }

    /// Counters without labels.
    fn counters<const N: usize>(&mut self, all: [(&str, &str, u64); N]) -> fmt::Result {
        for (name, help, value) in all {
            self.counter((name, help), one(value))?;
        }
        Ok(())
    }

    /// Gauges without labels.
    fn gauges<const N: usize>(&mut self, all: [(&str, &str, u64); N]) -> fmt::Result {
        for (name, help, value) in all {
            self.gauge((name, help), one(value))?;
        }
        Ok(())
    }
}

fn one(value: u64) -> [(Labels<'static>, u64); 1] {
    [(Vec::new(), value)]
}

fn daemon(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    out.gauge(("build", "The daemon's version"), [(version, 1)])?;
    let started = snapshot.started.duration_since(UNIX_EPOCH);
    out.family(
        ("start_time", "When it started, since the epoch"),
        Some(&Unit::Seconds),
        MetricType::Gauge,
        one(started.unwrap_or_default().as_secs()),
    )?;
    out.counters([("scrapes", "Scrapes", snapshot.counts.scrapes)])?;
    out.gauges([(
        "scrape_held_up_microseconds",
        "How long this scrape has held up the daemon",
        snapshot.held_up.as_micros().try_into().unwrap_or(u64::MAX),
    )])
}

fn ike(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let (stats, counts) = (&snapshot.stats, &snapshot.counts);
    let size = |count: usize| count as u64;
    out.gauges([
        (
            "ike_half_open",
            "IKE SAs that peers have begun and not authenticated",
            size(stats.half_open),
        ),
        (
            "ike_established",
            "IKE SAs established",
            size(stats.established),
        ),
        ("children", "Child SAs", size(stats.children)),
        (
            "ike_fragment_octets",
            "Octets of fragments that wait for the rest of their messages",
            size(stats.fragment_octets),
        ),
    ])?;
    out.counters([
        ("ike_up", "IKE SAs established so far", counts.ikes_up),
        ("ike_rekeyed", "Rekeyings of IKE SAs", counts.ikes_rekeyed),
        (
            "ike_reauthenticated",
            "IKE SAs of ours replaced by newly authenticated ones",
            stats.reauthentications,
        ),
        (
            "ike_resumed",
            "IKE SAs resumed by tickets",
            stats.resumptions,
        ),
        (
            "ike_tickets_refused",
            "Tickets of peers that were refused",
            stats.refused_tickets,
        ),
        (
            "ike_jobs",
            "Signatures made and checked, and what else is slow",
            counts.jobs,
        ),
        (
            "child_up",
            "Child SAs established so far",
            counts.children_up,
        ),
        (
            "child_rekeyed",
            "Rekeyings of child SAs",
            counts.children_rekeyed,
        ),
        (
            "legacy_sas",
            "IKE and child SAs set up with algorithms that RFC 8247 and RFC 8221 advise against",
            snapshot.legacy,
        ),
        (
            "initiations_failed",
            "Initiations of ours that came to nothing",
            counts.initiations_failed,
        ),
        (
            "ike_paths_changed",
            "Times an IKE SA went on between other addresses or ports",
            counts.paths_changed,
        ),
        (
            "ike_retransmissions",
            "Requests sent again",
            stats.retransmits,
        ),
        ("ike_cookies", "Cookies asked for", stats.cookies),
        (
            "ike_puzzles",
            "Puzzles set for peers that want to begin",
            stats.puzzles,
        ),
        (
            "ike_puzzles_solved",
            "First messages that have solved a puzzle",
            stats.puzzles_solved,
        ),
        (
            "ike_puzzles_unsolved",
            "First messages dropped since they solve no puzzle",
            stats.puzzles_unsolved,
        ),
        (
            "ike_half_open_refused",
            "First messages dropped since too many peers are waited for",
            stats.half_open_refused,
        ),
        (
            "ike_malformed",
            "Datagrams that were no IKE message",
            stats.malformed,
        ),
        (
            "ike_unknown_spi",
            "Messages for an IKE SA that is not there",
            stats.unknown_spi,
        ),
        (
            "ike_authentication_failures",
            "Peers that failed to authenticate",
            stats.auth_failures,
        ),
    ])?;
    let fetched = snapshot
        .fetched
        .iter()
        .flat_map(|(kind, (good, fruitless))| {
            let labels = move |outcome| vec![("kind", *kind), ("outcome", outcome)];
            [(labels("good"), *good), (labels("fruitless"), *fruitless)]
        });
    out.counter(
        (
            "revocation_fetched",
            "What was fetched by HTTP to know whether certificates are revoked",
        ),
        fetched,
    )?;
    for (about, down) in [
        (
            ("ike_down", "IKE SAs that are gone, by why"),
            &counts.ikes_down,
        ),
        (
            ("child_down", "Child SAs that are gone, by why"),
            &counts.children_down,
        ),
    ] {
        let samples = down.iter();
        out.counter(about, samples.map(|(why, n)| (vec![("reason", *why)], *n)))?;
    }
    let ways = [
        ("received", &snapshot.notified.received),
        ("sent", &snapshot.notified.sent),
    ];
    let errors = ways.into_iter().flat_map(|(way, errors)| {
        let labels = move |kind| vec![("type", kind), ("direction", way)];
        errors.iter().map(move |(kind, n)| (labels(*kind), *n))
    });
    out.counter(
        ("ike_error_notifications", "Errors of IKE, told and heard"),
        errors,
    )
}

/// What is configured, and how much of it is there: a tunnel that is down shows as 0.
fn policy(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let listed = snapshot.connections.iter();
    let configured = snapshot.configured as u64;
    out.gauges([
        (
            "connections_configured",
            "Connections configured",
            configured,
        ),
        (
            "connections_unlisted",
            "Those among them without series of their own (daemon.metrics.series)",
            configured - listed.len() as u64,
        ),
    ])?;
    let of = |c: &'_ super::ConnectionSnapshot| c.version;
    out.gauge(
        ("connection_configured", "A connection is configured"),
        listed.clone().map(|c| {
            let labels = vec![("connection", c.name.as_str()), ("version", of(c))];
            (labels, 1)
        }),
    )?;
    let states = listed.clone().flat_map(|c| {
        let labels = |state| vec![("connection", c.name.as_str()), ("state", state)];
        [
            (labels("connecting"), c.connecting as u64),
            (labels("established"), c.established as u64),
        ]
    });
    out.gauge(("connection_ike_sas", "IKE SAs of a connection"), states)?;
    let children = listed.clone().flat_map(|c| {
        let sas = c.children.iter();
        sas.map(|(child, count)| {
            let labels = vec![("connection", c.name.as_str()), ("child", child.as_str())];
            (labels, *count as u64)
        })
    });
    out.gauge(
        (
            "connection_child_sas",
            "Installed SAs of a configured child",
        ),
        children,
    )?;
    let carried = |value: fn(&super::Traffic) -> u64| {
        let all = snapshot.counts.carried.iter();
        all.flat_map(move |((connection, child), ways)| {
            let ways = ["in", "out"].into_iter().zip(ways);
            ways.map(move |(way, traffic)| {
                let labels = vec![
                    ("connection", connection.as_str()),
                    ("child", child.as_str()),
                    ("direction", way),
                ];
                (labels, value(traffic))
            })
        })
    };
    out.counter(
        (
            "child_packets",
            "Packets of a configured child, over all its SAs",
        ),
        carried(|traffic| traffic.packets),
    )?;
    out.octets(
        (
            "child_carried",
            "Octets of a configured child's inner packets, over all its SAs",
        ),
        carried(|traffic| traffic.bytes),
    )
}

/// One SA of a child, as its engine knows it.
struct Asked<'s> {
    labels: Labels<'s>,
    usage: SaUsage,
    engine: Option<(&'static str, String)>,
}

/// The child SAs that may have series.
fn sas(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let all = snapshot.stats.children as u64;
    let ids: Vec<String> = snapshot.children.iter().map(|c| c.id.to_string()).collect();
    let mut asked = Vec::new();
    for (child, id) in snapshot.children.iter().zip(&ids) {
        for (way, handle) in [("in", child.inbound), ("out", child.outbound)] {
            let Some(handle) = handle else { continue };
            let labels = vec![
                ("connection", child.connection.as_str()),
                ("child", child.child.as_str()),
                ("id", id.as_str()),
                ("direction", way),
            ];
            // One that went meanwhile has nothing to tell.
            let Ok(usage) = snapshot.failover.usage(handle) else {
                continue;
            };
            let placement = snapshot.failover.placement(handle).ok();
            let engine = placement.map(|placement| {
                let engine = match placement.engine {
                    Engine::Device => "device",
                    Engine::Software => "software",
                };
                let reason = placement.reason.unwrap_or_default();
                (engine, reason.chars().take(REASON).collect())
            });
            asked.push(Asked {
                labels,
                usage,
                engine,
            });
        }
    }
    out.gauges([(
        "sas_unlisted",
        "Child SAs without series of their own (daemon.metrics.series)",
        all.saturating_sub(snapshot.children.len() as u64),
    )])?;
    let values: [Value<SaUsage>; 4] = [
        (("sa_packets", "Packets sealed or opened"), |u| u.packets),
        (
            ("sa_replayed", "Packets refused as replayed or too old"),
            |u| u.replayed,
        ),
        (("sa_bad_icv", "Packets refused for their ICV"), |u| {
            u.bad_icv
        }),
        (("sa_errors", "Packets refused for another reason"), |u| {
            u.errors
        }),
    ];
    for (about, value) in values {
        let samples = asked.iter();
        out.counter(
            about,
            samples.map(|sa| (sa.labels.clone(), value(&sa.usage))),
        )?;
    }
    out.octets(
        ("sa_carried", "Octets of inner packets sealed or opened"),
        asked.iter().map(|sa| (sa.labels.clone(), sa.usage.bytes)),
    )?;
    out.gauge(
        (
            "sa_sequence",
            "Last sequence number used, or highest accepted",
        ),
        asked
            .iter()
            .map(|sa| (sa.labels.clone(), sa.usage.sequence)),
    )?;
    let engines = asked.iter().filter_map(|sa| {
        let (engine, reason) = sa.engine.as_ref()?;
        let mut labels = sa.labels.clone();
        labels.extend([("engine", *engine), ("reason", reason.as_str())]);
        Some((labels, 1))
    });
    out.gauge(
        (
            "sa_engine",
            "What carries an SA, and why it is not the device",
        ),
        engines,
    )
}

fn plane(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    // A port's counters begin with its name.
    let is_drop = |name: &str| DROPS.iter().any(|drop| name.ends_with(drop));
    let some = |drops: bool, label: &'static str| {
        let all = snapshot.plane.iter();
        all.filter(move |(name, _)| is_drop(name) == drops)
            .map(move |(name, value)| (vec![(label, name.as_str())], *value))
    };
    out.counter(
        (
            "dataplane_drops",
            "Packets that the data plane has dropped, by why",
        ),
        some(true, "reason"),
    )?;
    out.counter(
        ("dataplane_events", "What else the data plane has counted"),
        some(false, "event"),
    )
}

fn engines(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let failover = &snapshot.failover;
    let device = failover.primary();
    let has_device = device.is_some();
    let all = device.into_iter().chain([failover.software()]);
    let all: Vec<_> = all
        .map(|engine| (engine.info(), engine.health(), engine.counters()))
        .collect();
    let label = |at: usize| match at {
        0 if has_device => "device",
        _ => "software",
    };
    out.gauge(
        ("engine", "An engine"),
        all.iter().enumerate().map(|(at, (info, _, _))| {
            let labels = vec![
                ("engine", label(at)),
                ("name", info.name.as_str()),
                ("product", info.product.as_str()),
                ("firmware", info.firmware.as_str()),
            ];
            (labels, 1)
        }),
    )?;
    let quarantined = failover.quarantine().is_some();
    out.gauge(
        ("engine_up", "Whether an engine is well and in use"),
        all.iter().enumerate().map(|(at, (_, health, _))| {
            let held = quarantined && label(at) == "device";
            let up = matches!(health, Health::Ok) && !held;
            (vec![("engine", label(at))], up.into())
        }),
    )?;
    out.gauge(
        ("engine_sas", "SAs that an engine has"),
        all.iter()
            .enumerate()
            .map(|(at, (_, _, counters))| (vec![("engine", label(at))], counters.sas)),
    )?;
    let values: [Value<Counters>; 5] = [
        (("engine_sealed_packets", "Packets sealed"), |c| c.sealed),
        (("engine_opened_packets", "Packets opened"), |c| c.opened),
        (("engine_errors", "Operations refused"), |c| c.errors),
        (
            ("engine_aborted", "Operations aborted by a loss or reset"),
            |c| c.aborted,
        ),
        (
            (
                "engine_bogus_completions",
                "Completions that should not have been sent",
            ),
            |c| c.bogus_completions,
        ),
    ];
    for (about, value) in values {
        let samples = all.iter().enumerate();
        out.counter(
            about,
            samples.map(|(at, (_, _, c))| (vec![("engine", label(at))], value(c))),
        )?;
    }
    let statistics = failover.statistics();
    out.counters([
        (
            "device_lost",
            "Times the device was lost",
            statistics.losses,
        ),
        (
            "device_returned",
            "Times SAs returned to it",
            statistics.returns,
        ),
        (
            "device_checked",
            "Packets of the device that were done again in software",
            statistics.checked,
        ),
        (
            "device_mismatches",
            "Those that came out otherwise",
            statistics.mismatches,
        ),
    ])
}
