// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade ike-load`: many IKE SAs with a responder, ours or another's, and what they cost.

mod flood;
mod policy;
mod process;
mod run;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde_json::json;

use crate::failure::Outcome;
use crate::output::{OutputArguments, facts};

/// Set up IKE SAs with a responder, many at once or so many a second, and tell how long that took.
///
/// Closed loop: --initiators set up one after another each. Open loop: --rate, whatever the responder
/// does; latencies then count from the moment that a set-up was due.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The responder.
    peer: IpAddr,
    /// IKE SAs to set up.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Set up at once (closed loop).
    #[arg(long, default_value_t = 4, conflicts_with = "rate")]
    initiators: usize,
    /// Begun a second (open loop).
    #[arg(long)]
    rate: Option<f64>,
    /// Keep them all, instead of deleting each when it is there.
    #[arg(long)]
    keep: bool,
    /// Rekey all that are kept, IKE SAs and children.
    #[arg(long, requires = "keep")]
    rekey: bool,
    /// Seconds to keep them for.
    #[arg(long, default_value_t = 0.0, requires = "keep")]
    hold: f64,
    /// IKE SAs without a child.
    #[arg(long)]
    childless: bool,
    /// Set all up, lose them without a word, and measure how they are resumed by their tickets (RFC 5723):
    /// the responder must give some (`resumption`), and keeps what is lost as long as it does. At most 4096.
    #[arg(long, conflicts_with = "flood")]
    resume: bool,
    /// Addresses to come from, one after another; they must be local (`ip route add local NET dev lo`).
    #[arg(long)]
    from: Option<ipnet::IpNet>,
    /// Our port of IKE.
    #[arg(long, default_value_t = 500)]
    port: u16,
    /// Our port behind a NAT.
    #[arg(long, default_value_t = 4500)]
    nat_port: u16,
    /// A configuration as ikev2d's; its first connection is set up again and again.
    #[arg(long, conflicts_with_all = ["psk", "proposal", "esp"])]
    config: Option<PathBuf>,
    /// Preshared key.
    #[arg(
        long,
        env = "ESPLANADE_LOAD_PSK",
        default_value = "Load-Test-0123456789",
        hide_env_values = true
    )]
    psk: String,
    /// IKE proposal.
    #[arg(long, default_value = "aes128gcm16-prfsha256-ecp256")]
    proposal: String,
    /// ESP proposal.
    #[arg(long, default_value = "aes128gcm16")]
    esp: String,
    /// Our identities; {} is their number. That of the certificate, if there is one.
    #[arg(long, default_value = "i{}.load")]
    local_id: String,
    /// The responder's identity.
    #[arg(long, default_value = "responder.load")]
    remote_id: String,
    /// Nets of the children: our side gets an address of each.
    #[arg(long, default_value = "10.128.0.0/9")]
    local_ts: ipnet::Ipv4Net,
    /// The responder's side.
    #[arg(long, default_value = "10.2.0.0/16")]
    remote_ts: ipnet::Ipv4Net,
    /// The responder's process on this host: its CPU time and memory are told.
    #[arg(long)]
    watch: Option<u32>,
    /// Send first messages from addresses of --from that nobody answers at, for so many seconds.
    #[arg(long, requires = "from", conflicts_with_all = ["keep", "rate"])]
    flood: Option<f64>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if let Some(seconds) = arguments.flood {
        return flood::run(arguments, seconds);
    }
    let report = run::Load::new(arguments)?.run()?;
    let percentile = |q: f64| report.latency.value_at_quantile(q) as f64 / 1000.0;
    let latency = json!({
        "p50": percentile(0.50), "p90": percentile(0.90), "p99": percentile(0.99),
        "p999": percentile(0.999), "max": report.latency.max() as f64 / 1000.0,
    });
    let up = report.up.max(1) as f64;
    let per_sa = |cpu: std::time::Duration| cpu.as_secs_f64() * 1e6 / up;
    let value = json!({
        "up": report.up, "resumed": report.resumed, "failed": report.failed,
        "rekeyed": report.rekeyed, "children_rekeyed": report.children_rekeyed, "lost": report.lost,
        "retransmits": report.retransmits,
        "seconds": report.seconds, "per_second": report.up as f64 / report.seconds,
        "latency_ms": latency,
        "initiator_cpu_us_per_sa": per_sa(report.own_cpu),
        "responder_cpu_us_per_sa": report.peer_cpu.map(per_sa),
        "responder_rss_bytes": report.rss.map(|(before, after)| json!({
            "before": before, "after": after,
            "per_sa": (after as f64 - before as f64) / up,
        })),
    });
    arguments.output.show(&value, || {
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::Number(number) => match number.as_f64() {
                Some(float) if !number.is_u64() => format!("{float:.2}"),
                _ => number.to_string(),
            },
            other => other.to_string(),
        };
        let rows = value.as_object().into_iter().flatten();
        let rows = rows.filter(|(_, value)| !value.is_null());
        facts(rows.map(|(name, value)| (name.replace('_', " "), text(value))))
    })
}

/// Where the responder listens.
fn peer(arguments: &Arguments) -> SocketAddr {
    SocketAddr::new(arguments.peer, 500)
}
