// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Traffic whose receiver checks every octet: a bulk TCP stream, a paced UDP stream, ping, iperf3 as a
//! second opinion, and floods for benchmarks.

mod bulk;
mod datagrams;
mod flood;
mod iperf3;
mod pace;
mod pattern;
mod ping;
mod series;
mod stalls;

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::NamespaceError;

pub use bulk::{Bulk, BulkReport};
pub use datagrams::{DatagramReport, Datagrams, DatagramsConfig, Latency};
pub use flood::{Flood, FloodConfig, FloodReport};
pub use iperf3::{Iperf3Report, iperf3};
pub use ping::{PingReport, await_answer, ping, probe};
pub use series::Series;
pub use stalls::Stalls;

/// Why traffic could not be sent or judged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrafficError {
    /// A socket failed.
    #[error("{action} {address}: {source}")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// With which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// An outside program said something that could not be understood.
    #[error("{program}: expected {expected}, found: {found}")]
    Output {
        /// The program.
        program: &'static str,
        /// What was looked for.
        expected: &'static str,
        /// What it said instead.
        found: String,
    },
    /// A thread or program inside a namespace failed.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}
