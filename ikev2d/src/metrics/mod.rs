// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Metrics for Prometheus. The daemon's task only copies what it has (a [`Snapshot`]); engines are asked
//! and text is written elsewhere, so that a scrape holds up no IKE.

mod counts;
mod encode;
mod server;
mod snapshot;

pub(crate) use counts::Counts;
pub(crate) use server::{Scrape, start};
pub(crate) use snapshot::{ChildSnapshot, ConnectionSnapshot, Snapshot, Traffic};
